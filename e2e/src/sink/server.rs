//! The gRPC side of the sink: read, wait for its turn, journal, answer.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::routing::post;
use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codec::CompressionEncoding;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};
use vocabulary::Signal;

use super::journal::Journal;
use super::pace::{Failure, Pace, Turn};
use super::record::Record;
use crate::codec::{RawCodec, SIGNALS, export_path};
use crate::items;

/// Largest request, in bytes.
const REQUEST_BYTES_MAX: usize = 64 << 20;

/// Where the sink listens and what it writes.
#[derive(Clone, Debug)]
pub struct SinkOptions {
    /// OTLP/gRPC.
    pub listen: SocketAddr,
    /// HTTP control.
    pub control: SocketAddr,
    /// The journal's file.
    pub journal: PathBuf,
}

/// Everything the sink's two servers share.
pub(super) struct Desk {
    pub(super) record: Arc<Mutex<Record>>,
    pub(super) pace: Mutex<Pace>,
    pub(super) failure: Mutex<Failure>,
    pub(super) refused: AtomicU64,
    journal: Journal,
}

/// Serves until `stop` ends.
///
/// # Errors
/// When a port is taken, the journal cannot be used, or a server ends by itself.
pub async fn serve(options: SinkOptions, stop: impl Future<Output = ()> + Send) -> anyhow::Result<()> {
    let (journal, record) = Journal::open(&options.journal)?;
    let desk = Arc::new(Desk { record, pace: Mutex::default(), failure: Mutex::default(), refused: AtomicU64::new(0), journal });
    let listener = TcpListener::bind(options.listen).await.with_context(|| format!("listen for OTLP on {}", options.listen))?;
    let control = TcpListener::bind(options.control).await.with_context(|| format!("listen for control on {}", options.control))?;
    let otlp =
        tonic::transport::Server::builder().add_routes(export_routes(&desk).into()).serve_with_incoming(TcpListenerStream::new(listener));
    let http = axum::serve(control, super::http::routes(desk));
    tokio::select! {
        ended = otlp => ended.context("serve OTLP"),
        ended = http => ended.context("serve control"),
        () = stop => Ok(()),
    }
}

fn export_routes(desk: &Arc<Desk>) -> Router {
    SIGNALS.into_iter().filter_map(|signal| Some((signal, export_path(signal)?))).fold(Router::new(), |router, (signal, path)| {
        let export = Export { signal, desk: Arc::clone(desk) };
        router.route(path, post(handle).with_state(export))
    })
}

async fn handle(State(export): State<Export>, request: http::Request<axum::body::Body>) -> http::Response<tonic::body::Body> {
    tonic::server::Grpc::new(RawCodec)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd)
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .unary(export, request)
        .await
}

/// The export method of one signal.
#[derive(Clone)]
struct Export {
    signal: Signal,
    desk: Arc<Desk>,
}

impl tower::Service<Request<Bytes>> for Export {
    type Response = Response<Bytes>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Bytes>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let export = self.clone();
        Box::pin(async move { export.record(&request.into_inner()).await.map(Response::new) })
    }
}

impl Export {
    async fn record(&self, body: &[u8]) -> Result<Bytes, Status> {
        match *lock(&self.desk.failure) {
            Failure::None => {}
            Failure::Unavailable => return Err(self.refuse(Status::unavailable("the backend was told to fail"))),
            Failure::Reject => return Err(self.refuse(Status::invalid_argument("the backend was told to reject"))),
        }
        let arrival = items::read(self.signal, body).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let turn = lock(&self.desk.pace).turn(Instant::now(), arrival.items());
        match turn {
            Turn::Refused(wait) => return Err(self.refuse(busy(wait))),
            Turn::After(wait) => tokio::time::sleep(wait).await,
        }
        if self.desk.journal.append(arrival).await { Ok(Bytes::new()) } else { Err(Status::unavailable("the journal cannot be written")) }
    }

    fn refuse(&self, status: Status) -> Status {
        self.desk.refused.fetch_add(1, Ordering::Relaxed);
        status
    }
}

fn busy(wait: Duration) -> Status {
    let details = ErrorDetails::with_retry_info(Some(wait));
    Status::with_error_details(Code::ResourceExhausted, "the backend takes fewer items per second", details)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
