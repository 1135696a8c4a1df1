//! Random operations on the log beside a model that is a map: whatever happens, nothing committed is lost but by damage, and nothing
//! wrong is ever delivered.

use std::collections::{BTreeMap, BTreeSet};

use pipeline::{IdRanges, RecordId};
use proptest::prelude::*;
use vocabulary::Class;

use super::{append, body, checkpoint, id, open_within};
use crate::log::Log;
use crate::log::room::Limits;
use crate::model::ModelDisk;

#[derive(Clone, Debug)]
enum Operation {
    Append { class: usize, length: usize },
    Commit,
    Flush,
    Checkpoint { settle: usize },
    Release,
    Compact,
    Compress(bool),
    Reopen,
    Crash { seed: u64 },
    Flip { seed: u64 },
    DiskFull { room: u64 },
    Heal,
    FailSync,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        8 => (0..Class::COUNT, prop_oneof![0usize..200, Just(300_000usize)]).prop_map(|(class, length)| Operation::Append { class, length }),
        6 => Just(Operation::Commit),
        4 => Just(Operation::Flush),
        3 => (0usize..4).prop_map(|settle| Operation::Checkpoint { settle }),
        2 => Just(Operation::Release),
        2 => Just(Operation::Compact),
        1 => any::<bool>().prop_map(Operation::Compress),
        2 => Just(Operation::Reopen),
        2 => any::<u64>().prop_map(|seed| Operation::Crash { seed }),
        1 => any::<u64>().prop_map(|seed| Operation::Flip { seed }),
        1 => (0u64..2_000).prop_map(|room| Operation::DiskFull { room }),
        2 => Just(Operation::Heal),
        1 => Just(Operation::FailSync),
    ]
}

/// Segments of a few records, which are used again.
const LIMITS: Limits = Limits { segment_bytes: 600, budget_bytes: 1 << 20, segments_max: 1 << 10 };

struct World {
    disk: ModelDisk,
    log: Log<ModelDisk>,
    sent: BTreeMap<RecordId, usize>,
    pending: BTreeSet<RecordId>,
    committed: BTreeSet<RecordId>,
    /// Readable, and not synced.
    flushed: BTreeSet<RecordId>,
    /// Those that were flushed when neither a sync nor a copy succeeded, and found by the next process, which takes them for durable.
    doubtful: BTreeSet<RecordId>,
    settled: BTreeSet<RecordId>,
    /// How many were tried; one whose writing failed may count or not.
    checkpoints: u64,
    durable_checkpoint: u64,
    flips: usize,
}

impl World {
    fn new() -> Self {
        let disk = ModelDisk::default();
        let (log, _) = open_within(&disk, LIMITS);
        let (sent, pending, committed, settled) = Default::default();
        let (flushed, doubtful) = Default::default();
        Self { disk, log, sent, pending, committed, flushed, doubtful, settled, checkpoints: 0, durable_checkpoint: 0, flips: 0 }
    }

    fn apply(&mut self, operation: &Operation) {
        match *operation {
            Operation::Append { class, length } => {
                let id = id(Class::ALL[class], 1 + self.sent.len() as u64);
                self.sent.insert(id, length);
                if self.log.append(&append(id, &body(id, length))).is_ok() {
                    self.pending.insert(id);
                }
            }
            Operation::Commit => {
                let pending = std::mem::take(&mut self.pending);
                let is_durable = self.log.commit().is_ok();
                if is_durable {
                    self.committed.extend(pending);
                }
                if is_durable {
                    self.committed.append(&mut self.flushed);
                }
            }
            Operation::Flush => {
                let pending = std::mem::take(&mut self.pending);
                if self.log.flush().is_ok() {
                    self.flushed.extend(pending);
                }
            }
            Operation::Checkpoint { settle } => self.checkpoint(settle),
            // A failed release leaves everything readable that is not settled, which `check` verifies.
            Operation::Release => drop(self.log.release(&ranges(&self.settled))),
            Operation::Compact => (0..20).for_each(|_| drop(self.log.compact_step(&ranges(&self.settled)))),
            Operation::Compress(is_compressing) => self.log.set_compressing(is_compressing),
            Operation::Reopen => {
                if self.log.is_stranded() {
                    self.doubtful.extend(&self.flushed);
                }
                self.committed.append(&mut self.flushed);
                self.reopen(self.disk.clone());
            }
            Operation::Crash { seed } => {
                let mut random = Random(seed);
                let crashed = self.disk.crash(&mut |possibilities| random.below(possibilities));
                self.flushed.clear();
                let doubtful = std::mem::take(&mut self.doubtful);
                self.committed.retain(|id| !doubtful.contains(id));
                self.reopen(crashed);
            }
            Operation::Flip { seed } => {
                let mut random = Random(seed);
                let names = self.disk.names();
                let name = &names[random.below(names.len())];
                let length = self.disk.content(name).len();
                if length > 0 && self.disk.flip(name, random.below(length), 1 << random.below(8)) {
                    self.flips += 1;
                }
            }
            Operation::DiskFull { room } => self.disk.set_room(Some(room)),
            Operation::Heal => {
                self.disk.set_room(None);
                self.disk.fail_syncs(0);
            }
            Operation::FailSync => self.disk.fail_syncs(1),
        }
    }

    fn checkpoint(&mut self, settle: usize) {
        let mut settled = self.settled.clone();
        settled.extend(self.committed.difference(&self.settled).take(settle));
        let stored = self.committed.union(&self.flushed).filter(|id| !settled.contains(id)).copied().collect();
        self.checkpoints += 1;
        let is_committing = self.log.is_anything_flushed();
        let is_durable = self.log.write_checkpoint(&checkpoint(self.checkpoints, ranges(&stored), ranges(&settled))).is_ok();
        if is_durable {
            (self.settled, self.durable_checkpoint) = (settled, self.checkpoints);
        }
        if is_durable {
            self.committed.append(&mut self.flushed);
        }
        if is_committing {
            self.settle_pending();
        }
    }

    /// A checkpoint began with a commit: what was appended is readable by now, or forgotten.
    fn settle_pending(&mut self) {
        for id in std::mem::take(&mut self.pending) {
            if self.log.index().read(id).is_ok() {
                self.committed.insert(id);
            }
        }
    }

    fn reopen(&mut self, disk: ModelDisk) {
        disk.fail_syncs(0);
        self.pending.clear();
        let (log, recovery) = open_within(&disk, LIMITS);
        (self.disk, self.log) = (disk, log);
        let found: BTreeSet<RecordId> = recovery.recovered.stored.iter().map(|stored| stored.id).collect();
        assert_eq!(found.len(), recovery.recovered.stored.len(), "an id is found once");
        for class in Class::ALL {
            let of_class: Vec<u64> =
                recovery.recovered.stored.iter().filter(|stored| stored.id.class == class).map(|stored| stored.id.sequence).collect();
            assert!(of_class.is_sorted(), "ascending within a class");
        }
        if self.flips == 0 {
            let generation = recovery.recovered.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.generation);
            assert!((self.durable_checkpoint..=self.checkpoints).contains(&generation), "checkpoint {generation}");
        }
        // The engine takes over what it is told: a record that was never acknowledged but is whole is held from here on.
        self.committed.extend(found.difference(&self.settled));
    }

    fn check(&self) {
        let mut lost = 0;
        for &id in self.committed.union(&self.flushed).filter(|id| !self.settled.contains(id)) {
            match self.log.index().read(id) {
                Ok(read) => assert_eq!(read, body(id, self.sent[&id]), "{id:?} came back as something else"),
                Err(_) => lost += 1,
            }
        }
        assert!(lost <= self.flips, "{lost} records lost by {} flipped bits", self.flips);
        for id in self.sent.keys().filter(|id| !self.committed.contains(id) && !self.flushed.contains(id)) {
            assert!(self.log.index().read(*id).is_err() || self.doubtful.contains(id), "{id:?} is readable before its commit");
        }
    }
}

/// A small generator: the choices of a crash must follow from the seed that proptest prints.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 27)) % bound as u64) as usize
    }
}

fn ranges(ids: &BTreeSet<RecordId>) -> [IdRanges; Class::COUNT] {
    let mut ranges: [IdRanges; Class::COUNT] = Default::default();
    for id in ids {
        ranges[id.class.index()].insert_range(id.sequence, id.sequence);
    }
    ranges
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_agrees_with_a_map_under_any_operations(operations in prop::collection::vec(operation(), 1..60)) {
        let mut world = World::new();
        for operation in &operations {
            world.apply(operation);
            world.check();
        }
    }
}
