//! What the spool persists, and what becomes true once it has: published numbers, deletable ids, and how much
//! memory-only intake may still take on.

use vocabulary::{Class, Signal};

use crate::{Acknowledge, Books, BufferMode, Checkpoint, Held, IdRanges, Phase, Pipeline};

/// Most items memory-only intake may take on between two durable checkpoints; it bounds what a crash can hide. Five
/// checkpoints per second at this many items are above a million items per second.
const VOLATILE_ALLOWANCE: u64 = 1 << 18;
/// Ranges of ids in a checkpoint from which intake waits, three quarters of what a slot on disk holds. Records of signals that
/// go to different destinations cost a range each while one of those is dead. The last quarter is for what a window settles
/// out of order.
pub const CHECKPOINT_RANGES_MAX: u64 = 3 << 18;
/// Checkpoints that may be on their way to the disk at once; an older one is forgotten, which delays what it would prove.
const CUTS_MAX: usize = 4;

/// A checkpoint that was handed out and is not durable yet.
#[derive(Debug)]
pub(crate) struct Cut {
    generation: u64,
    books: Books,
    released: [IdRanges; Class::COUNT],
    volatile_ceiling: u64,
}

impl Pipeline {
    /// What the spool must persist now.
    pub fn checkpoint(&mut self) -> Checkpoint {
        self.generation += 1;
        self.is_dirty = false;
        let allowance = self.volatile_allowance();
        if self.cuts.len() == CUTS_MAX {
            self.cuts.pop_front();
        }
        self.cuts.push_back(Cut {
            generation: self.generation,
            books: self.books.clone(),
            released: self.lanes.0.each_ref().map(|lane| lane.released.clone()),
            volatile_ceiling: self.space.volatile_total() + allowance,
        });
        Checkpoint {
            generation: self.generation,
            books: self.books_by_place(),
            settled: self
                .destinations
                .iter()
                .map(|destination| (destination.name.clone(), destination.queues.0.each_ref().map(|queue| queue.settled.clone())))
                .collect(),
            stored: self.lanes.0.each_ref().map(|lane| lane.stored.clone()),
            next_sequence: self.lanes.0.each_ref().map(|lane| lane.next_sequence),
            volatile_ceiling: self.volatile_items + self.buffered_items() + allowance,
        }
    }

    /// Whether something changed that no durable checkpoint says. Never in mode `Memory`.
    #[must_use]
    pub fn is_checkpoint_due(&self) -> bool {
        self.has_disk() && (self.is_dirty || !self.cuts.is_empty())
    }

    /// A checkpoint is durable: its books become the published ones. Returns, per class, the ids that no destination needs
    /// and that are recorded as such, whose segments may be deleted; nothing for a generation that is not awaited.
    pub fn handle_checkpointed(&mut self, generation: u64) -> [IdRanges; Class::COUNT] {
        let Some(position) = self.cuts.iter().position(|cut| cut.generation == generation) else { return Default::default() };
        let Some(cut) = self.cuts.drain(..=position).next_back() else { return Default::default() };
        self.published = cut.books;
        self.space.set_volatile_ceiling(cut.volatile_ceiling);
        cut.released
    }

    /// Items that will be stored without a sync after this checkpoint, although they were taken in before it.
    fn buffered_items(&self) -> u64 {
        self.storing
            .iter()
            .flat_map(|(_, storing)| storing.values())
            .filter(|storing| storing.is_buffered)
            .map(|storing| storing.entry.counts.total())
            .sum()
    }

    /// Intake that a crash may take exists in mode `Spill`, and where what goes to disk is synced later, until inputs have stopped.
    fn volatile_allowance(&self) -> u64 {
        let may_be_lost = self.config.mode == BufferMode::Spill || self.config.acknowledge == Acknowledge::OsBuffered;
        let is_open = may_be_lost && self.phase() <= Phase::DrainingInputs;
        if is_open { VOLATILE_ALLOWANCE.min(self.config.memory.items) } else { 0 }
    }

    /// The books with what is held sorted by where it lies instead of by what happens to it.
    fn books_by_place(&self) -> Books {
        let mut books = self.books.clone();
        for (destination, book) in self.destinations.iter().zip(&mut books.destinations) {
            for (signal, row) in Signal::ALL.into_iter().zip(&mut book.cells) {
                for (cell, volatile) in row.iter_mut().zip(crate::moves::row(&destination.volatile, signal)) {
                    let quarantined = cell.held.quarantined;
                    let on_disk = cell.held.total().saturating_sub(quarantined + *volatile);
                    cell.held = Held { queued: *volatile, on_disk, quarantined, ..Held::default() };
                }
            }
        }
        books
    }
}
