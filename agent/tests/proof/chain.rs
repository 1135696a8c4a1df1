//! One buffer, the lives of the program over it, and the judgement after the last: what every fault of these tests has in common.

#![expect(clippy::indexing_slicing, reason = "a missing key of a JSON value is null, and of an array the failure of the test")]

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinSet;

use crate::oracle::{BATCH, Backend, Oracle, Tally};
use crate::rig::{Agent, DEADLINE, destination_sum};

/// Producers that send at the same time.
const PRODUCERS: u32 = 3;
/// Items of requests that a producer has sent and that are not answered, at any one time.
pub(crate) const ON_THEIR_WAY: u64 = PRODUCERS as u64 * BATCH;
/// How long a place may take to be reached under load.
pub(crate) const REACHED_WITHIN: Duration = Duration::from_secs(4);
/// Time between two looks at process and books.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// One buffer and everything that happened to it.
pub(crate) struct Chain {
    folder: tempfile::TempDir,
    pub(crate) oracle: Oracle,
    pub(crate) document: String,
    pub(crate) lives: u32,
    /// Whether a fault may take what was acknowledged, within bounds.
    pub(crate) loses_unsynced: bool,
    /// Items that a durable checkpoint was last seen to know as delivered.
    durable: u64,
    /// How many items a later life may deliver again.
    repeats_max: u64,
}

/// One run of the program.
pub(crate) struct Life {
    pub(crate) agent: Agent,
    producers: JoinSet<()>,
    /// Items that a durable checkpoint knew as delivered when it was last asked.
    durable: u64,
    /// From the start of the process until it took requests in.
    pub(crate) start: Duration,
}

impl Chain {
    /// In a folder of its own.
    pub(crate) async fn new(mode: &str) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let buffer = folder.path().join("buffer");
        Self::with(folder, &buffer, mode).await
    }

    /// In a folder of a volume.
    pub(crate) async fn at(buffer: PathBuf, mode: &str) -> Self {
        Self::with(tempfile::tempdir().expect("a directory"), &buffer, mode).await
    }

    async fn with(folder: tempfile::TempDir, buffer: &Path, mode: &str) -> Self {
        let oracle = Oracle::default();
        let document = document(oracle.sink().await, buffer, mode);
        Self { folder, oracle, document, lives: 0, loses_unsynced: false, durable: 0, repeats_max: 0 }
    }

    /// Where its buffer lies, unless that is on a volume.
    pub(crate) fn buffer(&self) -> PathBuf {
        self.folder.path().join("buffer")
    }

    /// A new life; none if it was killed before it took anything in.
    pub(crate) fn start(&mut self, armed: &str) -> Option<Life> {
        let began = Instant::now();
        let mut agent = Agent::spawn(self.folder.path(), &self.document, armed);
        self.lives += 1;
        if agent.comes_to_listen(|agent| agent.otlp.port() != 0) {
            return Some(Life { agent, producers: JoinSet::new(), durable: 0, start: began.elapsed() });
        }
        let status = agent.child.wait().expect("its output ended");
        assert_eq!(status.signal(), Some(9), "it ended by itself");
        // It may have sent something before it listened.
        self.allow_repeats();
        None
    }

    /// Ends a life by SIGKILL if it has not ended.
    pub(crate) async fn end(&mut self, mut life: Life) {
        life.agent.child.kill().unwrap_or(());
        life.agent.child.wait().expect("it can be waited for");
        life.producers.shutdown().await;
        self.durable = self.durable.max(life.durable);
        self.allow_repeats();
    }

    /// Whatever arrived and was not known as delivered on disk may come again, and nothing else.
    fn allow_repeats(&mut self) {
        self.repeats_max += self.oracle.tally().arrived - self.durable;
    }

    /// A last life without faults.
    pub(crate) async fn judge(mut self) -> (Tally, Value) {
        let life = self.start("").expect("nothing keeps it from listening");
        self.judge_alive(&life).await
    }

    /// Everything arrives, and the books say so.
    pub(crate) async fn judge_alive(&self, life: &Life) -> (Tally, Value) {
        self.oracle.behave(Backend::Takes);
        // What a loss of power took may have arrived before: then the books know less than the truth, within the bounds they state.
        let undone_max = |ledger: &Value| if self.loses_unsynced { bounds(ledger)[1] } else { 0 };
        let is_settled = |ledger: &Value| {
            let delivered = destination_sum(ledger, "/delivered");
            // The books on the page are those of the last durable checkpoint, the gauges those of this moment.
            ledger["gauges"]["heldRecords"] == 0
                && delivered + volatile(ledger) == destination_sum(ledger, "/routed")
                && delivered + undone_max(ledger) >= self.oracle.tally().arrived
        };
        let awaited = format!("an empty buffer and books that balance after {:?}", self.oracle.tally());
        let ledger = life.agent.await_ledger(&awaited, is_settled).await;
        let tally = self.oracle.tally();
        let Tally { acknowledged, unknown, arrived, repeated, missing, .. } = tally;
        let ([least, most], undone_max) = (bounds(&ledger), undone_max(&ledger));
        assert!(missing + unknown >= least && missing <= most, "{missing} acknowledged items are lost: {tally:?}, {ledger}");
        assert!(repeated <= self.repeats_max, "{repeated} repeats, {} at most: {tally:?}", self.repeats_max);
        let delivered = destination_sum(&ledger, "/delivered");
        assert!(delivered <= arrived && delivered + undone_max >= arrived, "{tally:?}, {ledger}");
        let received = ledger["inputs"].as_array().into_iter().flatten().filter_map(|cell| cell["received"].as_u64()).sum::<u64>();
        let kept = received - volatile(&ledger);
        assert!(kept + undone_max >= acknowledged - missing && kept <= acknowledged + unknown, "{tally:?}, {ledger}");
        (tally, ledger)
    }
}

impl Life {
    /// Lets every producer send so many requests.
    pub(crate) fn load(&mut self, oracle: &Oracle, requests: u64) {
        for producer in 0..PRODUCERS {
            self.producers.spawn(oracle.clone().produce(self.agent.otlp, producer, requests));
        }
    }

    /// Waits until every producer has sent what it was to send.
    pub(crate) async fn loaded(&mut self) {
        while self.producers.join_next().await.is_some() {}
    }

    /// Nobody sends any more; what was on its way is neither acknowledged nor refused.
    pub(crate) async fn stop_load(&mut self) {
        self.producers.shutdown().await;
    }

    /// Waits until something holds, as long as the process lives.
    pub(crate) async fn until(&mut self, what: &str, holds: impl Fn() -> bool) {
        let (began, mut looks) = (Instant::now(), tokio::time::interval(LOOK_EVERY));
        while !holds() {
            looks.tick().await;
            self.look().await;
            assert!(self.agent.child.try_wait().expect("it can be waited for").is_none(), "it ended by itself");
            assert!(began.elapsed() < DEADLINE, "{what} did not come");
        }
    }

    /// Waits for the end; none if it does not come in time.
    pub(crate) async fn ended(&mut self, within: Duration) -> Option<ExitStatus> {
        let (began, mut looks) = (Instant::now(), tokio::time::interval(LOOK_EVERY));
        while began.elapsed() < within {
            looks.tick().await;
            if let Some(status) = self.agent.child.try_wait().expect("it can be waited for") {
                return Some(status);
            }
            self.look().await;
        }
        None
    }

    async fn look(&mut self) {
        if let Some(ledger) = self.agent.try_ledger().await {
            self.durable = destination_sum(&ledger, "/delivered");
        }
    }
}

/// Items that the books count as gone with the memory of a killed process.
fn volatile(ledger: &Value) -> u64 {
    destination_sum(ledger, "/dropped/CrashVolatile")
}

/// The least and the most items that are gone with a crash, as the books know.
fn bounds(ledger: &Value) -> [u64; 2] {
    [0, 1].map(|side| ledger["crashVolatileBounds"][side].as_u64().expect("a number"))
}

/// Limits so small that files fill, are sealed and deleted all the time.
fn document(destination: SocketAddr, buffer: &Path, mode: &str) -> String {
    let disk = format!("{{path: '{}', bytes: 67108864, segmentBytes: 65536}}", buffer.display());
    format!(
        "adminListen: 127.0.0.1:0\ndrainSeconds: 2\nsources: {{otlp: {{grpcListen: '127.0.0.1:0'}}}}\n\
         buffer: {{mode: {mode}, memoryBytes: 1048576, memoryItems: 100000, disk: {disk}}}\ndestinations:\n\
         - {{name: backend, endpoint: 'http://{destination}', inFlight: 8, retry: {{initialMilliseconds: 20, maxMilliseconds: 100}}}}\n"
    )
}
