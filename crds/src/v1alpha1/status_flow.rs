//! The ledger of a pipeline as its status shows it: every item of every signal and class, in the words of the agents' books.
//!
//! ```text
//! offered   = received + refused                      per cell
//! received  = filtered + dropped at intake + routed   per cell; with one destination, routed = delivered + dropped + held
//! routed    = sent + dropped + held                   per destination
//! attempted = produced + lost                         for kernel records
//! ```
//!
//! With one destination and no filter, each cell satisfies `received = filtered + delivered + dropped + held` exactly, because its
//! `dropped` has both what intake shed and what was given up later.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vocabulary::{Class, DropReason, LossReason, RefuseReason, Signal};

use super::bounds;
use crate::words;

/// Where every item has gone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// When counting began; absent: no report yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counting_since: Option<Time>,
    /// Items dropped since then, all signals and classes.
    #[schemars(range(min = 0))]
    pub dropped_total: i64,
    /// Items dropped in the last five minutes.
    #[schemars(range(min = 0))]
    pub dropped_last5m: i64,
    /// The cells of the ledger; one without numbers is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["signal".into(), "class".into()]))]
    pub signals: Vec<FlowCell>,
    /// Kernel records, before they become items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelFlow>,
    /// What the `CrashVolatile` of all cells together may really be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash_volatile: Option<Bounds>,
}

/// One signal and class, in items, all destinations together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FlowCell {
    /// The signal.
    #[serde(with = "words")]
    #[schemars(schema_with = "words::schema::<Signal>")]
    pub signal: Signal,
    /// The class.
    #[serde(with = "words")]
    #[schemars(schema_with = "words::schema::<Class>")]
    pub class: Class,
    /// Received and refused together.
    #[schemars(range(min = 0))]
    pub offered: i64,
    /// Accepted, or shed with the client told not to resend.
    #[schemars(range(min = 0))]
    pub received: i64,
    /// Not accepted; the client tries again where the answer says so.
    #[schemars(range(min = 0))]
    pub refused: i64,
    /// Removed on purpose by a rule.
    #[schemars(range(min = 0))]
    pub filtered: i64,
    /// Taken on for destinations; counted once for each.
    #[schemars(range(min = 0))]
    pub routed: i64,
    /// Confirmed by destinations.
    #[schemars(range(min = 0))]
    pub delivered: i64,
    /// Given up, at intake or later.
    #[schemars(range(min = 0))]
    pub dropped: i64,
    /// Yet to settle; the sum of `heldIn`.
    #[schemars(range(min = 0))]
    pub held: i64,
    /// Where the held ones are; absent: none is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_in: Option<HeldItems>,
    /// Why they were dropped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["reason".into()]))]
    pub dropped_by_reason: Vec<DropCount>,
    /// Why they were refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["reason".into()]))]
    pub refused_by_reason: Vec<RefuseCount>,
}

impl FlowCell {
    /// A cell without numbers.
    #[must_use]
    pub fn new(signal: Signal, class: Class) -> Self {
        Self {
            signal,
            class,
            offered: 0,
            received: 0,
            refused: 0,
            filtered: 0,
            routed: 0,
            delivered: 0,
            dropped: 0,
            held: 0,
            held_in: None,
            dropped_by_reason: Vec::new(),
            refused_by_reason: Vec::new(),
        }
    }
}

/// Where held items are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeldItems {
    /// Waiting in memory.
    #[schemars(range(min = 0))]
    pub queued: i64,
    /// Waiting on disk alone.
    #[schemars(range(min = 0))]
    pub on_disk: i64,
    /// Sent, no answer yet.
    #[schemars(range(min = 0))]
    pub in_flight: i64,
    /// Failed, and waiting to be sent again.
    #[schemars(range(min = 0))]
    pub waiting_retry: i64,
    /// Set aside because the destination finds them bad.
    #[schemars(range(min = 0))]
    pub quarantined: i64,
}

/// Items dropped for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DropCount {
    /// Why.
    #[serde(with = "words")]
    #[schemars(schema_with = "words::schema::<DropReason>")]
    pub reason: DropReason,
    /// Since counting began.
    #[schemars(range(min = 0))]
    pub total: i64,
    /// In the last five minutes.
    #[schemars(range(min = 0))]
    pub last5m: i64,
}

/// Items refused for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefuseCount {
    /// Why.
    #[serde(with = "words")]
    #[schemars(schema_with = "words::schema::<RefuseReason>")]
    pub reason: RefuseReason,
    /// Since counting began.
    #[schemars(range(min = 0))]
    pub total: i64,
}

/// Kernel records, from the probe's first touch to the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KernelFlow {
    /// Seen by a probe.
    #[schemars(range(min = 0))]
    pub attempted: i64,
    /// Read by an agent.
    #[schemars(range(min = 0))]
    pub produced: i64,
    /// Lost in between.
    #[schemars(range(min = 0))]
    pub lost: i64,
    /// Why they were lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["reason".into()]))]
    pub lost_by_reason: Vec<LossCount>,
}

/// Kernel records lost for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LossCount {
    /// Why.
    #[serde(with = "words")]
    #[schemars(schema_with = "words::schema::<LossReason>")]
    pub reason: LossReason,
    /// Since counting began.
    #[schemars(range(min = 0))]
    pub total: i64,
}

/// A number that is known to lie between two others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bounds {
    /// At least so many.
    #[schemars(range(min = 0))]
    pub lower: i64,
    /// At most so many.
    #[schemars(range(min = 0))]
    pub upper: i64,
}

/// Totals of agents that are gone for good, kept so that a sum never steps back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retired {
    /// How many agents.
    #[schemars(range(min = 0))]
    pub agents: i64,
    /// Their cells; what they held when they left is `VolumeLost` once their volume is gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["signal".into(), "class".into()]))]
    pub signals: Vec<FlowCell>,
    /// Their kernel records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelFlow>,
    /// Their bounds of `CrashVolatile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash_volatile: Option<Bounds>,
    /// Their totals per destination.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub destinations: Vec<RetiredDestination>,
}

/// What agents that are gone did for one destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetiredDestination {
    /// Its name.
    #[schemars(schema_with = "bounds::dns_label")]
    pub name: String,
    /// Items taken on for it.
    #[schemars(range(min = 0))]
    pub routed: i64,
    /// Items it confirmed.
    #[schemars(range(min = 0))]
    pub sent: i64,
    /// Items given up.
    #[schemars(range(min = 0))]
    pub dropped: i64,
}
