//! What an answer, or its absence, means for the record and for the destination. The codes follow the OTLP specification,
//! "Failures" of OTLP/gRPC.

use std::error::Error;
use std::time::Duration;

use pipeline::{Outcome, SERVER_PAUSE_MAX};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Longest text kept of an error: what a report carries.
const ERROR_BYTES_MAX: usize = 200;

/// What stands between the agent and a destination, as far as the last attempt shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It took the record.
    Reachable,
    /// It does not accept our credentials.
    AuthenticationFailed,
    /// Its name has no address.
    NameResolutionFailed,
    /// Refused, reset or unreachable.
    ConnectionFailed,
    /// The handshake failed.
    TlsFailed,
    /// It asks to slow down.
    RateLimited,
    /// It answers, and rejects.
    PartialRejects,
    /// No answer in time.
    TimedOut,
}

/// The result of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// What becomes of the record.
    pub outcome: Outcome,
    /// What it says about the destination.
    pub condition: Condition,
    /// The error in printable characters, at most 200 bytes; empty on success, but for a warning about its answer.
    pub error: String,
}

impl Attempt {
    pub(crate) fn delivered() -> Self {
        Self { outcome: Outcome::Delivered, condition: Condition::Reachable, error: String::new() }
    }

    /// Taken, with an answer too large to be read: were items rejected, nobody here knows, and sending again would only duplicate.
    pub(crate) fn delivered_unread(bytes_max: usize) -> Self {
        let error = format!("the answer is larger than {bytes_max} bytes and was not read; its record counts as delivered");
        Self { error, ..Self::delivered() }
    }

    pub(crate) fn partial(rejected: u64, message: &str) -> Self {
        Self { outcome: Outcome::Partial { rejected }, condition: Condition::PartialRejects, error: printable(message) }
    }

    pub(crate) fn timed_out(limit: Duration) -> Self {
        let error = format!("no answer within {} s", limit.as_secs());
        Self { outcome: Outcome::Retry { after: None }, condition: Condition::TimedOut, error }
    }

    pub(crate) fn retry(condition: Condition, text: &str) -> Self {
        Self { outcome: Outcome::Retry { after: None }, condition, error: printable(text) }
    }

    /// Reads a failed call. A status with a source was made on this side: the record did not reach the destination, or its
    /// answer did not reach us.
    pub(crate) fn failed(status: &Status) -> Self {
        match status.source() {
            Some(cause) => Self::retry(transport_condition(cause), &chain_text(cause)),
            None => Self::refused(status),
        }
    }

    /// Whose fault a refusal is: the data's, the destination's, or not said. What is the destination's fault never costs a record.
    fn refused(status: &Status) -> Self {
        let after = status.get_details_retry_info().and_then(|info| info.retry_delay).map(|delay| delay.min(SERVER_PAUSE_MAX));
        let retry = Outcome::Retry { after };
        let (outcome, condition) = match status.code() {
            _ if after.is_none() && is_about_size(status.message()) => (Outcome::TooLarge, Condition::PartialRejects),
            Code::Unauthenticated | Code::PermissionDenied => (retry, Condition::AuthenticationFailed),
            // Without a delay it is overload all the same: a quota, a full queue.
            Code::ResourceExhausted => (retry, Condition::RateLimited),
            Code::DeadlineExceeded => (retry, Condition::TimedOut),
            Code::Cancelled | Code::Aborted | Code::OutOfRange | Code::Unavailable | Code::DataLoss if after.is_some() => {
                (retry, Condition::RateLimited)
            }
            Code::Cancelled | Code::Aborted | Code::OutOfRange | Code::Unavailable | Code::DataLoss => (retry, Condition::ConnectionFailed),
            // The service or the route is not there: a matter of its set-up.
            Code::Unimplemented | Code::NotFound => (retry, Condition::ConnectionFailed),
            Code::Ok | Code::Unknown | Code::Internal | Code::FailedPrecondition => (Outcome::Failed, Condition::ConnectionFailed),
            Code::InvalidArgument | Code::AlreadyExists => (Outcome::Rejected, Condition::PartialRejects),
        };
        Self { outcome, condition, error: printable(&format!("{:?}: {}", status.code(), status.message())) }
    }
}

/// Whether a refusal is about the size of the request. No code says so alone: these are the words of gRPC in Go, C++ and Node
/// ("received message larger than max"), Java ("exceeds maximum size"), .NET ("exceeds the maximum configured message size") and
/// Rust ("message length too large"), and of a proxy's HTTP 413.
fn is_about_size(message: &str) -> bool {
    let text = message.to_ascii_lowercase();
    let words = ["larger than max", "exceeds maximum size", "maximum configured message size", "too large", "http status code 413"];
    words.iter().any(|words| text.contains(words))
}

/// Sorts a transport fault by its causes. The resolver's and TLS errors have no public type here; their texts are those of
/// hyper-util's connector and of rustls.
fn transport_condition(cause: &(dyn Error + 'static)) -> Condition {
    let mut next = Some(cause);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            match io.kind() {
                std::io::ErrorKind::TimedOut => return Condition::TimedOut,
                std::io::ErrorKind::InvalidData => return Condition::TlsFailed,
                _ => {}
            }
        }
        let text = error.to_string();
        if text.contains("dns error") {
            return Condition::NameResolutionFailed;
        }
        if text.contains("certificate") || text.contains("handshake") {
            return Condition::TlsFailed;
        }
        if text.contains("deadline has elapsed") || text.contains("timed out") {
            return Condition::TimedOut;
        }
        next = error.source();
    }
    Condition::ConnectionFailed
}

/// The causes in one line, each said once.
fn chain_text(cause: &(dyn Error + 'static)) -> String {
    let mut text = cause.to_string();
    let mut next = cause.source();
    while let Some(error) = next {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = error.source();
    }
    text
}

/// The text of a peer, safe to print and bounded.
fn printable(text: &str) -> String {
    let mut safe = String::new();
    for letter in text.chars() {
        let letter = if letter.is_control() { ' ' } else { letter };
        if safe.len() + letter.len_utf8() > ERROR_BYTES_MAX {
            break;
        }
        safe.push(letter);
    }
    safe
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn each_code_is_a_fault_of_the_destination_of_the_data_or_of_neither_for_certain() {
        use Condition::{AuthenticationFailed, ConnectionFailed, PartialRejects, RateLimited, TimedOut};
        let retry = Outcome::Retry { after: None };
        let table = [
            (Code::Cancelled, retry, ConnectionFailed),
            (Code::Unknown, Outcome::Failed, ConnectionFailed),
            (Code::InvalidArgument, Outcome::Rejected, PartialRejects),
            (Code::DeadlineExceeded, retry, TimedOut),
            (Code::NotFound, retry, ConnectionFailed),
            (Code::AlreadyExists, Outcome::Rejected, PartialRejects),
            (Code::PermissionDenied, retry, AuthenticationFailed),
            (Code::ResourceExhausted, retry, RateLimited),
            (Code::FailedPrecondition, Outcome::Failed, ConnectionFailed),
            (Code::Aborted, retry, ConnectionFailed),
            (Code::OutOfRange, retry, ConnectionFailed),
            (Code::Unimplemented, retry, ConnectionFailed),
            (Code::Internal, Outcome::Failed, ConnectionFailed),
            (Code::Unavailable, retry, ConnectionFailed),
            (Code::DataLoss, retry, ConnectionFailed),
            (Code::Unauthenticated, retry, AuthenticationFailed),
        ];
        assert_eq!(table.map(|(code, _, _)| code).to_vec(), (1..=16).map(Code::from_i32).collect::<Vec<_>>());
        for (code, outcome, condition) in table {
            let attempt = Attempt::failed(&Status::new(code, "no"));
            assert_eq!((attempt.outcome, attempt.condition), (outcome, condition), "{code:?}");
        }
    }

    #[test]
    fn a_refusal_for_size_is_told_from_overload() {
        let texts = [
            (Code::ResourceExhausted, "grpc: received message larger than max (5242880 vs. 4194304)"),
            (Code::ResourceExhausted, "gRPC message exceeds maximum size 4194304: 5242880"),
            (Code::ResourceExhausted, "Received message exceeds the maximum configured message size."),
            (Code::OutOfRange, "Error, decoded message length too large: found 5242880 bytes, the limit is: 4194304 bytes"),
            (Code::Unknown, "grpc-status header missing, mapped from HTTP status code 413"),
        ];
        for (code, text) in texts {
            assert_eq!(Attempt::failed(&Status::new(code, text)).outcome, Outcome::TooLarge, "{text}");
        }
        let overload = Status::new(Code::ResourceExhausted, "ingestion rate limit exceeded: 10 MiB/s for tenant 7");
        assert_eq!(Attempt::failed(&overload).outcome, Outcome::Retry { after: None });
    }

    #[test]
    fn an_overloaded_destination_is_asked_again_after_the_delay_it_names() {
        let delay = Duration::from_millis(1500);
        let status = Status::with_error_details(Code::ResourceExhausted, "slow down", ErrorDetails::with_retry_info(Some(delay)));
        let attempt = Attempt::failed(&status);
        assert_eq!(attempt.outcome, Outcome::Retry { after: Some(delay) });
        assert_eq!(attempt.condition, Condition::RateLimited);
    }

    #[test]
    fn a_peers_text_is_bounded_and_cannot_move_the_cursor() {
        let attempt = Attempt::failed(&Status::invalid_argument(format!("\u{1b}[2J{}", "ä".repeat(300))));
        assert!(attempt.error.len() <= ERROR_BYTES_MAX && !attempt.error.contains('\u{1b}'));
    }
}
