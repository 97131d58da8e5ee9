{{/* app.toml: what operators choose, then what the pod is built on. */}}
{{- define "sequencer.app" -}}
{{- $fixed := dict
  "abci_listen" "unix:///run/counterpoint/abci.sock"
  "abci_remote" false
  "grpc_listen" "0.0.0.0:9090"
  "http_listen" "0.0.0.0:9091"
  "cometbft_rpc" "http://127.0.0.1:26657"
  "data_dir" "/var/lib/counterpoint/app" }}
{{- include "common.toml" (mustMergeOverwrite (deepCopy .Values.app.config) $fixed) }}
{{- end -}}

{{/* config.toml of CometBFT: what suits the app, what operators choose, then what the pod is built on. */}}
{{- define "sequencer.cometbft" -}}
{{- $base := fromYaml (include "sequencer.cometbft.base" .) }}
{{- $fixed := fromYaml (include "sequencer.cometbft.fixed" .) }}
{{- include "common.toml" (mustMergeOverwrite $base (deepCopy .Values.cometbft.config) $fixed) }}
{{- end -}}

{{- define "sequencer.cometbft.base" -}}
log_format: json
rpc:
  max_body_bytes: 2000000
p2p:
  max_packet_msg_payload_size: 65536
  flush_throttle_timeout: 1ms
  send_rate: 104857600
  recv_rate: 104857600
mempool:
  reap_interval: 20ms
consensus:
  timeout_propose: 500ms
  timeout_commit: 200ms
  peer_gossip_sleep_duration: 5ms
storage:
  discard_abci_responses: true
tx_index:
  indexer: "null"
{{- end -}}

{{- define "sequencer.cometbft.fixed" -}}
moniker: {{ .Values.cometbft.moniker | default (include "common.fullname" .) | quote }}
proxy_app: unix:///run/counterpoint/abci.sock
{{- if .Values.remoteSigner.enabled }}
priv_validator_laddr: tcp://0.0.0.0:26659
{{- end }}
{{- if .Values.consensusKey.existingSecret }}
priv_validator_key_file: /run/secrets/counterpoint/consensus/priv_validator_key.json
{{- else }}
# With a remote signer too, CometBFT makes one, and does not use it.
priv_validator_key_file: data/priv_validator_key.json
{{- end }}
priv_validator_state_file: data/priv_validator_state.json
node_key_file: {{ if .Values.nodeKey.existingSecret }}/run/secrets/counterpoint/node/node_key.json{{ else }}data/node_key.json{{ end }}
genesis_file: config/genesis.json
rpc:
  laddr: tcp://0.0.0.0:26657
p2p:
  laddr: tcp://0.0.0.0:26656
  addr_book_file: data/addrbook.json
  persistent_peers: {{ join "," .Values.cometbft.persistentPeers | quote }}
  external_address: {{ .Values.cometbft.externalAddress | quote }}
mempool:
  type: {{ .Values.app.config.mempool }}
statesync:
  enable: {{ .Values.cometbft.stateSync.enabled }}
  {{- if .Values.cometbft.stateSync.enabled }}
  rpc_servers: {{ join "," .Values.cometbft.stateSync.rpcServers | quote }}
  trust_height: {{ .Values.cometbft.stateSync.trustHeight | int64 }}
  trust_hash: {{ .Values.cometbft.stateSync.trustHash | quote }}
  trust_period: {{ .Values.cometbft.stateSync.trustPeriod }}
  discovery_time: 5s
  {{- end }}
instrumentation:
  prometheus: true
  prometheus_listen_addr: 0.0.0.0:26660
{{- end -}}
