//! Runs seeds on every core, shows how it goes, and says how to replay the first that fails. The only file that reads a clock.

#![expect(clippy::disallowed_methods, reason = "progress is shown in real time; nothing of it reaches the simulation")]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use sim::{Coverage, Trace, run, shorten};

/// Requests of a history, unless it is cut short; no plan draws more.
const REQUESTS_MAX: u64 = 1_000;
/// Time between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// Seeds from which every fault must have fired: below, a rare one may be missed by chance.
const COVERING_SEEDS: u64 = 5_000;

/// A seeded simulation of the agent's engine and its disk log.
#[derive(Parser)]
#[command(name = "sim")]
struct Arguments {
    /// Run one seed.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Print what happens in it.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Cut its history to this many requests.
    #[arg(long, requires = "seed", default_value_t = REQUESTS_MAX)]
    requests: u64,
    /// Run this many seeds.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
}

/// What the threads share.
struct Shared {
    next: AtomicU64,
    done: AtomicU64,
    has_failed: AtomicBool,
    found: Mutex<(Coverage, Option<(u64, String)>)>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Violations are told once, with the seed, not by each thread that meets one.
    std::panic::set_hook(Box::new(|_| {}));
    match arguments.seed {
        Some(seed) => one(seed, arguments.requests, arguments.trace),
        None => many(arguments.from, arguments.seeds),
    }
}

fn one(seed: u64, requests: u64, has_trace: bool) -> ExitCode {
    let ended = run(seed, requests, if has_trace { Trace::on() } else { Trace::default() });
    print!("{}", ended.trace.text());
    match ended.violation {
        Some(violation) => {
            println!("seed {seed} fails: {violation}");
            ExitCode::FAILURE
        }
        None => {
            println!("seed {seed} holds");
            ExitCode::SUCCESS
        }
    }
}

fn many(from: u64, seeds: u64) -> ExitCode {
    let shared = Shared {
        next: AtomicU64::new(from),
        done: AtomicU64::new(0),
        has_failed: AtomicBool::new(false),
        found: Mutex::new((Coverage::default(), None)),
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(&shared, from + seeds));
        }
        show_progress(&shared, seeds, started);
    });
    let (coverage, failure) = shared.found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some((seed, violation)) = failure {
        let requests = shorten(seed, REQUESTS_MAX);
        println!("seed {seed} fails: {violation}\n  replay: cargo xtask sim --seed {seed} --requests {requests} --trace");
        return ExitCode::FAILURE;
    }
    let mut missed = 0;
    for (what, times) in coverage.iter() {
        println!("{times:>12}  {}", what.text());
        missed += u32::from(times == 0);
    }
    let took = started.elapsed().as_secs_f64();
    println!("{seeds} seeds from {from} hold: {took:.1} s, {:.0} seeds/s, {threads} threads", seeds as f64 / took);
    if missed > 0 && seeds >= COVERING_SEEDS {
        println!("{missed} of these never happened: the simulation does not reach what it is to prove");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn work(shared: &Shared, end: u64) {
    let mut coverage = Coverage::default();
    while !shared.has_failed.load(Ordering::Relaxed) {
        let seed = shared.next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            break;
        }
        let ended = run(seed, REQUESTS_MAX, Trace::default());
        coverage.merge(&ended.coverage);
        shared.done.fetch_add(1, Ordering::Relaxed);
        if let Some(violation) = ended.violation {
            shared.has_failed.store(true, Ordering::Relaxed);
            shared.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner).1.get_or_insert((seed, violation));
        }
    }
    shared.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0.merge(&coverage);
}

fn show_progress(shared: &Shared, seeds: u64, started: Instant) {
    let mut shown = Instant::now();
    loop {
        let done = shared.done.load(Ordering::Relaxed);
        if done >= seeds || shared.has_failed.load(Ordering::Relaxed) {
            return;
        }
        if shown.elapsed() >= PROGRESS_EVERY {
            shown = Instant::now();
            let rate = done as f64 / started.elapsed().as_secs_f64();
            println!("{done} of {seeds} seeds, {rate:.0} seeds/s, {:.0} s left", (seeds - done) as f64 / rate.max(0.1));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
