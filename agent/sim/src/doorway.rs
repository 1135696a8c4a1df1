//! Clients and the kernel, and the way of a request through the agent's door: offer, cut by class if told so, make durable what must
//! be, answer. It follows the agent's own shell step by step.

use std::time::Duration;

use otlp::{Limits, Rules};
use pipeline::{Admission, NotStored, Origin, Part, Persist, RECORD_DISK_BYTES, Verdict};
use vocabulary::{Class, ClassCounts, RefuseReason, Signal};

use crate::coverage::Sometimes;
use crate::full_share::Offered;
use crate::items::{Unit, encode};
use crate::process::Job;
use crate::world::{Event, World};

/// Pause asked of a client whose request the disk did not take.
const STORE_FAILED_PAUSE: Duration = Duration::from_secs(2);
/// Tries after which a client gives up.
const ATTEMPTS_MAX: u32 = 12;

/// A request and who makes it.
pub(crate) struct Request {
    pub(crate) signal: Signal,
    pub(crate) units: Vec<Unit>,
    pub(crate) is_kernel: bool,
    pub(crate) is_probe: bool,
    pub(crate) is_done: bool,
    attempt: u32,
    admissions: u32,
}

/// What a client is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    Accepted,
    Refused(Duration),
    Unreachable,
}

/// Who waits for records to be stored, and what its request was admitted as.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiter {
    request: usize,
    attempt: u32,
    shed: ClassCounts,
}

impl Request {
    /// Whose it is: one of five, of which one sends half of all there is.
    fn tenant(&self) -> String {
        let number = self.units.first().map_or(0, |unit| unit.number % 8);
        format!("tenant-{}", number.saturating_sub(3))
    }

    pub(crate) fn of(signal: Signal, units: Vec<Unit>) -> Self {
        Self { signal, units, is_kernel: false, is_probe: false, is_done: false, attempt: 0, admissions: 0 }
    }
}

impl World {
    pub(crate) fn begin_attempt(&mut self, number: usize) {
        let request = &mut self.requests[number];
        if request.is_done {
            return;
        }
        request.attempt += 1;
        let attempt = request.attempt;
        if request.is_kernel {
            // The kernel cannot wait: without a process nobody was there to see it.
            request.is_done = true;
            return self.arrive(number, attempt);
        }
        // Probes and whatever is asked in calm are asked until they are answered.
        if attempt > ATTEMPTS_MAX && !self.is_calm {
            request.is_done = true;
            return self.coverage.note(Sometimes::ClientGaveUp);
        }
        if attempt > 1 {
            self.coverage.note(Sometimes::ClientRetried);
        }
        let patience = self.chance.millis(500, 8_000);
        self.plan_in(patience, Event::Timeout { request: number, attempt });
        if self.chance.permille(self.plan.rates.message_lost) {
            return self.coverage.note(Sometimes::RequestLost);
        }
        let way = self.chance.millis(0, 40);
        self.plan_in(way, Event::Arrive { request: number, attempt });
    }

    pub(crate) fn time_out(&mut self, number: usize, attempt: u32) {
        if self.requests[number].attempt == attempt && !self.requests[number].is_done {
            let pause = self.chance.millis(50, 1_000);
            self.plan_in(pause, Event::Request(number));
        }
    }

    pub(crate) fn reply(&mut self, number: usize, attempt: u32, answer: Answer) {
        let request = &mut self.requests[number];
        if request.is_done || request.attempt != attempt {
            return;
        }
        // The timeout that is planned is for an attempt that is over.
        request.attempt += 1;
        let pause = match answer {
            Answer::Accepted => {
                request.is_done = true;
                return;
            }
            Answer::Refused(Duration::ZERO) => {
                request.is_done = true;
                return self.coverage.note(Sometimes::ClientGaveUp);
            }
            Answer::Refused(pause) => pause,
            Answer::Unreachable => self.chance.millis(200, 1_500),
        };
        self.plan_in(pause, Event::Request(number));
    }

    /// A request reaches the agent; it waits until it has a place in the storage queue, so that what is reserved reaches the disk.
    pub(crate) fn arrive(&mut self, number: usize, attempt: u32) {
        let Some(process) = &mut self.process else { return self.answer(number, attempt, Answer::Unreachable) };
        if process.are_inputs_stopped && !self.requests[number].is_kernel {
            return self.answer(number, attempt, Answer::Unreachable);
        }
        if process.storage.is_some() && process.places_taken() >= self.plan.storage_queue_max {
            process.doorway.push_back((number, attempt));
            return self.coverage.note(Sometimes::StorageQueueFull);
        }
        self.take_in(number, attempt);
    }

    pub(crate) fn take_in(&mut self, number: usize, attempt: u32) {
        let request = &self.requests[number];
        let (signal, body) = (request.signal, encode(&request.units));
        let (is_kernel, tenant) = (request.is_kernel, request.tenant());
        if let Some(removed) = self.removed {
            self.oracle.note_not_for(removed, &request.units);
        }
        let Ok(counts) = otlp::inspect(signal, &body, &Rules::default(), &Limits::default()) else {
            unreachable!("a request that was made here is not well formed")
        };
        let (now, unix_ms) = (self.engine_now(), self.unix_ms());
        let shares = self.look_at_shares();
        let mut disk_bytes = body.len() as u64 + RECORD_DISK_BYTES;
        let Some(process) = &mut self.process else { return };
        self.received_at.extend(request.units.iter().map(|unit| (unit.number, self.now)));
        let origin = if is_kernel { Origin::Kernel } else { Origin::ClientOf(process.pipeline.tenant(Some(&tenant))) };
        let whole = pipeline::Request { signal, origin, counts, body: body.clone() };
        let mut verdict = process.pipeline.offer(now, unix_ms, whole);
        if verdict == Verdict::Split {
            let Ok(parts) = otlp::split(signal, &body, &Rules::default()) else { unreachable!("a walked body can be cut") };
            let parts: Vec<Part> = parts.into_iter().map(|(class, items, body)| Part { class, items, body }).collect();
            disk_bytes = parts.iter().map(|part| part.body.len() as u64 + RECORD_DISK_BYTES).sum();
            let origin = if is_kernel { Origin::Kernel } else { Origin::ClientOf(process.pipeline.tenant(Some(&tenant))) };
            verdict = process.pipeline.offer_parts(now, unix_ms, signal, origin, parts);
            self.coverage.note(Sometimes::SplitByClass);
        } else if counts.is_mixed() {
            self.coverage.note(Sometimes::NotSplit);
        }
        self.say(|| format!("request {number} of {counts:?}, try {attempt}: {verdict:?}"));
        self.judge_shares(&shares, &Offered { signal, counts, disk_bytes }, &verdict);
        match verdict {
            Verdict::Split => unreachable!("what is cut is not to be cut again"),
            Verdict::Refused(refusal) => {
                assert!(!is_kernel, "the kernel was refused");
                crate::tally::add(&mut self.oracle.tally.refused, signal, &counts);
                self.note_refusal(refusal.reason, refusal.retry_after);
                self.answer(number, attempt, Answer::Refused(refusal.retry_after));
            }
            Verdict::Admitted(admission) => self.admit(Waiter { request: number, attempt, shed: admission.shed }, &counts, admission),
        }
        self.check_bounds();
    }

    fn note_refusal(&mut self, reason: RefuseReason, pause: Duration) {
        let what = match reason {
            RefuseReason::TooLarge => Sometimes::RefusedTooLarge,
            RefuseReason::ShuttingDown => Sometimes::RefusedShuttingDown,
            RefuseReason::TenantQuota => Sometimes::RefusedTenant,
            _ => Sometimes::RefusedHardLimit,
        };
        self.coverage.note(what);
        let millis = pause.as_millis();
        assert!(if reason == RefuseReason::TooLarge { millis == 0 } else { (1_000..=5_000).contains(&millis) }, "a pause of {pause:?}");
    }

    fn admit(&mut self, waiter: Waiter, counts: &ClassCounts, admission: Admission) {
        let request = &self.requests[waiter.request];
        let (signal, is_kernel) = (request.signal, request.is_kernel);
        let shed = admission.shed;
        if shed.total() > 0 {
            let may_shed_all = is_kernel || !self.is_ever_refused_for_room(signal);
            assert!(may_shed_all || shed[Class::Critical] + shed[Class::High] == 0, "what matters was shed: {shed:?}");
            self.coverage.note(if is_kernel { Sometimes::KernelDropped } else { Sometimes::Shed });
        }
        let mut now_in_books = *counts;
        for record in &admission.persist {
            for (class, items) in record.counts.iter() {
                now_in_books[class] -= items;
            }
        }
        crate::tally::add(&mut self.oracle.tally.received, signal, &now_in_books);
        crate::tally::add(&mut self.oracle.tally.shed, signal, &shed);
        if admission.persist.is_empty() {
            return self.accept(waiter, &ClassCounts::default());
        }
        let on_their_way: u64 = admission.persist.iter().map(|record| record.counts.total()).sum();
        let is_rest_taken = on_their_way < counts.total();
        let Some(process) = &mut self.process else { return };
        process.enqueue(Job { records: admission.persist, is_rest_taken, waiter: Some(waiter) });
    }

    /// The records of a job are durable, or some are, or none; `cause` says why the others are not.
    pub(crate) fn settle_job(&mut self, job: Job, stored: &[bool], cause: NotStored) {
        let now = self.engine_now();
        let is_any_taken = job.is_rest_taken || stored.contains(&true);
        let (mut durable, mut buffered, mut lost) = (ClassCounts::default(), ClassCounts::default(), ClassCounts::default());
        let is_flush = job.waiter.is_none();
        let is_kernel = job.waiter.is_some_and(|waiter| self.requests[waiter.request].is_kernel);
        for (position, record) in job.records.iter().enumerate() {
            let Some(process) = &mut self.process else { return };
            let is_stored = stored.get(position).copied().unwrap_or(false);
            let sum = match (is_stored, record.is_buffered) {
                (true, false) => &mut durable,
                (true, true) => &mut buffered,
                (false, _) => &mut lost,
            };
            for (class, items) in record.counts.iter() {
                sum[class] += items;
            }
            match (is_stored, is_any_taken) {
                (true, _) => process.pipeline.handle_stored(now, record.id),
                (false, true) => process.pipeline.handle_store_dropped(now, record.id, cause),
                (false, false) => process.pipeline.handle_store_failed(now, record.id, cause),
            }
            self.oracle.note_stored(record, is_stored);
            if !is_flush {
                self.count_stored(record, is_stored, is_any_taken || is_kernel);
            }
        }
        let Some(mut waiter) = job.waiter else { return };
        if durable.total() + buffered.total() == 0 && !is_any_taken {
            return self.answer(waiter.request, waiter.attempt, Answer::Refused(STORE_FAILED_PAUSE));
        }
        for (class, items) in lost.iter() {
            waiter.shed[class] += items;
        }
        self.accept(waiter, &durable);
    }

    /// What the books must say of a record that was, or was not, stored.
    fn count_stored(&mut self, record: &Persist, is_stored: bool, is_received: bool) {
        let tally = &mut self.oracle.tally;
        if !is_stored && !is_received {
            return crate::tally::add(&mut tally.refused, record.signal, &record.counts);
        }
        crate::tally::add(&mut tally.received, record.signal, &record.counts);
        if !is_stored {
            crate::tally::add(&mut tally.shed, record.signal, &record.counts);
        }
    }

    /// From here on the request is the agent's, whether or not the client hears of it.
    fn accept(&mut self, waiter: Waiter, durable: &ClassCounts) {
        let request = &mut self.requests[waiter.request];
        request.admissions += 1;
        if request.admissions > 1 {
            self.coverage.note(Sometimes::DoublyAdmitted);
        }
        self.oracle.promise(&self.requests[waiter.request].units, &waiter.shed, durable);
        self.answer(waiter.request, waiter.attempt, Answer::Accepted);
    }

    fn answer(&mut self, request: usize, attempt: u32, answer: Answer) {
        if self.requests[request].is_kernel {
            return;
        }
        if self.chance.permille(self.plan.rates.message_lost) {
            return self.coverage.note(Sometimes::ReplyLost);
        }
        let way = self.chance.millis(0, 40);
        self.plan_in(way, Event::Reply { request, attempt, answer });
    }

    fn check_bounds(&mut self) {
        let Some(process) = &self.process else { return };
        let gauges = process.pipeline.gauges();
        let shares = gauges.destinations.iter().map(|destination| destination.disk_bytes);
        assert!(gauges.disk_bytes <= shares.sum(), "something on disk is in nobody's share");
        let (named_max, tenants) = (self.plan.config.tenants_max, gauges.tenants.len());
        assert!(tenants <= if named_max == 0 { 0 } else { named_max + 1 }, "{tenants} tenants are told apart");
        if named_max > 0 && gauges.tenants.iter().any(|tenant| tenant.name == "(others)" && tenant.held_records > 0) {
            self.coverage.note(Sometimes::TenantWithoutPlace);
        }
        let (bytes, items) = self.memory_found;
        assert!(
            gauges.memory_bytes <= gauges.memory_bytes_max.max(bytes) && gauges.memory_items <= gauges.memory_items_max.max(items),
            "memory passed its bound"
        );
    }
}
