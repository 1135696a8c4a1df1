//! The segment of a class that grows: what was appended to it, written, committed, or taken back. It is apart from the log, which
//! decides when each of these happens.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use vocabulary::Class;

use crate::error::AppendError;
use crate::footer::{Rows, footer_bytes};
use crate::format::{Record, SEGMENT_HEADER_BYTES, SEGMENT_RECORDS_MAX, encode_record, encode_record_header, padding};
use crate::index::{Entry, Segment};
use crate::storage::StorageFile;

/// Appended bytes are written once this much has gathered, or at commit: one system call for many records.
const WRITE_BYTES: usize = 256 << 10;
/// A body from this size on is written from where it lies: copying it costs more than a system call of its own.
const DIRECT_BYTES: usize = 64 << 10;

/// A segment that grows.
pub(crate) struct Tail<F> {
    pub(crate) segment: Arc<Segment<F>>,
    class: Class,
    header: Vec<u8>,
    /// Length of what was written.
    written: u64,
    /// Length of the file: behind what was written, a recycled one holds what it held before.
    file_bytes: u64,
    /// Whether the volume keeps room for it beyond its end.
    is_preallocated: bool,
    /// What the budget counts for it at least; nothing for a resumed one, which asks for every byte.
    kept_bytes: u64,
    /// Length at the last commit.
    pub(crate) committed: u64,
    /// Length at the last commit or flush: what is readable ends here.
    published: u64,
    /// Encoded, not written.
    gathered: Vec<u8>,
    /// Records of the group.
    pending: Vec<Entry>,
    /// Records that were flushed since the last commit.
    flushed: Vec<Entry>,
    /// All records, those of the group included.
    rows: Rows,
}

/// What a new segment counts for whose first record has so many bytes.
pub(crate) fn first_charge(bytes: u64, segment_bytes: u64) -> u64 {
    charge(SEGMENT_HEADER_BYTES as u64 + bytes, 1, segment_bytes)
}

fn charge(end: u64, rows: usize, kept_bytes: u64) -> u64 {
    kept_bytes.max(end + footer_bytes(rows))
}

/// Records that were flushed to a segment that takes no more, and are not synced there.
pub(crate) struct Stranded<F> {
    pub(crate) class: Class,
    pub(crate) segment: Arc<Segment<F>>,
    /// Length of the file that is synced.
    pub(crate) committed: u64,
    pub(crate) entries: Vec<Entry>,
    /// How often copying them was tried.
    pub(crate) tries: u32,
}

impl<F: StorageFile> Tail<F> {
    /// A segment that ends cleanly at `bytes`, all of it durable.
    pub(crate) fn resume(segment: Arc<Segment<F>>, class: Class, bytes: u64, rows: Rows) -> Self {
        let (header, gathered, pending, flushed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self {
            segment,
            class,
            header,
            written: bytes,
            file_bytes: bytes,
            is_preallocated: false,
            kept_bytes: 0,
            committed: bytes,
            published: bytes,
            gathered,
            pending,
            flushed,
            rows,
        }
    }

    /// A segment whose file is new; its header is written with its first record.
    pub(crate) fn begin(segment: Arc<Segment<F>>, class: Class, header: Vec<u8>, is_preallocated: bool) -> Self {
        Self { header, is_preallocated, ..Self::resume(segment, class, 0, Rows::default()) }
    }

    /// A segment whose file of `file_bytes` was another's; its header is durable.
    pub(crate) fn begin_recycled(segment: Arc<Segment<F>>, class: Class, file_bytes: u64, is_preallocated: bool) -> Self {
        Self { file_bytes, is_preallocated, ..Self::resume(segment, class, SEGMENT_HEADER_BYTES as u64, Rows::default()) }
    }

    /// As one for which the budget counts so much from its beginning.
    pub(crate) fn keeping(self, kept_bytes: u64) -> Self {
        Self { kept_bytes, ..self }
    }

    fn end(&self) -> u64 {
        self.written + self.gathered.len() as u64
    }

    pub(crate) fn is_touched(&self) -> bool {
        !self.pending.is_empty() || self.written != self.committed
    }

    pub(crate) fn add(&mut self, record: &Record<'_>) -> Result<(), AppendError> {
        let before = self.gathered.len();
        if self.end() == 0 {
            self.gathered.extend_from_slice(&self.header);
        }
        let offset = self.end();
        let body = record.append.body;
        let is_direct = body.len() >= DIRECT_BYTES;
        if is_direct {
            encode_record_header(record, self.segment.seed, offset, &mut self.gathered);
        } else {
            encode_record(record, self.segment.seed, offset, &mut self.gathered);
        }
        let length = body.len() as u32;
        let entry = Entry { sequence: record.append.id.sequence, offset: offset as u32, length };
        self.rows.push(&entry, &record.stored());
        self.pending.push(entry);
        let written = match self.gathered.len() {
            _ if is_direct => self.write_with(body),
            WRITE_BYTES.. => self.write(),
            _ => return Ok(()),
        };
        written.map_err(|source| {
            self.gathered.truncate(before);
            self.pending.pop();
            self.rows.truncate(self.rows.len() - 1);
            AppendError::write(self.segment.path.clone(), source)
        })
    }

    /// Writes what has gathered, and the footer. On failure the footer is not there.
    pub(crate) fn seal(&mut self) -> std::io::Result<()> {
        let before = self.gathered.len();
        let end = self.end();
        self.rows.encode(self.class, self.segment.seed, end, &mut self.gathered);
        self.write().inspect_err(|_| self.gathered.truncate(before))?;
        // The footer is found from the end of the file; and what was reserved beyond it goes back to the volume. A file that cannot
        // be cut is walked at the next start.
        if self.is_preallocated || self.file_bytes > self.written {
            self.cut(self.written);
        }
        Ok(())
    }

    /// Whether a record of so many bytes belongs into the next segment.
    pub(crate) fn is_full_for(&self, bytes: u64, segment_bytes: u64) -> bool {
        self.rows.len() >= SEGMENT_RECORDS_MAX || (self.rows.len() > 0 && self.end() + bytes > segment_bytes)
    }

    /// What the file may yet grow by without asking, its footer included.
    pub(crate) fn growth(&self) -> u64 {
        charge(self.end(), self.rows.len(), self.kept_bytes).saturating_sub(self.file_bytes)
    }

    /// By how much that becomes more with a further record of so many bytes.
    pub(crate) fn growth_for(&self, bytes: u64) -> u64 {
        let end = self.end().max(SEGMENT_HEADER_BYTES as u64) + bytes;
        charge(end, self.rows.len() + 1, self.kept_bytes).saturating_sub(self.file_bytes).saturating_sub(self.growth())
    }

    /// What was appended and not written.
    pub(crate) fn gathered_bytes(&self) -> u64 {
        self.gathered.len() as u64
    }

    /// Writes what has gathered. On failure it stays gathered, and the file ends where it ended.
    pub(crate) fn write(&mut self) -> std::io::Result<()> {
        if self.gathered.is_empty() { Ok(()) } else { self.write_with(&[]) }
    }

    /// As `write`, with a body behind it, whose padding is the first that gathers again.
    fn write_with(&mut self, body: &[u8]) -> std::io::Result<()> {
        let behind = self.written + self.gathered.len() as u64;
        let file = &self.segment.file;
        let mut written = file.write_at(&self.gathered, self.written);
        if !body.is_empty() {
            written = written.and_then(|()| file.write_at(body, behind));
        }
        if let Err(error) = written {
            // Whatever cannot be cut is written over by the next attempt, or cut by the next recovery.
            self.cut(self.written);
            return Err(error);
        }
        self.written = behind + body.len() as u64;
        self.set_file_bytes(self.file_bytes.max(self.written));
        self.gathered.clear();
        self.gathered.shrink_to(2 * WRITE_BYTES);
        self.gathered.resize(padding(body.len()), 0);
        Ok(())
    }

    /// Gives the memory of written bytes back, for a class that may fall silent. The next group takes it anew.
    pub(crate) fn give_memory_back(&mut self) {
        if self.gathered.is_empty() {
            self.gathered = Vec::new();
        }
    }

    /// Forgets the group and cuts the file back to what is readable; says whether the cut succeeded.
    pub(crate) fn roll_back(&mut self) -> bool {
        self.rows.truncate(self.rows.len() - self.pending.len());
        self.pending.clear();
        self.gathered.clear();
        let is_cut = self.file_bytes == self.published || self.cut(self.published);
        if is_cut {
            self.written = self.published;
        }
        is_cut
    }

    /// As `roll_back`, for a segment that takes no more records: the cut is synced as far as the disk allows, for another segment
    /// will follow, and what a loss of power left of the group would be taken for damage there.
    pub(crate) fn give_up(&mut self) {
        self.roll_back();
        self.give_room_back();
        self.segment.file.sync().ok();
    }

    /// Gives the volume back what it keeps for the file beyond its end, because nothing more will be written.
    pub(crate) fn give_room_back(&mut self) {
        if self.is_preallocated {
            self.cut(self.committed);
        }
    }

    /// Makes the file end at `bytes`; says whether it does.
    fn cut(&mut self, bytes: u64) -> bool {
        let is_cut = self.segment.file.truncate(bytes).is_ok();
        if is_cut {
            self.is_preallocated = false;
            self.set_file_bytes(bytes);
        }
        is_cut
    }

    fn set_file_bytes(&mut self, bytes: u64) {
        self.file_bytes = bytes;
        self.segment.bytes.store(bytes, Ordering::Relaxed);
    }

    /// The group is synced.
    pub(crate) fn publish(&mut self) {
        self.segment.publish(self.pending.drain(..));
        (self.committed, self.published) = (self.written, self.written);
        self.flushed.clear();
    }

    /// The operating system has the group.
    pub(crate) fn publish_unsynced(&mut self) {
        self.flushed.extend_from_slice(&self.pending);
        self.segment.publish(self.pending.drain(..));
        self.published = self.written;
    }

    /// What was flushed is synced, as a part of a segment that is full.
    pub(crate) fn note_synced(&mut self) {
        self.committed = self.published;
        self.flushed.clear();
    }

    /// Records that are readable, and whose sync failed or will never come.
    pub(crate) fn take_flushed(&mut self) -> Option<Stranded<F>> {
        let entries = std::mem::take(&mut self.flushed);
        (!entries.is_empty()).then(|| Stranded {
            class: self.class,
            segment: Arc::clone(&self.segment),
            committed: self.committed,
            entries,
            tries: 0,
        })
    }
}
