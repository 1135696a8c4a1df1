//! Measures what the agent promises about speed and memory: named benchmarks, one table, raw results as JSON. It is a program and
//! not a test, because a number that depends on the machine must fail nobody's build.
//!
//! ```text
//!   names ──▶ one benchmark after the other ──▶ Figure: samples, target ──▶ table on the terminal, DIRECTORY/results/NAME.json
//!             warm-up, then pairs: A B, B A, A B …
//! ```
//!
//! What depends on the disk is measured against the bare disk of the same run, in pairs whose order alternates; what depends on the
//! processor is shown beside a yardstick that does the least that could do. Medians and ranges are of samples, not of single calls.
//! The agent is measured as the process that ships, pinned to one core; load and sink run in this process on the other.

mod agent;
mod append;
mod backlog;
mod disk;
mod drain;
mod durable;
mod engine;
mod figure;
mod machine;
mod memory;
mod payload;
mod recovery;
mod table;
mod traffic;
mod walk;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use serde::Serialize;

use crate::figure::Figure;
use crate::machine::Machine;

/// A named measurement.
struct Benchmark {
    name: &'static str,
    about: &'static str,
    run: fn(&Setup) -> Result<Vec<Figure>>,
}

const BENCHMARKS: [Benchmark; 7] = [
    Benchmark { name: "engine", about: "intake, lanes and ledger, per record", run: engine::run },
    Benchmark { name: "walk", about: "a request proved well formed, counted and classified, per span", run: walk::run },
    Benchmark { name: "append", about: "durable commits against the bare disk, and bytes written per byte kept", run: append::run },
    Benchmark { name: "memory", about: "what an idle log and a held record take", run: memory::run },
    Benchmark {
        name: "durable",
        about: "spans per second through one core, each synced before its answer, and the answer's delay",
        run: durable::run,
    },
    Benchmark { name: "recovery", about: "from the start of the process to its port and to the first byte replayed", run: recovery::run },
    Benchmark { name: "drain", about: "spans per second out of a backlog", run: drain::run },
];

/// Measures the agent's engine, its disk log and its process.
#[derive(Parser)]
#[command(name = "bench")]
struct Arguments {
    /// Which benchmarks; all if none is named.
    names: Vec<String>,
    /// Name them and end.
    #[arg(long)]
    list: bool,
    /// Samples of each figure.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    samples: u32,
    /// Sizes of the backlogs that `recovery` begins with, in GB; `drain` takes the first that is none.
    #[arg(long, value_delimiter = ',', default_value = "0,1")]
    backlog: Vec<u32>,
    /// Where disks are measured and results are written; what is measured on is removed at the end.
    #[arg(long, default_value = "target/bench")]
    directory: PathBuf,
}

/// What every benchmark is given.
struct Setup {
    samples: u32,
    /// Gigabytes of 1,000,000,000 bytes.
    backlogs: Vec<u32>,
    /// A folder of its own, on the disk that is measured.
    scratch: PathBuf,
}

/// The file of one benchmark's results.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Results<'a> {
    benchmark: &'static str,
    about: &'static str,
    machine: &'a Machine,
    figures: &'a [Figure],
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let known = |name: &String| BENCHMARKS.iter().any(|benchmark| benchmark.name == name);
    if let Some(unknown) = arguments.names.iter().find(|name| !known(name)) {
        bail!("there is no benchmark `{unknown}`; --list names them");
    }
    if arguments.list {
        BENCHMARKS.iter().for_each(|benchmark| println!("{:<10}{}", benchmark.name, benchmark.about));
        return Ok(());
    }
    let results = arguments.directory.join("results");
    fs::create_dir_all(&results).with_context(|| format!("cannot create {}", results.display()))?;
    let scratch = arguments.directory.join("scratch");
    let setup = Setup { samples: arguments.samples, backlogs: arguments.backlog, scratch };
    let mut rows = Vec::new();
    let machine = Machine::look();
    println!("{machine}");
    for benchmark in BENCHMARKS.iter().filter(|one| arguments.names.is_empty() || arguments.names.iter().any(|name| name == one.name)) {
        println!("{}: {}", benchmark.name, benchmark.about);
        let figures = measure(benchmark, &setup)?;
        let content = Results { benchmark: benchmark.name, about: benchmark.about, machine: &Machine::look(), figures: &figures };
        let file = results.join(format!("{}.json", benchmark.name));
        fs::write(&file, serde_json::to_string_pretty(&content)?).with_context(|| format!("cannot write {}", file.display()))?;
        rows.extend(figures.into_iter().map(|figure| (benchmark.name, figure)));
    }
    print!("\n{}", table::render(&rows));
    Ok(())
}

/// Runs one benchmark in an empty folder, which is gone afterwards however it ends.
fn measure(benchmark: &Benchmark, setup: &Setup) -> Result<Vec<Figure>> {
    clear(setup)?;
    fs::create_dir_all(&setup.scratch).with_context(|| format!("cannot create {}", setup.scratch.display()))?;
    let figures = (benchmark.run)(setup).with_context(|| format!("the benchmark `{}` could not be run", benchmark.name));
    clear(setup)?;
    figures
}

fn clear(setup: &Setup) -> Result<()> {
    match fs::remove_dir_all(&setup.scratch) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", setup.scratch.display()))
        }
        _ => Ok(()),
    }
}
