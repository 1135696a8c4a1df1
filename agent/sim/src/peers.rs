//! The destinations, and the network before them: what becomes of a record that is sent, by the destination's mood.

use std::time::Duration;

use bytes::Bytes;
use otlp::Rules;
use pipeline::{DestinationIndex, OnRemoved, Outcome, Pipeline, Send};
use spool::ReadError;
use vocabulary::{DropReason, Signal};

use crate::coverage::Sometimes;
use crate::items::decode;
use crate::plan::Mood;
use crate::process::Flight;
use crate::reconfiguring::gauge;
use crate::world::{Event, World};

/// How long the agent waits for an answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(3);

/// How much later than its age limit a record may be sent: the engine looks every 100 ms, and its timers are no finer than 2 ms.
const AGE_LATE_MAX: Duration = Duration::from_millis(110);

/// A record on the wire.
pub(crate) struct Arrival {
    life: u32,
    flight: u64,
    destination: usize,
    signal: Signal,
    body: Bytes,
}

impl World {
    /// Sends whatever the engine gives out.
    pub(crate) fn send_all(&mut self) {
        let now = self.engine_now();
        for destination in 0..self.moods.len() {
            loop {
                let Some(process) = &mut self.process else { return };
                let Some(send) = process.pipeline.poll_send(now, DestinationIndex(destination as u8)) else { break };
                self.send(destination, &send);
            }
        }
    }

    fn send(&mut self, destination: usize, send: &Send) {
        assert!(self.removed != Some(destination), "{:?} is sent to destination {destination}, which is removed", send.id);
        self.flights += 1;
        let flight = self.flights;
        let body = match &send.body {
            Some(body) => Ok(body.clone()),
            None => self.read_back(send),
        };
        self.oracle.note_send(destination, send, body.as_ref().ok(), &mut self.coverage);
        self.say(|| format!("{:?} to destination {destination}, try {}", send.id, send.attempt));
        if let Some(process) = &mut self.process {
            process.flights.insert(flight, Flight { destination, id: send.id, slice: None });
        }
        let life = self.lives;
        let body = match body {
            Ok(body) => self.cut_out(flight, send, body),
            Err(outcome) => return self.plan_in(Duration::from_millis(1), Event::Land { life, flight, outcome }),
        };
        self.check_age(send.signal, &body);
        if self.breaks_the_sender(send, &body) {
            self.coverage.note(Sometimes::Panicked);
            self.oracle.note_given_up_whole(destination, send.id);
            return self.plan_in(Duration::from_millis(1), Event::Land { life, flight, outcome: Outcome::Panicked });
        }
        let arrival = Arrival { life, flight, destination, signal: send.signal, body };
        let broken = Outcome::Retry { after: None };
        let others = self.process.iter().flat_map(|process| process.flights.values()).filter(|flight| flight.destination == destination);
        let way = self.chance.millis(0, 30) + self.plan.load * others.count() as u32;
        match self.moods[destination] {
            Mood::Dead => {
                self.coverage.note(Sometimes::PeerDead);
                let after = if self.chance.percent(50) { way } else { ANSWER_TIME_MAX };
                self.plan_in(after, Event::Land { life, flight, outcome: broken });
            }
            Mood::Flaky if self.chance.percent(40) => {
                self.coverage.note(Sometimes::PeerFlaky);
                if self.chance.percent(50) {
                    self.plan_in(way, Event::Receive(Box::new(arrival)));
                }
                self.plan_in(way, Event::Land { life, flight, outcome: broken });
            }
            Mood::Slow => {
                self.coverage.note(Sometimes::PeerSlow);
                let slow = self.chance.millis(100, 5_000);
                self.plan_in(slow, Event::Receive(Box::new(arrival)));
                self.plan_in(ANSWER_TIME_MAX, Event::Land { life, flight, outcome: broken });
            }
            _ => {
                self.plan_in(way, Event::Receive(Box::new(arrival)));
                self.plan_in(ANSWER_TIME_MAX, Event::Land { life, flight, outcome: broken });
            }
        }
    }

    /// Nothing is sent that has waited beyond the age limit, but for the engine's timers: since its receipt or, as the wall clock may
    /// have been set back, since the start.
    fn check_age(&self, signal: Signal, body: &Bytes) {
        let (Some(max_age), Some(process)) = (self.plan.config.max_age, &self.process) else { return };
        let units = decode(signal, body, |number| self.oracle.unit(number));
        let received = units.iter().filter_map(|unit| self.received_at.get(&unit.number)).max().copied().unwrap_or_default();
        let waited = self.now - received.max(process.started);
        assert!(waited < max_age + AGE_LATE_MAX, "{units:?} is sent after {waited:?}, and the limit is {max_age:?}");
    }

    /// Whether the agent's own code breaks over what it is to send: in some worlds over one unit in eighty-nine, until it is calm.
    fn breaks_the_sender(&self, send: &Send, body: &Bytes) -> bool {
        let is_one = |unit: &crate::items::Unit| unit.number % 89 == 88;
        self.plan.sender_breaks && !self.is_calm && decode(send.signal, body, |number| self.oracle.unit(number)).iter().any(is_one)
    }

    /// The part of the body that is asked for.
    fn cut_out(&mut self, flight: u64, send: &Send, body: Bytes) -> Bytes {
        let Some(items) = &send.items else { return body };
        self.coverage.note(Sometimes::SentInSlices);
        let (counts, slice) = otlp::slice(send.signal, &body, std::slice::from_ref(items), &Rules::default())
            .unwrap_or_else(|cause| unreachable!("{:?} cannot be cut: {cause}", send.id));
        assert_eq!(counts.total(), items.len() as u64, "a slice of {:?} has not the items asked for", send.id);
        if let Some(flight) = self.process.as_mut().and_then(|process| process.flights.get_mut(&flight)) {
            flight.slice = Some(counts);
        }
        slice
    }

    fn read_back(&mut self, send: &Send) -> Result<Bytes, Outcome> {
        self.coverage.note(Sometimes::ReadBack);
        if self.chance.permille(self.plan.rates.read_fails) {
            self.disk.fail_reads(1);
        }
        let storage = self.process.as_ref().and_then(|process| process.storage.as_ref());
        let Some(storage) = storage else { return Err(Outcome::Unreadable) };
        let read = storage.spool.read(send.id);
        self.disk.fail_reads(0);
        match read {
            Ok(body) => Ok(body),
            Err(ReadError::NotFound { .. } | ReadError::Corrupt { .. }) => Err(Outcome::Unreadable),
            Err(_) => {
                self.coverage.note(Sometimes::ReadFailed);
                Err(Outcome::LocalFault)
            }
        }
    }

    /// A record reaches its destination, whether or not anybody waits for the answer.
    pub(crate) fn receive(&mut self, arrival: Arrival) {
        let Arrival { life, flight, destination, signal, body } = arrival;
        let is_waited_for = self.process.as_ref().is_some_and(|process| life == self.lives && process.flights.contains_key(&flight));
        if !is_waited_for {
            self.coverage.note(if life == self.lives && self.process.is_some() {
                Sometimes::ArrivedLate
            } else {
                Sometimes::ArrivedAfterCrash
            });
        }
        let units = decode(signal, &body, |number| self.oracle.unit(number));
        let mood = self.moods[destination];
        let (rejected, outcome) = match mood {
            // It hates one unit in seventeen; beside that it has whims that no search can explain.
            Mood::Rejecting if units.iter().any(|unit| unit.number.is_multiple_of(17)) || self.chance.percent(10) => {
                let is_size = self.chance.percent(30);
                self.coverage.note(if is_size { Sometimes::PeerTooLarge } else { Sometimes::PeerRejected });
                let outcome = if is_size { Outcome::TooLarge } else { Outcome::Rejected };
                self.oracle.note_refused(destination, &units);
                let way = self.chance.millis(0, 30);
                return self.plan_in(way, Event::Land { life, flight, outcome });
            }
            Mood::Failing if self.chance.percent(50) || units[0].number.is_multiple_of(4) => {
                self.coverage.note(Sometimes::PeerFailed);
                self.oracle.note_refused(destination, &units);
                return self.plan_in(Duration::from_millis(1), Event::Land { life, flight, outcome: Outcome::Failed });
            }
            Mood::Partial if self.chance.percent(50) => {
                self.coverage.note(Sometimes::PeerPartial);
                let rejected = self.chance.between(1, units.len() as u64) as usize;
                let items: u64 = units[units.len() - rejected..].iter().map(|unit| u64::from(unit.items())).sum();
                (rejected, Outcome::Partial { rejected: items })
            }
            Mood::Throttling if self.chance.percent(60) => {
                self.coverage.note(Sometimes::PeerThrottled);
                let after = self.chance.percent(80).then(|| self.chance.millis(10, 6_000));
                return self.plan_in(Duration::from_millis(1), Event::Land { life, flight, outcome: Outcome::Retry { after } });
            }
            _ => (0, Outcome::Delivered),
        };
        self.oracle.note_arrived(destination, &units, rejected);
        if mood == Mood::ReplyLost && self.chance.percent(50) {
            return self.coverage.note(Sometimes::PeerReplyLost);
        }
        let way = self.chance.millis(0, 30);
        self.plan_in(way, Event::Land { life, flight, outcome });
    }

    /// What became of a send; the first that is heard counts.
    pub(crate) fn land(&mut self, flight: u64, outcome: Outcome) {
        let now = self.engine_now();
        let Some(process) = &mut self.process else { return };
        let Some(Flight { destination, id, slice }) = process.flights.remove(&flight) else { return };
        let index = DestinationIndex(destination as u8);
        let plan = &self.plan;
        if gauge(&process.pipeline, plan, destination).is_some_and(|gauge| gauge.replay_bytes_per_second.is_some()) {
            self.coverage.note(Sometimes::Replaying);
        }
        let in_flight = |pipeline: &Pipeline| gauge(pipeline, plan, destination).map_or(0, |gauge| gauge.in_flight);
        let (on_its_way, rejected) = (in_flight(&process.pipeline), dropped(&process.pipeline, DropReason::Rejected));
        match slice {
            Some(counts) => process.pipeline.handle_slice_outcome(now, index, id, counts, outcome),
            None => process.pipeline.handle_outcome(now, index, id, outcome),
        }
        assert!(outcome != Outcome::Unreadable, "{id:?} cannot be read back, and no byte of it was damaged");
        if in_flight(&process.pipeline) == on_its_way {
            assert!(process.is_closing, "{id:?} was on its way, and its answer was not heard");
            // What neither memory nor disk could keep was given up before the answer came; the books say so.
            return self.oracle.note_landed(destination, id, true);
        }
        let is_settled = !process.pipeline.is_unsettled(index, id);
        let is_final = matches!(outcome, Outcome::Delivered | Outcome::Partial { .. });
        assert!(is_settled || !is_final || slice.is_some(), "{id:?} is held after {outcome:?}");
        let rejected = dropped(&process.pipeline, DropReason::Rejected) - rejected;
        self.oracle.note_landed(destination, id, is_settled);
        if outcome == Outcome::Failed && rejected > 0 {
            self.coverage.note(Sometimes::FailureRejected);
        }
        self.oracle.note_answer(destination, id, slice, outcome);
        if is_settled {
            self.oracle.note_settled(destination, id, outcome, rejected, &mut self.coverage);
        }
        self.say(|| format!("{id:?} at destination {destination}: {outcome:?}"));
    }

    /// Notes which reasons for a drop the books of a life that ends have used.
    pub(crate) fn note_drops(&mut self, pipeline: &Pipeline) {
        let is_kept = self.plan.config.on_removed == OnRemoved::Keep;
        assert!(!is_kept || dropped(pipeline, DropReason::ConfigRemoved) == 0, "what a removed destination held was to be kept");
        let reasons = [
            (DropReason::RetryExhausted, Sometimes::RetryExhausted),
            (DropReason::Evicted, Sometimes::Evicted),
            (DropReason::DiskFull, Sometimes::ShareFull),
            (DropReason::Expired, Sometimes::Expired),
            (DropReason::CrashVolatile, Sometimes::CrashVolatile),
            (DropReason::ConfigRemoved, Sometimes::ConfigRemoved),
            (DropReason::ForcedShutdown, Sometimes::ForcedShutdown),
        ];
        for (reason, what) in reasons {
            if dropped(pipeline, reason) > 0 {
                self.coverage.note(what);
            }
        }
    }
}

/// Items that were given up for a reason, at all destinations.
pub(crate) fn dropped(pipeline: &Pipeline, reason: DropReason) -> u64 {
    let cells = pipeline.books().destinations.iter().flat_map(|book| book.cells.iter().flatten());
    cells.map(|cell| cell.dropped[reason.index()]).sum()
}
