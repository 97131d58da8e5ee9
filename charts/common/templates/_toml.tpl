{{/* A table as TOML. Values that were whole numbers come as floats, which TOML tells apart. */}}
{{- define "common.toml" -}}
{{- include "common.whole" . -}}
{{- toToml . -}}
{{- end -}}

{{/* Makes whole numbers of a table integers, in place. */}}
{{- define "common.whole" -}}
{{- $table := . -}}
{{- range $key, $value := $table -}}
{{- if kindIs "map" $value -}}
{{- include "common.whole" $value -}}
{{- else if kindIs "slice" $value -}}
{{- range $value }}{{ if kindIs "map" . }}{{ include "common.whole" . }}{{ end }}{{ end -}}
{{- else if and (kindIs "float64" $value) (eq $value (floor $value)) -}}
{{- $_ := set $table $key (int64 $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}
