//! What a checkpoint slot keeps, and which slot counts.

use pipeline::{Checkpoint, DestinationBook, DestinationCell, Held, IdRanges, InputCell, KernelBook};
use proptest::prelude::*;
use vocabulary::{Class, DropReason, RefuseReason, Signal};

use super::{BUFFER, PIPELINE, checkpoint, empty_books, none_settled, open};
use crate::checkpoint::{SLOT_HEADER_BYTES, Unusable, decode_slot_body, decode_slot_header, encode_slot};
use crate::damage::DamageKind;
use crate::error::{CommitError, OpenError};
use crate::log::room::Limits;
use crate::model::ModelDisk;
use crate::recovery;

/// `full()` as generation 9 of the slot; written once and kept for ever.
const VERSION_1: &[u8] = include_bytes!("fixtures/version-1.checkpoint");

/// Every field differs from every other.
fn full() -> Checkpoint {
    let mut next = 100;
    let mut number = || {
        next += 1;
        next
    };
    let mut books = empty_books();
    for cell in books.inputs.iter_mut().flatten() {
        *cell = InputCell {
            offered: number(),
            received: number(),
            refused: std::array::from_fn(|_| number()),
            filtered: number(),
            dropped: std::array::from_fn(|_| number()),
        };
    }
    books.kernel = KernelBook { attempted: number(), produced: number(), lost: std::array::from_fn(|_| number()) };
    books.requests_refused = std::array::from_fn(|_| number());
    books.crash_volatile_bounds = (number(), number());
    for name in ["primary", "größer"] {
        let mut book = DestinationBook { name: name.to_owned(), cells: Default::default(), attempts: number() };
        for cell in book.cells.iter_mut().flatten() {
            let dropped = std::array::from_fn(|_| number());
            let held = Held { queued: number(), on_disk: number(), in_flight: number(), waiting_retry: number(), quarantined: number() };
            *cell = DestinationCell { routed: number(), delivered: number(), dropped, held };
        }
        books.destinations.push(book);
    }
    let ranges = |first: u64| std::array::from_fn(|class| IdRanges::from_iter([(first, first + class as u64), (first + 50, first + 60)]));
    let settled = vec![("primary".to_owned(), ranges(1)), ("gone".to_owned(), none_settled())];
    Checkpoint { generation: 5, books, settled, stored: ranges(500), next_sequence: [9, 8, 7, u64::MAX], volatile_ceiling: 3 }
}

fn decode(slot: &[u8]) -> Result<Checkpoint, Unusable> {
    let header = decode_slot_header(slot)?;
    decode_slot_body(&header, slot.get(SLOT_HEADER_BYTES..SLOT_HEADER_BYTES + header.length).ok_or(Unusable::Broken)?)
}

/// Gives a slot the checksums its content asks for.
fn seal(slot: &mut [u8]) {
    let seed = crc32c::crc32c_append(crc32c::crc32c(&slot[16..32]), &slot[32..40]);
    let body = crc32c::crc32c_append(seed, &slot[SLOT_HEADER_BYTES..]);
    slot[40..44].copy_from_slice(&body.to_le_bytes());
    let header = crc32c::crc32c(&slot[..44]);
    slot[44..48].copy_from_slice(&header.to_le_bytes());
}

#[test]
fn a_checkpoint_of_version_1_is_read_in_every_field() {
    assert_eq!(decode(VERSION_1), Ok(full()));
    let header = decode_slot_header(VERSION_1).unwrap();
    assert_eq!((header.buffer, header.generation), (BUFFER, 9));
}

#[test]
fn what_is_encoded_is_decoded_again() {
    assert_eq!(decode(&encode_slot(BUFFER, 1, &full())), Ok(full()));
}

#[test]
fn a_flipped_bit_or_a_cut_makes_a_slot_unusable() {
    let slot = encode_slot(BUFFER, 1, &full());
    for at in 0..slot.len() {
        let mut damaged = slot.clone();
        damaged[at] ^= 1 << (at % 8);
        assert_eq!(decode(&damaged), Err(Unusable::Broken), "byte {at}");
    }
    for length in (0..slot.len()).step_by(13) {
        assert_eq!(decode(&slot[..length]), Err(Unusable::Broken), "cut at {length}");
    }
}

#[test]
fn a_slot_whose_writer_knew_a_class_more_or_another_format_is_a_newer_releases() {
    let mut slot = encode_slot(BUFFER, 1, &full());
    slot[SLOT_HEADER_BYTES + 1] = Class::COUNT as u8 + 1;
    seal(&mut slot);
    assert_eq!(decode(&slot), Err(Unusable::Newer(1)));
    let mut slot = encode_slot(BUFFER, 1, &full());
    slot[8] = 2;
    seal(&mut slot);
    assert_eq!(decode(&slot), Err(Unusable::Newer(2)));
}

#[test]
fn what_a_writer_counted_under_a_reason_added_since_is_counted_under_the_last_one_that_is_known() {
    let mut known = checkpoint(1, none_settled(), none_settled());
    (known.books.destinations, known.settled) = (Vec::new(), Vec::new());
    known.books.inputs[1][2].dropped[DropReason::COUNT - 1] = 5;
    let slot = encode_slot(BUFFER, 1, &known);
    let (before_cells, cell_bytes) =
        (SLOT_HEADER_BYTES + 5 + 4 * 8 + 8 * Class::COUNT + 4 * Class::COUNT, 8 * (3 + RefuseReason::COUNT + DropReason::COUNT));
    let (cells, rest) = slot[before_cells..].split_at(Signal::COUNT * Class::COUNT * cell_bytes);
    // A cell ends with the items dropped by reason.
    let mut newer = slot[..before_cells].to_vec();
    newer[SLOT_HEADER_BYTES + 2] += 1;
    for cell in cells.chunks(cell_bytes) {
        newer.extend_from_slice(cell);
        newer.extend_from_slice(&7_u64.to_le_bytes());
    }
    newer.extend_from_slice(rest);
    let length = (newer.len() - SLOT_HEADER_BYTES) as u32;
    newer[12..16].copy_from_slice(&length.to_le_bytes());
    seal(&mut newer);
    let read = decode(&newer).unwrap();
    assert_eq!(read.books.inputs[1][2].dropped[DropReason::COUNT - 1], 5 + 7);
    assert_eq!(read.books.inputs[0][0].dropped.iter().sum::<u64>(), 7);
    assert_eq!((read.books.kernel, read.next_sequence), (known.books.kernel, known.next_sequence));
}

#[test]
fn a_newer_releases_checkpoint_is_named_and_nothing_is_written() {
    for name in ["checkpoint-0", "checkpoint-1"] {
        let disk = ModelDisk::default();
        let (mut log, _) = open(&disk, 4096);
        log.write_checkpoint(&checkpoint(1, none_settled(), none_settled())).unwrap();
        log.write_checkpoint(&checkpoint(2, none_settled(), none_settled())).unwrap();
        drop(log);
        let mut slot = disk.content(name);
        slot[8] = 9;
        seal(&mut slot);
        disk.place(name, &slot);
        disk.remove_durably("identity");
        let content = || disk.names().into_iter().map(|name| (disk.content(&name), name)).collect::<Vec<_>>();
        let before = content();
        let refused = recovery::open(disk.clone(), PIPELINE, BUFFER, Limits::new(4096, 1 << 20)).map(|_| ()).unwrap_err();
        assert!(matches!(&refused, OpenError::NewerVersion { path, version: 9 } if path.ends_with(name)), "{refused}");
        assert_eq!(content(), before);
    }
}

#[test]
fn checkpoints_alternate_and_the_older_one_serves_when_the_newer_is_damaged() {
    let disk = ModelDisk::default();
    let (mut log, first) = open(&disk, 4096);
    assert_eq!(first.recovered.checkpoint, None);
    for generation in 1..=3 {
        log.write_checkpoint(&checkpoint(generation, none_settled(), none_settled())).unwrap();
    }
    drop(log);
    let generation = |disk: &ModelDisk| {
        let (_, recovery) = open(disk, 4096);
        (recovery.recovered.checkpoint.map(|checkpoint| checkpoint.generation), recovery.damage.len())
    };
    assert_eq!(generation(&disk), (Some(3), 0));
    let newest = ["checkpoint-0", "checkpoint-1"].into_iter().find(|name| decode(&disk.content(name)).unwrap().generation == 3).unwrap();
    disk.flip(newest, 60, 1);
    assert_eq!(generation(&disk), (Some(2), 1));
}

#[test]
fn a_full_disk_leaves_the_last_checkpoint_as_it_was() {
    let disk = ModelDisk::default();
    let (mut log, _) = open(&disk, 4096);
    log.write_checkpoint(&checkpoint(1, none_settled(), none_settled())).unwrap();
    disk.set_room(Some(10));
    let refused = log.write_checkpoint(&checkpoint(2, none_settled(), none_settled())).unwrap_err();
    assert!(matches!(refused, CommitError::DiskFull { .. }), "{refused}");
    let (_, recovery) = open(&disk.fork(), 4096);
    assert_eq!(recovery.recovered.checkpoint.map(|checkpoint| checkpoint.generation), Some(1));
    assert_eq!(recovery.damage.iter().map(|damage| damage.kind).collect::<Vec<_>>(), [DamageKind::Checkpoint]);
    disk.set_room(None);
    log.write_checkpoint(&checkpoint(3, none_settled(), none_settled())).unwrap();
    let (_, recovery) = open(&disk, 4096);
    assert_eq!(recovery.recovered.checkpoint.map(|checkpoint| checkpoint.generation), Some(3));
}

#[test]
fn a_checkpoint_whose_sync_failed_is_not_believed_after_a_restart() {
    let disk = ModelDisk::default();
    let (mut log, _) = open(&disk, 4096);
    log.write_checkpoint(&checkpoint(1, none_settled(), none_settled())).unwrap();
    log.write_checkpoint(&checkpoint(2, none_settled(), none_settled())).unwrap();
    disk.fail_syncs(1);
    assert!(matches!(log.write_checkpoint(&checkpoint(3, none_settled(), none_settled())), Err(CommitError::Sync { .. })));
    drop(log);
    // Were the third found in the page cache, the next one would be written over the second, the only durable one.
    let (mut log, recovery) = open(&disk, 4096);
    assert_eq!(recovery.recovered.checkpoint.map(|checkpoint| checkpoint.generation), Some(2));
    disk.lose_power_after(2);
    log.write_checkpoint(&checkpoint(4, none_settled(), none_settled())).unwrap_err();
    let (_, recovery) = open(&disk.crash(&mut |possibilities| 2.min(possibilities - 1)), 4096);
    assert_eq!(recovery.recovered.checkpoint.map(|checkpoint| checkpoint.generation), Some(2));
}

#[test]
fn a_slot_created_in_vain_gets_its_name_synced_by_the_attempt_that_succeeds() {
    let disk = ModelDisk::default();
    let (mut log, _) = open(&disk, 4096);
    disk.set_room(Some(0));
    log.write_checkpoint(&checkpoint(1, none_settled(), none_settled())).unwrap_err();
    disk.set_room(None);
    log.write_checkpoint(&checkpoint(2, none_settled(), none_settled())).unwrap();
    let (_, recovery) = open(&disk.crash(&mut |_| 0), 4096);
    assert_eq!(recovery.recovered.checkpoint.map(|checkpoint| checkpoint.generation), Some(2));
}

#[test]
fn once_both_slots_exist_a_checkpoint_needs_no_room() {
    let disk = ModelDisk::default();
    let (mut log, _) = open(&disk, 4096);
    for generation in 1..=2 {
        log.write_checkpoint(&checkpoint(generation, none_settled(), none_settled())).unwrap();
    }
    disk.set_room(Some(0));
    log.write_checkpoint(&checkpoint(3, none_settled(), none_settled())).unwrap();
    let (_, recovery) = open(&disk, 4096);
    assert_eq!(recovery.recovered.checkpoint.map(|checkpoint| checkpoint.generation), Some(3));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_slot_of_random_bytes_with_good_checksums_never_panics(body in prop::collection::vec(any::<u8>(), 0..4000), like_ours in any::<bool>()) {
        let mut slot = encode_slot(BUFFER, 1, &full());
        let kept = if like_ours { SLOT_HEADER_BYTES + 5 } else { SLOT_HEADER_BYTES };
        slot.truncate(kept);
        slot.extend_from_slice(&body);
        let length = (slot.len() - SLOT_HEADER_BYTES) as u32;
        slot[12..16].copy_from_slice(&length.to_le_bytes());
        seal(&mut slot);
        prop_assert!(decode(&slot).is_err());
    }
}
