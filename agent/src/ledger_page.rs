//! The ledger as JSON: every cell that has something to tell, for people, the demonstration and tests. Names are those of the API.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use pipeline::{Books, DestinationBook, DestinationCell, Gauges, InputCell, KernelBook};
use serde::Serialize;
use vocabulary::{Class, DropReason, LossReason, RefuseReason, Signal};

use crate::board::{QuarantineGauges, Started};
use crate::receipt::PreviousEnd;
use crate::snapshot::Snapshot;

type Reasons = BTreeMap<&'static str, u64>;

/// The page.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LedgerPage<'a> {
    ledger_id: &'a str,
    previous_end: &'a PreviousEnd,
    inputs: Vec<InputRow>,
    destinations: Vec<DestinationRows<'a>>,
    kernel: KernelRow,
    requests_refused: Reasons,
    crash_volatile_bounds: [u64; 2],
    /// Reasons whose items are exact in total and an estimate by class: a partial success names no item.
    estimated_by_class: [&'static str; 1],
    broken: Option<&'a str>,
    quarantine: QuarantineRow,
    gauges: GaugeRow,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct InputRow {
    signal: &'static str,
    class: &'static str,
    offered: u64,
    received: u64,
    refused: Reasons,
    filtered: u64,
    dropped: Reasons,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DestinationRows<'a> {
    name: &'a str,
    attempts: u64,
    /// The rate at which its backlog is sent beside live traffic, while there is one.
    replay_bytes_per_second: Option<u64>,
    cells: Vec<DestinationRow>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DestinationRow {
    signal: &'static str,
    class: &'static str,
    routed: u64,
    delivered: u64,
    dropped: Reasons,
    held: HeldRow,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HeldRow {
    queued: u64,
    on_disk: u64,
    in_flight: u64,
    waiting_retry: u64,
    quarantined: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct KernelRow {
    attempted: u64,
    produced: u64,
    lost: Reasons,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct QuarantineRow {
    files: u64,
    bytes: u64,
    bytes_max: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct GaugeRow {
    memory_bytes: u64,
    memory_bytes_max: u64,
    memory_items: u64,
    memory_items_max: u64,
    disk_bytes: u64,
    disk_bytes_max: u64,
    held_records: u64,
    over_soft: bool,
    phase: String,
}

impl<'a> LedgerPage<'a> {
    /// Reads one moment.
    pub(crate) fn of(started: &'a Started, snapshot: &'a Snapshot, quarantine: &QuarantineGauges) -> Self {
        let Snapshot { books, gauges, broken } = snapshot;
        let Books { inputs, destinations, kernel, requests_refused, crash_volatile_bounds: (lower, upper) } = books;
        Self {
            ledger_id: &started.ledger_id,
            previous_end: &started.previous_end,
            inputs: cells(inputs).filter_map(|(signal, class, cell)| input_row(signal, class, cell)).collect(),
            destinations: destinations.iter().map(|book| destination_rows(book, gauges)).collect(),
            kernel: kernel_row(kernel),
            requests_refused: refused(requests_refused),
            crash_volatile_bounds: [*lower, *upper],
            estimated_by_class: [DropReason::Rejected.name()],
            broken: broken.as_deref(),
            quarantine: QuarantineRow {
                files: quarantine.files.load(Ordering::Relaxed),
                bytes: quarantine.bytes.load(Ordering::Relaxed),
                bytes_max: quarantine.bytes_max.load(Ordering::Relaxed),
            },
            gauges: GaugeRow {
                memory_bytes: gauges.memory_bytes,
                memory_bytes_max: gauges.memory_bytes_max,
                memory_items: gauges.memory_items,
                memory_items_max: gauges.memory_items_max,
                disk_bytes: gauges.disk_bytes,
                disk_bytes_max: gauges.disk_bytes_max,
                held_records: gauges.held_records,
                over_soft: gauges.over_soft,
                phase: format!("{:?}", gauges.phase),
            },
        }
    }
}

/// Every cell of a book with its coordinates.
pub(crate) fn cells<T>(table: &[[T; Class::COUNT]; Signal::COUNT]) -> impl Iterator<Item = (Signal, Class, &T)> {
    Signal::ALL
        .into_iter()
        .zip(table)
        .flat_map(|(signal, row)| Class::ALL.into_iter().zip(row).map(move |(class, cell)| (signal, class, cell)))
}

fn input_row(signal: Signal, class: Class, cell: &InputCell) -> Option<InputRow> {
    (*cell != InputCell::default()).then(|| InputRow {
        signal: signal.name(),
        class: class.name(),
        offered: cell.offered,
        received: cell.received,
        refused: refused(&cell.refused),
        filtered: cell.filtered,
        dropped: dropped(&cell.dropped),
    })
}

fn destination_rows<'a>(book: &'a DestinationBook, gauges: &Gauges) -> DestinationRows<'a> {
    let replay = gauges.destinations.iter().find(|each| each.name == book.name).and_then(|each| each.replay_bytes_per_second);
    let row = |(signal, class, cell): (Signal, Class, &DestinationCell)| {
        (*cell != DestinationCell::default()).then(|| DestinationRow {
            signal: signal.name(),
            class: class.name(),
            routed: cell.routed,
            delivered: cell.delivered,
            dropped: dropped(&cell.dropped),
            held: HeldRow {
                queued: cell.held.queued,
                on_disk: cell.held.on_disk,
                in_flight: cell.held.in_flight,
                waiting_retry: cell.held.waiting_retry,
                quarantined: cell.held.quarantined,
            },
        })
    };
    DestinationRows {
        name: &book.name,
        attempts: book.attempts,
        replay_bytes_per_second: replay,
        cells: cells(&book.cells).filter_map(row).collect(),
    }
}

fn kernel_row(book: &KernelBook) -> KernelRow {
    let lost = LossReason::ALL.into_iter().zip(book.lost).filter(|&(_, records)| records > 0);
    KernelRow { attempted: book.attempted, produced: book.produced, lost: lost.map(|(reason, records)| (reason.name(), records)).collect() }
}

fn refused(items: &[u64; RefuseReason::COUNT]) -> Reasons {
    RefuseReason::ALL.into_iter().zip(*items).filter(|&(_, items)| items > 0).map(|(reason, items)| (reason.name(), items)).collect()
}

fn dropped(items: &[u64; DropReason::COUNT]) -> Reasons {
    DropReason::ALL.into_iter().zip(*items).filter(|&(_, items)| items > 0).map(|(reason, items)| (reason.name(), items)).collect()
}
