//! The bytes of a segment, format version 2; pure. With `footer`, which holds the last part, the one place that knows the layout.
//! All numbers are little-endian. Version 1 has no footer and no compressed bodies, and is otherwise the same.
//!
//! ```text
//! segment   = segment header, record*, [footer]         records start at offsets that are multiples of 8
//! record    = record header, body, padding to 8 with zeros
//! ```
//!
//! What each field holds stands in `page`, and in docs/format.md, which is made of it.
//!
//! Checksums are CRC-32C. Those of a record are seeded: the header's with (buffer, class, creation, offset), the body's with the
//! sequence as well. Invariants that follow:
//!
//! - a header that checks out was written for exactly this place of exactly this file, so stale, copied or misdirected bytes, and
//!   records hidden in a body, never pass for records; the marker at a multiple of 8 is where a reader resumes behind damage;
//! - the length is covered by the header's checksum, so a damaged body costs that record alone, and the next one is found at once;
//! - a record is read and allocated for only after its header checked out and its end lies within the file.

use pipeline::RecordId;
use vocabulary::{Class, ClassCounts, Signal};

use crate::Append;

/// Length of a segment's header.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 64;
/// Length of a record's header.
pub(crate) const RECORD_HEADER_BYTES: usize = 56;
/// Records start at multiples of this.
pub(crate) const ALIGNMENT: u64 = 8;
/// Largest body: four times what an OTLP receiver accepts by default, so that nothing acceptable is refused here.
pub(crate) const BODY_BYTES_MAX: usize = 64 << 20;
/// The format this release writes, and the newest it reads; it reads every one from 1 on.
pub(crate) const VERSION: u16 = 2;
/// Most records of one segment: it bounds the footer, and with it what opening holds at once, to about 3 MiB.
pub(crate) const SEGMENT_RECORDS_MAX: usize = 1 << 16;

pub(crate) const MAGIC: [u8; 8] = *b"FOREBAYS";
pub(crate) const MARKER: [u8; 4] = *b"FBR1";
pub(crate) const KIND_RECORD: u8 = 1;
pub(crate) const KIND_FOOTER: u8 = 2;
pub(crate) const PACKED_ZSTD: u8 = 1;

const _: () = assert!(8 + 2 + 2 + 1 + 3 + 16 + 8 + 8 + 12 + 4 == SEGMENT_HEADER_BYTES);
const _: () = assert!(4 + 1 + 1 + 2 + 4 + 4 * Class::COUNT + 4 + 8 + 8 + 4 + 4 == RECORD_HEADER_BYTES);
const _: () = assert!(RECORD_HEADER_BYTES as u64 + ALIGNMENT - 1 + crate::footer::ROW_BYTES as u64 <= pipeline::RECORD_DISK_BYTES);
const _: () = assert!((SEGMENT_HEADER_BYTES as u64).is_multiple_of(ALIGNMENT) && (RECORD_HEADER_BYTES as u64).is_multiple_of(ALIGNMENT));

/// Sixteen random bytes that name one buffer for as long as its directory lives.
pub(crate) type BufferId = [u8; 16];

/// What tells one segment from every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentId {
    pub(crate) buffer: BufferId,
    pub(crate) class: Class,
    /// Counts the files this buffer ever created.
    pub(crate) creation: u64,
}

/// What the first bytes of a segment say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegmentHeader {
    Known {
        id: SegmentId,
        /// In which it was written.
        version: u16,
        /// Of the record for which the segment was begun.
        first_sequence: u64,
    },
    /// Whole, and written by a release that knows more.
    Newer(u16),
    /// Not a header, or a damaged one.
    Broken,
}

/// A record's header, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) signal: Signal,
    /// Of the body as it is stored.
    pub(crate) length: u32,
    /// Of the body as it came, if it is stored compressed.
    pub(crate) unpacked_bytes: Option<u32>,
    pub(crate) counts: ClassCounts,
    pub(crate) body_crc: u32,
    pub(crate) sequence: u64,
    pub(crate) received_unix_ms: u64,
}

/// A record in the form in which it is stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    /// With the body as it is stored.
    pub(crate) append: Append<'a>,
    /// Of the body as it came, if it is stored compressed.
    pub(crate) unpacked_bytes: Option<u32>,
}

/// What a checked header stands before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    Record(RecordHeader),
    Footer(FooterHeader),
}

/// The header of a footer, which is laid out as a record's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FooterHeader {
    pub(crate) length: u32,
    pub(crate) body_crc: u32,
}

/// Reads fields off the front of foreign bytes.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl Fields<'_> {
    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_le_bytes)
    }
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }
    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }
    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

impl SegmentId {
    /// Where the checksums of this segment's records start from.
    pub(crate) fn seed(&self) -> u32 {
        let class = crc32c::crc32c_append(crc32c::crc32c(&self.buffer), &[self.class.code()]);
        crc32c::crc32c_append(class, &self.creation.to_le_bytes())
    }

    /// The header of this segment's file.
    pub(crate) fn encode(&self, first_sequence: u64, into: &mut Vec<u8>) {
        let start = into.len();
        into.extend_from_slice(&MAGIC);
        into.extend_from_slice(&VERSION.to_le_bytes());
        into.extend_from_slice(&(SEGMENT_HEADER_BYTES as u16).to_le_bytes());
        into.extend_from_slice(&[self.class.code(), 0, 0, 0]);
        into.extend_from_slice(&self.buffer);
        into.extend_from_slice(&self.creation.to_le_bytes());
        into.extend_from_slice(&first_sequence.to_le_bytes());
        into.extend_from_slice(&[0; 12]);
        let crc = crc32c::crc32c(into.get(start..).unwrap_or_default());
        into.extend_from_slice(&crc.to_le_bytes());
    }

    /// The name of this segment's file; names sort by age.
    pub(crate) fn name(&self) -> String {
        segment_name(self.class, self.creation)
    }
}

/// Names sort by age whatever the class.
pub(crate) fn segment_name(class: Class, creation: u64) -> String {
    format!("{creation:016x}-{}.segment", class.label())
}

/// Class and creation counter of a segment's name.
pub(crate) fn parse_segment_name(name: &str) -> Option<(Class, u64)> {
    let (creation, label) = name.strip_suffix(".segment")?.split_once('-')?;
    let class = Class::ALL.into_iter().find(|class| class.label() == label)?;
    let creation = u64::from_str_radix(creation, 16).ok()?;
    (segment_name(class, creation) == name).then_some((class, creation))
}

/// Reads the start of a segment.
pub(crate) fn decode_segment_header(bytes: &[u8]) -> SegmentHeader {
    checked_segment_header(bytes).unwrap_or(SegmentHeader::Broken)
}

fn checked_segment_header(bytes: &[u8]) -> Option<SegmentHeader> {
    let header = bytes.first_chunk::<SEGMENT_HEADER_BYTES>()?;
    let (covered, crc) = header.split_last_chunk::<4>()?;
    let mut fields = Fields(covered);
    if fields.take()? != MAGIC || crc32c::crc32c(covered) != u32::from_le_bytes(*crc) {
        return None;
    }
    let version = fields.u16()?;
    if version > VERSION {
        return Some(SegmentHeader::Newer(version));
    }
    fields.u16()?;
    let class = Class::from_code(fields.u8()?)?;
    fields.take::<3>()?;
    let buffer = fields.take()?;
    let id = SegmentId { buffer, class, creation: fields.u64()? };
    Some(SegmentHeader::Known { id, version, first_sequence: fields.u64()? })
}

/// How many bytes a record with this body takes, padding included.
pub(crate) fn record_bytes(body: u64) -> u64 {
    (RECORD_HEADER_BYTES as u64 + body).next_multiple_of(ALIGNMENT)
}

/// Appends the record that will stand at `offset` of the segment with this seed.
pub(crate) fn encode_record(record: &Record<'_>, seed: u32, offset: u64, into: &mut Vec<u8>) {
    let body = record.append.body;
    into.reserve(record_bytes(body.len() as u64) as usize);
    encode_record_header(record, seed, offset, into);
    into.extend_from_slice(body);
    into.resize(into.len() + padding(body.len()), 0);
}

/// Appends the header of that record alone: its body and so many zeros as [`padding`] says belong behind it.
pub(crate) fn encode_record_header(record: &Record<'_>, seed: u32, offset: u64, into: &mut Vec<u8>) {
    let &Record { append: Append { id, signal, counts, received_unix_ms, body }, unpacked_bytes } = record;
    let header = RecordHeader {
        signal,
        length: u32::try_from(body.len()).unwrap_or(u32::MAX),
        unpacked_bytes,
        counts,
        body_crc: body_crc(seed, offset, id.sequence, body),
        sequence: id.sequence,
        received_unix_ms,
    };
    encode_header(KIND_RECORD, header.signal.code(), &header, place_crc(seed, offset), into);
}

/// Zeros behind a body of this length.
pub(crate) fn padding(body: usize) -> usize {
    (record_bytes(body as u64) - RECORD_HEADER_BYTES as u64) as usize - body
}

/// Appends the footer, which will stand at `offset`, without what follows its body.
pub(crate) fn encode_footer_record(body: &[u8], seed: u32, offset: u64, into: &mut Vec<u8>) {
    let header = RecordHeader {
        // Its place in the header is written as 0.
        signal: Signal::Traces,
        length: u32::try_from(body.len()).unwrap_or(u32::MAX),
        unpacked_bytes: None,
        counts: ClassCounts::default(),
        body_crc: body_crc(seed, offset, 0, body),
        sequence: 0,
        received_unix_ms: 0,
    };
    encode_header(KIND_FOOTER, 0, &header, place_crc(seed, offset), into);
    into.extend_from_slice(body);
    into.resize(into.len() + padding(body.len()), 0);
}

fn encode_header(kind: u8, signal: u8, header: &RecordHeader, place: u32, into: &mut Vec<u8>) {
    let start = into.len();
    into.extend_from_slice(&MARKER);
    let packing = if header.unpacked_bytes.is_some() { PACKED_ZSTD } else { 0 };
    into.extend_from_slice(&[kind, signal, packing, 0]);
    into.extend_from_slice(&header.length.to_le_bytes());
    for items in header.counts.0 {
        into.extend_from_slice(&items.to_le_bytes());
    }
    into.extend_from_slice(&header.body_crc.to_le_bytes());
    into.extend_from_slice(&header.sequence.to_le_bytes());
    into.extend_from_slice(&header.received_unix_ms.to_le_bytes());
    into.extend_from_slice(&header.unpacked_bytes.unwrap_or(0).to_le_bytes());
    let header_crc = crc32c::crc32c_append(place, into.get(start..).unwrap_or_default());
    into.extend_from_slice(&header_crc.to_le_bytes());
}

/// The record header at `offset`, if one was written for this place.
pub(crate) fn decode_record_header(bytes: &[u8], seed: u32, offset: u64) -> Option<RecordHeader> {
    match decode_header(bytes, seed, offset)? {
        Header::Record(header) => Some(header),
        Header::Footer(_) => None,
    }
}

/// The header of a record or a footer at `offset`, if one was written for this place.
pub(crate) fn decode_header(bytes: &[u8], seed: u32, offset: u64) -> Option<Header> {
    let header = bytes.first_chunk::<RECORD_HEADER_BYTES>()?;
    let (covered, crc) = header.split_last_chunk::<4>()?;
    let mut fields = Fields(covered);
    if fields.take()? != MARKER || crc32c::crc32c_append(place_crc(seed, offset), covered) != u32::from_le_bytes(*crc) {
        return None;
    }
    let kind = fields.u8()?;
    let signal = fields.u8()?;
    let [packing, _] = fields.take()?;
    let length = fields.u32()?;
    let mut counts = ClassCounts::default();
    for items in &mut counts.0 {
        *items = fields.u32()?;
    }
    let body_crc = fields.u32()?;
    match kind {
        KIND_RECORD => {
            let (signal, sequence, received_unix_ms) = (Signal::from_code(signal)?, fields.u64()?, fields.u64()?);
            let unpacked_bytes = match (packing, fields.u32()?) {
                (0, _) => None,
                (PACKED_ZSTD, bytes) if bytes as usize <= BODY_BYTES_MAX => Some(bytes),
                _ => return None,
            };
            Some(Header::Record(RecordHeader { signal, length, unpacked_bytes, counts, body_crc, sequence, received_unix_ms }))
        }
        KIND_FOOTER => Some(Header::Footer(FooterHeader { length, body_crc })),
        _ => None,
    }
}

impl<'a> Record<'a> {
    /// A record whose body is stored as it came.
    pub(crate) const fn plain(append: Append<'a>) -> Self {
        Self { append, unpacked_bytes: None }
    }

    /// What a start says of the record.
    pub(crate) fn stored(&self) -> pipeline::Stored {
        let Append { id, signal, counts, received_unix_ms, body } = self.append;
        let bytes = self.unpacked_bytes.unwrap_or_else(|| u32::try_from(body.len()).unwrap_or(u32::MAX));
        pipeline::Stored { id, signal, counts, bytes, received_unix_ms }
    }
}

impl FooterHeader {
    /// Whether this is the body that belongs to the footer at `offset`.
    pub(crate) fn is_body_whole(&self, seed: u32, offset: u64, body: &[u8]) -> bool {
        body.len() == self.length as usize && body_crc(seed, offset, 0, body) == self.body_crc
    }
}

impl RecordHeader {
    /// Where the checksum of the body at `offset` starts from; fed with the body it must end at `body_crc`.
    pub(crate) fn body_seed(&self, seed: u32, offset: u64) -> u32 {
        crc32c::crc32c_append(place_crc(seed, offset), &self.sequence.to_le_bytes())
    }

    pub(crate) fn stored(&self, class: Class) -> pipeline::Stored {
        pipeline::Stored {
            id: RecordId { class, sequence: self.sequence },
            signal: self.signal,
            counts: self.counts,
            bytes: self.unpacked_bytes.unwrap_or(self.length),
            received_unix_ms: self.received_unix_ms,
        }
    }
}

fn place_crc(seed: u32, offset: u64) -> u32 {
    crc32c::crc32c_append(seed, &offset.to_le_bytes())
}

fn body_crc(seed: u32, offset: u64, sequence: u64, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(place_crc(seed, offset), &sequence.to_le_bytes()), body)
}
