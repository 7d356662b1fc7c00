{{- define "tm.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
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

{{- define "tm.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* The Pod of a Job that works on the tables as the role that owns them, past a pooler: `command`, with the settings of
the database and `more`. */}}
{{- define "tm.ownersPod" -}}
{{- $values := .root.Values -}}
{{- $more := .more | default list -}}
{{- $settings := dict -}}
{{- range $name, $value := merge (dict) $values.migration.settings $values.settings -}}
{{- if or (regexMatch "^(DB_|LOG_|ENVIRONMENT$)" $name) (has $name $more) }}{{ $_ := set $settings $name $value }}{{ end -}}
{{- end -}}
{{- $files := dict -}}
{{- range $name, $from := $values.files -}}
{{- if hasPrefix "DB_" $name }}{{ $_ := set $files $name $from }}{{ end -}}
{{- end -}}
restartPolicy: Never
{{- if not $values.serviceAccount.create }}
serviceAccountName: {{ include "tm.serviceAccount" .root }}
{{- end }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with $values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext: {{- toYaml $values.podSecurityContext | nindent 2 }}
containers:
  - name: {{ .command }}
    image: {{ include "tm.image" .root }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    command: [traffic-manager, {{ .command }}]
    workingDir: /tmp
    env: {{- include "tm.env" (dict "settings" $settings "files" $files) | trim | nindent 6 }}
    resources: {{- toYaml $values.jobs.resources | nindent 6 }}
    securityContext: {{- include "tm.containerSecurity" . | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      {{- if $files }}
      - {name: files, mountPath: /run/secrets/traffic-manager, readOnly: true}
      {{- end }}
volumes:
  - name: tmp
    emptyDir: {}
  {{- if $files }}
  {{- include "tm.filesVolume" $files | nindent 2 }}
  {{- end }}
{{- with $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
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
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{ fail "autoscaling.minReplicas: must not be above autoscaling.maxReplicas" }}
{{- end -}}
{{- if .Values.ingress.enabled -}}
{{- if not .Values.ingress.hosts -}}{{ fail "ingress.hosts: must name a host" }}{{- end -}}
{{- if not $settings.API_TRUSTED_PROXIES -}}
{{ fail "settings.API_TRUSTED_PROXIES: must be the network of the ingress's Pods, or all who ask count as one" }}
{{- end -}}
{{- end -}}
{{- if eq ($settings.TLS_CLIENT_AUTH | default "") "required" -}}
{{ fail "settings.TLS_CLIENT_AUTH: probes of Kubernetes show no certificate; use optional" }}
{{- end -}}
{{- end -}}
