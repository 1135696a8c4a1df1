//! Appending, committing, checkpointing and releasing: the order of writes and syncs that durability rests on.
//!
//! - A record is readable, and may be acknowledged, once its segment is synced and, if the segment is new, the directory too.
//! - Only the last segment of a class ever holds bytes that are not synced: a full one gets its footer and is synced before the next
//!   is created.
//! - After a failed sync nothing written since the last good one is believed: it is cut off, its segment takes no more records, and
//!   the group fails. After a failed write the segment is cut back and goes on.
//! - A segment is deleted only after the checkpoint that settles all of its records is durable; then the directory is synced.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pipeline::{Checkpoint, IdRanges};
use vocabulary::Class;

use crate::error::{AppendError, CommitError, ReadError, ReleaseError};
use crate::footer::Rows;
use crate::format::{BODY_BYTES_MAX, BufferId, SEGMENT_RECORDS_MAX, SegmentId, encode_record, record_bytes};
use crate::index::{Entry, Index, Segment};
use crate::slots::Slots;
use crate::storage::{Storage, StorageFile};
use crate::verify::Verification;
use crate::{Append, Released, Verified};

/// Appended bytes are written once this much has gathered, or at commit: one system call for many records.
const WRITE_BYTES: usize = 256 << 10;
/// The file name ending of what is kept only as evidence.
pub(crate) const SET_ASIDE: &str = ".damaged";

/// The writing side of the log.
pub(crate) struct Log<S: Storage> {
    storage: S,
    buffer: BufferId,
    segment_bytes: u64,
    index: Arc<Index<S::File>>,
    /// The segment that grows, per class.
    tails: [Option<Tail<S::File>>; Class::COUNT],
    /// Segments that became full within the group: synced, their records not yet readable.
    closing: Vec<Tail<S::File>>,
    /// A sync failed since the last commit: the next one must fail.
    broken: Option<CommitError>,
    /// Names were created that are not durable.
    is_directory_dirty: bool,
    next_creation: u64,
    slots: Slots<S::File>,
    /// Evidence and foreign files.
    other_bytes: u64,
    verification: Verification<S::File>,
}

/// What recovery hands over.
pub(crate) struct Parts<S: Storage> {
    pub(crate) storage: S,
    pub(crate) buffer: BufferId,
    pub(crate) segment_bytes: u64,
    pub(crate) segments: [Vec<Arc<Segment<S::File>>>; Class::COUNT],
    pub(crate) tails: [Option<Tail<S::File>>; Class::COUNT],
    pub(crate) next_creation: u64,
    pub(crate) slots: Slots<S::File>,
    pub(crate) other_bytes: u64,
}

/// A segment that grows.
pub(crate) struct Tail<F> {
    segment: Arc<Segment<F>>,
    class: Class,
    header: Vec<u8>,
    /// Length of what was written.
    written: u64,
    /// Length at the last commit.
    committed: u64,
    /// Encoded, not written.
    gathered: Vec<u8>,
    /// Records of the group.
    pending: Vec<Entry>,
    /// All records, those of the group included.
    rows: Rows,
}

impl<F: StorageFile> Tail<F> {
    /// A segment that ends cleanly at `bytes`, all of it durable.
    pub(crate) fn resume(segment: Arc<Segment<F>>, class: Class, bytes: u64, rows: Rows) -> Self {
        let (header, gathered, pending) = (Vec::new(), Vec::new(), Vec::new());
        Self { segment, class, header, written: bytes, committed: bytes, gathered, pending, rows }
    }

    fn end(&self) -> u64 {
        self.written + self.gathered.len() as u64
    }

    fn is_touched(&self) -> bool {
        !self.pending.is_empty() || self.written != self.committed
    }

    fn add(&mut self, record: &Append<'_>) -> Result<(), AppendError> {
        let before = self.gathered.len();
        if self.end() == 0 {
            self.gathered.extend_from_slice(&self.header);
        }
        let offset = self.end();
        encode_record(record, self.segment.seed, offset, &mut self.gathered);
        let entry = Entry { sequence: record.id.sequence, offset: offset as u32, length: record.body.len() as u32 };
        self.rows.push(&entry, &record.stored());
        self.pending.push(entry);
        if self.gathered.len() < WRITE_BYTES {
            return Ok(());
        }
        self.write().map_err(|source| {
            self.gathered.truncate(before);
            self.pending.pop();
            self.rows.truncate(self.rows.len() - 1);
            AppendError::write(self.segment.path.clone(), source)
        })
    }

    /// Writes what has gathered, and the footer. On failure the footer is not there.
    fn seal(&mut self) -> std::io::Result<()> {
        let before = self.gathered.len();
        let end = self.end();
        self.rows.encode(self.class, self.segment.seed, end, &mut self.gathered);
        self.write().inspect_err(|_| self.gathered.truncate(before))
    }

    /// Writes what has gathered. On failure it stays gathered, and the file ends where it ended.
    fn write(&mut self) -> std::io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.segment.file.write_at(&self.gathered, self.written) {
            // Whatever cannot be cut is written over by the next attempt, or cut by the next recovery.
            self.segment.file.truncate(self.written).ok();
            return Err(error);
        }
        self.written += self.gathered.len() as u64;
        self.segment.bytes.store(self.written, Ordering::Relaxed);
        self.gathered.clear();
        self.gathered.shrink_to(2 * WRITE_BYTES);
        Ok(())
    }

    /// Forgets the group and cuts the file back to the last commit; says whether the cut succeeded.
    fn roll_back(&mut self) -> bool {
        self.rows.truncate(self.rows.len() - self.pending.len());
        self.pending.clear();
        self.gathered.clear();
        let is_cut = self.written == self.committed || self.segment.file.truncate(self.committed).is_ok();
        if is_cut {
            self.written = self.committed;
            self.segment.bytes.store(self.written, Ordering::Relaxed);
        }
        is_cut
    }

    /// As `roll_back`, for a segment that takes no more records: the cut is synced as far as the disk allows, for another segment
    /// will follow, and what a loss of power left of the group would be taken for damage there.
    fn give_up(&mut self) {
        self.roll_back();
        self.segment.file.sync().ok();
    }

    fn publish(&mut self) {
        self.segment.publish(self.pending.drain(..));
        self.committed = self.written;
    }
}

impl<S: Storage> Log<S> {
    pub(crate) fn new(parts: Parts<S>) -> Self {
        let Parts { storage, buffer, segment_bytes, segments, tails, next_creation, slots, other_bytes } = parts;
        let found =
            Class::ALL.into_iter().zip(&segments).flat_map(|(class, segments)| segments.iter().map(move |segment| (class, segment)));
        let verification = Verification::new(found.map(|(class, segment)| (class, Arc::clone(segment))));
        let index = Arc::new(Index::new(segments));
        Self {
            storage,
            buffer,
            segment_bytes,
            index,
            tails,
            closing: Vec::new(),
            broken: None,
            is_directory_dirty: false,
            next_creation,
            slots,
            other_bytes,
            verification,
        }
    }

    pub(crate) fn index(&self) -> &Arc<Index<S::File>> {
        &self.index
    }

    pub(crate) fn buffer(&self) -> BufferId {
        self.buffer
    }

    pub(crate) fn bytes_on_disk(&self) -> u64 {
        let gathered: u64 = self.tails.iter().flatten().map(|tail| tail.gathered.len() as u64).sum();
        self.index.bytes() + gathered + self.slots.bytes() + self.other_bytes
    }

    /// Adds a record to the group. On error the record is not in the group.
    pub(crate) fn append(&mut self, record: &Append<'_>) -> Result<(), AppendError> {
        if record.body.len() > BODY_BYTES_MAX {
            return Err(AppendError::TooLarge { bytes: record.body.len(), bytes_max: BODY_BYTES_MAX });
        }
        let class = record.id.class;
        let bytes = record_bytes(record.body.len() as u64);
        let most = self.segment_bytes;
        let is_full = |tail: &Tail<S::File>| tail.rows.len() >= SEGMENT_RECORDS_MAX || (tail.end() > 0 && tail.end() + bytes > most);
        if self.tail(class).as_ref().is_some_and(is_full) {
            self.close_tail(class)?;
        }
        let mut tail = match self.tail(class).take() {
            Some(tail) => tail,
            None => self.create(record)?,
        };
        let added = tail.add(record);
        *self.tail(class) = Some(tail);
        added
    }

    /// Makes the group durable and its records readable, or forgets it.
    pub(crate) fn commit(&mut self) -> Result<(), CommitError> {
        if let Some(error) = self.broken.take() {
            self.abandon();
            return Err(error);
        }
        for tail in self.tails.iter_mut().flatten() {
            if let Err(source) = tail.write() {
                let error = CommitError::write(tail.segment.path.clone(), source);
                self.cut_back();
                return Err(error);
            }
        }
        if let Err(error) = self.sync() {
            self.abandon();
            return Err(error);
        }
        for tail in self.closing.iter_mut().chain(self.tails.iter_mut().flatten()) {
            tail.publish();
        }
        self.closing.clear();
        Ok(())
    }

    pub(crate) fn write_checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), CommitError> {
        self.slots.write(&self.storage, self.buffer, checkpoint)
    }

    pub(crate) fn verify_step(&mut self, bytes_max: u64) -> Result<Verified, ReadError> {
        self.verification.step(bytes_max)
    }

    pub(crate) fn release(&mut self, settled: &[IdRanges; Class::COUNT]) -> Result<Released, ReleaseError> {
        let mut released = Released::default();
        let mut failed = None;
        for (class, settled) in Class::ALL.into_iter().zip(settled) {
            for segment in self.index.segments(class) {
                if !segment.is_settled(settled) || self.is_in_use(class, &segment) {
                    continue;
                }
                match self.delete(class, &segment) {
                    Ok(bytes) => {
                        released.segments += 1;
                        released.bytes += bytes;
                    }
                    Err(error) => failed = Some(error),
                }
            }
        }
        if released.segments > 0 {
            let path = self.storage.path("");
            self.storage.sync_directory().map_err(|source| ReleaseError::SyncDirectory { path, source })?;
        }
        failed.map_or(Ok(released), Err)
    }

    /// Whether records of a group under way are in it, or it is the one that grows and is still small. A growing segment of some
    /// size whose records are all settled is closed, so that a class that falls silent gives its space back.
    fn is_in_use(&mut self, class: Class, segment: &Arc<Segment<S::File>>) -> bool {
        if self.closing.iter().any(|tail| Arc::ptr_eq(&tail.segment, segment)) {
            return true;
        }
        let worthwhile = self.segment_bytes / 4;
        let tail = self.tail(class);
        match tail.as_ref().filter(|tail| Arc::ptr_eq(&tail.segment, segment)) {
            None => false,
            Some(growing) if growing.is_touched() || growing.committed < worthwhile => true,
            Some(_) => {
                *tail = None;
                false
            }
        }
    }

    fn delete(&mut self, class: Class, segment: &Arc<Segment<S::File>>) -> Result<u64, ReleaseError> {
        let bytes = segment.bytes.load(Ordering::Relaxed);
        let is_evidence = segment.is_damaged.load(Ordering::Relaxed) && self.other_bytes + bytes <= evidence_bytes_max(self.segment_bytes);
        let done = if is_evidence {
            self.storage.rename(&segment.name, &format!("{}{SET_ASIDE}", segment.name))
        } else {
            self.storage.remove(&segment.name)
        };
        match done {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(ReleaseError::DeleteSegment { path: segment.path.clone(), source })
            }
            _ => {
                self.index.remove(class, segment);
                self.verification.forget(segment);
                if is_evidence {
                    self.other_bytes += bytes;
                }
                Ok(bytes)
            }
        }
    }

    fn create(&mut self, first: &Append<'_>) -> Result<Tail<S::File>, AppendError> {
        let class = first.id.class;
        let id = SegmentId { buffer: self.buffer, class, creation: self.next_creation };
        let (name, path) = (id.name(), self.storage.path(&id.name()));
        let file = self.storage.create(&name).map_err(|source| AppendError::create(path.clone(), source))?;
        self.next_creation += 1;
        self.is_directory_dirty = true;
        let mut header = Vec::new();
        id.encode(first.id.sequence, &mut header);
        let segment = Arc::new(Segment::new(name, path, id.seed(), file, 0));
        self.index.add(class, Arc::clone(&segment));
        let mut tail = Tail::resume(segment, class, 0, Rows::default());
        tail.header = header;
        Ok(tail)
    }

    /// Seals and syncs a full segment, so that a torn tail can only ever be in the last one.
    fn close_tail(&mut self, class: Class) -> Result<(), AppendError> {
        let Some(mut tail) = self.tail(class).take() else { return Ok(()) };
        let path = tail.segment.path.clone();
        if let Err(source) = tail.seal() {
            *self.tail(class) = Some(tail);
            return Err(AppendError::write(path, source));
        }
        let synced = tail.segment.file.sync();
        if synced.is_err() {
            // At once, not at the commit that will fail: a process that is killed before it would find in the page cache, and
            // believe, what is not on disk.
            tail.give_up();
        }
        self.closing.push(tail);
        synced.map_err(|source| {
            let copy = std::io::Error::new(source.kind(), source.to_string());
            self.broken = Some(CommitError::Sync { path: path.clone(), source: copy });
            AppendError::SyncSegment { path, source }
        })
    }

    fn sync(&mut self) -> Result<(), CommitError> {
        for tail in self.tails.iter().flatten().filter(|tail| tail.is_touched()) {
            tail.segment.file.sync().map_err(|source| CommitError::Sync { path: tail.segment.path.clone(), source })?;
        }
        if self.is_directory_dirty {
            let path = self.storage.path("");
            self.storage.sync_directory().map_err(|source| CommitError::Sync { path, source })?;
            self.is_directory_dirty = false;
        }
        Ok(())
    }

    /// After a failed write: the group is forgotten, its segments go on from the last commit.
    fn cut_back(&mut self) {
        for tail in &mut self.closing {
            tail.roll_back();
        }
        self.closing.clear();
        for slot in &mut self.tails {
            if slot.as_mut().is_some_and(|tail| !tail.roll_back()) {
                *slot = None;
            }
        }
    }

    /// After a failed sync: the group is forgotten and none of its segments takes another record.
    fn abandon(&mut self) {
        for tail in &mut self.closing {
            tail.give_up();
        }
        self.closing.clear();
        for slot in &mut self.tails {
            if let Some(tail) = slot.take_if(|tail| tail.is_touched()).as_mut() {
                tail.give_up();
            }
        }
    }

    #[expect(clippy::indexing_slicing, reason = "the array has a cell for every class")]
    fn tail(&mut self, class: Class) -> &mut Option<Tail<S::File>> {
        &mut self.tails[class.index()]
    }
}

/// How much evidence of damage is kept.
pub(crate) fn evidence_bytes_max(segment_bytes: u64) -> u64 {
    2 * segment_bytes
}
