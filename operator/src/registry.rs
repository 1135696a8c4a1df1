//! What this leader knows of each pipeline, shared by reconciliation, the fleet service and the reporter. Locks are held for
//! computation only, never across an await.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crds::fleet::AgentReport;
use crds::v1alpha1::{Flow, TelemetryPipeline};
use jiff::Timestamp;
use kube::ResourceExt;
use plan::agents::RefusedReport;
use plan::books::Books;
use plan::diff::Memory;
use plan::fleet::Fleet;
use plan::ledger;
use plan::names;
use plan::observe::WorkloadView;
use plan::outcome::Outcome;
use plan::write_policy::WritePolicy;

use crate::token::Sender;

/// One pipeline.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) fleet: Fleet,
    pub(crate) outcome: Outcome,
    pub(crate) workload: Option<WorkloadView>,
    pub(crate) memory: Memory,
    pub(crate) policy: WritePolicy,
}

impl Entry {
    /// Takes over what an earlier leader published.
    fn adopt(pipeline: &TelemetryPipeline, now: Timestamp) -> Self {
        let status = pipeline.status.clone().unwrap_or_default();
        let published = status.flow.as_ref().map(|flow| ledger::read_flow(flow, &status.destinations)).unwrap_or_default();
        let retired = status.retired.as_ref().map(ledger::read_retired).unwrap_or_default();
        let agents = status.retired.as_ref().map_or(0, |retired| retired.agents.unsigned_abs());
        let mut fleet = Fleet::inherit(&published, retired, agents, now);
        fleet.resume(&status.conditions);
        let policy = if pipeline.status.is_some() { WritePolicy::resumed(status, now) } else { WritePolicy::default() };
        Self {
            namespace: pipeline.namespace().unwrap_or_default(),
            name: pipeline.name_any(),
            fleet,
            outcome: Outcome::default(),
            workload: None,
            memory: Memory::new(),
            policy,
        }
    }
}

/// Why a report is not for this operator.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unwelcome {
    #[error("no pipeline has this UID")]
    UnknownPipeline,
    #[error("the report speaks of {claimed}, and its token belongs to {proven}")]
    Impostor { claimed: String, proven: String },
    #[error(transparent)]
    Refused(#[from] RefusedReport),
}

/// All pipelines, by UID.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<BTreeMap<String, Entry>>);

impl Registry {
    pub(crate) fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that the pipeline is known.
    pub(crate) fn adopt(&self, pipeline: &TelemetryPipeline, now: Timestamp) {
        if let Some(uid) = pipeline.uid() {
            self.lock().entry(uid).or_insert_with(|| Entry::adopt(pipeline, now));
        }
    }

    /// Changes one entry, if it is there.
    pub(crate) fn update<T>(&self, uid: &str, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        self.lock().get_mut(uid).map(change)
    }

    /// Takes in a report from `sender`; answers with the hash of the configuration it should run with.
    pub(crate) fn handle_report(&self, sender: &Sender, report: AgentReport, now: Timestamp) -> Result<String, Unwelcome> {
        let mut entries = self.lock();
        let entry = entries.get_mut(&report.pipeline_uid).ok_or(Unwelcome::UnknownPipeline)?;
        let claimed =
            [&report.namespace, &report.pod, &report.pod_uid, &names::service_account(&entry.name), &entry.namespace].map(String::clone);
        let proven = [&sender.namespace, &sender.pod, &sender.pod_uid, &sender.service_account, &sender.namespace].map(String::clone);
        if claimed != proven {
            return Err(Unwelcome::Impostor { claimed: claimed.join("/"), proven: proven.join("/") });
        }
        entry.fleet.handle_report(report, now)?;
        Ok(entry.outcome.applied.as_ref().map(|applied| applied.config_hash.clone()).unwrap_or_default())
    }

    /// The whole ledger of one pipeline.
    pub(crate) fn ledger(&self, namespace: &str, name: &str) -> Option<Flow> {
        let entries = self.lock();
        let entry = entries.values().find(|entry| entry.namespace == namespace && entry.name == name)?;
        let total: Books = entry.fleet.agents().total();
        let lately = entry.fleet.dropped_lately();
        Some(Flow {
            counting_since: None,
            dropped_total: ledger::signed(total.totals().dropped),
            dropped_last5m: ledger::signed(lately.values().copied().fold(0, u64::saturating_add)),
            signals: ledger::cells(&total, &lately),
            kernel: ledger::kernel(&total),
            crash_volatile: ledger::crash_volatile(&total),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipeline() -> TelemetryPipeline {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "forebay.dev/v1alpha1", "kind": "TelemetryPipeline",
            "metadata": {"name": "small", "namespace": "shop", "uid": "u0"},
            "spec": {"workload": {"kind": "Deployment", "replicas": 1}, "sources": {"otlp": {}}, "buffer": {"mode": "Memory"},
                "destinations": [{"name": "backend", "otlpGrpc": {"endpoint": "http://sink:4317"}}]},
        }))
        .expect("a pipeline")
    }

    fn report() -> AgentReport {
        AgentReport {
            pipeline_uid: "u0".into(),
            namespace: "shop".into(),
            pod: "small-1".into(),
            pod_uid: "u1".into(),
            ledger_id: "l1".into(),
            ..AgentReport::default()
        }
    }

    #[test]
    fn a_report_for_another_pod_pipeline_or_namespace_is_refused() {
        let registry = Registry::default();
        registry.adopt(&pipeline(), Timestamp::UNIX_EPOCH);
        let sender =
            Sender { namespace: "shop".into(), service_account: "small-agent".into(), pod: "small-1".into(), pod_uid: "u1".into() };
        registry.handle_report(&sender, report(), Timestamp::UNIX_EPOCH).expect("it is who it says");
        for impostor in [
            Sender { namespace: "other".into(), ..sender.clone() },
            Sender { service_account: "default".into(), ..sender.clone() },
            Sender { pod: "small-2".into(), ..sender.clone() },
            Sender { pod_uid: "u2".into(), ..sender.clone() },
        ] {
            let refused = registry.handle_report(&impostor, report(), Timestamp::UNIX_EPOCH);
            assert!(matches!(refused, Err(Unwelcome::Impostor { .. })), "{impostor:?}");
        }
        let elsewhere = AgentReport { pipeline_uid: "u9".into(), ..report() };
        assert!(matches!(registry.handle_report(&sender, elsewhere, Timestamp::UNIX_EPOCH), Err(Unwelcome::UnknownPipeline)));
    }
}
