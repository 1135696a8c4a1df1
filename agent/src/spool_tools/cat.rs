//! `spool cat`: records in words.

use std::process::ExitCode;

use anyhow::Context;
use pipeline::{Checkpoint, Standing, Stored};
use serde::Serialize;

use super::items::Decoded;
use super::selection::Selection;
use super::{records, show};
use crate::args::{Output, SelectionArgs};

/// What is said of one record.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    record: String,
    class: &'static str,
    id: u64,
    signal: &'static str,
    items: u64,
    items_by_class: std::collections::BTreeMap<&'static str, u32>,
    bytes: u32,
    received: Option<String>,
    segment: String,
    offset: u64,
    /// Who needs it: destinations, or `new` for a record that the checkpoint does not know.
    needed_by: Vec<String>,
    first: Vec<String>,
    /// Why the body could not be shown.
    unreadable: Option<String>,
}

/// Shows the selected records; fails with exit code 1 if one of them is damaged.
pub(super) fn cat(args: &SelectionArgs, items: usize, output: Output) -> anyhow::Result<ExitCode> {
    let inspection = super::inspect(&args.dir)?;
    let selection = Selection::resolve(args, inspection.checkpoint())?;
    let (mut shown, mut unreadable) = (0_u64, 0_u64);
    let damage = records::each(&args.dir, &inspection, &selection, "reading", |segment, record, body| {
        let first = body.map_err(anyhow::Error::from).and_then(|body| {
            let decoded = Decoded::of(record.stored.signal, &body).context("the body is not shown")?;
            Ok(decoded.first(items))
        });
        unreadable += u64::from(first.is_err());
        shown += 1;
        let row = Shown::of(&record.stored, &segment.name, record.offset, inspection.checkpoint(), first);
        match output {
            Output::Json => show::json(&row),
            Output::Table => show::text(row.describe(record)),
        }
    })?;
    for damage in &damage {
        eprintln!("damaged: {} at {}, {} bytes: {}", damage.file, damage.offset, damage.bytes, show::damage(damage.kind));
    }
    if shown == 0 {
        eprintln!("no record of {} was asked for with this selection; `forebay-agent spool ls` shows what there is", args.dir.display());
    }
    Ok(if unreadable == 0 && damage.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Shown {
    fn of(record: &Stored, segment: &str, offset: u64, checkpoint: Option<&Checkpoint>, first: anyhow::Result<Vec<String>>) -> Self {
        let (first, unreadable) = match first {
            Ok(first) => (first, None),
            Err(error) => (Vec::new(), Some(format!("{error:#}"))),
        };
        Self {
            record: show::name(record.id),
            class: record.id.class.label(),
            id: record.id.sequence,
            signal: record.signal.label(),
            items: record.counts.total(),
            items_by_class: record.counts.iter().filter(|&(_, items)| items > 0).map(|(class, items)| (class.label(), items)).collect(),
            bytes: record.bytes,
            received: show::rfc3339(Some(record.received_unix_ms)),
            segment: segment.to_owned(),
            offset,
            needed_by: needed_by(checkpoint, record),
            first,
            unreadable,
        }
    }

    fn describe(&self, record: &spool::Located) -> String {
        let needed =
            if self.needed_by.is_empty() { "needed by nobody".to_owned() } else { format!("needed by {}", self.needed_by.join(", ")) };
        let items = show::counted(self.items, "item", "items");
        let (classes, size) = (show::classes(&record.stored.counts), show::bytes(u64::from(self.bytes)));
        let received = self.received.as_deref().unwrap_or("at no time");
        let mut text = format!("{}  {}  {items} ({classes})  {size}  {received}  {needed}\n", self.record, self.signal);
        for line in &self.first {
            text.push_str(&format!("    {line}\n"));
        }
        match &self.unreadable {
            Some(why) => text.push_str(&format!("    {why}\n")),
            None if self.items > self.first.len() as u64 && !self.first.is_empty() => text.push_str("    …\n"),
            None => {}
        }
        text
    }
}

fn needed_by(checkpoint: Option<&Checkpoint>, record: &Stored) -> Vec<String> {
    let Some(checkpoint) = checkpoint else { return vec!["new".to_owned()] };
    match checkpoint.standing(record.id) {
        Standing::Settled => Vec::new(),
        Standing::New => vec!["new".to_owned()],
        Standing::Held { needing, .. } => {
            let names = checkpoint.settled.iter().enumerate().filter(|(position, _)| needing & (1 << position) != 0);
            names.map(|(_, (name, _))| name.clone()).collect()
        }
    }
}
