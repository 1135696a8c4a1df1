//! The fleet protocol: one bidirectional gRPC stream per agent to the operator's leader. Reports of absolute counters go up,
//! directives come down. Messages are protobuf, so an old peer skips what a new one added; codes are those of `vocabulary`.

/// Path of the one method, for client and server.
pub const METHOD: &str = "/forebay.fleet.v1.Fleet/Report";
/// Name of the service, for the server's router.
pub const SERVICE: &str = "forebay.fleet.v1.Fleet";
/// Audience of the projected token.
pub const AUDIENCE: &str = "forebay-fleet";

/// Agent to operator. Counters are absolute since the buffer's first start (or the process's, without a disk).
#[derive(Clone, PartialEq, prost::Message)]
pub struct AgentReport {
    /// UID of the pipeline.
    #[prost(string, tag = "1")]
    pub pipeline_uid: String,
    /// Namespace of the pipeline and of the pod.
    #[prost(string, tag = "2")]
    pub namespace: String,
    /// Name of the pod; compared with the token's.
    #[prost(string, tag = "3")]
    pub pod: String,
    /// Name of the node.
    #[prost(string, tag = "4")]
    pub node: String,
    /// Version of the agent.
    #[prost(string, tag = "5")]
    pub agent_version: String,
    /// Hash of the configuration it runs with.
    #[prost(string, tag = "6")]
    pub config_hash: String,
    /// Identity of the counters: the buffer's UUID with a disk, else one per process. New identity: counters began at zero.
    #[prost(string, tag = "7")]
    pub ledger_id: String,
    /// Counts up within one ledger identity and process.
    #[prost(uint64, tag = "8")]
    pub sequence: u64,
    /// Input side of the ledger; cells with nothing to tell are left out.
    #[prost(message, repeated, tag = "9")]
    pub inputs: Vec<InputTotals>,
    /// Destination side of the ledger; cells with nothing to tell are left out.
    #[prost(message, repeated, tag = "10")]
    pub destinations: Vec<DestinationTotals>,
    /// Kernel records.
    #[prost(message, optional, tag = "11")]
    pub kernel: Option<KernelTotals>,
    /// Fill of the buffers.
    #[prost(message, optional, tag = "12")]
    pub buffer: Option<BufferGauges>,
    /// State of each source.
    #[prost(message, repeated, tag = "13")]
    pub sources: Vec<SourceState>,
    /// State of each destination.
    #[prost(message, repeated, tag = "14")]
    pub destination_states: Vec<DestinationState>,
    /// Set when an identity of the ledger does not hold: both sides of the sum, at most 256 bytes.
    #[prost(string, optional, tag = "15")]
    pub ledger_broken: Option<String>,
    /// What the configuration on disk is refused for, while the last good one runs; at most 256 bytes.
    #[prost(string, optional, tag = "16")]
    pub config_error: Option<String>,
    /// Last report before the process ends: what it holds then stays on its volume, or is in `dropped`.
    #[prost(bool, tag = "17")]
    pub last: bool,
    /// UID of the pod; compared with the token's.
    #[prost(string, tag = "18")]
    pub pod_uid: String,
    /// Bounds, in items, of what `CrashVolatile` may really be: lower.
    #[prost(uint64, tag = "19")]
    pub crash_volatile_lower: u64,
    /// Bounds, in items, of what `CrashVolatile` may really be: upper.
    #[prost(uint64, tag = "20")]
    pub crash_volatile_upper: u64,
}

/// A number of items and why.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Reasoned {
    /// Code of the reason.
    #[prost(uint32, tag = "1")]
    pub reason: u32,
    /// Items.
    #[prost(uint64, tag = "2")]
    pub items: u64,
}

/// One cell of the ledger's input side, in items.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InputTotals {
    /// Code of the signal.
    #[prost(uint32, tag = "1")]
    pub signal: u32,
    /// Code of the class.
    #[prost(uint32, tag = "2")]
    pub class: u32,
    /// Received and refused together.
    #[prost(uint64, tag = "3")]
    pub offered: u64,
    /// May have been acknowledged.
    #[prost(uint64, tag = "4")]
    pub received: u64,
    /// Removed on purpose.
    #[prost(uint64, tag = "5")]
    pub filtered: u64,
    /// Not accepted, by `RefuseReason`.
    #[prost(message, repeated, tag = "6")]
    pub refused: Vec<Reasoned>,
    /// Received, and dropped before any destination, by `DropReason`.
    #[prost(message, repeated, tag = "7")]
    pub dropped: Vec<Reasoned>,
}

/// One cell of the ledger's destination side, in items.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DestinationTotals {
    /// Name of the destination.
    #[prost(string, tag = "1")]
    pub destination: String,
    /// Code of the signal.
    #[prost(uint32, tag = "2")]
    pub signal: u32,
    /// Code of the class.
    #[prost(uint32, tag = "3")]
    pub class: u32,
    /// Taken on.
    #[prost(uint64, tag = "4")]
    pub routed: u64,
    /// Confirmed.
    #[prost(uint64, tag = "5")]
    pub delivered: u64,
    /// Given up, by `DropReason`.
    #[prost(message, repeated, tag = "6")]
    pub dropped: Vec<Reasoned>,
    /// Waiting in memory.
    #[prost(uint64, tag = "7")]
    pub queued: u64,
    /// Waiting on disk alone.
    #[prost(uint64, tag = "8")]
    pub on_disk: u64,
    /// Sent, no answer yet.
    #[prost(uint64, tag = "9")]
    pub in_flight: u64,
    /// Failed, and waiting to be sent again.
    #[prost(uint64, tag = "10")]
    pub waiting_retry: u64,
    /// Set aside.
    #[prost(uint64, tag = "11")]
    pub quarantined: u64,
}

/// Kernel records.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KernelTotals {
    /// Seen by a probe.
    #[prost(uint64, tag = "1")]
    pub attempted: u64,
    /// Read by the agent.
    #[prost(uint64, tag = "2")]
    pub produced: u64,
    /// Lost in between, by `LossReason`.
    #[prost(message, repeated, tag = "3")]
    pub lost: Vec<Reasoned>,
}

/// Fill of the buffers.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct BufferGauges {
    /// Bodies in memory, in bytes.
    #[prost(uint64, tag = "1")]
    pub memory_bytes: u64,
    /// Bound of it.
    #[prost(uint64, tag = "2")]
    pub memory_bytes_max: u64,
    /// Items in memory.
    #[prost(uint64, tag = "3")]
    pub memory_items: u64,
    /// Bound of it.
    #[prost(uint64, tag = "4")]
    pub memory_items_max: u64,
    /// Unsettled bytes on disk.
    #[prost(uint64, tag = "5")]
    pub disk_bytes: u64,
    /// Bound of it; 0 without a disk.
    #[prost(uint64, tag = "6")]
    pub disk_bytes_max: u64,
    /// Age of the oldest unsettled record, in milliseconds.
    #[prost(uint64, tag = "7")]
    pub oldest_milliseconds: u64,
    /// The disk failed and is not used.
    #[prost(bool, tag = "8")]
    pub disk_failed: bool,
    /// How near intake is to its hard limit, in permille: what the soft limit is compared with.
    #[prost(uint64, tag = "9")]
    pub fill_permille: u64,
    /// How full the fullest destination's share of the disk is, in permille.
    #[prost(uint64, tag = "10")]
    pub disk_share_permille: u64,
    /// What is held stays, for the mode is `Archive`.
    #[prost(bool, tag = "11")]
    pub is_archive: bool,
}

/// State of one source.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SourceState {
    /// `otlp`, or `ebpf/<signal>` such as `ebpf/oom_kills`.
    #[prost(string, tag = "1")]
    pub source: String,
    /// `On`, `Degraded` or `Off`.
    #[prost(enumeration = "SourceCondition", tag = "2")]
    pub condition: i32,
    /// Why it is not `On`, at most 200 bytes.
    #[prost(string, tag = "3")]
    pub reason: String,
}

/// Whether a source collects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum SourceCondition {
    /// Everything is collected.
    On = 0,
    /// A part is missing.
    Degraded = 1,
    /// Nothing is collected.
    Off = 2,
}

/// State of one destination.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DestinationState {
    /// Its name.
    #[prost(string, tag = "1")]
    pub destination: String,
    /// Outcome of the last attempt.
    #[prost(enumeration = "DestinationCondition", tag = "2")]
    pub condition: i32,
    /// Last error, at most 200 bytes.
    #[prost(string, tag = "3")]
    pub last_error: String,
    /// Failures since the last success.
    #[prost(uint64, tag = "4")]
    pub consecutive_failures: u64,
    /// Last success, in milliseconds since the Unix epoch; 0 if never.
    #[prost(uint64, tag = "5")]
    pub last_success_unix_ms: u64,
}

/// What stands between an agent and its destination; the reasons of the condition `DestinationsReachable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum DestinationCondition {
    /// The last attempt succeeded, or none was needed yet.
    Reachable = 0,
    /// 401, 403, `UNAUTHENTICATED`, `PERMISSION_DENIED`.
    AuthenticationFailed = 1,
    /// The name has no address.
    NameResolutionFailed = 2,
    /// Refused, reset or unreachable.
    ConnectionFailed = 3,
    /// The handshake failed.
    TlsFailed = 4,
    /// The destination asks to slow down.
    RateLimited = 5,
    /// It takes requests, and rejects items of them.
    PartialRejects = 6,
    /// No answer in time.
    TimedOut = 7,
}

/// Operator to agent.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Directive {
    /// Sequence of the last report taken in; the agent's proof that it is heard.
    #[prost(uint64, tag = "1")]
    pub acknowledged: u64,
    /// Hash of the configuration the agent should run with.
    #[prost(string, tag = "2")]
    pub config_hash: String,
}
