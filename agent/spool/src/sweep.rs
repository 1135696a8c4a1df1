//! Finds the records of one class, decides what is torn and what is damaged, and repairs what can be repaired in place.
//!
//! - A record that the checkpoint names was durable before it, so its header suffices: its body is verified when it is read. Any other
//!   counts if its body is whole.
//! - What follows the last whole record of the last segment was being written when the process ended, and was never acknowledged: it
//!   is cut off in silence. But if the checkpoint names a record that is nowhere, the same bytes are damage.
//! - Damage is reported, stepped over, and kept as evidence when its segment is released.
//! - What was whole but perhaps only in the page cache is synced before anybody is told of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pipeline::{Checkpoint, IdRanges, RecordId, Stored};
use vocabulary::Class;

use crate::damage::{Damage, DamageKind};
use crate::error::OpenError;
use crate::format::{RecordHeader, SEGMENT_HEADER_BYTES, record_bytes};
use crate::index::{Entry, Segment};
use crate::log::Tail;
use crate::recovery::{Candidate, Survey};
use crate::scan::{Found, Scanner};
use crate::storage::{Storage, StorageFile};

/// What one class holds.
pub(crate) struct SweptClass<F> {
    pub(crate) segments: Vec<Arc<Segment<F>>>,
    /// The segment that goes on growing.
    pub(crate) tail: Option<Tail<F>>,
    /// Ascending, each id once.
    pub(crate) stored: Vec<Stored>,
}

/// What one segment holds.
struct Swept {
    records: Vec<(Entry, Stored)>,
    /// Bad bytes with a whole record somewhere behind them.
    damage: Vec<Damage>,
    /// Bad bytes behind the last whole record.
    tail: Vec<Damage>,
    /// Where the last whole record ends.
    whole_end: u64,
    /// Highest sequence seen, in damaged records too: such an id is never given again.
    highest: u64,
    /// Whether a record is here that no checkpoint knows.
    is_fresh: bool,
}

/// Sweeps a class. Raises the checkpoint's next sequence above whatever the disk has seen.
pub(crate) fn sweep_class<S: Storage>(
    survey: &mut Survey<'_, S>,
    class: Class,
    mut candidates: Vec<Candidate<S::File>>,
    checkpoint: Option<&mut Checkpoint>,
) -> Result<SweptClass<S::File>, OpenError> {
    candidates.sort_by(|one, other| (one.id.creation, &one.name).cmp(&(other.id.creation, &other.name)));
    let nothing = IdRanges::default();
    let known = checkpoint.as_ref().and_then(|checkpoint| checkpoint.stored.get(class.index())).unwrap_or(&nothing);
    let mut sweeps = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let swept = sweep_segment(&candidate, known).map_err(survey.read_error(&candidate.name))?;
        sweeps.push((candidate, swept));
    }
    let mut found: Vec<(usize, Entry, Stored)> = Vec::new();
    for (position, (_, swept)) in sweeps.iter_mut().enumerate() {
        found.extend(std::mem::take(&mut swept.records).into_iter().map(|(entry, stored)| (position, entry, stored)));
    }
    found.sort_by_key(|(position, entry, _)| (entry.sequence, *position));
    found.dedup_by_key(|(_, entry, _)| entry.sequence);
    let known_found = found.iter().filter(|(_, entry, _)| known.contains(entry.sequence)).count() as u64;
    let is_missing = known.iter().map(|(first, last)| (last - first).saturating_add(1)).fold(0, u64::saturating_add) > known_found;
    let highest = sweeps.iter().map(|(_, swept)| swept.highest).max().unwrap_or(0);
    if let Some(next) = checkpoint.and_then(|checkpoint| checkpoint.next_sequence.get_mut(class.index())) {
        *next = (*next).max(highest.saturating_add(1));
    }

    let mut class_log = SweptClass { segments: Vec::new(), tail: None, stored: Vec::new() };
    let last = sweeps.len().saturating_sub(1);
    for (position, (candidate, swept)) in sweeps.into_iter().enumerate() {
        let entries: Vec<Entry> = found.iter().filter(|(holder, ..)| *holder == position).map(|(_, entry, _)| *entry).collect();
        let may_be_torn = position == last && !is_missing;
        let Some(segment) = repair(survey, candidate, swept, may_be_torn)? else { continue };
        segment.publish(&entries);
        let (bytes, is_damaged) = (segment.bytes.load(Ordering::Relaxed), segment.is_damaged.load(Ordering::Relaxed));
        if position == last && !is_damaged && bytes < survey.segment_bytes {
            class_log.tail = Some(Tail::resume(Arc::clone(&segment), bytes));
        }
        class_log.segments.push(segment);
    }
    class_log.stored = found.into_iter().map(|(.., stored)| stored).collect();
    Ok(class_log)
}

fn sweep_segment<F: StorageFile>(candidate: &Candidate<F>, known: &IdRanges) -> std::io::Result<Swept> {
    let whole_end = SEGMENT_HEADER_BYTES as u64;
    let mut swept = Swept { records: Vec::new(), damage: Vec::new(), tail: Vec::new(), whole_end, highest: 0, is_fresh: false };
    let mut scanner = Scanner::new(&candidate.file, candidate.id.seed(), candidate.bytes);
    while let Some(found) = scanner.next()? {
        let (offset, header) = match found {
            Found::Hole { offset, bytes } => {
                swept.tail.push(Damage { file: candidate.name.clone(), offset, bytes, kind: DamageKind::Hole, lost: None });
                continue;
            }
            Found::Record { offset, header } => (offset, header),
        };
        swept.highest = swept.highest.max(header.sequence);
        let is_known = known.contains(header.sequence);
        // An error of the disk is no verdict on the bytes: it ends the sweep before anything is cut off.
        let is_whole = is_known || scanner.is_body_whole(offset, &header)?;
        let place = u32::try_from(offset).ok().filter(|_| is_whole);
        match place {
            Some(offset) => swept.take(candidate.id.class, offset, &header, is_known),
            None => swept.tail.push(lost_body(candidate, offset, &header)),
        }
    }
    Ok(swept)
}

impl Swept {
    fn take(&mut self, class: Class, offset: u32, header: &RecordHeader, is_known: bool) {
        self.damage.append(&mut self.tail);
        self.whole_end = u64::from(offset) + record_bytes(u64::from(header.length));
        self.is_fresh |= !is_known;
        self.records.push((Entry { sequence: header.sequence, offset, length: header.length }, header.stored(class)));
    }
}

fn lost_body<F>(candidate: &Candidate<F>, offset: u64, header: &RecordHeader) -> Damage {
    let lost = Some(RecordId { class: candidate.id.class, sequence: header.sequence });
    let bytes = record_bytes(u64::from(header.length));
    Damage { file: candidate.name.clone(), offset, bytes, kind: DamageKind::Body, lost }
}

/// Makes the file what the log will rest on; none if nothing of it is worth keeping in the log.
fn repair<S: Storage>(
    survey: &mut Survey<'_, S>,
    candidate: Candidate<S::File>,
    swept: Swept,
    may_be_torn: bool,
) -> Result<Option<Arc<Segment<S::File>>>, OpenError> {
    let Candidate { name, id, file, bytes, is_header_whole } = candidate;
    let has_records = swept.whole_end > SEGMENT_HEADER_BYTES as u64;
    if !is_header_whole && !has_records {
        if bytes == 0 || may_be_torn {
            survey.storage.remove(&name).map_err(survey.repair_error(&name))?;
            return Ok(None);
        }
        survey.set_aside(&name, bytes)?;
        survey.report(Damage { file: name, offset: 0, bytes, kind: DamageKind::Segment, lost: None });
        return Ok(None);
    }
    let mut damage = swept.damage;
    if !is_header_whole {
        let bytes = SEGMENT_HEADER_BYTES as u64;
        damage.push(Damage { file: name.clone(), offset: 0, bytes, kind: DamageKind::SegmentHeader, lost: None });
    }
    let mut kept_bytes = bytes;
    if may_be_torn && !swept.tail.is_empty() {
        file.truncate(swept.whole_end).map_err(survey.repair_error(&name))?;
        kept_bytes = swept.whole_end;
    } else {
        damage.extend(swept.tail);
    }
    if swept.is_fresh || kept_bytes != bytes {
        file.sync().map_err(|source| OpenError::Sync { path: survey.storage.path(&name), source })?;
    }
    let path = survey.storage.path(&name);
    let segment = Segment::new(name, path, id.seed(), file, kept_bytes);
    segment.is_damaged.store(!damage.is_empty(), Ordering::Relaxed);
    damage.into_iter().for_each(|damage| survey.report(damage));
    Ok(Some(Arc::new(segment)))
}
