//! The soft and the hard limit over time: whatever comes, neither changes faster than its dwell time, both are left when there is
//! room, and calm traffic meets neither.

#![expect(clippy::indexing_slicing, clippy::panic, reason = "a test that meets what it does not expect must fail there")]

use std::time::Duration;

use bytes::Bytes;
use pipeline::{
    Acknowledge, Admission, BufferMode, ClassPolicy, Config, Delivery, DestinationConfig, DestinationIndex, LIMIT_DWELL, MemoryLimits,
    OnFull, Origin, Outcome, Part, Pipeline, Request, RetryPolicy, Verdict,
};
use proptest::prelude::*;
use vocabulary::{Class, ClassCounts, RefuseReason, Signal};

const FIRST: DestinationIndex = DestinationIndex(0);
const SIGNALS: [Signal; 2] = [Signal::Traces, Signal::Logs];
/// The soft limit, and the hard one of each signal and class.
const LIMITS: usize = 1 + Signal::COUNT * Class::COUNT;

#[derive(Clone, Debug)]
enum Step {
    Offer { signal: Signal, origin: Origin, counts: [u32; Class::COUNT], bytes: usize },
    Deliver(usize),
    Checkpoint,
    Advance(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let counts = prop_oneof![
        3 => (0_usize..Class::COUNT, 1_u32..12).prop_map(|(class, items)| ClassCounts::of(Class::ALL[class], items).0),
        1 => prop::array::uniform4(0_u32..6),
    ];
    let signal = prop::sample::select(SIGNALS.to_vec());
    let origin = prop_oneof![8 => Just(Origin::Client), 1 => Just(Origin::Kernel)];
    let bytes = prop_oneof![8 => 1_usize..80, 2 => 80_usize..900];
    prop_oneof![
        10 => (signal, origin, counts, bytes).prop_map(|(signal, origin, counts, bytes)| Step::Offer { signal, origin, counts, bytes }),
        4 => (1_usize..12).prop_map(Step::Deliver),
        1 => Just(Step::Checkpoint),
        6 => prop_oneof![0_u64..20, 20_u64..150].prop_map(Step::Advance),
    ]
}

fn config(mode: BufferMode, soft_percent: u32) -> Config {
    let retry = RetryPolicy { initial: Duration::from_millis(100), max: Duration::from_secs(2), deadline: None };
    let destination = DestinationConfig { name: "only".to_owned(), signals: Vec::new(), in_flight: 4, retry, delivery: Delivery::Required };
    Config {
        mode,
        acknowledge: Acknowledge::AtRest,
        memory: MemoryLimits { bytes: 2_000, items: 200 },
        disk_bytes: if mode == BufferMode::Memory { 0 } else { 4_000 },
        on_full: OnFull::RefuseIntake,
        max_age: None,
        soft_percent,
        tenants_max: 0,
        replay_seed: 0,
        on_removed: pipeline::OnRemoved::Keep,
        classes: [(8, 10), (4, 10), (2, 0), (1, 5)].map(|(weight, reserved_percent)| ClassPolicy { weight, reserved_percent }),
        destinations: vec![destination],
    }
}

/// An engine whose disk is at once durable, and what was seen of its limits.
struct World {
    engine: Pipeline,
    now: Duration,
    /// Since when each limit is reached, and when it was last reached.
    reached: [Option<Duration>; LIMITS],
    last: [Option<Duration>; LIMITS],
}

impl World {
    fn new(config: Config) -> Self {
        Self { engine: Pipeline::new(config, None), now: Duration::ZERO, reached: [None; LIMITS], last: [None; LIMITS] }
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Offer { signal, origin, counts, bytes } => {
                self.offer(signal, origin, ClassCounts(counts), bytes);
            }
            Step::Deliver(records) => (0..records).for_each(|_| self.deliver()),
            Step::Checkpoint => {
                let generation = self.engine.checkpoint().generation;
                self.engine.handle_checkpointed(generation);
            }
            Step::Advance(millis) => {
                self.now += Duration::from_millis(millis);
                self.engine.poll_phase(self.now);
            }
        }
        self.watch();
    }

    fn offer(&mut self, signal: Signal, origin: Origin, counts: ClassCounts, bytes: usize) -> Option<RefuseReason> {
        let request = Request { signal, origin, counts, body: Bytes::from(vec![0; bytes]) };
        let mut verdict = self.engine.offer(self.now, 1, request);
        if verdict == Verdict::Split {
            let part = |(class, items)| Part { class, items, body: Bytes::from(vec![0; bytes]) };
            verdict = self.engine.offer_parts(self.now, 1, signal, origin, counts.iter().map(part).collect());
        }
        match verdict {
            Verdict::Admitted(Admission { persist, shed, .. }) => {
                if let (Some(class), Origin::Client, false) = (counts.highest(), origin, counts.is_mixed()) {
                    let is_open = !self.engine.gauges().closed[signal.index()][class.index()];
                    assert!(is_open || shed.total() > 0, "taken at the hard limit");
                }
                persist.iter().for_each(|record| self.engine.handle_stored(self.now, record.id));
                None
            }
            Verdict::Refused(refusal) => Some(refusal.reason),
            Verdict::Split => panic!("parts were told to be split"),
        }
    }

    fn deliver(&mut self) {
        if let Some(send) = self.engine.poll_send(self.now, FIRST) {
            self.engine.handle_outcome(self.now, FIRST, send.id, Outcome::Delivered);
        }
    }

    /// No limit is left before it was reached for the dwell time, nor reached twice within it.
    fn watch(&mut self) {
        let gauges = self.engine.gauges();
        let hard = gauges.closed.into_iter().flatten();
        for (limit, is_reached) in std::iter::once(gauges.over_soft).chain(hard).enumerate() {
            match (self.reached[limit], is_reached) {
                (None, true) => {
                    assert!(self.last[limit].is_none_or(|last| self.now >= last + LIMIT_DWELL), "limit {limit} is reached too soon");
                    (self.reached[limit], self.last[limit]) = (Some(self.now), Some(self.now));
                }
                (Some(since), false) => {
                    assert!(self.now >= since + LIMIT_DWELL, "limit {limit} is left {:?} after it was reached", self.now - since);
                    self.reached[limit] = None;
                }
                _ => {}
            }
        }
    }
}

fn play(mode: BufferMode, soft_percent: u32, steps: Vec<Step>) {
    let mut world = World::new(config(mode, soft_percent));
    for step in steps {
        world.run(step);
        assert!(soft_percent < 100 || !world.engine.gauges().over_soft, "there is no soft limit");
    }
    while world.engine.gauges().held_records > 0 {
        world.run(Step::Deliver(1));
    }
    if let Some(wake) = world.engine.poll_timeout() {
        assert!(wake <= world.now + LIMIT_DWELL);
    }
    world.run(Step::Advance(LIMIT_DWELL.as_millis() as u64));
    assert!(!world.engine.gauges().over_soft, "nothing is held, and the soft limit is reached for ever");
    for (signal, class) in SIGNALS.into_iter().flat_map(|signal| Class::ALL.map(|class| (signal, class))) {
        assert_eq!(world.offer(signal, Origin::Client, ClassCounts::of(class, 1), 10), None);
        world.run(Step::Deliver(1));
    }
    let gauges = world.engine.gauges();
    assert!(!gauges.closed.into_iter().flatten().any(|is_closed| is_closed), "reached for ever: {gauges:?}");
}

proptest! {
    #[test]
    fn no_limit_flaps_and_each_is_left(
        mode in prop::sample::select(vec![BufferMode::Memory, BufferMode::Spill, BufferMode::Mirror]),
        soft_percent in prop::sample::select(vec![60, 90, 100]),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        play(mode, soft_percent, steps);
    }

    #[test]
    fn calm_traffic_is_never_split(
        mode in prop::sample::select(vec![BufferMode::Memory, BufferMode::Mirror]),
        steps in prop::collection::vec(step(), 1..100),
    ) {
        let roomy = Config { memory: MemoryLimits { bytes: 1 << 20, items: 100_000 }, disk_bytes: 1 << 20, ..config(mode, 90) };
        let mut world = World::new(roomy);
        for step in steps {
            world.run(step);
        }
        prop_assert_eq!(world.engine.gauges().splits, 0);
    }
}

fn offer(world: &mut World, class: Class, bytes: usize) -> Option<RefuseReason> {
    world.offer(Signal::Logs, Origin::Client, ClassCounts::of(class, 1), bytes)
}

#[test]
fn a_full_queue_refuses_until_a_twentieth_is_free_and_a_large_request_alone_closes_nothing() {
    let mut world = World::new(config(BufferMode::Memory, 100));
    assert_eq!(offer(&mut world, Class::Normal, 800), None);
    assert_eq!(offer(&mut world, Class::Normal, 900), Some(RefuseReason::HardLimit), "1,500 bytes are the pool");
    assert_eq!(offer(&mut world, Class::Normal, 40), None, "a lesser one has room");
    while offer(&mut world, Class::Normal, 40).is_none() {}
    world.run(Step::Advance(LIMIT_DWELL.as_millis() as u64));
    for _ in 0..3 {
        assert_eq!(offer(&mut world, Class::Normal, 40), Some(RefuseReason::HardLimit));
        assert_eq!(offer(&mut world, Class::Critical, 40), None, "another class has its reserve");
    }
    // What matters goes first, then the large record.
    (0..4).for_each(|_| world.deliver());
    assert_eq!(offer(&mut world, Class::Normal, 40), None);
}

#[test]
fn without_a_soft_limit_nothing_is_shed_and_the_hard_bound_holds() {
    let mut world = World::new(config(BufferMode::Memory, 100));
    while offer(&mut world, Class::Bulk, 50).is_none() {}
    let gauges = world.engine.gauges();
    assert!(!gauges.over_soft && gauges.memory_bytes > 1_500 && gauges.memory_bytes <= gauges.memory_bytes_max, "{gauges:?}");
    let dropped: u64 = world.engine.books().inputs.iter().flatten().map(|cell| cell.dropped.iter().sum::<u64>()).sum();
    assert_eq!(dropped, 0);
}
