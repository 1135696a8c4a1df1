//! Giving space back: which segments nobody needs, and what becomes of their files.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pipeline::IdRanges;
use vocabulary::Class;

use super::retain::Retention;
use super::room::{SPARE, Spare};
use super::{Log, SET_ASIDE, evidence_bytes_max};
use crate::Released;
use crate::error::ReleaseError;
use crate::index::Segment;
use crate::points::reach;
use crate::storage::Storage;

/// What became of a segment's file.
pub(super) enum Gone<F> {
    /// Deleted, or kept as evidence.
    Removed,
    /// Kept to be used again, once its new name is durable.
    Spare(Spare<F>),
}

impl<S: Storage> Log<S> {
    /// Deletes or recycles the segments whose records are all settled, but for what is retained.
    pub(crate) fn release(&mut self, settled: &[IdRanges; Class::COUNT]) -> Result<Released, ReleaseError> {
        let mut released = Released::default();
        let mut failed = None;
        let mut spares = Vec::new();
        let all_settled = self.settled_segments(settled);
        released.retained = all_settled.len() as u64;
        for (class, segment) in self.expendable(all_settled) {
            released.retained -= 1;
            let bytes = segment.bytes.load(Ordering::Relaxed);
            match self.remove(class, segment, &spares) {
                Ok(gone) => {
                    released.segments += 1;
                    released.bytes += bytes;
                    spares.extend(gone.spare());
                }
                Err(error) => failed = Some(error),
            }
        }
        if released.segments > 0 {
            self.settle_removals(spares)?;
        }
        failed.map_or(Ok(released), Err)
    }

    /// The segments that nobody needs and nothing is added to. Each is marked with the time at which it was first among them.
    fn settled_segments(&mut self, settled: &[IdRanges; Class::COUNT]) -> Vec<(Class, Arc<Segment<S::File>>)> {
        let mut found = Vec::new();
        for (class, settled) in Class::ALL.into_iter().zip(settled) {
            for segment in self.index.segments(class) {
                if segment.is_settled(settled) && !self.is_in_use(class, &segment) {
                    segment.settled_at.get_or_init(|| self.now);
                    found.push((class, segment));
                }
            }
        }
        found
    }

    /// Makes removals durable. Only then is a file used again: under its old name it could otherwise come back with foreign content.
    pub(super) fn settle_removals(&mut self, spares: Vec<Spare<S::File>>) -> Result<(), ReleaseError> {
        reach("log.released");
        let path = self.storage.path("");
        if let Err(source) = self.storage.sync_directory() {
            for spare in spares {
                // What stays is removed by the next start.
                self.storage.remove(&spare.name).ok();
            }
            return Err(ReleaseError::SyncDirectory { path, source });
        }
        spares.into_iter().for_each(|spare| self.room.keep(spare));
        reach("log.forgotten");
        Ok(())
    }

    /// Whether records of a group under way are in it, or it is the one that grows and is still small. A growing segment of some
    /// size whose records are all settled is closed, so that a class that falls silent gives its space back. It has no footer, so
    /// where settled segments are retained it goes on growing.
    fn is_in_use(&mut self, class: Class, segment: &Arc<Segment<S::File>>) -> bool {
        if self.closing.iter().any(|tail| Arc::ptr_eq(&tail.segment, segment)) {
            return true;
        }
        let worthwhile = self.room.limits.segment_bytes / 4;
        let is_retaining = self.retention != Retention::Nothing;
        let tail = self.tail(class);
        match tail.as_ref().filter(|tail| Arc::ptr_eq(&tail.segment, segment)) {
            None => false,
            Some(growing) if is_retaining || growing.is_touched() || growing.committed < worthwhile => true,
            Some(_) => {
                if let Some(mut growing) = tail.take() {
                    growing.give_room_back();
                }
                false
            }
        }
    }

    /// Takes a segment out of the log. A file that nobody reads any more is kept if there is room for it beside the spare files
    /// there are and those that wait to be some.
    pub(super) fn remove(
        &mut self,
        class: Class,
        segment: Arc<Segment<S::File>>,
        waiting: &[Spare<S::File>],
    ) -> Result<Gone<S::File>, ReleaseError> {
        let bytes = segment.bytes.load(Ordering::Relaxed);
        let is_damaged = segment.is_damaged.load(Ordering::Relaxed);
        let is_evidence = is_damaged && self.other_bytes + bytes <= evidence_bytes_max(self.room.limits.segment_bytes);
        let may_keep = !is_damaged && self.may_keep(bytes, waiting);
        self.index.remove(class, &segment);
        self.verification.forget(&segment);
        // Whoever found it in the index before may still be reading it.
        let segment = match Arc::try_unwrap(segment) {
            Ok(segment) if may_keep => {
                let name = format!("{}{SPARE}", segment.name);
                if self.storage.rename(&segment.name, &name).is_ok() {
                    return Ok(Gone::Spare(Spare { name, file: segment.file, bytes }));
                }
                Arc::new(segment)
            }
            Ok(segment) => Arc::new(segment),
            Err(segment) => segment,
        };
        let done = if is_evidence {
            self.storage.rename(&segment.name, &format!("{}{SET_ASIDE}", segment.name))
        } else {
            self.storage.remove(&segment.name)
        };
        match done {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                let path = segment.path.clone();
                self.index.add(class, segment);
                Err(ReleaseError::DeleteSegment { path, source })
            }
            _ => {
                if is_evidence {
                    self.other_bytes += bytes;
                }
                Ok(Gone::Removed)
            }
        }
    }
}

impl<S: Storage> Log<S> {
    /// Whether a released file of so many bytes, still counted, is worth keeping.
    fn may_keep(&self, bytes: u64, waiting: &[Spare<S::File>]) -> bool {
        let waiting_bytes: u64 = waiting.iter().map(|spare| spare.bytes).sum();
        let used = self.charged().saturating_sub(bytes) + waiting_bytes;
        self.room.may_keep(bytes, waiting.len(), used)
    }
}

impl<F> Gone<F> {
    pub(super) fn spare(self) -> Option<Spare<F>> {
        match self {
            Self::Removed => None,
            Self::Spare(spare) => Some(spare),
        }
    }
}
