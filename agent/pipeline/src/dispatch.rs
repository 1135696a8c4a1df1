//! One destination: what waits for it, what is on its way, and when it may be tried again. Nothing here is shared, so a
//! destination that is dead holds back nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use vocabulary::{Class, ClassCounts, DropReason, Signal};

use crate::engine::{Entry, Lane};
use crate::governor::Governor;
use crate::lanes::{Head, Turns};
use crate::moves::{Rest as Remains, Settlement};
use crate::per_class::PerClass;
use crate::poison::Answer;
use crate::quarantine::FoundBad;
use crate::queue::{Part, Queue};
use crate::sorted::SortedMap;
use crate::suspects::Suspects;
use crate::{Circuit, Config, Delivery, DestinationConfig, DestinationGauge, Progress, RecordId, RetryPolicy, jitter};

/// Shortest pause after a failure: full jitter may draw nearly zero, which would be no pause at all.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// Longest pause a destination may ask for; a longer one is more likely a mistake than a wish.
pub const SERVER_PAUSE_MAX: Duration = Duration::from_secs(300);
/// Pause of a record after the first fault of the agent's own; it doubles with each.
const REST_MIN: Duration = Duration::from_secs(1);
/// Faults of the agent's own at which a record is given up: with seven pauses before, a disk has two minutes to come back.
const FAULTS_MAX: u32 = 8;
/// Times the shell may break over one record: a second time is no accident.
const PANICS_MAX: u32 = 2;
/// An outage shorter than this leaves no more than a destination takes within moments, and no backlog.
const OUTAGE_MIN: Duration = Duration::from_secs(5);
/// Replays after an outage begin within this time, so that those of a fleet do not come at once.
pub const REPLAY_SPREAD: Duration = Duration::from_secs(5);
/// Unexplained failures of a record, each with a success of others since the one before, at which the record is to blame.
const DOUBTS_MAX: u32 = 4;

/// How often a record was handed out, and how many of those times the agent could not read it back.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tries {
    handed_out: u32,
    faults: u32,
    /// How often the shell broke over it.
    panics: u32,
    /// Failures that may be the record's fault, and how many records the destination had taken at the last of them.
    doubts: u32,
    doubted_at: u64,
}

/// What a place of the window is for, in bytes: a batch of 512 spans takes about this much. A larger record takes a place for each of
/// them begun, so that a backlog of large records cannot take more memory on its way than the window stands for, and one record.
const PLACE_BYTES: u32 = 256 << 10;

/// The places of a destination's window.
fn window_of(config: &DestinationConfig) -> u32 {
    u32::try_from(config.in_flight).unwrap_or(u32::MAX).max(1)
}

/// A record on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flight {
    /// This one included.
    tries: Tries,
    /// When the record was accepted.
    arrived: Duration,
    sent_at: Duration,
    places: u32,
    is_replay: bool,
}

impl Flight {
    /// The shell broke over the record. Whether it may be tried again.
    pub(crate) const fn note_panic(&mut self) -> bool {
        self.tries.panics += 1;
        self.tries.panics < PANICS_MAX
    }
}

/// A record that waits by itself, for a reason that is not the destination's.
#[derive(Clone, Copy, Debug)]
struct Rest {
    until: Duration,
    tries: Tries,
}

/// How one destination does: the circuit opens with a failure, lets one record at a time through when its pause is over, and
/// closes when one of them is answered. `failures` counts the volleys that failed in a row, the last of them at `since`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Closed,
    Open { failures: u32, since: Duration, until: Duration },
    HalfOpen { failures: u32, since: Duration },
}

/// A record chosen to be sent.
#[derive(Debug)]
pub(crate) struct Chosen<'l> {
    pub(crate) id: RecordId,
    pub(crate) entry: &'l Entry,
    /// Tries it had before this one.
    pub(crate) tries: u32,
    /// The part of it that is sent; none means all.
    pub(crate) items: Option<Range<u32>>,
}

/// The state of one destination.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) name: String,
    /// False once it was removed: it is routed and sent nothing, and keeps what it holds.
    pub(crate) is_configured: bool,
    signals: Vec<Signal>,
    window: u32,
    retry: RetryPolicy,
    pub(crate) delivery: Delivery,
    /// The destination's bit in `Entry::unsettled`.
    pub(crate) bit: u16,
    pub(crate) queues: PerClass<Queue>,
    turns: Turns,
    in_flight: PerClass<SortedMap<Flight>>,
    /// Places of the window that those take, and that those of the backlog do.
    places: u32,
    replay_places: u32,
    /// Records that wait by themselves, and when each may be tried again.
    resting: BTreeMap<RecordId, Rest>,
    rests: BTreeSet<(Duration, RecordId)>,
    /// Records it found bad, being searched.
    suspects: Suspects,
    /// Records whose bad items are all found and are to be copied out, and whether the shell is at it.
    aside: BTreeMap<RecordId, (Flight, bool)>,
    /// Records that are unsettled here, and neither in flight, resting nor to be copied out.
    waiting: u64,
    /// Answers heard since the start.
    landed: u64,
    /// Items held in memory alone, by signal and class; what a crash would take.
    pub(crate) volatile: [[u64; Class::COUNT]; Signal::COUNT],
    health: Health,
    /// Since when it fails, or since when it does not.
    health_since: Duration,
    governor: Governor,
    /// How long after an outage the replay begins.
    replay_delay: Duration,
    /// When the backlog is to be looked at again, because only time holds it back.
    replay_at: Option<Duration>,
    /// Records it took.
    taken: u64,
    /// Until when the destination asked to be left alone. A success does not shorten it: it may answer an older send.
    asked_until: Option<Duration>,
    pauses: u64,
}

impl Destination {
    pub(crate) fn new(index: usize, config: &DestinationConfig, whole: &Config) -> Self {
        Self {
            name: config.name.clone(),
            is_configured: true,
            signals: config.signals.clone(),
            window: window_of(config),
            retry: config.retry,
            delivery: config.delivery,
            bit: 1 << index,
            queues: PerClass::default(),
            turns: Turns::new(&whole.classes),
            in_flight: PerClass::default(),
            places: 0,
            replay_places: 0,
            resting: BTreeMap::new(),
            rests: BTreeSet::new(),
            suspects: Suspects::default(),
            aside: BTreeMap::new(),
            waiting: 0,
            landed: 0,
            volatile: Default::default(),
            health: Health::Closed,
            health_since: Duration::ZERO,
            governor: Governor::default(),
            replay_delay: jitter::between(Duration::ZERO, REPLAY_SPREAD, whole.replay_seed ^ jitter::hash_text(&config.name)),
            replay_at: None,
            taken: 0,
            asked_until: None,
            pauses: jitter::hash_text(&config.name),
        }
    }

    /// One that was removed, and is known because of what it holds.
    pub(crate) fn removed(index: usize, name: &str, whole: &Config) -> Self {
        let retry = RetryPolicy { initial: PAUSE_MIN, max: PAUSE_MIN, deadline: None };
        let config = DestinationConfig { name: name.to_owned(), signals: Vec::new(), in_flight: 1, retry, delivery: Delivery::Required };
        Self { is_configured: false, ..Self::new(index, &config, whole) }
    }

    pub(crate) fn takes(&self, signal: Signal) -> bool {
        self.is_configured && (self.signals.is_empty() || self.signals.contains(&signal))
    }

    /// Obeys another configuration from here on. What it holds stays, and what is known of how it does, unless it was removed.
    pub(crate) fn obey(&mut self, now: Duration, config: &DestinationConfig, lanes: &PerClass<Lane>) {
        if !self.is_configured {
            self.forget_health(now, lanes);
        }
        self.is_configured = true;
        self.signals.clone_from(&config.signals);
        self.window = window_of(config);
        self.retry = config.retry;
        self.delivery = config.delivery;
    }

    /// The classes take turns by other weights.
    pub(crate) fn reweigh(&mut self, classes: &[crate::ClassPolicy; Class::COUNT]) {
        self.turns = Turns::new(classes);
    }

    /// It is reached by another way, or again: what was learnt before says nothing of it. What waited for that is backlog.
    pub(crate) fn forget_health(&mut self, now: Duration, lanes: &PerClass<Lane>) {
        if !self.is_configured || self.is_failing() && now.saturating_sub(self.health_since) >= OUTAGE_MIN {
            self.begin_replay(now, lanes);
        }
        (self.health, self.health_since, self.asked_until) = (Health::Closed, now, None);
    }

    /// A record is there to be sent.
    pub(crate) fn enqueue(&mut self, id: RecordId) {
        self.waiting += 1;
        self.queues[id.class].enqueue(id.sequence);
    }

    /// Chooses what to send next and puts it on its way. While the engine ends, nothing is held back.
    pub(crate) fn choose<'l>(&mut self, now: Duration, lanes: &'l PerClass<Lane>, is_ending: bool) -> Option<Chosen<'l>> {
        self.end_rests(now);
        self.replay_at = None;
        if !self.is_configured || self.waiting == 0 || !self.has_room() || !self.end_pause(now) {
            return None;
        }
        let others_wait = self.waiting > self.suspects.waiting();
        if let Some((id, tries, items)) = self.suspects.choose(others_wait) {
            let entry = lanes[id.class].entries.get(&id.sequence)?;
            return Some(self.hand_out(now, id, entry, tries, false, Some(items)));
        }
        if !others_wait {
            return None;
        }
        // Of a destination that fails, every other probe is a fresh record, so that one record it chokes on cannot stop the rest.
        let fresh_first = self.failures() % 2 == 1;
        let may_replay = self.may_replay(now, lanes, is_ending);
        let mut candidates = PerClass([None; Class::COUNT]);
        let mut heads = PerClass([None; Class::COUNT]);
        for class in Class::ALL {
            let (queue, lane) = (&mut self.queues[class], &lanes[class]);
            let backlog = if may_replay { queue.oldest(lane, self.bit, Part::Backlog, fresh_first) } else { None };
            let is_replay = backlog.is_some();
            let Some((sequence, tries, entry)) = backlog.or_else(|| queue.oldest(lane, self.bit, Part::Live, fresh_first)) else {
                continue;
            };
            candidates[class] = Some((sequence, tries, entry, is_replay));
            heads[class] = Some(Head { bytes: u64::from(entry.bytes), age: now.saturating_sub(entry.arrived) });
        }
        let class = self.turns.pick(&heads)?;
        let (sequence, tries, entry, is_replay) = candidates[class]?;
        self.queues[class].leave(sequence);
        if is_replay {
            self.governor.note_replayed(now, u64::from(entry.bytes));
        } else {
            self.governor.note_live(now);
        }
        Some(self.hand_out(now, RecordId { class, sequence }, entry, tries, is_replay, None))
    }

    /// Whether the backlog, if there is one, is served before what is live in its class.
    fn may_replay(&mut self, now: Duration, lanes: &PerClass<Lane>, is_ending: bool) -> bool {
        let bit = self.bit;
        let mut has = |part| Class::ALL.into_iter().any(|class| self.queues[class].oldest(&lanes[class], bit, part, false).is_some());
        if !has(Part::Backlog) {
            return false;
        }
        if has(Part::Live) {
            self.governor.note_live(now);
        }
        // A destination that fails is probed with the oldest.
        if is_ending || self.is_failing() {
            return true;
        }
        let due_at = self.governor.due_at();
        self.replay_at = Some(due_at).filter(|&at| at > now);
        // Beside live traffic half of the window is left to it.
        due_at <= now && (self.governor.is_free(now) || self.replay_places < (self.window / 2).max(1))
    }

    fn hand_out<'l>(
        &mut self,
        now: Duration,
        id: RecordId,
        entry: &'l Entry,
        tries: Tries,
        is_replay: bool,
        items: Option<Range<u32>>,
    ) -> Chosen<'l> {
        self.waiting -= 1;
        let places = entry.bytes.div_ceil(PLACE_BYTES).max(1);
        let handed_out = tries.handed_out.saturating_add(1);
        self.places += places;
        self.replay_places += if is_replay { places } else { 0 };
        let flight = Flight { tries: Tries { handed_out, ..tries }, arrived: entry.arrived, sent_at: now, places, is_replay };
        self.in_flight[id.class].insert(id.sequence, flight);
        Chosen { id, entry, tries: tries.handed_out, items }
    }

    /// The answer for a record arrived; none if it was not on its way.
    pub(crate) fn land(&mut self, id: RecordId) -> Option<Flight> {
        self.suspects.land(id);
        let flight = self.in_flight[id.class].remove(&id.sequence)?;
        self.places -= flight.places;
        self.replay_places -= if flight.is_replay { flight.places } else { 0 };
        Some(flight)
    }

    /// The next record whose answer will never be heard.
    pub(crate) fn first_in_flight(&self) -> Option<RecordId> {
        let first =
            |(class, flights): (Class, &SortedMap<Flight>)| flights.first_key_value().map(|(&sequence, _)| RecordId { class, sequence });
        self.in_flight.iter().find_map(first)
    }

    /// An answer was heard, whatever it said.
    pub(crate) const fn note_landed(&mut self) {
        self.landed += 1;
    }

    /// Notes what it said of a record that it found bad, or of a slice of it. Whether all its items are decided; none if what was
    /// sent is not what was asked for.
    pub(crate) fn note_answer(&mut self, id: RecordId, items: u32, answer: Answer) -> Option<bool> {
        self.suspects.note(id, items, answer)
    }

    pub(crate) fn is_searched(&self, id: RecordId) -> bool {
        self.suspects.contains(id)
    }

    /// Why what was found bad of the record is.
    pub(crate) fn reason(&self, id: RecordId) -> DropReason {
        self.suspects.reason(id)
    }

    pub(crate) fn is_any_bad(&self, id: RecordId) -> bool {
        self.suspects.found(id).is_some_and(|(_, bad)| !bad.is_empty())
    }

    /// All bad items of a record are found: they wait to be copied out.
    pub(crate) fn set_aside(&mut self, id: RecordId, flight: Flight) {
        self.aside.insert(id, (flight, false));
    }

    /// The next record whose bad items are to be copied out.
    pub(crate) fn choose_aside(&mut self, now: Duration) -> Option<RecordId> {
        self.end_rests(now);
        let (&id, (_, is_out)) = self.aside.iter_mut().find(|(_, (_, is_out))| !*is_out)?;
        *is_out = true;
        Some(id)
    }

    /// The last flight of a record whose bad items are being copied out.
    pub(crate) fn aside(&self, id: RecordId) -> Option<Flight> {
        self.aside.get(&id).filter(|(_, is_out)| *is_out && !self.resting.contains_key(&id)).map(|&(flight, _)| flight)
    }

    /// The bad items of a record.
    pub(crate) fn found_bad(&self, id: RecordId, counts: &ClassCounts) -> Option<FoundBad> {
        let (taken, bad) = self.suspects.found(id)?;
        let left = crate::quarantine::remainder(counts, &taken);
        let items = if left == *counts { Vec::new() } else { bad.to_vec() };
        let [_, rejected] = taken;
        Some(FoundBad { counts: left, rejected, items, reason: self.reason(id) })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The record is settled: what was confirmed of it in slices stays confirmed.
    pub(crate) fn close(&mut self, id: RecordId, how: Settlement) -> Settlement {
        match (self.suspects.end(id), how) {
            (Some((delivered, rejected)), Settlement::Dropped(rest)) => {
                Settlement::Parts { delivered, rejected, rest: Remains::Dropped(rest) }
            }
            (Some((delivered, rejected)), Settlement::Quarantined) => Settlement::Parts { delivered, rejected, rest: Remains::Quarantined },
            (_, how) => how,
        }
    }

    /// The destination answered: it is well, whatever it thought of the record. What waited through an outage is backlog.
    pub(crate) fn note_alive(&mut self, now: Duration, flight: &Flight, lanes: &PerClass<Lane>) {
        if !self.is_failing() {
            // What waited for the destination to recover, or was tried before, says nothing of how it does.
            if flight.tries.handed_out == 1 && !flight.is_replay {
                self.governor.note_answer(now, now.saturating_sub(flight.arrived.max(self.health_since)), self.is_replaying());
            }
            return;
        }
        let failed_for = now.saturating_sub(self.health_since);
        (self.health, self.health_since) = (Health::Closed, now);
        if failed_for >= OUTAGE_MIN {
            self.begin_replay(now + self.replay_delay, lanes);
        }
    }

    /// What waits has waited for the destination, or for the agent: it is backlog, sent from this instant on. A replay that is not over
    /// goes on as it is.
    pub(crate) fn begin_replay(&mut self, at: Duration, lanes: &PerClass<Lane>) {
        if self.waiting == 0 {
            return;
        }
        if !self.is_replaying() {
            self.governor.begin(at);
        }
        for (class, lane) in lanes.iter() {
            self.queues[class].divide(lane.next_sequence);
        }
    }

    fn is_replaying(&self) -> bool {
        self.waiting > 0 && self.queues.iter().any(|(_, queue)| queue.is_divided())
    }

    /// The destination took a record.
    pub(crate) fn note_taken(&mut self) {
        self.taken += 1;
    }

    /// The destination could not take a record: it is left alone for a while. Failures of one volley count once.
    pub(crate) fn note_failure(&mut self, now: Duration, flight: Flight, after: Option<Duration>) {
        self.asked_until = self.asked_until.max(after.map(|asked| now + asked.min(SERVER_PAUSE_MAX)));
        self.governor.note_jam(now);
        if !self.is_failing() {
            self.health_since = now;
        }
        let failures = match self.health {
            Health::Open { since, .. } | Health::HalfOpen { since, .. } if flight.sent_at < since => return,
            Health::Closed => 1,
            Health::Open { failures, .. } | Health::HalfOpen { failures, .. } => failures.saturating_add(1),
        };
        let drawn = now + self.draw_pause(failures);
        let until = match self.health {
            Health::Open { until, .. } => until.max(drawn),
            Health::Closed | Health::HalfOpen { .. } => drawn,
        };
        self.health = Health::Open { failures, since: now, until };
    }

    /// A failure that the destination did not explain. Whether the record is to blame: it failed often, and others did not.
    pub(crate) fn doubt(&self, flight: &mut Flight) -> bool {
        let tries = &mut flight.tries;
        if tries.doubts == 0 || self.taken > tries.doubted_at {
            (tries.doubts, tries.doubted_at) = (tries.doubts + 1, self.taken);
        }
        tries.doubts >= DOUBTS_MAX
    }

    /// Capped exponential back-off with full jitter.
    fn draw_pause(&mut self, failures: u32) -> Duration {
        self.pauses = self.pauses.wrapping_add(1);
        let doubled = self.retry.initial.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        let longest = doubled.min(self.retry.max).max(PAUSE_MIN);
        jitter::between(PAUSE_MIN, longest, self.pauses)
    }

    /// The record is to be sent again, in its place.
    pub(crate) fn requeue(&mut self, id: RecordId, flight: Flight) {
        self.wait(id, flight.tries);
    }

    fn wait(&mut self, id: RecordId, tries: Tries) {
        if let Some((flight, is_out)) = self.aside.get_mut(&id) {
            (flight.tries, *is_out) = (tries, false);
            return;
        }
        self.waiting += 1;
        if !self.suspects.wait(id, tries) {
            self.queues[id.class].put_back(id.sequence, tries);
        }
    }

    /// The record could not be read back: it waits by itself. Whether it does; the last fault is one too many.
    pub(crate) fn rest(&mut self, now: Duration, id: RecordId, flight: Flight) -> bool {
        let tries = Tries { faults: flight.tries.faults + 1, ..flight.tries };
        if tries.faults >= FAULTS_MAX {
            return false;
        }
        let until = now + REST_MIN * (1 << (tries.faults - 1));
        self.resting.insert(id, Rest { until, tries });
        self.rests.insert((until, id));
        true
    }

    /// Records that have rested wait in their places.
    fn end_rests(&mut self, now: Duration) {
        while let Some(&(until, id)) = self.rests.first().filter(|(until, _)| *until <= now) {
            self.rests.remove(&(until, id));
            if let Some(rest) = self.resting.remove(&id) {
                self.wait(id, rest.tries);
            }
        }
    }

    /// The record is given up: takes it out of wherever it stands.
    pub(crate) fn forget(&mut self, id: RecordId) {
        let is_aside = self.aside.remove(&id).is_some();
        if let Some(rest) = self.resting.remove(&id) {
            self.rests.remove(&(rest.until, id));
        } else if is_aside {
            // It waits for the shell, not for its turn.
        } else if self.land(id).is_none() {
            if !self.suspects.forget(id) {
                self.queues[id.class].forget(id.sequence);
            }
            self.waiting = self.waiting.saturating_sub(1);
        }
    }

    pub(crate) fn is_past_deadline(&self, now: Duration, entry: &Entry) -> bool {
        self.retry.deadline.is_some_and(|deadline| now.saturating_sub(entry.arrived) >= deadline)
    }

    pub(crate) fn is_in_flight(&self, id: RecordId) -> bool {
        self.in_flight[id.class].contains_key(&id.sequence)
    }

    /// Whether the shell has the record in hand: it is on its way, or is being copied out.
    pub(crate) fn is_busy(&self, id: RecordId) -> bool {
        self.is_in_flight(id) || self.aside(id).is_some()
    }

    /// Whether a record that is unsettled here waits for it, and not for the shell or for the disk its bad items are copied to.
    pub(crate) fn is_awaited_by(&self, id: RecordId) -> bool {
        !self.is_in_flight(id) && !self.aside.contains_key(&id)
    }

    /// Whether the record was handed out before, and waits.
    pub(crate) fn is_retrying(&self, id: RecordId) -> bool {
        let is_alone = self.resting.contains_key(&id) || self.is_searched(id);
        is_alone || self.queues[id.class].tries(id.sequence).is_some_and(|tries| tries.handed_out > 0)
    }

    pub(crate) const fn is_failing(&self) -> bool {
        !matches!(self.health, Health::Closed)
    }

    /// Whether it can make no use of what lies in memory.
    pub(crate) const fn is_stuck(&self) -> bool {
        !self.is_configured || self.is_failing()
    }

    /// Whether it has yet to settle a record.
    pub(crate) fn holds_any(&self) -> bool {
        self.waiting > 0 || !self.resting.is_empty() || !self.aside.is_empty() || self.is_any_in_flight()
    }

    /// Whether the shell has any record in hand.
    pub(crate) fn is_any_busy(&self) -> bool {
        self.is_any_in_flight() || self.aside.keys().any(|&id| self.aside(id).is_some())
    }

    pub(crate) fn is_any_in_flight(&self) -> bool {
        self.places > 0
    }

    pub(crate) const fn failures(&self) -> u32 {
        match self.health {
            Health::Closed => 0,
            Health::Open { failures, .. } | Health::HalfOpen { failures, .. } => failures,
        }
    }

    /// Whether nothing is on its way and nothing could be sent without waiting for the destination, or the disk, to recover.
    pub(crate) fn is_at_rest(&self) -> bool {
        let is_copying = self.aside.keys().any(|id| !self.resting.contains_key(id));
        self.places == 0 && !is_copying && (self.waiting == 0 || self.is_stuck() || self.asked_until.is_some())
    }

    /// When a poll may yield because time passed.
    pub(crate) fn wake_at(&self) -> Option<Duration> {
        if !self.is_configured || !self.has_room() {
            return None;
        }
        let pause = self.pause_until().filter(|_| self.waiting > 0);
        let rest = self.rests.first().map(|&(until, _)| self.pause_until().map_or(until, |pause| until.max(pause)));
        [pause, rest, self.replay_at].into_iter().flatten().min()
    }

    /// Nothing is sent before this instant; cleared by the first poll that may send again.
    fn pause_until(&self) -> Option<Duration> {
        match self.health {
            Health::Open { until, .. } => self.asked_until.max(Some(until)),
            Health::Closed | Health::HalfOpen { .. } => self.asked_until,
        }
    }

    /// A failing destination is probed with one record at a time. The last one may exceed the window, so that the largest can go.
    fn has_room(&self) -> bool {
        self.places < if self.is_failing() { 1 } else { self.window }
    }

    fn end_pause(&mut self, now: Duration) -> bool {
        if self.pause_until().is_some_and(|until| now < until) {
            return false;
        }
        self.asked_until = None;
        if let Health::Open { failures, since, .. } = self.health {
            self.health = Health::HalfOpen { failures, since };
        }
        true
    }

    /// Something could be sent at once.
    fn could_send(&self, now: Duration) -> bool {
        self.is_configured && self.waiting > 0 && self.has_room() && self.pause_until().is_none_or(|until| until <= now)
    }

    pub(crate) fn progress(&self, now: Duration, may_send: bool) -> Progress {
        Progress { landed: self.landed, is_due: may_send && (self.places > 0 || self.could_send(now)) }
    }

    pub(crate) fn gauge(&self, disk_bytes: u64) -> DestinationGauge {
        let backing_off_until = self.pause_until();
        DestinationGauge {
            name: self.name.clone(),
            in_flight: self.in_flight.iter().map(|(_, flights)| flights.len()).sum(),
            circuit: match self.health {
                _ if !self.is_configured => Circuit::Removed,
                _ if backing_off_until.is_some() => Circuit::Open,
                Health::Closed => Circuit::Closed,
                Health::Open { .. } | Health::HalfOpen { .. } => Circuit::HalfOpen,
            },
            backing_off_until,
            consecutive_failures: self.failures(),
            disk_bytes,
            replay_bytes_per_second: (self.is_configured && self.is_replaying()).then(|| self.governor.rate()),
        }
    }
}
