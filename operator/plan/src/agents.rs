//! The agents of one pipeline as their reports tell them, and the one sum that never steps back.
//!
//! `total = retired + inherited + Σ live`. *Live* are the ledgers that report. *Retired* are ledgers that never will again;
//! what they held is dropped with its reason. *Inherited* is what an earlier leader published for agents that have not
//! reported to this one yet: each agent's first report claims its part of it, so that the sum is whole from the first moment.

use std::collections::{BTreeMap, BTreeSet};

use crds::fleet::AgentReport;
use jiff::Timestamp;
use vocabulary::DropReason;

use crate::books::{Books, Totals};
use crate::windows::{Windows, seconds_between};

/// Most ledgers of one pipeline: twice the largest cluster that Kubernetes supports.
pub const LEDGERS_MAX: usize = 10_000;
/// An agent that was not heard for this long is silent; six reports at the default pace.
pub const SILENT_SECONDS: i64 = 30;
/// What an earlier leader published is given up for lost after this time, if its agents are still missing.
const INHERITANCE_SECONDS: i64 = 600;

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
}

impl Agent {
    /// Whether it reported lately.
    #[must_use]
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        seconds_between(self.heard, now) < SILENT_SECONDS
    }

    /// Fill of its memory, in percent of the tighter of its two bounds.
    #[must_use]
    pub fn queue_percent(&self) -> u64 {
        let percent = |part: u64, whole: u64| part.saturating_mul(100).checked_div(whole).unwrap_or(0);
        self.report.buffer.map_or(0, |buffer| {
            percent(buffer.memory_bytes, buffer.memory_bytes_max).max(percent(buffer.memory_items, buffer.memory_items_max))
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
    inherited: Inherited,
}

/// What an earlier leader published and no agent has claimed yet.
#[derive(Debug, Default)]
enum Inherited {
    /// Nothing: every desired agent has reported, or there was no earlier leader.
    #[default]
    Settled,
    /// Some agents are still missing.
    Collecting { rest: Books, since: Timestamp },
}

impl Agents {
    /// Starts from what an earlier leader published: the totals, and the part of them that is retired.
    #[must_use]
    pub fn inherit(published: &Books, retired: Books, retired_agents: u64, now: Timestamp) -> Self {
        let mut rest = published.clone();
        rest.claim(&retired);
        let inherited = if published.cells.is_empty() { Inherited::Settled } else { Inherited::Collecting { rest, since: now } };
        Self { live: BTreeMap::new(), retired, retired_agents, inherited }
    }

    /// Takes in a report, which the caller has already matched with its sender.
    ///
    /// # Errors
    /// When it is stale, anonymous, or one too many.
    pub fn handle_report(&mut self, report: AgentReport, now: Timestamp) -> Result<(), RefusedReport> {
        if report.ledger_id.is_empty() {
            return Err(RefusedReport::Anonymous);
        }
        let books = Books::of(&report);
        if let Some(agent) = self.live.get_mut(&report.ledger_id) {
            // A process that starts again counts its sequence from the beginning, on the same buffer.
            let same_process = agent.report.pod_uid == report.pod_uid && report.sequence > 1;
            if same_process && report.sequence <= agent.report.sequence {
                return Err(RefusedReport::Stale);
            }
            agent.windows.observe(now, books.totals());
            (agent.books, agent.report, agent.heard) = (books, report, now);
            return Ok(());
        }
        if self.live.len() >= LEDGERS_MAX {
            return Err(RefusedReport::TooManyLedgers);
        }
        self.close_earlier_ledger_of(&report);
        if let Inherited::Collecting { rest, .. } = &mut self.inherited {
            rest.claim(&books);
        }
        let mut windows = Windows::default();
        windows.observe(now, books.totals());
        self.live.insert(report.ledger_id.clone(), Agent { report, books, heard: now, windows });
        Ok(())
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
    /// restart once every desired agent has reported.
    pub fn handle_presence(&mut self, presence: &Presence, volume: Volume, now: Timestamp) {
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
        self.settle(presence, volume, now);
    }

    fn retire(&mut self, ledger_id: &str, volume: Volume) {
        let Some(agent) = self.live.remove(ledger_id) else { return };
        let reason = match (volume, agent.report.last) {
            (Volume::None, true) => DropReason::ForcedShutdown,
            (Volume::None, false) => DropReason::CrashVolatile,
            (Volume::Pod | Volume::Node | Volume::Claim, _) => DropReason::VolumeLost,
        };
        self.retired.add(&agent.books.closed(reason));
        self.retired_agents += 1;
    }

    fn settle(&mut self, presence: &Presence, volume: Volume, now: Timestamp) {
        let Inherited::Collecting { rest, since } = &self.inherited else { return };
        let reported: BTreeSet<_> = self.live.values().map(|agent| &agent.report.pod_uid).collect();
        let complete = presence.ready.len() >= presence.desired && presence.ready.iter().all(|uid| reported.contains(uid));
        if !complete && seconds_between(*since, now) < INHERITANCE_SECONDS {
            return;
        }
        let reason = if volume == Volume::None { DropReason::CrashVolatile } else { DropReason::VolumeLost };
        let remainder = rest.clone().closed(reason);
        self.retired.add(&remainder);
        self.inherited = Inherited::Settled;
    }

    /// The pipeline's ledger.
    #[must_use]
    pub fn total(&self) -> Books {
        let mut total = self.retired.clone();
        if let Inherited::Collecting { rest, .. } = &self.inherited {
            total.add(rest);
        }
        for agent in self.live.values() {
            total.add(&agent.books);
        }
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
            Inherited::Settled => None,
        }
    }
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
            agents.handle_presence(&presence, volume, at(SILENT_SECONDS));
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
        after.handle_presence(&present(&["a", "b"]), Volume::Node, at(61));
        assert!(after.collecting_since().is_some() && whole(after.totals()));
        after.handle_report(spans("b", "2", 50, 50, 0), at(62)).expect("taken");
        after.handle_presence(&present(&["a", "b"]), Volume::Node, at(62));
        assert_eq!((after.collecting_since(), after.totals().received, after.totals().delivered), (None, 170, 170));
        assert_eq!(after.totals().dropped, 0);
    }

    #[test]
    fn a_report_that_is_out_of_order_is_refused() {
        let mut agents = Agents::default();
        let numbered = |sequence| AgentReport { sequence, ..spans("a", "1", 1, 1, 0) };
        agents.handle_report(numbered(5), at(0)).expect("taken");
        assert_eq!(agents.handle_report(numbered(5), at(1)), Err(RefusedReport::Stale));
        agents.handle_report(numbered(1), at(2)).expect("a process that started again");
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
                        agents.handle_presence(&present(&[]), Volume::None, now);
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
