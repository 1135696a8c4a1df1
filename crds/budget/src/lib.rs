//! The one solver of sizes: from what an agent may use (memory, CPU, disk) and what it is asked to do (sources, mode,
//! destinations) to every queue, worker and disk number, each with the input that decided it.
//!
//! Operator and agent share it, so that what `status.effective` shows is what the agent does. It is pure and total: the same
//! limits give the same budget, more of a resource never gives less of anything, and limits too small to work within are an
//! error that says which and by how much.
//!
//! ```text
//! memory limit ─┬─ base      max(28Mi, 20 %)   the process, its runtime, its connections
//!               ├─ kernel    16Mi with eBPF    maps and rings, charged to the pod
//!               ├─ index     10 %              what every waiting item costs beside its body
//!               ├─ receive   max(8Mi, 15 %)    requests between socket and queue
//!               ├─ sending   max(8Mi each, 10 %) requests on their way to destinations
//!               └─ queue     the rest          bodies that wait
//! disk size ────┬─ overhead  max(1Mi, 5 %)     checkpoints, rounding up of files, directory blocks
//!               └─ files     the rest, in segments of a 64th, 128Ki to 64Mi
//! ```

mod explain;
mod limits;
mod solve;

pub use limits::{CPU_DEFAULT_MILLICORES, DRAIN_DEFAULT_SECONDS, Limits, MEMORY_DEFAULT_BYTES};
pub use solve::{Budget, BudgetTooSmall, Resource, Setting, solve};
