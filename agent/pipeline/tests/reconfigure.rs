//! What another configuration means for those who hold an engine, one promise per test.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that meets what it does not expect must fail there"
)]

use std::time::Duration;

use bytes::Bytes;
use pipeline::{
    Acknowledge, BufferMode, Circuit, ClassPolicy, Config, Copied, Delivery, DestinationConfig, DestinationIndex, LIMIT_DWELL,
    MemoryLimits, OnFull, OnRemoved, Origin, Outcome, Pipeline, Quarantined, ReconfigureError, RecordId, Recovered, Request, RetryPolicy,
    SetAside, Stored, Verdict,
};
use vocabulary::{Class, ClassCounts, DropReason, Signal};

const NOW: Duration = Duration::ZERO;
const FIRST: DestinationIndex = DestinationIndex(0);

fn config(mode: BufferMode, destinations: &[&str]) -> Config {
    let destination = |name: &&str| DestinationConfig {
        name: (*name).to_owned(),
        signals: Vec::new(),
        in_flight: 4,
        retry: RetryPolicy { initial: Duration::from_secs(10), max: Duration::from_secs(10), deadline: None },
        delivery: Delivery::Required,
    };
    Config {
        mode,
        acknowledge: Acknowledge::AtRest,
        memory: MemoryLimits { bytes: 10_000, items: 1_000_000 },
        disk_bytes: if mode == BufferMode::Memory { 0 } else { 100_000 },
        on_full: OnFull::RefuseIntake,
        soft_percent: 90,
        classes: [ClassPolicy { weight: 1, reserved_percent: 0 }; Class::COUNT],
        on_removed: OnRemoved::Keep,
        tenants_max: 0,
        replay_seed: 0,
        max_age: None,
        destinations: destinations.iter().map(destination).collect(),
    }
}

fn dropping(destinations: &[&str]) -> Config {
    Config { on_removed: OnRemoved::Drop, ..config(BufferMode::Mirror, destinations) }
}

fn offer(engine: &mut Pipeline, bytes: usize) -> Verdict {
    let (signal, origin, counts) = (Signal::Traces, Origin::Client, ClassCounts::of(Class::High, 10));
    engine.offer(NOW, 7, Request { signal, origin, counts, body: Bytes::from(vec![0; bytes]) })
}

/// Offers a record of ten items, and lets the disk succeed at once.
fn put(engine: &mut Pipeline) {
    let Verdict::Admitted(admission) = offer(engine, 100) else { panic!("not admitted") };
    for persist in admission.persist {
        engine.handle_stored(NOW, persist.id);
    }
}

fn held(engine: &Pipeline, name: &str) -> u64 {
    let book = engine.books().destinations.iter().find(|book| book.name == name);
    book.map_or(0, |book| book.cells.iter().flatten().map(|cell| cell.held.total()).sum())
}

fn dropped(engine: &Pipeline, name: &str) -> u64 {
    let book = engine.books().destinations.iter().find(|book| book.name == name).unwrap();
    book.cells.iter().flatten().map(|cell| cell.dropped[DropReason::ConfigRemoved.index()]).sum()
}

fn circuits(engine: &Pipeline) -> Vec<(String, Circuit)> {
    engine.gauges().destinations.into_iter().map(|destination| (destination.name, destination.circuit)).collect()
}

#[test]
fn a_smaller_memory_takes_nothing_more_until_it_has_room_and_loses_nothing() {
    let mut engine = Pipeline::new(config(BufferMode::Memory, &["only"]), None);
    for _ in 0..50 {
        put(&mut engine);
    }
    let smaller = Config { memory: MemoryLimits { bytes: 1_000, items: 1_000_000 }, ..config(BufferMode::Memory, &["only"]) };
    engine.reconfigure(NOW, smaller).unwrap();
    assert!(matches!(offer(&mut engine, 100), Verdict::Refused(_)));
    assert_eq!((engine.gauges().memory_bytes, engine.gauges().memory_bytes_max), (5_000, 1_000));
    while let Some(send) = engine.poll_send(NOW, FIRST) {
        engine.handle_outcome(NOW, FIRST, send.id, Outcome::Delivered);
    }
    engine.poll_phase(LIMIT_DWELL);
    assert!(matches!(offer(&mut engine, 100), Verdict::Admitted(_)));
    engine.check_held().unwrap();
}

#[test]
fn what_a_removed_destination_holds_is_kept_shown_and_found_again_when_it_returns() {
    let mut engine = Pipeline::new(config(BufferMode::Mirror, &["leaves", "stays"]), None);
    put(&mut engine);
    let indexes = engine.reconfigure(NOW, config(BufferMode::Mirror, &["stays", "comes"])).unwrap();
    assert_eq!(indexes, [DestinationIndex(1), DestinationIndex(2)], "one that stays keeps its index");
    let shown = [("leaves", Circuit::Removed), ("stays", Circuit::Closed), ("comes", Circuit::Closed)];
    assert_eq!(circuits(&engine), shown.map(|(name, circuit)| (name.to_owned(), circuit)));
    put(&mut engine);
    assert_eq!(engine.poll_send(NOW, FIRST), None, "nothing is sent to what is configured no more");
    assert_eq!((held(&engine, "leaves"), held(&engine, "stays"), held(&engine, "comes")), (10, 20, 10));
    assert_eq!(engine.reconfigure(NOW, config(BufferMode::Mirror, &["leaves"])).unwrap(), [FIRST]);
    assert_eq!(engine.poll_send(NOW, FIRST).map(|send| send.id.sequence), Some(1));
    assert_eq!(engine.poll_send(NOW, FIRST), None, "what came while it was away is not for it");
    engine.check_held().unwrap();
}

#[test]
fn a_destination_that_was_removed_and_holds_nothing_leaves_its_index_to_another_and_its_numbers_to_itself() {
    let mut engine = Pipeline::new(config(BufferMode::Memory, &["one"]), None);
    put(&mut engine);
    let send = engine.poll_send(NOW, FIRST).unwrap();
    assert_eq!(engine.reconfigure(NOW, config(BufferMode::Memory, &["two"])).unwrap(), [DestinationIndex(1)], "its answer is out");
    engine.handle_outcome(NOW, FIRST, send.id, Outcome::Delivered);
    assert_eq!(engine.reconfigure(NOW, config(BufferMode::Memory, &["two", "three"])).unwrap()[1], FIRST);
    assert_eq!(engine.reconfigure(NOW, config(BufferMode::Memory, &["one"])).unwrap(), [FIRST]);
    let books = &engine.books().destinations;
    let delivered = |name: &str| {
        let book = books.iter().find(|book| book.name == name).unwrap();
        book.cells.iter().flatten().map(|cell| cell.delivered).sum::<u64>()
    };
    assert_eq!((delivered("one"), delivered("two"), delivered("three")), (10, 0, 0));
    engine.check_held().unwrap();
}

#[test]
fn what_a_removed_destination_holds_is_dropped_when_policy_says_so_but_not_before_its_answer() {
    let mut engine = Pipeline::new(config(BufferMode::Mirror, &["leaves", "stays"]), None);
    for _ in 0..3 {
        put(&mut engine);
    }
    let [sent, failed] = [(); 2].map(|()| engine.poll_send(NOW, FIRST).unwrap());
    engine.reconfigure(NOW, config(BufferMode::Mirror, &["stays"])).unwrap();
    assert_eq!((held(&engine, "leaves"), dropped(&engine, "leaves")), (30, 0));
    engine.reconfigure(NOW, dropping(&["stays"])).unwrap();
    assert_eq!((held(&engine, "leaves"), dropped(&engine, "leaves")), (20, 10));
    engine.handle_outcome(NOW, FIRST, sent.id, Outcome::Delivered);
    engine.handle_outcome(NOW, FIRST, failed.id, Outcome::Retry { after: None });
    assert_eq!((held(&engine, "leaves"), dropped(&engine, "leaves"), held(&engine, "stays")), (0, 20, 30));
    assert_eq!(circuits(&engine), [("stays".to_owned(), Circuit::Closed)]);
    engine.check_held().unwrap();
}

#[test]
fn a_record_that_was_offered_before_a_destination_came_is_not_owed_to_it() {
    let mut engine = Pipeline::new(config(BufferMode::Mirror, &["old"]), None);
    let Verdict::Admitted(admission) = offer(&mut engine, 100) else { panic!("not admitted") };
    let new = engine.reconfigure(NOW, config(BufferMode::Mirror, &["old", "new"])).unwrap()[1];
    engine.handle_stored(NOW, admission.persist[0].id);
    engine.check_held().unwrap();
    assert_eq!(engine.poll_send(NOW, new), None);
    put(&mut engine);
    assert_eq!(engine.poll_send(NOW, new).map(|send| send.id.sequence), Some(2));
}

#[test]
fn a_start_keeps_what_a_destination_held_that_is_configured_no_more() {
    let mut engine = Pipeline::new(config(BufferMode::Mirror, &["leaves", "stays"]), None);
    put(&mut engine);
    let checkpoint = engine.checkpoint();
    let id = RecordId { class: Class::High, sequence: 1 };
    let stored = vec![Stored { id, signal: Signal::Traces, counts: ClassCounts::of(Class::High, 10), bytes: 100, received_unix_ms: 7 }];
    let recovered = Recovered { checkpoint: Some(checkpoint), stored, ..Recovered::default() };
    let mut successor = Pipeline::new(config(BufferMode::Mirror, &["stays"]), Some(recovered));
    successor.check_held().unwrap();
    assert_eq!((held(&successor, "leaves"), dropped(&successor, "leaves")), (10, 0));
    let send = successor.poll_send(NOW, FIRST).unwrap();
    successor.handle_outcome(NOW, FIRST, send.id, Outcome::Delivered);
    let released = |engine: &mut Pipeline| {
        let generation = engine.checkpoint().generation;
        engine.handle_checkpointed(generation)[Class::High.index()].contains(1)
    };
    assert!(!released(&mut successor), "one needs it still");
    successor.reconfigure(NOW, dropping(&["stays"])).unwrap();
    assert_eq!(dropped(&successor, "leaves"), 10);
    assert!(released(&mut successor));
}

#[test]
fn a_kept_backlog_is_no_pressure_and_what_it_takes_of_the_disk_is_taken_off_the_shares() {
    let mut engine = Pipeline::new(config(BufferMode::Mirror, &["leaves", "stays"]), None);
    put(&mut engine);
    let [first, second] = [0_u8, 1].map(DestinationIndex);
    let send = engine.poll_send(NOW, second).unwrap();
    engine.handle_outcome(NOW, second, send.id, Outcome::Delivered);
    assert_eq!(engine.gauges().destination_disk_bytes_max, 50_000);
    engine.reconfigure(NOW, config(BufferMode::Mirror, &["stays"])).unwrap();
    assert_eq!(
        (engine.gauges().memory_bytes, engine.gauges().destination_disk_bytes_max),
        (0, 100_000 - 100 - pipeline::RECORD_DISK_BYTES)
    );
    let counts = ClassCounts([0, 1, 9, 0]);
    let mixed = Request { signal: Signal::Traces, origin: Origin::Client, counts, body: Bytes::from(vec![0; 100]) };
    assert!(matches!(engine.offer(NOW, 7, mixed), Verdict::Admitted(_)), "calm traffic is not split");
    assert_eq!(engine.poll_send(NOW, first), None);
    engine.reconfigure(NOW, dropping(&["stays"])).unwrap();
    assert_eq!(engine.gauges().destination_disk_bytes_max, 100_000);
}

#[test]
fn what_cannot_change_live_is_refused_and_changes_nothing() {
    let mut engine = Pipeline::new(config(BufferMode::Spill, &["only"]), None);
    let refused = engine.reconfigure(NOW, config(BufferMode::Mirror, &["other"])).unwrap_err();
    assert_eq!(refused, ReconfigureError::Mode { running: BufferMode::Spill, wanted: BufferMode::Mirror });
    let names: Vec<String> = (0..=Config::DESTINATIONS_MAX).map(|number| format!("d{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let refused = engine.reconfigure(NOW, config(BufferMode::Spill, &names)).unwrap_err();
    assert_eq!(refused, ReconfigureError::TooManyDestinations { configured: 17 });
    put(&mut engine);
    let refused = engine.reconfigure(NOW, config(BufferMode::Spill, &names[1..])).unwrap_err();
    assert_eq!(refused, ReconfigureError::TooManyDestinations { configured: 16 }, "`only` is removed and holds something");
    let refused = engine.reconfigure(NOW, config(BufferMode::Spill, &["twice", "twice"])).unwrap_err();
    assert_eq!(refused, ReconfigureError::DestinationTwice("twice".into()));
    assert_eq!(circuits(&engine), [("only".to_owned(), Circuit::Closed)]);
    engine.handle_shutdown(NOW, Duration::from_secs(1));
    assert_eq!(engine.reconfigure(NOW, config(BufferMode::Spill, &["only"])), Err(ReconfigureError::Ending));
    engine.check_held().unwrap();
}

#[test]
fn a_destination_that_moved_is_tried_at_once() {
    let mut engine = Pipeline::new(config(BufferMode::Memory, &["only"]), None);
    put(&mut engine);
    let send = engine.poll_send(NOW, FIRST).unwrap();
    engine.handle_outcome(NOW, FIRST, send.id, Outcome::Retry { after: Some(Duration::from_secs(200)) });
    assert_eq!(engine.poll_send(NOW, FIRST), None);
    engine.handle_moved(NOW, FIRST);
    assert!(engine.poll_send(NOW, FIRST).is_some());
    engine.check_held().unwrap();
}

#[test]
fn a_lower_age_limit_is_applied_to_what_waits_already() {
    let mut engine = Pipeline::new(config(BufferMode::Memory, &["only"]), None);
    put(&mut engine);
    let (now, max_age) = (Duration::from_secs(60), Some(Duration::from_secs(30)));
    engine.reconfigure(now, Config { max_age, ..config(BufferMode::Memory, &["only"]) }).unwrap();
    engine.poll_phase(now);
    assert_eq!(engine.gauges().held_records, 0);
    let cells = engine.books().destinations[0].cells.iter().flatten();
    assert_eq!(cells.map(|cell| cell.dropped[DropReason::Expired.index()]).sum::<u64>(), 10);
    engine.check_held().unwrap();
}

/// Sends the oldest record to the first destination, which finds it bad; with one item there is nothing to search.
fn put_bad(engine: &mut Pipeline) {
    let (signal, origin, counts) = (Signal::Traces, Origin::Client, ClassCounts::of(Class::High, 1));
    let offered = engine.offer(NOW, 7, Request { signal, origin, counts, body: Bytes::from(vec![0; 100]) });
    let Verdict::Admitted(admission) = offered else { panic!("not admitted") };
    engine.handle_stored(NOW, admission.persist[0].id);
    let send = engine.poll_send(NOW, FIRST).unwrap();
    engine.handle_outcome(NOW, FIRST, send.id, Outcome::Rejected);
}

fn quarantined(engine: &Pipeline, name: &str) -> u64 {
    let book = engine.books().destinations.iter().find(|book| book.name == name);
    book.map_or(0, |book| book.cells.iter().flatten().map(|cell| cell.held.quarantined).sum())
}

#[test]
fn what_lies_in_quarantine_stays_there_and_held_whatever_becomes_of_its_destination() {
    let mut engine = Pipeline::new(config(BufferMode::Mirror, &["leaves"]), None);
    put_bad(&mut engine);
    let SetAside { id, signal, counts, rejected, name, .. } = engine.poll_set_aside(NOW).unwrap();
    assert!(engine.handle_set_aside(NOW, FIRST, id, Copied::Stored));
    let file = Quarantined { destination: name, id, signal, counts, rejected };
    assert_eq!(engine.reconfigure(NOW, dropping(&["stays"])).unwrap(), [FIRST], "a quarantine needs no index");
    assert_eq!((quarantined(&engine, "leaves"), dropped(&engine, "leaves")), (1, 0));
    for _ in 0..3 {
        let checkpoint = Some(engine.checkpoint());
        engine = Pipeline::new(
            dropping(&["stays"]),
            Some(Recovered { checkpoint, quarantined: Some(vec![file.clone()]), ..Recovered::default() }),
        );
        engine.check_held().unwrap();
        assert_eq!(circuits(&engine), [("stays".to_owned(), Circuit::Closed)]);
        assert_eq!((quarantined(&engine, "leaves"), dropped(&engine, "leaves")), (1, 0));
        let received: u64 = engine.books().inputs.iter().flatten().map(|cell| cell.received).sum();
        assert_eq!(received, 1, "it counts once");
    }
    engine.reconfigure(NOW, config(BufferMode::Mirror, &["stays", "leaves"])).unwrap();
    engine.handle_taken_out(&file, true);
    engine.check_held().unwrap();
    let book = engine.books().destinations.iter().find(|book| book.name == "leaves").unwrap();
    let cells = book.cells.iter().flatten();
    assert_eq!(cells.map(|cell| (cell.delivered, cell.held.total())).fold((0, 0), |sum, cell| (sum.0 + cell.0, sum.1 + cell.1)), (1, 0));
}

#[test]
fn a_quarantine_of_a_destination_that_no_checkpoint_came_to_know_is_held_and_shown() {
    let id = RecordId { class: Class::High, sequence: 1 };
    let counts = ClassCounts::of(Class::High, 3);
    let file = Quarantined { destination: "short-lived".into(), id, signal: Signal::Logs, counts, rejected: ClassCounts::default() };
    let recovered = Recovered { quarantined: Some(vec![file]), ..Recovered::default() };
    let engine = Pipeline::new(config(BufferMode::Mirror, &["stays"]), Some(recovered));
    engine.check_held().unwrap();
    assert_eq!(quarantined(&engine, "short-lived"), 3);
}

#[test]
fn what_is_copied_out_when_its_destination_is_removed_reaches_quarantine_and_what_waits_for_it_is_dropped() {
    for copied in [Copied::Stored, Copied::LocalFault] {
        let mut engine = Pipeline::new(config(BufferMode::Mirror, &["leaves"]), None);
        put_bad(&mut engine);
        put_bad(&mut engine);
        let aside = engine.poll_set_aside(NOW).unwrap();
        let indexes = engine.reconfigure(NOW, dropping(&["stays"])).unwrap();
        assert_eq!(indexes, [DestinationIndex(1)], "the answer for what is copied out will name the index");
        assert_eq!((held(&engine, "leaves"), dropped(&engine, "leaves")), (1, 1));
        assert_eq!(engine.handle_set_aside(NOW, FIRST, aside.id, copied), copied == Copied::Stored);
        let is_kept = u64::from(copied == Copied::Stored);
        assert_eq!((quarantined(&engine, "leaves"), held(&engine, "leaves"), dropped(&engine, "leaves")), (is_kept, is_kept, 2 - is_kept));
        engine.check_held().unwrap();
    }
}

#[test]
fn the_search_of_a_record_outlives_the_removal_of_its_destination_if_policy_is_to_keep() {
    for on_removed in [OnRemoved::Keep, OnRemoved::Drop] {
        let mut engine = Pipeline::new(config(BufferMode::Mirror, &["leaves"]), None);
        put(&mut engine);
        let answer = |engine: &mut Pipeline, send: &pipeline::Send, outcome| match &send.items {
            Some(items) => {
                let counts = ClassCounts::of(Class::High, items.end - items.start);
                engine.handle_slice_outcome(NOW, FIRST, send.id, counts, outcome);
            }
            None => engine.handle_outcome(NOW, FIRST, send.id, outcome),
        };
        let whole = engine.poll_send(NOW, FIRST).unwrap();
        answer(&mut engine, &whole, Outcome::Rejected);
        let half = engine.poll_send(NOW, FIRST).unwrap();
        assert_eq!(half.items, Some(0..5));
        engine.reconfigure(NOW, Config { on_removed, ..config(BufferMode::Mirror, &["stays"]) }).unwrap();
        answer(&mut engine, &half, Outcome::Delivered);
        assert_eq!(engine.poll_send(NOW, FIRST), None, "nothing is sent to what is configured no more");
        let back = engine.reconfigure(NOW, config(BufferMode::Mirror, &["leaves"])).unwrap();
        let next = engine.poll_send(NOW, back[0]);
        match on_removed {
            OnRemoved::Keep => {
                let next = next.unwrap();
                assert!(next.items.as_ref().is_some_and(|items| items.start == 5), "what was taken is not sent again: {next:?}");
            }
            OnRemoved::Drop => {
                assert_eq!((next, dropped(&engine, "leaves")), (None, 5), "what was taken in slices stays delivered");
            }
        }
        engine.check_held().unwrap();
    }
}

#[test]
fn what_is_answered_before_a_sync_stays_bounded_when_clients_are_to_wait_for_the_sync_again() {
    let at_rest = config(BufferMode::Mirror, &["only"]);
    let buffered = Config { acknowledge: Acknowledge::OsBuffered, ..at_rest.clone() };
    let mut engine = Pipeline::new(at_rest.clone(), None);
    let is_buffered = |engine: &mut Pipeline| {
        let Verdict::Admitted(admission) = offer(engine, 100) else { panic!("not admitted") };
        admission.persist[0].is_buffered
    };
    let durable = |engine: &mut Pipeline| {
        let checkpoint = engine.checkpoint();
        engine.handle_checkpointed(checkpoint.generation);
        checkpoint.volatile_ceiling
    };
    assert_eq!(durable(&mut engine), 0);
    engine.reconfigure(NOW, buffered).unwrap();
    assert!(!is_buffered(&mut engine), "no checkpoint allows it yet");
    assert!(engine.is_checkpoint_due() && durable(&mut engine) > 0);
    assert!(is_buffered(&mut engine));
    engine.reconfigure(NOW, at_rest).unwrap();
    assert!(!is_buffered(&mut engine), "the bound of before still stands, and is not used");
    assert_eq!(durable(&mut engine), 10, "those on their way to the disk");
}
