//! The Docker engine: one that already answers, or our own with its data in the cache.

use std::env;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::places::Places;
use crate::process::{Program, tail};
use crate::{console, tools};

/// A cold engine answered within 2 s on two cores; longer than this and it will not.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// Bit of CAP_SYS_RESOURCE in a capability mask (linux/capability.h).
const CAP_SYS_RESOURCE: u32 = 24;

/// An engine that answers.
#[derive(Clone)]
pub(crate) struct Engine {
    /// Its address; nothing for Docker's default.
    pub(crate) host: Option<String>,
}

impl Engine {
    /// A `docker` command to this engine.
    pub(crate) fn docker(&self, places: &Places) -> Program {
        self.reach(places.run("docker"))
    }

    /// Points a program at this engine.
    pub(crate) fn reach(&self, program: Program) -> Program {
        match &self.host {
            Some(host) => program.env("DOCKER_HOST", host),
            None => program,
        }
    }

    /// The id of an image that the engine holds.
    pub(crate) fn image_id(&self, places: &Places, image: &str) -> Option<String> {
        self.docker(places).args(["image", "inspect", "-f", "{{.Id}}", image]).output().ok().map(|id| id.trim().to_owned())
    }
}

/// The engine that answers: the one DOCKER_HOST names, Docker's default, or ours.
pub(crate) fn running(places: &Places) -> Option<Engine> {
    let named = env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
    let candidates = [named, None, Some(own_address(places))];
    candidates.into_iter().map(|host| Engine { host }).find(|engine| engine.reach(places.run("docker")).args(["version"]).succeeds())
}

/// The engine that answers, or our own once it has been started.
pub(crate) fn up(places: &Places) -> Result<Engine> {
    if let Some(engine) = running(places) {
        console::present("Docker engine", engine.host.as_deref().unwrap_or("answers on its default socket"));
        return Ok(engine);
    }
    tools::packages(places, &["docker.io", "containerd", "runc", "jq"], "1 min", "a Docker engine")?;
    if let Some(engine) = running(places) {
        return Ok(engine); // the package's own service has started it
    }
    console::step("Docker engine", "2 s", "none answers", || start(places))
}

/// Stops our own engine unless a container still runs in it.
pub(crate) fn stop_idle(places: &Places, engine: &Engine) -> Result<()> {
    if engine.host != Some(own_address(places)) || !engine.docker(places).args(["ps", "-q"]).output()?.trim().is_empty() {
        return Ok(());
    }
    let Some(pid) = own_process(places) else { return Ok(()) };
    places.run("kill").args([pid]).output().map(drop)
}

fn own_address(places: &Places) -> String {
    format!("unix://{}/docker.sock", places.cluster_cache().display())
}

/// The process id that our engine has left, if that process still is an engine.
fn own_process(places: &Places) -> Option<String> {
    let pid = fs::read_to_string(places.cluster_cache().join("docker.pid")).ok()?.trim().to_owned();
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (name.trim() == "dockerd").then_some(pid)
}

fn start(places: &Places) -> Result<Engine> {
    let cache = places.cluster_cache();
    let file = |name: &str| cache.join(name);
    fs::create_dir_all(places.bin())?;
    if own_process(places).is_none() && file("docker.pid").exists() {
        fs::remove_file(file("docker.pid"))?; // of a process that is gone; a stranger may have its number, which dockerd would take for itself
    }
    let runtime = if lacks_sys_resource() { lowered_runtime(places)? } else { String::new() };
    let settings = format!(
        r#"{{"data-root":"{}","exec-root":"{}","pidfile":"{}","hosts":["{}"],"storage-driver":"overlay2","exec-opts":["native.cgroupdriver=cgroupfs"]{runtime}}}"#,
        file("docker").display(),
        file("docker-run").display(),
        file("docker.pid").display(),
        own_address(places),
    );
    fs::write(file("docker.json"), settings)?;
    places.run("sysctl").args(["-qw", "net.ipv4.ip_forward=1"]).output()?;
    let log = file("docker.log");
    places.run("dockerd").args(["--config-file".as_ref(), file("docker.json").as_os_str()]).detached(&log)?;
    let deadline = Instant::now() + START_DEADLINE;
    while Instant::now() < deadline {
        if let Some(engine) = running(places) {
            return Ok(engine);
        }
        thread::sleep(Duration::from_millis(200));
    }
    bail!("the Docker engine did not answer within {START_DEADLINE:?}; the end of {}:\n{}", log.display(), tail(&log))
}

/// The runtime that asks for one capability less, as a part of the engine's settings.
fn lowered_runtime(places: &Places) -> Result<String> {
    let target = places.bin().join("runc-lower");
    fs::copy(places.checkout.join("e2e/cluster/runc-lower"), &target).with_context(|| format!("cannot write {}", target.display()))?;
    Ok(format!(r#","runtimes":{{"lower":{{"path":"{}"}}}},"default-runtime":"lower""#, target.display()))
}

fn lacks_sys_resource() -> bool {
    let status = fs::read_to_string(Path::new("/proc/self/status")).unwrap_or_default();
    bounding_set(&status).is_some_and(|mask| mask >> CAP_SYS_RESOURCE & 1 == 0)
}

fn bounding_set(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapBnd:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounding_set_is_read_from_the_kernels_table() {
        assert_eq!(bounding_set("Name:\tx\nCapBnd:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        assert_eq!(bounding_set("Name:\tx\n"), None);
    }
}
