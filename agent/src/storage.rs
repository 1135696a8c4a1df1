//! The thread that owns the spool. It takes what waits, appends it, syncs once for all of it, and tells the engine: so a sync is
//! shared by every request that arrived during the one before, or within the window, and a request that was cancelled is still
//! counted right.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use inputs::Charge;
use pipeline::{IdRanges, NotStored, Persist, Phase, Pipeline};
use spool::points::reach;
use spool::{AppendError, CompactError, Retention, Spool};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use vocabulary::{Class, ClassCounts};

use crate::board::Board;
use crate::engine::{Engine, unix_ms};
use crate::intake::add;
use crate::quarantine::Shelf;
use crate::retained::Retained;
use crate::stage;
use crate::window::Window;

/// Requests that may wait for the thread. Their bodies stay within bounds: those of clients are charged to the receive budget until
/// they are durable, those of the final flush to the engine's memory, and the kernel source has one on its way at a time.
pub(crate) const QUEUE_MAX: usize = 1024;
/// Requests of one group: at the usual sizes a few megabytes, which sync in the time of one.
const GROUP_MAX: usize = 256;
/// Time between two checkpoints: what a crash delivers twice is at most this long.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(200);
/// What one step of verification reads, and the pause before the next: an append that arrives waits for about a millisecond, and
/// a backlog of 10 GB is verified in about two minutes of quiet.
const VERIFY_BYTES: u64 = 1 << 20;
const VERIFY_EVERY: Duration = Duration::from_millis(10);
/// The pause while appends leave none: about a hundredth of the thread's time, and a backlog of 10 GB takes a quarter of an hour.
const VERIFY_UNDER_LOAD_EVERY: Duration = Duration::from_millis(100);
/// Parts of the disk's room (the budget, or what others leave of the volume): from the first on bodies are compressed, below the second no
/// more. A queue that fills a quarter is one that waits, and what waits gains more by room than it loses by time.
const COMPRESS_FROM: u64 = 4;
const COMPRESS_UNTIL: u64 = 8;
/// Time between two checkpoints that a full log forces: a shortage must not cost every request a sync.
const FORCED_EVERY: Duration = Duration::from_millis(50);
/// Segments that are looked at for records to copy together after one checkpoint, and while the log is full.
const COPY_STEPS: usize = 1;
const COPY_STEPS_SHORT: usize = 16;
/// Pause before the final flush tries a disk again that did not take a record: short, for the drain ends soon, and long beside an
/// error.
const FLUSH_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Pauses before a failed disk is tried again.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Name of this stage on the board.
pub(crate) const STAGE: &str = "storage";

/// What the thread has waited for.
enum Told {
    /// To write the last checkpoint and end, and to tell whether it is durable.
    Finish(oneshot::Sender<bool>),
    /// Requests came.
    Store,
    /// Nothing is to be done.
    Nothing,
}

/// The records of one request that must be stored before they count: synced, or handed to the operating system where that is enough. They are settled together, because the
/// client gets one answer for all of them.
pub(crate) struct Append {
    pub(crate) records: Vec<Persist>,
    /// Whether some of the request's items were taken or shed already, so that it cannot be refused any more.
    pub(crate) is_rest_taken: bool,
    /// Who waits for it; a request may have gone away. None for the final flush, whose records were acknowledged long ago.
    pub(crate) done: Option<oneshot::Sender<Stored>>,
    /// What the bodies take of the receive budget; given back with this.
    pub(crate) _charge: Charge,
}

/// What became of a request's records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// All are durable.
    All,
    /// All but these items. The client is told which, and the books count them as dropped.
    AllBut(ClassCounts, NotStored),
    /// None is, and the request counts as refused.
    Nothing(NotStored),
}

impl Append {
    /// Whether its records are parts of a request that was cut by class: it had several, so the others are here too, or were decided.
    fn is_cut(&self) -> bool {
        self.records.len() > 1 || self.is_rest_taken
    }

    /// A record of the final flush.
    pub(crate) fn flushed(record: Persist) -> Self {
        Self { records: vec![record], is_rest_taken: false, done: None, _charge: Charge::default() }
    }

    /// Reports each record to the engine and the result to who waits; `stored` says which records are durable, in their order, and
    /// `cause` why the others are not.
    pub(crate) fn settle(self, engine: &Engine, stored: &[bool], cause: NotStored) {
        let is_stored = |position: usize| stored.get(position).copied().unwrap_or(false);
        let is_any_taken = self.is_rest_taken || stored.contains(&true);
        let mut lost = ClassCounts::default();
        engine.with(|pipeline, now| {
            for (position, record) in self.records.iter().enumerate() {
                if is_stored(position) {
                    pipeline.handle_stored(now, record.id);
                    continue;
                }
                add(&mut lost, &record.counts);
                if is_any_taken {
                    pipeline.handle_store_dropped(now, record.id, cause);
                } else {
                    pipeline.handle_store_failed(now, record.id, cause);
                }
            }
        });
        let result = match (lost.total(), is_any_taken) {
            (0, _) => Stored::All,
            (_, true) => Stored::AllBut(lost, cause),
            (_, false) => Stored::Nothing(cause),
        };
        if let Some(done) = self.done {
            // The request may have been cancelled; the engine knows what became of its records.
            done.send(result).unwrap_or(());
        }
    }
}

/// The thread's state.
pub(crate) struct Storage {
    spool: Spool,
    shelf: Shelf,
    engine: Arc<Engine>,
    board: Arc<Board>,
    health: Health,
    checkpointed: Instant,
    window: Window,
    is_compressing: bool,
    /// Whether every record found at the start was verified.
    is_verified: bool,
    retained: Retained,
    /// When a step of verification was last done.
    verified: Instant,
    /// Whether records may be copied together.
    copying: Health,
    /// Whether a step ended in a panic, in this round or since the disk is left alone for one.
    has_broken: bool,
    /// What the last checkpoint settled.
    settled: [IdRanges; Class::COUNT],
    /// Whether the log refuses records because its files take up all they may.
    is_full: bool,
}

/// A step ended in a panic.
#[derive(Debug, thiserror::Error)]
#[error("the step ended in a panic, which is a fault of the agent")]
struct Broken;

/// Whether the disk is in use. A failed one is left alone for a while, so that intake does not wait for its errors.
enum Health {
    Good,
    Failed {
        until: Instant,
        pause: Duration,
        /// Whether it failed to take records. A checkpoint is written over its own blocks: that it succeeds proves nothing then.
        refused_records: bool,
    },
}

impl Health {
    fn may_try(&self) -> bool {
        match self {
            Self::Good => true,
            Self::Failed { until, .. } => Instant::now() >= *until,
        }
    }

    /// How long what fails at this moment is left alone.
    fn next_pause(&self) -> Duration {
        match self {
            Self::Good => RETRY_FIRST,
            Self::Failed { until, pause, .. } if Instant::now() >= *until => (*pause * 2).min(RETRY_MAX),
            Self::Failed { pause, .. } => *pause,
        }
    }
}

impl Storage {
    pub(crate) fn new(spool: Spool, shelf: Shelf, retention: Retention, engine: Arc<Engine>, board: Arc<Board>) -> Self {
        Self {
            spool,
            shelf,
            engine,
            board,
            health: Health::Good,
            checkpointed: Instant::now(),
            window: Window::default(),
            is_compressing: false,
            is_verified: false,
            retained: Retained::new(retention),
            verified: Instant::now(),
            copying: Health::Good,
            has_broken: false,
            settled: Default::default(),
            is_full: false,
        }
    }

    /// Works until told to finish.
    pub(crate) fn run(mut self, mut jobs: mpsc::Receiver<Append>, runtime: &Handle) {
        let mut waiting = Vec::with_capacity(GROUP_MAX);
        loop {
            let told = runtime.block_on(self.wait(&mut jobs, &mut waiting));
            // While the disk is left alone, that nothing breaks proves nothing.
            self.has_broken &= !self.may_try();
            match told {
                Told::Finish(done) => return self.finish(jobs, done, runtime),
                Told::Store => self.gather(&mut jobs, &mut waiting, runtime),
                Told::Nothing => self.verify(),
            }
            self.work(&mut waiting);
            self.verify_under_load();
            self.step(Self::tend_quarantine);
            self.checkpoint_if_due();
            // A thread that comes around and breaks each time does not go on: the watch over the process is to see it.
            if !self.has_broken {
                self.board.storage_beat.store(unix_ms(), Ordering::Relaxed);
            }
        }
    }

    /// Waits for something to do. The queue does not end before the thread: the engine, which it shares, keeps a sender of it.
    async fn wait(&self, jobs: &mut mpsc::Receiver<Append>, waiting: &mut Vec<Append>) -> Told {
        let pause = if self.is_verified { CHECKPOINT_EVERY } else { VERIFY_EVERY };
        tokio::select! {
            biased;
            done = self.engine.told_to_finish() => Told::Finish(done),
            _ = jobs.recv_many(waiting, GROUP_MAX) => Told::Store,
            () = tokio::time::sleep(pause) => Told::Nothing,
        }
    }

    /// Writes the last checkpoint. It waits for no data: what is still in the queue was not acknowledged, for the drain has ended, and is
    /// given back.
    fn finish(mut self, mut jobs: mpsc::Receiver<Append>, done: oneshot::Sender<bool>, runtime: &Handle) {
        jobs.close();
        // Who holds a place fills it, or gives it up, without waiting for anything.
        while let Some(append) = runtime.block_on(jobs.recv()) {
            append.settle(&self.engine, &[], NotStored::Ended);
        }
        self.step(Self::tend_quarantine);
        let is_durable = self.checkpoint();
        // Nobody waits any more only when the process is being forced to end.
        done.send(is_durable).unwrap_or(());
    }

    /// Takes one step; none if it ended in a panic.
    fn step<R>(&mut self, act: impl FnOnce(&mut Self) -> R) -> Option<R> {
        let board = self.board.clone();
        let done = stage::step(STAGE, &board, || act(self));
        self.has_broken |= done.is_none();
        done
    }

    fn tend_quarantine(&mut self) {
        self.shelf.copy_out(&self.engine, &self.spool, &self.board);
        self.shelf.look(&self.engine);
        self.shelf.show(&self.board);
    }

    fn checkpoint_if_due(&mut self) {
        if !self.may_try() {
            return;
        }
        let pause = if self.spool.is_room_short() { FORCED_EVERY } else { CHECKPOINT_EVERY };
        let is_time = self.checkpointed.elapsed() >= pause || self.spool.is_out_of_segments();
        if is_time && self.engine.with(|pipeline, _| pipeline.is_checkpoint_due()) {
            self.checkpoint();
        } else if self.retained.is_due()
            && let Err(cause) = self.retained.release_again(&mut self.spool)
        {
            self.fail("segments that were kept for a time could not be deleted", &cause, false);
        }
    }

    /// Waits for the company that the window expects.
    fn gather(&self, jobs: &mut mpsc::Receiver<Append>, waiting: &mut Vec<Append>, runtime: &Handle) {
        let deadline = tokio::time::Instant::now() + self.window.wait();
        while waiting.len() < GROUP_MAX && !self.is_group_full(waiting) {
            let places = GROUP_MAX - waiting.len();
            let more = runtime.block_on(async { tokio::time::timeout_at(deadline, jobs.recv_many(waiting, places)).await });
            if !more.is_ok_and(|more| more > 0) {
                return;
            }
        }
    }

    /// Whether a group goes at once.
    fn is_group_full(&self, waiting: &[Append]) -> bool {
        let bytes = waiting.iter().flat_map(|append| &append.records).map(|record| record.body.len()).sum();
        self.window.is_enough(waiting.len(), bytes)
    }

    /// Stores one group.
    fn work(&mut self, waiting: &mut Vec<Append>) {
        if waiting.is_empty() {
            return;
        }
        let group = std::mem::replace(waiting, Vec::with_capacity(GROUP_MAX));
        // The final flush has no second chance: its records are tried whatever the disk said last.
        let is_last_chance = group.iter().any(|append| append.done.is_none());
        let stored = if self.may_try() || is_last_chance { self.try_append(&group) } else { Vec::new() };
        let mut again = self.settle(group, &stored);
        while !again.is_empty() {
            // Nothing else is to be done: intake has ended, and what is settled meanwhile is in the last checkpoint.
            std::thread::sleep(FLUSH_AGAIN_AFTER);
            self.board.storage_beat.store(unix_ms(), Ordering::Relaxed);
            let stored = self.try_append(&again);
            again = self.settle(again, &stored);
        }
    }

    /// Appends; a group that breaks the thread is not stored, and the disk is left alone for a while, as after a fault of its own.
    fn try_append(&mut self, group: &[Append]) -> Vec<bool> {
        self.step(|storage| storage.append(group)).unwrap_or_else(|| {
            self.fail("records could not be stored", &Broken, true);
            Vec::new()
        })
    }

    /// Appends, compressed if much waits or parts of cut requests are among them, and syncs unless all may be synced later, with the next
    /// checkpoint; tells for each record of the group, in its order, whether it is stored.
    fn append(&mut self, group: &[Append]) -> Vec<bool> {
        // What was cut was cut under pressure, when room is worth more than time.
        self.spool.set_compressing(self.is_compressing || group.iter().any(Append::is_cut));
        let mut stored: Vec<bool> = group
            .iter()
            .flat_map(|append| &append.records)
            .map(|&Persist { id, signal, counts, received_unix_ms, ref body, .. }| {
                #[cfg(test)]
                stage::tests::break_if_told(body);
                let record = spool::Append { id, signal, counts, received_unix_ms, body };
                self.append_with_room(&record).map_err(|cause| self.refuse(&cause)).is_ok()
            })
            .collect();
        reach("storage.appended");
        if stored.contains(&true) {
            let started = Instant::now();
            // A disk that failed proves itself by a sync.
            let may_sync_later =
                matches!(self.health, Health::Good) && group.iter().flat_map(|append| &append.records).all(|record| record.is_buffered);
            let committed = if may_sync_later { self.spool.flush() } else { self.spool.commit() };
            self.window.note(group.len(), started.elapsed());
            match committed {
                Ok(()) if stored.iter().all(|&stored| stored) => {
                    self.is_full = false;
                    self.heal();
                }
                Ok(()) => {}
                Err(cause) => {
                    self.fail("records could not be stored", &cause, true);
                    stored.fill(false);
                }
            }
        }
        stored
    }

    /// Appends; if the files take up all they may, once more after what is settled was given back, and again after destinations that
    /// may lose something have given up their oldest.
    fn append_with_room(&mut self, record: &spool::Append<'_>) -> Result<(), AppendError> {
        let is_over_budget = |added: &Result<(), AppendError>| added.as_ref().is_err_and(AppendError::is_over_budget);
        let mut added = self.spool.append(record);
        if is_over_budget(&added) && self.checkpointed.elapsed() >= FORCED_EVERY && self.may_try() {
            if self.engine.with(|pipeline, _| pipeline.is_checkpoint_due()) && self.checkpoint() {
                added = self.spool.append(record);
            }
            let bytes = 2 * self.spool.segment_bytes();
            if is_over_budget(&added)
                && self.engine.with(|pipeline, now| pipeline.handle_log_full(now, record.id.class, bytes))
                && self.checkpoint()
            {
                added = self.spool.append(record);
            }
        }
        added
    }

    /// A record was not taken: because the log is full, or because the disk failed.
    fn refuse(&mut self, cause: &AppendError) {
        if !cause.is_over_budget() {
            self.fail("a record could not be stored", cause, true);
        } else if !std::mem::replace(&mut self.is_full, true) {
            tracing::warn!(error = %chain(cause), "the buffer's files take up all they may: what comes is refused until some of it settles");
        }
    }

    /// Reports a group to the engine and to who waits. Returns what of the final flush is to be tried again: what was not stored, as long
    /// as the drain has time. When it has none the engine gives it up.
    fn settle(&mut self, group: Vec<Append>, stored: &[bool]) -> Vec<Append> {
        reach("storage.committed");
        // A disk that works and did not take a record had no room for it.
        let cause = if matches!(self.health, Health::Good) { NotStored::Full } else { NotStored::Fault };
        let is_flushing = self.engine.with(Pipeline::poll_phase) == Phase::Flushing;
        let (mut stored, mut again) = (stored, Vec::new());
        for append in group {
            let (own, others) = stored.split_at_checked(append.records.len()).unwrap_or_default();
            stored = others;
            if is_flushing && append.done.is_none() && !own.contains(&true) {
                again.push(append);
            } else {
                append.settle(&self.engine, own, cause);
            }
        }
        reach("storage.settled");
        self.engine.wake_senders();
        self.engine.wake_settled();
        again
    }

    /// Persists the books and what is settled, then gives back the space of what nobody needs. Returns whether it is durable.
    fn checkpoint(&mut self) -> bool {
        self.step(Self::write_checkpoint).unwrap_or_else(|| {
            self.fail("a checkpoint could not be written", &Broken, false);
            false
        })
    }

    fn write_checkpoint(&mut self) -> bool {
        self.checkpointed = Instant::now();
        let checkpoint = self.engine.with(|pipeline, _| pipeline.checkpoint());
        reach("checkpoint.taken");
        if let Err(cause) = self.spool.write_checkpoint(&checkpoint) {
            self.fail("a checkpoint could not be written", &cause, false);
            return false;
        }
        let settled = self.engine.with(|pipeline, _| pipeline.handle_checkpointed(checkpoint.generation));
        reach("checkpoint.durable");
        self.shelf.forget(checkpoint.generation);
        match self.retained.release(&mut self.spool, &settled) {
            Ok(()) if matches!(self.health, Health::Failed { refused_records: false, .. }) => self.heal(),
            Ok(()) => {}
            Err(cause) => self.fail("settled segments could not be deleted", &cause, false),
        }
        let gauges = self.engine.with(|pipeline, _| pipeline.gauges());
        // Where others fill the volume, it ends before the budget does.
        let room = gauges.disk_bytes_max.min(gauges.disk_bytes.saturating_add(self.spool.left_on_volume()));
        self.is_compressing = compresses(self.is_compressing, gauges.disk_bytes, room);
        self.settled = settled;
        if let Some(shares) = self.engine.take_disk_shares() {
            self.spool.set_budget(shares.log);
            self.shelf.set_budget(shares.quarantine);
        }
        self.copy_together();
        true
    }

    /// Copies records that wait long together, so that they pin no segment. What fails is tried and told less and less often.
    fn copy_together(&mut self) {
        if !self.copying.may_try() {
            return;
        }
        let steps = if self.spool.is_room_short() { COPY_STEPS_SHORT } else { COPY_STEPS };
        let copied = (0..steps).try_fold(0, |freed, _| Ok(freed + self.spool.compact_step(&self.settled)?));
        match copied {
            Ok(0) => {}
            Ok(_) => self.copying = Health::Good,
            Err::<u64, CompactError>(cause) => {
                tracing::warn!(error = %chain(&cause), "records that wait long keep a segment until they are sent");
                let pause = self.copying.next_pause();
                self.copying = Health::Failed { until: Instant::now() + pause, pause, refused_records: true };
            }
        }
    }

    /// Verifies a little although other things are to be done, for they may never end.
    fn verify_under_load(&mut self) {
        if self.verified.elapsed() >= VERIFY_UNDER_LOAD_EVERY {
            self.verify();
        }
    }

    /// Verifies a little of what the start took on trust, because nothing else is to be done.
    fn verify(&mut self) {
        if self.is_verified {
            return;
        }
        self.verified = Instant::now();
        match self.step(|storage| storage.spool.verify_step(VERIFY_BYTES)) {
            // What breaks it once would break it each time; its turn to be sent comes without being verified before.
            None => self.is_verified = true,
            Some(Ok(verified)) => {
                for damage in &verified.damage {
                    tracing::error!(damage = %damage, "verification found a damaged record; it is counted as Corrupt when its turn to be sent comes");
                }
                self.board.damaged_records.fetch_add(verified.damage.len() as u64, Ordering::Relaxed);
                self.is_verified = verified.is_done;
            }
            Some(Err(cause)) => tracing::warn!(error = %chain(&cause), "a record could not be verified"),
        }
    }

    fn may_try(&self) -> bool {
        self.health.may_try()
    }

    /// Marks the disk as failed; logged when it begins, not for every record of an outage.
    fn fail(&mut self, what: &'static str, cause: &dyn std::error::Error, is_of_records: bool) {
        let refused_records = match self.health {
            Health::Good => {
                tracing::error!(error = %chain(cause), "{what}; the disk is tried again, until then what memory may hold without it is taken and the rest refused");
                is_of_records
            }
            Health::Failed { refused_records, .. } => refused_records || is_of_records,
        };
        let pause = self.health.next_pause();
        self.health = Health::Failed { until: Instant::now() + pause, pause, refused_records };
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

/// Whether bodies are compressed, given whether they were, and how much of its room what waits takes.
fn compresses(before: bool, used: u64, room: u64) -> bool {
    let part = if before { COMPRESS_UNTIL } else { COMPRESS_FROM };
    used > 0 && used.saturating_mul(part) >= room
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use pipeline::{DestinationIndex, Origin, Outcome, Part, RecordId, Request, Verdict};
    use vocabulary::{DropReason, RefuseReason, Signal};

    use super::*;
    use crate::engine::tests::{evicting, held_in_memory, mirroring, spilling};
    use crate::stage::tests::BREAKS;

    fn storage(directory: &std::path::Path, engine: Arc<Engine>) -> Storage {
        let options = spool::Options { segment_bytes: 1 << 20, budget_bytes: 0, identity: "test".into(), host: "here".into() };
        let (spool, _) = Spool::open(directory, options).expect("an empty directory can be opened");
        Storage::new(spool, Shelf::none(), Retention::Nothing, engine, Arc::new(Board::new()))
    }

    #[test]
    fn a_record_damaged_on_disk_is_shown_before_its_turn_comes() {
        let directory = tempfile::tempdir().expect("a directory");
        let engine = Arc::new(Engine::new(spilling(), None));
        let id = RecordId { class: Class::High, sequence: 1 };
        let counts = ClassCounts::of(Class::High, 1);
        let record = Persist {
            id,
            signal: Signal::Logs,
            counts,
            received_unix_ms: 1,
            is_buffered: false,
            body: Bytes::from_static(b"acknowledged"),
        };
        let mut before = storage(directory.path(), engine.clone());
        before.work(&mut vec![Append::flushed(record)]);
        // Named by a checkpoint, it is taken on trust at the next start.
        let mut checkpoint = engine.with(|pipeline, _| pipeline.checkpoint());
        checkpoint.stored[Class::High as usize].insert_range(1, 1);
        before.spool.write_checkpoint(&checkpoint).expect("there is room");
        drop(before);
        let listed = std::fs::read_dir(directory.path()).expect("it is a directory");
        let segment = listed.map(|entry| entry.expect("an entry").path()).find(|path| path.extension().is_some_and(|end| end == "segment"));
        let segment = segment.expect("the record was stored");
        let mut content = std::fs::read(&segment).expect("it is readable");
        let last = content.windows(12).position(|window| window == b"acknowledged").expect("the body is there");
        content[last] ^= 1;
        std::fs::write(&segment, content).expect("it is writable");
        let mut after = storage(directory.path(), engine);
        // Steady load leaves no pause, and does not keep it from its share.
        after.verified = Instant::now().checked_sub(VERIFY_UNDER_LOAD_EVERY).expect("the machine is up for longer");
        after.verify_under_load();
        assert_eq!((after.board.damaged_records.load(Ordering::Relaxed), after.is_verified), (1, true));
    }

    #[test]
    fn what_cannot_be_copied_together_is_left_alone_for_a_doubling_while() {
        let failed = |pause| Health::Failed { until: Instant::now(), pause, refused_records: true };
        assert!(Health::Good.may_try() && failed(RETRY_FIRST).may_try());
        assert_eq!((Health::Good.next_pause(), failed(RETRY_FIRST).next_pause()), (RETRY_FIRST, 2 * RETRY_FIRST));
        assert_eq!(failed(RETRY_MAX).next_pause(), RETRY_MAX);
        let waits = Health::Failed { until: Instant::now() + RETRY_MAX, pause: RETRY_FIRST, refused_records: true };
        assert!(!waits.may_try() && waits.next_pause() == RETRY_FIRST);
    }

    #[test]
    fn a_group_takes_all_that_arrived() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let directory = tempfile::tempdir().expect("a directory");
        let mut storage = storage(directory.path(), Arc::new(Engine::new(spilling(), None)));
        // As if the last group had been of three requests, and a sync took an hour.
        (0..9).for_each(|_| storage.window.note(3, Duration::from_secs(3600)));
        let (sender, mut jobs) = mpsc::channel(8);
        let record = |sequence| {
            let id = RecordId { class: Class::High, sequence };
            Persist {
                id,
                signal: Signal::Logs,
                counts: ClassCounts::of(Class::High, 1),
                received_unix_ms: 1,
                is_buffered: false,
                body: Bytes::from_static(b"one"),
            }
        };
        for sequence in 2..=3 {
            sender.try_send(Append::flushed(record(sequence))).expect("there is a place");
        }
        let mut waiting = vec![Append::flushed(record(1))];
        storage.gather(&mut jobs, &mut waiting, runtime.handle());
        assert_eq!(waiting.len(), 3);
    }

    /// Has the engine take a request of one item that is to go to disk; what is to be appended, and who waits for it.
    fn offered(engine: &Engine, origin: Origin, class: Class, body: Bytes) -> (Append, oneshot::Receiver<Stored>) {
        let request = Request { signal: Signal::Logs, origin, counts: ClassCounts::of(class, 1), body };
        let verdict = engine.with(|pipeline, now| pipeline.offer(now, 1, request));
        let Verdict::Admitted(admission) = verdict else { panic!("the engine has room: {verdict:?}") };
        let (done, wait) = oneshot::channel();
        (Append { records: admission.persist, is_rest_taken: false, done: Some(done), _charge: Charge::default() }, wait)
    }

    #[test]
    fn the_end_waits_for_nothing_in_the_queue_and_gives_it_back_before_the_last_checkpoint() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let directory = tempfile::tempdir().expect("a directory");
        let (sender, jobs) = mpsc::channel(QUEUE_MAX);
        let engine = Arc::new(Engine::new(mirroring(), Some(sender.clone())));
        let storage = storage(directory.path(), engine.clone());
        let mut waits = Vec::new();
        for turn in 0..QUEUE_MAX {
            let origin = if turn % 2 == 0 { Origin::Kernel } else { Origin::Client };
            let (append, wait) = offered(&engine, origin, Class::High, Bytes::from_static(b"one"));
            sender.try_send(append).unwrap_or_else(|_| panic!("there is a place"));
            waits.push(wait);
        }
        let mut finished = engine.finish_storage();
        storage.run(jobs, runtime.handle());
        assert_eq!(finished.try_recv(), Ok(true));
        assert!(waits.iter_mut().all(|wait| wait.try_recv() == Ok(Stored::Nothing(NotStored::Ended))));
        let books = engine.with(|pipeline, _| pipeline.published().clone());
        books.check().expect("the books hold");
        let (cell, half) = (&books.inputs[Signal::Logs as usize][Class::High as usize], QUEUE_MAX as u64 / 2);
        let counted = (cell.dropped[DropReason::ForcedShutdown as usize], cell.refused[RefuseReason::ShuttingDown as usize]);
        assert_eq!((counted, cell.offered), ((half, half), 2 * half));
    }

    #[test]
    fn bodies_are_compressed_from_a_quarter_of_the_budget_until_an_eighth() {
        assert!(!compresses(false, 249, 1_000) && compresses(false, 250, 1_000));
        assert!(compresses(true, 125, 1_000) && !compresses(true, 124, 1_000));
        assert!(!compresses(false, 0, 0));
    }

    #[test]
    fn parts_of_a_cut_request_are_compressed_on_disk_and_whole_requests_are_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut storage = storage(directory.path(), Arc::new(Engine::new(spilling(), None)));
        let body = Bytes::from(vec![b'~'; 4096]);
        let record = |class| Persist {
            id: RecordId { class, sequence: 1 },
            signal: Signal::Logs,
            counts: ClassCounts::of(class, 1),
            received_unix_ms: 1,
            is_buffered: false,
            body: body.clone(),
        };
        let plain = || -> usize {
            let files = std::fs::read_dir(directory.path()).expect("it is a directory").map(|entry| entry.expect("an entry").path());
            let contents = files.map(|path| std::fs::read(path).expect("it is readable"));
            contents.map(|content| content.iter().filter(|&&byte| byte == b'~').count()).sum()
        };
        let store = |storage: &mut Storage, records: Vec<Persist>| {
            let append = Append { records, is_rest_taken: false, done: None, _charge: Charge::default() };
            storage.work(&mut vec![append]);
        };
        store(&mut storage, vec![record(Class::Critical)]);
        assert!((4096..4200).contains(&plain()), "{}", plain());
        store(&mut storage, vec![record(Class::High), record(Class::Bulk)]);
        assert!((4096..4200).contains(&plain()), "{}", plain());
        store(&mut storage, vec![record(Class::Normal)]);
        assert!((8192..8400).contains(&plain()), "{}", plain());
        assert_eq!(storage.spool.read(RecordId { class: Class::Bulk, sequence: 1 }).expect("it is durable"), body);
    }

    #[test]
    fn the_final_flush_is_tried_on_a_disk_that_failed_a_moment_ago_and_heals_it_where_a_checkpoint_does_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let engine = Arc::new(Engine::new(spilling(), None));
        let mut storage = storage(directory.path(), engine);
        storage.health = Health::Failed { until: Instant::now() + RETRY_MAX, pause: RETRY_MAX, refused_records: true };
        let id = RecordId { class: Class::High, sequence: 1 };
        let counts = ClassCounts::of(Class::High, 1);
        let record = Persist {
            id,
            signal: Signal::Logs,
            counts,
            received_unix_ms: 1,
            is_buffered: false,
            body: Bytes::from_static(b"acknowledged"),
        };
        assert!(storage.checkpoint(), "a checkpoint needs no room");
        assert!(matches!(storage.health, Health::Failed { .. }), "and tells nothing of room for records");
        storage.work(&mut vec![Append::flushed(record)]);
        assert_eq!(storage.spool.read(id).expect("it is durable"), Bytes::from_static(b"acknowledged"));
        assert!(matches!(storage.health, Health::Good));
    }

    #[test]
    fn a_record_that_breaks_the_thread_is_refused_and_the_thread_goes_on() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().expect("a runtime");
        let directory = tempfile::tempdir().expect("a directory");
        let engine = Arc::new(Engine::new(mirroring(), None));
        let storage = storage(directory.path(), engine.clone());
        let board = storage.board.clone();
        let (sender, jobs) = mpsc::channel(8);
        let (append, broken) = offered(&engine, Origin::Client, Class::High, Bytes::from_static(BREAKS));
        sender.try_send(append).unwrap_or_else(|_| panic!("there is a place"));
        let (broken, finished) = std::thread::scope(|scope| {
            scope.spawn(|| storage.run(jobs, runtime.handle()));
            (broken.blocking_recv(), engine.finish_storage().blocking_recv())
        });
        assert_eq!(broken, Ok(Stored::Nothing(NotStored::Fault)));
        assert_eq!((finished, board.panics()), (Ok(true), vec![(STAGE, 1)]));
        let books = engine.with(|pipeline, _| pipeline.books().clone());
        books.check().expect("the books hold");
        assert_eq!(books.inputs[Signal::Logs as usize][Class::High as usize].refused[RefuseReason::HardLimit as usize], 1);
    }

    /// A log whose files may take up half of what the engine, which knows nothing of them, would put there.
    fn short_of_room(directory: &std::path::Path, engine: &Arc<Engine>) -> Storage {
        let options = spool::Options { segment_bytes: 1 << 20, budget_bytes: 512 << 10, identity: "test".into(), host: "here".into() };
        let (spool, _) = Spool::open(directory, options).expect("an empty directory can be opened");
        Storage::new(spool, Shelf::none(), Retention::Nothing, engine.clone(), Arc::new(Board::new()))
    }

    /// Has a client send one request of 10 KB; what it is told.
    fn send(storage: &mut Storage, engine: &Engine, class: Class) -> Stored {
        send_from(Origin::Client, storage, engine, class)
    }

    fn send_from(origin: Origin, storage: &mut Storage, engine: &Engine, class: Class) -> Stored {
        // Nothing that could be compressed.
        let mut state = 1_u64;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        });
        let body: Bytes = noise.take(10_000).collect();
        let (append, mut wait) = offered(engine, origin, class, body);
        // As if the last checkpoint had been long ago.
        storage.checkpointed = storage.checkpointed.checked_sub(FORCED_EVERY).expect("the machine is up for longer");
        storage.work(&mut vec![append]);
        wait.try_recv().expect("it is told at once")
    }

    #[test]
    fn a_full_log_refuses_and_gives_back_what_is_settled_before_it_does() {
        let directory = tempfile::tempdir().expect("a directory");
        let engine = Arc::new(Engine::new(mirroring(), None));
        let mut storage = short_of_room(directory.path(), &engine);
        let taken = (0..).take_while(|_| send(&mut storage, &engine, Class::High) == Stored::All).count();
        assert!((20..50).contains(&taken), "{taken} of 10 KB in 512 KiB");
        assert!(matches!(storage.health, Health::Good), "it is no fault of the disk");
        let full = Stored::Nothing(NotStored::Full);
        assert_eq!(
            (send(&mut storage, &engine, Class::High), send_from(Origin::Kernel, &mut storage, &engine, Class::High)),
            (full.clone(), full)
        );
        let books = engine.with(|pipeline, _| pipeline.books().clone());
        let cell = &books.inputs[Signal::Logs as usize][Class::High as usize];
        assert_eq!((cell.dropped[DropReason::DiskFull as usize], cell.refused[RefuseReason::HardLimit as usize]), (1, 2));
        let destination = DestinationIndex(0);
        while let Some(sent) = engine.with(|pipeline, now| pipeline.poll_send(now, destination)) {
            engine.with(|pipeline, now| pipeline.handle_outcome(now, destination, sent.id, Outcome::Delivered));
        }
        assert_eq!(send(&mut storage, &engine, Class::High), Stored::All);
        engine.with(|pipeline, _| pipeline.books().check()).expect("the books hold");
    }

    #[test]
    fn a_full_log_has_destinations_that_may_lose_something_give_up_their_oldest() {
        let directory = tempfile::tempdir().expect("a directory");
        let engine = Arc::new(Engine::new(evicting(), None));
        let mut storage = short_of_room(directory.path(), &engine);
        for _ in 0..10 {
            assert_eq!(send(&mut storage, &engine, Class::Critical), Stored::All);
        }
        for _ in 0..100 {
            assert_eq!(send(&mut storage, &engine, Class::Bulk), Stored::All);
        }
        let books = engine.with(|pipeline, _| pipeline.books().clone());
        books.check().expect("the books hold");
        let evicted =
            |class: Class| books.destinations[0].cells[Signal::Logs as usize][class as usize].dropped[DropReason::Evicted as usize];
        assert!(evicted(Class::Bulk) > 50 && evicted(Class::Critical) == 0, "{books:?}");
    }

    #[test]
    fn the_log_has_room_for_all_that_the_engine_may_hold() {
        let directory = tempfile::tempdir().expect("a directory");
        let shares = crds::agent::DiskShares::of(8 << 20, 128 << 10);
        let options = spool::Options { segment_bytes: 128 << 10, budget_bytes: shares.log, identity: "test".into(), host: "here".into() };
        let (mut spool, _) = Spool::open(directory.path(), options).expect("an empty directory can be opened");
        let (body, mut held) = ([0; 500], 0);
        for sequence in 1.. {
            held += body.len() as u64 + pipeline::RECORD_DISK_BYTES;
            if held > shares.records {
                break;
            }
            let class = Class::ALL[sequence as usize % Class::COUNT];
            let (id, counts) = (RecordId { class, sequence }, ClassCounts::of(class, 1));
            let record = spool::Append { id, signal: Signal::Logs, counts, received_unix_ms: 1, body: &body };
            spool.append(&record).expect("the log has room for what the engine has room for");
        }
        spool.commit().expect("there is room");
        assert!(held > 6 << 20, "{held} of 8 MiB");
    }

    /// The cause of a failure ends.
    fn make_once_the_disk_failed(path: &std::path::Path, board: &Board) {
        while !board.disk_failed.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        std::fs::create_dir(path).expect("its parent is there");
    }

    #[test]
    fn what_the_final_flush_cannot_store_is_tried_until_the_disk_takes_it_or_the_drain_ends() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("buffer");
        for (deadline, is_healed) in [(Duration::from_secs(3600), true), (Duration::from_millis(300), false)] {
            let engine = Arc::new(Engine::new(spilling(), None));
            let mut storage = storage(&path, engine.clone());
            held_in_memory(&engine, 3);
            engine.with(|pipeline, now| pipeline.handle_shutdown(now, deadline));
            engine.with(Pipeline::handle_inputs_stopped);
            // Sent and refused, so that it is to be flushed.
            let sent = engine.with(|pipeline, now| pipeline.poll_send(now, DestinationIndex(0))).expect("it is queued");
            engine.with(|pipeline, now| pipeline.handle_outcome(now, DestinationIndex(0), sent.id, Outcome::Retry { after: None }));
            assert_eq!(engine.with(Pipeline::poll_phase), Phase::Flushing);
            std::fs::remove_dir_all(&path).expect("it is there");
            let records = engine.with(|pipeline, now| pipeline.poll_flush(now, 256));
            let mut waiting = records.into_iter().map(Append::flushed).collect();
            std::thread::scope(|scope| {
                let board = storage.board.clone();
                let path = &path;
                if is_healed {
                    scope.spawn(move || make_once_the_disk_failed(path, &board));
                }
                storage.work(&mut waiting);
            });
            assert_eq!(engine.with(Pipeline::poll_phase), Phase::Stopped);
            let books = engine.with(|pipeline, _| pipeline.books().clone());
            let cell = &books.destinations[0].cells[Signal::Logs as usize][Class::High as usize];
            let dropped: u64 = cell.dropped.iter().sum();
            assert_eq!((cell.held.total(), dropped), if is_healed { (3, 0) } else { (0, 3) });
            std::fs::create_dir_all(&path).expect("its parent is there");
        }
    }

    /// A request of an important and a lesser part, both of which are to go to disk, of which the first `durable` do.
    fn store_in_part(durable: usize) -> (pipeline::Books, Stored) {
        let engine = Engine::new(mirroring(), None);
        let part = |class| Part { class, items: 5, body: Bytes::from_static(b"five items") };
        let parts = vec![part(Class::High), part(Class::Normal)];
        let verdict = engine.with(|pipeline, now| pipeline.offer_parts(now, 1, Signal::Logs, Origin::Client, parts));
        let Verdict::Admitted(admission) = verdict else { panic!("there is room: {verdict:?}") };
        assert_eq!(admission.persist.len(), 2);
        let (done, mut wait) = oneshot::channel();
        let append = Append { records: admission.persist, is_rest_taken: false, done: Some(done), _charge: Charge::default() };
        append.settle(&engine, &[durable > 0, durable > 1], NotStored::Fault);
        let books = engine.with(|pipeline, _| pipeline.books().clone());
        books.check().expect("the books hold");
        (books, wait.try_recv().expect("it is told at once"))
    }

    #[test]
    fn a_request_that_is_stored_in_part_is_accepted_but_for_the_rest() {
        let (books, told) = store_in_part(1);
        assert_eq!(told, Stored::AllBut(ClassCounts::of(Class::Normal, 5), NotStored::Fault));
        let cell = &books.inputs[Signal::Logs as usize][Class::Normal as usize];
        assert_eq!((cell.received, cell.dropped[DropReason::DiskError as usize], cell.refused), (5, 5, Default::default()));
    }

    #[test]
    fn a_request_of_which_nothing_is_stored_is_refused_as_a_whole() {
        let (books, told) = store_in_part(0);
        assert_eq!(told, Stored::Nothing(NotStored::Fault));
        let refused = |class: Class| books.inputs[Signal::Logs as usize][class as usize].refused[RefuseReason::HardLimit as usize];
        assert_eq!((refused(Class::High), refused(Class::Normal)), (5, 5));
    }
}
