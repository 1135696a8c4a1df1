//! How items that a destination finds bad leave the engine's hands: the shell copies them out of the record, and only then the record
//! settles there. And how they are known again at a start, when the files say what is held.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use vocabulary::{Class, ClassCounts, DropReason, Signal};

use crate::moves::{HeldState, ItemTable, Rest, Settlement, row};
use crate::reconfigure::REMOVED_BOOKS_MAX;
use crate::{Checkpoint, DestinationBook, DestinationIndex, Pipeline, RecordId};

/// Items to be copied out of a record and kept where they pin nothing; ends in `handle_set_aside`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Which destination finds them bad.
    pub destination: DestinationIndex,
    /// Its configured name.
    pub name: String,
    /// The record.
    pub id: RecordId,
    /// The one signal of its items.
    pub signal: Signal,
    /// The bad items by class.
    pub counts: ClassCounts,
    /// Items of the record that the destination rejected in partial success, by class; they are not among the bad ones.
    pub rejected: ClassCounts,
    /// Why the bad ones are.
    pub reason: DropReason,
    /// When the record was accepted, in milliseconds since the Unix epoch.
    pub received_unix_ms: u64,
    /// Which items, numbered from 0 in the order they stand, ascending; none means all.
    pub items: Vec<Range<u32>>,
    /// The encoded record; none means that it is to be read from the spool.
    pub body: Option<Bytes>,
}

/// What became of items that were to be copied out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// They are durable: held as quarantined from here on.
    Stored,
    /// There is no room for them: dropped for the reason they are bad.
    Full,
    /// The spool could not read the record back: dropped as `Corrupt`.
    Unreadable,
    /// The disk failed. They wait as a record does that cannot be read back, and are dropped as `DiskError` at the eighth fault.
    LocalFault,
}

/// Items in quarantine, as their file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Name of the destination that finds them bad.
    pub destination: String,
    /// The record they were a part of.
    pub id: RecordId,
    /// The one signal of its items.
    pub signal: Signal,
    /// They themselves, by class.
    pub counts: ClassCounts,
    /// Other items of the record, which the destination rejected in partial success, by class.
    pub rejected: ClassCounts,
}

/// What the search of a record came to.
pub(crate) struct FoundBad {
    pub(crate) counts: ClassCounts,
    pub(crate) rejected: ClassCounts,
    /// None listed means all.
    pub(crate) items: Vec<Range<u32>>,
    pub(crate) reason: DropReason,
}

impl Pipeline {
    /// The next items to be copied out, or none.
    pub fn poll_set_aside(&mut self, now: Duration) -> Option<SetAside> {
        self.observe(now);
        let (index, id, destination) = (0_u8..).zip(&mut self.destinations).find_map(|(index, destination)| {
            let id = destination.choose_aside(self.now)?;
            Some((index, id, destination))
        })?;
        let entry = self.lanes[id.class].entries.get(&id.sequence)?;
        let FoundBad { counts, rejected, items, reason } = destination.found_bad(id, &entry.counts)?;
        Some(SetAside {
            destination: DestinationIndex(index),
            name: destination.name().to_owned(),
            id,
            signal: entry.signal,
            counts,
            rejected,
            reason,
            received_unix_ms: entry.received_unix_ms,
            items,
            body: entry.body.clone(),
        })
    }

    /// What became of items that were to be copied out. Whether they are held in quarantine: not if they were not asked for, or were
    /// given up meanwhile because the engine was forced to end; then a copy is to be deleted, because the books count them as dropped.
    pub fn handle_set_aside(&mut self, now: Duration, destination: DestinationIndex, id: RecordId, copied: Copied) -> bool {
        self.observe(now);
        let index = usize::from(destination.0);
        let Some(state) = self.destinations.get_mut(index) else { return false };
        let Some(flight) = state.aside(id) else { return false };
        let bit = state.bit;
        let how = match copied {
            Copied::Stored => Settlement::Quarantined,
            Copied::Full => Settlement::Dropped(state.reason(id)),
            Copied::Unreadable => Settlement::Dropped(DropReason::Corrupt),
            Copied::LocalFault if state.rest(self.now, id, flight) => {
                self.searched.look_again(index, id);
                if let Some(entry) = self.lanes[id.class].entries.get(&id.sequence) {
                    self.expiry.watch(self.now, entry);
                }
                self.drop_if_removed(id, bit);
                return false;
            }
            Copied::LocalFault => Settlement::Dropped(DropReason::DiskError),
        };
        state.forget(id);
        self.settle(index, id, HeldState::WaitingRetry, how);
        copied == Copied::Stored
    }

    /// Somebody took items out of quarantine: `is_replayed` if their destination has them now, else they are given up as `Rejected`.
    pub fn handle_taken_out(&mut self, taken: &Quarantined, is_replayed: bool) {
        if let Some(book) = self.books.destinations.iter_mut().find(|book| book.name == taken.destination) {
            book.take_out(taken.signal, &taken.counts, is_replayed);
            self.is_dirty = true;
        }
    }

    /// How many checkpoints were handed out, across restarts.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// The files say what is in quarantine; `known` is what the checkpoint's books said, per destination.
    pub(crate) fn recover_quarantine(&mut self, checkpoint: Option<&Checkpoint>, found: &[Quarantined], mut known: Vec<ItemTable>) {
        for aside in found {
            let Some(position) = self.book_of(&aside.destination) else { continue };
            known.resize(self.books.destinations.len(), ItemTable::default());
            let settled = checkpoint.and_then(|checkpoint| checkpoint.settled.iter().find(|(name, _)| *name == aside.destination));
            // A destination that the checkpoint does not list was removed, and held nothing but its quarantine.
            let is_settled =
                settled.is_none_or(|(_, classes)| classes.get(aside.id.class.index()).is_some_and(|ids| ids.contains(aside.id.sequence)));
            let is_known = is_settled && known.get_mut(position).is_some_and(|known| take_known(known, aside));
            if !is_known && !self.settle_aside(position, aside) {
                self.receive_aside(position, aside);
            } else if let Some(book) = self.books.destinations.get_mut(position).filter(|_| is_known) {
                book.hold_quarantined(aside.signal, &aside.counts);
            }
        }
        for (book, lost) in self.books.destinations.iter_mut().zip(&known) {
            book.lose_quarantined(lost);
        }
    }

    /// The position of the books of this name; a destination that came and left between two checkpoints gets some, if there is room.
    fn book_of(&mut self, name: &str) -> Option<usize> {
        let books = &mut self.books.destinations;
        let known = books.iter().position(|book| book.name == name);
        if known.is_none() && books.len() < self.destinations.len() + REMOVED_BOOKS_MAX {
            books.push(DestinationBook::new(name));
            return Some(books.len() - 1);
        }
        known
    }

    /// A record that waits although its file is there: the process ended between the file and the checkpoint. Whether there is one.
    fn settle_aside(&mut self, position: usize, aside: &Quarantined) -> bool {
        let Some(entry) = self.lanes[aside.id.class].entries.get(&aside.id.sequence) else { return false };
        let Some(destination) = self.destinations.get_mut(position).filter(|destination| entry.unsettled & destination.bit != 0) else {
            return false;
        };
        let (from, mut delivered) = (entry.waiting_state(), entry.counts);
        for class in Class::ALL {
            delivered[class] = delivered[class].saturating_sub(aside.counts[class]).saturating_sub(aside.rejected[class]);
        }
        destination.forget(aside.id);
        let how = Settlement::Parts { delivered, rejected: aside.rejected, rest: Rest::Quarantined };
        self.settle(position, aside.id, from, how);
        true
    }

    /// Items whose record is gone and whose file is there: memory alone held it. They are received anew, by this destination alone.
    fn receive_aside(&mut self, position: usize, aside: &Quarantined) {
        self.books.receive(aside.signal, &aside.counts);
        if let Some(book) = self.books.destinations.get_mut(position) {
            book.receive_quarantined(aside.signal, &aside.counts);
        }
        for (other, missed) in self.missed.iter_mut().enumerate().filter(|(other, _)| *other != position) {
            if self.destinations.get(other).is_some_and(|destination| destination.takes(aside.signal)) {
                crate::moves::add_counts(missed, aside.signal, &aside.counts);
            }
        }
    }
}

/// Takes a file's items out of what the books said, if they are all in it.
fn take_known(known: &mut ItemTable, aside: &Quarantined) -> bool {
    let items = aside.counts.0.map(u64::from);
    let is_known = row(known, aside.signal).iter().zip(items).all(|(known, items)| *known >= items);
    if is_known {
        crate::moves::subtract_counts(known, aside.signal, &aside.counts);
    }
    is_known
}

/// What is left of the counts of a record without what was taken of it.
pub(crate) fn remainder(counts: &ClassCounts, taken: &[ClassCounts; 2]) -> ClassCounts {
    let mut left = *counts;
    for class in Class::ALL {
        left[class] = taken.iter().fold(left[class], |left, taken| left.saturating_sub(taken[class]));
    }
    left
}
