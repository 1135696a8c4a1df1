//! `forebay-agent spool`: what somebody needs who stands before a buffer's directory and has to know what it holds, whether it is
//! whole, and how to get the records out. One file per verb; what they share is which records, how they are walked, and how numbers
//! are written.
//!
//! Whoever pipes the output into a program that ends early sees no error; a finding is an exit code of 1, an interruption 130.

mod cat;
mod export;
mod items;
mod ls;
mod quarantine;
mod quarantine_replay;
mod records;
mod replay;
mod selection;
mod send;
mod show;
mod verify;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use spool::Inspection;

use crate::args::{SpoolArgs, SpoolVerb};

/// What a shell makes of a process that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// Runs one verb.
pub(crate) fn run(args: &SpoolArgs) -> anyhow::Result<ExitCode> {
    let output = args.output;
    let result = match &args.verb {
        SpoolVerb::Ls { dir } => ls::ls(dir, output),
        SpoolVerb::Verify { dir } => verify::verify(dir, output),
        SpoolVerb::Cat { selection, items } => cat::cat(selection, *items, output),
        SpoolVerb::Export { selection, export } => export::export(selection, export, output),
        SpoolVerb::Replay { selection, destination, endpoint, pace } => replay::replay(selection, destination, endpoint, pace, output),
        SpoolVerb::Quarantine { dir, verb } => quarantine::run(dir, verb.as_ref(), output),
    };
    match result {
        Err(error) if is_closed_pipe(&error) => Ok(ExitCode::SUCCESS),
        result => result,
    }
}

/// Looks at a directory; a path that leads one level too high is answered with the right one.
fn inspect(directory: &Path) -> anyhow::Result<Inspection> {
    match Inspection::open(directory) {
        Err(error @ spool::InspectError::NotABuffer { .. }) => match buffer_below(directory) {
            Some(below) => Err(error).context(format!("did you mean {}?", below.display())),
            None => Err(error.into()),
        },
        opened => Ok(opened?),
    }
}

/// The only directory below that looks like a buffer.
fn buffer_below(directory: &Path) -> Option<std::path::PathBuf> {
    let below = std::fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path());
    let mut buffers = below.take(1000).filter(|path| path.join("identity").is_file());
    let first = buffers.next()?;
    buffers.next().is_none().then_some(first)
}

/// Whether the reader of our output went away, which is its good right.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let is_pipe = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().filter_map(|cause| cause.downcast_ref()).any(is_pipe)
}
