//! How items move through the books: the only code that writes their cells, so that every move has both its sides.

use vocabulary::{Class, ClassCounts, DropReason, RefuseReason, Signal};

use crate::books::equal;
use crate::{Books, Broken, DestinationBook, DestinationCell, Held, InputCell, KernelBook};

/// A number of items per signal and class.
pub(crate) type ItemTable = [[u64; Class::COUNT]; Signal::COUNT];

/// Where the held items of one destination lie, by signal and class.
pub(crate) type DestinationCells = [[Held; Class::COUNT]; Signal::COUNT];

/// In which state items wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeldState {
    Queued,
    OnDisk,
    InFlight,
    WaitingRetry,
}

/// How a destination comes to need a record no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settlement {
    /// Confirmed; `rejected` items of it are charged to the lowest classes present.
    Delivered {
        rejected: u64,
    },
    Dropped(DropReason),
    /// Set aside as a whole.
    Quarantined,
    /// In slices: some confirmed, some `rejected` in partial success, and the others.
    Parts {
        delivered: ClassCounts,
        rejected: ClassCounts,
        rest: Rest,
    },
}

/// What becomes of those items of a record that were not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    Dropped(DropReason),
    Quarantined,
}

impl Books {
    pub(crate) fn for_destinations<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        Self {
            inputs: Default::default(),
            destinations: names.map(DestinationBook::new).collect(),
            kernel: KernelBook::default(),
            requests_refused: [0; RefuseReason::COUNT],
            crash_volatile_bounds: (0, 0),
        }
    }

    pub(crate) fn refuse(&mut self, signal: Signal, counts: &ClassCounts, reason: RefuseReason) {
        self.input(signal, counts, |cell, items| {
            cell.offered += items;
            add(&mut cell.refused, reason.index(), items);
        });
    }

    pub(crate) fn refuse_request(&mut self, reason: RefuseReason) {
        add(&mut self.requests_refused, reason.index(), 1);
    }

    pub(crate) fn receive(&mut self, signal: Signal, counts: &ClassCounts) {
        self.input(signal, counts, |cell, items| {
            cell.offered += items;
            cell.received += items;
        });
    }

    pub(crate) fn drop_at_intake(&mut self, signal: Signal, counts: &ClassCounts, reason: DropReason) {
        self.input(signal, counts, |cell, items| add(&mut cell.dropped, reason.index(), items));
    }

    pub(crate) fn filter(&mut self, signal: Signal, counts: &ClassCounts) {
        self.input(signal, counts, |cell, items| cell.filtered += items);
    }

    fn input(&mut self, signal: Signal, counts: &ClassCounts, mut change: impl FnMut(&mut InputCell, u64)) {
        for (cell, items) in present(row_mut(&mut self.inputs, signal), counts) {
            change(cell, items);
        }
    }

    /// What was received and never offered to this destination.
    pub(crate) fn never_offered(&self, book: &DestinationBook) -> ItemTable {
        let mut missed = ItemTable::default();
        for ((row, inputs), cells) in missed.iter_mut().zip(&self.inputs).zip(&book.cells) {
            for ((slot, input), cell) in row.iter_mut().zip(inputs).zip(cells) {
                *slot = input.routed().saturating_sub(cell.routed);
            }
        }
        missed
    }

    /// Whether a destination was routed everything of the signal since it exists.
    pub(crate) fn check_routed(&self, book: &DestinationBook, signal: Signal, missed: &[u64; Class::COUNT]) -> Result<(), Broken> {
        let cells = row(&self.inputs, signal).iter().zip(row(&book.cells, signal)).zip(missed);
        for ((input, cell), missed) in cells {
            equal(|| format!("received = filtered + dropped + routed to {}, {signal}", book.name), input.routed(), cell.routed + missed)?;
        }
        Ok(())
    }
}

impl DestinationBook {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), cells: Default::default(), attempts: 0 }
    }

    /// Items are routed here and begin to wait.
    pub(crate) fn take_on(&mut self, signal: Signal, counts: &ClassCounts, state: HeldState) {
        self.each(signal, counts, |cell, items| {
            cell.routed += items;
            *cell.held.state(state) += items;
        });
    }

    /// Items are routed here and dropped at once.
    pub(crate) fn turn_down(&mut self, signal: Signal, counts: &ClassCounts, reason: DropReason) {
        self.each(signal, counts, |cell, items| {
            cell.routed += items;
            add(&mut cell.dropped, reason.index(), items);
        });
    }

    /// Items wait in another state.
    pub(crate) fn shift(&mut self, signal: Signal, counts: &ClassCounts, from: HeldState, to: HeldState) {
        self.each(signal, counts, |cell, items| {
            *cell.held.state(from) -= items;
            *cell.held.state(to) += items;
        });
    }

    /// Items are needed no more.
    pub(crate) fn settle(&mut self, signal: Signal, counts: &ClassCounts, from: HeldState, how: Settlement) {
        let mut rejected = match how {
            Settlement::Delivered { rejected } => rejected,
            Settlement::Dropped(_) | Settlement::Quarantined | Settlement::Parts { .. } => 0,
        };
        // From the lowest class up, so that a rejection the protocol does not place is charged to what matters least.
        let present = row_mut(&mut self.cells, signal).iter_mut().zip(Class::ALL).zip(counts.0).rev().filter(|(_, items)| *items > 0);
        for ((cell, class), items) in present {
            let items = u64::from(items);
            *cell.held.state(from) -= items;
            let (taken, charged, rest) = match how {
                Settlement::Delivered { .. } => {
                    let charged = rejected.min(items);
                    rejected -= charged;
                    (items - charged, charged, Rest::Dropped(DropReason::Rejected))
                }
                Settlement::Dropped(reason) => (0, 0, Rest::Dropped(reason)),
                Settlement::Quarantined => (0, 0, Rest::Quarantined),
                Settlement::Parts { delivered, rejected, rest } => {
                    let taken = u64::from(delivered[class]).min(items);
                    (taken, u64::from(rejected[class]).min(items - taken), rest)
                }
            };
            cell.delivered += taken;
            add(&mut cell.dropped, DropReason::Rejected.index(), charged);
            match rest {
                Rest::Dropped(reason) => add(&mut cell.dropped, reason.index(), items - taken - charged),
                Rest::Quarantined => cell.held.quarantined += items - taken - charged,
            }
        }
    }

    /// Items in quarantine, which no record of the engine holds.
    pub(crate) fn take_quarantined(&mut self) -> ItemTable {
        let mut known = ItemTable::default();
        for (slot, cell) in known.iter_mut().flatten().zip(self.cells.iter_mut().flatten()) {
            *slot = std::mem::take(&mut cell.held.quarantined);
        }
        known
    }

    pub(crate) fn is_any_quarantined(&self) -> bool {
        self.cells.iter().flatten().any(|cell| cell.held.quarantined > 0)
    }

    /// Items that the books knew lie in quarantine.
    pub(crate) fn hold_quarantined(&mut self, signal: Signal, counts: &ClassCounts) {
        self.each(signal, counts, |cell, items| cell.held.quarantined += items);
    }

    /// Items that the books did not know lie in quarantine.
    pub(crate) fn receive_quarantined(&mut self, signal: Signal, counts: &ClassCounts) {
        self.each(signal, counts, |cell, items| {
            cell.routed += items;
            cell.held.quarantined += items;
        });
    }

    /// What the books knew in quarantine is not there any more.
    pub(crate) fn lose_quarantined(&mut self, lost: &ItemTable) {
        for (cell, lost) in self.cells.iter_mut().flatten().zip(lost.iter().flatten()) {
            add(&mut cell.dropped, DropReason::Corrupt.index(), *lost);
        }
    }

    /// Items leave quarantine: their destination has them, or they are given up.
    pub(crate) fn take_out(&mut self, signal: Signal, counts: &ClassCounts, is_replayed: bool) {
        self.each(signal, counts, |cell, items| {
            let left = items.min(cell.held.quarantined);
            cell.held.quarantined -= left;
            if is_replayed {
                cell.delivered += left;
            } else {
                add(&mut cell.dropped, DropReason::Rejected.index(), left);
            }
        });
    }

    /// Takes out what records hold, to be found again or written off.
    pub(crate) fn take_held(&mut self) -> DestinationCells {
        let mut held = DestinationCells::default();
        for (slot, cell) in held.iter_mut().flatten().zip(self.cells.iter_mut().flatten()) {
            let quarantined = cell.held.quarantined;
            *slot = Held { quarantined: 0, ..std::mem::replace(&mut cell.held, Held { quarantined, ..Held::default() }) };
        }
        held
    }

    /// A record the books know was found on disk: its items are held again, and expected no more.
    pub(crate) fn find_again(&mut self, signal: Signal, counts: &ClassCounts, was_stored: bool, expected: &mut DestinationCells) {
        let cells = row_mut(&mut self.cells, signal).iter_mut().zip(row_mut(expected, signal)).zip(counts.iter());
        for ((cell, expected), (_, items)) in cells {
            let source = if was_stored { &mut expected.on_disk } else { &mut expected.queued };
            // A checkpoint that holds less than its own ids say contradicts itself; the surplus shows as a broken identity.
            let known = (*source).min(u64::from(items));
            *source -= known;
            cell.routed += u64::from(items) - known;
            cell.held.on_disk += u64::from(items);
        }
    }

    /// Items of a checkpoint are needed no more but for `rejected` of them. As with what is found again, a checkpoint that holds less
    /// than its own ids say contradicts itself, and the surplus shows as a broken identity.
    pub(crate) fn settle_found(&mut self, signal: Signal, counts: &ClassCounts, was_stored: bool, rejected: u64) {
        let from = if was_stored { HeldState::OnDisk } else { HeldState::Queued };
        self.each(signal, counts, |cell, items| {
            let unknown = items.saturating_sub(*cell.held.state(from));
            cell.routed += unknown;
            *cell.held.state(from) += unknown;
        });
        self.settle(signal, counts, from, Settlement::Delivered { rejected });
    }

    /// What was held and not found again: memory's part went with the crash, the disk's for `reason`.
    pub(crate) fn write_off(&mut self, lost: &DestinationCells, reason: DropReason) {
        for (cell, lost) in self.cells.iter_mut().flatten().zip(lost.iter().flatten()) {
            add(&mut cell.dropped, DropReason::CrashVolatile.index(), lost.queued);
            add(&mut cell.dropped, reason.index(), lost.total() - lost.queued);
        }
    }

    /// Whether what is held is the sum over held records.
    pub(crate) fn check_held(&self, signal: Signal, held: &[u64; Class::COUNT]) -> Result<(), Broken> {
        for (cell, held) in row(&self.cells, signal).iter().zip(held) {
            equal(|| format!("held = sum over held records of {}, {signal}", self.name), cell.held.total() - cell.held.quarantined, *held)?;
        }
        Ok(())
    }

    fn each(&mut self, signal: Signal, counts: &ClassCounts, mut change: impl FnMut(&mut DestinationCell, u64)) {
        for (cell, items) in present(row_mut(&mut self.cells, signal), counts) {
            change(cell, items);
        }
    }
}

impl Held {
    const fn state(&mut self, state: HeldState) -> &mut u64 {
        match state {
            HeldState::Queued => &mut self.queued,
            HeldState::OnDisk => &mut self.on_disk,
            HeldState::InFlight => &mut self.in_flight,
            HeldState::WaitingRetry => &mut self.waiting_retry,
        }
    }
}

/// The row of one signal.
#[expect(clippy::indexing_slicing, reason = "the table has a row for every signal")]
pub(crate) const fn row<T>(table: &[T; Signal::COUNT], signal: Signal) -> &T {
    &table[signal.index()]
}

/// The row of one signal, to be changed.
#[expect(clippy::indexing_slicing, reason = "the table has a row for every signal")]
pub(crate) const fn row_mut<T>(table: &mut [T; Signal::COUNT], signal: Signal) -> &mut T {
    &mut table[signal.index()]
}

pub(crate) fn add_counts(table: &mut ItemTable, signal: Signal, counts: &ClassCounts) {
    for (slot, items) in present(row_mut(table, signal), counts) {
        *slot += items;
    }
}

pub(crate) fn subtract_counts(table: &mut ItemTable, signal: Signal, counts: &ClassCounts) {
    for (slot, items) in present(row_mut(table, signal), counts) {
        *slot = slot.saturating_sub(items);
    }
}

/// The cells of the classes that have items, with how many. The others are not even looked at: most records have items of one class,
/// and each class has its own lines of memory.
fn present<'t, T>(row: &'t mut [T; Class::COUNT], counts: &ClassCounts) -> impl Iterator<Item = (&'t mut T, u64)> {
    row.iter_mut().zip(counts.0).filter(|(_, items)| *items > 0).map(|(cell, items)| (cell, u64::from(items)))
}

/// Adds to the cell of a reason.
fn add(cells: &mut [u64], index: usize, items: u64) {
    if let Some(cell) = cells.get_mut(index) {
        *cell += items;
    }
}
