//! One kind cluster per checkout: made, joined to a pod network, found again, replaced when it did not survive, removed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::engine::{self, Engine};
use crate::node_image::{self, NodeImage};
use crate::places::Places;
use crate::process::Program;
use crate::{console, tools};

/// Where the API server of the control plane writes what the operator asks of it.
const AUDIT_LOG: &str = "/var/log/kubernetes/audit/audit.log";
/// In a cluster's folder of the cache: the path of the checkout that made it.
const CHECKOUT_MARK: &str = "checkout";
/// In the control plane's container; written when the cluster is complete, gone with it.
const COMPLETE_MARK: &str = "/kind/forebay-complete";

/// A cluster of this checkout.
pub(crate) struct Cluster {
    pub(crate) name: String,
    pub(crate) engine: Engine,
    kubeconfig: PathBuf,
}

impl Cluster {
    fn of(places: &Places, engine: Engine) -> Self {
        Self::named(places, places.cluster_name(), engine)
    }

    fn named(places: &Places, name: String, engine: Engine) -> Self {
        let kubeconfig = folders(places).join(&name).join("kubeconfig");
        Self { name, engine, kubeconfig }
    }

    /// What a program needs to know to talk to this cluster.
    pub(crate) fn environment(&self, places: &Places) -> Vec<(String, String)> {
        let mut pairs = vec![
            ("KUBECONFIG".to_owned(), self.kubeconfig.display().to_string()),
            ("FOREBAY_CLUSTER".to_owned(), self.name.clone()),
            ("FOREBAY_AUDIT_LOG".to_owned(), AUDIT_LOG.to_owned()),
            ("PATH".to_owned(), places.path()),
        ];
        if let Some(host) = &self.engine.host {
            pairs.push(("DOCKER_HOST".to_owned(), host.clone()));
        }
        pairs
    }

    pub(crate) fn run(&self, places: &Places, name: &str) -> Program {
        places.run(name).envs(&self.environment(places))
    }

    pub(crate) fn control_plane(&self) -> String {
        format!("{}-control-plane", self.name)
    }

    fn exists(&self, places: &Places) -> bool {
        self.run(places, "kind").args(["get", "clusters"]).output().is_ok_and(|names| names.lines().any(|name| name == self.name))
    }

    fn survived(&self, places: &Places) -> bool {
        self.engine.docker(places).args(["exec", &self.control_plane(), "test", "-e", COMPLETE_MARK]).succeeds()
            && self.run(places, "kubectl").args(["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=5s"]).succeeds()
    }

    fn delete(&self, places: &Places) -> Result<()> {
        self.run(places, "kind").args(["delete", "cluster", "--name", &self.name]).logged(&places.log("cluster"))?;
        if let Some(folder) = self.kubeconfig.parent().filter(|folder| folder.exists()) {
            fs::remove_dir_all(folder)?;
        }
        Ok(())
    }

    fn create(&self, places: &Places, image: &NodeImage) -> Result<()> {
        let pieces = places.checkout.join("e2e/cluster");
        let template = pieces.join(if image.built { "kind-built.yaml" } else { "kind-pulled.yaml" });
        let folder = self.kubeconfig.parent().context("the kubeconfig has no folder")?;
        self.remember_checkout(places)?;
        let policy = folder.join("audit-policy.yaml");
        fs::copy(pieces.join("audit-policy.yaml"), &policy)?;
        let settings = folder.join("kind.yaml");
        fs::write(&settings, fs::read_to_string(template)?.replace("@AUDIT_POLICY@", &policy.display().to_string()))?;
        let wait = if image.built { "0s" } else { "180s" }; // a built node is ready only once we have given it a pod network
        self.run(places, "kind")
            .args(["create", "cluster", "--name", &self.name, "--image", &image.tag, "--wait", wait, "--config"])
            .args([settings])
            .logged(&places.log("cluster"))
    }

    fn remember_checkout(&self, places: &Places) -> Result<()> {
        let folder = folders(places).join(&self.name);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(CHECKOUT_MARK), places.checkout.display().to_string())
            .with_context(|| format!("cannot write into {}", folder.display()))
    }

    /// Gives each node its range of pod addresses and the way to the other nodes' ranges.
    fn join_pod_network(&self, places: &Places) -> Result<()> {
        let template = r#"{range .items[*]}{.metadata.name} {.spec.podCIDR} {.status.addresses[0].address}{"\n"}{end}"#;
        let table = self.run(places, "kubectl").args(["get", "nodes", "-o", &format!("jsonpath={template}")]).output()?;
        let nodes: Vec<[&str; 3]> = table.lines().filter_map(|line| line.split(' ').collect::<Vec<_>>().try_into().ok()).collect();
        for [node, range, address] in &nodes {
            let write = "cat >/etc/cni/net.d/10-pods.conflist";
            self.engine.docker(places).args(["exec", "-i", node, "sh", "-c", write]).input(pod_network(range)).output()?;
            for [other, ..] in nodes.iter().filter(|[other, ..]| other != node) {
                self.engine.docker(places).args(["exec", other, "ip", "route", "replace", range, "via", address]).output()?;
            }
        }
        Ok(())
    }

    /// kubeadm's own settings forward to the node's resolver, which in a container loops back to itself.
    fn keep_names_inside(&self, places: &Places) -> Result<()> {
        let corefile = places.checkout.join("e2e/cluster/node/Corefile");
        let map = self
            .run(places, "kubectl")
            .args(["-n", "kube-system", "create", "configmap", "coredns", "--dry-run=client", "-o", "yaml"])
            .args([format!("--from-file={}", corefile.display())])
            .output()?;
        self.run(places, "kubectl").args(["replace", "-f", "-"]).input(map).output().map(drop)
    }

    fn await_ready(&self, places: &Places) -> Result<()> {
        let log = places.log("cluster");
        self.run(places, "kubectl").args(["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=90s"]).logged(&log)?;
        self.run(places, "kubectl")
            .args(["-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=120s"])
            .logged(&log)?;
        self.engine.docker(places).args(["exec", &self.control_plane(), "touch", COMPLETE_MARK]).output().map(drop)
    }

    /// A machine that pulls its node image may have no kubectl; the node has.
    fn ensure_kubectl(&self, places: &Places) -> Result<()> {
        if places.run("kubectl").args(["version", "--client"]).succeeds() {
            return Ok(());
        }
        fs::create_dir_all(places.bin())?;
        let source = format!("{}:/usr/bin/kubectl", self.control_plane());
        self.engine.docker(places).args(["cp", "-L", &source]).args([places.bin().join("kubectl")]).output().map(drop)
    }
}

/// The cluster, ready: an old one that still answers, or a new one.
pub(crate) fn up(places: &Places) -> Result<Cluster> {
    let _lock = places.lock()?;
    let engine = engine::up(places)?;
    tools::KIND.install(places)?;
    let image = node_image::ensure(places, &engine)?;
    remove_orphans(places, &engine);
    let cluster = Cluster::of(places, engine);
    if cluster.exists(places) {
        if cluster.survived(places) {
            cluster.remember_checkout(places)?;
            console::present("cluster", &format!("{} is ready", cluster.name));
            return Ok(cluster);
        }
        console::step("old cluster", "5 s", "it did not survive the last stop of its host, or was never complete: removing it", || {
            cluster.delete(places)
        })?;
    }
    console::step("cluster", "45 s", &format!("{}: one control plane, two workers", cluster.name), || {
        cluster.create(places, &image)?;
        cluster.ensure_kubectl(places)?;
        if image.built {
            cluster.join_pod_network(places)?;
            cluster.keep_names_inside(places)?;
        }
        cluster.await_ready(places)
    })?;
    Ok(cluster)
}

/// Removes the clusters of checkouts that are gone: nobody will, and each holds the memory of three nodes.
fn remove_orphans(places: &Places, engine: &Engine) {
    for (name, checkout) in orphans(&folders(places)) {
        let cluster = Cluster::named(places, name, engine.clone());
        let why = format!("{}: its checkout {checkout} is gone, removing it", cluster.name);
        if let Err(error) = console::step("orphaned cluster", "5 s", &why, || cluster.delete(places)) {
            console::present("orphaned cluster", &format!("it stays and takes memory, nothing else: {error:#}"));
        }
    }
}

/// The folders of all checkouts' clusters.
fn folders(places: &Places) -> PathBuf {
    places.cluster_cache().join("clusters")
}

/// Clusters that say which checkout made them, and whose checkout is not there any more.
fn orphans(folders: &Path) -> Vec<(String, String)> {
    let named = |name: String| {
        let checkout = fs::read_to_string(folders.join(&name).join(CHECKOUT_MARK)).ok()?;
        let gone = name.starts_with("forebay-") && Path::new(&checkout).is_absolute() && !Path::new(&checkout).exists();
        gone.then_some((name, checkout))
    };
    let entries = fs::read_dir(folders).into_iter().flatten().flatten();
    entries.filter_map(|entry| named(entry.file_name().into_string().ok()?)).collect()
}

/// Removes this checkout's cluster, and stops our engine when nothing else runs in it.
pub(crate) fn down(places: &Places) -> Result<()> {
    let _lock = places.lock()?;
    let Some(engine) = engine::running(places) else {
        console::present("cluster", "no Docker engine answers, so there is none");
        return Ok(());
    };
    let cluster = Cluster::of(places, engine);
    if cluster.exists(places) {
        console::step("cluster", "5 s", &format!("removing {}", cluster.name), || cluster.delete(places))?;
    } else {
        console::present("cluster", "there is none of this checkout");
    }
    engine::stop_idle(places, &cluster.engine)
}

/// The cluster if it runs.
pub(crate) fn find(places: &Places) -> Option<Cluster> {
    let cluster = Cluster::of(places, engine::running(places)?);
    cluster.exists(places).then_some(cluster)
}

/// Says what runs.
pub(crate) fn status(places: &Places) -> Result<()> {
    let Some(cluster) = find(places) else {
        console::present("cluster", "not up: `cargo xtask cluster up` makes it");
        return Ok(());
    };
    console::present("engine", cluster.engine.host.as_deref().unwrap_or("Docker's default socket"));
    console::present("cluster", &cluster.name);
    console::present("state", if cluster.survived(places) { "ready" } else { "broken: `cargo xtask cluster up` replaces it" });
    for arguments in [vec!["get", "nodes"], vec!["get", "pods", "-A"]] {
        if let Ok(table) = cluster.run(places, "kubectl").args(arguments).output() {
            console::line(&table);
        }
    }
    Ok(())
}

fn pod_network(range: &str) -> String {
    format!(
        r#"{{"cniVersion":"1.0.0","name":"pods","plugins":[
 {{"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":false,"hairpinMode":true,
  "ipam":{{"type":"host-local","ranges":[[{{"subnet":"{range}"}}]],"routes":[{{"dst":"0.0.0.0/0"}}]}}}},
 {{"type":"portmap","capabilities":{{"portMappings":true}}}}]}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_cluster_whose_checkout_is_known_and_gone_is_an_orphan() {
        let cache = tempfile::tempdir().unwrap();
        let living = cache.path().display().to_string();
        let gone = cache.path().join("gone").display().to_string();
        for (name, checkout) in
            [("forebay-living", Some(&living)), ("forebay-gone", Some(&gone)), ("forebay-unknown", None), ("other", Some(&gone))]
        {
            let folder = cache.path().join("clusters").join(name);
            fs::create_dir_all(&folder).unwrap();
            if let Some(checkout) = checkout {
                fs::write(folder.join(CHECKOUT_MARK), checkout).unwrap();
            }
        }
        assert_eq!(orphans(&cache.path().join("clusters")), [("forebay-gone".to_owned(), gone)]);
        assert!(orphans(&cache.path().join("no clusters yet")).is_empty());
    }
}
