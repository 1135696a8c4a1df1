//! A backlog on disk as an agent leaves it: records of export requests, durable, with a checkpoint that names them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use otlp::{Limits, Rules, inspect};
use pipeline::{BufferMode, Origin, Persist, Pipeline, Request, Verdict};
use spool::{Append, Options, Spool};
use vocabulary::Signal;

use crate::{engine, payload};

/// What an agent calls its buffer's owner outside a cluster.
const IDENTITY: &str = "local";
/// Requests of one commit.
const GROUP: usize = 16;

/// Fills the buffer of an agent with at least so many bytes of requests; returns their spans.
pub(crate) fn fill(directory: &Path, bytes: u64) -> Result<u64> {
    let options = Options { segment_bytes: 64 << 20, identity: IDENTITY.into(), budget_bytes: 20 << 30, host: "bench".into() };
    let (mut log, recovery) = Spool::open(directory, options)?;
    let mut engine = Pipeline::new(engine::config(BufferMode::Mirror, 1), Some(recovery.recovered));
    let requests: Vec<_> = (0..GROUP as u64).map(payload::request).collect();
    let (mut kept, mut spans) = (0, 0);
    while kept < bytes {
        let mut stored = Vec::with_capacity(GROUP);
        for body in &requests {
            let counts = inspect(Signal::Traces, body, &Rules::default(), &Limits::default())?;
            let request = Request { signal: Signal::Traces, origin: Origin::Client, counts, body: body.clone() };
            let Verdict::Admitted(admission) = engine.offer(Duration::ZERO, 1, request) else { bail!("the engine has room, and refused") };
            for Persist { id, signal, counts, received_unix_ms, body, .. } in admission.persist {
                log.append(&Append { id, signal, counts, received_unix_ms, body: &body })?;
                stored.push(id);
            }
            kept += body.len() as u64;
            spans += counts.total();
        }
        log.commit()?;
        stored.into_iter().for_each(|id| engine.handle_stored(Duration::ZERO, id));
    }
    log.write_checkpoint(&engine.checkpoint())?;
    Ok(spans)
}
