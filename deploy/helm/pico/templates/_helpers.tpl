{{- define "pico.fullname" -}}
{{- if contains "pico" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-pico" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "pico.selector" -}}
app.kubernetes.io/name: pico
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "pico.labels" -}}
{{ include "pico.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "pico.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "pico.fullname" .) }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{- define "pico.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest }}{{ $image.repository }}@{{ $image.digest }}{{ else }}{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* The port of a door: what config says, else the default of pico-node. A number that is read from YAML is a float. */}}
{{- define "pico.port" -}}
{{- $defaults := dict "proxy" 8000 "admin" 8001 "upstream" 8002 "gossip" 8003 -}}
{{- get .config (printf "%s_port" .door) | default (get $defaults .door) | int -}}
{{- end }}

{{/* What pico-node reads: the chart's own settings, and before them those of the user. */}}
{{- define "pico.config" -}}
{{- $port := include "pico.port" (dict "config" .Values.config "door" "gossip") -}}
{{- $own := dict "join" (printf "%s-headless.%s.svc:%s" (include "pico.fullname" .) .Release.Namespace $port) "admin_host" "" -}}
{{- range $door := list "proxy" "upstream" "admin" -}}
{{- if (get $.Values.tls $door).secretName -}}
{{- $_ := set $own (printf "%s_tls_cert" $door) (printf "/etc/pico/tls/%s/tls.crt" $door) -}}
{{- $_ := set $own (printf "%s_tls_key" $door) (printf "/etc/pico/tls/%s/tls.key" $door) -}}
{{- end -}}
{{- end -}}
{{- if .Values.clusterKey.secretName -}}
{{- $_ := set $own "cluster_key_file" (printf "/etc/pico/cluster/%s" .Values.clusterKey.key) -}}
{{- end -}}
{{- mergeOverwrite $own (deepCopy .Values.config) | toYaml -}}
{{- end }}

{{/* A duration of pico-node, such as 500ms, 30s or 1m, in whole seconds, rounded up. */}}
{{- define "pico.seconds" -}}
{{- $text := toString . -}}
{{- $units := dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 -}}
{{- $unit := ternary "s" (regexFind "[a-z]+$" $text) (eq $text "0") -}}
{{- if not (hasKey $units $unit) }}{{ fail (printf "config: %q is no duration: expected a number and ms, s, m or h" $text) }}{{ end -}}
{{- mulf (trimSuffix $unit $text | float64) (get $units $unit) | ceil | int -}}
{{- end }}

{{- define "pico.terminationGracePeriodSeconds" -}}
{{- $drain := include "pico.seconds" (.Values.config.drain_delay | default "1s") | int -}}
{{- $grace := include "pico.seconds" (.Values.config.grace_period | default "30s") | int -}}
{{- $needed := add .Values.preStopSeconds $drain $grace 20 | int -}}
{{- $asked := .Values.terminationGracePeriodSeconds | int -}}
{{- if and $asked (lt $asked $needed) }}{{ fail (printf "terminationGracePeriodSeconds: %d is not enough: preStopSeconds, drain_delay and grace_period and 20 s are %d" $asked $needed) }}{{ end -}}
{{- $asked | default $needed -}}
{{- end }}

{{- define "pico.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ .name }}
  labels:
    {{- include "pico.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .door }}
  {{- with .service.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ .service.type }}
  {{- if eq .service.type "LoadBalancer" }}
  {{- with .service.loadBalancerClass }}
  loadBalancerClass: {{ . }}
  {{- end }}
  {{- with .service.loadBalancerSourceRanges }}
  loadBalancerSourceRanges: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- if ne .service.type "ClusterIP" }}
  externalTrafficPolicy: {{ .service.externalTrafficPolicy }}
  {{- end }}
  selector: {{- include "pico.selector" .root | nindent 4 }}
  ports:
    - name: {{ .door }}
      port: {{ .service.port }}
      targetPort: {{ .door }}
      protocol: TCP
{{- end }}
