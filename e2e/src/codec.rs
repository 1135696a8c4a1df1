//! A gRPC codec that passes messages through as bytes: load generator and sink decode with `prost` themselves, where they
//! decide how often (a request that is sent again must be the very same bytes).

use bytes::{Buf, BufMut, Bytes};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use vocabulary::Signal;

/// The codec; message in, message out, both as bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// Path of the export method of a signal; `None` for a signal that this harness does not speak.
#[must_use]
pub fn export_path(signal: Signal) -> Option<&'static str> {
    match signal {
        Signal::Traces => Some("/opentelemetry.proto.collector.trace.v1.TraceService/Export"),
        Signal::Metrics => Some("/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"),
        Signal::Logs => Some("/opentelemetry.proto.collector.logs.v1.LogsService/Export"),
        Signal::Profiles => None,
    }
}

/// The signals that load generator and sink speak.
pub const SIGNALS: [Signal; 3] = [Signal::Traces, Signal::Metrics, Signal::Logs];
