//! Resource, scope and attributes as OTLP objects. Separate because logs and metrics must describe a container in the same words.

use enrich::Attribution;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;

/// The resource of a container: what is known of it, and nothing else.
pub(crate) fn resource(attribution: &Attribution) -> Resource {
    let Attribution { container_id, pod_uid, pod_name, namespace, container_name, node_name } = attribution;
    let named = [
        ("container.id", container_id),
        ("k8s.pod.uid", pod_uid),
        ("k8s.pod.name", pod_name),
        ("k8s.namespace.name", namespace),
        ("k8s.container.name", container_name),
        ("k8s.node.name", node_name),
    ];
    let attributes = named.into_iter().filter_map(|(key, value)| Some(text(key, value.as_deref()?))).collect();
    Resource { attributes, ..Resource::default() }
}

/// The scope of everything that comes from the kernel.
pub(crate) fn scope() -> InstrumentationScope {
    InstrumentationScope { name: crate::SCOPE.into(), version: env!("CARGO_PKG_VERSION").into(), ..InstrumentationScope::default() }
}

/// An attribute that is a text.
pub(crate) fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

/// An attribute that is a number; what exceeds its range becomes its maximum.
pub(crate) fn number(key: &str, value: u64) -> KeyValue {
    attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

/// An attribute that is true or false.
pub(crate) fn flag(key: &str, value: bool) -> KeyValue {
    attribute(key, Value::BoolValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
