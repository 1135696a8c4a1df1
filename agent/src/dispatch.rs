//! One task per destination: it asks the engine for records, keeps as many on their way as the engine gives out, and reports
//! what became of each. A slow or dead destination holds back nobody but itself.

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use otlp::Rules;
use outputs::{Attempt, BatchId, Output};
use pipeline::{DestinationIndex, Outcome, RecordId, Send};
use spool::points::reach;
use spool::{ReadError, Reader};
use tokio::sync::watch;
use tokio::task::JoinError;
use vocabulary::{ClassCounts, Signal};

use crate::board::Board;
use crate::engine::Engine;

/// Shortest wait between two looks at the engine when only time has passed: its timers are no finer than this.
const TICK_MIN: Duration = Duration::from_millis(2);

/// Name of this stage on the board.
pub(crate) const STAGE: &str = "dispatch";

/// Everything the task of one destination needs.
pub(crate) struct Dispatch {
    pub(crate) engine: Arc<Engine>,
    pub(crate) board: Arc<Board>,
    pub(crate) destination: DestinationIndex,
    /// Names the buffer to the destination.
    pub(crate) buffer: Arc<str>,
    /// Its configured name.
    pub(crate) name: String,
    /// Told under the engine's lock that nothing is to be asked for any more: the index may be another's from then on.
    pub(crate) stopped: watch::Receiver<bool>,
    /// Whether it sent before: then what was on its way is lost. Who had the index before may still have something on its way.
    pub(crate) has_begun: AtomicBool,
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
    /// Sends until it is dropped, or told to stop; then what is on its way is still reported. If it ends by a panic it may be called again.
    pub(crate) async fn run(&self) {
        if self.has_begun.swap(true, Ordering::Relaxed) {
            self.engine.with(|pipeline, now| pipeline.handle_sender_lost(now, self.destination));
        }
        let mut flights = FuturesUnordered::new();
        let mut stopped = self.stopped.clone();
        loop {
            let (sends, timeout) = self.engine.with(|pipeline, now| {
                let mut sends = Vec::new();
                if *self.stopped.borrow() {
                    return (sends, None);
                }
                while let Some(send) = pipeline.poll_send(now, self.destination) {
                    sends.push(send);
                }
                (sends, pipeline.poll_timeout().map(|at| at.max(now + TICK_MIN)))
            });
            flights.extend(sends.into_iter().map(|send| self.fly(send)));
            let is_stopped = *self.stopped.borrow();
            if is_stopped {
                // A wake-up meant for who has the index from here on may have come here.
                self.engine.wake_senders();
            }
            if is_stopped && flights.is_empty() {
                return;
            }
            tokio::select! {
                Some(landed) = flights.next(), if !flights.is_empty() => self.report(landed),
                _ = stopped.wait_for(|&stopped| stopped), if !is_stopped => {}
                () = self.engine.sendable(self.destination), if !is_stopped => {}
                () = wait_until(timeout.map(|at| self.engine.instant(at))) => {}
            }
        }
    }

    /// Sends one record. A panic over it costs the others nothing.
    async fn fly(&self, send: Send) -> Landed {
        let id = send.id;
        let landed = AssertUnwindSafe(self.attempt(send)).catch_unwind().await;
        landed.unwrap_or_else(|_| self.broken(id))
    }

    fn broken(&self, id: RecordId) -> Landed {
        let RecordId { class, sequence } = id;
        tracing::error!(
            class = class.label(),
            sequence,
            "sending a record ended in a panic, which is a fault of the agent; it is tried once more"
        );
        self.board.note_panic(STAGE);
        Landed { id, slice: None, outcome: Outcome::Panicked, seen: None }
    }

    async fn attempt(&self, send: Send) -> Landed {
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
            Err(Outcome::Panicked) => return self.broken(id),
            Err(outcome) => return Landed { id, slice: None, outcome, seen: None },
        };
        reach("dispatch.sending");
        #[cfg(test)]
        crate::stage::tests::break_if_told(&body);
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
            Ok(Err(_)) => Err(Outcome::LocalFault),
            Err(ended) => Err(outcome_of(&ended)),
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
            self.board.saw_attempt(&self.name, &attempt);
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
        Err(ended) => Err(outcome_of(&ended)),
    }
}

/// A task that did not end by itself: cancelled, because the process ends, or broken.
fn outcome_of(ended: &JoinError) -> Outcome {
    if ended.is_panic() { Outcome::Panicked } else { Outcome::LocalFault }
}

async fn wait_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use outputs::Terminal;
    use pipeline::{Pipeline, SetAside};
    use vocabulary::DropReason;

    use super::*;
    use crate::engine::tests::{spilling, take_in};
    use crate::stage::tests::BREAKS;

    const ONLY: DestinationIndex = DestinationIndex(0);
    const TIME_MAX: Duration = Duration::from_secs(20);

    fn dispatch(pipeline: Pipeline, has_begun: bool) -> Dispatch {
        Dispatch {
            engine: Arc::new(Engine::new(pipeline, None)),
            board: Arc::new(Board::new()),
            destination: ONLY,
            buffer: "test".into(),
            name: "backend".into(),
            stopped: watch::channel(false).1,
            has_begun: AtomicBool::new(has_begun),
            output: Output::Terminal(Terminal),
            reader: None,
        }
    }

    async fn set_aside(engine: &Engine) -> SetAside {
        let began = Instant::now();
        loop {
            if let Some(aside) = engine.with(Pipeline::poll_set_aside) {
                return aside;
            }
            assert!(began.elapsed() < TIME_MAX, "it is never set aside");
            tokio::time::timeout(Duration::from_millis(10), engine.settled()).await.ok();
        }
    }

    #[tokio::test]
    async fn a_record_that_breaks_the_sender_twice_is_set_aside_and_the_others_arrive() {
        let dispatch = dispatch(spilling(), false);
        take_in(&dispatch.engine, BREAKS);
        take_in(&dispatch.engine, b"fine");
        let engine = dispatch.engine.clone();
        let aside = tokio::select! {
            () = dispatch.run() => unreachable!("it runs until it is dropped"),
            aside = set_aside(&engine) => aside,
        };
        assert_eq!(
            (aside.reason, aside.body.as_deref(), dispatch.board.panics()),
            (DropReason::Undecodable, Some(BREAKS), vec![(STAGE, 2)])
        );
        let books = engine.with(|pipeline, _| pipeline.books().clone());
        books.check().expect("the books hold");
        let delivered: u64 = books.destinations.iter().flat_map(|book| book.cells.iter().flatten()).map(|cell| cell.delivered).sum();
        assert_eq!(delivered, 1);
    }

    #[tokio::test]
    async fn a_sender_that_begins_anew_sends_again_what_was_on_its_way() {
        let dispatch = dispatch(spilling(), true);
        take_in(&dispatch.engine, b"fine");
        let engine = dispatch.engine.clone();
        engine.with(|pipeline, now| pipeline.poll_send(now, ONLY)).expect("it waits for nothing");
        tokio::select! {
            () = dispatch.run() => unreachable!("it runs until it is dropped"),
            () = engine.settled() => {}
        }
        assert_eq!(engine.with(|pipeline, _| pipeline.gauges().held_records), 0);
    }
}
