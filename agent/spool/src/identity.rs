//! The file that says whose buffer a directory holds; pure. It is written once, before anything else, so that a directory that
//! was mounted in the wrong place is recognised before a byte of it is touched. What each field holds stands in `page`.

use crate::format::{BufferId, Fields};

/// Name of the file.
pub(crate) const IDENTITY_NAME: &str = "identity";
/// Longest file read; a pipeline's identity is a UID of 36 characters.
pub(crate) const IDENTITY_BYTES_MAX: usize = 1 << 10;

/// The format this release writes, and the newest it reads.
pub(crate) const VERSION: u16 = 1;
pub(crate) const MAGIC: [u8; 8] = *b"FOREBAYI";
const AROUND_BYTES: usize = 8 + 2 + 2 + 16 + 4;

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    Known { buffer: BufferId, pipeline: String },
    Newer(u16),
    Broken,
}

/// As much of an identity as the file keeps, cut at a character.
pub(crate) fn kept(pipeline: &str) -> &str {
    let end = pipeline.floor_char_boundary(IDENTITY_BYTES_MAX - AROUND_BYTES);
    pipeline.get(..end).unwrap_or(pipeline)
}

pub(crate) fn encode(buffer: BufferId, pipeline: &str) -> Vec<u8> {
    let pipeline = kept(pipeline).as_bytes();
    let mut file = Vec::with_capacity(AROUND_BYTES + pipeline.len());
    file.extend_from_slice(&MAGIC);
    file.extend_from_slice(&VERSION.to_le_bytes());
    file.extend_from_slice(&(pipeline.len() as u16).to_le_bytes());
    file.extend_from_slice(&buffer);
    file.extend_from_slice(pipeline);
    let crc = crc32c::crc32c(&file);
    file.extend_from_slice(&crc.to_le_bytes());
    file
}

pub(crate) fn decode(file: &[u8]) -> Identity {
    checked(file).unwrap_or(Identity::Broken)
}

fn checked(file: &[u8]) -> Option<Identity> {
    let (covered, crc) = file.split_last_chunk::<4>()?;
    let mut fields = Fields(covered);
    if crc32c::crc32c(covered) != u32::from_le_bytes(*crc) || fields.take()? != MAGIC {
        return None;
    }
    let version = fields.u16()?;
    if version != VERSION {
        return Some(Identity::Newer(version));
    }
    fields.u16()?;
    let buffer = fields.take()?;
    Some(Identity::Known { buffer, pipeline: String::from_utf8(fields.0.to_vec()).ok()? })
}
