//! Appending, committing, checkpointing and releasing: the order of writes and syncs that durability rests on.
//!
//! - A record is readable, and may be acknowledged, once its segment is synced and, if the segment is new, the directory too.
//! - A record that is flushed is readable too, and survives the end of the process; it may be acknowledged as no more than that. The next
//!   commit syncs it, and a checkpoint, which may name it, commits first.
//! - Only the last segment of a class ever holds bytes that are not synced: a full one gets its footer and is synced before the next
//!   is created.
//! - After a failed sync nothing written since the last good one is believed: it is cut off, its segment takes no more records, and
//!   the group fails. What was flushed before was acknowledged: it is copied to another segment, and only then cut off. After a failed
//!   write the segment is cut back and goes on.
//! - A segment is deleted only after the checkpoint that settles all of its records is durable; then the directory is synced.
//! - A file is used again once its old name is durably gone, and gets its new name once its new header is durable: under a segment's
//!   name there are only ever records that name it. What it held before stays behind them and counts for nothing there.

mod budget;
mod compact;
mod flush;
mod release;
pub(crate) mod retain;
pub(crate) mod room;
pub(crate) mod tail;

use std::sync::Arc;
use std::time::Duration;

use pipeline::Checkpoint;
use vocabulary::Class;

use crate::error::{AppendError, CommitError, ReadError};
use crate::format::{BODY_BYTES_MAX, BufferId, Record, SegmentId, record_bytes};
use crate::index::{Index, Segment};
use crate::pack::Packer;
use crate::points::reach;
use crate::slots::Slots;
use crate::storage::{Storage, StorageFile};
use crate::verify::Verification;
use crate::{Append, Verified};
use budget::Growth;
use compact::Cursor;
use retain::Retention;
use room::{Room, Spare};
use tail::{Stranded, Tail, first_charge};

/// The file name ending of what is kept only as evidence.
pub(crate) const SET_ASIDE: &str = ".damaged";

/// The writing side of the log.
pub(crate) struct Log<S: Storage> {
    storage: S,
    buffer: BufferId,
    room: Room<S::File>,
    index: Arc<Index<S::File>>,
    /// The segment that grows, per class.
    tails: [Option<Tail<S::File>>; Class::COUNT],
    /// Segments that became full within the group: synced, their records not yet readable.
    closing: Vec<Tail<S::File>>,
    /// A sync failed since the last commit: the next one must fail.
    broken: Option<CommitError>,
    /// Something was flushed since the last commit: records, or the names of their segments, may not be durable.
    has_flushed: bool,
    /// Flushed records whose sync failed, to be copied.
    stranded: Vec<Stranded<S::File>>,
    /// Names were created that are not durable.
    is_directory_dirty: bool,
    next_creation: u64,
    slots: Slots<S::File>,
    /// Evidence and foreign files.
    other_bytes: u64,
    verification: Verification<S::File>,
    cursor: Cursor,
    /// While bodies are compressed.
    packer: Option<Packer>,
    retention: Retention,
    /// The owner's time.
    now: Duration,
    /// Whether the budget refused the last record that asked for more of it.
    is_room_short: bool,
}

/// What recovery hands over.
pub(crate) struct Parts<S: Storage> {
    pub(crate) storage: S,
    pub(crate) buffer: BufferId,
    pub(crate) room: Room<S::File>,
    pub(crate) segments: [Vec<Arc<Segment<S::File>>>; Class::COUNT],
    pub(crate) tails: [Option<Tail<S::File>>; Class::COUNT],
    pub(crate) next_creation: u64,
    pub(crate) slots: Slots<S::File>,
    pub(crate) other_bytes: u64,
}

impl<S: Storage> Log<S> {
    pub(crate) fn new(parts: Parts<S>) -> Self {
        let Parts { storage, buffer, room, segments, tails, next_creation, slots, other_bytes } = parts;
        let found =
            Class::ALL.into_iter().zip(&segments).flat_map(|(class, segments)| segments.iter().map(move |segment| (class, segment)));
        let verification = Verification::new(found.map(|(class, segment)| (class, Arc::clone(segment))));
        let index = Arc::new(Index::new(segments));
        Self {
            storage,
            buffer,
            room,
            index,
            tails,
            closing: Vec::new(),
            broken: None,
            has_flushed: false,
            stranded: Vec::new(),
            is_directory_dirty: false,
            next_creation,
            slots,
            other_bytes,
            verification,
            cursor: Cursor::default(),
            packer: None,
            retention: Retention::default(),
            now: Duration::ZERO,
            is_room_short: false,
        }
    }

    pub(crate) fn index(&self) -> &Arc<Index<S::File>> {
        &self.index
    }

    pub(crate) fn buffer(&self) -> BufferId {
        self.buffer
    }

    pub(crate) fn segment_bytes(&self) -> u64 {
        self.room.limits.segment_bytes
    }

    pub(crate) fn bytes_on_disk(&self) -> u64 {
        let gathered: u64 = self.tails.iter().flatten().map(Tail::gathered_bytes).sum();
        self.index.bytes() + gathered + self.slots.bytes() + self.other_bytes + self.room.bytes()
    }

    /// Adds a record to the group. On error the record is not in the group.
    pub(crate) fn append(&mut self, record: &Append<'_>) -> Result<(), AppendError> {
        if record.body.len() > BODY_BYTES_MAX {
            return Err(AppendError::TooLarge { bytes: record.body.len(), bytes_max: BODY_BYTES_MAX });
        }
        let packed = self.packer.as_mut().and_then(|packer| packer.pack(record.body));
        match &packed {
            Some(body) => {
                let unpacked_bytes = Some(record.body.len() as u32);
                self.append_with_room(&Record { append: Append { body, ..*record }, unpacked_bytes })
            }
            None => self.append_with_room(&Record::plain(*record)),
        }
    }

    /// As `append_record`, at the cost of what is retained.
    fn append_with_room(&mut self, record: &Record<'_>) -> Result<(), AppendError> {
        loop {
            let added = self.append_record(record, Growth::New);
            let has_no_room = added.as_ref().is_err_and(|error| {
                error.is_over_budget() || matches!(error, AppendError::DiskFull { .. } | AppendError::VolumeFloor { .. })
            });
            if !(has_no_room && self.give_up_retained()) {
                return added;
            }
        }
    }

    /// From here on.
    pub(crate) fn set_compressing(&mut self, is_compressing: bool) {
        if is_compressing != self.packer.is_some() {
            self.packer = if is_compressing { Packer::new() } else { None };
        }
    }

    /// From here on. Spare files above it are used up or given back by what releases follow.
    pub(crate) fn set_budget(&mut self, budget_bytes: u64) {
        self.room.set_budget(&self.storage, budget_bytes);
    }

    fn append_record(&mut self, record: &Record<'_>, growth: Growth) -> Result<(), AppendError> {
        let class = record.append.id.class;
        let bytes = record_bytes(record.append.body.len() as u64);
        let most = self.room.limits.segment_bytes;
        // Before a full one is closed: a segment that waits for its commit can neither be released nor copied.
        self.make_room(class, bytes, growth)?;
        if self.tail(class).as_ref().is_some_and(|tail| tail.is_full_for(bytes, most)) {
            self.close_tail(class)?;
        }
        let mut tail = match self.tail(class).take() {
            Some(tail) => tail,
            None => self.create(&record.append, bytes)?,
        };
        let added = tail.add(record);
        *self.tail(class) = Some(tail);
        added
    }

    /// Makes the group durable and its records readable, or forgets it.
    pub(crate) fn commit(&mut self) -> Result<(), CommitError> {
        self.copy_stranded()?;
        self.write()?;
        if let Err(error) = self.sync() {
            self.abandon();
            self.save_stranded();
            return Err(error);
        }
        reach("log.synced");
        for tail in self.closing.iter_mut().chain(self.tails.iter_mut().flatten()) {
            tail.publish();
        }
        self.closing.clear();
        self.forget_stranded();
        self.has_flushed = false;
        Ok(())
    }

    /// Hands the group to the operating system, or forgets it.
    fn write(&mut self) -> Result<(), CommitError> {
        if let Some(error) = self.broken.take() {
            self.abandon();
            self.save_stranded();
            return Err(error);
        }
        for tail in self.tails.iter_mut().flatten() {
            if let Err(source) = tail.write() {
                let error = CommitError::write(tail.segment.path.clone(), source);
                self.cut_back();
                return Err(error);
            }
        }
        reach("log.written");
        Ok(())
    }

    pub(crate) fn write_checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), CommitError> {
        if self.is_anything_flushed() {
            self.commit()?;
        }
        let mut written = self.slots.write(&self.storage, self.buffer, checkpoint);
        if matches!(written, Err(CommitError::DiskFull { .. })) && self.room.give_reserve(&self.storage) {
            written = self.slots.write(&self.storage, self.buffer, checkpoint);
        } else if written.is_ok() {
            self.room.make_reserve(&self.storage);
        }
        self.tails.iter_mut().flatten().for_each(Tail::give_memory_back);
        written
    }

    /// Whether no further segment may be created: a checkpoint and a release may give some back.
    pub(crate) fn is_out_of_segments(&self) -> bool {
        self.index.segment_count() >= self.room.limits.segments_max
    }

    pub(crate) fn verify_step(&mut self, bytes_max: u64) -> Result<Verified, ReadError> {
        self.verification.step(bytes_max)
    }

    /// A new segment for a record of so many bytes, in a file that was used before if there is one.
    fn create(&mut self, first: &Append<'_>, first_bytes: u64) -> Result<Tail<S::File>, AppendError> {
        let class = first.id.class;
        let id = SegmentId { buffer: self.buffer, class, creation: self.next_creation };
        let (name, path) = (id.name(), self.storage.path(&id.name()));
        let mut header = Vec::new();
        id.encode(first.id.sequence, &mut header);
        let recycled = self.room.take_spare().and_then(|spare| self.recycle(spare, &name, &header));
        let is_recycled = recycled.is_some();
        let (file, file_bytes) = match recycled {
            Some(recycled) => recycled,
            None => {
                self.room.check_growth(&self.storage, self.index.segment_count())?;
                (self.storage.create(&name).map_err(|source| AppendError::create(path.clone(), source))?, 0)
            }
        };
        self.next_creation += 1;
        self.is_directory_dirty = true;
        reach("log.created");
        let is_preallocated = match file.preallocate(self.room.limits.segment_bytes) {
            Ok(is_preallocated) => is_preallocated,
            Err(source) => {
                // An empty file is no loss to whoever finds it.
                self.storage.remove(&name).ok();
                return Err(AppendError::create(path, source));
            }
        };
        let segment = Arc::new(Segment::new(name, path, id.seed(), file, file_bytes));
        self.index.add(class, Arc::clone(&segment));
        let tail = if is_recycled {
            Tail::begin_recycled(segment, class, file_bytes, is_preallocated)
        } else {
            Tail::begin(segment, class, header, is_preallocated)
        };
        Ok(tail.keeping(first_charge(first_bytes, self.room.limits.segment_bytes)))
    }

    /// Makes a spare file the segment of this name and header; none if that fails, for then a new file serves.
    fn recycle(&self, spare: Spare<S::File>, name: &str, header: &[u8]) -> Option<(S::File, u64)> {
        let Spare { name: old_name, file, bytes } = spare;
        let renamed = file.write_at(header, 0).and_then(|()| file.sync()).and_then(|()| self.storage.rename(&old_name, name));
        if renamed.is_err() {
            self.storage.remove(&old_name).ok();
            return None;
        }
        Some((file, bytes))
    }

    /// Seals and syncs a full segment, so that a torn tail can only ever be in the last one.
    fn close_tail(&mut self, class: Class) -> Result<(), AppendError> {
        let Some(mut tail) = self.tail(class).take() else { return Ok(()) };
        let path = tail.segment.path.clone();
        if let Err(source) = tail.seal() {
            *self.tail(class) = Some(tail);
            return Err(AppendError::write(path, source));
        }
        reach("log.full");
        let synced = tail.segment.file.sync();
        if synced.is_err() {
            // At once, not at the commit that will fail: a process that is killed before it would find in the page cache, and
            // believe, what is not on disk.
            tail.give_up();
            self.stranded.extend(tail.take_flushed());
        } else {
            tail.note_synced();
        }
        self.closing.push(tail);
        synced.map_err(|source| {
            let copy = std::io::Error::new(source.kind(), source.to_string());
            self.broken = Some(CommitError::Sync { path: path.clone(), source: copy });
            AppendError::SyncSegment { path, source }
        })
    }

    fn sync(&mut self) -> Result<(), CommitError> {
        let touched: Vec<&Segment<S::File>> =
            self.tails.iter().flatten().filter(|tail| tail.is_touched()).map(|tail| &*tail.segment).collect();
        let files: Vec<&S::File> = touched.iter().map(|segment| &segment.file).collect();
        self.storage.sync_files(&files).map_err(|(position, source)| {
            let path = touched.get(position).map_or_else(|| self.storage.path(""), |segment| segment.path.clone());
            CommitError::Sync { path, source }
        })?;
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
                self.stranded.extend(slot.take().and_then(|mut tail| tail.take_flushed()));
            }
        }
    }

    /// After a failed sync: the group is forgotten and none of its segments takes another record.
    fn abandon(&mut self) {
        for mut tail in self.closing.drain(..) {
            tail.give_up();
            self.stranded.extend(tail.take_flushed());
        }
        for slot in &mut self.tails {
            if let Some(tail) = slot.take_if(|tail| tail.is_touched()).as_mut() {
                tail.give_up();
                self.stranded.extend(tail.take_flushed());
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
