//! Records that are readable before they are synced: whoever acknowledged them promised that they survive the end of the process, not
//! the loss of power. A sync that fails leaves them in a file of which nothing is believed that was not synced before, for a later sync of it
//! would prove nothing: they are copied to another one from what the operating system still shows of them, at once, and if that fails with
//! the next group, which is not stored before that succeeded. Only then are they cut off the first file.

use std::sync::atomic::Ordering;

use pipeline::RecordId;

use super::Log;
use super::budget::Growth;
use super::tail::{Stranded, Tail};
use crate::Append;
use crate::error::{CommitError, ReadError};
use crate::format::{Record, RecordHeader};
use crate::storage::{Storage, StorageFile};

/// How often the disk may fail to give back what is stranded until that is taken for lost: nothing is stored meanwhile.
const TRIES_MAX: u32 = 8;

impl<S: Storage> Log<S> {
    /// Hands the group to the operating system and makes its records readable, or forgets it. The next commit syncs them.
    pub(crate) fn flush(&mut self) -> Result<(), CommitError> {
        self.copy_stranded()?;
        self.write()?;
        for tail in &mut self.closing {
            tail.publish();
        }
        self.closing.clear();
        self.tails.iter_mut().flatten().for_each(Tail::publish_unsynced);
        self.forget_stranded();
        self.has_flushed = true;
        Ok(())
    }

    /// Whether something is readable that is not synced.
    pub(crate) fn is_anything_flushed(&self) -> bool {
        self.has_flushed || !self.stranded.is_empty()
    }

    #[cfg(any(test, feature = "model"))]
    pub(crate) fn is_stranded(&self) -> bool {
        !self.stranded.is_empty()
    }

    /// After a failed sync, when no group is under way.
    pub(super) fn save_stranded(&mut self) {
        if !self.stranded.is_empty() {
            // What fails is tried again with the next group; the caller has an error to tell already.
            self.flush().unwrap_or(());
        }
    }

    /// Appends what is stranded to the group. What is damaged stays where it is, and is told when it is asked for.
    pub(super) fn copy_stranded(&mut self) -> Result<(), CommitError> {
        let mut stranded = std::mem::take(&mut self.stranded);
        let copied = stranded.iter_mut().try_for_each(|stranded| self.copy_out(stranded));
        // Until the operating system has them in their new place.
        self.stranded.extend(stranded);
        copied.inspect_err(|_| match self.broken.take() {
            Some(_) => self.abandon(),
            None => self.cut_back(),
        })
    }

    fn copy_out(&mut self, stranded: &mut Stranded<S::File>) -> Result<(), CommitError> {
        stranded.tries += 1;
        for entry in &stranded.entries {
            let id = RecordId { class: stranded.class, sequence: entry.sequence };
            let (header, body) = match stranded.segment.read_stored(id, *entry) {
                Ok(found) => found,
                Err(ReadError::Read { path, source }) if stranded.tries < TRIES_MAX => return Err(CommitError::ReadBack { path, source }),
                Err(_) => continue,
            };
            let RecordHeader { signal, counts, received_unix_ms, unpacked_bytes, .. } = header;
            let append = Append { id, signal, counts, received_unix_ms, body: &body };
            let copied = self.append_record(&Record { append, unpacked_bytes }, Growth::Copy);
            copied.map_err(|source| CommitError::Copy { path: stranded.segment.path.clone(), source: Box::new(source) })?;
        }
        Ok(())
    }

    /// What was stranded is found in its new place, and cut off the old one unless some of it could not be read.
    pub(super) fn forget_stranded(&mut self) {
        for Stranded { class, segment, committed, entries, .. } in self.stranded.drain(..) {
            let copied: Vec<u64> =
                entries.iter().map(|entry| entry.sequence).filter(|&sequence| self.index.is_in_newer(class, &segment, sequence)).collect();
            segment.forget(&copied);
            if copied.len() == entries.len() && segment.file.truncate(committed).is_ok() {
                segment.bytes.store(committed, Ordering::Relaxed);
                // As after any group that is cut off: what a loss of power left of it would be taken for damage.
                segment.file.sync().ok();
            }
        }
    }
}
