//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use vocabulary::{Class, Signal};

/// Takes in telemetry, holds it, delivers it by priority, and accounts for every item.
#[derive(Debug, Parser)]
#[command(name = "forebay-agent", version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run until SIGTERM; a changed document is applied within two seconds, or at SIGHUP. Without a file: OTLP/gRPC on 127.0.0.1:4317, a buffer in ./forebay-data, and a line per request on the terminal.
    Run {
        /// The configuration document (YAML).
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Read a configuration document and say what is wrong with it, or what it amounts to.
    Check {
        /// The configuration document (YAML).
        file: PathBuf,
    },
    /// Look into a buffer's directory, take records out of it, or deliver them by hand.
    ///
    /// All but `replay` read only, beside a running agent too. Each may be interrupted at any time and run again.
    Spool(Box<SpoolArgs>),
}

#[derive(Debug, clap::Args)]
pub(crate) struct SpoolArgs {
    #[command(subcommand)]
    pub(crate) verb: SpoolVerb,
    /// How results are written: for a person, or for a program.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    #[default]
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SpoolVerb {
    /// What a directory holds: its segments, and per class and destination what is held, delivered and dropped.
    Ls {
        /// The buffer's directory.
        dir: PathBuf,
    },
    /// Read everything, verify every checksum, and say exactly what is damaged or lost. Fails if anything is.
    Verify {
        /// The buffer's directory.
        dir: PathBuf,
    },
    /// Show records in words.
    Cat {
        #[command(flatten)]
        selection: SelectionArgs,
        /// How many items of each record are named.
        #[arg(long, value_name = "NUMBER", default_value_t = 3)]
        items: usize,
    },
    /// Write records as OTLP: JSON lines, or length-delimited protobuf.
    Export {
        #[command(flatten)]
        selection: SelectionArgs,
        #[command(flatten)]
        export: ExportArgs,
    },
    /// Deliver what one destination still needs, and mark exactly what it took. Needs the agent stopped.
    Replay {
        #[command(flatten)]
        selection: SelectionArgs,
        /// The destination, by its name in the configuration.
        #[arg(long, value_name = "NAME")]
        destination: String,
        /// Where to send to: http://HOST:PORT or https://HOST:PORT, OTLP/gRPC.
        #[arg(long, value_name = "URL")]
        endpoint: String,
        #[command(flatten)]
        pace: Pace,
    },
    /// What destinations found bad and the agent set aside. Without a command: a list.
    ///
    /// Beside a running agent too: what is delivered or given up it counts within seconds, or else at its next start.
    Quarantine {
        /// The buffer's directory.
        dir: PathBuf,
        #[command(subcommand)]
        verb: Option<QuarantineVerb>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum QuarantineVerb {
    /// Show items in words.
    Cat {
        #[command(flatten)]
        selection: QuarantineSelection,
        /// How many items of each record are named.
        #[arg(long, value_name = "NUMBER", default_value_t = 3)]
        items: usize,
    },
    /// Write items as OTLP: JSON lines, or length-delimited protobuf.
    Export {
        #[command(flatten)]
        selection: QuarantineSelection,
        #[command(flatten)]
        export: ExportArgs,
    },
    /// Deliver items again, and mark exactly what was taken. Needs `--destination`.
    Replay {
        #[command(flatten)]
        selection: QuarantineSelection,
        /// Where to send to: http://HOST:PORT or https://HOST:PORT, OTLP/gRPC.
        #[arg(long, value_name = "URL")]
        endpoint: String,
        #[command(flatten)]
        pace: Pace,
    },
    /// Give items up: they count as Rejected, and are deleted.
    Remove {
        #[command(flatten)]
        selection: QuarantineSelection,
        /// Everything of this selection, without naming records.
        #[arg(long)]
        all: bool,
    },
}

/// Which files of a quarantine.
#[derive(Debug, clap::Args)]
pub(crate) struct QuarantineSelection {
    /// Records by name: CLASS/ID, CLASS/FIRST-LAST or CLASS/FIRST-. Without one: all.
    #[arg(value_name = "RECORD", value_parser = parse_names)]
    pub(crate) names: Vec<Names>,
    /// What this destination found bad alone.
    #[arg(long, value_name = "NAME")]
    pub(crate) destination: Option<String>,
    /// Of this signal (traces, metrics, logs, profiles) alone; may be given more than once.
    #[arg(long, value_name = "SIGNAL", value_parser = parse_signal)]
    pub(crate) signal: Vec<Signal>,
}

/// How records are written.
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// `json`: one export request per line. `proto`: each request after its length, 4 bytes, big-endian; of one `--signal`.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ExportFormat,
    /// Where to write; complete or not there at all. Without it, standard output.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Replace the file if it exists.
    #[arg(long, requires = "file")]
    pub(crate) force: bool,
}

/// How fast to send, and when to give up.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Pace {
    /// At most this many items per second.
    #[arg(long, value_name = "ITEMS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: Option<u64>,
    /// Records on their way at once.
    #[arg(long, value_name = "RECORDS", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) in_flight: u16,
    /// Give up when the destination took nothing for this long.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = parse_time_span)]
    pub(crate) patience: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    #[default]
    Json,
    Proto,
}

/// Which records of a directory.
#[derive(Debug, clap::Args)]
pub(crate) struct SelectionArgs {
    /// The buffer's directory.
    pub(crate) dir: PathBuf,
    /// Records by name: CLASS/ID, CLASS/FIRST-LAST or CLASS/FIRST-. Without one: all.
    #[arg(value_name = "RECORD", value_parser = parse_names)]
    pub(crate) names: Vec<Names>,
    /// Of this class (critical, high, normal, bulk) alone; may be given more than once.
    #[arg(long, value_name = "CLASS", value_parser = parse_class)]
    pub(crate) class: Vec<Class>,
    /// Of this signal (traces, metrics, logs, profiles) alone; may be given more than once.
    #[arg(long, value_name = "SIGNAL", value_parser = parse_signal)]
    pub(crate) signal: Vec<Signal>,
    /// From this id or time of receipt on: 1200, 2026-05-01T03:00:00Z, or 2h (ago).
    #[arg(long, value_name = "ID|TIME", value_parser = parse_bound)]
    pub(crate) from: Option<Bound>,
    /// Up to this id or time of receipt.
    #[arg(long, value_name = "ID|TIME", value_parser = parse_bound)]
    pub(crate) to: Option<Bound>,
    /// What this destination still needs; without a name, what any does.
    #[arg(long, value_name = "DESTINATION", num_args = 0..=1, require_equals = true)]
    pub(crate) unsettled: Option<Option<String>>,
}

/// Records of one class by their ids, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) class: Class,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// One end of a range of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    Id(u64),
    At(Timestamp),
    Ago(SignedDuration),
}

fn parse_class(text: &str) -> Result<Class, String> {
    let found = Class::ALL.into_iter().find(|class| class.label().eq_ignore_ascii_case(text));
    found.ok_or_else(|| "a class is critical, high, normal or bulk".to_owned())
}

fn parse_signal(text: &str) -> Result<Signal, String> {
    let found = Signal::ALL.into_iter().find(|signal| signal.label().eq_ignore_ascii_case(text));
    found.ok_or_else(|| "a signal is traces, metrics, logs or profiles".to_owned())
}

fn parse_names(text: &str) -> Result<Names, String> {
    let form = || "write CLASS/ID, CLASS/FIRST-LAST or CLASS/FIRST-, e.g. normal/17 or high/3-9".to_owned();
    let (class, ids) = text.split_once('/').ok_or_else(form)?;
    let class = parse_class(class)?;
    let id = |text: &str| text.parse::<u64>().map_err(|_| form());
    let (first, last) = match ids.split_once('-') {
        None => (id(ids)?, id(ids)?),
        Some((first, "")) => (id(first)?, u64::MAX),
        Some((first, last)) => (id(first)?, id(last)?),
    };
    if first > last { Err(format!("{first} is above {last}")) } else { Ok(Names { class, first, last }) }
}

fn parse_bound(text: &str) -> Result<Bound, String> {
    if let Ok(id) = text.parse() {
        return Ok(Bound::Id(id));
    }
    if let Ok(at) = text.parse() {
        return Ok(Bound::At(at));
    }
    match text.strip_suffix(" ago").unwrap_or(text).parse::<SignedDuration>() {
        Ok(ago) if !ago.is_negative() => Ok(Bound::Ago(ago)),
        _ => Err("write an id (1200), a time (2026-05-01T03:00:00Z), or how long ago (90m, 36h)".to_owned()),
    }
}

fn parse_time_span(text: &str) -> Result<Duration, String> {
    let span = text.parse::<SignedDuration>().ok().and_then(|span| Duration::try_from(span).ok());
    span.ok_or_else(|| "write a time span, e.g. 30s or 5m".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn records_are_named_one_by_one_or_in_ranges() {
        assert_eq!(parse_names("normal/17"), Ok(Names { class: Class::Normal, first: 17, last: 17 }));
        assert_eq!(parse_names("High/3-9"), Ok(Names { class: Class::High, first: 3, last: 9 }));
        assert_eq!(parse_names("bulk/3-"), Ok(Names { class: Class::Bulk, first: 3, last: u64::MAX }));
        for wrong in ["17", "normal", "normal/", "normal/9-3", "urgent/1", "normal/-3", "normal/1-2-3"] {
            assert!(parse_names(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_bound_is_an_id_a_time_or_how_long_ago() {
        assert_eq!(parse_bound("1200"), Ok(Bound::Id(1200)));
        assert_eq!(parse_bound("1970-01-01T00:00:01Z"), Ok(Bound::At(Timestamp::new(1, 0).expect("a second after the epoch"))));
        for text in ["2h", "120m", "2h ago"] {
            assert_eq!(parse_bound(text), Ok(Bound::Ago(SignedDuration::from_hours(2))), "{text}");
        }
        assert!(parse_bound("yesterday").is_err() && parse_bound("-2h").is_err());
        assert_eq!(parse_time_span("1m"), Ok(Duration::from_secs(60)));
    }
}
