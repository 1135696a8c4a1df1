//! Builds the kernel programs. Only Debian's second Rust toolchain brings a `core` for the BPF target, so neither rustup's compiler
//! nor the workspace's lock file has a part in it.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::places::Places;
use crate::process::program;
use crate::{console, tools};

/// Reads the bitcode that rustc-web writes: both are of LLVM 22, and the linker's must not be older.
const LINKER: &str = "0.13.0";
const LLVM: &str = "/usr/lib/llvm-22";

const PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf", "llvm-22-dev"];

/// Builds `agent-ebpf` into `target/bpf/agent-ebpf`, or keeps the object that lies there where its compiler cannot be had.
pub(crate) fn build(places: &Places) -> Result<()> {
    if let Some(obstacle) = tools::obstacle(&PACKAGES) {
        return keep(&places.ebpf_object(), &obstacle);
    }
    let linker = {
        let _lock = places.lock()?;
        tools::packages(places, &PACKAGES, "1 min", "the compiler for kernel programs")?;
        let features = ["--no-default-features", "--features", "llvm-22"];
        let prefix = [("LLVM_PREFIX".to_owned(), LLVM.to_owned())];
        tools::cargo_tool(places, "bpf-linker", LINKER, &features, &prefix, "3 min", "links kernel programs")?
    };
    let build = places.target().join("bpf/build");
    console::step("kernel programs", "40 s cold, 2 s warm", "", || {
        program("/usr/bin/cargo")
            .args(["build", "--release", "--locked", "--target", "bpfel-unknown-none", "--target-dir"])
            .args([&build])
            .dir(&places.checkout.join("agent-ebpf"))
            .without_env("RUSTUP_TOOLCHAIN")
            .env("PATH", format!("{}:/usr/bin:/bin", linker.display()))
            .env("RUSTC", "/usr/bin/rustc")
            .env("RUSTC_BOOTSTRAP", "aya_ebpf") // unlocks the assembly feature for that one crate
            .env("CARGO_RESOLVER_INCOMPATIBLE_RUST_VERSIONS", "fallback")
            .env("RUSTFLAGS", "-C debuginfo=2 -C link-arg=--btf") // without both there is no BTF, hence no maps
            .logged(&places.log("ebpf"))?;
        let object = places.ebpf_object();
        let fresh = object.with_extension("new");
        fs::copy(build.join("bpfel-unknown-none/release/agent-ebpf"), &fresh).context("the build left no object")?;
        Ok(fs::rename(fresh, object)?)
    })
}

fn keep(object: &Path, obstacle: &str) -> Result<()> {
    if !object.is_file() {
        bail!(
            "the kernel programs cannot be built here: {obstacle}; or build them elsewhere with `cargo xtask ebpf` and copy them to {}",
            object.display()
        );
    }
    console::present("kernel programs", &format!("{} as it lies there, not built anew: {obstacle}", object.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_compiler_an_object_that_lies_there_is_used_and_a_missing_one_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let object = folder.path().join("agent-ebpf");
        let error = keep(&object, "this is not Debian").unwrap_err().to_string();
        assert!(error.contains("this is not Debian") && error.contains(&object.display().to_string()), "{error}");
        fs::write(&object, "programs").unwrap();
        keep(&object, "this is not Debian").unwrap();
    }
}
