//! The ledger of one agent, or the sum of many, per signal and class. Kept apart from who reported it, because the sums must
//! stay exact whatever becomes of the agents.

use std::collections::BTreeMap;

use crds::fleet::{AgentReport, Reasoned};
use vocabulary::{Class, DropReason, LossReason, RefuseReason, Signal};

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
        self.queued + self.on_disk + self.in_flight + self.waiting_retry + self.quarantined
    }

    fn fields(&mut self) -> [&mut u64; 5] {
        [&mut self.queued, &mut self.on_disk, &mut self.in_flight, &mut self.waiting_retry, &mut self.quarantined]
    }

    fn add(&mut self, mut other: Self) {
        for (mine, theirs) in self.fields().into_iter().zip(other.fields()) {
            *mine += *theirs;
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
        self.dropped.values().sum()
    }

    /// Items not accepted, whatever the reason.
    #[must_use]
    pub fn refused_total(&self) -> u64 {
        self.refused.values().sum()
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn add(&mut self, other: &Self) {
        self.offered += other.offered;
        self.received += other.received;
        self.filtered += other.filtered;
        self.delivered += other.delivered;
        self.routed += other.routed;
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
        let settled = self.filtered + self.delivered + self.dropped_total();
        self.held.cut_to(self.received.max(self.routed).saturating_sub(settled));
    }
}

fn merge<R: Ord + Copy>(into: &mut BTreeMap<R, u64>, from: &BTreeMap<R, u64>) {
    for (&reason, items) in from {
        *into.entry(reason).or_default() += items;
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

/// A whole ledger. Bounded by the vocabulary: at most one cell per signal and class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Items, where there is something to tell.
    pub cells: BTreeMap<(Signal, Class), Cell>,
    /// The destination side, by name; at most [`DESTINATIONS_MAX`].
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
            cell.offered += input.offered;
            cell.received += input.received;
            cell.filtered += input.filtered;
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
            cell.delivered += destination.delivered;
            cell.routed += destination.routed;
            cell.held.add(held);
            add_reasons(&mut cell.dropped, &destination.dropped, DropReason::from_code);
            let dropped = cell.dropped_total() - dropped_before;
            let sums = DestinationBooks { routed: destination.routed, sent: destination.delivered, dropped, held: held.total() };
            books.add_destination(&destination.destination, sums);
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
        if self.destinations.len() >= DESTINATIONS_MAX && !self.destinations.contains_key(name) {
            return;
        }
        let mine = self.destinations.entry(name.to_owned()).or_default();
        mine.routed += sums.routed;
        mine.sent += sums.sent;
        mine.dropped += sums.dropped;
        mine.held += sums.held;
    }

    /// Adds another ledger to this one.
    pub fn add(&mut self, other: &Self) {
        for (key, cell) in &other.cells {
            self.cells.entry(*key).or_default().add(cell);
        }
        for (name, sums) in &other.destinations {
            self.add_destination(name, *sums);
        }
        self.kernel.attempted += other.kernel.attempted;
        self.kernel.produced += other.kernel.produced;
        merge(&mut self.kernel.lost, &other.kernel.lost);
        self.crash_volatile.0 += other.crash_volatile.0;
        self.crash_volatile.1 += other.crash_volatile.1;
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
            mine.held = mine.held.min(mine.routed.saturating_sub(mine.sent + mine.dropped));
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
                *cell.dropped.entry(reason).or_default() += held;
            }
        }
        for sums in self.destinations.values_mut() {
            sums.dropped += std::mem::take(&mut sums.held);
        }
        self
    }

    /// The sums over every signal and class.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for cell in self.cells.values() {
            totals.received += cell.received;
            totals.delivered += cell.delivered;
            totals.dropped += cell.dropped_total();
            totals.refused += cell.refused_total();
            totals.held += cell.held.total();
            totals.quarantined += cell.held.quarantined;
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
            *into.entry(reason).or_default() += reasoned.items;
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
    fn a_reason_of_a_newer_agent_is_left_out() {
        let mut report = spans("a", "1", 10, 10, 0);
        report.inputs[0].dropped = vec![Reasoned { reason: 999, items: 5 }];
        report.inputs.push(InputTotals { signal: 77, class: 0, received: 9, ..Default::default() });
        assert_eq!(Books::of(&report).totals(), Totals { received: 10, delivered: 10, ..Totals::default() });
    }
}
