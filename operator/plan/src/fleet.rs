//! The fleet of one pipeline: its agents, its recent past, and the three judgements that need a past (flow, buffers,
//! destinations). Handles reports, presence and ticks; answers with numbers and verdicts. Time comes in as an argument.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crds::conditions::{ConditionStatus, ConditionType, FLOW_BY_SEVERITY, Reason};
use crds::fleet::{AgentReport, DestinationCondition};
use crds::v1alpha1::Condition;
use jiff::Timestamp;

use crate::agents::{Agent, Agents, Presence, RefusedReport, Volume};
use crate::books::{Books, Drops, Totals};
use crate::latch::Latch;
use crate::windows::{WINDOWS, Windows};

/// Fill of a disk or a queue, in percent, from which it counts as full.
const FULL_PERCENT: u64 = 95;
/// Fill, in percent, from which it is said to be filling up.
const FILLING_PERCENT: u64 = 80;
/// Age of the oldest unsettled record, in milliseconds, from which a backlog counts as old: ten minutes.
const OLD_MILLISECONDS: u64 = 600_000;

/// Reasons of `BuffersHealthy`, worst first.
const BUFFERS_BY_SEVERITY: [Reason; 6] =
    [Reason::DiskErrors, Reason::DiskFull, Reason::MemoryQueueFull, Reason::SegmentsQuarantined, Reason::BacklogOld, Reason::FillingUp];

/// A judgement with hysteresis: one latch per reason it may have.
#[derive(Debug, Default)]
struct Judgement {
    latches: BTreeMap<Reason, Latch>,
}

impl Judgement {
    fn observe(&mut self, over: &BTreeSet<Reason>, now: Timestamp) {
        for &reason in over {
            self.latches.entry(reason).or_default();
        }
        for (reason, latch) in &mut self.latches {
            latch.observe(over.contains(reason), now);
        }
        self.latches.retain(|_, latch| *latch != Latch::Clear);
    }

    /// Goes on from a condition that an earlier leader wrote: what was wrong is so until it was clean for long enough.
    fn resume(&mut self, condition: &Condition) {
        if condition.type_.reasons(ConditionStatus::False).contains(&condition.reason) {
            self.latches.insert(condition.reason, Latch::Tripped { since: condition.last_transition_time.0, clean: 0 });
        }
    }

    fn worst(&self, by_severity: &[Reason]) -> Option<Finding> {
        by_severity.iter().find_map(|&reason| {
            let latch = self.latches.get(&reason)?;
            Some(Finding { reason, since: latch.tripped_since()?, current: latch.is_current() })
        })
    }
}

/// Something that is wrong, since when, and whether it is wrong at this moment or only was within five minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub reason: Reason,
    /// Since when.
    pub since: Timestamp,
    /// Whether the last window still showed it.
    pub current: bool,
}

/// Fill of the queues over the agents, in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueFill {
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile.
    pub p99: u64,
    /// Fullest agent.
    pub max: u64,
    /// Agents above the soft limit of 90 percent.
    pub over_soft: u64,
    /// Agents that are full.
    pub full: u64,
}

/// What lies in the buffers of all agents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Unsettled bytes on disk.
    pub bytes: u64,
    /// Bound of it; 0 if no agent has a disk.
    pub capacity: u64,
    /// Age of the oldest unsettled record, in milliseconds.
    pub oldest_milliseconds: u64,
}

/// The fleet of one pipeline.
#[derive(Debug, Default)]
pub struct Fleet {
    agents: Agents,
    windows: Windows,
    /// What was dropped in all at the end of each closed window, oldest first.
    drops: VecDeque<Drops>,
    flow: Judgement,
    buffers: Judgement,
    destinations: Judgement,
}

impl Fleet {
    /// Starts from what an earlier leader published; see [`Agents::inherit`].
    #[must_use]
    pub fn inherit(published: &Books, retired: Books, retired_agents: u64, now: Timestamp) -> Self {
        Self { agents: Agents::inherit(published, retired, retired_agents, now), ..Self::default() }
    }

    /// Takes over what an earlier leader found wrong.
    pub fn resume(&mut self, conditions: &[Condition]) {
        for condition in conditions {
            match condition.type_ {
                ConditionType::FlowHealthy => self.flow.resume(condition),
                ConditionType::BuffersHealthy => self.buffers.resume(condition),
                ConditionType::DestinationsReachable => self.destinations.resume(condition),
                _ => {}
            }
        }
    }

    /// Takes in a report whose sender was checked.
    ///
    /// # Errors
    /// When it is anonymous, implausible, or one too many.
    pub fn handle_report(&mut self, report: AgentReport, now: Timestamp) -> Result<(), RefusedReport> {
        self.agents.handle_report(report, now)
    }

    /// Takes in which pods and nodes exist, and what becomes of a buffer without its pod.
    pub fn handle_presence(&mut self, presence: &Presence, volume: Option<Volume>, now: Timestamp) {
        self.agents.handle_presence(presence, volume, now);
    }

    /// Closes the window that is over, if one is, and judges it. Call it about once a second.
    pub fn handle_tick(&mut self, now: Timestamp) {
        let total = self.agents.total();
        let closed = self.windows.observe(now, total.totals());
        if closed.is_some() || self.drops.is_empty() {
            self.drops.push_back(total.dropped());
            if self.drops.len() > WINDOWS + 1 {
                self.drops.pop_front();
            }
        }
        if let Some(window) = closed {
            self.flow.observe(&judge_flow(&window, self.is_archive()), now);
            self.buffers.observe(&self.judge_buffers(), now);
            self.destinations.observe(&self.judge_destinations(), now);
        }
    }

    fn judge_buffers(&self) -> BTreeSet<Reason> {
        let mut over = BTreeSet::new();
        for buffer in self.agents.present().filter_map(|agent| agent.report.buffer) {
            let whole = buffer.disk_bytes.saturating_mul(100).checked_div(buffer.disk_bytes_max);
            // A full share refuses or drops, however empty the disk is otherwise.
            let disk = whole.map(|percent| percent.max(buffer.disk_share_permille / 10));
            if buffer.disk_failed {
                over.insert(Reason::DiskErrors);
            }
            match disk {
                Some(percent) if percent >= FULL_PERCENT => _ = over.insert(Reason::DiskFull),
                Some(percent) if percent >= FILLING_PERCENT => _ = over.insert(Reason::FillingUp),
                Some(_) | None => {}
            }
            if buffer.oldest_milliseconds >= OLD_MILLISECONDS && !buffer.is_archive {
                over.insert(Reason::BacklogOld);
            }
        }
        // With a disk behind it, full memory is the normal way of work.
        match self.queue_fill().p99 {
            percent if self.backlog().capacity > 0 || percent < FILLING_PERCENT => {}
            percent if percent >= FULL_PERCENT => _ = over.insert(Reason::MemoryQueueFull),
            _ => _ = over.insert(Reason::FillingUp),
        }
        if self.agents.totals().quarantined > 0 {
            over.insert(Reason::SegmentsQuarantined);
        }
        over
    }

    /// Whether what is held is meant to stay.
    fn is_archive(&self) -> bool {
        self.agents.present().any(|agent| agent.report.buffer.is_some_and(|buffer| buffer.is_archive))
    }

    fn judge_destinations(&self) -> BTreeSet<Reason> {
        let states = self.agents.present().flat_map(|agent| &agent.report.destination_states);
        states.map(|state| state.condition()).filter(|condition| *condition != DestinationCondition::Reachable).map(Reason::from).collect()
    }

    /// What is wrong with the flow.
    #[must_use]
    pub fn flow_finding(&self) -> Option<Finding> {
        self.flow.worst(&FLOW_BY_SEVERITY)
    }

    /// What is wrong with the buffers. A broken ledger is a finding without hysteresis.
    #[must_use]
    pub fn buffers_finding(&self, now: Timestamp) -> Option<Finding> {
        if self.agents.present().any(|agent| agent.report.ledger_broken.is_some()) {
            return Some(Finding { reason: Reason::LedgerBroken, since: now, current: true });
        }
        self.buffers.worst(&BUFFERS_BY_SEVERITY)
    }

    /// What is wrong with the destinations.
    #[must_use]
    pub fn destinations_finding(&self) -> Option<Finding> {
        self.destinations.worst(ConditionType::DestinationsReachable.reasons(ConditionStatus::False))
    }

    /// The agents.
    #[must_use]
    pub fn agents(&self) -> &Agents {
        &self.agents
    }

    /// What happened in the last five minutes.
    #[must_use]
    pub fn lately(&self) -> Totals {
        self.windows.lately(self.agents.totals())
    }

    /// What was dropped in the last five minutes.
    #[must_use]
    pub fn dropped_lately(&self) -> Drops {
        let mut drops = self.agents.total().dropped();
        if let Some(before) = self.drops.front() {
            for (key, items) in &mut drops {
                *items = items.saturating_sub(before.get(key).copied().unwrap_or(0));
            }
        }
        drops.retain(|_, items| *items > 0);
        drops
    }

    /// Items per second over the last minute.
    #[must_use]
    pub fn rate(&self, now: Timestamp, field: fn(&Totals) -> u64) -> u64 {
        self.windows.rate(now, self.agents.totals(), field)
    }

    /// Fill of the queues.
    #[must_use]
    pub fn queue_fill(&self) -> QueueFill {
        let mut fills: Vec<u64> = self.agents.present().map(Agent::queue_percent).collect();
        fills.sort_unstable();
        // The smallest fill that this percentage of the agents do not exceed.
        let rank = |percent: usize| fills.get((fills.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0);
        let above = |bound: u64| fills.iter().filter(|&&fill| fill >= bound).count() as u64;
        QueueFill { p50: rank(50), p90: rank(90), p99: rank(99), max: rank(100), over_soft: above(90), full: above(FULL_PERCENT) }
    }

    /// What lies in the buffers.
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        self.agents.present().filter_map(|agent| agent.report.buffer).fold(Backlog::default(), |sum, buffer| Backlog {
            bytes: sum.bytes.saturating_add(buffer.disk_bytes),
            capacity: sum.capacity.saturating_add(buffer.disk_bytes_max),
            oldest_milliseconds: sum.oldest_milliseconds.max(buffer.oldest_milliseconds),
        })
    }
}

fn judge_flow(window: &Totals, is_archive: bool) -> BTreeSet<Reason> {
    let mut over = BTreeSet::new();
    if window.dropped > 0 {
        over.insert(if window.delivered == 0 && window.dropped >= window.received {
            Reason::AllDataDropped
        } else {
            Reason::SomeDataDropped
        });
    }
    if window.delivered == 0 && window.held > window.quarantined && !is_archive {
        over.insert(Reason::NothingDelivered);
    }
    if window.refused > 0 {
        over.insert(Reason::IntakeRefused);
    }
    over
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::books::tests::spans;
    use crds::fleet::BufferGauges;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).expect("in range")
    }

    fn with_memory(mut report: AgentReport, percent: u64) -> AgentReport {
        report.buffer = Some(BufferGauges { memory_bytes: percent, memory_bytes_max: 100, memory_items_max: 100, ..Default::default() });
        report
    }

    #[test]
    fn drops_are_found_within_thirty_seconds_of_the_first() {
        let mut fleet = Fleet::default();
        let mut found = None;
        for second in 0..60_u8 {
            let now = at(i64::from(second));
            let dropped = u64::from(second.saturating_sub(7)) * 10;
            if second % 5 == 0 {
                fleet
                    .handle_report(spans("a", "1", 1000 + dropped * 2, 1000 + dropped, dropped), now)
                    .unwrap_or_else(|refused| panic!("{refused}"));
            }
            fleet.handle_tick(now);
            found = found.or(fleet.flow_finding().map(|finding| (second, finding.reason)));
        }
        let (second, reason) = found.expect("drops are found");
        assert_eq!(reason, Reason::SomeDataDropped);
        assert!(second - 7 <= 28, "found {} s after the first drop", second - 7);
    }

    #[test]
    fn an_outage_is_nothing_delivered_and_not_a_drop() {
        let mut fleet = Fleet::default();
        for second in 0..40_u8 {
            let report = AgentReport { sequence: u64::from(second) + 2, ..spans("a", "1", 100 + u64::from(second), 100, 0) };
            fleet.handle_report(report, at(i64::from(second))).expect("taken");
            fleet.handle_tick(at(i64::from(second)));
        }
        assert_eq!(fleet.flow_finding().map(|finding| finding.reason), Some(Reason::NothingDelivered));
    }

    #[test]
    fn an_archive_delivers_nothing_and_is_well_however_old_what_it_holds_is() {
        let mut fleet = Fleet::default();
        for second in 0..40_u8 {
            let mut report = AgentReport { sequence: u64::from(second) + 2, ..spans("a", "1", 100 + u64::from(second), 100, 0) };
            report.buffer = Some(BufferGauges { is_archive: true, oldest_milliseconds: 2 * OLD_MILLISECONDS, ..Default::default() });
            fleet.handle_report(report, at(i64::from(second))).expect("taken");
            fleet.handle_tick(at(i64::from(second)));
        }
        assert_eq!((fleet.flow_finding(), fleet.buffers_finding(at(40))), (None, None));
    }

    #[test]
    fn the_worst_of_the_reasons_is_shown() {
        let window = Totals { received: 10, delivered: 0, dropped: 3, held: 7, refused: 1, quarantined: 0 };
        let mut judgement = Judgement::default();
        judgement.observe(&judge_flow(&window, false), at(0));
        judgement.observe(&judge_flow(&window, false), at(10));
        assert_eq!(judgement.worst(&FLOW_BY_SEVERITY).map(|finding| finding.reason), Some(Reason::SomeDataDropped));
    }

    #[test]
    fn a_full_share_of_one_destination_is_a_full_disk() {
        let mut fleet = Fleet::default();
        let mut report = spans("a", "1", 1, 1, 0);
        report.buffer = Some(BufferGauges { disk_bytes: 50, disk_bytes_max: 100, disk_share_permille: 1_000, ..Default::default() });
        fleet.handle_report(report, at(0)).expect("taken");
        assert_eq!(fleet.judge_buffers(), BTreeSet::from([Reason::DiskFull]));
    }

    #[test]
    fn the_99th_percentile_is_the_one_that_one_agent_in_a_hundred_exceeds() {
        let mut fleet = Fleet::default();
        for agent in 0..100_u64 {
            let name = agent.to_string();
            fleet.handle_report(with_memory(spans(&name, &name, 1, 1, 0), agent), at(0)).expect("taken");
        }
        let fill = fleet.queue_fill();
        assert_eq!((fill.p50, fill.p90, fill.p99, fill.max, fill.over_soft), (49, 89, 98, 99, 10));
    }
}
