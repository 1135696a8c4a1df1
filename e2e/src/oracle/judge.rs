//! The checks themselves.

use std::fmt;

use crds::v1alpha1::Flow;
use vocabulary::{Class, Signal};

use super::ledger::{DestinationCell, InputCell, Ledger};
use crate::codec::SIGNALS;
use crate::loadgen::{ClassTruth, Truth};
use crate::sink::SinkReport;

/// Reasons of a refusal after which the client comes again; only those are counted by the load generator.
const RETRYABLE: [&str; 4] = ["HardLimit", "MemoryPressure", "TenantQuota", "ShuttingDown"];

/// The ledger of one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentLedger {
    /// Pod or process.
    pub agent: String,
    /// Its books.
    pub ledger: Ledger,
}

/// Everything that is known of one pipeline at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence {
    /// Namespace and name.
    pub pipeline: String,
    /// Every agent of it.
    pub ledgers: Vec<AgentLedger>,
    /// Every load generator that sent to it.
    pub truths: Vec<Truth>,
    /// The backend behind it.
    pub sink: SinkReport,
    /// Its status; `None` without a cluster.
    pub flow: Option<Flow>,
}

/// Two sides that should be equal, and are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Which identity.
    pub identity: &'static str,
    /// Which pipeline or agent, signal and class.
    pub place: String,
    /// The left side.
    pub left: u64,
    /// Smallest and largest value the right side allows.
    pub right: (u64, u64),
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { identity, place, left, right: (lower, upper) } = self;
        let off = if left < lower { lower - left } else { left.saturating_sub(*upper) };
        if lower == upper {
            write!(formatter, "{place}: {identity}: left {left}, right {lower}, off by {off}")
        } else {
            write!(formatter, "{place}: {identity}: left {left}, right {lower} to {upper}, off by {off}")
        }
    }
}

/// The outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Identities that were compared.
    pub checked: usize,
    /// Those that do not hold.
    pub differences: Vec<Difference>,
    /// What agents or load generators themselves find wrong.
    pub complaints: Vec<String>,
    /// Items still held by agents; while there are any, the sink is not compared.
    pub held: u64,
}

impl Verdict {
    /// Every identity holds, nobody complains and nothing is held.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.differences.is_empty() && self.complaints.is_empty() && self.held == 0
    }

    /// Adds another verdict.
    pub fn merge(&mut self, other: Self) {
        self.checked += other.checked;
        self.differences.extend(other.differences);
        self.complaints.extend(other.complaints);
        self.held += other.held;
    }

    fn equal(&mut self, identity: &'static str, place: impl FnOnce() -> String, left: u64, right: u64) {
        self.within(identity, place, left, (right, right));
    }

    fn within(&mut self, identity: &'static str, place: impl FnOnce() -> String, left: u64, right: (u64, u64)) {
        self.checked += 1;
        if left < right.0 || left > right.1 {
            self.differences.push(Difference { identity, place: place(), left, right });
        }
    }
}

/// Checks everything.
#[must_use]
pub fn judge(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict { held: evidence.ledgers.iter().map(|agent| agent.ledger.held()).sum(), ..Verdict::default() };
    for agent in &evidence.ledgers {
        books_balance(&mut verdict, evidence, agent);
    }
    for truth in &evidence.truths {
        producer_is_settled(&mut verdict, truth);
    }
    for signal in SIGNALS {
        shed_was_told(&mut verdict, evidence, signal);
        for class in Class::ALL {
            let cell = Cell::sum(evidence, signal, class);
            load_is_in_the_books(&mut verdict, evidence, &cell);
            sink_has_what_was_delivered(&mut verdict, evidence, &cell);
            status_is_the_sum(&mut verdict, evidence, &cell);
        }
    }
    crash_is_within_its_bounds(&mut verdict, evidence);
    status_adds_up(&mut verdict, evidence);
    verdict
}

fn books_balance(verdict: &mut Verdict, evidence: &Evidence, AgentLedger { agent, ledger }: &AgentLedger) {
    if let Some(broken) = &ledger.broken {
        verdict.complaints.push(format!("{agent} says that its ledger is broken: {broken}"));
    }
    let place = |signal: Signal, class: Class| format!("{} {agent} {signal} {class}", evidence.pipeline);
    for cell in &ledger.inputs {
        let InputCell { signal, class, offered, received, refused, filtered, dropped } = cell;
        verdict.equal("offered = received + refused", || place(*signal, *class), *offered, received + refused.values().sum::<u64>());
        let routed: u64 = routed(ledger, *signal, *class);
        let right = filtered + dropped.values().sum::<u64>() + routed;
        verdict.equal("received = filtered + dropped at intake + routed", || place(*signal, *class), *received, right);
    }
    for cell in ledger.destinations.iter().flat_map(|book| &book.cells) {
        let DestinationCell { signal, class, routed, delivered, dropped, held } = cell;
        let right = delivered + dropped.values().sum::<u64>() + held.total();
        verdict.equal("routed = delivered + dropped + held", || place(*signal, *class), *routed, right);
        if !ledger.inputs.iter().any(|input| (input.signal, input.class) == (*signal, *class)) {
            verdict.equal("routed was received", || place(*signal, *class), *routed, 0);
        }
    }
    let right = ledger.kernel.produced + ledger.kernel.lost.values().sum::<u64>();
    verdict.equal("attempted = produced + lost", || format!("{} {agent} kernel", evidence.pipeline), ledger.kernel.attempted, right);
}

fn routed(ledger: &Ledger, signal: Signal, class: Class) -> u64 {
    let cells = ledger.destinations.iter().flat_map(|book| &book.cells);
    cells.filter(|cell| (cell.signal, cell.class) == (signal, class)).map(|cell| cell.routed).sum()
}

fn producer_is_settled(verdict: &mut Verdict, truth: &Truth) {
    if !truth.settled {
        verdict.complaints.push(format!("{} still has requests without an outcome", truth.producer));
    }
    for signal in &truth.signals {
        for class in &signal.classes {
            let right = class.accepted + class.abandoned + class.unknown;
            let place = || format!("{} {} {}", truth.producer, signal.signal, class.class);
            verdict.equal("sent = accepted + abandoned + unknown", place, class.sent, right);
        }
    }
}

/// One signal and class, all agents and all load generators together.
struct Cell {
    signal: Signal,
    class: Class,
    offered: u64,
    received: u64,
    refused: u64,
    refused_retryable: u64,
    filtered: u64,
    dropped: u64,
    routed: u64,
    delivered: u64,
    held: u64,
    accepted: u64,
    told_to_retry: u64,
    uncertain: u64,
}

impl Cell {
    fn sum(evidence: &Evidence, signal: Signal, class: Class) -> Self {
        let ledgers = || evidence.ledgers.iter().map(|agent| &agent.ledger);
        let inputs = || ledgers().flat_map(|ledger| &ledger.inputs).filter(|cell| (cell.signal, cell.class) == (signal, class));
        let outputs = || {
            ledgers()
                .flat_map(|ledger| &ledger.destinations)
                .flat_map(|book| &book.cells)
                .filter(|cell| (cell.signal, cell.class) == (signal, class))
        };
        let truth = |number: fn(&ClassTruth) -> u64| evidence.truths.iter().filter_map(|truth| truth.cell(signal, class)).map(number).sum();
        let retryable = |(reason, items): (&String, &u64)| RETRYABLE.contains(&reason.as_str()).then_some(*items);
        Self {
            signal,
            class,
            offered: inputs().map(|cell| cell.offered).sum(),
            received: inputs().map(|cell| cell.received).sum(),
            refused: inputs().flat_map(|cell| cell.refused.values()).sum(),
            refused_retryable: inputs().flat_map(|cell| &cell.refused).filter_map(retryable).sum(),
            filtered: inputs().map(|cell| cell.filtered).sum(),
            dropped: inputs().flat_map(|cell| cell.dropped.values()).sum::<u64>()
                + outputs().flat_map(|cell| cell.dropped.values()).sum::<u64>(),
            routed: outputs().map(|cell| cell.routed).sum(),
            delivered: outputs().map(|cell| cell.delivered).sum(),
            held: outputs().map(|cell| cell.held.total()).sum(),
            accepted: truth(|class| class.accepted),
            told_to_retry: truth(|class| class.refused),
            uncertain: truth(|class| class.uncertain),
        }
    }

    fn place(&self, evidence: &Evidence) -> String {
        format!("{} {} {}", evidence.pipeline, self.signal, self.class)
    }
}

/// Largest number of items that crashes may have taken from memory, all agents together.
fn crash_upper(evidence: &Evidence) -> u64 {
    evidence.ledgers.iter().map(|agent| agent.ledger.crash_volatile_bounds.1).sum()
}

/// Kernel records become log records and data points, never spans.
fn may_be_kernel(evidence: &Evidence, signal: Signal) -> bool {
    signal != Signal::Traces && evidence.ledgers.iter().any(|agent| agent.ledger.kernel.attempted > 0)
}

fn load_is_in_the_books(verdict: &mut Verdict, evidence: &Evidence, cell: &Cell) {
    let crash = crash_upper(evidence);
    let place = || cell.place(evidence);
    let kernel = evidence.sink.kernel(cell.signal, cell.class);
    // Kernel items that were dropped or are held are in nobody's record but the agent's.
    let kernel_more = if may_be_kernel(evidence, cell.signal) { kernel.duplicates + cell.dropped + cell.held } else { 0 };
    let known = cell.accepted + kernel.distinct;
    let right = (known.saturating_sub(crash), known + cell.uncertain + kernel_more);
    verdict.within("received = accepted by the load generators + kernel", place, cell.received, right);
    // A request refused before its items were counted is in the load generator's number alone; a crash undoes refusals of its last window.
    let is_partial = crash > 0 || evidence.ledgers.iter().any(|agent| !agent.ledger.requests_refused.is_empty());
    let lower = if is_partial { 0 } else { cell.told_to_retry };
    verdict.within("refused = refused to the load generators", place, cell.refused_retryable, (lower, cell.told_to_retry + cell.uncertain));
}

/// Whatever an agent drops at intake, it tells the client not to send again; only a kernel source has nobody to be told.
fn shed_was_told(verdict: &mut Verdict, evidence: &Evidence, signal: Signal) {
    let cells = evidence.ledgers.iter().flat_map(|agent| &agent.ledger.inputs).filter(|cell| cell.signal == signal);
    let reasons = || cells.clone().flat_map(|cell| &cell.dropped);
    let shed: u64 = reasons().map(|(_, items)| items).sum();
    let soft: u64 = reasons().filter(|(reason, _)| *reason == "SoftLimit").map(|(_, items)| items).sum();
    let truths = || evidence.truths.iter().flat_map(|truth| &truth.signals).filter(|entry| entry.signal == signal);
    let rejected: u64 = truths().map(|entry| entry.rejected).sum();
    let uncertain: u64 = truths().flat_map(|entry| &entry.classes).map(|class| class.uncertain).sum();
    let lower = if may_be_kernel(evidence, signal) { soft } else { shed };
    let right = (lower.saturating_sub(uncertain), shed + crash_upper(evidence));
    verdict.within("rejected to the load generators = shed", || format!("{} {signal}", evidence.pipeline), rejected, right);
}

fn sink_has_what_was_delivered(verdict: &mut Verdict, evidence: &Evidence, cell: &Cell) {
    if verdict.held > 0 {
        return;
    }
    let produced = evidence.sink.produced(cell.signal, cell.class);
    let kernel = evidence.sink.kernel(cell.signal, cell.class);
    let unidentified = evidence.sink.unidentified(cell.signal, cell.class);
    let distinct = produced.distinct + kernel.distinct + unidentified.distinct;
    // The same item is delivered twice by the books only if it was received twice: after an attempt without an answer.
    let again = if cell.uncertain > 0 { produced.duplicates } else { 0 };
    let right = (distinct.saturating_sub(crash_upper(evidence)), distinct + again + kernel.duplicates);
    verdict.within("delivered = distinct items at the sink", || cell.place(evidence), cell.delivered, right);
}

fn status_is_the_sum(verdict: &mut Verdict, evidence: &Evidence, cell: &Cell) {
    let Some(flow) = &evidence.flow else { return };
    let shown = flow.signals.iter().find(|shown| (shown.signal, shown.class) == (cell.signal, cell.class));
    let number = |number: fn(&crds::v1alpha1::FlowCell) -> i64| shown.map_or(0, |shown| u64::try_from(number(shown)).unwrap_or(u64::MAX));
    let place = || format!("{} status", cell.place(evidence));
    // Kernel items flow for as long as processes start and end; the status follows them some seconds behind.
    let is_moving = may_be_kernel(evidence, cell.signal);
    let right = |now: u64| (if is_moving { 0 } else { now }, now);
    verdict.within("status offered = sum of agents", place, number(|shown| shown.offered), right(cell.offered));
    verdict.within("status received = sum of agents", place, number(|shown| shown.received), right(cell.received));
    verdict.within("status refused = sum of agents", place, number(|shown| shown.refused), right(cell.refused));
    verdict.within("status filtered = sum of agents", place, number(|shown| shown.filtered), right(cell.filtered));
    verdict.within("status routed = sum of agents", place, number(|shown| shown.routed), right(cell.routed));
    verdict.within("status delivered = sum of agents", place, number(|shown| shown.delivered), right(cell.delivered));
    verdict.within("status dropped = sum of agents", place, number(|shown| shown.dropped), right(cell.dropped));
    if !is_moving {
        verdict.equal("status held = sum of agents", place, number(|shown| shown.held), cell.held);
    }
    let by_reason =
        shown.map_or(0, |shown| shown.dropped_by_reason.iter().map(|entry| u64::try_from(entry.total).unwrap_or(u64::MAX)).sum());
    verdict.equal("status dropped = sum of its reasons", place, number(|shown| shown.dropped), by_reason);
}

/// What the load generators know to be lost must lie between the bounds that the agents tell.
fn crash_is_within_its_bounds(verdict: &mut Verdict, evidence: &Evidence) {
    let upper = crash_upper(evidence);
    if upper == 0 || verdict.held > 0 {
        return;
    }
    let lower: u64 = evidence.ledgers.iter().map(|agent| agent.ledger.crash_volatile_bounds.0).sum();
    let accepted: u64 = evidence.truths.iter().map(|truth| truth.sum(|class| class.accepted)).sum();
    let arrived: u64 = evidence.sink.producers.iter().map(|entry| entry.tally.distinct).sum();
    let ledgers = || evidence.ledgers.iter().map(|agent| &agent.ledger);
    let all_dropped: u64 = ledgers().map(Ledger::dropped).sum();
    let by_crash: u64 = ledgers()
        .flat_map(|ledger| &ledger.destinations)
        .flat_map(|book| &book.cells)
        .filter_map(|cell| cell.dropped.get("CrashVolatile"))
        .sum();
    let lost = accepted.saturating_sub(arrived).saturating_sub(all_dropped - by_crash);
    verdict.within("lost in crashes is within the bounds told", || evidence.pipeline.clone(), lost, (lower, upper));
}

/// The status' own sums, whatever its age.
fn status_adds_up(verdict: &mut Verdict, evidence: &Evidence) {
    let Some(flow) = &evidence.flow else { return };
    let number = |number: i64| u64::try_from(number).unwrap_or(u64::MAX);
    let dropped: u64 = flow.signals.iter().map(|cell| number(cell.dropped)).sum();
    verdict.equal("status droppedTotal = sum of its cells", || evidence.pipeline.clone(), number(flow.dropped_total), dropped);
    if let Some(kernel) = &flow.kernel {
        let right = number(kernel.produced) + number(kernel.lost);
        verdict.equal("attempted = produced + lost", || format!("{} status kernel", evidence.pipeline), number(kernel.attempted), right);
    }
}
