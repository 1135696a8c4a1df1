//! What the operator is told: the published books and the board as one message of absolute numbers.

use std::sync::atomic::Ordering;

use crds::fleet;
use outputs::Condition;
use pipeline::{Books, DestinationBook, DestinationCell, Gauges, InputCell, KernelBook};
use vocabulary::{Class, Signal};

use crate::board::{Board, SourceCondition, Started, bounded};
use crate::engine::unix_ms;
use crate::ledger_page::cells;

/// Longest text of a broken identity or of a configuration error in a report.
const TEXT_BYTES_MAX: usize = 256;

/// Who reports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reporter {
    pub(crate) pipeline_uid: String,
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) pod_uid: String,
    pub(crate) node: String,
    pub(crate) config_hash: String,
}

/// One report.
pub(crate) fn report(reporter: &Reporter, board: &Board, started: &Started, sequence: u64, last: bool) -> fleet::AgentReport {
    let snapshot = started.engine.snapshot();
    let Books { inputs, destinations, kernel, crash_volatile_bounds: (lower, upper), .. } = &snapshot.books;
    let gauges = &snapshot.gauges;
    fleet::AgentReport {
        pipeline_uid: reporter.pipeline_uid.clone(),
        namespace: reporter.namespace.clone(),
        pod: reporter.pod.clone(),
        pod_uid: reporter.pod_uid.clone(),
        node: reporter.node.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        config_hash: reporter.config_hash.clone(),
        ledger_id: started.ledger_id.clone(),
        sequence,
        inputs: cells(inputs).filter_map(input_totals).collect(),
        destinations: destinations.iter().flat_map(destination_totals).collect(),
        kernel: Some(kernel_totals(kernel)),
        buffer: Some(fleet::BufferGauges {
            memory_bytes: gauges.memory_bytes,
            memory_bytes_max: gauges.memory_bytes_max,
            memory_items: gauges.memory_items,
            memory_items_max: gauges.memory_items_max,
            disk_bytes: gauges.disk_bytes,
            disk_bytes_max: gauges.disk_bytes_max,
            oldest_milliseconds: gauges.oldest_received_unix_ms.map_or(0, |received| unix_ms().saturating_sub(received)),
            fill_permille: gauges.fill_permille,
            disk_share_permille: disk_share_permille(gauges),
            is_archive: gauges.mode == pipeline::BufferMode::Archive,
            disk_failed: board.disk_failed.load(Ordering::Relaxed),
        }),
        sources: source_states(board),
        destination_states: destination_states(board),
        ledger_broken: snapshot.broken.as_deref().map(|text| bounded(text, TEXT_BYTES_MAX).to_owned()),
        config_error: board.config_error().map(|text| bounded(&text, TEXT_BYTES_MAX).to_owned()),
        last,
        crash_volatile_lower: *lower,
        crash_volatile_upper: *upper,
    }
}

/// Fill of the fullest share of the disk; 0 without a disk.
fn disk_share_permille(gauges: &Gauges) -> u64 {
    let fullest = gauges.destinations.iter().map(|destination| destination.disk_bytes).max().unwrap_or(0);
    fullest.saturating_mul(1_000).checked_div(gauges.destination_disk_bytes_max).unwrap_or(0)
}

fn input_totals((signal, class, cell): (Signal, Class, &InputCell)) -> Option<fleet::InputTotals> {
    (*cell != InputCell::default()).then(|| fleet::InputTotals {
        signal: signal.code().into(),
        class: class.code().into(),
        offered: cell.offered,
        received: cell.received,
        filtered: cell.filtered,
        refused: reasoned(&cell.refused),
        dropped: reasoned(&cell.dropped),
    })
}

fn destination_totals(book: &DestinationBook) -> impl Iterator<Item = fleet::DestinationTotals> {
    cells(&book.cells).filter(|(_, _, cell)| **cell != DestinationCell::default()).map(|(signal, class, cell)| fleet::DestinationTotals {
        destination: book.name.clone(),
        signal: signal.code().into(),
        class: class.code().into(),
        routed: cell.routed,
        delivered: cell.delivered,
        dropped: reasoned(&cell.dropped),
        queued: cell.held.queued,
        on_disk: cell.held.on_disk,
        in_flight: cell.held.in_flight,
        waiting_retry: cell.held.waiting_retry,
        quarantined: cell.held.quarantined,
    })
}

fn kernel_totals(book: &KernelBook) -> fleet::KernelTotals {
    fleet::KernelTotals { attempted: book.attempted, produced: book.produced, lost: reasoned(&book.lost) }
}

/// Codes are positions in the vocabulary's lists.
fn reasoned(items: &[u64]) -> Vec<fleet::Reasoned> {
    (0_u32..).zip(items).filter(|&(_, &items)| items > 0).map(|(reason, &items)| fleet::Reasoned { reason, items }).collect()
}

fn source_states(board: &Board) -> Vec<fleet::SourceState> {
    let condition = |condition| match condition {
        SourceCondition::On => fleet::SourceCondition::On,
        SourceCondition::Degraded => fleet::SourceCondition::Degraded,
        SourceCondition::Off => fleet::SourceCondition::Off,
    };
    let state = |(name, source): (String, crate::board::Source)| fleet::SourceState {
        source: name,
        condition: condition(source.condition).into(),
        reason: source.reason,
    };
    board.sources().into_iter().map(state).collect()
}

fn destination_states(board: &Board) -> Vec<fleet::DestinationState> {
    let state = |(name, state): (String, crate::board::Destination)| fleet::DestinationState {
        destination: name,
        condition: destination_condition(state.condition).into(),
        last_error: state.last_error,
        consecutive_failures: state.consecutive_failures,
        last_success_unix_ms: state.last_success_unix_ms,
    };
    board.destinations().into_iter().map(state).collect()
}

fn destination_condition(condition: Condition) -> fleet::DestinationCondition {
    match condition {
        Condition::Reachable => fleet::DestinationCondition::Reachable,
        Condition::AuthenticationFailed => fleet::DestinationCondition::AuthenticationFailed,
        Condition::NameResolutionFailed => fleet::DestinationCondition::NameResolutionFailed,
        Condition::ConnectionFailed => fleet::DestinationCondition::ConnectionFailed,
        Condition::TlsFailed => fleet::DestinationCondition::TlsFailed,
        Condition::RateLimited => fleet::DestinationCondition::RateLimited,
        Condition::PartialRejects => fleet::DestinationCondition::PartialRejects,
        Condition::TimedOut => fleet::DestinationCondition::TimedOut,
    }
}

#[cfg(test)]
mod tests {
    use vocabulary::{DropReason, LossReason, RefuseReason};

    use super::*;

    #[test]
    fn a_reasons_position_in_the_books_is_its_code() {
        assert!(DropReason::ALL.iter().all(|reason| reason.index() == usize::from(reason.code())));
        assert!(RefuseReason::ALL.iter().all(|reason| reason.index() == usize::from(reason.code())));
        assert!(LossReason::ALL.iter().all(|reason| reason.index() == usize::from(reason.code())));
        assert_eq!(reasoned(&[0, 7]), [fleet::Reasoned { reason: 1, items: 7 }]);
    }
}
