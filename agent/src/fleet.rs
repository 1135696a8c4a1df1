//! The agent's side of the fleet protocol: one stream to the operator, a report every few seconds, and patience. A dead operator
//! changes nothing about the flow of data.

use std::sync::Arc;
use std::time::Duration;

use crds::agent::Fleet;
use crds::fleet::{AgentReport, Directive, METHOD};
use http::uri::PathAndQuery;
use rand::Rng;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::board::{Board, Started};
use crate::report::{Reporter, report};
use crate::storage::chain;

/// Pauses between two tries to connect, each shortened by up to half at random, so that a returning operator is not met by all.
const RECONNECT_FIRST: Duration = Duration::from_secs(1);
const RECONNECT_MAX: Duration = Duration::from_secs(30);
/// Longest time for connecting, and for the stream to open.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest wait for the operator to take the last report.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(2);
/// A directive is two short fields.
const DIRECTIVE_BYTES_MAX: usize = 64 * 1024;

/// Why a session ended or never began.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("cannot read the CA file {path}")]
    ReadCa { path: String, source: std::io::Error },
    #[error("cannot read the token file {path}")]
    ReadToken { path: String, source: std::io::Error },
    #[error("the token file {path} holds no token")]
    BadToken { path: String },
    #[error("cannot connect to the fleet service {endpoint}")]
    Connect { endpoint: String, source: tonic::transport::Error },
    #[error("the fleet service did not answer in time")]
    TimedOut,
    #[error("the fleet service refused the stream")]
    Refused(#[source] Status),
    #[error("the fleet service ended the stream")]
    Ended,
}

/// How a session ended well.
struct Farewell;

/// The client.
pub(crate) struct FleetClient {
    pub(crate) config: Fleet,
    pub(crate) reporter: Reporter,
    pub(crate) board: Arc<Board>,
}

impl FleetClient {
    /// Reports until `stop` says that the last report is due, sends it if a stream is open, and returns.
    pub(crate) async fn run(&self, mut stop: watch::Receiver<bool>) {
        let mut sequence = 0;
        let mut pause = RECONNECT_FIRST;
        let mut told = false;
        while !*stop.borrow() {
            let first = sequence;
            match self.session(&mut sequence, &mut stop).await {
                Ok(Farewell) => return,
                Err(cause) => {
                    if sequence > first + 1 {
                        (pause, told) = (RECONNECT_FIRST, false);
                    }
                    if !told {
                        tracing::warn!(error = %chain(&cause), "no stream to the operator; it is tried again, data flows on");
                        told = true;
                    }
                }
            }
            let wait = pause.mul_f64(rand::rng().random_range(0.5..=1.0));
            pause = (pause * 2).min(RECONNECT_MAX);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = stop.changed() => {}
            }
        }
    }

    async fn session(&self, sequence: &mut u64, stop: &mut watch::Receiver<bool>) -> Result<Farewell, SessionError> {
        let (reports, mut directives) = self.open(sequence).await?;
        let mut ticks = interval(Duration::from_secs(self.config.report_seconds.max(1).into()));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    if let Some(next) = self.next(sequence, false) {
                        reports.send(next).await.map_err(|_| SessionError::Ended)?;
                    }
                }
                directive = directives.message() => match directive {
                    Ok(Some(Directive { acknowledged, config_hash })) => tracing::debug!(acknowledged, config_hash, "the operator answered"),
                    Ok(None) => return Err(SessionError::Ended),
                    Err(status) => return Err(SessionError::Refused(status)),
                },
                _ = stop.changed() => {
                    self.farewell(sequence, reports, directives).await;
                    return Ok(Farewell);
                }
            }
        }
    }

    /// Connects with files as they are at this moment: tokens and CAs are renewed under the same names.
    async fn open(&self, sequence: &mut u64) -> Result<(mpsc::Sender<AgentReport>, Streaming<Directive>), SessionError> {
        let Fleet { endpoint, server_name, ca_file, token_file, .. } = &self.config;
        let ca = tokio::fs::read(ca_file).await.map_err(|source| SessionError::ReadCa { path: ca_file.clone(), source })?;
        let token = tokio::fs::read_to_string(token_file).await;
        let token = token.map_err(|source| SessionError::ReadToken { path: token_file.clone(), source })?;
        let bearer: MetadataValue<Ascii> =
            format!("Bearer {}", token.trim()).parse().map_err(|_| SessionError::BadToken { path: token_file.clone() })?;
        let failed = |source| SessionError::Connect { endpoint: endpoint.clone(), source };
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name(server_name.clone());
        let built = Endpoint::from_shared(endpoint.clone()).map_err(failed)?;
        let built = if endpoint.starts_with("https:") { built.tls_config(tls).map_err(failed)? } else { built };
        let built = built.connect_timeout(CONNECT_TIME_MAX).http2_keep_alive_interval(Duration::from_secs(20));
        let channel = built.connect().await.map_err(failed)?;

        let (reports, outgoing) = mpsc::channel(1);
        let first = self.next(sequence, false).ok_or(SessionError::Ended)?;
        reports.send(first).await.map_err(|_| SessionError::Ended)?;
        let mut request = Request::new(ReceiverStream::new(outgoing));
        request.metadata_mut().insert("authorization", bearer);
        let mut client = Grpc::new(channel).max_decoding_message_size(DIRECTIVE_BYTES_MAX);
        client.ready().await.map_err(failed)?;
        let codec = ProstCodec::<AgentReport, Directive>::default();
        let opening = client.streaming(request, PathAndQuery::from_static(METHOD), codec);
        let response = timeout(CONNECT_TIME_MAX, opening).await.map_err(|_| SessionError::TimedOut)?.map_err(SessionError::Refused)?;
        Ok((reports, response.into_inner()))
    }

    /// The last report, and the operator's end of the stream as the sign that it was read. Nothing is lost without it: the numbers
    /// stay on the volume, or the operator finds the pod gone.
    async fn farewell(&self, sequence: &mut u64, reports: mpsc::Sender<AgentReport>, mut directives: Streaming<Directive>) {
        let Some(last) = self.next(sequence, true) else { return };
        let told = async {
            if reports.send(last).await.is_ok() {
                drop(reports);
                while let Ok(Some(_)) = directives.message().await {}
            }
        };
        if timeout(FAREWELL_TIME_MAX, told).await.is_err() {
            tracing::warn!("the operator did not confirm the last report");
        }
    }

    fn next(&self, sequence: &mut u64, last: bool) -> Option<AgentReport> {
        let started: &Started = self.board.started()?;
        *sequence += 1;
        Some(report(&self.reporter, &self.board, started, *sequence, last))
    }
}
