//! The tables of objects that are accepted and refused, and how a case becomes an object. Shared by the test that asks the
//! local CEL evaluator and the one that asks an API server, so that both judge the same objects.

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The tables, by name.
pub(crate) const TABLES: [(&str, &str); 9] = [
    ("workload", include_str!("../cases/workload.yaml")),
    ("gateways", include_str!("../cases/gateways.yaml")),
    ("sources", include_str!("../cases/sources.yaml")),
    ("buffer", include_str!("../cases/buffer.yaml")),
    ("claims", include_str!("../cases/claims.yaml")),
    ("priorities", include_str!("../cases/priorities.yaml")),
    ("destinations", include_str!("../cases/destinations.yaml")),
    ("resources", include_str!("../cases/resources.yaml")),
    ("class", include_str!("../cases/class.yaml")),
];

/// One file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Table {
    /// The specification that cases change.
    pub(crate) base: Model,
    /// The cases.
    pub(crate) cases: Vec<Case>,
}

/// A specification that is accepted as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Model {
    /// Node agents.
    DaemonSet,
    /// Gateways with a claim each.
    StatefulSet,
    /// A class.
    Class,
}

/// Who can judge a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Judge {
    /// An API server: the case is about the schema, not about a rule.
    Server,
}

/// One object, or a change of one.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Case {
    /// A sentence.
    pub(crate) name: String,
    /// Name of the object, where it matters.
    pub(crate) object: Option<String>,
    /// Merged into the base, as RFC 7386 merges.
    pub(crate) change: Value,
    /// What the object was before, as a change of the base; none: it is created.
    pub(crate) from: Option<Value>,
    /// Fields written as an explicit null.
    #[serde(default)]
    pub(crate) nulls: Vec<String>,
    /// A part of the message with which it is refused; none: it is accepted.
    pub(crate) refused: Option<String>,
    /// Who alone can judge it.
    pub(crate) only: Option<Judge>,
}

impl Table {
    /// Reads a table.
    pub(crate) fn read(text: &str) -> Self {
        serde_saphyr::from_str(text).expect("the tables are well formed")
    }
}

impl Model {
    /// The kind of the object.
    pub(crate) fn kind(self) -> &'static str {
        if self == Self::Class { "TelemetryPipelineClass" } else { "TelemetryPipeline" }
    }

    fn spec(self) -> Value {
        let destinations = json!([{ "name": "backend", "otlpGrpc": { "endpoint": "http://collector.observability:4317" } }]);
        match self {
            Self::DaemonSet => json!({
                "workload": { "kind": "DaemonSet" },
                "sources": { "ebpf": {}, "otlp": {} },
                "buffer": { "mode": "Spill", "disk": { "size": "2Gi", "medium": "HostPath" } },
                "destinations": destinations,
            }),
            Self::StatefulSet => json!({
                "workload": { "kind": "StatefulSet", "replicas": 2 },
                "sources": { "otlp": {} },
                "buffer": {
                    "mode": "Mirror",
                    "disk": { "size": "10Gi", "medium": "PersistentVolumeClaim", "claim": { "storageClassName": "standard" } },
                },
                "destinations": destinations,
            }),
            Self::Class => json!({
                "namespaces": { "matchLabels": { "telemetry": "allowed" } },
                "sources": { "ebpf": "Allowed", "otlp": "Allowed" },
                "hostPaths": ["/var/lib/forebay"],
                "ceilings": { "memoryPerNode": "1Gi", "cpuPerNode": 1, "diskPerNode": "20Gi", "replicas": 20 },
                "imagePullSecrets": [{ "name": "registry" }],
            }),
        }
    }
}

impl Case {
    /// The object that is judged.
    pub(crate) fn object(&self, base: Model, namespace: &str) -> Value {
        let mut object = self.build(base, namespace, &self.change);
        if let Some(Value::Object(spec)) = object.get_mut("spec") {
            spec.extend(self.nulls.iter().map(|field| (field.clone(), Value::Null)));
        }
        object
    }

    /// What it was before.
    pub(crate) fn before(&self, base: Model, namespace: &str) -> Option<Value> {
        self.from.as_ref().map(|from| self.build(base, namespace, from))
    }

    fn build(&self, base: Model, namespace: &str, change: &Value) -> Value {
        let mut spec = base.spec();
        merge(&mut spec, change);
        let name = self.object.as_deref().unwrap_or("case");
        let metadata = if base == Model::Class { json!({ "name": name }) } else { json!({ "name": name, "namespace": namespace }) };
        json!({ "apiVersion": "forebay.dev/v1alpha1", "kind": base.kind(), "metadata": metadata, "spec": spec })
    }
}

/// RFC 7386: objects are merged, null removes, anything else replaces.
fn merge(target: &mut Value, change: &Value) {
    let Value::Object(changes) = change else {
        *target = change.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (name, value) in changes {
        if value.is_null() {
            fields.remove(name);
        } else {
            merge(fields.entry(name).or_insert(Value::Null), value);
        }
    }
}
