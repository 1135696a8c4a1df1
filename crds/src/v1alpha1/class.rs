//! What the platform's owner allows: `TelemetryPipelineClass`. Cluster-scoped, so that whoever may only write in a namespace
//! cannot widen it.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{bounds, rules};
use crate::quantity::Quantity;

/// Guard rails for the pipelines that name it, or for all that name none where it is annotated
/// `forebay.dev/default-class: "true"`. What a pipeline asks for beyond them stalls it with `ForbiddenByClass`.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "forebay.dev",
    version = "v1alpha1",
    kind = "TelemetryPipelineClass",
    plural = "telemetrypipelineclasses",
    shortname = "tpclass",
    category = "telemetry",
    doc = "What the platform's owner allows the telemetry pipelines that name this class.",
    derive = "PartialEq",
    cel,
    printcolumn(name = "eBPF", type_ = "string", json_path = ".spec.sources.ebpf"),
    printcolumn(name = "OTLP", type_ = "string", json_path = ".spec.sources.otlp"),
    printcolumn(name = "Memory", type_ = "string", json_path = ".spec.ceilings.memoryPerNode"),
    printcolumn(name = "Disk", type_ = "string", json_path = ".spec.ceilings.diskPerNode"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct TelemetryPipelineClassSpec {
    /// The namespaces whose pipelines may use this class; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<NamespaceRule>,
    /// The sources a pipeline may ask for.
    pub sources: ClassSources,
    /// Directories of the node, and what lies beneath them, that a buffer may use; empty: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 2, max = 256)))]
    #[x_kube(validation = rules::paths_absolute())]
    pub host_paths: Vec<String>,
    /// The most a pipeline may ask for; absent: no ceiling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceilings: Option<Ceilings>,
    /// Secrets in the pipeline's namespace with which its pods pull their image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub image_pull_secrets: Vec<SecretRef>,
    /// Priority class of the pods; absent: the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::dns_name")]
    pub priority_class_name: Option<String>,
}

/// Which namespaces may use a class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceRule {
    /// Labels the namespace must carry.
    #[schemars(schema_with = "bounds::labels")]
    pub match_labels: BTreeMap<String, String>,
}

/// The sources a pipeline may ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClassSources {
    /// Kernel events: pods with the capabilities BPF and PERFMON.
    pub ebpf: Permission,
    /// OTLP.
    pub otlp: Permission,
}

/// Whether something may be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Permission {
    /// It may.
    Allowed,
    /// It may not.
    #[default]
    Forbidden,
}

/// The most a pipeline may ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ceilings {
    /// Highest memory limit of one agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_per_node: Option<Quantity>,
    /// Highest CPU limit of one agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_per_node: Option<Quantity>,
    /// Largest disk buffer of one agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_per_node: Option<Quantity>,
    /// Most replicas of a `StatefulSet` or `Deployment`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,
}

/// Names a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Its name.
    #[schemars(schema_with = "bounds::dns_name")]
    pub name: String,
}
