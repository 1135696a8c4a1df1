//! What recovery and verification found wrong, as values; the shell logs and counts them.

use std::fmt;

use pipeline::RecordId;

/// Reports beyond this many are only counted: a destroyed disk must not fill memory with the description of its destruction.
pub(crate) const REPORTS_MAX: usize = 1024;

/// One damaged place. What it cost is known by comparing ids, for whatever the checkpoint names and the disk does not
/// give is lost, and by what headers and footers tell of records that no checkpoint names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Name of the file within the directory.
    pub file: String,
    /// Where in the file.
    pub offset: u64,
    /// How much of it.
    pub bytes: u64,
    /// What is wrong.
    pub kind: DamageKind,
    /// The record that is lost, where its header could still be read.
    pub lost: Option<RecordId>,
}

/// What is wrong with a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// The file that names the buffer; its content was restored from the segments.
    Identity,
    /// A checkpoint slot; the other one is used.
    Checkpoint,
    /// A segment's header; its records were found without it.
    SegmentHeader,
    /// A whole file without a single readable record; it was set aside.
    Segment,
    /// Bytes between records; stepped over.
    Hole,
    /// The footer of a sealed segment; its records were found without it.
    Footer,
    /// A record's body; the record is left out.
    Body,
    /// Written by a newer release; left untouched.
    NewerVersion,
    /// Another buffer's file; left untouched.
    Foreign,
    /// One of this buffer's names on something that is no regular file; left untouched.
    NotAFile,
}

impl fmt::Display for DamageKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Identity => "identity unreadable, restored",
            Self::Checkpoint => "checkpoint unreadable, the other slot counts",
            Self::SegmentHeader => "segment header unreadable, records found without it",
            Self::Segment => "segment unreadable, set aside",
            Self::Hole => "no record readable, stepped over",
            Self::Footer => "segment footer unreadable, records found without it",
            Self::Body => "record damaged, left out",
            Self::NewerVersion => "written by a newer release, left untouched",
            Self::Foreign => "file of another buffer, left untouched",
            Self::NotAFile => "not a regular file, left untouched",
        })
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, offset, bytes, kind, lost } = self;
        write!(formatter, "{file} at {offset}, {bytes} bytes: {kind}")?;
        match lost {
            Some(id) => write!(formatter, " ({} {})", id.class, id.sequence),
            None => Ok(()),
        }
    }
}
