//! The engine against a simple model while its configuration changes under it: any order of changes, traffic, answers, disk
//! results, checkpoints, crashes and ends must keep the books exact, and what a removed destination held must be there when it returns.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that meets what it does not expect must fail there")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use pipeline::{
    Acknowledge, Books, BufferMode, Checkpoint, ClassPolicy, Config, Copied, Delivery, DestinationConfig, DestinationIndex, MemoryLimits,
    NotStored, OnFull, OnRemoved, Origin, Outcome, Part, Persist, Phase, Pipeline, Quarantined, ReconfigureError, RecordId, Recovered,
    Request, RetryPolicy, Send, SetAside, Stored, Verdict,
};
use proptest::prelude::*;
use vocabulary::{Class, ClassCounts, DropReason, Signal};

const NAMES: [&str; 5] = ["first", "second", "third", "fourth", "fifth"];

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
    Answer(usize, Outcome),
    /// Bad items are to be copied out.
    SetAside,
    /// They were; a process may end between the copy and the engine's knowing of it.
    Copied {
        nth: usize,
        copied: Copied,
        is_told: bool,
    },
    Checkpoint,
    Reconfigure(Setup),
    Crash(Option<Setup>),
    Advance(u64),
    Shutdown,
    Flush,
}

/// What may change.
#[derive(Clone, Debug)]
struct Setup {
    destinations: Vec<DestinationConfig>,
    on_full: OnFull,
    on_removed: OnRemoved,
    acknowledge: Acknowledge,
    memory_bytes: u64,
    disk_bytes: u64,
    soft_percent: u32,
    weight: u32,
}

impl Setup {
    fn config(&self, mode: BufferMode) -> Config {
        Config {
            mode,
            acknowledge: if mode == BufferMode::Mirror { self.acknowledge } else { Acknowledge::AtRest },
            memory: MemoryLimits { bytes: self.memory_bytes, items: self.memory_bytes / 10 },
            disk_bytes: if mode == BufferMode::Memory { 0 } else { self.disk_bytes },
            on_full: self.on_full,
            soft_percent: self.soft_percent,
            classes: [(8, 10), (4, 10), (self.weight, 0), (1, 5)]
                .map(|(weight, reserved_percent)| ClassPolicy { weight, reserved_percent }),
            on_removed: self.on_removed,
            tenants_max: 0,
            replay_seed: 0,
            max_age: None,
            destinations: self.destinations.clone(),
        }
    }

    fn find(&self, name: &str) -> Option<&DestinationConfig> {
        self.destinations.iter().find(|destination| destination.name == name)
    }

    fn evicts(&self, name: &str) -> bool {
        self.find(name).is_some_and(|destination| match self.on_full {
            OnFull::DropOldest => true,
            OnFull::DropNewest => false,
            OnFull::RefuseIntake => destination.delivery == Delivery::BestEffort,
        })
    }

    fn takers(&self, signal: Signal) -> BTreeSet<&'static str> {
        let takes = |destination: &DestinationConfig| destination.signals.is_empty() || destination.signals.contains(&signal);
        NAMES.into_iter().filter(|name| self.find(name).is_some_and(takes)).collect()
    }

    fn of_all() -> Self {
        let destinations = NAMES.iter().map(|name| destination(name, Vec::new(), Delivery::Required, 3)).collect();
        let (on_full, on_removed, acknowledge) = (OnFull::RefuseIntake, OnRemoved::Keep, Acknowledge::AtRest);
        Self { destinations, on_full, on_removed, acknowledge, memory_bytes: 1_500, disk_bytes: 5_000, soft_percent: 90, weight: 2 }
    }
}

fn destination(name: &str, signals: Vec<Signal>, delivery: Delivery, in_flight: usize) -> DestinationConfig {
    let retry = RetryPolicy { initial: Duration::from_millis(100), max: Duration::from_secs(2), deadline: Some(Duration::from_secs(20)) };
    DestinationConfig { name: name.to_owned(), signals, in_flight, retry, delivery }
}

fn setup() -> impl Strategy<Value = Setup> {
    let signals = prop_oneof![3 => Just(Vec::new()), 1 => Just(vec![Signal::Logs]), 1 => Just(vec![Signal::Traces])];
    let delivery = prop_oneof![3 => Just(Delivery::Required), 1 => Just(Delivery::BestEffort)];
    let destinations = prop::sample::subsequence(NAMES.to_vec(), 1..4).prop_shuffle().prop_flat_map(move |names| {
        let one = (signals.clone(), delivery.clone(), 1_usize..4);
        prop::collection::vec(one, names.len()).prop_map(move |drawn| {
            let each = |(name, (signals, delivery, in_flight)): (&&str, _)| destination(name, signals, delivery, in_flight);
            names.iter().zip(drawn).map(each).collect::<Vec<_>>()
        })
    });
    let on_full = prop_oneof![2 => Just(OnFull::RefuseIntake), 1 => Just(OnFull::DropOldest), 1 => Just(OnFull::DropNewest)];
    let on_removed = prop_oneof![3 => Just(OnRemoved::Keep), 1 => Just(OnRemoved::Drop)];
    let acknowledge = prop_oneof![Just(Acknowledge::AtRest), Just(Acknowledge::OsBuffered)];
    (destinations, on_full, on_removed, acknowledge, 600_u64..2_000, 1_500_u64..6_000, 80_u32..=100, 1_u32..9).prop_map(
        |(destinations, on_full, on_removed, acknowledge, memory_bytes, disk_bytes, soft_percent, weight)| Setup {
            destinations,
            on_full,
            on_removed,
            acknowledge,
            memory_bytes,
            disk_bytes,
            soft_percent,
            weight,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let counts = prop_oneof![
        4 => (0_usize..Class::COUNT, 1_u32..12).prop_map(|(class, items)| ClassCounts::of(Class::ALL[class], items).0),
        1 => prop::array::uniform4(0_u32..6),
    ];
    let outcome = prop_oneof![
        6 => Just(Outcome::Delivered),
        1 => (0_u64..30).prop_map(|rejected| Outcome::Partial { rejected }),
        3 => Just(Outcome::Retry { after: None }),
        1 => Just(Outcome::Failed),
        2 => Just(Outcome::Rejected),
        1 => Just(Outcome::TooLarge),
        1 => Just(Outcome::Unreadable),
        2 => Just(Outcome::LocalFault),
    ];
    let copied =
        prop_oneof![6 => Just(Copied::Stored), 1 => Just(Copied::Full), 1 => Just(Copied::Unreadable), 2 => Just(Copied::LocalFault)];
    let signal = prop_oneof![Just(Signal::Traces), Just(Signal::Logs)];
    let origin = prop_oneof![4 => Just(Origin::Client), 1 => Just(Origin::Kernel)];
    prop_oneof![
        14 => (signal, origin, counts, 1_usize..300).prop_map(|(signal, origin, counts, bytes)| Step::Offer { signal, origin, counts, bytes }),
        8 => (0_usize..8).prop_map(Step::Stored),
        1 => (0_usize..8).prop_map(Step::StoreFailed),
        12 => (0..NAMES.len()).prop_map(Step::Send),
        10 => (0_usize..6, outcome).prop_map(|(nth, outcome)| Step::Answer(nth, outcome)),
        5 => Just(Step::SetAside),
        4 => (0_usize..3, copied, prop::bool::weighted(0.9)).prop_map(|(nth, copied, is_told)| Step::Copied { nth, copied, is_told }),
        3 => Just(Step::Checkpoint),
        4 => setup().prop_map(Step::Reconfigure),
        1 => prop::option::of(setup()).prop_map(Step::Crash),
        3 => (1_u64..4_000).prop_map(Step::Advance),
        1 => prop::bool::weighted(0.2).prop_map(|really| if really { Step::Shutdown } else { Step::Advance(1) }),
        2 => Just(Step::Flush),
    ]
}

/// What a destination was made to do without: evicted, for want of room, because it was removed, and at the retry deadline; in items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct GivenUp {
    evicted: u64,
    skipped: u64,
    removed: u64,
    exhausted: u64,
}

/// The outside world, and what it was promised.
struct World {
    mode: BufferMode,
    setup: Setup,
    engine: Pipeline,
    index: BTreeMap<&'static str, DestinationIndex>,
    now: Duration,
    /// Handed to the spool, not durable yet.
    pending: Vec<Persist>,
    disk: BTreeMap<RecordId, Stored>,
    durable: Option<Checkpoint>,
    in_flight: Vec<(&'static str, DestinationIndex, Send)>,
    /// With the number of items of the whole record.
    copying: Vec<(SetAside, u64)>,
    /// Files in quarantine.
    quarantine: BTreeMap<(&'static str, RecordId), Quarantined>,
    /// Items of records on their way in slices that were answered for, and are not given up with the rest.
    sliced: BTreeMap<(&'static str, RecordId), u64>,
    /// Who was to get each record that was handed to the spool.
    needs: BTreeMap<RecordId, BTreeSet<&'static str>>,
    settled: BTreeSet<(&'static str, RecordId)>,
    given_up: BTreeMap<&'static str, GivenUp>,
    /// What was there when the bounds last changed, which may be above them.
    found_bytes: (u64, u64, BTreeMap<String, u64>),
    seen: Books,
}

fn name_of(name: &str) -> &'static str {
    NAMES.into_iter().find(|known| *known == name).unwrap()
}

fn numbers(engine: &Pipeline, name: &str, number: impl Fn(&pipeline::DestinationCell) -> u64) -> u64 {
    let book = engine.books().destinations.iter().find(|book| book.name == name);
    book.map_or(0, |book| book.cells.iter().flatten().map(number).sum())
}

fn given_up(engine: &Pipeline, name: &str) -> GivenUp {
    let of = |reason: DropReason| numbers(engine, name, |cell| cell.dropped[reason.index()]);
    GivenUp {
        evicted: of(DropReason::Evicted),
        skipped: of(DropReason::DiskFull),
        removed: of(DropReason::ConfigRemoved),
        exhausted: of(DropReason::RetryExhausted),
    }
}

fn held(engine: &Pipeline, name: &str) -> u64 {
    numbers(engine, name, |cell| cell.held.total() - cell.held.quarantined)
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

fn stored(persist: &Persist) -> Stored {
    let bytes = u32::try_from(persist.body.len()).unwrap();
    Stored { id: persist.id, signal: persist.signal, counts: persist.counts, bytes, received_unix_ms: persist.received_unix_ms }
}

impl World {
    fn new(mode: BufferMode, setup: Setup) -> Self {
        let engine = Pipeline::new(setup.config(mode), None);
        let seen = engine.published().clone();
        let mut world = Self {
            mode,
            engine,
            index: BTreeMap::new(),
            now: Duration::ZERO,
            pending: Vec::new(),
            disk: BTreeMap::new(),
            durable: None,
            in_flight: Vec::new(),
            copying: Vec::new(),
            quarantine: BTreeMap::new(),
            sliced: BTreeMap::new(),
            needs: BTreeMap::new(),
            settled: BTreeSet::new(),
            given_up: BTreeMap::new(),
            found_bytes: Default::default(),
            seen,
            setup,
        };
        world.index_from_the_start();
        world
    }

    fn index_from_the_start(&mut self) {
        let names = self.setup.destinations.iter().map(|destination| name_of(&destination.name));
        self.index = names.zip((0..).map(DestinationIndex)).collect();
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Offer { signal, origin, counts, bytes } => self.offer(signal, origin, ClassCounts(counts), bytes),
            Step::Stored(nth) if nth < self.pending.len() => {
                let persist = self.pending.remove(nth);
                self.disk.insert(persist.id, stored(&persist));
                self.engine.handle_stored(self.now, persist.id);
            }
            Step::StoreFailed(nth) if nth < self.pending.len() => {
                let persist = self.pending.remove(nth);
                self.engine.handle_store_failed(self.now, persist.id, NotStored::Fault);
                self.needs.remove(&persist.id);
            }
            Step::Send(nth) => self.send(NAMES[nth]),
            Step::Answer(nth, outcome) if nth < self.in_flight.len() => self.answer(nth, outcome),
            Step::SetAside => self.set_aside(),
            Step::Copied { nth, copied, is_told } if nth < self.copying.len() => self.copied(nth, copied, is_told),
            Step::Checkpoint if self.mode != BufferMode::Memory => self.checkpoint(),
            Step::Reconfigure(setup) => self.reconfigure(setup),
            Step::Crash(setup) => self.crash(setup),
            Step::Advance(millis) => {
                self.now += Duration::from_millis(millis);
                self.engine.poll_phase(self.now);
                self.ask_who_needs_what_is_flushed();
            }
            Step::Shutdown => {
                self.engine.handle_shutdown(self.now, Duration::from_secs(10));
                self.ask_who_needs_what_is_flushed();
            }
            Step::Flush => self.flush(),
            _ => {}
        }
        self.see_what_was_given_up();
        self.verify();
    }

    fn offer(&mut self, signal: Signal, origin: Origin, counts: ClassCounts, bytes: usize) {
        let request = Request { signal, origin, counts, body: Bytes::from(vec![0; bytes]) };
        let mut verdict = self.engine.offer(self.now, 1, request);
        if verdict == Verdict::Split {
            let body = |items: u32| Bytes::from(vec![0; bytes * items as usize / counts.total() as usize + 1]);
            let parts = counts.iter().map(|(class, items)| Part { class, items, body: body(items) }).collect();
            verdict = self.engine.offer_parts(self.now, 1, signal, origin, parts);
        }
        let Verdict::Admitted(admission) = verdict else { return };
        for persist in &admission.persist {
            self.needs.insert(persist.id, self.setup.takers(signal));
        }
        self.pending.extend(admission.persist);
    }

    fn flush(&mut self) {
        let records = self.engine.poll_flush(self.now, 3);
        self.pending.extend(records);
        self.ask_who_needs_what_is_flushed();
    }

    /// What memory alone held was not known by its id before it was flushed, and is given up when the end is forced.
    fn ask_who_needs_what_is_flushed(&mut self) {
        if self.engine.gauges().phase < Phase::Flushing {
            return;
        }
        let checkpoint = self.engine.checkpoint();
        for persist in &self.pending {
            let needing = checkpoint.settled.iter().filter(|(_, settled)| !contains(settled, persist.id));
            let needing = needing.map(|(name, _)| name_of(name)).collect();
            let needs = self.needs.entry(persist.id).or_insert(needing);
            if self.engine.gauges().phase == Phase::Stopped {
                needs.retain(|name| checkpoint.settled.iter().any(|(other, settled)| other == name && !contains(settled, persist.id)));
            }
        }
    }

    fn send(&mut self, name: &'static str) {
        let Some(&index) = self.index.get(name) else { return };
        let Some(send) = self.engine.poll_send(self.now, index) else { return };
        let id = send.id;
        assert!(!self.settled.contains(&(name, id)), "{id:?} was sent again to {name} after it was settled");
        assert!(self.needs.get(&id).is_none_or(|needs| needs.contains(name)), "{id:?} was sent to {name}, which was never to get it");
        assert!(!self.in_flight.iter().any(|(other, _, sent)| *other == name && sent.id == id), "{id:?} is on its way to {name} twice");
        assert!(send.body.is_some() || self.disk.contains_key(&id), "to be read from a disk that has it not");
        self.in_flight.push((name, index, send));
        let window = self.setup.find(name).unwrap().in_flight;
        assert!(self.in_flight.iter().filter(|(other, ..)| *other == name).count() <= window, "the window of {name}");
    }

    fn answer(&mut self, nth: usize, outcome: Outcome) {
        let (name, index, send) = self.in_flight.remove(nth);
        match &send.items {
            Some(items) => self.engine.handle_slice_outcome(self.now, index, send.id, slice(&send.counts, items), outcome),
            None => self.engine.handle_outcome(self.now, index, send.id, outcome),
        }
        if let (Some(items), Outcome::Delivered | Outcome::Partial { .. }) = (&send.items, outcome) {
            *self.sliced.entry((name, send.id)).or_default() += items.len() as u64;
        }
        let checkpoint = self.engine.checkpoint();
        let (_, settled) = checkpoint.settled.iter().find(|(other, _)| other == name).expect("it holds the record");
        let is_settled = contains(settled, send.id);
        let is_final = matches!(outcome, Outcome::Delivered | Outcome::Partial { .. } | Outcome::Unreadable);
        assert!(is_settled || send.items.is_some() || !is_final, "{outcome:?} settles");
        if is_settled {
            self.see_what_was_given_up();
            self.settled.insert((name, send.id));
        }
    }

    fn set_aside(&mut self) {
        let Some(aside) = self.engine.poll_set_aside(self.now) else { return };
        assert!(self.mode != BufferMode::Memory, "there is no disk to copy to");
        assert!(aside.body.is_some() || self.disk.contains_key(&aside.id), "to be read from a disk that has it not");
        let name = name_of(&aside.name);
        assert!(!self.settled.contains(&(name, aside.id)), "{:?} is copied out for {name} after it was settled", aside.id);
        assert!(!self.in_flight.iter().any(|(other, _, sent)| *other == name && sent.id == aside.id), "it is on its way");
        let answered = self.sliced.get(&(name, aside.id)).copied().unwrap_or(0);
        let items = aside.counts.total() + answered;
        self.copying.push((aside, items));
    }

    fn copied(&mut self, nth: usize, copied: Copied, is_told: bool) {
        let SetAside { destination, name, id, signal, counts, rejected, .. } = self.copying.remove(nth).0;
        let key = (name_of(&name), id);
        if copied == Copied::Stored {
            self.quarantine.insert(key, Quarantined { destination: name, id, signal, counts, rejected });
        }
        if !is_told {
            return self.crash(None);
        }
        let is_held = self.engine.handle_set_aside(self.now, destination, id, copied);
        let is_over = self.engine.gauges().phase == Phase::Stopped;
        assert!(is_held == (copied == Copied::Stored) || is_over && !is_held, "{key:?} was given up while it was copied out");
        if !is_held {
            self.quarantine.remove(&key);
        }
        if !self.engine.is_unsettled(destination, id) {
            self.see_what_was_given_up();
            self.settled.insert(key);
        }
    }

    fn checkpoint(&mut self) {
        let checkpoint = self.engine.checkpoint();
        let released = self.engine.handle_checkpointed(checkpoint.generation);
        let is_released = |id: &RecordId| released[id.class.index()].contains(id.sequence);
        for id in self.disk.keys().filter(|id| is_released(id)) {
            let waiting = self.needs[id].iter().find(|name| !self.settled.contains(&(**name, *id)));
            assert!(waiting.is_none(), "{id:?} may be deleted, but {waiting:?} needs it");
        }
        self.durable = Some(checkpoint);
        self.disk.retain(|id, _| !is_released(id));
    }

    fn reconfigure(&mut self, setup: Setup) {
        let books = self.engine.books().clone();
        let before: BTreeMap<&str, u64> = NAMES.into_iter().map(|name| (name, held(&self.engine, name))).collect();
        let indexes = match self.engine.reconfigure(self.now, setup.config(self.mode)) {
            Ok(indexes) => indexes,
            Err(refused) => {
                assert!(refused == ReconfigureError::Ending && self.engine.gauges().phase != Phase::Running, "{refused}");
                return assert_eq!(*self.engine.books(), books, "what was refused changed something");
            }
        };
        let names = setup.destinations.iter().map(|destination| name_of(&destination.name));
        self.index = names.zip(indexes).collect();
        self.setup = setup;
        for (name, before) in before {
            let is_kept = self.setup.on_removed == OnRemoved::Keep && !self.setup.evicts(name)
                || self.setup.find(name).is_some() && !self.setup.evicts(name);
            assert!(!is_kept || held(&self.engine, name) == before, "{name} held {before} before");
        }
        self.note_levels();
    }

    fn note_levels(&mut self) {
        let gauges = self.engine.gauges();
        let shares = gauges.destinations.iter().map(|destination| (destination.name.clone(), destination.disk_bytes)).collect();
        self.found_bytes = (gauges.memory_bytes, gauges.memory_items, shares);
    }

    /// What destinations were made to do without is what the checkpoint calls settled and no answer settled, and is as policy says.
    fn see_what_was_given_up(&mut self) {
        let now: BTreeMap<&str, GivenUp> = NAMES.into_iter().map(|name| (name, given_up(&self.engine, name))).collect();
        if now == self.given_up {
            return;
        }
        let checkpoint = self.engine.checkpoint();
        for (name, now) in &now {
            let before = self.given_up.get(name).copied().unwrap_or_default();
            if *now == before {
                continue;
            }
            let is_settled = |id: RecordId| match checkpoint.settled.iter().find(|(other, _)| other == name) {
                Some((_, settled)) => contains(settled, id),
                None => true,
            };
            let is_gone = |id: &RecordId| {
                self.needs.get(id).is_some_and(|needs| needs.contains(name)) && is_settled(*id) && !self.settled.contains(&(*name, *id))
            };
            let gone: Vec<RecordId> = self.disk.keys().copied().filter(is_gone).collect();
            let answered = |id: &RecordId| self.sliced.get(&(*name, *id)).copied().unwrap_or(0);
            let items: u64 = gone.iter().map(|id| self.disk[id].counts.total() - answered(id)).sum();
            let (evicted, removed) = (now.evicted - before.evicted, now.removed - before.removed);
            let counted = evicted + removed + now.skipped - before.skipped;
            // Of what was removed some may have been in memory alone; of what was dropped at its deadline, on its way as well.
            let least = if removed > 0 && self.mode != BufferMode::Mirror { 0 } else { counted };
            let most = counted + now.exhausted - before.exhausted;
            assert!((least..=most).contains(&items), "{name}: {gone:?} are {items} items, counted {least} to {most}");
            assert!(evicted == 0 || self.setup.evicts(name), "{gone:?} of {name} was evicted against the policy");
            let may_drop = self.setup.on_removed == OnRemoved::Drop && self.setup.find(name).is_none();
            assert!(removed == 0 || may_drop, "{name} lost {removed} items that were to be kept");
            self.settled.extend(gone.into_iter().map(|id| (*name, id)));
        }
        self.given_up = now;
    }

    /// The process ends without warning, and the next may find another configuration; of what was not synced, every other record is on
    /// disk all the same.
    fn crash(&mut self, setup: Option<Setup>) {
        self.setup = setup.unwrap_or_else(|| self.setup.clone());
        for persist in self.pending.drain(..).step_by(2) {
            self.disk.insert(persist.id, stored(&persist));
        }
        let recovered = (self.mode != BufferMode::Memory).then(|| Recovered {
            checkpoint: self.durable.clone(),
            stored: self.disk.values().cloned().collect(),
            quarantined: Some(self.quarantine.values().cloned().collect()),
            ..Recovered::default()
        });
        let has_disk = recovered.is_some();
        self.engine = Pipeline::new(self.setup.config(self.mode), recovered);
        self.index_from_the_start();
        self.now = Duration::ZERO;
        self.in_flight.clear();
        self.copying.clear();
        self.sliced.clear();
        self.know_what_is_needed();
        let before = self.durable.as_ref().filter(|_| has_disk).map(|durable| &durable.books);
        let old = before.map_or_else(BTreeMap::new, |books| {
            let dropped = |name: &str, reason: DropReason| {
                let cells = books.destinations.iter().filter(|book| book.name == name).flat_map(|book| book.cells.iter().flatten());
                cells.map(|cell| cell.dropped[reason.index()]).sum()
            };
            let of = |name: &'static str| GivenUp {
                evicted: dropped(name, DropReason::Evicted),
                skipped: dropped(name, DropReason::DiskFull),
                removed: dropped(name, DropReason::ConfigRemoved),
                exhausted: dropped(name, DropReason::RetryExhausted),
            };
            NAMES.into_iter().map(|name| (name, of(name))).collect()
        });
        self.given_up = old;
        // What a start finds out by its configuration is shown before a checkpoint has it; another configuration finds out other things.
        self.seen = match &self.durable {
            Some(durable) if has_disk => durable.books.clone(),
            _ => self.engine.published().clone(),
        };
        self.see_what_was_given_up();
        self.note_levels();
    }

    /// What the next process makes of each record on disk, by the rules of a start: settled, held as the checkpoint says, or new.
    fn know_what_is_needed(&mut self) {
        self.settled.clear();
        self.needs.clear();
        for record in self.disk.values() {
            let Some(durable) = &self.durable else {
                self.needs.insert(record.id, self.setup.takers(record.signal));
                continue;
            };
            let (needing, done): (Vec<_>, Vec<_>) = durable.settled.iter().partition(|(_, settled)| !contains(settled, record.id));
            let was_stored = contains(&durable.stored, record.id);
            let is_new = done.is_empty() && !was_stored;
            let mut needs: BTreeSet<&'static str> =
                if is_new { self.setup.takers(record.signal) } else { needing.iter().map(|(name, _)| name_of(name)).collect() };
            // What the books knew in memory is lost with the process, for a destination that is not there to find it on disk.
            needs.retain(|name| was_stored || self.setup.on_removed == OnRemoved::Keep || self.setup.find(name).is_some());
            self.needs.insert(record.id, needs);
        }
        // For a destination whose records are dropped at the start, the file is found after its record was given up.
        let is_dropped = |name: &str| self.setup.on_removed == OnRemoved::Drop && self.setup.find(name).is_none();
        self.settled.extend(self.quarantine.keys().filter(|(name, _)| !is_dropped(name)));
    }

    fn verify(&mut self) {
        self.engine.check_held().unwrap();
        self.engine.published().check().unwrap();
        for old in &self.seen.destinations {
            let book = self.engine.published().destinations.iter().find(|book| book.name == old.name).expect("its numbers are kept");
            for (cell, old) in book.cells.iter().flatten().zip(old.cells.iter().flatten()) {
                assert!(cell.delivered >= old.delivered && cell.routed >= old.routed, "a published number of {} stepped back", book.name);
                assert!(cell.dropped.iter().zip(&old.dropped).all(|(now, then)| now >= then), "a published number stepped back");
            }
        }
        self.seen = self.engine.published().clone();
        for name in NAMES {
            let files = self.quarantine.iter().filter(|((other, _), _)| *other == name);
            let kept = numbers(&self.engine, name, |cell| cell.held.quarantined);
            assert_eq!(kept, files.map(|(_, file)| file.counts.total()).sum::<u64>(), "quarantine of {name}");
        }
        let gauges = self.engine.gauges();
        let (bytes, items, shares) = &self.found_bytes;
        assert!(gauges.memory_bytes <= gauges.memory_bytes_max.max(*bytes), "memory bound: {gauges:?}");
        assert!(gauges.memory_items <= gauges.memory_items_max.max(*items), "memory bound: {gauges:?}");
        for destination in gauges.destinations.iter().filter(|_| gauges.phase == Phase::Running) {
            let found = shares.get(&destination.name).copied().unwrap_or(0);
            assert!(destination.disk_bytes <= gauges.destination_disk_bytes_max.max(found), "share of the disk: {gauges:?}");
        }
        let shown: BTreeSet<&str> = gauges.destinations.iter().map(|destination| destination.name.as_str()).collect();
        for name in NAMES {
            assert!(held(&self.engine, name) == 0 || shown.contains(name), "{name} holds something and is not shown");
            assert!(
                self.setup.find(name).is_some() || self.setup.on_removed == OnRemoved::Keep || self.is_on_its_way(name),
                "{name} holds"
            );
        }
        assert!(
            gauges.phase != Phase::Stopped || self.mode != BufferMode::Memory || gauges.held_records == 0,
            "stopped with records in memory"
        );
    }

    /// Whether nothing is held for a removed destination but what is on its way.
    fn is_on_its_way(&self, name: &str) -> bool {
        let sent = self.in_flight.iter().filter(|(other, ..)| *other == name).map(|(.., send)| send.counts.total());
        let copying = self.copying.iter().filter(|(aside, _)| aside.name == name).map(|(_, items)| *items);
        held(&self.engine, name) <= sent.chain(copying).sum()
    }

    /// Every destination is configured, and answers well until nothing is held: what was durable and needed arrives.
    fn return_all_and_drain(&mut self) {
        while !self.pending.is_empty() {
            self.run(Step::Stored(0));
        }
        while !self.in_flight.is_empty() {
            self.run(Step::Answer(0, Outcome::Delivered));
        }
        while !self.copying.is_empty() {
            self.run(Step::Copied { nth: 0, copied: Copied::Stored, is_told: true });
        }
        self.run(Step::Reconfigure(Setup::of_all()));
        let needed: Vec<_> = self.disk.keys().flat_map(|id| self.needs[id].iter().map(|name| (*name, *id))).collect();
        for _ in 0..10_000 {
            for name in NAMES {
                self.send(name);
            }
            self.set_aside();
            if self.in_flight.is_empty() && self.copying.is_empty() {
                let Some(wake) = self.engine.poll_timeout() else { break };
                self.now = self.now.max(wake);
            }
            while !self.in_flight.is_empty() {
                self.answer(0, Outcome::Delivered);
            }
            while !self.copying.is_empty() {
                self.copied(0, Copied::Stored, true);
            }
            self.verify();
        }
        assert_eq!(self.engine.gauges().held_records, 0, "not all of it could be sent");
        for pair in needed {
            assert!(self.settled.contains(&pair), "{pair:?} was durable and never arrived");
        }
    }
}

fn contains(ranges: &[pipeline::IdRanges; Class::COUNT], id: RecordId) -> bool {
    ranges[id.class.index()].contains(id.sequence)
}

fn play(mode: BufferMode, setup: Setup, steps: Vec<Step>) {
    let mut world = World::new(mode, setup);
    for step in steps {
        world.run(step);
    }
    if world.engine.gauges().phase != Phase::Running {
        world.run(Step::Shutdown);
        world.run(Step::Crash(None));
    }
    world.return_all_and_drain();
}

proptest! {
    #[test]
    fn a_pipeline_in_memory_is_reconfigured_without_losing_count(start in setup(), steps in prop::collection::vec(step(), 1..150)) {
        play(BufferMode::Memory, start, steps);
    }

    #[test]
    fn a_pipeline_that_spills_is_reconfigured_without_losing_count(start in setup(), steps in prop::collection::vec(step(), 1..150)) {
        play(BufferMode::Spill, start, steps);
    }

    #[test]
    fn a_pipeline_that_mirrors_is_reconfigured_without_losing_count(start in setup(), steps in prop::collection::vec(step(), 1..150)) {
        play(BufferMode::Mirror, start, steps);
    }
}
