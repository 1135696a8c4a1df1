//! Compression of bodies, for the time in which they wait: Zstandard at its fastest level, which makes telemetry a fraction of its size
//! at some hundred megabytes per second. It is the log's own affair: a reader gets what was appended.

use zstd::bulk::{Compressor, decompress};

/// The level: higher ones cost several times as much for a few percent.
const LEVEL: i32 = 1;
/// Shorter bodies gain nothing that is worth a call.
const BODY_BYTES_MIN: usize = 256;

/// What compresses bodies; its working memory is kept between them.
pub(crate) struct Packer(Compressor<'static>);

impl Packer {
    /// None if there is no memory for it.
    pub(crate) fn new() -> Option<Self> {
        Compressor::new(LEVEL).ok().map(Self)
    }

    /// The body compressed, if that saves at least an eighth of it.
    pub(crate) fn pack(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        if body.len() < BODY_BYTES_MIN {
            return None;
        }
        self.0.compress(body).ok().filter(|packed| packed.len() <= body.len() - body.len() / 8)
    }
}

/// The body that was packed, if it has the length it had.
pub(crate) fn unpack(packed: &[u8], bytes: u32) -> Option<Vec<u8>> {
    let bytes = bytes as usize;
    decompress(packed, bytes).ok().filter(|body| body.len() == bytes)
}
