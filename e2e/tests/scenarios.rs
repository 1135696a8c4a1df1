//! The scenarios on a real cluster: each in a namespace of its own, each ending with books that are exact to the item. Run by
//! `cargo xtask test --only e2e`, which brings cluster, images and chart, one at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::cluster::{LoadPod, Scene, eventually, until};
use e2e::oracle::{Evidence, Ledger, flow_of};
use e2e::sequences::SequenceSet;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::Instant;
use vocabulary::{Class, Signal};

/// For what should happen within seconds on a busy machine. A node whose service proxy failed to sync is healed by its retries,
/// which took 100 s when it was seen.
const SOON: Duration = Duration::from_secs(180);
/// How long a scenario's trouble lasts.
const TROUBLE: Duration = Duration::from_secs(20);
/// Namespace of the operator.
const OPERATOR: &str = "forebay-system";

fn limits() -> Value {
    json!({"limits": {"cpu": "500m", "memory": "128Mi"}})
}

/// An agent per node that spills to the node's disk once 4 MiB are in memory.
fn node_agents() -> Value {
    json!({
        "workload": {"kind": "DaemonSet"}, "sources": {"otlp": {}}, "resources": limits(),
        "buffer": {"mode": "Spill", "memory": {"size": "4Mi"}, "disk": {"size": "512Mi", "medium": "HostPath"}},
    })
}

/// One agent with little memory and no disk.
fn small() -> Value {
    json!({
        "workload": {"kind": "Deployment", "replicas": 1}, "sources": {"otlp": {}}, "resources": limits(),
        "buffer": {"mode": "Memory", "memory": {"size": "2Mi"}},
    })
}

/// One agent whose disk outlives its process.
fn durable(mode: &str) -> Value {
    json!({
        "workload": {"kind": "Deployment", "replicas": 1}, "sources": {"otlp": {}}, "resources": limits(),
        "buffer": {"mode": mode, "memory": {"size": "4Mi"}, "disk": {"size": "512Mi", "medium": "EmptyDir"}},
    })
}

async fn total(scene: &Scene, number: fn(&Ledger) -> u64) -> anyhow::Result<u64> {
    Ok(scene.place.ledgers().await?.iter().map(|agent| number(&agent.ledger)).sum())
}

async fn delivered(scene: &Scene, items: u64) -> anyhow::Result<()> {
    until(&format!("{items} deliveries"), SOON, async || {
        let delivered = total(scene, Ledger::delivered).await?;
        Ok(if delivered >= items { Ok(()) } else { Err(format!("{delivered} delivered")) })
    })
    .await
}

fn dropped(evidence: &Evidence) -> u64 {
    evidence.ledgers.iter().map(|agent| agent.ledger.dropped()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn applied_pipeline_becomes_ready() -> anyhow::Result<()> {
    Scene::play("applied_pipeline_becomes_ready", async |scene| {
        scene.backend().await?;
        scene.pipeline(node_agents()).await?;
        let object = scene.place.object().await?;
        let conditions = object.pointer("/status/conditions").and_then(Value::as_array).context("it has conditions")?;
        ensure!(conditions.len() == 9, "all nine conditions are written: {conditions:#?}");
        let agents = scene.place.agents().await?;
        ensure!(agents.len() == scene.workers.len(), "an agent on each of {:?}: {agents:?}", scene.workers);
        scene.place.condition("ReportsFresh", "True", SOON).await?;
        let shown = format!("{0}/{0}", scene.workers.len());
        until("the line that `kubectl get tp` shows", SOON, async || {
            let line = scene.place.kubectl.run(&["get", "tp", &scene.place.pipeline, "-n", &scene.place.namespace, "--no-headers"]).await?;
            let is_right = line.contains("DaemonSet") && line.contains(&shown) && line.contains("Healthy");
            Ok(if is_right { Ok(()) } else { Err(line) })
        })
        .await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn steady_load_loses_nothing() -> anyhow::Result<()> {
    Scene::play("steady_load_loses_nothing", async |scene| {
        scene.backend().await?;
        scene.pipeline(node_agents()).await?;
        for (number, worker) in scene.workers.clone().into_iter().enumerate() {
            scene.load_on(&format!("load-{number}"), worker, 500).await?;
        }
        delivered(scene, 10_000).await?;
        let evidence = scene.exact_books().await?;
        ensure!(dropped(&evidence) == 0, "nothing was dropped");
        for truth in &evidence.truths {
            let (sent, accepted) = (truth.sum(|class| class.sent), truth.sum(|class| class.accepted));
            ensure!(sent == accepted, "{}: {sent} sent, {accepted} accepted", truth.producer);
        }
        ensure!(evidence.ledgers.iter().all(|agent| agent.ledger.delivered() > 0), "each node's load went to its own agent");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn backend_outage_is_ridden_out_on_disk() -> anyhow::Result<()> {
    Scene::play("backend_outage_is_ridden_out_on_disk", async |scene| {
        scene.backend().await?;
        scene.pipeline(node_agents()).await?;
        scene.load("load", 600).await?;
        delivered(scene, 2_000).await?;
        scene.place.scale_backend(0).await?;
        let over = Instant::now() + TROUBLE;
        until("a backlog on disk that the status shows", SOON, async || {
            let (on_disk, object) = (total(scene, Ledger::on_disk).await?, scene.place.object().await?);
            let backlog = object.pointer("/status/summary/backlog").and_then(Value::as_str).unwrap_or("-").to_owned();
            let is_seen = on_disk > 0 && !matches!(backlog.as_str(), "-" | "0") && Instant::now() >= over;
            Ok(if is_seen { Ok(()) } else { Err(format!("{on_disk} items on disk, backlog {backlog}")) })
        })
        .await?;
        scene.place.scale_backend(1).await?;
        let evidence = scene.exact_books().await?;
        let refused: u64 = evidence.ledgers.iter().map(|agent| agent.ledger.refused()).sum();
        ensure!((dropped(&evidence), refused) == (0, 0), "nothing was dropped or refused: {} and {refused}", dropped(&evidence));
        Ok(())
    })
    .await
}

/// Backend throttled to a third of what is offered.
async fn overload(scene: &mut Scene) -> anyhow::Result<()> {
    scene.backend().await?;
    scene.pipeline(small()).await?;
    scene.place.backend().await?.get("/throttle?items_per_second=300").await?;
    scene.load("load", 900).await?;
    eventually("drops above the soft limit", SOON, async || Ok(total(scene, Ledger::dropped).await? > 0)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_drops_are_visible_within_30_seconds() -> anyhow::Result<()> {
    Scene::play("overload_drops_are_visible_within_30_seconds", async |scene| {
        overload(scene).await?;
        let first_drop = Instant::now();
        let (reason, message) = scene.place.condition("FlowHealthy", "False", Duration::from_secs(30)).await?;
        ensure!(reason == "SomeDataDropped", "{reason}: {message}");
        ensure!(message.contains("SoftLimit"), "the message names the reason: {message}");
        eventually("the count in the status", Duration::from_secs(30).saturating_sub(first_drop.elapsed()), async || {
            let flow = flow_of(&scene.place.object().await?)?;
            let has_reason = |cell: &crds::v1alpha1::FlowCell| {
                cell.dropped_by_reason.iter().any(|entry| entry.reason.name() == "SoftLimit" && entry.total > 0)
            };
            Ok(flow.is_some_and(|flow| flow.signals.iter().any(has_reason)))
        })
        .await?;
        scene.place.backend().await?.get("/throttle?items_per_second=0").await?;
        let evidence = scene.exact_books().await?;
        ensure!(dropped(&evidence) > 0, "what was dropped stays counted");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_survive_overload() -> anyhow::Result<()> {
    Scene::play("errors_survive_overload", async |scene| {
        overload(scene).await?;
        let over = Instant::now() + TROUBLE;
        eventually("the overload to have lasted", SOON, async || Ok(Instant::now() >= over)).await?;
        scene.place.backend().await?.get("/throttle?items_per_second=0").await?;
        let evidence = scene.exact_books().await?;
        let sent: u64 = evidence.truths.iter().filter_map(|truth| truth.cell(Signal::Traces, Class::High)).map(|class| class.sent).sum();
        let arrived = evidence.sink.produced(Signal::Traces, Class::High).distinct;
        ensure!(sent > 0 && sent == arrived, "{arrived} of {sent} error spans arrived");
        let normal: u64 =
            evidence.truths.iter().filter_map(|truth| truth.cell(Signal::Traces, Class::Normal)).map(|class| class.sent).sum();
        let normal_arrived = evidence.sink.produced(Signal::Traces, Class::Normal).distinct;
        ensure!(normal_arrived < normal, "it was an overload: {normal_arrived} of {normal} normal spans arrived");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn oom_kill_arrives_with_its_pod() -> anyhow::Result<()> {
    Scene::play("oom_kill_arrives_with_its_pod", async |scene| {
        scene.backend().await?;
        let mut spec = node_agents();
        spec["sources"] = json!({"ebpf": {}});
        scene.pipeline(spec).await?;
        scene.place.start_hog("hungry").await?;
        let record = until("the kernel event of the pod", SOON, async || {
            let records: Vec<Value> = scene.place.backend().await?.json("/kernel?contains=oom_kill,hungry").await?;
            Ok(records.into_iter().next().ok_or_else(|| "no such record".to_owned()))
        })
        .await?;
        let resource =
            |key: &str| record.pointer("/resource").and_then(|resource| resource.get(key)).and_then(Value::as_str).unwrap_or_default();
        let named = [resource("k8s.pod.name"), resource("k8s.namespace.name"), resource("k8s.container.name")];
        ensure!(named == ["hungry", scene.place.namespace.as_str(), "hog"], "pod, namespace and container: {record:#}");
        ensure!(record.get("severity").and_then(Value::as_i64) == Some(21), "an OOM kill is FATAL: {record:#}");
        let evidence = scene.exact_books().await?;
        ensure!(evidence.sink.kernel(Signal::Logs, Class::Critical).distinct >= 1, "it is in the sink's books");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_killed_with_backlog_loses_no_durably_acknowledged_item() -> anyhow::Result<()> {
    Scene::play("agent_killed_mirror", async |scene| {
        let load = kill_with_backlog(scene, "Mirror").await?;
        let evidence = scene.exact_books().await?;
        let upper: u64 = evidence.ledgers.iter().map(|agent| agent.ledger.crash_volatile_bounds.1).sum();
        ensure!(
            upper == 0 && dropped(&evidence) == 0,
            "a mirror loses nothing in a crash: bounds up to {upper}, {} dropped",
            dropped(&evidence)
        );
        for signal in [Signal::Traces, Signal::Metrics, Signal::Logs] {
            let accepted = SequenceSet::from_ranges(&load.accepted(signal).await?);
            let path = format!("/seen?producer=load&signal={}", signal.label());
            let seen: Vec<(u64, u64)> = scene.place.backend().await?.json(&path).await?;
            let missing = accepted.without(&SequenceSet::from_ranges(&seen));
            ensure!(!accepted.is_empty() && missing.is_empty(), "{signal}: acknowledged and never seen: {missing:?}");
        }
        Ok(())
    })
    .await?;
    Scene::play("agent_killed_spill", async |scene| {
        kill_with_backlog(scene, "Spill").await?;
        // The judge holds the loss that the load generator knows against the bounds that the agent tells.
        let evidence = scene.exact_books().await?;
        let upper: u64 = evidence.ledgers.iter().map(|agent| agent.ledger.crash_volatile_bounds.1).sum();
        ensure!(upper > 0, "what was acknowledged from memory is told as CrashVolatile with bounds");
        Ok(())
    })
    .await
}

/// A backlog, SIGKILL to the agent, its restart, and the backend's return.
async fn kill_with_backlog(scene: &mut Scene, mode: &str) -> anyhow::Result<LoadPod> {
    scene.backend().await?;
    scene.pipeline(durable(mode)).await?;
    let load = scene.load("load", 600).await?;
    delivered(scene, 2_000).await?;
    scene.place.scale_backend(0).await?;
    eventually("a backlog on disk", SOON, async || Ok(total(scene, Ledger::on_disk).await? > 1_000)).await?;
    let label = "app.kubernetes.io/name=forebay-agent";
    let pods = scene.place.pods(label).await?;
    let pod = pods.first().context("there is an agent")?;
    let field = |path: &str| pod.pointer(path).and_then(Value::as_str).map(str::to_owned).with_context(|| format!("the pod has {path}"));
    kill(&field("/spec/nodeName")?, &field("/metadata/uid")?).await?;
    until("the agent's restart", SOON, async || {
        let status =
            scene.place.pods(label).await?.first().and_then(|pod| pod.pointer("/status/containerStatuses/0").cloned()).unwrap_or_default();
        let is_back = status["restartCount"].as_i64() == Some(1) && status["ready"].as_bool() == Some(true);
        Ok(if is_back { Ok(()) } else { Err(status.to_string()) })
    })
    .await?;
    scene.place.scale_backend(1).await?;
    Ok(load)
}

/// SIGKILL to the agent of this pod, from its node: the image has no shell, and deleting the pod would ask it politely first.
async fn kill(node: &str, pod_uid: &str) -> anyhow::Result<()> {
    // With systemd cgroups the path has underscores.
    let systemd = pod_uid.replace('-', "_");
    let script = format!(
        "found=1; for p in /proc/[0-9]*; do if grep -q -e {pod_uid} -e {systemd} $p/cgroup 2>/dev/null && grep -q forebay-agent $p/cmdline 2>/dev/null; \
         then kill -9 ${{p#/proc/}} && found=0; fi; done; exit $found"
    );
    let status = Command::new("docker").args(["exec", node, "sh", "-c", &script]).status().await.context("run docker")?;
    ensure!(status.success(), "no process of pod {pod_uid} was found on {node}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_pipeline_is_refused_with_a_readable_message() -> anyhow::Result<()> {
    Scene::play("invalid_pipeline_is_refused", async |scene| {
        let mut too_large = small();
        too_large["buffer"]["memory"]["size"] = json!("200Mi");
        let mut without_disk = node_agents();
        without_disk["buffer"] = json!({"mode": "Spill"});
        let mut wrong_kind = small();
        wrong_kind["sources"] = json!({"ebpf": {}});
        let cases: [(Value, &[&str]); 3] = [
            (too_large, &["buffer.memory.size", "200Mi", "resources.limits.memory", "128Mi"]),
            (without_disk, &["buffer.mode", "Spill", "buffer.disk"]),
            (wrong_kind, &["sources.ebpf", "DaemonSet", "Deployment"]),
        ];
        for (spec, words) in cases {
            let manifest = e2e::cluster::pipeline(&scene.place.namespace, "wrong", spec);
            let Err(refusal) = scene.place.kubectl.apply(&manifest.to_string()).await else {
                anyhow::bail!("it was taken: {manifest:#}");
            };
            let message = format!("{refusal:#}");
            ensure!(words.iter().all(|word| message.contains(word)), "the message names {words:?}: {message}");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn restricted_namespace_runs_memory_and_denies_the_kernel() -> anyhow::Result<()> {
    Scene::play("restricted_namespace", async |scene| {
        let namespace = scene.place.namespace.clone();
        scene
            .place
            .kubectl
            .run(&["label", "--overwrite", "namespace", &namespace, "pod-security.kubernetes.io/enforce=restricted"])
            .await?;
        scene.pipeline(small()).await?;
        let mut kernel = node_agents();
        kernel["sources"] = json!({"ebpf": {}});
        scene.place.pipeline = "kernel".to_owned();
        scene.place.kubectl.apply(&e2e::cluster::pipeline(&namespace, "kernel", kernel).to_string()).await?;
        let (reason, message) = scene.place.condition("WorkloadAvailable", "False", SOON).await?;
        ensure!(reason == "PrivilegeDenied", "{reason}: {message}");
        ensure!(message.contains("pod-security.kubernetes.io/enforce: privileged"), "the message tells what to do: {message}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_operator_writes_nothing() -> anyhow::Result<()> {
    Scene::play("idle_operator_writes_nothing", async |scene| {
        scene.backend().await?;
        scene.pipeline(small()).await?;
        scene.place.condition("ReportsFresh", "True", SOON).await?;
        quiet(scene).await?;
        let before = audit_log().await?.len();
        let over = Instant::now() + Duration::from_secs(120);
        eventually("two idle minutes", Duration::from_secs(150), async || Ok(Instant::now() >= over)).await?;
        // Other pipelines of the cluster may be busy; what is written for this one, and what belongs to no pipeline, must be quiet.
        let is_here = |write: &String| [scene.place.namespace.as_str(), OPERATOR, ""].contains(&namespace_of(write));
        let writes: Vec<String> = audit_log().await?.split_off(before).iter().filter_map(write_of).filter(is_here).collect();
        let (heartbeats, others): (Vec<&String>, Vec<&String>) =
            writes.iter().filter(|write| !is_allowed(write)).partition(|write| write.starts_with("patch telemetrypipelines/status"));
        ensure!(others.is_empty(), "an idle operator wrote: {others:#?}");
        ensure!(heartbeats.len() <= 3, "more than a heartbeat per minute: {heartbeats:#?}");
        ensure!(!writes.is_empty(), "the audit log shows the operator's Lease: it is the right log");
        Ok(())
    })
    .await
}

fn is_allowed(write: &str) -> bool {
    write.contains(" leases ") || write.starts_with("create tokenreviews ")
}

fn namespace_of(write: &str) -> &str {
    write.rsplit(' ').next().and_then(|name| name.split_once('/')).map_or("", |(namespace, _)| namespace)
}

/// Waits until the status has stood still for 20 seconds.
async fn quiet(scene: &Scene) -> anyhow::Result<()> {
    let (mut last, mut since) = (Vec::new(), Instant::now());
    eventually("a status that stands still", SOON, async || {
        let object = scene.place.object().await?;
        let state: Vec<Option<Value>> = ["/status/conditions", "/status/flow"].iter().map(|path| object.pointer(path).cloned()).collect();
        if state != last {
            (last, since) = (state, Instant::now());
        }
        Ok(since.elapsed() > Duration::from_secs(20))
    })
    .await
}

/// The API server's audit log, one event per line.
async fn audit_log() -> anyhow::Result<Vec<Value>> {
    let variable =
        |name: &str| std::env::var(name).with_context(|| format!("{name} is not set: start me by `cargo xtask test --only e2e`"));
    let container = format!("{}-control-plane", variable("FOREBAY_CLUSTER")?);
    let output =
        Command::new("docker").args(["exec", &container, "cat", &variable("FOREBAY_AUDIT_LOG")?]).output().await.context("run docker")?;
    ensure!(output.status.success(), "read the audit log: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

/// A completed write of the operator as `verb resource namespace/name`.
fn write_of(event: &Value) -> Option<String> {
    let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let is_ours = text("/user/username").starts_with(&format!("system:serviceaccount:{OPERATOR}:"));
    let is_write = matches!(text("/verb"), "create" | "update" | "patch" | "delete" | "deletecollection");
    if !is_ours || !is_write || text("/stage") != "ResponseComplete" {
        return None;
    }
    let subresource = text("/objectRef/subresource");
    let slash = if subresource.is_empty() { "" } else { "/" };
    let (verb, resource) = (text("/verb"), text("/objectRef/resource"));
    Some(format!("{verb} {resource}{slash}{subresource} {}/{}", text("/objectRef/namespace"), text("/objectRef/name")))
}

#[tokio::test(flavor = "multi_thread")]
async fn status_survives_operator_restart() -> anyhow::Result<()> {
    Scene::play("status_survives_operator_restart", async |scene| {
        overload(scene).await?;
        scene.place.condition("FlowHealthy", "False", SOON).await?;
        scene.place.backend().await?.get("/throttle?items_per_second=0").await?;
        let evidence = scene.exact_books().await?;
        let before = shown(scene).await?;
        ensure!(before.0 > 0 && before.1 == i64::try_from(dropped(&evidence))?, "the status has the numbers before: {before:?}");
        scene.place.kubectl.run(&["delete", "pods", "--all", "-n", OPERATOR, "--timeout=80s"]).await?;
        stands_still(scene, before).await?;
        scene.exact_books().await?;
        scene.note("an agent is replaced while no operator runs");
        without_operator(scene, async || replace_agent(scene).await).await?;
        stands_still(scene, before).await
    })
    .await
}

/// The new operator's status never shows other numbers than the old one's.
async fn stands_still(scene: &Scene, before: (i64, i64)) -> anyhow::Result<()> {
    let since = Instant::now();
    let mut seen = BTreeSet::new();
    until("a status of the new operator", SOON, async || {
        seen.insert(shown(scene).await?);
        let fresh = scene.place.condition("ReportsFresh", "True", Duration::ZERO).await;
        let is_new = since.elapsed() > TROUBLE && fresh.is_ok();
        Ok(if is_new { Ok(()) } else { Err(format!("{fresh:?}")) })
    })
    .await?;
    ensure!(seen == BTreeSet::from([before]), "the status left {before:?}: {seen:?}");
    Ok(())
}

/// Does something while the operator has no pod. It gets its pods back whatever comes of it.
async fn without_operator(scene: &Scene, act: impl AsyncFnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let scale = async |replicas: &str| {
        let count = format!("--replicas={replicas}");
        scene.place.kubectl.run(&["scale", "deployment", "--all", "-n", OPERATOR, &count]).await
    };
    let replicas = scene.place.kubectl.run(&["get", "deployment", "-n", OPERATOR, "-o", "jsonpath={.items[0].spec.replicas}"]).await?;
    scale("0").await?;
    let gone = scene.place.kubectl.run(&["wait", "--for=delete", "pods", "--all", "-n", OPERATOR, "--timeout=80s"]).await;
    let acted = match gone {
        Ok(_) => act().await,
        Err(error) => Err(error),
    };
    scale(replicas.trim()).await?;
    acted
}

/// The one agent's pod goes, and its memory and its ledger with it; another takes its place.
async fn replace_agent(scene: &Scene) -> anyhow::Result<()> {
    let label = "app.kubernetes.io/name=forebay-agent";
    scene.place.kubectl.run(&["delete", "pods", "-l", label, "-n", &scene.place.namespace, "--timeout=80s"]).await?;
    until("the next agent", SOON, async || {
        let status =
            scene.place.pods(label).await?.first().and_then(|pod| pod.pointer("/status/containerStatuses/0").cloned()).unwrap_or_default();
        Ok(if status["ready"].as_bool() == Some(true) { Ok(()) } else { Err(status.to_string()) })
    })
    .await
}

/// Delivered and dropped items in the status; a status without a flow shows none, which is a step back.
async fn shown(scene: &Scene) -> anyhow::Result<(i64, i64)> {
    let flow = flow_of(&scene.place.object().await?)?;
    Ok(flow.map_or((0, 0), |flow| (flow.signals.iter().map(|cell| cell.delivered).sum(), flow.dropped_total)))
}
