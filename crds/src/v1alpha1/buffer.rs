//! Where items wait: the buffer of a `TelemetryPipeline`.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{bounds, rules};
use crate::agent::{Acknowledge, OnDestinationRemoved, OnFull};
use crate::quantity::Quantity;

/// Where items wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::disk_required(), validation = rules::disk_forbidden(), validation = rules::acknowledge_fits_mode())]
#[serde(rename_all = "camelCase")]
pub struct Buffer {
    /// `Memory`: memory alone. `Spill`: disk for what memory has no room for. `Mirror`: disk before every acknowledgement, and
    /// memory for what fits. `Archive`: disk alone, where it stays until `forebay-agent spool` or another mode delivers it.
    pub mode: BufferMode,
    /// When a client has its answer. `Memory`: once its items are in memory, or synced to disk where memory has no room (`Memory`, `Spill`;
    /// their default). `OsBuffered`: once the operating system has them, which a loss of power may undo, the end of the agent not; they are
    /// synced within a fifth of a second or so (`Mirror`, `Archive`). `Fsync`: once they are synced to disk (`Mirror`, `Archive`; their
    /// default). `Delivered`: once the destinations have them, those with `delivery: Required` or all if none has it; a client whose time is
    /// over is told to send again, which may deliver twice (`Memory`, `Spill`, `Mirror`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledge: Option<Acknowledge>,
    /// Age at which an item that waits is dropped as `Expired`, the oldest first; absent: it is kept until it is delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60, max = 2_592_000))]
    pub max_age_seconds: Option<i32>,
    /// The part in memory; absent: solved from the memory limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryBuffer>,
    /// `Keep` (if absent): what is held for a destination that is not listed any more is kept and shown until it is listed again
    /// under its name. `Drop`: it is dropped as `ConfigRemoved`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_destination_removed: Option<OnDestinationRemoved>,
    /// The part on disk; required by `Spill`, `Mirror` and `Archive`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskBuffer>,
}

/// How memory and disk work together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum BufferMode {
    /// Memory alone.
    Memory,
    /// Memory, and disk for what memory has no room for.
    Spill,
    /// Every item on disk before its acknowledgement; memory keeps what fits.
    Mirror,
    /// Every item on disk before its acknowledgement, where it stays: nothing is delivered.
    Archive,
}

/// The part of the buffer in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemoryBuffer {
    /// Bytes of items held in memory by one agent; less than its memory limit.
    pub size: Quantity,
}

/// The part of the buffer on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = rules::host_path_only_with_its_medium(),
    validation = rules::claim_only_with_its_medium(),
    validation = rules::claim_may_not_shrink()
)]
#[serde(rename_all = "camelCase")]
pub struct DiskBuffer {
    /// Bytes one agent may use, such as 2Gi; the size of the claim for `PersistentVolumeClaim`.
    pub size: Quantity,
    /// Where it lies. Immutable.
    #[x_kube(validation = rules::medium_immutable())]
    pub medium: Medium,
    /// What happens when a destination's share of it is full; absent: `RefuseIntake`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_full: Option<OnFull>,
    /// What stays on it after it was delivered, for `forebay-agent spool`; absent: nothing. It goes, oldest first, when what waits needs
    /// the room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Where on the node, for `HostPath`; absent: `/var/lib/forebay`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_path: Option<HostPath>,
    /// Which volume, for `PersistentVolumeClaim`; absent: the cluster's default storage class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
}

/// What stays on disk after it was delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::exactly_one_retention())]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// The newest segments, this many; `status.effective` shows their size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub segments: Option<i32>,
    /// Each segment for this long after all of it was delivered, or after the agent started if that is later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60, max = 2_592_000))]
    pub seconds: Option<i32>,
}

/// Where the disk part lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Medium {
    /// A directory of the node; outlives the pod. Only with `DaemonSet`.
    HostPath,
    /// A volume per replica; outlives pod and node. Only with `StatefulSet`.
    PersistentVolumeClaim,
    /// A directory of the pod; outlives a restart of the agent, not the pod.
    EmptyDir,
}

/// Where on the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostPath {
    /// An absolute directory within one that the class allows; the pipeline uses a directory of its own beneath it. Immutable.
    #[schemars(length(min = 2, max = 256))]
    #[x_kube(validation = rules::path_absolute(), validation = rules::host_path_immutable())]
    pub path: String,
}

/// Which volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = rules::storage_class_immutable())]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Storage class of the claims; absent: the cluster's default. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::dns_name")]
    pub storage_class_name: Option<String>,
}
