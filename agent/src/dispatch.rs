//! One task per destination: it asks the engine for records, keeps as many on their way as the engine gives out, and reports
//! what became of each. A slow or dead destination holds back nobody but itself.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use otlp::Rules;
use outputs::{Attempt, BatchId, Output};
use pipeline::{DestinationIndex, Outcome, RecordId, Send};
use spool::points::reach;
use spool::{ReadError, Reader};
use vocabulary::{ClassCounts, Signal};

use crate::board::Board;
use crate::engine::Engine;

/// Shortest wait between two looks at the engine when only time has passed: its timers are no finer than this.
const TICK_MIN: Duration = Duration::from_millis(2);

/// Everything the task of one destination needs.
pub(crate) struct Dispatch {
    pub(crate) engine: Arc<Engine>,
    pub(crate) board: Arc<Board>,
    pub(crate) destination: DestinationIndex,
    /// Names the buffer to the destination.
    pub(crate) buffer: Arc<str>,
    pub(crate) output: Output,
    /// Reads what memory no longer holds; none without a disk.
    pub(crate) reader: Option<Reader>,
}

/// What one record's attempt led to. An unreadable record says nothing about the destination.
struct Landed {
    id: RecordId,
    /// The items of the slice that was sent; none for a whole record, and where nothing was sent.
    slice: Option<ClassCounts>,
    outcome: Outcome,
    seen: Option<Attempt>,
}

impl Dispatch {
    /// Sends until it is dropped.
    pub(crate) async fn run(self) {
        let mut flights = FuturesUnordered::new();
        loop {
            let (sends, timeout) = self.engine.with(|pipeline, now| {
                let mut sends = Vec::new();
                while let Some(send) = pipeline.poll_send(now, self.destination) {
                    sends.push(send);
                }
                (sends, pipeline.poll_timeout().map(|at| at.max(now + TICK_MIN)))
            });
            flights.extend(sends.into_iter().map(|send| self.fly(send)));
            tokio::select! {
                Some(landed) = flights.next(), if !flights.is_empty() => self.report(landed),
                () = self.engine.sendable(self.destination) => {}
                () = wait_until(timeout.map(|at| self.engine.instant(at))) => {}
            }
        }
    }

    async fn fly(&self, send: Send) -> Landed {
        let Send { id, signal, counts, body, items, .. } = send;
        let is_slice = items.is_some();
        let batch = BatchId { buffer: &self.buffer, record: id, items: items.clone() };
        let cut = match body {
            Some(body) => Ok(body),
            None => self.read(id).await,
        };
        let cut = match (cut, items) {
            (Ok(body), Some(items)) => cut_out(signal, body, items).await,
            (Ok(body), None) => Ok((counts, body)),
            (Err(outcome), _) => Err(outcome),
        };
        let (counts, body) = match cut {
            Ok(cut) => cut,
            Err(outcome) => return Landed { id, slice: None, outcome, seen: None },
        };
        reach("dispatch.sending");
        let attempt = self.output.send(&batch, signal, counts, body).await;
        reach("dispatch.answered");
        Landed { id, slice: is_slice.then_some(counts), outcome: attempt.outcome, seen: Some(attempt) }
    }

    /// Reads a record back. Damage is final; a disk that does not answer is asked again, which is no matter of the destination.
    async fn read(&self, id: RecordId) -> Result<Bytes, Outcome> {
        let Some(reader) = self.reader.clone() else { return Err(Outcome::Unreadable) };
        match tokio::task::spawn_blocking(move || reader.read(id)).await {
            Ok(Ok(body)) => Ok(body),
            Ok(Err(cause @ (ReadError::NotFound { .. } | ReadError::Corrupt { .. }))) => {
                tracing::error!(error = %cause, "a stored record is lost; it is counted as Corrupt");
                Err(Outcome::Unreadable)
            }
            Ok(Err(_)) | Err(_) => Err(Outcome::LocalFault),
        }
    }

    fn report(&self, landed: Landed) {
        let Landed { id, slice, outcome, seen } = landed;
        self.engine.with(|pipeline, now| match slice {
            Some(counts) => pipeline.handle_slice_outcome(now, self.destination, id, counts, outcome),
            None => pipeline.handle_outcome(now, self.destination, id, outcome),
        });
        reach("dispatch.settled");
        self.engine.wake_settled();
        if let Some(attempt) = seen {
            self.board.saw_attempt(self.destination, &attempt);
        }
    }
}

/// Cuts a slice out of a record, aside from the tasks that serve others: a large one takes milliseconds.
async fn cut_out(signal: Signal, body: Bytes, items: Range<u32>) -> Result<(ClassCounts, Bytes), Outcome> {
    let cut = tokio::task::spawn_blocking(move || otlp::slice(signal, &body, std::slice::from_ref(&items), &Rules::default())).await;
    match cut {
        Ok(Ok(cut)) => Ok(cut),
        Ok(Err(cause)) => {
            tracing::error!(error = %cause, "a record that was well formed when it was taken in is not any more; it is counted as Corrupt");
            Err(Outcome::Unreadable)
        }
        Err(_) => Err(Outcome::LocalFault),
    }
}

async fn wait_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
