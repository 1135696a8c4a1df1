//! The judge outside all faults: it knows what was sent, what was promised, what arrived, and says what must be true of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pipeline::{
    Books, Checkpoint, Copied, DestinationIndex, Outcome, Persist, Pipeline, Quarantined, RECORD_DISK_BYTES, RecordId, Recovered, Send,
};
use vocabulary::{Class, ClassCounts, DropReason, Signal};

use crate::coverage::{Coverage, Sometimes};
use crate::items::{Unit, decode};
use crate::tally::{self, Tally};

/// What was promised for a unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Promise {
    #[default]
    None,
    /// Acknowledged from memory: lost only with a process that ends without warning, and counted.
    Memory,
    /// Acknowledged from disk.
    Durable,
}

/// What is known of one record.
struct Record {
    body: bytes::Bytes,
    signal: Signal,
    counts: ClassCounts,
}

/// Most tries of one record: what is undecided then is given up with what is bad.
const TRIES_MAX: u32 = 64;

/// What a destination answered for the slices of one record.
#[derive(Default)]
struct Slices {
    delivered: ClassCounts,
    rejected: ClassCounts,
}

/// A checkpoint that was handed out, with the tally of that instant.
struct Snapshot {
    generation: u64,
    /// Position in the order of everything that was counted.
    moment: u64,
    tally: Tally,
}

pub(crate) struct Oracle {
    units: Vec<Unit>,
    promises: Vec<Promise>,
    /// Per destination and unit: how often it arrived, and whether it was rejected.
    arrived: Vec<Vec<u16>>,
    rejected: Vec<Vec<bool>>,
    /// Per destination and unit: whether it was refused while it stood alone, so that nothing else can be to blame.
    refused_alone: Vec<Vec<bool>>,
    /// Per destination and unit: whether it was offered while the destination was removed, and is not owed to it.
    not_for: Vec<Vec<bool>>,
    /// Records that the search of a destination gave up, within this life.
    exhausted: BTreeSet<(usize, RecordId)>,
    takes: Vec<Vec<Signal>>,
    records: BTreeMap<RecordId, Record>,
    /// Lengths of the bodies on disk.
    lengths: BTreeMap<RecordId, u64>,
    /// Records whose place in the books is decided, and when that was.
    counted: BTreeMap<RecordId, u64>,
    /// Stored, and not yet given back to the disk.
    kept: BTreeSet<RecordId>,
    /// Those of them that may not be synced yet.
    unsynced: BTreeSet<RecordId>,
    /// Items of records of which a loss of power left a part.
    torn: u64,
    /// Items that went to disk in records of a class above their own, by their own class.
    pub(crate) carried: [u64; Class::COUNT],
    moment: u64,
    pub(crate) tally: Tally,
    snapshots: VecDeque<Snapshot>,
    durable: Option<Checkpoint>,
    published: Option<Books>,
    /// Per destination, within this life.
    settled: Vec<BTreeSet<RecordId>>,
    /// Settled in an earlier life that no checkpoint proved.
    undone: Vec<BTreeSet<RecordId>>,
    in_flight: Vec<BTreeSet<RecordId>>,
    /// Records of which a slice was taken, within this life.
    slices: BTreeMap<(usize, RecordId), Slices>,
}

impl Oracle {
    pub(crate) fn new(takes: Vec<Vec<Signal>>) -> Self {
        let destinations = takes.len();
        Self {
            units: Vec::new(),
            promises: Vec::new(),
            arrived: vec![Vec::new(); destinations],
            rejected: vec![Vec::new(); destinations],
            refused_alone: vec![Vec::new(); destinations],
            not_for: vec![Vec::new(); destinations],
            exhausted: BTreeSet::new(),
            takes,
            records: BTreeMap::new(),
            lengths: BTreeMap::new(),
            counted: BTreeMap::new(),
            kept: BTreeSet::new(),
            unsynced: BTreeSet::new(),
            torn: 0,
            carried: [0; Class::COUNT],
            moment: 0,
            tally: Tally::new(destinations),
            snapshots: VecDeque::new(),
            durable: None,
            published: None,
            settled: vec![BTreeSet::new(); destinations],
            undone: vec![BTreeSet::new(); destinations],
            in_flight: vec![BTreeSet::new(); destinations],
            slices: BTreeMap::new(),
        }
    }

    /// A unit that will be sent.
    pub(crate) fn make(&mut self, signal: Signal, class: Class) -> Unit {
        let unit = Unit { signal, class, number: self.units.len() as u64 };
        self.units.push(unit);
        self.promises.push(Promise::None);
        self.arrived.iter_mut().for_each(|arrived| arrived.push(0));
        self.rejected.iter_mut().chain(&mut self.refused_alone).chain(&mut self.not_for).for_each(|of_unit| of_unit.push(false));
        unit
    }

    pub(crate) fn unit(&self, number: u64) -> Option<Unit> {
        self.units.get(usize::try_from(number).ok()?).copied()
    }

    /// These are offered while the destination is removed.
    pub(crate) fn note_not_for(&mut self, destination: usize, units: &[Unit]) {
        for unit in units {
            self.not_for[destination][unit.number as usize] = true;
        }
    }

    /// A client is told that its request was taken, `shed` excepted; the records of `durable` classes were synced before.
    pub(crate) fn promise(&mut self, units: &[Unit], shed: &ClassCounts, durable: &ClassCounts) {
        for class in Class::ALL {
            let of_class = || units.iter().filter(|unit| unit.class == class);
            let items: u32 = of_class().map(|unit| unit.items()).sum();
            assert!(shed[class] == 0 || shed[class] == items, "a part of a class was shed: {} of {items}", shed[class]);
            if shed[class] > 0 {
                continue;
            }
            let promise = if durable[class] > 0 { Promise::Durable } else { Promise::Memory };
            for unit in of_class() {
                let slot = &mut self.promises[unit.number as usize];
                *slot = (*slot).max(promise);
            }
        }
    }

    /// The books know from here on what became of the record that was to be stored.
    pub(crate) fn note_stored(&mut self, record: &Persist, is_stored: bool) {
        self.moment += 1;
        self.counted.insert(record.id, self.moment);
        if is_stored {
            self.kept.insert(record.id);
            if record.is_buffered {
                self.unsynced.insert(record.id);
            }
            self.lengths.insert(record.id, record.body.len() as u64);
            self.note_carried(record.id, &record.counts);
            self.name(record.id, &record.body, record.signal, record.counts);
        }
    }

    fn note_carried(&mut self, id: RecordId, counts: &ClassCounts) {
        for (class, items) in counts.iter().filter(|(class, _)| *class > id.class) {
            self.carried[class.index()] += u64::from(items);
        }
    }

    /// A name stands for one content for ever.
    fn name(&mut self, id: RecordId, body: &bytes::Bytes, signal: Signal, counts: ClassCounts) {
        let record = self.records.entry(id).or_insert_with(|| Record { body: body.clone(), signal, counts });
        assert!(record.body == *body && record.signal == signal && record.counts == counts, "{id:?} names two records");
    }

    /// The engine hands a record out to be sent.
    pub(crate) fn note_send(&mut self, destination: usize, send: &Send, body: Option<&bytes::Bytes>, coverage: &mut Coverage) {
        let id = send.id;
        assert!(self.takes[destination].contains(&send.signal), "{id:?} is sent to a destination that does not take its signal");
        assert!(self.in_flight[destination].insert(id), "{id:?} is on its way twice");
        assert!(!self.settled[destination].contains(&id), "{id:?} is sent again after it was settled");
        let proved = self.durable.as_ref().is_some_and(|durable| durable.settled[destination].1[id.class.index()].contains(id.sequence));
        assert!(!proved, "{id:?} is sent again although a durable checkpoint settled it");
        if send.attempt >= TRIES_MAX {
            self.exhausted.insert((destination, id));
        }
        if self.undone[destination].contains(&id) {
            coverage.note(Sometimes::SettledAgain);
        }
        if let Some(body) = body {
            self.name(id, body, send.signal, send.counts);
        }
    }

    pub(crate) fn note_landed(&mut self, destination: usize, id: RecordId, is_settled: bool) {
        assert!(self.in_flight[destination].remove(&id), "{id:?} was not on its way");
        if is_settled {
            self.settled[destination].insert(id);
        }
    }

    /// A destination answered for a slice. As in the engine's books, what it rejects is charged to the lowest classes.
    pub(crate) fn note_answer(&mut self, destination: usize, id: RecordId, slice: Option<ClassCounts>, outcome: Outcome) {
        let (Some(counts), Outcome::Delivered | Outcome::Partial { .. }) = (slice, outcome) else { return };
        let mut rejected = if let Outcome::Partial { rejected } = outcome { rejected } else { 0 };
        let slices = self.slices.entry((destination, id)).or_default();
        for class in Class::ALL.into_iter().rev() {
            let charged = rejected.min(u64::from(counts[class]));
            rejected -= charged;
            slices.rejected[class] += charged as u32;
            slices.delivered[class] += counts[class] - charged as u32;
        }
    }

    /// A record is settled after this answer, with which the books rejected so many items.
    pub(crate) fn note_settled(&mut self, destination: usize, id: RecordId, outcome: Outcome, rejected: u64, coverage: &mut Coverage) {
        let Some(Record { signal, counts, .. }) = self.records.get(&id) else { return };
        let whole = match outcome {
            Outcome::Delivered => Some(0),
            Outcome::Partial { rejected } => Some(rejected),
            _ => None,
        };
        let slices = self.slices.remove(&(destination, id));
        if let (Some(rejected), None) = (whole, &slices) {
            return self.tally.settle(destination, *signal, counts, rejected);
        }
        let is_given_up = matches!(outcome, Outcome::Retry { .. } | Outcome::LocalFault | Outcome::Unreadable);
        if self.settle_in_parts(destination, id, slices.unwrap_or_default(), rejected, coverage) && !is_given_up {
            self.note_bad(destination, id);
        }
    }

    /// What was taken of a record in slices, and what became of the rest: rejected if the books say so, as they are held to its amount.
    fn settle_in_parts(&mut self, destination: usize, id: RecordId, slices: Slices, rejected: u64, coverage: &mut Coverage) -> bool {
        let Some(Record { signal, counts, .. }) = self.records.get(&id) else { return false };
        let Slices { delivered, rejected: mut refused } = slices;
        let mut rest = *counts;
        for class in Class::ALL {
            rest[class] -= delivered[class] + refused[class];
        }
        if rejected > refused.total() {
            Class::ALL.into_iter().for_each(|class| refused[class] += rest[class]);
        }
        if delivered.total() > 0 && rest.total() > 0 {
            coverage.note(Sometimes::DeliveredInSlices);
        }
        self.tally.settle_slices(destination, *signal, &delivered, &refused);
        rest.total() > 0
    }

    /// The bad items of a record are decided on. They have reached their destination, which will not have them.
    pub(crate) fn note_set_aside(&mut self, destination: usize, id: RecordId, copied: Copied, rejected: u64, coverage: &mut Coverage) {
        self.settled[destination].insert(id);
        let slices = self.slices.remove(&(destination, id)).unwrap_or_default();
        self.settle_in_parts(destination, id, slices, rejected, coverage);
        if copied != Copied::LocalFault {
            self.note_bad(destination, id);
        }
    }

    /// What is undecided of the record may be given up as a whole: nobody asks the destination about it.
    pub(crate) fn note_given_up_whole(&mut self, destination: usize, id: RecordId) {
        self.exhausted.insert((destination, id));
    }

    /// A destination refuses these for ever, together.
    pub(crate) fn note_refused(&mut self, destination: usize, units: &[Unit]) {
        if let [unit] = units {
            self.refused_alone[destination][unit.number as usize] = true;
        }
    }

    /// What is given up of a record is what was refused alone; the rest must arrive.
    fn note_bad(&mut self, destination: usize, id: RecordId) {
        let Some(Record { signal, body, .. }) = self.records.get(&id) else { return };
        let is_exhausted = self.exhausted.contains(&(destination, id));
        for unit in decode(*signal, body, |number| self.unit(number)) {
            let at = unit.number as usize;
            self.rejected[destination][at] |= is_exhausted || self.refused_alone[destination][at];
        }
    }

    /// These are in quarantine for good.
    pub(crate) fn note_kept(&mut self, destination: usize, units: &[Unit]) {
        for unit in units {
            self.rejected[destination][unit.number as usize] = true;
        }
    }

    /// These go to quarantine: nothing good may be among them.
    pub(crate) fn check_quarantined(&self, destination: usize, id: RecordId, units: &[Unit]) {
        let is_bad = |unit: &Unit| self.refused_alone[destination][unit.number as usize];
        let is_exhausted = self.exhausted.contains(&(destination, id));
        assert!(is_exhausted || units.iter().all(is_bad), "good items of {id:?} go to quarantine of destination {destination}: {units:?}");
    }

    /// What lies in quarantine is settled at a start, whether or not the checkpoint knows it.
    pub(crate) fn note_quarantine(&mut self, recovered: &Recovered, names: &[&str], coverage: &mut Coverage) {
        for Quarantined { destination, id, signal, counts, rejected } in recovered.quarantined.iter().flatten() {
            let at = names.iter().position(|name| name == destination).unwrap_or_else(|| unreachable!("{destination} is configured"));
            self.settled[at].insert(*id);
            let is_proved = |checkpoint: &Checkpoint| checkpoint.settled[at].1[id.class.index()].contains(id.sequence);
            if recovered.checkpoint.as_ref().is_some_and(is_proved) {
                continue;
            }
            coverage.note(Sometimes::FoundCopied);
            let Some(stored) = recovered.stored.iter().find(|stored| stored.id == *id) else {
                tally::add(&mut self.tally.received, *signal, counts);
                continue;
            };
            let mut delivered = stored.counts;
            Class::ALL.into_iter().for_each(|class| delivered[class] -= counts[class] + rejected[class]);
            self.tally.settle_slices(at, *signal, &delivered, rejected);
        }
    }

    /// What an engine gives up because it ends, its disk is full or it is too old: what was taken of it in slices stays taken.
    pub(crate) fn note_given_up(&mut self, pipeline: &Pipeline) {
        let is_held = |destination: usize, id: RecordId| pipeline.is_unsettled(DestinationIndex(destination as u8), id);
        let given_up: Vec<_> = self.slices.keys().copied().filter(|&(destination, id)| !is_held(destination, id)).collect();
        for (destination, id) in given_up {
            let Some(Slices { delivered, rejected }) = self.slices.remove(&(destination, id)) else { continue };
            if let Some(record) = self.records.get(&id) {
                self.tally.settle_slices(destination, record.signal, &delivered, &rejected);
            }
        }
    }

    /// A destination received these, and rejects the last `rejected` of them.
    pub(crate) fn note_arrived(&mut self, destination: usize, units: &[Unit], rejected: usize) {
        let taken = units.len() - rejected;
        for unit in &units[..taken] {
            let count = &mut self.arrived[destination][unit.number as usize];
            *count = count.saturating_add(1);
        }
        for unit in &units[taken..] {
            self.rejected[destination][unit.number as usize] = true;
        }
    }

    pub(crate) fn note_checkpoint(&mut self, checkpoint: &Checkpoint) {
        self.moment += 1;
        self.snapshots.push_back(Snapshot { generation: checkpoint.generation, moment: self.moment, tally: self.tally.clone() });
    }

    /// What the records that a checkpoint says are on disk take there.
    pub(crate) fn disk_bytes(&self, checkpoint: &Checkpoint) -> u64 {
        let ids = Class::ALL.into_iter().zip(&checkpoint.stored).flat_map(|(class, ranges)| {
            ranges.iter().flat_map(|(first, last)| first..=last).map(move |sequence| RecordId { class, sequence })
        });
        ids.map(|id| self.lengths.get(&id).map_or(0, |length| length + RECORD_DISK_BYTES)).sum()
    }

    /// A checkpoint is durable; `released` may be deleted, and `published` is what users see from here on.
    pub(crate) fn note_durable(&mut self, checkpoint: Checkpoint, released: &[pipeline::IdRanges; Class::COUNT], published: &Books) {
        self.kept.retain(|id| !released[id.class.index()].contains(id.sequence));
        self.unsynced.clear();
        self.snapshots.retain(|snapshot| snapshot.generation >= checkpoint.generation);
        self.durable = Some(checkpoint);
        self.note_published(published);
    }

    fn note_published(&mut self, published: &Books) {
        if let Some(before) = &self.published {
            tally::is_monotone(before, published);
        }
        self.published = Some(published.clone());
    }

    /// Whether a loss of power may take what was stored.
    pub(crate) fn is_anything_unsynced(&self) -> bool {
        !self.unsynced.is_empty()
    }

    /// What was not synced may be gone. Whether there was any.
    pub(crate) fn note_power_lost(&mut self) -> bool {
        let unsynced = std::mem::take(&mut self.unsynced);
        self.kept.retain(|id| !unsynced.contains(id));
        !unsynced.is_empty()
    }

    /// The process ended, in whatever way.
    pub(crate) fn note_end(&mut self, has_disk: bool) {
        for (settled, undone) in self.settled.iter_mut().zip(&mut self.undone) {
            undone.append(settled);
        }
        self.in_flight.iter_mut().for_each(BTreeSet::clear);
        self.slices.clear();
        self.exhausted.clear();
        if !has_disk {
            (self.published, self.tally) = (None, Tally::new(self.takes.len()));
            self.records.clear();
        }
    }

    /// A disk was opened: everything that was promised from it must be there.
    pub(crate) fn note_recovered(&mut self, recovered: &Recovered, coverage: &mut Coverage) {
        let found: BTreeSet<RecordId> = recovered.stored.iter().map(|stored| stored.id).collect();
        let generation = recovered.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.generation);
        let durable_generation = self.durable.as_ref().map_or(0, |durable| durable.generation);
        assert!(generation >= durable_generation, "the durable checkpoint {durable_generation} is gone, {generation} was found");
        let position = self.snapshots.iter().rposition(|snapshot| snapshot.generation == generation);
        let (tally, moment) = match position.and_then(|position| self.snapshots.get(position)) {
            Some(snapshot) => (snapshot.tally.clone(), snapshot.moment),
            None => {
                assert_eq!(generation, 0, "a checkpoint was found that was never written");
                (Tally::new(self.takes.len()), 0)
            }
        };
        let settled_by = |id: RecordId, all: bool| {
            let Some(checkpoint) = &recovered.checkpoint else { return false };
            let mut settled = checkpoint.settled.iter().map(|(_, ranges)| ranges[id.class.index()].contains(id.sequence));
            if all { settled.all(|is_settled| is_settled) } else { settled.any(|is_settled| is_settled) }
        };
        for id in &self.kept {
            assert!(found.contains(id) || settled_by(*id, true), "{id:?} was durable, nobody settled it, and it is gone");
        }
        self.kept.retain(|id| found.contains(id));
        // Whoever reports a record has synced it.
        self.unsynced.clear();
        self.tally = tally;
        self.moment += 1;
        // A record of which a loss of power left a part was received, and is given up at once.
        self.torn += recovered.damaged.iter().map(|torn| torn.counts.total()).sum::<u64>();
        for stored in recovered.stored.iter().chain(&recovered.damaged) {
            self.lengths.insert(stored.id, u64::from(stored.bytes));
            let is_counted = self.counted.get(&stored.id).is_some_and(|at| *at <= moment);
            // The final flush stores what was counted long before; the checkpoint knows it if some destination needs it no more.
            if is_counted || settled_by(stored.id, false) {
                continue;
            }
            coverage.note(Sometimes::FoundUnacknowledged);
            tally::add(&mut self.tally.received, stored.signal, &stored.counts);
            if !self.takes.iter().any(|takes| takes.contains(&stored.signal)) {
                tally::add(&mut self.tally.filtered, stored.signal, &stored.counts);
            }
            self.counted.insert(stored.id, self.moment);
            if found.contains(&stored.id) {
                self.kept.insert(stored.id);
            }
            self.note_carried(stored.id, &stored.counts);
        }
        // Whatever was counted after the checkpoint and is not there will never be.
        self.counted.retain(|id, at| *at <= moment || found.contains(id));
        self.snapshots = VecDeque::from([Snapshot { generation, moment: self.moment, tally: self.tally.clone() }]);
        self.durable = recovered.checkpoint.clone();
    }

    /// The engine took over what was found.
    pub(crate) fn note_started(&mut self, books: &Books, published: &Books, has_disk: bool) {
        self.tally.compare(books);
        if has_disk {
            self.note_published(published);
        }
    }

    /// Nothing is held: whatever was promised has arrived, or a reason stands in the books.
    /// `is_whole` says that the books know of everything: without a disk they begin with the process.
    pub(crate) fn judge(&self, books: &Books, is_whole: bool) {
        self.tally.compare(books);
        let surplus = books.crash_volatile_bounds.1;
        for (index, book) in books.destinations.iter().enumerate() {
            let dropped = |wanted: &[DropReason]| -> u64 {
                let cells = book.cells.iter().flatten();
                cells.map(|cell| wanted.iter().map(|reason| cell.dropped[reason.index()]).sum::<u64>()).sum()
            };
            let corrupt = dropped(&[DropReason::Corrupt]);
            assert!(corrupt <= self.torn, "{} items were torn, and {corrupt} are said to be corrupt at {}", self.torn, book.name);
            let lost = |promise: Promise| -> u64 {
                let lost = self.units.iter().zip(&self.promises).filter(|(unit, promised)| {
                    let at = unit.number as usize;
                    let is_here = self.arrived[index][at] > 0 || self.rejected[index][at] || self.not_for[index][at];
                    **promised == promise && self.takes[index].contains(&unit.signal) && !is_here
                });
                lost.map(|(unit, _)| u64::from(unit.items())).sum()
            };
            let final_reasons = dropped(&[
                DropReason::RetryExhausted,
                DropReason::DiskError,
                DropReason::Expired,
                DropReason::Evicted,
                DropReason::DiskFull,
                DropReason::ConfigRemoved,
            ]);
            let durable = lost(Promise::Durable);
            assert!(durable <= final_reasons, "{durable} durable items never arrived at {}, {final_reasons} were dropped", book.name);
            let volatile = dropped(&[DropReason::CrashVolatile]).max(surplus) + dropped(&[DropReason::ForcedShutdown]) + corrupt;
            let all = durable + lost(Promise::Memory);
            assert!(
                !is_whole || all <= final_reasons + volatile,
                "{all} items never arrived at {}, {} were dropped",
                book.name,
                final_reasons + volatile
            );
        }
    }

    /// Whether all of these arrived wherever they had to.
    pub(crate) fn all_arrived(&self, units: &[Unit]) -> bool {
        units.iter().all(|unit| {
            let destinations = self.takes.iter().zip(&self.arrived);
            destinations.filter(|(takes, _)| takes.contains(&unit.signal)).all(|(_, arrived)| arrived[unit.number as usize] > 0)
        })
    }
}
