//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Takes in telemetry, holds it, delivers it by priority, and accounts for every item.
#[derive(Debug, Parser)]
#[command(name = "forebay-agent", version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run until SIGTERM. Without a file: OTLP/gRPC on 127.0.0.1:4317, a buffer in ./forebay-data, and a line per request on the terminal.
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
}
