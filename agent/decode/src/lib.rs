//! From kernel records and their attribution to encoded OTLP export requests.
//!
//! Pure: the caller gives times and attribution. One resource per container; what belongs to no known container shares one resource that
//! holds the node's name alone. The scope is [`SCOPE`]. Names that OpenTelemetry's semantic conventions register (`process.pid`,
//! `process.executable.name`, `process.exit.code`, `container.id`, `k8s.*`) are used as registered; everything else begins with `forebay.`.
//!
//! | item | severity or kind | name |
//! |---|---|---|
//! | out-of-memory kill | log, FATAL (21) | event `forebay.kernel.oom_kill` |
//! | process ended by SIGHUP, SIGINT, SIGPIPE or SIGTERM | log, INFO (9) | event `forebay.kernel.process_exit` |
//! | process ended by another signal | log, ERROR (17) | event `forebay.kernel.process_exit` |
//! | new processes, executed programs, ended processes | sum, monotonic, delta | `forebay.process.forks`, `.execs`, `.exits`, unit `{process}` |
//!
//! The sums are deltas over one time slot, because the slot is what is lost or delivered as a whole: a cumulative sum would need a state that
//! survives restarts of the agent. Counts of zero are not sent.

mod logs;
mod metrics;
mod resource;

pub use logs::{LogEvent, Record, logs};
pub use metrics::metrics;

/// Name of the instrumentation scope of everything that comes from the kernel.
pub const SCOPE: &str = "forebay.kernel";
