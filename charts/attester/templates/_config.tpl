{{/* The attester's configuration: what operators choose, then what the pod is built on. */}}
{{- define "attester.config" -}}
{{- $rollups := list }}
{{- range .Values.rollups }}
{{- $rollups = append $rollups (dict "name" .name "genesis" (printf "/etc/counterpoint/rollups/%s/genesis.json" .name)) }}
{{- end }}
{{- $fixed := dict
  "http_listen" "0.0.0.0:9096"
  "sequencer_genesis" "/etc/counterpoint/sequencer/genesis.json"
  "key_file" "/run/secrets/counterpoint/attester/attester.key"
  "votes_dir" "/var/lib/counterpoint/votes"
  "data_dir" "/var/lib/counterpoint/attester"
  "rollups" $rollups }}
{{- include "common.toml" (mustMergeOverwrite (deepCopy .Values.config) $fixed) }}
{{- end -}}
