//! The agent as a process, as it ships, pinned to one core, with a buffer on the measured disk.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::machine;

/// The core the agent runs on; load and sink run on the other.
const AGENT_CORE: usize = 1;
/// The core of this process while it drives an agent.
pub(crate) const LOAD_CORE: usize = 0;
/// Longest wait for the agent to listen.
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// Lines of its log that may wait to be read.
const LINES_MAX: usize = 256;

/// A running agent; killed when dropped.
pub(crate) struct Agent {
    child: Child,
    /// Where it takes OTLP in.
    pub(crate) address: String,
    /// From the start of the process until it said so.
    pub(crate) listened_after: Duration,
}

impl Agent {
    /// Starts the agent that was built beside this program, in mode `Mirror` with `directory` as its buffer, and waits until it listens.
    /// `folder` takes its document, `sink` is where it delivers.
    pub(crate) async fn start(folder: &Path, directory: &Path, sink: &str) -> Result<Self> {
        let (folder, directory, sink) = (folder.to_owned(), directory.to_owned(), sink.to_owned());
        // Both ends run on this thread, and an agent may deliver before it listens.
        tokio::task::spawn_blocking(move || Self::launch(&folder, &directory, &sink)).await?
    }

    fn launch(folder: &Path, directory: &Path, sink: &str) -> Result<Self> {
        let file = folder.join("agent.yaml");
        let document = format!(
            "adminListen: 127.0.0.1:0\nworkers: 1\nsources: {{otlp: {{grpcListen: '127.0.0.1:0'}}}}\n\
             buffer: {{mode: Mirror, memoryBytes: 268435456, memoryItems: 4000000, disk: \
             {{path: '{}', bytes: 21474836480, segmentBytes: 67108864}}}}\n\
             destinations:\n- {{name: backend, endpoint: 'http://{sink}', inFlight: 32}}\n",
            directory.display()
        );
        std::fs::write(&file, document).with_context(|| format!("cannot write {}", file.display()))?;
        let program = std::env::current_exe()?.with_file_name("forebay-agent");
        let mut command = Command::new(&program);
        command
            .args(["run", "--config"])
            .arg(&file)
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let started = Instant::now();
        // A process begins on the cores of the thread that starts it.
        let child = machine::on_core(AGENT_CORE, || command.spawn())?;
        let mut agent = Self {
            child: child.with_context(|| format!("cannot start {}: `cargo xtask bench` builds it", program.display()))?,
            address: String::new(),
            listened_after: Duration::ZERO,
        };
        agent.address = agent.await_otlp(started)?;
        agent.listened_after = started.elapsed();
        Ok(agent)
    }

    /// The address it logs; the rest of its log is read and forgotten.
    fn await_otlp(&mut self, started: Instant) -> Result<String> {
        let log = self.child.stderr.take().context("the log is not piped")?;
        let (sender, lines) = mpsc::sync_channel(LINES_MAX);
        std::thread::spawn(move || {
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                // Nobody listens any more once the address is known.
                sender.send(line).unwrap_or(());
            }
        });
        let mut last = String::new();
        while let Ok(line) = lines.recv_timeout(START_TIME_MAX.saturating_sub(started.elapsed())) {
            let said: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            let text = |key: &str| said.get(key).and_then(serde_json::Value::as_str);
            if let (Some("listening"), Some("otlp"), Some(address)) = (text("message"), text("part"), text("address")) {
                return Ok(address.to_owned());
            }
            last = line;
        }
        bail!("the agent does not listen; the last it said: {last}")
    }

    /// Processor time it has used.
    pub(crate) fn processor_time(&self) -> Result<Duration> {
        machine::processor_time(self.child.id())
    }

    /// The most memory it has used, in bytes.
    pub(crate) fn peak_memory(&self) -> Result<u64> {
        machine::peak_memory(self.child.id())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill().unwrap_or(());
        self.child.wait().ok();
    }
}
