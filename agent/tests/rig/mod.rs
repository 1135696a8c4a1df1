//! The rig of the integration tests: the agent as a child process, an OTLP server that records and can be closed, and requests.

#![expect(clippy::indexing_slicing, reason = "a missing key of a JSON value is null, and of a map the failure of the test")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status as SpanStatus};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

/// Longest wait for a state that must come.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Time between two looks at a state that is awaited.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A running agent; killed when dropped.
pub(crate) struct Agent {
    pub(crate) child: Child,
    pub(crate) otlp: SocketAddr,
    pub(crate) admin: SocketAddr,
    lines: mpsc::Receiver<Value>,
}

impl Agent {
    /// Starts it with a document whose listeners are on free ports, and waits until it listens.
    pub(crate) fn start(directory: &Path, document: &str) -> Self {
        let mut agent = Self::launch(directory, document);
        agent.await_otlp();
        agent
    }

    /// Starts it and waits for its admin endpoint alone: it may be kept from taking anything in.
    pub(crate) fn launch(directory: &Path, document: &str) -> Self {
        let mut agent = Self::spawn(directory, document, "");
        agent.await_listening(|agent| agent.admin.port() != 0);
        agent
    }

    /// Starts it with what it is to do at its fail points, if it was built with them, and waits for nothing.
    pub(crate) fn spawn(directory: &Path, document: &str, points: &str) -> Self {
        let file = directory.join("agent.yaml");
        std::fs::write(&file, document).expect("the document can be written");
        let mut child = Command::new(env!("CARGO_BIN_EXE_forebay-agent"))
            .args(["run", "--config"])
            .arg(&file)
            .env("RUST_LOG", "info")
            .env("FOREBAY_POINTS", points)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the agent can be started");
        let stderr = child.stderr.take().expect("it is piped");
        let (sender, lines) = mpsc::sync_channel(4096);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                eprintln!("agent: {line}");
                if let Ok(value) = serde_json::from_str(&line) {
                    sender.send(value).unwrap_or(());
                }
            }
        });
        Self { child, otlp: ([127, 0, 0, 1], 0).into(), admin: ([127, 0, 0, 1], 0).into(), lines }
    }

    /// Waits until it takes requests in.
    pub(crate) fn await_otlp(&mut self) {
        self.await_listening(|agent| agent.otlp.port() != 0);
    }

    fn await_listening(&mut self, is_there: impl Fn(&Self) -> bool) {
        assert!(self.comes_to_listen(is_there), "the agent ended before it listened");
    }

    /// Waits until it listens; false if it ended before.
    pub(crate) fn comes_to_listen(&mut self, is_there: impl Fn(&Self) -> bool) -> bool {
        while !is_there(self) {
            let received = self.lines.recv_timeout(DEADLINE);
            assert!(received != Err(mpsc::RecvTimeoutError::Timeout), "the agent does not say where it listens");
            let Ok(line) = received else { return false };
            if line["message"] == "listening" {
                let address = line["address"].as_str().expect("a text").parse().expect("an address");
                match line["part"].as_str() {
                    Some("otlp") => self.otlp = address,
                    _ => self.admin = address,
                }
            }
        }
        true
    }

    pub(crate) async fn client(&self) -> TraceServiceClient<Channel> {
        TraceServiceClient::connect(format!("http://{}", self.otlp)).await.expect("the agent accepts connections")
    }

    /// A page of the admin endpoint: status line and body.
    pub(crate) async fn page(&self, path: &str) -> (String, String) {
        let text = self.ask(path).await.expect("the admin endpoint answers");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
    }

    async fn ask(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.admin).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    /// Awaits a page whose body has this property: status line and body.
    pub(crate) async fn await_page(&self, path: &str, holds: impl Fn(&str) -> bool) -> (String, String) {
        let (began, mut looks) = (Instant::now(), tokio::time::interval(LOOK_EVERY));
        loop {
            looks.tick().await;
            let page = self.page(path).await;
            if holds(&page.1) {
                return page;
            }
            assert!(began.elapsed() < DEADLINE, "{path} did not come: {page:?}");
        }
    }

    pub(crate) async fn ledger(&self) -> Value {
        self.try_ledger().await.expect("the ledger is JSON")
    }

    /// The ledger of an agent that may be gone.
    pub(crate) async fn try_ledger(&self) -> Option<Value> {
        let text = self.ask("/ledger").await.ok()?;
        serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
    }

    /// Awaits a ledger with this property.
    pub(crate) async fn await_ledger(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let (began, mut looks) = (Instant::now(), tokio::time::interval(LOOK_EVERY));
        loop {
            looks.tick().await;
            let ledger = self.ledger().await;
            assert_eq!(ledger["broken"], Value::Null, "an identity does not hold: {ledger}");
            if holds(&ledger) {
                return ledger;
            }
            assert!(began.elapsed() < DEADLINE, "{what} did not come: {ledger}");
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.expect("kill can be run").success());
    }

    /// Awaits the end; the ledger of the last line and whether the exit was clean.
    pub(crate) fn ended(mut self) -> (Option<Value>, bool) {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                break status;
            }
            assert!(began.elapsed() < DEADLINE, "the agent did not end");
            std::thread::yield_now();
        };
        let mut ledger = None;
        while let Ok(line) = self.lines.recv_timeout(DEADLINE) {
            if line["message"] == "ended" {
                ledger = line["ledger"].as_str().and_then(|text| serde_json::from_str(text).ok());
            }
        }
        (ledger, status.success())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill().unwrap_or(());
        self.child.wait().ok();
    }
}

/// A span whose name begins so is bad: the sink refuses its request for ever.
pub(crate) const BAD: &str = "bad-";

/// What a sink has recorded: how often each span arrived, by name.
#[derive(Clone, Default)]
pub(crate) struct Sink {
    seen: Arc<Mutex<BTreeMap<String, u64>>>,
    closed: Arc<AtomicBool>,
}

impl Sink {
    /// Serves on a free port of loopback.
    pub(crate) async fn start() -> (Self, SocketAddr) {
        let sink = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let service = TraceServiceServer::new(sink.clone()).max_decoding_message_size(64 << 20);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        (sink, address)
    }

    /// While closed, every request is answered UNAVAILABLE.
    pub(crate) fn close(&self, closed: bool) {
        self.closed.store(closed, Ordering::SeqCst);
    }

    pub(crate) fn distinct(&self) -> usize {
        self.seen.lock().expect("no panic under it").len()
    }

    /// How many spans arrived, those that arrived twice counted twice.
    pub(crate) fn arrivals(&self) -> u64 {
        self.seen.lock().expect("no panic under it").values().sum()
    }

    pub(crate) fn distinct_with(&self, prefix: &str) -> usize {
        self.seen.lock().expect("no panic under it").keys().filter(|name| name.starts_with(prefix)).count()
    }

    /// Awaits this many different spans.
    pub(crate) async fn await_distinct(&self, spans: usize) {
        let (began, mut looks) = (Instant::now(), tokio::time::interval(LOOK_EVERY));
        while self.distinct() < spans {
            assert!(began.elapsed() < DEADLINE, "only {} of {spans} spans arrived", self.distinct());
            looks.tick().await;
        }
    }
}

#[tonic::async_trait]
impl TraceService for Sink {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(Status::unavailable("closed"));
        }
        let mut seen = self.seen.lock().expect("no panic under it");
        let groups = request.into_inner().resource_spans;
        let spans: Vec<Span> = groups.into_iter().flat_map(|group| group.scope_spans).flat_map(|scope| scope.spans).collect();
        if spans.iter().any(|span| span.name.starts_with(BAD)) {
            return Err(Status::invalid_argument("a span is bad"));
        }
        for span in spans {
            *seen.entry(span.name).or_default() += 1;
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A request of `healthy` ordinary spans and `errors` failed ones, whose names are unique and carry padding.
pub(crate) fn request(batch: &str, healthy: usize, errors: usize, padding: usize) -> ExportTraceServiceRequest {
    let span = |name: String, code: i32| Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        name: format!("{name}-{}", "x".repeat(padding)),
        start_time_unix_nano: 1,
        end_time_unix_nano: 2,
        status: Some(SpanStatus { code, message: String::new() }),
        ..Span::default()
    };
    let healthy = (0..healthy).map(|number| span(format!("healthy-{batch}-{number}"), 0));
    let errors = (0..errors).map(|number| span(format!("error-{batch}-{number}"), 2));
    let spans = ScopeSpans { spans: healthy.chain(errors).collect(), ..ScopeSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans: vec![spans], ..ResourceSpans::default() }] }
}

/// Sums a number over the cells of the only destination.
pub(crate) fn destination_sum(ledger: &Value, pointer: &str) -> u64 {
    let cells = ledger["destinations"][0]["cells"].as_array().cloned().unwrap_or_default();
    cells.iter().filter_map(|cell| cell.pointer(pointer).and_then(Value::as_u64)).sum()
}

/// A number of one input cell.
pub(crate) fn input(ledger: &Value, class: &str, pointer: &str) -> u64 {
    let cells = ledger["inputs"].as_array().cloned().unwrap_or_default();
    let cells = cells.iter().filter(|cell| cell["class"] == class);
    cells.filter_map(|cell| cell.pointer(pointer).and_then(Value::as_u64)).sum()
}
