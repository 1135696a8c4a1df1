//! What a client is told that waits until its destinations have its items, and when.

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
    Acknowledge, Admission, BufferMode, ClassPolicy, Config, Copied, Delivery, DestinationConfig, DestinationIndex, Fate, MemoryLimits,
    NotStored, OnFull, OnRemoved, Origin, Outcome, Part, Phase, Pipeline, RecordId, Request, RetryPolicy, Send, Ticket, Verdict,
};
use proptest::prelude::*;
use vocabulary::{Class, ClassCounts, DropReason, Signal};

const NOW: Duration = Duration::ZERO;
const FIRST: DestinationIndex = DestinationIndex(0);
const SECOND: DestinationIndex = DestinationIndex(1);
const NOTHING_LOST: Fate = Fate::Settled { lost: ClassCounts([0; Class::COUNT]), reason: DropReason::SoftLimit };

fn config(mode: BufferMode, deliveries: &[Delivery]) -> Config {
    let destination = |(number, delivery): (usize, &Delivery)| DestinationConfig {
        name: format!("backend-{number}"),
        signals: Vec::new(),
        in_flight: 4,
        retry: RetryPolicy { initial: Duration::from_secs(10), max: Duration::from_secs(10), deadline: Some(Duration::from_secs(60)) },
        delivery: *delivery,
    };
    Config {
        mode,
        acknowledge: Acknowledge::Delivered,
        memory: MemoryLimits { bytes: 10_000, items: 1_000_000 },
        disk_bytes: if mode == BufferMode::Memory { 0 } else { 100_000 },
        on_full: OnFull::RefuseIntake,
        soft_percent: 100,
        classes: [ClassPolicy { weight: 1, reserved_percent: 0 }; Class::COUNT],
        on_removed: OnRemoved::Keep,
        tenants_max: 0,
        replay_seed: 0,
        max_age: None,
        destinations: deliveries.iter().enumerate().map(destination).collect(),
    }
}

/// Without a disk.
fn engine(deliveries: &[Delivery]) -> Pipeline {
    Pipeline::new(config(BufferMode::Memory, deliveries), None)
}

fn offer(engine: &mut Pipeline, origin: Origin) -> Admission {
    let counts = ClassCounts::of(Class::High, 10);
    let request = Request { signal: Signal::Traces, origin, counts, body: Bytes::from(vec![0; 100]) };
    let Verdict::Admitted(admission) = engine.offer(NOW, 7, request) else { panic!("refused") };
    admission
}

fn wait(engine: &mut Pipeline) -> Ticket {
    offer(engine, Origin::Client).ticket.unwrap()
}

/// Everything that waits for a destination comes back with the same answer.
fn answer(engine: &mut Pipeline, destination: DestinationIndex, outcome: Outcome) {
    let sent: Vec<RecordId> = std::iter::from_fn(|| engine.poll_send(NOW, destination)).map(|send| send.id).collect();
    assert!(!sent.is_empty());
    for id in sent {
        engine.handle_outcome(NOW, destination, id, outcome);
    }
}

fn lost(items: u32, reason: DropReason) -> Fate {
    Fate::Settled { lost: ClassCounts::of(Class::High, items), reason }
}

#[test]
fn a_client_is_answered_once_every_required_destination_has_its_items_and_no_other_is_waited_for() {
    let mut engine = engine(&[Delivery::Required, Delivery::Required, Delivery::BestEffort]);
    let ticket = wait(&mut engine);
    assert_eq!(engine.gauges().waiting_requests, 1);
    answer(&mut engine, FIRST, Outcome::Delivered);
    assert_eq!(engine.poll_answer(), None);
    answer(&mut engine, SECOND, Outcome::Delivered);
    assert_eq!(engine.poll_answer(), Some((ticket, NOTHING_LOST)));
    assert_eq!((engine.poll_answer(), engine.gauges().waiting_requests), (None, 0));
}

#[test]
fn where_no_destination_is_required_all_are_waited_for() {
    let mut engine = engine(&[Delivery::BestEffort; 2]);
    let ticket = wait(&mut engine);
    answer(&mut engine, SECOND, Outcome::Delivered);
    assert_eq!(engine.poll_answer(), None);
    answer(&mut engine, FIRST, Outcome::Delivered);
    assert_eq!(engine.poll_answer(), Some((ticket, NOTHING_LOST)));
}

#[test]
fn a_request_that_was_cut_is_answered_once_with_all_its_parts() {
    let mut engine = engine(&[Delivery::Required]);
    let part = |class| Part { class, items: 10, body: Bytes::from_static(&[0; 50]) };
    let parts = vec![part(Class::Normal), part(Class::High)];
    let Verdict::Admitted(Admission { ticket, .. }) = engine.offer_parts(NOW, 7, Signal::Traces, Origin::Client, parts) else {
        panic!("refused")
    };
    for _ in 0..2 {
        assert_eq!(engine.poll_answer(), None);
        let send = engine.poll_send(NOW, FIRST).unwrap();
        engine.handle_outcome(NOW, FIRST, send.id, Outcome::Delivered);
    }
    assert_eq!(engine.poll_answer(), Some((ticket.unwrap(), NOTHING_LOST)));
    assert_eq!(engine.poll_answer(), None);
}

#[test]
fn a_mirrored_request_waits_for_the_disk_and_for_its_destination() {
    let mut engine = Pipeline::new(config(BufferMode::Mirror, &[Delivery::Required]), None);
    let admission = offer(&mut engine, Origin::Client);
    let [persist] = admission.persist.as_slice() else { panic!("it goes to disk") };
    assert!(!persist.is_buffered);
    engine.handle_stored(NOW, persist.id);
    assert_eq!(engine.poll_answer(), None);
    answer(&mut engine, FIRST, Outcome::Delivered);
    assert_eq!(engine.poll_answer(), Some((admission.ticket.unwrap(), NOTHING_LOST)));
}

#[test]
fn what_a_destination_refuses_for_what_it_is_is_not_to_be_sent_again() {
    let mut engine = engine(&[Delivery::Required]);
    let ticket = wait(&mut engine);
    answer(&mut engine, FIRST, Outcome::Partial { rejected: 3 });
    assert_eq!(engine.poll_answer(), Some((ticket, lost(3, DropReason::Rejected))));
    let ticket = wait(&mut engine);
    answer(&mut engine, FIRST, Outcome::Partial { rejected: 10 });
    assert_eq!(engine.poll_answer(), Some((ticket, lost(10, DropReason::Rejected))), "all of it, and still not to be sent again");
}

#[test]
fn what_was_dropped_as_a_whole_for_no_fault_of_its_own_is_to_be_sent_again() {
    let mut engine = engine(&[Delivery::Required]);
    let ticket = wait(&mut engine);
    answer(&mut engine, FIRST, Outcome::Retry { after: None });
    let late = Duration::from_secs(61);
    let send = engine.poll_send(late, FIRST).unwrap();
    engine.handle_outcome(late, FIRST, send.id, Outcome::Retry { after: None });
    assert_eq!(engine.poll_answer(), Some((ticket, Fate::Lost { reason: DropReason::RetryExhausted })));
}

#[test]
fn a_client_that_went_away_is_told_nothing_and_what_it_sent_stays() {
    let mut engine = engine(&[Delivery::Required]);
    let ticket = wait(&mut engine);
    engine.abandon(ticket);
    assert_eq!((engine.gauges().waiting_requests, engine.gauges().held_records), (0, 1));
    answer(&mut engine, FIRST, Outcome::Delivered);
    assert_eq!(engine.poll_answer(), None);
    assert!(engine.check_held().is_ok());
}

#[test]
fn the_kernel_waits_for_nobody() {
    let mut engine = engine(&[Delivery::Required]);
    assert_eq!(offer(&mut engine, Origin::Kernel).ticket, None);
}

#[test]
fn the_end_completes_answers_within_its_timetable_and_tells_the_others_that_their_items_wait() {
    for mode in [BufferMode::Memory, BufferMode::Spill] {
        let mut engine = Pipeline::new(config(mode, &[Delivery::Required]), None);
        let generation = engine.checkpoint().generation;
        engine.handle_checkpointed(generation);
        let ticket = wait(&mut engine);
        engine.handle_shutdown(NOW, Duration::from_secs(100));
        engine.handle_inputs_stopped(NOW);
        assert_eq!(engine.poll_phase(NOW), Phase::CompletingAcks, "somebody waits");
        assert_eq!(engine.poll_answer(), None);
        // Where a disk takes what is left, the time after that is the disk's.
        let (seconds, last, fate) = match mode {
            BufferMode::Memory => (100, Phase::Stopped, Fate::Lost { reason: DropReason::ForcedShutdown }),
            _ => (85, Phase::Flushing, Fate::Unsettled),
        };
        assert_eq!(engine.poll_phase(Duration::from_secs(seconds)), last);
        assert_eq!(engine.poll_answer(), Some((ticket, fate)));
        assert_eq!(engine.gauges().waiting_requests, 0);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Offer([u32; Class::COUNT], usize),
    Stored(usize, bool),
    Send,
    Answer(usize, Outcome),
    SetAside(Copied),
    Checkpoint,
    GoAway(usize),
    Advance(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let counts = prop_oneof![
        3 => (0_usize..Class::COUNT, 1_u32..12).prop_map(|(class, items)| ClassCounts::of(Class::ALL[class], items).0),
        1 => prop::array::uniform4(0_u32..6),
    ];
    let outcome = prop_oneof![
        6 => Just(Outcome::Delivered),
        2 => (0_u64..15).prop_map(|rejected| Outcome::Partial { rejected }),
        2 => Just(Outcome::Retry { after: None }),
        1 => Just(Outcome::Failed),
        2 => Just(Outcome::Rejected),
        1 => Just(Outcome::TooLarge),
        1 => Just(Outcome::Panicked),
    ];
    let copied = prop_oneof![Just(Copied::Stored), Just(Copied::Full), Just(Copied::Unreadable)];
    prop_oneof![
        6 => (counts, 20_usize..600).prop_map(|(counts, bytes)| Step::Offer(counts, bytes)),
        6 => (0_usize..4, prop::bool::weighted(0.9)).prop_map(|(nth, is_stored)| Step::Stored(nth, is_stored)),
        6 => Just(Step::Send),
        6 => (0_usize..6, outcome).prop_map(|(nth, outcome)| Step::Answer(nth, outcome)),
        3 => copied.prop_map(Step::SetAside),
        2 => Just(Step::Checkpoint),
        1 => (0_usize..4).prop_map(Step::GoAway),
        2 => (1_u64..9_000).prop_map(Step::Advance),
    ]
}

/// Clients that wait for the first destination, which is the only `Required` one, and the books of that.
struct World {
    engine: Pipeline,
    now: Duration,
    /// To be stored, by ticket; a request is one of them as long as any of its records is.
    storing: Vec<(Ticket, RecordId)>,
    on_their_way: Vec<Send>,
    /// Items of those that wait, without what was shed.
    waiting: BTreeMap<Ticket, u64>,
    /// Items of the answered that the destination has, and that it does not.
    told: BTreeMap<Ticket, (u64, u64)>,
    /// Items nobody waits for any more.
    unknown: u64,
}

impl World {
    fn new(mode: BufferMode, on_full: OnFull) -> Self {
        let mut config = config(mode, &[Delivery::Required, Delivery::BestEffort]);
        (config.memory.bytes, config.soft_percent, config.on_full) = (2_500, 90, on_full);
        config.disk_bytes = config.disk_bytes.min(6_000);
        let (storing, on_their_way, waiting, told) = (Vec::new(), Vec::new(), BTreeMap::new(), BTreeMap::new());
        Self { engine: Pipeline::new(config, None), now: NOW, storing, on_their_way, waiting, told, unknown: 0 }
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Offer(counts, bytes) => self.offer(ClassCounts(counts), bytes),
            Step::Stored(nth, is_stored) if nth < self.storing.len() => self.store(nth, is_stored),
            Step::Send => self.on_their_way.extend(self.engine.poll_send(self.now, FIRST)),
            Step::Answer(nth, outcome) if nth < self.on_their_way.len() => self.answer(nth, outcome),
            Step::SetAside(copied) => {
                if let Some(aside) = self.engine.poll_set_aside(self.now) {
                    self.engine.handle_set_aside(self.now, aside.destination, aside.id, copied);
                }
            }
            Step::Checkpoint => {
                let checkpoint = self.engine.checkpoint();
                self.engine.handle_checkpointed(checkpoint.generation);
            }
            Step::GoAway(nth) => {
                let is_stored = |ticket: &&Ticket| self.storing.iter().all(|(storing, _)| storing != *ticket);
                if let Some(&ticket) = self.waiting.keys().filter(is_stored).nth(nth) {
                    self.go_away(ticket);
                }
            }
            Step::Advance(millis) => self.now += Duration::from_millis(millis),
            Step::Stored(..) | Step::Answer(..) => {}
        }
        self.hear();
        assert!(self.engine.check_held().is_ok());
        assert_eq!(self.engine.gauges().waiting_requests, self.waiting.len() as u64);
        assert!(self.told().0 <= self.delivered() + self.unknown, "told of more than arrived");
    }

    fn offer(&mut self, counts: ClassCounts, bytes: usize) {
        let (signal, origin) = (Signal::Traces, Origin::Client);
        let request = Request { signal, origin, counts, body: Bytes::from(vec![0; bytes]) };
        let mut verdict = self.engine.offer(self.now, 7, request);
        if verdict == Verdict::Split {
            let part = |(class, items): (Class, u32)| Part { class, items, body: Bytes::from(vec![0; bytes / 2]) };
            verdict = self.engine.offer_parts(self.now, 7, signal, origin, counts.iter().map(part).collect());
        }
        let Verdict::Admitted(Admission { ticket, persist, shed, .. }) = verdict else { return };
        let items = counts.total() - shed.total();
        assert_eq!(ticket.is_some(), items > 0, "whose items are held, waits");
        if let Some(ticket) = ticket {
            self.waiting.insert(ticket, items);
            self.storing.extend(persist.into_iter().map(|record| (ticket, record.id)));
        }
    }

    fn store(&mut self, nth: usize, is_stored: bool) {
        let (ticket, id) = self.storing.remove(nth);
        if is_stored {
            self.engine.handle_stored(self.now, id);
        } else {
            // The client is told of the disk, whatever else there is to be told.
            self.engine.handle_store_failed(self.now, id, NotStored::Fault);
            self.hear();
            let (has, lost) = self.told.remove(&ticket).unwrap_or_default();
            self.unknown += has + lost;
            self.go_away(ticket);
        }
    }

    fn go_away(&mut self, ticket: Ticket) {
        self.engine.abandon(ticket);
        self.unknown += self.waiting.remove(&ticket).unwrap_or(0);
    }

    fn answer(&mut self, nth: usize, outcome: Outcome) {
        let Send { id, counts, items, .. } = self.on_their_way.remove(nth);
        match items {
            None => self.engine.handle_outcome(self.now, FIRST, id, outcome),
            Some(items) => {
                let mut slice = ClassCounts::default();
                let classes = counts.iter().flat_map(|(class, items)| std::iter::repeat_n(class, items as usize));
                classes.skip(items.start as usize).take(items.len()).for_each(|class| slice[class] += 1);
                self.engine.handle_slice_outcome(self.now, FIRST, id, slice, outcome);
            }
        }
    }

    fn hear(&mut self) {
        while let Some((ticket, fate)) = self.engine.poll_answer() {
            let items = self.waiting.remove(&ticket).unwrap();
            let lost = match fate {
                Fate::Settled { lost, .. } => lost.total(),
                Fate::Lost { .. } => items,
                Fate::Unsettled => panic!("it does not end"),
            };
            self.told.insert(ticket, (items - lost, lost));
        }
    }

    fn told(&self) -> (u64, u64) {
        self.told.values().fold((0, 0), |(has, lost), told| (has + told.0, lost + told.1))
    }

    fn delivered(&self) -> u64 {
        self.engine.books().destinations[0].cells.iter().flatten().map(|cell| cell.delivered).sum()
    }

    /// Items that the destination holds and may still get.
    fn undecided(&self) -> u64 {
        let cells = self.engine.books().destinations[0].cells.iter().flatten();
        cells.map(|cell| cell.held.total() - cell.held.quarantined).sum()
    }

    /// All that is held is settled, and nobody waits any more.
    fn drain(&mut self) {
        for _ in 0..2_000 {
            if self.waiting.is_empty() && self.storing.is_empty() && self.undecided() == 0 {
                break;
            }
            self.now += Duration::from_secs(1);
            self.run(Step::Checkpoint);
            self.run(Step::Stored(0, true));
            self.run(Step::SetAside(Copied::Stored));
            self.run(Step::Send);
            self.run(Step::Answer(0, Outcome::Delivered));
        }
        assert!(self.waiting.is_empty(), "{} wait for ever", self.waiting.len());
        let cells = &self.engine.books().destinations[0].cells;
        let lost: u64 = cells.iter().flatten().map(|cell| cell.held.quarantined + cell.dropped.iter().sum::<u64>()).sum();
        let (told, delivered) = (self.told(), self.delivered());
        assert!(told.0 <= delivered && delivered <= told.0 + self.unknown, "{told:?}, {} unknown, {delivered} delivered", self.unknown);
        assert!(told.1 <= lost + self.unknown && lost <= told.1 + self.unknown, "{told:?}, {} unknown, {lost} lost", self.unknown);
    }
}

proptest! {
    #[test]
    fn clients_are_told_of_exactly_the_items_that_arrived_and_everyone_who_waits_is_told(
        mode in prop_oneof![Just(BufferMode::Memory), Just(BufferMode::Spill), Just(BufferMode::Mirror)],
        on_full in prop_oneof![Just(OnFull::RefuseIntake), Just(OnFull::DropOldest), Just(OnFull::DropNewest)],
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new(mode, on_full);
        for step in steps {
            world.run(step);
        }
        world.drain();
    }
}
