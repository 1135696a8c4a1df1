//! The footer of a sealed segment: everything a start must know of its records, so that none of them is visited; pure. It is framed as
//! a record of its own kind, so that a walk over the segment steps over it, and the last bytes of the file say where it starts.
//!
//! ```text
//! footer  = record header of its own kind, row*, summary, padding to 8 with zeros, trailer
//! ```
//!
//! The body's checksum is seeded like a record's, so a footer counts for its own segment alone. It is written with the segment's last
//! records and synced before the next segment of the class is created: a footer is believed in a segment that has a successor, and
//! in the last one of a class the records are walked.

use pipeline::{RecordId, Stored};
use vocabulary::{Class, ClassCounts, Signal};

use crate::format::{
    Fields, FooterHeader, Header, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, SEGMENT_RECORDS_MAX, decode_header, encode_footer_record,
    record_bytes,
};
use crate::index::Entry;
use crate::storage::StorageFile;

/// Length of what the last bytes of a sealed segment say.
pub(crate) const TRAILER_BYTES: u64 = 16;
/// Longest body.
const BODY_BYTES_MAX: usize = SEGMENT_RECORDS_MAX * ROW_BYTES + SUMMARY_BYTES;

pub(crate) const MAGIC: [u8; 8] = *b"FOREBAYE";
pub(crate) const ROW_BYTES: usize = 48;
pub(crate) const SUMMARY_BYTES: usize = 8 + 4 * 8 + 8 * Signal::COUNT * Class::COUNT;

const _: () = assert!(8 + 8 + 4 + 4 + 4 + 4 * Class::COUNT + 1 + 3 == ROW_BYTES);

/// What a footer of so many rows takes up in the file.
pub(crate) fn footer_bytes(rows: usize) -> u64 {
    record_bytes((rows * ROW_BYTES + SUMMARY_BYTES) as u64) + TRAILER_BYTES
}

/// The rows of a footer to be, in the order of the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows(Vec<u8>);

impl Rows {
    pub(crate) fn push(&mut self, entry: &Entry, stored: &Stored) {
        let into = &mut self.0;
        into.extend_from_slice(&entry.sequence.to_le_bytes());
        into.extend_from_slice(&stored.received_unix_ms.to_le_bytes());
        for number in [entry.offset, entry.length, stored.bytes] {
            into.extend_from_slice(&number.to_le_bytes());
        }
        for items in stored.counts.0 {
            into.extend_from_slice(&items.to_le_bytes());
        }
        into.extend_from_slice(&[stored.signal.code(), 0, 0, 0]);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len() / ROW_BYTES
    }

    pub(crate) fn truncate(&mut self, rows: usize) {
        self.0.truncate(rows * ROW_BYTES);
    }

    /// Appends the footer that will stand at `offset`.
    pub(crate) fn encode(&self, class: Class, seed: u32, offset: u64, into: &mut Vec<u8>) {
        let mut summary = Summary::default();
        let mut fields = Fields(&self.0);
        while let Some((_, stored)) = decode_row(&mut fields, class) {
            summary.add(&stored);
        }
        let mut body = Vec::with_capacity(self.0.len() + SUMMARY_BYTES);
        body.extend_from_slice(&self.0);
        summary.encode(&mut body);
        encode_footer_record(&body, seed, offset, into);
        into.extend_from_slice(&MAGIC);
        into.extend_from_slice(&offset.to_le_bytes());
    }
}

/// What the rows amount to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Summary {
    rows: u32,
    sequences: Option<(u64, u64)>,
    received_unix_ms: Option<(u64, u64)>,
    items: [[u64; Class::COUNT]; Signal::COUNT],
}

impl Summary {
    fn add(&mut self, stored: &Stored) {
        let widened = |range: Option<(u64, u64)>, number: u64| {
            Some(range.map_or((number, number), |(low, high)| (low.min(number), high.max(number))))
        };
        self.rows += 1;
        self.sequences = widened(self.sequences, stored.id.sequence);
        self.received_unix_ms = widened(self.received_unix_ms, stored.received_unix_ms);
        for (class, items) in stored.counts.iter() {
            if let Some(cell) = self.items.get_mut(stored.signal as usize).and_then(|row| row.get_mut(class.index())) {
                *cell = cell.saturating_add(u64::from(items));
            }
        }
    }

    fn encode(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&[Signal::COUNT as u8, Class::COUNT as u8, 0, 0]);
        into.extend_from_slice(&self.rows.to_le_bytes());
        let ((first, last), (from, to)) = (self.sequences.unwrap_or_default(), self.received_unix_ms.unwrap_or_default());
        for number in [first, last, from, to].iter().chain(self.items.iter().flatten()) {
            into.extend_from_slice(&number.to_le_bytes());
        }
    }
}

/// The records of a sealed segment, if the file of `bytes` bytes ends with a whole footer.
pub(crate) fn read_footer(file: &impl StorageFile, class: Class, seed: u32, bytes: u64) -> std::io::Result<Option<Vec<(Entry, Stored)>>> {
    let mut trailer = [0; TRAILER_BYTES as usize];
    let Some(trailer_offset) = bytes.checked_sub(TRAILER_BYTES) else { return Ok(None) };
    file.read_at(&mut trailer, trailer_offset)?;
    let mut fields = Fields(&trailer);
    if fields.take() != Some(MAGIC) {
        return Ok(None);
    }
    let offset = fields.u64().unwrap_or_default();
    if offset < SEGMENT_HEADER_BYTES as u64 || offset > trailer_offset {
        return Ok(None);
    }
    let mut header = [0; RECORD_HEADER_BYTES];
    file.read_at(&mut header, offset)?;
    let Some(Header::Footer(header)) = decode_header(&header, seed, offset) else { return Ok(None) };
    if offset + record_bytes(u64::from(header.length)) != trailer_offset || header.length as usize > BODY_BYTES_MAX {
        return Ok(None);
    }
    let mut body = vec![0; header.length as usize];
    let got = file.read_at(&mut body, offset + RECORD_HEADER_BYTES as u64)?;
    body.truncate(got);
    Ok(decode_body(&header, class, seed, offset, &body))
}

fn decode_body(header: &FooterHeader, class: Class, seed: u32, offset: u64, body: &[u8]) -> Option<Vec<(Entry, Stored)>> {
    if !header.is_body_whole(seed, offset, body) {
        return None;
    }
    let (rows, written) = body.split_at_checked(body.len().checked_sub(SUMMARY_BYTES)?)?;
    let mut fields = Fields(rows);
    let mut summary = Summary::default();
    let mut records = Vec::with_capacity(rows.len() / ROW_BYTES);
    while let Some((entry, stored)) = decode_row(&mut fields, class) {
        if u64::from(entry.offset) + record_bytes(u64::from(entry.length)) > offset {
            return None;
        }
        summary.add(&stored);
        records.push((entry, stored));
    }
    let mut expected = Vec::with_capacity(SUMMARY_BYTES);
    summary.encode(&mut expected);
    (fields.0.is_empty() && expected == written).then_some(records)
}

fn decode_row(fields: &mut Fields<'_>, class: Class) -> Option<(Entry, Stored)> {
    let sequence = fields.u64()?;
    let received_unix_ms = fields.u64()?;
    let (offset, length, bytes) = (fields.u32()?, fields.u32()?, fields.u32()?);
    let mut counts = ClassCounts::default();
    for items in &mut counts.0 {
        *items = fields.u32()?;
    }
    let signal = Signal::from_code(fields.u8()?)?;
    fields.take::<3>()?;
    let id = RecordId { class, sequence };
    Some((Entry { sequence, offset, length }, Stored { id, signal, counts, bytes, received_unix_ms }))
}
