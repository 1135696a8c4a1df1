//! Walks the records of one segment and steps over what is damaged. Memory is one window, whatever the file holds; the file's
//! length bounds every read.

use std::io;

use crate::footer::TRAILER_BYTES;
use crate::format::{
    ALIGNMENT, FooterHeader, Header, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, decode_header, record_bytes,
};
use crate::storage::StorageFile;

/// How much is read at once.
const WINDOW_BYTES: usize = 64 << 10;
/// How much is read for a header when the records before it were so long that a window would hold no second one.
const PEEK_BYTES: usize = 4 << 10;

/// What lies at a place of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A header that checks out, whose body lies within the file. The body is not verified.
    Record { offset: u64, header: RecordHeader },
    /// The header of a footer that checks out and lies within the file. The body is not verified.
    Footer { offset: u64, header: FooterHeader },
    /// No record starts here, up to the next one or the end of the file.
    Hole { offset: u64, bytes: u64 },
}

/// A walk over one segment.
pub(crate) struct Scanner<'a, F> {
    file: &'a F,
    seed: u32,
    at: u64,
    end: u64,
    window: Vec<u8>,
    window_start: u64,
    /// How much the next read takes in.
    ahead: usize,
}

impl<'a, F: StorageFile> Scanner<'a, F> {
    /// `end`: the file's length.
    pub(crate) fn new(file: &'a F, seed: u32, end: u64) -> Self {
        Self { file, seed, at: SEGMENT_HEADER_BYTES as u64, end, window: Vec::new(), window_start: 0, ahead: WINDOW_BYTES }
    }

    /// Whether a whole record of this sequence and length stands at `offset`.
    pub(crate) fn is_record_whole(&mut self, offset: u64, sequence: u64, length: u32) -> io::Result<bool> {
        match self.header_at(offset)? {
            Some(Header::Record(header)) if (header.sequence, header.length) == (sequence, length) => self.is_body_whole(offset, &header),
            _ => Ok(false),
        }
    }

    /// The body of a footer; empty if it is not what was written.
    pub(crate) fn is_footer_whole(&self, offset: u64, header: &FooterHeader) -> io::Result<bool> {
        let mut body = vec![0; header.length as usize];
        let got = self.file.read_at(&mut body, offset + RECORD_HEADER_BYTES as u64)?;
        body.truncate(got);
        Ok(header.is_body_whole(self.seed, offset, &body))
    }

    /// The next record or hole, or none at the end of the file.
    pub(crate) fn next(&mut self) -> io::Result<Option<Found>> {
        if self.at >= self.end {
            return Ok(None);
        }
        let offset = self.at;
        match self.header_at(offset)? {
            Some(Header::Record(header)) => {
                self.at = offset + record_bytes(u64::from(header.length));
                self.ahead = if header.length as usize >= WINDOW_BYTES / 2 { PEEK_BYTES } else { WINDOW_BYTES };
                return Ok(Some(Found::Record { offset, header }));
            }
            Some(Header::Footer(header)) => {
                self.at = offset + record_bytes(u64::from(header.length)) + TRAILER_BYTES;
                return Ok(Some(Found::Footer { offset, header }));
            }
            None => {}
        }
        self.ahead = WINDOW_BYTES;
        self.at = self.resume_behind(offset)?;
        Ok(Some(Found::Hole { offset, bytes: self.at - offset }))
    }

    /// Whether the body of a record is what was written. Leaves the walk where it is.
    pub(crate) fn is_body_whole(&mut self, offset: u64, header: &RecordHeader) -> io::Result<bool> {
        let mut crc = header.body_seed(self.seed, offset);
        let mut from = offset + RECORD_HEADER_BYTES as u64;
        let mut left = header.length as usize;
        while left > 0 {
            let piece = self.view(from, left.min(WINDOW_BYTES))?;
            if piece.is_empty() {
                return Ok(false);
            }
            crc = crc32c::crc32c_append(crc, piece);
            left -= piece.len();
            from += piece.len() as u64;
        }
        Ok(crc == header.body_crc)
    }

    /// The next place behind `offset` at which a record stands, or the end of the file.
    fn resume_behind(&mut self, offset: u64) -> io::Result<u64> {
        let mut candidate = offset + ALIGNMENT;
        while candidate < self.end {
            if self.header_at(candidate)?.is_some() {
                return Ok(candidate);
            }
            candidate += ALIGNMENT;
        }
        Ok(self.end)
    }

    fn header_at(&mut self, offset: u64) -> io::Result<Option<Header>> {
        let (seed, end) = (self.seed, self.end);
        let header = decode_header(self.view(offset, RECORD_HEADER_BYTES)?, seed, offset);
        Ok(header.filter(|header| match header {
            Header::Record(header) => offset + record_bytes(u64::from(header.length)) <= end,
            Header::Footer(header) => offset + record_bytes(u64::from(header.length)) + TRAILER_BYTES <= end,
        }))
    }

    /// Up to `length` bytes at `offset`; fewer only at the end of the file.
    fn view(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        let held = self.window_start..self.window_start + self.window.len() as u64;
        if offset < held.start || offset + length as u64 > held.end {
            let wanted = self.end.saturating_sub(offset).min(self.ahead.max(length) as u64) as usize;
            self.window.resize(wanted, 0);
            let got = self.file.read_at(&mut self.window, offset)?;
            self.window.truncate(got);
            self.window_start = offset;
        }
        let skip = (offset - self.window_start) as usize;
        let rest = self.window.get(skip..).unwrap_or_default();
        Ok(rest.get(..length).unwrap_or(rest))
    }
}
