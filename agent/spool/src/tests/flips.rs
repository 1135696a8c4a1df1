//! One flipped bit, twenty thousand times: anywhere in any file of a fixed set of directories. Apart from the other damage because it
//! knows nothing of the format: it asks only what any damage may cost.

use pipeline::RecordId;
use vocabulary::Class;

use super::{append, body, checkpoint, id, none_settled, open_within};
use crate::error::ReadError;
use crate::log::room::Limits;
use crate::model::ModelDisk;

const SAMPLES: u64 = 20_000;
/// Room for spare files and a reserve.
const BUDGET_BYTES: u64 = 1 << 20;

/// A directory, and what it holds.
struct Sample {
    disk: ModelDisk,
    limits: Limits,
    held: Vec<RecordId>,
    length: usize,
}

/// Records of every class, so many per class and of this length, the first half of them settled and given back.
fn directory(records: u64, length: usize, segment_bytes: u64, is_compressing: bool) -> Sample {
    let (disk, limits) = (ModelDisk::default(), Limits::new(segment_bytes, BUDGET_BYTES));
    let (mut log, _) = open_within(&disk, limits);
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
    Sample { disk, limits, held, length }
}

/// What is lost of a directory with one flipped bit; asserts that it opens, delivers nothing wrong and tells of what is lost.
fn lost_to(sample: &Sample, file: &str, offset: usize, bit: u32) -> Vec<RecordId> {
    let disk = sample.disk.crash(&mut |possibilities| possibilities.min(2) - 1);
    assert!(disk.flip(file, offset, 1 << bit));
    let (log, recovery) = open_within(&disk, sample.limits);
    let mut lost = Vec::new();
    for &id in &sample.held {
        match log.index().read(id) {
            Ok(read) => assert_eq!(read, body(id, sample.length), "{file} {offset} {bit}: wrong bytes of {id:?}"),
            Err(ReadError::Corrupt { .. }) => lost.push(id),
            Err(ReadError::NotFound { .. }) => {
                assert!(!recovery.damage.is_empty(), "{file} {offset} {bit}: {id:?} is gone in silence");
                lost.push(id);
            }
            Err(error) => panic!("{file} {offset} {bit}: {error}"),
        }
    }
    lost
}

#[test]
fn one_flipped_bit_in_any_file_costs_at_most_one_record_and_never_in_silence() {
    let samples = [
        directory(4, 40, 256, false),
        directory(24, 300, 2048, false),
        directory(24, 300, 2048, true),
        directory(2, 5000, 4096, false),
        directory(40, 0, 1024, false),
    ];
    let (mut state, mut costly) = (0_u64, 0);
    let mut below = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    for number in 0..SAMPLES {
        let sample = &samples[below(samples.len())];
        let names: Vec<String> = sample.disk.names().into_iter().filter(|name| !sample.disk.content(name).is_empty()).collect();
        let name = &names[below(names.len())];
        let (offset, bit) = (below(sample.disk.content(name).len()), below(8) as u32);
        let lost = lost_to(sample, name, offset, bit);
        let most = usize::from(name.ends_with(".segment"));
        assert!(lost.len() <= most, "sample {number}: {name} {offset} {bit} costs {lost:?}");
        costly += lost.len();
    }
    assert!(costly > 1000, "the flips do hit records: {costly}");
}
