{{/* composer.toml: what operators choose, then what the pod is built on. */}}
{{- define "composer.config" -}}
{{- $fixed := dict
  "rpc_listen" "0.0.0.0:8545"
  "http_listen" "0.0.0.0:9092"
  "data_dir" "/var/lib/counterpoint/composer"
  "sequencer_genesis" "/etc/counterpoint/genesis/genesis.json"
  "key_file" "/run/secrets/counterpoint/account/composer.key" }}
{{- if .Values.bundlesKey.existingSecret }}
{{- $_ := set $fixed "bundles" (dict "key_file" "/run/secrets/counterpoint/bundles/bundles.key") }}
{{- end }}
{{- if .Values.apiKeys.existingSecret }}
{{- $_ := set $fixed "limits" (dict "api_keys" "/run/secrets/counterpoint/api-keys/api-keys.toml") }}
{{- end }}
{{- include "common.toml" (mustMergeOverwrite (deepCopy .Values.config) $fixed) }}
{{- end -}}
