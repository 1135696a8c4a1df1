{{- define "forebay.selector" -}}
app.kubernetes.io/name: forebay-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "forebay.labels" -}}
{{ include "forebay.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: forebay
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
