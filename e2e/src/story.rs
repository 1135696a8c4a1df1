//! The story that the demo tells: steady flow, an outage, an overload, a kernel event, and the books at the end.

pub mod on_cluster;
pub mod standalone;
mod telling;

pub use telling::Telling;
