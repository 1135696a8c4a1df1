//! What one item carries so that it can be followed: its producer, its number, and the class it is expected to have.

mod make;
mod read;

pub use make::{Batch, Maker};
pub use read::{Arrival, KernelItem, Run, Unreadable, read};

use vocabulary::{Class, Signal};

/// Attribute with the name of the load generator that made the item.
pub const PRODUCER: &str = "forebay.producer";
/// Attribute with the item's number, counted from 0 per producer and signal.
pub const SEQUENCE: &str = "forebay.sequence";
/// Attribute with the class the item is expected to have.
pub const CLASS: &str = "forebay.class";
/// Scope of what an agent reports from the kernel.
pub const KERNEL_SCOPE: &str = "forebay.kernel";

/// Class that an agent without rules of its own gives a log record of this severity.
#[must_use]
pub fn class_of_severity(severity: i32) -> Class {
    match severity {
        21.. => Class::Critical,
        17..=20 => Class::High,
        1..=8 => Class::Bulk,
        _ => Class::Normal,
    }
}

/// Class of the item with this number, when `error_percent` of all items are errors. Errors are spread evenly; of the logs
/// that are none, one in five is DEBUG and one in a thousand FATAL.
#[must_use]
pub fn class_of(signal: Signal, sequence: u64, error_percent: f64) -> Class {
    let per_million = (error_percent.clamp(0.0, 100.0) * 10_000.0).round() as u64;
    let errors_before = |sequence: u64| u128::from(sequence) * u128::from(per_million) / 1_000_000;
    let is_error = errors_before(sequence + 1) > errors_before(sequence);
    match signal {
        Signal::Traces if is_error => Class::High,
        Signal::Logs if sequence % 1_000 == 999 => Class::Critical,
        Signal::Logs if is_error => Class::High,
        Signal::Logs if sequence.is_multiple_of(5) => Class::Bulk,
        _ => Class::Normal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_percent_of_spans_are_errors_evenly_spread() {
        for block in 0..10 {
            let errors =
                (block * 100..(block + 1) * 100).filter(|&sequence| class_of(Signal::Traces, sequence, 1.0) == Class::High).count();
            assert_eq!(errors, 1, "block {block}");
        }
        assert!((0..1_000).all(|sequence| class_of(Signal::Traces, sequence, 0.0) == Class::Normal));
    }

    #[test]
    fn what_is_made_is_read_back_with_every_number_and_class() {
        for signal in crate::codec::SIGNALS {
            let maker = Maker { producer: "p-1".into(), payload_bytes: 50 };
            let batch = maker.batch(signal, 980, 40, 10.0, 1_700_000_000_000_000_000);
            let arrival = read(signal, &batch.body).expect("it is well formed");
            assert_eq!(arrival.unidentified, [0; Class::COUNT]);
            let mut seen: Vec<(u64, Class)> =
                arrival.runs.iter().flat_map(|run| (run.first..=run.last).map(|sequence| (sequence, run.class))).collect();
            seen.sort_unstable();
            let expected: Vec<(u64, Class)> = (980..1_020).map(|sequence| (sequence, class_of(signal, sequence, 10.0))).collect();
            assert_eq!(seen, expected, "{signal}");
            assert_eq!(batch.counts.total(), 40);
        }
    }

    #[test]
    fn an_item_without_identity_is_counted_by_its_class() {
        use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
        use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
        use prost::Message;
        let record = LogRecord { severity_number: 17, ..LogRecord::default() };
        let scope = ScopeLogs { log_records: vec![record], ..ScopeLogs::default() };
        let request = ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { scope_logs: vec![scope], ..ResourceLogs::default() }] };
        let arrival = read(Signal::Logs, &request.encode_to_vec()).expect("it is well formed");
        assert_eq!(arrival.unidentified[Class::High.index()], 1);
        assert!(arrival.runs.is_empty());
    }
}
