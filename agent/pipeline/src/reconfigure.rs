//! Another configuration in one step, without a restart: every held record stays where it is, every number goes on, and what cannot
//! change while the engine runs is refused before anything was touched.
//!
//! A destination keeps its index, its bit and its books while it is configured, and after its removal while it holds anything. So
//! an answer that is late finds the record it is for, and a destination that returns finds what it held.
//!
//! What lies in quarantine belongs to a name and needs no index: it stays there and is held in the books of the removed destination,
//! whatever the policy. What is still searched for bad items, or waits to be copied out, is held like anything else.

use std::time::Duration;

use vocabulary::{Class, DropReason, Signal};

use crate::dispatch::Destination;
use crate::engine::Place;
use crate::moves::{ItemTable, row, row_mut};
use crate::recovery::complement;
use crate::{BufferMode, Config, DestinationBook, DestinationConfig, DestinationIndex, OnRemoved, Phase, Pipeline, RecordId};

/// Books of removed destinations that are kept, so that renaming destinations for ever cannot grow the checkpoint.
pub(crate) const REMOVED_BOOKS_MAX: usize = 64;

/// Why another configuration cannot take effect without a restart. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReconfigureError {
    /// Records lie where the mode put them.
    #[error("the buffer's mode is {running:?} and cannot become {wanted:?} while records are held")]
    Mode {
        /// What runs.
        running: BufferMode,
        /// What was asked for.
        wanted: BufferMode,
    },
    /// What is held is charged to the tenants there are.
    #[error("the number of tenants cannot become {wanted} while records are held")]
    Tenants {
        /// What was asked for.
        wanted: usize,
    },
    /// There is an index for so many only.
    #[error("{configured} destinations and those removed that still hold items are more than {max}", max = Config::DESTINATIONS_MAX)]
    TooManyDestinations {
        /// How many were asked for.
        configured: usize,
    },
    /// A name keys a destination's books.
    #[error("two destinations are named `{0}`")]
    DestinationTwice(String),
    /// It would obey for moments only.
    #[error("the engine ends")]
    Ending,
}

impl Pipeline {
    /// Obeys another configuration from this call on. Returns the index of each of its destinations, in its order; an index may be
    /// another's that held nothing any more, so the shell must not poll for a removed destination after this call. What was handed
    /// out before, to be sent or stored, goes on: its answers are expected.
    ///
    /// # Errors
    /// What cannot change live; nothing has changed then.
    pub fn reconfigure(&mut self, now: Duration, config: Config) -> Result<Vec<DestinationIndex>, ReconfigureError> {
        self.observe(now);
        let indexes = self.assign(&config)?;
        let took: Vec<_> = self.destinations.iter().map(|destination| Signal::ALL.map(|signal| destination.takes(signal))).collect();
        let is_reweighed = config.classes != self.config.classes;
        self.config = config;
        for (index, destination) in self.destinations.iter_mut().enumerate() {
            self.outages.forget(index);
            let configured = self.config.destinations.iter().find(|configured| configured.name == destination.name);
            match configured {
                Some(configured) => destination.obey(self.now, configured, &self.lanes),
                None => destination.is_configured = false,
            }
            if is_reweighed {
                destination.reweigh(&self.config.classes);
            }
        }
        self.see_who_is_configured();
        for (index, took) in took.into_iter().enumerate() {
            self.note_missed(index, took);
        }
        if self.config.on_removed == OnRemoved::Drop {
            self.drop_removed();
        }
        self.install_new(&indexes);
        self.see_who_is_configured();
        self.space.reconfigure(&self.config, self.space.shares.within(&self.config, &indexes));
        self.expiry.obey(self.config.max_age, self.now);
        self.lower_what_only_stuck_wait_for();
        self.evict_excess();
        self.is_dirty = true;
        Ok(indexes)
    }

    /// A destination is reached by another way from here on: its failures and pauses were those of the way before.
    pub fn handle_moved(&mut self, now: Duration, destination: DestinationIndex) {
        self.observe(now);
        if let Some(state) = self.destinations.get_mut(usize::from(destination.0)) {
            state.forget_health(self.now, &self.lanes);
        }
    }

    /// An index for each destination: the one it has, or a free one.
    fn assign(&self, config: &Config) -> Result<Vec<DestinationIndex>, ReconfigureError> {
        if self.phase() != Phase::Running {
            return Err(ReconfigureError::Ending);
        }
        if config.mode != self.config.mode {
            return Err(ReconfigureError::Mode { running: self.config.mode, wanted: config.mode });
        }
        if config.tenants_max != self.config.tenants_max {
            return Err(ReconfigureError::Tenants { wanted: config.tenants_max });
        }
        let wanted = &config.destinations;
        if let Some((_, twice)) =
            wanted.iter().enumerate().find(|(index, each)| wanted.iter().take(*index).any(|other| other.name == each.name))
        {
            return Err(ReconfigureError::DestinationTwice(twice.name.clone()));
        }
        let is_wanted = |destination: &Destination| wanted.iter().any(|each| each.name == destination.name);
        let vacated =
            (0_u8..).zip(&self.destinations).filter(|(_, destination)| !is_wanted(destination) && self.is_free(destination, config));
        let unused = (0..Config::DESTINATIONS_MAX as u8).skip(self.destinations.len());
        let mut free = vacated.map(|(index, _)| index).chain(unused);
        let index_of = |each: &DestinationConfig| {
            let known = (0_u8..).zip(&self.destinations).find(|(_, destination)| destination.name == each.name);
            known.map(|(index, _)| index).or_else(|| free.next()).map(DestinationIndex)
        };
        let indexes: Option<Vec<_>> = wanted.iter().map(index_of).collect();
        indexes.ok_or(ReconfigureError::TooManyDestinations { configured: wanted.len() })
    }

    /// Whether nothing will name the destination's index any more, once it is removed.
    fn is_free(&self, destination: &Destination, config: &Config) -> bool {
        let is_named = || {
            self.storing
                .iter()
                .flat_map(|(_, storing)| storing.values())
                .any(|storing| (storing.entry.unsettled | storing.skipped) & destination.bit != 0)
        };
        let is_empty = !destination.holds_any() || config.on_removed == OnRemoved::Drop;
        is_empty && !destination.is_any_busy() && !is_named()
    }

    fn see_who_is_configured(&mut self) {
        let configured = self.destinations.iter().filter(|destination| destination.is_configured);
        self.configured = configured.fold(0, |bits, destination| bits | destination.bit);
        let entries = self.lanes.iter().flat_map(|(_, lane)| lane.entries.values());
        self.down = entries.map(|entry| u64::from(entry.is_down(self.configured))).sum();
    }

    /// What a destination was not offered of the signals that it did not take before and takes from here on.
    fn note_missed(&mut self, index: usize, took: [bool; Signal::COUNT]) {
        let (Some(destination), Some(book), Some(missed)) =
            (self.destinations.get(index), self.books.destinations.get(index), self.missed.get_mut(index))
        else {
            return;
        };
        let never_offered = self.books.never_offered(book);
        for (signal, took) in Signal::ALL.into_iter().zip(took) {
            if !took && destination.takes(signal) {
                *row_mut(missed, signal) = *row(&never_offered, signal);
            }
        }
    }

    /// Gives up what waits for destinations that are configured no more. What is on its way, or being copied out, is about to settle.
    fn drop_removed(&mut self) {
        for class in Class::ALL {
            let is_waited_for = |unsettled: u16| unsettled & !self.configured != 0;
            let entries = self.lanes[class].entries.iter().filter(|(_, entry)| is_waited_for(entry.unsettled));
            let doomed: Vec<_> = entries.map(|(&sequence, entry)| (sequence, entry.unsettled & !self.configured)).collect();
            for (sequence, bits) in doomed {
                self.drop_for(RecordId { class, sequence }, bits);
            }
        }
    }

    /// A record waits again for a destination that may have been removed meanwhile, or have been removed before it came to be held.
    pub(crate) fn drop_if_removed(&mut self, id: RecordId, bits: u16) {
        let removed = bits & !self.configured;
        if removed != 0 && self.config.on_removed == OnRemoved::Drop {
            self.drop_for(id, removed);
        }
    }

    /// Gives a record up for those of these destinations for which the shell does not have it in hand.
    fn drop_for(&mut self, id: RecordId, bits: u16) {
        for index in 0..self.destinations.len() {
            let waits = |destination: &Destination| bits & destination.bit != 0 && !destination.is_busy(id);
            if self.destinations.get(index).is_some_and(waits) {
                self.give_up_for(index, id, DropReason::ConfigRemoved);
            }
        }
    }

    fn install_new(&mut self, indexes: &[DestinationIndex]) {
        for (index, config) in indexes.iter().zip(self.config.destinations.clone()) {
            if !self.destinations.iter().any(|destination| destination.name == config.name) {
                self.install(usize::from(index.0), &config, Destination::new(usize::from(index.0), &config, &self.config));
            }
        }
    }

    /// Puts a destination that holds nothing at an index that is free, with the books it had when it was removed, if they are kept.
    fn install(&mut self, index: usize, config: &DestinationConfig, mut destination: Destination) {
        for class in Class::ALL {
            // What waits for the disk may be known to no checkpoint; its ids follow when it is held or given up.
            destination.queues[class].settled = complement(self.storing[class].keys().copied(), self.lanes[class].next_sequence);
        }
        let books = &mut self.books.destinations;
        let removed = self.destinations.len();
        let kept = books.iter().skip(removed).position(|book| book.name == config.name);
        let book = kept.map_or_else(|| DestinationBook::new(&config.name), |position| books.remove(removed + position));
        self.searched.forget(index);
        self.outages.forget(index);
        if let Some(slot) = self.destinations.get_mut(index) {
            *slot = destination;
            if let Some(slot) = books.get_mut(index) {
                let old = std::mem::replace(slot, book);
                self.remember(old);
            }
        } else {
            self.destinations.push(destination);
            self.missed.push(ItemTable::default());
            books.insert(removed, book);
        }
        self.note_missed(index, [false; Signal::COUNT]);
    }

    /// Keeps the books of a removed destination that has no index. Above the bound one of them is forgotten that has nothing in
    /// quarantine, or the first if all have.
    pub(crate) fn remember(&mut self, book: DestinationBook) {
        let books = &mut self.books.destinations;
        books.push(book);
        let first = self.destinations.len();
        if books.len() > first + REMOVED_BOOKS_MAX {
            let forgotten = books.iter().skip(first).position(|book| !book.is_any_quarantined()).unwrap_or(0);
            books.remove(first + forgotten);
        }
    }

    fn lower_what_only_stuck_wait_for(&mut self) {
        for class in Class::ALL {
            let up = self.lanes[class].entries.iter().filter(|(_, entry)| entry.place == Place::Disk && entry.body.is_some());
            let sequences: Vec<u64> = up.map(|(&sequence, _)| sequence).collect();
            for sequence in sequences {
                self.lower_if_only_stuck_wait(RecordId { class, sequence });
            }
        }
    }
}
