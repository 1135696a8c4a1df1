//! `spool export`: records as OTLP, in the two forms that the OpenTelemetry Collector's file exporter writes and its readers take: one
//! JSON request per line, or each protobuf request after its length in four bytes, big-endian.
//!
//! A file is written beside its final name and renamed when it is complete and synced: an interrupted export leaves no file that
//! looks like a whole one, and running it again gives the same.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write, stdout};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use bytes::Bytes;
use pipeline::{RecordId, Stored};
use rustix::fs::OFlags;
use serde::Serialize;
use vocabulary::Signal;

use super::items::Decoded;
use super::selection::Selection;
use super::{records, show};
use crate::args::{ExportArgs, ExportFormat, Output, SelectionArgs};

/// What is left out is named one by one up to this many.
const NAMED_MAX: usize = 1000;

/// What was written.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Exported {
    records: u64,
    items: u64,
    bytes: u64,
    /// How many records and places of the log were left out, and why, one line each for the first of them.
    left_out_count: u64,
    left_out: Vec<String>,
    file: Option<PathBuf>,
}

/// Writes records, and notes what it wrote.
pub(super) struct Exporter {
    target: Target,
    format: ExportFormat,
    done: Exported,
}

/// Where records go.
enum Target {
    Stdout(BufWriter<std::io::Stdout>),
    File { partial: PathBuf, path: PathBuf, writer: BufWriter<File> },
}

/// Exports the selected records; fails with exit code 1 if one of them could not be.
pub(super) fn export(args: &SelectionArgs, export: &ExportArgs, output: Output) -> anyhow::Result<ExitCode> {
    check(export, &args.signal)?;
    let inspection = super::inspect(&args.dir)?;
    let selection = Selection::resolve(args, inspection.checkpoint())?;
    let mut exporter = Exporter::open(export)?;
    let damage = records::each(&args.dir, &inspection, &selection, "exporting", |_, record, body| {
        let Stored { id, signal, counts, .. } = record.stored;
        exporter.add(id, signal, counts.total(), body.map_err(anyhow::Error::from))
    })?;
    for damage in damage {
        exporter.leave_out(format!("{} at {}: {}", damage.file, damage.offset, show::damage(damage.kind)));
    }
    exporter.finish(output)
}

/// Whether what is asked for can be read again.
pub(super) fn check(export: &ExportArgs, signals: &[Signal]) -> anyhow::Result<()> {
    if export.format == ExportFormat::Proto && signals.len() != 1 {
        bail!("--format proto needs exactly one --signal: nothing in such a file says which signal a message is of");
    }
    Ok(())
}

fn encode(signal: Signal, body: &[u8], format: ExportFormat) -> anyhow::Result<Vec<u8>> {
    let mut message = Vec::new();
    match format {
        ExportFormat::Json => Decoded::of(signal, body)?.write_json(&mut message)?,
        ExportFormat::Proto => {
            message.extend_from_slice(&u32::try_from(body.len())?.to_be_bytes());
            message.extend_from_slice(body);
        }
    }
    Ok(message)
}

impl Exporter {
    pub(super) fn open(args: &ExportArgs) -> anyhow::Result<Self> {
        let target = Target::open(args.file.as_deref(), args.force)?;
        Ok(Self { target, format: args.format, done: Exported { file: args.file.clone(), ..Exported::default() } })
    }

    /// Writes a record, or leaves it out if its body cannot be had.
    pub(super) fn add(&mut self, id: RecordId, signal: Signal, items: u64, body: anyhow::Result<Bytes>) -> anyhow::Result<()> {
        match body.and_then(|body| encode(signal, &body, self.format)) {
            Err(why) => self.leave_out(format!("{}: {why:#}", show::name(id))),
            Ok(message) => {
                self.target.writer().write_all(&message)?;
                self.done.records += 1;
                self.done.items += items;
                self.done.bytes += message.len() as u64;
            }
        }
        Ok(())
    }

    pub(super) fn leave_out(&mut self, why: String) {
        self.done.left_out_count += 1;
        if self.done.left_out.len() < NAMED_MAX {
            self.done.left_out.push(why);
        }
    }

    pub(super) fn finish(self, output: Output) -> anyhow::Result<ExitCode> {
        self.target.finish()?;
        self.done.tell(self.done.file.is_some(), output)?;
        Ok(if self.done.left_out_count == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Exported {
    /// Says what was done: on standard output if the records did not go there.
    fn tell(&self, is_stdout_free: bool, output: Output) -> anyhow::Result<()> {
        let text = match output {
            Output::Json => format!("{}\n", serde_json::to_string(self)?),
            Output::Table => {
                let unnamed = self.left_out_count - self.left_out.len() as u64;
                let more = (unnamed > 0).then(|| format!("left out: {} more\n", show::count(unnamed)));
                let left_out = self.left_out.iter().map(|why| format!("left out: {why}\n")).chain(more);
                let to = self.file.as_ref().map(|file| format!(" to {}", file.display())).unwrap_or_default();
                let (records, items) = (show::counted(self.records, "record", "records"), show::counted(self.items, "item", "items"));
                left_out.chain([format!("exported {records} with {items}, {}{to}\n", show::bytes(self.bytes))]).collect()
            }
        };
        if is_stdout_free {
            return show::text(text);
        }
        eprint!("{text}");
        Ok(())
    }
}

impl Target {
    fn open(file: Option<&Path>, is_forced: bool) -> anyhow::Result<Self> {
        let Some(path) = file else { return Ok(Self::Stdout(BufWriter::with_capacity(1 << 16, stdout()))) };
        // A rename puts a file in the place of whatever is there: of a device too, which nobody means.
        match path.symlink_metadata() {
            Ok(found) if !found.is_file() => bail!("{} is no regular file, and is never replaced: choose another name", path.display()),
            Ok(_) if !is_forced => bail!("{} exists already: choose another name, or say --force to replace it", path.display()),
            Ok(_) | Err(_) => {}
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let no_link = OFlags::NOFOLLOW.bits() as i32;
        let opened = OpenOptions::new().write(true).create(true).truncate(true).custom_flags(no_link).open(&partial);
        let opened =
            opened.with_context(|| format!("cannot create {}: check that its directory exists and is writable", partial.display()))?;
        Ok(Self::File { partial, path: path.to_owned(), writer: BufWriter::with_capacity(1 << 20, opened) })
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Stdout(writer) => writer,
            Self::File { writer, .. } => writer,
        }
    }

    fn finish(self) -> anyhow::Result<()> {
        match self {
            Self::Stdout(mut writer) => Ok(writer.flush()?),
            Self::File { partial, path, writer } => {
                let unwritten = || format!("cannot write {}: check the space on its volume", partial.display());
                let file = writer.into_inner().map_err(std::io::IntoInnerError::into_error).with_context(unwritten)?;
                file.sync_all().with_context(unwritten)?;
                std::fs::rename(&partial, &path).with_context(|| format!("cannot rename {} to {}", partial.display(), path.display()))
            }
        }
    }
}
