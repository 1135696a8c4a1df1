//! The receipt that a process leaves beside its buffer when it ends, and the next one takes: what was left behind, and how the end
//! came. Separate from the spool's checkpoint, because it tells of an end and not of a state: a process that was killed leaves none,
//! and that absence is what the next start tells.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use pipeline::{Books, Held};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use spool::points::reach;
use vocabulary::DropReason;

use crate::ledger_page::cells;

/// Name of the file in the buffer's directory. The spool leaves names alone that are not its own.
const NAME: &str = "receipt.json";
/// No receipt is longer.
const RECEIPT_BYTES_MAX: u64 = 4096;
/// Where it is written before it gets its name, so that a torn one is never read.
const DRAFT: &str = "receipt.json.draft";

/// What the process that had this buffer before left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum PreviousEnd {
    /// Nobody had it before, or it lies in memory.
    None,
    /// It was told to end, and did.
    Told(Receipt),
    /// It was killed, or the machine stopped: what memory alone held is gone, and counted as `CrashVolatile`.
    Killed,
}

/// What one process left behind, all destinations together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Receipt {
    /// When it ended, in milliseconds since the Unix epoch.
    pub(crate) ended_unix_ms: u64,
    /// A second signal, or the deadline, cut the drain short while memory alone still held something.
    pub(crate) is_forced: bool,
    /// Whether the last checkpoint is on disk; if not, what was settled since the one before is sent again.
    pub(crate) is_checkpoint_durable: bool,
    /// Items that wait on disk for their destinations, quarantined ones included.
    pub(crate) held_items: u64,
    /// Items that only memory held, and that this end dropped as `ForcedShutdown`.
    pub(crate) forced_shutdown_items: u64,
}

impl Receipt {
    /// From the books as they were when the drain began and as they are now.
    pub(crate) fn of(before: &Books, after: &Books, ended_unix_ms: u64, is_checkpoint_durable: bool) -> Self {
        let forced_shutdown_items = forced(after).saturating_sub(forced(before));
        let held = after.destinations.iter().flat_map(|book| cells(&book.cells)).map(|(_, _, cell)| Held::total(&cell.held));
        Self { ended_unix_ms, is_forced: forced_shutdown_items > 0, is_checkpoint_durable, held_items: held.sum(), forced_shutdown_items }
    }

    /// Writes it down for the next start; durable once this returns.
    pub(crate) fn leave(&self, directory: &Path) -> io::Result<()> {
        let draft = directory.join(DRAFT);
        // What an end left that was cut off, or a link that somebody else put there: it goes, and is never written through.
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        reach("receipt.drafted");
        fs::rename(draft, directory.join(NAME))?;
        reach("receipt.named");
        File::open(directory)?.sync_all()
    }
}

/// Takes what the process before left; `is_used` says whether there was one. Taken once: whoever starts after a kill finds none.
pub(crate) fn take(directory: &Path, is_used: bool) -> PreviousEnd {
    let path = directory.join(NAME);
    let receipt = read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "the receipt of the last end stays; a kill would be told as that end once more");
        }
        _ => {}
    }
    reach("receipt.taken");
    match receipt {
        Some(receipt) => PreviousEnd::Told(receipt),
        None if is_used => PreviousEnd::Killed,
        None => PreviousEnd::None,
    }
}

/// What a receipt's file holds, without following a link or waiting for a pipe.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let mut text = Vec::new();
    OpenOptions::new().read(true).custom_flags(flags).open(path)?.take(RECEIPT_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

/// Items dropped because a process ended, at intake and for destinations.
fn forced(books: &Books) -> u64 {
    let reason = DropReason::ForcedShutdown.index();
    let at = |dropped: &[u64; DropReason::COUNT]| dropped.get(reason).copied().unwrap_or_default();
    let inputs: u64 = cells(&books.inputs).map(|(_, _, cell)| at(&cell.dropped)).sum();
    let destinations: u64 = books.destinations.iter().flat_map(|book| cells(&book.cells)).map(|(_, _, cell)| at(&cell.dropped)).sum();
    inputs + destinations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_is_taken_once_and_its_absence_in_a_used_buffer_means_a_kill() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(take(directory.path(), false), PreviousEnd::None);
        let receipt = Receipt { ended_unix_ms: 7, held_items: 3, is_checkpoint_durable: true, ..Receipt::default() };
        receipt.leave(directory.path()).expect("there is room");
        assert_eq!(take(directory.path(), true), PreviousEnd::Told(receipt));
        assert_eq!(take(directory.path(), true), PreviousEnd::Killed);
    }

    #[test]
    fn a_receipt_is_its_owners_alone_and_no_link_leads_anywhere_else() {
        use std::os::unix::fs::{PermissionsExt, symlink};

        let directory = tempfile::tempdir().expect("a directory");
        let elsewhere = directory.path().join("elsewhere");
        let receipt = Receipt { ended_unix_ms: 7, ..Receipt::default() };
        fs::write(&elsewhere, serde_json::to_vec(&receipt).expect("it is JSON")).expect("there is room");
        let before = fs::read(&elsewhere).expect("it is there");
        symlink(&elsewhere, directory.path().join(NAME)).expect("a free name");
        assert_eq!(take(directory.path(), true), PreviousEnd::Killed, "what a link leads to is no receipt");
        symlink(&elsewhere, directory.path().join(DRAFT)).expect("a free name");
        Receipt::default().leave(directory.path()).expect("there is room");
        let metadata = fs::symlink_metadata(directory.path().join(NAME)).expect("it is there");
        assert_eq!((metadata.is_file(), metadata.permissions().mode() & 0o777), (true, 0o600));
        assert_eq!(fs::read(&elsewhere).expect("it is there"), before, "nothing is written through a link");
    }

    #[test]
    fn a_receipt_that_cannot_be_read_is_no_receipt() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join(NAME), b"{\"endedUnixMs\":").expect("there is room");
        assert_eq!(take(directory.path(), true), PreviousEnd::Killed);
        assert!(!directory.path().join(NAME).exists());
    }
}
