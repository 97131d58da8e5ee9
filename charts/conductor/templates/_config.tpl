{{/* conductor.toml: what operators choose, then what the pod is built on. */}}
{{- define "conductor.config" -}}
{{- $fixed := dict
  "sequencer_genesis" "/etc/counterpoint/sequencer/genesis.json"
  "rollup_genesis" "/etc/counterpoint/rollup/genesis.json"
  "jwt_file" "/run/secrets/counterpoint/jwt/jwt.hex"
  "engine_url" (include "conductor.engine" .)
  "data_dir" "/var/lib/counterpoint/conductor"
  "http_listen" "0.0.0.0:9093"
  "grpc_listen" "0.0.0.0:9094"
  "rpc_listen" "0.0.0.0:9095" }}
{{- if eq .Values.config.mode "thin" }}
{{- $_ := set $fixed "testing_ipc" "/run/counterpoint/geth.ipc" }}
{{- end }}
{{- if .Values.attester.existingSecret }}
{{- $_ := set $fixed "attester_key_file" "/run/secrets/counterpoint/attester/attester.key" }}
{{- $_ := set $fixed "votes_dir" "/var/lib/counterpoint/votes" }}
{{- end }}
{{- include "common.toml" (mustMergeOverwrite (deepCopy .Values.config) $fixed) }}
{{- end -}}

{{- define "conductor.engine" -}}
{{- if eq .Values.client.mode "external" }}{{ .Values.client.external.engineUrl }}{{ else }}http://127.0.0.1:8551{{ end -}}
{{- end -}}

{{/* geth's way to have no peers: flags leave a port open. */}}
{{- define "conductor.geth" -}}
[Node.P2P]
ListenAddr = ""
MaxPeers = 0
NoDiscovery = true
NoDial = true
{{- end -}}

{{/* What the client is started with, as the operator guide has it. */}}
{{- define "conductor.client.args" -}}
{{- $client := .Values.client.sidecar -}}
{{- if eq $client.preset "geth" -}}
- --datadir=/var/lib/client
- --config=/etc/counterpoint/geth.toml
- --networkid={{ int64 $client.chainId }}
- --state.scheme=hash
- --gcmode=archive
- --syncmode=full
- --nodiscover
- --maxpeers=0
- --nat=none
- --cache={{ int64 $client.cacheMb }}
- --miner.gaslimit={{ int64 $client.gasLimit }}
- --txpool.pricelimit=18446744073709551615
{{- if eq .Values.config.mode "thin" }}
- --ipcpath=/run/counterpoint/geth.ipc
{{- else }}
- --ipcdisable
{{- end }}
- --authrpc.addr=127.0.0.1
- --authrpc.port=8551
- --authrpc.jwtsecret=/run/secrets/counterpoint/jwt/jwt.hex
- --http
- --http.addr=0.0.0.0
- --http.port=8645
- --http.vhosts=*
- --http.api=eth,net,web3
{{- else -}}
- node
- --chain=/etc/counterpoint/rollup/genesis.json
- --datadir=/var/lib/client
- --disable-discovery
- --max-outbound-peers=0
- --max-inbound-peers=0
- --ipcdisable
- --authrpc.addr=127.0.0.1
- --authrpc.port=8551
- --authrpc.jwtsecret=/run/secrets/counterpoint/jwt/jwt.hex
- --http
- --http.addr=0.0.0.0
- --http.port=8645
- --http.api=eth,net,web3
{{- end }}
{{- range $client.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "conductor.client.init" -}}
{{- if eq .Values.client.sidecar.preset "geth" -}}
[init, --state.scheme=hash, --datadir=/var/lib/client, /etc/counterpoint/rollup/genesis.json]
{{- else -}}
[init, --chain=/etc/counterpoint/rollup/genesis.json, --datadir=/var/lib/client]
{{- end -}}
{{- end -}}

{{- define "conductor.mounts" -}}
- { name: config, mountPath: /etc/counterpoint/conductor.toml, subPath: conductor.toml, readOnly: true }
- { name: sequencer-genesis, mountPath: /etc/counterpoint/sequencer, readOnly: true }
- { name: rollup-genesis, mountPath: /etc/counterpoint/rollup, readOnly: true }
- { name: jwt, mountPath: /run/secrets/counterpoint/jwt, readOnly: true }
- { name: socket, mountPath: /run/counterpoint }
- { name: store, mountPath: /var/lib/counterpoint }
{{- if .Values.attester.existingSecret }}
- { name: attester, mountPath: /run/secrets/counterpoint/attester, readOnly: true }
{{- end }}
{{- end -}}

{{- define "conductor.client.mounts" -}}
- { name: config, mountPath: /etc/counterpoint/geth.toml, subPath: geth.toml, readOnly: true }
- { name: rollup-genesis, mountPath: /etc/counterpoint/rollup, readOnly: true }
- { name: jwt, mountPath: /run/secrets/counterpoint/jwt, readOnly: true }
- { name: socket, mountPath: /run/counterpoint }
- { name: client, mountPath: /var/lib/client }
- { name: tmp, mountPath: /tmp }
{{- end -}}
