//! What an agent serves at `/ledger`. Read leniently: a newer agent may say more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vocabulary::{Class, Signal};

use crate::words;

/// Items by reason.
pub(super) type Reasons = BTreeMap<String, u64>;

/// The books of one agent, as published.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    /// Identity of the counters.
    #[serde(default)]
    pub ledger_id: String,
    /// Input side.
    #[serde(default)]
    pub inputs: Vec<InputCell>,
    /// Destination side.
    #[serde(default)]
    pub destinations: Vec<DestinationBook>,
    /// Kernel records.
    #[serde(default)]
    pub kernel: Kernel,
    /// Requests refused before their items were counted.
    #[serde(default)]
    pub requests_refused: Reasons,
    /// Bounds of what `CrashVolatile` may really be.
    #[serde(default)]
    pub crash_volatile_bounds: (u64, u64),
    /// The agent's own finding that an identity does not hold.
    #[serde(default)]
    pub broken: Option<String>,
}

/// Input side of one signal and class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InputCell {
    /// The signal.
    #[serde(with = "words::signal")]
    pub signal: Signal,
    /// The class.
    #[serde(with = "words::class")]
    pub class: Class,
    /// Received and refused together.
    pub offered: u64,
    /// May have been acknowledged.
    pub received: u64,
    /// Not accepted.
    #[serde(default)]
    pub refused: Reasons,
    /// Removed on purpose.
    #[serde(default)]
    pub filtered: u64,
    /// Received, and dropped before any destination.
    #[serde(default)]
    pub dropped: Reasons,
}

/// One destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DestinationBook {
    /// Its name.
    pub name: String,
    /// Its cells.
    #[serde(default)]
    pub cells: Vec<DestinationCell>,
}

/// Destination side of one signal and class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DestinationCell {
    /// The signal.
    #[serde(with = "words::signal")]
    pub signal: Signal,
    /// The class.
    #[serde(with = "words::class")]
    pub class: Class,
    /// Taken on.
    pub routed: u64,
    /// Confirmed.
    pub delivered: u64,
    /// Given up.
    #[serde(default)]
    pub dropped: Reasons,
    /// Yet to settle.
    #[serde(default)]
    pub held: Held,
}

/// Where held items are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Held {
    /// Waiting in memory.
    pub queued: u64,
    /// Waiting on disk alone.
    pub on_disk: u64,
    /// Sent, no answer yet.
    pub in_flight: u64,
    /// Waiting to be sent again.
    pub waiting_retry: u64,
    /// Set aside.
    pub quarantined: u64,
}

/// Kernel records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Kernel {
    /// Seen by a probe.
    pub attempted: u64,
    /// Read by the agent.
    pub produced: u64,
    /// Lost in between.
    pub lost: Reasons,
}

impl Held {
    /// All states together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.queued + self.on_disk + self.in_flight + self.waiting_retry + self.quarantined
    }
}

impl Ledger {
    /// Items that wait for any destination.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.destinations.iter().flat_map(|book| &book.cells).map(|cell| cell.held.total()).sum()
    }

    /// Items that wait on disk alone.
    #[must_use]
    pub fn on_disk(&self) -> u64 {
        self.destinations.iter().flat_map(|book| &book.cells).map(|cell| cell.held.on_disk).sum()
    }

    /// Items dropped, at intake and later.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        let intake: u64 = self.inputs.iter().flat_map(|cell| cell.dropped.values()).sum();
        intake + self.destinations.iter().flat_map(|book| &book.cells).flat_map(|cell| cell.dropped.values()).sum::<u64>()
    }

    /// Items refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.inputs.iter().flat_map(|cell| cell.refused.values()).sum()
    }

    /// Items received.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.inputs.iter().map(|cell| cell.received).sum()
    }

    /// Items delivered.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.destinations.iter().flat_map(|book| &book.cells).map(|cell| cell.delivered).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_page_is_read_with_names_or_labels_and_without_empty_parts() {
        let page = r#"{"ledgerId":"a","inputs":[{"signal":"Traces","class":"normal","offered":3,"received":2,"refused":{"HardLimit":1},"filtered":0,"dropped":{}}],
            "destinations":[{"name":"backend","cells":[{"signal":"traces","class":"Normal","routed":2,"delivered":1,"dropped":{},
            "held":{"queued":0,"onDisk":1,"inFlight":0,"waitingRetry":0,"quarantined":0}}]}],
            "kernel":{"attempted":0,"produced":0,"lost":{}},"requestsRefused":{},"crashVolatileBounds":[0,7],"broken":null}"#;
        let ledger: Ledger = serde_json::from_str(page).expect("it is a page");
        assert_eq!((ledger.held(), ledger.on_disk(), ledger.refused(), ledger.crash_volatile_bounds), (1, 1, 1, (0, 7)));
    }
}
