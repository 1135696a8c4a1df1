//! The demo: everything from a bare machine to a fleet under load, then the story that `forebay-demo` tells.

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
    /// Write what was shown to docs/demo.md.
    pub(crate) record: bool,
}

/// Tells the story; returns the exit code of its judge.
pub(crate) fn run(places: &Places, demo: &Demo) -> Result<i32> {
    let started = Instant::now();
    console::line(if demo.standalone { "$ cargo xtask demo --standalone" } else { "$ cargo xtask demo" });
    let code = if demo.standalone { standalone(places)? } else { on_cluster(places)? };
    console::line(&format!("\n  in all {}", seconds(started.elapsed())));
    if demo.record {
        record(places, demo.standalone)?;
    }
    if !demo.standalone && !demo.keep {
        cluster::down(places)?;
    }
    Ok(code)
}

/// The story of one agent process.
pub(crate) fn standalone(places: &Places) -> Result<i32> {
    preflight::standalone(places)?;
    release::build_programs(places, &["agent", "e2e"])?;
    let story = places.run(&places.built("forebay-demo").to_string_lossy()).args(["--standalone"]);
    story.envs(&release::environment(places, None)).shown(&places.log("demo"), Echo::Everything)
}

fn on_cluster(places: &Places) -> Result<i32> {
    preflight::cluster(places)?;
    let cluster = release::up(places)?;
    let story = places.run(&places.built("forebay-demo").to_string_lossy()).envs(&release::environment(places, Some(&cluster)));
    let code = story.shown(&places.log("demo"), Echo::Everything)?;
    console::line("\n  the cluster stays up. Next:");
    console::line("    eval \"$(cargo xtask cluster env)\"                     point kubectl at it");
    console::line("    kubectl get telemetrypipelines -A -o wide             what the fleet does");
    console::line("    cargo xtask cluster down                              remove it");
    Ok(code)
}

fn record(places: &Places, standalone: bool) -> Result<()> {
    let name = if standalone { "demo-standalone.md" } else { "demo.md" };
    let path = places.checkout.join("docs").join(name);
    let command = if standalone { "cargo xtask demo --standalone --record" } else { "cargo xtask demo --record" };
    let text = format!(
        "# The demo, as it ran\n\nWritten by `{command}`; not edited.\n\n```text\n{}```\n",
        without_machine(places, &console::transcript())
    );
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    console::present("transcript", &path.display().to_string());
    Ok(())
}

/// The transcript without the places of the machine it was made on.
fn without_machine(places: &Places, transcript: &str) -> String {
    let cache = places.cache.display().to_string();
    let checkout = places.checkout.display().to_string();
    transcript.replace(&cache, "~/.cache/forebay").replace(&checkout, ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_names_no_folder_of_the_machine() {
        let places = Places { checkout: "/where/it/lies".into(), cache: "/var/cache/forebay".into() };
        let shown = without_machine(&places, "unix:///var/cache/forebay/cluster/docker.sock in /where/it/lies/target");
        assert_eq!(shown, "unix://~/.cache/forebay/cluster/docker.sock in ./target");
    }
}
