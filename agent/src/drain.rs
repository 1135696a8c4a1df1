//! The end of the process, phase by phase as the engine says: inputs stop first, outputs last, and a second signal or the
//! deadline ends it at once.

use std::sync::Arc;
use std::time::Duration;

use pipeline::{NotStored, Phase, Pipeline};
use spool::points::reach;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::engine::Engine;
use crate::storage::Append;

/// Longest wait between two looks at the phase; deadlines are seconds.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Records handed to the storage thread at once while flushing: one of its groups.
const FLUSH_GROUP: usize = 256;

/// What the drain stops, and what tells it to hurry.
pub(crate) struct Drain<'a> {
    pub(crate) engine: &'a Arc<Engine>,
    /// Tells the inputs to end.
    pub(crate) stop_inputs: &'a watch::Sender<bool>,
    /// The inputs' tasks.
    pub(crate) inputs: JoinSet<()>,
    pub(crate) deadline: Duration,
}

impl Drain<'_> {
    /// Runs until the engine has stopped; `hurry` resolves at each further signal.
    pub(crate) async fn run(mut self, mut hurry: impl AsyncFnMut()) {
        self.engine.with(|pipeline, now| pipeline.handle_shutdown(now, self.deadline));
        self.stop_inputs.send_replace(true);
        reach("drain.begun");
        loop {
            match self.engine.with(Pipeline::poll_phase) {
                Phase::Stopped => break,
                Phase::DrainingInputs | Phase::Running => {
                    if self.inputs.is_empty() {
                        self.engine.with(Pipeline::handle_inputs_stopped);
                        reach("drain.inputs-stopped");
                        continue;
                    }
                }
                Phase::Flushing => {
                    reach("drain.flushing");
                    self.flush();
                }
                Phase::CompletingAcks | Phase::DrainingQueues => {}
            }
            tokio::select! {
                Some(_) = self.inputs.join_next(), if !self.inputs.is_empty() => {}
                () = self.engine.settled() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = hurry() => {
                    tracing::warn!("second signal: ending at once");
                    self.engine.with(|pipeline, now| pipeline.handle_shutdown(now, Duration::ZERO));
                }
            }
        }
        reach("drain.stopped");
        // Whatever input did not end in its share of the deadline ends here.
        self.inputs.shutdown().await;
    }

    /// Hands memory-only records to the storage thread, which reports each to the engine: as many as it has places for, because
    /// waiting for a place could be waiting for a disk that hangs.
    fn flush(&self) {
        let Some(storage) = self.engine.storage() else { return };
        let mut places = match storage.try_reserve_many(storage.capacity().min(FLUSH_GROUP)) {
            Ok(places) => Some(places),
            // An input that is still ending took a place in between: the next look finds fewer.
            Err(TrySendError::Full(())) => return,
            Err(TrySendError::Closed(())) => None,
        };
        let most = places.as_ref().map_or(FLUSH_GROUP, ExactSizeIterator::len);
        for record in self.engine.with(|pipeline, now| pipeline.poll_flush(now, most)) {
            match places.as_mut().and_then(Iterator::next) {
                Some(place) => place.send(Append::flushed(record)),
                None => self.engine.with(|pipeline, now| pipeline.handle_store_failed(now, record.id, NotStored::Fault)),
            }
        }
    }
}

/// Has the storage thread write the last checkpoint and end, within `most`, however many appends wait for it. Whether it is durable;
/// true without a disk.
pub(crate) async fn finish_storage(engine: &Engine, most: Duration) -> bool {
    let Some(storage) = engine.storage() else { return true };
    let finished = async {
        let mut done = engine.finish_storage();
        tokio::select! {
            biased;
            is_durable = &mut done => is_durable.unwrap_or(false),
            // The thread takes no more appends: because it is about to finish, or because it is gone.
            () = storage.closed() => {
                engine.forget_finish();
                done.await.unwrap_or(false)
            }
        }
    };
    tokio::time::timeout(most, finished).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::sync::mpsc;

    use super::*;
    use crate::engine::tests::{held_in_memory, spilling};

    /// A storage thread that hangs in the disk takes nothing; the queue before it is full after one record.
    fn before_a_hung_disk() -> (Arc<Engine>, mpsc::Receiver<Append>) {
        let (jobs, hung) = mpsc::channel(1);
        let engine = Arc::new(Engine::new(spilling(), Some(jobs)));
        held_in_memory(&engine, 3);
        (engine, hung)
    }

    #[tokio::test]
    async fn the_deadline_ends_a_drain_whose_disk_hangs() {
        let (engine, _hung) = before_a_hung_disk();
        let (stop, _stopped) = watch::channel(false);
        let drain = Drain { engine: &engine, stop_inputs: &stop, inputs: JoinSet::new(), deadline: Duration::from_millis(300) };
        let ended = tokio::time::timeout(Duration::from_secs(10), drain.run(async || std::future::pending().await)).await;
        assert!(ended.is_ok() && engine.with(Pipeline::poll_phase) == Phase::Stopped);
    }

    #[tokio::test]
    async fn the_last_checkpoint_is_asked_for_beside_a_full_queue_and_waited_for_no_longer_than_it_may_take() {
        let (engine, hung) = before_a_hung_disk();
        let place = engine.storage().and_then(|storage| storage.try_reserve().ok());
        assert!(place.is_some(), "the only place is free");
        assert!(!finish_storage(&engine, Duration::from_millis(10)).await);
        assert!(engine.told_to_finish().now_or_never().is_some(), "the thread finds it when the disk lets it go");
        drop(hung);
        assert!(!finish_storage(&engine, Duration::from_secs(3600)).await, "nobody waits for a thread that is gone");
    }

    #[tokio::test]
    async fn a_second_signal_ends_a_drain_whose_disk_hangs() {
        let (engine, mut hung) = before_a_hung_disk();
        let (stop, _stopped) = watch::channel(false);
        let drain = Drain { engine: &engine, stop_inputs: &stop, inputs: JoinSet::new(), deadline: Duration::from_secs(3) };
        let mut has_flushed = false;
        // The signal comes once the first record was handed over and the second found no place.
        let hurry = async || {
            if !has_flushed {
                hung.recv().await;
                has_flushed = true;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(10), drain.run(hurry)).await.is_ok());
        let books = engine.with(|pipeline, _| pipeline.books().clone());
        assert!(books.check().is_ok() && engine.with(Pipeline::poll_phase) == Phase::Stopped);
    }
}
