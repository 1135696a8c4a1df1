//! The one entry point for people and CI: `cargo xtask demo`, `test`, and the steps that both are made of.

mod bench;
mod cluster;
mod console;
mod demo;
mod ebpf;
mod engine;
mod images;
mod node_image;
mod places;
mod preflight;
mod process;
mod release;
mod suites;
mod tidy;
mod tools;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{ArgAction, Parser, Subcommand};

use crate::places::Places;

/// Everything this repository can do, from one command.
#[derive(Parser)]
#[command(name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Shows Forebay at work: installs what is missing, makes a cluster, loads it, judges the ledger.
    Demo {
        /// One agent process instead of a cluster; needs neither root nor Docker.
        #[arg(long)]
        standalone: bool,
        /// Leave the cluster up at the end.
        #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
        keep: bool,
        /// Write the transcript to docs/demo.md.
        #[arg(long, conflicts_with = "standalone")]
        record: bool,
    },
    /// Runs everything CI runs.
    Test {
        /// Only these suites; may be repeated.
        #[arg(long, value_name = "SUITE")]
        only: Vec<String>,
    },
    /// Simulates the agent's engine and disk log: `--seeds N [--from S]`, or one seed with `--seed S [--requests R] [--trace]`.
    Sim {
        /// Passed on to the simulation.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measures speed and memory with optimised programs: `cargo xtask bench [NAME …]`, `--list` names the benchmarks.
    Bench {
        /// Passed on to the benchmarks.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Makes, removes and shows this checkout's cluster.
    Cluster {
        #[command(subcommand)]
        action: Action,
    },
    /// Builds the kernel programs into target/bpf.
    Ebpf,
    /// Builds the images, and loads them if this checkout's cluster is up.
    Images,
    /// Writes what is generated from code: CRD manifests and their copies in the chart, and the page of the log's format.
    Gen {
        /// Compare instead of writing.
        #[arg(long)]
        check: bool,
        /// Also accept the chart's present render as the golden one.
        #[arg(long)]
        bless_chart: bool,
    },
}

#[derive(Subcommand)]
enum Action {
    /// Makes it, or finds the one that runs.
    Up,
    /// Makes it, builds and loads the images, and installs the chart.
    Install,
    /// Removes it.
    Down,
    /// Says what runs.
    Status,
    /// Prints the shell lines that point kubectl and docker at it.
    Env,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    let places = Places::find()?;
    match task {
        Task::Demo { standalone, keep, record } => {
            let code = demo::run(&places, &demo::Demo { standalone, keep, record })?;
            return Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from));
        }
        Task::Test { only } => {
            if !suites::run(&places, &only)? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Task::Sim { arguments } => suites::simulate(&places, &arguments)?,
        Task::Bench { arguments } => bench::run(&places, &arguments)?,
        Task::Cluster { action } => on_cluster(&places, &action)?,
        Task::Ebpf => ebpf::build(&places)?,
        Task::Images => build_images(&places)?,
        Task::Gen { check, bless_chart } => {
            suites::generate(&places, check)?;
            if bless_chart {
                suites::bless_chart(&places)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn on_cluster(places: &Places, action: &Action) -> Result<()> {
    match action {
        Action::Up => {
            preflight::cluster(places)?;
            cluster::up(places).map(drop)
        }
        Action::Install => {
            preflight::cluster(places)?;
            release::up(places).map(drop)
        }
        Action::Down => cluster::down(places),
        Action::Status => cluster::status(places),
        Action::Env => {
            let Some(cluster) = cluster::find(places) else {
                bail!("this checkout's cluster is not up: `cargo xtask cluster up` makes it")
            };
            for (key, value) in release::environment(places, Some(&cluster)) {
                println!("export {key}='{value}'");
            }
            Ok(())
        }
    }
}

fn build_images(places: &Places) -> Result<()> {
    release::build_programs(places)?;
    ebpf::build(places)?;
    match cluster::find(places) {
        Some(cluster) => images::load(places, &cluster).map(drop),
        None => images::build(places, &engine::up(places)?),
    }
}
