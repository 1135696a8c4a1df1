//! The disk log: one append-only log per class, in segments of checksummed records, and two checkpoint slots beside them.
//!
//! ```text
//!   append ──▶ gathered (≤ 256 KiB) ──▶ segment file ──▶ commit = fdatasync ──▶ index ──▶ read, Reader
//!                                            ▲                                    │
//!   open ── identity ─ slots ─ sweep ────────┘            release = unlink or keep as spare ◀── settled, after write_checkpoint
//!
//!   DIRECTORY/lock                              held while open; names the owner
//!   DIRECTORY/identity                          whose buffer it is
//!   DIRECTORY/checkpoint-0, checkpoint-1        written in turn
//!   DIRECTORY/CREATION-CLASS.segment            CREATION counts the files of this buffer, in hexadecimal
//!   DIRECTORY/….segment.damaged                 evidence, at most two segments' worth
//!   DIRECTORY/quarantine/                       what destinations find bad; a store of its own
//!   DIRECTORY/….segment.spare                   a released file that will be used again, at most four
//!   DIRECTORY/reserve                           room held back for checkpoints
//! ```
//!
//! It is synchronous; its owner gives it a thread. [`Reader`]s read from any other. An [`Inspection`] reads a directory that somebody
//! else owns, without a lock and without a write.
//!
//! **What holds.** A record is all there or not there. After `commit` returned it survives the loss of power, and is readable. A commit
//! that fails stores nothing of its group. After `flush` returned it is readable and survives the end of the process; a commit that fails loses
//! no such record while power lasts. A checkpoint is the last one written or, after a crash in `write_checkpoint`, that one or
//! the one before. Opening succeeds on any content but a newer release's, which is left untouched, and twice gives the same; a damaged byte costs the record it lies in, is reported,
//! and is never delivered. A full disk refuses appends, not reads, and heals by itself.
//!
//! **Room.** A segment is preallocated, so a full disk shows when one begins. The log begins none that would leave less free than 5 % of
//! the volume or 64 MiB, whichever is more, but at most an eighth of it. Its files stay within a budget, because whoever exceeds the limit
//! of a volume may be ended and lose it: a segment counts in full from its beginning, its footer included, and one segment's worth is left
//! for copies. Records that wait long pin no segment: `compact_step` copies them together, more eagerly while the budget is short.
//!
//! **Retention.** Settled segments may stay for whoever looks into the buffer: the newest few, or each for a time. They are never sent
//! again, as long as a checkpoint can be read that settles them.
//!
//! **Start-up.** A full segment is sealed with a footer, so opening reads the checkpoints, the footers and the last segment of each
//! class: its time does not grow with what the records weigh. Only a segment whose footer is missing or damaged is walked record by
//! record. Bodies are verified when they are read, and by `verify_step` in the background.
//!
//! **Limits.** A body of 64 MiB; segments of 64 KiB to 1 GiB and 65,536 records; a checkpoint of 16 MiB. Memory: 16 bytes per record
//! held and 48 more while its segment grows, one open file per segment, about 150 bytes per record and 3 MiB while opening, at most
//! 512 KiB per class while writing, given back at a checkpoint, one record while reading, twice if it was compressed.

mod checkpoint;
mod damage;
mod error;
mod files;
mod footer;
mod format;
mod identity;
mod index;
mod inspect;
mod log;
#[cfg(any(test, feature = "model"))]
pub mod model;
mod pack;
mod page;
pub mod points;
mod quarantine;
mod recovery;
mod scan;
mod slots;
mod storage;
mod sweep;
mod sync;
#[cfg(test)]
mod tests;
mod verify;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pipeline::{Checkpoint, IdRanges, RecordId};
use vocabulary::{Class, ClassCounts, Signal};

pub use damage::{Damage, DamageKind};
pub use error::{AppendError, CommitError, CompactError, InspectError, OpenError, ReadError, ReleaseError, SetAsideError};
pub use inspect::{Inspection, Located, OpenSegment, Place, SegmentFile, SetAside, Walk};
pub use log::retain::Retention;
pub use page::format_page;
pub use quarantine::{QUARANTINE_DIRECTORY, Quarantine, QuarantineFile, QuarantineState, TakenOut, decode_quarantine_file};

/// Bounds of `Options::segment_bytes`: below, files cost more than their records; above, an index entry could not hold an offset.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 64 << 10..=1 << 30;

/// A budget holds so many segments at least: one growing per class, one for copies and the evidence of damage leave most of it to what
/// waits.
const SEGMENTS_MIN: u64 = 16;

/// How a directory is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Size at which a segment is full, brought into 64 KiB to 1 GiB. Space comes back in pieces of this size.
    pub segment_bytes: u64,
    /// The pipeline's UID: a directory that belongs to another one is refused and left untouched.
    pub identity: String,
    /// What all files of the log together stay within, the room that is kept for growing ones included: a record that would exceed it
    /// is refused. Beyond it come less than 4 KiB per file, which file systems round up to, and checkpoints. Within it a 64th,
    /// at most 16 MiB, is held back for checkpoints on a full disk, and the files of up to four released segments are kept to be used
    /// again. It also bounds how many segments there may be, and their size to a 16th of it. With 0 there is none of these.
    pub budget_bytes: u64,
    /// Name of this host or node, shown to whoever finds the directory locked.
    pub host: String,
}

/// A record to be stored.
#[derive(Clone, Copy, Debug)]
pub struct Append<'a> {
    /// Its name; an id stored twice is found once.
    pub id: RecordId,
    /// The one signal all its items belong to.
    pub signal: Signal,
    /// Its items by their own class.
    pub counts: ClassCounts,
    /// When it was accepted, in milliseconds since the Unix epoch.
    pub received_unix_ms: u64,
    /// The encoded request, at most 64 MiB.
    pub body: &'a [u8],
}

/// What opening found.
#[derive(Clone, Debug, PartialEq)]
pub struct Recovery {
    /// For the engine. The checkpoint's `next_sequence` lies above every id the disk has seen.
    pub recovered: pipeline::Recovered,
    /// What was wrong, at most 1024 places.
    pub damage: Vec<Damage>,
    /// Damaged places beyond those.
    pub damage_unlisted: u64,
}

/// What a release gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Files.
    pub segments: u64,
    /// Their length.
    pub bytes: u64,
    /// Segments that nobody needs and that stay: see [`Retention`].
    pub retained: u64,
}

/// What a step of verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// How much was read.
    pub bytes: u64,
    /// Records that are not what was written. Reading one gives `ReadError::Corrupt`; their segments are kept as evidence.
    pub damage: Vec<Damage>,
    /// Whether nothing is left to verify.
    pub is_done: bool,
}

/// The log of one pipeline on one disk, owned until dropped.
pub struct Spool {
    log: log::Log<files::Directory>,
}

/// Reads committed records from any thread; holds no lock while it reads.
#[derive(Clone)]
pub struct Reader {
    index: Arc<index::Index<files::OpenFile>>,
}

impl Spool {
    /// Creates the directory if need be (mode 0700), locks it and recovers what it holds.
    ///
    /// # Errors
    /// If another process holds the lock, if the directory belongs to another pipeline or a file in it to a newer release, or if the
    /// disk fails; never because of what else the files contain.
    pub fn open(directory: &Path, options: Options) -> Result<(Self, Recovery), OpenError> {
        let part = if options.budget_bytes == 0 { u64::MAX } else { options.budget_bytes / SEGMENTS_MIN };
        let segment_bytes = options.segment_bytes.min(part).clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end());
        let storage = files::Directory::lock(directory, &options.host)?;
        let limits = log::room::Limits::new(segment_bytes, options.budget_bytes);
        let (log, recovery) = recovery::open(storage, &options.identity, files::fresh_buffer_id()?, limits)?;
        Ok((Self { log }, recovery))
    }

    /// Adds a record to the group that the next `commit` makes durable. On an error the record is not in the group; the records
    /// before it are, unless a sync failed, which `commit` will say.
    ///
    /// # Errors
    /// If the disk is full or fails, or the body is too large.
    pub fn append(&mut self, record: &Append<'_>) -> Result<(), AppendError> {
        self.log.append(record)
    }

    /// Makes every record appended since the last commit durable and readable.
    ///
    /// # Errors
    /// If the disk is full or fails: then none of the group is stored, and the same ids may be appended again.
    pub fn commit(&mut self) -> Result<(), CommitError> {
        self.log.commit()
    }

    /// Hands every record appended since the last commit to the operating system and makes it readable: it survives the end of the
    /// process, and a loss of power from the next commit on. A checkpoint commits first.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn flush(&mut self) -> Result<(), CommitError> {
        self.log.flush()
    }

    /// The body of a committed or flushed record, its checksum verified.
    ///
    /// # Errors
    /// If it is not in the log, or damaged, or the disk fails.
    pub fn read(&self, id: RecordId) -> Result<Bytes, ReadError> {
        self.log.index().read(id)
    }

    /// A handle that reads from other threads.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader { index: Arc::clone(self.log.index()) }
    }

    /// Makes a checkpoint durable, and before it whatever was flushed. It may only name records whose commit or flush has returned.
    ///
    /// # Errors
    /// If the disk is full or fails: then the checkpoint before it still counts.
    pub fn write_checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), CommitError> {
        self.log.write_checkpoint(checkpoint)
    }

    /// Deletes the segments whose records are all in `settled`; call it with what a durable checkpoint says.
    ///
    /// # Errors
    /// If a file cannot be deleted or the deletion not be made durable; the next release tries again.
    pub fn release(&mut self, settled: &[IdRanges; Class::COUNT]) -> Result<Released, ReleaseError> {
        self.log.release(settled)
    }

    /// What stays of settled segments from the next release on. Call it before each with the owner's monotonic `now`, from which
    /// the time since they were settled counts. What is retained stays within the budget, and goes when what waits needs its room.
    pub fn set_retention(&mut self, retention: Retention, now: Duration) {
        self.log.set_retention(retention, now);
    }

    /// Whether bodies are compressed from here on, which saves room and costs time. Reading gives what was appended either way.
    pub fn set_compressing(&mut self, is_compressing: bool) {
        self.log.set_compressing(is_compressing);
    }

    /// Another budget from here on, of which the engine keeps the records within.
    pub fn set_budget(&mut self, budget_bytes: u64) {
        self.log.set_budget(budget_bytes);
    }

    /// Looks at one segment in turn and, if less than an eighth of it is still needed, copies that behind the newest records and gives
    /// the segment back. Call it after a release, with the same `settled`. Returns the bytes given back.
    ///
    /// # Errors
    /// If a record cannot be read, or the disk is full or fails: then every record is still where it was.
    pub fn compact_step(&mut self, settled: &[IdRanges; Class::COUNT]) -> Result<u64, CompactError> {
        self.log.compact_step(settled)
    }

    /// Whether the log has as many segments as it may have, and refuses to begin another: a checkpoint and a release are due at once.
    #[must_use]
    pub fn is_out_of_segments(&self) -> bool {
        self.log.is_out_of_segments()
    }

    /// Verifies the bodies of records that were found at the start, from where the last step ended until so many bytes were read:
    /// opening takes on trust what a checkpoint or a footer names. A step of 1 MiB keeps the owner for about a millisecond.
    ///
    /// # Errors
    /// If the disk does not give a record; the next step goes on behind it.
    pub fn verify_step(&mut self, bytes_max: u64) -> Result<Verified, ReadError> {
        self.log.verify_step(bytes_max)
    }

    /// Names this buffer for as long as its directory lives, as 32 hexadecimal digits: chosen at random when it was created.
    #[must_use]
    pub fn buffer_id(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.log.buffer()))
    }

    /// Size of a segment, within what the budget allows.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.log.segment_bytes()
    }

    /// Whether the budget refused the last record that needed more of it: a checkpoint, a release and copying together are due.
    #[must_use]
    pub fn is_room_short(&self) -> bool {
        self.log.is_room_short()
    }

    /// Bytes that the log may still take of its volume, whatever the budget says: others fill it too. `u64::MAX` if the volume does not say
    /// how full it is.
    #[must_use]
    pub fn left_on_volume(&self) -> u64 {
        self.log.left_on_volume()
    }

    /// Length of the segments, checkpoints and evidence of damage, and of what is appended but not written.
    #[must_use]
    pub fn bytes_on_disk(&self) -> u64 {
        self.log.bytes_on_disk()
    }
}

impl Reader {
    /// The body of a committed record, its checksum verified.
    ///
    /// # Errors
    /// If it is not in the log, or damaged, or the disk fails.
    pub fn read(&self, id: RecordId) -> Result<Bytes, ReadError> {
        self.index.read(id)
    }
}
