//! A recording OTLP backend: it answers a request only after what arrived is on disk, so that no restart of its own loses an
//! item that an agent was told about, and it knows every item it ever saw.

mod http;
mod journal;
mod pace;
mod record;
mod report;
mod server;

pub use journal::JournalError;
pub use pace::Failure;
pub use report::{ProducerTally, SinkReport, Tally};
pub use server::{SinkOptions, serve};
