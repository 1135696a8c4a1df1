//! Long-waiting records pin no segment: the few that are still needed of a large one are copied behind the newest records of their
//! class, under their ids, and the file is given back. A crash in between leaves a record twice, which is found once. Each byte that is
//! copied gives seven back, so that this adds at most a seventh to what is written; while the budget is short, one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pipeline::{IdRanges, RecordId};
use vocabulary::Class;

use super::Log;
use super::budget::Growth;
use crate::Append;
use crate::error::CompactError;
use crate::format::{Record, RecordHeader, record_bytes};
use crate::index::{Entry, Segment};
use crate::storage::Storage;

/// A segment is copied when less than this part of it is needed, and while the budget is short.
const LIVE_PART: u64 = 8;
const LIVE_PART_SHORT: u64 = 2;
/// What a step copies before it leaves the rest of a segment to the next ones: appends that wait meanwhile wait for a few milliseconds.
const STEP_BYTES: u64 = 256 << 10;

/// Where the next step looks.
#[derive(Clone, Debug, Default)]
pub(super) struct Cursor {
    class: usize,
    position: usize,
    /// The segment that was copied in part, and up to which sequence.
    begun: Option<(String, u64)>,
}

impl<S: Storage> Log<S> {
    /// Looks at one segment, and copies what is needed of it if that is little, or the next part of it. Does nothing while a group is under way. Returns the
    /// bytes of the segment that was given back.
    pub(crate) fn compact_step(&mut self, settled: &[IdRanges; Class::COUNT]) -> Result<u64, CompactError> {
        let is_group_under_way = !self.closing.is_empty() || self.tails.iter().flatten().any(|tail| tail.is_touched());
        let Some((class, segment)) = self.next_candidate().filter(|_| !is_group_under_way) else { return Ok(0) };
        let nothing = IdRanges::default();
        let needed = segment.needed(settled.get(class.index()).unwrap_or(&nothing));
        let live: u64 = needed.iter().map(|entry| record_bytes(u64::from(entry.length))).sum();
        let bytes = segment.bytes.load(Ordering::Relaxed);
        let part = if self.is_room_short { LIVE_PART_SHORT } else { LIVE_PART };
        // A damaged segment stays as it is until its records are settled: it is evidence.
        if needed.is_empty() || live.saturating_mul(part) >= bytes || segment.is_damaged.load(Ordering::Relaxed) {
            return Ok(0);
        }
        let begun = self.cursor.begun.take().filter(|(name, _)| *name == segment.name).map_or(0, |(_, copied)| copied);
        let mut rest = needed.into_iter().filter(|entry| entry.sequence > begun).peekable();
        let (mut copied, mut copied_bytes) = (begun, 0);
        while copied_bytes < STEP_BYTES
            && let Some(entry) = rest.next()
        {
            (copied, copied_bytes) = (entry.sequence, copied_bytes + record_bytes(u64::from(entry.length)));
            if let Err(error) = self.copy(class, &segment, entry) {
                match self.broken.take() {
                    Some(_) => self.abandon(),
                    None => self.cut_back(),
                }
                return Err(error);
            }
        }
        self.commit().map_err(|source| CompactError::Commit { source })?;
        if rest.peek().is_some() {
            // What was copied is durable, and stays for as long as it is needed, wherever it goes from there.
            self.cursor =
                Cursor { position: self.cursor.position.saturating_sub(1), begun: Some((segment.name.clone(), copied)), ..self.cursor };
            return Ok(0);
        }
        let gone = self.remove(class, segment, &[]).map_err(|source| CompactError::Release { source })?;
        self.settle_removals(gone.spare().into_iter().collect()).map_err(|source| CompactError::Release { source })?;
        Ok(bytes)
    }

    /// The next segment in turn that does not grow.
    fn next_candidate(&mut self) -> Option<(Class, Arc<Segment<S::File>>)> {
        let class = *Class::ALL.get(self.cursor.class % Class::COUNT)?;
        let found = self.index.segments(class).into_iter().nth(self.cursor.position);
        self.cursor.position += 1;
        let Some(segment) = found else {
            self.cursor = Cursor { class: (self.cursor.class + 1) % Class::COUNT, ..Cursor::default() };
            return None;
        };
        let grows = self.tail(class).as_ref().is_some_and(|tail| Arc::ptr_eq(&tail.segment, &segment));
        (!grows).then_some((class, segment))
    }

    fn copy(&mut self, class: Class, segment: &Segment<S::File>, entry: Entry) -> Result<(), CompactError> {
        let id = RecordId { class, sequence: entry.sequence };
        let (header, body) = segment.read_stored(id, entry).map_err(|source| CompactError::Read { source })?;
        let RecordHeader { signal, counts, received_unix_ms, unpacked_bytes, .. } = header;
        let append = Append { id, signal, counts, received_unix_ms, body: &body };
        self.append_record(&Record { append, unpacked_bytes }, Growth::Copy).map_err(|source| CompactError::Append { source })
    }
}
