//! The objects that a scenario puts around a pipeline: backend, load, and a pod that eats memory.

use serde_json::{Value, json};

use super::place::LoadSpec;

/// Image with load generator, sink and hog.
pub const IMAGE: &str = "forebay/e2e:0.1.0";

/// Label of every namespace that demo and scenarios make.
pub const LABEL: &str = "forebay.dev/e2e=true";

/// A namespace in which every pod that a class allows may run.
pub(super) fn namespace(name: &str) -> Value {
    let labels = json!({
        "forebay.dev/e2e": "true", "telemetry": "allowed",
        "pod-security.kubernetes.io/enforce": "privileged", "pod-security.kubernetes.io/warn": "privileged",
    });
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// The recording backend: its record lies on a claim, so that it may be scaled to zero. Pinned to one node, because the claim's
/// volume is a directory there.
pub(super) fn backend(namespace: &str, node: &str) -> Value {
    let labels = json!({"app": "backend"});
    let meta = json!({"name": "backend", "namespace": namespace, "labels": labels});
    let container = json!({
        "name": "sink", "image": IMAGE, "imagePullPolicy": "Never",
        "command": ["/usr/bin/forebay-sink"],
        "args": ["--journal", "/record/journal"],
        "ports": [{"name": "otlp-grpc", "containerPort": 4317}, {"name": "control", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        // The claim's directory belongs to root.
        "securityContext": {"runAsUser": 0},
        "volumeMounts": [{"name": "record", "mountPath": "/record"}],
    });
    let pod = json!({
        "nodeSelector": {"kubernetes.io/hostname": node},
        "terminationGracePeriodSeconds": 5,
        "containers": [container],
        "volumes": [{"name": "record", "persistentVolumeClaim": {"claimName": "backend"}}],
    });
    let deployment = json!({
        "replicas": 1, "strategy": {"type": "Recreate"}, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    });
    let ports = json!([{"name": "otlp-grpc", "port": 4317}, {"name": "control", "port": 8080}]);
    let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    list(&[
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": claim}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": labels, "ports": ports}}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": deployment}),
    ])
}

/// A load generator as a bare pod: a restart would forget the truth.
pub(super) fn load(namespace: &str, load: &LoadSpec) -> Value {
    let arguments = json!([
        format!("--endpoint={}", load.endpoint),
        format!("--producer={}", load.name),
        format!("--rate={}", load.items_per_second),
        format!("--batch={}", load.batch_items),
        format!("--error-percent={}", load.error_percent),
        format!("--signals={}", load.signals),
        format!("--payload-bytes={}", load.payload_bytes),
    ]);
    let container = json!({
        "name": "loadgen", "image": IMAGE, "imagePullPolicy": "Never",
        "command": ["/usr/bin/forebay-loadgen"], "args": arguments,
        "ports": [{"name": "control", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}},
    });
    let node = load.node.as_ref().map_or_else(|| json!({}), |node| json!({"kubernetes.io/hostname": node}));
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": load.name, "namespace": namespace, "labels": {"app": "loadgen"}},
        "spec": {"nodeSelector": node, "restartPolicy": "Never", "terminationGracePeriodSeconds": 5, "containers": [container]},
    })
}

/// A pod that takes memory until its limit of 48 MiB ends it.
pub(super) fn hog(namespace: &str, name: &str) -> Value {
    let container = json!({
        "name": "hog", "image": IMAGE, "imagePullPolicy": "Never", "command": ["/usr/bin/forebay-hog"],
        "resources": {"requests": {"memory": "48Mi"}, "limits": {"memory": "48Mi"}},
    });
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": {"app": "hog"}},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container]},
    })
}

/// A pipeline of a scenario: `spec` without its destination, which is the namespace's own backend.
#[must_use]
pub fn pipeline(namespace: &str, name: &str, mut spec: Value) -> Value {
    if let Some(spec) = spec.as_object_mut() {
        let backend = json!({
            "name": "backend", "otlpGrpc": {"endpoint": format!("http://backend.{namespace}:4317")},
            "retry": {"initialMilliseconds": 250, "maxMilliseconds": 2000},
        });
        spec.entry("destinations").or_insert_with(|| json!([backend]));
    }
    json!({
        "apiVersion": "forebay.dev/v1alpha1", "kind": "TelemetryPipeline",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    })
}

fn list(items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}
