//! The way out: the next record for a destination, what becomes of it, and when time alone changes that.

use std::time::Duration;

use vocabulary::DropReason;

use crate::moves::{HeldState, Settlement};
use crate::{DestinationIndex, Outcome, Phase, Pipeline, RecordId, Send};

impl Pipeline {
    /// The next record for this destination, or none: its window is full, it is backed off, nothing waits, or the engine ends.
    pub fn poll_send(&mut self, now: Duration, destination: DestinationIndex) -> Option<Send> {
        self.observe(now);
        if !self.lifecycle.may_send() {
            return None;
        }
        let index = usize::from(destination.0);
        let chosen = self.destinations.get_mut(index)?.choose(self.now, &self.lanes)?;
        let book = self.books.destinations.get_mut(index)?;
        let entry = self.lanes[chosen.id.class].entries.get(&chosen.id.sequence)?;
        let from = if chosen.tries > 0 { HeldState::WaitingRetry } else { entry.waiting_state() };
        book.shift(entry.signal, &entry.counts, from, HeldState::InFlight);
        book.attempts += 1;
        self.is_dirty = true;
        let attempt = chosen.tries.saturating_add(1);
        Some(Send { id: chosen.id, signal: entry.signal, counts: entry.counts, body: entry.body.clone(), attempt })
    }

    /// A destination answered, or did not in time. An answer for a record that is not on its way changes nothing.
    pub fn handle_outcome(&mut self, now: Duration, destination: DestinationIndex, id: RecordId, outcome: Outcome) {
        self.observe(now);
        let index = usize::from(destination.0);
        let Some(state) = self.destinations.get_mut(index) else { return };
        let Some(mut flight) = state.land(id) else { return };
        let Some(entry) = self.lanes[id.class].entries.get(&id.sequence) else { return };
        let outcome = if outcome == Outcome::Failed && state.doubt(&mut flight) { Outcome::Rejected } else { outcome };
        if matches!(outcome, Outcome::Delivered | Outcome::Partial { .. }) {
            state.note_taken();
        }
        if matches!(outcome, Outcome::Delivered | Outcome::Partial { .. } | Outcome::Rejected | Outcome::TooLarge) {
            state.note_alive();
        }
        let how = match outcome {
            Outcome::Delivered => Settlement::Delivered { rejected: 0 },
            Outcome::Partial { rejected } => Settlement::Delivered { rejected },
            Outcome::Rejected => Settlement::Dropped(DropReason::Rejected),
            Outcome::TooLarge => Settlement::Dropped(DropReason::TooLarge),
            Outcome::Unreadable => Settlement::Dropped(DropReason::Corrupt),
            Outcome::LocalFault if state.rest(self.now, id, flight) => return self.wait_again(index, id),
            Outcome::LocalFault => Settlement::Dropped(DropReason::DiskError),
            Outcome::Retry { .. } | Outcome::Failed => {
                let after = if let Outcome::Retry { after } = outcome { after } else { None };
                state.note_failure(self.now, flight, after);
                if !state.is_past_deadline(self.now, entry) {
                    state.requeue(id, flight);
                    return self.wait_again(index, id);
                }
                Settlement::Dropped(DropReason::RetryExhausted)
            }
        };
        self.settle(index, id, HeldState::InFlight, how);
    }

    /// A record that was on its way waits to be sent again.
    fn wait_again(&mut self, index: usize, id: RecordId) {
        self.is_dirty = true;
        self.searched.look_again(index, id);
        let Some(entry) = self.lanes[id.class].entries.get(&id.sequence) else { return };
        if let Some(book) = self.books.destinations.get_mut(index) {
            book.shift(entry.signal, &entry.counts, HeldState::InFlight, HeldState::WaitingRetry);
        }
        self.expiry.watch(self.now, entry);
        self.drop_expired();
    }

    /// The earliest instant at which time alone lets a poll yield what it did not yield before, or makes a record too old: the end of
    /// a pause, of the soft limit, of a phase, or of an age. What an event lets it yield is polled for after that event. An instant that
    /// has passed asks for a poll at once.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let pauses = self.destinations.iter().filter_map(|destination| destination.wake_at());
        let pause = if self.lifecycle.may_send() { pauses.min() } else { None };
        [pause, self.space.wake_at(), self.lifecycle.wake_at(), self.next_expiry()].into_iter().flatten().min()
    }

    /// Moves the phase on as far as time and work allow, and tells it. At the end nothing is held in memory alone.
    pub fn poll_phase(&mut self, now: Duration) -> Phase {
        self.observe(now);
        let remaining = self.remaining();
        if self.lifecycle.advance(self.now, remaining) {
            self.is_dirty = true;
            if self.phase() == Phase::Stopped {
                self.drop_volatile();
            }
        }
        self.phase()
    }
}
