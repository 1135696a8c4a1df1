//! What a client is told: the one place that turns verdicts into gRPC responses and statuses.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::{BodyExt, Full};
use pipeline::Refusal;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use vocabulary::{ClassCounts, DropReason, RefuseReason};

use crate::gate::Answer;

/// Pause asked of a client that met a full receive budget: the time a crowd of requests needs to be judged, not to be delivered.
const PRESSURE_PAUSE: Duration = Duration::from_secs(1);

const CROWDED: &str = "too many requests at once; send again after the given delay";

/// The response to a request that was offered.
pub(crate) fn respond(answer: Answer) -> Response<Body> {
    match answer {
        Answer::Accepted { shed, .. } if shed.total() == 0 => message(&otlp::response::success()),
        Answer::Accepted { shed, reason } => message(&otlp::response::partial_success(shed.total(), &shed_message(shed, reason))),
        Answer::Refused(refusal) => refuse(&refusal),
        Answer::Unconfirmed { retry_after } => retryable(
            Code::Unavailable,
            "kept, but not confirmed by its destinations in time; what is sent again may arrive twice",
            Some(retry_after),
        ),
        Answer::Lost { reason, retry_after } => {
            let text = format!("dropped ({reason}) before its destinations had it; send again after the given delay");
            retryable(Code::Unavailable, &text, Some(retry_after))
        }
    }
}

/// The response to a request that the engine refused.
pub(crate) fn refuse(refusal: &Refusal) -> Response<Body> {
    let after = Some(refusal.retry_after);
    match refusal.reason {
        RefuseReason::HardLimit => retryable(Code::ResourceExhausted, "the buffer is full; send again after the given delay", after),
        RefuseReason::MemoryPressure => retryable(Code::ResourceExhausted, CROWDED, after),
        RefuseReason::TenantQuota => retryable(Code::ResourceExhausted, "over the tenant's share; send again after the given delay", after),
        RefuseReason::ShuttingDown => {
            retryable(Code::Unavailable, "the agent is shutting down; send again, to another one if there is one", after)
        }
        RefuseReason::TooLarge => status(&Status::resource_exhausted("the request is too large for this agent; send smaller ones")),
        RefuseReason::Undecodable => status(&Status::invalid_argument("the request is not a well-formed export request")),
        RefuseReason::Unsupported => status(&Status::unimplemented("this signal or method is not served")),
        RefuseReason::Unauthenticated => status(&Status::unauthenticated("credentials are missing or wrong")),
        RefuseReason::Forbidden => status(&Status::permission_denied("these credentials may not send here")),
    }
}

/// The receive budget is used up.
pub(crate) fn under_pressure() -> Response<Body> {
    retryable(Code::ResourceExhausted, CROWDED, Some(PRESSURE_PAUSE))
}

/// A status as a response without a message.
pub(crate) fn status(status: &Status) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    // Our own texts are header-safe; were one not, the code alone would still be the right answer.
    if status.add_header(response.headers_mut()).is_err() {
        response.headers_mut().insert("grpc-status", HeaderValue::from(i32::from(status.code())));
    }
    response
}

fn retryable(code: Code, text: &str, after: Option<Duration>) -> Response<Body> {
    status(&Status::with_error_details(code, text, ErrorDetails::with_retry_info(after)))
}

fn shed_message(shed: ClassCounts, reason: DropReason) -> String {
    let classes: Vec<_> = shed.iter().filter(|&(_, items)| items > 0).map(|(class, items)| format!("{items} {class}")).collect();
    let why = match reason {
        DropReason::SoftLimit | DropReason::QueueFull | DropReason::DiskFull | DropReason::Evicted => "to keep more important ones",
        DropReason::DiskError => "because the disk failed",
        DropReason::Rejected | DropReason::TooLarge | DropReason::Undecodable => "which a destination does not take",
        _ => "before a destination had them",
    };
    format!("dropped {} items ({reason}) {why}; do not send them again", classes.join(", "))
}

/// One uncompressed gRPC message and the trailers of success.
fn message(body: &[u8]) -> Response<Body> {
    let mut framed = BytesMut::with_capacity(body.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
    framed.put_slice(body);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::<Bytes>::new(framed.freeze()).with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

#[cfg(test)]
mod tests {
    use vocabulary::Class;

    use super::*;

    fn read(response: &Response<Body>) -> Status {
        Status::from_header_map(response.headers()).expect("a refusal is a response without a message")
    }

    #[test]
    fn a_refusal_names_its_delay_only_where_sending_again_helps() {
        for reason in RefuseReason::ALL {
            let told = read(&refuse(&Refusal { reason, retry_after: Duration::from_secs(2) }));
            let retry = told.get_details_retry_info().and_then(|info| info.retry_delay);
            let helps = matches!(
                reason,
                RefuseReason::HardLimit | RefuseReason::MemoryPressure | RefuseReason::TenantQuota | RefuseReason::ShuttingDown
            );
            assert_eq!(retry.is_some(), helps, "{reason}");
        }
    }

    #[test]
    fn what_is_kept_or_lost_without_a_confirmation_is_to_be_sent_again_after_a_delay() {
        let (retry_after, reason) = (Duration::from_secs(2), DropReason::Expired);
        for answer in [Answer::Unconfirmed { retry_after }, Answer::Lost { reason, retry_after }] {
            let told = read(&respond(answer));
            let retry = told.get_details_retry_info().and_then(|info| info.retry_delay);
            assert_eq!((told.code(), retry), (Code::Unavailable, Some(retry_after)), "{told:?}");
        }
    }

    #[test]
    fn a_shed_message_names_classes_and_reason_and_asks_not_to_resend() {
        let text = shed_message(ClassCounts::of(Class::Normal, 7), DropReason::SoftLimit);
        assert_eq!(text, "dropped 7 Normal items (SoftLimit) to keep more important ones; do not send them again");
    }
}
