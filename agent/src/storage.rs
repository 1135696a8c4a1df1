//! The thread that owns the spool. It takes what waits, appends it, syncs once for all of it, and tells the engine: so a sync is
//! shared by every request that arrived during the one before, and a request that was cancelled is still counted right.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pipeline::Persist;
use spool::Spool;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::board::Board;
use crate::engine::{Engine, unix_ms};

/// Records that may wait for the thread; their bodies are within the engine's bounds already.
pub(crate) const QUEUE_MAX: usize = 1024;
/// Records of one group: at the usual sizes a few megabytes, which sync in the time of one.
const GROUP_MAX: usize = 256;
/// Time between two checkpoints: what a crash delivers twice is at most this long.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(200);
/// Pauses before a failed disk is tried again.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What the thread is asked to do.
pub(crate) enum Job {
    /// Make a record durable.
    Append(Append),
    /// Write the last checkpoint and end; answers whether it is durable.
    Finish(oneshot::Sender<bool>),
}

/// A record that must be durable before it counts.
pub(crate) struct Append {
    pub(crate) record: Persist,
    /// Who waits for it; a request may have gone away.
    pub(crate) done: Option<oneshot::Sender<bool>>,
}

/// The thread's state.
pub(crate) struct Storage {
    spool: Spool,
    engine: Arc<Engine>,
    board: Arc<Board>,
    health: Health,
    checkpointed: Instant,
}

/// Whether the disk is in use. A failed one is left alone for a while, so that intake does not wait for its errors.
enum Health {
    Good,
    Failed { until: Instant, pause: Duration },
}

impl Storage {
    pub(crate) fn new(spool: Spool, engine: Arc<Engine>, board: Arc<Board>) -> Self {
        Self { spool, engine, board, health: Health::Good, checkpointed: Instant::now() }
    }

    /// Works until told to finish.
    pub(crate) fn run(mut self, mut jobs: mpsc::Receiver<Job>, runtime: &Handle) {
        let mut waiting = Vec::with_capacity(GROUP_MAX);
        loop {
            let received =
                runtime.block_on(async { tokio::time::timeout(CHECKPOINT_EVERY, jobs.recv_many(&mut waiting, GROUP_MAX)).await });
            let ended = received == Ok(0);
            let finish = self.work(&mut waiting);
            self.board.storage_beat.store(unix_ms(), Ordering::Relaxed);
            if finish.is_some() || ended {
                let durable = self.checkpoint();
                if let Some(finish) = finish {
                    // Nobody waits any more only when the process is being forced to end.
                    finish.send(durable).unwrap_or(());
                }
                return;
            }
            if self.checkpointed.elapsed() >= CHECKPOINT_EVERY
                && self.may_try()
                && self.engine.with(|pipeline, _| pipeline.is_checkpoint_due())
            {
                self.checkpoint();
            }
        }
    }

    /// Stores one group; returns who asked for the end, if anybody did.
    fn work(&mut self, waiting: &mut Vec<Job>) -> Option<oneshot::Sender<bool>> {
        let mut finish = None;
        let mut group = Vec::with_capacity(waiting.len());
        for job in waiting.drain(..) {
            match job {
                Job::Append(append) => group.push(append),
                Job::Finish(done) => finish = Some(done),
            }
        }
        if !group.is_empty() {
            let stored = if self.may_try() { self.append(&group) } else { vec![false; group.len()] };
            self.settle(group, &stored);
        }
        finish
    }

    /// Appends and syncs; tells for each record whether it is durable.
    fn append(&mut self, group: &[Append]) -> Vec<bool> {
        let mut stored: Vec<bool> = group
            .iter()
            .map(|append| {
                let Persist { id, signal, counts, received_unix_ms, ref body } = append.record;
                let record = spool::Append { id, signal, counts, received_unix_ms, body };
                let appended = self.spool.append(&record);
                appended.map_err(|cause| self.fail("a record could not be stored", &cause)).is_ok()
            })
            .collect();
        if stored.contains(&true) {
            match self.spool.commit() {
                Ok(()) if stored.iter().all(|&stored| stored) => self.heal(),
                Ok(()) => {}
                Err(cause) => {
                    self.fail("records could not be made durable", &cause);
                    stored.fill(false);
                }
            }
        }
        stored
    }

    fn settle(&mut self, group: Vec<Append>, stored: &[bool]) {
        self.engine.with(|pipeline, now| {
            for (append, &stored) in group.iter().zip(stored) {
                if stored {
                    pipeline.handle_stored(now, append.record.id);
                } else {
                    pipeline.handle_store_failed(now, append.record.id);
                }
            }
        });
        for (append, &stored) in group.into_iter().zip(stored) {
            if let Some(done) = append.done {
                // The request may have been cancelled; the engine knows what became of its record.
                done.send(stored).unwrap_or(());
            }
        }
        self.engine.wake_senders();
        self.engine.wake_settled();
    }

    /// Persists the books and what is settled, then gives back the space of what nobody needs. Returns whether it is durable.
    fn checkpoint(&mut self) -> bool {
        self.checkpointed = Instant::now();
        let checkpoint = self.engine.with(|pipeline, _| pipeline.checkpoint());
        if let Err(cause) = self.spool.write_checkpoint(&checkpoint) {
            self.fail("a checkpoint could not be written", &cause);
            return false;
        }
        let settled = self.engine.with(|pipeline, _| pipeline.handle_checkpointed(checkpoint.generation));
        match self.spool.release(&settled) {
            Ok(_) => self.heal(),
            Err(cause) => self.fail("settled segments could not be deleted", &cause),
        }
        true
    }

    fn may_try(&self) -> bool {
        match self.health {
            Health::Good => true,
            Health::Failed { until, .. } => Instant::now() >= until,
        }
    }

    /// Marks the disk as failed; logged when it begins, not for every record of an outage.
    fn fail(&mut self, what: &'static str, cause: &dyn std::error::Error) {
        let pause = match self.health {
            Health::Good => {
                tracing::error!(error = %chain(cause), "{what}; the disk is tried again, until then memory alone is used");
                RETRY_FIRST
            }
            Health::Failed { until, pause } if Instant::now() >= until => (pause * 2).min(RETRY_MAX),
            Health::Failed { pause, .. } => pause,
        };
        self.health = Health::Failed { until: Instant::now() + pause, pause };
        self.board.disk_failed.store(true, Ordering::Relaxed);
    }

    fn heal(&mut self) {
        if matches!(self.health, Health::Failed { .. }) {
            self.health = Health::Good;
            self.board.disk_failed.store(false, Ordering::Relaxed);
            tracing::info!("the disk works again");
        }
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
