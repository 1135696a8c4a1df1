//! `forebay-agent`: one process that takes in OTLP and kernel events, holds them in bounded memory and on disk, delivers them by
//! priority and accounts for every item.
//!
//! ```text
//!   inputs ──▶ Engine (the pure pipeline behind one lock, never held across I/O) ──▶ dispatch, one task per destination ──▶ outputs
//!   kernel thread ─┘        │ appends, group commit, checkpoints                          ▲
//!                           └──▶ storage thread (the spool) ──── reads of what is on disk ┘
//!   board: what the shells saw (sources, destinations, blockers) ─▶ admin endpoint, metrics, ledger page, fleet reports
//! ```
//!
//! `forebay-agent spool` is the other half: it looks into a buffer's directory, with or without a process that runs on it.
//!
//! A changed document is applied while data flows. What ends the process is a signal; what fails is shown on the board, tried again,
//! and logged once.

mod admin;
mod args;
mod board;
mod buffer;
mod check;
mod config_watch;
mod dispatch;
mod drain;
mod engine;
mod fleet;
mod intake;
mod kernel;
mod ledger_page;
mod logging;
mod metrics;
mod pods;
mod quarantine;
mod receipt;
mod reload;
mod report;
mod retained;
mod run;
mod settings;
mod snapshot;
mod spool_tools;
mod stage;
mod storage;
mod timetable;
mod waiting;
mod watchdog;
mod window;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Without the variable such a program does nothing at all: it can be no released one by mistake.
    #[cfg(feature = "failpoints")]
    if let Err(cause) = std::env::var("FOREBAY_POINTS").map_err(|cause| cause.to_string()).and_then(|text| spool::points::arm(&text)) {
        eprintln!("forebay-agent: built with fail points, for tests alone: FOREBAY_POINTS: {cause}");
        return ExitCode::FAILURE;
    }
    let args = args::Args::parse();
    let result = match &args.command {
        args::Command::Check { file } => check::check(file).map(|()| ExitCode::SUCCESS),
        args::Command::Run { config } => run::start(config.as_deref()).map(|()| ExitCode::SUCCESS),
        args::Command::Spool(args) => spool_tools::run(args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("forebay-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
