//! What a record costs in the pure engine: taken in, queued, chosen, answered, and every step of it in the books. The yardstick
//! is a bare queue of the same bodies: what the least engine would cost that decides nothing and counts nothing. Both in processor
//! time, because nothing here waits.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Duration;

use anyhow::{Result, bail};
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
/// Time between two records: a hundred thousand in a second.
const EVERY: Duration = Duration::from_micros(10);

/// What was promised for a record in memory.
const TARGET_NS: f64 = 150.0;

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
        let started = machine::thread_time()?;
        for _ in 0..RECORDS {
            queue.push_back(black_box(&body).clone());
            drop(black_box(queue.pop_front()));
        }
        per_record(started)
    };
    let mut memory = Flow::new(BufferMode::Memory, body.clone());
    let of_memory = pairs(setup.samples, || memory.sample(), &mut bare)?;
    let mut mirror = Flow::new(BufferMode::Mirror, body.clone());
    let of_mirror = pairs(setup.samples, || mirror.sample(), &mut bare)?;
    let mut passed = Ok(());
    let allocations = allocation_counter::measure(|| passed = (0..RECORDS).try_for_each(|_| memory.pass())).count_total;
    passed?;
    Ok(vec![
        Figure::plain("a record held in memory", "ns", of_memory.ours).at_most(TARGET_NS),
        Figure::plain("the same, by a bare queue's", "x", of_memory.ratios),
        Figure::plain("allocations of it", "per record", vec![allocations as f64 / RECORDS as f64]).at_most(0.0),
        Figure::plain("a record held on disk too", "ns", of_mirror.ours),
        Figure::plain("a bare queue", "ns", of_memory.theirs),
    ])
}

/// Nanoseconds per record since then.
fn per_record(started: Duration) -> Result<f64> {
    Ok((machine::thread_time()? - started).as_secs_f64() * 1e9 / RECORDS as f64)
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
    fn new(mode: BufferMode, body: Bytes) -> Self {
        Self {
            pipeline: Pipeline::new(config(mode, WINDOW), None),
            body,
            flying: VecDeque::with_capacity(2 * WINDOW),
            now: Duration::ZERO,
            offered: 0,
        }
    }

    /// Nanoseconds per record.
    fn sample(&mut self) -> Result<f64> {
        let started = machine::thread_time()?;
        for _ in 0..RECORDS {
            self.pass()?;
        }
        let took = per_record(started)?;
        if let Err(broken) = self.pipeline.check_held() {
            bail!("the books do not balance: {}", broken.identity);
        }
        Ok(took)
    }

    /// One record comes, and another leaves.
    fn pass(&mut self) -> Result<()> {
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
        if self.offered <= HELD {
            return Ok(());
        }
        let destination = DestinationIndex(0);
        while let Some(send) = self.pipeline.poll_send(self.now, destination) {
            self.flying.push_back(black_box(send).id);
        }
        if let Some(id) = self.flying.pop_front() {
            self.pipeline.handle_outcome(self.now, destination, id, Outcome::Delivered);
        }
        Ok(())
    }
}
