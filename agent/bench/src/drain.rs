//! Spans per second out of a backlog: from the first that reaches the backend to the last.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::agent::Agent;
use crate::figure::Figure;
use crate::traffic::Sink;
use crate::{Setup, backlog, machine, traffic};

/// Longest wait for the first span, and for the last.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(120);

/// What was promised.
const RATE_TARGET: f64 = 1_000_000.0;

pub(crate) fn run(setup: &Setup) -> Result<Vec<Figure>> {
    let gigabytes = setup.backlogs.iter().copied().find(|&gigabytes| gigabytes > 0).unwrap_or(1);
    let (mut rates, mut costs, mut shares, mut peaks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for sample in 0..=setup.samples {
        let directory = setup.scratch.join("backlog");
        let spans = backlog::fill(&directory, u64::from(gigabytes) * 1_000_000_000)?;
        machine::forget_cached(&directory)?;
        let Drained { took, worked, at_sink, peak } = traffic::run(drain(setup, &directory, spans))?;
        std::fs::remove_dir_all(&directory)?;
        // The first one warms up.
        if sample > 0 {
            rates.push(spans as f64 / took.as_secs_f64());
            costs.push(worked.as_secs_f64() * 1e6 / spans as f64);
            shares.push(at_sink.as_secs_f64() / took.as_secs_f64());
            peaks.push(peak as f64 / f64::from(1 << 20));
        }
    }
    Ok(vec![
        Figure::plain(format!("spans out of a backlog of {gigabytes} GB"), "spans/s", rates).at_least(RATE_TARGET),
        Figure::plain("processor time", "us/span", costs),
        Figure::plain("part of the other core that the sink used", "x", shares),
        Figure::plain("most memory the agent took", "MiB", peaks),
    ])
}

/// One drained backlog.
struct Drained {
    /// From the first span to the last.
    took: Duration,
    /// Processor time of the agent, and of the sink from the first span on.
    worked: Duration,
    at_sink: Duration,
    /// Most memory of the agent, in bytes.
    peak: u64,
}

async fn drain(setup: &Setup, directory: &std::path::Path, spans: u64) -> Result<Drained> {
    let sink = Sink::default();
    let address = sink.serve().await?;
    let agent = Agent::start(&setup.scratch, directory, &address).await?;
    traffic::in_time("the first span", DRAIN_TIME_MAX, sink.reach(1)).await?;
    let (started, at_sink) = (Instant::now(), machine::thread_time());
    traffic::in_time("the last span", DRAIN_TIME_MAX, sink.reach(spans)).await?;
    let (took, at_sink) = (started.elapsed(), machine::thread_time().saturating_sub(at_sink));
    Ok(Drained { took, worked: agent.processor_time()?, at_sink, peak: agent.peak_memory()? })
}
