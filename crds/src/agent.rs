//! The document an agent is configured with: what the operator writes into the ConfigMap of a pipeline, and what a person
//! writes for `forebay-agent run --config FILE`. Every field but the destinations has a default, so the smallest document is short.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vocabulary::{Class, Signal};

use crate::words;

/// The whole document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentConfig {
    /// Which pipeline this agent belongs to; absent outside Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<PipelineIdentity>,
    /// What it takes in.
    #[serde(default)]
    pub sources: Sources,
    /// Where it holds what it took in.
    pub buffer: Buffer,
    /// Policies of the classes that differ from the defaults.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<ClassConfig>,
    /// Fill of memory, in percent, from which Normal and Bulk are spilled or shed; 100 switches the soft limit off. Default 90.
    #[serde(default = "defaults::soft_percent")]
    pub soft_percent: u32,
    /// How tenants are told apart, so that none takes the room of all; absent: they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenants: Option<Tenants>,
    /// Where it delivers, 1 to 16; none prints to the terminal (only outside Kubernetes).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub destinations: Vec<Destination>,
    /// Longest time a graceful stop may take, in seconds. Default 25.
    #[serde(default = "defaults::drain_seconds")]
    pub drain_seconds: u32,
    /// Worker threads of the runtime; 0 means one per CPU.
    #[serde(default)]
    pub workers: u32,
    /// Where `/metrics`, `/healthz`, `/readyz` and `/ledger` are served. Default `127.0.0.1:9464`.
    #[serde(default = "defaults::admin_listen")]
    pub admin_listen: String,
    /// The operator's fleet service; absent outside Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<Fleet>,
}

/// How tenants are told apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tenants {
    /// The resource attribute that names a request's tenant. Default `k8s.namespace.name`.
    #[serde(default = "defaults::tenant_attribute")]
    pub resource_attribute: String,
    /// Most tenants with a share of their own, 1 to 256; the others have one together. Default 64.
    #[serde(default = "defaults::tenants_max")]
    pub max: u32,
}

impl Default for Tenants {
    fn default() -> Self {
        Self { resource_attribute: defaults::tenant_attribute(), max: defaults::tenants_max() }
    }
}

/// Name and UID of the `TelemetryPipeline`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PipelineIdentity {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID: a buffer directory belongs to it for ever.
    pub uid: String,
}

/// What the agent takes in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sources {
    /// OTLP over gRPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otlp: Option<OtlpSource>,
    /// Kernel events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ebpf: Option<EbpfSource>,
}

/// OTLP over gRPC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OtlpSource {
    /// Address and port. Default `127.0.0.1:4317`.
    #[serde(default = "defaults::grpc_listen")]
    pub grpc_listen: String,
    /// Largest request after decompression, in bytes. Default 16 MiB.
    #[serde(default = "defaults::request_bytes_max")]
    pub request_bytes_max: u64,
}

/// Kernel events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EbpfSource {
    /// The kernel programs. Default `/usr/lib/forebay/agent-ebpf`.
    #[serde(default = "defaults::ebpf_object")]
    pub object: String,
    /// Where the host's cgroup tree is mounted. Default `/sys/fs/cgroup`.
    #[serde(default = "defaults::cgroup_root")]
    pub cgroup_root: String,
    /// Length of a time slot for counters, in seconds. Default 10.
    #[serde(default = "defaults::slot_seconds")]
    pub slot_seconds: u32,
    /// Name of the node whose pods are looked up for their names; absent: no lookup, pod UID and container id only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
}

/// Where records are held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Buffer {
    /// How memory and disk work together.
    pub mode: BufferMode,
    /// When a client has its answer; absent: what the mode has by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledge: Option<Acknowledge>,
    /// Bodies held in memory, in bytes.
    pub memory_bytes: u64,
    /// Items held in memory.
    pub memory_items: u64,
    /// Age at which a record that waits is dropped as `Expired`, in seconds; absent: it is kept until it is delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_seconds: Option<u32>,
    /// What happens to what is held for a destination that is not listed any more. Default `Keep`.
    #[serde(default, skip_serializing_if = "OnDestinationRemoved::is_default")]
    pub on_destination_removed: OnDestinationRemoved,
    /// The disk; absent in mode `Memory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskBuffer>,
}

/// How memory and disk work together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BufferMode {
    /// Memory alone.
    Memory,
    /// Memory, and disk for what memory has no room for.
    Spill,
    /// Every record on disk before its acknowledgement; memory keeps what fits.
    Mirror,
    /// Every record on disk before its acknowledgement, where it stays: nothing is delivered.
    Archive,
}

/// When a client has its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Acknowledge {
    /// Once its items are in memory; what goes to disk is synced first.
    Memory,
    /// Once the operating system has its items, which are synced to disk soon after.
    OsBuffered,
    /// Once its items are synced to disk.
    Fsync,
    /// Once its destinations have its items: those that are `Required`, or all if none is. What the mode has on disk is synced first.
    Delivered,
}

impl BufferMode {
    /// What clients are answered after unless the document says so.
    #[must_use]
    pub const fn acknowledge_default(self) -> Acknowledge {
        match self {
            Self::Memory | Self::Spill => Acknowledge::Memory,
            Self::Mirror | Self::Archive => Acknowledge::Fsync,
        }
    }

    /// What clients may be answered after.
    #[must_use]
    pub const fn acknowledges(self) -> &'static [Acknowledge] {
        match self {
            Self::Memory | Self::Spill => &[Acknowledge::Memory, Acknowledge::Delivered],
            Self::Mirror => &[Acknowledge::OsBuffered, Acknowledge::Fsync, Acknowledge::Delivered],
            Self::Archive => &[Acknowledge::OsBuffered, Acknowledge::Fsync],
        }
    }
}

/// What a pod is given beyond `drainSeconds` before it is ended by force: for the last checkpoint, the receipt and the last report.
pub const GRACE_AFTER_DRAIN_SECONDS: u32 = 5;

/// What happens to what is held for a destination that is not listed any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnDestinationRemoved {
    /// It is kept and shown until the destination is listed again under its name, or this policy drops it.
    #[default]
    Keep,
    /// It is dropped as `ConfigRemoved`.
    Drop,
}

impl OnDestinationRemoved {
    /// A document does not say what is so without it.
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The disk part of the buffer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DiskBuffer {
    /// Directory of this agent's buffer; made if missing, locked while in use.
    pub path: String,
    /// What all files of the directory together stay within, in bytes: below the size of its volume.
    pub bytes: u64,
    /// Size of a segment, in bytes; a 16th of `bytes` if that is less.
    pub segment_bytes: u64,
    /// What happens when a destination's share of it is full. Default `RefuseIntake`.
    #[serde(default)]
    pub on_full: OnFull,
    /// What stays after it was delivered; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
}

impl DiskBuffer {
    /// How its bytes are shared out.
    #[must_use]
    pub const fn shares(&self) -> DiskShares {
        DiskShares::of(self.bytes, self.segment_bytes)
    }
}

/// How the bytes of a disk buffer are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskShares {
    /// Most that the quarantine takes up: enough for a person to see what it holds, little beside the rest.
    pub quarantine: u64,
    /// Most that the files of the log take up.
    pub log: u64,
    /// Most that records take up which wait. It is less than `log` by what is held back for checkpoints, and by eight segments: one per
    /// class that grows, the one that copies go to, two of damaged ones that are kept as evidence, and one that is settled in part.
    pub records: u64,
}

impl DiskShares {
    const QUARANTINE_PART: u64 = 16;
    const QUARANTINE_BYTES_MAX: u64 = 64 << 20;
    /// What the log holds back for checkpoints.
    const RESERVE_PART: u64 = 64;
    const RESERVE_BYTES_MAX: u64 = 16 << 20;
    /// The log's segments are at most this part of it.
    const SEGMENT_PART_MAX: u64 = 16;
    const SEGMENTS: u64 = 8;

    /// Of so many bytes in segments of this size.
    #[must_use]
    pub const fn of(bytes: u64, segment_bytes: u64) -> Self {
        let quarantine = least(bytes / Self::QUARANTINE_PART, Self::QUARANTINE_BYTES_MAX);
        let log = bytes - quarantine;
        let segment = least(segment_bytes, log / Self::SEGMENT_PART_MAX);
        let records = log - least(log / Self::RESERVE_PART, Self::RESERVE_BYTES_MAX) - Self::SEGMENTS * segment;
        Self { quarantine, log, records }
    }
}

const fn least(one: u64, other: u64) -> u64 {
    if one < other { one } else { other }
}

/// What stays on disk after it was delivered: exactly one of the two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retention {
    /// The newest segments, this many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segments: Option<u32>,
    /// Each segment for this long after it was settled, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u32>,
}

/// What happens when a destination's share of the disk, which all destinations divide equally, is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnFull {
    /// The destination drops what it has waited with longest, from the lowest class up, as `Evicted`.
    DropOldest,
    /// The destination does without what comes, as `DiskFull`.
    DropNewest,
    /// Clients are refused while a `Required` destination has no room; a `BestEffort` one drops its oldest, as `Evicted`.
    #[default]
    RefuseIntake,
}

/// Whether a destination may stop intake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Delivery {
    /// Nothing for it is dropped for want of disk: intake is refused until it has room.
    #[default]
    Required,
    /// It drops its oldest items rather than stop intake.
    BestEffort,
}

/// Policy of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClassConfig {
    /// Which class.
    #[serde(with = "words")]
    pub class: Class,
    /// Share of service relative to the other classes, 1 to 100.
    pub weight: u32,
    /// Part of memory only this class may use, in percent.
    pub reserved_percent: u32,
}

impl ClassConfig {
    /// The policy of a class that no document mentions: service in the ratio 8 : 4 : 2 : 1, and a tenth of memory each for what
    /// must still find room when ordinary data fills the rest.
    #[must_use]
    pub const fn default_of(class: Class) -> Self {
        let (weight, reserved_percent) = match class {
            Class::Critical => (8, 10),
            Class::High => (4, 10),
            Class::Normal => (2, 0),
            Class::Bulk => (1, 0),
        };
        Self { class, weight, reserved_percent }
    }
}

/// One destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Destination {
    /// Unique name, a DNS label.
    pub name: String,
    /// Signals it takes; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "words::list")]
    pub signals: Vec<Signal>,
    /// OTLP/gRPC endpoint, `http://host:port` or `https://host:port`.
    pub endpoint: String,
    /// Requests of up to 256 KiB that may be on their way at once; a larger one counts as several.
    pub in_flight: u32,
    /// Whether it may stop intake when its share of the disk is full. Default `Required`.
    #[serde(default)]
    pub delivery: Delivery,
    /// How it is tried again.
    #[serde(default)]
    pub retry: Retry,
}

/// How a destination is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Retry {
    /// Pause after the first failure, in milliseconds. Default 500.
    pub initial_milliseconds: u32,
    /// Longest pause, in milliseconds. Default 10,000.
    pub max_milliseconds: u32,
    /// Age at which a record that keeps failing is dropped, in seconds; absent: it is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u32>,
}

impl Default for Retry {
    fn default() -> Self {
        Self { initial_milliseconds: 500, max_milliseconds: 10_000, deadline_seconds: None }
    }
}

/// The operator's fleet service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fleet {
    /// `https://host:port`.
    pub endpoint: String,
    /// Name the server's certificate must carry.
    pub server_name: String,
    /// PEM file of the CA that signs it.
    pub ca_file: String,
    /// Projected service account token.
    pub token_file: String,
    /// Time between two reports, in seconds. Default 5.
    #[serde(default = "defaults::report_seconds")]
    pub report_seconds: u32,
}

mod defaults {
    //! Default values of the document, in one place.
    pub(super) fn soft_percent() -> u32 {
        90
    }
    pub(super) fn tenant_attribute() -> String {
        "k8s.namespace.name".into()
    }
    pub(super) fn tenants_max() -> u32 {
        64
    }
    pub(super) fn drain_seconds() -> u32 {
        25
    }
    pub(super) fn admin_listen() -> String {
        "127.0.0.1:9464".into()
    }
    pub(super) fn grpc_listen() -> String {
        "127.0.0.1:4317".into()
    }
    pub(super) fn request_bytes_max() -> u64 {
        16 << 20
    }
    pub(super) fn ebpf_object() -> String {
        "/usr/lib/forebay/agent-ebpf".into()
    }
    pub(super) fn cgroup_root() -> String {
        "/sys/fs/cgroup".into()
    }
    pub(super) fn slot_seconds() -> u32 {
        10
    }
    pub(super) fn report_seconds() -> u32 {
        5
    }
}

impl AgentConfig {
    /// Reads the document; the error names line, column and field.
    ///
    /// # Errors
    /// When the text is no YAML, or has a field that is unknown, missing or of the wrong type.
    pub fn from_yaml(text: &str) -> Result<Self, serde_saphyr::Error> {
        serde_saphyr::from_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_document_is_short() {
        let config = AgentConfig::from_yaml("buffer: {mode: Memory, memoryBytes: 1048576, memoryItems: 1000}").expect("it is complete");
        assert_eq!((config.soft_percent, config.drain_seconds, config.destinations.len()), (90, 25, 0));
    }

    #[test]
    fn an_unknown_field_is_refused_with_its_place() {
        let error = AgentConfig::from_yaml("buffer: {mode: Memory, memoryBytes: 1, memoryItems: 1}\nqueue: 7\n")
            .expect_err("no such field")
            .to_string();
        assert!(error.contains("queue") && error.contains('2'), "{error}");
    }
}
