//! Making requests at a rate, sending each until it has an outcome, and writing down which.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use vocabulary::{Class, ClassCounts, Signal};

use super::latency::Histogram;
use super::truth::{ClassTruth, SignalTruth, Truth};
use crate::exporter::{Answer, Exporter};
use crate::items::{Batch, Maker};
use crate::sequences::{SEQUENCE_MAX, SequenceSet};

/// Attempts after which a request is given up.
const ATTEMPTS_MAX: u32 = 120;
/// Pause before the next attempt when the server named none.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest pause a server may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Requests of one signal that may wait for their outcome; beyond it, no more are made.
const PENDING_MAX: usize = 64;
/// How far the schedule may be behind before it starts anew, so that a pause is not followed by a burst.
const LAG_MAX: Duration = Duration::from_secs(1);

/// What a load generator makes.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// OTLP/gRPC endpoint.
    pub endpoint: String,
    /// Its name; numbers are unique per name and signal.
    pub producer: String,
    /// Signals, each with its share of the rate.
    pub signals: Vec<(Signal, u32)>,
    /// Items of all signals together.
    pub items_per_second: u64,
    /// Items per request.
    pub batch_items: u32,
    /// Part of spans and logs that are errors.
    pub error_percent: f64,
    /// Bytes of filler per item.
    pub payload_bytes: usize,
}

/// What may be changed while it runs.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Course {
    items_per_second: u64,
    error_percent: f64,
    stopped: bool,
}

/// A running load generator.
#[derive(Clone)]
pub struct Loadgen {
    course: Arc<watch::Sender<Course>>,
    books: Arc<Mutex<Books>>,
}

/// Everything that is written down.
struct Books {
    producer: String,
    signals: BTreeMap<Signal, SignalTruth>,
    accepted: BTreeMap<Signal, SequenceSet>,
    latency: Histogram,
    last_failure: Option<String>,
    making: usize,
}

impl Loadgen {
    /// Begins at once.
    ///
    /// # Errors
    /// When the endpoint is none.
    pub fn start(options: LoadOptions) -> Result<Self, tonic::transport::Error> {
        let course = Course { items_per_second: options.items_per_second, error_percent: options.error_percent, stopped: false };
        let (course, _) = watch::channel(course);
        let books = Books {
            producer: options.producer.clone(),
            signals: options.signals.iter().map(|&(signal, _)| (signal, SignalTruth::new(signal))).collect(),
            accepted: options.signals.iter().map(|&(signal, _)| (signal, SequenceSet::default())).collect(),
            latency: Histogram::default(),
            last_failure: None,
            making: options.signals.len(),
        };
        let loadgen = Self { course: Arc::new(course), books: Arc::new(Mutex::new(books)) };
        let shares: u32 = options.signals.iter().map(|&(_, share)| share).sum();
        for &(signal, share) in &options.signals {
            let maker = Maker { producer: options.producer.clone(), payload_bytes: options.payload_bytes };
            let producer = Producer {
                signal,
                share: f64::from(share) / f64::from(shares.max(1)),
                batch_items: options.batch_items,
                maker,
                sender: Sender { exporter: Exporter::new(options.endpoint.clone())?, books: Arc::clone(&loadgen.books) },
            };
            let course = loadgen.course.subscribe();
            tokio::spawn(producer.run(course));
        }
        Ok(loadgen)
    }

    /// Changes rate and, if given, the part of errors.
    pub fn steer(&self, items_per_second: u64, error_percent: Option<f64>) {
        self.course.send_modify(|course| {
            course.items_per_second = items_per_second;
            course.error_percent = error_percent.unwrap_or(course.error_percent);
        });
    }

    /// Nothing more is made; what is pending is sent until it has its outcome.
    pub fn stop(&self) {
        self.course.send_modify(|course| course.stopped = true);
    }

    /// What is known.
    #[must_use]
    pub fn truth(&self) -> Truth {
        let books = lock(&self.books);
        let settled = books.making == 0 && books.signals.values().all(|signal| signal.requests_pending == 0);
        Truth {
            producer: books.producer.clone(),
            settled,
            signals: books.signals.values().cloned().collect(),
            latency: books.latency.summary(),
            last_failure: books.last_failure.clone(),
        }
    }

    /// Numbers of the items in requests that were taken, as ranges.
    #[must_use]
    pub fn accepted(&self, signal: Signal) -> Vec<(u64, u64)> {
        lock(&self.books).accepted.get(&signal).map(SequenceSet::ranges).unwrap_or_default()
    }
}

/// Makes the requests of one signal.
struct Producer {
    signal: Signal,
    share: f64,
    batch_items: u32,
    maker: Maker,
    sender: Sender,
}

impl Producer {
    async fn run(self, mut course: watch::Receiver<Course>) {
        let pending = Arc::new(Semaphore::new(PENDING_MAX));
        let mut sending = JoinSet::new();
        let (mut next, mut due) = (0_u64, Instant::now());
        while next + u64::from(self.batch_items) <= SEQUENCE_MAX {
            let now = *course.borrow_and_update();
            if now.stopped {
                break;
            }
            let rate = now.items_per_second as f64 * self.share;
            if rate <= 0.0 {
                if course.changed().await.is_err() {
                    break;
                }
                due = Instant::now();
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                changed = course.changed() => {
                    if changed.is_err() { break; }
                    due = due.min(Instant::now());
                    continue;
                }
            }
            let Ok(permit) = Arc::clone(&pending).acquire_owned().await else { break };
            let batch = self.maker.batch(self.signal, next, self.batch_items, now.error_percent, unix_nanos());
            next += u64::from(self.batch_items);
            due =
                (due + Duration::from_secs_f64(f64::from(self.batch_items) / rate)).max(Instant::now().checked_sub(LAG_MAX).unwrap_or(due));
            self.sender.begin(&batch);
            let sender = self.sender.clone();
            sending.spawn(async move {
                sender.send(batch).await;
                drop(permit);
            });
            while sending.try_join_next().is_some() {}
        }
        lock(&self.sender.books).making -= 1;
        while sending.join_next().await.is_some() {}
    }
}

/// Sends one request until it has an outcome.
#[derive(Clone)]
struct Sender {
    exporter: Exporter,
    books: Arc<Mutex<Books>>,
}

impl Sender {
    fn begin(&self, batch: &Batch) {
        self.write(
            batch.signal,
            batch.counts,
            |signal| (signal.requests, signal.requests_pending) = (signal.requests + 1, signal.requests_pending + 1),
            |class, items| {
                class.sent += items;
            },
        );
    }

    async fn send(&self, batch: Batch) {
        let started = Instant::now();
        let mut was_uncertain = false;
        for _ in 0..ATTEMPTS_MAX {
            let pause = match self.exporter.export(batch.signal, batch.body.clone()).await {
                Answer::Accepted { rejected } => return self.accept(&batch, rejected, started.elapsed()),
                Answer::Failed { message } => {
                    lock(&self.books).last_failure = Some(message);
                    break;
                }
                Answer::Refused { after } => {
                    self.write(batch.signal, batch.counts, |signal| signal.attempts_refused += 1, |class, items| class.refused += items);
                    after.min(PAUSE_MAX)
                }
                Answer::Unreached => PAUSE,
                Answer::Uncertain => {
                    was_uncertain = true;
                    self.write(batch.signal, batch.counts, |_| {}, |class, items| class.uncertain += items);
                    PAUSE
                }
            };
            tokio::time::sleep(pause).await;
        }
        self.write(
            batch.signal,
            batch.counts,
            |signal| signal.requests_pending -= 1,
            |class, items| {
                *(if was_uncertain { &mut class.unknown } else { &mut class.abandoned }) += items;
            },
        );
    }

    fn accept(&self, batch: &Batch, rejected: u64, latency: Duration) {
        let settle = |signal: &mut SignalTruth| {
            (signal.requests_pending, signal.rejected) = (signal.requests_pending - 1, signal.rejected + rejected)
        };
        {
            let mut books = lock(&self.books);
            books.latency.record(latency);
            if let Some(accepted) = books.accepted.get_mut(&batch.signal) {
                for sequence in batch.first..batch.first + batch.counts.total() {
                    accepted.insert(sequence);
                }
            }
        }
        self.write(batch.signal, batch.counts, settle, |class, items| class.accepted += items);
    }

    fn write(
        &self,
        signal: Signal,
        counts: ClassCounts,
        on_signal: impl FnOnce(&mut SignalTruth),
        mut on_class: impl FnMut(&mut ClassTruth, u64),
    ) {
        let mut books = lock(&self.books);
        let Some(cell) = books.signals.get_mut(&signal) else { return };
        on_signal(cell);
        for class in &mut cell.classes {
            on_class(class, items_of(counts, class.class));
        }
    }
}

fn items_of(counts: ClassCounts, class: Class) -> u64 {
    u64::from(counts[class])
}

fn unix_nanos() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
