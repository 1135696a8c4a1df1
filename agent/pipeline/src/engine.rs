//! The engine itself: what it owns, and the two moves all others are made of: a record begins to be held, and a
//! destination settles it.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use vocabulary::{Class, ClassCounts, DropReason, Signal};

use crate::awaited::Awaited;
use crate::checkpoint::Cut;
use crate::dispatch::Destination;
use crate::doors::Doors;
use crate::drain_rate::DrainRate;
use crate::eviction::Searched;
use crate::expiry::Expiry;
use crate::lifecycle::{Lifecycle, Remaining};
use crate::moves::{HeldState, Settlement};
use crate::outage::Outages;
use crate::per_class::PerClass;
use crate::sorted::SortedMap;
use crate::space::{Size, Space, on_disk};
use crate::tenants::Tenants;
use crate::{Books, Broken, BufferMode, Config, Gauges, IdRanges, KernelBook, Origin, Phase, RecordId, Recovered, Tenant};

/// Where a held record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In memory alone: a crash takes it.
    Memory,
    /// In memory, and handed to the spool by the final flush.
    Flushing,
    /// On disk, and in memory too while the entry has its body.
    Disk,
}

/// A held record.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) body: Option<Bytes>,
    pub(crate) received_unix_ms: u64,
    pub(crate) arrived: Duration,
    pub(crate) counts: ClassCounts,
    pub(crate) bytes: u32,
    /// One bit per destination that has yet to settle it.
    pub(crate) unsettled: u16,
    pub(crate) signal: Signal,
    pub(crate) place: Place,
    pub(crate) tenant: Tenant,
}

/// What is held of one class.
#[derive(Debug)]
pub(crate) struct Lane {
    /// The id the next record gets.
    pub(crate) next_sequence: u64,
    pub(crate) entries: SortedMap<Entry>,
    /// Ids of held records that are on disk.
    pub(crate) stored: IdRanges,
    /// Ids that no destination needs.
    pub(crate) released: IdRanges,
}

/// A record the spool has yet to make durable; its room is reserved, and nothing of it is in the books.
#[derive(Debug)]
pub(crate) struct Storing {
    pub(crate) entry: Entry,
    pub(crate) origin: Origin,
    /// One bit per destination that does without it, because its share of the disk is full.
    pub(crate) skipped: u16,
    /// Whether it is to be synced later only.
    pub(crate) is_buffered: bool,
}

/// The pure heart of an agent: see the crate's page for the order of calls. Every method that takes `now` expects the
/// monotonic time since the engine's start; an earlier one than before counts as the latest seen.
#[derive(Debug)]
pub struct Pipeline {
    pub(crate) config: Config,
    pub(crate) now: Duration,
    pub(crate) space: Space,
    pub(crate) doors: Doors,
    pub(crate) tenants: Tenants,
    pub(crate) lanes: PerClass<Lane>,
    pub(crate) storing: PerClass<SortedMap<Storing>>,
    pub(crate) awaited: Awaited,
    /// Held records whose body is on disk alone, and that a configured destination waits for.
    pub(crate) down: u64,
    /// Held records in memory alone, and their items.
    pub(crate) volatile_records: u64,
    pub(crate) volatile_items: u64,
    /// Those configured and those removed, in the order of their bits. The first books of `books` and of `missed` are theirs.
    pub(crate) destinations: Vec<Destination>,
    /// Bits of the configured ones.
    pub(crate) configured: u16,
    pub(crate) searched: Searched,
    pub(crate) outages: Outages,
    pub(crate) drain: DrainRate,
    pub(crate) expiry: Expiry,
    pub(crate) refusals: u64,
    pub(crate) splits: u64,
    pub(crate) books: Books,
    /// What was received before a destination existed, per destination: the part of `received` it was never offered.
    pub(crate) missed: Vec<[[u64; Class::COUNT]; Signal::COUNT]>,
    pub(crate) published: Books,
    pub(crate) generation: u64,
    pub(crate) is_dirty: bool,
    pub(crate) cuts: VecDeque<Cut>,
    pub(crate) lifecycle: Lifecycle,
    /// Where the final flush goes on, per class.
    pub(crate) flush_cursor: PerClass<u64>,
}

impl Pipeline {
    /// A running engine. `recovered` is what the disk knew; none for mode `Memory`. Destinations beyond 16 are not served.
    #[must_use]
    pub fn new(mut config: Config, recovered: Option<Recovered>) -> Self {
        config.destinations.truncate(Config::DESTINATIONS_MAX);
        let books = Books::for_destinations(config.destinations.iter().map(|destination| destination.name.as_str()));
        let destinations: Vec<_> =
            config.destinations.iter().enumerate().map(|(index, destination)| Destination::new(index, destination, &config)).collect();
        let mut pipeline = Self {
            space: Space::new(&config),
            doors: Doors::default(),
            tenants: Tenants::new(&config),
            splits: 0,
            now: Duration::ZERO,
            lanes: PerClass(Class::ALL.map(|_| Lane {
                next_sequence: 1,
                entries: SortedMap::default(),
                stored: IdRanges::default(),
                released: IdRanges::default(),
            })),
            storing: PerClass::default(),
            awaited: Awaited::default(),
            down: 0,
            volatile_records: 0,
            volatile_items: 0,
            missed: vec![Default::default(); destinations.len()],
            configured: destinations.iter().fold(0, |bits, destination| bits | destination.bit),
            destinations,
            searched: Searched::default(),
            outages: Outages::default(),
            drain: DrainRate::default(),
            expiry: Expiry::new(config.max_age, 0),
            refusals: 0,
            published: books.clone(),
            books,
            generation: 0,
            is_dirty: config.mode != BufferMode::Memory,
            cuts: VecDeque::new(),
            lifecycle: Lifecycle::Running,
            flush_cursor: PerClass::default(),
            config,
        };
        if let Some(recovered) = recovered {
            pipeline.recover(recovered);
        }
        pipeline
    }

    /// The live books.
    #[must_use]
    pub const fn books(&self) -> &Books {
        &self.books
    }

    /// The numbers a user may see: with a disk those of the last durable checkpoint, so that they never step back.
    #[must_use]
    pub fn published(&self) -> &Books {
        if self.has_disk() { &self.published } else { &self.books }
    }

    /// Takes over the kernel's numbers. They are totals: a caller whose counters begin with the process adds them to what
    /// `books().kernel` said at its start.
    pub fn set_kernel(&mut self, book: KernelBook) {
        self.is_dirty |= book != self.books.kernel;
        self.books.kernel = book;
    }

    /// Levels at this instant.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let memory = self.space.memory();
        let oldest =
            self.lanes.iter().filter_map(|(_, lane)| lane.entries.first_key_value().map(|(_, entry)| entry.received_unix_ms)).min();
        Gauges {
            mode: self.config.mode,
            memory_bytes: memory.bytes,
            memory_bytes_max: self.config.memory.bytes,
            memory_items: memory.items,
            memory_items_max: self.config.memory.items,
            disk_bytes: self.space.disk_bytes(),
            disk_bytes_max: self.config.disk_bytes,
            held_records: self.lanes.iter().map(|(_, lane)| lane.entries.len() as u64).sum(),
            oldest_received_unix_ms: oldest,
            fill_permille: self.space.permille(),
            over_soft: self.space.is_over_soft(),
            closed: Signal::ALL.map(|signal| Class::ALL.map(|class| self.is_closed(signal, class))),
            waiting_requests: self.awaited.len() as u64,
            splits: self.splits,
            tenants: self.tenants.gauges(),
            phase: self.lifecycle.phase(),
            destinations: (0..)
                .zip(&self.destinations)
                .filter(|(index, each)| each.is_configured || each.holds_any() || self.space.shares.bytes(*index) > 0)
                .map(|(index, destination)| destination.gauge(self.space.shares.bytes(index)))
                .collect(),
            destination_disk_bytes_max: self.space.shares.bytes_max(),
        }
    }

    /// Verifies the identities of the live books, and that each destination was routed all it takes. Its cost depends on the
    /// number of destinations alone.
    ///
    /// # Errors
    /// The first identity that does not hold.
    pub fn check(&self) -> Result<(), Broken> {
        self.books.check()?;
        for ((destination, book), missed) in self.destinations.iter().zip(&self.books.destinations).zip(&self.missed) {
            for signal in Signal::ALL.into_iter().filter(|signal| destination.takes(*signal)) {
                self.books.check_routed(book, signal, crate::moves::row(missed, signal))?;
            }
        }
        Ok(())
    }

    /// Verifies what `check` does, and that what the books hold, and what each destination's share of the disk holds, is the sum
    /// over held records. Linear in held records.
    ///
    /// # Errors
    /// The first identity that does not hold.
    pub fn check_held(&self) -> Result<(), Broken> {
        self.check()?;
        for (destination, book) in self.destinations.iter().zip(&self.books.destinations) {
            let mut held = [[0_u64; Class::COUNT]; Signal::COUNT];
            let entries = self.lanes.iter().flat_map(|(_, lane)| lane.entries.values());
            for entry in entries.filter(|entry| entry.unsettled & destination.bit != 0) {
                crate::moves::add_counts(&mut held, entry.signal, &entry.counts);
            }
            for signal in Signal::ALL {
                book.check_held(signal, crate::moves::row(&held, signal))?;
            }
        }
        (0..self.destinations.len()).try_for_each(|index| self.check_share(index))?;
        self.tenants.all().try_for_each(|tenant| self.check_tenant(tenant))
    }

    fn check_tenant(&self, tenant: Tenant) -> Result<(), Broken> {
        let held = self.lanes.iter().flat_map(|(_, lane)| lane.entries.values());
        let all = held
            .chain(self.storing.iter().flat_map(|(_, storing)| storing.values()).map(|storing| &storing.entry))
            .filter(|entry| entry.tenant == tenant);
        let bytes = all.map(|entry| self.tenants.size(entry.bytes)).sum();
        crate::books::equal(|| format!("held bytes = sum over records of {tenant:?}"), self.tenants.bytes(tenant), bytes)
    }

    fn check_share(&self, index: usize) -> Result<(), Broken> {
        let held = self.lanes.iter().flat_map(|(_, lane)| lane.entries.values()).filter(|entry| entry.place == Place::Disk);
        let all = held.chain(self.storing.iter().flat_map(|(_, storing)| storing.values()).map(|storing| &storing.entry));
        let bytes = all.filter(|entry| entry.unsettled & 1 << index != 0).map(|entry| on_disk(u64::from(entry.bytes))).sum();
        crate::books::equal(
            || format!("share of the disk = sum over records of destination {index}"),
            self.space.shares.bytes(index),
            bytes,
        )
    }

    /// Ranges that a checkpoint would list.
    pub(crate) fn checkpoint_ranges(&self) -> u64 {
        let stored = self.lanes.iter().map(|(_, lane)| lane.stored.len());
        let settled = self.destinations.iter().flat_map(|destination| destination.queues.iter().map(|(_, queue)| queue.settled.len()));
        stored.chain(settled).map(|ranges| ranges as u64).sum()
    }

    pub(crate) fn has_disk(&self) -> bool {
        self.config.mode != BufferMode::Memory
    }

    /// Time never runs backwards in here, and makes what waits too old, or due to be looked at.
    pub(crate) fn observe(&mut self, now: Duration) {
        self.now = self.now.max(now);
        self.space.observe(self.now);
        self.drop_expired();
        self.look_at_outages();
    }

    /// Bits of the destinations that take the signal.
    pub(crate) fn route(&self, signal: Signal) -> u16 {
        self.destinations.iter().filter(|destination| destination.takes(signal)).fold(0, |bits, destination| bits | destination.bit)
    }

    pub(crate) fn next_id(&mut self, class: Class) -> RecordId {
        let lane = &mut self.lanes[class];
        let sequence = lane.next_sequence;
        lane.next_sequence += 1;
        RecordId { class, sequence }
    }

    /// A counted record begins to be held by the destinations of its bits; the others need it no more, for those of `skipped` it
    /// is dropped at once.
    pub(crate) fn hold(&mut self, id: RecordId, entry: Entry, skipped: u16) {
        let state = entry.waiting_state();
        for (index, (destination, book)) in self.destinations.iter_mut().zip(&mut self.books.destinations).enumerate() {
            if entry.unsettled & destination.bit == 0 {
                destination.queues[id.class].settled.insert(id.sequence);
                if skipped & destination.bit != 0 {
                    book.turn_down(entry.signal, &entry.counts, DropReason::DiskFull);
                } else if destination.takes(entry.signal)
                    && let Some(missed) = self.missed.get_mut(index)
                {
                    // It came to take the signal after the record was offered.
                    crate::moves::add_counts(missed, entry.signal, &entry.counts);
                }
                continue;
            }
            self.searched.look_again(index, id);
            self.outages.look_again(index, id);
            book.take_on(entry.signal, &entry.counts, state);
            destination.enqueue(id);
            if entry.place == Place::Memory {
                crate::moves::add_counts(&mut destination.volatile, entry.signal, &entry.counts);
            }
        }
        let unsettled = entry.unsettled;
        self.keep(id, entry);
        self.drop_if_removed(id, unsettled);
    }

    /// Puts an entry, whose items the books hold already, among the held ones.
    pub(crate) fn keep(&mut self, id: RecordId, entry: Entry) {
        self.down += u64::from(entry.is_down(self.configured));
        self.expiry.watch(self.now, &entry);
        let lane = &mut self.lanes[id.class];
        if entry.place == Place::Disk {
            lane.stored.insert(id.sequence);
        } else {
            self.volatile_records += 1;
            self.volatile_items += entry.counts.total();
        }
        lane.entries.insert(id.sequence, entry);
        self.is_dirty = true;
    }

    /// One destination needs the record no more. `from` is the state its items leave.
    pub(crate) fn settle(&mut self, index: usize, id: RecordId, from: HeldState, how: Settlement) {
        let lane = &mut self.lanes[id.class];
        let Some(found) = lane.entries.find(&id.sequence) else { return };
        let (Some(destination), Some(book), Some(entry)) =
            (self.destinations.get_mut(index), self.books.destinations.get_mut(index), lane.entries.at_mut(found))
        else {
            return;
        };
        let how = destination.close(id, how);
        book.settle(entry.signal, &entry.counts, from, how);
        self.awaited.note(id, destination.bit, &entry.counts, how);
        if entry.place == Place::Disk {
            self.space.shares.give(destination.bit, u64::from(entry.bytes));
        } else {
            crate::moves::subtract_counts(&mut destination.volatile, entry.signal, &entry.counts);
        }
        destination.queues[id.class].settled.insert(id.sequence);
        let was_down = entry.is_down(self.configured);
        entry.unsettled &= !destination.bit;
        self.down -= u64::from(was_down) - u64::from(entry.is_down(self.configured));
        self.is_dirty = true;
        if entry.unsettled != 0 {
            self.lower_if_only_stuck_wait(id);
        } else if let Some(entry) = lane.entries.remove_at(found) {
            lane.stored.remove(id.sequence);
            lane.released.insert(id.sequence);
            self.drain.note(self.now, u64::from(entry.bytes));
            self.tenants.give(entry.tenant, entry.bytes);
            self.give_back(id, &entry);
        }
    }

    /// Returns the room of a record that is held no more.
    fn give_back(&mut self, id: RecordId, entry: &Entry) {
        if entry.body.is_some() {
            self.space.give_memory(id.class, entry.size());
        }
        if entry.place == Place::Disk {
            self.space.give_disk(u64::from(entry.bytes));
        } else {
            self.volatile_records -= 1;
            self.volatile_items -= entry.counts.total();
        }
    }

    /// A record on disk that only failing or removed destinations wait for leaves memory to those who can use it.
    pub(crate) fn lower_if_only_stuck_wait(&mut self, id: RecordId) {
        let Some(entry) = self.lanes[id.class].entries.get_mut(&id.sequence) else { return };
        let waits = |destination: &Destination| entry.unsettled & destination.bit != 0;
        if entry.place != Place::Disk || entry.body.is_none() || self.destinations.iter().any(|each| waits(each) && !each.is_stuck()) {
            return;
        }
        for (destination, book) in self.destinations.iter().zip(&mut self.books.destinations) {
            if waits(destination) && !destination.is_in_flight(id) && !destination.is_retrying(id) {
                book.shift(entry.signal, &entry.counts, HeldState::Queued, HeldState::OnDisk);
            }
        }
        entry.body = None;
        self.down += u64::from(entry.is_down(self.configured));
        let size = entry.size();
        self.space.give_memory(id.class, size);
    }

    /// Gives a record up for every destination that still waits for it.
    pub(crate) fn give_up(&mut self, id: RecordId, reason: DropReason) {
        for index in 0..self.destinations.len() {
            self.give_up_for(index, id, reason);
        }
    }

    /// Gives a record up for one destination, if it waits for it.
    pub(crate) fn give_up_for(&mut self, index: usize, id: RecordId, reason: DropReason) {
        let Some(entry) = self.lanes[id.class].entries.get(&id.sequence) else { return };
        let Some(destination) = self.destinations.get_mut(index) else { return };
        if entry.unsettled & destination.bit == 0 {
            return;
        }
        let from = if destination.is_in_flight(id) {
            HeldState::InFlight
        } else if destination.is_retrying(id) {
            HeldState::WaitingRetry
        } else {
            entry.waiting_state()
        };
        destination.forget(id);
        self.settle(index, id, from, Settlement::Dropped(reason));
    }

    pub(crate) fn remaining(&self) -> Remaining {
        let sending = match self.config.mode {
            BufferMode::Memory => self
                .destinations
                .iter()
                .any(|destination| destination.is_any_in_flight() || destination.is_configured && destination.holds_any()),
            BufferMode::Spill | BufferMode::Mirror => self.destinations.iter().any(|destination| !destination.is_at_rest()),
            BufferMode::Archive => false,
        };
        Remaining {
            storing: self.storing.iter().any(|(_, storing)| !storing.is_empty()),
            waiting: self.awaited.len() > 0,
            sending,
            volatile: self.volatile_records > 0,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.lifecycle.phase()
    }
}

impl Entry {
    /// The state of a record that waits and was not tried yet.
    pub(crate) const fn waiting_state(&self) -> HeldState {
        if self.body.is_some() { HeldState::Queued } else { HeldState::OnDisk }
    }

    /// Whether its body is on disk alone and one of these destinations waits for it.
    pub(crate) const fn is_down(&self, configured: u16) -> bool {
        self.body.is_none() && self.unsettled & configured != 0
    }

    pub(crate) fn size(&self) -> Size {
        Size { bytes: u64::from(self.bytes), items: self.counts.total() }
    }
}
