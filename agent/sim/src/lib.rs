//! A seeded simulation: the real engine and the real disk log, under simulated time, disk, network, clients and destinations.
//!
//! ```text
//!   clients, kernel ──▶ door ──▶ pipeline::Pipeline ──▶ network ──▶ destinations
//!    lost requests,      │  otlp::inspect, split            slow, dead, flaky, rejecting,
//!    lost replies,       ▼                                  throttling, answers lost
//!    retries          storage thread ──▶ spool's log ──▶ spool::model::ModelDisk
//!                                                   slow, full, failing, torn; power cut anywhere
//!             the oracle stands outside: what was sent, promised, delivered, counted
//! ```
//!
//! One thread, no clock, no other chance than the seed's: the same seed gives the same trace, byte by byte. What stands around the
//! engine in the agent (who calls what, in which order) is followed here step by step, for the agent's own is made of tasks.
//!
//! # What must hold
//!
//! - *Conservation.* What was acknowledged from disk is delivered, or stands in the books with its reason. What was acknowledged from
//!   memory too, within the bounds that the books state.
//! - *Integrity.* Nothing arrives that was not sent, and every byte of an item is as it was sent. A record's name stands for one content.
//! - *Once.* No record is sent twice at a time, after it was settled, or after a durable checkpoint settled it: what is delivered twice
//!   was sent twice by its client, or its answer was lost, or a crash undid less than one checkpoint.
//! - *Books.* The identities hold after every event; what was received, refused, shed, delivered and rejected is, at each checkpoint,
//!   each start and the end, what the oracle counted; published numbers never step back.
//! - *Poison.* What is kept in quarantine was refused while it stood alone, and everything else of its record arrives.
//! - *Configuration.* Another one, at any time but while the process ends, breaks none of this. What a removed destination held is kept
//!   for its return unless policy is to drop it; what comes while it is away is not for it.
//! - *Life.* When faults end everything drains, and a fresh probe of every signal and class arrives everywhere, but for what the books
//!   say a full share of the disk cost it.
//! - *Full disk.* Where a full share refuses, nothing is dropped for want of it, and nothing else refuses. Where it drops, only the
//!   destination over its share does, and from the lowest class up.
//! - *Bounds.* Memory stays within its bound at every offer. Nothing is sent that has waited beyond the age limit. Opening fails only
//!   if the disk does; no crash is taken for damage.
//!
//! Every fault is counted ([`Sometimes`]): one that never fires fails the suite.

#![expect(clippy::indexing_slicing, reason = "a simulation that meets what it does not expect must end there; its runner says which seed")]

mod agenda;
mod chance;
mod coverage;
mod doorway;
mod full_share;
mod items;
mod oracle;
mod peers;
mod plan;
mod process;
mod reconfiguring;
mod storing;
mod tally;
mod trace;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use coverage::{Coverage, Sometimes};
pub use trace::Trace;

/// What a simulation led to.
pub struct Run {
    /// What happened in it; empty unless asked for.
    pub trace: Trace,
    /// What happened how often.
    pub coverage: Coverage,
    /// What did not hold, if anything.
    pub violation: Option<String>,
}

/// Simulates one seed, with at most `requests_max` requests.
#[must_use]
pub fn run(seed: u64, requests_max: u64, trace: Trace) -> Run {
    let mut world = world::World::new(seed, requests_max, trace);
    let ended = catch_unwind(AssertUnwindSafe(|| world.run()));
    let violation = ended.err().map(|cause| {
        let text = cause.downcast_ref::<String>().cloned();
        text.or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "unknown".to_owned())
    });
    if let Some(violation) = &violation {
        world.say(|| format!("VIOLATION: {violation}"));
    }
    Run { trace: world.trace, coverage: world.coverage, violation }
}

/// The fewest requests, within a few halvings, with which a seed still fails.
#[must_use]
pub fn shorten(seed: u64, requests_max: u64) -> u64 {
    let (mut fails, mut holds) = (requests_max, 0);
    while fails - holds > 1 {
        let middle = holds + (fails - holds) / 2;
        if run(seed, middle, Trace::default()).violation.is_some() {
            fails = middle;
        } else {
            holds = middle;
        }
    }
    fails
}
