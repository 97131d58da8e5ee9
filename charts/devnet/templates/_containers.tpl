{{/* A validator: the application as a sidecar, CometBFT beside it. */}}
{{- define "devnet.validator.starting" -}}
{{- $data := printf "%s/cometbft/data" .part -}}
# CometBFT starts with no record of what was signed only where nothing was.
- name: signing-state
  args: [signing-state, /var/lib/counterpoint/{{ $data }}]
  {{- include "devnet.starting" (dict "root" .root "image" .root.Values.image) | nindent 2 }}
  volumeMounts:
    {{- include "devnet.mounts" (dict "part" .part "data" (list $data)) | nindent 4 }}
- name: app
  restartPolicy: Always
  args: [app, --config, /var/lib/counterpoint/{{ .part }}-app.toml]
  ports:
    - { name: grpc, containerPort: 9090 }
    - { name: probes, containerPort: 9091 }
  {{- include "common.probes" (dict "port" "probes" "starting" 120) | nindent 2 }}
  {{- include "devnet.running" (dict "root" .root "image" .root.Values.image) | nindent 2 }}
  volumeMounts:
    {{- include "devnet.mounts" (dict "part" .part "data" (list (printf "%s/app" .part))) | nindent 4 }}
{{- end -}}

{{- define "devnet.validator.running" -}}
- name: cometbft
  args: [node, --home, /var/lib/counterpoint/{{ .part }}/cometbft]
  ports:
    - { name: p2p, containerPort: 26656 }
    - { name: rpc, containerPort: 26657 }
  # Whether the node is ready, the app says.
  startupProbe:
    httpGet: { path: /health, port: rpc }
    periodSeconds: 2
    failureThreshold: 60
  livenessProbe:
    httpGet: { path: /health, port: rpc }
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 3
  readinessProbe:
    httpGet: { path: /health, port: rpc }
    periodSeconds: 5
    timeoutSeconds: 5
  {{- include "devnet.running" (dict "root" .root "image" .root.Values.cometbft.image) | nindent 2 }}
  volumeMounts:
    {{- include "devnet.mounts" (dict "part" .part "data" (list (printf "%s/cometbft/data" .part))) | nindent 4 }}
{{- end -}}

{{- define "devnet.composer.running" -}}
- name: composer
  args: [composer, --config, /var/lib/counterpoint/composer.toml]
  ports:
    - { name: rpc, containerPort: 8545 }
    - { name: probes, containerPort: 9092 }
  {{- include "common.probes" (dict "port" "probes" "starting" 120) | nindent 2 }}
  {{- include "devnet.running" (dict "root" .root "image" .root.Values.image) | nindent 2 }}
  volumeMounts:
    {{- include "devnet.mounts" (dict "part" .part "data" (list .part)) | nindent 4 }}
{{- end -}}

{{/* A rollup: geth as a sidecar, the conductor beside it. `number` is its place, from 0 on. */}}
{{- define "devnet.rollup.starting" -}}
{{- $home := printf "/var/lib/counterpoint/%s" .part -}}
{{- $data := printf "%s/geth-data" .part -}}
# Block 0; a second time it changes nothing.
- name: client-genesis
  args: [init, --state.scheme, hash, --datadir, {{ $home }}/geth-data, {{ $home }}/genesis.json]
  {{- include "devnet.starting" (dict "root" .root "image" .root.Values.geth.image) | nindent 2 }}
  volumeMounts:
    {{- include "devnet.mounts" (dict "part" .part "data" (list $data)) | nindent 4 }}
    - { name: tmp, mountPath: /tmp }
- name: client
  restartPolicy: Always
  args:
    - --nodiscover
    - --http
    {{- range $flag := list
      (list "datadir" (printf "%s/geth-data" $home))
      (list "config" (printf "%s/geth-data.toml" $home))
      (list "networkid" (toString (add 412000 .number)))
      (list "state.scheme" "hash")
      (list "gcmode" "archive")
      (list "syncmode" "full")
      (list "maxpeers" "0")
      (list "nat" "none")
      (list "cache" "64")
      (list "miner.gaslimit" "30000000")
      (list "txpool.pricelimit" "18446744073709551615")
      (list "ipcpath" (printf "%s/geth.ipc" $home))
      (list "authrpc.addr" "127.0.0.1")
      (list "authrpc.port" "8551")
      (list "authrpc.jwtsecret" (printf "%s/jwt.hex" $home))
      (list "http.addr" "0.0.0.0")
      (list "http.port" "8645")
      (list "http.api" "eth,net,web3")
      (list "http.vhosts" "*") }}
    - --{{ first $flag }}
    - {{ last $flag | quote }}
    {{- end }}
  ports:
    - { name: execution, containerPort: 8645 }
  # Whether it follows, the conductor says.
  startupProbe:
    tcpSocket: { port: execution }
    periodSeconds: 2
    failureThreshold: 60
  livenessProbe:
    tcpSocket: { port: execution }
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
  readinessProbe:
    tcpSocket: { port: execution }
    periodSeconds: 5
    timeoutSeconds: 5
  {{- include "devnet.running" (dict "root" .root "image" .root.Values.geth.image) | nindent 2 }}
  volumeMounts:
    {{- include "devnet.mounts" (dict "part" .part "data" (list $data)) | nindent 4 }}
    - { name: tmp, mountPath: /tmp }
{{- end -}}

{{- define "devnet.rollup.running" -}}
- name: conductor
  args: [conductor, --config, /var/lib/counterpoint/{{ .part }}-conductor.toml]
  ports:
    - { name: probes, containerPort: 9093 }
    - { name: grpc, containerPort: 9094 }
    - { name: receipts, containerPort: 9095 }
  {{- include "common.probes" (dict "port" "probes" "starting" 300) | nindent 2 }}
  {{- include "devnet.running" (dict "root" .root "image" .root.Values.image) | nindent 2 }}
  volumeMounts:
    {{- $data := list (printf "%s/conductor" .part) (printf "%s-votes" .part) }}
    {{- include "devnet.mounts" (dict "part" .part "data" $data) | nindent 4 }}
{{- end -}}

{{- define "devnet.attester.running" -}}
- name: attester
  args: [attester, --config, /var/lib/counterpoint/{{ .part }}.toml]
  ports:
    - { name: probes, containerPort: 9096 }
  {{- include "common.probes" (dict "port" "probes" "starting" 300) | nindent 2 }}
  {{- include "devnet.running" (dict "root" .root "image" .root.Values.image) | nindent 2 }}
  volumeMounts:
    {{- include "devnet.mounts" (dict "part" .part "data" (list .part (printf "%s-votes" .part))) | nindent 4 }}
{{- end -}}
