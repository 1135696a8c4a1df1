//! The receiving side of an agent: an OTLP/gRPC server that keeps every request as the bytes it came in.
//!
//! ```text
//!  connections ≤ 1,024 ─▶ streams ≤ 100 each ─▶ body, charged to the receive budget as it arrives ─▶ one message ≤ request_bytes_max
//!                                                        │ budget used up: MemoryPressure               │ otlp::inspect
//!                                                        ▼                                              ▼
//!                                               RESOURCE_EXHAUSTED + RetryInfo              Gate::offer ─▶ Answer ─▶ response
//! ```
//!
//! Limits: connections, streams per connection, header list, time to send a request, decoded size of one request, and bytes
//! of all requests together, from their first chunk until the engine or the disk has them. Invariants: a request is answered with success only after the gate said that it is accepted;
//! every request that is not accepted is reported to the gate with its reason, exactly once; a client that goes away before
//! its request is complete was never an offer.

mod answer;
mod body;
mod export;
mod gate;
mod listen;
mod raw;
mod room;

pub use gate::{Answer, Gate, Offer};
pub use listen::{BindError, Listener, ServeError, Settings};
pub use room::{Charge, Room};
