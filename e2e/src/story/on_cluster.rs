//! The story on a cluster, with the commands a user would type: node agents with a disk ride out an outage, a small gateway
//! without one is overloaded, and a pod is killed for its memory.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use serde_json::Value;
use tokio::time::Instant;
use vocabulary::{Class, Signal};

use super::Telling;
use crate::cluster::{Kubectl, LABEL, LoadPod, LoadSpec, Place, until};
use crate::oracle::{Verdict, grouped};

/// Namespace and pipeline of the node agents, as in their example.
const NODE_AGENTS: (&str, &str) = ("observability", "node-agents");
/// Namespace and pipeline of the gateway, as in its example.
const SMALL: (&str, &str) = ("shop", "small");
/// Items per second that each node's load generator makes.
const NODE_RATE: u64 = 1_000;
/// Items per second that the slow backend takes; three times as much is offered.
const SLOW_RATE: u64 = 500;
/// How long the outage and the overload last.
const TROUBLE: Duration = Duration::from_secs(60);
/// Filler per item, in bytes: a minute of it is more than an agent's memory holds.
const PAYLOAD_BYTES: u32 = 3_000;
/// Longest time for what should happen within seconds on a busy machine.
const DEADLINE: Duration = Duration::from_secs(150);
/// Longest time for the backlog: beside live traffic on a busy machine it is replayed slowly.
const DRAINED_WITHIN: Duration = Duration::from_secs(400);
/// The conditions of a pipeline that are not as they should be.
const CONDITIONS: &str = r#"jsonpath={range .status.conditions[?(@.status=="False")]}{.type}{"  "}{.reason}{"  "}{.message}{"\n"}{end}"#;

/// Who plays.
struct Scene {
    kubectl: Kubectl,
    nodes: Place,
    small: Place,
    node_loads: Vec<LoadPod>,
    small_load: LoadPod,
}

/// Tells the story; whether the books balance.
///
/// # Errors
/// When the cluster does not follow in time.
pub async fn tell(telling: &mut Telling) -> anyhow::Result<bool> {
    let kubectl = Kubectl::connect().await?;
    let scene = set(telling, kubectl).await?;
    steady(telling, &scene).await?;
    outage(telling, &scene).await?;
    overload(telling, &scene).await?;
    oom_kill(telling, &scene).await?;
    books(telling, &scene).await
}

/// Removes what an earlier telling left, then brings backends, pipelines and load.
async fn set(telling: &mut Telling, kubectl: Kubectl) -> anyhow::Result<Scene> {
    telling.step("two backends and two pipelines");
    let left = kubectl.run(&["get", "namespaces", "-l", LABEL, "-o", "name"]).await?;
    try_join_all(left.lines().map(async |name| {
        let namespace = name.trim_start_matches("namespace/");
        telling.say(&format!("removing namespace {namespace} of an earlier run"));
        Place { kubectl: kubectl.clone(), namespace: namespace.into(), pipeline: String::new() }.remove(true).await
    }))
    .await?;
    let workers = Place::workers(&kubectl).await?;
    let first = workers.first().context("there is no worker node")?;
    let nodes = Place::new(&kubectl, NODE_AGENTS.0, NODE_AGENTS.1).await?;
    let small = Place::new(&kubectl, SMALL.0, SMALL.1).await?;
    tokio::try_join!(nodes.start_backend(first), small.start_backend(first))?;
    let examples = PathBuf::from(std::env::var_os("FOREBAY_EXAMPLES").unwrap_or_else(|| "docs/examples".into()));
    for name in ["node-agents.yaml", "small-memory.yaml"] {
        let file = examples.join(name);
        let output = kubectl.run(&["apply", "-f", &file.display().to_string()]).await?;
        telling.command(&format!("kubectl apply -f docs/examples/{name}"), &output);
    }
    for place in [&nodes, &small] {
        place.condition("Ready", "True", DEADLINE).await?;
    }
    show(telling, &kubectl).await?;
    let mut node_loads = Vec::new();
    for (number, worker) in workers.iter().enumerate() {
        let load = load(&format!("load-{number}"), Some(worker.clone()), &nodes, NODE_RATE);
        node_loads.push(nodes.start_load(&load).await?);
    }
    let small_load = small.start_load(&load("load-small", None, &small, SLOW_RATE / 2)).await?;
    Ok(Scene { kubectl, nodes, small, node_loads, small_load })
}

fn load(name: &str, node: Option<String>, place: &Place, items_per_second: u64) -> LoadSpec {
    LoadSpec {
        name: name.to_owned(),
        node,
        endpoint: place.endpoint(),
        items_per_second,
        error_percent: 1.0,
        batch_items: 100,
        signals: "traces=6,metrics=2,logs=2".to_owned(),
        payload_bytes: PAYLOAD_BYTES,
    }
}

async fn steady(telling: &mut Telling, scene: &Scene) -> anyhow::Result<()> {
    telling.step("steady flow");
    telling.say(&format!(
        "{} items/s on each of {} nodes, {} items/s to the small one",
        grouped(NODE_RATE),
        scene.node_loads.len(),
        SLOW_RATE / 2
    ));
    for place in [&scene.nodes, &scene.small] {
        place.condition("FlowHealthy", "True", DEADLINE).await?;
    }
    let (ledgers, enough) = (async || scene.nodes.ledgers().await, NODE_RATE * 10);
    until("steady deliveries", DEADLINE, async || {
        let delivered: u64 = ledgers().await?.iter().map(|agent| agent.ledger.delivered()).sum();
        Ok(if delivered >= enough { Ok(()) } else { Err(format!("{delivered} delivered")) })
    })
    .await?;
    show(telling, &scene.kubectl).await
}

async fn outage(telling: &mut Telling, scene: &Scene) -> anyhow::Result<()> {
    telling.step(&format!("the node agents' backend is away for {} s", TROUBLE.as_secs()));
    let started = Instant::now();
    telling.command("kubectl scale deployment backend -n observability --replicas=0", "deployment.apps/backend scaled");
    scene.nodes.scale_backend(0).await?;
    for part in 1..=3 {
        tokio::time::sleep_until(started + TROUBLE / 3 * part).await;
        show(telling, &scene.kubectl).await?;
    }
    // On a slow machine less is offered in this time: it lasts until memory is full.
    let (on_disk, dropped, refused) = until("a backlog on disk", DEADLINE, async || {
        let ledgers = scene.nodes.ledgers().await?;
        let sum = |number: fn(&crate::oracle::Ledger) -> u64| ledgers.iter().map(|agent| number(&agent.ledger)).sum::<u64>();
        let on_disk = sum(|ledger| ledger.on_disk());
        let rest = (on_disk, sum(|ledger| ledger.dropped()), sum(|ledger| ledger.refused()));
        Ok(if on_disk > 0 { Ok(rest) } else { Err("all of it fits into memory".to_owned()) })
    })
    .await?;
    ensure!(dropped + refused == 0, "{dropped} items were dropped and {refused} refused in an outage that fits on the disk");
    telling.say(&format!("memory has no room for more, {} items wait on disk, nothing was dropped or refused", grouped(on_disk)));
    telling.command("kubectl scale deployment backend -n observability --replicas=1", "deployment.apps/backend scaled");
    scene.nodes.scale_backend(1).await?;
    until("the backlog to drain", DRAINED_WITHIN, async || {
        let on_disk: u64 = scene.nodes.ledgers().await?.iter().map(|agent| agent.ledger.on_disk()).sum();
        Ok(if on_disk == 0 { Ok(()) } else { Err(format!("{on_disk} items on disk")) })
    })
    .await?;
    telling.say("the backlog is drained");
    until("the status to show it", DEADLINE, async || {
        let object = scene.nodes.object().await?;
        let backlog = object.pointer("/status/summary/backlog").and_then(Value::as_str).unwrap_or_default();
        Ok(if backlog == "0" { Ok(()) } else { Err(format!("backlog {backlog}")) })
    })
    .await?;
    show(telling, &scene.kubectl).await
}

async fn overload(telling: &mut Telling, scene: &Scene) -> anyhow::Result<()> {
    telling.step(&format!("the small one's backend takes {SLOW_RATE} items/s, {} are offered for {} s", SLOW_RATE * 3, TROUBLE.as_secs()));
    scene.small.backend().await?.get(&format!("/throttle?items_per_second={SLOW_RATE}")).await?;
    scene.small_load.steer(SLOW_RATE * 3, 1.0).await?;
    let started = Instant::now();
    let (reason, message) = scene.small.condition("FlowHealthy", "False", DEADLINE).await?;
    telling.say(&format!("after {:.0} s FlowHealthy is False: {reason}: {message}", started.elapsed().as_secs_f64()));
    show(telling, &scene.kubectl).await?;
    tokio::time::sleep_until(started + TROUBLE).await;
    show(telling, &scene.kubectl).await?;
    let conditions = scene.kubectl.run(&["get", "tp", SMALL.1, "-n", SMALL.0, "-o", CONDITIONS]).await?;
    telling.command(&format!("kubectl get tp small -n shop -o '{CONDITIONS}'"), &conditions);
    scene.small_load.stop().await?;
    scene.small.backend().await?.get("/throttle?items_per_second=0").await?;
    telling.say("the load ends, the backend takes everything again");
    Ok(())
}

async fn oom_kill(telling: &mut Telling, scene: &Scene) -> anyhow::Result<()> {
    telling.step("a pod is killed for its memory");
    scene.small.start_hog("hungry").await?;
    let record = until("the kernel event of pod hungry at the backend", DEADLINE, async || {
        let records: Vec<Value> = scene.nodes.backend().await?.json("/kernel?contains=oom_kill,hungry").await?;
        Ok(records.into_iter().next().ok_or_else(|| "no such record".to_owned()))
    })
    .await?;
    let pods = until("the pod's end in its status", DEADLINE, async || {
        let pods = scene.kubectl.run(&["get", "pod", "hungry", "-n", SMALL.0]).await?;
        Ok(if pods.contains("OOMKilled") { Ok(pods) } else { Err(pods) })
    })
    .await?;
    telling.command("kubectl get pod hungry -n shop", &pods);
    telling.say("the backend of the node agents has the kernel's side of it:");
    for key in ["event", "severity", "body", "attributes", "resource"] {
        println!("         {key:<10}  {}", record.get(key).unwrap_or(&Value::Null));
    }
    Ok(())
}

async fn books(telling: &mut Telling, scene: &Scene) -> anyhow::Result<bool> {
    telling.step("the books");
    let (nodes, small) = tokio::try_join!(
        scene.nodes.settle(&scene.node_loads, DEADLINE),
        scene.small.settle(std::slice::from_ref(&scene.small_load), DEADLINE)
    )?;
    show(telling, &scene.kubectl).await?;
    let sent: u64 = small.0.truths.iter().filter_map(|truth| truth.cell(Signal::Traces, Class::High)).map(|class| class.sent).sum();
    let arrived = small.0.sink.produced(Signal::Traces, Class::High).distinct;
    telling.say(&format!("error spans to the small one: {} made, {} arrived", grouped(sent), grouped(arrived)));
    let mut verdict = Verdict::default();
    verdict.merge(nodes.1);
    verdict.merge(small.1);
    let exact = telling.verdict(&[nodes.0, small.0], &verdict);
    Ok(exact && sent == arrived)
}

async fn show(telling: &Telling, kubectl: &Kubectl) -> anyhow::Result<()> {
    let pipelines = kubectl.run(&["get", "tp", "-A"]).await?;
    telling.command("kubectl get tp -A", &pipelines);
    Ok(())
}
