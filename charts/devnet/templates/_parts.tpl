{{/* Names of rollups, as the program gives them. */}}
{{- define "devnet.rollups" -}}
{{- slice (list "alpha" "beta" "gamma" "delta" "epsilon" "zeta" "eta" "theta") 0 (int .Values.rollups) | join " " -}}
{{- end -}}

{{/* What every pod makes the same network from: the command that writes all its files. */}}
{{- define "devnet.genesis" -}}
- genesis
- testnet
- --validators={{ int .root.Values.validators }}
- --rollups={{ int .root.Values.rollups }}
- --attesters={{ int .root.Values.attesters }}
- --slot-secs={{ int .root.Values.slotSecs }}
- --block-interval={{ .root.Values.blockInterval }}
- --chain-id={{ .root.Values.chainId }}
- --host={{ include "common.fullname" .root }}-{name}
- {{ printf "--seed=%s" .root.Values.seed | quote }}
- --genesis-time={{ .time }}
{{- end -}}

{{/* Labels that a selector may name. */}}
{{- define "devnet.selector" -}}
{{ include "common.selector" .root }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{- define "devnet.metadata" -}}
name: {{ include "common.fullname" .root }}-{{ .part }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "common.labels" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{/* The image, and what is the same for every container: `image` is one of the values. */}}
{{- define "devnet.container" -}}
image: {{ include "common.image" (dict "root" .root "image" .image) }}
imagePullPolicy: {{ .image.pullPolicy }}
securityContext:
  {{- include "common.containerSecurity" .root | nindent 2 }}
{{- end -}}

{{/* One that ends before others start. */}}
{{- define "devnet.starting" -}}
{{ include "devnet.container" . }}
resources:
  requests: { cpu: 10m, memory: 64Mi }
  limits: { memory: 512Mi }
{{- end -}}

{{/* One that runs. */}}
{{- define "devnet.running" -}}
{{ include "devnet.container" . }}
resources:
  {{- toYaml .root.Values.resources | nindent 2 }}
{{- end -}}

{{/* A part's folder, and in it, on its claim, what the part writes: `data` are paths in the folder. */}}
{{- define "devnet.mounts" -}}
- { name: network, mountPath: /var/lib/counterpoint, subPath: network/{{ .part }} }
{{- range .data }}
- { name: data, mountPath: /var/lib/counterpoint/{{ . }}, subPath: {{ base . }} }
{{- end }}
{{- end -}}

{{/* A part's Service and its one pod: `starting` are containers that end, sidecars among them, and
`running` is the one that the others are for. */}}
{{- define "devnet.part" -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "devnet.metadata" . | nindent 2 }}
  {{- if and .public .root.Values.service.annotations }}
  annotations:
    {{- toYaml .root.Values.service.annotations | nindent 4 }}
  {{- end }}
spec:
  type: {{ if .public }}{{ .root.Values.service.type }}{{ else }}ClusterIP{{ end }}
  # Parts start together, and wait for each other.
  publishNotReadyAddresses: true
  selector:
    {{- include "devnet.selector" . | nindent 4 }}
  ports:
    {{- range $name, $port := .ports }}
    - { name: {{ $name }}, port: {{ $port }}, targetPort: {{ $name }} }
    {{- end }}
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  {{- include "devnet.metadata" . | nindent 2 }}
spec:
  replicas: 1
  serviceName: {{ include "common.fullname" .root }}-{{ .part }}
  podManagementPolicy: Parallel
  # Another network of this name has other keys and another beginning.
  persistentVolumeClaimRetentionPolicy: { whenDeleted: Delete, whenScaled: Retain }
  selector:
    matchLabels:
      {{- include "devnet.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "common.labels" .root | nindent 8 }}
        app.kubernetes.io/component: {{ .part }}
    spec:
      {{- include "common.pod" (dict "root" .root "grace" 60) | nindent 6 }}
      initContainers:
        - name: network
          args:
            {{- .genesis | nindent 12 }}
            - /network/network
          {{- include "devnet.starting" (dict "root" .root "image" .root.Values.image) | nindent 10 }}
          volumeMounts:
            - { name: network, mountPath: /network }
        {{- with .starting }}
        {{- . | nindent 8 }}
        {{- end }}
      containers:
        {{- .running | nindent 8 }}
      volumes:
        - name: network
          emptyDir: { medium: Memory, sizeLimit: 64Mi }
        - name: tmp
          emptyDir: { sizeLimit: 256Mi }
  volumeClaimTemplates:
    {{- $claim := include "common.claim" (dict "root" .root "name" "data" "storage" .root.Values.persistence) }}
    {{- $claim | nindent 4 }}
{{- end -}}
