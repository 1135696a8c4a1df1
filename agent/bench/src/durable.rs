//! Spans through the whole agent on one core, each on disk and synced before its request is answered, and delivered to a backend
//! that takes everything: how many at most, and how long an answer takes at a rate that leaves room.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::agent::Agent;
use crate::disk::BareFile;
use crate::figure::{Figure, quantile};
use crate::traffic::{Load, Sink};
use crate::{Setup, machine, payload, traffic};

/// Requests on their way while it is saturated: as many as the agent may have on its way to the backend. Of more, what waits for the
/// backend grows without end, and soon it is overload that is measured.
const AT_ONCE: usize = 32;
/// The rate at which delays are measured, in spans per second.
const PACE: u64 = 100_000;
/// Length of one sample, and of the warm-up.
const SAMPLE: Duration = Duration::from_secs(3);
/// Longest wait for the last spans at the sink.
const ARRIVE_TIME_MAX: Duration = Duration::from_secs(30);

/// What was promised.
const RATE_TARGET: f64 = 700_000.0;
const DELAY_TARGET_MS: f64 = 10.0;

/// One sample of the saturated agent.
struct Saturated {
    /// Spans per second.
    rate: f64,
    /// Processor time per span, in microseconds.
    cost: f64,
    /// Part of its core that it used, and part of the other that load and sink did.
    share: f64,
    share_of_ends: f64,
}

pub(crate) fn run(setup: &Setup) -> Result<Vec<Figure>> {
    let mut bare = BareFile::create(&setup.scratch.join("bare"), 64 << 20, payload::noise(1 << 20), true)?;
    let syncs = bare.delays_ms(400, 256 << 10)?;
    traffic::run(async {
        let sink = Sink::default();
        let address = sink.serve().await?;
        let agent = Agent::start(&setup.scratch, &setup.scratch.join("buffer"), &address).await?;
        let mut load = Load::new(&agent.address)?;
        load.saturate(AT_ONCE, SAMPLE).await?;
        let mut saturated = Vec::new();
        for _ in 0..setup.samples {
            saturated.push(saturate(&agent, &sink, &mut load).await?);
        }
        load.pace(PACE, SAMPLE).await?;
        let (mut halves, mut tails) = (Vec::new(), Vec::new());
        for _ in 0..setup.samples {
            let delays = load.pace(PACE, SAMPLE).await?;
            halves.push(quantile(&delays, 0.5));
            tails.push(quantile(&delays, 0.99));
        }
        let of = |part: fn(&Saturated) -> f64| saturated.iter().map(part).collect::<Vec<_>>();
        Ok(vec![
            Figure::plain("spans synced, answered and delivered, saturated", "spans/s", of(|one| one.rate)).at_least(RATE_TARGET),
            Figure::plain("the same, per whole core of the agent", "spans/s", of(|one| 1e6 / one.cost)),
            Figure::plain("processor time", "us/span", of(|one| one.cost)),
            Figure::plain("part of its core used", "x", of(|one| one.share)),
            Figure::plain("part of the other core that load and sink used", "x", of(|one| one.share_of_ends)),
            Figure::plain("delay of an answer at 100,000 spans/s, p99", "ms", tails).at_most(DELAY_TARGET_MS),
            Figure::plain("the same, p50", "ms", halves),
            Figure::plain("a synced write of 256 KiB to the bare disk, p50", "ms", vec![quantile(&syncs, 0.5)]),
            Figure::plain("the same, p99", "ms", vec![quantile(&syncs, 0.99)]),
            Figure::plain("most memory the agent took", "MiB", vec![agent.peak_memory()? as f64 / f64::from(1 << 20)]),
        ])
    })
}

/// What was answered must arrive too, or a queue that grows would count as speed: the time ends with the last span at the sink.
async fn saturate(agent: &Agent, sink: &Sink, load: &mut Load) -> Result<Saturated> {
    let (seen, worked, at_ends, started) = (sink.spans(), agent.processor_time()?, machine::thread_time(), Instant::now());
    let spans = load.saturate(AT_ONCE, SAMPLE).await?;
    traffic::in_time("the last spans", ARRIVE_TIME_MAX, sink.reach(seen + spans)).await?;
    let took = started.elapsed().as_secs_f64();
    let worked = agent.processor_time()?.saturating_sub(worked).as_secs_f64();
    let at_ends = machine::thread_time().saturating_sub(at_ends).as_secs_f64();
    Ok(Saturated { rate: spans as f64 / took, cost: worked * 1e6 / spans as f64, share: worked / took, share_of_ends: at_ends / took })
}
