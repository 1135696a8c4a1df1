//! What an attempt says about a record and about its destination, against a real server and against none.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse};
use outputs::{Attempt, BATCH_ID_KEY, BatchId, Condition, OtlpGrpc, Output};
use pipeline::{Outcome, RecordId};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use vocabulary::{Class, ClassCounts, Signal};

/// Answers every request alike.
struct Always(Result<ExportTraceServiceResponse, Status>);

#[tonic::async_trait]
impl TraceService for Always {
    async fn export(&self, _: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.clone().map(Response::new)
    }
}

fn batch() -> BatchId<'static> {
    BatchId { buffer: "9f", record: RecordId { class: Class::Normal, sequence: 7 }, items: None }
}

async fn attempt_at(endpoint: &str) -> Attempt {
    let output = Output::OtlpGrpc(OtlpGrpc::new(endpoint).expect("the form is right"));
    output.send(&batch(), Signal::Traces, ClassCounts::of(Class::Normal, 1), Bytes::new()).await
}

async fn attempt(answer: Result<ExportTraceServiceResponse, Status>) -> Attempt {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address: SocketAddr = listener.local_addr().expect("it is bound");
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(Server::builder().add_service(TraceServiceServer::new(Always(answer))).serve_with_incoming(incoming));
    attempt_at(&format!("http://{address}")).await
}

#[tokio::test]
async fn a_success_is_delivered() {
    let seen = attempt(Ok(ExportTraceServiceResponse::default())).await;
    assert_eq!((seen.outcome, seen.condition), (Outcome::Delivered, Condition::Reachable));
}

#[tokio::test]
async fn a_partial_success_says_how_many_were_rejected() {
    let partial = ExportTracePartialSuccess { rejected_spans: 3, error_message: "too old".into() };
    let seen = attempt(Ok(ExportTraceServiceResponse { partial_success: Some(partial) })).await;
    assert_eq!((seen.outcome, seen.condition), (Outcome::Partial { rejected: 3 }, Condition::PartialRejects));
    assert_eq!(seen.error, "too old");
}

#[tokio::test]
async fn a_success_whose_answer_is_too_large_to_read_is_delivered_with_a_warning() {
    let partial = ExportTracePartialSuccess { rejected_spans: 0, error_message: "x".repeat(100 * 1024) };
    let seen = attempt(Ok(ExportTraceServiceResponse { partial_success: Some(partial) })).await;
    assert_eq!((seen.outcome, seen.condition), (Outcome::Delivered, Condition::Reachable));
    assert!(seen.error.contains("65536 bytes"), "{}", seen.error);
}

#[tokio::test]
async fn a_destination_that_finds_the_request_too_large_did_not_take_it() {
    let text = "Error, decoded message length too large: found 5242880 bytes, the limit is: 65536 bytes";
    let seen = attempt(Err(Status::out_of_range(text))).await;
    assert_eq!(seen.outcome, Outcome::TooLarge);
}

#[tokio::test]
async fn a_destination_without_the_service_keeps_the_record_waiting() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address: SocketAddr = listener.local_addr().expect("it is bound");
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let service = TraceServiceServer::new(Always(Ok(ExportTraceServiceResponse::default())));
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
    let output = Output::OtlpGrpc(OtlpGrpc::new(&format!("http://{address}")).expect("the form is right"));
    let seen = output.send(&batch(), Signal::Logs, ClassCounts::of(Class::Normal, 1), Bytes::new()).await;
    assert_eq!((seen.outcome, seen.condition), (Outcome::Retry { after: None }, Condition::ConnectionFailed), "{}", seen.error);
}

#[tokio::test]
async fn a_destination_that_does_not_know_us_keeps_the_record_waiting() {
    let seen = attempt(Err(Status::unauthenticated("who are you"))).await;
    assert_eq!((seen.outcome, seen.condition), (Outcome::Retry { after: None }, Condition::AuthenticationFailed));
}

#[tokio::test]
async fn a_permanent_refusal_is_not_repeated() {
    let seen = attempt(Err(Status::invalid_argument("no"))).await;
    assert_eq!(seen.outcome, Outcome::Rejected);
}

#[tokio::test]
async fn a_closed_port_and_an_unknown_name_are_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    let seen = attempt_at(&format!("http://{address}")).await;
    assert_eq!((seen.outcome, seen.condition), (Outcome::Retry { after: None }, Condition::ConnectionFailed));
    assert!(!seen.error.is_empty());
    let seen = attempt_at("http://backend.invalid:4317").await;
    assert_eq!((seen.outcome, seen.condition), (Outcome::Retry { after: None }, Condition::NameResolutionFailed), "{}", seen.error);
}

/// Tells the name of each request, and answers or never does.
struct Named {
    names: mpsc::Sender<String>,
    answers: bool,
}

#[tonic::async_trait]
impl TraceService for Named {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let name = request.metadata().get(BATCH_ID_KEY).and_then(|name| name.to_str().ok()).unwrap_or_default();
        self.names.send(name.to_owned()).await.expect("the test listens");
        if !self.answers {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn serve(listener: TcpListener, service: Named) {
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    Server::builder().add_service(TraceServiceServer::new(service)).serve_with_incoming(incoming).await.expect("it serves");
}

#[tokio::test]
async fn a_record_whose_answer_was_lost_is_sent_again_under_the_same_name() {
    let (sender, mut names) = mpsc::channel(1);
    // A runtime of its own takes its connections with it when it ends.
    let first = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let listener = first.spawn(TcpListener::bind("127.0.0.1:0")).await.expect("it ends").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    first.spawn(serve(listener, Named { names: sender.clone(), answers: false }));
    let output = Output::OtlpGrpc(OtlpGrpc::new(&format!("http://{address}")).expect("the form is right"));
    let slice = BatchId { items: Some(2..5), ..batch() };
    let send = || output.send(&slice, Signal::Traces, ClassCounts::of(Class::Normal, 3), Bytes::new());
    let (seen, name) = tokio::join!(send(), async {
        let name = names.recv().await;
        // The port is free when this is over.
        tokio::task::spawn_blocking(move || first.shutdown_timeout(Duration::from_secs(30))).await.expect("it ends");
        name
    });
    assert_eq!((seen.outcome, name.as_deref()), (Outcome::Retry { after: None }, Some("9f/normal/7-7/items 2-4")), "{}", seen.error);
    let listener = TcpListener::bind(address).await.expect("the port is free again");
    tokio::spawn(serve(listener, Named { names: sender, answers: true }));
    assert_eq!(send().await.outcome, Outcome::Delivered);
    assert_eq!(names.recv().await, name);
}
