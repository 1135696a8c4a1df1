//! What memory the log takes while nothing comes, and what each record takes that is held. Counted at the allocator, so it is
//! the same on every machine; the promise itself is kept by a test of `spool`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use pipeline::{BufferMode, Origin, Pipeline, RecordId, Request, Verdict};
use spool::{Append, Options, Spool};
use vocabulary::{Class, ClassCounts, Signal};

use crate::figure::Figure;
use crate::{Setup, engine, payload};

/// Records that are held while they are counted.
const RECORDS: u64 = 1_000_000;
/// Records of one commit.
const GROUP: u64 = 1_000;

/// What was promised.
const IDLE_TARGET_MIB: f64 = 1.0;
const RECORD_TARGET_BYTES: f64 = 64.0;

pub(crate) fn run(setup: &Setup) -> Result<Vec<Figure>> {
    let mut log = None;
    let mut failed = None;
    let idle = allocation_counter::measure(|| match open(setup) {
        Ok(opened) => log = Some(opened),
        Err(error) => failed = Some(error),
    });
    failed.map_or(Ok(()), Err)?;
    let mut log = log.context("the log was not opened")?;
    let mut filled = Ok(());
    let held = allocation_counter::measure(|| filled = fill(&mut log));
    filled?;
    let mut engine = None;
    let in_engine = allocation_counter::measure(|| engine = Some(hold()));
    drop(engine.context("the engine was not filled")??);
    let per_record = |bytes: i64| vec![bytes as f64 / RECORDS as f64];
    Ok(vec![
        Figure::plain("an idle log", "MiB", vec![idle.bytes_current as f64 / f64::from(1 << 20)]).at_most(IDLE_TARGET_MIB),
        Figure::plain("a record held on disk, in the log", "bytes", per_record(held.bytes_current)).at_most(RECORD_TARGET_BYTES),
        Figure::plain("a record held, in the engine, beside its body", "bytes", per_record(in_engine.bytes_current)),
    ])
}

/// A log that every class has written to, and that has rested since.
fn open(setup: &Setup) -> Result<Spool> {
    let options = Options { segment_bytes: 16 << 20, identity: "bench".into(), budget_bytes: 1 << 30, host: "bench".into() };
    let (mut log, _) = Spool::open(&setup.scratch.join("log"), options)?;
    let body = payload::noise(300 << 10);
    for class in Class::ALL {
        append(&mut log, RecordId { class, sequence: 1 }, &body)?;
    }
    log.commit()?;
    log.write_checkpoint(&Pipeline::new(engine::config(BufferMode::Mirror, 1), None).checkpoint())?;
    Ok(log)
}

fn fill(log: &mut Spool) -> Result<()> {
    for first in (2..RECORDS + 2).step_by(GROUP as usize) {
        for sequence in first..first + GROUP {
            append(log, RecordId { class: Class::Normal, sequence }, b"thirty-two bytes of a small body")?;
        }
        log.commit()?;
    }
    Ok(())
}

fn append(log: &mut Spool, id: RecordId, body: &[u8]) -> Result<()> {
    let counts = ClassCounts::of(id.class, 1);
    Ok(log.append(&Append { id, signal: Signal::Traces, counts, received_unix_ms: 1, body })?)
}

fn hold() -> Result<Pipeline> {
    let mut pipeline = Pipeline::new(engine::config(BufferMode::Memory, 8), None);
    for _ in 0..RECORDS {
        let counts = ClassCounts::of(Class::Normal, 1);
        let request = Request { signal: Signal::Traces, origin: Origin::Client, counts, body: Bytes::from_static(b"body") };
        anyhow::ensure!(matches!(pipeline.offer(Duration::ZERO, 1, request), Verdict::Admitted(_)), "the engine has room, and refused");
    }
    Ok(pipeline)
}
