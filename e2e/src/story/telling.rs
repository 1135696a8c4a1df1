//! How the story is printed: each step with the time since the start, commands before their output, tables aligned. Plain text
//! without colours, because it is also kept as a page.

use std::time::Instant;

use crate::oracle::{Evidence, Verdict, grouped, render, rows};

/// Prints the story.
#[derive(Debug)]
pub struct Telling {
    started: Instant,
    steps: u32,
}

impl Default for Telling {
    fn default() -> Self {
        Self { started: Instant::now(), steps: 0 }
    }
}

impl Telling {
    /// Opens the next step.
    pub fn step(&mut self, title: &str) {
        self.steps += 1;
        println!("\n{}  {}. {title}", self.clock(), self.steps);
    }

    /// Says one thing.
    pub fn say(&self, text: &str) {
        println!("{}  {text}", self.clock());
    }

    /// Shows a command and what it printed.
    pub fn command(&self, command: &str, output: &str) {
        println!("{}  $ {command}", self.clock());
        for line in output.trim_end().lines() {
            println!("         {line}");
        }
    }

    /// Shows the ledgers and the verdict over all of them; whether everything is exact.
    pub fn verdict(&self, evidence: &[Evidence], verdict: &Verdict) -> bool {
        println!();
        println!("{}", render(&evidence.iter().flat_map(rows).collect::<Vec<_>>()));
        for agent in evidence.iter().flat_map(|evidence| &evidence.ledgers) {
            let kernel = &agent.ledger.kernel;
            if kernel.attempted > 0 {
                let lost: u64 = kernel.lost.values().sum();
                println!(
                    "kernel on {}: attempted {} = produced {} + lost {lost}",
                    agent.agent,
                    grouped(kernel.attempted),
                    grouped(kernel.produced)
                );
            }
        }
        for truth in evidence.iter().flat_map(|evidence| &evidence.truths) {
            let latency = truth.latency;
            println!("answers to {}: p50 {} ms, p99 {} ms", truth.producer, latency.p50_milliseconds, latency.p99_milliseconds);
        }
        for difference in &verdict.differences {
            println!("DIFFERENCE  {difference}");
        }
        for complaint in &verdict.complaints {
            println!("COMPLAINT   {complaint}");
        }
        if verdict.held > 0 {
            println!("HELD        {} items are still held", grouped(verdict.held));
        }
        let exact = verdict.is_exact();
        let outcome = if exact { "every item is accounted for" } else { "the books do NOT balance" };
        println!(
            "\n{}  verdict: {} identities checked, {} do not hold: {outcome}",
            self.clock(),
            verdict.checked,
            verdict.differences.len()
        );
        exact
    }

    /// Three commands to go on with.
    pub fn next(&self, commands: &[(&str, &str)]) {
        println!("\nNext:");
        for (command, why) in commands {
            println!("  {command:<72}  # {why}");
        }
    }

    fn clock(&self) -> String {
        let elapsed = self.started.elapsed();
        format!("[{:02}:{:04.1}]", elapsed.as_secs() / 60, elapsed.as_secs_f64() % 60.0)
    }
}
