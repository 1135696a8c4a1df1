//! Room on the volume: when a full one shows, what is left to others, what is held back, and how long-waiting records give theirs
//! back.

use pipeline::IdRanges;
use proptest::prelude::*;
use vocabulary::Class;

use super::{append, body, checkpoint, id, none_settled, open, open_within};
use crate::error::AppendError;
use crate::log::Log;
use crate::log::room::Limits;
use crate::model::ModelDisk;

fn store(log: &mut Log<ModelDisk>, sequence: u64, length: usize) -> Result<(), AppendError> {
    let id = id(Class::Normal, sequence);
    log.append(&append(id, &body(id, length)))
}

fn settled(ranges: &[(u64, u64)]) -> [IdRanges; Class::COUNT] {
    let mut settled = none_settled();
    for &(first, last) in ranges {
        settled[Class::Normal.index()].insert_range(first, last);
    }
    settled
}

fn count(disk: &ModelDisk, ending: &str) -> usize {
    disk.names().iter().filter(|name| name.ends_with(ending)).count()
}

#[test]
fn a_full_disk_shows_when_a_segment_begins_and_not_within_one() {
    let disk = ModelDisk::default();
    disk.preallocate_files();
    let (mut log, _) = open(&disk, 1_000);
    disk.set_room(Some(1_000));
    for sequence in 1..=5 {
        store(&mut log, sequence, 100).unwrap();
        log.commit().unwrap();
    }
    let refused = store(&mut log, 6, 500).unwrap_err();
    assert!(matches!(refused, AppendError::DiskFull { .. }), "{refused}");
    assert_eq!(count(&disk, ".segment"), 1, "a file without room is not left behind");
    disk.set_room(None);
    store(&mut log, 6, 500).unwrap();
    log.commit().unwrap();
}

#[test]
fn the_log_grows_no_more_where_a_volume_has_just_what_is_left_to_others() {
    let disk = ModelDisk::default();
    disk.set_volume((64 << 20) + 999, 1 << 30);
    let (mut log, _) = open(&disk, 1_000);
    let refused = store(&mut log, 1, 100).unwrap_err();
    assert!(matches!(refused, AppendError::VolumeFloor { free_bytes, floor_bytes, .. } if free_bytes == floor_bytes + 999), "{refused}");
    disk.set_volume((64 << 20) + 1_000, 1 << 30);
    store(&mut log, 1, 100).unwrap();
    // A twentieth of a large volume, an eighth of a small one.
    for (total, floor) in [(100 << 30, 5 << 30), (80 << 20, 10 << 20)] {
        disk.set_volume(floor + 999, total);
        assert!(matches!(open(&disk.fork(), 1_000).0.append(&append(id(Class::Bulk, 1), b"")), Err(AppendError::VolumeFloor { .. })));
        disk.set_volume(floor + 1_000, total);
        open(&disk.fork(), 1_000).0.append(&append(id(Class::Bulk, 1), b"")).unwrap();
    }
}

#[test]
fn what_is_left_of_the_volume_is_what_lies_above_the_part_of_others() {
    let disk = ModelDisk::default();
    let (log, _) = open(&disk, 1_000);
    assert_eq!(log.left_on_volume(), u64::MAX, "it does not say");
    for (free, left) in [((64 << 20) + 999, 999), (64 << 20, 0), (1 << 20, 0)] {
        disk.set_volume(free, 1 << 30);
        assert_eq!(log.left_on_volume(), left);
    }
}

#[test]
fn at_its_limit_of_segments_the_log_refuses_until_one_is_given_back() {
    let disk = ModelDisk::default();
    let (mut log, _) = open_within(&disk, Limits { segment_bytes: 160, budget_bytes: 0, segments_max: 2 });
    for sequence in 1..=2 {
        assert!(!log.is_out_of_segments());
        store(&mut log, sequence, 90).unwrap();
        log.commit().unwrap();
    }
    assert!(log.is_out_of_segments());
    assert!(matches!(store(&mut log, 3, 90), Err(AppendError::TooManySegments { segments: 2 })));
    log.release(&settled(&[(1, 1)])).unwrap();
    assert!(!log.is_out_of_segments());
    store(&mut log, 3, 90).unwrap();
}

#[test]
fn what_is_held_back_lets_a_checkpoint_be_written_on_a_full_disk_and_is_made_anew() {
    let disk = ModelDisk::default();
    disk.preallocate_files();
    let limits = Limits::new(1_000, 64 * 20_000);
    let (mut log, _) = open_within(&disk, limits);
    assert_eq!((count(&disk, "reserve"), log.bytes_on_disk()), (1, 20_000));
    disk.set_room(Some(0));
    for generation in 1..=2 {
        log.write_checkpoint(&checkpoint(generation, none_settled(), none_settled())).unwrap();
    }
    assert_eq!(count(&disk, "reserve"), 0);
    disk.set_room(None);
    log.write_checkpoint(&checkpoint(3, none_settled(), none_settled())).unwrap();
    assert_eq!(count(&disk, "reserve"), 1);
    drop(log);
    let (_, recovery) = open_within(&disk, limits);
    assert_eq!((recovery.recovered.checkpoint.unwrap().generation, recovery.damage), (3, Vec::new()));
}

#[test]
fn a_full_disk_is_opened_without_a_reserve() {
    let disk = ModelDisk::default();
    disk.preallocate_files();
    drop(open(&disk, 1_000));
    disk.set_room(Some(0));
    let (log, _) = open_within(&disk, Limits::new(1_000, 64 * 20_000));
    assert_eq!(log.bytes_on_disk(), 0);
}

#[test]
fn a_long_waiting_record_is_copied_and_its_segment_given_back() {
    let disk = ModelDisk::default();
    let (mut log, _) = open(&disk, 4_000);
    for sequence in 1..=40 {
        store(&mut log, sequence, 300).unwrap();
    }
    log.commit().unwrap();
    let before = count(&disk, ".segment");
    // All but one record in ten are settled: one of each segment of ten.
    let settled = settled(&[(2, 10), (12, 20), (22, 30), (32, 40)]);
    log.release(&settled).unwrap();
    assert_eq!(count(&disk, ".segment"), before);
    let freed: u64 = (0..40).map(|_| log.compact_step(&settled).unwrap()).sum();
    assert!(freed > 9_000 && count(&disk, ".segment") == 1, "{freed} bytes, {:?}", disk.names());
    let check = |log: &Log<ModelDisk>| {
        for sequence in [1, 11, 21, 31] {
            let id = id(Class::Normal, sequence);
            assert_eq!(log.index().read(id).unwrap(), body(id, 300));
        }
    };
    check(&log);
    drop(log);
    let (log, recovery) = open(&disk, 4_000);
    assert_eq!(recovery.damage, Vec::new());
    check(&log);
}

#[test]
fn compressed_bodies_take_less_room_and_come_back_as_they_were_copied_or_not() {
    let disk = ModelDisk::default();
    let (mut log, _) = open(&disk, 20_000);
    store(&mut log, 1, 18_000).unwrap();
    let before = log.bytes_on_disk();
    log.set_compressing(true);
    store(&mut log, 2, 3_000).unwrap();
    store(&mut log, 3, 100).unwrap();
    store(&mut log, 4, 3_500).unwrap();
    assert!(log.bytes_on_disk() - before < 2_000, "6.6 kB take {}", log.bytes_on_disk() - before);
    log.set_compressing(false);
    store(&mut log, 5, 18_000).unwrap();
    log.commit().unwrap();
    let settled = settled(&[(1, 1)]);
    let freed: u64 = (0..20).map(|_| log.compact_step(&settled).unwrap()).sum();
    assert!(freed > 18_000, "{freed}");
    let check = |log: &Log<ModelDisk>| {
        for (sequence, length) in [(2, 3_000), (3, 100), (4, 3_500), (5, 18_000)] {
            let id = id(Class::Normal, sequence);
            assert_eq!(log.index().read(id).unwrap(), body(id, length));
        }
    };
    check(&log);
    drop(log);
    let (log, recovery) = open(&disk, 20_000);
    let bytes: Vec<u32> = recovery.recovered.stored.iter().map(|stored| stored.bytes).collect();
    assert_eq!(bytes, [3_000, 100, 3_500, 18_000], "the pipeline counts what was taken in");
    check(&log);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_body_comes_back_whether_it_could_be_compressed_or_not(pieces in prop::collection::vec((any::<u8>(), 1usize..2_000), 0..40), noise in prop::collection::vec(any::<u8>(), 0..3_000)) {
        let mut content: Vec<u8> = pieces.into_iter().flat_map(|(byte, length)| std::iter::repeat_n(byte, length)).collect();
        content.extend_from_slice(&noise);
        let disk = ModelDisk::default();
        let (mut log, _) = open(&disk, 1 << 20);
        log.set_compressing(true);
        let id = id(Class::Bulk, 1);
        log.append(&append(id, &content)).unwrap();
        log.commit().unwrap();
        prop_assert_eq!(&log.index().read(id).unwrap()[..], &content[..]);
        drop(log);
        prop_assert_eq!(&open(&disk, 1 << 20).0.index().read(id).unwrap()[..], &content[..]);
    }
}

#[test]
fn a_step_copies_little_and_the_next_goes_on_behind_it() {
    let (disk, length) = (ModelDisk::default(), 60 << 10);
    let (mut log, _) = open(&disk, 16 << 20);
    (1..=300).for_each(|sequence| store(&mut log, sequence, length).unwrap());
    log.commit().unwrap();
    let settled = settled(&[(20, 300)]);
    let (mut steps, mut before) = (0, log.bytes_on_disk());
    let freed = loop {
        let freed = log.compact_step(&settled).unwrap();
        let grown = log.bytes_on_disk().saturating_sub(before);
        assert!(grown < (256 << 10) + 2 * length as u64, "{grown} bytes in one step");
        (before, steps) = (log.bytes_on_disk(), steps + u32::from(grown > 0));
        if freed > 0 {
            break freed;
        }
    };
    // 19 records of 60 KiB, five of which exceed a step.
    assert!(freed > 15 << 20 && steps == 3, "{freed} bytes in {steps} steps that copied and the last");
    for sequence in 1..=19 {
        let id = id(Class::Normal, sequence);
        assert_eq!(log.index().read(id).unwrap(), body(id, length));
    }
    assert!(log.bytes_on_disk() < 5 << 20, "nothing is copied twice");
}

#[test]
fn copying_waits_for_a_group_and_leaves_everything_on_a_full_disk() {
    let disk = ModelDisk::default();
    let (mut log, _) = open(&disk, 1_100);
    store(&mut log, 1, 40).unwrap();
    store(&mut log, 2, 800).unwrap();
    store(&mut log, 3, 900).unwrap();
    let settled = settled(&[(2, 2)]);
    assert_eq!((0..20).map(|_| log.compact_step(&settled).unwrap()).sum::<u64>(), 0, "a group is under way");
    log.commit().unwrap();
    disk.set_room(Some(0));
    assert!((0..20).any(|_| log.compact_step(&settled).is_err()));
    let first = id(Class::Normal, 1);
    assert_eq!(log.index().read(first).unwrap(), body(first, 40));
    disk.set_room(None);
    assert!((0..20).any(|_| log.compact_step(&settled).unwrap() > 0));
    assert_eq!(log.index().read(first).unwrap(), body(first, 40));
}
