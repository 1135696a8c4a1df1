//! The age limit: a record that is older is dropped as `Expired`, the oldest of each class first. Separate because time alone drives
//! it: whatever tells the engine the time makes it look.

use std::time::Duration;

use vocabulary::{Class, DropReason};

use crate::engine::Entry;
use crate::{Pipeline, RecordId};

/// Shortest time between two looks: limits are seconds, and a flood of records that age one by one is dropped in groups.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Most records of one look, so that a backlog that expired while the agent was away holds up nobody for more than a millisecond.
const GROUP_MAX: usize = 256;

/// When to look, and how old what was found on disk is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expiry {
    max_age: Option<Duration>,
    /// Nothing that waits is too old before this instant.
    next: Duration,
    /// What the wall clock said at the start; 0 if nobody said.
    started_unix_ms: u64,
}

impl Expiry {
    pub(crate) const fn new(max_age: Option<Duration>, started_unix_ms: u64) -> Self {
        Self { max_age, next: Duration::MAX, started_unix_ms }
    }

    /// Another limit from here on: everything is looked at.
    pub(crate) fn obey(&mut self, max_age: Option<Duration>, now: Duration) {
        self.max_age = max_age;
        self.next = if max_age.is_some() { now } else { Duration::MAX };
    }

    /// A record begins to wait, or waits again.
    pub(crate) fn watch(&mut self, now: Duration, entry: &Entry) {
        let Some(max_age) = self.max_age else { return };
        let left = max_age.saturating_sub(self.age(now, entry));
        self.next = self.next.min(now.saturating_add(left));
    }

    /// Time since its receipt: by the engine's clock since the start, and before it by the wall clock, which may have stepped.
    fn age(&self, now: Duration, entry: &Entry) -> Duration {
        // What arrived at the very start was received then, so that its difference is nearly zero.
        let before = if entry.arrived.is_zero() { self.started_unix_ms.saturating_sub(entry.received_unix_ms) } else { 0 };
        now.saturating_sub(entry.arrived).saturating_add(Duration::from_millis(before))
    }
}

impl Pipeline {
    /// When to look next, if a record waits.
    pub(crate) fn next_expiry(&self) -> Option<Duration> {
        (self.expiry.next != Duration::MAX && self.lifecycle.may_send()).then_some(self.expiry.next)
    }

    /// Drops what is too old, if it is time to look. What is on its way, or being copied out, is about to settle; if it comes back it
    /// is looked at then.
    pub(crate) fn drop_expired(&mut self) {
        let Some(max_age) = self.expiry.max_age else { return };
        if self.now < self.expiry.next || !self.lifecycle.may_send() {
            return;
        }
        self.expiry.next = Duration::MAX;
        let mut expired = Vec::new();
        for class in Class::ALL {
            self.find_expired(class, max_age, &mut expired);
        }
        for id in expired {
            for index in 0..self.destinations.len() {
                if self.destinations.get(index).is_some_and(|destination| !destination.is_busy(id)) {
                    self.give_up_for(index, id, DropReason::Expired);
                }
            }
        }
    }

    /// Adds what is too old in a class and waits somewhere, and notes when the next record will be.
    fn find_expired(&mut self, class: Class, max_age: Duration, expired: &mut Vec<RecordId>) {
        for (&sequence, entry) in self.lanes[class].entries.iter() {
            let id = RecordId { class, sequence };
            let left = max_age.saturating_sub(self.expiry.age(self.now, entry));
            if !left.is_zero() {
                self.expiry.next = self.expiry.next.min(self.now.saturating_add(left.max(LOOK_EVERY)));
                return;
            }
            if expired.len() == GROUP_MAX {
                self.expiry.next = self.now;
                return;
            }
            if self.destinations.iter().any(|destination| entry.unsettled & destination.bit != 0 && !destination.is_busy(id)) {
                expired.push(id);
            }
        }
    }
}
