//! What the sink tells at `/report`.

use serde::{Deserialize, Serialize};
use vocabulary::{Class, Signal};

use crate::words;

/// Items of one origin, signal and class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// Different items.
    pub distinct: u64,
    /// Arrivals beyond the first of each.
    pub duplicates: u64,
}

/// Items of one producer, signal and class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProducerTally {
    /// The load generator; empty for kernel items and for items without identity.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub producer: String,
    /// The signal.
    #[serde(with = "words::signal")]
    pub signal: Signal,
    /// The class.
    #[serde(with = "words::class")]
    pub class: Class,
    /// How many.
    #[serde(flatten)]
    pub tally: Tally,
}

/// The whole record in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SinkReport {
    /// Items of load generators.
    pub producers: Vec<ProducerTally>,
    /// Items that agents report from the kernel; told apart by their bytes.
    pub kernel: Vec<ProducerTally>,
    /// Items without identity; each counts as distinct.
    pub unidentified: Vec<ProducerTally>,
    /// Requests recorded.
    pub requests: u64,
    /// Requests refused because of the throttle or a failure that was asked for; since the process started.
    pub requests_refused: u64,
}

impl SinkReport {
    /// Items of all load generators in one signal and class.
    #[must_use]
    pub fn produced(&self, signal: Signal, class: Class) -> Tally {
        sum(&self.producers, signal, class)
    }

    /// Kernel items in one signal and class.
    #[must_use]
    pub fn kernel(&self, signal: Signal, class: Class) -> Tally {
        sum(&self.kernel, signal, class)
    }

    /// Items without identity in one signal and class.
    #[must_use]
    pub fn unidentified(&self, signal: Signal, class: Class) -> Tally {
        sum(&self.unidentified, signal, class)
    }
}

fn sum(tallies: &[ProducerTally], signal: Signal, class: Class) -> Tally {
    tallies.iter().filter(|entry| entry.signal == signal && entry.class == class).fold(Tally::default(), |sum, entry| Tally {
        distinct: sum.distinct + entry.tally.distinct,
        duplicates: sum.duplicates + entry.tally.duplicates,
    })
}
