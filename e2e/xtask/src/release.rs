//! From a checkout to a running operator: programs, kernel programs, cluster, images, chart.

use std::path::Path;

use anyhow::Result;

use crate::cluster::{self, Cluster};
use crate::places::Places;
use crate::{console, ebpf, images, tools};

/// Where the chart goes; the audit policy of e2e/cluster names it too.
const NAMESPACE: &str = "forebay-system";
const RELEASE: &str = "forebay";

/// In the control plane's container, so that it goes with the cluster: the images that operator and agents were last started from.
const RUNNING_MARK: &str = "/kind/forebay-running";
/// What every build and test of the workspace selects. The features of a dependency follow from all selected packages, so a narrower
/// selection would build most of the dependency tree a second time. xtask stays out: it runs while the rest is built.
pub(crate) const SELECTION: [&str; 3] = ["--workspace", "--exclude", "xtask"];

/// Builds the programs that demo and tests start, into the folder that tests use too.
pub(crate) fn build_programs(places: &Places) -> Result<()> {
    console::step("programs", "5 min cold", "operator, agent, load, backend, generators", || {
        // One small test among the targets makes the features of test dependencies count, as they do for the tests themselves.
        places.cargo().arg("build").args(SELECTION).args(["--bins", "--test", "kernel"]).logged(&places.log("build"))?;
        // The suites of the fail points build an agent of the same name, which runs for nobody who does not tell it where to fail.
        let agent = places.built("forebay-agent");
        places.run(&agent.to_string_lossy()).arg("--version").without_env("FOREBAY_POINTS").logged(&places.log("build"))
    })
}

/// Brings everything up, and returns the cluster it runs on.
pub(crate) fn up(places: &Places) -> Result<Cluster> {
    build_programs(places)?;
    ebpf::build(places)?;
    let cluster = cluster::up(places)?;
    let loaded = images::load(places, &cluster)?;
    install_chart(places, &cluster, &loaded)?;
    Ok(cluster)
}

/// Under the lock, so that an operation which Helm calls pending belongs to a run that has died.
fn install_chart(places: &Places, cluster: &Cluster, loaded: &str) -> Result<()> {
    let _lock = places.lock()?;
    tools::HELM.install(places)?;
    let status = cluster.run(places, "helm").args(["status", RELEASE, "-n", NAMESPACE]).output().ok();
    if let Some(remedy) = status.as_deref().and_then(Remedy::of) {
        remedy.apply(places, cluster)?;
    }
    let existed = status.is_some();
    let control_plane = cluster.control_plane();
    let docker = || cluster.engine.docker(places);
    let running = docker().args(["exec", &control_plane, "cat", RUNNING_MARK]).output().ok();
    console::step("chart", "10 s", &format!("helm upgrade --install {RELEASE} in {NAMESPACE}"), || {
        let log = places.log("chart");
        cluster
            .run(places, "helm")
            .args([
                "upgrade",
                "--install",
                RELEASE,
                "charts/forebay",
                "-n",
                NAMESPACE,
                "--create-namespace",
                "--take-ownership",
                "--wait",
                "--timeout",
                "180s",
            ])
            .logged(&log)?;
        if must_restart(running.as_deref(), loaded, existed) {
            // The tag is the same, so nothing else would start the new programs.
            cluster.run(places, "kubectl").args(["-n", NAMESPACE, "rollout", "restart", "deployment"]).logged(&log)?;
            cluster.run(places, "kubectl").args(["-n", NAMESPACE, "rollout", "status", "deployment", "--timeout=120s"]).logged(&log)?;
            cluster
                .run(places, "kubectl")
                .args(["delete", "pods", "-A", "-l", "app.kubernetes.io/name=forebay-agent", "--wait=false"])
                .logged(&log)?;
        }
        // Written last: a run that dies before it leaves the restart to the next one.
        docker().args(["exec", &control_plane, "sh", "-c", &format!("echo {loaded} >{RUNNING_MARK}")]).output().map(drop)
    })
}

/// Whether programs may run that are older than the loaded images. A cluster without a mark has none, unless a release stood there before.
fn must_restart(running: Option<&str>, loaded: &str, existed: bool) -> bool {
    running.map_or(existed, |mark| mark.trim() != loaded)
}

/// What makes Helm work again after an operation that its run did not live to end.
#[derive(Debug, PartialEq, Eq)]
enum Remedy {
    Uninstall,
    RollBack,
}

impl Remedy {
    /// From what `helm status` prints.
    fn of(status: &str) -> Option<Self> {
        match status.lines().find_map(|line| line.strip_prefix("STATUS:"))?.trim() {
            "pending-install" | "uninstalling" => Some(Self::Uninstall),
            "pending-upgrade" | "pending-rollback" => Some(Self::RollBack),
            _ => None,
        }
    }

    fn apply(self, places: &Places, cluster: &Cluster) -> Result<()> {
        let (verb, why) = match self {
            Self::Uninstall => ("uninstall", "an earlier install was cut off: removing its rest; CRDs and pipelines stay"),
            Self::RollBack => ("rollback", "an earlier upgrade was cut off: back to the release before it"),
        };
        console::step(&format!("helm {verb}"), "10 s", why, || {
            cluster.run(places, "helm").args([verb, RELEASE, "-n", NAMESPACE]).logged(&places.log("chart"))
        })
    }
}

/// What demo and end-to-end tests find in their environment.
pub(crate) fn environment(places: &Places, cluster: Option<&Cluster>) -> Vec<(String, String)> {
    let text = |path: &Path| path.display().to_string();
    let mut pairs = vec![
        ("FOREBAY_AGENT".to_owned(), text(&places.built("forebay-agent"))),
        ("FOREBAY_SINK".to_owned(), text(&places.built("forebay-sink"))),
        ("FOREBAY_LOADGEN".to_owned(), text(&places.built("forebay-loadgen"))),
        ("FOREBAY_EBPF_OBJECT".to_owned(), text(&places.ebpf_object())),
        ("FOREBAY_EXAMPLES".to_owned(), text(&places.checkout.join("docs/examples"))),
        ("FOREBAY_ARTIFACTS".to_owned(), text(&places.target().join("e2e-artifacts"))),
    ];
    if let Some(cluster) = cluster {
        pairs.extend(cluster.environment(places));
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_older_than_the_loaded_images_are_restarted_whoever_loaded_them() {
        assert!(must_restart(Some("old\n"), "new", true));
        assert!(must_restart(Some("old\n"), "new", false), "agents outlive an uninstalled operator");
        assert!(must_restart(None, "new", true), "a run died between load and restart");
        assert!(!must_restart(Some("new\n"), "new", true));
        assert!(!must_restart(None, "new", false), "a first install starts what was just loaded");
    }

    #[test]
    fn a_cut_off_operation_of_helm_is_undone_and_a_whole_one_is_left() {
        let of = |status: &str| Remedy::of(&format!("NAME: forebay\nNAMESPACE: forebay-system\nSTATUS: {status}\nREVISION: 2\n"));
        assert_eq!(of("pending-install"), Some(Remedy::Uninstall));
        assert_eq!(of("uninstalling"), Some(Remedy::Uninstall));
        assert_eq!(of("pending-upgrade"), Some(Remedy::RollBack));
        assert_eq!(of("pending-rollback"), Some(Remedy::RollBack));
        assert_eq!(of("deployed"), None);
        assert_eq!(of("failed"), None);
    }
}
