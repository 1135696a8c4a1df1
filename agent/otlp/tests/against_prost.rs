//! The walk against a full decoder: it must accept exactly what prost accepts, and count the same.

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::{
    ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, Summary, SummaryDataPoint, metric,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span};
use otlp::{Limits, Malformed, Rules, inspect, response, slice, split};
use proptest::prelude::*;
use prost::Message;
use vocabulary::{Class, ClassCounts, Signal};

/// Wide enough that only the decoder's own limits matter.
const WIDE: Limits = Limits { depth_max: 100, items_max: u32::MAX };
const SLOW_NANOSECONDS: u64 = 2_000_000_000;

fn decodes(signal: Signal, body: &[u8]) -> Option<ClassCounts> {
    match signal {
        Signal::Traces => ExportTraceServiceRequest::decode(body).ok().map(|request| count_spans(&request)),
        Signal::Logs => ExportLogsServiceRequest::decode(body).ok().map(|request| count_logs(&request)),
        _ => ExportMetricsServiceRequest::decode(body).ok().map(|request| count_points(&request)),
    }
}

fn count_spans(request: &ExportTraceServiceRequest) -> ClassCounts {
    let mut counts = ClassCounts::default();
    for span in request.resource_spans.iter().flat_map(|group| &group.scope_spans).flat_map(|group| &group.spans) {
        let failed = span.status.as_ref().is_some_and(|status| status.code == 2);
        let slow = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano) >= SLOW_NANOSECONDS;
        counts[if failed || slow { Class::High } else { Class::Normal }] += 1;
    }
    counts
}

fn count_logs(request: &ExportLogsServiceRequest) -> ClassCounts {
    let mut counts = ClassCounts::default();
    for record in request.resource_logs.iter().flat_map(|group| &group.scope_logs).flat_map(|group| &group.log_records) {
        counts[match record.severity_number {
            1..=8 => Class::Bulk,
            17..=20 => Class::High,
            21.. => Class::Critical,
            _ => Class::Normal,
        }] += 1;
    }
    counts
}

fn count_points(request: &ExportMetricsServiceRequest) -> ClassCounts {
    let metrics = request.resource_metrics.iter().flat_map(|group| &group.scope_metrics).flat_map(|group| &group.metrics);
    let points = metrics.map(|metric| match &metric.data {
        Some(metric::Data::Gauge(data)) => data.data_points.len(),
        Some(metric::Data::Sum(data)) => data.data_points.len(),
        Some(metric::Data::Histogram(data)) => data.data_points.len(),
        Some(metric::Data::ExponentialHistogram(data)) => data.data_points.len(),
        Some(metric::Data::Summary(data)) => data.data_points.len(),
        None => 0,
    });
    ClassCounts::of(Class::Normal, points.sum::<usize>() as u32)
}

fn value() -> impl Strategy<Value = AnyValue> {
    let leaf = prop_oneof![
        ".{0,8}".prop_map(any_value::Value::StringValue),
        any::<bool>().prop_map(any_value::Value::BoolValue),
        any::<i64>().prop_map(any_value::Value::IntValue),
        any::<f64>().prop_map(any_value::Value::DoubleValue),
        prop::collection::vec(any::<u8>(), 0..8).prop_map(any_value::Value::BytesValue),
    ];
    let tree = leaf.prop_recursive(4, 16, 4, |inner| {
        let boxed = inner.prop_map(|value| AnyValue { value: Some(value) });
        prop_oneof![
            prop::collection::vec(boxed.clone(), 0..4).prop_map(|values| any_value::Value::ArrayValue(ArrayValue { values })),
            prop::collection::vec(boxed, 0..4).prop_map(|values| any_value::Value::KvlistValue(KeyValueList {
                values: values.into_iter().map(|value| KeyValue { key: "k".into(), value: Some(value), ..Default::default() }).collect()
            })),
        ]
    });
    tree.prop_map(|value| AnyValue { value: Some(value) })
}

fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    let pair = (".{0,6}", prop::option::of(value())).prop_map(|(key, value)| KeyValue { key, value, ..Default::default() });
    prop::collection::vec(pair, 0..3)
}

fn resource() -> impl Strategy<Value = Option<Resource>> {
    prop::option::of(attributes().prop_map(|attributes| Resource { attributes, ..Default::default() }))
}

fn scope() -> impl Strategy<Value = Option<InstrumentationScope>> {
    let scope = (".{0,6}", attributes()).prop_map(|(name, attributes)| InstrumentationScope { name, attributes, ..Default::default() });
    prop::option::of(scope)
}

fn span() -> impl Strategy<Value = Span> {
    let times = (any::<u32>(), prop_oneof![Just(0_u64), Just(SLOW_NANOSECONDS - 1), Just(SLOW_NANOSECONDS)]);
    (".{0,8}", times, prop::option::of(0..3_i32), attributes()).prop_map(|(name, (start, length), code, attributes)| Span {
        trace_id: vec![7; 16],
        name,
        start_time_unix_nano: start.into(),
        end_time_unix_nano: u64::from(start) + length,
        status: code.map(|code| Status { code, message: "m".into() }),
        events: vec![span::Event { name: "e".into(), attributes: attributes.clone(), ..Default::default() }],
        links: vec![span::Link { span_id: vec![1; 8], ..Default::default() }],
        attributes,
        ..Default::default()
    })
}

fn traces() -> impl Strategy<Value = Vec<u8>> {
    let scopes =
        (scope(), prop::collection::vec(span(), 0..5)).prop_map(|(scope, spans)| ScopeSpans { scope, spans, schema_url: "s".into() });
    let groups = (resource(), prop::collection::vec(scopes, 0..3)).prop_map(|(resource, scope_spans)| ResourceSpans {
        resource,
        scope_spans,
        schema_url: "r".into(),
    });
    prop::collection::vec(groups, 0..3).prop_map(|resource_spans| ExportTraceServiceRequest { resource_spans }.encode_to_vec())
}

fn logs() -> impl Strategy<Value = Vec<u8>> {
    let record = (0..25_i32, prop::option::of(value()), attributes()).prop_map(|(severity_number, body, attributes)| LogRecord {
        severity_number,
        body,
        attributes,
        event_name: "e".into(),
        ..Default::default()
    });
    let scopes = (scope(), prop::collection::vec(record, 0..5)).prop_map(|(scope, log_records)| ScopeLogs {
        scope,
        log_records,
        ..Default::default()
    });
    let groups = (resource(), prop::collection::vec(scopes, 0..3)).prop_map(|(resource, scope_logs)| ResourceLogs {
        resource,
        scope_logs,
        ..Default::default()
    });
    prop::collection::vec(groups, 0..3).prop_map(|resource_logs| ExportLogsServiceRequest { resource_logs }.encode_to_vec())
}

fn metric() -> impl Strategy<Value = Metric> {
    let number = NumberDataPoint { time_unix_nano: 5, ..Default::default() };
    let histogram = HistogramDataPoint { bucket_counts: vec![1, 2], explicit_bounds: vec![0.5], sum: Some(1.0), ..Default::default() };
    let buckets = Some(Buckets { offset: -3, bucket_counts: vec![0, 300, 1] });
    let exponential = ExponentialHistogramDataPoint { scale: -2, positive: buckets, zero_threshold: 0.1, ..Default::default() };
    let summary = SummaryDataPoint { count: 3, ..Default::default() };
    (".{0,6}", 0..6, 0..4_usize, attributes()).prop_map(move |(name, kind, points, attributes)| {
        let data = match kind {
            0 => Some(metric::Data::Gauge(Gauge { data_points: vec![NumberDataPoint { attributes, ..number.clone() }; points] })),
            1 => Some(metric::Data::Sum(Sum { data_points: vec![number.clone(); points], is_monotonic: true, ..Default::default() })),
            2 => Some(metric::Data::Histogram(Histogram { data_points: vec![histogram.clone(); points], ..Default::default() })),
            3 => Some(metric::Data::ExponentialHistogram(ExponentialHistogram {
                data_points: vec![exponential.clone(); points],
                ..Default::default()
            })),
            4 => Some(metric::Data::Summary(Summary { data_points: vec![summary.clone(); points] })),
            _ => None,
        };
        Metric { name, data, ..Default::default() }
    })
}

fn metrics() -> impl Strategy<Value = Vec<u8>> {
    let scopes =
        (scope(), prop::collection::vec(metric(), 0..4)).prop_map(|(scope, metrics)| ScopeMetrics { scope, metrics, ..Default::default() });
    let groups = (resource(), prop::collection::vec(scopes, 0..3)).prop_map(|(resource, scope_metrics)| ResourceMetrics {
        resource,
        scope_metrics,
        ..Default::default()
    });
    prop::collection::vec(groups, 0..3).prop_map(|resource_metrics| ExportMetricsServiceRequest { resource_metrics }.encode_to_vec())
}

fn request() -> impl Strategy<Value = (Signal, Vec<u8>)> {
    prop_oneof![
        traces().prop_map(|body| (Signal::Traces, body)),
        logs().prop_map(|body| (Signal::Logs, body)),
        metrics().prop_map(|body| (Signal::Metrics, body)),
    ]
}

fn two_requests() -> impl Strategy<Value = (Signal, Vec<u8>, Vec<u8>)> {
    prop_oneof![
        (traces(), traces()).prop_map(|(first, second)| (Signal::Traces, first, second)),
        (logs(), logs()).prop_map(|(first, second)| (Signal::Logs, first, second)),
        (metrics(), metrics()).prop_map(|(first, second)| (Signal::Metrics, first, second)),
    ]
}

fn same_verdict(signal: Signal, body: &[u8]) {
    let walked = inspect(signal, body, &Rules::default(), &WIDE);
    match decodes(signal, body) {
        Some(counts) => assert_eq!(walked, Ok(counts)),
        None => assert!(walked.is_err(), "the decoder refuses what the walk accepted as {walked:?}"),
    }
}

proptest! {
    #[test]
    fn a_request_is_counted_as_a_decoder_counts_it((signal, body) in request()) {
        same_verdict(signal, &body);
    }

    #[test]
    fn a_damaged_request_gets_the_verdict_of_a_decoder(
        (signal, mut body) in request(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        shorten in any::<bool>(),
    ) {
        for (place, byte) in damage {
            if !body.is_empty() {
                let place = place.index(body.len());
                body[place] = byte;
            }
        }
        if shorten && !body.is_empty() {
            body.truncate(cut.index(body.len()));
        }
        same_verdict(signal, &body);
    }

    #[test]
    fn random_bytes_get_the_verdict_of_a_decoder(body in prop::collection::vec(any::<u8>(), 0..64)) {
        for signal in [Signal::Traces, Signal::Logs, Signal::Metrics] {
            same_verdict(signal, &body);
        }
    }

    #[test]
    fn two_requests_in_a_row_are_one_request((signal, first, second) in two_requests()) {
        same_verdict(signal, &[first, second].concat());
    }

    #[test]
    fn the_parts_of_a_request_are_its_items_by_class((signal, body) in request()) {
        let whole = inspect(signal, &body, &Rules::default(), &WIDE).expect("it was encoded by a library");
        let mut sum = ClassCounts::default();
        for (class, items, part) in split(signal, &body, &Rules::default()).expect("it is well formed") {
            let counts = decodes(signal, &part).expect("a part is a request");
            prop_assert_eq!(counts, ClassCounts::of(class, items));
            sum[class] += items;
        }
        prop_assert_eq!(sum, whole);
    }

    #[test]
    fn an_answer_is_read_as_it_was_written(rejected in 0..i64::MAX as u64, message in ".{0,40}") {
        let body = response::partial_success(rejected, &message);
        let decoded = ExportTraceServiceResponse::decode(body.as_ref()).expect("well formed").partial_success.expect("partial");
        prop_assert_eq!((decoded.rejected_spans as u64, &decoded.error_message), (rejected, &message));
        let read = response::read_partial_success(&body).expect("well formed");
        prop_assert_eq!(read.rejected, rejected);
    }
}

#[test]
fn items_of_a_part_keep_their_resource_and_scope() {
    let span = |name: &str, code| Span { name: name.into(), status: Some(Status { code, ..Default::default() }), ..Default::default() };
    let resource = Resource { attributes: vec![KeyValue { key: "service.name".into(), ..Default::default() }], ..Default::default() };
    let scope = InstrumentationScope { name: "library".into(), ..Default::default() };
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource.clone()),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope.clone()),
                spans: vec![span("fine", 1), span("failed", 2)],
                ..Default::default()
            }],
            ..Default::default()
        }],
    };
    let parts = split(Signal::Traces, &request.encode_to_vec(), &Rules::default()).expect("well formed");
    let names: Vec<_> = parts.iter().map(|(class, items, _)| (*class, *items)).collect();
    assert_eq!(names, [(Class::High, 1), (Class::Normal, 1)]);
    let high = ExportTraceServiceRequest::decode(parts[0].2.as_ref()).expect("a request");
    assert_eq!(high.resource_spans[0].resource.as_ref(), Some(&resource));
    assert_eq!(high.resource_spans[0].scope_spans[0].scope.as_ref(), Some(&scope));
    assert_eq!(high.resource_spans[0].scope_spans[0].spans, [span("failed", 2)]);
}

fn nested(levels: usize) -> Vec<u8> {
    let mut value = AnyValue { value: Some(any_value::Value::BoolValue(true)) };
    for _ in 1..levels {
        value = AnyValue { value: Some(any_value::Value::ArrayValue(ArrayValue { values: vec![value] })) };
    }
    let record = LogRecord { body: Some(value), ..Default::default() };
    let scope_logs = vec![ScopeLogs { log_records: vec![record], ..Default::default() }];
    ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { scope_logs, ..Default::default() }] }.encode_to_vec()
}

#[test]
fn values_nested_beyond_the_limit_are_refused_as_too_large() {
    let limits = Limits::default();
    assert!(inspect(Signal::Logs, &nested(32), &Rules::default(), &limits).is_ok());
    let refused = inspect(Signal::Logs, &nested(33), &Rules::default(), &limits).expect_err("one level too deep");
    assert!(matches!(refused, Malformed::TooDeep { limit: 32, .. }) && refused.is_too_large());
}

#[test]
fn nesting_stops_where_a_decoder_stops() {
    for levels in 40..60 {
        same_verdict(Signal::Logs, &nested(levels));
    }
}

#[test]
fn a_body_of_nothing_but_nesting_does_not_exhaust_the_stack() {
    // 200,000 begun groups, and 200,000 messages that each claim to hold the rest.
    let groups = [0x0b_u8].repeat(200_000);
    assert!(inspect(Signal::Logs, &groups, &Rules::default(), &WIDE).is_err_and(|refused| refused.is_too_large()));
    same_verdict(Signal::Logs, &groups);
}

#[test]
fn more_items_than_the_limit_are_refused_as_too_large() {
    let spans = vec![Span::default(); 11];
    let scope_spans = vec![ScopeSpans { spans, ..Default::default() }];
    let body = ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans, ..Default::default() }] }.encode_to_vec();
    let limits = Limits { items_max: 10, ..Limits::default() };
    assert_eq!(inspect(Signal::Traces, &body, &Rules::default(), &limits), Err(Malformed::TooManyItems { limit: 10 }));
}

#[test]
fn profiles_are_not_walked() {
    assert!(inspect(Signal::Profiles, &[], &Rules::default(), &WIDE).is_err());
}

#[test]
fn an_empty_answer_is_full_success() {
    assert_eq!(response::success(), Bytes::new());
    let none = ExportTraceServiceResponse { partial_success: Some(ExportTracePartialSuccess::default()) };
    assert_eq!(response::read_partial_success(&none.encode_to_vec()), Ok(response::PartialSuccess::default()));
}

/// Every item of a request in its order, each with all that stands around it.
fn flat(signal: Signal, body: &[u8]) -> Vec<String> {
    match signal {
        Signal::Traces => {
            let request = ExportTraceServiceRequest::decode(body).expect("a request");
            let groups = request.resource_spans.iter().flat_map(|group| group.scope_spans.iter().map(move |scope| (group, scope)));
            groups
                .flat_map(|(group, scope)| {
                    let around = format!("{:?} {} {:?} {}", group.resource, group.schema_url, scope.scope, scope.schema_url);
                    scope.spans.iter().map(move |span| format!("{around} {span:?}"))
                })
                .collect()
        }
        Signal::Logs => {
            let request = ExportLogsServiceRequest::decode(body).expect("a request");
            let groups = request.resource_logs.iter().flat_map(|group| group.scope_logs.iter().map(move |scope| (group, scope)));
            groups
                .flat_map(|(group, scope)| {
                    let around = format!("{:?} {:?}", group.resource, scope.scope);
                    scope.log_records.iter().map(move |record| format!("{around} {record:?}"))
                })
                .collect()
        }
        _ => {
            let request = ExportMetricsServiceRequest::decode(body).expect("a request");
            let groups = request.resource_metrics.iter().flat_map(|group| group.scope_metrics.iter().map(move |scope| (group, scope)));
            groups
                .flat_map(|(group, scope)| scope.metrics.iter().map(move |metric| (group, scope, metric)))
                .flat_map(|(group, scope, metric)| {
                    let around = format!("{:?} {:?} {}", group.resource, scope.scope, metric.name);
                    points(metric).into_iter().map(move |point| format!("{around} {point}"))
                })
                .collect()
        }
    }
}

/// The data points of a metric, each with what its kind says beside the points.
fn points(metric: &Metric) -> Vec<String> {
    fn each<T: std::fmt::Debug>(kind: &str, points: &[T]) -> Vec<String> {
        points.iter().map(|point| format!("{kind} {point:?}")).collect()
    }
    match &metric.data {
        Some(metric::Data::Gauge(data)) => each("gauge", &data.data_points),
        Some(metric::Data::Sum(data)) => each(&format!("sum {} {}", data.is_monotonic, data.aggregation_temporality), &data.data_points),
        Some(metric::Data::Histogram(data)) => each(&format!("histogram {}", data.aggregation_temporality), &data.data_points),
        Some(metric::Data::ExponentialHistogram(data)) => each("exponential", &data.data_points),
        Some(metric::Data::Summary(data)) => each("summary", &data.data_points),
        None => Vec::new(),
    }
}

proptest! {
    #[test]
    fn slices_of_a_request_are_its_items_with_all_that_stands_around_them(
        (signal, first, second) in two_requests(),
        cuts in prop::array::uniform3(any::<prop::sample::Index>()),
    ) {
        let body = [first, second].concat();
        let items = flat(signal, &body);
        let mut cuts = cuts.map(|cut| cut.index(items.len() + 1) as u32);
        cuts.sort_unstable();
        let [start, middle, end] = cuts;
        let rules = Rules::default();
        let (front, back) = (0..start, middle..end);
        let outer = [start..middle, end..items.len() as u32];
        let mut sum = ClassCounts::default();
        for (ranges, expected) in [
            (std::slice::from_ref(&front), items[..start as usize].to_vec()),
            (std::slice::from_ref(&back), items[middle as usize..end as usize].to_vec()),
            (&outer[..], [&items[start as usize..middle as usize], &items[end as usize..]].concat()),
        ] {
            let (counts, part) = slice(signal, &body, ranges, &rules).expect("it is well formed");
            prop_assert_eq!(flat(signal, &part), expected);
            prop_assert_eq!(inspect(signal, &part, &rules, &WIDE), Ok(counts));
            for (class, items) in counts.iter() {
                sum[class] += items;
            }
        }
        prop_assert_eq!(inspect(signal, &body, &rules, &WIDE), Ok(sum));
    }
}
