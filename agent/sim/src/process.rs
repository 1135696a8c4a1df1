//! One life of the agent: how it starts from whatever the disk holds, and every way in which it ends.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use pipeline::{Persist, Phase, Pipeline, RecordId};
use spool::DamageKind;
use spool::model::ModelSpool;
use vocabulary::ClassCounts;

use crate::coverage::Sometimes;
use crate::doorway::Waiter;
use crate::storing::{Health, Work};
use crate::world::{Event, World};

const IDENTITY: &str = "simulated";
/// Recoveries that are cut off in a row, at most.
const RECOVERIES_CUT_MAX: u32 = 5;
/// How often a process that ends looks at its phase, and how long it waits for its disk at the very end.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const FINISH_TIME_MAX: Duration = Duration::from_secs(10);

/// Records that are stored together; without a waiter they are the final flush's.
pub(crate) struct Job {
    pub(crate) records: Vec<Persist>,
    pub(crate) is_rest_taken: bool,
    pub(crate) waiter: Option<Waiter>,
}

/// A record on its way to a destination.
#[derive(Clone, Copy)]
pub(crate) struct Flight {
    pub(crate) destination: usize,
    pub(crate) id: RecordId,
    /// The items of the slice that is sent; none for a whole record.
    pub(crate) slice: Option<ClassCounts>,
}

/// The storage thread.
pub(crate) struct Storage {
    pub(crate) spool: ModelSpool,
    pub(crate) queue: VecDeque<Job>,
    pub(crate) work: Option<Work>,
    pub(crate) health: Health,
    pub(crate) checkpointed: Duration,
    /// When it looks again whether a checkpoint is due.
    pub(crate) ticks_at: Option<Duration>,
    /// The last checkpoint is to be written, and was.
    pub(crate) finish: Finish,
}

/// How far the storage thread is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    NotAsked,
    Asked,
    Done,
}

pub(crate) struct Process {
    pub(crate) started: Duration,
    pub(crate) pipeline: Pipeline,
    pub(crate) storage: Option<Storage>,
    pub(crate) flights: BTreeMap<u64, Flight>,
    /// Requests that wait for a place in the storage queue.
    pub(crate) doorway: VecDeque<(usize, u32)>,
    pub(crate) is_closing: bool,
    pub(crate) are_inputs_stopped: bool,
    /// When it is woken next.
    wakes_at: Option<Duration>,
}

impl Process {
    pub(crate) fn places_taken(&self) -> usize {
        self.storage.as_ref().map_or(0, |storage| storage.queue.len())
    }

    pub(crate) fn enqueue(&mut self, job: Job) {
        if let Some(storage) = &mut self.storage {
            storage.queue.push_back(job);
        }
    }

    pub(crate) fn is_storage_idle(&self) -> bool {
        self.doorway.is_empty() && self.storage.as_ref().is_none_or(|storage| storage.queue.is_empty() && storage.work.is_none())
    }
}

impl World {
    /// The process's own time.
    pub(crate) fn engine_now(&self) -> Duration {
        self.now - self.process.as_ref().map_or(self.now, |process| process.started)
    }

    pub(crate) fn start(&mut self) {
        if self.process.is_some() {
            return;
        }
        let (spool, recovered) = if self.has_disk() {
            let Some(opened) = self.open() else { return };
            (Some(opened.0), Some(pipeline::Recovered { unix_ms: self.unix_ms(), ..opened.1 }))
        } else {
            (None, None)
        };
        if let Some(recovered) = &recovered {
            self.oracle.note_recovered(recovered, &mut self.coverage);
            let names: Vec<&str> = self.plan.config.destinations.iter().map(|destination| destination.name.as_str()).collect();
            self.oracle.note_quarantine(recovered, &names, &mut self.coverage);
        }
        let pipeline = Pipeline::new(self.plan.config.clone(), recovered);
        if let Err(broken) = pipeline.check_held() {
            unreachable!("the ledger is broken after a start: {broken:?}");
        }
        self.oracle.note_started(pipeline.books(), pipeline.published(), self.has_disk());
        let storage = spool.map(|spool| Storage {
            spool,
            queue: VecDeque::new(),
            work: None,
            health: Health::Good,
            checkpointed: Duration::ZERO,
            ticks_at: None,
            finish: Finish::NotAsked,
        });
        self.lives += 1;
        self.recoveries_cut = 0;
        (self.removed, self.memory_found) = (None, (0, 0));
        let held = pipeline.gauges().held_records;
        self.say(|| format!("the process starts and holds {held} records"));
        self.process = Some(Process {
            started: self.now,
            pipeline,
            storage,
            flights: BTreeMap::new(),
            doorway: VecDeque::new(),
            is_closing: false,
            are_inputs_stopped: false,
            wakes_at: None,
        });
    }

    /// Opens the disk, which may fail or lose its power on the way; then the start is planned again.
    fn open(&mut self) -> Option<(ModelSpool, pipeline::Recovered)> {
        let is_cut = self.recoveries_cut < RECOVERIES_CUT_MAX && self.chance.permille(self.plan.rates.recovery_is_cut);
        let fails_sync = self.chance.permille(self.plan.rates.sync_fails);
        let fails_read = self.chance.permille(self.plan.rates.read_fails);
        if is_cut {
            self.disk.lose_power_after(self.chance.below(10) as usize);
        }
        self.disk.fail_syncs(usize::from(fails_sync));
        self.disk.fail_reads(usize::from(fails_read));
        self.disk.fail_writes(0);
        let mut fresh = [0; 16];
        fresh[..8].copy_from_slice(&self.chance.below(u64::MAX).to_le_bytes());
        let opened = ModelSpool::open(&self.disk, IDENTITY, fresh, self.plan.segment_bytes);
        if self.disk.is_dark() {
            self.recoveries_cut += 1;
            self.coverage.note(if self.recoveries_cut > 1 { Sometimes::CrashInRecoveryTwice } else { Sometimes::CrashInRecovery });
            self.lose_unsynced();
            return None;
        }
        self.disk.fail_reads(0);
        self.disk.fail_syncs(0);
        match opened {
            Err(cause) => {
                let may_fail = fails_sync || fails_read || (self.is_disk_full && !self.was_opened);
                assert!(may_fail, "opening failed: {cause}");
                self.coverage.note(Sometimes::OpenFailed);
                self.plan_in(Duration::from_secs(1), Event::Start);
                None
            }
            Ok((spool, recovery)) => {
                self.was_opened = true;
                for damage in &recovery.damage {
                    let is_torn_slot = damage.kind == DamageKind::Checkpoint;
                    assert!(is_torn_slot || self.plan.may_sync_later, "a crash is no damage: {damage}");
                }
                let quarantined = Some(self.quarantine.values().cloned().collect());
                Some((spool, pipeline::Recovered { quarantined, ..recovery.recovered }))
            }
        }
    }

    /// The process is gone; what it wrote is there.
    pub(crate) fn kill(&mut self) {
        if self.is_stranded() {
            return self.cut_power();
        }
        if self.oracle.is_anything_unsynced() {
            self.coverage.note(Sometimes::KilledUnsynced);
        }
        self.coverage.note(Sometimes::Killed);
        self.end("killed");
        let pause = self.chance.millis(10, 3_000);
        self.plan_in(pause, Event::Start);
    }

    /// Whether the page cache shows what the disk will never get, so that the next process would take it for durable: of all ends of this one
    /// only a loss of power is played, for that mistake is known.
    fn is_stranded(&self) -> bool {
        let storage = self.process.as_ref().and_then(|process| process.storage.as_ref());
        storage.is_some_and(|storage| storage.spool.is_stranded())
    }

    pub(crate) fn cut_power(&mut self) {
        self.coverage.note(Sometimes::PowerCut);
        self.end("the power is cut");
        self.lose_unsynced();
    }

    /// The power went: what was not synced is there, or not, or in part.
    fn lose_unsynced(&mut self) {
        if self.oracle.note_power_lost() {
            self.coverage.note(Sometimes::PowerCutUnsynced);
        }
        let (manner, mut torn) = (self.chance.below(4), false);
        let chance = &mut self.chance;
        let crashed = self.disk.crash(&mut |possibilities| {
            let fate = match manner {
                0 => 0,
                1 => 1,
                _ => chance.below(possibilities as u64) as usize,
            };
            torn |= fate > 1;
            fate
        });
        self.disk = crashed;
        if torn {
            self.coverage.note(Sometimes::WriteTorn);
        }
        if self.is_disk_full {
            self.disk.set_room(Some(0));
        }
        let pause = self.chance.millis(10, 3_000);
        self.plan_in(pause, Event::Start);
    }

    /// Whatever was in memory is gone.
    fn end(&mut self, how: &'static str) {
        self.say(|| how.to_owned());
        let Some(process) = self.process.take() else { return };
        if process.is_closing && how != "stopped" {
            self.coverage.note(Sometimes::CrashInShutdown);
        }
        self.note_drops(&process.pipeline);
        self.oracle.note_end(self.has_disk());
    }

    pub(crate) fn shut_down(&mut self) {
        let deadline = self.chance.millis(100, 12_000);
        let (now, life) = (self.engine_now(), self.lives);
        let Some(process) = self.process.as_mut().filter(|process| !process.is_closing) else { return };
        process.is_closing = true;
        process.pipeline.handle_shutdown(now, deadline);
        self.say(|| format!("told to end within {deadline:?}"));
        let inputs = self.chance.millis(0, 2_000);
        self.plan_in(inputs, Event::InputsStop { life });
        if self.chance.percent(25) {
            let second = self.chance.millis(0, 8_000);
            self.plan_in(second, Event::SecondSignal { life });
        }
    }

    pub(crate) fn second_signal(&mut self) {
        let now = self.engine_now();
        let Some(process) = &mut self.process else { return };
        if process.pipeline.poll_phase(now) != Phase::Stopped {
            process.pipeline.handle_shutdown(now, Duration::ZERO);
            assert_eq!(process.pipeline.poll_phase(now), Phase::Stopped, "a second signal ends at once");
            self.oracle.note_given_up(&process.pipeline);
            self.coverage.note(Sometimes::StoppedBySecondSignal);
        }
    }

    pub(crate) fn stop_inputs(&mut self) {
        let now = self.engine_now();
        let Some(process) = &mut self.process else { return };
        process.are_inputs_stopped = true;
        process.doorway.clear();
        process.pipeline.handle_inputs_stopped(now);
    }

    /// The process ends by itself.
    pub(crate) fn exit(&mut self) {
        if self.is_stranded() {
            return self.cut_power();
        }
        self.end("stopped");
        let pause = self.chance.millis(10, 3_000);
        self.plan_in(pause, Event::Start);
    }

    pub(crate) fn wake(&mut self) {
        if let Some(process) = &mut self.process {
            process.wakes_at = None;
        }
    }

    /// Everything the agent does without being told: sends, and goes on ending.
    pub(crate) fn pump(&mut self) {
        self.send_all();
        self.go_on_ending();
        let (started, life) = match &self.process {
            Some(process) => (process.started, self.lives),
            None => return,
        };
        let Some(process) = &mut self.process else { return };
        let closing = (process.is_closing).then(|| self.now + LOOK_EVERY);
        let timer = process.pipeline.poll_timeout().map(|at| (started + at).max(self.now + Duration::from_millis(2)));
        let Some(at) = [closing, timer].into_iter().flatten().min() else { return };
        if process.wakes_at.is_none_or(|planned| at < planned) {
            process.wakes_at = Some(at);
            self.agenda.plan(at, Event::Wake { life });
        }
    }

    fn go_on_ending(&mut self) {
        let (now, life) = (self.engine_now(), self.lives);
        let places = self.plan.storage_queue_max;
        let Some(process) = self.process.as_mut().filter(|process| process.is_closing) else { return };
        let phase = process.pipeline.poll_phase(now);
        self.oracle.note_given_up(&process.pipeline);
        if phase == Phase::Flushing {
            let most = places.saturating_sub(process.places_taken());
            for record in process.pipeline.poll_flush(now, most) {
                process.enqueue(Job { records: vec![record], is_rest_taken: false, waiter: None });
            }
        }
        if phase != Phase::Stopped {
            return;
        }
        match &mut process.storage {
            None => self.note_stop_and(Event::Exit { life }, Duration::ZERO),
            Some(storage) if storage.finish == Finish::NotAsked => {
                storage.finish = Finish::Asked;
                self.note_stop_and(Event::Exit { life }, FINISH_TIME_MAX);
            }
            Some(storage) if storage.finish == Finish::Done => {
                let (queue, work) = (storage.queue.is_empty(), storage.work.is_none());
                assert!(queue && work, "the storage thread ended before its work");
                self.exit();
            }
            Some(_) => {}
        }
    }

    fn note_stop_and(&mut self, event: Event, within: Duration) {
        let forced = self
            .process
            .as_ref()
            .is_some_and(|process| crate::peers::dropped(&process.pipeline, vocabulary::DropReason::ForcedShutdown) > 0);
        self.coverage.note(if forced { Sometimes::StoppedByDeadline } else { Sometimes::StoppedGracefully });
        self.plan_in(within, event);
    }
}
