//! Writes what is generated from the types: the CustomResourceDefinitions, for people under `crds/manifests` and for Helm in the
//! chart. With `--check` it writes nothing, names the first file that differs, and ends with code 1.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use crds::v1alpha1::{crds, yaml};

/// Where the definitions lie, from the root of the repository.
const FOLDERS: [&str; 2] = ["crds/manifests", "charts/forebay/templates/crds"];
/// The command that puts them right.
const COMMAND: &str = "cargo xtask gen";

#[expect(clippy::disallowed_methods, reason = "this is the program, not the library: it has arguments")]
fn main() -> ExitCode {
    let check = match env::args().nth(1).as_deref() {
        None => false,
        Some("--check") => true,
        Some(other) => {
            eprintln!("unknown argument `{other}`: use `--check`, or nothing to write the files");
            return ExitCode::from(2);
        }
    };
    match run(check) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(check: bool) -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (name, crd) in crds().map_err(|error| error.to_string())? {
        let text = yaml(&crd).map_err(|error| error.to_string())?;
        for folder in FOLDERS {
            let folder = root.join(folder);
            if check { compare(&folder.join(name), &text)? } else { write(&folder, name, &text)? }
        }
    }
    Ok(())
}

fn compare(file: &Path, text: &str) -> Result<(), String> {
    let found = fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}; run `{COMMAND}`", file.display()))?;
    if found == text { Ok(()) } else { Err(format!("{} differs from the types; run `{COMMAND}`", file.display())) }
}

fn write(folder: &Path, name: &str, text: &str) -> Result<(), String> {
    let file: PathBuf = folder.join(name);
    fs::create_dir_all(folder).and_then(|()| fs::write(&file, text)).map_err(|error| format!("cannot write {}: {error}", file.display()))
}
