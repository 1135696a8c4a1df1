//! The OTLP message types as tables: which field is what kind of value. Field numbers are those of the OTLP protocol files,
//! version 1.9.

/// What kind of value a field holds.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// Not known to this version: any well-formed value is skipped.
    Unknown,
    /// A number as varint.
    Varint,
    /// Eight bytes.
    Fixed64,
    /// Four bytes.
    Fixed32,
    /// UTF-8.
    Text,
    /// Any bytes.
    Bytes,
    /// Numbers as varints, one by one or packed.
    Varints,
    /// Eight-byte numbers, one by one or packed.
    Fixed64s,
    /// Another message.
    Sub(&'static Message),
}

/// A message type; `fields` is indexed by field number.
pub(crate) struct Message {
    pub(crate) name: &'static str,
    pub(crate) fields: &'static [Kind],
    /// Whether entering it is one more level of attribute values.
    pub(crate) nests: bool,
}

impl Message {
    #[inline]
    pub(crate) fn kind(&self, number: u32) -> Kind {
        self.fields.get(number as usize).copied().unwrap_or(Kind::Unknown)
    }
}

const fn message(name: &'static str, fields: &'static [Kind]) -> Message {
    Message { name, fields, nests: false }
}

use Kind::{Bytes, Fixed32, Fixed64, Fixed64s, Sub, Text, Unknown, Varint, Varints};

/// The three levels of a request around its items. The lists are `Bytes` here, for who walks a level walks them itself.
pub(crate) static REQUEST: Message = message("ExportServiceRequest", &[Unknown, Bytes]);
pub(crate) static RESOURCE_GROUP: Message = message("ResourceGroup", &[Unknown, Sub(&RESOURCE), Bytes, Text]);
pub(crate) static SCOPE_GROUP: Message = message("ScopeGroup", &[Unknown, Sub(&SCOPE), Bytes, Text]);

static ANY_VALUE: Message = Message {
    name: "AnyValue",
    fields: &[Unknown, Text, Varint, Varint, Fixed64, Sub(&ARRAY_VALUE), Sub(&KEY_VALUE_LIST), Bytes, Varint],
    nests: true,
};
static ARRAY_VALUE: Message = message("ArrayValue", &[Unknown, Sub(&ANY_VALUE)]);
static KEY_VALUE_LIST: Message = message("KeyValueList", &[Unknown, Sub(&KEY_VALUE)]);
static KEY_VALUE: Message = message("KeyValue", &[Unknown, Text, Sub(&ANY_VALUE), Varint]);
static ENTITY_REF: Message = message("EntityRef", &[Unknown, Text, Text, Text, Text]);

static RESOURCE: Message = message("Resource", &[Unknown, Sub(&KEY_VALUE), Varint, Sub(&ENTITY_REF)]);
static SCOPE: Message = message("InstrumentationScope", &[Unknown, Text, Text, Sub(&KEY_VALUE), Varint]);

static SPAN_EVENT: Message = message("Span.Event", &[Unknown, Fixed64, Text, Sub(&KEY_VALUE), Varint]);
static SPAN_LINK: Message = message("Span.Link", &[Unknown, Bytes, Bytes, Text, Sub(&KEY_VALUE), Varint, Fixed32]);
static STATUS: Message = message("Status", &[Unknown, Unknown, Text, Varint]);
pub(crate) static SPAN: Message = message(
    "Span",
    &[
        Unknown,
        Bytes,
        Bytes,
        Text,
        Bytes,
        Text,
        Varint,
        Fixed64,
        Fixed64,
        Sub(&KEY_VALUE),
        Varint,
        Sub(&SPAN_EVENT),
        Varint,
        Sub(&SPAN_LINK),
        Varint,
        Sub(&STATUS),
        Fixed32,
    ],
);

pub(crate) static LOG_RECORD: Message = message(
    "LogRecord",
    &[Unknown, Fixed64, Varint, Text, Unknown, Sub(&ANY_VALUE), Sub(&KEY_VALUE), Varint, Fixed32, Bytes, Bytes, Fixed64, Text],
);

static EXEMPLAR: Message = message("Exemplar", &[Unknown, Unknown, Fixed64, Fixed64, Bytes, Bytes, Fixed64, Sub(&KEY_VALUE)]);
static NUMBER_DATA_POINT: Message =
    message("NumberDataPoint", &[Unknown, Unknown, Fixed64, Fixed64, Fixed64, Sub(&EXEMPLAR), Fixed64, Sub(&KEY_VALUE), Varint]);
static HISTOGRAM_DATA_POINT: Message = message(
    "HistogramDataPoint",
    &[Unknown, Unknown, Fixed64, Fixed64, Fixed64, Fixed64, Fixed64s, Fixed64s, Sub(&EXEMPLAR), Sub(&KEY_VALUE), Varint, Fixed64, Fixed64],
);
static BUCKETS: Message = message("ExponentialHistogramDataPoint.Buckets", &[Unknown, Varint, Varints]);
static EXPONENTIAL_HISTOGRAM_DATA_POINT: Message = message(
    "ExponentialHistogramDataPoint",
    &[
        Unknown,
        Sub(&KEY_VALUE),
        Fixed64,
        Fixed64,
        Fixed64,
        Fixed64,
        Varint,
        Fixed64,
        Sub(&BUCKETS),
        Sub(&BUCKETS),
        Varint,
        Sub(&EXEMPLAR),
        Fixed64,
        Fixed64,
        Fixed64,
    ],
);
static VALUE_AT_QUANTILE: Message = message("SummaryDataPoint.ValueAtQuantile", &[Unknown, Fixed64, Fixed64]);
static SUMMARY_DATA_POINT: Message =
    message("SummaryDataPoint", &[Unknown, Unknown, Fixed64, Fixed64, Fixed64, Fixed64, Sub(&VALUE_AT_QUANTILE), Sub(&KEY_VALUE), Varint]);
static GAUGE: Message = message("Gauge", &[Unknown, Sub(&NUMBER_DATA_POINT)]);
static SUM: Message = message("Sum", &[Unknown, Sub(&NUMBER_DATA_POINT), Varint, Varint]);
static HISTOGRAM: Message = message("Histogram", &[Unknown, Sub(&HISTOGRAM_DATA_POINT), Varint]);
static EXPONENTIAL_HISTOGRAM: Message = message("ExponentialHistogram", &[Unknown, Sub(&EXPONENTIAL_HISTOGRAM_DATA_POINT), Varint]);
static SUMMARY: Message = message("Summary", &[Unknown, Sub(&SUMMARY_DATA_POINT)]);
pub(crate) static METRIC: Message = message(
    "Metric",
    &[
        Unknown,
        Text,
        Text,
        Text,
        Unknown,
        Sub(&GAUGE),
        Unknown,
        Sub(&SUM),
        Unknown,
        Sub(&HISTOGRAM),
        Sub(&EXPONENTIAL_HISTOGRAM),
        Sub(&SUMMARY),
        Sub(&KEY_VALUE),
    ],
);
