//! The engine against a simple model of what was promised: any order of offers, disk answers, sends, outcomes,
//! checkpoints, crashes, time and shutdown must keep the books exact and every promise kept.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that meets what it does not expect must fail there"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use pipeline::{
    Acknowledge, BufferMode, Checkpoint, ClassPolicy, Config, Copied, Delivery, DestinationConfig, DestinationIndex, IdRanges,
    MemoryLimits, NotStored, OnFull, OnRemoved, Origin, Outcome, Part, Persist, Phase, Pipeline, Quarantined, RecordId, Recovered, Request,
    RetryPolicy, Send, SetAside, Standing, Stored, Verdict,
};
use proptest::prelude::*;
use vocabulary::{Class, ClassCounts, DropReason, RefuseReason, Signal};

const DESTINATIONS: usize = 2;

#[derive(Clone, Debug)]
enum Step {
    Offer {
        signal: Signal,
        origin: Origin,
        counts: [u32; Class::COUNT],
        bytes: usize,
    },
    Stored(usize),
    StoreFailed(usize),
    Send(usize),
    Outcome(usize, usize, Outcome),
    /// The sender of a destination breaks, and nobody hears its answers.
    LoseSender(usize),
    Checkpoint {
        is_durable: bool,
    },
    Crash,
    /// A crash, and a record of the disk that is damaged since.
    Damage(usize),
    Advance(u64),
    Shutdown,
    InputsStopped,
    Flush,
    /// Bad items are copied out; a process may end between the copy and the engine's knowing of it.
    SetAside {
        copied: Copied,
        is_told: bool,
    },
    /// A tool takes a file out of quarantine.
    TakeOut {
        nth: usize,
        is_replayed: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let counts = prop_oneof![
        4 => (0_usize..Class::COUNT, 1_u32..12).prop_map(|(class, items)| ClassCounts::of(Class::ALL[class], items).0),
        2 => prop::array::uniform4(0_u32..6),
    ];
    let outcome = prop_oneof![
        6 => Just(Outcome::Delivered),
        1 => (0_u64..30).prop_map(|rejected| Outcome::Partial { rejected }),
        2 => prop::option::of((0_u64..3_000).prop_map(Duration::from_millis)).prop_map(|after| Outcome::Retry { after }),
        1 => Just(Outcome::Failed),
        1 => Just(Outcome::Rejected),
        1 => Just(Outcome::TooLarge),
        1 => Just(Outcome::Unreadable),
        2 => Just(Outcome::LocalFault),
        1 => Just(Outcome::Panicked),
    ];
    let copied =
        prop_oneof![6 => Just(Copied::Stored), 1 => Just(Copied::Full), 1 => Just(Copied::Unreadable), 2 => Just(Copied::LocalFault)];
    let signal = prop_oneof![3 => Just(Signal::Traces), 2 => Just(Signal::Logs)];
    let origin = prop_oneof![4 => Just(Origin::Client), 1 => Just(Origin::Kernel)];
    prop_oneof![
        12 => (signal, origin, counts, 1_usize..300).prop_map(|(signal, origin, counts, bytes)| Step::Offer { signal, origin, counts, bytes }),
        8 => (0_usize..8).prop_map(Step::Stored),
        1 => (0_usize..8).prop_map(Step::StoreFailed),
        10 => (0..DESTINATIONS).prop_map(Step::Send),
        10 => (0..DESTINATIONS, 0_usize..4, outcome).prop_map(|(destination, nth, outcome)| Step::Outcome(destination, nth, outcome)),
        3 => prop::bool::weighted(0.8).prop_map(|is_durable| Step::Checkpoint { is_durable }),
        1 => Just(Step::Crash),
        1 => (0_usize..8).prop_map(Step::Damage),
        4 => (1_u64..4_000).prop_map(Step::Advance),
        1 => prop::bool::weighted(0.1).prop_map(|really| if really { Step::Shutdown } else { Step::Advance(1) }),
        1 => Just(Step::InputsStopped),
        2 => Just(Step::Flush),
        1 => (0..DESTINATIONS).prop_map(Step::LoseSender),
        6 => (copied, prop::bool::weighted(0.9)).prop_map(|(copied, is_told)| Step::SetAside { copied, is_told }),
        1 => (0_usize..4, any::<bool>()).prop_map(|(nth, is_replayed)| Step::TakeOut { nth, is_replayed }),
    ]
}

/// What happens when the disk is full.
#[derive(Clone, Copy, Debug)]
struct Policy {
    on_full: OnFull,
    delivery: [Delivery; DESTINATIONS],
    acknowledge: Acknowledge,
}

impl Policy {
    const REFUSE: Self =
        Self { on_full: OnFull::RefuseIntake, delivery: [Delivery::Required; DESTINATIONS], acknowledge: Acknowledge::AtRest };

    fn any() -> impl Strategy<Value = Self> {
        let on_full = prop_oneof![Just(OnFull::RefuseIntake), Just(OnFull::DropOldest), Just(OnFull::DropNewest)];
        let delivery = || prop_oneof![Just(Delivery::Required), Just(Delivery::BestEffort)];
        (on_full, delivery(), delivery()).prop_map(|(on_full, first, second)| Self { on_full, delivery: [first, second], ..Self::REFUSE })
    }

    fn refuses(self, destination: usize) -> bool {
        self.on_full == OnFull::RefuseIntake && self.delivery[destination] == Delivery::Required
    }

    fn evicts(self, destination: usize) -> bool {
        self.on_full != OnFull::DropNewest && !self.refuses(destination)
    }
}

fn is_routed(destination: usize, signal: Signal) -> bool {
    destination == 0 || signal == Signal::Logs
}

fn config(mode: BufferMode, policy: Policy) -> Config {
    let destination = |name: &str, signals: Vec<Signal>, delivery| DestinationConfig {
        name: name.to_owned(),
        signals,
        delivery,
        in_flight: 3,
        retry: RetryPolicy { initial: Duration::from_millis(100), max: Duration::from_secs(2), deadline: Some(Duration::from_secs(20)) },
    };
    Config {
        mode,
        acknowledge: policy.acknowledge,
        memory: MemoryLimits { bytes: 1_500, items: 100 },
        disk_bytes: if mode == BufferMode::Memory { 0 } else { 3_000 },
        on_full: policy.on_full,
        max_age: None,
        soft_percent: 90,
        tenants_max: 0,
        replay_seed: 0,
        on_removed: OnRemoved::Keep,
        classes: [(8, 10), (4, 10), (2, 0), (1, 5)].map(|(weight, reserved_percent)| ClassPolicy { weight, reserved_percent }),
        destinations: vec![destination("all", Vec::new(), policy.delivery[0]), destination("logs", vec![Signal::Logs], policy.delivery[1])],
    }
}

/// Items that a destination dropped for want of disk, held ones and new ones, and those it dropped at the retry deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct CrowdedOut {
    evicted: u64,
    skipped: u64,
    exhausted: u64,
}

/// The outside world, and what it was promised.
struct World {
    mode: BufferMode,
    policy: Policy,
    engine: Pipeline,
    now: Duration,
    /// Handed to the spool, not durable yet.
    pending: Vec<Persist>,
    /// Those of them that the final flush handed out.
    flushed: BTreeSet<RecordId>,
    disk: BTreeMap<RecordId, Stored>,
    /// Those of them that only the operating system has.
    unsynced: BTreeSet<RecordId>,
    /// What was on it, and is told by every start since.
    damaged: Vec<Stored>,
    durable: Option<Checkpoint>,
    /// What this life found on disk for each destination. It may be above the bound: what was settled since the last durable
    /// checkpoint gave its room back, and is found again after a crash.
    found_bytes: [u64; DESTINATIONS],
    in_flight: [Vec<Send>; DESTINATIONS],
    /// (destination, id) settled in this life; nothing of it may be sent again.
    settled: BTreeSet<(usize, RecordId)>,
    /// Items of records on their way in slices that were answered for, and are not crowded out with the rest.
    sliced: BTreeMap<(usize, RecordId), u64>,
    /// Items dropped by each destination without an answer, as far as `settled` knows.
    crowded_out: [CrowdedOut; DESTINATIONS],
    /// Files in quarantine, and those that were taken out, with the checkpoint that is to count it.
    quarantine: BTreeMap<(usize, RecordId), Quarantined>,
    taken_out: Vec<(u64, (usize, RecordId), Quarantined)>,
    /// Items of this life by class, as answers told them.
    offered: [u64; Class::COUNT],
    refused: [u64; Class::COUNT],
    shed: [u64; Class::COUNT],
    offered_before: [u64; Class::COUNT],
    refused_before: [u64; Class::COUNT],
    shed_before: [u64; Class::COUNT],
}

fn stored(persist: &Persist) -> Stored {
    let bytes = u32::try_from(persist.body.len()).unwrap();
    Stored { id: persist.id, signal: persist.signal, counts: persist.counts, bytes, received_unix_ms: persist.received_unix_ms }
}

/// The items of a slice by class, in a record whose items stand in the order of their classes.
fn slice(counts: &ClassCounts, items: &std::ops::Range<u32>) -> ClassCounts {
    let mut first = 0;
    ClassCounts(counts.0.map(|of_class| {
        let class = first..first + of_class;
        first = class.end;
        class.end.min(items.end).saturating_sub(class.start.max(items.start))
    }))
}

fn by_class(engine: &Pipeline, number: impl Fn(&pipeline::InputCell) -> u64) -> [u64; Class::COUNT] {
    std::array::from_fn(|class| engine.books().inputs.iter().map(|row| number(&row[class])).sum())
}

impl World {
    fn new(mode: BufferMode, policy: Policy) -> Self {
        Self {
            mode,
            policy,
            engine: Pipeline::new(config(mode, policy), None),
            now: Duration::ZERO,
            pending: Vec::new(),
            flushed: BTreeSet::new(),
            disk: BTreeMap::new(),
            unsynced: BTreeSet::new(),
            damaged: Vec::new(),
            durable: None,
            found_bytes: [0; DESTINATIONS],
            in_flight: Default::default(),
            settled: BTreeSet::new(),
            sliced: BTreeMap::new(),
            crowded_out: Default::default(),
            quarantine: BTreeMap::new(),
            taken_out: Vec::new(),
            offered: [0; 4],
            refused: [0; 4],
            shed: [0; 4],
            offered_before: [0; 4],
            refused_before: [0; 4],
            shed_before: [0; 4],
        }
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Offer { signal, origin, counts, bytes } => self.offer(signal, origin, ClassCounts(counts), bytes),
            Step::Stored(nth) if nth < self.pending.len() => {
                let persist = self.pending.remove(nth);
                self.disk.insert(persist.id, stored(&persist));
                if persist.is_buffered {
                    self.unsynced.insert(persist.id);
                } else {
                    self.unsynced.clear();
                }
                self.engine.handle_stored(self.now, persist.id);
            }
            Step::StoreFailed(nth) if nth < self.pending.len() => self.fail_store(nth),
            Step::Send(destination) => self.send(destination),
            Step::LoseSender(destination) => {
                self.in_flight[destination].clear();
                self.engine.handle_sender_lost(self.now, DestinationIndex(destination as u8));
            }
            Step::Outcome(destination, nth, outcome) if nth < self.in_flight[destination].len() => {
                let send = self.in_flight[destination].remove(nth);
                self.answer(destination, send, outcome);
            }
            Step::Checkpoint { is_durable } if self.mode != BufferMode::Memory => self.checkpoint(is_durable),
            Step::Crash => self.crash(),
            Step::Damage(nth) => self.crash_with_damage(nth),
            Step::Advance(millis) => {
                self.now += Duration::from_millis(millis);
                self.engine.poll_phase(self.now);
            }
            Step::Shutdown => self.engine.handle_shutdown(self.now, Duration::from_secs(10)),
            Step::InputsStopped => self.engine.handle_inputs_stopped(self.now),
            Step::Flush => {
                let records = self.engine.poll_flush(self.now, 3);
                self.flushed.extend(records.iter().map(|record| record.id));
                self.pending.extend(records);
            }
            Step::SetAside { copied, is_told } => {
                self.set_aside(copied, is_told);
            }
            Step::TakeOut { nth, is_replayed } => self.take_out(nth, is_replayed),
            _ => {}
        }
        if self.engine.gauges().phase == Phase::Stopped {
            self.give_up_what_is_not_flushed();
        }
        self.see_who_was_crowded_out();
        self.verify();
    }

    /// At the end, what the final flush has not made durable was given up, even if the disk still takes it.
    fn give_up_what_is_not_flushed(&mut self) {
        let late = self.pending.iter().map(|persist| persist.id).filter(|id| self.flushed.contains(id));
        self.settled.extend(late.flat_map(|id| (0..DESTINATIONS).map(move |destination| (destination, id))));
    }

    /// Items that destinations dropped because their share of the disk was full, or at their deadline.
    fn crowded_out_by_books(books: &pipeline::Books) -> [CrowdedOut; DESTINATIONS] {
        let dropped = |destination: usize, reason: DropReason| {
            books.destinations[destination].cells.iter().flatten().map(|cell| cell.dropped[reason.index()]).sum()
        };
        std::array::from_fn(|destination| CrowdedOut {
            evicted: dropped(destination, DropReason::Evicted),
            skipped: dropped(destination, DropReason::DiskFull),
            exhausted: dropped(destination, DropReason::RetryExhausted),
        })
    }

    /// What was evicted is what the checkpoint calls settled and no answer settled: exactly as many items as the books say, and
    /// none while a lower class of the same destination waits on disk. What was dropped at its deadline may have been on its way, or in
    /// memory alone.
    fn see_who_was_crowded_out(&mut self) {
        let now = Self::crowded_out_by_books(self.engine.books());
        if now == self.crowded_out {
            return;
        }
        let checkpoint = self.engine.checkpoint();
        for (destination, (now, before)) in now.into_iter().zip(self.crowded_out).enumerate() {
            let settled = &checkpoint.settled[destination].1;
            let is_gone = |record: &&Stored| {
                is_routed(destination, record.signal)
                    && settled[record.id.class.index()].contains(record.id.sequence)
                    && !self.settled.contains(&(destination, record.id))
            };
            let gone: Vec<Stored> = self.disk.values().filter(is_gone).cloned().collect();
            let answered = |record: &Stored| self.sliced.get(&(destination, record.id)).copied().unwrap_or(0);
            let items: u64 = gone.iter().map(|record| record.counts.total() - answered(record)).sum();
            let crowded_out = now.evicted + now.skipped - before.evicted - before.skipped;
            let exhausted = now.exhausted - before.exhausted;
            assert!((crowded_out..=crowded_out + exhausted).contains(&items), "books and settled ids differ: {gone:?}");
            assert!(self.policy.evicts(destination) || now.evicted == 0, "{gone:?} was evicted against the policy");
            self.settled.extend(gone.iter().map(|record| (destination, record.id)));
            if now.evicted == before.evicted || exhausted > 0 {
                continue;
            }
            let least = self.disk.values().filter(|record| is_routed(destination, record.signal)).filter(|record| {
                !self.settled.contains(&(destination, record.id)) && !self.in_flight[destination].iter().any(|send| send.id == record.id)
            });
            let least = least.map(|record| record.id.class).max();
            let is_least = |record: &Stored| least.is_none_or(|least| record.id.class >= least);
            assert!(gone.iter().all(is_least), "{gone:?} went before {least:?}");
        }
        self.crowded_out = now;
    }

    fn offer(&mut self, signal: Signal, origin: Origin, counts: ClassCounts, bytes: usize) {
        let request = Request { signal, origin, counts, body: Bytes::from(vec![0; bytes]) };
        let mut verdict = self.engine.offer(self.now, 1, request);
        if verdict == Verdict::Split {
            let parts: Vec<Part> = counts
                .iter()
                .map(|(class, items)| Part {
                    class,
                    items,
                    body: Bytes::from(vec![0; bytes * items as usize / counts.total() as usize + 1]),
                })
                .collect();
            verdict = self.engine.offer_parts(self.now, 1, signal, origin, parts);
        }
        match verdict {
            Verdict::Split => panic!("parts were told to be split"),
            Verdict::Refused(refusal) => {
                assert_eq!(origin, Origin::Client, "the kernel was refused");
                let pause = refusal.retry_after.as_millis();
                assert!(if refusal.reason == RefuseReason::TooLarge { pause == 0 } else { (1_000..=5_000).contains(&pause) });
                self.count(&counts, |world, class, items| {
                    world.offered[class] += items;
                    world.refused[class] += items;
                });
            }
            Verdict::Admitted(admission) => {
                self.count(&counts, |world, class, items| world.offered[class] += items);
                self.count(&admission.shed, |world, class, items| world.shed[class] += items);
                if origin == Origin::Client && self.policy.refuses(0) {
                    assert_eq!(admission.shed.0[..2], [0, 0], "an important item was shed");
                }
                for persist in &admission.persist {
                    // What waits for the disk is not in the books yet.
                    self.count(&persist.counts, |world, class, items| world.offered[class] -= items);
                }
                self.pending.extend(admission.persist);
            }
        }
    }

    fn count(&mut self, counts: &ClassCounts, mut change: impl FnMut(&mut Self, usize, u64)) {
        for (class, items) in counts.iter() {
            change(self, class.index(), u64::from(items));
        }
    }

    fn fail_store(&mut self, nth: usize) {
        let persist = self.pending.remove(nth);
        self.engine.handle_store_failed(self.now, persist.id, NotStored::Fault);
    }

    fn send(&mut self, destination: usize) {
        let Some(send) = self.engine.poll_send(self.now, DestinationIndex(destination as u8)) else { return };
        assert!(self.mode != BufferMode::Archive, "an archive sent {:?}", send.id);
        assert!(!self.settled.contains(&(destination, send.id)), "{:?} was sent again after it was settled", send.id);
        assert!(!self.in_flight[destination].iter().any(|other| other.id == send.id), "{:?} is on its way twice", send.id);
        assert!(!self.pending.iter().any(|persist| persist.id == send.id && send.body.is_none()), "sent before it was durable");
        if send.body.is_none() {
            assert!(self.disk.contains_key(&send.id), "to be read from a disk that has it not");
        }
        if self.mode == BufferMode::Mirror {
            assert!(self.disk.contains_key(&send.id), "a mirrored record was sent before it was durable");
        }
        self.in_flight[destination].push(send);
        assert!(self.in_flight[destination].len() <= 3, "window exceeded");
    }

    fn answer(&mut self, destination: usize, send: Send, outcome: Outcome) {
        let index = DestinationIndex(destination as u8);
        match &send.items {
            Some(items) => self.engine.handle_slice_outcome(self.now, index, send.id, slice(&send.counts, items), outcome),
            None => self.engine.handle_outcome(self.now, index, send.id, outcome),
        }
        if !self.engine.is_unsettled(index, send.id) {
            self.settled.insert((destination, send.id));
            return;
        }
        if let (Some(items), Outcome::Delivered | Outcome::Partial { .. }) = (&send.items, outcome) {
            *self.sliced.entry((destination, send.id)).or_default() += items.len() as u64;
        }
        let is_final = matches!(outcome, Outcome::Delivered | Outcome::Partial { .. } | Outcome::Unreadable);
        assert!(send.items.is_some() || !is_final, "{:?} is held after {outcome:?}", send.id);
    }

    /// Whether there was anything to be copied out.
    fn set_aside(&mut self, copied: Copied, is_told: bool) -> bool {
        let Some(aside) = self.engine.poll_set_aside(self.now) else { return false };
        assert!(self.mode != BufferMode::Memory, "there is no disk to copy to");
        assert!(aside.body.is_some() || self.disk.contains_key(&aside.id), "to be read from a disk that has it not");
        let destination = usize::from(aside.destination.0);
        if copied == Copied::Stored {
            let SetAside { name, id, signal, counts, rejected, .. } = aside.clone();
            let file = Quarantined { destination: name, id, signal, counts, rejected };
            self.quarantine.insert((destination, aside.id), file);
        }
        if !is_told {
            self.crash();
            return true;
        }
        let is_held = self.engine.handle_set_aside(self.now, aside.destination, aside.id, copied);
        assert_eq!(is_held, copied == Copied::Stored);
        if !self.engine.is_unsettled(aside.destination, aside.id) {
            self.settled.insert((destination, aside.id));
        }
        true
    }

    fn take_out(&mut self, nth: usize, is_replayed: bool) {
        let Some(key) = self.quarantine.keys().copied().nth(nth) else { return };
        let file = self.quarantine.remove(&key).unwrap();
        self.engine.handle_taken_out(&file, is_replayed);
        self.taken_out.push((self.engine.generation() + 1, key, file));
    }

    fn checkpoint(&mut self, is_durable: bool) {
        let checkpoint = self.engine.checkpoint();
        for (class, ranges) in Class::ALL.into_iter().zip(&checkpoint.stored) {
            for sequence in ranges.iter().flat_map(|(first, last)| first..=last) {
                let id = RecordId { class, sequence };
                assert!(self.disk.contains_key(&id), "{id:?} is said to be on disk");
                let mut destinations = (0..DESTINATIONS).filter(|destination| is_routed(*destination, self.disk[&id].signal));
                assert!(destinations.any(|destination| !self.settled.contains(&(destination, id))), "{id:?} is settled");
            }
        }
        if !is_durable {
            return;
        }
        self.unsynced.clear();
        let generation = checkpoint.generation;
        self.taken_out.retain(|(counted, ..)| *counted > generation);
        self.durable = Some(checkpoint);
        let released = self.engine.handle_checkpointed(generation);
        let durable = self.durable.as_ref().unwrap();
        for id in self.disk.keys().filter(|id| released[id.class.index()].contains(id.sequence)) {
            for (name, settled) in &durable.settled {
                assert!(settled[id.class.index()].contains(id.sequence), "{id:?} may be deleted, but {name} needs it");
            }
        }
        self.disk.retain(|id, _| !released[id.class.index()].contains(id.sequence));
    }

    /// The process ends without warning; of what was not synced, every other record is on disk all the same.
    fn crash(&mut self) {
        self.crash_with_damage(usize::MAX);
    }

    /// The same, and the bytes of a record are not what was written.
    fn crash_with_damage(&mut self, nth: usize) {
        for persist in self.pending.drain(..).step_by(2) {
            self.disk.insert(persist.id, stored(&persist));
        }
        for id in std::mem::take(&mut self.unsynced).into_iter().step_by(2) {
            self.disk.remove(&id);
        }
        let before = self.engine.published().clone();
        let lost = self.lost_by_crash();
        for (_, key, file) in self.taken_out.drain(..) {
            self.quarantine.insert(key, file);
        }
        let files: Vec<Quarantined> = self.quarantine.values().cloned().collect();
        let hit = self.disk.keys().nth(nth).copied().and_then(|id| self.disk.remove(&id));
        self.damaged.extend(hit);
        let corrupt: [u64; DESTINATIONS] = std::array::from_fn(|at| self.damaged.iter().map(|record| self.corrupt_items(at, record)).sum());
        let recovered = (self.mode != BufferMode::Memory).then(|| Recovered {
            checkpoint: self.durable.clone(),
            stored: self.disk.values().cloned().collect(),
            damaged: self.damaged.clone(),
            next_sequence: std::array::from_fn(|class| {
                let of_class = self.damaged.iter().filter(|record| record.id.class.index() == class);
                of_class.map(|record| record.id.sequence + 1).max().unwrap_or(1)
            }),
            quarantined: Some(files),
            ..Recovered::default()
        });
        self.engine = Pipeline::new(config(self.mode, self.policy), recovered);
        self.found_bytes = self.disk_shares();
        self.now = Duration::ZERO;
        self.in_flight = Default::default();
        self.flushed.clear();
        self.settled.clear();
        self.sliced.clear();
        for (destination, (_, settled)) in self.durable.iter().flat_map(|durable| durable.settled.iter().enumerate()) {
            let is_known =
                |record: &&Stored| is_routed(destination, record.signal) && settled[record.id.class.index()].contains(record.id.sequence);
            self.settled.extend(self.disk.values().filter(is_known).map(|record| (destination, record.id)));
        }
        self.settled.extend(self.quarantine.keys());
        self.crowded_out = self.durable.as_ref().map(|durable| Self::crowded_out_by_books(&durable.books)).unwrap_or_default();
        self.see_who_was_crowded_out();
        if self.mode != BufferMode::Memory {
            self.verify_recovery(&before, lost, corrupt);
        }
        self.offered_before = by_class(&self.engine, |cell| cell.offered);
        self.refused_before = by_class(&self.engine, |cell| cell.refused.iter().sum());
        self.shed_before = by_class(&self.engine, |cell| cell.dropped.iter().sum());
        (self.offered, self.refused, self.shed) = ([0; 4], [0; 4], [0; 4]);
    }

    /// Items that only memory held, for the first destination.
    fn lost_by_crash(&self) -> u64 {
        let held: u64 =
            self.engine.books().destinations[0].cells.iter().flatten().map(|cell| cell.held.total() - cell.held.quarantined).sum();
        let on_disk = self.disk.values().filter(|record| !self.settled.contains(&(0, record.id)));
        held.saturating_sub(on_disk.map(|record| record.counts.total()).sum())
    }

    /// Items of a damaged record that a destination loses with it: none of those that it settled by the last checkpoint, or that the
    /// checkpoint knows in memory alone.
    fn corrupt_items(&self, destination: usize, record: &Stored) -> u64 {
        let is_lost = match self.durable.as_ref().map_or(Standing::New, |durable| durable.standing(record.id)) {
            Standing::Settled => false,
            Standing::Held { needing, was_stored } => was_stored && needing & (1 << destination) != 0,
            Standing::New => true,
        };
        let is_aside = self.quarantine.contains_key(&(destination, record.id));
        if is_lost && !is_aside && is_routed(destination, record.signal) { record.counts.total() } else { 0 }
    }

    fn verify_recovery(&self, before: &pipeline::Books, lost: u64, lost_to_damage: [u64; DESTINATIONS]) {
        let after = self.engine.published();
        assert!(
            lost <= after.crash_volatile_bounds.1 - before.crash_volatile_bounds.1 || self.durable.is_none(),
            "{lost} lost beyond the bound"
        );
        if self.durable.is_none() {
            assert_eq!(lost, 0, "memory-only intake before the first durable checkpoint");
            return;
        }
        for (book, old) in after.destinations.iter().zip(&before.destinations) {
            for (cell, old) in book.cells.iter().flatten().zip(old.cells.iter().flatten()) {
                assert!(cell.delivered >= old.delivered && cell.routed >= old.routed, "a published number stepped back");
                assert!(cell.dropped.iter().zip(&old.dropped).all(|(now, then)| now >= then), "a published number stepped back");
            }
        }
        let corrupt = |book: &pipeline::DestinationBook| -> u64 {
            book.cells.iter().flatten().map(|cell| cell.dropped[DropReason::Corrupt.index()]).sum()
        };
        let known = self.durable.iter().flat_map(|durable| &durable.books.destinations).map(corrupt);
        for ((book, known), lost) in after.destinations.iter().zip(known).zip(lost_to_damage) {
            assert_eq!(corrupt(book), known + lost, "Corrupt of {}", book.name);
        }
        for record in self.disk.values() {
            let is_needed = !self.settled.contains(&(0, record.id));
            assert!(!is_needed || self.engine.gauges().held_records > 0, "{:?} was forgotten", record.id);
        }
    }

    /// What each destination holds on disk, in bytes.
    fn disk_shares(&self) -> [u64; DESTINATIONS] {
        let gauges = self.engine.gauges();
        std::array::from_fn(|destination| gauges.destinations[destination].disk_bytes)
    }

    fn verify(&self) {
        self.engine.check_held().unwrap();
        self.engine.published().check().unwrap();
        for (destination, book) in self.engine.books().destinations.iter().enumerate() {
            let held: u64 = book.cells.iter().flatten().map(|cell| cell.held.quarantined).sum();
            let files = self.quarantine.iter().filter(|((at, _), _)| *at == destination);
            assert_eq!(held, files.map(|(_, file)| file.counts.total()).sum::<u64>(), "quarantine of {}", book.name);
        }
        let gauges = self.engine.gauges();
        assert!(
            gauges.memory_bytes <= gauges.memory_bytes_max && gauges.memory_items <= gauges.memory_items_max,
            "memory bound: {gauges:?}"
        );
        if gauges.phase == Phase::Running {
            let bound_of = |found: u64| gauges.destination_disk_bytes_max.max(found);
            assert!(gauges.disk_bytes <= self.found_bytes.into_iter().map(bound_of).sum(), "disk bound: {gauges:?}");
            for (held, found) in self.disk_shares().into_iter().zip(self.found_bytes) {
                assert!(held <= bound_of(found), "share of the disk: {gauges:?}");
            }
        }
        if gauges.phase == Phase::Stopped {
            let volatile = self.engine.gauges().held_records;
            assert!(self.mode != BufferMode::Memory || volatile == 0, "stopped with {volatile} records in memory");
        }
    }

    /// Everything is answered well until nothing is held: what was durable and needed arrives.
    fn drain(&mut self) {
        while !self.pending.is_empty() {
            self.run(Step::Stored(0));
        }
        if self.mode == BufferMode::Archive {
            self.mode = BufferMode::Mirror;
            self.crash();
        }
        let needed: Vec<(usize, RecordId)> = self
            .disk
            .values()
            .flat_map(|record| (0..DESTINATIONS).map(move |destination| (destination, record)))
            .filter(|(destination, record)| is_routed(*destination, record.signal))
            .map(|(destination, record)| (destination, record.id))
            .collect();
        for _ in 0..10_000 {
            let mut is_idle = true;
            for destination in 0..DESTINATIONS {
                self.send(destination);
                while let Some(send) = self.in_flight[destination].pop() {
                    is_idle = false;
                    self.answer(destination, send, Outcome::Delivered);
                }
            }
            is_idle &= !self.set_aside(Copied::Stored, true);
            self.see_who_was_crowded_out();
            self.verify();
            if is_idle {
                let Some(wake) = self.engine.poll_timeout() else { break };
                self.now = self.now.max(wake);
            }
        }
        assert_eq!(self.engine.gauges().held_records, 0, "not all of it could be sent");
        for (destination, id) in needed {
            assert!(self.settled.contains(&(destination, id)), "{id:?} was durable and never reached destination {destination}");
        }
    }
}

fn tally(world: &World) {
    // Answers and books tell the same, but for what the disk answered later, which only the books tell.
    let refused = by_class(&world.engine, |cell| cell.refused.iter().sum());
    let shed = by_class(&world.engine, |cell| cell.dropped.iter().sum());
    let offered = by_class(&world.engine, |cell| cell.offered);
    for class in 0..Class::COUNT {
        assert!(refused[class] >= world.refused_before[class] + world.refused[class]);
        assert!(shed[class] >= world.shed_before[class] + world.shed[class]);
        assert!(offered[class] >= world.offered_before[class] + world.offered[class]);
    }
    if world.mode == BufferMode::Memory {
        assert_eq!((refused, shed, offered), (world.refused, world.shed, world.offered), "answers and books differ");
    }
}

fn play(mode: BufferMode, policy: Policy, steps: Vec<Step>) {
    let mut world = World::new(mode, policy);
    let mut is_closing = false;
    for step in steps {
        is_closing = match step {
            Step::Shutdown => true,
            Step::Crash | Step::Damage(_) => false,
            _ => is_closing,
        };
        world.run(step);
        tally(&world);
    }
    if is_closing {
        world.run(Step::Shutdown);
        world.crash();
    }
    world.drain();
}

proptest! {
    #[test]
    fn a_pipeline_in_memory_keeps_its_promises(steps in prop::collection::vec(step(), 1..150)) {
        play(BufferMode::Memory, Policy::REFUSE, steps);
    }

    #[test]
    fn a_pipeline_that_spills_keeps_its_promises(policy in Policy::any(), steps in prop::collection::vec(step(), 1..150)) {
        play(BufferMode::Spill, policy, steps);
    }

    #[test]
    fn a_pipeline_that_mirrors_keeps_its_promises(policy in Policy::any(), steps in prop::collection::vec(step(), 1..150)) {
        play(BufferMode::Mirror, policy, steps);
    }

    #[test]
    fn a_pipeline_that_answers_before_its_disk_syncs_keeps_its_promises(
        policy in Policy::any(),
        mode in prop_oneof![3 => Just(BufferMode::Mirror), 1 => Just(BufferMode::Archive)],
        steps in prop::collection::vec(step(), 1..150),
    ) {
        play(mode, Policy { acknowledge: Acknowledge::OsBuffered, ..policy }, steps);
    }

    #[test]
    fn an_archive_keeps_its_promises_and_is_sent_by_another_mode(policy in Policy::any(), steps in prop::collection::vec(step(), 1..150)) {
        play(BufferMode::Archive, policy, steps);
    }
}

#[test]
fn ranges_can_be_rebuilt_from_what_a_checkpoint_lists() {
    let ranges: IdRanges = [(5, 9), (1, 2), (3, 3)].into_iter().collect();
    assert_eq!(ranges.iter().collect::<Vec<_>>(), [(1, 3), (5, 9)]);
}
