//! What the numbers depend on beside the code: the machine, what else it does, and what the kernel counts about a process.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::fs::Advice;
use rustix::thread::CpuSet;
use serde::Serialize;

/// In what the kernel tells processor time to programs, on every architecture.
const TICKS_PER_SECOND: u64 = 100;

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

/// Runs `act` with this thread, and what it starts, on one core; on any afterwards. On a machine with one core nothing is chosen.
pub(crate) fn on_core<T>(core: usize, act: impl FnOnce() -> T) -> Result<T> {
    let before = rustix::thread::sched_getaffinity(None).context("cannot read the set of cores")?;
    if std::thread::available_parallelism().map_or(1, usize::from) > core {
        let mut only = CpuSet::new();
        only.set(core);
        rustix::thread::sched_setaffinity(None, &only).context("cannot choose a core")?;
    }
    let done = act();
    rustix::thread::sched_setaffinity(None, &before).context("cannot choose all cores again")?;
    Ok(done)
}

/// Bytes this process caused to be written to disks, by pages.
pub(crate) fn written_bytes() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/io").context("cannot read what the kernel counts of this process")?;
    text.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok()).context("the kernel does not count written bytes")
}

/// Processor time this thread has used.
pub(crate) fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or_default(), time.tv_nsec.try_into().unwrap_or_default())
}

/// Processor time a process has used.
pub(crate) fn processor_time(process: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).context("cannot read the times of the agent")?;
    // The name before may hold anything, so fields are counted from its closing parenthesis.
    let fields = text.rsplit_once(')').map(|(_, fields)| fields.split_whitespace()).context("the times have another form")?;
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND))
}

/// The most memory a process has used, in bytes.
pub(crate) fn peak_memory(process: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).context("cannot read the memory of the agent")?;
    let kibibytes = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kibibytes.context("the kernel does not count memory")? << 10)
}

/// Makes the kernel forget what it holds of the files of a directory, so that they are read from the disk.
pub(crate) fn forget_cached(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))? {
        let path = entry?.path();
        let file = fs::File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        file.sync_data()?;
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).with_context(|| format!("cannot drop {} from memory", path.display()))?;
    }
    Ok(())
}
