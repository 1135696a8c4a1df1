//! What it costs to prove a request well formed and to count and classify its items: the largest part of what the agent does with
//! a request beside moving its bytes. The yardstick is a pass that looks at every byte once.

use std::hint::black_box;
use std::time::Duration;

use anyhow::Result;
use otlp::{Limits, Rules, inspect};
use vocabulary::Signal;

use crate::figure::{Figure, pairs};
use crate::{Setup, machine, payload};

/// Requests of one sample.
const REQUESTS: u32 = 400;

pub(crate) fn run(setup: &Setup) -> Result<Vec<Figure>> {
    let request = payload::request(1);
    let (rules, limits) = (Rules::default(), Limits::default());
    let walked = || {
        let started = machine::thread_time();
        for _ in 0..REQUESTS {
            black_box(inspect(Signal::Traces, black_box(&request), &rules, &limits)?);
        }
        Ok(per_span(started))
    };
    let looked = || {
        let started = machine::thread_time();
        for _ in 0..REQUESTS {
            black_box(black_box(&request).iter().fold(0_u64, |sum, &byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte))));
        }
        Ok(per_span(started))
    };
    let found = pairs(setup.samples, walked, looked)?;
    Ok(vec![
        Figure::plain("a span of 412 bytes", "ns", found.ours),
        Figure::plain("the same, by one look at every byte", "x", found.ratios),
        Figure::plain("one look at every byte of it", "ns", found.theirs),
    ])
}

/// Nanoseconds per span since then.
fn per_span(started: Duration) -> f64 {
    (machine::thread_time() - started).as_secs_f64() * 1e9 / f64::from(REQUESTS * payload::SPANS)
}
