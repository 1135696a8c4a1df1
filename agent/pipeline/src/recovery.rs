//! What a start makes of what the disk knew. A record is one of:
//!
//! - *settled*: the checkpoint knows that no destination needs it, so it is ignored;
//! - *held*: the checkpoint names it as stored, or as settled for some destination, so its items are in the books already;
//! - *new*: the checkpoint does not know it. It was never acknowledged, or after the checkpoint: it is received from here on,
//!   and dropped as `Corrupt` at once if damage took it.
//!
//! What lies in quarantine is what its files say: its record is settled there, whether or not a checkpoint had come to know it.
//!
//! What the books held beyond the records found is gone: `CrashVolatile` if memory held it, `Corrupt` if the disk did,
//! `ConfigRemoved` if its destination is configured no more and policy is to drop that.

use std::time::Duration;

use vocabulary::{Class, DropReason};

use crate::dispatch::Destination;
use crate::engine::{Entry, Place};
use crate::expiry::Expiry;
use crate::moves::{DestinationCells, Settlement};
use crate::{
    Books, Checkpoint, Config, DestinationBook, IdRanges, OnRemoved, Pipeline, Quarantined, RecordId, Recovered, Standing, Stored, Tenant,
};

/// Ids skipped at a start: more than memory-only intake can have used since a checkpoint (`VOLATILE_ALLOWANCE`), even if the
/// newest checkpoint was lost and an older one counts. So no id is used twice.
const SKIPPED_IDS: u64 = 1 << 20;

/// What the checkpoint says of a record.
enum Known {
    Settled,
    /// Bits of the destinations that still need it.
    Held {
        bits: u16,
        was_stored: bool,
    },
    New,
}

impl Pipeline {
    pub(crate) fn recover(&mut self, recovered: Recovered) {
        let Recovered { checkpoint, mut stored, damaged, next_sequence, quarantined, unix_ms } = recovered;
        self.expiry = Expiry::new(self.config.max_age, unix_ms);
        let next = first_free(checkpoint.as_ref(), &stored, quarantined.as_deref().unwrap_or_default(), next_sequence);
        if !damaged.is_empty() {
            // Held like the others until it is known which of it lies in quarantine.
            stored.extend_from_slice(&damaged);
            stored.sort_by_key(|record| record.id);
        }
        let mut fresh = Vec::new();
        if let Some(checkpoint) = &checkpoint {
            self.keep_removed(checkpoint);
            let mut expected = self.adopt_books(checkpoint);
            for record in stored {
                match self.look_up(checkpoint, record.id) {
                    Known::Settled => {}
                    Known::Held { bits, was_stored } => self.hold_again(&record, bits, was_stored, &mut expected),
                    Known::New => fresh.push(record),
                }
            }
            self.write_off(&expected);
            self.generation = checkpoint.generation;
        } else {
            fresh = stored;
        }
        self.missed = self.books.destinations.iter().take(self.destinations.len()).map(|book| self.books.never_offered(book)).collect();
        for record in fresh {
            self.receive_found(&record);
        }
        if let Some(found) = quarantined {
            let known = self.books.destinations.iter_mut().map(crate::DestinationBook::take_quarantined).collect();
            self.recover_quarantine(checkpoint.as_ref(), &found, known);
        }
        damaged.iter().for_each(|record| self.give_up_damaged(record.id));
        for (class, lane) in Class::ALL.into_iter().zip(&mut self.lanes.0) {
            lane.next_sequence = next.get(class.index()).copied().unwrap_or(1);
        }
        self.settle_gaps();
        for destination in &mut self.destinations {
            destination.begin_replay(self.now, &self.lanes);
        }
        self.published = self.books.clone();
        // Published with the next checkpoint only: a start after another crash may find room, and evict less.
        self.evict_excess();
        self.is_dirty = true;
    }

    /// Destinations that are configured no more and held something outside the quarantine are known again as removed, if policy is to
    /// keep that. For those beyond the most the engine knows there is no index: what they held is dropped as `ConfigRemoved`.
    fn keep_removed(&mut self, checkpoint: &Checkpoint) {
        if self.config.on_removed == OnRemoved::Drop {
            return;
        }
        let holds = |book: &&DestinationBook| book.cells.iter().flatten().any(|cell| cell.held.total() > cell.held.quarantined);
        for book in checkpoint.books.destinations.iter().filter(holds) {
            let index = self.destinations.len();
            if index < Config::DESTINATIONS_MAX && !self.destinations.iter().any(|destination| destination.name == book.name) {
                self.destinations.push(Destination::removed(index, &book.name, &self.config));
                self.books.destinations.push(DestinationBook::new(&book.name));
                self.space.shares.remove(index);
            }
        }
    }

    /// Takes over the checkpoint's totals, with nothing held; returns what was, per destination.
    fn adopt_books(&mut self, checkpoint: &Checkpoint) -> Vec<DestinationCells> {
        let Books { inputs, destinations, kernel, requests_refused, crash_volatile_bounds } = checkpoint.books.clone();
        (self.books.inputs, self.books.requests_refused) = (inputs, requests_refused);
        self.books.kernel = kernel;
        let (low, high) = crash_volatile_bounds;
        self.books.crash_volatile_bounds = (low, high.saturating_add(checkpoint.volatile_ceiling));
        let mut expected = vec![DestinationCells::default(); self.destinations.len()];
        for mut old in destinations {
            let held = old.take_held();
            if let Some(index) = self.destinations.iter().position(|destination| destination.name == old.name) {
                if let (Some(book), Some(slot)) = (self.books.destinations.get_mut(index), expected.get_mut(index)) {
                    *book = old;
                    *slot = held;
                }
                continue;
            }
            old.write_off(&held, DropReason::ConfigRemoved);
            self.remember(old);
        }
        expected
    }

    fn look_up(&self, checkpoint: &Checkpoint, id: RecordId) -> Known {
        match checkpoint.standing(id) {
            Standing::Settled => Known::Settled,
            Standing::New => Known::New,
            Standing::Held { needing, was_stored } => {
                let names = checkpoint.settled.iter().map(|(name, _)| name);
                let needing = names.enumerate().filter(|(position, _)| needing & (1 << position) != 0);
                let bit =
                    |name: &String| self.destinations.iter().find(|destination| destination.name == *name).map_or(0, |known| known.bit);
                Known::Held { bits: needing.fold(0, |bits, (_, name)| bits | bit(name)), was_stored }
            }
        }
    }

    /// A record whose items the books already know goes on being held.
    fn hold_again(&mut self, record: &Stored, bits: u16, was_stored: bool, expected: &mut [DestinationCells]) {
        if bits == 0 {
            return;
        }
        let entry = entry_of(record, bits);
        for ((destination, book), expected) in self.destinations.iter_mut().zip(&mut self.books.destinations).zip(expected) {
            if bits & destination.bit != 0 {
                book.find_again(entry.signal, &entry.counts, was_stored, expected);
                destination.enqueue(record.id);
            }
        }
        self.space.take_disk(u64::from(record.bytes), bits);
        self.tenants.take(Tenant::NOBODY, record.bytes);
        self.keep(record.id, entry);
    }

    /// What the books held and the disk has not is gone.
    fn write_off(&mut self, expected: &[DestinationCells]) {
        for (book, expected) in self.books.destinations.iter_mut().zip(expected) {
            book.write_off(expected, DropReason::Corrupt);
        }
    }

    /// A record that no checkpoint knows: its client was not told, or will not be told again, so it counts from here on.
    fn receive_found(&mut self, record: &Stored) {
        self.books.receive(record.signal, &record.counts);
        let bits = self.route(record.signal);
        if bits == 0 {
            self.books.filter(record.signal, &record.counts);
            return;
        }
        self.space.take_disk(u64::from(record.bytes), bits);
        self.tenants.take(Tenant::NOBODY, record.bytes);
        self.hold(record.id, entry_of(record, bits), 0);
    }

    /// What nobody can read any more and no file in quarantine holds is dropped.
    fn give_up_damaged(&mut self, id: RecordId) {
        for position in 0..self.destinations.len() {
            let Some(entry) = self.lanes[id.class].entries.get(&id.sequence) else { return };
            let from = entry.waiting_state();
            if let Some(destination) = self.destinations.get_mut(position).filter(|destination| entry.unsettled & destination.bit != 0) {
                destination.forget(id);
                self.settle(position, id, from, Settlement::Dropped(DropReason::Corrupt));
            }
        }
    }

    /// Every id below the next one that is not held is needed by nobody.
    fn settle_gaps(&mut self) {
        for (class, lane) in Class::ALL.into_iter().zip(&mut self.lanes.0) {
            lane.released = complement(lane.entries.keys().copied(), lane.next_sequence);
            for destination in &mut self.destinations {
                let bit = destination.bit;
                let needed = lane.entries.iter().filter(|(_, entry)| entry.unsettled & bit != 0).map(|(&sequence, _)| sequence);
                destination.queues[class].settled = complement(needed, lane.next_sequence);
            }
        }
    }
}

/// Per class, the first id that no process can have used.
fn first_free(
    checkpoint: Option<&Checkpoint>,
    stored: &[Stored],
    quarantined: &[Quarantined],
    seen: [u64; Class::COUNT],
) -> [u64; Class::COUNT] {
    let mut next = checkpoint.map_or([1; Class::COUNT], |checkpoint| checkpoint.next_sequence);
    if checkpoint.is_none() && stored.is_empty() && quarantined.is_empty() && seen.iter().all(|&seen| seen <= 1) {
        return next;
    }
    for (next, seen) in next.iter_mut().zip(seen) {
        *next = (*next).max(seen);
    }
    for id in stored.iter().map(|record| record.id).chain(quarantined.iter().map(|aside| aside.id)) {
        if let Some(next) = next.get_mut(id.class.index()) {
            *next = (*next).max(id.sequence.saturating_add(1));
        }
    }
    next.map(|next| next.saturating_add(SKIPPED_IDS))
}

fn entry_of(record: &Stored, unsettled: u16) -> Entry {
    Entry {
        body: None,
        received_unix_ms: record.received_unix_ms,
        arrived: Duration::ZERO,
        counts: record.counts,
        bytes: record.bytes,
        unsettled,
        signal: record.signal,
        place: Place::Disk,
        tenant: Tenant::NOBODY,
    }
}

/// The numbers from 1 to `next` - 1 without those in `present`, which ascend.
pub(crate) fn complement(present: impl Iterator<Item = u64>, next: u64) -> IdRanges {
    let mut ranges = IdRanges::default();
    let mut from = 1;
    for sequence in present {
        ranges.insert_range(from, sequence.saturating_sub(1));
        from = sequence.saturating_add(1);
    }
    ranges.insert_range(from, next.saturating_sub(1));
    ranges
}
