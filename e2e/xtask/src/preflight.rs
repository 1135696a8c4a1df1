//! What a machine must offer before anything is started: each lack is said together with how to get it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::engine::Engine;
use crate::places::Places;
use crate::process::program;
use crate::{console, engine, node_image, tools};

/// Free space that a first run needs: about 4 GB of cluster cache, 9 GB of Go build and module cache, 5 GB of target folder, and room to breathe.
const DISK_FREE_COLD_BYTES: u64 = 24 << 30;
/// Free space once everything is installed: images are rebuilt and loaded into three nodes.
const DISK_FREE_WARM_BYTES: u64 = 6 << 30;
/// Compiling with two jobs, or three idle nodes (550 MiB) with the fleet and its load.
const MEMORY_FREE_BYTES: u64 = 3 << 30;

/// How to get Go.
pub(crate) const GET_GO: &str = "install Go 1.25 or newer from your distribution or from go.dev";

/// The cluster needs Docker or the right to start it.
pub(crate) fn cluster(places: &Places) -> Result<()> {
    let mut lacks = room(places, if places.stamped(&node_image::programs_stamp()) { DISK_FREE_WARM_BYTES } else { DISK_FREE_COLD_BYTES });
    let engine = engine::running(places);
    let docker = engine.is_some();
    if !docker && !is_root() {
        lacks.push("no Docker engine answers, and starting one needs root: start Docker and add yourself to the group `docker`, or run this as root".into());
    }
    if !docker && !Path::new("/usr/bin/apt-get").exists() {
        lacks.push("no Docker engine answers, and this is not Debian, where xtask could install one: install and start Docker".into());
    }
    if !has_go(places) {
        lacks.extend(for_want_of_go(places, engine.as_ref()));
    }
    if TcpListener::bind("127.0.0.1:0").is_err() {
        lacks.push("no free port on 127.0.0.1, which the API server needs: close programs that listen".into());
    }
    report(&lacks)
}

/// The standalone demo needs neither root nor Docker.
pub(crate) fn standalone(places: &Places) -> Result<()> {
    let mut lacks = room(places, DISK_FREE_WARM_BYTES);
    if TcpListener::bind("127.0.0.1:0").is_err() {
        lacks.push("no free port on 127.0.0.1, where the agent, its load and its backend meet: close programs that listen".into());
    }
    report(&lacks)
}

pub(crate) fn has_go(places: &Places) -> bool {
    places.run("go").args(["version"]).succeeds()
}

/// What cannot be built without Go. Before an engine runs nobody knows whether a registry answers it; then the node image asks again.
fn for_want_of_go(places: &Places, engine: Option<&Engine>) -> Option<String> {
    if !(tools::KIND.is_there(places) && tools::HELM.is_there(places)) {
        return Some(format!("kind or Helm is missing, and so is Go, which builds them: {GET_GO}"));
    }
    let needed = engine.is_some_and(|engine| node_image::needs_kubernetes(places, engine));
    needed.then(|| format!("no registry answers, and Go is missing, which builds Kubernetes for the node image: {GET_GO}"))
}

pub(crate) fn is_root() -> bool {
    program("id").args(["-u"]).output().is_ok_and(|uid| uid.trim() == "0")
}

fn report(lacks: &[String]) -> Result<()> {
    if lacks.is_empty() {
        console::present("preflight", "access, disk, memory and ports are there");
        return Ok(());
    }
    bail!("this machine lacks what the run needs:\n{}", lacks.iter().map(|lack| format!("  - {lack}\n")).collect::<String>());
}

fn room(places: &Places, disk_bytes: u64) -> Vec<String> {
    let mut lacks = Vec::new();
    for folder in [&places.cache, &places.checkout] {
        if let Some(free) = disk_free_bytes(folder).filter(|free| *free < disk_bytes) {
            lacks.push(format!(
                "{} has {} free and needs {}: free some, or set XDG_CACHE_HOME to a larger disk",
                folder.display(),
                gib(free),
                gib(disk_bytes)
            ));
        }
    }
    if let Some(free) = memory_free_bytes().filter(|free| *free < MEMORY_FREE_BYTES) {
        lacks.push(format!("{} of memory are free and {} are needed: close what you can", gib(free), gib(MEMORY_FREE_BYTES)));
    }
    lacks.dedup();
    lacks
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

fn disk_free_bytes(folder: &Path) -> Option<u64> {
    let existing: PathBuf = folder.ancestors().find(|folder| folder.exists())?.to_path_buf();
    let table = program("df").args(["--output=avail", "-B1"]).args([existing]).output().ok()?;
    table.lines().nth(1)?.trim().parse().ok()
}

fn memory_free_bytes() -> Option<u64> {
    let table = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = table.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lack_is_told_in_one_answer() {
        let error = report(&["no disk".into(), "no Docker".into()]).unwrap_err().to_string();
        assert!(error.contains("- no disk") && error.contains("- no Docker"), "{error}");
        assert!(report(&[]).is_ok());
    }

    #[test]
    fn the_machine_is_measured() {
        assert!(disk_free_bytes(Path::new("/nowhere/yet")).is_some_and(|free| free > 0));
        assert!(memory_free_bytes().is_some_and(|free| free > 0));
    }
}
