//! The judge. It takes what load generators, sink, agents and the pipeline's status each say on their own, and checks every
//! identity of the ledger exactly, per signal and class:
//!
//! ```text
//! offered   = received + refused                          each agent
//! received  = filtered + dropped at intake + routed       each agent
//! routed    = delivered + dropped + held                  each agent and destination
//! attempted = produced + lost                             each agent, kernel records
//! received  = accepted by the load generators + kernel    all agents together
//! refused   = refused to the load generators              all agents together
//! rejected  = shed by the agents                          all agents together
//! delivered = distinct items at the sink                  all agents together, once nothing is held
//! status    = sum of the agents                           all agents together
//! ```
//!
//! Where nobody can know, the sides become bounds: an attempt without an answer may or may not have been received, and what a
//! crash took from memory is known to an agent only between two numbers. Everywhere else, one item too many is a difference.
//! Pipelines judged here have one destination.

mod flow;
mod judge;
mod ledger;
mod table;
#[cfg(test)]
mod tests;

pub use flow::flow_of;
pub use judge::{AgentLedger, Difference, Evidence, Verdict, judge};
pub use ledger::{DestinationBook, DestinationCell, Held, InputCell, Kernel, Ledger};
pub use table::{Row, align, grouped, render, rows};
