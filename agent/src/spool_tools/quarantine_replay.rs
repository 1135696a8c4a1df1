//! `spool quarantine DIR replay`: another delivery of what a destination found bad, after it or the data was mended. What it takes is
//! marked as such, and the agent counts it as delivered; what it still finds bad stays.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::process::ExitCode;

use anyhow::{Context, bail};
use bytes::Bytes;
use outputs::OtlpGrpc;
use pipeline::{RecordId, Stored};
use spool::QuarantineState;

use super::quarantine::{Aside, Shelf};
use super::replay::Replayed;
use super::send::{self, End, Ledger};
use crate::args::{Output, Pace, QuarantineSelection};

/// The files on their way, and what was noted of them.
struct Books<'a> {
    shelf: &'a Shelf,
    asides: BTreeMap<RecordId, &'a Aside>,
    /// Held against other tools, and synced to make what was marked durable.
    directory: File,
    is_dirty: bool,
    done: Replayed,
}

/// Delivers what is selected; fails with exit code 1 if some of it was not taken.
pub(super) fn replay(
    shelf: &Shelf,
    buffer: &str,
    selection: &QuarantineSelection,
    endpoint: &str,
    pace: &Pace,
    form: Output,
) -> anyhow::Result<ExitCode> {
    OtlpGrpc::check(endpoint)?;
    let Some(name) = &selection.destination else {
        bail!("say for which destination the items were set aside: --destination NAME, as `spool quarantine DIR` lists it");
    };
    let asides: BTreeMap<_, _> = shelf.select(selection).map(|aside| (aside.file.id, aside)).collect();
    let mut done = Replayed::to(name, endpoint);
    if asides.is_empty() {
        return done.tell(&End::Done, form);
    }
    let records: Vec<Stored> = asides.values().map(|aside| stored(aside)).collect();
    records.iter().for_each(|record| done.choose(record));
    let mut books = Books { shelf, asides, directory: shelf.lock()?, is_dirty: false, done };
    let end = send::run(records, buffer, endpoint, pace, &mut books)?;
    books.tick()?;
    books.done.tell(&end, form)
}

fn stored(aside: &Aside) -> Stored {
    let file = &aside.file;
    let bytes = u32::try_from(file.body.len()).unwrap_or(u32::MAX);
    Stored { id: file.id, signal: file.signal, counts: file.counts, bytes, received_unix_ms: file.received_unix_ms }
}

impl Ledger for Books<'_> {
    fn body(&mut self, record: &Stored) -> Option<Bytes> {
        self.asides.get(&record.id).map(|aside| aside.file.body.clone())
    }

    fn items(&self, record: &Stored) -> Option<Range<u32>> {
        let items = &self.asides.get(&record.id)?.file.items;
        Some(items.first()?.start..items.last()?.end)
    }

    fn delivered(&mut self, record: &Stored, rejected: u64, _: u64) -> anyhow::Result<()> {
        if rejected > 0 {
            // Nothing says which of them, so the file cannot be counted as one or the other.
            self.done.refused(record, &format!("{rejected} of its {} items rejected", record.counts.total()));
            return Ok(());
        }
        let Some(aside) = self.asides.get(&record.id) else { return Ok(()) };
        if self.shelf.mark(aside, QuarantineState::Replayed)? {
            self.is_dirty = true;
            self.done.delivered(record, 0);
        } else {
            self.done.refused(record, "delivered, but given up by somebody else meanwhile");
        }
        Ok(())
    }

    fn refused(&mut self, record: &Stored, why: &str) {
        self.done.refused(record, why);
    }

    fn tick(&mut self) -> anyhow::Result<()> {
        if self.is_dirty {
            self.directory.sync_all().context("what was delivered could not be marked durably: it may be delivered again")?;
            self.is_dirty = false;
        }
        Ok(())
    }
}
