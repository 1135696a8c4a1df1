//! What people read while they wait: one line per step with its reason, its expected and its real time. Every line is also kept,
//! so that the transcript of a demo is a record and not a story.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

static TRANSCRIPT: Mutex<String> = Mutex::new(String::new());

/// Prints a line and keeps it.
pub(crate) fn line(text: &str) {
    println!("{text}");
    let mut kept = TRANSCRIPT.lock().unwrap_or_else(PoisonError::into_inner);
    kept.push_str(text);
    kept.push('\n');
}

/// All lines so far.
pub(crate) fn transcript() -> String {
    TRANSCRIPT.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Does one step: says what and why before, how long after.
pub(crate) fn step<T>(what: &str, expected: &str, why: &str, action: impl FnOnce() -> Result<T>) -> Result<T> {
    let mut head = format!("  {what:<34}");
    if !why.is_empty() {
        let _infallible = write!(head, " {why}");
    }
    if !expected.is_empty() {
        let _infallible = write!(head, " (about {expected})");
    }
    line(head.trim_end());
    let started = Instant::now();
    let result = action();
    let outcome = if result.is_ok() { "done" } else { "FAILED" };
    line(&format!("  {:<34} {outcome} in {}", "", seconds(started.elapsed())));
    result
}

/// A step that needs nothing done.
pub(crate) fn present(what: &str, state: &str) {
    line(&format!("  {what:<34} {state}"));
}

/// "3.2 s" or "4 min 05 s".
pub(crate) fn seconds(elapsed: Duration) -> String {
    let whole = elapsed.as_secs();
    if whole >= 60 { format!("{} min {:02} s", whole / 60, whole % 60) } else { format!("{:.1} s", elapsed.as_secs_f64()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_times_read_well() {
        assert_eq!(seconds(Duration::from_millis(3_240)), "3.2 s");
        assert_eq!(seconds(Duration::from_secs(245)), "4 min 05 s");
    }
}
