//! The real program against the real kernel: killed, its power cut, its disk full, failing, frozen, gone. It is built with the fail points
//! of the feature `failpoints`; `cargo xtask test --only kills` and `--only power` run it.
//!
//! `FOREBAY_ROUNDS` says how many kills or cuts, `FOREBAY_SEED` which: both are printed. A seed replays what is done to the program, not
//! how its threads take turns.

mod chain;
mod faults;
mod kills;
mod oracle;
mod points;
mod power;
#[expect(dead_code, reason = "a part of the rig serves only the other tests of this program")]
#[path = "../rig/mod.rs"]
mod rig;
mod volume;

/// A number of the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("it is a number"))
}

/// What this run is made from: given, or new for each run.
fn seed() -> u64 {
    number("FOREBAY_SEED").unwrap_or_else(rand::random)
}
