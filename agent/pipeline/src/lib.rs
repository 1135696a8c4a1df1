//! The pure heart of an agent: it decides what is accepted, in which order it leaves, what a retry waits for, and it keeps
//! the books. It never reads a clock, a file or a socket: time arrives as an argument and what is to be done leaves as a value.
//!
//! ```text
//!   offer / offer_parts ──▶ intake ──▶ lanes (one per class) ──▶ dispatch (one per destination) ──▶ poll_send
//!                             │ Persist: to disk first                    ▲                            │
//!   handle_stored ────────────┘                                           └────── handle_outcome ◀─────┘
//!                                      books: every record's items move through exactly one cell at a time
//! ```
//!
//! # The shell's duties
//!
//! `offer` a request (cut it by class and `offer_parts` if told `Split`); make what is in `Admission::persist` durable and
//! report `handle_stored` or `handle_store_failed` (and why), from the thread that synced; for each destination call `poll_send` until
//! it has nothing, after every event and at `poll_timeout`, and report each with `handle_outcome`, or with `handle_slice_outcome`
//! where a part was asked for; with a disk, copy out what `poll_set_aside` gives and report `handle_set_aside`; while
//! `is_checkpoint_due`, persist `checkpoint()` five times a second and report `handle_checkpointed`. Told to end: `handle_shutdown`,
//! then `poll_phase` and `poll_timeout` until `Stopped`, with `poll_flush` while `Flushing`, then a last checkpoint. `reconfigure` at
//! any time while it runs; poll for the destinations it returns from then on, and report what was handed out before as ever.
//!
//! # Where a record goes
//!
//! | mode | has room | above the soft limit | no room in memory | no room on disk |
//! |---|---|---|---|---|
//! | `Memory` | memory | Normal, Bulk: shed | refused | |
//! | `Spill` | memory | Normal, Bulk: disk | disk | as `Memory` |
//! | `Mirror` | disk and memory | Normal, Bulk: disk alone | disk alone | refused, for an answer would promise a disk |
//! | `Archive` | disk alone | | | refused |
//!
//! - In mode `Archive` nothing is sent. What it holds is a backlog, so mixed requests are cut by class; it goes by age, or as a full share
//!   of the disk says, until another mode sends it.
//! - Memory is bounded by bytes and by items; each has a share reserved per class and a pool for all. Fill is that of the whole
//!   or of the pool, whichever is fuller. The soft limit is left five points below where it was reached. A class within its
//!   reserved share is never shed. Normal and Bulk may fill the disk up to the soft percentage, the rest is for what matters.
//! - Each destination has an equal share of the disk, in bytes and in records, counted in what it has yet to settle; what several
//!   need counts for each, so the shares together are within the disk. When a share is full, policy decides for that destination
//!   alone: clients are refused (`Required`, and nothing of it is lost), or its oldest record of the lowest class is dropped as
//!   `Evicted`, or it does without the new one (`DiskFull`). Nothing is evicted for what matters less, nor what is on its way: the
//!   new record is dropped instead, as `DiskFull`. The reserve above the soft percentage is not kept where evicting makes it.
//! - The hard limit is one per signal and class: reached when a client's request finds no room and less than a twentieth is left,
//!   and left when as much is free again; between, clients are refused outright. No limit is left before it was reached for 100 ms,
//!   so that none changes faster, whatever comes. Without a soft limit (`Config::soft_percent` 100) the hard one alone is kept.
//! - Tenants, where they are told apart, share the room: as long as less than three quarters of it is used, each may use what the
//!   others leave; then a tenant that holds its share (the room by the number of tenants that hold something) is refused as
//!   `TenantQuota`. The room is memory in mode `Memory`, else the fullest share of the disk. At most `Config::tenants_max` have a name,
//!   the others together are one. What a start finds on disk is nobody's, as is what the kernel gives.
//! - A mixed request is cut only under pressure: above the soft limit, with a destination failing, or with a backlog on disk.
//!   Uncut, it counts for the highest class it holds.
//! - What the kernel gives cannot be refused: without room it is dropped as `QueueFull`. While inputs drain it is still taken,
//!   for it has nowhere else to go; afterwards it is dropped as `ForcedShutdown`. Clients are refused from the first call on.
//! - A refused client is told to wait 1 s to 5 s, computed from the measured drain rate. What can never fit is `TooLarge`; a
//!   signal that no destination takes is `Unsupported` (from the kernel: filtered).
//!
//! # Another configuration
//!
//! Everything but the mode and the number of tenants may change in one step: budgets, thresholds, weights, windows, policies, destinations. Nothing is moved or
//! counted by it, but for what a policy drops: bounds that became smaller are kept from there on, and what is above them leaves by
//! itself (or is evicted, where the disk's policy is to evict). A record is owed to those who took its signal when it was offered.
//! What a removed destination holds is kept and shown, is sent to nobody, and takes its room off the shares of the others; it is
//! dropped as `ConfigRemoved` only when policy says so. A destination that returns under its name finds it, after a restart too.
//!
//! # Limits and invariants
//!
//! - At most 16 destinations, those removed that still hold something included: one more is refused while the engine runs, and at a
//!   start there is no place for what it held, which is dropped as `ConfigRemoved`. Records on disk at most `Config::disk_records_max`; in-flight records per destination at most its
//!   window, and one while it fails. Everything else is bounded by the room above.
//! - `Pipeline::check` holds after every call. A record is settled once per destination. An id is never used twice.
//! - A retry deadline counts from a record's receipt, or from the start of this process if that is later. What waits past it is dropped
//!   after a try of its destination failed, its own or another record's, in groups of 256 per call; what an answer finds waiting is
//!   sent, however old. The age limit counts from the
//!   receipt: before this process by the wall clock, of which a step makes what waited on disk older or younger once. What is on its
//!   way is not dropped for its age, and neither is what the final flush saves.
//! - What memory alone may lose in a crash is bounded before it is accepted: memory-only intake in mode `Spill` waits for the
//!   first durable checkpoint, and goes to disk beyond what the last one allows. The loss shows as `CrashVolatile`: the sum
//!   uses what the last checkpoint knew, `Books::crash_volatile_bounds` says what it may really be.
//! - A bound that cannot be made durable is not promised: while no checkpoint becomes durable, memory-only intake in mode
//!   `Spill` ends after the allowance of the last one, 262,144 items at most, and what the disk does not take either is refused
//!   as `HardLimit`, however empty memory is. The first durable checkpoint opens it again.
//! - With a disk, intake waits (as without room) from `CHECKPOINT_RANGES_MAX` ranges of ids on: a checkpoint always fits its slot.
//! - A record that its destination finds bad is sent in slices until its bad items are found, within the bound that `poison` states;
//!   its books move once, at the end. A crash in between starts the search again: slices that were taken are sent twice.
//! - With a disk the bad items are copied out (`poll_set_aside`) before the record settles, and are held as quarantined, which blocks
//!   no drain and pins nothing. A crash between the copy and the checkpoint costs nothing: the file settles the record.
//! - A record that the shell's own code breaks over twice is kept from breaking it again: it is set aside as `Undecodable`.
//! - From the third failed volley on, bodies that are on disk leave memory, in groups of 256 per call, where every destination that needs
//!   them fails: memory is for what comes in.
//! - What waited through an outage of 5 s or more, or through a start, is backlog, and what came in since is live. Within a class the two
//!   are told apart, and between classes the lanes decide: a backlog is sent beside live traffic at the pace that `governor` states, in at
//!   most half of the window, and freely without live traffic or while the engine ends. After an outage it begins within
//!   `REPLAY_SPREAD`, at an instant drawn from `Config::replay_seed`.
//! - With a disk a destination that is dead or slow costs the others nothing: what it does not take goes to its own share there, and
//!   one that is `BestEffort` gives up its oldest. In mode `Memory` there is one room for all, and what it does not take fills it.
//! - A server's pause, at most `SERVER_PAUSE_MAX`, is kept whatever else the destination answers meanwhile.
//! - `Acknowledge::OsBuffered`: a record whose `Persist::is_buffered` is set counts as stored once the operating system has it, and is counted
//!   against the same allowance, for a loss of power takes it like memory; what goes beyond is synced first. Whoever makes a checkpoint
//!   durable syncs what was stored before it.
//! - `Acknowledge::Delivered`: a client's request that is admitted has a `Ticket`, and is answered with what `poll_answer` says of it, once
//!   the `Required` destinations (all, if there is none) have settled its records, or the engine has stopped sending. The books do not
//!   know that anybody waits: items count as received when they would without it, and `abandon` changes nothing but who is told. What a
//!   removed destination keeps is not settled. As many wait as the shell lets in; each holds a record.
//! - A record that the final flush synced and no checkpoint followed is taken for a new one at the next start, unless some
//!   destination had settled it: it is counted once more as received, within those bounds.

mod awaited;
mod books;
mod checkpoint;
mod config;
mod dispatch;
mod doors;
mod drain_rate;
mod engine;
mod eviction;
mod exchange;
mod expiry;
mod governor;
mod intake;
mod jitter;
mod lanes;
mod lifecycle;
mod limit;
mod moves;
mod outage;
mod per_class;
mod poison;
mod quarantine;
mod queue;
mod ranges;
mod reconfigure;
mod record;
mod recovery;
mod sending;
mod shares;
mod shutdown;
mod sorted;
mod space;
mod standing;
mod suspects;
mod tenants;
mod usual;

pub use awaited::{Fate, Ticket};
pub use books::{Books, Broken, DestinationBook, DestinationCell, Held, InputCell, KernelBook};
pub use checkpoint::CHECKPOINT_RANGES_MAX;
pub use config::{Acknowledge, BufferMode, ClassPolicy, Config, Delivery, DestinationConfig, MemoryLimits, OnFull, OnRemoved, RetryPolicy};
pub use dispatch::{REPLAY_SPREAD, SERVER_PAUSE_MAX};
pub use engine::Pipeline;
pub use exchange::{
    Admission, Checkpoint, Circuit, DestinationGauge, Gauges, NotStored, Origin, Outcome, Part, Persist, Phase, Progress, Recovered,
    Refusal, Request, Send, TenantGauge, Verdict,
};
pub use limit::LIMIT_DWELL;
pub use quarantine::{Copied, Quarantined, SetAside};
pub use ranges::IdRanges;
pub use reconfigure::ReconfigureError;
pub use record::{DestinationIndex, RecordId, Stored};
pub use space::RECORD_DISK_BYTES;
pub use standing::Standing;
pub use tenants::Tenant;
