//! Builds the benchmarks, and the agent as it ships, optimised, and runs them. It is no suite: what it finds depends on the machine,
//! and a number must fail nobody's build.

use anyhow::Result;

use crate::console;
use crate::places::Places;
use crate::process::Echo;

/// Runs the named benchmarks, or all.
pub(crate) fn run(places: &Places, arguments: &[String]) -> Result<()> {
    console::step("benchmarks", "10 min cold", "the benchmarks and the agent, optimised", || {
        places.cargo().args(["build", "--release", "-p", "bench", "-p", "agent", "--bins"]).logged(&places.log("bench-build"))
    })?;
    let program = places.target().join("release/bench");
    places.run(&program.to_string_lossy()).args(arguments).shown_ok(&places.log("bench"), Echo::Everything)
}
