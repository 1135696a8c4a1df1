//! Opening the buffer: a directory that is locked, foreign or broken keeps the agent from being ready and is tried again, because
//! the one who holds it may be the pod that is just being replaced.

use std::path::Path;
use std::sync::Arc;
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
                    tracing::error!(damage = %damage, "the buffer holds a damaged part; its records are counted as Corrupt");
                }
                return (spool, recovery);
            }
            Ok(Err(cause)) => board.block(PART, chain(&cause)),
            Err(ended) => board.block(PART, format!("opening {} ended early: {ended}", disk.path)),
        }
        tokio::time::sleep(RETRY_EVERY).await;
    }
}
