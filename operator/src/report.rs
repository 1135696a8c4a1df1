//! What users read: once a second every pipeline's status is made anew from what runs, and written where the write policy says
//! so. Changes of conditions become events. Here, too, the list of agents that may read pods is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crds::conditions::{ConditionStatus, ConditionType};
use crds::v1alpha1::{Condition, TelemetryPipeline, TelemetryPipelineStatus};
use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::Subject;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter as Source};
use kube::runtime::reflector::Store;
use kube::{Client, Resource, ResourceExt};
use plan::agents::Presence;
use plan::names;
use plan::observe::PodView;
use plan::outcome::{Account, PodReading, pod_readers};
use plan::status::{Observed, status};
use plan::write_policy::{Write, WriteBudget};
use tokio::time::MissedTickBehavior;
use tracing::warn;

use crate::admin::Metrics;
use crate::gather::{self, Cluster};
use crate::lease::Term;
use crate::registry::{Entry, Registry};
use crate::{apply, lease::TermOver};

/// The reporter of one term.
pub(crate) struct Reporter {
    pub(crate) client: Client,
    pub(crate) term: Term,
    pub(crate) registry: Arc<Registry>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) cluster: Cluster,
    pub(crate) pipelines: Store<TelemetryPipeline>,
    pub(crate) identity: String,
}

/// A status to be written.
struct Pending {
    write: Write,
    uid: String,
    pipeline: Arc<TelemetryPipeline>,
    wanted: TelemetryPipelineStatus,
    changed: Vec<Condition>,
}

impl Reporter {
    /// Reports until it is dropped.
    pub(crate) async fn run(self) {
        self.cluster.is_synced().await;
        if self.pipelines.wait_until_ready().await.is_err() {
            return;
        }
        let source = Source { controller: "forebay-operator".into(), instance: Some(self.identity.clone()) };
        let recorder = Recorder::new(self.client.clone(), source);
        let mut budget = WriteBudget::new(Timestamp::now());
        let mut decided = None;
        let mut second = tokio::time::interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            second.tick().await;
            let now = Timestamp::now();
            for pending in self.observe(now) {
                if budget.take(now) {
                    self.write(&recorder, pending, now).await;
                }
            }
            self.keep_readers(&mut decided).await;
        }
    }

    /// Makes every status anew; answers with those to be written, the most urgent first.
    fn observe(&self, now: Timestamp) -> Vec<Pending> {
        let mut pods = self.pods();
        let nodes = self.cluster.node_names();
        let pipelines: BTreeMap<String, Arc<TelemetryPipeline>> =
            self.pipelines.state().into_iter().filter_map(|pipeline| Some((pipeline.uid()?, pipeline))).collect();
        let mut entries = self.registry.lock();
        // What the cache does not know any more is deleted: its objects go by their owner references.
        entries.retain(|uid, _| pipelines.contains_key(uid));
        let mut pending = Vec::new();
        for (uid, entry) in entries.iter_mut() {
            let Some(pipeline) = pipelines.get(uid).filter(|_| entry.outcome.generation > 0) else { continue };
            let pods = pods.remove(&(entry.namespace.clone(), entry.name.clone())).unwrap_or_default();
            entry.fleet.handle_presence(&presence(entry, &pods, &nodes), entry.outcome.volume(), now);
            entry.fleet.handle_tick(now);
            let wanted = status(&Observed {
                generation: pipeline.metadata.generation.unwrap_or(0),
                name: &entry.name,
                outcome: &entry.outcome,
                workload: &entry.workload,
                pods: &pods,
                fleet: &entry.fleet,
                previous: entry.policy.written(),
                now,
            });
            if let Some(write) = entry.policy.decide(&wanted, now) {
                let changed = entry.policy.written().map(|before| changed_conditions(before, &wanted)).unwrap_or_default();
                pending.push(Pending { write, uid: uid.clone(), pipeline: pipeline.clone(), wanted, changed });
            }
        }
        pending.sort_by_key(|pending| pending.write);
        pending
    }

    fn pods(&self) -> BTreeMap<(String, String), Vec<PodView>> {
        let mut pods: BTreeMap<_, Vec<PodView>> = BTreeMap::new();
        for pod in self.cluster.pods.state() {
            if let Some(pipeline) = pod.labels().get(names::LABEL_PIPELINE) {
                pods.entry((pod.namespace().unwrap_or_default(), pipeline.clone())).or_default().push(PodView::of(&pod));
            }
        }
        pods
    }

    async fn write(&self, recorder: &Recorder, pending: Pending, now: Timestamp) {
        if let Err(TermOver) = self.term.check() {
            return;
        }
        let (namespace, name) = (pending.pipeline.namespace().unwrap_or_default(), pending.pipeline.name_any());
        let api: Api<TelemetryPipeline> = Api::namespaced(self.client.clone(), &namespace);
        let body = serde_json::json!({
            "apiVersion": TelemetryPipeline::api_version(&()),
            "kind": TelemetryPipeline::kind(&()),
            "metadata": {"uid": pending.uid},
            "status": pending.wanted,
        });
        let params = PatchParams::apply(names::MANAGER_STATUS).force();
        match api.patch_status(&name, &params, &Patch::Apply(&body)).await {
            Ok(_) => {
                self.metrics.written(pending.write);
                self.registry.update(&pending.uid, |entry| entry.policy.handle_written(pending.wanted, now));
                for condition in &pending.changed {
                    publish(recorder, &pending.pipeline, condition).await;
                }
            }
            // It was deleted, or made anew, since it was observed.
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
            Err(error) => warn!(namespace, name, error = &error as &dyn std::error::Error, "could not write a status"),
        }
    }

    /// Keeps the binding's list. `decided` is what it was last made from.
    async fn keep_readers(&self, decided: &mut Option<Vec<(Account, PodReading)>>) {
        let pipelines = self.pod_readings();
        if decided.as_ref() == Some(&pipelines) {
            return;
        }
        let live = match gather::readers(&self.client).await {
            Ok(live) => live,
            Err(error) => return warn!(error = &error as &dyn std::error::Error, "could not read who may read pods"),
        };
        let key = |subject: &Subject| (subject.namespace.clone().unwrap_or_default(), subject.name.clone());
        let before: BTreeSet<_> = live.iter().map(key).collect();
        let after = pod_readers(&pipelines, &before);
        if after != before {
            let subject = |(namespace, name): &Account| Subject {
                kind: "ServiceAccount".into(),
                name: name.clone(),
                namespace: Some(namespace.clone()),
                ..Subject::default()
            };
            let subjects: Vec<_> = after.iter().map(subject).collect();
            if let Err(error) = apply::readers(&self.client, &self.term, &subjects).await {
                return warn!(error = &error as &dyn std::error::Error, "could not write who may read pods");
            }
        }
        *decided = Some(pipelines);
    }

    /// Every pipeline's account, in a fixed order, and whether it may read pods. What this leader has not looked at is undecided.
    fn pod_readings(&self) -> Vec<(Account, PodReading)> {
        let pipelines = self.pipelines.state();
        let entries = self.registry.lock();
        let reading = |pipeline: &Arc<TelemetryPipeline>| {
            let account = (pipeline.namespace().unwrap_or_default(), names::service_account(&pipeline.name_any()));
            let entry = pipeline.uid().and_then(|uid| entries.get(&uid));
            (account, entry.map_or(PodReading::Undecided, |entry| entry.outcome.pod_reading()))
        };
        let mut readings: Vec<_> = pipelines.iter().map(reading).collect();
        readings.sort_by(|(left, _), (right, _)| left.cmp(right));
        readings
    }
}

fn presence(entry: &Entry, pods: &[PodView], nodes: &BTreeSet<String>) -> Presence {
    Presence {
        pods: pods.iter().map(|pod| pod.uid.clone()).collect(),
        ready: pods.iter().filter(|pod| pod.ready).map(|pod| pod.uid.clone()).collect(),
        nodes: nodes.clone(),
        desired: entry.workload.as_ref().and_then(|workload| usize::try_from(workload.desired).ok()).unwrap_or(usize::MAX),
    }
}

/// Conditions whose status is another than before. `Reconciling` is left out: `Ready` tells the same story.
fn changed_conditions(before: &TelemetryPipelineStatus, after: &TelemetryPipelineStatus) -> Vec<Condition> {
    let was = |type_| before.conditions.iter().find(|condition| condition.type_ == type_).map(|condition| condition.status);
    let changed = |condition: &&Condition| was(condition.type_).is_some_and(|was| was != condition.status);
    after.conditions.iter().filter(|condition| condition.type_ != ConditionType::Reconciling).filter(changed).cloned().collect()
}

async fn publish(recorder: &Recorder, pipeline: &TelemetryPipeline, condition: &Condition) {
    let is_good = condition.status == condition.type_.good_status() || condition.status == ConditionStatus::Unknown;
    let event = Event {
        type_: if is_good { EventType::Normal } else { EventType::Warning },
        reason: condition.reason.name().into(),
        note: Some(format!("{} is {}: {}", condition.type_, condition.status, condition.message)),
        action: condition.type_.name().into(),
        secondary: None,
    };
    if let Err(error) = recorder.publish(&event, &pipeline.object_ref(&())).await {
        warn!(error = &error as &dyn std::error::Error, "could not publish an event");
    }
}
