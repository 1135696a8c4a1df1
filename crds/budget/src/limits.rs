//! What the solver is given. Separate from the solution so that its callers, who read these from different documents, see
//! what they must fill in.

use crds::agent::{Acknowledge, BufferMode};

/// Memory limit of an agent whose pipeline names none: enough for 100 MiB of waiting items, little enough for every node.
pub const MEMORY_DEFAULT_BYTES: u64 = 256 << 20;
/// CPU limit of an agent whose pipeline names none, in millicores.
pub const CPU_DEFAULT_MILLICORES: u64 = 500;
/// Time to empty the buffer when a pod ends and the pipeline names none: with [`crate::Budget::termination_grace_seconds`] it
/// gives the 30 seconds a pod has by default.
pub const DRAIN_DEFAULT_SECONDS: u32 = 25;

/// What one agent may use, and what it is asked to do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory limit of the pod, in bytes.
    pub memory_bytes: u64,
    /// CPU limit of the pod, in thousandths of a core.
    pub cpu_millicores: u64,
    /// How memory and disk work together.
    pub mode: BufferMode,
    /// When clients are answered, if the user says so.
    pub acknowledge: Option<Acknowledge>,
    /// Size of the disk part, in bytes; not looked at in mode `Memory`.
    pub disk_bytes: u64,
    /// Bytes of waiting items that the user asks for; none: as many as fit.
    pub queue_bytes_wanted: Option<u64>,
    /// Destinations; 0 counts as 1, the terminal.
    pub destinations: u32,
    /// Whether kernel events are taken in.
    pub ebpf: bool,
    /// Time to empty the buffer, in seconds.
    pub drain_seconds: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: MEMORY_DEFAULT_BYTES,
            cpu_millicores: CPU_DEFAULT_MILLICORES,
            mode: BufferMode::Memory,
            acknowledge: None,
            disk_bytes: 0,
            queue_bytes_wanted: None,
            destinations: 1,
            ebpf: false,
            drain_seconds: DRAIN_DEFAULT_SECONDS,
        }
    }
}
