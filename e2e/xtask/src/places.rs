//! Where things lie: the checkout, the cache that checkouts share, the logs; and the search path that puts the cache's programs first.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::process::{Program, program};

/// The folders xtask works in.
pub(crate) struct Places {
    /// The top of the checkout.
    pub(crate) checkout: PathBuf,
    /// Programs that are installed once for all checkouts.
    pub(crate) cache: PathBuf,
}

impl Places {
    pub(crate) fn find() -> Result<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let checkout = here.ancestors().nth(2).context("xtask does not lie in e2e/xtask")?.to_path_buf();
        let cache = match env::var_os("XDG_CACHE_HOME") {
            Some(folder) if !folder.is_empty() => PathBuf::from(folder),
            _ => PathBuf::from(
                env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set: set one, the cache of tools lies below it")?,
            )
            .join(".cache"),
        };
        Ok(Self { checkout, cache: cache.join("forebay") })
    }

    /// Everything that makes a cluster.
    pub(crate) fn cluster_cache(&self) -> PathBuf {
        self.cache.join("cluster")
    }

    pub(crate) fn bin(&self) -> PathBuf {
        self.cluster_cache().join("bin")
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.checkout.join("target")
    }

    /// A program of the dev profile.
    pub(crate) fn built(&self, name: &str) -> PathBuf {
        self.target().join("debug").join(name)
    }

    pub(crate) fn ebpf_object(&self) -> PathBuf {
        self.target().join("bpf/agent-ebpf")
    }

    /// The log of one install step or suite.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.target().join("xtask-logs").join(format!("{name}.log"))
    }

    /// The cluster's name: two checkouts never collide.
    pub(crate) fn cluster_name(&self) -> String {
        let digest = hex(&Sha256::digest(self.checkout.to_string_lossy().as_bytes()));
        format!("forebay-{}", digest.get(..8).unwrap_or(&digest))
    }

    /// The search path with the cache's programs first.
    pub(crate) fn path(&self) -> String {
        let rest = env::var("PATH").unwrap_or_default();
        format!("{}:{rest}", self.bin().display())
    }

    /// A program found on that path, run in the checkout.
    pub(crate) fn run(&self, name: &str) -> Program {
        let own = self.bin().join(name);
        let found = if own.is_file() { own.into_os_string() } else { name.into() };
        program(found).env("PATH", self.path()).dir(&self.checkout)
    }

    pub(crate) fn cargo(&self) -> Program {
        self.run("cargo")
    }

    /// Held while something is installed or removed, by one xtask of this machine at a time; a dead one lets go of it.
    pub(crate) fn lock(&self) -> Result<File> {
        let folder = self.cluster_cache();
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let path = folder.join("lock");
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(file)
    }

    pub(crate) fn stamped(&self, name: &str) -> bool {
        self.cluster_cache().join("stamps").join(name).exists()
    }

    /// Marks a step as complete; written last, so that a crash leaves the step to be done again.
    pub(crate) fn stamp(&self, name: &str) -> Result<()> {
        let folder = self.cluster_cache().join("stamps");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), "").with_context(|| format!("cannot write the stamp {name}"))
    }
}

/// A digest of the contents of these files, in this order.
pub(crate) fn content_hash(files: &[PathBuf]) -> Result<String> {
    let mut digest = Sha256::new();
    for file in files {
        digest.update(fs::read(file).with_context(|| format!("cannot read {}", file.display()))?);
    }
    Ok(hex(&digest.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_checkouts_have_two_cluster_names_and_one_has_always_the_same() {
        let name = |checkout: &str| Places { checkout: checkout.into(), cache: "/cache".into() }.cluster_name();
        assert_eq!(name("/one"), name("/one"));
        assert_ne!(name("/one"), name("/two"));
        assert_eq!(name("/one").len(), "forebay-".len() + 8);
    }

    #[test]
    fn a_changed_byte_changes_the_content_hash() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("program");
        fs::write(&file, "one").unwrap();
        let before = content_hash(std::slice::from_ref(&file)).unwrap();
        fs::write(&file, "two").unwrap();
        assert_ne!(before, content_hash(&[file]).unwrap());
    }
}
