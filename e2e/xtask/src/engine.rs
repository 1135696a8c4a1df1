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

/// A cold engine answered within 2 s on two cores. One that was killed first starts the clusters of all checkouts again.
const START_DEADLINE: Duration = Duration::from_secs(120);
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
    places.run("kill").args([pid]).output()?;
    // A start right after this would meet its socket and its process id.
    for _ in 0..100 {
        if own_process(places).is_none() {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn own_address(places: &Places) -> String {
    format!("unix://{}/docker.sock", places.cluster_cache().display())
}

/// The process id that our engine has left, if that process still is an engine.
fn own_process(places: &Places) -> Option<String> {
    process_of(&places.cluster_cache().join("docker.pid"), "dockerd")
}

/// The process id in this file, if that process bears this name.
fn process_of(pid_file: &Path, name: &str) -> Option<String> {
    let pid = fs::read_to_string(pid_file).ok()?.trim().to_owned();
    let found = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (found.trim() == name).then_some(pid)
}

/// Removes the file unless its process lives. A stranger may have got the number since, and dockerd looks only at the number: it
/// would take the stranger for itself and not start, or for its containerd and kill it. Sockets of the dead both replace themselves.
fn forget_dead(pid_file: &Path, name: &str) -> Result<()> {
    if pid_file.exists() && process_of(pid_file, name).is_none() {
        fs::remove_file(pid_file).with_context(|| format!("cannot remove {}", pid_file.display()))?;
    }
    Ok(())
}

fn start(places: &Places) -> Result<Engine> {
    let cache = places.cluster_cache();
    let file = |name: &str| cache.join(name);
    fs::create_dir_all(places.bin())?;
    forget_dead(&file("docker.pid"), "dockerd")?;
    forget_dead(&file("docker-run").join("containerd/containerd.pid"), "containerd")?;
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
    let mut daemon = places.run("dockerd").args(["--config-file".as_ref(), file("docker.json").as_os_str()]).detached(&log)?;
    let deadline = Instant::now() + START_DEADLINE;
    while Instant::now() < deadline {
        if let Some(engine) = running(places) {
            return Ok(engine);
        }
        if let Some(status) = daemon.try_wait()? {
            bail!("the Docker engine did not start ({status}); the end of {}:\n{}", log.display(), tail(&log));
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
    fn the_number_of_a_dead_daemon_is_forgotten_even_if_a_stranger_bears_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("containerd.pid");
        let own = std::process::id().to_string();
        let name = fs::read_to_string("/proc/self/comm").unwrap();
        fs::write(&file, &own).unwrap();
        forget_dead(&file, name.trim()).unwrap();
        assert_eq!(process_of(&file, name.trim()), Some(own), "a living one is kept");
        forget_dead(&file, "containerd").unwrap();
        assert!(!file.exists());
        forget_dead(&file, "containerd").unwrap();
    }

    #[test]
    fn the_bounding_set_is_read_from_the_kernels_table() {
        assert_eq!(bounding_set("Name:\tx\nCapBnd:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        assert_eq!(bounding_set("Name:\tx\n"), None);
    }
}
