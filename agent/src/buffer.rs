//! Opening the buffer: a directory that is locked, foreign or broken keeps the agent from being ready and is tried again, because
//! the one who holds it may be the pod that is just being replaced.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crds::agent::DiskBuffer;
use spool::{Options, Recovery, Spool};

use crate::board::Board;
use crate::storage::chain;

/// Pause between two tries: short beside a pod's restart, long beside an open.
const RETRY_EVERY: Duration = Duration::from_secs(2);
/// Name of this part on the board.
const PART: &str = "buffer";

/// Opens the directory, for as long as it takes.
pub(crate) async fn open(disk: &DiskBuffer, identity: String, host: String, board: &Arc<Board>) -> (Spool, Recovery) {
    board.expect(PART);
    loop {
        let directory = disk.path.clone();
        let options =
            Options { segment_bytes: disk.segment_bytes, budget_bytes: disk.shares().log, identity: identity.clone(), host: host.clone() };
        let opened = tokio::task::spawn_blocking(move || Spool::open(Path::new(&directory), options)).await;
        match opened {
            Ok(Ok((spool, recovery))) => {
                board.unblock(PART);
                for damage in &recovery.damage {
                    tracing::error!(damage = %damage, "the buffer holds a damaged part; what is known of it counts as Corrupt");
                }
                board.damaged_places.store(recovery.damage.len() as u64 + recovery.damage_unlisted, Ordering::Relaxed);
                return (spool, recovery);
            }
            Ok(Err(cause)) => board.block(PART, chain(&cause)),
            Err(ended) => board.block(PART, format!("opening {} ended early: {ended}", disk.path)),
        }
        tokio::time::sleep(RETRY_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use vocabulary::{Class, ClassCounts, Signal};

    use super::*;

    #[tokio::test]
    async fn damage_is_shown_at_the_start() {
        let directory = tempfile::tempdir().expect("a directory");
        let disk = DiskBuffer {
            path: directory.path().display().to_string(),
            bytes: 64 << 20,
            segment_bytes: 64 << 10,
            on_full: crds::agent::OnFull::default(),
            retention: None,
        };
        let board = Arc::new(Board::new());
        let (mut spool, _) = open(&disk, "test".into(), "here".into(), &board).await;
        for sequence in 1..=3 {
            let (class, body) = (Class::High, [sequence as u8; 64]);
            let (id, counts) = (pipeline::RecordId { class, sequence }, ClassCounts::of(class, 1));
            spool.append(&spool::Append { id, signal: Signal::Logs, counts, received_unix_ms: 1, body: &body }).expect("there is room");
        }
        spool.commit().expect("there is room");
        drop(spool);
        assert_eq!(board.damaged_places.load(Ordering::Relaxed), 0);
        let mut files = std::fs::read_dir(directory.path()).expect("it is there").map(|entry| entry.expect("an entry").path());
        let segment = files.find(|path| path.extension().is_some_and(|end| end == "segment")).expect("records are stored");
        let mut content = std::fs::read(&segment).expect("it is readable");
        // The body of the second.
        let place = content.windows(64).position(|window| window == [2; 64]).expect("it is stored as it is");
        content[place] ^= 1;
        std::fs::write(&segment, content).expect("it is writable");
        let (_spool, recovery) = open(&disk, "test".into(), "here".into(), &board).await;
        assert_eq!((recovery.recovered.stored.len(), board.damaged_places.load(Ordering::Relaxed)), (2, 1));
    }
}
