//! What a record costs in the pure engine: taken in, queued, chosen, answered, and every step of it in the books. The yardstick
//! is a bare queue of the same bodies: what the least engine would cost that decides nothing and counts nothing. Both in processor
//! time, because nothing here waits.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use pipeline::{
    Acknowledge, BufferMode, ClassPolicy, Config, Delivery, DestinationConfig, DestinationIndex, MemoryLimits, OnFull, Origin, Outcome,
    Pipeline, RecordId, Request, RetryPolicy, Verdict,
};
use vocabulary::{Class, ClassCounts, Signal};

use crate::figure::{Figure, pairs};
use crate::{Setup, machine};

/// Records of one sample.
const RECORDS: u64 = 500_000;
/// Records held throughout.
const HELD: u64 = 2_000;
/// Records on their way to the destination.
const WINDOW: usize = 32;
/// The same where each part is measured for so many records at once, because a clock takes its time too.
const GROUP: usize = 512;
/// Time between two records: a hundred thousand in a second.
const EVERY: Duration = Duration::from_micros(10);

/// What was promised for a record in memory.
const TARGET_NS: f64 = 150.0;

/// The only destination.
const DESTINATION: DestinationIndex = DestinationIndex(0);

/// Nanoseconds per record.
#[derive(Clone, Copy, Debug, Default)]
struct Parts {
    offered: f64,
    chosen: f64,
    settled: f64,
}

/// An engine under a steady flow.
struct Flow {
    pipeline: Pipeline,
    body: Bytes,
    flying: VecDeque<RecordId>,
    now: Duration,
    offered: u64,
}

pub(crate) fn run(setup: &Setup) -> Result<Vec<Figure>> {
    let body = Bytes::from(vec![7; 1 << 16]).slice(..1 << 10);
    let mut queue: VecDeque<Bytes> = std::iter::repeat_n(body.clone(), HELD as usize).collect();
    let mut bare = || {
        let started = machine::thread_time();
        for _ in 0..RECORDS {
            queue.push_back(black_box(&body).clone());
            drop(black_box(queue.pop_front()));
        }
        Ok(per_record(started))
    };
    let mut memory = Flow::new(BufferMode::Memory, WINDOW, body.clone());
    let of_memory = pairs(setup.samples, || memory.sample(), &mut bare)?;
    let mut mirror = Flow::new(BufferMode::Mirror, WINDOW, body.clone());
    let of_mirror = pairs(setup.samples, || mirror.sample(), &mut bare)?;
    let mut grouped = Flow::new(BufferMode::Memory, GROUP, body.clone());
    let parts = (0..=setup.samples).map(|_| grouped.parts()).collect::<Result<Vec<_>>>()?;
    // The first one warms up.
    let of = |part: fn(&Parts) -> f64| parts.iter().skip(1).map(part).collect();
    let mut passed = Ok(());
    let allocations = allocation_counter::measure(|| passed = (0..RECORDS).try_for_each(|_| memory.pass())).count_total;
    passed?;
    Ok(vec![
        Figure::plain("a record taken in and given its turn, in the books", "ns", of(|parts| parts.offered + parts.chosen))
            .at_most(TARGET_NS),
        Figure::plain("of it, taken in", "ns", of(|parts| parts.offered)),
        Figure::plain("of it, given its turn among the lanes", "ns", of(|parts| parts.chosen)),
        Figure::plain("its answer, which settles it", "ns", of(|parts| parts.settled)),
        Figure::plain("all of it, one record after the other", "ns", of_memory.ours),
        Figure::plain("the same, by a bare queue's", "x", of_memory.ratios),
        Figure::plain("allocations of it", "per record", vec![allocations as f64 / RECORDS as f64]).at_most(0.0),
        Figure::plain("all of it, held on disk too", "ns", of_mirror.ours),
        Figure::plain("a bare queue", "ns", of_memory.theirs),
    ])
}

/// Nanoseconds per record since then.
fn per_record(started: Duration) -> f64 {
    (machine::thread_time() - started).as_secs_f64() * 1e9 / RECORDS as f64
}

/// An engine that never runs out of room, with one destination that may have so many records on their way.
pub(crate) fn config(mode: BufferMode, in_flight: usize) -> Config {
    let retry = RetryPolicy { initial: Duration::from_millis(100), max: Duration::from_secs(1), deadline: None };
    Config {
        mode,
        acknowledge: Acknowledge::AtRest,
        memory: MemoryLimits { bytes: 1 << 40, items: 1 << 40 },
        disk_bytes: if mode == BufferMode::Memory { 0 } else { 1 << 40 },
        on_full: OnFull::RefuseIntake,
        max_age: None,
        soft_percent: 90,
        tenants_max: 0,
        replay_seed: 0,
        on_removed: pipeline::OnRemoved::Keep,
        classes: [8, 4, 2, 1].map(|weight| ClassPolicy { weight, reserved_percent: 10 }),
        destinations: vec![DestinationConfig {
            name: "backend".into(),
            signals: Vec::new(),
            in_flight,
            retry,
            delivery: Delivery::Required,
        }],
    }
}

impl Flow {
    fn new(mode: BufferMode, window: usize, body: Bytes) -> Self {
        Self {
            pipeline: Pipeline::new(config(mode, window), None),
            body,
            flying: VecDeque::with_capacity(2 * window),
            now: Duration::ZERO,
            offered: 0,
        }
    }

    /// Nanoseconds per record, one after the other.
    fn sample(&mut self) -> Result<f64> {
        let started = machine::thread_time();
        for _ in 0..RECORDS {
            self.pass()?;
        }
        let took = per_record(started);
        self.check()?;
        Ok(took)
    }

    fn check(&self) -> Result<()> {
        self.pipeline.check_held().map_err(|broken| anyhow!("the books do not balance: {}", broken.identity))
    }

    /// Nanoseconds per record of each part, a group of records after the other.
    fn parts(&mut self) -> Result<Parts> {
        while self.offered < HELD {
            self.offer()?;
        }
        let (mut parts, groups) = (Parts::default(), RECORDS / GROUP as u64);
        for _ in 0..groups {
            let started = machine::thread_time();
            (0..GROUP).try_for_each(|_| self.offer())?;
            let offered = machine::thread_time();
            self.send();
            let chosen = machine::thread_time();
            while self.settle() {}
            let settled = machine::thread_time();
            let each = |from: Duration, to: Duration| (to - from).as_secs_f64() * 1e9 / (groups * GROUP as u64) as f64;
            parts.offered += each(started, offered);
            parts.chosen += each(offered, chosen);
            parts.settled += each(chosen, settled);
        }
        self.check()?;
        Ok(parts)
    }

    /// One record comes, and another leaves.
    fn pass(&mut self) -> Result<()> {
        self.offer()?;
        if self.offered > HELD {
            self.send();
            self.settle();
        }
        Ok(())
    }

    /// One record comes.
    fn offer(&mut self) -> Result<()> {
        self.offered += 1;
        self.now += EVERY;
        // Of eight records one is Critical, one High, five Normal and one Bulk: errors are rare, but not in every request.
        let class = match self.offered % 8 {
            0 => Class::Critical,
            1 => Class::High,
            2 => Class::Bulk,
            _ => Class::Normal,
        };
        let counts = ClassCounts::of(class, 512);
        let request = Request { signal: Signal::Traces, origin: Origin::Client, counts, body: self.body.clone() };
        let Verdict::Admitted(admission) = self.pipeline.offer(self.now, 1, request) else { bail!("the engine has room, and refused") };
        for record in admission.persist {
            self.pipeline.handle_stored(self.now, record.id);
        }
        Ok(())
    }

    /// As many leave as may be on their way.
    fn send(&mut self) {
        while let Some(send) = self.pipeline.poll_send(self.now, DESTINATION) {
            self.flying.push_back(black_box(send).id);
        }
    }

    /// The oldest on its way is answered; false if there is none.
    fn settle(&mut self) -> bool {
        let Some(id) = self.flying.pop_front() else { return false };
        self.pipeline.handle_outcome(self.now, DESTINATION, id, Outcome::Delivered);
        true
    }
}
