//! What the shells have seen and the engine cannot know: sources, destinations, the disk, what keeps the agent from being ready.
//! Written by the parts, read by the admin endpoint and by reports.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use outputs::{Attempt, Condition};

use crate::engine::{Engine, unix_ms};
use crate::receipt::PreviousEnd;

/// Longest reason kept of a source: what a report carries.
const REASON_BYTES_MAX: usize = 200;

/// The board.
pub(crate) struct Board {
    /// Why the agent is not ready, by part.
    blockers: Mutex<BTreeMap<&'static str, String>>,
    sources: Mutex<BTreeMap<String, Source>>,
    /// By name, the configured ones.
    destinations: Mutex<BTreeMap<String, Destination>>,
    config_error: Mutex<Option<String>>,
    /// Panics, by the stage they ended.
    panics: Mutex<BTreeMap<&'static str, u64>>,
    /// Changed documents, by what became of them.
    reloads: [AtomicU64; Reload::ALL.len()],
    /// The process was told to end.
    pub(crate) draining: AtomicBool,
    /// The disk failed and is not used.
    pub(crate) disk_failed: AtomicBool,
    /// Damaged records that verification found on disk, which count as `Corrupt` when their turn to be sent comes.
    pub(crate) damaged_records: AtomicU64,
    /// Places of the disk that the start found damaged.
    pub(crate) damaged_places: AtomicU64,
    /// Files in quarantine, their length, and the bound of it; all 0 without one.
    pub(crate) quarantine: QuarantineGauges,
    /// When the storage thread last came around, in milliseconds since the Unix epoch; 0 without one.
    pub(crate) storage_beat: AtomicU64,
    /// The engine, once the buffer is open.
    started: OnceLock<Started>,
}

/// What the quarantine holds.
#[derive(Debug, Default)]
pub(crate) struct QuarantineGauges {
    pub(crate) files: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) bytes_max: AtomicU64,
}

/// What became of a changed document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reload {
    /// It runs.
    Applied,
    /// It is wrong.
    Invalid,
    /// It changes what a running process cannot.
    NeedsRestart,
}

impl Reload {
    pub(crate) const ALL: [Self; 3] = [Self::Applied, Self::Invalid, Self::NeedsRestart];

    /// Its name in metrics.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Invalid => "invalid",
            Self::NeedsRestart => "needs_restart",
        }
    }
}

/// What exists from the moment the buffer is open.
pub(crate) struct Started {
    pub(crate) engine: Arc<Engine>,
    /// Identity of the counters.
    pub(crate) ledger_id: String,
    /// How the process ended that had the buffer before.
    pub(crate) previous_end: PreviousEnd,
}

/// Whether a source collects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SourceCondition {
    On,
    Degraded,
    Off,
}

/// State of one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) condition: SourceCondition,
    /// Why it is not on.
    pub(crate) reason: String,
}

/// State of one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    pub(crate) condition: Condition,
    pub(crate) last_error: String,
    pub(crate) consecutive_failures: u64,
    /// Milliseconds since the Unix epoch; 0 if never.
    pub(crate) last_success_unix_ms: u64,
}

impl Board {
    pub(crate) fn new() -> Self {
        Self {
            blockers: Mutex::default(),
            sources: Mutex::default(),
            destinations: Mutex::default(),
            config_error: Mutex::default(),
            panics: Mutex::default(),
            reloads: Default::default(),
            draining: AtomicBool::new(false),
            disk_failed: AtomicBool::new(false),
            damaged_records: AtomicU64::new(0),
            damaged_places: AtomicU64::new(0),
            quarantine: QuarantineGauges::default(),
            storage_beat: AtomicU64::new(0),
            started: OnceLock::new(),
        }
    }

    /// The buffer is open. The first call counts.
    pub(crate) fn start(&self, started: Started) {
        self.started.get_or_init(|| started);
    }

    pub(crate) fn started(&self) -> Option<&Started> {
        self.started.get()
    }

    /// Something keeps the agent from being ready. Logged when it begins or changes.
    pub(crate) fn block(&self, part: &'static str, why: String) {
        let mut blockers = lock(&self.blockers);
        if blockers.get(part) != Some(&why) {
            tracing::error!(part, why, "not ready; tried again");
            blockers.insert(part, why);
        }
    }

    /// A part that will block readiness until it has come up, before anything went wrong.
    pub(crate) fn expect(&self, part: &'static str) {
        lock(&self.blockers).insert(part, "starting".into());
    }

    pub(crate) fn unblock(&self, part: &'static str) {
        lock(&self.blockers).remove(part);
    }

    /// Why the agent is not ready; empty if it is.
    pub(crate) fn blockers(&self) -> BTreeMap<&'static str, String> {
        let mut blockers = lock(&self.blockers).clone();
        if self.draining.load(Ordering::Relaxed) {
            blockers.insert("shutdown", "draining".into());
        }
        blockers
    }

    /// Notes a source's state. Logged when it changes.
    pub(crate) fn set_source(&self, name: &str, condition: SourceCondition, reason: &str) {
        let reason: String = reason.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
        let source = Source { condition, reason: bounded(&reason, REASON_BYTES_MAX).to_owned() };
        let before = lock(&self.sources).insert(name.to_owned(), source.clone());
        if before.as_ref() == Some(&source) {
            return;
        }
        match source.condition {
            SourceCondition::On => tracing::info!(source = name, "collecting"),
            SourceCondition::Degraded | SourceCondition::Off => {
                tracing::warn!(source = name, condition = ?source.condition, reason = source.reason, "not collecting everything");
            }
        }
    }

    pub(crate) fn sources(&self) -> BTreeMap<String, Source> {
        lock(&self.sources).clone()
    }

    /// Nothing was seen of a destination yet; of one that moved, or came.
    pub(crate) fn expect_destination(&self, name: &str) {
        let unseen =
            Destination { condition: Condition::Reachable, last_error: String::new(), consecutive_failures: 0, last_success_unix_ms: 0 };
        lock(&self.destinations).insert(name.to_owned(), unseen);
    }

    /// A destination is configured no more.
    pub(crate) fn forget_destination(&self, name: &str) {
        lock(&self.destinations).remove(name);
    }

    /// Notes what an attempt showed of its destination, unless it was removed meanwhile. Logged when the condition changes.
    pub(crate) fn saw_attempt(&self, destination: &str, attempt: &Attempt) {
        let mut destinations = lock(&self.destinations);
        let Some(state) = destinations.get_mut(destination) else { return };
        let before = state.condition;
        state.condition = attempt.condition;
        match attempt.condition {
            Condition::Reachable | Condition::PartialRejects => {
                state.consecutive_failures = 0;
                state.last_success_unix_ms = unix_ms();
            }
            _ => state.consecutive_failures += 1,
        }
        if attempt.condition == Condition::Reachable && !attempt.error.is_empty() && state.last_error != attempt.error {
            tracing::warn!(destination, warning = attempt.error, "the destination took a record");
        }
        if !attempt.error.is_empty() {
            state.last_error.clone_from(&attempt.error);
        }
        if before == attempt.condition {
            return;
        }
        match attempt.condition {
            Condition::Reachable => tracing::info!(destination, "the destination takes records again"),
            condition => {
                tracing::warn!(destination, ?condition, error = attempt.error, "the destination does not take every record")
            }
        }
    }

    pub(crate) fn destinations(&self) -> BTreeMap<String, Destination> {
        lock(&self.destinations).clone()
    }

    /// Counts what became of a changed document.
    pub(crate) fn count_reload(&self, reload: Reload) {
        if let Some(count) = self.reloads.get(reload as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn reloads(&self) -> impl Iterator<Item = (Reload, u64)> {
        Reload::ALL.into_iter().zip(self.reloads.each_ref().map(|count| count.load(Ordering::Relaxed)))
    }

    /// A stage ended in a panic.
    pub(crate) fn note_panic(&self, stage: &'static str) {
        *lock(&self.panics).entry(stage).or_default() += 1;
    }

    /// How many panics ended which stages.
    pub(crate) fn panics(&self) -> Vec<(&'static str, u64)> {
        lock(&self.panics).iter().map(|(&stage, &panics)| (stage, panics)).collect()
    }

    /// Notes whether the document on disk could be used. Logged when it changes.
    pub(crate) fn set_config_error(&self, error: Option<String>) {
        let mut current = lock(&self.config_error);
        if *current != error {
            match &error {
                Some(error) => tracing::error!(error, "the changed configuration is refused; the one before goes on"),
                None => tracing::info!("the configuration document is good again"),
            }
            *current = error;
        }
    }

    pub(crate) fn config_error(&self) -> Option<String> {
        lock(&self.config_error).clone()
    }
}

/// The longest start of `text` of at most `bytes_max` bytes that ends between characters.
pub(crate) fn bounded(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or(text)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_ready_when_nothing_blocks_it_and_not_while_it_drains() {
        let board = Board::new();
        board.expect("buffer");
        board.block("otlp", "the port is taken".into());
        assert_eq!(board.blockers().len(), 2);
        board.unblock("buffer");
        board.unblock("otlp");
        assert!(board.blockers().is_empty());
        board.draining.store(true, Ordering::Relaxed);
        assert_eq!(board.blockers().get("shutdown").map(String::as_str), Some("draining"));
    }

    #[test]
    fn a_bounded_text_ends_between_characters() {
        assert_eq!(bounded("aä", 2), "a");
        assert_eq!(bounded("ab", 9), "ab");
    }
}
