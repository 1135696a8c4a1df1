//! The whole status from what is observed: conditions, summary, ledger, fills, and the agents in most trouble. At most 24 KiB.

use std::collections::BTreeMap;

use crds::conditions::{ConditionStatus, ConditionType, Health, Reason};
use crds::fleet::{DestinationCondition, SourceCondition};
use crds::quantity::Quantity;
use crds::v1alpha1::{
    BufferStatus, Condition, ConfigStatus, DestinationStatus, Flow, QueueStatus, SourceStatus, Summary, TelemetryPipelineStatus,
    WorkloadStatus, WorstNode,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::books::{Books, DestinationBooks};
use crate::fleet::Fleet;
use crate::ledger::{self, signed};
use crate::message::{age, bounded, bytes, rate};
use crate::names;
use crate::observe::{PodView, WorkloadView};
use crate::outcome::Outcome;
use crate::{agents::Agent, conditions};

/// Largest status, serialized; far below what etcd takes, and small enough to be watched by many.
pub const STATUS_BYTES_MAX: usize = 24 << 10;
/// Agents that are shown one by one.
const WORST_MAX: usize = 10;

/// Everything a status is made from.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// Generation of the specification.
    pub generation: i64,
    /// Name of the pipeline.
    pub name: &'a str,
    /// How its last reconciliation ended.
    pub outcome: &'a Outcome,
    /// What runs the agents.
    pub workload: &'a Option<WorkloadView>,
    /// Its pods.
    pub pods: &'a [PodView],
    /// Its agents.
    pub fleet: &'a Fleet,
    /// The status that was last written.
    pub previous: Option<&'a TelemetryPipelineStatus>,
    /// The time.
    pub now: Timestamp,
}

/// Makes the status.
#[must_use]
pub fn status(observed: &Observed<'_>) -> TelemetryPipelineStatus {
    let conditions = conditions::conditions(observed);
    let fleet = observed.fleet;
    let (retired, retired_agents) = fleet.agents().retired();
    let has_numbers = fleet.agents().live().next().is_some() || *fleet.agents().retired().0 != Books::default();
    let inherited = observed.previous.filter(|_| !has_numbers);
    let effective = observed.outcome.applied.as_ref().map(|applied| applied.effective.clone());
    let status = TelemetryPipelineStatus {
        observed_generation: Some(observed.outcome.generation).filter(|&generation| generation > 0),
        agent_version: fleet.agents().present().map(|agent| agent.report.agent_version.clone()).min(),
        summary: Some(summary(observed, &conditions)),
        workload: observed.workload.as_ref().map(|workload| workload_status(observed, workload)),
        config: observed.outcome.applied.as_ref().map(|applied| config(fleet, &applied.config_hash)),
        flow: if has_numbers { Some(flow(observed)) } else { inherited.and_then(|previous| previous.flow.clone()) },
        queue: has_numbers.then(|| queue(fleet)),
        buffer: has_numbers.then(|| buffer(fleet)),
        destinations: if has_numbers {
            destinations(fleet)
        } else {
            inherited.map(|previous| previous.destinations.clone()).unwrap_or_default()
        },
        sources: sources(fleet),
        worst_nodes: worst_nodes(fleet),
        effective: effective.or_else(|| observed.previous.map(|previous| previous.effective.clone())).unwrap_or_default(),
        retired: ledger::retired(retired, retired_agents),
        conditions,
    };
    trimmed(status)
}

fn summary(observed: &Observed<'_>, conditions: &[Condition]) -> Summary {
    let fleet = observed.fleet;
    let live = || fleet.agents().live();
    let mut summary = Summary { health: health(observed, conditions), ..Summary::default() };
    if let Some(workload) = observed.workload {
        summary.ready = format!("{}/{}", workload.ready, workload.desired);
    }
    let reported = observed.previous.and_then(|previous| previous.summary.as_ref()).and_then(|summary| summary.reported_time.clone());
    let total = fleet.agents().total();
    if total != Books::default() {
        summary.dropped = total.totals().dropped.to_string();
    }
    let Some(heard) = live().map(|agent| agent.heard).max() else {
        summary.reported_time = reported;
        return summary;
    };
    let backlog = fleet.backlog();
    let fresh = live().filter(|agent| agent.is_fresh(observed.now)).count();
    summary.dropped = fleet.agents().totals().dropped.to_string();
    summary.queue = format!("{}%", fleet.queue_fill().p99);
    summary.backlog = if backlog.capacity > 0 { bytes(backlog.bytes) } else { "-".into() };
    summary.oldest = age(backlog.oldest_milliseconds);
    summary.reporting = format!("{fresh}/{}", observed.workload.as_ref().map_or(0, |workload| workload.desired));
    summary.sent_rate = rate(fleet.rate(observed.now, |totals| totals.delivered));
    summary.reported_time = Some(reported.filter(|reported| reported.0 > heard).unwrap_or(Time(heard)));
    summary
}

fn health(observed: &Observed<'_>, conditions: &[Condition]) -> Health {
    if observed.fleet.agents().live().next().is_none() {
        return Health::Unknown;
    }
    if observed.workload.as_ref().is_some_and(|workload| workload.desired > 0 && workload.ready == 0) {
        return Health::Down;
    }
    match observed.fleet.flow_finding() {
        // While it recovers, it is not down any more: the hysteresis keeps the condition, not the word.
        Some(finding) if finding.current && matches!(finding.reason, Reason::AllDataDropped | Reason::NothingDelivered) => {
            return Health::Down;
        }
        Some(finding) if finding.reason == Reason::SomeDataDropped => return Health::Dropping,
        Some(_) | None => {}
    }
    let is_bad = |condition: &Condition| match condition.type_ {
        ConditionType::Reconciling => false,
        ConditionType::Stalled => condition.status == ConditionStatus::True,
        _ => condition.status == ConditionStatus::False,
    };
    if conditions.iter().any(is_bad) { Health::Degraded } else { Health::Healthy }
}

fn small(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn percent(number: u64) -> i32 {
    i32::try_from(number.min(100)).unwrap_or(100)
}

fn workload_status(observed: &Observed<'_>, workload: &WorkloadView) -> WorkloadStatus {
    let selector: Vec<_> = names::selector(observed.name).into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    WorkloadStatus {
        kind: workload.kind,
        desired: workload.desired,
        ready: workload.ready,
        updated: workload.updated,
        unavailable: (workload.desired - workload.ready).max(0),
        replicas: workload.replicas,
        selector: selector.join(","),
    }
}

fn config(fleet: &Fleet, hash: &str) -> ConfigStatus {
    let current = fleet.agents().present().filter(|agent| agent.report.config_hash == hash).count();
    let shown = bounded(hash, 8);
    ConfigStatus { hash: shown, nodes_current: small(current), nodes_stale: small(fleet.agents().present().count() - current) }
}

fn flow(observed: &Observed<'_>) -> Flow {
    let fleet = observed.fleet;
    let total = fleet.agents().total();
    let before = observed.previous.and_then(|previous| previous.flow.as_ref()).and_then(|flow| flow.counting_since.clone());
    Flow {
        counting_since: Some(before.unwrap_or(Time(observed.now))),
        dropped_total: signed(total.totals().dropped),
        dropped_last5m: signed(fleet.lately().dropped),
        signals: ledger::cells(&total, &fleet.dropped_lately()),
        kernel: ledger::kernel(&total),
        crash_volatile: ledger::crash_volatile(&total),
    }
}

fn queue(fleet: &Fleet) -> QueueStatus {
    let fill = fleet.queue_fill();
    QueueStatus {
        p50_percent: percent(fill.p50),
        p90_percent: percent(fill.p90),
        p99_percent: percent(fill.p99),
        max_percent: percent(fill.max),
        nodes_over_soft: i32::try_from(fill.over_soft).unwrap_or(i32::MAX),
        nodes_full: i32::try_from(fill.full).unwrap_or(i32::MAX),
    }
}

fn buffer(fleet: &Fleet) -> BufferStatus {
    let backlog = fleet.backlog();
    BufferStatus {
        backlog: Quantity(backlog.bytes.to_string()),
        capacity: Quantity::of_bytes(backlog.capacity),
        oldest_unsent_seconds: signed(backlog.oldest_milliseconds / 1000),
    }
}

fn destinations(fleet: &Fleet) -> Vec<DestinationStatus> {
    let of = |(name, sums): (&String, &DestinationBooks)| {
        let states: Vec<_> = fleet
            .agents()
            .present()
            .flat_map(|agent| &agent.report.destination_states)
            .filter(|state| state.destination == *name)
            .collect();
        let mut failing = BTreeMap::new();
        for state in states.iter().filter(|state| state.condition() != DestinationCondition::Reachable) {
            *failing.entry(Reason::from(state.condition())).or_insert(0_usize) += 1;
        }
        let worst = failing.iter().max_by_key(|(_, count)| **count).map(|(&reason, _)| reason);
        DestinationStatus {
            name: name.clone(),
            state: match worst {
                Some(_) => ConditionStatus::False,
                None if states.is_empty() => ConditionStatus::Unknown,
                None => ConditionStatus::True,
            },
            reason: worst.unwrap_or(if states.is_empty() { Reason::NoReports } else { Reason::AllReachable }),
            routed: signed(sums.routed),
            sent: signed(sums.sent),
            dropped: signed(sums.dropped),
            held: signed(sums.held),
            last_error: states.iter().map(|state| bounded(&state.last_error, 200)).find(|error| !error.is_empty()),
        }
    };
    fleet.agents().total().destinations.iter().map(of).collect()
}

fn sources(fleet: &Fleet) -> Vec<SourceStatus> {
    let mut sources: BTreeMap<&str, SourceStatus> = BTreeMap::new();
    for state in fleet.agents().present().flat_map(|agent| &agent.report.sources) {
        let name = state.source.as_str();
        if name.is_empty() || name.len() > 64 || (sources.len() >= 16 && !sources.contains_key(name)) {
            continue;
        }
        let status = sources.entry(name).or_insert_with(|| SourceStatus { source: name.into(), ..SourceStatus::default() });
        match state.condition() {
            SourceCondition::On => status.on += 1,
            SourceCondition::Degraded => status.degraded += 1,
            SourceCondition::Off => status.off += 1,
        }
        if state.condition() != SourceCondition::On && !state.reason.is_empty() {
            status.reason.get_or_insert_with(|| bounded(&state.reason, 200));
        }
    }
    sources.into_values().collect()
}

fn worst_nodes(fleet: &Fleet) -> Vec<WorstNode> {
    let trouble = |agent: &Agent| {
        let disk = agent.report.buffer.map_or(0, |buffer| buffer.disk_bytes);
        (agent.windows.lately(agent.books.totals()).dropped, agent.queue_percent(), disk)
    };
    let mut agents: Vec<_> =
        fleet.agents().present().map(|agent| (trouble(agent), agent)).filter(|&(trouble, _)| trouble > (0, 50, 0)).collect();
    agents.sort_by(|(left, first), (right, second)| right.cmp(left).then_with(|| first.report.node.cmp(&second.report.node)));
    let node = |((dropped, queue, disk), agent): ((u64, u64, u64), &Agent)| WorstNode {
        node: bounded(&agent.report.node, 253),
        pod: bounded(&agent.report.pod, 253),
        dropped_last5m: signed(dropped),
        queue_percent: percent(queue),
        backlog: (disk > 0).then(|| Quantity(disk.to_string())),
        oldest_unsent_seconds: signed(agent.report.buffer.map_or(0, |buffer| buffer.oldest_milliseconds / 1000)),
    };
    agents.into_iter().take(WORST_MAX).map(node).collect()
}

/// Cuts what can be found elsewhere until the status fits; the ledger and the conditions stay.
fn trimmed(mut status: TelemetryPipelineStatus) -> TelemetryPipelineStatus {
    let cuts: [fn(&mut TelemetryPipelineStatus); 4] = [
        |status| status.worst_nodes.clear(),
        |status| status.destinations.iter_mut().for_each(|destination| destination.last_error = None),
        |status| status.sources.iter_mut().for_each(|source| source.reason = None),
        |status| status.effective.clear(),
    ];
    for cut in cuts {
        if serde_json::to_vec(&status).is_ok_and(|json| json.len() <= STATUS_BYTES_MAX) {
            break;
        }
        cut(&mut status);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::{Presence, Volume};
    use crate::books::tests::spans;
    use crate::outcome::Applied;
    use crate::resolve::Refusal;
    use crds::fleet::{AgentReport, DestinationState, DestinationTotals, Reasoned};
    use crds::v1alpha1::WorkloadKind;
    use vocabulary::DropReason;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).expect("in range")
    }

    fn seen(outcome: &Outcome, fleet: &Fleet, previous: Option<&TelemetryPipelineStatus>, now: Timestamp) -> TelemetryPipelineStatus {
        let workload = Some(WorkloadView {
            kind: WorkloadKind::DaemonSet,
            desired: 2,
            ready: 2,
            updated: 2,
            replicas: 2,
            is_observed: true,
            created: None,
        });
        status(&Observed { generation: 1, name: "node-agents", outcome, workload: &workload, pods: &[], fleet, previous, now })
    }

    fn applied() -> Outcome {
        let applied = Applied { config_hash: "0123456789abcdef".into(), ..Applied::default() };
        Outcome { generation: 1, applied: Some(applied), ..Outcome::default() }
    }

    fn condition(status: &TelemetryPipelineStatus, type_: ConditionType) -> &Condition {
        status.conditions.iter().find(|condition| condition.type_ == type_).expect("all nine are there")
    }

    #[test]
    fn the_first_status_has_all_nine_conditions() {
        let status = seen(&Outcome::default(), &Fleet::default(), None, at(0));
        assert_eq!(status.conditions.len(), 9);
        for condition in &status.conditions {
            assert!(condition.type_.status_of(condition.reason).is_some(), "{} has no reason {}", condition.type_, condition.reason);
        }
        assert_eq!(status.summary.expect("a summary").health, Health::Unknown);
    }

    #[test]
    fn drops_show_in_the_summary_and_say_what_to_do() {
        let mut fleet = Fleet::default();
        for second in 0..30_u8 {
            let dropped = u64::from(second) * 10;
            fleet.handle_report(spans("a", "1", 1000 + 2 * dropped, 1000 + dropped, dropped), at(i64::from(second))).expect("taken");
            fleet.handle_tick(at(i64::from(second)));
        }
        let status = seen(&applied(), &fleet, None, at(30));
        let flow = condition(&status, ConditionType::FlowHealthy);
        assert_eq!((flow.status, flow.reason), (ConditionStatus::False, Reason::SomeDataDropped));
        assert!(
            flow.message.contains("290") && flow.message.contains("SoftLimit") && flow.message.contains("buffer.disk"),
            "{}",
            flow.message
        );
        let summary = status.summary.expect("a summary");
        assert_eq!((summary.health, summary.dropped.as_str(), summary.backlog.as_str()), (Health::Dropping, "290", "-"));
        assert_eq!(condition(&seen(&applied(), &fleet, None, at(30)), ConditionType::Ready).status, ConditionStatus::True);
    }

    #[test]
    fn a_refused_specification_stalls_and_leaves_the_numbers() {
        let mut fleet = Fleet::default();
        fleet.handle_report(spans("a", "1", 10, 10, 0), at(0)).expect("taken");
        let refusal = Refusal { config_valid: Some(Reason::EndpointInvalid), stalled: Reason::InvalidConfig, message: "no port".into() };
        let status = seen(&Outcome { refusal: Some(refusal), ..applied() }, &fleet, None, at(1));
        assert_eq!(condition(&status, ConditionType::Stalled).status, ConditionStatus::True);
        assert_eq!(condition(&status, ConditionType::ConfigValid).reason, Reason::EndpointInvalid);
        assert_eq!(status.flow.expect("numbers").signals.len(), 1);
    }

    #[test]
    fn what_could_not_be_applied_stalls_and_is_neither_ready_nor_under_way() {
        let failure = Some((Reason::QuotaExceeded, "exceeded quota".to_owned()));
        let status = seen(&Outcome { failure, ..applied() }, &Fleet::default(), None, at(1));
        let of = |type_| condition(&status, type_).status;
        assert_eq!(of(ConditionType::Stalled), ConditionStatus::True);
        assert_eq!(of(ConditionType::Reconciling), ConditionStatus::False);
        assert_eq!(of(ConditionType::Ready), ConditionStatus::False);
    }

    #[test]
    fn a_specification_that_was_not_looked_at_yet_is_not_ready_and_not_stamped() {
        let observed = seen(&Outcome { generation: 7, ..applied() }, &Fleet::default(), None, at(1));
        assert_eq!(condition(&observed, ConditionType::Ready).reason, Reason::Progressing);
        assert_eq!(condition(&observed, ConditionType::Reconciling).reason, Reason::NewGeneration);
        assert!(observed.conditions.iter().all(|condition| condition.observed_generation == 7));
    }

    #[test]
    fn a_change_of_leader_leaves_the_numbers_as_they_were() {
        let mut before = Fleet::default();
        before.handle_report(spans("a", "1", 100, 60, 10), at(0)).expect("taken");
        let written = seen(&applied(), &before, None, at(1));
        let flow = written.flow.as_ref().expect("numbers");
        let published = ledger::read_flow(flow, &written.destinations);
        let after = Fleet::inherit(&published, crate::books::Books::default(), 0, at(2));
        let status = seen(&applied(), &after, Some(&written), at(2));
        assert_eq!((&status.flow, &status.destinations), (&written.flow, &written.destinations));
        assert_eq!(condition(&status, ConditionType::ReportsFresh).reason, Reason::CollectingAfterRestart);
        let (was, is) = (written.summary.expect("a summary"), status.summary.expect("a summary"));
        assert_eq!((is.dropped.as_str(), &is.reported_time), ("10", &was.reported_time));
        assert!(is.reported_time.is_some());
    }

    #[test]
    fn an_agent_whose_pod_is_gone_counts_and_its_states_do_not() {
        let mut fleet = Fleet::default();
        let mut report = spans("a", "1", 100, 60, 0);
        report.destination_states = vec![DestinationState { destination: "backend".into(), condition: 3, ..Default::default() }];
        report.config_error = Some("no port".into());
        report.buffer = Some(crds::fleet::BufferGauges { disk_bytes: 5, disk_bytes_max: 10, ..Default::default() });
        fleet.handle_report(report, at(0)).expect("taken");
        let mut presence = Presence { pods: ["uid-a".to_owned()].into(), ..Presence::default() };
        for (second, is_there) in [(60, true), (61, false)] {
            if !is_there {
                presence.pods.clear();
            }
            fleet.handle_presence(&presence, Some(Volume::Claim), at(second));
            let status = seen(&applied(), &fleet, None, at(second));
            assert_eq!(condition(&status, ConditionType::Stalled).status == ConditionStatus::True, is_there);
            assert_eq!(status.destinations[0].state == ConditionStatus::False, is_there);
            assert_eq!(fleet.backlog().bytes > 0, is_there);
            assert_eq!((status.destinations[0].sent, status.flow.expect("numbers").signals[0].received), (60, 100));
        }
    }

    #[test]
    fn a_ready_pod_that_never_reports_is_silent() {
        let mut fleet = Fleet::default();
        let presence = Presence { ready: ["uid-a".to_owned()].into(), pods: ["uid-a".to_owned()].into(), ..Presence::default() };
        let pods = [PodView { uid: "uid-a".into(), name: "agent-a".into(), ready: true, trouble: None, detail: String::new() }];
        for second in [0, 31] {
            fleet.handle_presence(&presence, Some(Volume::None), at(second));
            let outcome = applied();
            let observed = Observed {
                generation: 1,
                name: "n",
                outcome: &outcome,
                workload: &None,
                pods: &pods,
                fleet: &fleet,
                previous: None,
                now: at(second),
            };
            let status = status(&observed);
            let fresh = condition(&status, ConditionType::ReportsFresh);
            assert_eq!(fresh.reason == Reason::AgentsSilent, second == 31, "{}", fresh.message);
        }
    }

    #[test]
    fn a_change_of_leader_does_not_heal_what_is_wrong() {
        let mut before = Fleet::default();
        for second in 0..30_u8 {
            let dropped = u64::from(second) * 10;
            before.handle_report(spans("a", "1", 1000 + 2 * dropped, 1000 + dropped, dropped), at(i64::from(second))).expect("taken");
            before.handle_tick(at(i64::from(second)));
        }
        let written = seen(&applied(), &before, None, at(30));
        let since = before.flow_finding().expect("drops").since;
        let mut after = Fleet::default();
        after.resume(&written.conditions);
        after.handle_report(spans("a", "1", 1580, 1290, 290), at(31)).expect("taken");
        after.handle_tick(at(31));
        let status = seen(&applied(), &after, Some(&written), at(31));
        let flow = condition(&status, ConditionType::FlowHealthy);
        assert_eq!((flow.status, flow.reason), (ConditionStatus::False, Reason::SomeDataDropped), "{}", flow.message);
        assert!(after.flow_finding().is_some_and(|finding| finding.since >= since));
        assert_eq!(after.buffers_finding(at(31)), None);
    }

    #[test]
    fn a_status_stays_below_its_bound_whatever_the_agents_report() {
        let mut fleet = Fleet::default();
        let long = |letter: &str| letter.repeat(200);
        for agent in 0..20_u8 {
            let mut report: AgentReport = spans(&format!("{agent}-{}", long("p")), &agent.to_string(), 0, 0, 0);
            report.node = long("n");
            for destination in 0..16 {
                let name = format!("destination-{destination:0>50}");
                for class in 0..4 {
                    report.destinations.push(DestinationTotals {
                        destination: name.clone(),
                        signal: class % 3,
                        class,
                        routed: u64::from(u32::MAX),
                        dropped: DropReason::ALL
                            .iter()
                            .map(|reason| Reasoned { reason: u32::from(reason.code()), items: 1 << 40 })
                            .collect(),
                        ..Default::default()
                    });
                }
                report.destination_states.push(DestinationState {
                    destination: name,
                    condition: 3,
                    last_error: long("e"),
                    ..Default::default()
                });
            }
            fleet.handle_report(report, at(0)).expect("taken");
        }
        let status = seen(&applied(), &fleet, None, at(1));
        assert!(serde_json::to_vec(&status).expect("it is JSON").len() <= STATUS_BYTES_MAX);
        assert!(status.flow.is_some() && status.conditions.len() == 9);
    }
}
