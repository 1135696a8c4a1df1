//! `forebay-loadgen`: OTLP/gRPC load whose every item is accounted for.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use e2e::control::terminated;
use e2e::loadgen::{LoadOptions, Loadgen, serve_control};
use e2e::words;
use tokio::net::TcpListener;
use vocabulary::Signal;

/// Longest time that requests may stay pending once the process was told to end.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// OTLP/gRPC load generator that keeps the truth about every item.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Where to send, http://host:port.
    #[arg(long, default_value = "http://127.0.0.1:4317")]
    endpoint: String,
    /// Name of this producer; item numbers are unique per producer and signal.
    #[arg(long, default_value = "loadgen")]
    producer: String,
    /// Signals and their share of the rate.
    #[arg(long, value_delimiter = ',', default_value = "traces=6,metrics=2,logs=2", value_parser = signal_share)]
    signals: Vec<(Signal, u32)>,
    /// Items per second, all signals together; 0 waits for /rate.
    #[arg(long, default_value_t = 1_000)]
    rate: u64,
    /// Items per request.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// Part of spans and logs that are errors.
    #[arg(long, default_value_t = 1.0)]
    error_percent: f64,
    /// Bytes of filler per item.
    #[arg(long, default_value_t = 200)]
    payload_bytes: usize,
    /// Seconds to make load for; without it, until /stop or SIGTERM.
    #[arg(long)]
    duration: Option<u64>,
    /// Address for HTTP control: /truth, /accepted, /rate, /stop.
    #[arg(long, default_value = "0.0.0.0:8080")]
    control: SocketAddr,
    /// File for the truth at the end; else it is printed.
    #[arg(long)]
    report: Option<PathBuf>,
}

fn signal_share(text: &str) -> Result<(Signal, u32), String> {
    let (name, share) = text.split_once('=').unwrap_or((text, "1"));
    let signal = words::signal::parse(name).ok_or_else(|| format!("`{name}` is no signal: use traces, metrics or logs"))?;
    Ok((signal, share.parse().map_err(|error| format!("share of {name}: {error}"))?))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ensure!(args.signals.iter().any(|&(_, share)| share > 0), "--signals: at least one share must be above 0");
    let control = TcpListener::bind(args.control).await.with_context(|| format!("listen for control on {}", args.control))?;
    let options = LoadOptions {
        endpoint: args.endpoint,
        producer: args.producer,
        signals: args.signals,
        items_per_second: args.rate,
        batch_items: args.batch,
        error_percent: args.error_percent,
        payload_bytes: args.payload_bytes,
    };
    let loadgen = Loadgen::start(options).context("start the load")?;
    let ended = async {
        match args.duration {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        served = serve_control(control, loadgen.clone()) => served.context("serve control")?,
        () = ended => {}
        () = terminated() => {}
    }
    loadgen.stop();
    let deadline = tokio::time::Instant::now() + SETTLE_MAX;
    while !loadgen.truth().settled && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let truth = serde_json::to_string_pretty(&loadgen.truth())?;
    match args.report {
        Some(path) => std::fs::write(&path, truth).with_context(|| format!("write {}", path.display())),
        None => {
            println!("{truth}");
            Ok(())
        }
    }
}
