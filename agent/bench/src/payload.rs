//! What is sent and stored: bytes that do not compress, and export requests of spans as SDKs make them.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

use bytes::Bytes;
use prost::Message as _;

/// Spans of one request: the batch that SDKs send by default.
pub(crate) const SPANS: u32 = 512;
/// One span in this many has failed.
const FAILED_EVERY: u32 = 50;

/// Bytes that no compression makes smaller.
pub(crate) fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    fastrand::Rng::with_seed(1).fill(&mut noise);
    noise
}

/// An encoded export request of [`SPANS`] spans with eight attributes each, 412 bytes per span.
pub(crate) fn request(seed: u64) -> Bytes {
    let mut chance = fastrand::Rng::with_seed(seed);
    let attribute =
        |key: &str, value: Value| KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() };
    let text = |key: &str, value: String| attribute(key, Value::StringValue(value));
    let resource = ["service.name", "service.version", "k8s.pod.name", "k8s.namespace.name", "k8s.node.name", "host.arch"];
    let resource = resource.map(|key| text(key, format!("{key}-of-the-shop"))).to_vec();
    let mut spans = Vec::new();
    for number in 0..SPANS {
        let mut bytes = |count: usize| std::iter::repeat_with(|| chance.u8(..)).take(count).collect::<Vec<u8>>();
        let (trace_id, span_id, parent_span_id) = (bytes(16), bytes(8), bytes(8));
        let is_failed = number % FAILED_EVERY == 0;
        let start = 1_790_000_000_000_000_000 + chance.u64(..1_000_000_000);
        spans.push(Span {
            trace_id,
            span_id,
            parent_span_id,
            name: "GET /api/v1/products/{id}".into(),
            kind: 2,
            start_time_unix_nano: start,
            end_time_unix_nano: start + chance.u64(1_000_000..50_000_000),
            attributes: vec![
                text("http.request.method", "GET".into()),
                text("url.path", format!("/api/v1/products/{}", chance.u32(10_000_000..99_999_999))),
                text("http.route", "/api/v1/products/{id}".into()),
                attribute("http.response.status_code", Value::IntValue(if is_failed { 500 } else { 200 })),
                text("server.address", "products.shop.svc".into()),
                attribute("server.port", Value::IntValue(8080)),
                text("user_agent.original", "checkout/2.4.1 (linux; amd64) OpenTelemetry-SDK/1.38.0 rs".into()),
                text("client.address", format!("10.1.{}.{}", chance.u8(100..), chance.u8(100..))),
            ],
            status: Some(Status { code: if is_failed { 2 } else { 0 }, message: String::new() }),
            ..Span::default()
        });
    }
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource = Some(Resource { attributes: resource, ..Resource::default() });
    let request = ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }] };
    Bytes::from(request.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use otlp::{Limits, Rules, inspect};
    use vocabulary::{Class, Signal};

    #[test]
    fn a_request_holds_the_spans_it_says_at_412_bytes_each() {
        let request = request(1);
        let counts = inspect(Signal::Traces, &request, &Rules::default(), &Limits::default()).unwrap();
        assert_eq!((counts.total(), counts[Class::High]), (u64::from(SPANS), 11));
        let per_span = request.len() as f64 / f64::from(SPANS);
        assert!((411.0..413.0).contains(&per_span), "{per_span} bytes per span");
    }
}
