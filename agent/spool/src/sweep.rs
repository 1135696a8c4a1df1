//! Finds the records of one class, decides what is torn and what is damaged, and repairs what can be repaired in place.
//!
//! - A segment with a successor was synced before that was created: if it has a whole footer, the footer names its records and none
//!   of them is visited. The last segment of a class is walked, and so is one without a whole footer.
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
use crate::footer::{Rows, TRAILER_BYTES, read_footer};
use crate::format::{FooterHeader, RecordHeader, SEGMENT_HEADER_BYTES, SEGMENT_RECORDS_MAX, VERSION, record_bytes};
use crate::index::{Entry, Segment};
use crate::log::tail::Tail;
use crate::points::reach;
use crate::recovery::{Candidate, Survey};
use crate::scan::{Found, Scanner};
use crate::storage::{Storage, StorageFile};

/// What file systems round the size of a file up to.
const FILE_BLOCK_BYTES: u64 = 4096;

/// What one class holds.
pub(crate) struct SweptClass<F> {
    pub(crate) segments: Vec<Arc<Segment<F>>>,
    /// The segment that goes on growing.
    pub(crate) tail: Option<Tail<F>>,
    /// Ascending, each id once.
    pub(crate) stored: Vec<Stored>,
    /// What damage took of what no checkpoint names, where its header or the footer still tells what it was.
    pub(crate) damaged: Vec<Stored>,
    /// Highest sequence that the directory tells, in damaged records, footers and evidence too.
    pub(crate) highest: u64,
}

/// What one segment holds.
#[derive(Default)]
struct Swept {
    records: Vec<(Entry, Stored)>,
    /// Records without a whole body that no checkpoint names, and where they began.
    lost: Vec<(u64, Stored)>,
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
    /// Whether it ends with a whole footer.
    is_sealed: bool,
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
    let last = candidates.len().saturating_sub(1);
    let mut sweeps = Vec::with_capacity(candidates.len());
    for (position, candidate) in candidates.into_iter().enumerate() {
        let swept = sweep_segment(&candidate, known, position < last).map_err(survey.read_error(&candidate.name))?;
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
    let highest = sweeps.iter().map(|(candidate, swept)| swept.highest.max(candidate.first_sequence)).max().unwrap_or(0);
    let highest = highest.max(survey.highest_in_evidence(class));
    if let Some(next) = checkpoint.and_then(|checkpoint| checkpoint.next_sequence.get_mut(class.index())) {
        *next = (*next).max(highest.saturating_add(1));
    }

    let may_be_torn = |position| position == last && !is_missing;
    let lost = sweeps.iter_mut().enumerate().filter(|(_, (candidate, swept))| swept.is_kept(candidate));
    let lost = lost.flat_map(|(position, (_, swept))| swept.take_lost(may_be_torn(position)));
    let mut damaged: Vec<Stored> =
        lost.filter(|lost| found.binary_search_by_key(&lost.id.sequence, |(_, entry, _)| entry.sequence).is_err()).collect();
    damaged.sort_by_key(|lost| lost.id);
    damaged.dedup_by_key(|lost| lost.id);

    let mut class_log = SweptClass { segments: Vec::new(), tail: None, stored: Vec::new(), damaged, highest };
    let mut by_holder: Vec<Vec<(Entry, &Stored)>> = sweeps.iter().map(|_| Vec::new()).collect();
    for (holder, entry, stored) in &found {
        by_holder.get_mut(*holder).into_iter().for_each(|records| records.push((*entry, stored)));
    }
    for (position, ((candidate, swept), mut records)) in sweeps.into_iter().zip(by_holder).enumerate() {
        let may_be_torn = may_be_torn(position);
        if position == last {
            give_growth_back(&candidate);
        }
        let may_grow = position == last && candidate.version == Some(VERSION) && !swept.is_sealed && records.len() < SEGMENT_RECORDS_MAX;
        let Some(segment) = repair(survey, candidate, swept, may_be_torn)? else { continue };
        segment.publish(records.iter().map(|(entry, _)| *entry));
        let (bytes, is_damaged) = (segment.bytes.load(Ordering::Relaxed), segment.is_damaged.load(Ordering::Relaxed));
        if may_grow && !is_damaged && bytes < survey.segment_bytes {
            records.sort_by_key(|(entry, _)| entry.offset);
            let mut rows = Rows::default();
            records.iter().for_each(|(entry, stored)| rows.push(entry, stored));
            class_log.tail = Some(Tail::resume(Arc::clone(&segment), class, bytes, rows));
        }
        class_log.segments.push(segment);
    }
    class_log.stored = found.into_iter().map(|(.., stored)| stored).collect();
    Ok(class_log)
}

fn sweep_segment<F: StorageFile>(candidate: &Candidate<F>, known: &IdRanges, has_successor: bool) -> std::io::Result<Swept> {
    let (class, seed, bytes) = (candidate.id.class, candidate.id.seed(), candidate.bytes);
    let sealed = if has_successor { read_footer(&candidate.file, class, seed, bytes)? } else { None };
    match sealed {
        Some(records) => {
            let highest = records.iter().map(|(entry, _)| entry.sequence).max().unwrap_or(0);
            Ok(Swept { records, highest, whole_end: bytes, is_sealed: true, ..Swept::default() })
        }
        None => {
            let mut swept = walk_segment(candidate, known)?;
            // Where a header cannot be read, the footer may still tell which record it was.
            for (entry, stored) in read_footer(&candidate.file, class, seed, bytes)?.into_iter().flatten() {
                swept.highest = swept.highest.max(entry.sequence);
                if !known.contains(entry.sequence) {
                    swept.lost.push((u64::from(entry.offset), stored));
                }
            }
            Ok(swept)
        }
    }
}

/// The highest sequence that a file tells: its header, the headers of its records, or its footer.
pub(crate) fn highest_sequence<F: StorageFile>(candidate: &Candidate<F>) -> std::io::Result<u64> {
    let mut highest = highest_in_footer(candidate)?.max(candidate.first_sequence);
    let mut scanner = Scanner::new(&candidate.file, candidate.id.seed(), candidate.bytes);
    while let Some(found) = scanner.next()? {
        if let Found::Record { header, .. } = found {
            highest = highest.max(header.sequence);
        }
    }
    Ok(highest)
}

fn highest_in_footer<F: StorageFile>(candidate: &Candidate<F>) -> std::io::Result<u64> {
    let rows = read_footer(&candidate.file, candidate.id.class, candidate.id.seed(), candidate.bytes)?;
    Ok(rows.iter().flatten().map(|(entry, _)| entry.sequence).max().unwrap_or(0))
}

fn walk_segment<F: StorageFile>(candidate: &Candidate<F>, known: &IdRanges) -> std::io::Result<Swept> {
    let mut swept = Swept { whole_end: SEGMENT_HEADER_BYTES as u64, ..Swept::default() };
    let mut scanner = Scanner::new(&candidate.file, candidate.id.seed(), candidate.bytes);
    while let Some(found) = scanner.next()? {
        let (offset, header) = match found {
            Found::Hole { offset, bytes } => {
                swept.tail.push(Damage { file: candidate.name.clone(), offset, bytes, kind: DamageKind::Hole, lost: None });
                continue;
            }
            Found::Footer { offset, header } => {
                let is_whole = scanner.is_footer_whole(offset, &header)?;
                swept.seal(candidate, offset, &header, is_whole);
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
            None => {
                swept.lost.push((offset, header.stored(candidate.id.class)));
                swept.tail.push(lost_body(candidate, offset, &header));
            }
        }
    }
    Ok(swept)
}

impl Swept {
    /// A footer was met: with nothing but whole records before it, it ends the segment.
    fn seal<F>(&mut self, candidate: &Candidate<F>, offset: u64, header: &FooterHeader, is_whole: bool) {
        let bytes = record_bytes(u64::from(header.length)) + TRAILER_BYTES;
        if !is_whole {
            self.tail.push(Damage { file: candidate.name.clone(), offset, bytes, kind: DamageKind::Footer, lost: None });
        } else if self.tail.is_empty() && offset == self.whole_end {
            self.is_sealed = true;
            self.whole_end = offset + bytes;
        }
    }

    /// Whether the log goes on with the file. One that is removed or set aside is not there at the next start, which would count less if
    /// this one counted what it has lost.
    fn is_kept<F>(&self, candidate: &Candidate<F>) -> bool {
        candidate.version.is_some() || self.whole_end > SEGMENT_HEADER_BYTES as u64
    }

    /// What it has lost; what lies in a torn tail was never acknowledged.
    fn take_lost(&mut self, may_be_torn: bool) -> impl Iterator<Item = Stored> {
        let end = if may_be_torn { self.whole_end } else { u64::MAX };
        std::mem::take(&mut self.lost).into_iter().filter(move |(offset, _)| *offset < end).map(|(_, stored)| stored)
    }

    fn take(&mut self, class: Class, offset: u32, header: &RecordHeader, is_known: bool) {
        self.damage.append(&mut self.tail);
        self.whole_end = u64::from(offset) + record_bytes(u64::from(header.length));
        self.is_fresh |= !is_known;
        self.records.push((Entry { sequence: header.sequence, offset, length: header.length }, header.stored(class)));
    }
}

/// What the volume kept for the growth of a segment outlives the process that had it, and would count for nothing in the budget of this
/// one. A volume on which that fails only keeps it.
fn give_growth_back<F: StorageFile>(candidate: &Candidate<F>) {
    let most = candidate.bytes.next_multiple_of(FILE_BLOCK_BYTES);
    if candidate.file.allocated().is_ok_and(|allocated| allocated > most) {
        candidate.file.truncate(candidate.bytes).ok();
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
    let is_kept = swept.is_kept(&candidate);
    let Candidate { name, id, file, bytes, version, .. } = candidate;
    let is_header_whole = version.is_some();
    if !is_kept {
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
        reach("recovery.cut");
    } else {
        damage.extend(swept.tail);
    }
    // The last segment may have been cut by a process that was killed before it synced the cut. Others will follow it, and what a
    // loss of power brought back then would be taken for damage.
    if swept.is_fresh || may_be_torn || kept_bytes != bytes {
        file.sync().map_err(|source| OpenError::Sync { path: survey.storage.path(&name), source })?;
    }
    let path = survey.storage.path(&name);
    let segment = Segment::new(name, path, id.seed(), file, kept_bytes);
    segment.is_damaged.store(!damage.is_empty(), Ordering::Relaxed);
    damage.into_iter().for_each(|damage| survey.report(damage));
    Ok(Some(Arc::new(segment)))
}
