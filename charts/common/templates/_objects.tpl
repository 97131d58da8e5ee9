{{/* One account per release, with no rights. */}}
{{- define "common.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "common.metadata" (dict "root" .) | nindent 2 }}
automountServiceAccountToken: false
{{- end -}}

{{/* A release is one pod: whoever drains its node is asked to wait until an operator agrees. */}}
{{- define "common.disruptionBudget" -}}
{{- if .Values.podDisruptionBudget.enabled }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "common.metadata" (dict "root" .) | nindent 2 }}
spec:
  minAvailable: 1
  selector:
    matchLabels:
      {{- include "common.selector" . | nindent 6 }}
{{- end }}
{{- end -}}

{{/* Nothing comes in but through the ports named, from whom is named. `rules` is a list of dicts with
`port` and `from`, a list of NetworkPolicyPeers; everybody if `open`. What goes out is bounded as soon as
`networkPolicy.egress` names something. */}}
{{- define "common.networkPolicy" -}}
{{- if .root.Values.networkPolicy.enabled }}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "common.metadata" (dict "root" .root) | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "common.selector" .root | nindent 6 }}
  policyTypes:
    - Ingress
    {{- if .root.Values.networkPolicy.egress }}
    - Egress
    {{- end }}
  {{- $rules := list }}
  {{- range .rules }}
  {{- if or .open .from }}
  {{- $rules = append $rules . }}
  {{- end }}
  {{- end }}
  {{- if $rules }}
  ingress:
    {{- range $rules }}
    - ports:
        - { protocol: TCP, port: {{ .port }} }
      {{- if not .open }}
      from:
        {{- toYaml .from | nindent 8 }}
      {{- end }}
    {{- end }}
  {{- else }}
  ingress: []
  {{- end }}
  {{- with .root.Values.networkPolicy.egress }}
  egress:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* What Prometheus' operator scrapes; `endpoints` names ports. */}}
{{- define "common.serviceMonitor" -}}
{{- if .root.Values.monitoring.serviceMonitor }}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  {{- include "common.metadata" (dict "root" .root) | nindent 2 }}
spec:
  selector:
    matchLabels:
      {{- include "common.selector" .root | nindent 6 }}
      counterpoint.dev/scraped: "true"
  endpoints:
    {{- range .endpoints }}
    - port: {{ . }}
      path: /metrics
      interval: 15s
    {{- end }}
{{- end }}
{{- end -}}

{{/* Alerts of files/alerts.yaml, each of the release alone: its expressions hold SELECTOR where
labels of the scraped pod belong. */}}
{{- define "common.prometheusRule" -}}
{{- if .Values.monitoring.prometheusRule }}
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  {{- include "common.metadata" (dict "root" .) | nindent 2 }}
spec:
  {{- .Files.Get "files/alerts.yaml" | replace "SELECTOR" (printf "namespace=%q,service=%q" .Release.Namespace (include "common.fullname" .)) | nindent 2 }}
{{- end }}
{{- end -}}

{{/* A dashboard for Grafana's sidecar. */}}
{{- define "common.dashboard" -}}
{{- if .Values.monitoring.dashboard }}
apiVersion: v1
kind: ConfigMap
metadata:
  {{- include "common.metadata" (dict "root" . "suffix" "dashboard") | nindent 2 }}
    grafana_dashboard: "1"
data:
  counterpoint-{{ .Chart.Name }}.json: |
    {{- .Files.Get "files/dashboard.json" | nindent 4 }}
{{- end }}
{{- end -}}

{{/* `helm test`: each of the services at `urls` says that it is ready. The image has no shell, so the program
asks. */}}
{{- define "common.test" -}}
apiVersion: v1
kind: Pod
metadata:
  name: {{ include "common.fullname" .root }}-test
  namespace: {{ .root.Release.Namespace }}
  # Not the labels of the service's own pods: no Service may choose this one.
  labels:
    app.kubernetes.io/name: {{ .root.Chart.Name }}-test
    app.kubernetes.io/instance: {{ .root.Release.Name }}
  annotations:
    helm.sh/hook: test
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext:
    {{- include "common.podSecurity" .root | nindent 4 }}
  {{- with .root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    {{- range $at, $url := .urls }}
    - name: ready-{{ $at }}
      image: {{ include "common.image" (dict "root" $.root "image" $.root.Values.image) }}
      imagePullPolicy: {{ $.root.Values.image.pullPolicy }}
      args: [ready, {{ $url | quote }}, --wait, "120"]
      securityContext:
        {{- include "common.containerSecurity" $.root | nindent 8 }}
      resources:
        requests: { cpu: 10m, memory: 16Mi }
        limits: { memory: 64Mi }
    {{- end }}
{{- end -}}

{{/* The pod of `helm test`, as a NetworkPolicyPeer. */}}
{{- define "common.tester" -}}
podSelector:
  matchLabels:
    app.kubernetes.io/name: {{ .Chart.Name }}-test
    app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
