//! One OTLP/gRPC client that behaves as the specification asks of an SDK, and tells its caller exactly how an attempt ended.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, ConnectError, Request, Status};
use tonic_types::StatusExt;
use vocabulary::Signal;

use crate::codec::{RawCodec, export_path};

/// Longest time one attempt may take, the SDKs' default.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The request was taken, but for so many items that it was told never to send again.
    Accepted {
        /// Rejected by partial success.
        rejected: u64,
    },
    /// It was not taken, and may be sent again after this time.
    Refused {
        /// The server's wish.
        after: Duration,
    },
    /// It was never sent: there was no connection.
    Unreached,
    /// It was sent and nobody knows what became of it.
    Uncertain,
    /// It was not taken, and never will be.
    Failed {
        /// Why.
        message: String,
    },
}

/// The client.
#[derive(Clone, Debug)]
pub struct Exporter {
    channel: Channel,
}

impl Exporter {
    /// Connects when the first request is sent, and again whenever the connection broke.
    ///
    /// # Errors
    /// When `endpoint` is no `http://host:port`.
    pub fn new(endpoint: String) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(endpoint)?.connect_timeout(CONNECT_TIMEOUT).timeout(ATTEMPT_TIMEOUT);
        Ok(Self { channel: endpoint.connect_lazy() })
    }

    /// One attempt.
    pub async fn export(&self, signal: Signal, body: Bytes) -> Answer {
        let Some(path) = export_path(signal) else { return Answer::Failed { message: format!("{signal} are not sent") } };
        let mut client = Grpc::new(self.channel.clone());
        if let Err(error) = client.ready().await {
            return ended(&Status::from_error(error.into()));
        }
        match client.unary(Request::new(body), PathAndQuery::from_static(path), RawCodec).await {
            Ok(response) => accepted(&response.into_inner()),
            Err(status) => ended(&status),
        }
    }
}

/// The three signals' responses have one shape: a partial success with a count and a text.
fn accepted(body: &Bytes) -> Answer {
    let partial = ExportTraceServiceResponse::decode(body.as_ref()).unwrap_or_default().partial_success;
    Answer::Accepted { rejected: partial.map_or(0, |partial| u64::try_from(partial.rejected_spans).unwrap_or(0)) }
}

fn ended(status: &Status) -> Answer {
    let after = status.get_details_retry_info().and_then(|info| info.retry_delay);
    match (status.code(), after) {
        (Code::ResourceExhausted | Code::Unavailable, Some(after)) => Answer::Refused { after },
        _ if never_connected(status) => Answer::Unreached,
        (
            Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            | Code::Unknown,
            _,
        ) => Answer::Uncertain,
        (code, _) => Answer::Failed { message: format!("{code}: {}", status.message()) },
    }
}

fn never_connected(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;
    use tonic_types::ErrorDetails;

    #[test]
    fn a_refusal_with_retry_info_says_when_to_come_again() {
        let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(1_500)));
        let status = Status::with_error_details(Code::ResourceExhausted, "full", details);
        assert_eq!(ended(&status), Answer::Refused { after: Duration::from_millis(1_500) });
    }

    #[test]
    fn resource_exhausted_without_retry_info_is_final() {
        assert!(matches!(ended(&Status::resource_exhausted("too large")), Answer::Failed { .. }));
    }

    #[test]
    fn a_partial_success_tells_how_many_were_rejected() {
        let partial = ExportTracePartialSuccess { rejected_spans: 7, error_message: "shed".into() };
        let body = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
        assert_eq!(accepted(&body.into()), Answer::Accepted { rejected: 7 });
    }

    #[tokio::test]
    async fn where_nobody_listens_nothing_was_sent() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("loopback has a free port");
        let exporter = Exporter::new(format!("http://{free}")).expect("it is an endpoint");
        assert_eq!(exporter.export(Signal::Traces, Bytes::new()).await, Answer::Unreached);
    }
}
