//! Every crash state of every short history: power lost after each changing operation, each unsynced write kept, lost, torn or
//! zeroed, each unsynced name there or not. Recovery itself is cut off as well.
//!
//! *Histories:* three records, each followed by nothing, a commit, a commit and a checkpoint that settles one record, or that and a
//! release: 64 histories, whose beginnings are those of fewer records; in segments of one record (two rotations) and in one segment per
//! class. *Crash states:* after each changing operation, each unsynced write lost, whole, half, zeroed or short of a byte, in any
//! combination with each unsynced name. *Recovery:* of every such disk with segments of one record, cut off after each of its operations,
//! with the same fates, any number of times in a row. *What holds:* nothing committed is lost, what a durable checkpoint settled stays
//! settled, every body is as it was sent, nothing is reported as damage but the slot being written, and the log goes on.

use std::collections::{BTreeMap, BTreeSet};

use pipeline::{IdRanges, RecordId};
use vocabulary::Class;

use super::{append, body, checkpoint, id, open, open_within};
use crate::Recovery;
use crate::damage::DamageKind;
use crate::format::BufferId;
use crate::log::Log;
use crate::log::room::Limits;
use crate::model::{Choose, ModelDisk};
use crate::recovery;

/// Every record fills a segment, so that three records rotate twice, and what is released is used again.
const ROTATING: Limits = Limits { segment_bytes: 160, budget_bytes: 1 << 20, segments_max: 64 };
/// Nothing rotates or is used again.
const ROOMY: Limits = Limits { segment_bytes: 4096, budget_bytes: 0, segments_max: 64 };

#[derive(Clone, Copy, Debug)]
enum Step {
    Append(Class, usize),
    Commit,
    Flush,
    /// Settles the oldest record that is not.
    Checkpoint,
    /// Settles all but the oldest.
    CheckpointAllButOne,
    Release,
    /// Looks at every segment.
    Compact,
}

/// What a client of the log knows at any moment.
#[derive(Clone, Default)]
struct Knowledge {
    sent: BTreeMap<RecordId, usize>,
    committed: BTreeSet<RecordId>,
    /// Readable, and not synced.
    flushed: BTreeSet<RecordId>,
    /// Settled by a checkpoint that is durable.
    settled: BTreeSet<RecordId>,
    checkpoint: u64,
    checkpoint_tried: u64,
}

impl Knowledge {
    /// Carries out a history until the power goes.
    fn live_through(history: &[Step], disk: &ModelDisk, limits: Limits) -> Self {
        let mut knowledge = Self::default();
        let Ok((mut log, _)) = recovery::open(disk.clone(), super::PIPELINE, super::BUFFER, limits) else { return knowledge };
        for &step in history {
            if !knowledge.take(step, &mut log) {
                break;
            }
        }
        knowledge
    }

    fn take(&mut self, step: Step, log: &mut Log<ModelDisk>) -> bool {
        match step {
            Step::Append(class, length) => {
                let id = id(class, 1 + self.sent.len() as u64);
                self.sent.insert(id, length);
                log.append(&append(id, &body(id, length))).is_ok()
            }
            Step::Commit => {
                let is_durable = log.commit().is_ok();
                if is_durable {
                    self.committed.extend(self.sent.keys());
                }
                is_durable
            }
            Step::Flush => {
                let is_readable = log.flush().is_ok();
                if is_readable {
                    self.flushed.extend(self.sent.keys());
                }
                is_readable
            }
            Step::Checkpoint | Step::CheckpointAllButOne => {
                let mut settled = self.settled.clone();
                let mut others = self.committed.difference(&self.settled);
                match step {
                    Step::CheckpointAllButOne => settled.extend(others.skip(1)),
                    _ => settled.extend(others.next()),
                }
                let stored: BTreeSet<RecordId> = self.committed.union(&self.flushed).filter(|id| !settled.contains(id)).copied().collect();
                self.checkpoint_tried += 1;
                let written = checkpoint(self.checkpoint_tried, ranges(&stored), ranges(&settled));
                let is_durable = log.write_checkpoint(&written).is_ok();
                if is_durable {
                    (self.settled, self.checkpoint) = (settled, self.checkpoint_tried);
                    self.committed.append(&mut self.flushed);
                }
                is_durable
            }
            Step::Release => log.release(&ranges(&self.settled)).is_ok(),
            Step::Compact => (0..3 * Class::COUNT).all(|_| log.compact_step(&ranges(&self.settled)).is_ok()),
        }
    }

    /// What must be true of whatever the next boot finds.
    fn check(&self, disk: &ModelDisk, limits: Limits) -> Vec<RecordId> {
        let (mut log, recovery) = open_within(disk, limits);
        let found: Vec<RecordId> = recovery.recovered.stored.iter().map(|stored| stored.id).collect();
        for id in self.committed.difference(&self.settled) {
            assert!(found.contains(id), "{id:?} was committed and is gone");
        }
        for stored in &recovery.recovered.stored {
            let length = self.sent[&stored.id];
            assert_eq!(stored.bytes as usize, length);
            assert_eq!(log.index().read(stored.id).unwrap(), body(stored.id, length));
        }
        for (class, ranges) in Class::ALL.into_iter().zip(recovery.recovered.checkpoint.iter().flat_map(|checkpoint| &checkpoint.stored)) {
            let named = ranges.iter().flat_map(|(first, last)| first..=last).map(|sequence| id(class, sequence));
            let is_needed = |id: &RecordId| !self.settled.contains(id);
            named.filter(is_needed).for_each(|id| assert!(found.contains(&id), "{id:?} was not durable when a checkpoint named it"));
        }
        let settled = recovery.recovered.checkpoint.as_ref().map(|checkpoint| checkpoint.settled[0].1.clone());
        let generation = recovery.recovered.checkpoint.map_or(0, |checkpoint| checkpoint.generation);
        assert!(generation == self.checkpoint || generation == self.checkpoint_tried, "checkpoint {generation}");
        for id in &self.settled {
            assert!(settled.as_ref().is_some_and(|settled| settled[id.class.index()].contains(id.sequence)), "{id:?} is settled no more");
        }
        let is_torn_slot = |kind| kind == DamageKind::Checkpoint;
        // Of writes that were not synced a later one may be there and an earlier one not, which looks like damage.
        let is_hole = |kind| !self.flushed.is_empty() && matches!(kind, DamageKind::Hole | DamageKind::Body | DamageKind::SegmentHeader);
        let is_crash = |kind| is_torn_slot(kind) || is_hole(kind);
        assert!(recovery.damage.iter().all(|damage| is_crash(damage.kind)), "a crash is no damage: {:?}", recovery.damage);

        let next = id(Class::Normal, 100);
        log.append(&append(next, b"life goes on")).unwrap();
        log.commit().unwrap();
        assert_eq!(log.index().read(next).unwrap(), b"life goes on"[..]);
        found
    }
}

fn ranges(ids: &BTreeSet<RecordId>) -> [IdRanges; Class::COUNT] {
    let mut ranges: [IdRanges; Class::COUNT] = Default::default();
    for id in ids {
        ranges[id.class.index()].insert_range(id.sequence, id.sequence);
    }
    ranges
}

/// Runs once for every sequence of choices.
fn for_every_choice(mut run: impl FnMut(Choose<'_>)) {
    let mut path: Vec<(usize, usize)> = Vec::new();
    loop {
        let mut at = 0;
        run(&mut |possibilities| {
            if at == path.len() {
                path.push((0, possibilities));
            }
            at += 1;
            path[at - 1].0
        });
        while path.last().is_some_and(|&(pick, possibilities)| pick + 1 == possibilities) {
            path.pop();
        }
        match path.last_mut() {
            Some((pick, _)) => *pick += 1,
            None => return,
        }
    }
}

/// Each record followed by nothing, a commit, or a commit with its checkpoint and release.
const COMMITTED: [&[Step]; 4] = [&[], &[Step::Commit], &[Step::Commit, Step::Checkpoint], &[Step::Commit, Step::Checkpoint, Step::Release]];
/// Each record followed by nothing, a flush, a flush that a commit syncs later, or one that a checkpoint syncs.
const FLUSHED: [&[Step]; 4] = [&[], &[Step::Flush], &[Step::Flush, Step::Commit], &[Step::Flush, Step::Checkpoint]];

/// All histories of up to three records.
fn histories(classes: [Class; 3], after: [&[Step]; 4]) -> Vec<Vec<Step>> {
    let mut histories = vec![Vec::new()];
    for (class, length) in classes.into_iter().zip([40, 3, 90]) {
        let longer = |history: &Vec<Step>| {
            let with = |after: &&[Step]| [history.as_slice(), &[Step::Append(class, length)], after].concat();
            after.iter().map(with).collect::<Vec<_>>()
        };
        histories = histories.iter().flat_map(longer).collect();
    }
    histories
}

/// How many changing operations a history takes.
fn steps_of(history: &[Step], limits: Limits) -> usize {
    let disk = ModelDisk::default();
    Knowledge::live_through(history, &disk, limits);
    disk.steps_done()
}

fn crash_everywhere(classes: [Class; 3], after: [&[Step]; 4], limits: Limits, mut check: impl FnMut(&Knowledge, &ModelDisk)) {
    for history in histories(classes, after) {
        for steps in 0..=steps_of(&history, limits) {
            let disk = ModelDisk::default();
            disk.lose_power_after(steps);
            let knowledge = Knowledge::live_through(&history, &disk, limits);
            for_every_choice(|choose| check(&knowledge, &disk.crash(choose)));
        }
    }
}

#[test]
fn no_crash_loses_a_committed_record_or_tears_another() {
    crash_everywhere([Class::Normal; 3], COMMITTED, ROTATING, |knowledge, disk| {
        knowledge.check(disk, ROTATING);
    });
}

#[test]
fn no_crash_loses_a_committed_record_within_one_segment_per_class() {
    crash_everywhere([Class::Normal, Class::Critical, Class::Normal], COMMITTED, ROOMY, |knowledge, disk| {
        knowledge.check(disk, ROOMY);
    });
}

#[test]
fn no_crash_loses_a_committed_record_among_flushed_ones_and_no_checkpoint_names_one_that_is_not_durable() {
    crash_everywhere([Class::Normal; 3], FLUSHED, ROTATING, |knowledge, disk| {
        knowledge.check(disk, ROTATING);
    });
    crash_everywhere([Class::Normal, Class::Critical, Class::Normal], FLUSHED, ROOMY, |knowledge, disk| {
        knowledge.check(disk, ROOMY);
    });
}

#[test]
fn what_is_flushed_survives_the_end_of_the_process_and_a_sync_of_it_that_fails() {
    let disk = ModelDisk::default();
    let (mut log, _) = open(&disk, 4096);
    let [first, second, third] = [1, 2, 3].map(|sequence| id(Class::Normal, sequence));
    log.append(&append(first, b"durable")).unwrap();
    log.commit().unwrap();
    log.append(&append(second, b"flushed")).unwrap();
    log.flush().unwrap();
    assert_eq!(log.index().read(second).unwrap(), b"flushed"[..]);
    let (_, recovery) = open(&disk.fork(), 4096);
    assert_eq!(recovery.recovered.stored.len(), 2, "the page cache outlives the process");
    log.append(&append(third, b"refused")).unwrap();
    disk.fail_syncs(1);
    assert!(log.commit().is_err());
    assert_eq!(log.index().read(second).unwrap(), b"flushed"[..]);
    assert!(log.index().read(third).is_err());
    // The file is not believed any more: the next checkpoint, which names the record, copies it to another one.
    log.write_checkpoint(&checkpoint(1, ranges(&BTreeSet::from([first, second])), Default::default())).unwrap();
    let (log, recovery) = open(&disk.crash(&mut |_| 0), 4096);
    let found: Vec<RecordId> = recovery.recovered.stored.iter().map(|stored| stored.id).collect();
    assert_eq!(found, [first, second]);
    assert_eq!(log.index().read(second).unwrap(), b"flushed"[..]);
}

#[test]
fn no_crash_while_records_are_copied_loses_one_or_finds_it_twice() {
    // The second record is most of its segment, and is settled; the first is then copied behind the third.
    let limits = Limits { segment_bytes: 1_100, budget_bytes: 1 << 20, segments_max: 64 };
    let history = [
        Step::Append(Class::Normal, 40),
        Step::Append(Class::Normal, 800),
        Step::Append(Class::Normal, 90),
        Step::Commit,
        Step::CheckpointAllButOne,
        Step::Release,
        Step::Compact,
        Step::Append(Class::Normal, 3),
        Step::Commit,
    ];
    let disk = ModelDisk::default();
    Knowledge::live_through(&history, &disk, limits);
    assert_eq!(disk.names().iter().filter(|name| name.ends_with(".segment")).count(), 1, "the first segment is given back");
    for steps in 0..=steps_of(&history, limits) {
        let disk = ModelDisk::default();
        disk.lose_power_after(steps);
        let knowledge = Knowledge::live_through(&history, &disk, limits);
        for_every_choice(|choose| {
            let found = knowledge.check(&disk.crash(choose), limits);
            assert!(found.iter().collect::<BTreeSet<_>>().len() == found.len(), "{found:?}");
        });
    }
}

#[test]
fn a_second_crash_right_after_recovery_changes_nothing() {
    crash_everywhere([Class::Normal; 3], COMMITTED, ROTATING, |_, disk| {
        let (first, before) = open_within(disk, ROTATING);
        drop(first);
        let (_, after) = open_within(&disk.crash(&mut |_| 0), ROTATING);
        let told = |recovery: Recovery| (recovery.recovered.checkpoint, recovery.recovered.stored);
        assert_eq!(told(after), told(before), "what was reported must outlive the loss of everything unsynced");
    });
}

/// What a disk holds after a loss of power, when nothing is unsynced.
type Content = BTreeMap<String, Vec<u8>>;

fn content(disk: &ModelDisk) -> Content {
    disk.names().into_iter().map(|name| (name.clone(), disk.content(&name))).collect()
}

/// Every disk that a cut of recovery leaves, at any of its operations, with any fate of what was not synced.
fn cut_recovery_everywhere(crashed: &ModelDisk, mut found: impl FnMut(ModelDisk)) {
    let whole = crashed.fork();
    drop(open_within(&whole, ROTATING));
    for steps in 0..whole.steps_done() {
        let cut = crashed.fork();
        cut.lose_power_after(steps);
        assert!(recovery::open(cut.clone(), super::PIPELINE, BufferId::default(), ROTATING).is_err());
        for_every_choice(|choose| found(cut.crash(choose)));
    }
}

/// How often in a row recovery is cut off, at least: by then a further cut leads to no disk that was not met before.
const CUTS: usize = 5;

/// Cuts recovery off again and again, from every crash state of a history that ended after so many operations. A disk that was met
/// before leads to nothing new: few of the sequences of cuts are walked, and all are covered. Returns how many disks the cuts left.
fn cut_recovery_again_and_again(history: &[Step], steps: usize) -> usize {
    let disk = ModelDisk::default();
    disk.lose_power_after(steps);
    let knowledge = Knowledge::live_through(history, &disk, ROTATING);
    let (mut met, mut open) = (BTreeSet::new(), Vec::new());
    for_every_choice(|choose| {
        let crashed = disk.crash(choose);
        if met.insert(content(&crashed)) {
            open.push(crashed);
        }
    });
    let crashed = met.len();
    for _ in 0..CUTS {
        for crashed in std::mem::take(&mut open) {
            cut_recovery_everywhere(&crashed, |disk| {
                if met.insert(content(&disk)) {
                    knowledge.check(&disk.fork(), ROTATING);
                    open.push(disk);
                }
            });
        }
    }
    assert!(open.is_empty(), "a sixth cut leads somewhere new");
    met.len() - crashed
}

#[test]
fn recovery_may_be_cut_off_anywhere_five_times_in_a_row_and_more() {
    let mut disks = 0;
    for classes in [[Class::Normal; 3], [Class::Normal, Class::Critical, Class::Normal]] {
        for history in histories(classes, COMMITTED) {
            let steps = steps_of(&history, ROTATING);
            disks += (0..=steps).map(|steps| cut_recovery_again_and_again(&history, steps)).sum::<usize>();
        }
    }
    assert!(disks > 1_000, "{disks} disks: recovery is hardly cut off");
}

#[test]
fn an_identity_whose_sync_failed_is_written_again_at_the_next_start() {
    let disk = ModelDisk::default();
    disk.fail_syncs(1);
    assert!(recovery::open(disk.clone(), super::PIPELINE, super::BUFFER, Limits::new(160, 0)).is_err());
    let (mut log, _) = open(&disk, 160);
    let first = id(Class::Normal, 1);
    log.append(&append(first, b"one")).unwrap();
    log.commit().unwrap();
    drop(log);
    let (_, recovery) = open(&disk.crash(&mut |_| 0), 160);
    assert_eq!((recovery.damage.len(), recovery.recovered.stored.len()), (0, 1), "{:?}", recovery.damage);
}

#[test]
fn a_group_cut_off_after_a_failed_sync_is_no_damage_after_a_loss_of_power() {
    let disk = ModelDisk::default();
    let (mut log, _) = open(&disk, 4096);
    let mut store = |disk: &ModelDisk, classes: &[Class], first: u64, fails: bool| {
        for (class, sequence) in classes.iter().zip(first..) {
            let id = id(*class, sequence);
            log.append(&append(id, &body(id, 20))).unwrap();
        }
        disk.fail_syncs(usize::from(fails));
        assert_eq!(log.commit().is_err(), fails);
    };
    store(&disk, &[Class::Normal, Class::Critical], 1, false);
    store(&disk, &[Class::Normal, Class::Critical], 3, true);
    store(&disk, &[Class::Normal], 5, false);
    for_every_choice(|choose| {
        let (_, recovery) = open(&disk.crash(choose), 4096);
        assert_eq!(recovery.damage, [], "a crash is no damage");
        let found: Vec<RecordId> = recovery.recovered.stored.iter().map(|stored| stored.id).collect();
        assert!([id(Class::Normal, 1), id(Class::Critical, 2), id(Class::Normal, 5)].iter().all(|id| found.contains(id)), "{found:?}");
    });
}

#[test]
fn a_cut_that_a_killed_process_did_not_sync_is_no_damage_after_a_loss_of_power() {
    let disk = ModelDisk::default();
    let (mut log, _) = open(&disk, 160);
    let [first, second] = [id(Class::Normal, 1), id(Class::Normal, 2)];
    log.append(&append(first, &body(first, 90))).unwrap();
    log.commit().unwrap();
    log.write_checkpoint(&checkpoint(1, ranges(&BTreeSet::from([first])), Default::default())).unwrap();
    // Closing the full segment writes half of its footer, and cuts that off.
    disk.set_room(Some(30));
    assert!(log.append(&append(second, &body(second, 90))).is_err());
    drop(log);
    disk.set_room(None);
    let (mut log, _) = open(&disk, 160);
    log.append(&append(second, &body(second, 90))).unwrap();
    log.commit().unwrap();
    for_every_choice(|choose| {
        let (_, recovery) = open(&disk.crash(choose), 160);
        assert_eq!((recovery.damage.as_slice(), recovery.recovered.stored.len()), ([].as_slice(), 2));
    });
}
