//! One namespace with a backend, load generators and a pipeline: where a story or a scenario takes place.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use serde_json::Value;

use super::kubectl::Kubectl;
use super::manifests;
use super::wait::{eventually, until};
use crate::control::Control;
use crate::loadgen::Truth;
use crate::oracle::{AgentLedger, Evidence, Ledger, Verdict, flow_of, judge};
use crate::sink::SinkReport;

/// Port of an agent's `/ledger`.
const AGENT_PORT: u16 = 9464;
/// Port of load generator and sink for control.
const CONTROL_PORT: u16 = 8080;
/// Longest time for a pod to start; images are on the nodes already.
const POD_DEADLINE: Duration = Duration::from_secs(90);
/// Time between two looks at the same numbers that must agree: more than an agent's checkpoint takes to publish them.
const QUIET: Duration = Duration::from_millis(1_500);

/// A namespace and the pipeline in it.
#[derive(Clone, Debug)]
pub struct Place {
    /// The cluster.
    pub kubectl: Kubectl,
    /// The namespace.
    pub namespace: String,
    /// The pipeline's name.
    pub pipeline: String,
}

/// A load generator to be started.
#[derive(Clone, Debug)]
pub struct LoadSpec {
    /// Name of pod and producer.
    pub name: String,
    /// Node to run on; any if absent.
    pub node: Option<String>,
    /// Where to send.
    pub endpoint: String,
    /// Items per second, all signals together.
    pub items_per_second: u64,
    /// Part of spans and logs that are errors.
    pub error_percent: f64,
    /// Items per request.
    pub batch_items: u32,
    /// Signals and shares, as on the command line.
    pub signals: String,
    /// Filler per item.
    pub payload_bytes: u32,
}

/// A load generator that runs.
#[derive(Clone, Debug)]
pub struct LoadPod {
    control: Control,
}

impl Place {
    /// The namespace, made if missing.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn new(kubectl: &Kubectl, namespace: &str, pipeline: &str) -> anyhow::Result<Self> {
        kubectl.apply(&manifests::namespace(namespace).to_string()).await?;
        Ok(Self { kubectl: kubectl.clone(), namespace: namespace.to_owned(), pipeline: pipeline.to_owned() })
    }

    /// Names of the nodes that agents run on: all without a taint.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub async fn workers(kubectl: &Kubectl) -> anyhow::Result<Vec<String>> {
        let nodes = kubectl.json(&["get", "nodes"]).await?;
        let untainted = items(&nodes).iter().filter(|node| node.pointer("/spec/taints").is_none()).filter_map(name_of).collect::<Vec<_>>();
        ensure!(!untainted.is_empty(), "no node without a taint: a worker is needed");
        Ok(untainted)
    }

    /// Starts the backend on `node` and waits until it answers.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_backend(&self, node: &str) -> anyhow::Result<()> {
        self.kubectl.apply(&manifests::backend(&self.namespace, node).to_string()).await?;
        self.backend_answers().await
    }

    /// Waits until the backend's pod is ready.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn backend_answers(&self) -> anyhow::Result<()> {
        eventually(&format!("the backend in {}", self.namespace), POD_DEADLINE, async || {
            self.backend().await?.get("/healthz").await?;
            Ok(true)
        })
        .await
    }

    /// Scales the backend; at zero, waits until its pod is gone.
    ///
    /// # Errors
    /// When the cluster does not follow.
    pub async fn scale_backend(&self, replicas: u32) -> anyhow::Result<()> {
        self.kubectl.run(&["scale", "deployment/backend", "-n", &self.namespace, &format!("--replicas={replicas}")]).await?;
        if replicas > 0 {
            return self.backend_answers().await;
        }
        eventually("the backend to be gone", POD_DEADLINE, async || Ok(self.pods("app=backend").await?.is_empty())).await
    }

    /// Starts a load generator and waits until it runs.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_load(&self, load: &LoadSpec) -> anyhow::Result<LoadPod> {
        self.kubectl.apply(&manifests::load(&self.namespace, load).to_string()).await?;
        let pod = LoadPod { control: self.control(&load.name, CONTROL_PORT) };
        eventually(&format!("load generator {}", load.name), POD_DEADLINE, async || Ok(pod.control.get("/healthz").await.is_ok())).await?;
        Ok(pod)
    }

    /// Starts a pod that is killed for its memory.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn start_hog(&self, name: &str) -> anyhow::Result<()> {
        self.kubectl.apply(&manifests::hog(&self.namespace, name).to_string()).await.map(|_| ())
    }

    /// The load generator of this name.
    #[must_use]
    pub fn load(&self, name: &str) -> LoadPod {
        LoadPod { control: self.control(name, CONTROL_PORT) }
    }

    /// The endpoint of the pipeline's own Service.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}.{}:4317", self.pipeline, self.namespace)
    }

    /// The pipeline as the API server has it.
    ///
    /// # Errors
    /// When there is none.
    pub async fn object(&self) -> anyhow::Result<Value> {
        self.kubectl.json(&["get", "telemetrypipeline", &self.pipeline, "-n", &self.namespace]).await
    }

    /// Waits until a condition of the pipeline has this status; its reason and message.
    ///
    /// # Errors
    /// When the deadline passes.
    pub async fn condition(&self, type_: &str, status: &str, deadline: Duration) -> anyhow::Result<(String, String)> {
        until(&format!("{type_}={status} of {}/{}", self.namespace, self.pipeline), deadline, async || {
            let object = self.object().await?;
            let generation = object.pointer("/metadata/generation");
            let found = condition_of(&object, type_).with_context(|| format!("it has no condition {type_}"))?;
            let text = |key: &str| found.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let is_current = found.get("observedGeneration") == generation;
            Ok(if text("status") == status && is_current { Ok((text("reason"), text("message"))) } else { Err(found.to_string()) })
        })
        .await
    }

    /// The pods with this label.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub async fn pods(&self, label: &str) -> anyhow::Result<Vec<Value>> {
        Ok(items(&self.kubectl.json(&["get", "pods", "-n", &self.namespace, "-l", label]).await?).to_vec())
    }

    /// Names of the pipeline's agents.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub async fn agents(&self) -> anyhow::Result<Vec<String>> {
        let label = format!("app.kubernetes.io/name=forebay-agent,app.kubernetes.io/instance={}", self.pipeline);
        Ok(self.pods(&label).await?.iter().filter_map(name_of).collect())
    }

    /// Books of all agents.
    ///
    /// # Errors
    /// When one of them does not answer.
    pub async fn ledgers(&self) -> anyhow::Result<Vec<AgentLedger>> {
        try_join_all(self.agents().await?.into_iter().map(async |agent| {
            let ledger: Ledger = self.control(&agent, AGENT_PORT).json("/ledger").await?;
            anyhow::Ok(AgentLedger { agent, ledger })
        }))
        .await
    }

    /// The backend's pod.
    ///
    /// # Errors
    /// When there is none.
    pub async fn backend(&self) -> anyhow::Result<Control> {
        let pods = self.pods("app=backend").await?;
        let running = pods.iter().find(|pod| pod.pointer("/metadata/deletionTimestamp").is_none()).and_then(name_of);
        Ok(self.control(&running.context("there is no pod of the backend")?, CONTROL_PORT))
    }

    /// The sink's report.
    ///
    /// # Errors
    /// When the backend does not answer.
    pub async fn report(&self) -> anyhow::Result<SinkReport> {
        self.backend().await?.json("/report").await
    }

    /// Everything there is to judge, read once.
    ///
    /// # Errors
    /// When one of the parties does not answer.
    pub async fn evidence(&self, loads: &[LoadPod]) -> anyhow::Result<Evidence> {
        let (ledgers, truths, sink, object) =
            tokio::try_join!(self.ledgers(), try_join_all(loads.iter().map(LoadPod::truth)), self.report(), self.object())?;
        let pipeline = format!("{}/{}", self.namespace, self.pipeline);
        // Without a flow in the status the judge would have nothing to compare, and find nothing wrong.
        let flow = flow_of(&object)?.with_context(|| format!("the status of {pipeline} has no flow"))?;
        Ok(Evidence { pipeline, ledgers, truths, sink, flow: Some(flow) })
    }

    /// Stops the load, waits until nothing is held and nothing moves, and judges; looks again until the verdict is exact or the
    /// deadline passes, because the status follows the agents some seconds behind.
    ///
    /// # Errors
    /// When a party does not answer until the deadline.
    pub async fn settle(&self, loads: &[LoadPod], deadline: Duration) -> anyhow::Result<(Evidence, Verdict)> {
        for load in loads {
            load.stop().await?;
        }
        let started = tokio::time::Instant::now();
        loop {
            let judged = self.look_twice(loads).await;
            let is_exact = judged.as_ref().is_ok_and(|(_, verdict, is_quiet)| verdict.is_exact() && *is_quiet);
            if is_exact || started.elapsed() > deadline {
                return judged.map(|(evidence, verdict, _)| (evidence, verdict));
            }
        }
    }

    /// Two readings with time between them; the second one judged, and whether agents and sink stood still.
    async fn look_twice(&self, loads: &[LoadPod]) -> anyhow::Result<(Evidence, Verdict, bool)> {
        let before = self.evidence(loads).await;
        tokio::time::sleep(QUIET).await;
        let (before, after) = (before?, self.evidence(loads).await?);
        let is_quiet = (&before.ledgers, &before.sink) == (&after.ledgers, &after.sink);
        let verdict = judge(&after);
        Ok((after, verdict, is_quiet))
    }

    fn control(&self, pod: &str, port: u16) -> Control {
        Control::Pod { kubectl: self.kubectl.clone(), namespace: self.namespace.clone(), pod: pod.to_owned(), port }
    }

    /// Removes the pipeline, which the operator must let go of, and waits for it; then the namespace, and waits only if asked to.
    ///
    /// # Errors
    /// When something holds it.
    pub async fn remove(&self, wait: bool) -> anyhow::Result<()> {
        self.kubectl.run(&["delete", "telemetrypipeline", "--all", "-n", &self.namespace, "--timeout=60s"]).await?;
        let wait = if wait { "--timeout=80s" } else { "--wait=false" };
        self.kubectl.run(&["delete", "namespace", &self.namespace, wait]).await.map(|_| ())
    }
}

impl LoadPod {
    /// What it knows.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn truth(&self) -> anyhow::Result<Truth> {
        self.control.json("/truth").await
    }

    /// Changes rate and part of errors.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn steer(&self, items_per_second: u64, error_percent: f64) -> anyhow::Result<()> {
        self.control.get(&format!("/rate?items_per_second={items_per_second}&error_percent={error_percent}")).await.map(|_| ())
    }

    /// Makes nothing more.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.control.get("/stop").await.map(|_| ())
    }

    /// Numbers of the accepted items of a signal.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn accepted(&self, signal: vocabulary::Signal) -> anyhow::Result<Vec<(u64, u64)>> {
        self.control.json(&format!("/accepted?signal={}", signal.label())).await
    }
}

/// The condition of this type.
fn condition_of<'a>(object: &'a Value, type_: &str) -> Option<&'a Value> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    conditions.iter().find(|condition| condition.get("type").and_then(Value::as_str) == Some(type_))
}

fn items(list: &Value) -> &[Value] {
    list.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn name_of(object: &Value) -> Option<String> {
    object.pointer("/metadata/name").and_then(Value::as_str).map(str::to_owned)
}
