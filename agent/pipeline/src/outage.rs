//! What an outage does to what waits for a destination. After each failed try all of it is looked at, in groups: what is past its
//! retry deadline is dropped as `RetryExhausted`, and from the third volley on what is on disk leaves memory to what comes in. Apart
//! from dispatch, which knows of one destination and not of where records lie.

use std::time::Duration;

use vocabulary::{Class, DropReason};

use crate::dispatch::Destination;
use crate::per_class::PerClass;
use crate::{BufferMode, Config, Pipeline, RecordId};

/// Most records of one look, so that a backlog that is past its deadline holds up nobody for more than a millisecond.
const GROUP_MAX: usize = 256;
/// Volleys that fail in a row before bodies leave memory: a destination that only stumbles is sent from memory what waited.
const LOWER_FROM_VOLLEY: u32 = 3;

/// How far the looks at what waits for each destination have come.
#[derive(Debug, Default)]
pub(crate) struct Outages {
    looks: [Look; Config::DESTINATIONS_MAX],
    /// The destinations that are to be looked at, one bit each.
    due: u16,
}

#[derive(Debug, Default)]
struct Look {
    /// Nothing below waits past its deadline.
    overdue: PerClass<u64>,
    /// Nothing below is in memory that could leave it, since this outage began.
    up: PerClass<u64>,
}

impl Outages {
    /// A record waits that was passed over before.
    pub(crate) fn look_again(&mut self, index: usize, id: RecordId) {
        if let Some(look) = self.looks.get_mut(index) {
            look.overdue[id.class] = look.overdue[id.class].min(id.sequence);
        }
    }

    /// Another destination has the index, or another deadline.
    pub(crate) fn forget(&mut self, index: usize) {
        if let Some(look) = self.looks.get_mut(index) {
            *look = Look::default();
        }
    }
}

impl Pipeline {
    /// A destination failed at what it was sent last: what waits is to be looked at.
    pub(crate) fn note_outage(&mut self, index: usize) {
        let (Some(destination), Some(look)) = (self.destinations.get(index), self.outages.looks.get_mut(index)) else { return };
        if destination.failures() == 1 {
            look.up = PerClass::default();
        }
        self.outages.due |= destination.bit;
        self.look_at_outages();
    }

    /// When to go on with what is to be looked at: at once.
    pub(crate) fn next_look(&self) -> Option<Duration> {
        (self.outages.due != 0 && self.lifecycle.may_send()).then_some(self.now)
    }

    /// Goes on with the looks that are due, by one group at each destination.
    pub(crate) fn look_at_outages(&mut self) {
        if self.outages.due == 0 || !self.lifecycle.may_send() {
            return;
        }
        for index in 0..self.destinations.len() {
            let bit = 1 << index;
            if self.outages.due & bit != 0 && self.look_at_outage(index) {
                self.outages.due &= !bit;
            }
        }
    }

    /// Looks at one group. Whether there is nothing more to look at until the next try fails: the destination may have answered since,
    /// and then what waits is its to take, however old.
    fn look_at_outage(&mut self, index: usize) -> bool {
        let Some(failures) = self.destinations.get(index).filter(|each| each.is_configured).map(Destination::failures) else { return true };
        let mut left = GROUP_MAX;
        if failures > 0 {
            let overdue = self.find_overdue(index, &mut left);
            for id in overdue {
                self.give_up_for(index, id, DropReason::RetryExhausted);
            }
        }
        if failures >= LOWER_FROM_VOLLEY && self.config.mode == BufferMode::Mirror {
            self.lower_what_waits(index, &mut left);
        }
        left > 0
    }

    /// What waits past its deadline, the oldest of each class first, which no younger one is behind.
    fn find_overdue(&mut self, index: usize, left: &mut usize) -> Vec<RecordId> {
        let mut overdue = Vec::new();
        let (Some(destination), Some(look)) = (self.destinations.get(index), self.outages.looks.get_mut(index)) else { return overdue };
        for class in Class::ALL {
            for (&sequence, entry) in self.lanes[class].entries.range(look.overdue[class]..) {
                if *left == 0 || !destination.is_past_deadline(self.now, entry) {
                    break;
                }
                *left -= 1;
                look.overdue[class] = sequence + 1;
                let id = RecordId { class, sequence };
                if entry.unsettled & destination.bit != 0 && destination.is_awaited_by(id) {
                    overdue.push(id);
                }
            }
        }
        overdue
    }

    /// Has what nobody can use leave memory, if it is on disk.
    fn lower_what_waits(&mut self, index: usize, left: &mut usize) {
        for class in Class::ALL {
            while *left > 0 {
                let Some(look) = self.outages.looks.get_mut(index) else { return };
                let Some((&sequence, _)) = self.lanes[class].entries.range(look.up[class]..).next() else { break };
                *left -= 1;
                look.up[class] = sequence + 1;
                self.lower_if_only_stuck_wait(RecordId { class, sequence });
            }
        }
    }
}
