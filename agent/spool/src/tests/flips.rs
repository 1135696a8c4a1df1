//! One flipped bit, twenty thousand times: anywhere in any file of a fixed set of directories. Apart from the other damage because it
//! knows nothing of the format: it asks only what any damage may cost.

use pipeline::RecordId;
use vocabulary::Class;

use super::{BUFFER, PIPELINE, append, body, checkpoint, id, none_settled, open_within};
use crate::error::ReadError;
use crate::format::BufferId;
use crate::log::room::Limits;
use crate::model::ModelDisk;
use crate::{Recovery, recovery};

const SAMPLES: u64 = 20_000;
/// Room for spare files and a reserve.
const BUDGET_BYTES: u64 = 1 << 20;

/// A directory, and what it holds.
pub(super) struct Sample {
    disk: ModelDisk,
    limits: Limits,
    /// All of it is named by the last checkpoint.
    pub(super) held: Vec<RecordId>,
    /// The last record of each class; those that are not held were settled.
    last: u64,
    length: usize,
}

/// Directories of every kind of segment: small and large ones, compressed bodies, a record larger than its segment, empty records.
pub(super) fn samples(buffer: BufferId) -> [Sample; 5] {
    [
        Sample::new(buffer, 4, 40, 256, false),
        Sample::new(buffer, 24, 300, 2048, false),
        Sample::new(buffer, 24, 300, 2048, true),
        Sample::new(buffer, 2, 5000, 4096, false),
        Sample::new(buffer, 40, 0, 1024, false),
    ]
}

impl Sample {
    /// Records of every class, so many per class and of this length, the first half of them settled and given back.
    fn new(buffer: BufferId, records: u64, length: usize, segment_bytes: u64, is_compressing: bool) -> Self {
        let (disk, limits) = (ModelDisk::default(), Limits::new(segment_bytes, BUDGET_BYTES));
        let (mut log, _) = recovery::open(disk.clone(), PIPELINE, buffer, limits).unwrap();
        log.set_compressing(is_compressing);
        let (mut stored, mut settled, mut held) = (none_settled(), none_settled(), Vec::new());
        for half in [1..=records / 2, records / 2 + 1..=records] {
            for id in Class::ALL.into_iter().flat_map(|class| half.clone().map(move |sequence| id(class, sequence))) {
                log.append(&append(id, &body(id, length))).unwrap();
                held.push(id);
            }
            log.commit().unwrap();
            stored.iter_mut().for_each(|ranges| ranges.insert_range(*half.start(), *half.end()));
            log.write_checkpoint(&checkpoint(*half.end(), stored.clone(), settled.clone())).unwrap();
            if *half.start() == 1 {
                settled = stored.clone();
                stored = none_settled();
                log.write_checkpoint(&checkpoint(2, stored.clone(), settled.clone())).unwrap();
                log.release(&settled).unwrap();
                held.clear();
            }
        }
        Self { disk, limits, held, last: records, length }
    }

    /// A disk of its own with the same content.
    pub(super) fn copy(&self) -> ModelDisk {
        self.disk.crash(&mut |possibilities| possibilities.min(2) - 1)
    }

    /// The files that hold anything.
    pub(super) fn files(&self) -> Vec<String> {
        self.disk.names().into_iter().filter(|name| !self.disk.content(name).is_empty()).collect()
    }

    /// What a damaged copy of it has lost; asserts that it opens, finds nothing foreign and nothing twice, and delivers nothing wrong. A
    /// settled record may be found, for the engine knows it by the checkpoint.
    pub(super) fn lost(&self, disk: &ModelDisk, damage: &str) -> (Vec<RecordId>, Recovery) {
        let (log, recovery) = open_within(disk, self.limits);
        let found: Vec<RecordId> = recovery.recovered.stored.iter().map(|stored| stored.id).collect();
        assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "{damage}: {found:?}");
        assert!(found.iter().all(|id| id.sequence <= self.last), "{damage}: {found:?}");
        let is_lost = |id: &RecordId| match log.index().read(*id) {
            Ok(read) => {
                assert_eq!(read, body(*id, self.length), "{damage}: wrong bytes of {id:?}");
                false
            }
            Err(ReadError::Corrupt { .. } | ReadError::NotFound { .. }) => true,
            Err(error) => panic!("{damage}: {error}"),
        };
        (self.held.iter().copied().filter(is_lost).collect(), recovery)
    }
}

/// Whether the engine knows of a lost record: its reading fails, its damage is reported, or the checkpoint names it.
pub(super) fn is_told(recovery: &Recovery, lost: RecordId) -> bool {
    let is_found = recovery.recovered.stored.iter().any(|stored| stored.id == lost);
    let is_named =
        recovery.recovered.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.stored[lost.class.index()].contains(lost.sequence));
    is_found || is_named || recovery.damage.iter().any(|damage| damage.lost == Some(lost))
}

#[test]
fn one_flipped_bit_in_any_file_costs_at_most_one_record_and_never_in_silence() {
    let samples = samples(BUFFER);
    let (mut state, mut costly) = (0_u64, 0);
    let mut below = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    for number in 0..SAMPLES {
        let sample = &samples[below(samples.len())];
        let names = sample.files();
        let name = &names[below(names.len())];
        let disk = sample.copy();
        let (offset, bit) = (below(disk.content(name).len()), below(8) as u32);
        assert!(disk.flip(name, offset, 1 << bit));
        let damage = format!("sample {number}: {name} {offset} {bit}");
        let (lost, recovery) = sample.lost(&disk, &damage);
        let most = usize::from(name.ends_with(".segment"));
        assert!(lost.len() <= most && lost.iter().all(|lost| is_told(&recovery, *lost)), "{damage} costs {lost:?}");
        costly += lost.len();
    }
    assert!(costly > 1000, "the flips do hit records: {costly}");
}
