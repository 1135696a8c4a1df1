//! What happens when a destination's share of the disk is full, told as the calls a shell makes.

#![expect(
    clippy::panic,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that meets what it does not expect must fail there"
)]

use std::time::Duration;

use bytes::Bytes;
use pipeline::{
    Acknowledge, Admission, BufferMode, ClassPolicy, Config, Delivery, DestinationConfig, DestinationIndex, MemoryLimits, OnFull,
    OnRemoved, Origin, Outcome, Pipeline, RECORD_DISK_BYTES, RecordId, Request, RetryPolicy, Verdict,
};
use vocabulary::{Class, ClassCounts, DropReason, Signal};

const DEAD: DestinationIndex = DestinationIndex(0);
const ALIVE: DestinationIndex = DestinationIndex(1);
const BODY: usize = 1_000 - RECORD_DISK_BYTES as usize;

/// Two destinations with room for ten records each.
fn engine(on_full: OnFull, dead: Delivery) -> Pipeline {
    let destination = |name: &str, delivery| DestinationConfig {
        name: name.to_owned(),
        signals: Vec::new(),
        in_flight: 1,
        retry: RetryPolicy { initial: Duration::from_secs(60), max: Duration::from_secs(60), deadline: None },
        delivery,
    };
    let config = Config {
        mode: BufferMode::Mirror,
        acknowledge: Acknowledge::AtRest,
        memory: MemoryLimits { bytes: 1 << 20, items: 1_000_000 },
        disk_bytes: 20_000,
        on_full,
        max_age: None,
        soft_percent: 100,
        tenants_max: 0,
        replay_seed: 0,
        on_removed: OnRemoved::Keep,
        classes: [ClassPolicy { weight: 1, reserved_percent: 0 }; Class::COUNT],
        destinations: vec![destination("dead", dead), destination("alive", Delivery::Required)],
    };
    Pipeline::new(config, None)
}

fn offer(engine: &mut Pipeline, class: Class) -> Verdict {
    let counts = ClassCounts::of(class, 10);
    let request = Request { signal: Signal::Logs, origin: Origin::Client, counts, body: Bytes::from(vec![0; BODY]) };
    engine.offer(Duration::ZERO, 7, request)
}

/// Offers a record that must be taken, and lets the disk succeed and the living destination confirm it.
fn pass(engine: &mut Pipeline, class: Class) -> Option<RecordId> {
    let Verdict::Admitted(Admission { persist, .. }) = offer(engine, class) else { panic!("refused") };
    let id = persist.first().map(|record| record.id);
    for record in persist {
        engine.handle_stored(Duration::ZERO, record.id);
    }
    while let Some(send) = engine.poll_send(Duration::ZERO, ALIVE) {
        engine.handle_outcome(Duration::ZERO, ALIVE, send.id, Outcome::Delivered);
    }
    engine.check_held().unwrap();
    id
}

fn dropped(engine: &Pipeline, destination: DestinationIndex, class: Class, reason: DropReason) -> u64 {
    engine.books().destinations[usize::from(destination.0)].cells[Signal::Logs.index()][class.index()].dropped[reason.index()]
}

fn delivered_alive(engine: &Pipeline) -> u64 {
    engine.books().destinations[1].cells.iter().flatten().map(|cell| cell.delivered).sum()
}

#[test]
fn a_dead_destination_that_may_lose_something_loses_its_oldest_of_the_lowest_class_and_stops_nobody() {
    for (on_full, dead) in [(OnFull::RefuseIntake, Delivery::BestEffort), (OnFull::DropOldest, Delivery::Required)] {
        let mut engine = engine(on_full, dead);
        for class in [Class::High, Class::Normal, Class::Bulk] {
            for _ in 0..3 {
                pass(&mut engine, class);
            }
        }
        for _ in 0..7 {
            pass(&mut engine, Class::Critical);
        }
        let evicted = |class| dropped(&engine, DEAD, class, DropReason::Evicted);
        assert_eq!([Class::Critical, Class::High, Class::Normal, Class::Bulk].map(evicted), [0, 0, 30, 30]);
        assert_eq!((delivered_alive(&engine), dropped(&engine, ALIVE, Class::Bulk, DropReason::Evicted)), (160, 0));
        assert_eq!(engine.gauges().destinations[0].disk_bytes, 10_000);
    }
}

#[test]
fn a_required_destination_loses_nothing_and_its_full_share_refuses_intake() {
    let mut engine = engine(OnFull::RefuseIntake, Delivery::Required);
    for _ in 0..10 {
        pass(&mut engine, Class::Critical);
    }
    assert!(matches!(offer(&mut engine, Class::Critical), Verdict::Refused(_)));
    assert_eq!(dropped(&engine, DEAD, Class::Critical, DropReason::Evicted), 0);
    assert_eq!(engine.gauges().disk_bytes, 10_000, "half of the disk is the other's");
}

#[test]
fn where_the_newest_is_dropped_a_full_destination_does_without_it_and_the_other_has_it() {
    let mut engine = engine(OnFull::DropNewest, Delivery::Required);
    for _ in 0..15 {
        pass(&mut engine, Class::High);
    }
    assert_eq!(dropped(&engine, DEAD, Class::High, DropReason::DiskFull), 50);
    assert_eq!((delivered_alive(&engine), dropped(&engine, ALIVE, Class::High, DropReason::DiskFull)), (150, 0));
}

#[test]
fn a_log_without_room_has_those_that_evict_give_up_what_matters_no_more_than_what_comes() {
    let mut engine = engine(OnFull::DropOldest, Delivery::Required);
    for class in [Class::Critical, Class::Bulk, Class::Bulk, Class::Bulk, Class::Normal] {
        pass(&mut engine, class);
    }
    let evicted = |engine: &Pipeline, class| dropped(engine, DEAD, class, DropReason::Evicted);
    assert!(engine.handle_log_full(Duration::ZERO, Class::Bulk, 1_500));
    assert_eq!([Class::Critical, Class::Normal, Class::Bulk].map(|class| evicted(&engine, class)), [0, 0, 20]);
    assert!(engine.handle_log_full(Duration::ZERO, Class::High, 1_500));
    assert_eq!([Class::Critical, Class::Normal, Class::Bulk].map(|class| evicted(&engine, class)), [0, 10, 30]);
    assert!(!engine.handle_log_full(Duration::ZERO, Class::High, 1_500), "what matters more stays");
    engine.check_held().unwrap();
    let mut refusing = self::engine(OnFull::RefuseIntake, Delivery::Required);
    pass(&mut refusing, Class::Bulk);
    assert!(!refusing.handle_log_full(Duration::ZERO, Class::Critical, 1), "what is required stays");
}

#[test]
fn nothing_is_evicted_for_what_matters_less_nor_what_is_on_its_way() {
    let mut engine = engine(OnFull::DropOldest, Delivery::Required);
    let on_its_way = pass(&mut engine, Class::Bulk);
    assert_eq!(engine.poll_send(Duration::ZERO, DEAD).map(|send| send.id), on_its_way);
    for _ in 0..9 {
        pass(&mut engine, Class::High);
    }
    pass(&mut engine, Class::Normal);
    assert_eq!(dropped(&engine, DEAD, Class::Normal, DropReason::DiskFull), 10, "only what matters more could make room");
    pass(&mut engine, Class::Critical);
    assert_eq!(dropped(&engine, DEAD, Class::High, DropReason::Evicted), 10);
    engine.handle_outcome(Duration::ZERO, DEAD, on_its_way.unwrap(), Outcome::Retry { after: None });
    pass(&mut engine, Class::Critical);
    assert_eq!(dropped(&engine, DEAD, Class::Bulk, DropReason::Evicted), 10, "it waits again, and is the least");
    assert_eq!(delivered_alive(&engine), 130);
}

#[test]
fn a_record_that_no_destination_keeps_is_shed_and_its_client_is_told() {
    let mut engine = engine(OnFull::DropNewest, Delivery::Required);
    for _ in 0..10 {
        let Verdict::Admitted(admission) = offer(&mut engine, Class::High) else { panic!("refused") };
        for record in admission.persist {
            engine.handle_stored(Duration::ZERO, record.id);
        }
    }
    let Verdict::Admitted(admission) = offer(&mut engine, Class::High) else { panic!("refused") };
    assert_eq!((admission.persist.len(), admission.shed.total(), admission.shed_reason), (0, 10, DropReason::DiskFull));
    assert_eq!(engine.books().inputs[Signal::Logs.index()][Class::High.index()].dropped[DropReason::DiskFull.index()], 10);
    engine.check_held().unwrap();
}

#[test]
fn what_every_destination_evicted_leaves_the_disk() {
    let mut engine = engine(OnFull::DropOldest, Delivery::Required);
    let first = pass(&mut engine, Class::Bulk).unwrap();
    for _ in 0..10 {
        pass(&mut engine, Class::Bulk);
    }
    let generation = engine.checkpoint().generation;
    let released = engine.handle_checkpointed(generation);
    assert!(released[first.class.index()].contains(first.sequence));
    assert!(!released[first.class.index()].contains(first.sequence + 1));
}
