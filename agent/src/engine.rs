//! The pure pipeline behind one lock. What happens under the lock is arithmetic: no file, no socket, no await.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crds::agent::DiskShares;
use pipeline::{Broken, Config, DestinationIndex, Pipeline};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::snapshot::Snapshot;
use crate::storage::Append;
use crate::waiting::Waiting;

/// Time between two looks at the books' identities, each of which costs microseconds.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// The engine and what wakes those who wait for it.
pub(crate) struct Engine {
    started: Instant,
    pipeline: Mutex<Pipeline>,
    /// One per index a destination may have: there may be something to send.
    sendable: [Notify; Config::DESTINATIONS_MAX],
    /// Something settled: a phase may have ended.
    settled: Notify,
    /// Clients whose answers wait for destinations.
    waiting: Waiting,
    /// To the storage thread; none in mode `Memory`.
    storage: Option<mpsc::Sender<Append>>,
    /// Who waits for the storage thread's end, once it is told to: beside its queue, because the end waits for no data.
    finish: Mutex<Option<oneshot::Sender<bool>>>,
    finishing: Notify,
    /// How the disk's bytes are shared out from here on, until the storage thread takes it over; the latest wins.
    disk_shares: Mutex<Option<DiskShares>>,
    /// The first identity of the books that did not hold, with both sides.
    broken: OnceLock<String>,
}

impl Engine {
    pub(crate) fn new(pipeline: Pipeline, storage: Option<mpsc::Sender<Append>>) -> Self {
        Self {
            started: Instant::now(),
            pipeline: Mutex::new(pipeline),
            sendable: std::array::from_fn(|_| Notify::new()),
            settled: Notify::new(),
            waiting: Waiting::new(),
            storage,
            finish: Mutex::default(),
            finishing: Notify::new(),
            disk_shares: Mutex::default(),
            broken: OnceLock::new(),
        }
    }

    /// The disk's budget is another from here on.
    pub(crate) fn share_disk(&self, shares: DiskShares) {
        *self.disk_shares.lock().unwrap_or_else(PoisonError::into_inner) = Some(shares);
    }

    /// What was shared out since the last call.
    pub(crate) fn take_disk_shares(&self) -> Option<DiskShares> {
        self.disk_shares.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Runs `act` under the lock with the engine's time, and tells the clients whose answers came of it. A panic under an earlier lock does not end the service: the pipeline's own
    /// check shows whether its books still hold.
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut Pipeline, Duration) -> R) -> R {
        let mut pipeline = self.lock();
        let result = act(&mut pipeline, self.started.elapsed());
        self.waiting.tell(&mut pipeline);
        result
    }

    fn lock(&self) -> MutexGuard<'_, Pipeline> {
        self.pipeline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the engine's time `at` is on the runtime's clock.
    pub(crate) fn instant(&self, at: Duration) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.started + at)
    }

    /// There is something new to send.
    pub(crate) fn wake_senders(&self) {
        for sendable in &self.sendable {
            sendable.notify_one();
        }
    }

    /// Resolves when a destination may have something to send; never for an index that none can have.
    pub(crate) async fn sendable(&self, destination: DestinationIndex) {
        match self.sendable.get(usize::from(destination.0)) {
            Some(notify) => notify.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Something settled.
    pub(crate) fn wake_settled(&self) {
        self.settled.notify_one();
    }

    /// Resolves when something settled since the last call.
    pub(crate) async fn settled(&self) {
        self.settled.notified().await;
    }

    /// Clients whose answers wait for destinations.
    pub(crate) const fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    /// The way to the storage thread.
    pub(crate) fn storage(&self) -> Option<&mpsc::Sender<Append>> {
        self.storage.as_ref()
    }

    /// Tells the storage thread to write the last checkpoint and to end, whatever waits in its queue. It answers whether that
    /// checkpoint is durable.
    pub(crate) fn finish_storage(&self) -> oneshot::Receiver<bool> {
        let (done, wait) = oneshot::channel();
        *self.finish.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        self.finishing.notify_one();
        wait
    }

    /// Nobody will take up what [`Self::finish_storage`] told, unless it was taken up before: who waits for it waits no more.
    pub(crate) fn forget_finish(&self) {
        *self.finish.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Resolves when the storage thread is to end. It may be dropped before: who waits then is found by the next call.
    pub(crate) async fn told_to_finish(&self) -> oneshot::Sender<bool> {
        loop {
            if let Some(done) = self.finish.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return done;
            }
            self.finishing.notified().await;
        }
    }

    /// What a reader may see, copied under one lock.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let broken = self.check_ledger().map(str::to_owned);
        let pipeline = self.lock();
        Snapshot { books: pipeline.published().clone(), gauges: pipeline.gauges(), broken }
    }

    /// Verifies the books. What does not hold is logged once and told from then on: no number after it can be relied on.
    pub(crate) fn check_ledger(&self) -> Option<&str> {
        let checked = self.lock().check();
        if let Err(Broken { identity, left, right }) = checked {
            self.broken.get_or_init(|| {
                tracing::error!(
                    identity,
                    left,
                    right,
                    "the ledger is broken, which is a fault of the agent; restart it and tell its makers"
                );
                format!("{identity}: {left} is not {right}")
            });
        }
        self.broken.get().map(String::as_str)
    }

    /// Verifies the books every second until it is dropped.
    pub(crate) async fn watch_ledger(&self) {
        loop {
            self.check_ledger();
            tokio::time::sleep(CHECK_EVERY).await;
        }
    }
}

/// Wall clock, in milliseconds since the Unix epoch.
pub(crate) fn unix_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use bytes::Bytes;
    use pipeline::{
        Acknowledge, BufferMode, ClassPolicy, Delivery, DestinationConfig, MemoryLimits, OnFull, OnRemoved, Origin, Request, RetryPolicy,
        Verdict,
    };
    use vocabulary::{Class, ClassCounts, Signal};

    use super::*;

    fn pipeline(mode: BufferMode, on_full: OnFull, acknowledge: Acknowledge) -> Pipeline {
        let retry = RetryPolicy { initial: Duration::from_millis(100), max: Duration::from_secs(1), deadline: None };
        let mut pipeline = Pipeline::new(
            Config {
                mode,
                acknowledge,
                memory: MemoryLimits { bytes: 1 << 20, items: 10_000 },
                disk_bytes: 1 << 20,
                on_full,
                max_age: None,
                soft_percent: 100,
                tenants_max: 0,
                replay_seed: 0,
                on_removed: OnRemoved::Keep,
                classes: [ClassPolicy { weight: 1, reserved_percent: 0 }; Class::COUNT],
                destinations: vec![DestinationConfig {
                    name: "backend".into(),
                    signals: Vec::new(),
                    in_flight: 1,
                    retry,
                    delivery: Delivery::Required,
                }],
            },
            None,
        );
        let generation = pipeline.checkpoint().generation;
        pipeline.handle_checkpointed(generation);
        pipeline
    }

    /// An engine that holds records in memory and spills, past its first checkpoint.
    pub(crate) fn spilling() -> Pipeline {
        pipeline(BufferMode::Spill, OnFull::RefuseIntake, Acknowledge::AtRest)
    }

    /// The same, whose clients wait for its destination.
    pub(crate) fn awaiting() -> Pipeline {
        pipeline(BufferMode::Spill, OnFull::RefuseIntake, Acknowledge::Delivered)
    }

    /// An engine that has every record on disk.
    pub(crate) fn mirroring() -> Pipeline {
        pipeline(BufferMode::Mirror, OnFull::RefuseIntake, Acknowledge::AtRest)
    }

    /// The same, which drops its oldest when there is no room.
    pub(crate) fn evicting() -> Pipeline {
        pipeline(BufferMode::Mirror, OnFull::DropOldest, Acknowledge::AtRest)
    }

    /// Has the engine take this many records that memory alone holds.
    pub(crate) fn held_in_memory(engine: &Engine, records: usize) {
        for _ in 0..records {
            take_in(engine, b"one");
        }
    }

    /// Has the engine take a record of one item that memory alone holds.
    pub(crate) fn take_in(engine: &Engine, body: &'static [u8]) {
        let counts = ClassCounts::of(Class::High, 1);
        let request = Request { signal: Signal::Logs, origin: Origin::Client, counts, body: Bytes::from_static(body) };
        let verdict = engine.with(|pipeline, now| pipeline.offer(now, 1, request));
        assert!(matches!(&verdict, Verdict::Admitted(admission) if admission.persist.is_empty()), "{verdict:?}");
    }

    #[test]
    fn a_broken_identity_is_told_with_both_sides_for_as_long_as_the_process_runs() {
        let engine = Engine::new(spilling(), None);
        assert_eq!(engine.snapshot().broken, None);
        let sound = engine.with(|pipeline, _| pipeline.books().kernel.clone());
        engine.with(|pipeline, _| pipeline.set_kernel(pipeline::KernelBook { attempted: 4, produced: 3, ..sound.clone() }));
        let told = engine.check_ledger().map(str::to_owned);
        assert!(told.as_deref().is_some_and(|told| told.starts_with("attempted") && told.ends_with("4 is not 3")), "{told:?}");
        engine.with(|pipeline, _| pipeline.set_kernel(sound));
        assert_eq!(engine.snapshot().broken, told);
    }
}
