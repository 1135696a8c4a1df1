//! What the load generator knows, in numbers; served at `/truth`. An item is in exactly one of: pending, accepted, abandoned,
//! unknown.

use serde::{Deserialize, Serialize};
use vocabulary::{Class, Signal};

use crate::words;

/// Everything one load generator knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Truth {
    /// Its name.
    pub producer: String,
    /// Nothing more will be made, and every request has its outcome.
    pub settled: bool,
    /// Per signal.
    pub signals: Vec<SignalTruth>,
    /// From the first attempt to the answer that settled the request.
    pub latency: Latency,
    /// Last final failure, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
}

/// Time from the first attempt to the final answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Latency {
    /// Median.
    pub p50_milliseconds: f64,
    /// 99th percentile.
    pub p99_milliseconds: f64,
}

/// One signal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignalTruth {
    /// Which.
    #[serde(with = "words::signal")]
    pub signal: Signal,
    /// Requests made.
    pub requests: u64,
    /// Requests without an outcome yet.
    pub requests_pending: u64,
    /// Attempts that were refused with a time to come again.
    pub attempts_refused: u64,
    /// Items rejected by partial success; the answer names no item, so there is no class.
    pub rejected: u64,
    /// Per class.
    pub classes: Vec<ClassTruth>,
}

/// One class of one signal, in items.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClassTruth {
    /// Which.
    #[serde(with = "words::class")]
    pub class: Class,
    /// Made.
    pub sent: u64,
    /// In requests that were taken, rejected ones included.
    pub accepted: u64,
    /// Refused with a time to come again; counted at each attempt.
    pub refused: u64,
    /// In attempts that got no answer; counted at each attempt.
    pub uncertain: u64,
    /// In requests given up that certainly were not taken.
    pub abandoned: u64,
    /// In requests given up of which nobody knows.
    pub unknown: u64,
}

impl ClassTruth {
    /// Nothing yet.
    #[must_use]
    pub fn new(class: Class) -> Self {
        Self { class, sent: 0, accepted: 0, refused: 0, uncertain: 0, abandoned: 0, unknown: 0 }
    }
}

impl SignalTruth {
    /// Nothing yet.
    #[must_use]
    pub fn new(signal: Signal) -> Self {
        let classes = Class::ALL.into_iter().map(ClassTruth::new).collect();
        Self { signal, requests: 0, requests_pending: 0, attempts_refused: 0, rejected: 0, classes }
    }
}

impl Truth {
    /// The cell of a signal and class, if this producer made any of the signal.
    #[must_use]
    pub fn cell(&self, signal: Signal, class: Class) -> Option<&ClassTruth> {
        self.signals.iter().find(|entry| entry.signal == signal)?.classes.iter().find(|entry| entry.class == class)
    }

    /// A number summed over all signals and classes.
    #[must_use]
    pub fn sum(&self, number: impl Fn(&ClassTruth) -> u64) -> u64 {
        self.signals.iter().flat_map(|signal| &signal.classes).map(number).sum()
    }
}
