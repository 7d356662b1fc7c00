{{- define "tm.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" (.Release.Name | trunc 34 | trimSuffix "-") .Chart.Name -}}
{{- end -}}
{{- end -}}

{{- define "tm.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "tm.labels" -}}
{{ include "tm.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "tm.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ printf "%s@%s" .repository .digest }}{{- else -}}{{ printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) }}{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tm.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "tm.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{- define "tm.scheme" -}}
{{- if hasKey .Values.files "TLS_CERT_FILE" -}}https{{- else -}}http{{- end -}}
{{- end -}}

{{/* Variables of the map given, and for the files given where they are. Numbers of YAML are floats to Helm: 1e+06. */}}
{{- define "tm.env" -}}
{{- range $name, $value := .settings }}
- name: {{ $name }}
  value: {{ if kindIs "float64" $value }}{{ if eq (floor $value) $value }}{{ int64 $value | quote }}{{ else }}{{ $value | quote }}{{ end }}{{ else }}{{ $value | quote }}{{ end }}
{{- end }}
{{- range $name, $_ := .files }}
- name: {{ $name }}{{ if not (regexMatch "_(FILE|SSLROOTCERT|LOCATION|CERTIFICATE)$" $name) }}_FILE{{ end }}
  value: /run/secrets/traffic-manager/{{ $name }}
{{- end }}
{{- end -}}

{{/* The volume with the files given. As a whole folder, so that renewed files are seen. */}}
{{- define "tm.filesVolume" -}}
- name: files
  projected:
    defaultMode: 0440
    sources:
      {{- range $name, $from := . }}
      {{- if $from.secret }}
      - secret:
          name: {{ $from.secret }}
          items: [{key: {{ $from.key }}, path: {{ $name }}}]
      {{- else }}
      - configMap:
          name: {{ $from.configMap }}
          items: [{key: {{ $from.key }}, path: {{ $name }}}]
      {{- end }}
      {{- end }}
{{- end -}}

{{- define "tm.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "tm.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* What the schema cannot say, in words that name the value. */}}
{{- define "tm.check" -}}
{{- $settings := .Values.settings -}}
{{- if .Values.embedded.enabled -}}
{{- if $settings.DB_HOST -}}{{ fail "embedded.enabled, settings.DB_HOST: one of the two" }}{{- end -}}
{{- if .Values.autoscaling.enabled -}}{{ fail "embedded.enabled, autoscaling.enabled: SQLite serves one Pod" }}{{- end -}}
{{- else if not $settings.DB_HOST -}}
{{ fail "settings.DB_HOST: must be set, or embedded.enabled" }}
{{- end -}}
{{- $isOpen := or (eq ($settings.AUTH_MODE | default "") "open") (and (eq $settings.ENVIRONMENT "development") (ne ($settings.AUTH_MODE | default "") "required")) -}}
{{- if and $isOpen (not $settings.API_HOST) -}}
{{ fail "settings.API_HOST: where nobody is asked who they are, the server listens to its own Pod alone; 0.0.0.0 opens it to all" }}
{{- end -}}
{{- if and (not $isOpen) (not .Values.files.AUTH_PEPPER) -}}
{{ fail "files.AUTH_PEPPER: must be set; docs/security.md says how to make one" }}
{{- end -}}
{{- if and .Values.monitoring.enabled (not $isOpen) (not .Values.monitoring.key) (ne ($settings.AUTH_METRICS | default "") "open") -}}
{{ fail "monitoring.key: must be set, or settings.AUTH_METRICS to open" }}
{{- end -}}
{{- if eq ($settings.TLS_CLIENT_AUTH | default "") "required" -}}
{{ fail "settings.TLS_CLIENT_AUTH: probes of Kubernetes show no certificate; use optional" }}
{{- end -}}
{{- end -}}
