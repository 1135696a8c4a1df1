//! `forebay-hog`: takes memory until its limit ends it, so that a scenario has an out-of-memory kill to look for.

use std::time::Duration;

/// Memory taken per step, in bytes.
const STEP_BYTES: usize = 4 << 20;
/// Hard end for a pod that was started without a limit: it must not take the node's memory.
const STEPS_MAX: usize = 256;

fn main() {
    let mut held = Vec::new();
    for step in 1..=STEPS_MAX {
        // Written to, because memory that is only reserved does not count against the limit.
        held.push(vec![u8::try_from(step % 251).unwrap_or(1); STEP_BYTES]);
        println!("holding {} MiB", (held.len() * STEP_BYTES) >> 20);
        std::thread::sleep(Duration::from_millis(20));
    }
    eprintln!("{} MiB taken and still alive: start me in a pod with a memory limit", (STEPS_MAX * STEP_BYTES) >> 20);
    std::process::exit(1);
}
