//! Programs that are installed once and found again: Debian packages by dpkg's own record, Go and Cargo programs by version in the cache.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::places::Places;
use crate::process::program;
use crate::{console, preflight};

/// Kubernetes in Docker, the one cluster backend.
pub(crate) const KIND: GoTool =
    GoTool { name: "kind", package: "sigs.k8s.io/kind", version: "v0.30.0", expected: "1 min", why: "makes the cluster" };
/// Installs and checks the chart.
pub(crate) const HELM: GoTool =
    GoTool { name: "helm", package: "helm.sh/helm/v3/cmd/helm", version: "v3.19.5", expected: "2 min", why: "installs the chart" };

/// A program that `go install` builds from the module proxy.
pub(crate) struct GoTool {
    name: &'static str,
    package: &'static str,
    version: &'static str,
    expected: &'static str,
    why: &'static str,
}

impl GoTool {
    /// Whether the cache has this version, or else the machine has one of its own.
    pub(crate) fn is_there(&self, places: &Places) -> bool {
        if places.bin().join(self.name).is_file() {
            places.stamped(&self.stamp())
        } else {
            places.run(self.name).args(["version"]).succeeds()
        }
    }

    fn stamp(&self) -> String {
        format!("{}-{}", self.name, self.version)
    }

    /// Builds it into the cache unless it is there.
    pub(crate) fn install(&self, places: &Places) -> Result<()> {
        if self.is_there(places) {
            return Ok(());
        }
        console::step(&format!("{} {}", self.name, self.version), self.expected, self.why, || {
            places
                .run("go")
                .args(["install", &format!("{}@{}", self.package, self.version)])
                .env("GOBIN", places.bin())
                .env("CGO_ENABLED", "0")
                .logged(&places.log("install"))?;
            places.stamp(&self.stamp())
        })
    }
}

/// Installs those Debian packages that dpkg does not list as installed.
pub(crate) fn packages(places: &Places, names: &[&str], expected: &str, why: &str) -> Result<()> {
    let missing = missing(names);
    if missing.is_empty() {
        return Ok(());
    }
    if let Some(obstacle) = obstacle(names) {
        bail!("{why}: {obstacle}");
    }
    console::step("Debian packages", expected, &format!("{why}: {}", missing.join(" ")), || {
        let log = places.log("install");
        places.run("apt-get").args(["update", "-q"]).logged(&log)?;
        places.run("apt-get").args(["install", "-y", "-q"]).args(&missing).env("DEBIAN_FRONTEND", "noninteractive").logged(&log)
    })
}

/// Why those packages that are missing cannot be installed, and what to do.
pub(crate) fn obstacle(names: &[&str]) -> Option<String> {
    let missing = missing(names).join(" ");
    if missing.is_empty() {
        None
    } else if !Path::new("/usr/bin/apt-get").exists() {
        Some(format!("this is not Debian, which has the packages {missing}"))
    } else if !preflight::is_root() {
        Some(format!(
            "Debian packages are missing, and installing them needs root: run `apt-get install {missing}` as root, then this again"
        ))
    } else {
        None
    }
}

fn missing<'a>(names: &[&'a str]) -> Vec<&'a str> {
    names.iter().copied().filter(|name| !installed(name)).collect()
}

fn installed(package: &str) -> bool {
    program("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]).output().is_ok_and(|status| status == "installed")
}

/// Builds a program from crates.io into a folder of the cache that is named after its version; returns the folder that holds it.
pub(crate) fn cargo_tool(
    places: &Places,
    name: &str,
    version: &str,
    more: &[&str],
    envs: &[(String, String)],
    expected: &str,
    why: &str,
) -> Result<PathBuf> {
    let root = places.cache.join(format!("{name}-{version}"));
    let folder = root.join("bin");
    if folder.join(name).is_file() {
        return Ok(folder);
    }
    console::step(&format!("{name} {version}"), expected, why, || {
        let build = places.cache.join("build").join(name);
        places
            .cargo()
            .args(["install", "--locked", "--version", version])
            .args(more)
            .args(["--root".as_ref(), root.as_os_str(), "--target-dir".as_ref(), build.as_os_str(), name.as_ref()])
            .envs(envs)
            .logged(&places.log("install"))?;
        Ok(std::fs::remove_dir_all(build)?)
    })?;
    Ok(folder)
}
