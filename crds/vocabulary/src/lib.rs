//! The words that every part of Forebay shares: signals, classes, and the reasons for which an item is refused, dropped or
//! lost in the kernel.
//!
//! They are a crate of their own, below everything else, because the pure core of the agent, its disk format, the fleet
//! protocol, the status of a `TelemetryPipeline`, metrics and documentation must all mean the same thing by them, and the
//! core may not know serde or Kubernetes. A member's position is never reused: disk and wire carry it as its `code`.

mod names;
mod reasons;
mod signals;

pub use reasons::{DropReason, LossReason, RefuseReason};
pub use signals::{Class, ClassCounts, Signal};
