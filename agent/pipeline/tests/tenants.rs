//! How tenants share the room: what one may use, when it is refused, and that the table is bounded whatever names come.

#![expect(clippy::panic, reason = "a test that meets what it does not expect must fail there")]

use std::time::Duration;

use bytes::Bytes;
use pipeline::{
    Acknowledge, BufferMode, ClassPolicy, Config, Delivery, DestinationConfig, DestinationIndex, Gauges, LIMIT_DWELL, MemoryLimits, OnFull,
    Origin, Outcome, Pipeline, Request, RetryPolicy, Verdict,
};
use proptest::prelude::*;
use vocabulary::{Class, ClassCounts, RefuseReason, Signal};

const FIRST: DestinationIndex = DestinationIndex(0);
const ROOM: u64 = 10_000;

fn engine(mode: BufferMode, tenants_max: usize) -> Pipeline {
    let retry = RetryPolicy { initial: Duration::from_millis(100), max: Duration::from_secs(2), deadline: None };
    let config = Config {
        mode,
        acknowledge: Acknowledge::AtRest,
        memory: MemoryLimits { bytes: ROOM, items: 100_000 },
        disk_bytes: if mode == BufferMode::Memory { 0 } else { ROOM },
        on_full: OnFull::RefuseIntake,
        max_age: None,
        soft_percent: 100,
        classes: [ClassPolicy { weight: 1, reserved_percent: 0 }; Class::COUNT],
        destinations: vec![DestinationConfig {
            name: "only".to_owned(),
            signals: Vec::new(),
            in_flight: 4,
            retry,
            delivery: Delivery::Required,
        }],
        tenants_max,
        replay_seed: 0,
        on_removed: pipeline::OnRemoved::Keep,
    };
    Pipeline::new(config, None)
}

/// Offers a request; a disk takes it at once.
fn offer(engine: &mut Pipeline, now: Duration, name: Option<&str>, bytes: usize) -> Result<(), RefuseReason> {
    let origin = Origin::ClientOf(engine.tenant(name));
    let counts = ClassCounts::of(Class::Normal, 1);
    let request = Request { signal: Signal::Logs, origin, counts, body: Bytes::from(vec![0; bytes]) };
    match engine.offer(now, 1, request) {
        Verdict::Admitted(admission) => {
            assert_eq!(admission.shed.total(), 0);
            admission.persist.iter().for_each(|record| engine.handle_stored(now, record.id));
            Ok(())
        }
        Verdict::Refused(refusal) => Err(refusal.reason),
        Verdict::Split => panic!("it has one class"),
    }
}

fn deliver(engine: &mut Pipeline, now: Duration) {
    if let Some(send) = engine.poll_send(now, FIRST) {
        engine.handle_outcome(now, FIRST, send.id, Outcome::Delivered);
    }
}

fn held(gauges: &Gauges, name: &str) -> u64 {
    gauges.tenants.iter().find(|tenant| tenant.name == name).map_or(0, |tenant| tenant.held_bytes)
}

#[test]
fn a_tenant_uses_all_that_the_others_leave_and_makes_place_when_they_come() {
    for mode in [BufferMode::Memory, BufferMode::Mirror] {
        let mut engine = engine(mode, 8);
        let mut now = Duration::ZERO;
        while engine.gauges().memory_bytes.max(engine.gauges().disk_bytes) < 8_000 {
            assert_eq!(offer(&mut engine, now, Some("loud"), 100), Ok(()), "nobody else is there");
        }
        assert_eq!(offer(&mut engine, now, Some("quiet"), 100), Ok(()));
        assert_eq!(offer(&mut engine, now, Some("loud"), 100), Err(RefuseReason::TenantQuota), "half is its share");
        for _ in 0..1_000 {
            now += LIMIT_DWELL;
            deliver(&mut engine, now);
            let taken = offer(&mut engine, now, Some("loud"), 100);
            assert!(matches!(taken, Ok(()) | Err(RefuseReason::TenantQuota)), "{taken:?}");
            let taken = offer(&mut engine, now, Some("quiet"), 100);
            assert_ne!(taken, Err(RefuseReason::HardLimit), "what one lends comes back");
        }
        let gauges = engine.gauges();
        let (loud, quiet) = (held(&gauges, "loud"), held(&gauges, "quiet"));
        assert!(loud.abs_diff(quiet) <= ROOM / 10, "{mode:?}: {loud} and {quiet} bytes are not equal shares");
        engine.check_held().unwrap_or_else(|broken| panic!("{broken:?}"));
    }
}

#[test]
fn however_many_names_come_the_table_is_bounded_and_a_place_is_used_again() {
    let mut engine = engine(BufferMode::Memory, 3);
    for name in ["a", "b", "c", "d", "e"] {
        assert_eq!(offer(&mut engine, Duration::ZERO, Some(name), 10), Ok(()));
    }
    assert_eq!(offer(&mut engine, Duration::ZERO, None, 10), Ok(()));
    let names = |engine: &Pipeline| engine.gauges().tenants.iter().map(|tenant| tenant.name.clone()).collect::<Vec<_>>();
    assert_eq!((names(&engine), held(&engine.gauges(), "(others)")), (["(others)", "a", "b", "c"].map(str::to_owned).to_vec(), 30));
    (0..6).for_each(|_| deliver(&mut engine, Duration::ZERO));
    assert_eq!(names(&engine), Vec::<String>::new());
    for number in 0..1_000 {
        assert_eq!(offer(&mut engine, Duration::ZERO, Some(&format!("passing-{number}")), 10), Ok(()));
        deliver(&mut engine, Duration::ZERO);
    }
    assert_eq!(offer(&mut engine, Duration::ZERO, Some("d"), 10), Ok(()));
    assert_eq!(names(&engine), ["d"]);
}

#[test]
fn where_tenants_are_not_told_apart_nobody_is_refused_for_what_he_holds() {
    let mut engine = engine(BufferMode::Memory, 0);
    let refused = (0..).find_map(|turn| offer(&mut engine, Duration::ZERO, Some(["a", "b"][turn % 2]), 100).err());
    assert_eq!((refused, engine.gauges().tenants), (Some(RefuseReason::HardLimit), Vec::new()));
}

proptest! {
    /// Time passes between any two requests, so that no limit is kept for its dwell time alone.
    #[test]
    fn who_holds_its_share_is_refused_while_room_is_scarce_and_nobody_else(
        steps in prop::collection::vec((0_usize..6, 1_usize..900, 0_usize..4), 1..200)
    ) {
        let mut engine = engine(BufferMode::Memory, 4);
        let mut now = Duration::ZERO;
        for (number, bytes, deliveries) in steps {
            now += LIMIT_DWELL;
            (0..deliveries).for_each(|_| deliver(&mut engine, now));
            let name = format!("tenant-{number}");
            let gauges = engine.gauges();
            let holding = gauges.tenants.iter().filter(|tenant| tenant.held_records > 0).count() as u64;
            let taken = offer(&mut engine, now, Some(&name), bytes);
            let after = engine.gauges();
            let named = after.tenants.iter().any(|tenant| tenant.name == name);
            let (fill, account) = (gauges.fill_permille, if named { name.as_str() } else { "(others)" });
            let own = held(&gauges, account);
            let share = ROOM / (holding + u64::from(own == 0)).max(1);
            if taken == Err(RefuseReason::TenantQuota) {
                prop_assert!(fill >= 700 && own >= share - share / 20, "{name} holds {own} of {share}, fill {fill}");
            } else {
                prop_assert!(fill < 750 || own < share, "{name} holds {own} of {share}, fill {fill}: {taken:?}");
            }
            prop_assert!(after.tenants.len() <= 5);
            prop_assert_eq!(after.tenants.iter().map(|tenant| tenant.held_bytes).sum::<u64>(), after.memory_bytes);
            prop_assert!(engine.check_held().is_ok());
        }
    }
}
