//! The ledger of one agent, or the sum of many, per signal and class. Kept apart from who reported it, because the sums must
//! stay exact whatever becomes of the agents.

use std::collections::{BTreeMap, BTreeSet};

use crds::fleet::{AgentReport, Reasoned};
use vocabulary::{Class, DropReason, LossReason, RefuseReason, Signal};

/// Most items a counter of one report may tell; every JSON reader can still tell such numbers apart. At a million items a
/// second an agent takes 285 years to get there.
pub const COUNTER_MAX: u64 = 1 << 53;

/// Sums stop at the largest number instead of wrapping: one agent that tells nonsense must not end the operator of all.
fn increase(sum: &mut u64, by: u64) {
    *sum = sum.saturating_add(by);
}

pub(crate) fn sum(parts: impl IntoIterator<Item = u64>) -> u64 {
    parts.into_iter().fold(0, u64::saturating_add)
}

/// Whether every number of a report is one that an agent can have counted.
#[must_use]
pub fn is_plausible(report: &AgentReport) -> bool {
    let reasons = |reasons: &[Reasoned]| reasons.iter().all(|reasoned| reasoned.items <= COUNTER_MAX);
    let small = |numbers: &[u64]| numbers.iter().all(|&number| number <= COUNTER_MAX);
    report
        .inputs
        .iter()
        .all(|input| small(&[input.offered, input.received, input.filtered]) && reasons(&input.refused) && reasons(&input.dropped))
        && report.destinations.iter().all(|destination| {
            let held = [destination.queued, destination.on_disk, destination.in_flight, destination.waiting_retry, destination.quarantined];
            small(&[destination.routed, destination.delivered]) && small(&held) && reasons(&destination.dropped)
        })
        && report.kernel.iter().all(|kernel| small(&[kernel.attempted, kernel.produced]) && reasons(&kernel.lost))
        && small(&[report.crash_volatile_lower, report.crash_volatile_upper])
        && report.buffer.iter().all(|buffer| {
            small(&[buffer.memory_bytes, buffer.memory_bytes_max, buffer.memory_items, buffer.memory_items_max])
                && small(&[buffer.disk_bytes, buffer.disk_bytes_max, buffer.oldest_milliseconds])
        })
}

/// Where items wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// In memory.
    pub queued: u64,
    /// On disk alone.
    pub on_disk: u64,
    /// Sent, no answer yet.
    pub in_flight: u64,
    /// Failed, and waiting to be sent again.
    pub waiting_retry: u64,
    /// Set aside.
    pub quarantined: u64,
}

impl Held {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        sum([self.queued, self.on_disk, self.in_flight, self.waiting_retry, self.quarantined])
    }

    fn fields(&mut self) -> [&mut u64; 5] {
        [&mut self.queued, &mut self.on_disk, &mut self.in_flight, &mut self.waiting_retry, &mut self.quarantined]
    }

    fn add(&mut self, mut other: Self) {
        for (mine, theirs) in self.fields().into_iter().zip(other.fields()) {
            increase(mine, *theirs);
        }
    }

    fn cut_to(&mut self, mut items: u64) {
        for field in self.fields() {
            *field = (*field).min(items);
            items -= *field;
        }
    }
}

/// What was done for one destination, in items of every signal and class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DestinationBooks {
    /// Taken on.
    pub routed: u64,
    /// Confirmed.
    pub sent: u64,
    /// Given up.
    pub dropped: u64,
    /// Waiting.
    pub held: u64,
}

/// Items of one signal and class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Received and refused together.
    pub offered: u64,
    /// May have been acknowledged.
    pub received: u64,
    /// Removed on purpose.
    pub filtered: u64,
    /// Confirmed, summed over the destinations.
    pub delivered: u64,
    /// Taken on for destinations, counted once for each.
    pub routed: u64,
    /// Waiting somewhere in the agents, summed over the destinations.
    pub held: Held,
    /// Not accepted.
    pub refused: BTreeMap<RefuseReason, u64>,
    /// Given up, at intake or for a destination.
    pub dropped: BTreeMap<DropReason, u64>,
}

impl Cell {
    /// Items given up, whatever the reason.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        sum(self.dropped.values().copied())
    }

    /// Items not accepted, whatever the reason.
    #[must_use]
    pub fn refused_total(&self) -> u64 {
        sum(self.refused.values().copied())
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn add(&mut self, other: &Self) {
        increase(&mut self.offered, other.offered);
        increase(&mut self.received, other.received);
        increase(&mut self.filtered, other.filtered);
        increase(&mut self.delivered, other.delivered);
        increase(&mut self.routed, other.routed);
        self.held.add(other.held);
        merge(&mut self.refused, &other.refused);
        merge(&mut self.dropped, &other.dropped);
    }

    /// Takes out what `other` accounts for. What remains is whole again: what it received and neither delivered nor dropped is held.
    fn claim(&mut self, other: &Self) {
        self.offered = self.offered.saturating_sub(other.offered);
        self.received = self.received.saturating_sub(other.received);
        self.filtered = self.filtered.saturating_sub(other.filtered);
        self.delivered = self.delivered.saturating_sub(other.delivered);
        self.routed = self.routed.saturating_sub(other.routed);
        unmerge(&mut self.refused, &other.refused);
        unmerge(&mut self.dropped, &other.dropped);
        let settled = sum([self.filtered, self.delivered, self.dropped_total()]);
        self.held.cut_to(self.received.max(self.routed).saturating_sub(settled));
    }
}

fn merge<R: Ord + Copy>(into: &mut BTreeMap<R, u64>, from: &BTreeMap<R, u64>) {
    for (&reason, items) in from {
        increase(into.entry(reason).or_default(), *items);
    }
}

fn unmerge<R: Ord + Copy>(from: &mut BTreeMap<R, u64>, what: &BTreeMap<R, u64>) {
    for (reason, items) in what {
        if let Some(left) = from.get_mut(reason) {
            *left = left.saturating_sub(*items);
        }
    }
    from.retain(|_, items| *items > 0);
}

/// Records of the kernel programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// Seen by a probe.
    pub attempted: u64,
    /// Read by the agent.
    pub produced: u64,
    /// Lost in between.
    pub lost: BTreeMap<LossReason, u64>,
}

/// Most destinations whose totals are kept; the most a specification may have.
pub const DESTINATIONS_MAX: usize = 16;
/// Stands for the destinations that a pipeline had once, when there is no room for their names.
pub const EARLIER_DESTINATIONS: &str = "earlier-destinations";

/// A whole ledger. Bounded by the vocabulary: at most one cell per signal and class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Items, where there is something to tell.
    pub cells: BTreeMap<(Signal, Class), Cell>,
    /// The destination side, by name; at most [`DESTINATIONS_MAX`], once folded.
    pub destinations: BTreeMap<String, DestinationBooks>,
    /// Kernel records.
    pub kernel: Kernel,
    /// Least and most items that `CrashVolatile` may stand for beyond what was counted.
    pub crash_volatile: (u64, u64),
}

impl Books {
    /// The books an agent reports. Codes that this operator does not know belong to a newer agent and are left out.
    #[must_use]
    pub fn of(report: &AgentReport) -> Self {
        let mut books = Self { crash_volatile: (report.crash_volatile_lower, report.crash_volatile_upper), ..Self::default() };
        for input in &report.inputs {
            let Some(cell) = books.cell(input.signal, input.class) else { continue };
            increase(&mut cell.offered, input.offered);
            increase(&mut cell.received, input.received);
            increase(&mut cell.filtered, input.filtered);
            add_reasons(&mut cell.refused, &input.refused, RefuseReason::from_code);
            add_reasons(&mut cell.dropped, &input.dropped, DropReason::from_code);
        }
        for destination in &report.destinations {
            let Some(cell) = books.cell(destination.signal, destination.class) else { continue };
            let held = Held {
                queued: destination.queued,
                on_disk: destination.on_disk,
                in_flight: destination.in_flight,
                waiting_retry: destination.waiting_retry,
                quarantined: destination.quarantined,
            };
            let dropped_before = cell.dropped_total();
            increase(&mut cell.delivered, destination.delivered);
            increase(&mut cell.routed, destination.routed);
            cell.held.add(held);
            add_reasons(&mut cell.dropped, &destination.dropped, DropReason::from_code);
            let dropped = cell.dropped_total() - dropped_before;
            let sums = DestinationBooks { routed: destination.routed, sent: destination.delivered, dropped, held: held.total() };
            // No specification has more.
            if books.destinations.len() < DESTINATIONS_MAX || books.destinations.contains_key(&destination.destination) {
                books.add_destination(&destination.destination, sums);
            }
        }
        if let Some(kernel) = &report.kernel {
            books.kernel.attempted = kernel.attempted;
            books.kernel.produced = kernel.produced;
            add_reasons(&mut books.kernel.lost, &kernel.lost, LossReason::from_code);
        }
        books.cells.retain(|_, cell| !cell.is_empty());
        books
    }

    fn cell(&mut self, signal: u32, class: u32) -> Option<&mut Cell> {
        let signal = Signal::from_code(u8::try_from(signal).ok()?)?;
        let class = Class::from_code(u8::try_from(class).ok()?)?;
        Some(self.cells.entry((signal, class)).or_default())
    }

    fn add_destination(&mut self, name: &str, sums: DestinationBooks) {
        let mine = self.destinations.entry(name.to_owned()).or_default();
        increase(&mut mine.routed, sums.routed);
        increase(&mut mine.sent, sums.sent);
        increase(&mut mine.dropped, sums.dropped);
        increase(&mut mine.held, sums.held);
    }

    /// Brings the destinations down to [`DESTINATIONS_MAX`], if they are more: those not in use become one entry.
    pub fn fold_destinations(&mut self, in_use: impl FnOnce() -> BTreeSet<String>) {
        if self.destinations.len() <= DESTINATIONS_MAX {
            return;
        }
        let in_use = in_use();
        let kept: BTreeSet<_> = in_use.iter().filter(|name| self.destinations.contains_key(*name)).take(DESTINATIONS_MAX - 1).collect();
        let (kept, earlier): (BTreeMap<_, _>, _) =
            std::mem::take(&mut self.destinations).into_iter().partition::<BTreeMap<_, _>, _>(|(name, _)| kept.contains(name));
        self.destinations = kept;
        for sums in earlier.into_values() {
            self.add_destination(EARLIER_DESTINATIONS, sums);
        }
    }

    /// Adds another ledger to this one. Call [`Self::fold_destinations`] when the last one is added.
    pub fn add(&mut self, other: &Self) {
        for (key, cell) in &other.cells {
            self.cells.entry(*key).or_default().add(cell);
        }
        for (name, sums) in &other.destinations {
            self.add_destination(name, *sums);
        }
        increase(&mut self.kernel.attempted, other.kernel.attempted);
        increase(&mut self.kernel.produced, other.kernel.produced);
        merge(&mut self.kernel.lost, &other.kernel.lost);
        increase(&mut self.crash_volatile.0, other.crash_volatile.0);
        increase(&mut self.crash_volatile.1, other.crash_volatile.1);
    }

    /// Takes out of this remainder what `other` accounts for; never below zero.
    pub fn claim(&mut self, other: &Self) {
        for (key, cell) in &other.cells {
            if let Some(mine) = self.cells.get_mut(key) {
                mine.claim(cell);
            }
        }
        self.cells.retain(|_, cell| !cell.is_empty());
        for (name, sums) in &other.destinations {
            let Some(mine) = self.destinations.get_mut(name) else { continue };
            mine.routed = mine.routed.saturating_sub(sums.routed);
            mine.sent = mine.sent.saturating_sub(sums.sent);
            mine.dropped = mine.dropped.saturating_sub(sums.dropped);
            mine.held = mine.held.min(mine.routed.saturating_sub(mine.sent.saturating_add(mine.dropped)));
        }
        self.destinations.retain(|_, sums| *sums != DestinationBooks::default());
        self.kernel.attempted = self.kernel.attempted.saturating_sub(other.kernel.attempted);
        self.kernel.produced = self.kernel.produced.saturating_sub(other.kernel.produced);
        unmerge(&mut self.kernel.lost, &other.kernel.lost);
        self.crash_volatile.0 = self.crash_volatile.0.saturating_sub(other.crash_volatile.0);
        self.crash_volatile.1 = self.crash_volatile.1.saturating_sub(other.crash_volatile.1);
    }

    /// Closes the books of a ledger that will never report again: what it held is dropped for `reason`.
    #[must_use]
    pub fn closed(mut self, reason: DropReason) -> Self {
        for cell in self.cells.values_mut() {
            let held = std::mem::take(&mut cell.held).total();
            if held > 0 {
                increase(cell.dropped.entry(reason).or_default(), held);
            }
        }
        for sums in self.destinations.values_mut() {
            increase(&mut sums.dropped, std::mem::take(&mut sums.held));
        }
        self
    }

    /// The sums over every signal and class.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for cell in self.cells.values() {
            increase(&mut totals.received, cell.received);
            increase(&mut totals.delivered, cell.delivered);
            increase(&mut totals.dropped, cell.dropped_total());
            increase(&mut totals.refused, cell.refused_total());
            increase(&mut totals.held, cell.held.total());
            increase(&mut totals.quarantined, cell.held.quarantined);
        }
        totals
    }

    /// Items given up, per signal, class and reason.
    #[must_use]
    pub fn dropped(&self) -> Drops {
        let reasons = |(&(signal, class), cell): (&(Signal, Class), &Cell)| {
            let counts: Vec<_> = cell.dropped.iter().map(|(&reason, &items)| ((signal, class, reason), items)).collect();
            counts
        };
        self.cells.iter().flat_map(reasons).collect()
    }
}

fn add_reasons<R: Ord>(into: &mut BTreeMap<R, u64>, from: &[Reasoned], of: fn(u8) -> Option<R>) {
    for reasoned in from.iter().filter(|reasoned| reasoned.items > 0) {
        if let Some(reason) = u8::try_from(reasoned.reason).ok().and_then(of) {
            increase(into.entry(reason).or_default(), reasoned.items);
        }
    }
}

/// Items given up, per signal, class and reason.
pub type Drops = BTreeMap<(Signal, Class, DropReason), u64>;

/// Sums of a ledger, for rates and thresholds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// May have been acknowledged.
    pub received: u64,
    /// Confirmed.
    pub delivered: u64,
    /// Given up.
    pub dropped: u64,
    /// Not accepted.
    pub refused: u64,
    /// Waiting.
    pub held: u64,
    /// Set aside.
    pub quarantined: u64,
}

impl Totals {
    /// What was added since `earlier`; gauges are taken as they are.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            received: self.received.saturating_sub(earlier.received),
            delivered: self.delivered.saturating_sub(earlier.delivered),
            dropped: self.dropped.saturating_sub(earlier.dropped),
            refused: self.refused.saturating_sub(earlier.refused),
            held: self.held,
            quarantined: self.quarantined,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crds::fleet::{DestinationTotals, InputTotals};

    /// A report about ordinary spans for one destination, whole by construction.
    pub(crate) fn spans(pod: &str, ledger: &str, received: u64, delivered: u64, dropped: u64) -> AgentReport {
        let loss = vec![Reasoned { reason: u32::from(DropReason::SoftLimit.code()), items: dropped }];
        AgentReport {
            pod: pod.into(),
            pod_uid: format!("uid-{pod}"),
            node: format!("node-{pod}"),
            ledger_id: ledger.into(),
            inputs: vec![InputTotals { signal: 0, class: 2, offered: received, received, filtered: 0, refused: vec![], dropped: loss }],
            destinations: vec![DestinationTotals {
                destination: "backend".into(),
                signal: 0,
                class: 2,
                routed: received - dropped,
                delivered,
                queued: received - dropped - delivered,
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn a_closed_ledger_holds_nothing_and_loses_nothing_silently() {
        let closed = Books::of(&spans("a", "1", 100, 60, 10)).closed(DropReason::CrashVolatile);
        let cell = &closed.cells[&(Signal::Traces, Class::Normal)];
        assert_eq!((cell.held.total(), cell.dropped_total()), (0, 40));
        assert_eq!(cell.dropped[&DropReason::CrashVolatile], 30);
        assert_eq!(cell.received, cell.delivered + cell.dropped_total() + cell.held.total());
    }

    #[test]
    fn destinations_of_the_past_become_one_entry_when_there_is_no_room_for_their_names() {
        let mut books = Books::default();
        for number in 0..20 {
            let mut report = spans("a", "1", 10, 7, 0);
            report.destinations[0].destination = format!("backend-{number:02}");
            books.add(&Books::of(&report));
        }
        books.fold_destinations(|| BTreeSet::from(["backend-19".to_owned()]));
        let sent: Vec<_> = books.destinations.iter().map(|(name, sums)| (name.as_str(), sums.sent)).collect();
        assert_eq!(sent, [("backend-19", 7), (EARLIER_DESTINATIONS, 19 * 7)]);
    }

    #[test]
    fn sums_of_absurd_numbers_stop_at_the_largest() {
        let mut report = spans("a", "1", 10, 0, 0);
        report.inputs[0].received = u64::MAX;
        report.destinations[0].queued = u64::MAX;
        report.destinations[0].on_disk = u64::MAX;
        report.destinations.push(report.destinations[0].clone());
        let mut books = Books::of(&report);
        books.add(&books.clone());
        assert_eq!((books.totals().received, books.totals().held), (u64::MAX, u64::MAX));
        assert_eq!(books.closed(DropReason::CrashVolatile).totals().dropped, u64::MAX);
    }

    #[test]
    fn a_reason_of_a_newer_agent_is_left_out() {
        let mut report = spans("a", "1", 10, 10, 0);
        report.inputs[0].dropped = vec![Reasoned { reason: 999, items: 5 }];
        report.inputs.push(InputTotals { signal: 77, class: 0, received: 9, ..Default::default() });
        assert_eq!(Books::of(&report).totals(), Totals { received: 10, delivered: 10, ..Totals::default() });
    }
}
