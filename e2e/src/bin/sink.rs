//! `forebay-sink`: the recording OTLP backend of demo and scenarios.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use e2e::control::terminated;
use e2e::sink::{SinkOptions, serve};

/// Recording OTLP backend: what it answered for is on disk.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Address for OTLP/gRPC.
    #[arg(long, default_value = "0.0.0.0:4317")]
    listen: SocketAddr,
    /// Address for HTTP control: /report, /seen, /kernel, /throttle, /fail.
    #[arg(long, default_value = "0.0.0.0:8080")]
    control: SocketAddr,
    /// File that keeps the record across restarts.
    #[arg(long, default_value = "/var/lib/forebay-sink/journal")]
    journal: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Args { listen, control, journal } = Args::parse();
    serve(SinkOptions { listen, control, journal }, terminated()).await
}
