//! Everything that arrived, in memory: the sum of the journal. Bounded in producers, kernel fingerprints and kept log records.

use std::collections::{BTreeMap, HashSet, VecDeque};

use serde_json::Value as Json;
use vocabulary::{Class, Signal};

use super::report::{ProducerTally, SinkReport, Tally};
use crate::items::{Arrival, KernelItem, Run};
use crate::sequences::SequenceSet;

/// Kernel log records kept in full.
const KERNEL_LOGS_MAX: usize = 1_000;
/// Fingerprints of kernel items; beyond it each arrival counts as distinct. A busy node makes a few hundred a minute.
const FINGERPRINTS_MAX: usize = 1_000_000;
/// Producers; items of further ones count as unidentified.
const PRODUCERS_MAX: usize = 256;

/// The record.
#[derive(Debug, Default)]
pub(super) struct Record {
    seen: BTreeMap<(String, Signal), SequenceSet>,
    produced: BTreeMap<(String, Signal, Class), Tally>,
    kernel: BTreeMap<(Signal, Class), Tally>,
    unidentified: BTreeMap<(Signal, Class), u64>,
    fingerprints: HashSet<u64>,
    kernel_logs: VecDeque<Json>,
    requests: u64,
}

impl Record {
    /// Adds what one request brought.
    pub(super) fn apply(&mut self, arrival: Arrival) {
        self.requests += 1;
        let signal = arrival.signal;
        for run in arrival.runs {
            self.apply_run(signal, run);
        }
        for item in arrival.kernel {
            self.apply_kernel(signal, item);
        }
        for (class, items) in Class::ALL.into_iter().zip(arrival.unidentified) {
            if items > 0 {
                *self.unidentified.entry((signal, class)).or_default() += items;
            }
        }
    }

    fn apply_run(&mut self, signal: Signal, run: Run) {
        let key = (run.producer, signal);
        if self.seen.len() >= PRODUCERS_MAX && !self.seen.contains_key(&key) {
            *self.unidentified.entry((signal, run.class)).or_default() += run.last - run.first + 1;
            return;
        }
        let tally = self.produced.entry((key.0.clone(), signal, run.class)).or_default();
        let seen = self.seen.entry(key).or_default();
        for sequence in run.first..=run.last {
            if seen.insert(sequence) {
                tally.distinct += 1;
            } else {
                tally.duplicates += 1;
            }
        }
    }

    fn apply_kernel(&mut self, signal: Signal, item: KernelItem) {
        let is_full = self.fingerprints.len() >= FINGERPRINTS_MAX;
        let is_new = if is_full { !self.fingerprints.contains(&item.fingerprint) } else { self.fingerprints.insert(item.fingerprint) };
        let tally = self.kernel.entry((signal, item.class)).or_default();
        if is_new {
            tally.distinct += 1;
        } else {
            tally.duplicates += 1;
        }
        if let Some(log) = item.log {
            if self.kernel_logs.len() == KERNEL_LOGS_MAX {
                self.kernel_logs.pop_front();
            }
            self.kernel_logs.push_back(log);
        }
    }

    /// The record in numbers.
    pub(super) fn report(&self, requests_refused: u64) -> SinkReport {
        let nameless = |signal, class, tally| ProducerTally { producer: String::new(), signal, class, tally };
        SinkReport {
            producers: self
                .produced
                .iter()
                .map(|((producer, signal, class), &tally)| ProducerTally {
                    producer: producer.clone(),
                    signal: *signal,
                    class: *class,
                    tally,
                })
                .collect(),
            kernel: self.kernel.iter().map(|(&(signal, class), &tally)| nameless(signal, class, tally)).collect(),
            unidentified: self
                .unidentified
                .iter()
                .map(|(&(signal, class), &distinct)| nameless(signal, class, Tally { distinct, duplicates: 0 }))
                .collect(),
            requests: self.requests,
            requests_refused,
        }
    }

    /// Numbers seen of one producer and signal, as ranges.
    pub(super) fn seen(&self, producer: &str, signal: Signal) -> Vec<(u64, u64)> {
        self.seen.get(&(producer.to_owned(), signal)).map(SequenceSet::ranges).unwrap_or_default()
    }

    /// Kept kernel log records whose JSON contains all of `words`.
    pub(super) fn kernel_logs(&self, words: &[&str]) -> Vec<Json> {
        let matches = |log: &&Json| {
            let text = log.to_string();
            words.iter().all(|word| text.contains(word))
        };
        self.kernel_logs.iter().filter(matches).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(runs: Vec<Run>) -> Arrival {
        Arrival { signal: Signal::Traces, runs, kernel: Vec::new(), unidentified: [0; Class::COUNT] }
    }

    fn run(class: Class, first: u64, last: u64) -> Run {
        Run { producer: "p".into(), class, first, last }
    }

    #[test]
    fn an_item_that_arrives_twice_is_one_distinct_item_and_one_duplicate() {
        let mut record = Record::default();
        record.apply(arrival(vec![run(Class::Normal, 0, 9), run(Class::High, 10, 10)]));
        record.apply(arrival(vec![run(Class::Normal, 8, 9)]));
        let report = record.report(0);
        assert_eq!(report.produced(Signal::Traces, Class::Normal), Tally { distinct: 10, duplicates: 2 });
        assert_eq!(report.produced(Signal::Traces, Class::High), Tally { distinct: 1, duplicates: 0 });
        assert_eq!(record.seen("p", Signal::Traces), vec![(0, 10)]);
    }

    #[test]
    fn a_kernel_item_that_arrives_twice_is_recognised_by_its_bytes() {
        let mut record = Record::default();
        let item = |fingerprint| KernelItem {
            class: Class::Critical,
            fingerprint,
            log: Some(serde_json::json!({"event": "oom", "n": fingerprint})),
        };
        let kernel = |items| Arrival { kernel: items, ..Arrival { signal: Signal::Logs, ..arrival(Vec::new()) } };
        record.apply(kernel(vec![item(1), item(2)]));
        record.apply(kernel(vec![item(2)]));
        assert_eq!(record.report(0).kernel(Signal::Logs, Class::Critical), Tally { distinct: 2, duplicates: 1 });
        assert_eq!(record.kernel_logs(&["oom", "\"n\":1"]).len(), 1);
    }
}
