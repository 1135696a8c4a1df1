//! What a seed decides beforehand: the agent's configuration, how its peers behave, and how rough the world is.

use std::time::Duration;

use pipeline::{Acknowledge, BufferMode, ClassPolicy, Config, Delivery, DestinationConfig, MemoryLimits, OnFull, OnRemoved, RetryPolicy};
use spool::Retention;
use vocabulary::{Class, Signal};

use crate::chance::Chance;

/// How a destination treats what it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    Slow,
    Dead,
    Flaky,
    Rejecting,
    Partial,
    ReplyLost,
    Throttling,
    /// Fails at records and does not say why, always at some of them.
    Failing,
}

const MOODS: [Mood; 9] =
    [Mood::Well, Mood::Slow, Mood::Dead, Mood::Flaky, Mood::Rejecting, Mood::Partial, Mood::ReplyLost, Mood::Throttling, Mood::Failing];

/// Budgets that are drawn.
pub(crate) const MEMORY_BYTES: [u64; 3] = [1_500, 6_000, 60_000];
pub(crate) const MEMORY_ITEMS: [u64; 3] = [40, 150, 5_000];
pub(crate) const DISK_BYTES: [u64; 3] = [4_000, 20_000, 400_000];

/// How often what goes wrong, in thousandths of the occasions for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    pub(crate) sync_fails: u64,
    pub(crate) write_fails: u64,
    pub(crate) read_fails: u64,
    pub(crate) power_goes: u64,
    pub(crate) disk_hangs: u64,
    pub(crate) recovery_is_cut: u64,
    pub(crate) message_lost: u64,
}

/// Everything that is decided before the first event.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) config: Config,
    pub(crate) segment_bytes: u64,
    pub(crate) retention: Retention,
    /// Moods that each destination changes between; the first is the one it begins with.
    pub(crate) moods: Vec<Vec<Mood>>,
    pub(crate) rates: Rates,
    /// For how long the world is rough, and requests are begun.
    pub(crate) rough: Duration,
    pub(crate) requests: u64,
    /// Of a hundred requests, how many the kernel makes.
    pub(crate) kernel_percent: u64,
    /// Of a hundred requests, how many may hold items of several classes.
    pub(crate) mixed_percent: u64,
    /// Ends of the process, of whatever kind.
    pub(crate) ends: u64,
    pub(crate) disk_full_spells: u64,
    /// Whether the agent's own code breaks over some of what it is to send.
    pub(crate) sender_breaks: bool,
    /// How much later a record arrives for each that is on its way to the same destination.
    pub(crate) load: Duration,
    /// Whether clients are answered before the disk syncs, at times.
    pub(crate) may_sync_later: bool,
    /// Other configurations while the agent runs.
    pub(crate) reconfigurations: u64,
    /// Most records and jobs of one group of the storage thread, and most that wait for it.
    pub(crate) group_max: usize,
    pub(crate) storage_queue_max: usize,
}

impl Plan {
    pub(crate) fn draw(chance: &mut Chance, requests_max: u64) -> Self {
        let mode = chance.one_of(&[
            BufferMode::Memory,
            BufferMode::Spill,
            BufferMode::Spill,
            BufferMode::Spill,
            BufferMode::Mirror,
            BufferMode::Mirror,
            BufferMode::Mirror,
            BufferMode::Archive,
        ]);
        let destinations = chance.between(1, 3);
        let mut config = draw_config(chance, mode, destinations);
        // A quarter of the worlds is calm in each respect, so that one fault is not always seen beside all others.
        let mut rate = |most: u64| if chance.percent(25) { 0 } else { chance.between(1, most) };
        let rates = Rates {
            sync_fails: rate(30),
            write_fails: rate(30),
            read_fails: rate(60),
            power_goes: rate(8),
            disk_hangs: rate(20),
            recovery_is_cut: rate(600),
            message_lost: rate(80),
        };
        let moods = (0..destinations).map(|_| (0..chance.between(1, 4)).map(|_| chance.one_of(&MOODS)).collect()).collect();
        let requests = chance.between(20, 160).min(requests_max);
        let segment_bytes = chance.one_of(&[600, 2_000, 16_000]);
        let retention = chance.one_of(&[
            Retention::Nothing,
            Retention::Nothing,
            Retention::Segments(1),
            Retention::Segments(20),
            Retention::For(Duration::from_secs(3)),
        ]);
        config.on_removed = chance.one_of(&[OnRemoved::Keep, OnRemoved::Keep, OnRemoved::Drop]);
        let may_sync_later = config.acknowledge == Acknowledge::OsBuffered;
        Self {
            config,
            segment_bytes,
            retention,
            moods,
            rates,
            rough: Duration::from_secs(chance.between(5, 40)),
            requests,
            kernel_percent: chance.one_of(&[0, 0, 15]),
            mixed_percent: chance.one_of(&[0, 50, 50]),
            ends: chance.below(6),
            disk_full_spells: chance.below(3),
            sender_breaks: chance.percent(25),
            load: chance.one_of(&[Duration::ZERO, Duration::from_millis(3), Duration::from_millis(40)]),
            may_sync_later,
            reconfigurations: chance.below(5),
            group_max: chance.one_of(&[1, 4, 64]),
            storage_queue_max: chance.one_of(&[2, 8, 64]),
        }
    }
}

fn draw_config(chance: &mut Chance, mode: BufferMode, destinations: u64) -> Config {
    let signals: [&[Signal]; 4] = [&[], &[], &[Signal::Logs], &[Signal::Traces, Signal::Metrics]];
    let destination = |chance: &mut Chance, index: u64| DestinationConfig {
        name: format!("backend-{index}"),
        signals: if index == 0 { Vec::new() } else { chance.one_of(&signals).to_vec() },
        in_flight: chance.between(1, 8) as usize,
        retry: RetryPolicy {
            initial: Duration::from_millis(chance.between(50, 500)),
            max: Duration::from_millis(chance.between(1_000, 8_000)),
            deadline: chance.percent(20).then(|| Duration::from_secs(chance.between(5, 25))),
        },
        delivery: chance.one_of(&[Delivery::Required, Delivery::Required, Delivery::BestEffort]),
    };
    let has_disk = mode != BufferMode::Memory;
    let may_sync_later = matches!(mode, BufferMode::Mirror | BufferMode::Archive);
    Config {
        mode,
        acknowledge: if may_sync_later && chance.percent(40) { Acknowledge::OsBuffered } else { Acknowledge::AtRest },
        memory: MemoryLimits { bytes: chance.one_of(&MEMORY_BYTES), items: chance.one_of(&MEMORY_ITEMS) },
        disk_bytes: if has_disk { chance.one_of(&DISK_BYTES) } else { 0 },
        on_full: chance.one_of(&[OnFull::RefuseIntake, OnFull::RefuseIntake, OnFull::DropOldest, OnFull::DropNewest]),
        max_age: chance.percent(25).then(|| chance.millis(2_000, 20_000)),
        soft_percent: chance.one_of(&[60, 90, 100]),
        on_removed: OnRemoved::Keep,
        classes: Class::ALL.map(|_| ClassPolicy { weight: chance.between(1, 20) as u32, reserved_percent: chance.one_of(&[0, 0, 5, 20]) }),
        destinations: (0..destinations).map(|index| destination(chance, index)).collect(),
        tenants_max: chance.one_of(&[0, 0, 2]),
        replay_seed: chance.below(u64::MAX),
    }
}
