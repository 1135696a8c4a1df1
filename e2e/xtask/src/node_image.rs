//! The image of a kind node: pulled where a registry answers, else built from Go modules and Debian packages.

use std::fs;

use anyhow::{Result, bail};

use crate::engine::Engine;
use crate::places::{Places, content_hash};
use crate::{console, preflight, tools};

/// The newest minor whose kubelet still accepts cgroup v1, with a version that the module proxy has.
const KUBERNETES: &str = "1.34.4";
const ETCD: &str = "3.6.5";
const COREDNS: &str = "1.14.6";
/// kind 0.30's own image.
const PULLED: &str = "kindest/node:v1.34.0";
/// A registry that has not answered by now is taken for unreachable.
const REGISTRY_SECONDS: &str = "15";

/// What nodes are made of, and with which of the two cluster files.
pub(crate) struct NodeImage {
    pub(crate) tag: String,
    pub(crate) built: bool,
}

/// The image, ready in the engine.
pub(crate) fn ensure(places: &Places, engine: &Engine) -> Result<NodeImage> {
    let pieces = pieces(places)?;
    let (built, tree) = (format!("kindest/node:v{pieces}"), format!("node-{pieces}"));
    if engine.image_id(places, &built).is_some() && places.stamped(&tree) {
        console::present("node image", &format!("{built}, built here"));
        return Ok(NodeImage { tag: built, built: true });
    }
    if engine.image_id(places, PULLED).is_some() {
        console::present("node image", &format!("{PULLED}, pulled"));
        return Ok(NodeImage { tag: PULLED.to_owned(), built: false });
    }
    if !places.stamped(&tree) && registry_answers(places, engine) {
        console::step("node image", "2 min", &format!("pulling {PULLED}"), || {
            engine.docker(places).args(["pull", PULLED]).logged(&places.log("install"))
        })?;
        return Ok(NodeImage { tag: PULLED.to_owned(), built: false });
    }
    if !preflight::is_root() {
        bail!("no registry answers, so the node image must be built, which needs root: run this as root, or pull {PULLED} into Docker");
    }
    build(places, engine, &built, &tree)?;
    Ok(NodeImage { tag: built, built: true })
}

/// Whether a node image must be built, and Kubernetes with it; asks the registry only if nothing nearer answers that.
pub(crate) fn needs_kubernetes(places: &Places, engine: &Engine) -> bool {
    !places.stamped(&programs_stamp()) && engine.image_id(places, PULLED).is_none() && !registry_answers(places, engine)
}

/// Whether this machine has built Kubernetes already.
pub(crate) fn programs_stamp() -> String {
    format!("binaries-{KUBERNETES}")
}

/// Which pieces a node is made of: a changed piece makes another node, and an older checkout beside this one keeps its own.
fn pieces(places: &Places) -> Result<String> {
    let pieces = ["build-node-tree", "node/entrypoint", "node/systemctl", "node/containerd.toml", "node/pause.c"];
    let hash = content_hash(&pieces.map(|piece| places.checkout.join("e2e/cluster").join(piece)))?;
    Ok(format!("{KUBERNETES}-{}", hash.get(..8).unwrap_or(&hash)))
}

fn registry_answers(places: &Places, engine: &Engine) -> bool {
    engine.reach(places.run("timeout")).args([REGISTRY_SECONDS, "docker", "manifest", "inspect", PULLED]).succeeds()
}

fn build(places: &Places, engine: &Engine, tag: &str, tree: &str) -> Result<()> {
    let cache = places.cluster_cache();
    let pieces = places.checkout.join("e2e/cluster");
    let log = places.log("install");
    let packages = [
        "docker.io",
        "containerd",
        "runc",
        "containernetworking-plugins",
        "buildah",
        "iptables",
        "conntrack",
        "debootstrap",
        "jq",
        "gcc",
        "libc6-dev",
    ];
    if !places.stamped(&programs_stamp()) && !preflight::has_go(places) {
        bail!("no registry answers, so Kubernetes must be built from its Go modules: {}", preflight::GET_GO);
    }
    tools::packages(places, &packages, "2 min", "building a node image, because no registry answers")?;
    if !places.stamped(&programs_stamp()) {
        console::step(&format!("Kubernetes {KUBERNETES}"), "9 min", "from its Go modules, because no registry answers", || {
            let script = places.run(&pieces.join("build-kubernetes").to_string_lossy());
            script.args([places.bin().as_os_str(), cache.as_os_str()]).args([KUBERNETES, ETCD, COREDNS]).logged(&log)?;
            places.stamp(&programs_stamp())
        })?;
    }
    if !places.stamped(tree) {
        console::step("node root file system", "2 min", "Debian, containerd and the control plane's images", || {
            let script = places.run(&pieces.join("build-node-tree").to_string_lossy());
            script.args([cache.as_os_str()]).args([KUBERNETES]).logged(&log)?;
            places.stamp(tree)
        })?;
    }
    console::step("node image", "20 s", "imported into Docker", || {
        let archive = cache.join("node.tar");
        places
            .run("tar")
            .args(["-C".as_ref(), cache.join("node").as_os_str(), "-cf".as_ref(), archive.as_os_str(), ".".as_ref()])
            .logged(&log)?;
        let entrypoint = r#"ENTRYPOINT ["/usr/local/bin/entrypoint"]"#;
        engine.docker(places).args(["import", "-c", entrypoint]).args([archive.as_os_str(), tag.as_ref()]).logged(&log)?;
        Ok(fs::remove_file(archive)?)
    })
}
