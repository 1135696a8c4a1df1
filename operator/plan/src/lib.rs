//! What the operator decides, without doing any of it: no client, no runtime, no clock. Shells call these functions with what
//! they have observed and carry out what comes back.
//!
//! ```text
//! gather ─▶ resolve ─▶ solve ─▶ build ─▶ diff ─▶ apply          a specification becomes objects
//! reports, pods ─▶ fleet (agents, windows, latches) ─▶ status ─▶ write policy      what runs becomes a status
//! ```
//!
//! Invariants, each with a test: totals never step back and never lose an item without its reason; the same input builds the
//! same objects; no pod is ever rendered with more rights than its class and its sources call for; a status stays below 24 KiB.

pub mod agents;
pub mod books;
pub mod build;
mod conditions;
pub mod diff;
pub mod fleet;
mod latch;
pub mod ledger;
mod message;
pub mod names;
pub mod observe;
pub mod outcome;
pub mod resolve;
pub mod status;
pub mod windows;
pub mod write_policy;
