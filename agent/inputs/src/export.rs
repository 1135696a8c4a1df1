//! The three export methods of OTLP/gRPC as one service over plain requests: path, encoding, one message, walk, offer.

use std::convert::Infallible;
use std::error::Error as _;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use otlp::{Limits, Rules};
use tonic::body::Body;
use tonic::codec::{CompressionEncoding, Streaming};
use tonic::{Code, Status};
use tower::Service;
use vocabulary::{RefuseReason, Signal};

use crate::answer;
use crate::body::{Metered, ReadError};
use crate::gate::{Gate, Offer};
use crate::raw::{RawDecoder, fitted};
use crate::room::{Charge, Room};

/// Longest time a client may take to send one request: long enough for 16 MiB over 5 Mbit/s.
const READ_TIME_MAX: Duration = Duration::from_secs(30);

/// How long an answer that depends on destinations is waited for: as long as a client waits that does not say, and at most. A tenth is
/// left for the way back.
const PATIENCE: Duration = Duration::from_secs(30);
const PATIENCE_MAX: Duration = Duration::from_secs(120);

/// Serves the export methods.
#[derive(Clone, Debug)]
pub(crate) struct Export {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) gate: Gate,
    pub(crate) room: Room,
    pub(crate) request_bytes_max: usize,
    pub(crate) rules: Rules,
    pub(crate) limits: Limits,
}

/// Why a request never became an offer. `Gone` is no refusal: nobody is there to be told.
enum Fault {
    Refused(RefuseReason, Status),
    Pressure,
    Gone,
}

impl Export {
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared: Arc::new(shared) }
    }
}

impl Service<Request<Body>> for Export {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shared = self.shared.clone();
        Box::pin(async move { Ok(serve(&shared, request).await) })
    }
}

async fn serve(shared: &Shared, request: Request<Body>) -> Response<Body> {
    let Some(signal) = signal_of(request.uri().path()) else {
        shared.gate.refused(None, RefuseReason::Unsupported);
        return answer::status(&Status::unimplemented("served are the Export methods of OTLP traces, metrics and logs"));
    };
    match accept(shared, signal, request).await {
        Ok(offer) => answer::respond(shared.gate.offer(offer).await),
        Err(Fault::Refused(reason, status)) => {
            shared.gate.refused(Some(signal), reason);
            answer::status(&status)
        }
        Err(Fault::Pressure) => {
            shared.gate.refused(Some(signal), RefuseReason::MemoryPressure);
            answer::under_pressure()
        }
        Err(Fault::Gone) => answer::status(&Status::cancelled("the request was not sent completely in time")),
    }
}

fn signal_of(path: &str) -> Option<Signal> {
    match path {
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => Some(Signal::Traces),
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => Some(Signal::Metrics),
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => Some(Signal::Logs),
        _ => None,
    }
}

/// Reads the one message and proves it well formed. The budget's share leaves with the offer, whose taker gives it back.
async fn accept(shared: &Shared, signal: Signal, request: Request<Body>) -> Result<Offer, Fault> {
    let encoding = encoding_of(&request)?;
    let (patience, began) = (patience_of(request.headers()), Instant::now());
    let charge = Charge::new(shared.room.share());
    let body = Metered::new(request.into_body(), charge.clone());
    let messages = Streaming::new_request(RawDecoder, body, encoding, Some(shared.request_bytes_max));
    let body = match tokio::time::timeout(READ_TIME_MAX, read_one(messages, &charge)).await {
        Ok(read) => fitted(read?),
        Err(_) => return Err(Fault::Gone),
    };
    if !charge.resize(body.len() as u64) {
        return Err(Fault::Pressure);
    }
    let counts = otlp::inspect(signal, &body, &shared.rules, &shared.limits).map_err(|malformed| {
        if malformed.is_too_large() {
            Fault::Refused(RefuseReason::TooLarge, Status::resource_exhausted(malformed.to_string()))
        } else {
            undecodable(&malformed.to_string())
        }
    })?;
    Ok(Offer { signal, counts, body, charge, patience: patience.saturating_sub(began.elapsed()) })
}

fn encoding_of(request: &Request<Body>) -> Result<Option<CompressionEncoding>, Fault> {
    let is_grpc = request.headers().get(http::header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if !is_grpc {
        return Err(unsupported("the content type is not application/grpc"));
    }
    match request.headers().get("grpc-encoding").map(http::HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(None),
        Some(b"gzip") => Ok(Some(CompressionEncoding::Gzip)),
        Some(b"zstd") => Ok(Some(CompressionEncoding::Zstd)),
        Some(_) => Err(unsupported("accepted encodings are gzip, zstd and identity")),
    }
}

/// How long the client may be kept waiting, from the start of its request on.
fn patience_of(headers: &HeaderMap) -> Duration {
    let told = headers.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(timeout_of);
    told.unwrap_or(PATIENCE).min(PATIENCE_MAX) * 9 / 10
}

/// A timeout as gRPC writes it: at most eight digits and a unit.
fn timeout_of(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3_600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// The message is charged at its decoded size as soon as it is there: a client may take its time to end the stream.
async fn read_one(mut messages: Streaming<Bytes>, charge: &Charge) -> Result<Bytes, Fault> {
    let first = messages.message().await.map_err(|status| read_fault(&status))?;
    let body = first.ok_or_else(|| undecodable("the request has no message"))?;
    if !charge.resize(body.len() as u64) {
        return Err(Fault::Pressure);
    }
    match messages.message().await.map_err(|status| read_fault(&status))? {
        Some(_) => Err(undecodable("the request has more than one message")),
        None => Ok(body),
    }
}

/// What tonic's reader failed for. Causes of our own body come back as the source; the rest it found in the gRPC framing.
fn read_fault(status: &Status) -> Fault {
    if let Some(cause) = status.source().and_then(|source| source.downcast_ref::<ReadError>()) {
        return match cause {
            ReadError::NoRoom => Fault::Pressure,
            ReadError::Gone(_) => Fault::Gone,
        };
    }
    match status.code() {
        Code::OutOfRange | Code::ResourceExhausted => Fault::Refused(RefuseReason::TooLarge, Status::resource_exhausted(status.message())),
        _ => undecodable(status.message()),
    }
}

fn undecodable(text: &str) -> Fault {
    Fault::Refused(RefuseReason::Undecodable, Status::invalid_argument(text))
}

fn unsupported(text: &str) -> Fault {
    Fault::Refused(RefuseReason::Unsupported, Status::unimplemented(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_waits_nine_tenths_of_the_time_it_names_and_a_bounded_time_if_it_names_none_or_nonsense() {
        let patience = |text: Option<&str>| {
            let headers = text.map(|text| ("grpc-timeout".parse().expect("a name"), text.parse().expect("a value")));
            patience_of(&headers.into_iter().collect())
        };
        for (text, millis) in [("10S", 9_000), ("500m", 450), ("1M", 54_000), ("2000000u", 1_800), ("9H", 108_000), ("99999999H", 108_000)]
        {
            assert_eq!(patience(Some(text)), Duration::from_millis(millis), "{text}");
        }
        for text in [None, Some(""), Some("S"), Some("-1S"), Some("1"), Some("1s"), Some("123456789S"), Some("1\u{e4}")] {
            assert_eq!(patience(text), Duration::from_secs(27), "{text:?}");
        }
    }
}
