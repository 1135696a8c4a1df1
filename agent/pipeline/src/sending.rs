//! The way out: the next record for a destination, what becomes of it, and when time alone changes that.

use std::time::Duration;

use vocabulary::{ClassCounts, DropReason, Signal};

use crate::dispatch::{Chosen, Flight};
use crate::moves::{HeldState, Settlement};
use crate::poison::Answer;
use crate::{BufferMode, DestinationIndex, Outcome, Phase, Pipeline, Progress, RecordId, Send};

impl Pipeline {
    /// The next record for this destination, or none: its window is full, it is backed off, nothing waits, or the engine ends. In mode
    /// `Archive` there never is one.
    pub fn poll_send(&mut self, now: Duration, destination: DestinationIndex) -> Option<Send> {
        self.observe(now);
        if !self.lifecycle.may_send() || self.config.mode == BufferMode::Archive {
            return None;
        }
        let index = usize::from(destination.0);
        let is_ending = self.lifecycle.phase() != Phase::Running;
        let Chosen { id, entry, tries, items } = self.destinations.get_mut(index)?.choose(self.now, &self.lanes, is_ending)?;
        let book = self.books.destinations.get_mut(index)?;
        let from = if tries > 0 { HeldState::WaitingRetry } else { entry.waiting_state() };
        book.shift(entry.signal, &entry.counts, from, HeldState::InFlight);
        book.attempts += 1;
        self.is_dirty = true;
        let attempt = tries.saturating_add(1);
        Some(Send { id, signal: entry.signal, counts: entry.counts, body: entry.body.clone(), items, attempt })
    }

    /// A destination answered for a record, or did not in time. An answer for a record that is not on its way changes nothing.
    pub fn handle_outcome(&mut self, now: Duration, destination: DestinationIndex, id: RecordId, outcome: Outcome) {
        self.handle_landed(now, destination, id, None, outcome);
    }

    /// A destination answered for the slice that was asked for, whose items by class are `counts`.
    pub fn handle_slice_outcome(
        &mut self,
        now: Duration,
        destination: DestinationIndex,
        id: RecordId,
        counts: ClassCounts,
        outcome: Outcome,
    ) {
        self.handle_landed(now, destination, id, Some(counts), outcome);
    }

    fn handle_landed(&mut self, now: Duration, destination: DestinationIndex, id: RecordId, slice: Option<ClassCounts>, outcome: Outcome) {
        self.observe(now);
        let index = usize::from(destination.0);
        let Some(state) = self.destinations.get_mut(index) else { return };
        let Some(mut flight) = state.land(id) else { return };
        state.note_landed();
        let outcome = if outcome == Outcome::Failed && state.doubt(&mut flight) { Outcome::Rejected } else { outcome };
        let counts = slice.unwrap_or_default();
        let reason = match outcome {
            Outcome::Delivered => return self.answered(index, id, flight, Answer::Taken { counts, rejected: 0 }),
            Outcome::Partial { rejected } => return self.answered(index, id, flight, Answer::Taken { counts, rejected }),
            Outcome::Rejected => return self.answered(index, id, flight, Answer::Bad),
            Outcome::TooLarge => return self.answered(index, id, flight, Answer::TooLarge),
            Outcome::Unreadable => DropReason::Corrupt,
            Outcome::LocalFault if state.rest(self.now, id, flight) => return self.wait_again(index, id),
            Outcome::LocalFault => DropReason::DiskError,
            Outcome::Panicked if flight.note_panic() && state.rest(self.now, id, flight) => return self.wait_again(index, id),
            Outcome::Panicked => return self.answered(index, id, flight, Answer::Undecodable),
            Outcome::Retry { .. } | Outcome::Failed => {
                let after = if let Outcome::Retry { after } = outcome { after } else { None };
                state.note_failure(self.now, flight, after);
                let entry = self.lanes[id.class].entries.get(&id.sequence);
                let may_wait = entry.is_some_and(|entry| !state.is_past_deadline(self.now, entry));
                if may_wait {
                    state.requeue(id, flight);
                    self.wait_again(index, id);
                } else {
                    self.settle(index, id, HeldState::InFlight, Settlement::Dropped(DropReason::RetryExhausted));
                }
                return self.note_outage(index);
            }
        };
        self.settle(index, id, HeldState::InFlight, Settlement::Dropped(reason));
    }

    /// The sender of a destination broke and began anew: whatever it had on its way waits again, as after an answer that was lost.
    pub fn handle_sender_lost(&mut self, now: Duration, destination: DestinationIndex) {
        self.observe(now);
        let index = usize::from(destination.0);
        while let Some(state) = self.destinations.get_mut(index)
            && let Some(id) = state.first_in_flight()
            && let Some(flight) = state.land(id)
        {
            state.requeue(id, flight);
            self.wait_again(index, id);
        }
    }

    /// What each destination is about, for whoever watches that it goes on.
    pub fn progress(&mut self, now: Duration) -> Vec<Progress> {
        self.observe(now);
        let may_send = self.lifecycle.may_send();
        self.destinations.iter().map(|destination| destination.progress(self.now, may_send)).collect()
    }

    /// A destination said what it thinks of a record, or of a slice of one.
    fn answered(&mut self, index: usize, id: RecordId, flight: Flight, answer: Answer) {
        let Some(state) = self.destinations.get_mut(index) else { return };
        if answer != Answer::Undecodable {
            state.note_alive(self.now, &flight, &self.lanes);
        }
        if let Answer::Taken { rejected, .. } = answer {
            state.note_taken();
            if !state.is_searched(id) {
                return self.settle(index, id, HeldState::InFlight, Settlement::Delivered { rejected });
            }
        }
        let Some(entry) = self.lanes[id.class].entries.get(&id.sequence) else { return };
        // Profiles are not walked, so nobody can cut them.
        let items = if entry.signal == Signal::Profiles { 1 } else { u32::try_from(entry.counts.total()).unwrap_or(u32::MAX) };
        match state.note_answer(id, items, answer) {
            Some(true) => {
                let (reason, is_any_bad) = (state.reason(id), state.is_any_bad(id));
                if is_any_bad && self.config.mode != BufferMode::Memory {
                    state.set_aside(id, flight);
                    return self.wait_again(index, id);
                }
                self.settle(index, id, HeldState::InFlight, Settlement::Dropped(reason));
            }
            Some(false) => {
                state.requeue(id, flight);
                self.wait_again(index, id);
            }
            None if state.rest(self.now, id, flight) => self.wait_again(index, id),
            None => self.settle(index, id, HeldState::InFlight, Settlement::Dropped(DropReason::DiskError)),
        }
    }

    /// A record that was on its way waits to be sent again.
    fn wait_again(&mut self, index: usize, id: RecordId) {
        self.is_dirty = true;
        self.searched.look_again(index, id);
        self.outages.look_again(index, id);
        let Some(entry) = self.lanes[id.class].entries.get(&id.sequence) else { return };
        if let Some(book) = self.books.destinations.get_mut(index) {
            book.shift(entry.signal, &entry.counts, HeldState::InFlight, HeldState::WaitingRetry);
        }
        self.expiry.watch(self.now, entry);
        self.drop_if_removed(id, self.destinations.get(index).map_or(0, |destination| destination.bit));
        self.drop_expired();
    }

    /// Whether a destination has yet to settle a record.
    #[must_use]
    pub fn is_unsettled(&self, destination: DestinationIndex, id: RecordId) -> bool {
        let bit = self.destinations.get(usize::from(destination.0)).map_or(0, |state| state.bit);
        self.lanes[id.class].entries.get(&id.sequence).is_some_and(|entry| entry.unsettled & bit != 0)
    }

    /// The earliest instant at which time alone lets a poll yield what it did not yield before, or makes a record too old: the end of
    /// a pause, of the soft limit, of a phase, or of an age. What an event lets it yield is polled for after that event. An instant that
    /// has passed asks for a poll at once.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let pauses = self.destinations.iter().filter_map(|destination| destination.wake_at());
        let pause = if self.lifecycle.may_send() { pauses.min() } else { None };
        [pause, self.space.wake_at(), self.lifecycle.wake_at(), self.next_expiry(), self.next_look()].into_iter().flatten().min()
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
            if !self.lifecycle.may_send() {
                self.awaited.end();
            }
        }
        self.phase()
    }
}
