//! The background pass over what opening took on trust: bodies whose records the checkpoint or a footer named. It goes through the
//! segments that were found at the start, oldest first, in steps whose size the caller chooses, and remembers where it is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pipeline::RecordId;
use vocabulary::Class;

use crate::Verified;
use crate::damage::{Damage, DamageKind};
use crate::error::ReadError;
use crate::format::record_bytes;
use crate::index::{Entry, Segment};
use crate::scan::Scanner;
use crate::storage::StorageFile;

/// What is still to be verified.
pub(crate) struct Verification<F> {
    waiting: VecDeque<(Class, Arc<Segment<F>>)>,
    /// Of the next record in the first of them.
    position: usize,
}

impl<F: StorageFile> Verification<F> {
    pub(crate) fn new(segments: impl Iterator<Item = (Class, Arc<Segment<F>>)>) -> Self {
        Self { waiting: segments.collect(), position: 0 }
    }

    /// A released segment needs no verification.
    pub(crate) fn forget(&mut self, segment: &Arc<Segment<F>>) {
        if self.waiting.front().is_some_and(|(_, first)| Arc::ptr_eq(first, segment)) {
            self.position = 0;
        }
        self.waiting.retain(|(_, other)| !Arc::ptr_eq(other, segment));
    }

    /// Verifies records until so many bytes were read, at least one. A record that could not be read is not tried again.
    pub(crate) fn step(&mut self, bytes_max: u64) -> Result<Verified, ReadError> {
        let mut verified = Verified::default();
        while verified.bytes < bytes_max {
            let Some((class, segment)) = self.waiting.front() else { break };
            let Some(entry) = segment.entry(self.position) else {
                self.waiting.pop_front();
                self.position = 0;
                continue;
            };
            self.position += 1;
            verified.bytes += record_bytes(u64::from(entry.length));
            let is_whole = is_whole(segment, entry).map_err(|source| ReadError::Read { path: segment.path.clone(), source })?;
            if !is_whole {
                segment.is_damaged.store(true, Ordering::Relaxed);
                verified.damage.push(lost(*class, segment, entry));
            }
        }
        verified.is_done = self.waiting.is_empty();
        Ok(verified)
    }
}

fn is_whole<F: StorageFile>(segment: &Segment<F>, entry: Entry) -> std::io::Result<bool> {
    let mut scanner = Scanner::new(&segment.file, segment.seed, segment.bytes.load(Ordering::Relaxed));
    scanner.is_record_whole(entry.offset.into(), entry.sequence, entry.length)
}

fn lost<F>(class: Class, segment: &Segment<F>, entry: Entry) -> Damage {
    Damage {
        file: segment.name.clone(),
        offset: entry.offset.into(),
        bytes: record_bytes(u64::from(entry.length)),
        kind: DamageKind::Body,
        lost: Some(RecordId { class, sequence: entry.sequence }),
    }
}
