//! Records with bad items against a destination that hates them: exactly those items are set apart, everything else arrives, in the
//! number of tries that the search promises, and nobody waits for it.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that meets what it does not expect must fail there")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use pipeline::{
    Acknowledge, BufferMode, ClassPolicy, Config, Copied, Delivery, DestinationConfig, DestinationIndex, MemoryLimits, OnFull, OnRemoved,
    Origin, Outcome, Pipeline, Progress, RecordId, Request, RetryPolicy, Send, Verdict,
};
use proptest::prelude::*;
use vocabulary::{Class, ClassCounts, DropReason, Signal};

const ONLY: DestinationIndex = DestinationIndex(0);

fn engine(window: usize) -> Pipeline {
    engine_with(BufferMode::Memory, window)
}

fn engine_with(mode: BufferMode, window: usize) -> Pipeline {
    let retry = RetryPolicy { initial: Duration::from_secs(1), max: Duration::from_secs(8), deadline: None };
    let destination =
        DestinationConfig { name: "picky".into(), signals: Vec::new(), in_flight: window, retry, delivery: Delivery::Required };
    let config = Config {
        mode,
        acknowledge: Acknowledge::AtRest,
        memory: MemoryLimits { bytes: 1 << 30, items: 1 << 30 },
        disk_bytes: if mode == BufferMode::Memory { 0 } else { 1 << 30 },
        on_full: OnFull::RefuseIntake,
        max_age: None,
        on_removed: OnRemoved::Keep,
        tenants_max: 0,
        replay_seed: 0,
        soft_percent: 100,
        classes: [(8, 0), (4, 0), (2, 0), (1, 0)].map(|(weight, reserved_percent)| ClassPolicy { weight, reserved_percent }),
        destinations: vec![destination],
    };
    Pipeline::new(config, None)
}

/// A record: its items by class in the order they stand, and which of them are bad.
#[derive(Clone, Debug)]
struct Model {
    counts: ClassCounts,
    bad: BTreeSet<u32>,
}

impl Model {
    fn classes(&self, items: Range<u32>) -> ClassCounts {
        let mut first = 0;
        ClassCounts(self.counts.0.map(|of_class| {
            let class = first..first + of_class;
            first = class.end;
            class.end.min(items.end).saturating_sub(class.start.max(items.start))
        }))
    }

    fn tries_max(&self) -> u32 {
        let items = u32::try_from(self.counts.total()).unwrap();
        (u32::try_from(self.bad.len()).unwrap() * (items.next_power_of_two().ilog2() + 3)).clamp(1, 64)
    }
}

fn record() -> impl Strategy<Value = Model> {
    let counts = prop_oneof![
        (0_usize..4, 1_u32..600).prop_map(|(class, items)| ClassCounts::of(Class::ALL[class], items)),
        prop::array::uniform4(1_u32..40).prop_map(ClassCounts)
    ];
    (counts, prop::collection::vec(any::<prop::sample::Index>(), 0..4)).prop_map(|(counts, places)| {
        let items = usize::try_from(counts.total()).unwrap();
        Model { counts, bad: places.iter().map(|place| place.index(items) as u32).collect() }
    })
}

fn offer(engine: &mut Pipeline, model: &Model) {
    let request = Request { signal: Signal::Logs, origin: Origin::Client, counts: model.counts, body: Bytes::from(vec![0; 64]) };
    assert!(matches!(engine.offer(Duration::ZERO, 1, request), Verdict::Admitted(_)));
}

/// The destination's answer to one send, reported as a shell would.
fn answer(engine: &mut Pipeline, now: Duration, send: &Send, model: &Model, is_busy: bool) {
    let items = send.items.clone().unwrap_or(0..u32::try_from(model.counts.total()).unwrap());
    let outcome = match model.bad.range(items.clone()).next() {
        _ if is_busy => Outcome::Retry { after: None },
        Some(_) => Outcome::Rejected,
        None => Outcome::Delivered,
    };
    match send.items {
        Some(_) => engine.handle_slice_outcome(now, ONLY, send.id, model.classes(items), outcome),
        None => engine.handle_outcome(now, ONLY, send.id, outcome),
    }
    engine.check_held().unwrap();
}

proptest! {
    #[test]
    fn exactly_the_bad_items_are_set_apart_and_all_others_arrive(
        records in prop::collection::vec(record(), 1..12),
        window in 1_usize..5,
        order in prop::collection::vec((any::<prop::sample::Index>(), prop::bool::weighted(0.1)), 1..40),
    ) {
        let mut engine = engine(window);
        for model in &records {
            offer(&mut engine, model);
        }
        let mut next: BTreeMap<Class, VecDeque<Model>> = BTreeMap::new();
        for model in &records {
            next.entry(model.counts.highest().unwrap()).or_default().push_back(model.clone());
        }
        let mut known: BTreeMap<RecordId, (Model, u32)> = BTreeMap::new();
        let (mut now, mut flights) = (Duration::ZERO, Vec::new());
        let mut order = order.iter().cycle().zip(0..).map(|((choice, is_busy), step)| (choice, *is_busy && step < 200));
        while engine.gauges().held_records > 0 {
            while let Some(send) = engine.poll_send(now, ONLY) {
                known.entry(send.id).or_insert_with(|| (next.get_mut(&send.id.class).unwrap().pop_front().unwrap(), 0));
                flights.push(send);
            }
            prop_assert!(flights.len() <= window);
            let (choice, is_busy) = order.next().unwrap();
            if flights.is_empty() {
                now = engine.poll_timeout().expect("something is held, so something will happen");
                continue;
            }
            let send: Send = flights.swap_remove(choice.index(flights.len()));
            let (model, tries) = known.get_mut(&send.id).unwrap();
            *tries += u32::from(!is_busy);
            answer(&mut engine, now, &send, model, is_busy);
        }
        let (mut good, mut bad) = (ClassCounts::default(), ClassCounts::default());
        for (model, tries) in known.values() {
            prop_assert!(*tries <= model.tries_max(), "{tries} tries for {} bad of {}", model.bad.len(), model.counts.total());
            for item in 0..u32::try_from(model.counts.total()).unwrap() {
                let sum = if model.bad.contains(&item) { &mut bad } else { &mut good };
                sum[model.classes(item..item + 1).highest().unwrap()] += 1;
            }
        }
        for (class, cell) in Class::ALL.into_iter().zip(&engine.books().destinations[0].cells[Signal::Logs.index()]) {
            prop_assert_eq!((cell.delivered, cell.dropped[DropReason::Rejected.index()]), (good[class].into(), bad[class].into()));
        }
    }
}

#[test]
fn others_keep_three_of_four_turns_while_a_record_is_searched() {
    let mut engine = engine(1);
    let poison = Model { counts: ClassCounts::of(Class::Critical, 4_096), bad: (0..4_096).collect() };
    let fine = Model { counts: ClassCounts::of(Class::Bulk, 1), bad: BTreeSet::new() };
    offer(&mut engine, &poison);
    for _ in 0..60 {
        offer(&mut engine, &fine);
    }
    let turns: Vec<bool> = (0..80)
        .map(|_| {
            let Some(send) = engine.poll_send(Duration::ZERO, ONLY) else {
                panic!("something waits, and nothing is wrong with the destination")
            };
            let is_fine = send.id.class == Class::Bulk;
            answer(&mut engine, Duration::ZERO, &send, if is_fine { &fine } else { &poison }, false);
            is_fine
        })
        .collect();
    assert_eq!(turns.iter().filter(|&&is_fine| is_fine).count(), 59);
    assert!(turns[1..].windows(4).all(|four| four.iter().filter(|&&is_fine| !is_fine).count() <= 1));
    let mut tries = 21;
    while let Some(send) = engine.poll_send(Duration::ZERO, ONLY) {
        let is_fine = send.id.class == Class::Bulk;
        answer(&mut engine, Duration::ZERO, &send, if is_fine { &fine } else { &poison }, false);
        tries += u32::from(!is_fine);
    }
    let cell = &engine.books().destinations[0].cells[Signal::Logs.index()][Class::Critical.index()];
    assert_eq!((tries, cell.dropped[DropReason::Rejected.index()], engine.gauges().held_records), (64, 4_096, 0));
}

#[test]
fn what_was_confirmed_of_a_record_stays_confirmed_when_the_engine_ends() {
    let mut engine = engine(1);
    let poison = Model { counts: ClassCounts::of(Class::High, 8), bad: BTreeSet::from([7]) };
    offer(&mut engine, &poison);
    for _ in 0..2 {
        let send = engine.poll_send(Duration::ZERO, ONLY).unwrap();
        answer(&mut engine, Duration::ZERO, &send, &poison, false);
    }
    engine.handle_shutdown(Duration::ZERO, Duration::ZERO);
    engine.handle_shutdown(Duration::ZERO, Duration::ZERO);
    engine.check_held().unwrap();
    let cell = &engine.books().destinations[0].cells[Signal::Logs.index()][Class::High.index()];
    assert_eq!((cell.delivered, cell.dropped[DropReason::ForcedShutdown.index()]), (4, 4));
}

#[test]
fn a_copy_that_comes_too_late_for_a_forced_end_is_not_held() {
    for is_forced in [false, true] {
        let mut engine = engine_with(BufferMode::Spill, 1);
        // Memory alone holds nothing before the first checkpoint.
        let generation = engine.checkpoint().generation;
        engine.handle_checkpointed(generation);
        let poison = Model { counts: ClassCounts::of(Class::High, 1), bad: BTreeSet::from([0]) };
        offer(&mut engine, &poison);
        let send = engine.poll_send(Duration::ZERO, ONLY).unwrap();
        answer(&mut engine, Duration::ZERO, &send, &poison, false);
        assert_eq!(engine.poll_send(Duration::ZERO, ONLY), None, "what is bad is not tried again");
        let aside = engine.poll_set_aside(Duration::ZERO).expect("it is to be copied out");
        assert_eq!((aside.counts, aside.reason, aside.items), (poison.counts, DropReason::Rejected, Vec::new()));
        assert_eq!(engine.poll_set_aside(Duration::ZERO), None, "it is asked for once");
        if is_forced {
            engine.handle_shutdown(Duration::ZERO, Duration::ZERO);
            engine.handle_shutdown(Duration::ZERO, Duration::ZERO);
        }
        assert_eq!(engine.handle_set_aside(Duration::ZERO, ONLY, send.id, Copied::Stored), !is_forced);
        engine.check_held().unwrap();
        let cell = &engine.books().destinations[0].cells[Signal::Logs.index()][Class::High.index()];
        let expected = if is_forced { (0, 1) } else { (1, 0) };
        assert_eq!((cell.held.quarantined, cell.dropped[DropReason::ForcedShutdown.index()]), expected);
    }
}

#[test]
fn a_record_that_breaks_the_sender_twice_is_sent_no_more() {
    for mode in [BufferMode::Memory, BufferMode::Mirror] {
        let mut engine = engine_with(mode, 1);
        let request = Request { signal: Signal::Logs, origin: Origin::Client, counts: ClassCounts::of(Class::High, 4), body: Bytes::new() };
        let Verdict::Admitted(admission) = engine.offer(Duration::ZERO, 1, request) else { panic!("there is room") };
        for record in admission.persist {
            engine.handle_stored(Duration::ZERO, record.id);
        }
        let first = engine.poll_send(Duration::ZERO, ONLY).unwrap();
        engine.handle_outcome(Duration::ZERO, ONLY, first.id, Outcome::Panicked);
        assert_eq!(engine.poll_send(Duration::ZERO, ONLY), None, "it waits alone");
        let later = engine.poll_timeout().expect("and is tried once more");
        assert_eq!((later, engine.poll_send(later, ONLY).map(|send| send.id)), (Duration::from_secs(1), Some(first.id)));
        engine.handle_outcome(later, ONLY, first.id, Outcome::Panicked);
        assert_eq!((engine.poll_send(later, ONLY), engine.poll_timeout()), (None, None));
        let aside = engine.poll_set_aside(later).map(|aside| (aside.reason, aside.counts.total()));
        let dropped =
            engine.books().destinations[0].cells[Signal::Logs.index()][Class::High.index()].dropped[DropReason::Undecodable.index()];
        let expected = if mode == BufferMode::Memory { (None, 4) } else { (Some((DropReason::Undecodable, 4)), 0) };
        assert_eq!((aside, dropped), expected);
        engine.check_held().unwrap();
    }
}

#[test]
fn a_sender_that_began_anew_finds_what_it_had_on_its_way_and_only_answers_are_progress() {
    let mut engine = engine(2);
    let fine = Model { counts: ClassCounts::of(Class::High, 1), bad: BTreeSet::new() };
    let progress = |engine: &mut Pipeline| engine.progress(Duration::ZERO)[0];
    assert_eq!(progress(&mut engine), Progress { landed: 0, is_due: false });
    offer(&mut engine, &fine);
    assert!(progress(&mut engine).is_due, "it could be sent");
    let lost = engine.poll_send(Duration::ZERO, ONLY).unwrap();
    engine.handle_sender_lost(Duration::ZERO, ONLY);
    engine.check_held().unwrap();
    assert_eq!(progress(&mut engine), Progress { landed: 0, is_due: true });
    let send = engine.poll_send(Duration::ZERO, ONLY).unwrap();
    assert_eq!((send.id, send.attempt), (lost.id, 2));
    answer(&mut engine, Duration::ZERO, &send, &fine, true);
    assert_eq!(progress(&mut engine), Progress { landed: 1, is_due: false }, "a failed destination is left alone, which is no standstill");
}
