//! What is in an export request that arrived: runs of numbered items, kernel items, and items nobody can name.

use std::collections::{BTreeMap, btree_map::Entry};
use std::hash::{DefaultHasher, Hash, Hasher};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};
use vocabulary::{Class, Signal};

use super::{CLASS, KERNEL_SCOPE, PRODUCER, SEQUENCE, class_of_severity};
use crate::words;

/// Consecutive numbers of one producer and class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Who made them.
    pub producer: String,
    /// The class they say they have.
    #[serde(with = "words::class")]
    pub class: Class,
    /// First number.
    pub first: u64,
    /// Last number.
    pub last: u64,
}

/// One item that an agent reports from the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelItem {
    /// Its class by severity; data points are Normal.
    #[serde(with = "words::class")]
    pub class: Class,
    /// Hash of its bytes, its resource and, for a data point, its metric's name: the same item sent twice has the same.
    pub fingerprint: u64,
    /// A log record as JSON; data points are only counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<Json>,
}

/// What one request brought.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arrival {
    /// The signal of all its items.
    #[serde(with = "words::signal")]
    pub signal: Signal,
    /// Items with an identity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<Run>,
    /// Items of the scope `forebay.kernel`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernel: Vec<KernelItem>,
    /// Items without either, by class.
    pub unidentified: [u64; Class::COUNT],
}

/// The request could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Not the protobuf message of its signal.
    #[error("decode the export request of {signal}")]
    Decode {
        /// The signal it was sent as.
        signal: Signal,
        /// What the decoder found.
        source: prost::DecodeError,
    },
    /// A signal this harness does not speak.
    #[error("{0} are not recorded")]
    Unsupported(Signal),
}

/// Reads one export request.
///
/// # Errors
/// When it is not the signal's message.
pub fn read(signal: Signal, body: &[u8]) -> Result<Arrival, Unreadable> {
    let decode = |source| Unreadable::Decode { signal, source };
    let mut reader = Reader {
        arrival: Arrival { signal, runs: Vec::new(), kernel: Vec::new(), unidentified: [0; Class::COUNT] },
        open: BTreeMap::new(),
    };
    match signal {
        Signal::Traces => reader.traces(&ExportTraceServiceRequest::decode(body).map_err(decode)?),
        Signal::Metrics => reader.metrics(&ExportMetricsServiceRequest::decode(body).map_err(decode)?),
        Signal::Logs => reader.logs(&ExportLogsServiceRequest::decode(body).map_err(decode)?),
        Signal::Profiles => return Err(Unreadable::Unsupported(signal)),
    }
    let Reader { mut arrival, open } = reader;
    arrival.runs.extend(open.into_iter().map(|((producer, class), (first, last))| Run { producer, class, first, last }));
    Ok(arrival)
}

impl Arrival {
    /// All items.
    #[must_use]
    pub fn items(&self) -> u64 {
        let named: u64 = self.runs.iter().map(|run| run.last - run.first + 1).sum();
        named + self.kernel.len() as u64 + self.unidentified.iter().sum::<u64>()
    }
}

struct Reader {
    arrival: Arrival,
    open: BTreeMap<(String, Class), (u64, u64)>,
}

impl Reader {
    fn traces(&mut self, request: &ExportTraceServiceRequest) {
        for span in request.resource_spans.iter().flat_map(|resource| &resource.scope_spans).flat_map(|scope| &scope.spans) {
            let is_error = span.status.as_ref().is_some_and(|status| status.code == 2);
            self.item(&span.attributes, if is_error { Class::High } else { Class::Normal });
        }
    }

    fn logs(&mut self, request: &ExportLogsServiceRequest) {
        let scopes =
            request.resource_logs.iter().flat_map(|group| group.scope_logs.iter().map(move |scope| (group.resource.as_ref(), scope)));
        for (resource, scope) in scopes {
            let is_kernel = is_kernel(scope.scope.as_ref());
            for record in &scope.log_records {
                let class = class_of_severity(record.severity_number);
                if is_kernel {
                    let fingerprint = fingerprint(resource, "", &record.encode_to_vec());
                    self.arrival.kernel.push(KernelItem { class, fingerprint, log: Some(log_json(record, resource)) });
                } else {
                    self.item(&record.attributes, class);
                }
            }
        }
    }

    fn metrics(&mut self, request: &ExportMetricsServiceRequest) {
        let scopes =
            request.resource_metrics.iter().flat_map(|group| group.scope_metrics.iter().map(move |scope| (group.resource.as_ref(), scope)));
        for (resource, scope) in scopes {
            let is_kernel = is_kernel(scope.scope.as_ref());
            for (metric, attributes, encoded) in scope.metrics.iter().flat_map(points) {
                if is_kernel {
                    let fingerprint = fingerprint(resource, &metric.name, &encoded);
                    self.arrival.kernel.push(KernelItem { class: Class::Normal, fingerprint, log: None });
                } else {
                    self.item(attributes, Class::Normal);
                }
            }
        }
    }

    fn item(&mut self, attributes: &[KeyValue], class_by_content: Class) {
        let Some((producer, sequence, class)) = identity(attributes) else {
            if let Some(cell) = self.arrival.unidentified.get_mut(class_by_content.index()) {
                *cell += 1;
            }
            return;
        };
        match self.open.entry((producer.to_owned(), class)) {
            Entry::Vacant(entry) => {
                entry.insert((sequence, sequence));
            }
            Entry::Occupied(mut entry) if sequence == entry.get().1 + 1 => entry.get_mut().1 = sequence,
            Entry::Occupied(mut entry) => {
                let (first, last) = entry.insert((sequence, sequence));
                self.arrival.runs.push(Run { producer: producer.to_owned(), class, first, last });
            }
        }
    }
}

/// The data points of a metric, with their attributes and bytes.
fn points(metric: &Metric) -> Vec<(&Metric, &[KeyValue], Vec<u8>)> {
    fn each<'m, P: Message>(
        metric: &'m Metric,
        points: &'m [P],
        attributes: fn(&'m P) -> &'m [KeyValue],
    ) -> Vec<(&'m Metric, &'m [KeyValue], Vec<u8>)> {
        points.iter().map(|point| (metric, attributes(point), point.encode_to_vec())).collect()
    }
    match &metric.data {
        Some(Data::Gauge(gauge)) => each(metric, &gauge.data_points, |point| &point.attributes),
        Some(Data::Sum(sum)) => each(metric, &sum.data_points, |point| &point.attributes),
        Some(Data::Histogram(histogram)) => each(metric, &histogram.data_points, |point| &point.attributes),
        Some(Data::ExponentialHistogram(histogram)) => each(metric, &histogram.data_points, |point| &point.attributes),
        Some(Data::Summary(summary)) => each(metric, &summary.data_points, |point| &point.attributes),
        None => Vec::new(),
    }
}

fn identity(attributes: &[KeyValue]) -> Option<(&str, u64, Class)> {
    let find = |key: &str| attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref();
    let Value::StringValue(producer) = find(PRODUCER)? else { return None };
    let Value::IntValue(sequence) = find(SEQUENCE)? else { return None };
    let Value::StringValue(class) = find(CLASS)? else { return None };
    Some((producer, u64::try_from(*sequence).ok()?, Class::from_name(class)?))
}

fn is_kernel(scope: Option<&InstrumentationScope>) -> bool {
    scope.is_some_and(|scope| scope.name == KERNEL_SCOPE)
}

fn fingerprint(resource: Option<&Resource>, name: &str, item: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    resource.map(Message::encode_to_vec).hash(&mut hasher);
    name.hash(&mut hasher);
    item.hash(&mut hasher);
    hasher.finish()
}

fn log_json(record: &LogRecord, resource: Option<&Resource>) -> Json {
    json!({
        "timeUnixNano": record.time_unix_nano,
        "severity": record.severity_number,
        "event": record.event_name,
        "body": record.body.as_ref().map_or(Json::Null, plain),
        "attributes": object(&record.attributes),
        "resource": resource.map_or(Json::Null, |resource| object(&resource.attributes)),
    })
}

fn object(attributes: &[KeyValue]) -> Json {
    let entries = attributes.iter().map(|attribute| (attribute.key.clone(), attribute.value.as_ref().map_or(Json::Null, plain)));
    Json::Object(entries.collect::<Map<_, _>>())
}

fn plain(value: &AnyValue) -> Json {
    match &value.value {
        Some(Value::StringValue(text)) => json!(text),
        Some(Value::BoolValue(flag)) => json!(flag),
        Some(Value::IntValue(number)) => json!(number),
        Some(Value::DoubleValue(number)) => json!(number),
        Some(other) => json!(format!("{other:?}")),
        None => Json::Null,
    }
}
