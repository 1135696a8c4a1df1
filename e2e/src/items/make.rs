//! Export requests as an SDK would send them, each item with its identity.

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric, number_data_point};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, status::StatusCode};
use prost::Message;
use vocabulary::{Class, ClassCounts, Signal};

use super::{CLASS, PRODUCER, SEQUENCE, class_of};

/// Length of a span, in nanoseconds: 20 ms, far from what counts as slow.
const SPAN_NANOSECONDS: u64 = 20_000_000;

/// Makes the items of one producer.
#[derive(Clone, Debug)]
pub struct Maker {
    /// Name of the producer.
    pub producer: String,
    /// Bytes of filler in each item.
    pub payload_bytes: usize,
}

/// One encoded export request and what is in it.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The signal of all its items.
    pub signal: Signal,
    /// The request, ready to be sent.
    pub body: Bytes,
    /// Number of its first item; the others follow without a gap.
    pub first: u64,
    /// Its items by expected class.
    pub counts: ClassCounts,
}

impl Maker {
    /// A request with `items` items numbered from `first`.
    #[must_use]
    pub fn batch(&self, signal: Signal, first: u64, items: u32, error_percent: f64, unix_nanos: u64) -> Batch {
        let numbered: Vec<(u64, Class)> =
            (first..first + u64::from(items)).map(|sequence| (sequence, class_of(signal, sequence, error_percent))).collect();
        let mut counts = ClassCounts::default();
        for &(_, class) in &numbered {
            counts[class] += 1;
        }
        let body = match signal {
            Signal::Traces => self.traces(&numbered, unix_nanos).encode_to_vec(),
            Signal::Metrics => self.metrics(&numbered, unix_nanos).encode_to_vec(),
            Signal::Logs | Signal::Profiles => self.logs(&numbered, unix_nanos).encode_to_vec(),
        };
        Batch { signal, body: body.into(), first, counts }
    }

    fn traces(&self, numbered: &[(u64, Class)], unix_nanos: u64) -> ExportTraceServiceRequest {
        let spans = numbered
            .iter()
            .map(|&(sequence, class)| {
                let code = if class == Class::High { StatusCode::Error } else { StatusCode::Ok };
                Span {
                    trace_id: u128::from(sequence + 1).to_be_bytes().to_vec(),
                    span_id: (sequence + 1).to_be_bytes().to_vec(),
                    name: "GET /cart".into(),
                    kind: 2,
                    start_time_unix_nano: unix_nanos,
                    end_time_unix_nano: unix_nanos + SPAN_NANOSECONDS,
                    attributes: self.attributes(sequence, class),
                    status: Some(Status { message: String::new(), code: code as i32 }),
                    ..Span::default()
                }
            })
            .collect();
        let scope_spans = vec![ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() }];
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans { resource: Some(self.resource()), scope_spans, ..ResourceSpans::default() }],
        }
    }

    fn logs(&self, numbered: &[(u64, Class)], unix_nanos: u64) -> ExportLogsServiceRequest {
        let log_records = numbered
            .iter()
            .map(|&(sequence, class)| {
                let (severity_number, text) = match class {
                    Class::Critical => (21, "FATAL"),
                    Class::High => (17, "ERROR"),
                    Class::Normal => (9, "INFO"),
                    Class::Bulk => (5, "DEBUG"),
                };
                LogRecord {
                    time_unix_nano: unix_nanos,
                    observed_time_unix_nano: unix_nanos,
                    severity_number,
                    severity_text: text.into(),
                    body: Some(text_value("cart updated")),
                    attributes: self.attributes(sequence, class),
                    ..LogRecord::default()
                }
            })
            .collect();
        let scope_logs = vec![ScopeLogs { scope: Some(scope()), log_records, ..ScopeLogs::default() }];
        ExportLogsServiceRequest {
            resource_logs: vec![ResourceLogs { resource: Some(self.resource()), scope_logs, ..ResourceLogs::default() }],
        }
    }

    fn metrics(&self, numbered: &[(u64, Class)], unix_nanos: u64) -> ExportMetricsServiceRequest {
        let data_points = numbered
            .iter()
            .map(|&(sequence, class)| NumberDataPoint {
                time_unix_nano: unix_nanos,
                attributes: self.attributes(sequence, class),
                value: Some(number_data_point::Value::AsInt(i64::try_from(sequence).unwrap_or(i64::MAX))),
                ..NumberDataPoint::default()
            })
            .collect();
        let gauge = Metric { name: "cart.items".into(), data: Some(metric::Data::Gauge(Gauge { data_points })), ..Metric::default() };
        let scope_metrics = vec![ScopeMetrics { scope: Some(scope()), metrics: vec![gauge], ..ScopeMetrics::default() }];
        ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics { resource: Some(self.resource()), scope_metrics, ..ResourceMetrics::default() }],
        }
    }

    fn attributes(&self, sequence: u64, class: Class) -> Vec<KeyValue> {
        let number = AnyValue { value: Some(Value::IntValue(i64::try_from(sequence).unwrap_or(i64::MAX))) };
        vec![
            attribute(PRODUCER, text_value(&self.producer)),
            attribute(SEQUENCE, number),
            attribute(CLASS, text_value(class.name())),
            attribute("filler", text_value(&"x".repeat(self.payload_bytes))),
        ]
    }

    fn resource(&self) -> Resource {
        Resource { attributes: vec![attribute("service.name", text_value(&self.producer))], ..Resource::default() }
    }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope { name: "forebay.loadgen".into(), ..InstrumentationScope::default() }
}

fn attribute(key: &str, value: AnyValue) -> KeyValue {
    KeyValue { key: key.into(), value: Some(value), ..KeyValue::default() }
}

fn text_value(text: &str) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(text.into())) }
}
