//! The gRPC decoder that keeps a message as bytes.

use bytes::{Buf, Bytes};
use tonic::Status;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder};

/// First allocation and growth step of a call's buffer: most requests of quiet services are smaller than tonic's 8 KiB.
const BUFFER_BYTES: usize = 2 * 1024;

/// Takes a message as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawDecoder;

impl Decoder for RawDecoder {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(source.copy_to_bytes(source.remaining())))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, BUFFER_BYTES)
    }
}

/// The same bytes in an allocation at most a quarter larger than they are, because the engine accounts for the length and a
/// receive buffer may have grown to twice that. Call it when nothing else refers to the buffer.
pub(crate) fn fitted(body: Bytes) -> Bytes {
    match body.try_into_mut() {
        Ok(unique) if unique.capacity() <= unique.len() + unique.len() / 4 => unique.freeze(),
        Ok(roomy) => Bytes::copy_from_slice(&roomy),
        Err(shared) => Bytes::copy_from_slice(&shared),
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    #[test]
    fn a_body_never_pins_a_buffer_much_larger_than_itself() {
        let mut roomy = BytesMut::with_capacity(8192);
        roomy.extend_from_slice(b"short");
        let body = fitted(roomy.freeze());
        assert_eq!(&body[..], b"short");
        assert!(body.try_into_mut().expect("nobody else holds it").capacity() <= 8);
    }
}
