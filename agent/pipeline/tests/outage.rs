//! What an outage does to what waits: after each failed try all that is past its retry deadline goes, in groups, and nothing else
//! does; and what is on disk leaves memory while nobody can use it there.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that meets what it does not expect must fail there"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use pipeline::{
    Acknowledge, BufferMode, ClassPolicy, Config, Delivery, DestinationConfig, DestinationIndex, MemoryLimits, OnFull, OnRemoved, Origin,
    Outcome, Pipeline, RecordId, Request, RetryPolicy, Verdict,
};
use proptest::prelude::*;
use vocabulary::{Class, ClassCounts, DropReason, Signal};

const FIRST: DestinationIndex = DestinationIndex(0);
const SECOND: DestinationIndex = DestinationIndex(1);
const DEADLINE: Duration = Duration::from_secs(20);
/// Most records that one call may drop.
const GROUP: usize = 256;

fn config(mode: BufferMode, destinations: &[&str]) -> Config {
    let destination = |name: &&str| DestinationConfig {
        name: (*name).to_owned(),
        signals: Vec::new(),
        in_flight: 1,
        retry: RetryPolicy { initial: Duration::from_millis(100), max: Duration::from_secs(2), deadline: Some(DEADLINE) },
        delivery: Delivery::Required,
    };
    Config {
        mode,
        acknowledge: Acknowledge::AtRest,
        memory: MemoryLimits { bytes: 1 << 20, items: 100_000 },
        disk_bytes: if mode == BufferMode::Memory { 0 } else { 8 << 20 },
        on_full: OnFull::RefuseIntake,
        max_age: None,
        soft_percent: 100,
        tenants_max: 0,
        replay_seed: 0,
        on_removed: OnRemoved::Keep,
        classes: [ClassPolicy { weight: 1, reserved_percent: 0 }; Class::COUNT],
        destinations: destinations.iter().map(destination).collect(),
    }
}

/// The engine, and what waits for its first destination since when. The second one never asks for anything.
struct World {
    engine: Pipeline,
    now: Duration,
    waiting: BTreeMap<RecordId, Duration>,
    /// Whether the last answer was a failure.
    fails: bool,
}

impl World {
    fn new(mode: BufferMode, destinations: &[&str]) -> Self {
        let mut engine = Pipeline::new(config(mode, destinations), None);
        let generation = engine.checkpoint().generation;
        engine.handle_checkpointed(generation);
        Self { engine, now: Duration::ZERO, waiting: BTreeMap::new(), fails: false }
    }

    fn offer(&mut self, class: Class, bytes: usize) {
        let counts = ClassCounts::of(class, 1);
        let request = Request { signal: Signal::Logs, origin: Origin::Client, counts, body: Bytes::from(vec![0; bytes]) };
        // The engine gives ids in order, whether it holds a record in memory or on disk.
        let before = self.engine.checkpoint().next_sequence[class.index()];
        let Verdict::Admitted(admission) = self.engine.offer(self.now, 1, request) else { panic!("there is room") };
        admission.persist.iter().for_each(|record| self.engine.handle_stored(self.now, record.id));
        self.waiting.insert(RecordId { class, sequence: before }, self.now);
        self.see();
    }

    /// Sends what may be sent once, and answers. Whether there was anything.
    fn attempt(&mut self, fails: bool) -> bool {
        let sent = self.engine.poll_send(self.now, FIRST);
        self.see();
        let Some(sent) = sent else { return false };
        let (outcome, was_overdue) = (if fails { Outcome::Retry { after: None } } else { Outcome::Delivered }, self.is_overdue(sent.id));
        self.engine.handle_outcome(self.now, FIRST, sent.id, outcome);
        if self.engine.is_unsettled(FIRST, sent.id) {
            assert!(fails && !was_overdue);
        } else {
            assert!(!fails || was_overdue);
            self.waiting.remove(&sent.id);
        }
        self.fails = fails;
        self.see();
        true
    }

    /// What a destination is sent next, as soon as it may be.
    fn send_to(&mut self, destination: DestinationIndex) -> pipeline::Send {
        loop {
            if let Some(sent) = self.engine.poll_send(self.now, destination) {
                return sent;
            }
            self.now += Duration::from_millis(10);
        }
    }

    /// Fails once, as soon as it may.
    fn fail(&mut self) {
        while !self.attempt(true) {
            self.now = self.now.max(self.engine.poll_timeout().unwrap());
        }
    }

    fn is_overdue(&self, id: RecordId) -> bool {
        self.now - self.waiting[&id] >= DEADLINE
    }

    /// What was dropped by the last call: a group at most, of what is past its deadline, and of a destination that fails.
    fn see(&mut self) -> usize {
        let is_gone = |id: &RecordId| !self.engine.is_unsettled(FIRST, *id);
        let gone: Vec<RecordId> = self.waiting.keys().copied().filter(is_gone).collect();
        assert!(gone.len() <= GROUP, "{} at once", gone.len());
        for id in &gone {
            assert!(self.fails && self.is_overdue(*id), "{id:?} was dropped at {:?}", self.now);
            self.waiting.remove(id);
        }
        self.engine.check_held().unwrap();
        gone.len()
    }

    /// Does what is to be done at this instant, and no more often than the records that wait make up groups.
    fn see_through(&mut self) {
        for _ in 0..=self.waiting.len() / GROUP + 1 {
            self.engine.poll_phase(self.now);
            self.see();
        }
        assert!(self.engine.poll_timeout().is_none_or(|at| at > self.now), "there is more to be done");
        let overdue = self.waiting.keys().filter(|id| self.is_overdue(**id)).count();
        assert_eq!(overdue, 0, "{overdue} wait past their deadline");
    }

    fn exhausted(&self) -> u64 {
        let cells = self.engine.books().destinations.iter().flat_map(|book| book.cells.iter().flatten());
        cells.map(|cell| cell.dropped[DropReason::RetryExhausted.index()]).sum()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Offer { class: Class, records: usize },
    Wait { millis: u64 },
    Attempt { fails: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (prop::sample::select(Class::ALL.as_slice()), 1_usize..8).prop_map(|(class, records)| Step::Offer { class, records }),
        3 => (0_u64..12_000).prop_map(|millis| Step::Wait { millis }),
        3 => prop::bool::weighted(0.8).prop_map(|fails| Step::Attempt { fails }),
    ]
}

proptest! {
    #[test]
    fn a_failed_try_drops_all_that_is_past_its_deadline_and_an_answer_saves_it_however_old(
        mode in prop::sample::select(vec![BufferMode::Memory, BufferMode::Spill, BufferMode::Mirror]),
        are_two in any::<bool>(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new(mode, if are_two { &["one", "two"] } else { &["one"] });
        for step in steps {
            match step {
                Step::Offer { class, records } => (0..records).for_each(|_| world.offer(class, 10)),
                Step::Wait { millis } => world.now += Duration::from_millis(millis),
                Step::Attempt { fails } => {
                    if world.attempt(fails) && fails {
                        world.see_through();
                    }
                }
            }
        }
        world.now += DEADLINE;
        if !world.waiting.is_empty() {
            world.fail();
            world.see_through();
            prop_assert!(world.waiting.is_empty());
        }
    }
}

#[test]
fn a_backlog_past_its_deadline_goes_in_groups_beside_what_another_destination_needs() {
    let mut world = World::new(BufferMode::Mirror, &["one", "two"]);
    (0..1_000).for_each(|_| world.offer(Class::Normal, 10));
    world.now = DEADLINE;
    world.offer(Class::Normal, 10);
    assert_eq!((world.waiting.len(), world.exhausted()), (1_001, 0), "nothing was tried yet");
    world.fail();
    let mut groups = Vec::new();
    while world.engine.poll_timeout().is_some_and(|at| at <= world.now) {
        world.engine.poll_phase(world.now);
        groups.push(world.see());
    }
    assert_eq!(
        (groups.as_slice(), world.waiting.len()),
        ([256, 256, 232].as_slice(), 1),
        "a group went with the try: the record that was tried, and 255 others"
    );
    assert_eq!((world.exhausted(), world.engine.gauges().held_records), (1_000, 1_001), "the other destination has all of them to come");
    // They are behind the next look.
    world.now += DEADLINE;
    world.fail();
    world.see_through();
    assert!(world.waiting.is_empty() && world.engine.poll_send(world.now, SECOND).is_some());
}

#[test]
fn what_waits_for_destinations_that_go_on_failing_leaves_memory_to_what_comes_in() {
    for destinations in [&["one"][..], &["one", "two"]] {
        let mut world = World::new(BufferMode::Mirror, destinations);
        (0..1_000).for_each(|_| world.offer(Class::High, 1_000));
        let held = world.engine.gauges().memory_bytes;
        assert_eq!(held, 1_000_000);
        // Each is tried as often; what comes in while they fail goes up, and leaves as well.
        for volley in 1..=4 {
            for index in 0..destinations.len() as u8 {
                let destination = DestinationIndex(index);
                let sent = world.send_to(destination);
                world.engine.handle_outcome(world.now, destination, sent.id, Outcome::Retry { after: None });
            }
            for _ in 0..8 {
                world.engine.poll_phase(world.now);
            }
            world.engine.check_held().unwrap();
            let gauges = world.engine.gauges();
            assert_eq!(gauges.memory_bytes, if volley < 3 { held } else { 0 }, "after volley {volley}");
            if volley == 3 {
                world.offer(Class::High, 1_000);
                assert_eq!(world.engine.gauges().memory_bytes, 1_000, "what comes in finds memory free");
            }
        }
        let sent = world.send_to(FIRST);
        assert_eq!(sent.body, None, "it is read back from disk");
        world.engine.handle_outcome(world.now, FIRST, sent.id, Outcome::Delivered);
        world.engine.check_held().unwrap();
    }
}
