//! The layout of a segment against files of every format version, which are kept for ever, and against hostile lengths.

use pipeline::Stored;
use vocabulary::{Class, Signal};

use super::{BUFFER, append, body, id};
use crate::footer::{Rows, read_footer};
use crate::format::{
    Record, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentId, decode_record_header, decode_segment_header, encode_record, parse_segment_name,
};
use crate::index::Entry;
use crate::model::ModelDisk;
use crate::scan::{Found, Scanner};
use crate::storage::Storage;

/// A segment with records 1 and 2 of class High, bodies of 5 and 40 bytes.
const VERSION_1: &[u8] = include_bytes!("fixtures/version-1.segment");
/// The same, sealed.
const VERSION_2: &[u8] = include_bytes!("fixtures/version-2.segment");
const SEGMENT: SegmentId = SegmentId { buffer: BUFFER, class: Class::High, creation: 0x1234 };

fn encoded() -> Vec<u8> {
    let mut file = Vec::new();
    SEGMENT.encode(1, &mut file);
    for (sequence, length) in [(1, 5), (2, 40)] {
        let id = id(Class::High, sequence);
        let offset = file.len() as u64;
        encode_record(&Record::plain(append(id, &body(id, length))), SEGMENT.seed(), offset, &mut file);
    }
    file
}

/// The records as a footer has them.
fn listed() -> Vec<(Entry, Stored)> {
    let listed = |(sequence, offset, length)| {
        let stored = Record::plain(append(id(Class::High, sequence), &vec![0; length as usize])).stored();
        (Entry { sequence, offset, length }, stored)
    };
    [(1, 64, 5), (2, 128, 40)].into_iter().map(listed).collect()
}

fn sealed() -> Vec<u8> {
    let mut file = encoded();
    let mut rows = Rows::default();
    listed().iter().for_each(|(entry, stored)| rows.push(entry, stored));
    rows.encode(Class::High, SEGMENT.seed(), file.len() as u64, &mut file);
    file
}

fn footer_of(content: &[u8]) -> Option<Vec<(Entry, Stored)>> {
    let disk = ModelDisk::default();
    disk.place("file", content);
    read_footer(&disk.open("file").unwrap(), Class::High, SEGMENT.seed(), content.len() as u64).unwrap()
}

fn walk(content: &[u8]) -> Vec<Found> {
    let disk = ModelDisk::default();
    disk.place("file", content);
    let file = disk.open("file").unwrap();
    let mut scanner = Scanner::new(&file, SEGMENT.seed(), content.len() as u64);
    let mut found = Vec::new();
    while let Some(next) = scanner.next().unwrap() {
        match next {
            Found::Record { offset, header } => assert!(scanner.is_body_whole(offset, &header).unwrap()),
            Found::Footer { offset, header } => assert!(scanner.is_footer_whole(offset, &header).unwrap()),
            Found::Hole { .. } => {}
        }
        found.push(next);
    }
    found
}

#[test]
fn a_segment_of_either_version_is_read_and_the_newest_still_written_byte_for_byte() {
    for (version, content) in [(1, VERSION_1), (2, VERSION_2)] {
        assert_eq!(decode_segment_header(content), SegmentHeader::Known { id: SEGMENT, version, first_sequence: 1 });
        let records: Vec<(u64, u32, Signal)> = walk(content)
            .into_iter()
            .filter_map(|found| match found {
                Found::Record { header, .. } => Some((header.sequence, header.length, header.signal)),
                Found::Footer { .. } => None,
                Found::Hole { .. } => panic!("the fixtures have no hole"),
            })
            .collect();
        assert_eq!(records, [(1, 5, Signal::Logs), (2, 40, Signal::Logs)]);
    }
    assert_eq!((footer_of(VERSION_1), footer_of(VERSION_2)), (None, Some(listed())));
    assert_eq!(sealed(), VERSION_2);
}

#[test]
fn a_footer_that_is_damaged_or_cut_or_another_segments_is_none() {
    let whole = sealed();
    let start = encoded().len();
    for at in start..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        assert_eq!(footer_of(&damaged), None, "byte {at}");
        assert_eq!(footer_of(&whole[..at]), None, "cut at {at}");
    }
    let disk = ModelDisk::default();
    disk.place("file", &whole);
    let recycled = SegmentId { creation: SEGMENT.creation + 1, ..SEGMENT };
    assert_eq!(read_footer(&disk.open("file").unwrap(), Class::High, recycled.seed(), whole.len() as u64).unwrap(), None);
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
