//! One scenario from its empty namespace to its end: what it started is removed when it passed, and when it failed, everything a
//! person would ask for is kept in a folder whose path is printed.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::time::Instant;

use super::artifacts::collect;
use super::kubectl::Kubectl;
use super::manifests;
use super::place::{LoadPod, LoadSpec, Place};
use crate::oracle::{Evidence, Verdict};

/// Longest time for a pipeline to be ready: images are on the nodes.
const READY_DEADLINE: Duration = Duration::from_secs(180);
/// Longest time for backlogs to drain and the status to follow.
const SETTLE_DEADLINE: Duration = Duration::from_secs(180);

/// A scenario that runs.
#[derive(Debug)]
pub struct Scene {
    /// Namespace and pipeline.
    pub place: Place,
    /// Nodes that agents run on.
    pub workers: Vec<String>,
    loads: Vec<(String, LoadPod)>,
    name: String,
    started: Instant,
}

impl Scene {
    /// Runs `body` in a namespace of its own.
    ///
    /// # Errors
    /// What the body failed with, and where its traces are.
    pub async fn play(name: &str, body: impl AsyncFnOnce(&mut Self) -> anyhow::Result<()>) -> anyhow::Result<()> {
        ensure!(std::env::var_os("FOREBAY_CLUSTER").is_some(), "FOREBAY_CLUSTER is not set: start me by `cargo xtask test --only e2e`");
        let kubectl = Kubectl::connect().await?;
        let namespace = format!("e2e-{}", name.replace('_', "-").chars().take(50).collect::<String>().trim_end_matches('-'));
        let left = kubectl.run(&["get", "namespace", &namespace, "--ignore-not-found", "-o", "name"]).await?;
        if !left.trim().is_empty() {
            Place { kubectl: kubectl.clone(), namespace: namespace.clone(), pipeline: String::new() }.remove(true).await?;
        }
        let workers = Place::workers(&kubectl).await?;
        let place = Place::new(&kubectl, &namespace, "flow").await?;
        let mut scene = Self { place, workers, loads: Vec::new(), name: name.to_owned(), started: Instant::now() };
        let Err(failure) = body(&mut scene).await else {
            scene.note("passed");
            return scene.place.remove(false).await;
        };
        scene.note(&format!("FAILED: {failure:#}"));
        let artifacts = PathBuf::from(std::env::var_os("FOREBAY_ARTIFACTS").unwrap_or_else(|| "target/e2e-artifacts".into()));
        let folder = collect(&artifacts.join(name), &scene.place, &scene.loads).await;
        scene.note(&format!("events, logs, objects, ledgers and reports are in {}", folder.display()));
        Err(failure.context(format!("scenario {name} failed; its traces are in {}", folder.display())))
    }

    /// Starts the backend.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn backend(&self) -> anyhow::Result<()> {
        self.place.start_backend(self.worker()?).await?;
        self.note("the backend answers");
        Ok(())
    }

    /// Applies the pipeline and waits until it is ready.
    ///
    /// # Errors
    /// When it is refused or does not become ready.
    pub async fn pipeline(&self, spec: Value) -> anyhow::Result<()> {
        let manifest = manifests::pipeline(&self.place.namespace, &self.place.pipeline, spec);
        self.place.kubectl.apply(&manifest.to_string()).await?;
        self.place.condition("Ready", "True", READY_DEADLINE).await?;
        self.note("the pipeline is ready");
        Ok(())
    }

    /// Says how far it is, with the time since its beginning.
    pub fn note(&self, text: &str) {
        eprintln!("{} +{:.1} s: {text}", self.name, self.started.elapsed().as_secs_f64());
    }

    /// Starts load on the first worker.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn load(&mut self, name: &str, items_per_second: u64) -> anyhow::Result<LoadPod> {
        let node = self.worker()?.to_owned();
        self.load_on(name, node, items_per_second).await
    }

    /// Starts load on `node`.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn load_on(&mut self, name: &str, node: String, items_per_second: u64) -> anyhow::Result<LoadPod> {
        let load = LoadSpec {
            name: name.to_owned(),
            node: Some(node),
            endpoint: self.place.endpoint(),
            items_per_second,
            error_percent: 1.0,
            batch_items: 50,
            signals: "traces=6,metrics=2,logs=2".to_owned(),
            payload_bytes: 1_000,
        };
        let pod = self.place.start_load(&load).await?;
        self.loads.push((name.to_owned(), pod.clone()));
        Ok(pod)
    }

    /// Stops all load, waits for quiet, and fails with every difference unless the books are exact.
    ///
    /// # Errors
    /// When they are not.
    pub async fn exact_books(&self) -> anyhow::Result<Evidence> {
        self.note("the books are closed");
        let loads: Vec<LoadPod> = self.loads.iter().map(|(_, load)| load.clone()).collect();
        let (evidence, verdict) = self.place.settle(&loads, SETTLE_DEADLINE).await?;
        let Verdict { checked, differences, complaints, held } = &verdict;
        let told: Vec<String> = differences.iter().map(ToString::to_string).chain(complaints.iter().cloned()).collect();
        ensure!(verdict.is_exact(), "{checked} identities checked, {held} items still held; these do not hold:\n  {}", told.join("\n  "));
        self.note("the books are exact");
        Ok(evidence)
    }

    fn worker(&self) -> anyhow::Result<&str> {
        self.workers.first().map(String::as_str).context("there is no worker node")
    }
}
