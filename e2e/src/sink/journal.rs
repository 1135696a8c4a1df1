//! The sink's memory across restarts: one JSON line per request, appended and synced in groups before the requests of the
//! group are answered. A torn last line was never answered; it is cut off at start.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use super::record::Record;
use crate::items::Arrival;

/// Largest group that one sync covers.
const GROUP_MAX: usize = 256;
/// Requests that may wait for the writer.
const WAITING_MAX: usize = 1_024;
/// Largest journal; a sink that reached it refuses. Hours of a scenario's load.
const JOURNAL_BYTES_MAX: u64 = 1 << 30;

/// The journal could not be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Its folder or file cannot be opened, read or cut.
    #[error("open the journal {}: check that the volume is mounted and writable", path.display())]
    Open {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line in the middle is damaged: the record would be wrong.
    #[error("line {line} of the journal {} is damaged: remove the file to begin a new record", path.display())]
    Damaged {
        /// Where it is.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// The thread that writes could not be started.
    #[error("start the journal's thread")]
    Thread(#[source] std::io::Error),
}

/// One request that waits to be durable; dropped without a word if it could not be written.
struct Entry {
    arrival: Arrival,
    done: oneshot::Sender<()>,
}

/// Hands requests to the writer.
#[derive(Clone, Debug)]
pub(super) struct Journal {
    entries: mpsc::Sender<Entry>,
}

impl Journal {
    /// Reads what is there and starts the writer.
    pub(super) fn open(path: &Path) -> Result<(Self, Arc<Mutex<Record>>), JournalError> {
        let opened = |source| JournalError::Open { path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(opened)?;
        }
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(opened)?;
        let mut record = Record::default();
        let whole = replay(&file, path, &mut record)?;
        file.set_len(whole).map_err(opened)?;
        file.seek(SeekFrom::End(0)).map_err(opened)?;
        let record = Arc::new(Mutex::new(record));
        let (entries, waiting) = mpsc::channel(WAITING_MAX);
        let writer = Writer { file, bytes: whole, record: Arc::clone(&record) };
        std::thread::Builder::new().name("journal".into()).spawn(move || writer.run(waiting)).map_err(JournalError::Thread)?;
        Ok((Self { entries }, record))
    }

    /// Waits until the arrival is durable and recorded; `false` if it could not be.
    pub(super) async fn append(&self, arrival: Arrival) -> bool {
        let (done, written) = oneshot::channel();
        self.entries.send(Entry { arrival, done }).await.is_ok() && written.await.is_ok()
    }
}

/// Reads every whole line; returns how many bytes they take.
fn replay(file: &File, path: &Path, record: &mut Record) -> Result<u64, JournalError> {
    let opened = |source| JournalError::Open { path: path.to_owned(), source };
    let mut reader = BufReader::new(file);
    let (mut whole, mut line) = (0_u64, Vec::new());
    for number in 1.. {
        line.clear();
        let bytes = reader.read_until(b'\n', &mut line).map_err(opened)?;
        if bytes == 0 || line.last() != Some(&b'\n') {
            break;
        }
        let arrival = serde_json::from_slice(&line).map_err(|_| JournalError::Damaged { path: path.to_owned(), line: number })?;
        record.apply(arrival);
        whole += bytes as u64;
    }
    Ok(whole)
}

struct Writer {
    file: File,
    bytes: u64,
    record: Arc<Mutex<Record>>,
}

impl Writer {
    fn run(mut self, mut waiting: mpsc::Receiver<Entry>) {
        while let Some(first) = waiting.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP_MAX
                && let Ok(next) = waiting.try_recv()
            {
                group.push(next);
            }
            if let Err(error) = self.write(&group) {
                eprintln!("the journal cannot be written: {error}");
                continue;
            }
            let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
            for Entry { arrival, done } in group {
                record.apply(arrival);
                // The request may have been cancelled; what arrived is recorded all the same.
                done.send(()).ok();
            }
        }
    }

    fn write(&mut self, group: &[Entry]) -> std::io::Result<()> {
        let mut lines = Vec::new();
        for entry in group {
            serde_json::to_writer(&mut lines, &entry.arrival)?;
            lines.push(b'\n');
        }
        if self.bytes + lines.len() as u64 > JOURNAL_BYTES_MAX {
            return Err(std::io::Error::other("it reached its largest size"));
        }
        let written = self.file.write_all(&lines).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => self.bytes += lines.len() as u64,
            // Half a group must not be found at the next start.
            Err(_) => self.file.set_len(self.bytes)?,
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::items::Run;
    use vocabulary::{Class, Signal};

    fn arrival(first: u64, last: u64) -> Arrival {
        let runs = vec![Run { producer: "p".into(), class: Class::Normal, first, last }];
        Arrival { signal: Signal::Traces, runs, kernel: Vec::new(), unidentified: [0; Class::COUNT] }
    }

    #[tokio::test]
    async fn what_was_answered_is_known_after_a_restart_and_a_torn_line_is_not() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("deep/journal");
        let (journal, _) = Journal::open(&path).expect("it opens");
        assert!(journal.append(arrival(0, 9)).await);
        drop(journal);
        OpenOptions::new().append(true).open(&path).expect("it is there").write_all(b"{\"signal\":\"Tra").expect("it is written");
        let (journal, record) = Journal::open(&path).expect("it opens again");
        assert_eq!(record.lock().expect("no panic").seen("p", Signal::Traces), vec![(0, 9)]);
        assert!(journal.append(arrival(10, 12)).await);
        drop(journal);
        let (_, record) = Journal::open(&path).expect("it opens a third time");
        assert_eq!(record.lock().expect("no panic").seen("p", Signal::Traces), vec![(0, 12)]);
    }

    #[tokio::test]
    async fn a_damaged_line_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("journal");
        std::fs::write(&path, "nonsense\n").expect("it is written");
        let error = Journal::open(&path).map(|_| ()).expect_err("the record would be wrong");
        assert!(error.to_string().contains("line 1"), "{error}");
    }
}
