//! The listener as clients meet it: what passes comes through byte for byte, what does not is answered and reported.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes};
use futures::StreamExt;
use futures::future::BoxFuture;
use http::uri::PathAndQuery;
use inputs::{Answer, Charge, Gate, Listener, Offer, Room, Settings};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use otlp::{Limits, Rules};
use pipeline::Refusal;
use prost::Message;
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use vocabulary::{ClassCounts, DropReason, RefuseReason};

const LOGS: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
const REQUEST_BYTES_MAX: u64 = 256 * 1024;

#[derive(Clone, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, target: &mut EncodeBuf<'_>) -> Result<(), Status> {
        target.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(source.copy_to_bytes(source.remaining())))
    }
}

/// What the gate was told.
#[derive(Clone, Default)]
struct Seen {
    bodies: Arc<Mutex<Vec<Bytes>>>,
    charges: Arc<Mutex<Vec<Charge>>>,
    refused: Arc<Mutex<Vec<RefuseReason>>>,
}

async fn serve(answer: Answer, room: Room) -> (SocketAddr, Seen) {
    let seen = Seen::default();
    let offered = seen.clone();
    let address = listen(&seen, room, move |offer| {
        offered.bodies.lock().expect("no panic under it").push(offer.body);
        Box::pin(async move { answer })
    });
    (address.await, seen)
}

/// A gate that never answers and keeps each offer's charge, as a queue before a disk that hangs does.
async fn serve_into_a_hung_disk(room: Room) -> (SocketAddr, Seen) {
    let seen = Seen::default();
    let offered = seen.clone();
    let address = listen(&seen, room, move |offer| {
        offered.charges.lock().expect("no panic under it").push(offer.charge);
        Box::pin(std::future::pending())
    });
    (address.await, seen)
}

async fn listen(seen: &Seen, room: Room, offer: impl Fn(Offer) -> BoxFuture<'static, Answer> + Send + Sync + 'static) -> SocketAddr {
    let refused = seen.clone();
    let gate = Gate::new(offer, move |_, _, reason| refused.refused.lock().expect("no panic under it").push(reason));
    let listener = Listener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.address();
    let settings = Settings { request_bytes_max: REQUEST_BYTES_MAX, room, rules: Rules::default(), limits: Limits::default() };
    tokio::spawn(listener.serve(gate, settings, std::future::pending()));
    address
}

async fn await_used(room: &Room, what: &str, holds: impl Fn(u64) -> bool) {
    let began = Instant::now();
    while !holds(room.used()) {
        assert!(began.elapsed() < Duration::from_secs(5), "{what}: {} bytes in use", room.used());
        tokio::task::yield_now().await;
    }
}

fn accepted() -> Answer {
    Answer::Accepted { shed: ClassCounts::default(), reason: DropReason::SoftLimit }
}

async fn connect(address: SocketAddr) -> Grpc<Channel> {
    let channel = Endpoint::from_shared(format!("http://{address}")).expect("an address").connect().await.expect("it listens");
    Grpc::new(channel)
}

async fn send(client: &mut Grpc<Channel>, path: &'static str, body: impl Into<Bytes>) -> Result<Bytes, Status> {
    client.ready().await.expect("the connection stands");
    let answer = client.unary(Request::new(body.into()), PathAndQuery::from_static(path), Raw).await;
    answer.map(tonic::Response::into_inner)
}

fn logs(value: Value) -> Vec<u8> {
    let record = LogRecord { body: Some(AnyValue { value: Some(value) }), ..LogRecord::default() };
    let scope = ScopeLogs { log_records: vec![record], ..ScopeLogs::default() };
    let group = ResourceLogs { scope_logs: vec![scope], ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![group] }.encode_to_vec()
}

#[tokio::test]
async fn a_request_comes_through_byte_for_byte_in_every_encoding() {
    let room = Room::new(1 << 20);
    let (address, seen) = serve(accepted(), room.clone()).await;
    let body = logs(Value::StringValue("hello ".repeat(3000)));
    for encoding in [None, Some(CompressionEncoding::Gzip), Some(CompressionEncoding::Zstd)] {
        let client = connect(address).await;
        let mut client = match encoding {
            Some(encoding) => client.send_compressed(encoding),
            None => client,
        };
        let answer = send(&mut client, LOGS, body.clone()).await.expect("it is well formed");
        assert!(answer.is_empty(), "an empty response is complete success");
    }
    let bodies = seen.bodies.lock().expect("no panic under it");
    assert!(bodies.len() == 3 && bodies.iter().all(|seen| seen[..] == body[..]));
    assert_eq!(room.used(), 0, "the budget is given back");
}

#[tokio::test]
async fn garbage_depth_size_and_strange_methods_are_refused_each_with_its_reason() {
    let (address, seen) = serve(accepted(), Room::new(1 << 20)).await;
    let mut client = connect(address).await;
    let deep = (0..40).fold(Value::IntValue(1), |inner, _| Value::ArrayValue(ArrayValue { values: vec![AnyValue { value: Some(inner) }] }));
    let large = logs(Value::StringValue("x".repeat(300 * 1024)));
    let cases = [
        (LOGS, vec![0xff; 64], Code::InvalidArgument, RefuseReason::Undecodable),
        (LOGS, logs(deep), Code::ResourceExhausted, RefuseReason::TooLarge),
        (LOGS, large.clone(), Code::ResourceExhausted, RefuseReason::TooLarge),
        (
            "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export",
            Vec::new(),
            Code::Unimplemented,
            RefuseReason::Unsupported,
        ),
    ];
    for (path, body, code, reason) in cases {
        let told = send(&mut client, path, body).await.expect_err("it cannot be accepted");
        assert_eq!((told.code(), told.get_details_retry_info().is_none()), (code, true), "{reason}");
        assert_eq!(seen.refused.lock().expect("no panic under it").last(), Some(&reason));
    }
    let mut bomb = connect(address).await.send_compressed(CompressionEncoding::Gzip);
    let told = send(&mut bomb, LOGS, large).await.expect_err("it is large once inflated");
    assert_eq!((told.code(), told.get_details_retry_info().is_none()), (Code::ResourceExhausted, true));
    assert!(seen.bodies.lock().expect("no panic under it").is_empty());
}

#[tokio::test]
async fn a_full_receive_budget_refuses_with_a_delay_before_the_body_is_kept() {
    let room = Room::new(10 * 1024);
    let (address, seen) = serve(accepted(), room.clone()).await;
    let mut client = connect(address).await;
    let told = send(&mut client, LOGS, logs(Value::StringValue("x".repeat(100 * 1024)))).await.expect_err("ten times the budget");
    assert_eq!(told.code(), Code::ResourceExhausted);
    assert!(told.get_details_retry_info().and_then(|info| info.retry_delay).is_some());
    assert_eq!(*seen.refused.lock().expect("no panic under it"), [RefuseReason::MemoryPressure]);
    await_used(&room, "the budget is given back", |used| used == 0).await;
}

#[tokio::test]
async fn a_body_that_waits_for_the_disk_stays_charged_even_when_its_client_is_gone() {
    let room = Room::new(1 << 20);
    let (address, seen) = serve_into_a_hung_disk(room.clone()).await;
    let body = logs(Value::StringValue("x".repeat(100 * 1024)));
    let bytes = body.len() as u64;
    let mut client = connect(address).await;
    let waiting = tokio::spawn(async move { send(&mut client, LOGS, body).await });
    await_used(&room, "the body is charged while it is offered", |used| used == bytes).await;
    waiting.abort();
    assert!(waiting.await.is_err_and(|ended| ended.is_cancelled()), "nobody waits for an answer");
    // A second request is served after the first one's end was seen; the first one's body is still with the disk.
    let mut client = connect(address).await;
    let second = tokio::spawn(async move { send(&mut client, LOGS, logs(Value::IntValue(1))).await });
    await_used(&room, "both are charged", |used| used > bytes).await;
    second.abort();
    seen.charges.lock().expect("no panic under it").clear();
    await_used(&room, "the budget is given back", |used| used == 0).await;
}

#[tokio::test]
async fn an_inflated_message_is_charged_before_its_stream_ends() {
    let room = Room::new(1 << 20);
    let (address, _seen) = serve(accepted(), room.clone()).await;
    let body = Bytes::from(logs(Value::StringValue("x".repeat(200 * 1024))));
    let bytes = body.len() as u64;
    let mut client = connect(address).await.send_compressed(CompressionEncoding::Gzip);
    let endless = futures::stream::once(async move { body }).chain(futures::stream::pending());
    client.ready().await.expect("the connection stands");
    let path = PathAndQuery::from_static(LOGS);
    let waiting = tokio::spawn(async move { client.client_streaming::<_, Bytes, Bytes, _>(Request::new(endless), path, Raw).await });
    await_used(&room, "the decoded size is charged", |used| used >= bytes).await;
    waiting.abort();
}

#[tokio::test]
async fn a_refusal_of_the_engine_reaches_the_client_with_its_delay() {
    let refusal = Refusal { reason: RefuseReason::HardLimit, retry_after: Duration::from_millis(1500) };
    let (address, _seen) = serve(Answer::Refused(refusal), Room::new(1 << 20)).await;
    let told = send(&mut connect(address).await, LOGS, logs(Value::IntValue(1))).await.expect_err("the engine refuses");
    assert_eq!(told.get_details_retry_info().and_then(|info| info.retry_delay), Some(Duration::from_millis(1500)));
}
