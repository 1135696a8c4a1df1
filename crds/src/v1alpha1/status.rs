//! What a user reads: the status of a `TelemetryPipeline` but for its ledger, which has a file of its own. At most 24 KiB.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bounds;
use super::spec::WorkloadKind;
use super::status_flow::{Flow, Retired};
use crate::conditions::{ConditionStatus, ConditionType, Health, Reason};
use crate::quantity::Quantity;
use crate::words;

/// What is known of a pipeline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TelemetryPipelineStatus {
    /// The generation of the specification that all of this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// Version of the agents; the oldest while they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub agent_version: Option<String>,
    /// The nine conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The short form that `kubectl get` shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// What runs the agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadStatus>,
    /// Which configuration the agents run with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigStatus>,
    /// The ledger: agents that run, and those that are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<Flow>,
    /// Fill of the queues in memory, over agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueStatus>,
    /// Fill of the disks, all agents together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buffer: Option<BufferStatus>,
    /// State of each destination.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub destinations: Vec<DestinationStatus>,
    /// State of each source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["source".into()]))]
    pub sources: Vec<SourceStatus>,
    /// The agents in most trouble, worst first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub worst_nodes: Vec<WorstNode>,
    /// The settings that were solved, and from what.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 24))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["setting".into()]))]
    pub effective: Vec<Effective>,
    /// Totals of agents that are gone for good; part of `flow`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<Retired>,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which condition.
    #[serde(rename = "type")]
    #[schemars(schema_with = "words::schema::<ConditionType>")]
    pub type_: ConditionType,
    /// Whether it holds.
    #[schemars(schema_with = "words::schema::<ConditionStatus>")]
    pub status: ConditionStatus,
    /// Why, in one word.
    #[schemars(schema_with = "bounds::condition_reason")]
    pub reason: Reason,
    /// How much, where, since when, and what to do.
    #[schemars(length(max = 512))]
    pub message: String,
    /// When the status last changed.
    pub last_transition_time: Time,
    /// The generation of the specification it speaks of.
    #[schemars(range(min = 0))]
    pub observed_generation: i64,
}

/// The short form that `kubectl get` shows: text for people, `-` where there is nothing to tell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// How it is, in one word.
    #[schemars(schema_with = "words::schema::<Health>")]
    pub health: Health,
    /// Ready pods of those there should be: `4988/5000`.
    #[schemars(length(max = 32))]
    pub ready: String,
    /// Items dropped since counting began.
    #[schemars(length(max = 32))]
    pub dropped: String,
    /// Fill of memory, 99th percentile over agents: `83%`.
    #[schemars(length(max = 32))]
    pub queue: String,
    /// Bytes that wait on disk: `1.4Gi`.
    #[schemars(length(max = 32))]
    pub backlog: String,
    /// Age of the oldest item that waits: `5m21s`.
    #[schemars(length(max = 32))]
    pub oldest: String,
    /// Agents that report of those that run: `4990/5000`.
    #[schemars(length(max = 32))]
    pub reporting: String,
    /// Items delivered per second: `412k/s`.
    #[schemars(length(max = 32))]
    pub sent_rate: String,
    /// When the last report was taken in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_time: Option<Time>,
}

impl Default for Summary {
    fn default() -> Self {
        let none = || "-".to_owned();
        Self {
            health: Health::Unknown,
            ready: none(),
            dropped: none(),
            queue: none(),
            backlog: none(),
            oldest: none(),
            reporting: none(),
            sent_rate: none(),
            reported_time: None,
        }
    }
}

/// What runs the agents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadStatus {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Pods there should be.
    #[schemars(range(min = 0))]
    pub desired: i32,
    /// Pods that are ready.
    #[schemars(range(min = 0))]
    pub ready: i32,
    /// Pods of the latest template.
    #[schemars(range(min = 0))]
    pub updated: i32,
    /// Pods that should be ready and are not.
    #[schemars(range(min = 0))]
    pub unavailable: i32,
    /// Pods there are; read by the scale subresource.
    #[schemars(range(min = 0))]
    pub replicas: i32,
    /// Label selector of the pods; read by the scale subresource.
    #[schemars(length(max = 512))]
    pub selector: String,
}

/// Which configuration the agents run with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigStatus {
    /// First characters of the hash of the configuration they should run with.
    #[schemars(length(max = 64))]
    pub hash: String,
    /// Agents that run with it.
    #[schemars(range(min = 0))]
    pub nodes_current: i32,
    /// Agents that run with another.
    #[schemars(range(min = 0))]
    pub nodes_stale: i32,
}

/// Fill of the queues in memory, in percent of each agent's bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueStatus {
    /// Median over agents.
    #[schemars(range(min = 0, max = 100))]
    pub p50_percent: i32,
    /// 90th percentile.
    #[schemars(range(min = 0, max = 100))]
    pub p90_percent: i32,
    /// 99th percentile.
    #[schemars(range(min = 0, max = 100))]
    pub p99_percent: i32,
    /// The fullest.
    #[schemars(range(min = 0, max = 100))]
    pub max_percent: i32,
    /// Agents over their soft limit.
    #[schemars(range(min = 0))]
    pub nodes_over_soft: i32,
    /// Agents whose memory is full.
    #[schemars(range(min = 0))]
    pub nodes_full: i32,
}

/// Fill of the disks, all agents together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BufferStatus {
    /// Bytes that wait.
    pub backlog: Quantity,
    /// Bytes that could.
    pub capacity: Quantity,
    /// Age of the oldest item that waits, in memory or on disk.
    #[schemars(range(min = 0))]
    pub oldest_unsent_seconds: i64,
}

/// State of one destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DestinationStatus {
    /// Its name.
    #[schemars(schema_with = "bounds::dns_label")]
    pub name: String,
    /// `True`: every agent reaches it. `False`: an agent does not. `Unknown`: nobody has tried.
    #[schemars(schema_with = "words::schema::<ConditionStatus>")]
    pub state: ConditionStatus,
    /// What stands in the way for most agents; a reason of `DestinationsReachable`.
    #[schemars(schema_with = "bounds::condition_reason")]
    pub reason: Reason,
    /// Items taken on for it: delivered + dropped + held.
    #[schemars(range(min = 0))]
    pub routed: i64,
    /// Items it confirmed.
    #[schemars(range(min = 0))]
    pub sent: i64,
    /// Items given up.
    #[schemars(range(min = 0))]
    pub dropped: i64,
    /// Items that wait for it.
    #[schemars(range(min = 0))]
    pub held: i64,
    /// The last error an agent met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub last_error: Option<String>,
}

/// State of one source, over agents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// `otlp`, or a kernel signal such as `ebpf/oom_kills`.
    #[schemars(length(min = 1, max = 64))]
    pub source: String,
    /// Agents that collect all of it.
    #[schemars(range(min = 0))]
    pub on: i32,
    /// Agents that collect a part.
    #[schemars(range(min = 0))]
    pub degraded: i32,
    /// Agents that collect nothing.
    #[schemars(range(min = 0))]
    pub off: i32,
    /// Why, for most of those that do not collect all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub reason: Option<String>,
}

/// An agent in trouble.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorstNode {
    /// Name of its node.
    #[schemars(length(max = 253))]
    pub node: String,
    /// Name of its pod.
    #[schemars(length(max = 253))]
    pub pod: String,
    /// Items it dropped in the last five minutes.
    #[schemars(range(min = 0))]
    pub dropped_last5m: i64,
    /// Fill of its memory.
    #[schemars(range(min = 0, max = 100))]
    pub queue_percent: i32,
    /// Bytes that wait on its disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backlog: Option<Quantity>,
    /// Age of the oldest item that waits there.
    #[schemars(range(min = 0))]
    pub oldest_unsent_seconds: i64,
}

/// A setting that was solved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Effective {
    /// Its name.
    #[schemars(length(min = 1, max = 64))]
    pub setting: String,
    /// Its value.
    #[schemars(length(max = 64))]
    pub value: String,
    /// The input that decided it, and what would raise it.
    #[schemars(length(max = 256))]
    pub because: String,
}
