//! What pure crates may not touch: clock, environment, randomness, runtime, network, files. Each crate's clippy.toml bans the calls;
//! this looks at the words, so that a new crate or a new way to say it is found too.

use super::source::Source;
use super::{Violation, violation};

/// The crates in which time, randomness and environment arrive as arguments.
const PURE: [&str; 11] = [
    "crds",
    "crds/vocabulary",
    "crds/budget",
    "operator/plan",
    "agent/pipeline",
    "agent/otlp",
    "agent/spool",
    "agent/decode",
    "agent/enrich",
    "agent/sim",
    "agent-ebpf/abi",
];

/// Files of pure crates that are not a part of the library: generators write files, one file of the spool is its disk, and the
/// simulation's program shows its progress.
const SHELLS: [&str; 4] = ["crds/src/bin/", "agent/spool/src/bin/", "agent/spool/src/files.rs", "agent/sim/src/main.rs"];

const IMPURE: [(&str, &str); 14] = [
    ("SystemTime :: now", "the clock"),
    ("Instant :: now", "the clock"),
    ("Timestamp :: now", "the clock"),
    ("Zoned :: now", "the clock"),
    ("std :: env", "the environment"),
    ("env :: var", "the environment"),
    ("rand ::", "randomness"),
    ("thread_rng", "randomness"),
    ("getrandom", "randomness"),
    ("tokio", "the runtime"),
    ("std :: net", "the network"),
    ("std :: fs", "files"),
    ("File :: open", "files"),
    ("std :: process", "the process"),
];

pub(super) fn check(source: &Source) -> Vec<Violation> {
    if !PURE.contains(&source.folder()) || SHELLS.iter().any(|shell| source.path.starts_with(shell)) {
        return Vec::new();
    }
    let touched = IMPURE.iter().filter(|(words, _)| source.code.contains(&format!(" {words}")));
    touched
        .map(|(words, what)| violation("purity", &source.path, format!("`{}` touches {what}: pass it in", words.replace(' ', ""))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purity(path: &str, text: &str) -> usize {
        check(&Source::parse(path, text).unwrap()).len()
    }

    #[test]
    fn a_pure_crate_that_reads_the_clock_is_found() {
        assert_eq!(purity("agent/pipeline/src/lanes.rs", "fn age() { let _ = std::time::Instant::now(); }"), 1);
        assert_eq!(purity("operator/plan/src/report.rs", "use std::env; fn name() { env::var(\"HOSTNAME\"); }"), 2);
        assert_eq!(purity("crds/budget/src/lib.rs", "fn pick() -> u8 { rand::random() }"), 1);
    }

    #[test]
    fn shells_and_tests_may() {
        assert_eq!(purity("agent/src/main.rs", "fn age() { let _ = std::time::Instant::now(); }"), 0);
        assert_eq!(purity("agent/pipeline/src/lanes.rs", "#[cfg(test)] mod tests { fn age() { let _ = std::time::Instant::now(); } }"), 0);
        assert_eq!(purity("agent/spool/src/files.rs", "use std::fs;"), 0);
    }

    #[test]
    fn words_that_only_look_alike_are_left_alone() {
        assert_eq!(purity("agent/otlp/src/walk.rs", "fn operand() { brand::new(); }"), 0);
    }
}
