//! The page of the format against what the encoders write: every field lies where the page says it lies.

use pipeline::Stored;
use vocabulary::{Class, ClassCounts, Signal};

use super::{BUFFER, append, checkpoint, id, none_settled};
use crate::checkpoint::{SLOT_HEADER_BYTES, encode_slot};
use crate::footer::{ROW_BYTES, Rows, SUMMARY_BYTES};
use crate::format::{RECORD_HEADER_BYTES, Record, SEGMENT_HEADER_BYTES, SegmentId, VERSION, encode_record};
use crate::identity;
use crate::index::Entry;
use crate::page::{Field, footer_row, footer_summary, identity_head, length, record_header, segment_header, slot_header, trailer};

const SEGMENT: SegmentId = SegmentId { buffer: BUFFER, class: Class::High, creation: 0x1234 };

/// What a field must hold; none for a checksum that is seeded, which decoding proves.
type Expected<'a> = (&'a str, Option<Vec<u8>>);

fn holds<'a>(name: &'a str, bytes: impl AsRef<[u8]>) -> Expected<'a> {
    (name, Some(bytes.as_ref().to_vec()))
}

fn compare(fields: &[Field], written: &[u8], expected: &[Expected<'_>]) {
    assert_eq!((length(fields), fields.len()), (written.len(), expected.len()));
    let mut at = 0;
    for (field, (name, bytes)) in fields.iter().zip(expected) {
        let found = &written[at..at + field.bytes];
        assert_eq!((field.name, bytes.as_deref().unwrap_or(found)), (*name, found));
        at += field.bytes;
    }
}

fn counts() -> ClassCounts {
    ClassCounts([11, 12, 13, 14])
}

fn numbers(counts: ClassCounts) -> Vec<u8> {
    counts.0.iter().flat_map(|items| items.to_le_bytes()).collect()
}

#[test]
fn the_page_places_the_fields_of_a_segment_and_its_records() {
    let mut file = Vec::new();
    SEGMENT.encode(7, &mut file);
    let expected = [
        holds("magic", b"FOREBAYS"),
        holds("version", VERSION.to_le_bytes()),
        holds("header length", (SEGMENT_HEADER_BYTES as u16).to_le_bytes()),
        holds("class", [Class::High.code()]),
        holds("zeros", [0; 3]),
        holds("buffer", BUFFER),
        holds("creation", 0x1234_u64.to_le_bytes()),
        holds("first sequence", 7_u64.to_le_bytes()),
        holds("more zeros", [0; 12]),
        holds("checksum", crc32c::crc32c(&file[..SEGMENT_HEADER_BYTES - 4]).to_le_bytes()),
    ];
    compare(&segment_header(), &file, &expected);
    let mut plain = append(id(Class::High, 9), b"packed");
    (plain.signal, plain.counts) = (Signal::Metrics, counts());
    let mut record = Vec::new();
    encode_record(&Record { append: plain, unpacked_bytes: Some(99) }, SEGMENT.seed(), 64, &mut record);
    let expected = [
        holds("marker", b"FBR1"),
        holds("kind", [1]),
        holds("signal", [Signal::Metrics.code()]),
        holds("packing", [1]),
        holds("zero", [0]),
        holds("length", 6_u32.to_le_bytes()),
        holds("items", numbers(counts())),
        ("body checksum", None),
        holds("sequence", 9_u64.to_le_bytes()),
        holds("received", plain.received_unix_ms.to_le_bytes()),
        holds("unpacked length", 99_u32.to_le_bytes()),
        ("header checksum", None),
    ];
    compare(&record_header(), &record[..RECORD_HEADER_BYTES], &expected);
}

#[test]
fn the_page_places_the_fields_of_a_footer() {
    let (entry, received) = (Entry { sequence: 9, offset: 64, length: 6 }, 1_700_000_000_009_u64);
    let stored = Stored { id: id(Class::High, 9), signal: Signal::Metrics, counts: counts(), bytes: 99, received_unix_ms: received };
    let (mut rows, mut file) = (Rows::default(), Vec::new());
    rows.push(&entry, &stored);
    rows.encode(Class::High, SEGMENT.seed(), 128, &mut file);
    let (row, rest) = file[RECORD_HEADER_BYTES..].split_at(ROW_BYTES);
    let expected = [
        holds("sequence", 9_u64.to_le_bytes()),
        holds("received", received.to_le_bytes()),
        holds("offset", 64_u32.to_le_bytes()),
        holds("length", 6_u32.to_le_bytes()),
        holds("body length", 99_u32.to_le_bytes()),
        holds("items", numbers(counts())),
        holds("signal", [Signal::Metrics.code()]),
        holds("zeros", [0; 3]),
    ];
    compare(&footer_row(), row, &expected);
    let mut items = [[0_u64; Class::COUNT]; Signal::COUNT];
    items[Signal::Metrics.index()] = counts().0.map(u64::from);
    let expected = [
        holds("signals", [Signal::COUNT as u8]),
        holds("classes", [Class::COUNT as u8]),
        holds("zeros", [0; 2]),
        holds("rows", 1_u32.to_le_bytes()),
        holds("sequences", [9_u64.to_le_bytes(); 2].concat()),
        holds("times", [received.to_le_bytes(); 2].concat()),
        holds("items", items.as_flattened().iter().flat_map(|items| items.to_le_bytes()).collect::<Vec<_>>()),
    ];
    compare(&footer_summary(), &rest[..SUMMARY_BYTES], &expected);
    let tail = &file[file.len() - length(&trailer())..];
    compare(&trailer(), tail, &[holds("magic", b"FOREBAYE"), holds("offset", 128_u64.to_le_bytes())]);
}

#[test]
fn the_page_places_the_fields_of_a_checkpoint_and_of_the_identity() {
    let slot = encode_slot(BUFFER, 9, &checkpoint(3, none_settled(), none_settled()));
    let (header, body) = slot.split_at(SLOT_HEADER_BYTES);
    let expected = [
        holds("magic", b"FOREBAYC"),
        holds("version", crate::checkpoint::VERSION.to_le_bytes()),
        holds("zeros", [0; 2]),
        holds("length", (body.len() as u32).to_le_bytes()),
        holds("buffer", BUFFER),
        holds("generation", 9_u64.to_le_bytes()),
        ("body checksum", None),
        holds("header checksum", crc32c::crc32c(&header[..SLOT_HEADER_BYTES - 4]).to_le_bytes()),
    ];
    compare(&slot_header(), header, &expected);
    let file = identity::encode(BUFFER, "who");
    let expected = [
        holds("magic", b"FOREBAYI"),
        holds("version", identity::VERSION.to_le_bytes()),
        holds("length", 3_u16.to_le_bytes()),
        holds("buffer", BUFFER),
    ];
    let head = identity_head();
    compare(&head, &file[..length(&head)], &expected);
}
