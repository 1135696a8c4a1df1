//! What stays on disk after it was settled: how much, for how long, and that it is never at the cost of what waits.

use std::time::Duration;

use pipeline::IdRanges;
use vocabulary::Class;

use super::{append, body, checkpoint, id, none_settled, open_within};
use crate::Retention;
use crate::log::Log;
use crate::log::room::Limits;
use crate::model::ModelDisk;

/// Records of this length fill a segment each.
const LENGTH: usize = 900;
const LIMITS: Limits = Limits { segment_bytes: 1_000, budget_bytes: 20_000, segments_max: 100 };

/// A log with so many segments of one record, all but the last of which are full.
fn log(disk: &ModelDisk, limits: Limits, records: u64) -> Log<ModelDisk> {
    let (mut log, _) = open_within(disk, limits);
    (1..=records).for_each(|sequence| store(&mut log, sequence));
    log
}

fn store(log: &mut Log<ModelDisk>, sequence: u64) {
    let id = id(Class::Normal, sequence);
    log.append(&append(id, &body(id, LENGTH))).unwrap();
    log.commit().unwrap();
}

fn up_to(last: u64) -> [IdRanges; Class::COUNT] {
    let mut settled = none_settled();
    settled[Class::Normal.index()].insert_range(1, last);
    settled
}

fn readable(log: &Log<ModelDisk>, up_to: u64) -> Vec<u64> {
    (1..=up_to).filter(|&sequence| log.index().read(id(Class::Normal, sequence)).is_ok()).collect()
}

#[test]
fn the_newest_settled_segments_stay_and_the_oldest_go_first() {
    let disk = ModelDisk::default();
    let mut log = log(&disk, LIMITS, 8);
    log.set_retention(Retention::Segments(2), Duration::ZERO);
    let released = log.release(&up_to(5)).unwrap();
    assert_eq!((released.segments, released.retained, readable(&log, 8)), (3, 2, vec![4, 5, 6, 7, 8]));
    let released = log.release(&up_to(7)).unwrap();
    assert_eq!((released.segments, released.retained, readable(&log, 8)), (2, 2, vec![6, 7, 8]));
    log.set_retention(Retention::Nothing, Duration::ZERO);
    assert_eq!((log.release(&up_to(7)).unwrap().segments, readable(&log, 8)), (2, vec![8]));
}

#[test]
fn a_segment_stays_for_a_time_after_it_was_settled() {
    let disk = ModelDisk::default();
    let mut log = log(&disk, LIMITS, 6);
    let hour = Retention::For(Duration::from_secs(3_600));
    for (minutes, settled, expected) in [(0, 2, 1), (30, 4, 1), (59, 4, 1), (60, 4, 3), (89, 4, 3), (90, 4, 5)] {
        log.set_retention(hour, Duration::from_secs(minutes * 60));
        log.release(&up_to(settled)).unwrap();
        assert_eq!(readable(&log, 6), (expected..=6).collect::<Vec<_>>(), "after {minutes} minutes");
    }
}

#[test]
fn what_is_retained_stays_within_the_budget() {
    let disk = ModelDisk::default();
    drop(log(&disk, LIMITS, 9));
    let (mut log, _) = open_within(&disk, Limits { budget_bytes: 6_000, ..LIMITS });
    log.set_retention(Retention::Segments(100), Duration::ZERO);
    let released = log.release(&up_to(8)).unwrap();
    assert!(released.retained > 0 && released.segments > 0, "{released:?}");
    assert!(log.bytes_on_disk() <= 6_000, "{} bytes", log.bytes_on_disk());
    assert!(readable(&log, 9).contains(&8));
}

#[test]
fn what_waits_takes_the_room_of_what_is_retained() {
    let disk = ModelDisk::default();
    disk.set_volume(1 << 30, 1 << 30);
    let mut log = log(&disk, Limits { segments_max: 9, ..LIMITS }, 4);
    log.set_retention(Retention::Segments(100), Duration::ZERO);
    assert_eq!(log.release(&up_to(3)).unwrap().retained, 3);
    // Files ran out, then the volume.
    for sequence in 5..=10 {
        store(&mut log, sequence);
    }
    assert_eq!(readable(&log, 10), (2..=10).collect::<Vec<_>>());
    disk.set_volume(0, 1 << 30);
    let next = id(Class::Normal, 11);
    assert!(log.append(&append(next, &body(next, LENGTH))).is_err(), "others fill the volume");
    assert_eq!(readable(&log, 10), (4..=10).collect::<Vec<_>>(), "what waits is not given up");
}

#[test]
fn a_full_disk_is_written_to_at_the_cost_of_what_is_retained() {
    let disk = ModelDisk::default();
    disk.preallocate_files();
    let mut log = log(&disk, LIMITS, 4);
    log.set_retention(Retention::Segments(100), Duration::ZERO);
    log.release(&up_to(3)).unwrap();
    disk.set_room(Some(0));
    store(&mut log, 5);
    assert_eq!(readable(&log, 5), [2, 3, 4, 5]);
}

#[test]
fn what_was_retained_is_found_by_the_next_start_and_is_no_damage() {
    let disk = ModelDisk::default();
    let mut before = log(&disk, LIMITS, 5);
    before.write_checkpoint(&checkpoint(1, none_settled(), up_to(4))).unwrap();
    before.set_retention(Retention::Segments(3), Duration::ZERO);
    assert_eq!(before.release(&up_to(4)).unwrap().retained, 3);
    drop(before);
    let (mut after, recovery) = open_within(&disk, LIMITS);
    assert_eq!((recovery.damage, recovery.recovered.stored.len()), (Vec::new(), 4));
    after.set_retention(Retention::Segments(3), Duration::ZERO);
    assert_eq!((after.release(&up_to(4)).unwrap().retained, readable(&after, 5)), (3, vec![2, 3, 4, 5]));
}
