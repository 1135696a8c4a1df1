//! The demo: everything from a bare machine to a fleet under load, then the story that `forebay-demo` tells.

use std::env;
use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::console::{self, seconds};
use crate::places::Places;
use crate::process::Echo;
use crate::{cluster, preflight, release};

/// How the demo was asked for.
pub(crate) struct Demo {
    /// One agent process, no cluster, no root.
    pub(crate) standalone: bool,
    /// Leave the cluster up at the end.
    pub(crate) keep: bool,
    /// Write what was shown to docs/demo.md; only of the demo on a cluster.
    pub(crate) record: bool,
}

/// Tells the story; returns the exit code of its judge.
pub(crate) fn run(places: &Places, demo: &Demo) -> Result<i32> {
    let started = Instant::now();
    console::line(if demo.standalone { "$ cargo xtask demo --standalone" } else { "$ cargo xtask demo" });
    let code = if demo.standalone { standalone(places)? } else { on_cluster(places, demo.keep)? };
    console::line(&format!("\n  in all {}", seconds(started.elapsed())));
    if demo.record {
        record(places)?;
    }
    if !demo.standalone && !demo.keep {
        cluster::down(places)?;
    }
    Ok(code)
}

/// The story of one agent process.
pub(crate) fn standalone(places: &Places) -> Result<i32> {
    preflight::standalone(places)?;
    release::build_programs(places)?;
    let story = places.run(&places.built("forebay-demo").to_string_lossy()).args(["--standalone"]);
    story.envs(&release::environment(places, None)).shown(&places.log("demo"), Echo::Everything)
}

fn on_cluster(places: &Places, keep: bool) -> Result<i32> {
    preflight::cluster(places)?;
    let cluster = release::up(places)?;
    let story = places.run(&places.built("forebay-demo").to_string_lossy()).envs(&release::environment(places, Some(&cluster)));
    let code = story.shown(&places.log("demo"), Echo::Everything)?;
    if keep {
        console::line("\n  the cluster stays up. Next:");
        console::line("    eval \"$(cargo xtask cluster env)\"                     point kubectl at it");
        console::line("    kubectl get telemetrypipelines -A -o wide             what the fleet does");
        console::line("    cargo xtask cluster down                              remove it");
    }
    Ok(code)
}

fn record(places: &Places) -> Result<()> {
    let path = places.checkout.join("docs/demo.md");
    fs::write(&path, recorded(places, &env::var("HOME").unwrap_or_default(), &console::transcript()))
        .with_context(|| format!("cannot write {}", path.display()))?;
    console::present("transcript", &path.display().to_string());
    Ok(())
}

/// The page about a transcript, without the places of the machine it was made on.
fn recorded(places: &Places, home: &str, transcript: &str) -> String {
    let mut shown = transcript.to_owned();
    let folders =
        [(places.cache.display().to_string(), "~/.cache/forebay"), (places.checkout.display().to_string(), "."), (home.to_owned(), "~")];
    for (folder, short) in folders {
        if folder.len() > 1 {
            shown = shown.replace(&folder, short); // the longer first: the cache and often the checkout lie in the home
        }
    }
    format!("# The demo, as it ran\n\nWritten by `cargo xtask demo --record`; not edited.\n\n```text\n{shown}```\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_demo_names_no_folder_of_the_machine() {
        let places = Places { checkout: "/homes/me/forebay".into(), cache: "/homes/me/.cache/forebay".into() };
        let transcript = "unix:///homes/me/.cache/forebay/cluster/docker.sock\nlog in /homes/me/forebay/target/xtask-logs/demo.log\n\
                          toolchain in /homes/me/.cargo/bin\n";
        let page = recorded(&places, "/homes/me", transcript);
        assert!(!page.contains("/homes"), "{page}");
        assert!(
            page.contains("unix://~/.cache/forebay/cluster/docker.sock\nlog in ./target/xtask-logs/demo.log\ntoolchain in ~/.cargo/bin\n")
        );
    }

    #[test]
    fn a_machine_without_a_home_leaves_the_transcript_whole() {
        let places = Places { checkout: "/a/checkout".into(), cache: "/b/cache".into() };
        assert!(recorded(&places, "", "one / two\n").contains("```text\none / two\n```"));
        assert!(recorded(&places, "/", "one / two\n").contains("```text\none / two\n```"));
    }
}
