//! Books as the status shows them, and back: what one leader writes the next one reads, without losing an item.

use crds::v1alpha1::{
    Bounds, DestinationStatus, DropCount, Flow, FlowCell, HeldItems, KernelFlow, LossCount, RefuseCount, Retired, RetiredDestination,
};

use crate::books::{self, Books, Cell, DestinationBooks, Drops, Held, Kernel};

/// A count as the API writes it.
#[must_use]
pub fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

/// The cells of a ledger; `lately` tells what of the drops is younger than five minutes.
#[must_use]
pub fn cells(books: &Books, lately: &Drops) -> Vec<FlowCell> {
    let cell = |(&(signal, class), cell): (&_, &Cell)| FlowCell {
        offered: signed(cell.offered),
        received: signed(cell.received),
        refused: signed(cell.refused_total()),
        filtered: signed(cell.filtered),
        routed: signed(cell.routed),
        delivered: signed(cell.delivered),
        dropped: signed(cell.dropped_total()),
        held: signed(cell.held.total()),
        held_in: (cell.held.total() > 0).then(|| HeldItems {
            queued: signed(cell.held.queued),
            on_disk: signed(cell.held.on_disk),
            in_flight: signed(cell.held.in_flight),
            waiting_retry: signed(cell.held.waiting_retry),
            quarantined: signed(cell.held.quarantined),
        }),
        dropped_by_reason: cell
            .dropped
            .iter()
            .map(|(&reason, &items)| DropCount {
                reason,
                total: signed(items),
                last5m: signed(lately.get(&(signal, class, reason)).copied().unwrap_or(0)),
            })
            .collect(),
        refused_by_reason: cell.refused.iter().map(|(&reason, &items)| RefuseCount { reason, total: signed(items) }).collect(),
        ..FlowCell::new(signal, class)
    };
    books.cells.iter().map(cell).collect()
}

/// The kernel side, if there is one.
#[must_use]
pub fn kernel(books: &Books) -> Option<KernelFlow> {
    let kernel = &books.kernel;
    (*kernel != Kernel::default()).then(|| KernelFlow {
        attempted: signed(kernel.attempted),
        produced: signed(kernel.produced),
        lost: signed(books::sum(kernel.lost.values().copied())),
        lost_by_reason: kernel.lost.iter().map(|(&reason, &items)| LossCount { reason, total: signed(items) }).collect(),
    })
}

/// What `CrashVolatile` may really be, if it is not exact.
#[must_use]
pub fn crash_volatile(books: &Books) -> Option<Bounds> {
    let (lower, upper) = books.crash_volatile;
    (upper > 0).then(|| Bounds { lower: signed(lower), upper: signed(upper) })
}

/// The ledgers that ended.
#[must_use]
pub fn retired(books: &Books, agents: u64) -> Option<Retired> {
    let destination = |(name, sums): (&String, &DestinationBooks)| RetiredDestination {
        name: name.clone(),
        routed: signed(sums.routed),
        sent: signed(sums.sent),
        dropped: signed(sums.dropped),
    };
    (agents > 0 || *books != Books::default()).then(|| Retired {
        agents: signed(agents),
        signals: cells(books, &Drops::new()),
        kernel: kernel(books),
        crash_volatile: crash_volatile(books),
        destinations: books.destinations.iter().map(destination).collect(),
    })
}

/// The totals that a status holds.
#[must_use]
pub fn read_flow(flow: &Flow, destinations: &[DestinationStatus]) -> Books {
    let destination = |status: &DestinationStatus| {
        let sums = DestinationBooks {
            routed: unsigned(status.routed),
            sent: unsigned(status.sent),
            dropped: unsigned(status.dropped),
            held: unsigned(status.held),
        };
        (status.name.clone(), sums)
    };
    Books {
        cells: read_cells(&flow.signals),
        destinations: destinations.iter().map(destination).collect(),
        kernel: read_kernel(flow.kernel.as_ref()),
        crash_volatile: read_bounds(flow.crash_volatile),
    }
}

/// The retired part of the totals that a status holds.
#[must_use]
pub fn read_retired(retired: &Retired) -> Books {
    let destination = |ended: &RetiredDestination| {
        let sums =
            DestinationBooks { routed: unsigned(ended.routed), sent: unsigned(ended.sent), dropped: unsigned(ended.dropped), held: 0 };
        (ended.name.clone(), sums)
    };
    Books {
        cells: read_cells(&retired.signals),
        destinations: retired.destinations.iter().map(destination).collect(),
        kernel: read_kernel(retired.kernel.as_ref()),
        crash_volatile: read_bounds(retired.crash_volatile),
    }
}

fn read_cells(cells: &[FlowCell]) -> std::collections::BTreeMap<(vocabulary::Signal, vocabulary::Class), Cell> {
    let cell = |status: &FlowCell| {
        let held = status.held_in.unwrap_or_default();
        let cell = Cell {
            offered: unsigned(status.offered),
            received: unsigned(status.received),
            filtered: unsigned(status.filtered),
            delivered: unsigned(status.delivered),
            routed: unsigned(status.routed),
            held: Held {
                queued: unsigned(held.queued),
                on_disk: unsigned(held.on_disk),
                in_flight: unsigned(held.in_flight),
                waiting_retry: unsigned(held.waiting_retry),
                quarantined: unsigned(held.quarantined),
            },
            refused: status.refused_by_reason.iter().map(|count| (count.reason, unsigned(count.total))).collect(),
            dropped: status.dropped_by_reason.iter().map(|count| (count.reason, unsigned(count.total))).collect(),
        };
        ((status.signal, status.class), cell)
    };
    cells.iter().map(cell).collect()
}

fn read_kernel(kernel: Option<&KernelFlow>) -> Kernel {
    kernel.map_or_else(Kernel::default, |kernel| Kernel {
        attempted: unsigned(kernel.attempted),
        produced: unsigned(kernel.produced),
        lost: kernel.lost_by_reason.iter().map(|count| (count.reason, unsigned(count.total))).collect(),
    })
}

fn read_bounds(bounds: Option<Bounds>) -> (u64, u64) {
    bounds.map_or((0, 0), |bounds| (unsigned(bounds.lower), unsigned(bounds.upper)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::books::tests::spans;

    #[test]
    fn a_ledger_survives_its_way_through_the_status() {
        let books = Books::of(&spans("a", "1", 100, 60, 10));
        let flow = Flow { signals: cells(&books, &Drops::new()), ..Flow::default() };
        let sums = books.destinations["backend"];
        let destination = DestinationStatus {
            name: "backend".into(),
            state: crds::conditions::ConditionStatus::True,
            reason: crds::conditions::Reason::AllReachable,
            routed: signed(sums.routed),
            sent: signed(sums.sent),
            dropped: signed(sums.dropped),
            held: signed(sums.held),
            last_error: None,
        };
        assert_eq!(read_flow(&flow, &[destination]), books);
        let ended = books.closed(vocabulary::DropReason::VolumeLost);
        assert_eq!(read_retired(&retired(&ended, 1).expect("one agent ended")), ended);
    }
}
