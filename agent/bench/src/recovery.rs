//! From the start of an agent that was killed, with a backlog, to its port and to the first replayed request at the backend. The
//! backend takes requests and never answers, so that every sample begins with the same backlog, read from the disk.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::agent::Agent;
use crate::figure::{Figure, quantile};
use crate::traffic::Sink;
use crate::{Setup, backlog, machine, traffic};

/// Longest wait for the first request.
const REPLAY_TIME_MAX: Duration = Duration::from_secs(60);

/// What was promised.
const LISTENING_TARGET: f64 = 0.1;
const REPLAYED_TARGET: f64 = 0.5;

pub(crate) fn run(setup: &Setup) -> Result<Vec<Figure>> {
    let mut figures: Vec<Figure> = Vec::new();
    let mut smallest = None;
    for &gigabytes in &setup.backlogs {
        let directory = setup.scratch.join(format!("backlog-{gigabytes}"));
        let spans = backlog::fill(&directory, u64::from(gigabytes) * 1_000_000_000)?;
        let (mut listened, mut replayed) = (Vec::new(), Vec::new());
        start(setup, &directory, spans)?;
        for _ in 0..setup.samples {
            let (listening, replaying) = start(setup, &directory, spans)?;
            listened.push(listening.as_secs_f64());
            replayed.extend(replaying.map(|after| after.as_secs_f64()));
        }
        std::fs::remove_dir_all(&directory)?;
        let median = quantile(&listened, 0.5);
        let flat = median / *smallest.get_or_insert(median);
        figures.push(Figure::plain(format!("listening, {gigabytes} GB of backlog"), "s", listened).at_most(LISTENING_TARGET));
        figures.push(Figure::plain(
            format!("the same, by that with {} GB", setup.backlogs.first().copied().unwrap_or_default()),
            "x",
            vec![flat],
        ));
        if !replayed.is_empty() {
            figures.push(Figure::plain(format!("first request replayed, {gigabytes} GB"), "s", replayed).at_most(REPLAYED_TARGET));
        }
    }
    Ok(figures)
}

/// Starts an agent, and kills it when it has replayed a request, if there is one; the time to its port and to that request.
fn start(setup: &Setup, directory: &std::path::Path, spans: u64) -> Result<(Duration, Option<Duration>)> {
    machine::forget_cached(directory)?;
    traffic::run(async {
        let sink = Sink::mute();
        let address = sink.serve().await?;
        let started = Instant::now();
        let agent = Agent::start(&setup.scratch, directory, &address).await?;
        if spans == 0 {
            return Ok((agent.listened_after, None));
        }
        traffic::in_time("the first request", REPLAY_TIME_MAX, sink.reach(1)).await?;
        Ok((agent.listened_after, Some(started.elapsed())))
    })
}
