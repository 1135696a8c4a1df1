//! The fleet service: one stream per agent, reports in, directives out. Serves only while this process leads; a stream ends
//! after half an hour, so that a token is looked at again.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crds::fleet::{AgentReport, Directive, METHOD, SERVICE};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use jiff::Timestamp;
use plan::agents::StreamOrder;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tracing::{debug, warn};

use crate::admin::Metrics;
use crate::certificates::Leaf;
use crate::lease::Term;
use crate::registry::{Registry, Unwelcome};
use crate::token::{Sender, TokenError, Tokens};

/// Largest report; sixteen destinations with every reason take a third of it.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Longest life of a stream.
const STREAM_LIFE: Duration = Duration::from_secs(1800);
/// An agent that is silent for so long has lost its connection.
const SILENCE: Duration = Duration::from_secs(60);

/// What every stream needs.
#[derive(Clone)]
pub(crate) struct FleetService {
    pub(crate) registry: Arc<Registry>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) term: Term,
}

impl FleetService {
    /// Serves until the term is over.
    pub(crate) async fn serve(self, listen: SocketAddr, leaf: &Leaf) -> Result<(), tonic::transport::Error> {
        let mut term = self.term.clone();
        let identity = Identity::from_pem(&leaf.certificate, &leaf.key);
        Server::builder()
            .tls_config(ServerTlsConfig::new().identity(identity))?
            .http2_keepalive_interval(Some(Duration::from_secs(20)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .max_concurrent_streams(4)
            .add_service(self)
            .serve_with_shutdown(listen, async move { term.over().await })
            .await
    }

    async fn begin(
        self,
        request: Request<Streaming<AgentReport>>,
    ) -> Result<Response<BoxStream<'static, Result<Directive, Status>>>, Status> {
        self.term.check().map_err(|over| Status::unavailable(over.to_string()))?;
        let token = bearer(&request).ok_or_else(|| Status::unauthenticated("no `authorization: Bearer` in the request"))?;
        let sender = self.tokens.review(&token).await.map_err(|error| {
            warn!(error = &error as &dyn std::error::Error, "refused an agent");
            match error {
                TokenError::Review(_) => Status::unavailable(error.to_string()),
                TokenError::Refused(_) | TokenError::NotOfAPod => Status::unauthenticated(error.to_string()),
            }
        })?;
        debug!(namespace = sender.namespace, pod = sender.pod, "an agent reports");
        let (reports, order, ends) = (request.into_inner(), StreamOrder::default(), Instant::now() + STREAM_LIFE);
        let session = Session { service: self, sender, reports, order, ends };
        Ok(Response::new(Box::pin(futures::stream::unfold(Some(session), |session| async move {
            let mut session = session?;
            match session.next().await {
                Ok(Some(directive)) => Some((Ok(directive), Some(session))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        }))))
    }
}

fn bearer<T>(request: &Request<T>) -> Option<String> {
    request.metadata().get("authorization")?.to_str().ok()?.strip_prefix("Bearer ").map(str::to_owned)
}

/// One stream.
struct Session {
    service: FleetService,
    sender: Sender,
    reports: Streaming<AgentReport>,
    order: StreamOrder,
    ends: Instant,
}

impl Session {
    async fn next(&mut self) -> Result<Option<Directive>, Status> {
        let silent = Instant::now() + SILENCE;
        let report = tokio::select! {
            report = self.reports.message() => report?,
            () = self.service.term.over() => return Err(Status::unavailable("the term of this leader is over")),
            () = tokio::time::sleep_until(self.ends.min(silent)) => return Ok(None),
        };
        let Some(report) = report else { return Ok(None) };
        let sequence = report.sequence;
        let in_order = self.order.handle_sequence(sequence).map_err(Unwelcome::from);
        let taken = in_order.and_then(|()| self.service.registry.handle_report(&self.sender, report, Timestamp::now()));
        self.service.metrics.report(taken.is_ok());
        match taken {
            Ok(config_hash) => Ok(Some(Directive { acknowledged: sequence, config_hash })),
            Err(unwelcome) => {
                debug!(error = %unwelcome, pod = self.sender.pod, "refused a report");
                Err(match unwelcome {
                    Unwelcome::UnknownPipeline => Status::not_found(unwelcome.to_string()),
                    Unwelcome::Impostor { .. } => Status::permission_denied(unwelcome.to_string()),
                    Unwelcome::Refused(_) => Status::failed_precondition(unwelcome.to_string()),
                })
            }
        }
    }
}

impl StreamingService<AgentReport> for FleetService {
    type Response = Directive;
    type ResponseStream = BoxStream<'static, Result<Directive, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<AgentReport>>) -> Self::Future {
        Box::pin(self.clone().begin(request))
    }
}

impl NamedService for FleetService {
    const NAME: &'static str = SERVICE;
}

impl tower::Service<http::Request<Body>> for FleetService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != METHOD {
                return Ok(Status::unimplemented("this service has one method, Report").into_http());
            }
            let codec = ProstCodec::<Directive, AgentReport>::default();
            Ok(Grpc::new(codec).max_decoding_message_size(MESSAGE_BYTES_MAX).streaming(service, request).await)
        })
    }
}
