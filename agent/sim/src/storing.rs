//! The storage thread: what it stores together, when it writes a checkpoint, and how the disk treats it. It follows the agent's own
//! thread; the disk's work is done at once, and its result is known after the time it took.

use std::time::Duration;

use otlp::Rules;
use pipeline::{Checkpoint, Copied, NotStored, Quarantined, RECORD_DISK_BYTES, SetAside};
use spool::Append;
use vocabulary::DropReason;

use crate::coverage::Sometimes;
use crate::items::{Unit, decode};
use crate::process::{Finish, Job, Storage};
use crate::world::{Event, World};

/// Time between two checkpoints.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(200);
/// Pauses before a failed disk is tried again.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What the thread is at.
pub(crate) enum Work {
    Group {
        jobs: Vec<Job>,
        stored: Vec<bool>,
    },
    /// None if it could not be written.
    Checkpoint(Option<Box<Checkpoint>>),
}

/// Whether the disk is in use. A failed one is left alone for a while.
#[derive(Clone, Copy)]
pub(crate) enum Health {
    Good,
    Failed { until: Duration, pause: Duration },
}

impl Health {
    fn may_try(self, now: Duration) -> bool {
        match self {
            Self::Good => true,
            Self::Failed { until, .. } => now >= until,
        }
    }

    fn fail(&mut self, now: Duration) {
        let pause = match *self {
            Self::Good => RETRY_FIRST,
            Self::Failed { until, pause } if now >= until => (pause * 2).min(RETRY_MAX),
            Self::Failed { pause, .. } => pause,
        };
        *self = Self::Failed { until: now + pause, pause };
    }
}

impl World {
    /// Takes up the next work, if the thread has none.
    pub(crate) fn begin_storage_work(&mut self) {
        let now = self.now;
        self.give_back_what_waits_at_the_end();
        self.fill_places();
        self.copy_bad_items();
        let Some(process) = &mut self.process else { return };
        let is_due = process.pipeline.is_checkpoint_due();
        let Some(storage) = process.storage.as_mut() else { return };
        if storage.finish == Finish::Done || storage.work.is_some() {
            return;
        }
        let is_last = storage.finish == Finish::Asked;
        let is_time = now >= storage.checkpointed + CHECKPOINT_EVERY && storage.health.may_try(now);
        if is_last || (is_due && is_time) {
            self.write_checkpoint();
        } else if !storage.queue.is_empty() {
            let most = storage.queue.len().min(self.plan.group_max);
            let jobs: Vec<Job> = storage.queue.drain(..most).collect();
            self.store(jobs);
        } else if is_due && storage.ticks_at.is_none_or(|at| at <= now) {
            let at = now + CHECKPOINT_EVERY;
            storage.ticks_at = Some(at);
            self.agenda.plan(at, Event::Wake { life: self.lives });
        }
    }

    /// Told to end, the thread waits for nothing in its queue.
    fn give_back_what_waits_at_the_end(&mut self) {
        let storage = self.process.as_mut().and_then(|process| process.storage.as_mut());
        let Some(storage) = storage.filter(|storage| storage.finish == Finish::Asked && storage.work.is_none()) else { return };
        for job in std::mem::take(&mut storage.queue) {
            self.coverage.note(Sometimes::EndedUnstored);
            self.settle_job(job, &[], NotStored::Ended);
        }
    }

    /// Copies out what destinations find bad. The quarantine is an ideal one, whose files are there or not.
    fn copy_bad_items(&mut self) {
        let now = self.engine_now();
        let is_at_work = |process: &crate::process::Process| process.storage.as_ref().is_some_and(|storage| storage.finish != Finish::Done);
        while let Some(process) = self.process.as_mut().filter(|process| is_at_work(process)) {
            let Some(aside) = process.pipeline.poll_set_aside(now) else { return };
            let units = self.bad_items(&aside);
            let (copied, what) = match self.chance.below(10) {
                0 => (Copied::Full, Sometimes::QuarantineFull),
                1 => (Copied::LocalFault, Sometimes::QuarantineFailed),
                _ => (Copied::Stored, Sometimes::Quarantined),
            };
            self.coverage.note(what);
            self.set_aside(&aside, &units, copied);
        }
    }

    /// What is copied out: what was asked for, and nothing of it is good.
    fn bad_items(&self, aside: &SetAside) -> Vec<Unit> {
        let storage = self.process.as_ref().and_then(|process| process.storage.as_ref());
        let body = aside.body.clone().or_else(|| storage?.spool.read(aside.id).ok());
        let body = body.unwrap_or_else(|| unreachable!("{:?} cannot be read back, and no read fails here", aside.id));
        let (counts, body) = if aside.items.is_empty() {
            (aside.counts, body)
        } else {
            otlp::slice(aside.signal, &body, &aside.items, &Rules::default())
                .unwrap_or_else(|cause| unreachable!("{:?} cannot be cut: {cause}", aside.id))
        };
        assert_eq!(counts, aside.counts, "{:?} is not what is bad", aside.id);
        let units = decode(aside.signal, &body, |number| self.oracle.unit(number));
        self.oracle.check_quarantined(usize::from(aside.destination.0), aside.id, &units);
        units
    }

    fn set_aside(&mut self, aside: &SetAside, units: &[Unit], copied: Copied) {
        let (now, destination, id) = (self.engine_now(), usize::from(aside.destination.0), aside.id);
        if copied == Copied::Stored {
            let SetAside { name, signal, counts, rejected, .. } = aside.clone();
            let file = Quarantined { destination: name, id, signal, counts, rejected };
            self.quarantine.insert((destination, id), file);
            self.oracle.note_kept(destination, units);
            if !self.is_calm && self.chance.permille(20) {
                self.coverage.note(Sometimes::KilledAfterCopy);
                return self.kill();
            }
        }
        let Some(process) = &mut self.process else { return };
        let before = crate::peers::dropped(&process.pipeline, DropReason::Rejected);
        let is_held = process.pipeline.handle_set_aside(now, aside.destination, id, copied);
        assert_eq!(is_held, copied == Copied::Stored, "{id:?} was asked for");
        let rejected = crate::peers::dropped(&process.pipeline, DropReason::Rejected) - before;
        if !process.pipeline.is_unsettled(aside.destination, id) {
            self.oracle.note_set_aside(destination, id, copied, rejected, &mut self.coverage);
        }
        self.say(|| format!("bad items of {id:?} at destination {destination}: {copied:?}"));
    }

    /// Requests at the door take the places that became free.
    fn fill_places(&mut self) {
        let most = self.plan.storage_queue_max;
        loop {
            let Some(process) = self.process.as_mut().filter(|process| process.places_taken() < most) else { return };
            let Some((request, attempt)) = process.doorway.pop_front() else { return };
            self.take_in(request, attempt);
        }
    }

    fn store(&mut self, jobs: Vec<Job>) {
        let now = self.now;
        self.arm();
        let Some(storage) = self.process.as_mut().and_then(|process| process.storage.as_mut()) else { return };
        let is_last_chance = jobs.iter().any(|job| job.waiter.is_none());
        let stored = if storage.health.may_try(now) || is_last_chance { storage.append(&jobs, now) } else { Vec::new() };
        if stored.contains(&false) {
            self.coverage.note(Sometimes::AppendFailed);
        }
        self.after_disk(Work::Group { jobs, stored });
    }

    fn write_checkpoint(&mut self) {
        let now = self.now;
        self.arm();
        let Some(process) = &mut self.process else { return };
        let checkpoint = process.pipeline.checkpoint();
        if let Err(broken) = process.pipeline.check_held() {
            unreachable!("the ledger is broken: {broken:?}");
        }
        // What became too old since this event began, as well.
        self.oracle.note_given_up(&process.pipeline);
        self.oracle.note_checkpoint(&checkpoint);
        self.oracle.tally.compare(process.pipeline.books());
        let Some(storage) = &mut process.storage else { return };
        let waiting = storage.queue.iter().filter(|job| job.waiter.is_some()).flat_map(|job| &job.records);
        let reserved: u64 = waiting.map(|record| record.body.len() as u64 + RECORD_DISK_BYTES).sum();
        let counted = process.pipeline.gauges().disk_bytes;
        assert_eq!(counted, self.oracle.disk_bytes(&checkpoint) + reserved, "bytes on disk: the engine's number beside its records");
        storage.checkpointed = now;
        let written = storage.spool.write_checkpoint(&checkpoint);
        if written.is_err() {
            storage.health.fail(now);
            self.coverage.note(Sometimes::CheckpointFailed);
        }
        self.after_disk(Work::Checkpoint(written.is_ok().then(|| Box::new(checkpoint))));
    }

    /// Something may go wrong in the disk's next operations.
    fn arm(&mut self) {
        let rates = self.plan.rates;
        if self.chance.permille(rates.sync_fails) {
            self.disk.fail_syncs(1);
            self.coverage.note(Sometimes::SyncFailed);
        }
        if self.chance.permille(rates.write_fails) {
            self.disk.fail_writes(1);
            self.coverage.note(Sometimes::WriteFailed);
        }
        if self.chance.permille(rates.power_goes) {
            self.disk.lose_power_after(self.chance.below(6) as usize);
        }
    }

    /// The disk did its work, unless the power went on the way; the thread hears of it later.
    fn after_disk(&mut self, work: Work) {
        if self.disk.is_dark() {
            self.coverage.note(Sometimes::PowerCutInOperation);
            return self.cut_power();
        }
        let took = if self.chance.permille(self.plan.rates.disk_hangs) {
            self.coverage.note(Sometimes::DiskHung);
            self.chance.millis(1_000, 12_000)
        } else {
            self.chance.millis(0, 15)
        };
        let life = self.lives;
        if let Some(storage) = self.process.as_mut().and_then(|process| process.storage.as_mut()) {
            storage.work = Some(work);
        }
        self.plan_in(took, Event::Stored { life });
    }

    /// The thread's work is done.
    pub(crate) fn end_storage_work(&mut self) {
        let Some(storage) = self.process.as_mut().and_then(|process| process.storage.as_mut()) else { return };
        match storage.work.take() {
            Some(Work::Group { jobs, stored }) => {
                let mut stored = stored.as_slice();
                for job in jobs {
                    let (own, others) = stored.split_at_checked(job.records.len()).unwrap_or_default();
                    stored = others;
                    self.settle_job(job, own, NotStored::Fault);
                }
            }
            Some(Work::Checkpoint(checkpoint)) => self.end_checkpoint(checkpoint),
            None => {}
        }
    }

    fn end_checkpoint(&mut self, checkpoint: Option<Box<Checkpoint>>) {
        let Some(process) = &mut self.process else { return };
        let Some(storage) = &mut process.storage else { return };
        if storage.finish == Finish::Asked && storage.queue.is_empty() {
            storage.finish = Finish::Done;
        }
        let Some(checkpoint) = checkpoint else { return };
        let released = process.pipeline.handle_checkpointed(checkpoint.generation);
        self.oracle.note_durable(*checkpoint, &released, process.pipeline.published());
        storage.spool.set_retention(self.plan.retention, self.now - process.started);
        let freed = storage.spool.release(&released);
        if freed.as_ref().is_ok_and(|freed| freed.retained > 0) {
            self.coverage.note(Sometimes::SegmentRetained);
        }
        match freed {
            Ok(freed) if freed.segments > 0 => self.coverage.note(Sometimes::SegmentReleased),
            Ok(_) => storage.health = Health::Good,
            Err(_) => storage.health.fail(self.now),
        }
        if self.disk.is_dark() {
            self.coverage.note(Sometimes::PowerCutInOperation);
            self.cut_power();
        }
    }
}

impl Storage {
    /// Appends and syncs; tells for each record, in order, whether it is durable.
    fn append(&mut self, jobs: &[Job], now: Duration) -> Vec<bool> {
        let mut stored = Vec::new();
        for record in jobs.iter().flat_map(|job| &job.records) {
            let append = Append {
                id: record.id,
                signal: record.signal,
                counts: record.counts,
                received_unix_ms: record.received_unix_ms,
                body: &record.body,
            };
            let appended = self.spool.append(&append).is_ok();
            if !appended {
                self.health.fail(now);
            }
            stored.push(appended);
        }
        if stored.contains(&true) {
            let may_sync_later =
                matches!(self.health, Health::Good) && jobs.iter().flat_map(|job| &job.records).all(|record| record.is_buffered);
            match if may_sync_later { self.spool.flush() } else { self.spool.commit() } {
                Ok(()) if !stored.contains(&false) => self.health = Health::Good,
                Ok(()) => {}
                Err(_) => {
                    self.health.fail(now);
                    stored.fill(false);
                }
            }
        }
        stored
    }
}
