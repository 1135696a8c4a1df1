//! The solution: shares, floors and the reason of every number.

use crds::agent::{BufferMode, GRACE_AFTER_DRAIN_SECONDS};
use crds::quantity::Quantity;

use crate::explain::{explain, readable};
use crate::limits::Limits;

const MIB: u64 = 1 << 20;
/// What an idle agent with its runtime, gRPC server and TLS keeps resident, with half of it again as room for fragmentation.
const BASE_BYTES_MIN: u64 = 28 * MIB;
/// The base grows with the limit: more load means more connections, streams and allocator slack.
const BASE_PERCENT: u64 = 20;
/// Two rings, and per-CPU churn cells of a node with 64 CPUs.
const KERNEL_BYTES: u64 = 16 * MIB;
/// Bookkeeping of waiting items.
const INDEX_PERCENT: u64 = 10;
/// What a waiting record costs beside its body; a record may hold a single item, so this is charged per item.
const INDEX_BYTES_PER_ITEM: u64 = 192;
/// Requests between socket and queue.
const RECEIVE_PERCENT: u64 = 15;
/// One request of gRPC's usual 4 MiB, compressed and decompressed.
const RECEIVE_BYTES_MIN: u64 = 8 * MIB;
/// Largest request an agent takes whatever its memory: the limit the OTLP exporters in use stay below.
const REQUEST_BYTES_MAX: u64 = 16 * MIB;
/// Requests on their way to destinations.
const SENDING_PERCENT: u64 = 10;
/// One request of gRPC's usual 4 MiB per destination, and room for ordinary ones beside it.
const SENDING_BYTES_PER_DESTINATION_MIN: u64 = 8 * MIB;
/// A batch of 512 spans, the default of the SDKs, takes about this much. The agent's window counts a larger request as several.
const SENDING_BYTES_PER_REQUEST: u64 = 256 << 10;
/// More requests at once gain nothing: at 10 ms a round trip, 32 requests of 512 items are 1.6 million items a second.
const IN_FLIGHT_MAX: u64 = 32;
/// Less room for waiting items than one request could not take a single one.
const QUEUE_BYTES_MIN: u64 = 4 * MIB;
/// A user may ask for less than the floor of the solver, as long as an ordinary batch fits.
const QUEUE_BYTES_MIN_WANTED: u64 = MIB;
/// Where the search for a sufficient limit ends: 1 PiB.
const MEMORY_MIB_MAX: u64 = 1 << 30;
/// A tenth of the default: what health probes and an idle runtime need on a busy node.
const CPU_MILLICORES_MIN: u64 = 50;
/// More threads than that wait for each other.
const WORKERS_MAX: u64 = 64;
/// Two checkpoint slots, what file systems round the size of a file up to, blocks of directories: whoever exceeds the limit of an
/// `emptyDir` is evicted, and everything in it is lost.
const DISK_OVERHEAD_PERCENT: u64 = 5;
const DISK_OVERHEAD_BYTES_MIN: u64 = MIB;
/// A segment is the unit in which space comes back: small enough that 64 make a disk, of which eight are the log's own, large enough
/// that files stay few.
const SEGMENTS_PER_DISK: u64 = 64;
const SEGMENT_BYTES_MIN: u64 = 128 << 10;
const SEGMENT_BYTES_MAX: u64 = 64 * MIB;

/// A resource whose limit may be too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// `resources.limits.memory`.
    Memory,
    /// `resources.limits.cpu`.
    Cpu,
    /// `buffer.disk.size`.
    Disk,
    /// `buffer.memory.size`.
    Queue,
}

impl Resource {
    /// The field that sets it.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::Memory => "resources.limits.memory",
            Self::Cpu => "resources.limits.cpu",
            Self::Disk => "buffer.disk.size",
            Self::Queue => "buffer.memory.size",
        }
    }
}

/// A limit below what correct work needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is {}; at least {} is needed, {} more: {because}", resource.field(), Self::amount(*resource, *have), Self::amount(*resource, *need), Self::amount(*resource, self.short()))]
pub struct BudgetTooSmall {
    /// Which limit.
    pub resource: Resource,
    /// What it is, in bytes or millicores.
    pub have: u64,
    /// What it must be, in the same unit.
    pub need: u64,
    /// What needs it.
    pub because: String,
}

impl BudgetTooSmall {
    /// How much is missing, in the unit of the resource.
    #[must_use]
    pub fn short(&self) -> u64 {
        self.need.saturating_sub(self.have)
    }

    fn amount(resource: Resource, amount: u64) -> Quantity {
        if resource == Resource::Cpu { Quantity::of_millicores(amount) } else { readable(amount) }
    }
}

/// One solved setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name, as in `status.effective`.
    pub name: &'static str,
    /// Its value, for people.
    pub value: String,
    /// The input that decided it, and what would raise it; at most 256 bytes.
    pub because: String,
}

/// What an agent runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bodies that wait in memory, in bytes.
    pub queue_bytes: u64,
    /// Items that wait in memory.
    pub queue_items: u64,
    /// Requests between socket and queue, in bytes, all together.
    pub receive_bytes: u64,
    /// Largest single request, in bytes.
    pub request_bytes_max: u64,
    /// Requests on their way to destinations, in bytes, all together.
    pub sending_bytes: u64,
    /// Requests on their way to one destination at once.
    pub in_flight: u32,
    /// Threads of the runtime.
    pub workers: u32,
    /// All files of the buffer, in bytes; 0 in mode `Memory`.
    pub disk_bytes: u64,
    /// Size of a segment, in bytes; 0 in mode `Memory`.
    pub segment_bytes: u64,
    /// Time to empty the buffer when the pod ends, in seconds.
    pub drain_seconds: u32,
    /// Time the kubelet must give the pod, in seconds.
    pub termination_grace_seconds: u32,
    /// Every number above with its reason, in this order.
    pub settings: Vec<Setting>,
}

/// Solves the budget of one agent.
///
/// # Errors
/// When a limit is below the floor of correct work; the error names the first such limit and what is missing.
pub fn solve(limits: &Limits) -> Result<Budget, BudgetTooSmall> {
    let memory = Memory::share(limits)?;
    let disk = Disk::share(limits)?;
    let workers = workers(limits)?;
    let destinations = u64::from(limits.destinations.max(1));
    // A window that still has a place takes one more request of any size, so a destination's share holds both: two thirds
    // are a request of 16 MiB in an agent of 256 MiB.
    let largest = memory.sending / destinations * 2 / 3;
    let window = memory.sending / destinations - largest;
    let in_flight = narrow((window / SENDING_BYTES_PER_REQUEST).clamp(1, IN_FLIGHT_MAX));
    let budget = Budget {
        queue_bytes: memory.queue,
        queue_items: memory.index / INDEX_BYTES_PER_ITEM,
        receive_bytes: memory.receive,
        request_bytes_max: (memory.receive / 2).min(largest).min(REQUEST_BYTES_MAX),
        sending_bytes: memory.sending,
        in_flight,
        workers,
        disk_bytes: disk.files,
        segment_bytes: disk.segment,
        drain_seconds: limits.drain_seconds,
        termination_grace_seconds: limits.drain_seconds.saturating_add(GRACE_AFTER_DRAIN_SECONDS),
        settings: Vec::new(),
    };
    let settings = explain(limits, &memory, &budget);
    Ok(Budget { settings, ..budget })
}

/// The memory limit, cut into shares; their sum is at most the limit.
pub(crate) struct Memory {
    pub(crate) base: u64,
    pub(crate) kernel: u64,
    pub(crate) index: u64,
    pub(crate) receive: u64,
    pub(crate) sending: u64,
    pub(crate) queue: u64,
}

impl Memory {
    fn share(limits: &Limits) -> Result<Self, BudgetTooSmall> {
        if let Some(wanted) = limits.queue_bytes_wanted.filter(|&wanted| wanted < QUEUE_BYTES_MIN_WANTED) {
            let because = "a waiting request must find room".into();
            return Err(BudgetTooSmall { resource: Resource::Queue, have: wanted, need: QUEUE_BYTES_MIN_WANTED, because });
        }
        let queue_min = limits.queue_bytes_wanted.unwrap_or(QUEUE_BYTES_MIN);
        let shares = Self::of(limits, limits.memory_bytes);
        if shares.queue < queue_min {
            return Err(Self::too_small(limits, queue_min));
        }
        Ok(Self { queue: limits.queue_bytes_wanted.unwrap_or(shares.queue), ..shares })
    }

    /// The shares of this many bytes; the queue gets what the others leave. Everything follows from whole hundredths of the
    /// limit, so that a larger limit never makes a share smaller by rounding.
    fn of(limits: &Limits, memory_bytes: u64) -> Self {
        let hundredth = memory_bytes / 100;
        let base = (hundredth * BASE_PERCENT).max(BASE_BYTES_MIN);
        let kernel = if limits.ebpf { KERNEL_BYTES } else { 0 };
        let index = hundredth * INDEX_PERCENT;
        let receive = (hundredth * RECEIVE_PERCENT).max(RECEIVE_BYTES_MIN);
        let sending = (hundredth * SENDING_PERCENT).max(u64::from(limits.destinations.max(1)) * SENDING_BYTES_PER_DESTINATION_MIN);
        let queue = (hundredth * 100).saturating_sub(base + kernel + index + receive + sending);
        Self { base, kernel, index, receive, sending, queue }
    }

    /// Finds the smallest limit that would do, in whole MiB: shares that are percentages grow with the limit itself.
    fn too_small(limits: &Limits, queue_min: u64) -> BudgetTooSmall {
        let have = limits.memory_bytes;
        let fits = |mib: u64| Self::of(limits, mib * MIB).queue >= queue_min;
        let mut enough = (have / MIB).max(1);
        while !fits(enough) && enough < MEMORY_MIB_MAX {
            enough *= 2;
        }
        let mut short = enough / 2;
        while enough - short > 1 {
            let middle = short + (enough - short) / 2;
            if fits(middle) { enough = middle } else { short = middle }
        }
        let shares = Self::of(limits, enough * MIB);
        let because = format!(
            "{} for the process, {} for kernel events, {} to receive, {} to send, {} of index and {} of queue",
            readable(shares.base),
            readable(shares.kernel),
            readable(shares.receive),
            readable(shares.sending),
            readable(shares.index),
            readable(queue_min)
        );
        BudgetTooSmall { resource: Resource::Memory, have, need: enough * MIB, because }
    }
}

/// The disk part: all files, and the segments among them.
struct Disk {
    files: u64,
    segment: u64,
}

impl Disk {
    fn share(limits: &Limits) -> Result<Self, BudgetTooSmall> {
        if limits.mode == BufferMode::Memory {
            return Ok(Self { files: 0, segment: 0 });
        }
        let need = DISK_OVERHEAD_BYTES_MIN + SEGMENTS_PER_DISK * SEGMENT_BYTES_MIN;
        if limits.disk_bytes < need {
            let because = format!("{SEGMENTS_PER_DISK} segments of {} and the checkpoints", readable(SEGMENT_BYTES_MIN));
            return Err(BudgetTooSmall { resource: Resource::Disk, have: limits.disk_bytes, need, because });
        }
        let hundredth = limits.disk_bytes / 100;
        let overhead = (hundredth * DISK_OVERHEAD_PERCENT).max(DISK_OVERHEAD_BYTES_MIN);
        let files = (hundredth * 100).saturating_sub(overhead);
        Ok(Self { files, segment: (files / SEGMENTS_PER_DISK).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX) })
    }
}

fn workers(limits: &Limits) -> Result<u32, BudgetTooSmall> {
    if limits.cpu_millicores < CPU_MILLICORES_MIN {
        let because = "an agent that gets less answers its probes too late".into();
        return Err(BudgetTooSmall { resource: Resource::Cpu, have: limits.cpu_millicores, need: CPU_MILLICORES_MIN, because });
    }
    Ok(narrow(limits.cpu_millicores.div_ceil(1_000).min(WORKERS_MAX)))
}

/// A number that is bounded far below 32 bits.
fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
