//! The load generator: open-loop producers of spans, data points and log records that keep the truth about every request.

mod engine;
mod http;
mod latency;
#[cfg(test)]
mod tests;
mod truth;

pub use engine::{LoadOptions, Loadgen};
pub use http::serve_control;
pub use truth::{ClassTruth, Latency, SignalTruth, Truth};
