//! The agents of one pipeline as their reports tell them, and the one sum that never steps back.
//!
//! `total = retired + inherited + Σ live`. *Live* are the ledgers that report. *Retired* are ledgers that never will again;
//! what they held is dropped with its reason. *Inherited* is what an earlier leader published for agents that have not
//! reported to this one yet: each agent's first report claims its part of it, so that the sum is whole from the first moment.
//! What is not claimed becomes a loss only where a buffer cannot outlive its pod; where it can, it stays claimable.
//!
//! A ledger that was retired and comes back is taken out of *retired* again, so that its drops step back by what was not lost
//! after all. This leader remembers the [`REMEMBERED_MAX`] that were retired last; an older one that comes back counts twice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crds::fleet::AgentReport;
use jiff::Timestamp;
use vocabulary::DropReason;

use crate::books::{Books, COUNTER_MAX, Totals, is_plausible};
use crate::windows::{Windows, seconds_between};

/// Most ledgers of one pipeline: twice the largest cluster that Kubernetes supports.
pub const LEDGERS_MAX: usize = 10_000;
/// An agent that was not heard for this long is silent; six reports at the default pace.
pub const SILENT_SECONDS: i64 = 30;
/// A new leader is said to collect first reports for no longer than this.
const COLLECTION_SECONDS: i64 = 600;
/// Retired ledgers that are remembered: a node pool of that size may be away for a while and come back.
pub const REMEMBERED_MAX: usize = 64;

/// What becomes of a buffer when its pod is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Volume {
    /// There is none: memory alone.
    #[default]
    None,
    /// It goes with the pod.
    Pod,
    /// It stays with the node.
    Node,
    /// It stays until somebody deletes the claim.
    Claim,
}

/// One agent: its last report and what is derived from it.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Its last report.
    pub report: AgentReport,
    /// The books in it.
    pub books: Books,
    /// When it arrived.
    pub heard: Timestamp,
    /// What happened lately.
    pub windows: Windows,
    /// Whether it reports, or its pod is there: only then do its gauges and states tell of something that is.
    pub is_there: bool,
}

impl Agent {
    /// Whether it reported lately.
    #[must_use]
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        seconds_between(self.heard, now) < SILENT_SECONDS
    }

    /// How near its intake is to the hard limit, in percent: what it says of itself, or at least the fill of its memory.
    #[must_use]
    pub fn queue_percent(&self) -> u64 {
        let percent = |part: u64, whole: u64| part.saturating_mul(100).checked_div(whole).unwrap_or(0);
        self.report.buffer.map_or(0, |buffer| {
            let filled = percent(buffer.memory_bytes, buffer.memory_bytes_max).max(percent(buffer.memory_items, buffer.memory_items_max));
            filled.max(buffer.fill_permille / 10).min(100)
        })
    }
}

/// Why a report was not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedReport {
    /// It is older than one that was taken in.
    #[error("the report's sequence does not rise")]
    Stale,
    /// The pipeline has more ledgers than any cluster has nodes.
    #[error("more than {LEDGERS_MAX} ledgers report for this pipeline")]
    TooManyLedgers,
    /// It has no ledger identity.
    #[error("the report has no ledger identity")]
    Anonymous,
    /// It tells a number that no agent can have counted.
    #[error("the report tells a number above {COUNTER_MAX}")]
    Implausible,
}

/// The pods and nodes that exist, as the operator's watches tell it.
#[derive(Clone, Debug, Default)]
pub struct Presence {
    /// UIDs of the pipeline's pods.
    pub pods: BTreeSet<String>,
    /// UIDs of those that are ready.
    pub ready: BTreeSet<String>,
    /// Names of the cluster's nodes.
    pub nodes: BTreeSet<String>,
    /// Pods there should be.
    pub desired: usize,
}

/// The agents of one pipeline. Bounded by [`LEDGERS_MAX`].
#[derive(Debug, Default)]
pub struct Agents {
    live: BTreeMap<String, Agent>,
    retired: Books,
    retired_agents: u64,
    /// Identity and closed books of the ledgers that were retired last, oldest first. Bounded by [`REMEMBERED_MAX`].
    remembered: VecDeque<(String, Books)>,
    /// Ready pods that have no ledger yet, and since when that is known.
    unheard: BTreeMap<String, Timestamp>,
    inherited: Inherited,
}

/// The order of the reports of one stream. A new stream begins a new one: an agent may have used up numbers on streams that
/// were never opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamOrder {
    last: Option<u64>,
}

impl StreamOrder {
    /// Takes in the sequence of a report.
    ///
    /// # Errors
    /// When it does not rise.
    pub fn handle_sequence(&mut self, sequence: u64) -> Result<(), RefusedReport> {
        if self.last.is_some_and(|last| sequence <= last) {
            return Err(RefusedReport::Stale);
        }
        self.last = Some(sequence);
        Ok(())
    }
}

/// What an earlier leader published and no agent has claimed yet.
#[derive(Debug, Default)]
enum Inherited {
    /// Nothing: everything was claimed or lost, or there was no earlier leader.
    #[default]
    Settled,
    /// Some agents are still missing.
    Collecting { rest: Books, since: Timestamp },
    /// Whoever should be there has reported; the rest belongs to ledgers that may come back with their buffers.
    Kept { rest: Books },
}

impl Inherited {
    fn rest(&self) -> Option<&Books> {
        match self {
            Self::Settled => None,
            Self::Collecting { rest, .. } | Self::Kept { rest } => Some(rest),
        }
    }

    fn claim(&mut self, books: &Books) {
        match self {
            Self::Settled => {}
            Self::Collecting { rest, .. } | Self::Kept { rest } => rest.claim(books),
        }
    }
}

impl Agents {
    /// Starts from what an earlier leader published: the totals, and the part of them that is retired.
    #[must_use]
    pub fn inherit(published: &Books, retired: Books, retired_agents: u64, now: Timestamp) -> Self {
        let mut rest = published.clone();
        rest.claim(&retired);
        let inherited = if published.cells.is_empty() { Inherited::Settled } else { Inherited::Collecting { rest, since: now } };
        Self { retired, retired_agents, inherited, ..Self::default() }
    }

    /// Takes in a report, which the caller has already matched with its sender.
    ///
    /// # Errors
    /// When it is anonymous, implausible, or one too many.
    pub fn handle_report(&mut self, report: AgentReport, now: Timestamp) -> Result<(), RefusedReport> {
        if report.ledger_id.is_empty() {
            return Err(RefusedReport::Anonymous);
        }
        if !is_plausible(&report) {
            return Err(RefusedReport::Implausible);
        }
        let books = Books::of(&report);
        if let Some(agent) = self.live.get_mut(&report.ledger_id) {
            agent.windows.observe(now, books.totals());
            (agent.books, agent.report, agent.heard, agent.is_there) = (books, report, now, true);
            return Ok(());
        }
        if self.live.len() >= LEDGERS_MAX {
            return Err(RefusedReport::TooManyLedgers);
        }
        self.close_earlier_ledger_of(&report);
        if !self.take_back(&report.ledger_id) {
            self.inherited.claim(&books);
        }
        let mut windows = Windows::default();
        windows.observe(now, books.totals());
        self.live.insert(report.ledger_id.clone(), Agent { report, books, heard: now, windows, is_there: true });
        Ok(())
    }

    /// Takes a ledger that was retired out of the retired sum again; tells whether there was one.
    fn take_back(&mut self, ledger_id: &str) -> bool {
        let Some(place) = self.remembered.iter().position(|(id, _)| id == ledger_id) else { return false };
        let Some((_, books)) = self.remembered.remove(place) else { return false };
        self.retired.claim(&books);
        self.retired_agents = self.retired_agents.saturating_sub(1);
        true
    }

    /// A pod has one ledger. If it reports a new one, its memory or its disk began anew, and the old one ends here.
    fn close_earlier_ledger_of(&mut self, report: &AgentReport) {
        let earlier: Vec<_> =
            self.live.iter().filter(|(_, agent)| agent.report.pod_uid == report.pod_uid).map(|(id, _)| id.clone()).collect();
        for ledger_id in earlier {
            let had_disk = self.live.get(&ledger_id).and_then(|agent| agent.report.buffer).is_some_and(|buffer| buffer.disk_bytes_max > 0);
            self.retire(&ledger_id, if had_disk { Volume::Pod } else { Volume::None });
        }
    }

    /// Takes in which pods and nodes exist: retires the ledgers whose buffer is gone for good, and ends the collection after a
    /// restart once every desired agent has reported. While `volume` is not known, nothing is given up.
    pub fn handle_presence(&mut self, presence: &Presence, volume: Option<Volume>, now: Timestamp) {
        for agent in self.live.values_mut() {
            agent.is_there = agent.is_fresh(now) || presence.pods.contains(&agent.report.pod_uid);
        }
        if let Some(volume) = volume {
            self.retire_gone(presence, volume, now);
        }
        let reported: BTreeSet<String> = self.live.values().map(|agent| agent.report.pod_uid.clone()).collect();
        self.settle(presence, volume, &reported, now);
        let before = std::mem::take(&mut self.unheard);
        let unheard = presence.ready.difference(&reported);
        self.unheard = unheard.map(|uid| (uid.clone(), before.get(uid).copied().unwrap_or(now))).collect();
    }

    fn retire_gone(&mut self, presence: &Presence, volume: Volume, now: Timestamp) {
        let gone: Vec<_> = self
            .live
            .iter()
            .filter(|(_, agent)| !agent.is_fresh(now) && !presence.pods.contains(&agent.report.pod_uid))
            .filter(|(_, agent)| match volume {
                Volume::None | Volume::Pod => true,
                Volume::Node => !presence.nodes.contains(&agent.report.node),
                Volume::Claim => false,
            })
            .map(|(id, _)| id.clone())
            .collect();
        for ledger_id in gone {
            self.retire(&ledger_id, volume);
        }
    }

    fn retire(&mut self, ledger_id: &str, volume: Volume) {
        let Some(agent) = self.live.remove(ledger_id) else { return };
        let reason = match (volume, agent.report.last) {
            (Volume::None, true) => DropReason::ForcedShutdown,
            (Volume::None, false) => DropReason::CrashVolatile,
            (Volume::Pod | Volume::Node | Volume::Claim, _) => DropReason::VolumeLost,
        };
        let books = agent.books.closed(reason);
        self.add_retired(&books);
        self.retired_agents += 1;
        if self.remembered.len() >= REMEMBERED_MAX {
            self.remembered.pop_front();
        }
        self.remembered.push_back((ledger_id.to_owned(), books));
    }

    fn add_retired(&mut self, books: &Books) {
        self.retired.add(books);
        let live = &self.live;
        self.retired.fold_destinations(|| destinations_in_use(live));
    }

    fn settle(&mut self, presence: &Presence, volume: Option<Volume>, reported: &BTreeSet<String>, now: Timestamp) {
        if let Inherited::Collecting { rest, since } = &mut self.inherited {
            let complete = presence.ready.len() >= presence.desired && presence.ready.is_subset(reported);
            if !complete && seconds_between(*since, now) < COLLECTION_SECONDS {
                return;
            }
            self.inherited = Inherited::Kept { rest: std::mem::take(rest) };
        }
        let Inherited::Kept { rest } = &self.inherited else { return };
        let reason = match volume {
            _ if *rest == Books::default() => None,
            Some(Volume::None) => Some(DropReason::CrashVolatile),
            Some(Volume::Pod) => Some(DropReason::VolumeLost),
            // The buffer outlives its pod, or nobody knows: the ledger may come back at any time.
            Some(Volume::Node | Volume::Claim) | None => return,
        };
        // A pod that is not ready, or has no connection, still has its buffer.
        if reason.is_some() && !presence.pods.is_subset(reported) {
            return;
        }
        if let (Some(reason), Inherited::Kept { rest }) = (reason, std::mem::take(&mut self.inherited)) {
            self.add_retired(&rest.closed(reason));
        }
    }

    /// The pipeline's ledger.
    #[must_use]
    pub fn total(&self) -> Books {
        let mut total = self.retired.clone();
        if let Some(rest) = self.inherited.rest() {
            total.add(rest);
        }
        for agent in self.live.values() {
            total.add(&agent.books);
        }
        total.fold_destinations(|| destinations_in_use(&self.live));
        total
    }

    /// Totals of the pipeline's ledger.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.total().totals()
    }

    /// The ledgers that report.
    pub fn live(&self) -> impl Iterator<Item = &Agent> {
        self.live.values()
    }

    /// Those of them that report or whose pod is there: whose gauges and states are worth telling.
    pub fn present(&self) -> impl Iterator<Item = &Agent> {
        self.live.values().filter(|agent| agent.is_there)
    }

    /// The ready pod that has no ledger for the longest time, if that is long enough to call it silent, and since when.
    #[must_use]
    pub fn unheard(&self, now: Timestamp) -> Option<(&str, Timestamp)> {
        let silent = self.unheard.iter().filter(|(_, since)| seconds_between(**since, now) > SILENT_SECONDS);
        silent.min_by_key(|(_, since)| **since).map(|(uid, since)| (uid.as_str(), *since))
    }

    /// The part of the total that no living agent accounts for, and from how many agents it came.
    #[must_use]
    pub fn retired(&self) -> (&Books, u64) {
        (&self.retired, self.retired_agents)
    }

    /// Since when this leader collects first reports, while some are missing.
    #[must_use]
    pub fn collecting_since(&self) -> Option<Timestamp> {
        match &self.inherited {
            Inherited::Collecting { since, .. } => Some(*since),
            Inherited::Kept { .. } | Inherited::Settled => None,
        }
    }
}

fn destinations_in_use(live: &BTreeMap<String, Agent>) -> BTreeSet<String> {
    live.values().flat_map(|agent| agent.books.destinations.keys().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::books::tests::spans;
    use proptest::prelude::*;
    use vocabulary::{Class, Signal};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).expect("in range")
    }

    fn present(pods: &[&str]) -> Presence {
        let uids: BTreeSet<_> = pods.iter().map(|pod| format!("uid-{pod}")).collect();
        Presence { ready: uids.clone(), desired: uids.len(), pods: uids, nodes: pods.iter().map(|pod| format!("node-{pod}")).collect() }
    }

    fn whole(totals: Totals) -> bool {
        totals.received == totals.delivered + totals.dropped + totals.held
    }

    #[test]
    fn a_restart_in_memory_mode_folds_the_old_ledger_and_counts_what_it_held() {
        let mut agents = Agents::default();
        agents.handle_report(spans("a", "first", 100, 60, 10), at(0)).expect("taken");
        agents.handle_report(spans("a", "second", 5, 5, 0), at(5)).expect("taken");
        let total = agents.total();
        assert_eq!(total.totals(), Totals { received: 105, delivered: 65, dropped: 40, ..Totals::default() });
        assert_eq!(total.dropped()[&(Signal::Traces, Class::Normal, DropReason::CrashVolatile)], 30);
    }

    #[test]
    fn a_pod_that_is_gone_retires_only_when_its_buffer_is_gone_too() {
        for (volume, nodes_left, retired) in
            [(Volume::None, true, 1), (Volume::Pod, true, 1), (Volume::Node, true, 0), (Volume::Node, false, 1), (Volume::Claim, false, 0)]
        {
            let mut agents = Agents::default();
            agents.handle_report(spans("a", "1", 10, 4, 0), at(0)).expect("taken");
            let mut presence = present(&[]);
            if nodes_left {
                presence.nodes.insert("node-a".into());
            }
            agents.handle_presence(&presence, Some(volume), at(SILENT_SECONDS));
            assert_eq!(agents.retired().1, retired, "{volume:?}");
            assert!(whole(agents.totals()));
        }
    }

    #[test]
    fn totals_survive_a_change_of_leader_and_settle_exactly() {
        let mut before = Agents::default();
        before.handle_report(spans("a", "1", 100, 90, 0), at(0)).expect("taken");
        before.handle_report(spans("b", "2", 50, 50, 0), at(0)).expect("taken");
        let mut after = Agents::inherit(&before.total(), before.retired().0.clone(), 0, at(60));
        assert_eq!(after.totals(), before.totals());
        after.handle_report(spans("a", "1", 120, 120, 0), at(61)).expect("taken");
        after.handle_presence(&present(&["a", "b"]), Some(Volume::Node), at(61));
        assert!(after.collecting_since().is_some() && whole(after.totals()));
        after.handle_report(spans("b", "2", 50, 50, 0), at(62)).expect("taken");
        after.handle_presence(&present(&["a", "b"]), Some(Volume::Node), at(62));
        assert_eq!((after.collecting_since(), after.totals().received, after.totals().delivered), (None, 170, 170));
        assert_eq!(after.totals().dropped, 0);
    }

    #[test]
    fn reports_are_in_order_within_a_stream_and_a_new_stream_begins_anew() {
        let mut order = StreamOrder::default();
        order.handle_sequence(2).expect("the first, after one that was used up on an opening that failed");
        assert_eq!(order.handle_sequence(2), Err(RefusedReport::Stale));
        order.handle_sequence(3).expect("it rises");
        StreamOrder::default().handle_sequence(2).expect("a process that started again");
        let mut agents = Agents::default();
        for sequence in [500, 2] {
            agents.handle_report(AgentReport { sequence, ..spans("a", "1", 1, 1, 0) }, at(0)).expect("another stream");
        }
    }

    #[test]
    fn a_report_with_a_number_nobody_can_have_counted_is_refused() {
        let mut agents = Agents::default();
        agents.handle_report(spans("a", "1", COUNTER_MAX, 0, 0), at(0)).expect("the largest");
        assert_eq!(agents.handle_report(spans("b", "2", COUNTER_MAX + 1, 0, 0), at(0)), Err(RefusedReport::Implausible));
        let mut gauges = spans("b", "2", 1, 1, 0);
        gauges.buffer = Some(crds::fleet::BufferGauges { disk_bytes: u64::MAX, ..Default::default() });
        assert_eq!(agents.handle_report(gauges, at(0)), Err(RefusedReport::Implausible));
    }

    /// A leader that takes over from one that knew two agents, of which only `a` has reported to it.
    fn half_collected(volume: Volume, pods: &[&str], second: i64) -> Agents {
        let mut before = Agents::default();
        before.handle_report(spans("a", "1", 100, 100, 0), at(0)).expect("taken");
        before.handle_report(spans("b", "2", 50, 20, 0), at(0)).expect("taken");
        let mut after = Agents::inherit(&before.total(), Books::default(), 0, at(0));
        after.handle_report(spans("a", "1", 100, 100, 0), at(1)).expect("taken");
        let presence = Presence { ready: present(&["a"]).pods, desired: 1, ..present(pods) };
        after.handle_presence(&presence, Some(volume), at(second));
        after
    }

    #[test]
    fn a_buffer_that_outlives_its_pod_is_never_given_up_and_counts_once_when_it_comes_back() {
        for volume in [Volume::Node, Volume::Claim] {
            let mut after = half_collected(volume, &["a"], 100_000);
            assert_eq!((after.collecting_since(), after.totals().dropped, after.totals().held), (None, 0, 30), "{volume:?}");
            after.handle_report(spans("b", "2", 50, 50, 0), at(100_001)).expect("taken");
            assert_eq!(after.totals(), Totals { received: 150, delivered: 150, ..Totals::default() }, "{volume:?}");
        }
    }

    #[test]
    fn nothing_is_given_up_while_a_pod_has_not_reported() {
        for volume in [Volume::None, Volume::Pod] {
            let waiting = half_collected(volume, &["a", "b"], 100_000);
            assert_eq!((waiting.totals().dropped, waiting.totals().held), (0, 30), "{volume:?}");
            let gone = half_collected(volume, &["a"], 100_000);
            assert_eq!((gone.totals().dropped, gone.totals().held), (30, 0), "{volume:?}");
        }
    }

    #[test]
    fn nothing_is_given_up_while_the_volume_is_not_known() {
        let mut agents = half_collected(Volume::Node, &["a"], 2);
        agents.handle_presence(&present(&[]), None, at(100_000));
        assert_eq!((agents.totals().dropped, agents.retired().1, agents.live().count()), (0, 0, 1));
    }

    #[test]
    fn a_retired_ledger_that_comes_back_counts_once() {
        let mut agents = Agents::default();
        agents.handle_report(spans("a", "1", 100, 60, 10), at(0)).expect("taken");
        agents.handle_presence(&present(&[]), Some(Volume::Node), at(60));
        assert_eq!((agents.retired().1, agents.totals().dropped), (1, 40));
        agents.handle_report(spans("a", "1", 110, 70, 10), at(70)).expect("taken");
        assert_eq!(agents.totals(), Totals { received: 110, delivered: 70, dropped: 10, held: 30, ..Totals::default() });
        assert_eq!(agents.retired(), (&Books::default(), 0));
    }

    #[test]
    fn only_so_many_retired_ledgers_are_remembered() {
        let mut agents = Agents::default();
        for ledger in 0..=REMEMBERED_MAX {
            agents.handle_report(spans("a", &ledger.to_string(), 1, 1, 0), at(0)).expect("taken");
        }
        assert_eq!(agents.remembered.len(), REMEMBERED_MAX);
        agents.handle_presence(&present(&[]), Some(Volume::None), at(60));
        assert_eq!((agents.remembered.len(), agents.remembered[0].0.as_str()), (REMEMBERED_MAX, "1"));
    }

    #[test]
    fn a_ready_pod_without_a_ledger_is_noticed_after_half_a_minute() {
        let mut agents = Agents::default();
        agents.handle_presence(&present(&["a"]), Some(Volume::None), at(0));
        assert_eq!(agents.unheard(at(SILENT_SECONDS)), None);
        agents.handle_presence(&present(&["a"]), Some(Volume::None), at(SILENT_SECONDS + 1));
        assert_eq!(agents.unheard(at(SILENT_SECONDS + 1)), Some(("uid-a", at(0))));
        agents.handle_report(spans("a", "1", 1, 1, 0), at(40)).expect("taken");
        agents.handle_presence(&present(&["a"]), Some(Volume::None), at(40));
        assert_eq!(agents.unheard(at(100)), None);
    }

    proptest! {
        #[test]
        fn totals_never_step_back_and_stay_whole(steps in proptest::collection::vec((0_usize..4, 0_u64..50, 0_u64..50, 0_u64..50, 0_u8..10), 1..60)) {
            let mut agents = Agents::default();
            let mut counters = [(0_u64, 0_u64, 0_u64, 0_u64); 4];
            let mut last = Totals::default();
            for (second, (pod, received, delivered, dropped, event)) in steps.into_iter().enumerate() {
                let now = at(i64::try_from(second).expect("small") * 40);
                let counter = &mut counters[pod];
                match event {
                    0 => *counter = (0, 0, 0, counter.3 + 1),
                    1 => {
                        agents.handle_presence(&present(&[]), Some(Volume::None), now);
                        counters = counters.map(|counter| (0, 0, 0, counter.3 + 1));
                    }
                    2 => agents = Agents::inherit(&agents.total(), agents.retired().0.clone(), agents.retired().1, now),
                    _ => {
                        counter.0 += received;
                        counter.2 += dropped.min(counter.0 - counter.1 - counter.2);
                        counter.1 += delivered.min(counter.0 - counter.1 - counter.2);
                        let name = pod.to_string();
                        let ledger = format!("{pod}-{}", counter.3);
                        agents.handle_report(spans(&name, &ledger, counter.0, counter.1, counter.2), now).expect("taken");
                    }
                }
                let totals = agents.totals();
                prop_assert!(totals.received >= last.received && totals.delivered >= last.delivered && totals.dropped >= last.dropped, "{last:?} {totals:?}");
                last = totals;
            }
        }
    }
}
