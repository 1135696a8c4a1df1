//! The storage thread's part in quarantine: it copies out what the engine asks for, and carries into the books what tools took out.
//! Without a usable directory there is no quarantine, and what destinations find bad is dropped for that reason.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crds::agent::DiskBuffer;
use otlp::Rules;
use pipeline::{Copied, Quarantined, SetAside};
use spool::{Quarantine, QuarantineFile, ReadError, SetAsideError, Spool};

use crate::board::Board;
use crate::engine::Engine;
use crate::stage;
use crate::storage::{STAGE, chain};

/// Copied out between two groups of the log, so that a flood of bad records delays no request.
const ROUND_MAX: usize = 16;
/// Time between two looks for what tools took out.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The quarantine, if there is one.
pub(crate) struct Shelf {
    quarantine: Option<Quarantine>,
    looked: Instant,
    is_full: bool,
}

impl Shelf {
    /// No quarantine.
    pub(crate) fn none() -> Self {
        Self { quarantine: None, looked: Instant::now(), is_full: false }
    }

    /// Opens the quarantine of a buffer whose recovered checkpoint is of this generation; tells what it holds, if that is known.
    pub(crate) fn open(disk: &DiskBuffer, host: &str, generation: u64) -> (Self, Option<Vec<Quarantined>>) {
        match Quarantine::open(Path::new(&disk.path), disk.shares().quarantine, host, generation) {
            Ok((quarantine, held)) => {
                if !held.is_empty() {
                    tracing::warn!(records = held.len(), bytes = quarantine.bytes(), "the quarantine holds what destinations find bad");
                }
                let held = held.iter().map(quarantined).collect();
                (Self { quarantine: Some(quarantine), ..Self::none() }, Some(held))
            }
            Err(cause) => {
                tracing::error!(error = chain(&cause), "there is no quarantine: what destinations find bad is dropped as Rejected");
                (Self::none(), None)
            }
        }
    }

    /// Copies out what the engine wants set aside. What breaks the thread here has broken something before: it is given up.
    pub(crate) fn copy_out(&mut self, engine: &Engine, spool: &Spool, board: &Board) {
        for _ in 0..ROUND_MAX {
            let Some(aside) = engine.with(pipeline::Pipeline::poll_set_aside) else { return };
            let (destination, id) = (aside.destination, aside.id);
            let copy = stage::step(STAGE, board, || self.copy(aside, spool));
            let (copied, file) = match copy.unwrap_or(Err(Copied::Unreadable)) {
                Ok(file) => (Copied::Stored, Some(file)),
                Err(copied) => (copied, None),
            };
            let is_held = engine.with(|pipeline, now| pipeline.handle_set_aside(now, destination, id, copied));
            if let Some(file) = file.filter(|_| !is_held) {
                self.withdraw(&file);
            }
            engine.wake_settled();
        }
    }

    /// Makes the copy; what else became of it is the error.
    fn copy(&mut self, aside: SetAside, spool: &Spool) -> Result<QuarantineFile, Copied> {
        let Some(quarantine) = &mut self.quarantine else { return Err(Copied::Full) };
        let record = match aside.body.map_or_else(|| spool.read(aside.id), Ok) {
            Ok(record) => record,
            Err(ReadError::NotFound { .. } | ReadError::Corrupt { .. }) => return Err(Copied::Unreadable),
            Err(_) => return Err(Copied::LocalFault),
        };
        #[cfg(test)]
        stage::tests::break_if_told(&record);
        let body = cut_out(&aside.items, aside.signal, record).map_err(|cause| {
            tracing::error!(error = %cause, "a record that was well formed when it was taken in is not any more; it is counted as Corrupt");
            Copied::Unreadable
        })?;
        let SetAside { name, id, signal, counts, rejected, reason, received_unix_ms, items, .. } = aside;
        tracing::warn!(destination = name, %signal, items = counts.total(), bytes = body.len(), ?reason, "a destination finds items bad; they are set aside");
        let file = QuarantineFile { destination: name, id, signal, counts, rejected, reason, received_unix_ms, items, body };
        let stored = quarantine.store(&file);
        let was_full = std::mem::replace(&mut self.is_full, matches!(stored, Err(SetAsideError::Full { .. })));
        match stored {
            Ok(()) => Ok(file),
            Err(cause @ SetAsideError::Full { .. }) => {
                if !was_full {
                    tracing::error!(error = chain(&cause), "what destinations find bad is dropped for that reason");
                }
                Err(Copied::Full)
            }
            Err(cause) => {
                tracing::error!(error = chain(&cause), "items could not be set aside; tried again");
                Err(Copied::LocalFault)
            }
        }
    }

    /// The engine gave the items up while they were copied out.
    fn withdraw(&mut self, file: &QuarantineFile) {
        if let Some(Err(cause)) = self.quarantine.as_mut().map(|quarantine| quarantine.withdraw(file)) {
            tracing::warn!(
                error = chain(&cause),
                "a copy of items that are counted as dropped stays, and counts as received at the next start"
            );
        }
    }

    /// Another bound from here on.
    pub(crate) fn set_budget(&mut self, bytes_max: u64) {
        if let Some(quarantine) = &mut self.quarantine {
            quarantine.set_bytes_max(bytes_max);
        }
    }

    /// Shows what is held.
    pub(crate) fn show(&self, board: &Board) {
        let Some(quarantine) = &self.quarantine else { return };
        board.quarantine.files.store(quarantine.files() as u64, Ordering::Relaxed);
        board.quarantine.bytes.store(quarantine.bytes(), Ordering::Relaxed);
        board.quarantine.bytes_max.store(quarantine.bytes_max(), Ordering::Relaxed);
    }

    /// Moves in the books what tools took out since the last look. To be called by the thread that writes the checkpoints, for
    /// the next of them must have it.
    pub(crate) fn look(&mut self, engine: &Engine) {
        if self.looked.elapsed() >= LOOK_EVERY {
            self.take_out(engine);
        }
    }

    fn take_out(&mut self, engine: &Engine) {
        self.looked = Instant::now();
        let Some(quarantine) = &mut self.quarantine else { return };
        let next = engine.with(|pipeline, _| pipeline.generation()) + 1;
        match quarantine.take_out(next) {
            Ok(taken) => {
                for out in taken {
                    engine.with(|pipeline, _| pipeline.handle_taken_out(&quarantined(&out.was), out.is_replayed));
                }
            }
            Err(cause) => tracing::warn!(error = chain(&cause), "what was taken out of quarantine is counted later"),
        }
    }

    /// A checkpoint of this generation is durable.
    pub(crate) fn forget(&mut self, generation: u64) {
        if let Some(Err(cause)) = self.quarantine.as_mut().map(|quarantine| quarantine.forget(generation)) {
            tracing::warn!(error = chain(&cause), "what was taken out of quarantine is deleted at the next start");
        }
    }
}

/// An export request of the bad items; none listed means all.
fn cut_out(items: &[std::ops::Range<u32>], signal: vocabulary::Signal, record: Bytes) -> Result<Bytes, otlp::Malformed> {
    if items.is_empty() { Ok(record) } else { otlp::slice(signal, &record, items, &Rules::default()).map(|(_, body)| body) }
}

fn quarantined(file: &QuarantineFile) -> Quarantined {
    Quarantined { destination: file.destination.clone(), id: file.id, signal: file.signal, counts: file.counts, rejected: file.rejected }
}

#[cfg(test)]
mod tests {
    use crds::agent::OnFull;
    use pipeline::{DestinationIndex, Outcome};
    use vocabulary::DropReason;

    use super::*;
    use crate::engine::tests::{spilling, take_in};

    const ONLY: DestinationIndex = DestinationIndex(0);

    fn books(engine: &Engine) -> (u64, u64) {
        let books = engine.with(|pipeline, _| pipeline.books().clone());
        books.check().expect("the books hold");
        let cells = books.destinations.iter().flat_map(|book| book.cells.iter().flatten());
        cells.fold((0, 0), |(held, rejected), cell| {
            (held + cell.held.quarantined, rejected + cell.dropped.get(DropReason::Rejected.index()).copied().unwrap_or(0))
        })
    }

    fn board() -> Board {
        Board::new()
    }

    fn reject_one(engine: &Engine, body: &'static [u8]) {
        take_in(engine, body);
        let send = engine.with(|pipeline, now| pipeline.poll_send(now, ONLY)).expect("it waits for nothing");
        engine.with(|pipeline, now| pipeline.handle_outcome(now, ONLY, send.id, Outcome::Rejected));
    }

    #[test]
    fn what_a_destination_finds_bad_is_kept_until_a_tool_takes_it_out() {
        let directory = tempfile::tempdir().expect("a directory");
        let options = spool::Options { segment_bytes: 1 << 20, budget_bytes: 0, identity: "test".into(), host: "here".into() };
        let (spool, _) = Spool::open(directory.path(), options).expect("an empty directory can be opened");
        let path = directory.path().display().to_string();
        let disk = DiskBuffer { path, bytes: 1 << 20, segment_bytes: 1 << 20, on_full: OnFull::default(), retention: None };
        let (mut shelf, held) = Shelf::open(&disk, "here", 0);
        assert_eq!(held, Some(Vec::new()));
        let engine = Engine::new(spilling(), None);
        reject_one(&engine, b"one");
        shelf.copy_out(&engine, &spool, &board());
        assert_eq!(books(&engine), (1, 0));
        let folder = directory.path().join(spool::QUARANTINE_DIRECTORY);
        let kept = || {
            let names = std::fs::read_dir(&folder).expect("it is there").map(|entry| entry.expect("an entry").path());
            names.filter(|path| path.file_name().is_some_and(|name| name != "lock")).collect::<Vec<_>>()
        };
        let file = kept().pop().expect("one file");
        std::fs::rename(&file, file.with_extension("removed")).expect("a tool may");
        shelf.take_out(&engine);
        assert_eq!((books(&engine), kept().len()), ((0, 1), 1));
        let generation = engine.with(|pipeline, _| pipeline.checkpoint()).generation;
        shelf.forget(generation);
        assert_eq!(kept().len(), 0);
    }

    #[test]
    fn without_a_quarantine_bad_items_are_dropped_and_counted() {
        let directory = tempfile::tempdir().expect("a directory");
        let options = spool::Options { segment_bytes: 1 << 20, budget_bytes: 0, identity: "test".into(), host: "here".into() };
        let (spool, _) = Spool::open(directory.path(), options).expect("an empty directory can be opened");
        let engine = Engine::new(spilling(), None);
        reject_one(&engine, b"one");
        Shelf::none().copy_out(&engine, &spool, &board());
        assert_eq!(books(&engine), (0, 1));
    }

    #[test]
    fn what_breaks_the_thread_as_it_is_copied_out_is_given_up_and_the_others_are_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let options = spool::Options { segment_bytes: 1 << 20, budget_bytes: 0, identity: "test".into(), host: "here".into() };
        let (spool, _) = Spool::open(directory.path(), options).expect("an empty directory can be opened");
        let path = directory.path().display().to_string();
        let disk = DiskBuffer { path, bytes: 1 << 20, segment_bytes: 1 << 20, on_full: OnFull::default(), retention: None };
        let (mut shelf, _) = Shelf::open(&disk, "here", 0);
        let (engine, board) = (Engine::new(spilling(), None), board());
        reject_one(&engine, crate::stage::tests::BREAKS);
        reject_one(&engine, b"one");
        shelf.copy_out(&engine, &spool, &board);
        assert_eq!((books(&engine), board.panics()), ((1, 0), vec![(STAGE, 1)]));
        let cells = engine.with(|pipeline, _| pipeline.books().destinations[0].cells.clone());
        assert_eq!(cells.iter().flatten().map(|cell| cell.dropped[DropReason::Corrupt.index()]).sum::<u64>(), 1);
    }
}
