//! What a user asks for: the specification of a `TelemetryPipeline` but for its buffer, which has a file of its own.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vocabulary::{Class, Signal};

use super::buffer::Buffer;
use super::status::TelemetryPipelineStatus;
use super::{bounds, rules};
use crate::agent::Delivery;
use crate::quantity::Quantity;
use crate::words;

/// A fleet of agents: what they take in, where they hold it, and where they deliver it.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "forebay.dev",
    version = "v1alpha1",
    kind = "TelemetryPipeline",
    plural = "telemetrypipelines",
    namespaced,
    shortname = "tp",
    category = "telemetry",
    doc = "A fleet of telemetry agents: what they take in, where they hold it, and where they deliver it.",
    status = "TelemetryPipelineStatus",
    derive = "PartialEq",
    cel,
    validation = rules::name_length(),
    scale(
        spec_replicas_path = ".spec.workload.replicas",
        status_replicas_path = ".status.workload.replicas",
        label_selector_path = ".status.workload.selector"
    ),
    selectable = ".spec.workload.kind",
    selectable = ".status.summary.health",
    printcolumn(name = "Kind", type_ = "string", json_path = ".spec.workload.kind"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.summary.ready"),
    printcolumn(name = "Health", type_ = "string", json_path = ".status.summary.health"),
    printcolumn(name = "Dropped", type_ = "string", json_path = ".status.summary.dropped"),
    printcolumn(name = "Dropped-5m", type_ = "integer", format = "int64", json_path = ".status.flow.droppedLast5m"),
    printcolumn(name = "Queue", type_ = "string", json_path = ".status.summary.queue"),
    printcolumn(name = "Backlog", type_ = "string", json_path = ".status.summary.backlog"),
    printcolumn(name = "Reported", type_ = "date", json_path = ".status.summary.reportedTime"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", priority = 1, json_path = ".status.conditions[?(@.type==\"FlowHealthy\")].reason"),
    printcolumn(name = "Reporting", type_ = "string", priority = 1, json_path = ".status.summary.reporting"),
    printcolumn(name = "Oldest", type_ = "string", priority = 1, json_path = ".status.summary.oldest"),
    printcolumn(name = "Sent", type_ = "string", priority = 1, json_path = ".status.summary.sentRate"),
    printcolumn(name = "Config", type_ = "string", priority = 1, json_path = ".status.config.hash"),
    printcolumn(name = "Version", type_ = "string", priority = 1, json_path = ".status.agentVersion")
)]
#[x_kube(
    validation = rules::ebpf_needs_daemon_set(),
    validation = rules::exposure_needs_daemon_set(),
    validation = rules::host_path_needs_daemon_set(),
    validation = rules::claim_needs_stateful_set(),
    validation = rules::memory_below_limit(),
    validation = rules::required_is_never_dropped(),
    validation = rules::best_effort_needs_disk(),
    validation = rules::retry_deadline_within_age(),
    validation = rules::tenants_need_otlp()
)]
#[serde(rename_all = "camelCase")]
pub struct TelemetryPipelineSpec {
    /// The class whose guard rails apply; absent: the class annotated `forebay.dev/default-class: "true"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_ref: Option<ClassRef>,
    /// How and where the agents run.
    pub workload: Workload,
    /// What they take in; at least one.
    pub sources: Sources,
    /// Order of service and shedding; absent: the defaults of each class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priorities: Option<Priorities>,
    /// Shares of the room by tenant, so that none takes it from all; absent: tenants are not told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenants: Option<Tenants>,
    /// Where items wait.
    pub buffer: Buffer,
    /// Where items go.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub destinations: Vec<Destination>,
    /// Limits of one agent, from which queues, workers and disk shares are solved; absent: 256Mi and 500m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// How a pod ends; absent: 25 seconds to empty its buffer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
}

/// Names a `TelemetryPipelineClass`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClassRef {
    /// Its name.
    #[schemars(schema_with = "bounds::dns_name")]
    pub name: String,
}

/// How and where the agents run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::replicas_forbidden(), validation = rules::replicas_required())]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// `DaemonSet`: an agent per node. `StatefulSet`: gateways with a volume each. `Deployment`: gateways without. Immutable.
    #[x_kube(validation = rules::workload_kind_immutable())]
    pub kind: WorkloadKind,
    /// How many; required but for `DaemonSet`, which has one per node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,
    /// On which nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
}

/// What runs the agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum WorkloadKind {
    /// One agent per node.
    DaemonSet,
    /// Replicas, each with a volume that outlives its pod.
    StatefulSet,
    /// Replicas without a volume.
    Deployment,
}

impl WorkloadKind {
    /// The name of the kind.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DaemonSet => "DaemonSet",
            Self::StatefulSet => "StatefulSet",
            Self::Deployment => "Deployment",
        }
    }
}

/// On which nodes agents run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Labels a node must carry; empty: any node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "bounds::labels")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes to put up with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tolerations: Vec<Toleration>,
}

/// A taint to put up with, as in a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::toleration_exists_has_no_value())]
#[serde(rename_all = "camelCase")]
pub struct Toleration {
    /// Key of the taint; absent with operator `Exists`: every taint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 316))]
    pub key: Option<String>,
    /// `Equal` (if absent) or `Exists`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<Operator>,
    /// Value of the taint, for `Equal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
    /// Effect of the taint; absent: every effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<Effect>,
}

/// How a toleration compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Operator {
    /// The value must be the same.
    Equal,
    /// Any value will do.
    Exists,
}

/// What a taint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Effect {
    /// No new pods.
    NoSchedule,
    /// No new pods if avoidable.
    PreferNoSchedule,
    /// No pods at all.
    NoExecute,
}

/// What the agents take in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::at_least_one_source())]
#[serde(rename_all = "camelCase")]
pub struct Sources {
    /// Kernel events of the node: OOM kills, fatal exits, process churn per container. Only with `DaemonSet`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ebpf: Option<EbpfSource>,
    /// OTLP over gRPC, port 4317.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otlp: Option<OtlpSource>,
}

/// Kernel events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EbpfSource {}

/// OTLP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OtlpSource {
    /// Who reaches it; absent: `NodeLocal` for a `DaemonSet`, else `ClusterService`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposure: Option<Exposure>,
}

/// Who reaches an agent's OTLP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Exposure {
    /// Pods of the same node, through a Service that stays on the node. Only with `DaemonSet`.
    NodeLocal,
    /// Every pod of the cluster, through a Service.
    ClusterService,
    /// As `NodeLocal`, and on the node's own address. Only with `DaemonSet`.
    HostPort,
}

/// Order of service and shedding.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::reserved_sum())]
#[serde(rename_all = "camelCase")]
pub struct Priorities {
    /// Classes that differ from their defaults.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub classes: Vec<PriorityClass>,
    /// What happens before memory is full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backpressure: Option<Backpressure>,
}

/// How one class is treated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PriorityClass {
    /// Which class.
    #[serde(with = "words")]
    #[schemars(schema_with = "words::schema::<Class>")]
    pub name: Class,
    /// Share of service relative to the other classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub weight: Option<i32>,
    /// Part of memory only this class may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub reserved_percent: Option<i32>,
}

/// How tenants share the room: while there is enough, each may use what the others leave; when it gets scarce, one that holds its equal
/// share is refused, as `TenantQuota`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tenants {
    /// The resource attribute that names a request's tenant; absent: `k8s.namespace.name`. A request without it, or with several
    /// values of it, is one of the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub resource_attribute: Option<String>,
    /// Most tenants with a share of their own; the others have one together; absent: 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub max: Option<i32>,
}

/// What happens before memory is full.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::soft_percent_needs_backpressure())]
#[serde(rename_all = "camelCase")]
pub struct Backpressure {
    /// `Enabled` (if absent): above the soft limit, Normal and Bulk items go to disk, or are shed where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<BackpressureMode>,
    /// The soft limit, in percent of memory; absent: 90.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 99))]
    pub soft_percent: Option<i32>,
}

/// Whether there is a soft limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackpressureMode {
    /// There is.
    Enabled,
    /// Every class is taken until memory is full.
    Disabled,
}

/// Where items go. Exactly one protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::exactly_one_protocol())]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// Unique name: the key of its ledger and of what waits for it on disk.
    #[schemars(schema_with = "bounds::dns_label")]
    pub name: String,
    /// Signals it takes; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "words::list")]
    #[schemars(schema_with = "bounds::signals")]
    pub signals: Vec<Signal>,
    /// OTLP over gRPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otlp_grpc: Option<OtlpGrpc>,
    /// `Required` (if absent): intake is refused while its share of the disk is full. `BestEffort`: it drops its oldest items instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
    /// How a failed request is tried again; absent: after 500 milliseconds to 10 seconds, for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// OTLP over gRPC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OtlpGrpc {
    /// `http://host:port` or `https://host:port`.
    #[schemars(length(min = 1, max = 300))]
    #[x_kube(validation = rules::endpoint_form())]
    pub endpoint: String,
}

/// How a failed request is tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::retry_initial_below_max(), validation = rules::retry_max_below_deadline())]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Pause after the first failure; absent: 500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 60_000))]
    pub initial_milliseconds: Option<i32>,
    /// Longest pause; absent: 10,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 600_000))]
    pub max_milliseconds: Option<i32>,
    /// Age at which an item that keeps failing is dropped as `RetryExhausted`; absent: it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_592_000))]
    pub deadline_seconds: Option<i32>,
}

/// Resources of one agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::request_below_limit("memory"), validation = rules::request_below_limit("cpu"))]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What the scheduler sets aside; absent: as the limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<ResourceAmounts>,
    /// What an agent may use. Everything is solved from these; absent: 256Mi and 500m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<ResourceAmounts>,
}

/// Amounts of CPU and memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceAmounts {
    /// Cores, such as 500m or 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Quantity>,
    /// Bytes, such as 512Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
}

/// How a pod ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// Longest time an agent may take to empty its buffer before it stops; the pod's grace period follows from it.
    #[schemars(range(min = 1, max = 3600))]
    pub deadline_seconds: i32,
}
