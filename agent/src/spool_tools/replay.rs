//! `spool replay`: delivers by hand what one destination still needs, and marks exactly what it confirmed in the checkpoint, so that the
//! agent neither sends nor counts it again.
//!
//! It owns the directory meanwhile. A checkpoint follows at most 0.2 s after an answer: that is what an end without warning delivers
//! twice. What the destination refuses stays where it is. Space comes back when the agent runs again.

use std::ops::Range;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use bytes::Bytes;
use outputs::OtlpGrpc;
use pipeline::{Checkpoint, Standing, Stored};
use serde::Serialize;
use spool::{Options, Recovery, Spool};

use super::selection::{Selection, destination, is_needed_by};
use super::send::{self, End, Ledger};
use super::{INTERRUPTED, show};
use crate::args::{Output as Form, Pace, SelectionArgs};

/// Nothing is appended, so this only says that no evidence of damage is to be cleared away.
const SEGMENT_BYTES: u64 = 1 << 30;
/// Refused records that are named one by one, and damaged ones.
const NAMED_MAX: usize = 100;

/// What a replay did.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Replayed {
    destination: String,
    endpoint: String,
    /// Selected, and needed by the destination at the start.
    records: u64,
    items: u64,
    /// Confirmed, and marked as such in the directory.
    delivered_records: u64,
    delivered_items: u64,
    /// Items the destination rejected of records it took.
    rejected_items: u64,
    /// Refused as a whole; they stay in the directory.
    refused_records: u64,
    refused: Vec<String>,
    /// Damaged; they stay too, and the agent counts them when it comes to them.
    unreadable_records: u64,
    unreadable: Vec<String>,
    /// Records that no checkpoint knows, in a buffer of several destinations: left to the agent.
    new_records: u64,
    ended: &'static str,
    error: Option<String>,
}

/// The directory, and what its next checkpoint will say.
struct Books<'a> {
    spool: Spool,
    checkpoint: Checkpoint,
    destination: &'a str,
    is_dirty: bool,
    done: Replayed,
}

/// Replays the selected records; fails with exit code 1 if one of them was not delivered.
pub(super) fn replay(args: &SelectionArgs, name: &str, endpoint: &str, pace: &Pace, form: Form) -> anyhow::Result<ExitCode> {
    OtlpGrpc::check(endpoint)?;
    let inspection = super::inspect(&args.dir)?;
    if let Some(owner) = inspection.owner() {
        bail!(
            "{} is in use by {owner}, which delivers what it holds by itself: stop it first. Reading (ls, verify, cat, export) works beside it",
            args.dir.display()
        );
    }
    // What was asked for wrongly is said before anything is opened for writing.
    destination(inspection.checkpoint(), name)?;
    Selection::resolve(args, inspection.checkpoint())?;
    let Some(pipeline) = inspection.pipeline().map(str::to_owned) else {
        bail!("{} does not say whose buffer it is: start the agent on it once, which restores that", args.dir.display());
    };
    drop(inspection);
    let (mut books, stored) = Books::open(&args.dir, pipeline, name, endpoint)?;
    let (position, selection) = (destination(Some(&books.checkpoint), name)?, Selection::resolve(args, Some(&books.checkpoint))?);
    let records = books.choose(stored, &selection, position);
    let buffer = books.spool.buffer_id();
    let end = if records.is_empty() { End::Done } else { send::run(records, &buffer, endpoint, pace, &mut books)? };
    books.write()?;
    books.done.tell(&end, form)
}

impl<'a> Books<'a> {
    fn open(directory: &Path, pipeline: String, name: &'a str, endpoint: &str) -> anyhow::Result<(Self, Vec<Stored>)> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let options = Options { segment_bytes: SEGMENT_BYTES, budget_bytes: 0, identity: pipeline, host: format!("{host} (spool replay)") };
        let (spool, Recovery { recovered, damage, damage_unlisted }) = Spool::open(directory, options)?;
        for damage in &damage {
            eprintln!("damaged: {damage}");
        }
        if damage_unlisted > 0 {
            eprintln!("damaged: {damage_unlisted} more places");
        }
        let Some(checkpoint) = recovered.checkpoint else {
            bail!("{} has no checkpoint that can be read: start the agent on it once", directory.display());
        };
        let done = Replayed::to(name, endpoint);
        Ok((Self { spool, checkpoint, destination: name, is_dirty: false, done }, recovered.stored))
    }

    /// What is to be sent: selected, and needed by the destination. A record that the checkpoint does not know is taken into the
    /// books, or left to the agent, which knows the destinations that take it.
    fn choose(&mut self, stored: Vec<Stored>, selection: &Selection, position: usize) -> Vec<Stored> {
        let mut records = Vec::new();
        for record in stored {
            if !selection.takes(Some(&self.checkpoint), &record) || !is_needed_by(&self.checkpoint, &record, position) {
                continue;
            }
            if self.checkpoint.standing(record.id) == Standing::New && !self.checkpoint.receive_new(&record) {
                self.done.new_records += 1;
                continue;
            }
            self.done.choose(&record);
            records.push(record);
        }
        records
    }

    /// Makes what was noted durable.
    fn write(&mut self) -> anyhow::Result<()> {
        if !self.is_dirty {
            return Ok(());
        }
        self.checkpoint.generation += 1;
        let unmarked = "the checkpoint could not be written: what was delivered since the one before is sent again the next time";
        self.spool.write_checkpoint(&self.checkpoint).context(unmarked)?;
        self.is_dirty = false;
        Ok(())
    }
}

impl Ledger for Books<'_> {
    fn body(&mut self, record: &Stored) -> Option<Bytes> {
        match self.spool.read(record.id) {
            Ok(body) => Some(body),
            Err(error) => {
                self.done.unreadable_records += 1;
                if self.done.unreadable.len() < NAMED_MAX {
                    self.done.unreadable.push(error.to_string());
                }
                None
            }
        }
    }

    fn items(&self, _: &Stored) -> Option<Range<u32>> {
        None
    }

    fn delivered(&mut self, record: &Stored, rejected: u64, attempts: u64) -> anyhow::Result<()> {
        self.is_dirty |= self.checkpoint.settle(self.destination, record, rejected, attempts);
        self.done.delivered(record, rejected);
        Ok(())
    }

    fn refused(&mut self, record: &Stored, why: &str) {
        self.done.refused(record, why);
    }

    fn tick(&mut self) -> anyhow::Result<()> {
        self.write()
    }
}

impl Replayed {
    pub(super) fn to(destination: &str, endpoint: &str) -> Self {
        Self { destination: destination.to_owned(), endpoint: endpoint.to_owned(), ..Self::default() }
    }

    /// A record is to be sent.
    pub(super) fn choose(&mut self, record: &Stored) {
        self.records += 1;
        self.items += record.counts.total();
    }

    pub(super) fn delivered(&mut self, record: &Stored, rejected: u64) {
        let rejected = rejected.min(record.counts.total());
        self.delivered_records += 1;
        self.delivered_items += record.counts.total() - rejected;
        self.rejected_items += rejected;
    }

    pub(super) fn refused(&mut self, record: &Stored, why: &str) {
        self.refused_records += 1;
        if self.refused.len() < NAMED_MAX {
            self.refused.push(format!("{}: {why}", show::name(record.id)));
        }
    }

    pub(super) fn tell(mut self, end: &End, form: Form) -> anyhow::Result<ExitCode> {
        (self.ended, self.error) = match end {
            End::Done => ("done", None),
            End::Interrupted => ("interrupted", None),
            End::GaveUp(error) => ("gaveUp", Some(error.clone())),
        };
        match form {
            Form::Json => show::json(&self)?,
            Form::Table => show::text(self.describe(end))?,
        }
        Ok(match end {
            End::Interrupted => ExitCode::from(INTERRUPTED),
            End::Done if self.delivered_records == self.records => ExitCode::SUCCESS,
            End::Done | End::GaveUp(_) => ExitCode::FAILURE,
        })
    }

    fn describe(&self, end: &End) -> String {
        let mut text = String::new();
        let mut line = |words: String| text.push_str(&format!("{words}\n"));
        let name = &self.destination;
        self.refused.iter().for_each(|refused| line(format!("refused: {refused}")));
        self.unreadable.iter().for_each(|unreadable| line(format!("damaged: {unreadable}")));
        if self.unreadable_records > 0 {
            line(format!(
                "{} damaged: the agent counts them when it comes to them",
                show::counted(self.unreadable_records, "record", "records")
            ));
        }
        if self.refused_records > 0 {
            line(format!("{} refused by {name}: they stay in the buffer", show::counted(self.refused_records, "record", "records")));
        }
        if self.rejected_items > 0 {
            line(format!("{} of records it took rejected by {name}", show::counted(self.rejected_items, "item", "items")));
        }
        if self.new_records > 0 {
            let records = show::counted(self.new_records, "record", "records");
            line(format!("{records} left to the agent: no checkpoint says which of the buffer's destinations take them"));
        }
        if self.records == 0 {
            line(format!("nothing to do: {name} needs no record of this selection"));
            return text;
        }
        let (done, all) = (show::count(self.delivered_records), show::counted(self.records, "record", "records"));
        line(format!(
            "{done} of {all} delivered to {} ({}) and marked",
            self.endpoint,
            show::counted(self.delivered_items, "item", "items")
        ));
        match end {
            End::Done => {}
            End::Interrupted => line("interrupted: the same command goes on from here".to_owned()),
            End::GaveUp(error) => line(format!("given up: {name} takes nothing ({error}); the same command goes on from here")),
        }
        text
    }
}
