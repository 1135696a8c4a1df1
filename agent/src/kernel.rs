//! The thread that reads the kernel probes and hands their records to the engine. Whatever the kernel refuses is shown as the state
//! of the source; it never stops the agent.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crds::agent::EbpfSource;
use decode::{LogEvent, Record};
use enrich::Index;
use inputs::Offer;
use otlp::Rules;
use pipeline::{KernelBook, Origin};
use probes::{Event, KernelCounters, Options, Probes, State};
use tokio::runtime::Handle;
use vocabulary::{ClassCounts, Signal};

use crate::board::{Board, SourceCondition};
use crate::engine::Engine;
use crate::intake::take_in;
use crate::storage::chain;

/// Longest wait for an urgent record: bounds how late a stop is seen.
const POLL_TIME: Duration = Duration::from_millis(200);
/// Longest time a record waits for the names of its pod: a kubelet reports a new container within a second or two.
const NAMES_TIME_MAX: Duration = Duration::from_secs(4);
/// Records that may wait for names; beyond it the oldest goes out without.
const WAITING_MAX: usize = 1024;
/// Name of the source while no signal of it could be started.
const SOURCE: &str = "ebpf";

/// What the thread needs.
pub(crate) struct Kernel {
    pub(crate) config: EbpfSource,
    pub(crate) engine: Arc<Engine>,
    pub(crate) board: Arc<Board>,
    pub(crate) rules: Rules,
    /// Whom cgroups belong to; pods are written by whoever follows them.
    pub(crate) index: Arc<Mutex<Index>>,
    /// When the index's time began.
    pub(crate) started: Instant,
    /// Whether pods are followed, so that waiting for a name makes sense.
    pub(crate) awaits_names: bool,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) runtime: Handle,
}

/// A record, and when it was read.
struct Waiting {
    read: Instant,
    cgroup: u64,
    record: Record,
    unix_nanos: u64,
}

impl Kernel {
    /// Reads until told to stop.
    pub(crate) fn run(self) {
        let options =
            Options { object: PathBuf::from(&self.config.object), cgroup_root: PathBuf::from(&self.config.cgroup_root), btf: None };
        let mut probes = match probes::start(&options) {
            Ok(probes) => probes,
            Err(cause) => return self.board.set_source(SOURCE, SourceCondition::Off, &chain(&cause)),
        };
        self.show_states(&probes);
        match probes::walk_cgroups(&options.cgroup_root) {
            Ok(cgroups) => {
                let mut index = self.index();
                cgroups.iter().for_each(|(id, path)| index.insert_cgroup(*id, path));
            }
            Err(cause) => tracing::warn!(error = %chain(&cause), "cgroups that are already there have no names"),
        }
        // The books are as old as the buffer, the probes' counters as old as this process.
        let before = self.engine.with(|pipeline, _| pipeline.books().kernel.clone());
        let mut waiting = VecDeque::new();
        let slot_time = Duration::from_secs(self.config.slot_seconds.max(1).into());
        let mut slot_began = (Instant::now(), unix_nanos());
        loop {
            let is_last = self.stop.load(Ordering::Relaxed);
            if let Err(cause) =
                probes.poll(if is_last { Duration::ZERO } else { POLL_TIME }, &mut |event| self.take_event(event, &mut waiting))
            {
                self.board.set_source(SOURCE, SourceCondition::Degraded, &chain(&cause));
                std::thread::sleep(POLL_TIME);
            }
            self.send_events(&mut waiting, is_last);
            if is_last || slot_began.0.elapsed() >= slot_time {
                let ended = unix_nanos();
                self.send_slot(&mut probes, slot_began.1, ended);
                slot_began = (Instant::now(), ended);
                self.engine.with(|pipeline, _| pipeline.set_kernel(sum(&before, &probes.counters())));
                self.index().expire(self.started.elapsed());
            }
            if is_last {
                // Closing a slot may have read records that only the next poll hands over.
                if probes.poll(Duration::ZERO, &mut |event| self.take_event(event, &mut waiting)).is_ok() {
                    self.send_events(&mut waiting, true);
                }
                return;
            }
        }
    }

    fn show_states(&self, probes: &Probes) {
        for signal in probes.states() {
            let (condition, reason) = match &signal.state {
                State::On => (SourceCondition::On, ""),
                State::Degraded(reason) => (SourceCondition::Degraded, reason.as_str()),
                State::Off(reason) => (SourceCondition::Off, reason.as_str()),
            };
            self.board.set_source(&format!("{SOURCE}/{}", signal.name), condition, reason);
        }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_event(&self, event: Event, waiting: &mut VecDeque<Waiting>) {
        let (head, record) = match event {
            Event::OomKill(kill) => (kill.head, Record::OomKill(kill)),
            Event::Exit(exit) => (exit.head, Record::Exit(exit)),
            Event::CgroupCreated(created) => {
                return self.index().insert_cgroup(created.head.cgroup, &String::from_utf8_lossy(created.path()));
            }
            Event::CgroupRemoved(removed) => return self.index().remove_cgroup(self.started.elapsed(), removed.head.cgroup),
        };
        let unix_nanos = probes::unix_nanos(head.time_nanos);
        waiting.push_back(Waiting { read: Instant::now(), cgroup: head.cgroup, record, unix_nanos });
    }

    /// Sends the records whose names are known, or that have waited long enough.
    fn send_events(&self, waiting: &mut VecDeque<Waiting>, all: bool) {
        let mut ready = Vec::new();
        let surplus = waiting.len().saturating_sub(WAITING_MAX);
        let index = self.index();
        for (position, event) in std::mem::take(waiting).into_iter().enumerate() {
            let attribution = index.attribute(event.cgroup);
            let is_named = attribution.pod_uid.is_none() || (attribution.pod_name.is_some() && attribution.container_name.is_some());
            if all || !self.awaits_names || is_named || position < surplus || event.read.elapsed() >= NAMES_TIME_MAX {
                ready.push(LogEvent { record: event.record, attribution, unix_nanos: event.unix_nanos });
            } else {
                waiting.push_back(event);
            }
        }
        drop(index);
        self.offer(Signal::Logs, decode::logs(&ready));
    }

    fn send_slot(&self, probes: &mut Probes, began: u64, ended: u64) {
        match probes.read_slot() {
            Ok(slot) => {
                let index = self.index();
                let request = decode::metrics(&slot.cells, |cgroup| index.attribute(cgroup), began, ended);
                drop(index);
                self.offer(Signal::Metrics, request);
            }
            Err(cause) => self.board.set_source(SOURCE, SourceCondition::Degraded, &chain(&cause)),
        }
    }

    /// The engine counts what it cannot take; there is nobody to be told.
    fn offer(&self, signal: Signal, request: Option<(Bytes, ClassCounts)>) {
        if let Some((body, counts)) = request {
            self.runtime.block_on(take_in(&self.engine, &self.rules, Origin::Kernel, Offer { signal, counts, body }));
        }
    }
}

fn sum(before: &KernelBook, now: &KernelCounters) -> KernelBook {
    let mut book = before.clone();
    book.attempted += now.attempted;
    book.produced += now.produced;
    book.lost.iter_mut().zip(now.lost).for_each(|(total, lost)| *total += lost);
    book
}

fn unix_nanos() -> u64 {
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}
