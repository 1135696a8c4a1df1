//! The log against the bare disk at commits of 1 MiB, on new blocks and on used ones, and how many bytes reach the disk for each
//! byte that was to be kept.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use pipeline::{BufferMode, Checkpoint, IdRanges, Pipeline, RecordId};
use spool::{Append, Options, Spool};
use vocabulary::{Class, ClassCounts, Signal};

use crate::Setup;
use crate::disk::BareFile;
use crate::figure::{Figure, pairs};
use crate::{engine, machine, payload};

/// A commit.
const COMMIT_BYTES: usize = 1 << 20;
/// Commits of one sample.
const COMMITS: u64 = 96;
/// A segment, and the part of the bare file that is written between two samples' ends.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Time between two checkpoints, as in the agent.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(200);

/// What was promised.
const RATE_TARGET: f64 = 0.7;
const AMPLIFICATION_TARGET: f64 = 1.1;

/// A log that settles every record once it is durable.
struct Written {
    spool: Spool,
    body: Vec<u8>,
    next: u64,
    checkpointed: Instant,
    /// Whether files of settled segments come back into use.
    is_recycling: bool,
    settled: [IdRanges; Class::COUNT],
    checkpoint: Checkpoint,
}

pub(crate) fn run(setup: &Setup) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (is_used, blocks) in [(false, "new blocks"), (true, "used blocks")] {
        let directory = setup.scratch.join(blocks.replace(' ', "-"));
        // Four records fill a commit but for their headers.
        let mut written = Written::open(&directory, COMMIT_BYTES / 4 - 64, is_used)?;
        written.rate(COMMITS * 4, 4)?;
        let file_bytes = if is_used { SEGMENT_BYTES } else { (u64::from(setup.samples) + 1) * COMMITS * COMMIT_BYTES as u64 };
        let mut bare = BareFile::create(&directory.join("bare"), file_bytes, payload::noise(COMMIT_BYTES), is_used)?;
        let found = pairs(setup.samples, || written.rate(COMMITS, 4), || bare.rate(COMMITS, COMMIT_BYTES))?;
        let megabytes = |rates: Vec<f64>| rates.into_iter().map(|rate| rate / 1e6).collect();
        figures.push(Figure::plain(format!("commits of 1 MiB on {blocks}, by the bare disk's"), "x", found.ratios).at_least(RATE_TARGET));
        figures.push(Figure::plain(format!("the same, of the log on {blocks}"), "MB/s", megabytes(found.ours)));
        figures.push(Figure::plain(format!("the same, of the bare disk on {blocks}"), "MB/s", megabytes(found.theirs)));
    }
    for (name, body, records) in [("1 MiB", COMMIT_BYTES / 4 - 64, 4), ("64 KiB", 4 << 10, 16)] {
        let directory = setup.scratch.join(format!("amplified-{records}"));
        let mut written = Written::open(&directory, body, true)?;
        written.rate(COMMITS, records)?;
        let found = (0..setup.samples).map(|_| written.amplification(COMMITS, records)).collect::<Result<_>>()?;
        figures.push(Figure::plain(format!("bytes written per byte kept, commits of {name}"), "x", found).at_most(AMPLIFICATION_TARGET));
    }
    Ok(figures)
}

impl Written {
    fn open(directory: &Path, body_bytes: usize, is_recycling: bool) -> Result<Self> {
        let budget_bytes = if is_recycling { 16 * SEGMENT_BYTES } else { 0 };
        let options = Options { segment_bytes: SEGMENT_BYTES, identity: "bench".into(), budget_bytes, host: "bench".into() };
        let (spool, _) = Spool::open(directory, options)?;
        let body = payload::noise(body_bytes);
        let checkpoint = Pipeline::new(engine::config(BufferMode::Mirror, 1), None).checkpoint();
        Ok(Self { spool, body, next: 1, checkpointed: Instant::now(), is_recycling, settled: Default::default(), checkpoint })
    }

    /// Commits so many times so many records, with a checkpoint now and then; bytes of bodies per second.
    fn rate(&mut self, commits: u64, records: u64) -> Result<f64> {
        let started = Instant::now();
        for _ in 0..commits {
            self.commit(records)?;
        }
        let bytes = commits * records * self.body.len() as u64;
        Ok(bytes as f64 / started.elapsed().as_secs_f64())
    }

    fn commit(&mut self, records: u64) -> Result<()> {
        for _ in 0..records {
            let id = RecordId { class: Class::Normal, sequence: self.next };
            let counts = ClassCounts::of(Class::Normal, 512);
            self.spool.append(&Append { id, signal: Signal::Traces, counts, received_unix_ms: 1, body: &self.body })?;
            self.next += 1;
        }
        self.spool.commit()?;
        if self.checkpointed.elapsed() >= CHECKPOINT_EVERY {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// Settles all that is durable.
    fn checkpoint(&mut self) -> Result<()> {
        self.checkpointed = Instant::now();
        let ranges = std::iter::once((1, self.next - 1)).collect();
        if let Some(settled) = self.settled.get_mut(Class::Normal.index()) {
            *settled = ranges;
        }
        self.checkpoint.generation += 1;
        self.checkpoint.settled = vec![("backend".into(), self.settled.clone())];
        self.checkpoint.next_sequence = [self.next; Class::COUNT];
        self.spool.write_checkpoint(&self.checkpoint)?;
        if self.is_recycling {
            self.spool.release(&self.settled)?;
        }
        Ok(())
    }

    fn amplification(&mut self, commits: u64, records: u64) -> Result<f64> {
        let before = machine::written_bytes()?;
        self.rate(commits, records)?;
        let written = machine::written_bytes()? - before;
        Ok(written as f64 / (commits * records * self.body.len() as u64) as f64)
    }
}
