//! The end of the process, phase by phase as the engine says: inputs stop first, outputs last, and a second signal or the
//! deadline ends it at once.

use std::sync::Arc;
use std::time::Duration;

use pipeline::{Phase, Pipeline};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::engine::Engine;
use crate::storage::{Append, Job};

/// Longest wait between two looks at the phase; deadlines are seconds.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Records handed to the storage thread at once while flushing: one of its groups.
const FLUSH_GROUP: usize = 256;
/// Longest wait for the last checkpoint: a disk that hangs must not keep the process.
const FINISH_TIME_MAX: Duration = Duration::from_secs(5);

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
        loop {
            match self.engine.with(Pipeline::poll_phase) {
                Phase::Stopped => break,
                Phase::DrainingInputs | Phase::Running => {
                    if self.inputs.is_empty() {
                        self.engine.with(Pipeline::handle_inputs_stopped);
                        continue;
                    }
                }
                Phase::Flushing => self.flush().await,
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
        // Whatever input did not end in its share of the deadline ends here.
        self.inputs.shutdown().await;
    }

    /// Hands memory-only records to the storage thread; it reports each to the engine.
    async fn flush(&self) {
        let records = self.engine.with(|pipeline, now| pipeline.poll_flush(now, FLUSH_GROUP));
        for record in records {
            let id = record.id;
            let handed = match self.engine.storage() {
                Some(storage) => storage.send(Job::Append(Append { record, done: None })).await.is_ok(),
                None => false,
            };
            if !handed {
                self.engine.with(|pipeline, now| pipeline.handle_store_failed(now, id));
            }
        }
    }
}

/// Has the storage thread write the last checkpoint and end. Whether it is durable; true without a disk.
pub(crate) async fn finish_storage(engine: &Engine) -> bool {
    let Some(storage) = engine.storage() else { return true };
    let finish = async {
        let (done, wait) = oneshot::channel();
        storage.send(Job::Finish(done)).await.ok()?;
        wait.await.ok()
    };
    tokio::time::timeout(FINISH_TIME_MAX, finish).await.ok().flatten().unwrap_or(false)
}
