//! The OTLP/gRPC client of one destination.

use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use vocabulary::Signal;

use crate::attempt::{Attempt, Condition};
use crate::batch::{BATCH_ID_KEY, BatchId};
use crate::raw::Raw;

/// Longest time one call may take, from the first byte sent to the answer.
const CALL_TIME_MAX: Duration = Duration::from_secs(30);
/// Longest time a connection may take to be made.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// A dead peer is noticed after interval plus timeout, even behind a load balancer that drops packets.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// An export response holds a number and a message; a larger one is not read.
const RESPONSE_BYTES_MAX: usize = 64 * 1024;

/// An endpoint that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// It is no URL of the right form.
    #[error("endpoint `{endpoint}` cannot be used: write http://host:port or https://host:port")]
    Form {
        /// As configured.
        endpoint: String,
    },
    /// TLS could not be set up.
    #[error("TLS for endpoint `{endpoint}` cannot be set up: does the system have a certificate store?")]
    Tls {
        /// As configured.
        endpoint: String,
        /// What the transport said.
        source: tonic::transport::Error,
    },
}

/// A client that connects when it is first used and again whenever the connection is lost.
#[derive(Clone, Debug)]
pub struct OtlpGrpc {
    channel: Channel,
}

impl OtlpGrpc {
    /// Reads the endpoint; connects later. Must be called within a runtime.
    ///
    /// # Errors
    /// When the endpoint is not of the form `http://host:port` or `https://host:port`, or TLS cannot be set up.
    pub fn new(endpoint: &str) -> Result<Self, EndpointError> {
        let is_tls = Self::check(endpoint)?;
        let form = |_| EndpointError::Form { endpoint: endpoint.to_owned() };
        let built = Endpoint::from_shared(endpoint.to_owned())
            .map_err(form)?
            .connect_timeout(CONNECT_TIME_MAX)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .tcp_nodelay(true);
        let tls = ClientTlsConfig::new().with_native_roots();
        let built = if is_tls {
            built.tls_config(tls).map_err(|source| EndpointError::Tls { endpoint: endpoint.to_owned(), source })?
        } else {
            built
        };
        Ok(Self { channel: built.connect_lazy() })
    }

    /// Whether an endpoint has the right form; true when it asks for TLS.
    ///
    /// # Errors
    /// When it is not of the form `http://host:port` or `https://host:port`.
    pub fn check(endpoint: &str) -> Result<bool, EndpointError> {
        let uri = endpoint.parse::<http::Uri>().ok().filter(|uri| uri.host().is_some_and(|host| !host.is_empty()));
        match uri.as_ref().and_then(http::Uri::scheme_str) {
            Some("http") => Ok(false),
            Some("https") => Ok(true),
            _ => Err(EndpointError::Form { endpoint: endpoint.to_owned() }),
        }
    }

    /// Sends one record.
    pub(crate) async fn send(&self, batch: &BatchId<'_>, signal: Signal, body: Bytes) -> Attempt {
        match tokio::time::timeout(CALL_TIME_MAX, self.call(batch, signal, body)).await {
            Ok(Ok(Answered::Read(response))) => read_response(&response),
            Ok(Ok(Answered::TooLarge)) => Attempt::delivered_unread(RESPONSE_BYTES_MAX),
            Ok(Err(status)) => Attempt::failed(&status),
            Err(_) => Attempt::timed_out(CALL_TIME_MAX),
        }
    }

    async fn call(&self, batch: &BatchId<'_>, signal: Signal, body: Bytes) -> Result<Answered, Status> {
        let mut client = Grpc::new(self.channel.clone()).max_decoding_message_size(RESPONSE_BYTES_MAX);
        client.ready().await.map_err(|cause| Status::from_error(Box::new(cause)))?;
        // The response is read as a stream because a refusal then fails the call itself: what fails afterwards is about an answer.
        let mut request = Request::new(futures::stream::once(std::future::ready(body)));
        if let Some(name) = batch.metadata() {
            request.metadata_mut().insert(BATCH_ID_KEY, name);
        }
        let mut answers = client.streaming(request, path(signal), Raw).await?.into_inner();
        let answer = match answers.message().await {
            Ok(Some(answer)) => answer,
            Ok(None) => return Err(Status::internal("the destination ended the call without an answer")),
            Err(status) if is_too_large(&status) => return Ok(Answered::TooLarge),
            Err(status) => return Err(status),
        };
        // The status follows the message.
        answers.trailers().await?;
        Ok(Answered::Read(answer))
    }
}

/// What came back on a call that the destination did not refuse.
enum Answered {
    Read(Bytes),
    /// It announced more than is read.
    TooLarge,
}

/// Whether tonic gave up on an answer for its announced size. There is no type for it: the text is that of its decoder and holds
/// our own limit, so that a destination that found our request too large is not mistaken for it.
fn is_too_large(status: &Status) -> bool {
    let (text, limit) = (status.message(), format!("the limit is: {RESPONSE_BYTES_MAX} bytes"));
    status.code() == Code::OutOfRange && text.starts_with("Error, decoded message length too large") && text.ends_with(&limit)
}

fn path(signal: Signal) -> PathAndQuery {
    PathAndQuery::from_static(match signal {
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        Signal::Profiles => "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export",
    })
}

/// A success may still reject items. A message without rejected items is a warning, which the protocol allows; a response that
/// cannot be read came with an OK status, so sending again would only duplicate.
fn read_response(response: &[u8]) -> Attempt {
    match otlp::response::read_partial_success(response) {
        Ok(partial) if partial.rejected > 0 => Attempt::partial(partial.rejected, &partial.message),
        Ok(_) | Err(_) => Attempt::delivered(),
    }
}

impl Attempt {
    /// The record could not be handed over within this process.
    pub(crate) fn unwritable(cause: &std::io::Error) -> Self {
        Self::retry(Condition::ConnectionFailed, &cause.to_string())
    }
}
