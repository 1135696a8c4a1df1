//! The sending side of an agent: one unary OTLP call per record, its bytes as they were received, and what the answer means.
//!
//! ```text
//!   record ─▶ Output::send ─┬─ OtlpGrpc: channel (lazy, reconnecting) ─▶ destination
//!                           └─ Terminal: one line per record
//!                                   │
//!   Attempt { outcome, condition, error } ◀─ reading the response or the status
//! ```
//!
//! Limits: time of a call, time of a connect, size of a response, length of an error's text. Invariant: a record is
//! `Delivered` only if the destination said so; whatever failed on the way there is tried again, under
//! the same [`BatchId`] and with the same content.

mod attempt;
mod batch;
mod otlp_grpc;
mod raw;
mod terminal;

pub use attempt::{Attempt, Condition};
pub use batch::{BATCH_ID_KEY, BatchId};
pub use otlp_grpc::{EndpointError, OtlpGrpc};
pub use terminal::Terminal;

use bytes::Bytes;
use vocabulary::{ClassCounts, Signal};

/// Where records of one destination go.
#[derive(Clone, Debug)]
pub enum Output {
    /// To an OTLP/gRPC server.
    OtlpGrpc(OtlpGrpc),
    /// To standard output, in words.
    Terminal(Terminal),
}

impl Output {
    /// Sends one record and reads the answer. Never fails: a failure is an attempt, too.
    pub async fn send(&self, batch: &BatchId<'_>, signal: Signal, counts: ClassCounts, body: Bytes) -> Attempt {
        match self {
            Self::OtlpGrpc(client) => client.send(batch, signal, body).await,
            Self::Terminal(terminal) => terminal.print(signal, counts, body.len()).await,
        }
    }
}
