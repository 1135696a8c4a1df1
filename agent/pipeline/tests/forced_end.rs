//! The end of an engine that is full in every respect: told to end it refuses at once, and a forced end waits for nothing and needs no
//! room, whatever is on its way to destinations, to the disk and to the quarantine.

#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect must fail there")]

use std::time::Duration;

use bytes::Bytes;
use pipeline::{
    Acknowledge, BufferMode, ClassPolicy, Config, Copied, Delivery, DestinationConfig, DestinationIndex, MemoryLimits, NotStored, OnFull,
    OnRemoved, Origin, Outcome, Phase, Pipeline, RecordId, Request, RetryPolicy, Verdict,
};
use proptest::prelude::*;
use vocabulary::{Class, ClassCounts, RefuseReason, Signal};

const DESTINATIONS: u8 = 2;

fn engine(mode: BufferMode) -> Pipeline {
    let retry = RetryPolicy { initial: Duration::from_secs(1), max: Duration::from_secs(8), deadline: None };
    let destination = |number| DestinationConfig {
        name: format!("backend-{number}"),
        signals: Vec::new(),
        in_flight: 2,
        retry,
        delivery: Delivery::Required,
    };
    let config = Config {
        mode,
        acknowledge: Acknowledge::AtRest,
        memory: MemoryLimits { bytes: 2_000, items: 100 },
        disk_bytes: if mode == BufferMode::Memory { 0 } else { 6_000 },
        on_full: OnFull::RefuseIntake,
        max_age: None,
        on_removed: OnRemoved::Keep,
        tenants_max: 0,
        replay_seed: 0,
        soft_percent: 90,
        classes: [(8, 10), (4, 10), (2, 0), (1, 5)].map(|(weight, reserved_percent)| ClassPolicy { weight, reserved_percent }),
        destinations: (0..DESTINATIONS).map(destination).collect(),
    };
    Pipeline::new(config, None)
}

/// What the shell has in hand and never finishes before the end.
#[derive(Default)]
struct InHand {
    storing: Vec<RecordId>,
    sent: Vec<(DestinationIndex, RecordId)>,
    copying: Vec<(DestinationIndex, RecordId)>,
}

fn offer(engine: &mut Pipeline, now: Duration, class: Class) -> Verdict {
    let (signal, origin, counts) = (Signal::Logs, Origin::Client, ClassCounts::of(class, 1));
    engine.offer(now, 1, Request { signal, origin, counts, body: Bytes::from_static(&[0; 90]) })
}

/// Fills whatever can be filled: `answers` says which records are stored and which sends are answered, and how.
fn fill(engine: &mut Pipeline, answers: &[u8]) -> InHand {
    let (now, mut hand) = (Duration::ZERO, InHand::default());
    let mut answers = answers.iter().copied().cycle();
    let mut refused = 0;
    for turn in 0.. {
        match offer(engine, now, Class::ALL.into_iter().cycle().nth(turn).unwrap()) {
            Verdict::Admitted(admission) => hand.storing.extend(admission.persist.iter().map(|record| record.id)),
            _ => refused += 1,
        }
        if answers.next().unwrap() % 2 == 0 && !hand.storing.is_empty() {
            engine.handle_stored(now, hand.storing.remove(0));
        }
        for destination in (0..DESTINATIONS).map(DestinationIndex) {
            let Some(send) = engine.poll_send(now, destination) else { continue };
            match answers.next().unwrap() % 8 {
                0 => engine.handle_outcome(now, destination, send.id, Outcome::Rejected),
                1 => engine.handle_outcome(now, destination, send.id, Outcome::LocalFault),
                2 => engine.handle_outcome(now, destination, send.id, Outcome::Retry { after: None }),
                _ => hand.sent.push((destination, send.id)),
            }
        }
        hand.copying.extend(engine.poll_set_aside(now).map(|aside| (aside.destination, aside.id)));
        engine.checkpoint();
        if refused > 20 || turn > 400 {
            return hand;
        }
    }
    hand
}

/// It has stopped, keeps nothing that memory alone held, and sends nothing; what was in hand may still come, or not.
fn has_stopped(engine: &mut Pipeline, now: Duration, hand: &InHand) {
    assert_eq!(engine.gauges().phase, Phase::Stopped);
    assert!(engine.poll_flush(now, usize::MAX).is_empty());
    for destination in (0..DESTINATIONS).map(DestinationIndex) {
        assert_eq!(engine.poll_send(now, destination), None);
    }
    assert_eq!(engine.checkpoint().volatile_ceiling, 0, "memory alone holds something");
    engine.check_held().unwrap();
    for (turn, &id) in hand.storing.iter().enumerate() {
        if turn % 2 == 0 { engine.handle_stored(now, id) } else { engine.handle_store_failed(now, id, NotStored::Fault) }
    }
    for (destination, id) in &hand.sent {
        engine.handle_outcome(now, *destination, *id, Outcome::Delivered);
    }
    for (destination, id) in &hand.copying {
        engine.handle_set_aside(now, *destination, *id, Copied::Stored);
    }
    engine.check_held().unwrap();
    assert_eq!(engine.poll_phase(now), Phase::Stopped);
}

/// Sends what may be sent, and answers nothing.
fn send_all(engine: &mut Pipeline, now: Duration, hand: &mut InHand) {
    for destination in (0..DESTINATIONS).map(DestinationIndex) {
        while let Some(send) = engine.poll_send(now, destination) {
            hand.sent.push((destination, send.id));
        }
    }
}

fn end(mode: BufferMode, answers: &[u8]) {
    let deadline = Duration::from_secs(20);
    for is_told_twice in [true, false] {
        let mut engine = engine(mode);
        let mut hand = fill(&mut engine, answers);
        engine.handle_shutdown(Duration::ZERO, deadline);
        let refusal = offer(&mut engine, Duration::ZERO, Class::Critical);
        assert!(matches!(refusal, Verdict::Refused(refusal) if refusal.reason == RefuseReason::ShuttingDown));
        let mut now = Duration::ZERO;
        if is_told_twice {
            engine.handle_shutdown(now, deadline);
        } else {
            // Nothing ever answers; time alone ends it, at the deadline, in as many looks as its own timers ask for.
            for _ in 0..50 {
                if engine.poll_phase(now) == Phase::Stopped {
                    break;
                }
                send_all(&mut engine, now, &mut hand);
                now = now.max(engine.poll_timeout().unwrap());
            }
            assert!(now <= deadline);
        }
        has_stopped(&mut engine, now, &hand);
    }
}

proptest! {
    #[test]
    fn an_engine_that_is_full_everywhere_refuses_at_once_and_ends_when_told_again_or_at_its_deadline(
        answers in prop::collection::vec(any::<u8>(), 1..40),
    ) {
        for mode in [BufferMode::Memory, BufferMode::Spill, BufferMode::Mirror, BufferMode::Archive] {
            end(mode, &answers);
        }
    }
}
