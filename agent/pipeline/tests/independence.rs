//! What a destination delivers beside one that is dead, hangs or is slow, against what it delivers alone: counts of records within
//! the same simulated time, so that a regression shows as a number.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that meets what it does not expect must fail there")]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use pipeline::{
    Acknowledge, BufferMode, ClassPolicy, Config, Delivery, DestinationConfig, DestinationIndex, MemoryLimits, OnFull, OnRemoved, Origin,
    Outcome, Pipeline, RecordId, Recovered, Request, RetryPolicy, Stored, Verdict,
};
use vocabulary::{Class, ClassCounts, Signal};

const TICK: Duration = Duration::from_millis(5);
/// How long the healthy destination takes for an answer; its window makes that 200 records a second.
const HEALTHY: Duration = Duration::from_millis(20);
const LASTS: Duration = Duration::from_secs(40);
const BODY: usize = 200;

/// How the other destination does.
#[derive(Clone, Copy, Debug)]
enum Beside {
    /// It refuses every connection.
    Dead,
    /// Nothing is heard of it until the call times out.
    Hung,
    /// It takes what it is sent, each after ten seconds.
    Slow,
}

impl Beside {
    const fn answer(self) -> (Duration, Outcome) {
        match self {
            Self::Dead => (TICK, Outcome::Retry { after: None }),
            Self::Hung => (Duration::from_secs(30), Outcome::Retry { after: None }),
            Self::Slow => (Duration::from_secs(10), Outcome::Delivered),
        }
    }
}

fn config(mode: BufferMode, beside: Option<Beside>) -> Config {
    let destination = |name: &str, delivery| DestinationConfig {
        name: name.to_owned(),
        signals: Vec::new(),
        in_flight: 4,
        retry: RetryPolicy { initial: Duration::from_millis(100), max: Duration::from_secs(5), deadline: None },
        delivery,
    };
    let other = beside.map(|_| destination("other", Delivery::BestEffort));
    Config {
        mode,
        acknowledge: Acknowledge::AtRest,
        memory: MemoryLimits { bytes: 200_000, items: 100_000 },
        disk_bytes: 4_000_000,
        on_full: OnFull::RefuseIntake,
        max_age: None,
        soft_percent: 90,
        tenants_max: 0,
        replay_seed: 0,
        on_removed: OnRemoved::Keep,
        classes: [(8, 5), (4, 5), (2, 5), (1, 5)].map(|(weight, reserved_percent)| ClassPolicy { weight, reserved_percent }),
        destinations: std::iter::once(destination("healthy", Delivery::Required)).chain(other).collect(),
    }
}

/// Records that a start finds on disk: more than the healthy destination takes in half of the time.
fn backlog() -> Recovered {
    let record = |nth: u64| Stored {
        id: RecordId { class: Class::ALL[nth as usize % Class::COUNT], sequence: nth / Class::COUNT as u64 + 1 },
        signal: Signal::Logs,
        counts: ClassCounts::of(Class::ALL[nth as usize % Class::COUNT], 1),
        bytes: BODY as u32,
        received_unix_ms: 1,
    };
    Recovered { stored: (0..5_000).map(record).collect(), ..Recovered::default() }
}

/// Offers so many records in each of two ticks in turn, for the whole time; how many the healthy destination takes.
fn delivered(mode: BufferMode, beside: Option<Beside>, per_tick: [usize; 2], has_backlog: bool) -> u64 {
    let mut engine = Pipeline::new(config(mode, beside), has_backlog.then(backlog));
    let mut flights = BTreeMap::new();
    let (mut now, mut ticks) = (Duration::ZERO, 0_usize);
    while now < LASTS {
        let mut rest = flights.split_off(&(now + Duration::from_nanos(1), 0_u64));
        std::mem::swap(&mut rest, &mut flights);
        for (destination, id, outcome) in rest.into_values() {
            engine.handle_outcome(now, destination, id, outcome);
        }
        for nth in 0..per_tick[ticks % 2] {
            let class = Class::ALL[(ticks + nth) % Class::COUNT];
            let (signal, origin, counts) = (Signal::Logs, Origin::Client, ClassCounts::of(class, 1));
            let verdict = engine.offer(now, 1, Request { signal, origin, counts, body: Bytes::from_static(&[0; BODY]) });
            if let Verdict::Admitted(admission) = verdict {
                admission.persist.iter().for_each(|record| engine.handle_stored(now, record.id));
            }
        }
        if ticks.is_multiple_of(40) {
            let generation = engine.checkpoint().generation;
            engine.handle_checkpointed(generation);
        }
        let ways = [(HEALTHY, Outcome::Delivered)].into_iter().chain(beside.map(Beside::answer));
        for (index, (takes, outcome)) in (0..).zip(ways) {
            while let Some(sent) = engine.poll_send(now, DestinationIndex(index)) {
                let key = (now + takes, flights.len() as u64 + ticks as u64 * 1_000);
                flights.insert(key, (DestinationIndex(index), sent.id, outcome));
            }
        }
        (now, ticks) = (now + TICK, ticks + 1);
    }
    engine.check_held().unwrap();
    engine.books().destinations[0].cells.iter().flatten().map(|cell| cell.delivered).sum()
}

#[test]
fn a_destination_delivers_beside_one_that_is_dead_hangs_or_is_slow_what_it_delivers_alone() {
    for mode in [BufferMode::Spill, BufferMode::Mirror] {
        // Half of what it takes, and half as much again; in memory, and behind a backlog on disk.
        for (per_tick, has_backlog) in [([1, 0], false), ([2, 1], false), ([1, 0], true), ([2, 1], true)] {
            let alone = delivered(mode, None, per_tick, has_backlog);
            for beside in [Beside::Dead, Beside::Hung, Beside::Slow] {
                let both = delivered(mode, Some(beside), per_tick, has_backlog);
                assert!(both * 100 >= alone * 95, "{mode:?}, {per_tick:?} a tick, backlog {has_backlog}, {beside:?}: {both} of {alone}");
            }
        }
    }
}
