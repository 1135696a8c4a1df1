//! Tests of the whole log, over a model of a disk that forgets, and over real files. They are apart from the code because every one
//! of them runs through all of its layers.

mod budget;
mod checkpoints;
mod crashes;
mod damage;
mod exchanges;
mod flips;
mod format;
mod inspections;
#[cfg(feature = "loom")]
mod interleavings;
mod operations;
mod page;
mod quarantine;
mod real_files;
mod retention;
mod room;

use pipeline::{Books, Checkpoint, DestinationBook, IdRanges, KernelBook, RecordId};
use vocabulary::{Class, ClassCounts, Signal};

use crate::format::BufferId;
use crate::log::Log;
use crate::log::room::Limits;
use crate::model::ModelDisk;
use crate::{Append, Recovery, recovery};

const PIPELINE: &str = "7f8a2c1e-0000-4000-8000-000000000001";
const BUFFER: BufferId = *b"a buffer's bytes";

fn id(class: Class, sequence: u64) -> RecordId {
    RecordId { class, sequence }
}

/// The body that every test expects under an id, of the length asked for.
fn body(id: RecordId, length: usize) -> Vec<u8> {
    (0..length).map(|at| (id.sequence as usize * 31 + at * 7 + id.class.index()) as u8).collect()
}

fn append(id: RecordId, body: &[u8]) -> Append<'_> {
    let counts = ClassCounts::of(id.class, id.sequence as u32);
    Append { id, signal: Signal::Logs, counts, received_unix_ms: 1_700_000_000_000 + id.sequence, body }
}

fn open(disk: &ModelDisk, segment_bytes: u64) -> (Log<ModelDisk>, Recovery) {
    open_within(disk, Limits::new(segment_bytes, 0))
}

fn open_within(disk: &ModelDisk, limits: Limits) -> (Log<ModelDisk>, Recovery) {
    recovery::open(disk.clone(), PIPELINE, BUFFER, limits).expect("no content of a disk makes opening fail")
}

fn none_settled() -> [IdRanges; Class::COUNT] {
    Default::default()
}

fn empty_books() -> Books {
    Books {
        inputs: Default::default(),
        destinations: Vec::new(),
        kernel: KernelBook::default(),
        requests_refused: Default::default(),
        crash_volatile_bounds: (0, 0),
    }
}

fn checkpoint(generation: u64, stored: [IdRanges; Class::COUNT], settled: [IdRanges; Class::COUNT]) -> Checkpoint {
    let mut books = empty_books();
    books.destinations.push(DestinationBook { name: "backend".to_owned(), cells: Default::default(), attempts: generation });
    let settled = vec![("backend".to_owned(), settled)];
    Checkpoint { generation, books, settled, stored, next_sequence: [1; Class::COUNT], volatile_ceiling: 7 }
}
