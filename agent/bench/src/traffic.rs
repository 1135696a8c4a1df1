//! The two ends of a measured agent: a sink that counts, and load that keeps so many requests on their way or sends at fixed
//! instants. Both are the agent's own receiving and sending sides, which forward bytes and build no objects.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use inputs::{Answer, Gate, Listener, Room, Settings};
use otlp::{Limits, Rules};
use outputs::{BatchId, OtlpGrpc, Output};
use pipeline::{Outcome, RecordId};
use tokio::sync::Notify;
use vocabulary::{Class, ClassCounts, DropReason, Signal};

use crate::agent::LOAD_CORE;
use crate::{machine, payload};

/// A backend that takes everything, and what it has seen.
#[derive(Clone, Default)]
pub(crate) struct Sink {
    spans: Arc<AtomicU64>,
    came: Arc<Notify>,
    /// Whether it never answers, so that nothing is settled.
    is_mute: bool,
}

impl Sink {
    /// One that takes requests and never answers.
    pub(crate) fn mute() -> Self {
        Self { is_mute: true, ..Self::default() }
    }

    /// Serves on a free port of loopback for as long as the runtime lives; returns the address.
    pub(crate) async fn serve(&self) -> Result<String> {
        let listener = Listener::bind("127.0.0.1:0").await?;
        let address = listener.address().to_string();
        let sink = self.clone();
        let take = move |offer: inputs::Offer| -> futures::future::BoxFuture<'static, Answer> {
            sink.spans.fetch_add(offer.counts.total(), Ordering::Relaxed);
            sink.came.notify_one();
            if sink.is_mute {
                return Box::pin(std::future::pending());
            }
            Box::pin(std::future::ready(Answer::Accepted { shed: ClassCounts::default(), reason: DropReason::SoftLimit }))
        };
        let settings =
            Settings { request_bytes_max: 64 << 20, room: Room::new(1 << 30), rules: Rules::default(), limits: Limits::default() };
        tokio::spawn(listener.serve(Gate::new(take, |_, _, _| {}), settings, std::future::pending()));
        Ok(address)
    }

    pub(crate) fn spans(&self) -> u64 {
        self.spans.load(Ordering::Relaxed)
    }

    /// Resolves once so many spans have come in all.
    pub(crate) async fn reach(&self, spans: u64) {
        while self.spans() < spans {
            self.came.notified().await;
        }
    }
}

/// A client with requests of [`payload::SPANS`] spans.
pub(crate) struct Load {
    output: Output,
    requests: Vec<Bytes>,
    next: usize,
}

impl Load {
    pub(crate) fn new(address: &str) -> Result<Self> {
        let output = Output::OtlpGrpc(OtlpGrpc::new(&format!("http://{address}"))?);
        Ok(Self { output, requests: (0..16).map(payload::request).collect(), next: 0 })
    }

    /// Keeps `at_once` requests on their way for `time`; returns the spans acknowledged.
    pub(crate) async fn saturate(&mut self, at_once: usize, time: Duration) -> Result<u64> {
        let started = Instant::now();
        let mut flights: FuturesUnordered<_> = (0..at_once).map(|_| self.request()).collect();
        let mut answered = 0;
        while let Some(outcome) = flights.next().await {
            ensure!(outcome == Outcome::Delivered, "the agent did not take a request: {outcome:?}");
            answered += 1;
            if started.elapsed() < time {
                flights.push(self.request());
            }
        }
        Ok(answered * u64::from(payload::SPANS))
    }

    /// Sends `per_second` spans a second for `time`, each request at its own instant whatever became of those before; milliseconds
    /// from that instant to its answer.
    pub(crate) async fn pace(&mut self, per_second: u64, time: Duration) -> Result<Vec<f64>> {
        let every = Duration::from_secs_f64(f64::from(payload::SPANS) / per_second as f64);
        let count = (time.as_secs_f64() / every.as_secs_f64()) as u32;
        let started = tokio::time::Instant::now();
        let mut flights = FuturesUnordered::new();
        let mut delays = Vec::new();
        for number in 0..count {
            let due = started + every * number;
            while let Ok(Some(answer)) = tokio::time::timeout_at(due, next_or_never(&mut flights)).await {
                delays.push(delay_of(answer)?);
            }
            tokio::time::sleep_until(due).await;
            let sent = self.request();
            flights.push(async move {
                let outcome = sent.await;
                (due.elapsed(), outcome)
            });
        }
        while let Some(answer) = flights.next().await {
            delays.push(delay_of(answer)?);
        }
        Ok(delays)
    }

    fn request(&mut self) -> impl Future<Output = Outcome> + use<> {
        self.next += 1;
        let body = self.requests.get(self.next % self.requests.len()).cloned().unwrap_or_default();
        let output = self.output.clone();
        let record = RecordId { class: Class::Normal, sequence: self.next as u64 };
        async move {
            let batch = BatchId { buffer: "bench", record, items: None };
            output.send(&batch, Signal::Traces, ClassCounts::default(), body).await.outcome
        }
    }
}

/// The next result, or nothing for as long as there is none to wait for.
async fn next_or_never<F: Future>(flights: &mut FuturesUnordered<F>) -> Option<F::Output> {
    match flights.next().await {
        Some(done) => Some(done),
        None => std::future::pending().await,
    }
}

fn delay_of((delay, outcome): (Duration, Outcome)) -> Result<f64> {
    ensure!(outcome == Outcome::Delivered, "the agent did not take a request: {outcome:?}");
    Ok(delay.as_secs_f64() * 1e3)
}

/// Waits for what must come.
pub(crate) async fn in_time<T>(what: &str, time: Duration, future: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(time, future).await.with_context(|| format!("{what} did not come within {} s", time.as_secs()))
}

/// Runs both ends on one thread and one core.
pub(crate) fn run<T>(ends: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    machine::on_core(LOAD_CORE, || runtime.block_on(ends))?
}
