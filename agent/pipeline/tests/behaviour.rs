//! What a neighbour of the engine relies on, one promise per test, each told as the calls a shell makes.

#![expect(clippy::indexing_slicing, clippy::panic, reason = "a test that meets what it does not expect must fail there")]

use std::time::Duration;

use bytes::Bytes;
use pipeline::{
    Acknowledge, BufferMode, Circuit, ClassPolicy, Config, Delivery, DestinationConfig, DestinationIndex, LIMIT_DWELL, MemoryLimits,
    NotStored, OnFull, OnRemoved, Origin, Outcome, Part, Phase, Pipeline, REPLAY_SPREAD, RecordId, Recovered, Refusal, Request,
    RetryPolicy, Stored, Verdict,
};
use vocabulary::{Class, ClassCounts, DropReason, RefuseReason, Signal};

const FIRST: DestinationIndex = DestinationIndex(0);
const SECOND: DestinationIndex = DestinationIndex(1);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn config(mode: BufferMode, destinations: &[&str]) -> Config {
    let destination = |name: &&str| DestinationConfig {
        name: (*name).to_owned(),
        signals: Vec::new(),
        in_flight: 4,
        retry: RetryPolicy { initial: seconds(1), max: seconds(30), deadline: None },
        delivery: Delivery::Required,
    };
    Config {
        mode,
        acknowledge: Acknowledge::AtRest,
        memory: MemoryLimits { bytes: 10_000, items: 1_000_000 },
        disk_bytes: if mode == BufferMode::Memory { 0 } else { 100_000 },
        on_full: OnFull::RefuseIntake,
        max_age: None,
        soft_percent: 90,
        tenants_max: 0,
        replay_seed: 0,
        on_removed: OnRemoved::Drop,
        classes: [(8, 10), (4, 10), (2, 0), (1, 0)].map(|(weight, reserved_percent)| ClassPolicy { weight, reserved_percent }),
        destinations: destinations.iter().map(destination).collect(),
    }
}

fn memory() -> Pipeline {
    Pipeline::new(config(BufferMode::Memory, &["only"]), None)
}

fn request(class: Class, items: u32, bytes: usize) -> Request {
    Request { signal: Signal::Traces, origin: Origin::Client, counts: ClassCounts::of(class, items), body: Bytes::from(vec![0; bytes]) }
}

fn mixed(bytes: usize) -> Request {
    Request { counts: ClassCounts([0, 1, 9, 0]), ..request(Class::Normal, 1, bytes) }
}

fn offer(engine: &mut Pipeline, class: Class, bytes: usize) -> Verdict {
    engine.offer(Duration::ZERO, 7, request(class, 10, bytes))
}

/// Offers, and lets the disk succeed at once.
fn put(engine: &mut Pipeline, class: Class, bytes: usize) {
    let Verdict::Admitted(admission) = offer(engine, class, bytes) else { panic!("not admitted") };
    assert_eq!(admission.shed.total(), 0);
    for persist in admission.persist {
        engine.handle_stored(Duration::ZERO, persist.id);
    }
}

fn is_taken(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Admitted(admission) if admission.shed.total() == 0)
}

fn shed(verdict: &Verdict) -> Option<DropReason> {
    match verdict {
        Verdict::Admitted(admission) if admission.shed.total() > 0 => Some(admission.shed_reason),
        _ => None,
    }
}

fn refused(verdict: &Verdict) -> Option<RefuseReason> {
    match verdict {
        Verdict::Refused(Refusal { reason, .. }) => Some(*reason),
        _ => None,
    }
}

fn dropped(engine: &Pipeline, destination: usize, reason: DropReason) -> u64 {
    engine.books().destinations[destination].cells.iter().flatten().map(|cell| cell.dropped[reason.index()]).sum()
}

fn delivered(engine: &Pipeline, destination: usize) -> u64 {
    engine.books().destinations[destination].cells.iter().flatten().map(|cell| cell.delivered).sum()
}

/// Makes a checkpoint durable and returns it.
fn make_durable(engine: &mut Pipeline) -> pipeline::Checkpoint {
    let checkpoint = engine.checkpoint();
    engine.handle_checkpointed(checkpoint.generation);
    checkpoint
}

#[test]
fn a_flood_of_normal_items_never_costs_an_important_one_its_reserve() {
    let mut engine = memory();
    for _ in 0..200 {
        offer(&mut engine, Class::Normal, 100);
    }
    let normal = engine.gauges().memory_bytes;
    assert!(normal <= 10_000 * 8 / 10, "normal items took {normal} bytes, of which 20 % were reserved for others");
    assert_eq!(shed(&offer(&mut engine, Class::Normal, 100)), Some(DropReason::SoftLimit));
    for class in [Class::Critical, Class::High] {
        for _ in 0..10 {
            assert!(is_taken(&offer(&mut engine, class, 100)), "{class} within its reserve");
        }
    }
    engine.check_held().unwrap();
}

#[test]
fn an_important_request_is_refused_with_a_pause_only_when_memory_is_full() {
    let mut engine = memory();
    while is_taken(&offer(&mut engine, Class::High, 100)) {}
    let Verdict::Refused(refusal) = offer(&mut engine, Class::High, 100) else { panic!("memory has no bound") };
    assert_eq!(refusal.reason, RefuseReason::HardLimit);
    assert!((seconds(1)..=seconds(5)).contains(&refusal.retry_after));
    assert_eq!(engine.gauges().memory_bytes, 9_000, "all but what is reserved for another class");
    assert!(is_taken(&offer(&mut engine, Class::Critical, 1_000)));
}

#[test]
fn what_the_kernel_gives_is_dropped_and_counted_when_it_finds_no_room() {
    let mut engine = memory();
    let kernel = || Request { origin: Origin::Kernel, ..request(Class::Critical, 10, 500) };
    while is_taken(&engine.offer(Duration::ZERO, 7, kernel())) {}
    assert_eq!(shed(&engine.offer(Duration::ZERO, 7, kernel())), Some(DropReason::QueueFull));
    let cell = &engine.books().inputs[Signal::Traces.index()][Class::Critical.index()];
    assert_eq!((cell.dropped[DropReason::QueueFull.index()], cell.refused.iter().sum::<u64>()), (20, 0));
}

#[test]
fn the_soft_limit_is_left_five_points_below_where_it_was_entered() {
    let mut engine = memory();
    while is_taken(&offer(&mut engine, Class::Normal, 100)) {}
    assert!(engine.gauges().over_soft);
    let full = engine.gauges().memory_bytes;
    let mut changes = 0;
    while engine.gauges().over_soft {
        let send = engine.poll_send(LIMIT_DWELL, FIRST).unwrap();
        engine.handle_outcome(LIMIT_DWELL, FIRST, send.id, Outcome::Delivered);
        changes += 1;
    }
    assert!(changes >= 4, "{changes} records of 1.25 points of the pool each");
    assert!(full - engine.gauges().memory_bytes >= 400);
    assert!(is_taken(&offer(&mut engine, Class::Normal, 100)));
    assert!(!engine.gauges().over_soft, "the next record flips nothing");
}

#[test]
fn calm_traffic_is_never_split_and_under_pressure_the_important_part_gets_through() {
    let mut engine = memory();
    assert!(is_taken(&engine.offer(Duration::ZERO, 7, mixed(100))));
    while is_taken(&offer(&mut engine, Class::Normal, 100)) {}
    assert_eq!(engine.offer(Duration::ZERO, 7, mixed(100)), Verdict::Split);
    let part = |class, items| Part { class, items, body: Bytes::from(vec![0; 50]) };
    let parts = vec![part(Class::Normal, 9), part(Class::High, 1)];
    let Verdict::Admitted(admission) = engine.offer_parts(Duration::ZERO, 7, Signal::Traces, Origin::Client, parts) else {
        panic!("refused")
    };
    assert_eq!((admission.shed, admission.shed_reason), (ClassCounts([0, 0, 9, 0]), DropReason::SoftLimit));
    engine.check_held().unwrap();
}

#[test]
fn a_destination_that_backs_off_or_a_backlog_on_disk_is_pressure() {
    let mut failing = memory();
    put(&mut failing, Class::Normal, 10);
    let send = failing.poll_send(Duration::ZERO, FIRST).unwrap();
    failing.handle_outcome(Duration::ZERO, FIRST, send.id, Outcome::Retry { after: None });
    assert_eq!(failing.offer(Duration::ZERO, 7, mixed(10)), Verdict::Split);

    let mut backlog = Pipeline::new(config(BufferMode::Spill, &["only"]), None);
    put(&mut backlog, Class::Normal, 10);
    assert_eq!(backlog.poll_send(Duration::ZERO, FIRST).map(|send| send.body), Some(None), "before the first checkpoint all goes to disk");
    assert_eq!(backlog.offer(Duration::ZERO, 7, mixed(10)), Verdict::Split);
}

#[test]
fn a_record_that_can_never_fit_is_refused_without_a_pause() {
    let mut engine = memory();
    let verdict = offer(&mut engine, Class::Normal, 8_001);
    assert_eq!(verdict, Verdict::Refused(Refusal { reason: RefuseReason::TooLarge, retry_after: Duration::ZERO }));
    assert!(is_taken(&offer(&mut engine, Class::Normal, 8_000)));
}

#[test]
fn a_signal_that_no_destination_takes_is_unsupported() {
    let mut config = config(BufferMode::Memory, &["logs"]);
    config.destinations[0].signals = vec![Signal::Logs];
    let mut engine = Pipeline::new(config, None);
    assert_eq!(refused(&offer(&mut engine, Class::Normal, 10)), Some(RefuseReason::Unsupported));
    engine.check_held().unwrap();
}

#[test]
fn spilling_sends_normal_items_to_disk_above_the_soft_limit_and_important_ones_when_memory_is_full() {
    let mut engine = Pipeline::new(config(BufferMode::Spill, &["only"]), None);
    make_durable(&mut engine);
    while !engine.gauges().over_soft {
        put(&mut engine, Class::Normal, 100);
    }
    assert_eq!(engine.gauges().disk_bytes, 0);
    put(&mut engine, Class::Normal, 100);
    assert_eq!(engine.gauges().disk_bytes, 212, "the body, and what stands around it on disk");
    put(&mut engine, Class::High, 100);
    assert_eq!(engine.gauges().disk_bytes, 212, "an important item stays in memory while it has room");
    for _ in 0..30 {
        put(&mut engine, Class::High, 100);
    }
    assert!(engine.gauges().disk_bytes > 1_000);
    while is_taken(&offer(&mut engine, Class::Normal, 10_000)) {}
    assert_eq!(shed(&offer(&mut engine, Class::Normal, 10_000)), Some(DropReason::SoftLimit), "a full disk is as no disk");
    assert!(engine.gauges().disk_bytes <= 90_000, "the last tenth of the disk is for important items");
    put(&mut engine, Class::Critical, 9_500);
}

#[test]
fn a_mirrored_record_counts_and_moves_only_once_it_is_durable() {
    let mut engine = Pipeline::new(config(BufferMode::Mirror, &["only"]), None);
    let Verdict::Admitted(admission) = offer(&mut engine, Class::High, 100) else { panic!("refused") };
    assert_eq!(engine.poll_send(Duration::ZERO, FIRST), None);
    assert_eq!(engine.books().inputs[0][1].received, 0);
    engine.handle_store_failed(Duration::ZERO, admission.persist[0].id, NotStored::Fault);
    assert_eq!(engine.books().inputs[0][1].refused[RefuseReason::HardLimit.index()], 10);
    assert_eq!((engine.gauges().memory_bytes, engine.gauges().disk_bytes), (0, 0));
    put(&mut engine, Class::High, 100);
    let send = engine.poll_send(Duration::ZERO, FIRST).unwrap();
    assert_eq!((send.body.map(|body| body.len()), send.attempt), (Some(100), 1));
    assert_eq!(engine.books().inputs[0][1].received, 10);
}

#[test]
fn what_is_not_stored_is_refused_or_dropped_for_what_kept_it_from_the_disk() {
    let causes = [
        (NotStored::Full, DropReason::DiskFull, RefuseReason::HardLimit),
        (NotStored::Fault, DropReason::DiskError, RefuseReason::HardLimit),
        (NotStored::Ended, DropReason::ForcedShutdown, RefuseReason::ShuttingDown),
    ];
    for (cause, dropped, refused) in causes {
        let mut engine = Pipeline::new(config(BufferMode::Mirror, &["only"]), None);
        for origin in [Origin::Kernel, Origin::Client] {
            let request = Request { origin, ..request(Class::High, 10, 100) };
            let Verdict::Admitted(admission) = engine.offer(Duration::ZERO, 1, request) else { panic!("refused") };
            engine.handle_store_failed(Duration::ZERO, admission.persist[0].id, cause);
        }
        let cell = &engine.books().inputs[0][1];
        assert_eq!((cell.dropped[dropped.index()], cell.refused[refused.index()], cell.received), (10, 10, 10));
        engine.check_held().unwrap();
    }
}

#[test]
fn what_fits_memory_alone_is_told_without_a_trace_and_parts_are_looked_at_together() {
    let mut engine = Pipeline::new(config(BufferMode::Spill, &["only"]), None);
    assert!(!engine.fits_memory_alone(Duration::ZERO, &request(Class::High, 10, 100)), "no checkpoint is durable yet");
    let generation = engine.checkpoint().generation;
    engine.handle_checkpointed(generation);
    let before = (engine.books().clone(), engine.gauges());
    assert!(engine.fits_memory_alone(Duration::ZERO, &request(Class::High, 10, 100)));
    assert!(engine.fits_memory_alone(Duration::ZERO, &mixed(100)), "calm traffic is not cut");
    assert!(!engine.fits_memory_alone(Duration::ZERO, &request(Class::Normal, 10, 9_500)), "the pool has 8,000 bytes");
    let part = |class, bytes| Part { class, items: 1, body: Bytes::from(vec![0; bytes]) };
    let parts = [part(Class::High, 5_000), part(Class::Normal, 5_000)];
    assert!(!engine.parts_fit_memory_alone(Duration::ZERO, Signal::Traces, Origin::Client, &parts[..1]), "nothing is to be cut");
    assert_eq!(before, (engine.books().clone(), engine.gauges()));
    // On disk lies a backlog, which is pressure.
    put(&mut engine, Class::Normal, 9_500);
    assert!(!engine.fits_memory_alone(Duration::ZERO, &mixed(100)));
    assert!(engine.parts_fit_memory_alone(Duration::ZERO, Signal::Traces, Origin::Client, &parts[..1]));
    assert!(!engine.parts_fit_memory_alone(Duration::ZERO, Signal::Traces, Origin::Client, &parts), "together they are too much");
    let mirror = &mut Pipeline::new(config(BufferMode::Mirror, &["only"]), None);
    assert!(!mirror.fits_memory_alone(Duration::ZERO, &request(Class::High, 10, 100)));
}

#[test]
fn what_is_answered_before_a_sync_stays_within_what_the_last_durable_checkpoint_allows() {
    let mut config = config(BufferMode::Mirror, &["only"]);
    (config.acknowledge, config.memory.items) = (Acknowledge::OsBuffered, 25);
    let mut engine = Pipeline::new(config, None);
    let offered = |engine: &mut Pipeline| {
        let Verdict::Admitted(admission) = offer(engine, Class::High, 100) else { panic!("refused") };
        let persist = &admission.persist[0];
        (persist.is_buffered, persist.id)
    };
    let (is_buffered, first) = offered(&mut engine);
    assert!(!is_buffered, "no checkpoint is durable yet");
    engine.handle_stored(Duration::ZERO, first);
    let checkpoint = engine.checkpoint();
    assert_eq!(checkpoint.volatile_ceiling, 25);
    engine.handle_checkpointed(checkpoint.generation);
    // Ten items each: two fit, the third would pass the bound.
    let buffered: Vec<_> = (0..3).map(|_| offered(&mut engine)).collect();
    assert_eq!(buffered.iter().map(|(is_buffered, _)| *is_buffered).collect::<Vec<_>>(), [true, true, false]);
    engine.handle_stored(Duration::ZERO, buffered[0].1);
    // One of them is stored behind this checkpoint, which does not know whether it is synced.
    assert_eq!(engine.checkpoint().volatile_ceiling, 10 + 25);
    engine.handle_shutdown(Duration::ZERO, seconds(10));
    engine.handle_inputs_stopped(Duration::ZERO);
    buffered[1..].iter().for_each(|(_, id)| engine.handle_stored(Duration::ZERO, *id));
    assert_eq!(engine.checkpoint().volatile_ceiling, 0, "nothing more is taken in");
}

#[test]
fn an_archive_keeps_every_record_on_disk_alone_sends_none_and_ends_at_once() {
    let mut engine = Pipeline::new(config(BufferMode::Archive, &["only"]), None);
    put(&mut engine, Class::High, 100);
    let gauges = engine.gauges();
    assert_eq!((gauges.memory_bytes, gauges.disk_bytes, gauges.held_records), (0, 212, 1));
    assert_eq!(engine.poll_send(seconds(3_600), FIRST), None);
    engine.handle_shutdown(seconds(3_600), seconds(100));
    engine.handle_inputs_stopped(seconds(3_600));
    assert_eq!(engine.poll_phase(seconds(3_600)), Phase::Stopped);
    assert_eq!(engine.books().destinations[0].cells[0][1].held.on_disk, 10);
    // What does not fit is refused, for an answer would promise a disk; large memory does not help.
    let mut engine = Pipeline::new(Config { disk_bytes: 1_000, ..config(BufferMode::Archive, &["only"]) }, None);
    put(&mut engine, Class::High, 800);
    assert!(matches!(offer(&mut engine, Class::High, 200), Verdict::Refused(refusal) if refusal.reason == RefuseReason::HardLimit));
}

#[test]
fn a_dead_destination_holds_back_nobody_and_leaves_memory_to_the_others() {
    let mut engine = Pipeline::new(Config { disk_bytes: 240_000, ..config(BufferMode::Mirror, &["dead", "alive"]) }, None);
    let mut now = Duration::ZERO;
    for _ in 0..300 {
        put(&mut engine, Class::Normal, 200);
        now += Duration::from_millis(50);
        if let Some(send) = engine.poll_send(now, FIRST) {
            engine.handle_outcome(now, FIRST, send.id, Outcome::Retry { after: None });
        }
        let send = engine.poll_send(now, SECOND).expect("the other destination waits for nothing");
        engine.handle_outcome(now, SECOND, send.id, Outcome::Delivered);
    }
    assert_eq!((delivered(&engine, 0), delivered(&engine, 1)), (0, 3_000));
    assert!(engine.gauges().memory_bytes <= 200, "{} bytes of memory wait for a dead destination", engine.gauges().memory_bytes);
    engine.check_held().unwrap();
}

#[test]
fn a_window_counts_a_large_record_as_several_and_always_lets_one_go() {
    let mut wide = config(BufferMode::Memory, &["only"]);
    wide.memory.bytes = 64 << 20;
    let mut engine = Pipeline::new(wide, None);
    for bytes in [600 << 10, 600 << 10, 16 << 20, 1_000] {
        put(&mut engine, Class::High, bytes);
    }
    let mut send = || engine.poll_send(Duration::ZERO, FIRST);
    let first = send().expect("three of four places");
    send().expect("one place was left");
    assert!(send().is_none(), "six of four places are taken");
    engine.handle_outcome(Duration::ZERO, FIRST, first.id, Outcome::Delivered);
    let largest = engine.poll_send(Duration::ZERO, FIRST).expect("three of four places again");
    assert_eq!(largest.body.map(|body| body.len()), Some(16 << 20));
    assert!(engine.poll_send(Duration::ZERO, FIRST).is_none(), "the smallest waits for it");
}

#[test]
fn a_server_s_pause_is_honoured_and_the_timeout_names_its_end() {
    let mut engine = memory();
    for _ in 0..4 {
        put(&mut engine, Class::Normal, 10);
    }
    let first = engine.poll_send(seconds(1), FIRST).unwrap();
    let second = engine.poll_send(seconds(1), FIRST).unwrap();
    engine.handle_outcome(seconds(2), FIRST, first.id, Outcome::Retry { after: Some(seconds(7)) });
    engine.handle_outcome(seconds(2), FIRST, second.id, Outcome::Retry { after: None });
    assert_eq!(engine.gauges().destinations[0].consecutive_failures, 1, "one volley counts once");
    assert_eq!(engine.poll_timeout(), Some(seconds(9)));
    assert_eq!(engine.poll_send(seconds(9) - Duration::from_nanos(1), FIRST), None);
    let probe = engine.poll_send(seconds(9), FIRST).unwrap();
    assert_eq!(engine.poll_send(seconds(9), FIRST), None, "one probe at a time");
    assert_eq!(engine.poll_timeout(), None);
    engine.handle_outcome(seconds(9), FIRST, probe.id, Outcome::Delivered);
    assert_eq!(engine.poll_send(seconds(9), FIRST), None, "what waited that long is backlog");
    let begins = engine.poll_timeout().unwrap();
    assert!(begins <= seconds(9) + REPLAY_SPREAD);
    let next = engine.poll_send(begins, FIRST).unwrap();
    assert_eq!((next.id, next.attempt), (first.id, 2), "it kept its place");
}

#[test]
fn a_circuit_opens_lets_one_probe_through_and_closes_when_it_is_answered() {
    let mut engine = memory();
    for _ in 0..4 {
        put(&mut engine, Class::Normal, 10);
    }
    let circuit = |engine: &Pipeline| engine.gauges().destinations[0].circuit;
    assert_eq!(circuit(&engine), Circuit::Closed);
    let sent = engine.poll_send(seconds(1), FIRST).unwrap();
    engine.handle_outcome(seconds(1), FIRST, sent.id, Outcome::Retry { after: None });
    assert_eq!((circuit(&engine), engine.poll_send(seconds(1), FIRST)), (Circuit::Open, None));
    let wake = engine.poll_timeout().unwrap();
    let probe = engine.poll_send(wake, FIRST).unwrap();
    assert_eq!((circuit(&engine), engine.poll_send(wake, FIRST)), (Circuit::HalfOpen, None));
    engine.handle_outcome(wake, FIRST, probe.id, Outcome::Delivered);
    assert_eq!((circuit(&engine), delivered(&engine, 0)), (Circuit::Closed, 10));
    assert!(engine.poll_send(wake, FIRST).is_some());
}

#[test]
fn an_unexplained_failure_is_the_destination_s_until_it_takes_others_between_four_of_them() {
    let mut engine = memory();
    put(&mut engine, Class::Normal, 10);
    let mut now = Duration::ZERO;
    let taken = engine.poll_send(now, FIRST).unwrap();
    engine.handle_outcome(now, FIRST, taken.id, Outcome::Delivered);
    put(&mut engine, Class::Normal, 10);
    for _ in 0..40 {
        let send = engine.poll_send(now, FIRST).unwrap();
        engine.handle_outcome(now, FIRST, send.id, Outcome::Failed);
        now = engine.poll_timeout().unwrap();
    }
    assert_eq!(dropped(&engine, 0, DropReason::Rejected), 0, "a destination that takes nothing more proves nothing against a record");
    let chokes_on = engine.poll_send(now, FIRST).unwrap().id;
    engine.handle_outcome(now, FIRST, chokes_on, Outcome::Failed);
    for _ in 0..20 {
        put(&mut engine, Class::Normal, 10);
    }
    for _ in 0..60 {
        let Some(send) = engine.poll_send(now, FIRST) else {
            now = engine.poll_timeout().unwrap_or(now);
            continue;
        };
        engine.handle_outcome(now, FIRST, send.id, if send.id == chokes_on { Outcome::Failed } else { Outcome::Delivered });
    }
    assert_eq!((dropped(&engine, 0, DropReason::Rejected), delivered(&engine, 0)), (10, 210));
}

#[test]
fn a_server_s_pause_outlives_a_success_of_the_same_volley() {
    let mut engine = memory();
    for _ in 0..6 {
        put(&mut engine, Class::Normal, 10);
    }
    let first = engine.poll_send(seconds(1), FIRST).unwrap();
    let second = engine.poll_send(seconds(1), FIRST).unwrap();
    let third = engine.poll_send(seconds(1), FIRST).unwrap();
    engine.handle_outcome(seconds(2), FIRST, first.id, Outcome::Retry { after: Some(seconds(30)) });
    engine.handle_outcome(seconds(2), FIRST, second.id, Outcome::Delivered);
    engine.handle_outcome(seconds(3), FIRST, third.id, Outcome::Delivered);
    assert_eq!(engine.poll_send(seconds(31), FIRST), None);
    assert_eq!((engine.poll_timeout(), engine.gauges().destinations[0].backing_off_until), (Some(seconds(32)), Some(seconds(32))));
    let sends: Vec<_> = std::iter::from_fn(|| engine.poll_send(seconds(32), FIRST)).collect();
    assert_eq!((sends.len(), engine.poll_timeout()), (4, None));
    engine.handle_outcome(seconds(32), FIRST, sends[0].id, Outcome::Retry { after: Some(seconds(3_600)) });
    engine.handle_outcome(seconds(32), FIRST, sends[1].id, Outcome::Delivered);
    assert_eq!(engine.poll_timeout(), Some(seconds(32) + pipeline::SERVER_PAUSE_MAX), "a longer pause is a mistake");
}

#[test]
fn a_record_the_agent_cannot_read_back_rests_alone_and_is_dropped_at_the_eighth_fault() {
    let mut engine = Pipeline::new(config(BufferMode::Spill, &["only"]), None);
    put(&mut engine, Class::Normal, 10);
    put(&mut engine, Class::Normal, 10);
    let mut now = seconds(1);
    let unreadable = engine.poll_send(now, FIRST).unwrap().id;
    engine.handle_outcome(now, FIRST, unreadable, Outcome::LocalFault);
    assert_eq!((engine.gauges().destinations[0].consecutive_failures, engine.poll_timeout()), (0, Some(seconds(2))));
    let other = engine.poll_send(now, FIRST).unwrap().id;
    assert_ne!(other, unreadable);
    assert_eq!(engine.poll_send(now, FIRST), None);
    engine.handle_outcome(now, FIRST, other, Outcome::Delivered);
    for fault in 2..=8 {
        let wake = engine.poll_timeout().unwrap();
        assert_eq!(wake - now, seconds(1 << (fault - 2)));
        now = wake;
        let send = engine.poll_send(now, FIRST).unwrap();
        assert_eq!((send.id, send.attempt), (unreadable, fault));
        engine.check_held().unwrap();
        engine.handle_outcome(now, FIRST, unreadable, Outcome::LocalFault);
    }
    assert_eq!((dropped(&engine, 0, DropReason::DiskError), delivered(&engine, 0)), (10, 10));
    assert_eq!((engine.gauges().held_records, engine.poll_timeout()), (0, None));
    engine.check_held().unwrap();
}

#[test]
fn intake_waits_before_a_checkpoint_outgrows_its_slot() {
    let mut config = config(BufferMode::Spill, &["traces", "logs"]);
    (config.memory.bytes, config.disk_bytes) = (1 << 30, 1 << 40);
    (config.destinations[0].signals, config.destinations[1].signals) = (vec![Signal::Traces], vec![Signal::Logs]);
    let mut engine = Pipeline::new(config, None);
    let answer = (0_u32..2_000_000).find_map(|turn| {
        let signal = if turn % 2 == 0 { Signal::Traces } else { Signal::Logs };
        let verdict = engine.offer(Duration::ZERO, 7, Request { signal, ..request(Class::High, 1, 1) });
        let Verdict::Admitted(admission) = &verdict else { return Some(verdict) };
        admission.persist.iter().for_each(|persist| engine.handle_stored(Duration::ZERO, persist.id));
        None
    });
    assert_eq!(answer.as_ref().and_then(refused), Some(RefuseReason::HardLimit));
    let checkpoint = engine.checkpoint();
    let settled = checkpoint.settled.iter().flat_map(|(_, settled)| settled);
    let ranges: u64 = checkpoint.stored.iter().chain(settled).map(|ranges| ranges.len() as u64).sum();
    assert!((pipeline::CHECKPOINT_RANGES_MAX..pipeline::CHECKPOINT_RANGES_MAX + 4).contains(&ranges), "{ranges} ranges");
    // Once a destination is through with its share, there is room again.
    while let Some(send) = engine.poll_send(Duration::ZERO, FIRST) {
        engine.handle_outcome(Duration::ZERO, FIRST, send.id, Outcome::Delivered);
    }
    while let Some(send) = engine.poll_send(Duration::ZERO, SECOND) {
        engine.handle_outcome(Duration::ZERO, SECOND, send.id, Outcome::Delivered);
    }
    assert!(is_taken(&offer(&mut engine, Class::High, 1)));
}

#[test]
fn small_records_are_charged_what_they_take_on_disk() {
    let mut engine = Pipeline::new(config(BufferMode::Mirror, &["only"]), None);
    let mut taken = 0;
    while let Verdict::Admitted(admission) = offer(&mut engine, Class::Critical, 1) {
        admission.persist.iter().for_each(|persist| engine.handle_stored(Duration::ZERO, persist.id));
        taken += 1;
    }
    assert_eq!(taken, 100_000 / (1 + pipeline::RECORD_DISK_BYTES));
}

#[test]
fn back_off_grows_to_its_cap_and_not_beyond() {
    let mut engine = memory();
    put(&mut engine, Class::Normal, 10);
    let mut now = Duration::ZERO;
    let mut longest = Duration::ZERO;
    for failure in 0..60 {
        let send = engine.poll_send(now, FIRST).unwrap();
        engine.handle_outcome(now, FIRST, send.id, Outcome::Retry { after: None });
        let wake = engine.poll_timeout().unwrap();
        let cap = seconds(1_u64.checked_shl(failure).unwrap_or(u64::MAX).min(30));
        assert!(wake - now <= cap && wake > now, "failure {failure}: a pause of {:?} above {cap:?}", wake - now);
        longest = longest.max(wake - now);
        now = wake;
    }
    assert!(longest > seconds(20), "the longest of 60 pauses was {longest:?}");
}

#[test]
fn a_record_that_fails_past_the_deadline_is_dropped_as_exhausted() {
    let mut config = config(BufferMode::Memory, &["only"]);
    config.destinations[0].retry.deadline = Some(seconds(60));
    let mut engine = Pipeline::new(config, None);
    put(&mut engine, Class::Normal, 10);
    let send = engine.poll_send(seconds(1), FIRST).unwrap();
    engine.handle_outcome(seconds(59), FIRST, send.id, Outcome::Retry { after: None });
    let send = engine.poll_send(seconds(60), FIRST).unwrap();
    engine.handle_outcome(seconds(61), FIRST, send.id, Outcome::Retry { after: None });
    assert_eq!(dropped(&engine, 0, DropReason::RetryExhausted), 10);
    assert_eq!(engine.gauges().held_records, 0);
}

#[test]
fn a_partial_rejection_is_charged_to_the_lowest_class_present() {
    let mut engine = memory();
    engine.offer(Duration::ZERO, 7, mixed(100));
    let send = engine.poll_send(Duration::ZERO, FIRST).unwrap();
    engine.handle_outcome(Duration::ZERO, FIRST, send.id, Outcome::Partial { rejected: 4 });
    let row = &engine.books().destinations[0].cells[0];
    assert_eq!((row[1].delivered, row[2].delivered, row[2].dropped[DropReason::Rejected.index()]), (1, 5, 4));
}

#[test]
fn a_shutdown_acts_in_one_call_and_without_disk_the_deadline_drops_what_is_left() {
    let mut engine = memory();
    while is_taken(&offer(&mut engine, Class::Normal, 100)) {}
    engine.handle_shutdown(seconds(1), seconds(10));
    assert_eq!(engine.poll_phase(seconds(1)), Phase::DrainingInputs);
    assert_eq!(refused(&offer(&mut engine, Class::Critical, 1)), Some(RefuseReason::ShuttingDown));
    engine.handle_inputs_stopped(seconds(1));
    assert_eq!(engine.poll_phase(seconds(1)), Phase::DrainingQueues, "no answer is owed");
    let send = engine.poll_send(seconds(2), FIRST).unwrap();
    engine.handle_outcome(seconds(2), FIRST, send.id, Outcome::Delivered);
    assert_eq!(engine.poll_timeout(), Some(seconds(11)));
    assert_eq!(engine.poll_phase(seconds(11)), Phase::Stopped);
    assert_eq!(engine.gauges().held_records, 0);
    assert!(dropped(&engine, 0, DropReason::ForcedShutdown) > 0);
    assert_eq!(delivered(&engine, 0), 10);
    engine.check_held().unwrap();
}

#[test]
fn an_engine_with_nothing_left_stops_before_its_deadline() {
    let mut engine = memory();
    put(&mut engine, Class::Normal, 10);
    engine.handle_shutdown(Duration::ZERO, seconds(30));
    engine.handle_inputs_stopped(Duration::ZERO);
    let send = engine.poll_send(Duration::ZERO, FIRST).unwrap();
    assert_eq!(engine.poll_phase(Duration::ZERO), Phase::DrainingQueues);
    engine.handle_outcome(Duration::ZERO, FIRST, send.id, Outcome::Delivered);
    assert_eq!(engine.poll_phase(Duration::ZERO), Phase::Stopped);
}

#[test]
fn a_second_shutdown_ends_at_once() {
    let mut engine = memory();
    put(&mut engine, Class::Normal, 10);
    let send = engine.poll_send(Duration::ZERO, FIRST).unwrap();
    engine.handle_shutdown(Duration::ZERO, seconds(30));
    engine.handle_shutdown(Duration::ZERO, seconds(30));
    assert_eq!(engine.poll_phase(Duration::ZERO), Phase::Stopped);
    engine.handle_outcome(Duration::ZERO, FIRST, send.id, Outcome::Delivered);
    assert_eq!((delivered(&engine, 0), dropped(&engine, 0, DropReason::ForcedShutdown)), (0, 10), "a late answer changes nothing");
    engine.check_held().unwrap();
}

#[test]
fn a_stop_flushes_memory_to_disk_and_its_last_checkpoint_has_nothing_volatile() {
    let mut engine = Pipeline::new(config(BufferMode::Spill, &["only"]), None);
    make_durable(&mut engine);
    for class in [Class::Normal, Class::High, Class::Bulk] {
        put(&mut engine, class, 100);
    }
    let send = engine.poll_send(Duration::ZERO, FIRST).unwrap();
    engine.handle_outcome(Duration::ZERO, FIRST, send.id, Outcome::Retry { after: None });
    engine.handle_shutdown(Duration::ZERO, seconds(30));
    engine.handle_inputs_stopped(Duration::ZERO);
    assert_eq!(engine.poll_phase(Duration::ZERO), Phase::Flushing, "a destination that fails is not waited for");
    let mut disk = Vec::new();
    loop {
        let records = engine.poll_flush(Duration::ZERO, 2);
        if records.is_empty() {
            break;
        }
        for persist in records {
            disk.push(Stored { id: persist.id, signal: persist.signal, counts: persist.counts, bytes: 100, received_unix_ms: 7 });
            engine.handle_stored(Duration::ZERO, persist.id);
        }
    }
    assert_eq!(engine.poll_phase(Duration::ZERO), Phase::Stopped);
    let checkpoint = make_durable(&mut engine);
    assert_eq!(checkpoint.volatile_ceiling, 0);
    disk.sort_by_key(|record| record.id);
    let successor = Pipeline::new(
        config(BufferMode::Spill, &["only"]),
        Some(Recovered { checkpoint: Some(checkpoint), stored: disk, ..Recovered::default() }),
    );
    assert_eq!((dropped(&successor, 0, DropReason::CrashVolatile), successor.books().crash_volatile_bounds), (0, (0, 0)));
    assert_eq!(successor.gauges().held_records, 3);
    successor.check_held().unwrap();
}

#[test]
fn what_memory_held_in_a_crash_is_counted_and_bounded_and_no_id_is_used_twice() {
    let mut engine = Pipeline::new(config(BufferMode::Spill, &["only"]), None);
    make_durable(&mut engine);
    put(&mut engine, Class::Normal, 100);
    let checkpoint = make_durable(&mut engine);
    put(&mut engine, Class::Normal, 100);
    let mut used = Vec::new();
    while let Some(send) = engine.poll_send(Duration::ZERO, FIRST) {
        used.push(send.id);
    }
    let mut successor = Pipeline::new(
        config(BufferMode::Spill, &["only"]),
        Some(Recovered { checkpoint: Some(checkpoint), stored: Vec::new(), ..Recovered::default() }),
    );
    successor.check_held().unwrap();
    assert_eq!(dropped(&successor, 0, DropReason::CrashVolatile), 10, "what the checkpoint knew");
    let (low, high) = successor.books().crash_volatile_bounds;
    assert!(low == 0 && high >= 20, "the truth, 20, lies outside {low}..={high}");
    put(&mut successor, Class::Normal, 100);
    let send = successor.poll_send(Duration::ZERO, FIRST).unwrap();
    assert!(!used.contains(&send.id));
}

#[test]
fn an_id_that_only_damaged_bytes_tell_is_not_given_again() {
    let recovered = Recovered { next_sequence: [1, 1, 78, 1], ..Recovered::default() };
    let mut engine = Pipeline::new(config(BufferMode::Mirror, &["only"]), Some(recovered));
    put(&mut engine, Class::Normal, 100);
    let given = engine.poll_send(Duration::ZERO, FIRST).unwrap().id.sequence;
    assert!(given >= 78, "{given}");
}

#[test]
fn recovery_tells_settled_held_new_and_missing_records_apart() {
    let mut engine = Pipeline::new(config(BufferMode::Mirror, &["only"]), None);
    for _ in 0..3 {
        put(&mut engine, Class::Normal, 100);
    }
    let send = engine.poll_send(Duration::ZERO, FIRST).unwrap();
    engine.handle_outcome(Duration::ZERO, FIRST, send.id, Outcome::Delivered);
    let checkpoint = engine.checkpoint();
    let record = |sequence| Stored {
        id: RecordId { class: Class::Normal, sequence },
        signal: Signal::Traces,
        counts: ClassCounts::of(Class::Normal, 10),
        bytes: 100,
        received_unix_ms: 7,
    };
    // 1 was delivered, 2 is held, 3 is missing, 4 was synced after the checkpoint.
    let recovered = Recovered { checkpoint: Some(checkpoint), stored: vec![record(1), record(2), record(4)], ..Recovered::default() };
    let mut successor = Pipeline::new(config(BufferMode::Mirror, &["only"]), Some(recovered));
    successor.check_held().unwrap();
    assert_eq!((delivered(&successor, 0), dropped(&successor, 0, DropReason::Corrupt)), (10, 10));
    assert_eq!(successor.books().inputs[0][2].received, 40);
    let sent: Vec<_> =
        std::iter::from_fn(|| successor.poll_send(Duration::ZERO, FIRST)).map(|send| (send.id.sequence, send.body)).collect();
    assert_eq!(sent, [(2, None), (4, None)]);
}

#[test]
fn a_damaged_record_that_no_checkpoint_names_counts_as_received_and_corrupt_once() {
    let mut config = config(BufferMode::Mirror, &["first", "second"]);
    config.destinations[1].signals = vec![Signal::Logs];
    let mut engine = Pipeline::new(config.clone(), None);
    put(&mut engine, Class::Normal, 100);
    let checkpoint = engine.checkpoint();
    let record = |sequence, signal| Stored {
        id: RecordId { class: Class::Normal, sequence },
        signal,
        counts: ClassCounts::of(Class::Normal, 10),
        bytes: 100,
        received_unix_ms: 7,
    };
    // 1 is named and missing; of 2 and 3 only the header is whole.
    let damaged = vec![record(1, Signal::Traces), record(2, Signal::Traces), record(3, Signal::Logs)];
    let recovered = Recovered { checkpoint: Some(checkpoint), damaged: damaged.clone(), ..Recovered::default() };
    let mut successor = Pipeline::new(config.clone(), Some(recovered));
    successor.check_held().unwrap();
    let corrupt = |engine: &Pipeline| [0, 1].map(|destination| dropped(engine, destination, DropReason::Corrupt));
    assert_eq!((corrupt(&successor), successor.books().inputs[0][2].received), ([30, 10], 20));
    let recovered = Recovered { checkpoint: Some(successor.checkpoint()), damaged, ..Recovered::default() };
    let third = Pipeline::new(config, Some(recovered));
    third.check_held().unwrap();
    assert_eq!(corrupt(&third), [30, 10]);
}

#[test]
fn a_removed_destination_gives_up_what_it_held_and_a_new_one_starts_with_what_comes() {
    let mut engine = Pipeline::new(config(BufferMode::Mirror, &["old", "kept"]), None);
    put(&mut engine, Class::Normal, 100);
    let checkpoint = engine.checkpoint();
    let id = RecordId { class: Class::Normal, sequence: 1 };
    let stored = vec![Stored { id, signal: Signal::Traces, counts: ClassCounts::of(Class::Normal, 10), bytes: 100, received_unix_ms: 7 }];
    let recovered = Recovered { checkpoint: Some(checkpoint), stored, ..Recovered::default() };
    let mut successor = Pipeline::new(config(BufferMode::Mirror, &["kept", "new"]), Some(recovered));
    successor.check_held().unwrap();
    assert_eq!(successor.books().destinations[2].name, "old");
    assert_eq!(dropped(&successor, 2, DropReason::ConfigRemoved), 10);
    assert_eq!(successor.poll_send(Duration::ZERO, FIRST).map(|send| send.id), Some(id));
    assert_eq!(successor.poll_send(Duration::ZERO, SECOND), None);
    put(&mut successor, Class::Normal, 100);
    assert!(successor.poll_send(Duration::ZERO, SECOND).is_some());
    successor.check_held().unwrap();
}

#[test]
fn published_numbers_are_those_of_the_last_durable_checkpoint() {
    let mut engine = Pipeline::new(config(BufferMode::Mirror, &["only"]), None);
    assert!(engine.is_checkpoint_due());
    make_durable(&mut engine);
    assert!(!engine.is_checkpoint_due());
    put(&mut engine, Class::Normal, 100);
    assert!(engine.is_checkpoint_due());
    assert_eq!(engine.published().inputs[0][2].received, 0);
    let checkpoint = engine.checkpoint();
    assert!(engine.is_checkpoint_due(), "an undurable checkpoint proves nothing");
    engine.handle_checkpointed(checkpoint.generation);
    assert_eq!(engine.published().inputs[0][2].received, 10);
}

#[test]
fn memory_only_intake_stays_below_what_the_last_durable_checkpoint_allows() {
    let mut config = config(BufferMode::Spill, &["only"]);
    config.memory.items = 50;
    let mut engine = Pipeline::new(config, None);
    assert_eq!(make_durable(&mut engine).volatile_ceiling, 50);
    let mut bodies = Vec::new();
    for _ in 0..7 {
        put(&mut engine, Class::High, 1);
        let send = engine.poll_send(Duration::ZERO, FIRST).unwrap();
        engine.handle_outcome(Duration::ZERO, FIRST, send.id, Outcome::Delivered);
        bodies.push(send.body.is_some());
    }
    assert_eq!(bodies, [true, true, true, true, true, false, false]);
    make_durable(&mut engine);
    put(&mut engine, Class::High, 1);
    assert!(engine.poll_send(Duration::ZERO, FIRST).unwrap().body.is_some(), "the next checkpoint allows as many again");
}

#[test]
fn a_record_flushed_after_the_checkpoint_goes_only_to_those_who_lack_it() {
    let mut engine = Pipeline::new(config(BufferMode::Spill, &["done", "dead"]), None);
    make_durable(&mut engine);
    put(&mut engine, Class::Normal, 100);
    let send = engine.poll_send(Duration::ZERO, FIRST).unwrap();
    engine.handle_outcome(Duration::ZERO, FIRST, send.id, Outcome::Delivered);
    let checkpoint = engine.checkpoint();
    let stored = vec![Stored { id: send.id, signal: send.signal, counts: send.counts, bytes: 100, received_unix_ms: 7 }];
    let recovered = Recovered { checkpoint: Some(checkpoint), stored, ..Recovered::default() };
    let mut successor = Pipeline::new(config(BufferMode::Spill, &["done", "dead"]), Some(recovered));
    successor.check_held().unwrap();
    assert_eq!(successor.poll_send(Duration::ZERO, FIRST), None);
    assert_eq!(successor.poll_send(Duration::ZERO, SECOND).map(|send| send.id), Some(send.id));
    assert_eq!((dropped(&successor, 1, DropReason::CrashVolatile), successor.books().inputs[0][2].received), (0, 10));
}

#[test]
fn kernel_numbers_outlive_a_restart() {
    let mut engine = Pipeline::new(config(BufferMode::Mirror, &["only"]), None);
    let mut book = pipeline::KernelBook { attempted: 10, produced: 8, ..pipeline::KernelBook::default() };
    book.lost[0] = 2;
    engine.set_kernel(book.clone());
    let recovered = Recovered { checkpoint: Some(engine.checkpoint()), stored: Vec::new(), ..Recovered::default() };
    let successor = Pipeline::new(config(BufferMode::Mirror, &["only"]), Some(recovered));
    assert_eq!(successor.published().kernel, book);
    successor.check_held().unwrap();
}

#[test]
fn a_class_within_its_reserve_is_not_shed_above_the_soft_limit() {
    let mut config = config(BufferMode::Memory, &["only"]);
    config.classes[Class::Bulk.index()].reserved_percent = 5;
    let mut engine = Pipeline::new(config, None);
    while is_taken(&offer(&mut engine, Class::Normal, 100)) {}
    assert!(engine.gauges().over_soft);
    let taken = (0..10).filter(|_| is_taken(&offer(&mut engine, Class::Bulk, 100))).count();
    assert_eq!(taken, 5, "5 % of 10,000 bytes");
}
