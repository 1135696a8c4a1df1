//! The oracle: it makes every item from its producer and number, remembers what was told about it, records every arrival, and judges.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status as SpanStatus};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// Spans of one request: with their names about 4 KB, so that a segment of 64 KiB takes fifteen.
pub(crate) const BATCH: u64 = 20;
/// Pause of a producer that was refused.
const REFUSED_PAUSE: Duration = Duration::from_millis(50);

/// Producer and number of one span.
pub(crate) type Item = (u32, u64);

/// What the producer knows of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// The agent took it.
    Acknowledged,
    /// The agent did not, and said so.
    Refused,
    /// No answer, or one that takes a part of the request.
    Unknown,
}

/// The truth of one buffer's life, outside of whatever happens to the agent; copies share it.
#[derive(Clone, Default)]
pub(crate) struct Oracle {
    truth: Arc<Mutex<Truth>>,
    backend: Arc<watch::Sender<Backend>>,
}

/// How the backend behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Backend {
    #[default]
    Takes,
    /// Answers UNAVAILABLE.
    Refuses,
    /// Does not answer until it behaves otherwise, and then refuses what waited.
    Hangs,
}

#[derive(Default)]
struct Truth {
    next: BTreeMap<u32, u64>,
    told: BTreeMap<Item, Told>,
    arrived: BTreeMap<Item, u64>,
    /// Spans that nobody sent.
    wrong: Vec<String>,
    /// Whether the power is gone, or going.
    is_dark: bool,
}

/// Sums over all items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) acknowledged: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    /// Different items at the sink, and those beyond the first of each.
    pub(crate) arrived: u64,
    pub(crate) repeated: u64,
    /// Acknowledged and not at the sink.
    pub(crate) missing: u64,
}

impl std::ops::Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            acknowledged: self.acknowledged + other.acknowledged,
            refused: self.refused + other.refused,
            unknown: self.unknown + other.unknown,
            arrived: self.arrived + other.arrived,
            repeated: self.repeated + other.repeated,
            missing: self.missing + other.missing,
        }
    }
}

impl Oracle {
    /// A backend on a free port of loopback that records into this oracle.
    pub(crate) async fn sink(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let service = TraceServiceServer::new(self.clone()).max_decoding_message_size(64 << 20);
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        address
    }

    /// From now on the backend behaves like this.
    pub(crate) fn behave(&self, backend: Backend) {
        self.backend.send_replace(backend);
    }

    /// Sends one request after the other, at most so many, until the agent is gone.
    pub(crate) async fn produce(self, agent: SocketAddr, producer: u32, requests: u64) {
        let Ok(mut client) = TraceServiceClient::connect(format!("http://{agent}")).await else { return };
        let mut pause = tokio::time::interval(REFUSED_PAUSE);
        for _ in 0..requests {
            let items = self.claim(producer);
            let told = match client.export(request(&items)).await {
                Ok(answer) if answer.get_ref().partial_success.is_none() => Told::Acknowledged,
                Ok(_) => Told::Unknown,
                // A refusal carries a delay; a broken connection carries nothing.
                Err(status) if !status.details().is_empty() => Told::Refused,
                Err(_) => return,
            };
            self.note(items, told);
            if told == Told::Refused {
                pause.tick().await;
            }
        }
    }

    /// Who would be told after a power cut is gone with the power; and ext4 may confirm a sync whose transaction it has just thrown away.
    fn note(&self, items: Vec<Item>, told: Told) {
        let mut truth = self.truth();
        let told = if truth.is_dark { Told::Unknown } else { told };
        truth.told.extend(items.into_iter().map(|item| (item, told)));
    }

    /// From now on no answer counts, or every one again.
    pub(crate) fn set_dark(&self, is_dark: bool) {
        self.truth().is_dark = is_dark;
    }

    /// The next items of a producer, of which nothing is known yet.
    fn claim(&self, producer: u32) -> Vec<Item> {
        let mut truth = self.truth();
        let next = truth.next.entry(producer).or_default();
        let items: Vec<Item> = (*next..*next + BATCH).map(|number| (producer, number)).collect();
        *next += BATCH;
        truth.told.extend(items.iter().map(|&item| (item, Told::Unknown)));
        items
    }

    /// All that is known.
    pub(crate) fn tally(&self) -> Tally {
        let truth = self.truth();
        assert!(truth.wrong.is_empty(), "spans arrived that nobody sent: {:?}", truth.wrong);
        let told = |what| truth.told.values().filter(|told| **told == what).count() as u64;
        let arrived = truth.arrived.len() as u64;
        let acknowledged = truth.told.iter().filter(|(_, told)| **told == Told::Acknowledged);
        Tally {
            acknowledged: told(Told::Acknowledged),
            refused: told(Told::Refused),
            unknown: told(Told::Unknown),
            arrived,
            repeated: truth.arrived.values().sum::<u64>() - arrived,
            missing: acknowledged.filter(|(item, _)| !truth.arrived.contains_key(item)).count() as u64,
        }
    }

    fn truth(&self) -> MutexGuard<'_, Truth> {
        self.truth.lock().expect("no panic under it")
    }
}

#[tonic::async_trait]
impl TraceService for Oracle {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let behaviour = *self.backend.borrow();
        if behaviour == Backend::Hangs {
            let mut changes = self.backend.subscribe();
            changes.wait_for(|backend| *backend != Backend::Hangs).await.expect("it lives as long as the oracle");
        }
        if behaviour != Backend::Takes {
            return Err(Status::unavailable("not now"));
        }
        let mut truth = self.truth();
        let groups = request.into_inner().resource_spans;
        for found in groups.into_iter().flat_map(|group| group.scope_spans).flat_map(|scope| scope.spans) {
            let numbers: Vec<u64> = found.name.split('.').take(2).filter_map(|part| part.parse().ok()).collect();
            let item = (numbers.first().map_or(0, |&producer| producer as u32), numbers.get(1).copied().unwrap_or_default());
            if found == span(item) && truth.told.contains_key(&item) {
                *truth.arrived.entry(item).or_default() += 1;
            } else {
                truth.wrong.push(found.name);
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// The span of an item: every byte of it follows from producer and number. One in ten of the even producers' is an error.
fn span((producer, number): Item) -> Span {
    let mut state = u64::from(producer) << 40 | number;
    let mut word = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 27)
    };
    let filling: String = (0..10).map(|_| format!("{:016x}", word())).collect();
    let code = if producer % 2 == 0 && number % 10 == 0 { 2 } else { 0 };
    Span {
        trace_id: [word().to_be_bytes(), word().to_be_bytes()].concat(),
        span_id: word().to_be_bytes().to_vec(),
        name: format!("{producer}.{number}.{filling}"),
        start_time_unix_nano: 1 + number,
        end_time_unix_nano: 2 + number,
        status: Some(SpanStatus { code, message: String::new() }),
        ..Span::default()
    }
}

fn request(items: &[Item]) -> ExportTraceServiceRequest {
    let spans = ScopeSpans { spans: items.iter().map(|&item| span(item)).collect(), ..ScopeSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans: vec![spans], ..ResourceSpans::default() }] }
}
