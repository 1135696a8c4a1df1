//! What memory a log takes, counted at the allocator. It is separate because the counting allocator serves every test of its program.

use pipeline::{Acknowledge, BufferMode, ClassPolicy, Config, MemoryLimits, OnFull, Pipeline, RecordId};
use spool::{Append, Options, Spool};
use vocabulary::{Class, ClassCounts, Signal};

/// Records that are held while they are counted: three full segments and a growing one.
const RECORDS: u64 = 200_000;

fn append(log: &mut Spool, class: Class, sequence: u64, body: &[u8]) {
    let id = RecordId { class, sequence };
    let record = Append { id, signal: Signal::Traces, counts: ClassCounts::of(class, 1), received_unix_ms: 1, body };
    log.append(&record).expect("there is room");
}

fn open(directory: &std::path::Path) -> Spool {
    let options = Options { segment_bytes: 16 << 20, identity: "test".into(), budget_bytes: 1 << 30, host: "here".into() };
    Spool::open(directory, options).expect("an empty directory can be opened").0
}

#[test]
fn a_log_that_every_class_has_written_to_takes_less_than_a_mebibyte_once_it_is_idle() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = Config {
        mode: BufferMode::Mirror,
        acknowledge: Acknowledge::AtRest,
        memory: MemoryLimits { bytes: 1, items: 1 },
        disk_bytes: 1,
        on_full: OnFull::RefuseIntake,
        max_age: None,
        soft_percent: 100,
        tenants_max: 0,
        replay_seed: 0,
        on_removed: pipeline::OnRemoved::Keep,
        classes: [ClassPolicy { weight: 1, reserved_percent: 0 }; Class::COUNT],
        destinations: Vec::new(),
    };
    let checkpoint = Pipeline::new(config, None).checkpoint();
    let body = vec![7; 300 << 10];
    let mut log = None;
    let taken = allocation_counter::measure(|| {
        let mut opened = open(directory.path());
        Class::ALL.into_iter().for_each(|class| append(&mut opened, class, 1, &body));
        opened.commit().expect("there is room");
        opened.write_checkpoint(&checkpoint).expect("there is room");
        log = Some(opened);
    });
    assert!(taken.bytes_current < 1 << 20, "{} bytes", taken.bytes_current);
    assert!(log.is_some_and(|log| log.read(RecordId { class: Class::Bulk, sequence: 1 }).is_ok()));
}

#[test]
fn a_held_record_takes_at_most_64_bytes() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut log = open(directory.path());
    let taken = allocation_counter::measure(|| {
        for sequence in 1..=RECORDS {
            append(&mut log, Class::Normal, sequence, b"a body");
            if sequence.is_multiple_of(1_000) {
                log.commit().expect("there is room");
            }
        }
    });
    let per_record = taken.bytes_current as f64 / RECORDS as f64;
    assert!(per_record <= 64.0, "{per_record} bytes");
}
