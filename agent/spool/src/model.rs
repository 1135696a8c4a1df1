//! The log over a disk that exists in memory and loses what a real one may lose. It is behind a feature because only tests and the
//! simulation need it; the log is the same code as over real files.

mod disk;

use std::time::Duration;

use bytes::Bytes;
use pipeline::{Checkpoint, IdRanges, RecordId};
use vocabulary::Class;

pub use disk::{Choose, ModelDisk, ModelFile};

use crate::log::Log;
use crate::log::room::Limits;
use crate::{Append, AppendError, CommitError, CompactError, OpenError, ReadError, Recovery, ReleaseError, Released, Retention, recovery};

/// The budget of the log, in segments: enough that released files are used again. And at least this much, for records may be far
/// larger than segments.
const BUDGET_SEGMENTS: u64 = 64;
const BUDGET_BYTES_MIN: u64 = 2 << 20;

/// What [`crate::Spool`] is over a directory, over a [`ModelDisk`]. It needs no lock, and segments may be as small as a test wants.
pub struct ModelSpool {
    log: Log<ModelDisk>,
}

impl ModelSpool {
    /// Recovers what the disk holds; `fresh` names the buffer if there is none yet.
    ///
    /// # Errors
    /// As [`crate::Spool::open`].
    pub fn open(disk: &ModelDisk, identity: &str, fresh: [u8; 16], segment_bytes: u64) -> Result<(Self, Recovery), OpenError> {
        let limits = Limits::new(segment_bytes, BUDGET_SEGMENTS * segment_bytes);
        let limits = Limits { budget_bytes: limits.budget_bytes.max(BUDGET_BYTES_MIN), ..limits };
        let (log, recovery) = recovery::open(disk.clone(), identity, fresh, limits)?;
        Ok((Self { log }, recovery))
    }

    /// As [`crate::Spool::append`].
    ///
    /// # Errors
    /// As there.
    pub fn append(&mut self, record: &Append<'_>) -> Result<(), AppendError> {
        self.log.append(record)
    }

    /// As [`crate::Spool::commit`].
    ///
    /// # Errors
    /// As there.
    pub fn commit(&mut self) -> Result<(), CommitError> {
        self.log.commit()
    }

    /// As [`crate::Spool::flush`].
    ///
    /// # Errors
    /// As there.
    pub fn flush(&mut self) -> Result<(), CommitError> {
        self.log.flush()
    }

    /// Whether flushed records wait to be copied because their sync failed, and so did copying them: a process that ends so and finds them
    /// in the page cache takes them for durable.
    #[must_use]
    pub fn is_stranded(&self) -> bool {
        self.log.is_stranded()
    }

    /// As [`crate::Spool::read`].
    ///
    /// # Errors
    /// As there.
    pub fn read(&self, id: RecordId) -> Result<Bytes, ReadError> {
        self.log.index().read(id)
    }

    /// As [`crate::Spool::write_checkpoint`].
    ///
    /// # Errors
    /// As there.
    pub fn write_checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), CommitError> {
        self.log.write_checkpoint(checkpoint)
    }

    /// As [`crate::Spool::release`].
    ///
    /// # Errors
    /// As there.
    pub fn release(&mut self, settled: &[IdRanges; Class::COUNT]) -> Result<Released, ReleaseError> {
        self.log.release(settled)
    }

    /// As [`crate::Spool::set_retention`].
    pub fn set_retention(&mut self, retention: Retention, now: Duration) {
        self.log.set_retention(retention, now);
    }

    /// As [`crate::Spool::compact_step`].
    ///
    /// # Errors
    /// As there.
    pub fn compact_step(&mut self, settled: &[IdRanges; Class::COUNT]) -> Result<u64, CompactError> {
        self.log.compact_step(settled)
    }

    /// As [`crate::Spool::bytes_on_disk`].
    #[must_use]
    pub fn bytes_on_disk(&self) -> u64 {
        self.log.bytes_on_disk()
    }
}
