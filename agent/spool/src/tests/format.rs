//! The layout of a segment against a file of format version 1 that is kept for ever, and against hostile lengths.

use vocabulary::{Class, Signal};

use super::{BUFFER, append, body, id};
use crate::format::{
    SEGMENT_HEADER_BYTES, SegmentHeader, SegmentId, decode_record_header, decode_segment_header, encode_record, parse_segment_name,
};
use crate::model::ModelDisk;
use crate::scan::{Found, Scanner};
use crate::storage::Storage;

/// A segment with records 1 and 2 of class High, bodies of 5 and 40 bytes.
const VERSION_1: &[u8] = include_bytes!("fixtures/version-1.segment");
const SEGMENT: SegmentId = SegmentId { buffer: BUFFER, class: Class::High, creation: 0x1234 };

fn encoded() -> Vec<u8> {
    let mut file = Vec::new();
    SEGMENT.encode(1, &mut file);
    for (sequence, length) in [(1, 5), (2, 40)] {
        let id = id(Class::High, sequence);
        let offset = file.len() as u64;
        encode_record(&append(id, &body(id, length)), SEGMENT.seed(), offset, &mut file);
    }
    file
}

fn walk(content: &[u8]) -> Vec<Found> {
    let disk = ModelDisk::default();
    disk.place("file", content);
    let file = disk.open("file").unwrap();
    let mut scanner = Scanner::new(&file, SEGMENT.seed(), content.len() as u64);
    let mut found = Vec::new();
    while let Some(next) = scanner.next().unwrap() {
        if let Found::Record { offset, header } = next {
            assert!(scanner.is_body_whole(offset, &header).unwrap());
        }
        found.push(next);
    }
    found
}

#[test]
fn a_segment_of_version_1_is_read_and_still_written_byte_for_byte() {
    assert_eq!(decode_segment_header(VERSION_1), SegmentHeader::Known(SEGMENT));
    let records: Vec<(u64, u32, Signal)> = walk(VERSION_1)
        .into_iter()
        .map(|found| match found {
            Found::Record { header, .. } => (header.sequence, header.length, header.signal),
            Found::Hole { .. } => panic!("the fixture has no hole"),
        })
        .collect();
    assert_eq!(records, [(1, 5, Signal::Logs), (2, 40, Signal::Logs)]);
    assert_eq!(encoded(), VERSION_1);
}

#[test]
fn a_record_counts_only_at_its_own_place_of_its_own_segment() {
    let file = encoded();
    let record = &file[SEGMENT_HEADER_BYTES..];
    let at = SEGMENT_HEADER_BYTES as u64;
    assert!(decode_record_header(record, SEGMENT.seed(), at).is_some());
    assert!(decode_record_header(record, SEGMENT.seed(), at + 8).is_none());
    let recycled = SegmentId { creation: SEGMENT.creation + 1, ..SEGMENT };
    assert!(decode_record_header(record, recycled.seed(), at).is_none());
}

#[test]
fn a_length_beyond_the_file_is_a_hole_and_no_allocation() {
    let mut file = encoded();
    file.truncate(file.len() - 8);
    let found = walk(&file);
    assert!(matches!(found[..], [Found::Record { .. }, Found::Hole { .. }]), "{found:?}");
}

#[test]
fn a_reader_resumes_at_the_next_record_behind_damage_of_any_length() {
    let whole = encoded();
    let second = SEGMENT_HEADER_BYTES + 64;
    for damaged in SEGMENT_HEADER_BYTES..second {
        let mut file = whole.clone();
        file[SEGMENT_HEADER_BYTES..=damaged].fill(0xff);
        let found = walk(&file);
        let hole = Found::Hole { offset: SEGMENT_HEADER_BYTES as u64, bytes: 64 };
        assert!(found.first() == Some(&hole) && matches!(found.last(), Some(Found::Record { .. })), "{damaged}: {found:?}");
    }
}

#[test]
fn only_the_exact_name_of_a_segment_is_one() {
    assert_eq!(parse_segment_name(&SEGMENT.name()), Some((Class::High, 0x1234)));
    for name in ["1234-high.segment", "0000000000001234-high.segment.damaged", "+000000000001234-high.segment", "checkpoint-0", ""] {
        assert_eq!(parse_segment_name(name), None, "{name}");
    }
}
