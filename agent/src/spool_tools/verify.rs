//! `spool verify`: reads every byte, checks every checksum, and says exactly what is damaged and what that cost.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use pipeline::{Checkpoint, IdRanges, RecordId, Standing, Stored};
use serde::Serialize;
use spool::{Damage, Inspection, Place, SegmentFile};
use vocabulary::Class;

use super::show;
use crate::args::Output;

/// Ranges of lost ids that are listed one by one.
const RANGES_MAX: usize = 1000;
/// Rows of a table for a person.
const ROWS_MAX: usize = 40;
/// How often a directory with an owner is looked at again for what is missing.
const LOOKS: usize = 3;

/// What a verification found.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Findings {
    directory: String,
    segments: u64,
    records: u64,
    items: u64,
    bytes: u64,
    damage: Vec<DamageRow>,
    /// Ids that the checkpoint names as stored, and that are nowhere.
    lost: Vec<LostRow>,
    lost_records: u64,
    /// What of the items on disk, by the books, is not on disk. Unknown while an agent changes both.
    lost_items: Option<Vec<LostItems>>,
    /// Bytes behind the last whole record of the newest segment of a class: no damage. The next start cuts them off.
    unfinished: Vec<UnfinishedRow>,
    owner: Option<String>,
    #[serde(skip)]
    found: [IdRanges; Class::COUNT],
}

#[derive(Serialize)]
struct DamageRow {
    file: String,
    offset: u64,
    bytes: u64,
    what: String,
    /// The record that stood there, and its items, where its header could still be read.
    record: Option<String>,
    items: Option<u64>,
}

#[derive(Serialize)]
struct LostRow {
    class: &'static str,
    first: u64,
    last: u64,
}

#[derive(Serialize)]
struct LostItems {
    destination: String,
    items: u64,
}

#[derive(Serialize)]
struct UnfinishedRow {
    file: String,
    offset: u64,
    bytes: u64,
}

/// Verifies a directory; fails with exit code 1 if anything is damaged or lost.
pub(super) fn verify(directory: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let inspection = super::inspect(directory)?;
    let mut findings = Findings { directory: directory.display().to_string(), ..Findings::default() };
    findings.owner = inspection.owner().map(str::to_owned);
    findings.damage.extend(inspection.damage().iter().map(|damage| DamageRow::of(damage, None)));
    let bar = show::bar_of_bytes("verifying", inspection.segments().iter().map(|segment| segment.bytes).sum());
    let mut held = inspection.checkpoint().map(expected_items).unwrap_or_default();
    for segment in inspection.segments() {
        let before = bar.position();
        findings.read(&inspection, segment, &mut held, &bar)?;
        bar.set_position(before + segment.bytes);
    }
    bar.finish_and_clear();
    findings.find_lost(directory, &inspection)?;
    if findings.owner.is_none() && inspection.checkpoint().is_some() {
        findings.lost_items = Some(held.into_iter().filter(|lost| lost.items > 0).collect());
    }
    let is_whole = findings.is_whole();
    match output {
        Output::Json => show::json(&findings)?,
        Output::Table => show::text(findings.describe(began))?,
    }
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Per destination, in the order of the checkpoint's list, the items it has on disk by the books.
fn expected_items(checkpoint: &Checkpoint) -> Vec<LostItems> {
    let on_disk = |name: &String| {
        let book = checkpoint.books.destinations.iter().find(|book| book.name == *name);
        book.into_iter().flat_map(|book| book.cells.iter().flatten()).map(|cell| cell.held.on_disk).sum()
    };
    checkpoint.settled.iter().map(|(name, _)| LostItems { destination: name.clone(), items: on_disk(name) }).collect()
}

impl Findings {
    fn read(
        &mut self,
        inspection: &Inspection,
        segment: &SegmentFile,
        held: &mut [LostItems],
        bar: &indicatif::ProgressBar,
    ) -> anyhow::Result<()> {
        // Gone means settled, or copied elsewhere.
        let Some(open) = inspection.segment(segment)? else { return Ok(()) };
        (self.segments, self.bytes) = (self.segments + 1, self.bytes + segment.bytes);
        let (mut walk, mut damage, before) = (open.walk(true)?, Vec::new(), bar.position());
        while let Some(place) = walk.next_place()? {
            let record = match place {
                Place::Record(record) => record,
                Place::Damaged { damage: found, lost } => {
                    damage.push(DamageRow::of(&found, lost.map(|record| record.counts.total())));
                    continue;
                }
                Place::Unfinished { offset, bytes } => {
                    self.unfinished.push(UnfinishedRow { file: segment.name.clone(), offset, bytes });
                    continue;
                }
            };
            bar.set_position(before + record.offset);
            if self.find(record.stored.id) {
                self.take(&record.stored, inspection.checkpoint(), held);
            }
        }
        // Files are used again: what was read of one that is gone by now may have been another's.
        if !damage.is_empty() && !inspection.is_gone(segment)? {
            self.damage.append(&mut damage);
        }
        Ok(())
    }

    /// Notes that a record is there; whether it was not known yet.
    fn find(&mut self, id: RecordId) -> bool {
        let Some(found) = self.found.get_mut(id.class.index()) else { return false };
        let is_first = !found.contains(id.sequence);
        found.insert(id.sequence);
        is_first
    }

    fn take(&mut self, record: &Stored, checkpoint: Option<&Checkpoint>, held: &mut [LostItems]) {
        let items = record.counts.total();
        (self.records, self.items) = (self.records + 1, self.items + items);
        if let Some(Standing::Held { needing, was_stored: true }) = checkpoint.map(|checkpoint| checkpoint.standing(record.id)) {
            for (_, held) in held.iter_mut().enumerate().filter(|(position, _)| needing & (1 << position) != 0) {
                held.items = held.items.saturating_sub(items);
            }
        }
    }

    /// What the checkpoint named before everything was read, and names still, must be found. An owner may have copied a record behind
    /// the place that was read already: so what is missing is looked for again before it counts as lost.
    fn find_lost(&mut self, directory: &Path, inspection: &Inspection) -> anyhow::Result<()> {
        let Some(before) = inspection.checkpoint() else { return Ok(()) };
        let mut lost = self.missing(before, before);
        for _ in 0..if self.owner.is_some() { LOOKS } else { 0 } {
            if lost.iter().all(|(_, ids)| ids.is_empty()) {
                break;
            }
            let later = super::inspect(directory)?;
            self.look_for_more(&later)?;
            lost = self.missing(before, later.checkpoint().unwrap_or(before));
        }
        for (class, ids) in lost {
            for (first, last) in ids.iter() {
                self.lost_records += last - first + 1;
                if self.lost.len() < RANGES_MAX {
                    self.lost.push(LostRow { class: class.label(), first, last });
                }
            }
        }
        Ok(())
    }

    fn missing(&self, before: &Checkpoint, after: &Checkpoint) -> Vec<(Class, IdRanges)> {
        let classes = Class::ALL.into_iter().zip(&before.stored).zip(&after.stored).zip(&self.found);
        classes.map(|(((class, before), after), found)| (class, missing(before, after, found))).collect()
    }

    fn look_for_more(&mut self, later: &Inspection) -> anyhow::Result<()> {
        for segment in later.segments() {
            let Some(open) = later.segment(segment)? else { continue };
            let mut walk = open.walk(false)?;
            while let Some(place) = walk.next_place()? {
                if let Place::Record(record) = place {
                    self.find(record.stored.id);
                }
            }
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.damage.is_empty() && self.lost_records == 0
    }

    fn describe(&self, began: Instant) -> String {
        let mut text = String::new();
        if !self.damage.is_empty() {
            let headings = ["DAMAGED FILE", ">OFFSET", ">BYTES", "WHAT", "RECORD?", ">ITEMS?"];
            text.push_str(&show::table(&headings, self.damage.iter().take(ROWS_MAX).map(DamageRow::cells).collect()));
            text.push_str(&more(self.damage.len()));
        }
        if !self.lost.is_empty() {
            let row =
                |lost: &LostRow| vec![lost.class.to_owned(), show::ids(lost.first, lost.last), show::count(lost.last - lost.first + 1)];
            text.push_str(&show::table(&["LOST CLASS", "IDS", ">RECORDS"], self.lost.iter().take(ROWS_MAX).map(row).collect()));
            text.push_str(&more(self.lost.len()));
        }
        for lost in self.lost_items.iter().flatten() {
            let items = show::counted(lost.items, "item", "items");
            text.push_str(&format!(
                "lost for {}: {items} by the books; an agent counts them as Corrupt when it starts\n",
                lost.destination
            ));
        }
        for UnfinishedRow { file, offset, bytes } in &self.unfinished {
            let what = "room for more, or what was being written and never acknowledged";
            text.push_str(&format!("{file} from {offset} on, {}: {what}\n", show::bytes(*bytes)));
        }
        let (segments, records) = (show::counted(self.segments, "segment", "segments"), show::counted(self.records, "record", "records"));
        let (items, bytes) = (show::counted(self.items, "item", "items"), show::bytes(self.bytes));
        let verdict = if self.is_whole() {
            "whole".to_owned()
        } else {
            let places = show::counted(self.damage.len() as u64, "damaged place", "damaged places");
            format!("{places}, {} lost", show::counted(self.lost_records, "record", "records"))
        };
        let took = began.elapsed().as_secs_f64();
        text.push_str(&format!("{}: {verdict}. Read {segments}, {records} with {items}, {bytes} in {took:.1} s\n", self.directory));
        text
    }
}

/// What follows a table that was cut.
fn more(rows: usize) -> String {
    let unseen = rows.saturating_sub(ROWS_MAX);
    if unseen == 0 { "\n".to_owned() } else { format!("… and {} more: --output json names them\n\n", show::count(unseen as u64)) }
}

/// What both sets hold and the third does not.
fn missing(before: &IdRanges, after: &IdRanges, found: &IdRanges) -> IdRanges {
    let mut others = IdRanges::default();
    let mut from = Some(0);
    for (first, last) in found.iter() {
        if let (Some(from), Some(end)) = (from, first.checked_sub(1)) {
            others.insert_range(from, end);
        }
        from = last.checked_add(1);
    }
    if let Some(from) = from {
        others.insert_range(from, u64::MAX);
    }
    intersection(&intersection(before, after), &others)
}

fn intersection(one: &IdRanges, other: &IdRanges) -> IdRanges {
    let mut both = IdRanges::default();
    let (mut left, mut right) = (one.iter().peekable(), other.iter().peekable());
    while let (Some(&(first, last)), Some(&(other_first, other_last))) = (left.peek(), right.peek()) {
        both.insert_range(first.max(other_first), last.min(other_last));
        if last < other_last {
            left.next();
        } else {
            right.next();
        }
    }
    both
}

impl DamageRow {
    fn of(damage: &Damage, items: Option<u64>) -> Self {
        let Damage { file, offset, bytes, kind, lost } = damage;
        Self { file: file.clone(), offset: *offset, bytes: *bytes, what: show::damage(*kind), record: lost.map(show::name), items }
    }

    fn cells(&self) -> Vec<String> {
        let record = self.record.clone().unwrap_or_else(|| "-".to_owned());
        let items = self.items.map_or_else(|| "-".to_owned(), show::count);
        vec![self.file.clone(), self.offset.to_string(), show::count(self.bytes), self.what.clone(), record, items]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_was_named_before_and_after_and_not_found() {
        let set = |ranges: &[(u64, u64)]| ranges.iter().copied().collect::<IdRanges>();
        let found = missing(&set(&[(1, 20), (30, 40)]), &set(&[(5, 35)]), &set(&[(1, 9), (12, 12), (40, 50)]));
        assert_eq!(found, set(&[(10, 11), (13, 20), (30, 35)]));
        assert_eq!(missing(&set(&[(1, u64::MAX)]), &set(&[(1, u64::MAX)]), &set(&[(1, u64::MAX - 1)])), set(&[(u64::MAX, u64::MAX)]));
    }
}
