//! The bodies of records as OTLP messages, for people and for files. The only place of the agent that builds objects of them, for
//! nobody waits for it.

use std::io::Write;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use vocabulary::Signal;

/// Longest text of one item.
const TEXT_BYTES_MAX: usize = 120;

/// An export request.
pub(super) enum Decoded {
    Traces(ExportTraceServiceRequest),
    Metrics(ExportMetricsServiceRequest),
    Logs(ExportLogsServiceRequest),
}

/// Why a body could not be shown.
#[derive(Debug, thiserror::Error)]
pub(super) enum UndecodableBody {
    /// It is no export request, though its checksum says that it is what was received.
    #[error("it is no OTLP export request")]
    Malformed(#[from] prost::DecodeError),
    /// OTLP has no stable form of it.
    #[error("profiles have no JSON form; use --format proto")]
    Profiles,
}

impl Decoded {
    pub(super) fn of(signal: Signal, body: &[u8]) -> Result<Self, UndecodableBody> {
        Ok(match signal {
            Signal::Traces => Self::Traces(ExportTraceServiceRequest::decode(body)?),
            Signal::Metrics => Self::Metrics(ExportMetricsServiceRequest::decode(body)?),
            Signal::Logs => Self::Logs(ExportLogsServiceRequest::decode(body)?),
            Signal::Profiles => return Err(UndecodableBody::Profiles),
        })
    }

    /// Writes it as one line of OTLP/JSON.
    pub(super) fn write_json(&self, into: &mut impl Write) -> std::io::Result<()> {
        match self {
            Self::Traces(request) => serde_json::to_writer(&mut *into, request)?,
            Self::Metrics(request) => serde_json::to_writer(&mut *into, request)?,
            Self::Logs(request) => serde_json::to_writer(&mut *into, request)?,
        }
        into.write_all(b"\n")
    }

    /// The first items in words, each with the service it is of.
    pub(super) fn first(&self, most: usize) -> Vec<String> {
        match self {
            Self::Traces(request) => {
                let groups = request.resource_spans.iter();
                let spans = groups.flat_map(|group| {
                    let spans = group.scope_spans.iter().flat_map(|scope| &scope.spans);
                    spans.map(|span| of_service(group.resource.as_ref(), &span_text(span)))
                });
                spans.take(most).collect()
            }
            Self::Metrics(request) => {
                let groups = request.resource_metrics.iter();
                let metrics = groups.flat_map(|group| {
                    let metrics = group.scope_metrics.iter().flat_map(|scope| &scope.metrics);
                    metrics.map(|metric| of_service(group.resource.as_ref(), &metric_text(metric)))
                });
                metrics.take(most).collect()
            }
            Self::Logs(request) => {
                let groups = request.resource_logs.iter();
                let records = groups.flat_map(|group| {
                    let records = group.scope_logs.iter().flat_map(|scope| &scope.log_records);
                    records.map(|record| of_service(group.resource.as_ref(), &log_text(record)))
                });
                records.take(most).collect()
            }
        }
    }
}

fn span_text(span: &Span) -> String {
    let nanoseconds = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
    let took = if nanoseconds < 1_000_000 { format!("{} µs", nanoseconds / 1000) } else { format!("{} ms", nanoseconds / 1_000_000) };
    let error = match &span.status {
        Some(status) if status.code == 2 && status.message.is_empty() => ", error".to_owned(),
        Some(status) if status.code == 2 => format!(", error: {}", status.message),
        _ => String::new(),
    };
    format!("{} ({took}{error})", span.name)
}

fn metric_text(metric: &Metric) -> String {
    let (kind, points) = match &metric.data {
        Some(Data::Gauge(data)) => ("gauge", data.data_points.len()),
        Some(Data::Sum(data)) => ("sum", data.data_points.len()),
        Some(Data::Histogram(data)) => ("histogram", data.data_points.len()),
        Some(Data::ExponentialHistogram(data)) => ("exponential histogram", data.data_points.len()),
        Some(Data::Summary(data)) => ("summary", data.data_points.len()),
        None => ("nothing", 0),
    };
    format!("{} ({kind}, {points} points)", metric.name)
}

fn log_text(record: &LogRecord) -> String {
    let body = record.body.as_ref().map(value_text).unwrap_or_default();
    let what = if body.is_empty() { &record.event_name } else { &body };
    if record.severity_text.is_empty() { what.clone() } else { format!("{} {what}", record.severity_text) }
}

fn value_text(value: &AnyValue) -> String {
    match &value.value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(other) => serde_json::to_string(other).unwrap_or_default(),
        None => String::new(),
    }
}

/// The text of a peer, with its service before it: bounded, and unable to move the cursor.
fn of_service(resource: Option<&Resource>, text: &str) -> String {
    let is_name = |attribute: &&KeyValue| attribute.key == "service.name";
    let service = resource.and_then(|resource| resource.attributes.iter().find(is_name)).and_then(|name| name.value.as_ref());
    let text = match service.map(value_text).filter(|name| !name.is_empty()) {
        Some(service) => format!("{service}: {text}"),
        None => text.to_owned(),
    };
    let mut safe: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    if safe.len() > TEXT_BYTES_MAX {
        safe.truncate(safe.floor_char_boundary(TEXT_BYTES_MAX));
        safe.push('…');
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peers_text_is_bounded_and_cannot_move_the_cursor() {
        let text = of_service(None, &format!("\u{1b}[2J{}", "ä".repeat(200)));
        assert!(text.len() <= TEXT_BYTES_MAX + '…'.len_utf8() && !text.contains('\u{1b}') && text.ends_with('…'), "{text}");
    }
}
