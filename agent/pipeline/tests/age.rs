//! The age limit against a model that knows when every record was received: nothing younger is dropped, nothing older waits or is
//! sent, in any order of sends, failures, pauses and restarts.

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
    Acknowledge, BufferMode, ClassPolicy, Config, Delivery, DestinationConfig, DestinationIndex, MemoryLimits, OnFull, Origin, Outcome,
    Phase, Pipeline, RecordId, Recovered, Request, RetryPolicy, Stored, Verdict,
};
use proptest::prelude::*;
use vocabulary::{Class, ClassCounts, DropReason, Signal};

const MAX_AGE: u64 = 10_000;
/// How much later than its limit a record may be dropped, in milliseconds.
const LATE: u64 = 100;
const DESTINATIONS: usize = 2;
/// The wall clock at the beginning, in milliseconds.
const BEGIN: u64 = 1_700_000_000_000;

fn config(mode: BufferMode) -> Config {
    let destination = |name: &str| DestinationConfig {
        name: name.to_owned(),
        signals: Vec::new(),
        in_flight: 2,
        retry: RetryPolicy { initial: Duration::from_millis(50), max: Duration::from_secs(1), deadline: None },
        delivery: Delivery::Required,
    };
    Config {
        mode,
        acknowledge: Acknowledge::AtRest,
        memory: MemoryLimits { bytes: 1 << 20, items: 10_000 },
        disk_bytes: if mode == BufferMode::Memory { 0 } else { 1 << 20 },
        on_full: OnFull::RefuseIntake,
        max_age: Some(Duration::from_millis(MAX_AGE)),
        on_removed: pipeline::OnRemoved::Keep,
        soft_percent: 100,
        tenants_max: 0,
        replay_seed: 0,
        classes: [ClassPolicy { weight: 1, reserved_percent: 0 }; Class::COUNT],
        destinations: vec![destination("one"), destination("two")],
    }
}

fn request(class: Class, items: u32) -> Request {
    Request { signal: Signal::Logs, origin: Origin::Client, counts: ClassCounts::of(class, items), body: Bytes::from_static(b"some items") }
}

fn expired(engine: &Pipeline, destination: usize) -> u64 {
    engine.books().destinations[destination].cells.iter().flatten().map(|cell| cell.dropped[DropReason::Expired.index()]).sum()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    InFlight,
    Settled,
    Expired,
}

struct Known {
    received: u64,
    items: u32,
    states: [State; DESTINATIONS],
}

#[derive(Clone, Debug)]
enum Step {
    Offer(Class, u32),
    Send(usize),
    Outcome(usize, Outcome),
    Advance(u64),
    Restart(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![3 => Just(Outcome::Delivered), 3 => Just(Outcome::Retry { after: None }), 1 => Just(Outcome::LocalFault)];
    prop_oneof![
        6 => (prop_oneof![Just(Class::High), Just(Class::Bulk)], 1_u32..9).prop_map(|(class, items)| Step::Offer(class, items)),
        6 => (0..DESTINATIONS).prop_map(Step::Send),
        4 => (0..DESTINATIONS, outcome).prop_map(|(destination, outcome)| Step::Outcome(destination, outcome)),
        6 => (1_u64..4_000).prop_map(Step::Advance),
        1 => (0_u64..15_000).prop_map(Step::Restart),
    ]
}

struct World {
    mode: BufferMode,
    engine: Pipeline,
    /// Milliseconds since the beginning, and at the start of this process.
    now: u64,
    started: u64,
    records: BTreeMap<RecordId, Known>,
    disk: BTreeMap<RecordId, Stored>,
    next: [u64; Class::COUNT],
}

impl World {
    fn new(mode: BufferMode) -> Self {
        let engine = Pipeline::new(config(mode), None);
        Self { mode, engine, now: 0, started: 0, records: BTreeMap::new(), disk: BTreeMap::new(), next: [1; Class::COUNT] }
    }

    fn engine_now(&self) -> Duration {
        Duration::from_millis(self.now - self.started)
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Offer(class, items) => self.offer(class, items),
            Step::Send(destination) => self.send(destination),
            Step::Outcome(destination, outcome) => self.answer(destination, outcome),
            Step::Advance(millis) => self.advance(millis),
            Step::Restart(away) if self.mode == BufferMode::Mirror => self.restart(away),
            Step::Restart(_) => {}
        }
        self.verify();
    }

    fn offer(&mut self, class: Class, items: u32) {
        let verdict = self.engine.offer(self.engine_now(), BEGIN + self.now, request(class, items));
        let Verdict::Admitted(admission) = verdict else { panic!("there is room: {verdict:?}") };
        let mut id = RecordId { class, sequence: self.next[class.index()] };
        for persist in admission.persist {
            id = persist.id;
            let Ok(bytes) = u32::try_from(persist.body.len()) else { panic!("it is small") };
            let stored = Stored { id, signal: persist.signal, counts: persist.counts, bytes, received_unix_ms: persist.received_unix_ms };
            self.disk.insert(id, stored);
            self.engine.handle_stored(self.engine_now(), id);
        }
        self.next[class.index()] = id.sequence + 1;
        self.records.insert(id, Known { received: self.now, items, states: [State::Waiting; DESTINATIONS] });
    }

    fn send(&mut self, destination: usize) {
        let Some(send) = self.engine.poll_send(self.engine_now(), DestinationIndex(destination as u8)) else { return };
        let known = self.records.get_mut(&send.id).unwrap();
        assert_eq!(known.states[destination], State::Waiting, "{:?} is sent", send.id);
        assert!(self.now - known.received < MAX_AGE + LATE, "{:?} is sent {} ms after its receipt", send.id, self.now - known.received);
        known.states[destination] = State::InFlight;
    }

    fn answer(&mut self, destination: usize, outcome: Outcome) {
        let on_its_way = self.records.iter().find(|(_, known)| known.states[destination] == State::InFlight);
        let Some(id) = on_its_way.map(|(&id, _)| id) else { return };
        self.engine.handle_outcome(self.engine_now(), DestinationIndex(destination as u8), id, outcome);
        let state = if outcome == Outcome::Delivered { State::Settled } else { State::Waiting };
        self.records.get_mut(&id).unwrap().states[destination] = state;
    }

    /// Time passes, and the engine is polled whenever it asked for it.
    fn advance(&mut self, millis: u64) {
        let target = self.now + millis;
        while let Some(wake) = self.engine.poll_timeout() {
            let wake = self.started + wake.as_millis() as u64 + 1;
            if wake <= self.now || wake > target {
                break;
            }
            self.now = wake;
            assert_eq!(self.engine.poll_phase(self.engine_now()), Phase::Running);
            self.verify();
        }
        self.now = target;
        self.engine.poll_phase(self.engine_now());
    }

    fn restart(&mut self, away: u64) {
        let checkpoint = self.engine.checkpoint();
        let released = self.engine.handle_checkpointed(checkpoint.generation);
        self.disk.retain(|id, _| !released[id.class.index()].contains(id.sequence));
        (self.now, self.started) = (self.now + away, self.now + away);
        let stored = self.disk.values().cloned().collect();
        let recovered = Recovered { checkpoint: Some(checkpoint), stored, unix_ms: BEGIN + self.now, ..Recovered::default() };
        self.engine = Pipeline::new(config(self.mode), Some(recovered));
        self.engine.poll_phase(self.engine_now());
        let on_their_way = self.records.values_mut().flat_map(|known| &mut known.states).filter(|state| **state == State::InFlight);
        on_their_way.for_each(|state| *state = State::Waiting);
    }

    /// Exactly what waits beyond the limit is dropped.
    fn verify(&mut self) {
        self.engine.check_held().unwrap();
        for destination in 0..DESTINATIONS {
            let (mut least, mut most) = (0, 0);
            for known in self.records.values_mut() {
                let age = self.now - known.received;
                if known.states[destination] == State::Waiting && age >= MAX_AGE + LATE {
                    known.states[destination] = State::Expired;
                }
                match known.states[destination] {
                    State::Expired => (least, most) = (least + u64::from(known.items), most + u64::from(known.items)),
                    State::Waiting if age >= MAX_AGE => most += u64::from(known.items),
                    _ => {}
                }
            }
            let dropped = expired(&self.engine, destination);
            assert!((least..=most).contains(&dropped), "{dropped} items were dropped for their age, and {least} to {most} are too old");
        }
    }
}

proptest! {
    #[test]
    fn what_waits_in_memory_is_dropped_at_its_limit_and_not_before(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new(BufferMode::Memory);
        steps.into_iter().for_each(|step| world.run(step));
    }

    #[test]
    fn what_waits_on_disk_is_dropped_at_its_limit_across_restarts(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new(BufferMode::Mirror);
        steps.into_iter().for_each(|step| world.run(step));
    }
}

#[test]
fn the_oldest_of_a_class_goes_first_and_frees_its_room() {
    let mut engine = Pipeline::new(config(BufferMode::Memory), None);
    for second in 0..3 {
        engine.offer(Duration::from_secs(second), BEGIN, request(Class::High, 5));
    }
    let before = engine.gauges();
    assert_eq!(engine.poll_timeout(), Some(Duration::from_millis(MAX_AGE)));
    engine.poll_phase(Duration::from_millis(MAX_AGE));
    assert_eq!((expired(&engine, 0), engine.gauges().held_records), (5, 2));
    assert!(engine.gauges().memory_bytes < before.memory_bytes);
    let next = engine.poll_send(Duration::from_millis(MAX_AGE), DestinationIndex(0)).unwrap();
    assert_eq!(next.id.sequence, 2);
}

#[test]
fn what_is_on_its_way_beyond_its_limit_counts_as_delivered() {
    let mut engine = Pipeline::new(config(BufferMode::Memory), None);
    engine.offer(Duration::ZERO, BEGIN, request(Class::High, 5));
    let send = engine.poll_send(Duration::ZERO, DestinationIndex(0)).unwrap();
    let late = Duration::from_millis(2 * MAX_AGE);
    engine.handle_outcome(late, DestinationIndex(0), send.id, Outcome::Delivered);
    assert_eq!((expired(&engine, 0), expired(&engine, 1), engine.gauges().held_records), (0, 5, 0));
}

#[test]
fn a_backlog_that_expired_long_ago_is_dropped_in_groups_without_pause() {
    let mut engine = Pipeline::new(config(BufferMode::Memory), None);
    for _ in 0..1_000 {
        engine.offer(Duration::ZERO, BEGIN, request(Class::Bulk, 1));
    }
    let late = Duration::from_secs(3_600);
    let mut polls = 0;
    while engine.poll_timeout().is_some_and(|at| at <= late) {
        engine.poll_phase(late);
        polls += 1;
    }
    assert_eq!((expired(&engine, 0), engine.gauges().held_records), (1_000, 0));
    assert!((2..=10).contains(&polls), "{polls} polls");
}
