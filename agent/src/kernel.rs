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
use inputs::{Charge, Offer};
use otlp::Rules;
use pipeline::KernelBook;
use probes::{Event, KernelCounters, Options, Probes, State};
use tokio::runtime::Handle;
use vocabulary::{ClassCounts, Signal};

use crate::board::{Board, SourceCondition};
use crate::engine::Engine;
use crate::intake::{Sender, take_in};
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
#[derive(Clone)]
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

/// Whether reading failed. The source is good again after a whole slot without a fault.
#[derive(Debug, Default)]
struct Faults {
    is_slot_faulty: bool,
    is_shown: bool,
}

impl Faults {
    fn note(&mut self) {
        *self = Self { is_slot_faulty: true, is_shown: true };
    }

    /// Whether the source is good again.
    fn end_slot(&mut self) -> bool {
        let is_faulty = std::mem::take(&mut self.is_slot_faulty);
        !is_faulty && std::mem::take(&mut self.is_shown)
    }
}

/// Shows that nothing of the kernel is read any more: the thread is gone.
pub(crate) fn show_gone(board: &Board, reason: &str) {
    let signals = board.sources().into_keys().filter(|name| name.starts_with(SOURCE));
    for name in signals.chain([SOURCE.to_owned()]) {
        board.set_source(&name, SourceCondition::Off, reason);
    }
}

impl Kernel {
    /// Reads until told to stop.
    pub(crate) fn run(&self) {
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
        let mut faults = Faults::default();
        loop {
            let is_last = self.stop.load(Ordering::Relaxed);
            if let Err(cause) =
                probes.poll(if is_last { Duration::ZERO } else { POLL_TIME }, &mut |event| self.take_event(event, &mut waiting))
            {
                self.show_fault(&mut faults, &cause);
                std::thread::sleep(POLL_TIME);
            }
            self.send_events(&mut waiting, is_last);
            if is_last || slot_began.0.elapsed() >= slot_time {
                let ended = unix_nanos();
                self.send_slot(&mut probes, slot_began.1, ended, &mut faults);
                if faults.end_slot() {
                    self.board.set_source(SOURCE, SourceCondition::On, "");
                }
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

    fn send_slot(&self, probes: &mut Probes, began: u64, ended: u64, faults: &mut Faults) {
        match probes.read_slot() {
            Ok(slot) => {
                let index = self.index();
                let request = decode::metrics(&slot.cells, |cgroup| index.attribute(cgroup), began, ended);
                drop(index);
                self.offer(Signal::Metrics, request);
            }
            Err(cause) => self.show_fault(faults, &cause),
        }
    }

    fn show_fault(&self, faults: &mut Faults, cause: &dyn std::error::Error) {
        faults.note();
        self.board.set_source(SOURCE, SourceCondition::Degraded, &chain(cause));
    }

    /// The engine counts what it cannot take; there is nobody to be told.
    fn offer(&self, signal: Signal, request: Option<(Bytes, ClassCounts)>) {
        if let Some((body, counts)) = request {
            self.runtime.block_on(take_in(
                &self.engine,
                &self.rules,
                &Sender::Kernel,
                Offer { signal, counts, body, charge: Charge::default(), patience: Duration::ZERO },
            ));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_good_again_after_a_slot_without_a_fault_and_says_so_once() {
        let mut faults = Faults::default();
        assert!(!faults.end_slot(), "nothing was wrong");
        faults.note();
        assert!(!faults.end_slot(), "this slot had the fault");
        assert!(faults.end_slot());
        assert!(!faults.end_slot(), "it is shown already");
    }

    #[test]
    fn a_thread_that_is_gone_leaves_no_signal_shown_as_collecting() {
        let board = Board::new();
        board.set_source("otlp", SourceCondition::On, "");
        board.set_source("ebpf/oom_kills", SourceCondition::On, "");
        show_gone(&board, "its thread ended");
        let conditions: Vec<_> = board.sources().into_iter().map(|(name, source)| (name, source.condition)).collect();
        let expected = [("ebpf", SourceCondition::Off), ("ebpf/oom_kills", SourceCondition::Off), ("otlp", SourceCondition::On)];
        assert_eq!(conditions, expected.map(|(name, condition)| (name.to_owned(), condition)));
    }
}
