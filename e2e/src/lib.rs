//! The proof on a real cluster: a load generator and a recording backend that both keep exact books, a judge that compares
//! them with the agents' ledgers and the pipelines' status, and the harness that puts all of it on a cluster.
//!
//! ```text
//!   loadgen ──OTLP──▶ agents ──OTLP──▶ sink
//!      │ /truth          │ /ledger        │ /report
//!      └────────────▶  oracle  ◀──────────┘  ◀── status of the TelemetryPipeline
//! ```
//!
//! Every item carries its producer, its number and the class it is expected to have, so "which item is missing" has an answer.
//! The truth is kept outside everything that a scenario breaks: the load generator in its own pod, the sink's record on a
//! volume, synced before it answers.

pub mod cluster;
pub mod codec;
pub mod control;
pub mod exporter;
pub mod items;
pub mod loadgen;
pub mod oracle;
pub mod sequences;
pub mod sink;
pub mod story;
pub mod words;
