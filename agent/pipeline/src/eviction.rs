//! What happens when a destination's share of the disk is full and intake goes on: the destination alone gives up its oldest
//! record of the lowest class, or does without the new one.

use std::time::Duration;

use vocabulary::{Class, DropReason};

use crate::engine::Place;
use crate::per_class::PerClass;
use crate::shares::WhenFull;
use crate::{Config, Pipeline, RecordId};

/// Where the search for the oldest record on disk goes on, per destination and class: nothing below can be evicted, so that a
/// flood of evictions reads each record once.
#[derive(Debug, Default)]
pub(crate) struct Searched([PerClass<u64>; Config::DESTINATIONS_MAX]);

impl Searched {
    /// Another destination has the index.
    pub(crate) fn forget(&mut self, index: usize) {
        if let Some(from) = self.0.get_mut(index) {
            *from = PerClass::default();
        }
    }

    /// A record may be evicted that could not be before.
    pub(crate) fn look_again(&mut self, index: usize, id: RecordId) {
        if let Some(from) = self.0.get_mut(index) {
            from[id.class] = from[id.class].min(id.sequence);
        }
    }
}

impl Pipeline {
    /// Finds room on disk for a record in the shares of the destinations in `route` that do not refuse. Returns the bits of those
    /// that take it on, the refusing ones among them, whose room was taken when the request was decided.
    pub(crate) fn share_out(&mut self, route: u16, class: Class, bytes: u64) -> u16 {
        let mut kept = route;
        for index in 0..self.destinations.len() {
            let bit = 1 << index;
            if route & bit == 0 {
                continue;
            }
            let is_taken = match self.space.shares.when_full(index) {
                WhenFull::Refuse => continue,
                WhenFull::Skip => self.has_room(index, class, bytes),
                WhenFull::Evict => self.make_room(index, class, bytes),
            };
            if is_taken {
                self.space.shares.take(bit, bytes);
            } else {
                kept &= !bit;
            }
        }
        kept
    }

    /// Evicts until a record of this class fits. Whether it does: what is more important stays, and so does what is on its way.
    fn make_room(&mut self, index: usize, class: Class, bytes: u64) -> bool {
        while !self.has_room(index, class, bytes) {
            let Some(victim) = self.victim(index, class) else { return false };
            self.give_up_for(index, victim, DropReason::Evicted);
        }
        true
    }

    fn has_room(&self, index: usize, class: Class, bytes: u64) -> bool {
        self.space.shares.has_room(index, class, bytes, self.ranges_of(index))
    }

    /// The log refuses a record of this class although the shares have room, because space there comes back in pieces: every destination
    /// that evicts gives up so many bytes of what matters no more, oldest of the lowest class first. Whether any did.
    pub fn handle_log_full(&mut self, now: Duration, class: Class, bytes: u64) -> bool {
        self.observe(now);
        let mut has_evicted = false;
        for index in 0..self.destinations.len() {
            let most = self.space.shares.bytes(index).saturating_sub(bytes);
            while self.space.shares.when_full(index) == WhenFull::Evict && self.space.shares.bytes(index) > most {
                let Some(victim) = self.victim(index, class) else { break };
                self.give_up_for(index, victim, DropReason::Evicted);
                has_evicted = true;
            }
        }
        has_evicted
    }

    /// Brings every destination that evicts back within its share, after shares became smaller.
    pub(crate) fn evict_excess(&mut self) {
        for index in 0..self.destinations.len() {
            while self.space.shares.when_full(index) == WhenFull::Evict && self.space.shares.is_over(index, self.ranges_of(index)) {
                let Some(victim) = self.victim(index, Class::Critical) else { break };
                self.give_up_for(index, victim, DropReason::Evicted);
            }
        }
    }

    /// The oldest record on disk that waits for this destination, of the lowest class that has one, down from what matters least
    /// to `class`. What is on its way, or being copied out, is about to settle, and the answer would come too late to count.
    fn victim(&mut self, index: usize, class: Class) -> Option<RecordId> {
        let destination = self.destinations.get(index)?;
        let searched = self.searched.0.get_mut(index)?;
        for lower in Class::ALL.into_iter().rev().take_while(|&lower| lower >= class) {
            let lane = &self.lanes[lower];
            let id = |sequence| RecordId { class: lower, sequence };
            let found = lane.entries.range(searched[lower]..).find(|&(&sequence, entry)| {
                entry.unsettled & destination.bit != 0 && entry.place == Place::Disk && !destination.is_busy(id(sequence))
            });
            searched[lower] = found.map_or(lane.next_sequence, |(&sequence, _)| sequence);
            if let Some((&sequence, _)) = found {
                return Some(id(sequence));
            }
        }
        None
    }

    /// Ranges of ids that one destination's settled records take in a checkpoint.
    fn ranges_of(&self, index: usize) -> u64 {
        self.destinations.get(index).map_or(0, |destination| destination.queues.iter().map(|(_, queue)| queue.settled.len() as u64).sum())
    }
}
