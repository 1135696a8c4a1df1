//! From a checkout to a running operator: programs, kernel programs, cluster, images, chart.

use std::path::Path;

use anyhow::Result;

use crate::cluster::{self, Cluster};
use crate::places::Places;
use crate::{console, ebpf, images, tools};

/// Where the chart goes; the audit policy of e2e/cluster names it too.
const NAMESPACE: &str = "forebay-system";
const RELEASE: &str = "forebay";

/// Builds the programs that demo and tests start, into the folder that tests use too.
pub(crate) fn build_programs(places: &Places, packages: &[&str]) -> Result<()> {
    console::step("programs", "5 min cold", &packages.join(", "), || {
        let arguments = packages.iter().flat_map(|package| ["-p", package]);
        places.cargo().args(["build", "--bins"]).args(arguments).logged(&places.log("build"))
    })
}

/// Brings everything up, and returns the cluster it runs on.
pub(crate) fn up(places: &Places) -> Result<Cluster> {
    build_programs(places, &["operator", "agent", "e2e"])?;
    ebpf::build(places)?;
    let cluster = cluster::up(places)?;
    let changed = images::load(places, &cluster)?;
    install_chart(places, &cluster, changed)?;
    Ok(cluster)
}

fn install_chart(places: &Places, cluster: &Cluster, images_changed: bool) -> Result<()> {
    {
        let _lock = places.lock()?;
        tools::HELM.install(places)?;
    }
    console::step("chart", "10 s", &format!("helm upgrade --install {RELEASE} in {NAMESPACE}"), || {
        let log = places.log("chart");
        let existed = cluster.run(places, "helm").args(["status", RELEASE, "-n", NAMESPACE]).succeeds();
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
        if existed && images_changed {
            // The tag is the same, so nothing else would start the new programs.
            cluster.run(places, "kubectl").args(["-n", NAMESPACE, "rollout", "restart", "deployment"]).logged(&log)?;
            cluster.run(places, "kubectl").args(["-n", NAMESPACE, "rollout", "status", "deployment", "--timeout=120s"]).logged(&log)?;
            cluster
                .run(places, "kubectl")
                .args(["delete", "pods", "-A", "-l", "app.kubernetes.io/name=forebay-agent", "--wait=false"])
                .logged(&log)?;
        }
        Ok(())
    })
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
