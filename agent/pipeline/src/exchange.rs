//! The values that pass between the engine and its shell: what is offered, what is answered, what is to be sent or stored.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use vocabulary::{Class, ClassCounts, DropReason, RefuseReason, Signal};

use crate::{Books, BufferMode, IdRanges, Quarantined, RecordId, Stored, Tenant, Ticket};

/// Where a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A peer that can be refused and will send again.
    Client,
    /// As `Client`, and what it sends counts for this tenant.
    ClientOf(Tenant),
    /// The kernel, which cannot: what finds no room is dropped as `QueueFull`.
    Kernel,
}

/// One export request, walked and counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The one signal of its items.
    pub signal: Signal,
    /// Who sent it.
    pub origin: Origin,
    /// Its items by class. A request without items is admitted and forgotten.
    pub counts: ClassCounts,
    /// The encoded request.
    pub body: Bytes,
}

/// The items of one class, cut from a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The class of all its items.
    pub class: Class,
    /// How many there are.
    pub items: u32,
    /// An encoded request that holds them alone.
    pub body: Bytes,
}

/// The answer to an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Under pressure: cut the request by class and call `offer_parts`. Nothing was counted yet.
    Split,
    /// Taken, in whole or in part.
    Admitted(Admission),
    /// Not taken at all; counted as refused.
    Refused(Refusal),
}

/// What was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// To be made durable before the answer; empty means that it need not wait for a disk. Each ends in `handle_stored` or `handle_store_failed`.
    pub persist: Vec<Persist>,
    /// Items that were received and dropped at intake; a client is told by partial success.
    pub shed: ClassCounts,
    /// Why the first of them was; meaningless while `shed` is zero.
    pub shed_reason: DropReason,
    /// Whose answer waits for `poll_answer`, besides. None if it does not.
    pub ticket: Option<Ticket>,
}

/// A record the spool must append and, unless it is buffered, sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persist {
    /// Its name.
    pub id: RecordId,
    /// The one signal of its items.
    pub signal: Signal,
    /// Its items by class.
    pub counts: ClassCounts,
    /// When it was offered, in milliseconds since the Unix epoch.
    pub received_unix_ms: u64,
    /// Whether it counts as stored once the operating system has it.
    pub is_buffered: bool,
    /// The encoded request.
    pub body: Bytes,
}

/// Why a record that was to be durable is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotStored {
    /// The spool's files take up all they may.
    Full,
    /// The disk failed, or is left alone because it did.
    Fault,
    /// The process ends, and does not wait for it.
    Ended,
}

impl NotStored {
    /// Why it is dropped if it cannot be refused.
    #[must_use]
    pub const fn drop_reason(self) -> DropReason {
        match self {
            Self::Full => DropReason::DiskFull,
            Self::Fault => DropReason::DiskError,
            Self::Ended => DropReason::ForcedShutdown,
        }
    }

    /// Why it is refused if it can be.
    #[must_use]
    pub const fn refuse_reason(self) -> RefuseReason {
        match self {
            Self::Full | Self::Fault => RefuseReason::HardLimit,
            Self::Ended => RefuseReason::ShuttingDown,
        }
    }
}

/// Why nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason, counted.
    pub reason: RefuseReason,
    /// 1 s to 5 s where trying again helps, else zero (`TooLarge`, `Unsupported`).
    pub retry_after: Duration,
}

/// A record, or a slice of one, on its way to one destination; ends in `handle_outcome` or `handle_slice_outcome`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Send {
    /// Its name.
    pub id: RecordId,
    /// The one signal of its items.
    pub signal: Signal,
    /// The record's items by class.
    pub counts: ClassCounts,
    /// The encoded record; none means that it is to be read from the spool.
    pub body: Option<Bytes>,
    /// The items to cut out of it and send alone, numbered from 0 in the order they stand; none means all.
    pub items: Option<Range<u32>>,
    /// 1 for the first try of this process.
    pub attempt: u32,
}

/// What became of a record that was handed out to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Confirmed.
    Delivered,
    /// Confirmed but for some items, which the protocol does not name; they are charged to the lowest class present.
    Partial {
        /// How many.
        rejected: u64,
    },
    /// The destination is busy, unreachable or set up wrongly, which is no fault of the record: it is backed off, the record
    /// keeps its place.
    Retry {
        /// The pause the destination asked for.
        after: Option<Duration>,
    },
    /// The destination failed at it and does not say whose fault that is: as `Retry`, until the record has failed so four times
    /// and others were taken in between; then as `Rejected`.
    Failed,
    /// The destination finds something in it bad, for ever. The record is searched for its bad items, which are set aside, or without
    /// a disk dropped as `Rejected`; the others are delivered.
    Rejected,
    /// The destination takes nothing of this size: it is sent in slices. An item that is too large by itself is set aside, or
    /// without a disk dropped as `TooLarge`.
    TooLarge,
    /// The spool could not read it back: dropped as `Corrupt`.
    Unreadable,
    /// It was not sent, for the agent could not read it back for a reason of its own that may pass: an I/O error, not damage.
    /// The record waits 1 s, then twice as long each time, and at the eighth such fault it is dropped as `DiskError`. It says
    /// nothing about the destination, which goes on being sent other records.
    LocalFault,
    /// It was not sent, for the agent's own code broke over it. The first time the record waits as after `LocalFault`; the second
    /// time what is undecided of it is set aside as `Undecodable`, or without a disk dropped as such.
    Panicked,
}

/// What the spool must persist, as one atom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Counts up by one per checkpoint, across restarts.
    pub generation: u64,
    /// The books at this instant. In a checkpoint, and only here, `held.queued` is what memory alone held and `held.on_disk`
    /// what the disk held, in flight or not: it is what recovery compares with the records it finds.
    pub books: Books,
    /// Per destination name, the ids it needs no more.
    pub settled: Vec<(String, [IdRanges; Class::COUNT])>,
    /// On disk, counted as received, unsettled for at least one destination.
    pub stored: [IdRanges; Class::COUNT],
    /// Ids below are taken.
    pub next_sequence: [u64; Class::COUNT],
    /// The most items a crash may take until the next checkpoint is durable: those held in memory alone or about to be stored without
    /// a sync, and those that intake may still accept so.
    pub volatile_ceiling: u64,
}

/// What a disk knew at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The newest whole checkpoint.
    pub checkpoint: Option<Checkpoint>,
    /// Whole, valid records, ascending per class.
    pub stored: Vec<Stored>,
    /// Records that damage took, as far as the disk still tells what they were.
    pub damaged: Vec<Stored>,
    /// Per class, a sequence above every one that the disk tells, in damaged records too. It counts beside the checkpoint's.
    pub next_sequence: [u64; Class::COUNT],
    /// What lies in quarantine; none if that is not known, and then the checkpoint is believed.
    pub quarantined: Option<Vec<Quarantined>>,
    /// What the wall clock says at the start, for the age of those records; with 0 they are as old as the process. The spool, which
    /// has no clock, leaves it to its owner.
    pub unix_ms: u64,
}

/// Where the engine is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Takes in and sends.
    Running,
    /// Clients are refused; kernel sources hand over their last slots.
    DrainingInputs,
    /// Nothing is taken in; requests already taken get their answer.
    CompletingAcks,
    /// What is held is sent.
    DrainingQueues,
    /// Nothing is sent; what memory alone holds goes to disk, if there is one.
    Flushing,
    /// Nothing is held in memory alone.
    Stopped,
}

/// Levels at this instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gauges {
    /// Where records are held.
    pub mode: BufferMode,
    /// Bodies in memory, in bytes, reserved ones included.
    pub memory_bytes: u64,
    /// Its bound.
    pub memory_bytes_max: u64,
    /// Items in memory.
    pub memory_items: u64,
    /// Its bound.
    pub memory_items_max: u64,
    /// What unsettled records take on disk, in bytes, headers and reserved ones included.
    pub disk_bytes: u64,
    /// Its bound.
    pub disk_bytes_max: u64,
    /// Records that at least one destination has yet to settle.
    pub held_records: u64,
    /// When the oldest of them was received.
    pub oldest_received_unix_ms: Option<u64>,
    /// How near intake is to its hard limit, in permille: the fill of memory or of the pool that all classes share, in bytes or in
    /// items, whichever is highest. It is what the soft limit is compared with.
    pub fill_permille: u64,
    /// Whether intake is above its soft limit.
    pub over_soft: bool,
    /// Whether clients were refused at the hard limit and none was taken since, by signal and class.
    pub closed: [[bool; Class::COUNT]; Signal::COUNT],
    /// Requests whose clients wait for destinations.
    pub waiting_requests: u64,
    /// Requests that were cut by class since the start.
    pub splits: u64,
    /// The tenants that hold something or were refused, the others together being one of them.
    pub tenants: Vec<TenantGauge>,
    /// Where the engine is in its life.
    pub phase: Phase,
    /// One per configured destination, and one per removed destination that still holds something.
    pub destinations: Vec<DestinationGauge>,
    /// What each configured one may hold on disk, in bytes.
    pub destination_disk_bytes_max: u64,
}

/// Whether a destination is sent records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// As many at once as its window allows.
    Closed,
    /// None: it failed, or asked for a pause, and the pause is not over.
    Open,
    /// One at a time, until it answers one.
    HalfOpen,
    /// None: it is configured no more, and keeps what it holds.
    Removed,
}

impl Circuit {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Closed, Self::Open, Self::HalfOpen, Self::Removed];

    /// Its name in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::Removed => "removed",
        }
    }
}

/// What one destination is about. Something is due and nothing lands for longer than a call can take: the shell has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Answers heard since the start, whatever they said.
    pub landed: u64,
    /// A record is on its way, or could be sent at once.
    pub is_due: bool,
}

/// How one destination does at this instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationGauge {
    /// Its configured name.
    pub name: String,
    /// Records sent and unanswered.
    pub in_flight: usize,
    /// Whether it is sent records.
    pub circuit: Circuit,
    /// Nothing is sent to it before this instant.
    pub backing_off_until: Option<Duration>,
    /// Failures since the last success, those of one volley counted once.
    pub consecutive_failures: u32,
    /// What records it has yet to settle take on disk, in bytes, headers and reserved ones included.
    pub disk_bytes: u64,
    /// The rate at which its backlog is sent beside live traffic; none without a backlog.
    pub replay_bytes_per_second: Option<u64>,
}

/// What one tenant holds at this instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantGauge {
    /// Its name; `(others)` for those who have no place in the table.
    pub name: String,
    /// What its records take, in bytes, headers included where there is a disk.
    pub held_bytes: u64,
    /// Its records.
    pub held_records: u64,
    /// Requests of it that were refused as `TenantQuota` since it has its place.
    pub refused: u64,
}

impl Origin {
    /// Whose the request is.
    pub(crate) const fn tenant(self) -> Tenant {
        match self {
            Self::ClientOf(tenant) => tenant,
            Self::Client | Self::Kernel => Tenant::NOBODY,
        }
    }
}

impl Admission {
    pub(crate) const fn nothing() -> Self {
        Self { persist: Vec::new(), shed: ClassCounts([0; Class::COUNT]), shed_reason: DropReason::SoftLimit, ticket: None }
    }

    /// Notes items that were dropped at intake; the first reason stands for all.
    pub(crate) fn note_shed(&mut self, counts: &ClassCounts, reason: DropReason) {
        if self.shed.total() == 0 {
            self.shed_reason = reason;
        }
        for (class, items) in counts.iter() {
            self.shed[class] += items;
        }
    }
}
