//! What the numbers depend on beside the code: the machine, what else it does, and what the kernel counts.

use std::fmt;
use std::fs;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// The machine at this moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Machine {
    cores: usize,
    processor: String,
    kernel: String,
    /// Tasks that wanted to run, on average over the last minute: above 1 before a benchmark begins, the machine is shared.
    load: f64,
}

impl Machine {
    pub(crate) fn look() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = text("/proc/cpuinfo");
        let processor = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: processor.unwrap_or("unknown").to_owned(),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: text("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, processor, kernel, load } = self;
        write!(formatter, "{cores} cores ({processor}), Linux {kernel}, load {load}")
    }
}

/// Bytes this process caused to be written to disks, by pages.
pub(crate) fn written_bytes() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/io").context("cannot read what the kernel counts of this process")?;
    text.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok()).context("the kernel does not count written bytes")
}
