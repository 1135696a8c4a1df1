//! Everything CI runs, as suites in one order: each prints its time and the closing lines of its tests, and the end is one table.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::console::{self, seconds};
use crate::places::Places;
use crate::process::{Echo, Program};
use crate::release::{self, SELECTION};
use crate::{cluster, demo, ebpf, preflight, tidy, tools};

const CARGO_DENY: &str = "0.20.2";

/// Property tests draw the same cases in every run of the suite, so that a red run says something about the change. Plain
/// `cargo test` draws new ones each time, and `PROPTEST_CASES=100000 cargo test -p PACKAGE` hunts.
const PROPERTY_SEED: (&str, &str) = ("PROPTEST_RNG_SEED", "1");

/// How a suite ended, if not with an error.
enum Outcome {
    Passed,
    /// With what it could not cover, and why.
    Partly(String),
}

/// A named part of the checks.
struct Suite {
    name: &'static str,
    /// What a person does first when it fails.
    next_step: &'static str,
    run: fn(&Places) -> Result<Outcome>,
}

const SUITES: [Suite; 16] = [
    Suite { name: "format", next_step: "cargo fmt --all", run: format },
    Suite { name: "clippy", next_step: "cargo clippy --workspace --all-targets", run: clippy },
    Suite { name: "tidy", next_step: "mend the lines above; the rules stand in docs/style.md", run: tidy },
    Suite { name: "deny", next_step: "cargo tree -i CRATE shows who wants it; deny.toml holds the rules", run: deny },
    Suite { name: "docs", next_step: "cargo doc --workspace --no-deps", run: docs },
    Suite { name: "gen", next_step: "cargo xtask gen", run: generated },
    Suite { name: "chart", next_step: "cargo xtask gen --bless-chart, and read the difference", run: chart },
    Suite { name: "unit", next_step: "PROPTEST_RNG_SEED=1 cargo test -p PACKAGE TEST", run: unit },
    Suite {
        name: "sim",
        next_step: "replay the seed with the line above; what it finds becomes a test of the crate it lies in",
        run: simulation,
    },
    Suite {
        name: "interleavings",
        next_step: "LOOM_LOG=trace LOOM_LOCATION=1 cargo test -p PACKAGE --lib --features loom interleavings tells the order that fails",
        run: interleavings,
    },
    Suite { name: "kernel", next_step: "run the failing test as root; target/bpf/agent-ebpf is what it loads", run: kernel },
    Suite { name: "kills", next_step: "the line `replay:` above runs the same kills again", run: kills },
    Suite { name: "power", next_step: "the line `replay:` above cuts the power in the same way", run: power },
    Suite { name: "standalone", next_step: "cargo xtask demo --standalone", run: standalone },
    Suite { name: "crds", next_step: "cargo xtask cluster status", run: crds },
    Suite { name: "e2e", next_step: "look into target/e2e-artifacts, then cargo xtask cluster status", run: end_to_end },
];

/// The names of all suites, in order.
pub(crate) fn names() -> Vec<&'static str> {
    SUITES.iter().map(|suite| suite.name).collect()
}

/// Runs all suites, or the named ones; says whether all passed.
pub(crate) fn run(places: &Places, only: &[String]) -> Result<bool> {
    if let Some(unknown) = only.iter().find(|name| !names().contains(&name.as_str())) {
        bail!("there is no suite `{unknown}`; there are: {}", names().join(", "));
    }
    let mut table = Vec::new();
    let started = Instant::now();
    for suite in SUITES.iter().filter(|suite| only.is_empty() || only.iter().any(|name| name == suite.name)) {
        console::line(&format!("\n── {} ──", suite.name));
        let begun = Instant::now();
        let outcome = (suite.run)(places);
        table.push(row(suite, &outcome, begun.elapsed()));
        if let Err(error) = &outcome {
            console::line(&format!("{error:#}\n  next: {}", suite.next_step));
        }
    }
    console::line(&format!(
        "\n{}  {:<15}{:<10}{}",
        table.iter().map(|(line, _)| format!("  {line}\n")).collect::<String>(),
        "in all",
        "",
        seconds(started.elapsed())
    ));
    Ok(table.iter().all(|(_, passed)| *passed))
}

fn row(suite: &Suite, outcome: &Result<Outcome>, took: Duration) -> (String, bool) {
    let (word, note, passed) = match outcome {
        Ok(Outcome::Passed) => ("ok", String::new(), true),
        Ok(Outcome::Partly(note)) => ("partly", format!("  {note}"), true),
        Err(_) => ("FAILED", format!("  next: {}", suite.next_step), false),
    };
    (format!("{:<15}{word:<10}{:<14}{note}", suite.name, seconds(took)).trim_end().to_owned(), passed)
}

fn cargo_test(places: &Places, suite: &str, arguments: &[&str], echo: Echo, environment: &[(String, String)]) -> Result<()> {
    places.cargo().arg("test").args(SELECTION).args(arguments).envs(environment).shown_ok(&places.log(suite), echo)
}

fn format(places: &Places) -> Result<Outcome> {
    places.cargo().args(["fmt", "--all", "--check"]).logged(&places.log("format"))?;
    Ok(Outcome::Passed)
}

fn clippy(places: &Places) -> Result<Outcome> {
    places.cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]).logged(&places.log("clippy"))?;
    places
        .cargo()
        .args(["clippy", "--workspace", "--features", "agent/failpoints", "--test", "proof", "--", "-D", "warnings"])
        .logged(&places.log("clippy"))?;
    Ok(Outcome::Passed)
}

fn tidy(places: &Places) -> Result<Outcome> {
    let violations = tidy::check(&places.checkout)?;
    if violations.is_empty() {
        return Ok(Outcome::Passed);
    }
    for violation in &violations {
        console::line(&format!("  {violation}"));
    }
    bail!("{} violations of the house rules", violations.len())
}

fn deny(places: &Places) -> Result<Outcome> {
    let folder = tools::cargo_tool(places, "cargo-deny", CARGO_DENY, &[], &[], "4 min", "checks licences, sources and banned crates")?;
    let program = folder.join("cargo-deny").to_string_lossy().into_owned();
    let log = places.log("deny");
    places.run(&program).args(["--all-features", "check", "bans", "licenses", "sources"]).logged(&log)?;
    if !places.run("timeout").args(["60", &program, "fetch", "db"]).succeeds() {
        return Ok(Outcome::Partly("bans, licences and sources; the advisory database cannot be reached".to_owned()));
    }
    places.run(&program).args(["--all-features", "check", "advisories"]).logged(&log)?;
    Ok(Outcome::Passed)
}

fn docs(places: &Places) -> Result<Outcome> {
    places.cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings").logged(&places.log("docs"))?;
    Ok(Outcome::Passed)
}

fn generated(places: &Places) -> Result<Outcome> {
    generate(places, true)?;
    Ok(Outcome::Passed)
}

/// Runs the generators, or compares what they would write.
pub(crate) fn generate(places: &Places, check: bool) -> Result<()> {
    release::build_programs(places)?;
    let arguments: &[&str] = if check { &["--check"] } else { &[] };
    places.run(&places.built("gen").to_string_lossy()).args(arguments).shown_ok(&places.log("gen"), Echo::Everything)?;
    let page = places.run(&places.built("spool-format").to_string_lossy()).output()?;
    let file = places.checkout.join(FORMAT_PAGE);
    if !check {
        return Ok(fs::write(file, page)?);
    }
    let found = fs::read_to_string(file).unwrap_or_default();
    if let Some((number, (was, is))) = first_difference(&found, &page) {
        bail!("{FORMAT_PAGE} differs from the constants, first in line {number}:\n    was  {was}\n    is   {is}");
    }
    Ok(())
}

/// The page of the log's format.
const FORMAT_PAGE: &str = "docs/format.md";

fn chart(places: &Places) -> Result<Outcome> {
    let rendered = render_chart(places)?;
    places.run("helm").args(["lint", "--strict", "charts/forebay"]).logged(&places.log("chart"))?;
    let golden = fs::read_to_string(places.checkout.join(GOLDEN)).unwrap_or_default();
    if let Some((number, (was, is))) = first_difference(&golden, &rendered) {
        bail!("the chart renders otherwise than {GOLDEN}, first in line {number}:\n    was  {was}\n    is   {is}");
    }
    Ok(Outcome::Passed)
}

const GOLDEN: &str = "charts/forebay/tests/golden.yaml";

/// Writes the golden render anew.
pub(crate) fn bless_chart(places: &Places) -> Result<()> {
    let rendered = render_chart(places)?;
    fs::create_dir_all(places.checkout.join("charts/forebay/tests"))?;
    Ok(fs::write(places.checkout.join(GOLDEN), rendered)?)
}

fn render_chart(places: &Places) -> Result<String> {
    {
        let _lock = places.lock()?;
        tools::HELM.install(places)?;
    }
    places.run("helm").args(["template", "forebay", "charts/forebay", "-n", "forebay-system", "--kube-version", "1.34.0"]).output()
}

fn first_difference<'a>(was: &'a str, is: &'a str) -> Option<(usize, (&'a str, &'a str))> {
    let lines = was.lines().count().max(is.lines().count());
    let pairs = was.lines().chain(std::iter::repeat("(nothing)")).zip(is.lines().chain(std::iter::repeat("(nothing)")));
    (1..).zip(pairs).take(lines).find(|(_, (was, is))| was != is)
}

fn unit(places: &Places) -> Result<Outcome> {
    let (name, seed) = PROPERTY_SEED;
    cargo_test(places, "unit", &[], Echo::TestResults, &[(name.to_owned(), seed.to_owned())])?;
    places.cargo().args(["test", "-p", "xtask"]).shown_ok(&places.log("unit"), Echo::TestResults)?;
    Ok(Outcome::Passed)
}

fn simulation(places: &Places) -> Result<Outcome> {
    simulate(places, &[])?;
    Ok(Outcome::Passed)
}

/// Runs the seeded simulation; without arguments the seeds of every run.
pub(crate) fn simulate(places: &Places, arguments: &[String]) -> Result<()> {
    release::build_programs(places)?;
    places.run(&places.built("sim").to_string_lossy()).args(arguments).shown_ok(&places.log("sim"), Echo::Everything)
}

/// Built with the primitives of `loom`, which work in these tests alone: the crates that have some are compiled again, and no dependency.
fn interleavings(places: &Places) -> Result<Outcome> {
    let arguments = ["--features", "spool/loom,inputs/loom", "--lib", "interleavings"];
    cargo_test(places, "interleavings", &arguments, Echo::TestResults, &[])?;
    Ok(Outcome::Passed)
}

fn kernel(places: &Places) -> Result<Outcome> {
    ebpf::build(places)?;
    if !preflight::is_root() {
        return Ok(Outcome::Partly("programs built, not loaded: loading needs root".to_owned()));
    }
    cargo_test(places, "kernel", &["--test", "kernel"], Echo::TestResults, &release::environment(places, None))?;
    Ok(Outcome::Passed)
}

/// What the tests of the real program add to the selection. They need it built with its fail points, a feature of agent and spool that
/// brings no dependency: those two are compiled again, and nothing else. Every other build takes the program back to what people get.
const PROOF: [&str; 4] = ["--features", "agent/failpoints", "--test", "proof"];

fn kills(places: &Places) -> Result<Outcome> {
    proof(places.cargo(), places, "kills", &["--test-threads=1", "kills", "points"])?;
    Ok(Outcome::Passed)
}

/// In a mount namespace of its own, so that no volume outlives a run that is cut off.
fn power(places: &Places) -> Result<Outcome> {
    let apart = |words: &[&str]| places.run("unshare").arg("--mount").args(words);
    if !preflight::is_root() || !Path::new("/dev/loop-control").exists() || !apart(&["true"]).succeeds() {
        return Ok(Outcome::Partly(
            "no power was cut and no disk broken: volumes of their own need root, loop devices and mounts".to_owned(),
        ));
    }
    proof(apart(&["cargo"]), places, "power", &["power", "faults"])?;
    Ok(Outcome::Passed)
}

fn proof(cargo: Program, places: &Places, suite: &str, tests: &[&str]) -> Result<()> {
    cargo.arg("test").args(SELECTION).args(PROOF).args(["--", "--nocapture"]).args(tests).shown_ok(&places.log(suite), Echo::TestResults)
}

fn standalone(places: &Places) -> Result<Outcome> {
    match demo::standalone(places)? {
        0 => Ok(Outcome::Passed),
        code => bail!("the story ended with exit code {code}; all of it stands in {}", places.log("demo").display()),
    }
}

fn crds(places: &Places) -> Result<Outcome> {
    preflight::cluster(places)?;
    let cluster = cluster::up(places)?;
    cargo_test(places, "crds", &["--test", "crds"], Echo::TestResults, &release::environment(places, Some(&cluster)))?;
    Ok(Outcome::Passed)
}

fn end_to_end(places: &Places) -> Result<Outcome> {
    preflight::cluster(places)?;
    let cluster = release::up(places)?;
    let environment = release::environment(places, Some(&cluster));
    cargo_test(places, "e2e", &["--test", "scenarios", "--", "--test-threads=1", "--nocapture"], Echo::Everything, &environment)?;
    Ok(Outcome::Passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_changed_or_missing_line_is_found() {
        assert!(first_difference("a\nb\n", "a\nb\n").is_none());
        assert_eq!(first_difference("a\nb\n", "a\nc\n"), Some((2, ("b", "c"))));
        assert_eq!(first_difference("a\n", "a\nc\n"), Some((2, ("(nothing)", "c"))));
    }

    #[test]
    fn a_failed_suite_tells_its_next_step_in_the_table() {
        let [suite, ..] = &SUITES;
        let (line, passed) = row(suite, &Err(anyhow::anyhow!("x")), Duration::from_secs(1));
        assert!(!passed && line.contains("FAILED") && line.ends_with("next: cargo fmt --all"), "{line}");
    }
}
