//! Who may use whom: docs/architecture.md's table, against what cargo says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result};
use cargo_metadata::{DependencyKind, MetadataCommand, Package, TargetKind};

use super::{Violation, violation};

/// A crate's row.
struct Row {
    name: &'static str,
    folder: &'static str,
    /// The crates of the workspace it may use.
    may_use: &'static [&'static str],
    /// The crates that it may not name itself.
    never_direct: &'static [&'static str],
    /// The crates that it may not reach through others either.
    never: &'static [&'static str],
}

/// What asks for a runtime, the network, chance, a client of Kubernetes, or a kernel.
const CORE: &[&str] = &["tokio", "serde", "rand", "getrandom", "kube", "aya", "tonic", "hyper"];

const fn row(
    name: &'static str,
    folder: &'static str,
    may_use: &'static [&'static str],
    never_direct: &'static [&'static str],
    never: &'static [&'static str],
) -> Row {
    Row { name, folder, may_use, never_direct, never }
}

const TABLE: [Row; 19] = [
    row("vocabulary", "crds/vocabulary", &[], &[], CORE),
    row("crds", "crds", &["vocabulary"], &["tokio", "rand"], &[]),
    row("budget", "crds/budget", &["crds", "vocabulary"], &["kube", "tokio", "rand"], &[]),
    row("plan", "operator/plan", &["crds", "budget", "vocabulary"], &["kube", "tokio", "rand"], &[]),
    row("operator", "operator", &["crds", "plan", "budget", "vocabulary"], &[], &["aya"]),
    row("pipeline", "agent/pipeline", &["vocabulary"], &[], CORE),
    row("otlp", "agent/otlp", &["vocabulary"], &[], &["tokio", "kube", "aya", "hyper"]),
    row("spool", "agent/spool", &["pipeline", "vocabulary"], &[], &["tokio", "serde", "kube", "aya", "hyper"]),
    row("probes", "agent/probes", &["abi"], &[], &["kube"]),
    row("decode", "agent/decode", &["abi", "otlp", "enrich", "vocabulary"], &["tokio", "aya"], &["kube", "aya"]),
    row("enrich", "agent/enrich", &[], &[], &["kube", "tokio"]),
    row("inputs", "agent/inputs", &["pipeline", "otlp", "vocabulary"], &[], &["kube", "aya"]),
    row("outputs", "agent/outputs", &["pipeline", "otlp", "vocabulary"], &[], &["kube", "aya"]),
    row(
        "agent",
        "agent",
        &["pipeline", "otlp", "spool", "probes", "decode", "enrich", "inputs", "outputs", "abi", "crds", "budget", "vocabulary"],
        &[],
        &[],
    ),
    row("sim", "agent/sim", &["pipeline", "spool", "otlp", "vocabulary"], &[], &["tokio", "serde", "rand", "kube", "aya", "hyper"]),
    row("bench", "agent/bench", &["pipeline", "spool", "otlp", "inputs", "outputs", "vocabulary"], &[], &["kube", "aya"]),
    row("abi", "agent-ebpf/abi", &[], &[], CORE),
    row("e2e", "e2e", &["crds", "vocabulary"], &[], &["aya"]),
    row("xtask", "e2e/xtask", &[], &["kube"], &["tokio", "kube"]),
];

/// What cargo says of one crate of the workspace.
#[derive(Debug, Clone, Default)]
pub(super) struct Crate {
    name: String,
    folder: String,
    library: Option<String>,
    /// Names of what it uses, in its library and its programs.
    uses: BTreeSet<String>,
    /// Names of what its tests use beyond that.
    tests_use: BTreeSet<String>,
    /// Everything that it reaches through others.
    reaches: BTreeSet<String>,
}

/// Reads the workspace.
pub(super) fn read(checkout: &Path) -> Result<Vec<Crate>> {
    let metadata = MetadataCommand::new()
        .manifest_path(checkout.join("Cargo.toml"))
        .other_options(["--locked".to_owned()])
        .exec()
        .context("cargo metadata failed")?;
    let names: BTreeMap<_, _> = metadata.packages.iter().map(|package| (&package.id, package.name.to_string())).collect();
    let resolve = metadata.resolve.as_ref().context("cargo metadata resolved nothing")?;
    let edges: BTreeMap<_, Vec<_>> = resolve
        .nodes
        .iter()
        .map(|node| {
            let normal = node.deps.iter().filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal));
            (&node.id, normal.map(|dep| &dep.pkg).collect())
        })
        .collect();
    let reach = |package: &Package| {
        let mut reached = BTreeSet::new();
        let mut open = vec![&package.id];
        while let Some(id) = open.pop() {
            let next = edges.get(id).into_iter().flatten().copied();
            open.extend(next.filter(|next| reached.insert(*next)));
        }
        reached.into_iter().filter_map(|id| names.get(id).cloned()).collect()
    };
    Ok(metadata.workspace_packages().into_iter().map(|package| describe(package, checkout, reach(package))).collect())
}

fn describe(package: &Package, checkout: &Path, reaches: BTreeSet<String>) -> Crate {
    let folder = package.manifest_path.parent().map(|folder| folder.as_std_path().to_path_buf()).unwrap_or_default();
    let of_kind = |tests: bool| {
        package.dependencies.iter().filter(move |dep| (dep.kind == DependencyKind::Development) == tests).map(|dep| dep.name.clone())
    };
    Crate {
        name: package.name.to_string(),
        folder: folder.strip_prefix(checkout).unwrap_or(&folder).to_string_lossy().into_owned(),
        library: package.targets.iter().find(|target| target.kind.contains(&TargetKind::Lib)).map(|target| target.name.clone()),
        uses: of_kind(false).collect(),
        tests_use: of_kind(true).collect(),
        reaches,
    }
}

pub(super) fn check(crates: &[Crate]) -> Vec<Violation> {
    let own: BTreeSet<&str> = crates.iter().map(|one| one.name.as_str()).collect();
    crates.iter().flat_map(|one| check_one(one, &own)).collect()
}

fn check_one(one: &Crate, own: &BTreeSet<&str>) -> Vec<Violation> {
    let found = |message: String| violation("dependency", &one.name, message);
    let Some(row) = TABLE.iter().find(|row| row.name == one.name) else {
        return vec![found("the crate is not in the table of docs/architecture.md and of e2e/xtask/src/tidy/dependencies.rs".to_owned())];
    };
    let mut all = Vec::new();
    if one.folder != row.folder {
        all.push(found(format!("lies in `{}`, and its place is `{}`", one.folder, row.folder)));
    }
    if one.library.as_ref().is_some_and(|library| *library != one.name) {
        all.push(found(format!(
            "its library is named `{}`: folder, package and library have one name",
            one.library.as_deref().unwrap_or_default()
        )));
    }
    let foreign = one
        .uses
        .iter()
        .chain(&one.tests_use)
        .filter(|name| own.contains(name.as_str()) && !row.may_use.contains(&name.as_str()) && **name != one.name);
    all.extend(foreign.map(|name| found(format!("uses `{name}`, and may use only: {}", row.may_use.join(", ")))));
    let direct = row.never_direct.iter().filter(|name| one.uses.contains(**name));
    all.extend(direct.map(|name| found(format!("uses `{name}`, which its duty forbids"))));
    let reached = row.never.iter().filter(|name| one.reaches.contains(**name));
    all.extend(reached.map(|name| found(format!("reaches `{name}`, which its duty forbids (cargo tree -p {} -i {name})", one.name))));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn workspace(pipeline_uses: &[&str], pipeline_reaches: &[&str]) -> Vec<Crate> {
        let named =
            |name: &str, folder: &str| Crate { name: name.into(), folder: folder.into(), library: Some(name.into()), ..Crate::default() };
        let pipeline = Crate { uses: set(pipeline_uses), reaches: set(pipeline_reaches), ..named("pipeline", "agent/pipeline") };
        vec![named("vocabulary", "crds/vocabulary"), named("crds", "crds"), pipeline]
    }

    #[test]
    fn a_core_that_knows_the_vocabulary_alone_is_right() {
        assert_eq!(check(&workspace(&["vocabulary", "bytes"], &["vocabulary", "bytes"])), []);
    }

    #[test]
    fn a_use_against_the_direction_is_found() {
        assert_eq!(check(&workspace(&["crds"], &["crds"])).len(), 1);
    }

    #[test]
    fn a_runtime_reached_through_another_crate_is_found() {
        assert_eq!(check(&workspace(&["innocent"], &["innocent", "tokio"])).len(), 1);
    }

    #[test]
    fn a_crate_outside_its_folder_or_the_table_is_found() {
        let mut crates = workspace(&[], &[]);
        crates.push(Crate { name: "surprise".into(), folder: "agent/surprise".into(), ..Crate::default() });
        crates.push(Crate { name: "otlp".into(), folder: "agent/wire".into(), library: Some("wire".into()), ..Crate::default() });
        assert_eq!(check(&crates).len(), 3);
    }
}
