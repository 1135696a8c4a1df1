//! The budget of all files: that nothing exceeds it, what a full one refuses, and how it becomes less full.

use std::time::Duration;

use pipeline::IdRanges;
use proptest::prelude::*;
use vocabulary::Class;

use super::{append, body, checkpoint, id, none_settled, open_within};
use crate::error::AppendError;
use crate::log::Log;
use crate::log::room::Limits;
use crate::model::ModelDisk;
use crate::{Options, Retention, Spool};

/// The identity, which counts for nothing, and the first two checkpoints, which are written whatever the budget says.
const UNCOUNTED_BYTES: u64 = 16 << 10;

#[derive(Clone, Debug)]
enum Step {
    Append(Class, usize),
    Commit,
    /// Settles one id in so many.
    Checkpoint(u64),
    Release,
    Compact,
    FailSync,
    Compress(bool),
    Retain(usize),
    Reopen,
    /// The process is killed and leaves what the volume kept for its files.
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    let class = prop::sample::select(&Class::ALL[..]);
    prop_oneof![
        12 => (class.clone(), 1usize..3_000).prop_map(|(class, length)| Step::Append(class, length)),
        1 => (class, 3_000usize..40_000).prop_map(|(class, length)| Step::Append(class, length)),
        6 => Just(Step::Commit),
        2 => (1u64..4).prop_map(Step::Checkpoint),
        2 => Just(Step::Release),
        3 => Just(Step::Compact),
        1 => Just(Step::FailSync),
        1 => any::<bool>().prop_map(Step::Compress),
        1 => (0usize..20).prop_map(Step::Retain),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
    ]
}

const LIMITS: Limits = Limits { segment_bytes: 4_000, budget_bytes: 150_000, segments_max: 1_000 };

struct World {
    disk: ModelDisk,
    log: Log<ModelDisk>,
    sequence: u64,
    generation: u64,
    settled: [IdRanges; Class::COUNT],
}

impl World {
    fn new(is_preallocating: bool) -> Self {
        let disk = ModelDisk::default();
        if is_preallocating {
            disk.preallocate_files();
        }
        let (log, _) = open_within(&disk, LIMITS);
        Self { disk, log, sequence: 0, generation: 0, settled: none_settled() }
    }

    /// Whatever fails here fails as the disk does; what counts is what lies there afterwards.
    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Append(class, length) => {
                self.sequence += 1;
                let id = id(class, self.sequence);
                self.log.append(&append(id, &body(id, length))).ok();
            }
            Step::Commit => drop(self.log.commit()),
            Step::Checkpoint(part) => {
                self.log.commit().ok();
                self.generation += 1;
                for sequence in (1..=self.sequence).filter(|sequence| sequence % part == 0) {
                    self.settled.iter_mut().for_each(|settled| settled.insert_range(sequence, sequence));
                }
                self.log.write_checkpoint(&checkpoint(self.generation, none_settled(), none_settled())).ok();
            }
            Step::Release => drop(self.log.release(&self.settled)),
            Step::Compact => drop(self.log.compact_step(&self.settled)),
            Step::FailSync => self.disk.fail_syncs(1),
            Step::Compress(is_compressing) => self.log.set_compressing(is_compressing),
            Step::Retain(segments) => self.log.set_retention(Retention::Segments(segments), Duration::ZERO),
            Step::Reopen => self.log = open_within(&self.healed(), LIMITS).0,
            Step::Kill => {
                self.disk = self.healed().fork();
                self.log = open_within(&self.disk, LIMITS).0;
            }
        }
    }

    fn healed(&self) -> ModelDisk {
        self.disk.fail_syncs(0);
        self.disk.clone()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_files_stay_within_the_budget(is_preallocating: bool, steps in prop::collection::vec((step(), 1u8..20), 0..200)) {
        let mut world = World::new(is_preallocating);
        for (step, times) in steps {
            (0..times).for_each(|_| world.apply(&step));
            let allocated = world.disk.allocated();
            prop_assert!(allocated <= LIMITS.budget_bytes + UNCOUNTED_BYTES, "{allocated} bytes after {step:?}");
        }
    }
}

fn store(log: &mut Log<ModelDisk>, sequence: u64) -> Result<(), AppendError> {
    let id = id(Class::Normal, sequence);
    log.append(&append(id, &body(id, 900)))
}

#[test]
fn a_full_budget_refuses_until_half_needed_segments_are_copied_together() {
    let disk = ModelDisk::default();
    let (mut log, _) = open_within(&disk, Limits::new(4_000, 120_000));
    let stored = (1..).take_while(|&sequence| store(&mut log, sequence).is_ok()).count() as u64;
    log.commit().unwrap();
    assert!(log.is_room_short() && stored > 40, "{stored}");
    // Two of three are settled: no segment may be released.
    let mut settled = none_settled();
    let ids = (1..=stored).filter(|sequence| sequence % 3 != 0);
    ids.for_each(|sequence| settled[Class::Normal.index()].insert_range(sequence, sequence));
    log.release(&settled).unwrap();
    assert!(matches!(store(&mut log, stored + 1), Err(AppendError::Budget { budget_bytes: 120_000, .. })));
    assert!((0..80).map(|_| log.compact_step(&settled).unwrap()).sum::<u64>() > 0);
    for sequence in stored + 1..=stored + 10 {
        store(&mut log, sequence).unwrap();
    }
    log.commit().unwrap();
    assert!(!log.is_room_short());
    for sequence in (3..=stored).step_by(3) {
        let id = id(Class::Normal, sequence);
        assert_eq!(log.index().read(id).unwrap(), body(id, 900));
    }
}

#[test]
fn on_a_real_volume_too_what_the_files_take_up_stays_within_the_budget() {
    use std::os::unix::fs::MetadataExt;

    const BUDGET_BYTES: u64 = 4 << 20;
    let directory = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 64 << 10, budget_bytes: BUDGET_BYTES, identity: "test".into(), host: "here".into() };
    let (mut sequence, mut refused) = (0, 0);
    // Each life but the last ends without a word, in the middle of a segment of each class.
    for _ in 0..4 {
        let (mut spool, _) = Spool::open(directory.path(), options.clone()).unwrap();
        for _ in 0..200 {
            sequence += 1;
            let id = id(Class::ALL[sequence as usize % Class::COUNT], sequence);
            refused += u64::from(spool.append(&append(id, &body(id, 10_000))).is_err_and(|error| error.is_over_budget()));
            spool.commit().unwrap();
        }
        let files = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
        let (count, allocated) = files.fold((0, 0), |(count, sum), metadata| (count + 1, sum + metadata.blocks() * 512));
        assert!(allocated <= BUDGET_BYTES + count * 4096, "{allocated} bytes in {count} files");
    }
    assert!(refused > 0, "the budget was full");
}
