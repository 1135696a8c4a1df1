//! The processes of the standalone story, each a child that ends with this one.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::cluster::eventually;
use crate::control::Control;
use crate::loadgen::Truth;
use crate::oracle::Ledger;
use crate::sink::SinkReport;

/// Longest time for a process to answer.
const START_DEADLINE: Duration = Duration::from_secs(15);
/// Longest time for an agent to end by itself.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// Where the processes and their files are.
pub(super) struct Stage {
    folder: TempDir,
    agent: PathBuf,
    sink: PathBuf,
    load: PathBuf,
}

impl Stage {
    /// Finds the binaries and makes the folder.
    pub(super) fn set() -> anyhow::Result<Self> {
        Ok(Self {
            folder: tempfile::Builder::new().prefix("forebay-demo-").tempdir().context("make a temporary folder")?,
            agent: binary("FOREBAY_AGENT", "forebay-agent")?,
            sink: binary("FOREBAY_SINK", "forebay-sink")?,
            load: binary("FOREBAY_LOADGEN", "forebay-loadgen")?,
        })
    }

    /// A path in the folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A program by its environment variable, or beside this one.
fn binary(variable: &str, name: &str) -> anyhow::Result<PathBuf> {
    let path = match std::env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe().context("find this program")?.with_file_name(name),
    };
    ensure!(path.is_file(), "{} is missing: build it by `cargo build`, or say where it is with {variable}", path.display());
    Ok(path)
}

fn spawn(program: &Path, arguments: &[String], log: &Path) -> anyhow::Result<Child> {
    let output = std::fs::File::options().create(true).append(true).open(log).with_context(|| format!("open {}", log.display()))?;
    let errors = output.try_clone().with_context(|| format!("open {}", log.display()))?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(output).stderr(errors).kill_on_drop(true);
    command.spawn().with_context(|| format!("start {}", program.display()))
}

/// A port that is free at this moment.
fn free_port() -> anyhow::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).context("find a free port on loopback")
}

async fn answers(name: &str, control: &Control, path: &str, log: &Path, child: &mut Child) -> anyhow::Result<()> {
    let up = eventually(&format!("{name} to answer"), START_DEADLINE, async || {
        ensure!(child.try_wait()?.is_none(), "it ended");
        Ok(control.get(path).await.is_ok())
    })
    .await;
    up.with_context(|| format!("it said: {}", std::fs::read_to_string(log).unwrap_or_default()))
}

/// The recording backend.
pub(super) struct Sink {
    arguments: Vec<String>,
    listen: SocketAddr,
    control: Control,
    log: PathBuf,
    child: Child,
}

impl Sink {
    pub(super) async fn start(stage: &Stage, name: &str) -> anyhow::Result<Self> {
        let (listen, control) = (free_port()?, free_port()?);
        let journal = stage.path(&format!("{name}/journal"));
        let arguments = vec![format!("--listen={listen}"), format!("--control={control}"), format!("--journal={}", journal.display())];
        let log = stage.path(&format!("{name}-sink.log"));
        let child = spawn(&stage.sink, &arguments, &log)?;
        let mut sink = Self { arguments, listen, control: Control::Loopback(control), log, child };
        answers("the sink", &sink.control, "/healthz", &sink.log, &mut sink.child).await?;
        Ok(sink)
    }

    /// Ends it without warning.
    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("kill the sink")
    }

    /// The same sink with the record it had.
    pub(super) async fn restart(&mut self, stage: &Stage) -> anyhow::Result<()> {
        self.child = spawn(&stage.sink, &self.arguments, &self.log)?;
        answers("the sink", &self.control, "/healthz", &self.log, &mut self.child).await
    }

    pub(super) async fn throttle(&self, items_per_second: u64) -> anyhow::Result<()> {
        self.control.get(&format!("/throttle?items_per_second={items_per_second}")).await.map(|_| ())
    }

    pub(super) async fn report(&self) -> anyhow::Result<SinkReport> {
        self.control.json("/report").await
    }
}

/// The agent.
pub(super) struct Agent {
    otlp: SocketAddr,
    admin: SocketAddr,
    child: Child,
}

impl Agent {
    pub(super) async fn start(stage: &Stage, name: &str, buffer: Value, sink: &Sink) -> anyhow::Result<Self> {
        let (otlp, admin) = (free_port()?, free_port()?);
        let config = json!({
            "sources": {"otlp": {"grpcListen": otlp.to_string()}},
            "buffer": buffer,
            "destinations": [{
                "name": "backend", "endpoint": format!("http://{}", sink.listen), "inFlight": 8,
                "retry": {"initialMilliseconds": 200, "maxMilliseconds": 1_000},
            }],
            "drainSeconds": 10,
            "adminListen": admin.to_string(),
        });
        let file = stage.path(&format!("{name}.yaml"));
        // JSON is YAML.
        std::fs::write(&file, serde_json::to_string_pretty(&config)?).with_context(|| format!("write {}", file.display()))?;
        let log = stage.path(&format!("{name}-agent.log"));
        let child = spawn(&stage.agent, &["run".into(), "--config".into(), file.display().to_string()], &log)?;
        let mut agent = Self { otlp, admin, child };
        answers("the agent", &Control::Loopback(admin), "/readyz", &log, &mut agent.child).await?;
        Ok(agent)
    }

    pub(super) fn admin(&self) -> SocketAddr {
        self.admin
    }

    pub(super) async fn ledger(&self) -> anyhow::Result<Ledger> {
        Control::Loopback(self.admin).json("/ledger").await
    }

    /// SIGTERM, and its end.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        let id = self.child.id().context("the agent ended by itself")?;
        let told = Command::new("kill").args(["-TERM", &id.to_string()]).status().await.context("run kill")?;
        ensure!(told.success(), "the agent could not be told to end");
        let ended = tokio::time::timeout(STOP_DEADLINE, self.child.wait()).await.context("the agent did not end in time")??;
        ensure!(ended.success(), "the agent ended with {ended}");
        Ok(())
    }
}

/// The load generator.
pub(super) struct Load {
    control: Control,
    _child: Child,
}

impl Load {
    pub(super) async fn start(stage: &Stage, name: &str, agent: &Agent, items_per_second: u64) -> anyhow::Result<Self> {
        let control = free_port()?;
        let arguments = [
            format!("--endpoint=http://{}", agent.otlp),
            format!("--producer={name}"),
            format!("--rate={items_per_second}"),
            format!("--control={control}"),
            "--error-percent=1".to_owned(),
            "--batch=100".to_owned(),
            "--payload-bytes=200".to_owned(),
        ];
        let log = stage.path(&format!("{name}-load.log"));
        let mut child = spawn(&stage.load, &arguments, &log)?;
        let control = Control::Loopback(control);
        answers("the load generator", &control, "/healthz", &log, &mut child).await?;
        Ok(Self { control, _child: child })
    }

    pub(super) async fn stop(&self) -> anyhow::Result<()> {
        self.control.get("/stop").await.map(|_| ())
    }

    pub(super) async fn truth(&self) -> anyhow::Result<Truth> {
        self.control.json("/truth").await
    }
}
