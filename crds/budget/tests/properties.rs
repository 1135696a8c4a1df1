//! What must hold of every budget, whatever the limits: nothing exceeds what was given, more never gives less, and an error
//! names a limit that would do.

use budget::{BudgetTooSmall, Limits, Resource, solve};
use crds::agent::{Acknowledge, BufferMode};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

prop_compose! {
    fn limits()(
        memory_bytes in 0_u64..8 << 30,
        cpu_millicores in 0_u64..100_000,
        mode in prop_oneof![Just(BufferMode::Memory), Just(BufferMode::Spill), Just(BufferMode::Mirror), Just(BufferMode::Archive)],
        acknowledge in prop_oneof![Just(None), Just(Some(Acknowledge::Memory)), Just(Some(Acknowledge::Fsync))],
        disk_bytes in 0_u64..1 << 40,
        queue_bytes_wanted in proptest::option::of(0_u64..1 << 30),
        destinations in 0_u32..=16,
        ebpf: bool,
        drain_seconds in 1_u32..=3600,
    ) -> Limits {
        Limits { memory_bytes, cpu_millicores, mode, acknowledge, disk_bytes, queue_bytes_wanted, destinations, ebpf, drain_seconds }
    }
}

proptest! {
    #[test]
    fn what_is_handed_out_never_exceeds_the_limits(limits in limits()) {
        let Ok(budget) = solve(&limits) else { return Ok(()) };
        let index = budget.queue_items * 192;
        prop_assert!(budget.queue_bytes + index + budget.receive_bytes + budget.sending_bytes <= limits.memory_bytes);
        prop_assert!(budget.request_bytes_max <= budget.receive_bytes);
        let on_their_way = u64::from(budget.in_flight) * (256 << 10) + budget.request_bytes_max;
        prop_assert!(on_their_way * u64::from(limits.destinations.max(1)) <= budget.sending_bytes, "full windows and a large request");
        prop_assert!(budget.disk_bytes <= limits.disk_bytes);
        prop_assert!(budget.segment_bytes * 32 <= budget.disk_bytes || limits.mode == BufferMode::Memory);
        prop_assert!(budget.in_flight >= 1 && budget.workers >= 1 && budget.queue_items > 0);
        prop_assert!(budget.termination_grace_seconds > budget.drain_seconds);
    }

    #[test]
    fn more_of_a_resource_never_gives_less_of_anything(limits in limits(), memory in 0_u64..1 << 30, cpu in 0_u64..10_000, disk in 0_u64..1 << 30) {
        let Ok(less) = solve(&limits) else { return Ok(()) };
        let more = Limits {
            memory_bytes: limits.memory_bytes + memory,
            cpu_millicores: limits.cpu_millicores + cpu,
            disk_bytes: limits.disk_bytes + disk,
            ..limits
        };
        let more = solve(&more).expect("what is enough stays enough");
        prop_assert!(more.queue_bytes >= less.queue_bytes);
        prop_assert!(more.queue_items >= less.queue_items);
        prop_assert!(more.receive_bytes >= less.receive_bytes);
        prop_assert!(more.request_bytes_max >= less.request_bytes_max);
        prop_assert!(more.sending_bytes >= less.sending_bytes);
        prop_assert!(more.in_flight >= less.in_flight);
        prop_assert!(more.workers >= less.workers);
        prop_assert!(more.disk_bytes >= less.disk_bytes);
        prop_assert!(more.segment_bytes >= less.segment_bytes);
    }

    #[test]
    fn what_an_error_asks_for_is_enough_and_not_much_more(limits in limits()) {
        let Err(error) = solve(&limits) else { return Ok(()) };
        prop_assert!(error.need > error.have);
        let enough = with(&limits, &error, error.need);
        prop_assert!(solve(&enough).err().is_none_or(|next| next.resource != error.resource), "{error}");
        if error.resource == Resource::Memory && error.need > 2 * MIB {
            let short = with(&limits, &error, error.need - 2 * MIB);
            prop_assert!(solve(&short).is_err_and(|again| again.resource == Resource::Memory), "{error}");
        }
    }

    #[test]
    fn the_same_limits_give_the_same_budget_and_every_reason_fits_the_status(limits in limits()) {
        let budget = solve(&limits);
        prop_assert_eq!(&budget, &solve(&limits));
        for setting in budget.map(|budget| budget.settings).unwrap_or_default() {
            prop_assert!(setting.because.len() <= 256 && setting.value.len() <= 64 && setting.name.len() <= 64, "{setting:?}");
        }
    }
}

fn with(limits: &Limits, error: &BudgetTooSmall, amount: u64) -> Limits {
    let limits = limits.clone();
    match error.resource {
        Resource::Memory => Limits { memory_bytes: amount, ..limits },
        Resource::Cpu => Limits { cpu_millicores: amount, ..limits },
        Resource::Disk => Limits { disk_bytes: amount, ..limits },
        Resource::Queue => Limits { queue_bytes_wanted: Some(amount), ..limits },
    }
}

#[test]
fn an_agent_without_limits_of_its_own_gets_a_useful_budget() {
    let budget =
        solve(&Limits { ebpf: true, mode: BufferMode::Spill, disk_bytes: 2 << 30, ..Limits::default() }).expect("the defaults are enough");
    assert!(budget.queue_bytes > 90 * MIB && budget.queue_items > 100_000, "{budget:?}");
    assert_eq!((budget.workers, budget.drain_seconds, budget.termination_grace_seconds), (1, 25, 30));
    assert!((30 * MIB..31 * MIB).contains(&budget.segment_bytes), "a 64th of 95 % of 2 GiB: {}", budget.segment_bytes);
}

#[test]
fn a_limit_that_is_too_small_is_named_with_what_is_missing() {
    let error = solve(&Limits { memory_bytes: 32 * MIB, ..Limits::default() }).expect_err("the process alone needs 28 MiB");
    assert_eq!(error.resource, Resource::Memory);
    let text = error.to_string();
    assert!(text.starts_with("resources.limits.memory is 32Mi; at least ") && text.contains("28Mi for the process"), "{text}");
    let error = solve(&Limits { mode: BufferMode::Spill, disk_bytes: MIB, ..Limits::default() }).expect_err("no segment fits");
    assert!(error.to_string().starts_with("buffer.disk.size is 1Mi; at least 9Mi is needed, 8Mi more"), "{error}");
    let error = solve(&Limits { cpu_millicores: 10, ..Limits::default() }).expect_err("too little to answer");
    assert!(error.to_string().starts_with("resources.limits.cpu is 10m; at least 50m is needed, 40m more"), "{error}");
}

#[test]
fn when_clients_are_answered_is_shown_with_its_reason() {
    let shown = |mode, acknowledge| {
        let limits = Limits { mode, acknowledge, disk_bytes: 2 << 30, ..Limits::default() };
        let settings = solve(&limits).expect("it is enough").settings;
        let setting = settings.into_iter().find(|setting| setting.name == "acknowledge").expect("it is always there");
        (setting.value, setting.because)
    };
    let (value, because) = shown(BufferMode::Archive, None);
    assert_eq!((value.as_str(), because.contains("buffer.mode Archive")), ("Fsync", true), "{because}");
    assert_eq!(shown(BufferMode::Spill, Some(Acknowledge::Memory)), ("Memory".to_owned(), "buffer.acknowledge".to_owned()));
}

#[test]
fn a_queue_that_is_asked_for_is_given_if_it_fits() {
    let limits = Limits { memory_bytes: 96 * MIB, queue_bytes_wanted: Some(4 * MIB), ..Limits::default() };
    assert_eq!(solve(&limits).expect("it fits").queue_bytes, 4 * MIB);
    let error = solve(&Limits { queue_bytes_wanted: Some(90 * MIB), ..limits }).expect_err("it does not fit");
    assert_eq!(error.resource, Resource::Memory);
}
