//! The story without a cluster: one agent process at a time, a recording sink and a load generator on loopback, in a temporary
//! folder. First an agent with a disk rides out an outage, then one with little memory and no disk is overloaded.

mod cast;

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use vocabulary::{Class, Signal};

use self::cast::{Agent, Load, Sink, Stage};
use super::Telling;
use crate::cluster::{eventually, until};
use crate::oracle::{AgentLedger, Evidence, Verdict, align, grouped, judge};

/// Items per second while all is well.
const STEADY_RATE: u64 = 3_000;
/// Memory of the agent with a disk, in bytes; the outage must not fit in it.
const SPILL_MEMORY_BYTES: u64 = 4 << 20;
/// Memory of the agent without a disk, in bytes.
const SMALL_MEMORY_BYTES: u64 = 2 << 20;
/// What the slow backend takes per second; three times as much is offered.
const SLOW_RATE: u64 = 1_500;
/// How long the outage and the overload last.
const TROUBLE: Duration = Duration::from_secs(10);
/// Longest time for a process to answer or a backlog to drain.
const DEADLINE: Duration = Duration::from_secs(30);

/// Tells the story; whether the books balance.
///
/// # Errors
/// When a process cannot be started or does not answer in time.
pub async fn tell(telling: &mut Telling) -> anyhow::Result<bool> {
    let stage = Stage::set()?;
    let (outage, mut verdict) = outage(telling, &stage).await?;
    let (overload, second) = overload(telling, &stage).await?;
    verdict.merge(second);
    telling.step("the books");
    let exact = telling.verdict(&[outage, overload], &verdict);
    telling.next(&[
        ("cargo run -p agent -- run", "an agent on loopback that prints what arrives"),
        ("cargo xtask demo", "the same story on a real Kubernetes cluster"),
        ("cargo xtask test --only e2e", "every scenario, with its verdict"),
    ]);
    Ok(exact)
}

async fn outage(telling: &mut Telling, stage: &Stage) -> anyhow::Result<(Evidence, Verdict)> {
    let mut sink = Sink::start(stage, "outage").await?;
    let buffer = json!({
        "mode": "Spill", "memoryBytes": SPILL_MEMORY_BYTES, "memoryItems": 1_000_000,
        "disk": {"path": stage.path("outage/buffer"), "bytes": 256 << 20, "segmentBytes": 4 << 20},
    });
    telling.step("steady flow through an agent with a disk");
    let agent = Agent::start(stage, "with-disk", buffer, &sink).await?;
    telling.say(&format!("{STEADY_RATE} items/s, 1 % errors, memory for {} MiB, disk behind it", SPILL_MEMORY_BYTES >> 20));
    let load = Load::start(stage, "outage", &agent, STEADY_RATE).await?;
    let enough = STEADY_RATE * 4;
    eventually("steady deliveries", DEADLINE, async || Ok(agent.ledger().await?.delivered() >= enough)).await?;
    show(telling, &agent).await?;

    telling.step("the backend goes away");
    sink.kill().await?;
    let ended = tokio::time::Instant::now() + TROUBLE;
    let beyond_memory = async || {
        let on_disk = agent.ledger().await?.on_disk();
        Ok(on_disk > 0 && tokio::time::Instant::now() >= ended)
    };
    eventually("a backlog on disk", TROUBLE + DEADLINE, beyond_memory).await?;
    show(telling, &agent).await?;
    let ledger = agent.ledger().await?;
    ensure!(ledger.dropped() + ledger.refused() == 0, "an outage that fits on the disk must cost nothing: {ledger:#?}");
    telling.say(&format!("{} items wait on disk, nothing was dropped or refused", grouped(ledger.on_disk())));

    telling.step("the backend returns");
    sink.restart(stage).await?;
    load.stop().await?;
    let (evidence, verdict) = settle("with-disk", &agent, &load, &sink).await?;
    show(telling, &agent).await?;
    agent.stop().await?;
    Ok((evidence, verdict))
}

async fn overload(telling: &mut Telling, stage: &Stage) -> anyhow::Result<(Evidence, Verdict)> {
    let sink = Sink::start(stage, "overload").await?;
    sink.throttle(SLOW_RATE).await?;
    telling.step("three times what a slow backend takes, little memory, no disk");
    let buffer = json!({"mode": "Memory", "memoryBytes": SMALL_MEMORY_BYTES, "memoryItems": 1_000_000});
    let agent = Agent::start(stage, "small", buffer, &sink).await?;
    telling.say(&format!("the backend takes {SLOW_RATE} items/s, {} are offered, 1 % of them errors", SLOW_RATE * 3));
    let load = Load::start(stage, "overload", &agent, SLOW_RATE * 3).await?;
    let shed = async || Ok(agent.ledger().await?.dropped() > SLOW_RATE);
    eventually("normal data dropped above the soft limit", DEADLINE, shed).await?;
    show(telling, &agent).await?;
    tokio::time::sleep(TROUBLE).await;
    show(telling, &agent).await?;
    telling.say("the load ends, the backend takes everything again");
    load.stop().await?;
    sink.throttle(0).await?;
    let (evidence, verdict) = settle("small", &agent, &load, &sink).await?;
    show(telling, &agent).await?;
    let errors: u64 = evidence.truths.iter().filter_map(|truth| truth.cell(Signal::Traces, Class::High)).map(|class| class.accepted).sum();
    let arrived = evidence.sink.produced(Signal::Traces, Class::High).distinct;
    ensure!(errors == arrived, "{} of {} error spans arrived", grouped(arrived), grouped(errors));
    telling.say(&format!("all {} error spans arrived, while {} items were dropped", grouped(errors), grouped(evidence_drops(&evidence))));
    agent.stop().await?;
    Ok((evidence, verdict))
}

fn evidence_drops(evidence: &Evidence) -> u64 {
    evidence.ledgers.iter().map(|agent| agent.ledger.dropped()).sum()
}

/// Waits until the verdict is exact, or time is up; then the last verdict counts.
async fn settle(name: &str, agent: &Agent, load: &Load, sink: &Sink) -> anyhow::Result<(Evidence, Verdict)> {
    let look = async || {
        let ledger = AgentLedger { agent: name.to_owned(), ledger: agent.ledger().await? };
        let truths = vec![load.truth().await?];
        let evidence = Evidence { pipeline: name.to_owned(), ledgers: vec![ledger], truths, sink: sink.report().await?, flow: None };
        let verdict = judge(&evidence);
        anyhow::Ok((evidence, verdict))
    };
    let settled = until("exact books", DEADLINE, async || {
        let (evidence, verdict) = look().await?;
        Ok(if verdict.is_exact() { Ok((evidence, verdict)) } else { Err(String::new()) })
    })
    .await;
    match settled {
        Ok(judged) => Ok(judged),
        Err(_) => look().await.context("read the books a last time"),
    }
}

async fn show(telling: &Telling, agent: &Agent) -> anyhow::Result<()> {
    let ledger = agent.ledger().await?;
    let head = ["RECEIVED", "REFUSED", "DELIVERED", "DROPPED", "IN MEMORY", "ON DISK"].map(str::to_owned).to_vec();
    let numbers =
        [ledger.received(), ledger.refused(), ledger.delivered(), ledger.dropped(), ledger.held() - ledger.on_disk(), ledger.on_disk()];
    telling.command(&format!("curl -s http://{}/ledger", agent.admin()), &align(&[head, numbers.map(grouped).to_vec()], 0..6));
    Ok(())
}
