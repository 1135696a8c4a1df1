//! The three images: assembled from programs of the dev profile on a base without a shell, built and loaded only when a byte changed.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::cluster::Cluster;
use crate::console;
use crate::engine::Engine;
use crate::places::{Places, content_hash};

/// Every image has the workspace's version as its tag.
const TAG: &str = env!("CARGO_PKG_VERSION");
/// Changes with e2e/cluster/build-base-tree.
const BASE: &str = "forebay/base:1";
const HASH_LABEL: &str = "dev.forebay.content";

struct Image {
    name: &'static str,
    dockerfile: &'static str,
    programs: &'static [&'static str],
    carries_kernel_programs: bool,
    /// Runs on between two runs of xtask, and so must be restarted when it changed.
    of_fleet: bool,
}

const IMAGES: [Image; 3] = [
    Image {
        name: "operator",
        dockerfile: "operator/Dockerfile",
        programs: &["forebay-operator"],
        carries_kernel_programs: false,
        of_fleet: true,
    },
    Image { name: "agent", dockerfile: "agent/Dockerfile", programs: &["forebay-agent"], carries_kernel_programs: true, of_fleet: true },
    Image {
        name: "e2e",
        dockerfile: "e2e/Dockerfile",
        programs: &["forebay-loadgen", "forebay-sink", "forebay-hog"],
        carries_kernel_programs: false,
        of_fleet: false,
    },
];

impl Image {
    fn tag(&self) -> String {
        format!("forebay/{}:{TAG}", self.name)
    }

    fn files(&self, places: &Places) -> Vec<PathBuf> {
        let kernel = self.carries_kernel_programs.then(|| places.ebpf_object());
        self.programs.iter().map(|program| places.built(program)).chain(kernel).collect()
    }

    fn hash(&self, places: &Places, base: &str) -> Result<String> {
        let mut files = self.files(places);
        files.push(places.checkout.join(self.dockerfile));
        Ok(format!("{}-{base}", content_hash(&files)?))
    }

    /// Whether the engine's image is of this content.
    fn is_current(&self, places: &Places, engine: &Engine, hash: &str) -> bool {
        let format = format!("{{{{index .Config.Labels \"{HASH_LABEL}\"}}}}");
        engine.docker(places).args(["image", "inspect", "-f", &format, &self.tag()]).output().is_ok_and(|label| label.trim() == hash)
    }

    fn build(&self, places: &Places, engine: &Engine, base: &str, hash: &str) -> Result<()> {
        let context = places.target().join("images").join(self.name);
        if context.exists() {
            fs::remove_dir_all(&context)?;
        }
        fs::create_dir_all(&context)?;
        for file in self.files(places) {
            let target = context.join(file.file_name().context("a program without a name")?);
            let is_kernel = file == places.ebpf_object(); // its debug sections hold the BTF that its maps need
            if is_kernel
                || !places.run("strip").args(["--strip-debug".as_ref(), "-o".as_ref(), target.as_os_str(), file.as_os_str()]).succeeds()
            {
                fs::copy(&file, &target).with_context(|| format!("cannot copy {}", file.display()))?;
            }
        }
        engine
            .docker(places)
            .args([
                "build",
                "-q",
                "--build-arg",
                &format!("BASE={base}"),
                "--label",
                &format!("{HASH_LABEL}={hash}"),
                "-t",
                &self.tag(),
                "-f",
            ])
            .args([places.checkout.join(self.dockerfile), context])
            .env("DOCKER_BUILDKIT", "0") // Debian's engine has no BuildKit client, and these files run nothing
            .logged(&places.log("images"))
    }

    /// Loads it into the nodes unless they have this content; the mark lies in a node, so it goes with the cluster.
    fn load(&self, places: &Places, cluster: &Cluster, hash: &str) -> Result<()> {
        let mark = format!("/kind/loaded-{}", self.name);
        let node = cluster.control_plane();
        let docker = || cluster.engine.docker(places);
        if docker().args(["exec", &node, "cat", &mark]).output().is_ok_and(|loaded| loaded.trim() == hash) {
            return Ok(());
        }
        console::step(&format!("load {}", self.tag()), "10 s", "into the nodes", || {
            let archive = places.target().join("images").join(format!("{}.tar", self.name));
            docker().args(["save", "-o"]).args([archive.as_os_str(), self.tag().as_ref()]).logged(&places.log("images"))?;
            let load = cluster.run(places, "kind").args(["load", "image-archive", "--name", &cluster.name]).args([&archive]);
            load.logged(&places.log("images"))?;
            fs::remove_file(archive)?;
            docker().args(["exec", &node, "sh", "-c", &format!("echo {hash} >{mark}")]).output().map(drop)
        })
    }
}

/// Builds what changed.
pub(crate) fn build(places: &Places, engine: &Engine) -> Result<()> {
    each(places, engine, |_, _| Ok(()))
}

/// Builds what changed and loads what the nodes lack; returns the contents of the images that operator and agents run from, as one word.
pub(crate) fn load(places: &Places, cluster: &Cluster) -> Result<String> {
    let mut loaded = Vec::new();
    each(places, &cluster.engine, |image, hash| {
        image.load(places, cluster, hash)?;
        if image.of_fleet {
            loaded.push(hash.to_owned());
        }
        Ok(())
    })?;
    Ok(loaded.join("+"))
}

fn each(places: &Places, engine: &Engine, mut then: impl FnMut(&Image, &str) -> Result<()>) -> Result<()> {
    let base = base(places, engine)?;
    let base_id = engine.image_id(places, &base).unwrap_or_else(|| base.clone());
    for image in &IMAGES {
        let hash = image.hash(places, &base_id)?;
        if image.is_current(places, engine, &hash) {
            console::present(&image.tag(), "unchanged");
        } else {
            console::step(&image.tag(), "5 s", "", || image.build(places, engine, &base, &hash))?;
        }
        then(image, &hash)?;
    }
    Ok(())
}

/// The base image: the one FOREBAY_BASE names, or one assembled from Debian packages.
fn base(places: &Places, engine: &Engine) -> Result<String> {
    if let Ok(named) = env::var("FOREBAY_BASE") {
        return Ok(named);
    }
    if engine.image_id(places, BASE).is_some() {
        return Ok(BASE.to_owned());
    }
    if !places.run("apt-get").args(["--version"]).succeeds() {
        bail!(
            "the base image is assembled from Debian packages, and this is not Debian: set FOREBAY_BASE to an image with glibc 2.36 or newer, libgcc and CA certificates"
        );
    }
    console::step("base image", "10 s", "C library, certificates and time zones, no shell", || {
        let _lock = places.lock()?;
        let (tree, archive, log) = (places.cluster_cache().join("base"), places.cluster_cache().join("base.tar"), places.log("images"));
        places.run(&places.checkout.join("e2e/cluster/build-base-tree").to_string_lossy()).args([&tree]).logged(&log)?;
        places.run("tar").args(["-C".as_ref(), tree.as_os_str(), "-cf".as_ref(), archive.as_os_str(), ".".as_ref()]).logged(&log)?;
        engine.docker(places).args(["import".as_ref(), archive.as_os_str(), BASE.as_ref()]).logged(&log)?;
        fs::remove_file(archive)?;
        Ok(BASE.to_owned())
    })
}
