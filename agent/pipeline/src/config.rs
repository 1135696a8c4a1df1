//! The limits and policies one pipeline runs with; solved elsewhere, obeyed here.

use std::time::Duration;

use vocabulary::{Class, Signal};

/// Where records are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BufferMode {
    /// Memory alone.
    Memory,
    /// Memory, and disk for what memory has no room for.
    Spill,
    /// Every record on disk before its acknowledgement; memory keeps what fits.
    Mirror,
    /// Every record on disk before its acknowledgement, where it stays: nothing is sent.
    Archive,
}

/// When a request may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledge {
    /// Once its items are where the mode puts them: in memory, or synced to disk.
    AtRest,
    /// Once the operating system has what goes to disk, which is synced soon after; only with a disk that has every record.
    OsBuffered,
    /// Once its destinations have its items too: the `Required` ones, or all if there is none.
    Delivered,
}

/// Upper bounds of what waits in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Bodies, in bytes.
    pub bytes: u64,
    /// Items.
    pub items: u64,
}

/// How one class is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassPolicy {
    /// Share of service relative to the other classes, 1 to 100.
    pub weight: u32,
    /// Part of memory only this class may use, in percent; the sum over classes is at most 100.
    pub reserved_percent: u32,
}

/// How long and how often a destination is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Pause after the first failure.
    pub initial: Duration,
    /// Longest pause.
    pub max: Duration,
    /// Age at which a record that keeps failing is dropped as `RetryExhausted`; none means it is kept.
    pub deadline: Option<Duration>,
}

/// What happens when a destination's share of the disk is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFull {
    /// The destination gives up its oldest record of the lowest class, as `Evicted`.
    DropOldest,
    /// The destination does without the new record, as `DiskFull`.
    DropNewest,
    /// Clients are refused while a `Required` destination has no room; a `BestEffort` one drops its oldest.
    RefuseIntake,
}

/// Whether a destination may stop intake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Nothing is dropped for want of room: intake is refused until it has some.
    Required,
    /// It loses its oldest records rather than stop intake.
    BestEffort,
}

/// What happens to what a destination holds that is configured no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRemoved {
    /// It is kept and shown until the destination is configured again, or the policy drops it.
    Keep,
    /// It is dropped as `ConfigRemoved`; what is on its way still counts as its answer says.
    Drop,
}

/// One destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationConfig {
    /// Unique name: the key of its books across restarts.
    pub name: String,
    /// Signals it takes; empty means all.
    pub signals: Vec<Signal>,
    /// How many records of up to 256 KiB may be on their way at once, at least 1. A larger one counts as several; the last one to leave may
    /// exceed the window, so that the largest can go.
    pub in_flight: usize,
    /// How it is tried again.
    pub retry: RetryPolicy,
    /// Whether it may stop intake when its share of the disk is full.
    pub delivery: Delivery,
}

/// Everything the engine obeys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where records are held.
    pub mode: BufferMode,
    /// When requests may be answered.
    pub acknowledge: Acknowledge,
    /// Bounds of memory.
    pub memory: MemoryLimits,
    /// Budget of the disk for records that wait, in bytes; 0 in mode `Memory`. Each destination has an equal share of it.
    pub disk_bytes: u64,
    /// What happens when a share of it is full.
    pub on_full: OnFull,
    /// Age from which a record that waits is dropped as `Expired`; none means never.
    pub max_age: Option<Duration>,
    /// Fill of memory, in percent, from which Normal and Bulk are spilled or shed; 100 switches the soft limit off.
    pub soft_percent: u32,
    /// Policies, indexed by class.
    pub classes: [ClassPolicy; Class::COUNT],
    /// What happens to what is held for a destination that is not among them any more.
    pub on_removed: OnRemoved,
    /// Destinations, 1 to 16.
    pub destinations: Vec<DestinationConfig>,
    /// Most tenants that are told apart by name, up to 256; 0 means that nobody is refused for what he holds.
    pub tenants_max: usize,
    /// Another for each agent of a fleet: when the replays after an outage begin is drawn from it.
    pub replay_seed: u64,
}

impl Config {
    /// Most tenants one engine tells apart.
    pub const TENANTS_MAX: usize = 256;
    /// Most destinations one engine knows: those configured, and those removed that still hold something.
    pub const DESTINATIONS_MAX: usize = 16;

    /// Most records on disk. Each takes about 100 bytes of memory for its place in the index, so this many take at most half of
    /// what bodies may take, or 16 MiB where that is more.
    #[must_use]
    pub const fn disk_records_max(&self) -> u64 {
        let by_memory = self.memory.bytes / 200;
        if by_memory > 160_000 { by_memory } else { 160_000 }
    }
}
