{{- define "dripfleet.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Short enough that "-personalize" and a pod's suffix still fit into a label of 63. */}}
{{- define "dripfleet.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains .Chart.Name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "dripfleet.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "dripfleet.selector" -}}
app.kubernetes.io/name: {{ include "dripfleet.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "dripfleet.labels" -}}
{{ include "dripfleet.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "dripfleet.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "dripfleet.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "dripfleet.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "dripfleet.secret" -}}
{{- default (include "dripfleet.fullname" .) .Values.secret.existingSecret }}
{{- end }}

{{/* Settings that are no secrets, as the data of a ConfigMap. A number is written as it was, not as 1.5e+06. */}}
{{- define "dripfleet.config" -}}
{{- /* A folder of the process itself in it: a volume belongs to root. */}}
DRIPFLEET_HOME: /var/lib/dripfleet/home
DRIPFLEET_JOURNAL_DIR: /var/lib/dripfleet/journals
DRIPFLEET_DRAIN_WAIT: {{ .Values.drainWait | int | quote }}
{{- if .Values.region }}
DRIPFLEET_REGION: {{ .Values.region | quote }}
{{- end }}
{{- if .Values.metrics.enabled }}
DRIPFLEET_METRICS_ADDRESS: 0.0.0.0
DRIPFLEET_METRICS_PORT: {{ .Values.metrics.port | int | quote }}
DRIPFLEET_METRICS_FLEET_PORT: {{ .Values.metrics.fleetPort | int | quote }}
{{- end }}
{{- range $name, $value := .Values.config }}
{{ $name }}: {{ if and (kindIs "float64" $value) (eq (floor $value) $value) }}{{ $value | int64 | quote }}{{ else }}{{ $value | quote }}{{ end }}
{{- end }}
{{- end }}

{{/* The data of the Secret; says which of the values is missing. */}}
{{- define "dripfleet.secretData" -}}
{{- $needed := list "DRIPFLEET_DATABASE_URL" "DRIPFLEET_REDIS_URL" "DRIPFLEET_SMTP_URL" "DRIPFLEET_SECRET_ADDRESS" "DRIPFLEET_SECRET_MESSAGE_ID" "DRIPFLEET_SECRET_TOKEN" }}
{{- if .Values.flower.enabled }}{{ $needed = append $needed "DRIPFLEET_SECRET_FLOWER" }}{{ end }}
{{- range $needed }}
{{- if not (hasKey $.Values.secret.values .) }}
{{- fail (printf "Set secret.existingSecret, or secret.values.%s." .) }}
{{- end }}
{{- end }}
{{- range $name, $value := .Values.secret.values }}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end }}

{{/* A new pod where a setting changed; a process reads its environment once. */}}
{{- define "dripfleet.checksum" -}}
{{- $secret := "" }}
{{- if not .Values.secret.existingSecret }}{{ $secret = include "dripfleet.secretData" . }}{{ end -}}
{{ printf "%s\n%s" (include "dripfleet.config" .) $secret | sha256sum }}
{{- end }}

{{/* The port of a pool's metrics. A dict: root, pool. */}}
{{- define "dripfleet.metricsPort" -}}
{{- $place := dict "sequence" 0 "send" 1 "personalize" 2 "churn" 3 "quantum" 4 "upkeep" 5 -}}
{{ add (int .root.Values.metrics.port) (get $place .pool) }}
{{- end }}

{{/* What the pods of a fleet's process have in common. A dict: root, component, and a pool's values or an empty dict. */}}
{{- define "dripfleet.podMetadata" -}}
labels:
  {{- include "dripfleet.labels" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .component }}
  {{- if .pool }}
  dripfleet/pool: {{ .component }}
  {{- end }}
  {{- with .root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  checksum/settings: {{ include "dripfleet.checksum" .root }}
  {{- with merge dict (default dict (get .own "podAnnotations")) .root.Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "dripfleet.podSpec" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with .own.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with default .root.Values.nodeSelector .own.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with default .root.Values.tolerations .own.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with default .root.Values.affinity .own.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .own.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The container: a dict with root, own, args, name of ConfigMap and Secret, whether it is probed, whether it has a journal, the port of its metrics. */}}
{{- define "dripfleet.container" -}}
name: {{ .name }}
image: {{ include "dripfleet.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
# Celery puts the working directory on the path: this one holds no `tasks` of anybody.
workingDir: /var/lib/dripfleet
args: {{ toJson .args }}
envFrom:
  - configMapRef:
      name: {{ .config }}
  - secretRef:
      name: {{ .secret }}
{{- with .own.env }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .root.Values.securityContext | nindent 2 }}
{{- with .own.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if and .port .root.Values.metrics.enabled }}
ports:
  - name: metrics
    containerPort: {{ .port }}
{{- end }}
{{- if and .probed .root.Values.probes.enabled }}
startupProbe:
  exec:
    command: {{ toJson (concat (list "python" "/opt/dripfleet/alive.py") .args) }}
  periodSeconds: 10
  timeoutSeconds: {{ .root.Values.probes.timeoutSeconds }}
  failureThreshold: 60
livenessProbe:
  exec:
    command: {{ toJson (concat (list "python" "/opt/dripfleet/alive.py") .args) }}
  periodSeconds: {{ .root.Values.probes.periodSeconds }}
  timeoutSeconds: {{ .root.Values.probes.timeoutSeconds }}
  failureThreshold: {{ .root.Values.probes.failureThreshold }}
{{- end }}
volumeMounts:
  - name: tmp
    mountPath: /tmp
  - name: home
    mountPath: /var/lib/dripfleet
  {{- if .journal }}
  - name: journal
    mountPath: /var/lib/dripfleet/journals
  {{- end }}
{{- end }}

{{- define "dripfleet.volumes" -}}
- name: tmp
  emptyDir: {}
- name: home
  emptyDir:
    sizeLimit: 64Mi
{{- end }}
