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
    let (mut rates, mut costs, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
    for sample in 0..=setup.samples {
        let directory = setup.scratch.join("backlog");
        let spans = backlog::fill(&directory, u64::from(gigabytes) * 1_000_000_000)?;
        machine::forget_cached(&directory)?;
        let (took, worked, peak) = traffic::run(drain(setup, &directory, spans))?;
        std::fs::remove_dir_all(&directory)?;
        // The first one warms up.
        if sample > 0 {
            rates.push(spans as f64 / took.as_secs_f64());
            costs.push(worked.as_secs_f64() * 1e6 / spans as f64);
            peaks.push(peak as f64 / f64::from(1 << 20));
        }
    }
    Ok(vec![
        Figure::plain(format!("spans out of a backlog of {gigabytes} GB"), "spans/s", rates).at_least(RATE_TARGET),
        Figure::plain("processor time", "us/span", costs),
        Figure::plain("most memory the agent took", "MiB", peaks),
    ])
}

/// Time from the first span to the last, the agent's processor time, and its memory.
async fn drain(setup: &Setup, directory: &std::path::Path, spans: u64) -> Result<(Duration, Duration, u64)> {
    let sink = Sink::default();
    let address = sink.serve().await?;
    let agent = Agent::start(&setup.scratch, directory, &address).await?;
    traffic::in_time("the first span", DRAIN_TIME_MAX, sink.reach(1)).await?;
    let started = Instant::now();
    traffic::in_time("the last span", DRAIN_TIME_MAX, sink.reach(spans)).await?;
    Ok((started.elapsed(), agent.processor_time()?, agent.peak_memory()?))
}
