//! `spool quarantine`: what destinations found bad and an agent set aside: a list of it, its items in words, an export, another
//! delivery, and giving it up.
//!
//! It works beside a running agent: a file is whole or not there, and its name says what became of it. A tool renames it; the agent counts
//! it within seconds, or at its next start, and deletes it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde::Serialize;
use spool::{QUARANTINE_DIRECTORY, QuarantineFile, QuarantineState, decode_quarantine_file};

use super::export::{self, Exporter};
use super::items::Decoded;
use super::{quarantine_replay, show};
use crate::args::{ExportArgs, Names, Output, QuarantineSelection, QuarantineVerb};

/// A file of the quarantine.
pub(super) struct Aside {
    /// Its name without what says the state.
    stem: String,
    state: QuarantineState,
    pub(super) file: QuarantineFile,
}

/// What lies in a quarantine.
pub(super) struct Shelf {
    path: PathBuf,
    /// By record, then by destination.
    held: Vec<Aside>,
    /// Files that cannot be read, and why.
    unreadable: Vec<String>,
}

/// What is said of one file.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    record: String,
    destination: String,
    signal: &'static str,
    items: u64,
    items_by_class: BTreeMap<&'static str, u32>,
    /// Which items of the record they were, counted from 0, first and last; none listed means all.
    positions: Vec<[u32; 2]>,
    bytes: usize,
    reason: &'static str,
    received: Option<String>,
    state: &'static str,
    file: String,
    first: Vec<String>,
}

/// Runs one verb on the quarantine of a buffer.
pub(super) fn run(directory: &Path, verb: Option<&QuarantineVerb>, output: Output) -> anyhow::Result<ExitCode> {
    // A directory that is no buffer is told as everywhere.
    let inspection = super::inspect(directory)?;
    let shelf = Shelf::open(&directory.join(QUARANTINE_DIRECTORY))?;
    match verb {
        None => shelf.list(output)?,
        Some(QuarantineVerb::Cat { selection, items }) => shelf.show(selection, *items, output)?,
        Some(QuarantineVerb::Export { selection, export }) => return shelf.export(selection, export, output),
        Some(QuarantineVerb::Replay { selection, endpoint, pace }) => {
            let buffer = inspection.buffer_id().unwrap_or_default();
            return quarantine_replay::replay(&shelf, &buffer, selection, endpoint, pace, output);
        }
        Some(QuarantineVerb::Remove { selection, all }) => shelf.remove(selection, *all, output)?,
    }
    Ok(if shelf.unreadable.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Shelf {
    /// Reads every file; a buffer in which nothing was ever set aside has an empty quarantine.
    fn open(path: &Path) -> anyhow::Result<Self> {
        let mut shelf = Self { path: path.to_owned(), held: Vec::new(), unreadable: Vec::new() };
        let unreadable = || format!("cannot read {}: check the permissions", path.display());
        let entries = match std::fs::read_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(shelf),
            entries => entries.with_context(unreadable)?,
        };
        for entry in entries {
            let name = entry.with_context(unreadable)?.file_name();
            if let Some((state, stem)) = name.to_str().and_then(QuarantineState::parse) {
                shelf.read(state, stem)?;
            }
        }
        shelf.held.sort_by(|one, other| (one.file.id, &one.file.destination).cmp(&(other.file.id, &other.file.destination)));
        Ok(shelf)
    }

    fn read(&mut self, state: QuarantineState, stem: &str) -> anyhow::Result<()> {
        let path = self.place(stem, state);
        let content = match std::fs::read(&path) {
            // The agent counted it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            content => content.with_context(|| format!("cannot read {}: check the disk and the permissions", path.display()))?,
        };
        match decode_quarantine_file(&content.into()) {
            Some(file) => self.held.push(Aside { stem: stem.to_owned(), state, file }),
            None => self.unreadable.push(format!("{} is damaged, or a newer release's", path.display())),
        }
        Ok(())
    }

    fn place(&self, stem: &str, state: QuarantineState) -> PathBuf {
        self.path.join(format!("{stem}{}", state.suffix()))
    }

    /// What is held, and was asked for.
    pub(super) fn select<'a>(&'a self, selection: &'a QuarantineSelection) -> impl Iterator<Item = &'a Aside> {
        let is_held = |aside: &&Aside| aside.state == QuarantineState::Held;
        self.held.iter().filter(is_held).filter(|aside| takes(selection, &aside.file))
    }

    /// Takes hold of the quarantine against other tools. The agent goes on: what it does to a file that is held is nothing.
    pub(super) fn lock(&self) -> anyhow::Result<File> {
        let directory = File::open(&self.path).with_context(|| format!("cannot open {}", self.path.display()))?;
        let busy = || format!("another tool works on {}: wait until it is done", self.path.display());
        directory.try_lock().map_err(io::Error::from).with_context(busy)?;
        Ok(directory)
    }

    /// Says by its name what became of a file. Whether it was still held; durable once the directory is synced.
    pub(super) fn mark(&self, aside: &Aside, state: QuarantineState) -> anyhow::Result<bool> {
        let (from, to) = (self.place(&aside.stem, QuarantineState::Held), self.place(&aside.stem, state));
        match std::fs::rename(&from, &to) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot rename {}: check the permissions", from.display())),
        }
    }

    fn list(&self, output: Output) -> anyhow::Result<()> {
        let rows: Vec<Row> = self.held.iter().map(|aside| Row::of(self, aside, Vec::new())).collect();
        self.warn();
        match output {
            Output::Json => show::json(&rows),
            Output::Table if rows.is_empty() => show::text(format!("nothing is in quarantine: {} holds no file\n", self.path.display())),
            Output::Table => {
                let headings = ["RECORD", "DESTINATION", "SIGNAL", ">ITEMS", ">SIZE", "WHY", "RECEIVED (UTC)?", "STATE"];
                let cells = self.held.iter().map(Aside::cells).collect();
                show::text(show::table(&headings, cells))
            }
        }
    }

    fn show(&self, selection: &QuarantineSelection, items: usize, output: Output) -> anyhow::Result<()> {
        self.warn();
        for aside in self.select(selection) {
            let file = &aside.file;
            let first =
                Decoded::of(file.signal, &file.body).map(|decoded| decoded.first(items)).unwrap_or_else(|cause| vec![cause.to_string()]);
            let row = Row::of(self, aside, first);
            match output {
                Output::Json => show::json(&row)?,
                Output::Table => show::text(row.describe(aside))?,
            }
        }
        Ok(())
    }

    fn export(&self, selection: &QuarantineSelection, args: &ExportArgs, output: Output) -> anyhow::Result<ExitCode> {
        export::check(args, &selection.signal)?;
        let mut exporter = Exporter::open(args)?;
        self.unreadable.iter().for_each(|why| exporter.leave_out(why.clone()));
        for Aside { file, .. } in self.select(selection) {
            exporter.add(file.id, file.signal, file.counts.total(), Ok(file.body.clone()))?;
        }
        exporter.finish(output)
    }

    fn remove(&self, selection: &QuarantineSelection, is_all: bool, output: Output) -> anyhow::Result<()> {
        if selection.names.is_empty() && !is_all {
            bail!("say which records are given up, e.g. normal/17, or --all");
        }
        let directory = self.lock()?;
        let (mut records, mut items) = (0_u64, 0_u64);
        for aside in self.select(selection) {
            if self.mark(aside, QuarantineState::Removed)? {
                (records, items) = (records + 1, items + aside.file.counts.total());
            }
        }
        directory.sync_all().with_context(|| format!("cannot sync {}", self.path.display()))?;
        match output {
            Output::Json => show::json(&serde_json::json!({ "removedRecords": records, "removedItems": items })),
            Output::Table => {
                let (records, items) = (show::counted(records, "record", "records"), show::counted(items, "item", "items"));
                show::text(format!("{records} with {items} given up: the agent counts them as Rejected, within seconds if it runs\n"))
            }
        }
    }

    /// Names on standard error what cannot be read.
    fn warn(&self) {
        self.unreadable.iter().for_each(|why| eprintln!("damaged: {why}"));
    }
}

/// Whether a file is among those that were asked for.
fn takes(selection: &QuarantineSelection, file: &QuarantineFile) -> bool {
    let QuarantineSelection { names, destination, signal } = selection;
    let is_in = |names: &Names| names.class == file.id.class && (names.first..=names.last).contains(&file.id.sequence);
    (names.is_empty() || names.iter().any(is_in))
        && destination.as_ref().is_none_or(|name| *name == file.destination)
        && (signal.is_empty() || signal.contains(&file.signal))
}

impl Aside {
    fn state(&self) -> &'static str {
        match self.state {
            QuarantineState::Held => "held",
            QuarantineState::Removed => "given up, not counted yet",
            QuarantineState::Replayed => "delivered, not counted yet",
        }
    }

    fn cells(&self) -> Vec<String> {
        let file = &self.file;
        vec![
            show::name(file.id),
            file.destination.clone(),
            file.signal.label().to_owned(),
            show::count(file.counts.total()),
            show::bytes(file.body.len() as u64),
            file.reason.name().to_owned(),
            show::time(Some(file.received_unix_ms)),
            self.state().to_owned(),
        ]
    }
}

impl Row {
    fn of(shelf: &Shelf, aside: &Aside, first: Vec<String>) -> Self {
        let Aside { stem, state, file } = aside;
        let path = shelf.place(stem, *state);
        Self {
            record: show::name(file.id),
            destination: file.destination.clone(),
            signal: file.signal.label(),
            items: file.counts.total(),
            items_by_class: file.counts.iter().filter(|&(_, items)| items > 0).map(|(class, items)| (class.label(), items)).collect(),
            positions: file.items.iter().map(|range| [range.start, range.end.saturating_sub(1)]).collect(),
            bytes: file.body.len(),
            reason: file.reason.name(),
            received: show::rfc3339(Some(file.received_unix_ms)),
            state: aside.state(),
            file: path.display().to_string(),
            first,
        }
    }

    fn describe(&self, aside: &Aside) -> String {
        let (items, classes) = (show::counted(self.items, "item", "items"), show::classes(&aside.file.counts));
        let received = self.received.as_deref().unwrap_or("at no time");
        let places: Vec<_> = self.positions.iter().map(|[first, last]| show::ids((*first).into(), (*last).into())).collect();
        let which = if places.is_empty() { "the whole record".to_owned() } else { format!("items {} of the record", places.join(", ")) };
        let mut text = format!("{}  {}  {items} ({classes})  {}  {received}\n", self.record, self.signal, show::bytes(self.bytes as u64));
        text.push_str(&format!("    {which}; {} finds them bad: {}\n", self.destination, self.reason));
        self.first.iter().for_each(|line| text.push_str(&format!("    {line}\n")));
        if self.items > self.first.len() as u64 && !self.first.is_empty() {
            text.push_str("    …\n");
        }
        text
    }
}
