//! What waited through an outage beside what comes in after it: live records stay fast, the backlog gets there, and agents of a fleet do
//! not begin at once.

#![expect(clippy::indexing_slicing, clippy::panic, reason = "a test that meets what it does not expect must fail there")]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use pipeline::{
    Acknowledge, BufferMode, Circuit, ClassPolicy, Config, Delivery, DestinationConfig, DestinationIndex, MemoryLimits, OnFull, Origin,
    Outcome, Pipeline, REPLAY_SPREAD, RecordId, Recovered, Request, RetryPolicy, Stored, Verdict,
};
use vocabulary::{Class, ClassCounts, Signal};

const ONLY: DestinationIndex = DestinationIndex(0);
const WELL_UNTIL: Duration = Duration::from_secs(60);
const ILL_UNTIL: Duration = Duration::from_secs(80);
const MIB: u64 = 1 << 20;

fn engine(mode: BufferMode, replay_seed: u64, recovered: Option<Recovered>) -> Pipeline {
    let retry = RetryPolicy { initial: Duration::from_millis(200), max: Duration::from_secs(1), deadline: None };
    let destination = DestinationConfig { name: "back".into(), signals: Vec::new(), in_flight: 16, retry, delivery: Delivery::Required };
    let config = Config {
        mode,
        acknowledge: Acknowledge::AtRest,
        memory: MemoryLimits { bytes: 1 << 40, items: 1 << 40 },
        disk_bytes: if mode == BufferMode::Memory { 0 } else { 1 << 40 },
        on_full: OnFull::RefuseIntake,
        max_age: None,
        tenants_max: 0,
        on_removed: pipeline::OnRemoved::Keep,
        replay_seed,
        soft_percent: 100,
        classes: [(8, 0), (4, 0), (2, 0), (1, 0)].map(|(weight, reserved_percent)| ClassPolicy { weight, reserved_percent }),
        destinations: vec![destination],
    };
    Pipeline::new(config, recovered)
}

/// A destination that works at one record after the other: the more it is sent, the longer each takes.
#[derive(Clone, Copy, Debug)]
struct Case {
    bytes_per_second: u64,
    /// On top of the time it waits and is worked at.
    way: Duration,
    record_bytes: usize,
    /// While it is well and while it is ill, and after that.
    live_bytes_per_second: [u64; 2],
}

struct World {
    case: Case,
    engine: Pipeline,
    now: Duration,
    busy_until: Duration,
    flights: BTreeMap<(Duration, RecordId), Outcome>,
    offered: BTreeMap<RecordId, Duration>,
    next_offer: Duration,
    offers: u64,
    sequences: [u64; Class::COUNT],
    body: Bytes,
    /// When records were offered, and how long they took, in the order in which they arrived.
    took: Vec<(Duration, Duration)>,
    /// When the circuit closed after the outage, and how many records of before wait.
    recovered: Duration,
    backlog: usize,
}

impl World {
    fn new(case: Case, replay_seed: u64) -> Self {
        Self {
            case,
            engine: engine(BufferMode::Memory, replay_seed, None),
            now: Duration::ZERO,
            busy_until: Duration::ZERO,
            flights: BTreeMap::new(),
            offered: BTreeMap::new(),
            next_offer: Duration::ZERO,
            offers: 0,
            sequences: [0; Class::COUNT],
            body: Bytes::from(vec![0; case.record_bytes]),
            took: Vec::new(),
            recovered: Duration::ZERO,
            backlog: 0,
        }
    }

    fn is_ill(&self) -> bool {
        (WELL_UNTIL..ILL_UNTIL).contains(&self.now)
    }

    fn offer(&mut self) {
        let class = [Class::High, Class::Normal, Class::Normal, Class::Bulk][(self.offers % 4) as usize];
        self.offers += 1;
        let request = Request { signal: Signal::Logs, origin: Origin::Client, counts: ClassCounts::of(class, 1), body: self.body.clone() };
        let Verdict::Admitted(_) = self.engine.offer(self.now, 0, request) else { panic!("there is room") };
        self.sequences[class.index()] += 1;
        self.offered.insert(RecordId { class, sequence: self.sequences[class.index()] }, self.now);
        let rate = self.case.live_bytes_per_second[usize::from(self.now >= ILL_UNTIL)];
        let pause = Duration::from_micros((self.case.record_bytes as u64 * 1_000_000).checked_div(rate).unwrap_or(u64::MAX));
        self.next_offer = self.now.saturating_add(pause);
    }

    fn send(&mut self) {
        while let Some(send) = self.engine.poll_send(self.now, ONLY) {
            if self.is_ill() {
                self.flights.insert((self.now + Duration::from_millis(1), send.id), Outcome::Retry { after: None });
                continue;
            }
            let work = Duration::from_micros(self.case.record_bytes as u64 * 1_000_000 / self.case.bytes_per_second);
            self.busy_until = self.busy_until.max(self.now) + work;
            self.flights.insert((self.busy_until + self.case.way, send.id), Outcome::Delivered);
        }
    }

    /// The next thing happens.
    fn step(&mut self) {
        let landing = self.flights.first_key_value().map(|(&(at, _), _)| at);
        let timeout = self.engine.poll_timeout().map(|at| at.max(self.now + Duration::from_millis(2)));
        self.now = [Some(self.next_offer), landing, timeout].into_iter().flatten().min().unwrap_or(self.now);
        if self.next_offer == self.now {
            self.offer();
        }
        while let Some(flight) = self.flights.first_entry().filter(|flight| flight.key().0 <= self.now) {
            let ((_, id), outcome) = flight.remove_entry();
            self.engine.handle_outcome(self.now, ONLY, id, outcome);
            if outcome == Outcome::Delivered
                && let Some(offered) = self.offered.remove(&id)
            {
                self.took.push((offered, self.now - offered));
                self.backlog -= usize::from(offered < self.recovered);
            }
        }
        self.send();
    }
}

/// What 99 of 100 took at most of the records that were offered within this time.
fn most(took: &[(Duration, Duration)], from: Duration, until: Duration) -> Duration {
    let mut took: Vec<Duration> = took.iter().filter(|(offered, _)| (from..until).contains(offered)).map(|&(_, took)| took).collect();
    took.sort_unstable();
    took.get(took.len() * 99 / 100).copied().unwrap_or_default()
}

/// Runs a minute of calm, an outage, and the replay of what waited through it. When the circuit closed, when the replay began and when it
/// was over.
fn run(case: Case, replay_seed: u64) -> (World, [Duration; 3]) {
    let mut world = World::new(case, replay_seed);
    while world.now < ILL_UNTIL || world.engine.gauges().destinations[0].circuit != Circuit::Closed {
        world.step();
    }
    (world.recovered, world.backlog) = (world.now, world.offered.len());
    let (recovered, waited) = (world.now, world.backlog);
    let mut began = None;
    while world.backlog > 0 {
        world.step();
        if world.backlog < waited {
            began.get_or_insert(world.now);
        }
        assert!(world.now < Duration::from_secs(600), "the replay does not end: {} records wait", world.backlog);
    }
    let ended = world.now;
    (world, [recovered, began.unwrap_or(ended), ended])
}

#[test]
fn live_records_stay_fast_beside_a_replay_and_the_replay_gets_there() {
    let megabytes = |capacity: u64, live: u64, record_bytes: usize, way: u64| Case {
        bytes_per_second: capacity * MIB,
        way: Duration::from_millis(way),
        record_bytes,
        live_bytes_per_second: [live * MIB; 2],
    };
    for case in [
        megabytes(8, 2, 16 << 10, 2),
        megabytes(8, 4, 4 << 10, 5),
        megabytes(8, 2, 64 << 10, 2),
        megabytes(16, 4, 96 << 10, 30),
        megabytes(8, 4, 64 << 10, 2),
        megabytes(8, 5, 32 << 10, 20),
        megabytes(4, 2, 32 << 10, 2),
        megabytes(32, 4, 64 << 10, 5),
        megabytes(64, 8, 64 << 10, 60),
    ] {
        let (world, [recovered, _, ended]) = run(case, 7);
        let before = most(&world.took, Duration::ZERO, WELL_UNTIL);
        let during = most(&world.took, recovered, ended);
        assert!(during <= (2 * before).max(Duration::from_millis(50)), "{case:?}: {during:?} beside the replay, {before:?} before");
        assert!(ended - recovered < Duration::from_secs(60), "{case:?}: the replay took {:?}", ended - recovered);
    }
}

#[test]
fn without_live_traffic_a_replay_takes_all_that_its_destination_gives() {
    let case =
        Case { bytes_per_second: 8 * MIB, way: Duration::from_millis(5), record_bytes: 16 << 10, live_bytes_per_second: [4 * MIB, 0] };
    let (_, [_, began, ended]) = run(case, 7);
    // 20 s of 4 MiB/s at 8 MiB/s.
    assert!(ended - began < Duration::from_millis(10_500), "it took {:?}", ended - began);
}

#[test]
fn the_replays_of_a_fleet_begin_spread_over_the_stated_time() {
    let case = Case { bytes_per_second: 64 * MIB, way: Duration::from_millis(1), record_bytes: 64 << 10, live_bytes_per_second: [MIB; 2] };
    let mut begins: Vec<Duration> = (0..24)
        .map(|seed| {
            let (_, [recovered, began, _]) = run(case, seed);
            began - recovered
        })
        .collect();
    begins.sort_unstable();
    assert!(begins[0] < REPLAY_SPREAD / 4 && begins[23] > REPLAY_SPREAD * 3 / 4, "{begins:?}");
    assert!(begins[23] <= REPLAY_SPREAD + Duration::from_millis(100), "{begins:?}");
    let gaps = begins.windows(2).map(|pair| pair[1] - pair[0]);
    assert!(gaps.max() < Some(REPLAY_SPREAD / 4), "{begins:?}");
}

#[test]
fn a_start_begins_at_once_and_tells_its_rate_until_nothing_of_the_backlog_waits() {
    let stored = |sequence| Stored {
        id: RecordId { class: Class::High, sequence },
        signal: Signal::Logs,
        counts: ClassCounts::of(Class::High, 1),
        bytes: 100,
        received_unix_ms: 1,
    };
    let recovered = Recovered {
        stored: (1..=3).map(stored).collect(),
        next_sequence: [4; Class::COUNT],
        quarantined: Some(Vec::new()),
        ..Recovered::default()
    };
    let mut engine = engine(BufferMode::Mirror, 7, Some(recovered));
    let rate = |engine: &Pipeline| engine.gauges().destinations[0].replay_bytes_per_second;
    assert_eq!(rate(&engine), Some(MIB));
    let mut sent = Vec::new();
    while let Some(send) = engine.poll_send(Duration::ZERO, ONLY) {
        sent.push(send.id.sequence);
    }
    assert_eq!((sent, rate(&engine)), (vec![1, 2, 3], None));
}
