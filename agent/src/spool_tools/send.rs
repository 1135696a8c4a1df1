//! Sending chosen records to one endpoint: a window of requests, pauses while the destination does not take them, and an end that is
//! reached for one of four reasons. What became of a record is told to a ledger, which alone marks anything.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use indicatif::ProgressBar;
use outputs::{Attempt, BatchId, OtlpGrpc, Output};
use pipeline::{Outcome, Stored};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::show;
use crate::args::Pace;
use crate::board::bounded;

/// Pause after the first failure; it doubles with each further one.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// Longest pause that the destination did not ask for.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Answers that do not say whose fault it is, with others taken in between, after which it is the record's: as the agent counts.
const FAULTS_MAX: u32 = 4;
/// How much of an error stands before the bar.
const SHOWN_BYTES_MAX: usize = 60;
/// What a rate may be behind by and catch up with, because timers are coarser than what one small record takes.
const RATE_SLACK: Duration = Duration::from_millis(20);
/// Longest wait for answers once the end is decided.
const LANDING_TIME_MAX: Duration = Duration::from_secs(10);

/// Why sending ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Every record has its answer.
    Done,
    /// A person or the system said so.
    Interrupted,
    /// The destination took nothing for too long; its last error.
    GaveUp(String),
}

/// Where bodies come from and what is done with answers.
pub(super) trait Ledger {
    /// The body of a record; none if it cannot be read, which was noted.
    fn body(&mut self, record: &Stored) -> Option<Bytes>;
    /// Which items of the record the body holds, from the first to the last; none means all.
    fn items(&self, record: &Stored) -> Option<Range<u32>>;
    /// The destination confirmed a record but for `rejected` items, at the `attempts`-th try.
    fn delivered(&mut self, record: &Stored, rejected: u64, attempts: u64) -> anyhow::Result<()>;
    /// The destination will never take it.
    fn refused(&mut self, record: &Stored, why: &str);
    /// Time passed: what was noted may be made durable.
    fn tick(&mut self) -> anyhow::Result<()>;
}

/// A record that is sent, or will be again.
struct Flight {
    record: Stored,
    attempts: u64,
    /// Answers that did not say whose fault it was.
    faults: u32,
    /// When the first of them came.
    faulty_since: Option<Instant>,
}

/// One run over a list of records.
struct Run<'a> {
    pace: &'a Pace,
    bar: &'a ProgressBar,
    /// Failed, and to be tried again before others.
    again: VecDeque<Flight>,
    not_before: Instant,
    failures: u32,
    last_success: Instant,
    last_error: String,
}

/// Sends every record, or stops early for a reason it tells: SIGINT and SIGTERM among them.
pub(super) fn run(records: Vec<Stored>, buffer: &str, endpoint: &str, pace: &Pace, ledger: &mut impl Ledger) -> anyhow::Result<End> {
    rustls::crypto::ring::default_provider().install_default().map_err(|_| anyhow::anyhow!("a TLS provider was installed before"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let bar = show::bar_of_items("replaying", records.iter().map(|record| record.counts.total()).sum());
    let end = runtime.block_on(async {
        let output = Output::OtlpGrpc(OtlpGrpc::new(endpoint)?);
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let interrupted = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        send(&output, buffer, records, pace, &bar, ledger, interrupted).await
    });
    bar.finish_and_clear();
    end
}

/// As [`run`]; `interrupted` resolves when a person says stop.
async fn send(
    output: &Output,
    buffer: &str,
    records: Vec<Stored>,
    pace: &Pace,
    bar: &ProgressBar,
    ledger: &mut impl Ledger,
    interrupted: impl Future<Output = ()>,
) -> anyhow::Result<End> {
    let now = Instant::now();
    let mut run = Run { pace, bar, again: VecDeque::new(), not_before: now, failures: 0, last_success: now, last_error: String::new() };
    let mut fresh = records.into_iter();
    let mut flights = FuturesUnordered::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    let mut interrupted = std::pin::pin!(interrupted);
    let end = loop {
        while run.has_room(flights.len()) {
            let Some(flight) = run.choose(&mut fresh) else { break };
            let Some(body) = ledger.body(&flight.record) else { continue };
            run.charge(&flight.record);
            let items = ledger.items(&flight.record);
            flights.push(attempt(output, buffer, flight, items, body));
        }
        if flights.is_empty() && run.again.is_empty() && fresh.len() == 0 {
            break End::Done;
        }
        if let Some(end) = run.given_up() {
            break end;
        }
        tokio::select! {
            Some((flight, answer)) = flights.next(), if !flights.is_empty() => run.land(flight, &answer, ledger)?,
            () = tokio::time::sleep_until(run.not_before), if run.not_before > Instant::now() => {}
            _ = ticks.tick() => ledger.tick()?,
            () = &mut interrupted => break End::Interrupted,
        }
    };
    // What is on its way may have arrived: its answer decides whether it is sent again the next time.
    let landing = async {
        while let Some((flight, answer)) = flights.next().await {
            run.land(flight, &answer, ledger)?;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(LANDING_TIME_MAX, landing).await.unwrap_or(Ok(()))?;
    Ok(end)
}

async fn attempt(output: &Output, buffer: &str, flight: Flight, items: Option<Range<u32>>, body: Bytes) -> (Flight, Attempt) {
    let Stored { id, signal, counts, .. } = flight.record;
    let answer = output.send(&BatchId { buffer, record: id, items }, signal, counts, body).await;
    (Flight { attempts: flight.attempts + 1, ..flight }, answer)
}

impl Run<'_> {
    /// The next record. Of a destination that fails, every other probe is a fresh one, so that a record it chokes on cannot stop the rest.
    fn choose(&mut self, fresh: &mut impl Iterator<Item = Stored>) -> Option<Flight> {
        let mut fresh = || fresh.next().map(|record| Flight { record, attempts: 0, faults: 0, faulty_since: None });
        if self.failures % 2 == 1 { fresh().or_else(|| self.again.pop_front()) } else { self.again.pop_front().or_else(fresh) }
    }

    /// Whether another record may leave. While the destination fails, one at a time asks how it is.
    fn has_room(&self, in_flight: usize) -> bool {
        let window = if self.failures > 0 { 1 } else { usize::from(self.pace.in_flight) };
        in_flight < window && Instant::now() >= self.not_before
    }

    /// Spaces records out so that the rate holds over any stretch of them, but for the slack.
    fn charge(&mut self, record: &Stored) {
        if let Some(rate) = self.pace.rate {
            let takes = Duration::from_secs_f64(record.counts.total() as f64 / rate as f64);
            let now = Instant::now();
            self.not_before = self.not_before.max(now.checked_sub(RATE_SLACK).unwrap_or(now)) + takes;
        }
    }

    fn land(&mut self, flight: Flight, answer: &Attempt, ledger: &mut impl Ledger) -> anyhow::Result<()> {
        let rejected = match answer.outcome {
            Outcome::Delivered => 0,
            Outcome::Partial { rejected } => rejected,
            _ => {
                self.keep(flight, answer, ledger);
                return Ok(());
            }
        };
        self.note_alive();
        self.bar.inc(flight.record.counts.total());
        ledger.delivered(&flight.record, rejected, flight.attempts)
    }

    /// A record was not taken: it is tried again, or left where it is.
    fn keep(&mut self, mut flight: Flight, answer: &Attempt, ledger: &mut impl Ledger) {
        match answer.outcome {
            Outcome::Rejected | Outcome::TooLarge => self.refuse(&flight, answer, ledger),
            Outcome::Failed => {
                flight.faults += 1;
                let since = *flight.faulty_since.get_or_insert_with(Instant::now);
                let is_its_own = flight.faults >= FAULTS_MAX && self.last_success > since;
                if is_its_own { self.refuse(&flight, answer, ledger) } else { self.retry(flight, answer, None) }
            }
            Outcome::Retry { after } => self.retry(flight, answer, after),
            // The first two are handled where records land, the others are no answers of a destination.
            Outcome::Delivered | Outcome::Partial { .. } | Outcome::Unreadable | Outcome::LocalFault | Outcome::Panicked => {
                self.retry(flight, answer, None)
            }
        }
    }

    fn refuse(&mut self, flight: &Flight, answer: &Attempt, ledger: &mut impl Ledger) {
        self.note_alive();
        self.bar.inc(flight.record.counts.total());
        ledger.refused(&flight.record, &answer.error);
    }

    fn note_alive(&mut self) {
        if self.failures > 0 {
            self.bar.set_message("replaying");
        }
        (self.failures, self.last_success) = (0, Instant::now());
    }

    fn retry(&mut self, flight: Flight, answer: &Attempt, after: Option<Duration>) {
        self.again.push_back(flight);
        self.failures = self.failures.saturating_add(1);
        let doubled = PAUSE_FIRST.saturating_mul(1_u32.checked_shl(self.failures - 1).unwrap_or(u32::MAX));
        let pause = after.unwrap_or(doubled.min(PAUSE_MAX));
        self.not_before = self.not_before.max(Instant::now() + pause);
        self.last_error.clone_from(&answer.error);
        self.bar.set_message(format!("waiting: {}", bounded(&answer.error, SHOWN_BYTES_MAX)));
    }

    fn given_up(&self) -> Option<End> {
        let is_over = self.failures > 0 && self.last_success.elapsed() >= self.pace.patience;
        is_over.then(|| End::GaveUp(self.last_error.clone()))
    }
}
