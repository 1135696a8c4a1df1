//! Readers beside the writer, in every order in which they may meet: `cargo test -p spool --lib --features loom interleavings`. Built
//! only then, because the primitives of `loom` work nowhere else.

use std::sync::Arc;

use loom::model::Builder;
use pipeline::{IdRanges, RecordId};
use vocabulary::Class;

use super::{append, body, id, none_settled, open};
use crate::ReadError;
use crate::log::Log;
use crate::model::ModelDisk;

/// Preemptions of one order: nearly every race there ever was shows with two.
const PREEMPTIONS_MAX: usize = 3;
/// Half a mebibyte.
const STACK_WORDS: usize = 64 << 10;
const SEGMENT_BYTES: u64 = 4_000;
const BODY_BYTES: usize = 300;

fn explore(scene: fn()) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS_MAX);
    builder.max_branches = 100_000;
    builder.check(move || spawn(scene).join().expect("the scene holds"));
}

/// A thread with room for what the log does: the usual one of `loom` is small.
fn spawn<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> loom::thread::JoinHandle<T> {
    loom::thread::Builder::new().stack_size(STACK_WORDS).spawn(run).expect("there is room for its stack")
}

fn record(sequence: u64) -> RecordId {
    id(Class::Normal, sequence)
}

fn store(log: &mut Log<ModelDisk>, sequences: std::ops::RangeInclusive<u64>) {
    for sequence in sequences {
        log.append(&append(record(sequence), &body(record(sequence), BODY_BYTES))).expect("there is room");
    }
    log.commit().expect("the disk is well");
}

fn settled(first: u64, last: u64) -> [IdRanges; Class::COUNT] {
    let mut settled = none_settled();
    settled[Class::Normal.index()].insert_range(first, last);
    settled
}

/// Reads a record beside what the writer does.
fn beside(log: &mut Log<ModelDisk>, sequence: u64, write: impl FnOnce(&mut Log<ModelDisk>)) -> Result<bytes::Bytes, ReadError> {
    let index = Arc::clone(log.index());
    let reader = spawn(move || index.read(record(sequence)));
    write(log);
    reader.join().expect("reading does not panic")
}

#[test]
fn a_record_is_not_there_or_whole_while_it_is_committed() {
    explore(|| {
        let (mut log, _) = open(&ModelDisk::default(), SEGMENT_BYTES);
        store(&mut log, 1..=1);
        match beside(&mut log, 2, |log| store(log, 2..=3)) {
            Ok(found) => assert_eq!(found, body(record(2), BODY_BYTES)),
            Err(error) => assert!(matches!(error, ReadError::NotFound { .. }), "{error}"),
        }
        assert_eq!(log.index().read(record(2)).expect("it is committed"), body(record(2), BODY_BYTES));
    });
}

#[test]
fn a_record_that_is_needed_is_found_whole_while_it_is_copied_and_its_file_used_again() {
    explore(|| {
        let (mut log, _) = open(&ModelDisk::default(), SEGMENT_BYTES);
        store(&mut log, 1..=12);
        let settled = settled(2, 12);
        let mut freed = 0;
        let read = beside(&mut log, 1, |log| {
            freed = (0..8).map(|_| log.compact_step(&settled).expect("the disk is well")).sum();
            store(log, 13..=24);
        });
        assert!(freed > 0, "nothing was copied");
        assert_eq!(read.expect("it is needed"), body(record(1), BODY_BYTES));
    });
}

#[test]
fn a_record_that_is_given_up_is_found_whole_or_not_at_all_while_its_file_is_used_again() {
    explore(|| {
        let (mut log, _) = open(&ModelDisk::default(), SEGMENT_BYTES);
        store(&mut log, 1..=12);
        let settled = settled(1, 12);
        let read = beside(&mut log, 1, |log| {
            log.release(&settled).expect("the disk is well");
            store(log, 13..=24);
        });
        match read {
            Ok(found) => assert_eq!(found, body(record(1), BODY_BYTES)),
            Err(error) => assert!(matches!(error, ReadError::NotFound { .. }), "{error}"),
        }
    });
}
