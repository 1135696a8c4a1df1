//! The nine conditions, each from what is observed, with a message that says how much, where, since when, and what to do.

use crds::conditions::{ConditionStatus, ConditionType, Reason};
use crds::fleet::SourceCondition;
use crds::v1alpha1::{Condition, WorkloadKind};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::message::{MESSAGE_BYTES_MAX, advice, bounded, bytes, clock};
use crate::observe::{PodView, WorkloadView};
use crate::status::Observed;

/// A condition's reason and message; its status follows from the reason.
type Verdict = (Reason, String);
/// How a verdict is reached.
type Judge = fn(&Observed<'_>) -> Verdict;

/// All nine conditions.
pub(crate) fn conditions(observed: &Observed<'_>) -> Vec<Condition> {
    let judges: [(ConditionType, Judge); 9] = [
        (ConditionType::Ready, ready),
        (ConditionType::Reconciling, reconciling),
        (ConditionType::Stalled, stalled),
        (ConditionType::ConfigValid, config_valid),
        (ConditionType::WorkloadAvailable, workload_available),
        (ConditionType::FlowHealthy, flow_healthy),
        (ConditionType::BuffersHealthy, buffers_healthy),
        (ConditionType::DestinationsReachable, destinations_reachable),
        (ConditionType::ReportsFresh, reports_fresh),
    ];
    judges.into_iter().map(|(type_, judge)| condition(observed, type_, judge(observed))).collect()
}

fn condition(observed: &Observed<'_>, type_: ConditionType, (reason, message): Verdict) -> Condition {
    let status = type_.status_of(reason).unwrap_or(ConditionStatus::Unknown);
    let before = observed.previous.iter().flat_map(|previous| &previous.conditions).find(|before| before.type_ == type_);
    let last_transition_time =
        before.filter(|before| before.status == status).map_or(Time(observed.now), |before| before.last_transition_time.clone());
    Condition {
        type_,
        status,
        reason,
        message: bounded(&message, MESSAGE_BYTES_MAX),
        last_transition_time,
        observed_generation: observed.outcome.generation,
    }
}

fn ready(observed: &Observed<'_>) -> Verdict {
    if observed.outcome.is_behind(observed.generation) {
        return (Reason::Progressing, "a changed specification is being applied".into());
    }
    if let Some(refusal) = &observed.outcome.refusal {
        return (Reason::InvalidConfig, refusal.message.clone());
    }
    if let Some((reason, message)) = &observed.outcome.failure {
        return (Reason::InvalidConfig, format!("could not be applied ({reason}): {message}"));
    }
    let Some(workload) = observed.workload.as_ref().filter(|_| observed.outcome.is_applied()) else {
        return (Reason::Pending, "not rolled out yet".into());
    };
    let count = format!("{} of {} agents are ready", workload.ready, workload.desired);
    match (workload.desired, workload.has_minimum()) {
        (0, _) if workload.is_observed => (no_pods_wanted(workload), "no pod is wanted".into()),
        (_, true) if workload.is_rolled_out() => (Reason::Ready, count),
        (_, true) => (Reason::Progressing, format!("{count}; {} are of the latest template", workload.updated)),
        (_, false) if trouble(observed, workload).is_some() => (Reason::WorkloadUnavailable, format!("{count}; see WorkloadAvailable")),
        (_, false) => (Reason::Progressing, count),
    }
}

fn no_pods_wanted(workload: &WorkloadView) -> Reason {
    if workload.kind == WorkloadKind::DaemonSet { Reason::NoMatchingNodes } else { Reason::Ready }
}

fn reconciling(observed: &Observed<'_>) -> Verdict {
    if observed.outcome.is_behind(observed.generation) {
        return (Reason::NewGeneration, "a changed specification is being applied".into());
    }
    if observed.outcome.refusal.is_some() {
        return (Reason::Idle, "waits for an edit".into());
    }
    if observed.outcome.failure.is_some() {
        return (Reason::Idle, "could not be applied, and is tried again every few seconds: see Stalled".into());
    }
    let Some(workload) = observed.workload.as_ref().filter(|_| observed.outcome.is_applied()) else {
        return (Reason::NewGeneration, "a changed specification is being applied".into());
    };
    match workload {
        workload if !workload.is_observed || workload.updated < workload.desired => {
            (Reason::RollingOut, format!("{} of {} pods are of the latest template", workload.updated, workload.desired))
        }
        workload if workload.replicas < workload.desired => {
            (Reason::ScalingUp, format!("{} of {} pods are there", workload.replicas, workload.desired))
        }
        workload if workload.replicas > workload.desired => {
            (Reason::ScalingDown, format!("{} pods, {} are wanted", workload.replicas, workload.desired))
        }
        _ => (Reason::Idle, "nothing to do".into()),
    }
}

fn stalled(observed: &Observed<'_>) -> Verdict {
    if let Some(refusal) = &observed.outcome.refusal {
        return (refusal.stalled, refusal.message.clone());
    }
    if let Some((reason, message)) = &observed.outcome.failure {
        return (*reason, message.clone());
    }
    let refusing = observed.fleet.agents().present().find_map(|agent| Some((agent, agent.report.config_error.as_ref()?)));
    match refusing {
        Some((agent, error)) => (
            Reason::RolloutFailed,
            format!("agent {} refuses its configuration and runs with the last good one: {error}", agent.report.pod),
        ),
        None => (Reason::NotStalled, "nothing is in the way".into()),
    }
}

fn config_valid(observed: &Observed<'_>) -> Verdict {
    match &observed.outcome.refusal {
        Some(refusal) => (refusal.config_valid.unwrap_or(Reason::NotEvaluated), refusal.message.clone()),
        None if observed.outcome.is_evaluated() => (Reason::Accepted, "the specification can be carried out".into()),
        None => (Reason::NotEvaluated, "not evaluated yet".into()),
    }
}

/// What keeps agents from running, told by most pods that are not ready.
fn trouble(observed: &Observed<'_>, workload: &WorkloadView) -> Option<Verdict> {
    let in_trouble = |pod: &&PodView| pod.trouble.is_some();
    if let Some(worst) = observed.pods.iter().filter(in_trouble).max_by_key(|pod| pod.trouble) {
        let same = observed.pods.iter().filter(|pod| pod.trouble == worst.trouble).count();
        let text = format!("{same} of {} pods, such as {}: {}", observed.pods.len(), worst.name, bounded(&worst.detail, 200));
        return worst.trouble.map(|reason| (reason, text));
    }
    workload.is_refused(observed.pods, observed.now).then(|| {
        let text = "no pod could be made: most likely the namespace's Pod Security level or a quota refuses them; agents with eBPF or a host path need \
                    pod-security.kubernetes.io/enforce: privileged; the events of the workload tell";
        (Reason::PrivilegeDenied, text.into())
    })
}

fn workload_available(observed: &Observed<'_>) -> Verdict {
    let Some(workload) = &observed.workload else { return (Reason::NotObserved, "not observed yet".into()) };
    if workload.desired == 0 && workload.is_observed {
        let reason = if workload.kind == WorkloadKind::DaemonSet { Reason::NoMatchingNodes } else { Reason::MinimumAvailable };
        return (reason, "no pod is wanted".into());
    }
    if let Some(verdict) = kernel_unsupported(observed) {
        return verdict;
    }
    let count = format!("{} of {} agents are ready", workload.ready, workload.desired);
    if workload.has_minimum() {
        return (Reason::MinimumAvailable, count);
    }
    match trouble(observed, workload) {
        Some((reason, text)) => (reason, format!("{count}; {text}")),
        None => (Reason::NotObserved, format!("{count}; the others are starting")),
    }
}

/// An agent that still takes in something else is available.
fn kernel_unsupported(observed: &Observed<'_>) -> Option<Verdict> {
    let mut off = observed.fleet.agents().present().filter(|agent| {
        let sources = &agent.report.sources;
        !sources.is_empty() && sources.iter().all(|source| source.source.starts_with("ebpf") && source.condition() == SourceCondition::Off)
    });
    let first = off.next()?;
    let why = first.report.sources.first().map(|source| source.reason.clone()).unwrap_or_default();
    let text = format!("{} agents collect nothing, such as the one on {}: {why}", off.count() + 1, first.report.node);
    Some((Reason::KernelUnsupported, text))
}

fn flow_healthy(observed: &Observed<'_>) -> Verdict {
    let fleet = observed.fleet;
    if fleet.agents().live().next().is_none() {
        return (Reason::NoReports, "no agent has reported yet".into());
    }
    let lately = fleet.lately();
    let Some(finding) = fleet.flow_finding() else {
        let reason = if lately.received > 0 || lately.delivered > 0 { Reason::Flowing } else { Reason::Idle };
        return (reason, format!("{} items received and {} delivered in 5 min", lately.received, lately.delivered));
    };
    let (since, held) = (clock(finding.since), fleet.agents().totals().held);
    let text = match finding.reason {
        Reason::NothingDelivered if finding.current => {
            format!("nothing is delivered since {since}; {held} items wait, nothing of them is lost: see DestinationsReachable")
        }
        Reason::NothingDelivered => format!("nothing was delivered for a while since {since}; deliveries go on, {held} items wait"),
        Reason::IntakeRefused => format!(
            "{} items refused in 5 min since {since}, and the senders told to wait: give the destination or the buffer more room",
            lately.refused
        ),
        _ => drops(observed, &since),
    };
    (finding.reason, text)
}

fn drops(observed: &Observed<'_>, since: &str) -> String {
    if observed.fleet.lately().dropped == 0 {
        return format!("items were dropped since {since}, none of them lately: see droppedByReason");
    }
    let mut reasons = std::collections::BTreeMap::new();
    for ((_, class, reason), items) in observed.fleet.dropped_lately() {
        let sum = reasons.entry((reason, class)).or_insert(0_u64);
        *sum = sum.saturating_add(items);
    }
    let mut by_size: Vec<_> = reasons.into_iter().collect();
    by_size.sort_by_key(|&(_, items)| std::cmp::Reverse(items));
    let told: Vec<_> = by_size.iter().take(4).map(|((reason, class), items)| format!("{items} {class} {reason}")).collect();
    let agents = observed.fleet.agents();
    let affected = agents.live().filter(|agent| agent.windows.lately(agent.books.totals()).dropped > 0).count();
    let what_to_do = by_size.first().map_or("see droppedByReason", |((reason, _), _)| advice(*reason));
    format!(
        "{} items dropped in 5 min ({}) on {affected} of {} agents since {since}: {what_to_do}",
        observed.fleet.lately().dropped,
        told.join(", "),
        agents.live().count()
    )
}

fn buffers_healthy(observed: &Observed<'_>) -> Verdict {
    let fleet = observed.fleet;
    if fleet.agents().live().next().is_none() {
        return (Reason::NoReports, "no agent has reported yet".into());
    }
    let (fill, backlog) = (fleet.queue_fill(), fleet.backlog());
    let Some(finding) = fleet.buffers_finding(observed.now) else {
        return (
            Reason::WithinLimits,
            format!("queues at {} % (p99 of agents), {} of {} on disk", fill.p99, bytes(backlog.bytes), bytes(backlog.capacity)),
        );
    };
    let since = clock(finding.since);
    let disk = format!("{} of {} on disk", bytes(backlog.bytes), bytes(backlog.capacity));
    let text = match finding.reason {
        Reason::LedgerBroken => {
            let told = fleet
                .agents()
                .present()
                .find_map(|agent| Some(format!("{} on {}", agent.report.ledger_broken.as_ref()?, agent.report.node)));
            format!("{}: this is a defect; keep the agent's log and /ledger and report it", told.unwrap_or_default())
        }
        Reason::DiskErrors => format!("a disk fails since {since}: look at the agents' logs and the nodes' disks"),
        Reason::DiskFull => format!("{disk}, some full since {since}: raise buffer.disk.size, or give the destination more capacity"),
        Reason::MemoryQueueFull => {
            format!("queues at {} % (p99 of agents) since {since}: raise resources.limits.memory or add buffer.disk", fill.p99)
        }
        Reason::BacklogOld => format!("the oldest item waits since more than 10 min, seen since {since}; {disk}: look at the destination"),
        Reason::SegmentsQuarantined => {
            format!("{} items are set aside since {since}: the destination finds them bad", fleet.agents().totals().quarantined)
        }
        _ => format!("queues at {} % (p99 of agents), {disk}, filling since {since}", fill.p99),
    };
    (finding.reason, text)
}

fn destinations_reachable(observed: &Observed<'_>) -> Verdict {
    let agents = observed.fleet.agents();
    if agents.live().next().is_none() {
        return (Reason::NoReports, "no agent has reported yet".into());
    }
    let Some(finding) = observed.fleet.destinations_finding() else {
        return (Reason::AllReachable, "every destination takes what is sent".into());
    };
    let states = || agents.present().flat_map(|agent| agent.report.destination_states.iter().map(move |state| (agent, state)));
    let affected = states().filter(|(_, state)| Reason::from(state.condition()) == finding.reason).count();
    let since = clock(finding.since);
    let text = match states().find(|(_, state)| Reason::from(state.condition()) == finding.reason) {
        Some((agent, state)) => format!(
            "destination {} fails on {affected} of {} agents since {since}, such as the one on {}: {}",
            state.destination,
            agents.present().count(),
            agent.report.node,
            bounded(&state.last_error, 200)
        ),
        None => format!("failed since {since}; every agent reaches its destinations again, for less than 5 min"),
    };
    (finding.reason, text)
}

fn reports_fresh(observed: &Observed<'_>) -> Verdict {
    let agents = observed.fleet.agents();
    let fresh = agents.live().filter(|agent| agent.is_fresh(observed.now)).count();
    let wanted = observed.pods.iter().filter(|pod| pod.ready).count();
    let count = format!("{fresh} agents report, {wanted} are ready");
    let silent = silent_agent(observed).or_else(|| unheard_agent(observed));
    match (agents.collecting_since(), silent) {
        (Some(since), _) => (Reason::CollectingAfterRestart, format!("{count}; collecting since {}", clock(since))),
        (None, Some((pod, heard))) => (
            Reason::AgentsSilent,
            format!(
                "{count}; nothing was heard of {pod} since {}: look at its log and at the network between it and the operator",
                clock(heard)
            ),
        ),
        (None, None) if fresh == 0 && agents.live().next().is_none() => {
            (Reason::CollectingAfterRestart, "no agent has reported yet".into())
        }
        (None, None) => (Reason::AllReporting, count),
    }
}

/// A pod that is there, has reported, and is silent.
fn silent_agent(observed: &Observed<'_>) -> Option<(String, Timestamp)> {
    let silent = observed.fleet.agents().live().filter(|agent| !agent.is_fresh(observed.now));
    let there = silent.filter(|agent| observed.pods.iter().any(|pod| pod.uid == agent.report.pod_uid && pod.ready));
    there.min_by_key(|agent| agent.heard).map(|agent| (agent.report.pod.clone(), agent.heard))
}

/// A pod that is ready and has never reported.
fn unheard_agent(observed: &Observed<'_>) -> Option<(String, Timestamp)> {
    let (uid, since) = observed.fleet.agents().unheard(observed.now)?;
    let pod = observed.pods.iter().find(|pod| pod.uid == uid)?;
    Some((pod.name.clone(), since))
}
