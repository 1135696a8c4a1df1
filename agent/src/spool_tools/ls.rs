//! `spool ls`: what a directory holds, segment by segment and destination by destination.

use std::path::Path;
use std::process::ExitCode;

use pipeline::{Checkpoint, DestinationCell, IdRanges, Standing, Stored};
use serde::Serialize;
use spool::{Inspection, Place, SegmentFile};
use vocabulary::{Class, Signal};

use super::show;
use crate::args::Output;

/// Everything `ls` has to say.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listing {
    directory: String,
    pipeline: Option<String>,
    buffer: Option<String>,
    /// The process that runs on it.
    owner: Option<String>,
    /// None if no checkpoint can be read.
    checkpoint_generation: Option<u64>,
    segments: Vec<SegmentRow>,
    destinations: Vec<DestinationRow>,
    /// Records on disk that the checkpoint does not know: they count as received from the next start on.
    new_records: u64,
    new_items: u64,
    set_aside: Vec<SetAsideRow>,
    /// What is wrong outside the segments.
    damage: Vec<String>,
    #[serde(skip)]
    seen: [IdRanges; Class::COUNT],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SegmentRow {
    name: String,
    class: &'static str,
    creation: u64,
    bytes: u64,
    records: u64,
    /// Of those, how many no destination needs.
    settled_records: u64,
    /// Indexed as the signals are.
    #[serde(serialize_with = "by_signal")]
    items: [u64; Signal::COUNT],
    first_id: Option<u64>,
    last_id: Option<u64>,
    oldest: Option<String>,
    newest: Option<String>,
    #[serde(skip)]
    received_unix_ms: Option<(u64, u64)>,
    damaged_places: u64,
    /// Bytes behind the last whole record: room for more, or what was being written. The next start cuts them off.
    unfinished_bytes: u64,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct DestinationRow {
    class: &'static str,
    destination: String,
    /// On disk and needed by this destination.
    held_records: u64,
    held_items: u64,
    oldest: Option<String>,
    #[serde(skip)]
    oldest_unix_ms: Option<u64>,
    /// By the books of the checkpoint, in items.
    memory_items: u64,
    delivered_items: u64,
    dropped_items: u64,
    quarantined_items: u64,
}

#[derive(Serialize)]
struct SetAsideRow {
    name: String,
    bytes: u64,
}

/// Lists a directory.
pub(super) fn ls(directory: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let inspection = super::inspect(directory)?;
    let listing = list(directory, &inspection)?;
    match output {
        Output::Json => show::json(&listing)?,
        Output::Table => show::text(describe(&listing))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(directory: &Path, inspection: &Inspection) -> anyhow::Result<Listing> {
    let checkpoint = inspection.checkpoint();
    let mut listing = Listing {
        directory: directory.display().to_string(),
        pipeline: inspection.pipeline().map(str::to_owned),
        buffer: inspection.buffer_id(),
        owner: inspection.owner().map(str::to_owned),
        checkpoint_generation: checkpoint.map(|checkpoint| checkpoint.generation),
        segments: Vec::new(),
        destinations: checkpoint.map(destination_rows).unwrap_or_default(),
        new_records: 0,
        new_items: 0,
        set_aside: inspection.set_aside().iter().map(|file| SetAsideRow { name: file.name.clone(), bytes: file.bytes }).collect(),
        seen: Default::default(),
        damage: inspection.damage().iter().map(|damage| format!("{}: {}", damage.file, show::damage(damage.kind))).collect(),
    };
    let bar = show::bar_of_bytes("reading", inspection.segments().iter().map(|segment| segment.bytes).sum());
    for segment in inspection.segments() {
        if let Some(row) = listing.segment_row(inspection, segment)? {
            listing.segments.push(row);
        }
        bar.inc(segment.bytes);
    }
    bar.finish_and_clear();
    for row in &mut listing.destinations {
        row.oldest = show::rfc3339(row.oldest_unix_ms);
    }
    listing.destinations.retain(|row| !row.is_empty());
    Ok(listing)
}

impl Listing {
    /// None if the segment is gone by now.
    fn segment_row(&mut self, inspection: &Inspection, segment: &SegmentFile) -> anyhow::Result<Option<SegmentRow>> {
        let Some(open) = inspection.segment(segment)? else { return Ok(None) };
        let mut row = SegmentRow::of(segment);
        let mut walk = open.walk(false)?;
        while let Some(place) = walk.next_place()? {
            match place {
                Place::Record(record) => {
                    let standing = inspection.checkpoint().map_or(Standing::New, |checkpoint| checkpoint.standing(record.stored.id));
                    row.add(&record.stored, standing);
                    // What waits long is copied, and found twice until its first place is given back.
                    if self.is_first(&record.stored) {
                        self.add(&record.stored, standing);
                    }
                }
                Place::Damaged { .. } => row.damaged_places += 1,
                Place::Unfinished { bytes, .. } => row.unfinished_bytes = bytes,
            }
        }
        if row.damaged_places > 0 && inspection.is_gone(segment)? {
            return Ok(None);
        }
        row.oldest = show::rfc3339(row.received_unix_ms.map(|(oldest, _)| oldest));
        row.newest = show::rfc3339(row.received_unix_ms.map(|(_, newest)| newest));
        Ok(Some(row))
    }

    fn is_first(&mut self, record: &Stored) -> bool {
        let Some(seen) = self.seen.get_mut(record.id.class.index()) else { return false };
        let is_first = !seen.contains(record.id.sequence);
        seen.insert(record.id.sequence);
        is_first
    }

    fn add(&mut self, record: &Stored, standing: Standing) {
        match standing {
            Standing::Settled => {}
            Standing::New => {
                self.new_records += 1;
                self.new_items += record.counts.total();
            }
            Standing::Held { needing, .. } => {
                let of_class = self.destinations.iter_mut().filter(|row| row.class == record.id.class.label());
                for (_, row) in of_class.enumerate().filter(|(position, _)| needing & (1 << position) != 0) {
                    row.held_records += 1;
                    row.held_items += record.counts.total();
                    row.oldest_unix_ms = Some(row.oldest_unix_ms.unwrap_or(u64::MAX).min(record.received_unix_ms));
                }
            }
        }
    }
}

impl SegmentRow {
    fn of(segment: &SegmentFile) -> Self {
        Self {
            name: segment.name.clone(),
            class: segment.class.label(),
            creation: segment.creation,
            bytes: segment.bytes,
            records: 0,
            settled_records: 0,
            items: [0; Signal::COUNT],
            first_id: None,
            last_id: None,
            oldest: None,
            newest: None,
            received_unix_ms: None,
            damaged_places: 0,
            unfinished_bytes: 0,
        }
    }

    fn add(&mut self, record: &Stored, standing: Standing) {
        self.records += 1;
        self.settled_records += u64::from(standing == Standing::Settled);
        if let Some(items) = self.items.get_mut(record.signal.index()) {
            *items += record.counts.total();
        }
        let (sequence, at) = (record.id.sequence, record.received_unix_ms);
        self.first_id = Some(self.first_id.map_or(sequence, |first| first.min(sequence)));
        self.last_id = Some(self.last_id.map_or(sequence, |last| last.max(sequence)));
        self.received_unix_ms = Some(self.received_unix_ms.map_or((at, at), |(oldest, newest)| (oldest.min(at), newest.max(at))));
    }

    fn state(&self) -> String {
        let mut parts = Vec::new();
        if self.damaged_places > 0 {
            parts.push(format!("DAMAGED in {}", show::counted(self.damaged_places, "place", "places")));
        }
        match self.settled_records {
            0 => {}
            settled if settled == self.records => parts.push("settled".to_owned()),
            settled => parts.push(format!("{} settled", show::count(settled))),
        }
        if self.unfinished_bytes > 0 {
            parts.push(format!("{} behind the last record", show::bytes(self.unfinished_bytes)));
        }
        parts.join(", ")
    }

    fn cells(&self) -> Vec<String> {
        let items = Signal::ALL.into_iter().zip(self.items).filter(|(_, items)| *items > 0);
        let items: Vec<_> = items.map(|(signal, items)| format!("{} {}", show::count(items), signal.label())).collect();
        let ids = self.first_id.zip(self.last_id).map_or_else(|| "-".to_owned(), |(first, last)| show::ids(first, last));
        vec![
            self.name.clone(),
            show::bytes(self.bytes),
            show::count(self.records),
            ids,
            show::time(self.received_unix_ms.map(|(oldest, _)| oldest)),
            show::time(self.received_unix_ms.map(|(_, newest)| newest)),
            items.join(", "),
            self.state(),
        ]
    }
}

impl DestinationRow {
    fn is_empty(&self) -> bool {
        let Self { held_records, memory_items, delivered_items, dropped_items, quarantined_items, .. } = self;
        [held_records, memory_items, delivered_items, dropped_items, quarantined_items].into_iter().all(|&number| number == 0)
    }

    fn add(&mut self, cell: &DestinationCell) {
        let DestinationCell { routed: _, delivered, dropped, held } = cell;
        self.delivered_items += delivered;
        self.dropped_items += dropped.iter().sum::<u64>();
        self.memory_items += held.queued;
        self.quarantined_items += held.quarantined;
    }

    fn cells(&self) -> Vec<String> {
        let numbers = [self.held_records, self.held_items, self.delivered_items, self.dropped_items, self.quarantined_items];
        let mut cells = vec![self.class.to_owned(), self.destination.clone()];
        cells.extend(numbers.map(show::count));
        cells.extend([show::time(self.oldest_unix_ms), show::count(self.memory_items)]);
        cells
    }
}

/// One row per class and destination, in the order of the checkpoint's list within each class.
fn destination_rows(checkpoint: &Checkpoint) -> Vec<DestinationRow> {
    let mut rows = Vec::new();
    for class in Class::ALL {
        for (name, _) in &checkpoint.settled {
            let mut row = DestinationRow { class: class.label(), destination: name.clone(), ..DestinationRow::default() };
            let book = checkpoint.books.destinations.iter().find(|book| book.name == *name);
            let cells = book.into_iter().flat_map(|book| &book.cells).filter_map(|signal| signal.get(class.index()));
            cells.for_each(|cell| row.add(cell));
            rows.push(row);
        }
    }
    rows
}

fn describe(listing: &Listing) -> String {
    let mut text = String::new();
    let mut line = |what: &str, value: &str| text.push_str(&format!("{what:<11} {value}\n"));
    line("directory", &listing.directory);
    line("pipeline", listing.pipeline.as_deref().unwrap_or("unknown: the file `identity` is missing or damaged"));
    line("buffer", listing.buffer.as_deref().unwrap_or("unknown"));
    line("in use by", &listing.owner.as_ref().map_or_else(|| "nobody".to_owned(), |owner| format!("{owner}; this is one moment of it")));
    let generation = listing.checkpoint_generation.map(|generation| format!("generation {generation}"));
    line("checkpoint", generation.as_deref().unwrap_or("none that can be read: every record counts as needed"));
    if !listing.segments.is_empty() {
        let headings = ["SEGMENT", ">SIZE", ">RECORDS", "IDS?", "OLDEST (UTC)?", "NEWEST (UTC)?", "ITEMS?", "STATE"];
        text.push('\n');
        text.push_str(&show::table(&headings, listing.segments.iter().map(SegmentRow::cells).collect()));
    }
    if !listing.destinations.is_empty() {
        let headings =
            ["CLASS", "DESTINATION", ">RECORDS", ">ITEMS HELD", ">DELIVERED", ">DROPPED", ">QUARANTINED", "OLDEST (UTC)?", ">IN MEMORY?"];
        text.push('\n');
        text.push_str(&show::table(&headings, listing.destinations.iter().map(DestinationRow::cells).collect()));
    }
    let mut notes = Vec::new();
    if listing.new_records > 0 {
        let (records, items) = (show::counted(listing.new_records, "record", "records"), show::counted(listing.new_items, "item", "items"));
        notes.push(format!(
            "{records} ({items}) not in the checkpoint yet: an agent takes them in when it starts, or with its next checkpoint"
        ));
    }
    notes.extend(listing.damage.iter().map(|damage| format!("damaged: {damage}")));
    notes.extend(listing.set_aside.iter().map(|file| format!("set aside: {}, {}", file.name, show::bytes(file.bytes))));
    if listing.segments.iter().any(|segment| segment.damaged_places > 0) {
        notes.push("`spool verify` says what exactly is damaged and lost".to_owned());
    }
    if listing.segments.is_empty() {
        notes.push("no record is on disk".to_owned());
    }
    if !notes.is_empty() {
        text.push_str(&format!("\n{}\n", notes.join("\n")));
    }
    text
}

fn by_signal<S: serde::Serializer>(items: &[u64; Signal::COUNT], serializer: S) -> Result<S::Ok, S::Error> {
    let present = Signal::ALL.into_iter().zip(items).filter(|(_, items)| **items > 0);
    serializer.collect_map(present.map(|(signal, items)| (signal.label(), items)))
}
