//! Walking the records that were asked for, in a directory whose owner may go on meanwhile: it deletes segments whose records are
//! settled, copies what waits long behind the newest records, and uses files again.

use std::collections::BTreeSet;
use std::path::Path;

use bytes::Bytes;
use indicatif::ProgressBar;
use pipeline::IdRanges;
use spool::{Damage, Inspection, Located, Place, ReadError, SegmentFile};
use vocabulary::Class;

use super::selection::Selection;
use super::show;

/// How often a directory is looked at again for records that were copied elsewhere. Only a segment that waits long is copied, so the
/// second look finds them.
const LOOKS_MAX: usize = 4;

/// A body, or why it cannot be read.
pub(super) type Body = Result<Bytes, ReadError>;

/// One walk over a directory.
struct Pass<'a, V> {
    inspection: &'a Inspection,
    selection: &'a Selection,
    visit: V,
    bar: ProgressBar,
    seen: [IdRanges; Class::COUNT],
    damage: Vec<Damage>,
    /// Segments that hold nothing new any more.
    done: BTreeSet<String>,
}

/// Calls `visit` for each record of the selection, by class from the most important and then by age; each id once. Returns what was
/// found damaged instead of a record.
pub(super) fn each(
    directory: &Path,
    inspection: &Inspection,
    selection: &Selection,
    what: &'static str,
    visit: impl FnMut(&SegmentFile, &Located, Body) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Damage>> {
    let bytes = inspection.segments().iter().filter(|segment| selection.touches(segment)).map(|segment| segment.bytes).sum();
    let bar = show::bar_of_bytes(what, bytes);
    let (seen, damage, done) = (Default::default(), Vec::new(), BTreeSet::new());
    let mut pass = Pass { inspection, selection, visit, bar, seen, damage, done };
    let mut is_complete = pass.look(inspection)?;
    for _ in 1..LOOKS_MAX {
        if is_complete {
            break;
        }
        is_complete = pass.look(&super::inspect(directory)?)?;
    }
    pass.bar.finish_and_clear();
    Ok(pass.damage)
}

impl<V: FnMut(&SegmentFile, &Located, Body) -> anyhow::Result<()>> Pass<'_, V> {
    /// Walks the segments of one look; says whether none of them vanished.
    fn look(&mut self, now: &Inspection) -> anyhow::Result<bool> {
        let mut is_complete = true;
        for segment in now.segments().iter().filter(|segment| self.selection.touches(segment)) {
            if self.done.contains(&segment.name) {
                continue;
            }
            let is_there = self.segment(now, segment)?;
            is_complete &= is_there;
            if is_there && !segment.is_newest {
                self.done.insert(segment.name.clone());
            }
        }
        Ok(is_complete)
    }

    /// Walks one segment; false if it is gone.
    fn segment(&mut self, now: &Inspection, segment: &SegmentFile) -> anyhow::Result<bool> {
        let Some(open) = now.segment(segment)? else { return Ok(false) };
        let (mut walk, mut damage, before) = (open.walk(false)?, Vec::new(), self.bar.position());
        while let Some(place) = walk.next_place()? {
            let record = match place {
                Place::Record(record) => record,
                Place::Damaged { damage: found, .. } => {
                    damage.push(found);
                    continue;
                }
                Place::Unfinished { .. } => continue,
            };
            self.bar.set_position(before + record.offset);
            if self.is_seen(&record) || !self.selection.takes(self.inspection.checkpoint(), &record.stored) {
                continue;
            }
            let body = open.body(&record);
            if body.is_err() && now.is_gone(segment)? {
                return Ok(false);
            }
            self.note_seen(&record);
            (self.visit)(segment, &record, body)?;
        }
        self.bar.set_position(before + segment.bytes);
        if !damage.is_empty() && now.is_gone(segment)? {
            return Ok(false);
        }
        self.damage.append(&mut damage);
        Ok(true)
    }

    fn is_seen(&self, record: &Located) -> bool {
        let id = record.stored.id;
        self.seen.get(id.class.index()).is_some_and(|seen| seen.contains(id.sequence))
    }

    fn note_seen(&mut self, record: &Located) {
        let id = record.stored.id;
        if let Some(seen) = self.seen.get_mut(id.class.index()) {
            seen.insert(id.sequence);
        }
    }
}
