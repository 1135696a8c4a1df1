//! `forebay-demo`: the story, with or without a cluster. Ends with 1 when the books are off by one.

use std::process::ExitCode;

use clap::Parser;
use e2e::story::{Telling, on_cluster, standalone};

/// What Forebay does, live, with the books at the end.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// One agent process on this machine instead of a cluster.
    #[arg(long)]
    standalone: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let mut telling = Telling::default();
    let exact = if Args::parse().standalone { standalone::tell(&mut telling).await? } else { on_cluster::tell(&mut telling).await? };
    Ok(if exact { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
