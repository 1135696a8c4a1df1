//! The books as the outside world can keep them: what offers were answered with and what destinations answered, in items. The engine's
//! books must say the same, after every crash too.

use pipeline::Books;
use vocabulary::{Class, ClassCounts, DropReason, Signal};

type Table = [[u64; Class::COUNT]; Signal::COUNT];

/// Items by signal and class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) received: Table,
    pub(crate) refused: Table,
    pub(crate) shed: Table,
    pub(crate) filtered: Table,
    /// Per destination: confirmed, and refused by it for ever.
    pub(crate) delivered: Vec<Table>,
    pub(crate) rejected: Vec<Table>,
}

impl Tally {
    pub(crate) fn new(destinations: usize) -> Self {
        let tables = vec![Table::default(); destinations];
        Self { delivered: tables.clone(), rejected: tables, ..Self::default() }
    }

    /// A destination took a record but for `rejected` items, which are charged to its lowest classes.
    pub(crate) fn settle(&mut self, destination: usize, signal: Signal, counts: &ClassCounts, mut rejected: u64) {
        for class in Class::ALL.into_iter().rev() {
            let items = u64::from(counts[class]);
            let charged = rejected.min(items);
            rejected -= charged;
            self.delivered[destination][signal.index()][class.index()] += items - charged;
            self.rejected[destination][signal.index()][class.index()] += charged;
        }
    }

    /// A destination decided on a record in slices.
    pub(crate) fn settle_slices(&mut self, destination: usize, signal: Signal, delivered: &ClassCounts, rejected: &ClassCounts) {
        add(&mut self.delivered[destination], signal, delivered);
        add(&mut self.rejected[destination], signal, rejected);
    }

    /// Compares with the engine's books.
    pub(crate) fn compare(&self, books: &Books) {
        for (signal, class) in Signal::ALL.into_iter().flat_map(|signal| Class::ALL.map(|class| (signal, class))) {
            let at = |table: &Table| table[signal.index()][class.index()];
            let cell = &books.inputs[signal.index()][class.index()];
            let refused: u64 = cell.refused.iter().sum();
            let dropped: u64 = cell.dropped.iter().sum();
            assert_eq!(
                (cell.received, refused, dropped, cell.filtered),
                (at(&self.received), at(&self.refused), at(&self.shed), at(&self.filtered)),
                "received, refused, shed and filtered of {signal} {class}: the books beside what was answered"
            );
            for (index, (delivered, rejected)) in self.delivered.iter().zip(&self.rejected).enumerate() {
                let cell = &books.destinations[index].cells[signal.index()][class.index()];
                assert_eq!(
                    (cell.delivered, cell.dropped[DropReason::Rejected.index()]),
                    (at(delivered), at(rejected)),
                    "delivered and rejected of {signal} {class} at destination {index}: the books beside what it answered"
                );
            }
        }
    }
}

/// Adds counts to a table.
pub(crate) fn add(table: &mut Table, signal: Signal, counts: &ClassCounts) {
    for (class, items) in counts.iter() {
        table[signal.index()][class.index()] += u64::from(items);
    }
}

/// Verifies that no number a user has seen steps back.
pub(crate) fn is_monotone(before: &Books, after: &Books) {
    let inputs = before.inputs.iter().flatten().zip(after.inputs.iter().flatten());
    for (old, new) in inputs {
        assert!(
            new.offered >= old.offered && new.received >= old.received && new.filtered >= old.filtered,
            "a published number stepped back"
        );
        assert!(new.refused.iter().zip(&old.refused).all(|(new, old)| new >= old), "a published refusal stepped back");
        assert!(new.dropped.iter().zip(&old.dropped).all(|(new, old)| new >= old), "a published drop stepped back");
    }
    for (old, new) in before.destinations.iter().zip(&after.destinations) {
        assert!(new.attempts >= old.attempts, "published attempts stepped back");
        for (old, new) in old.cells.iter().flatten().zip(new.cells.iter().flatten()) {
            assert!(
                new.routed >= old.routed && new.delivered >= old.delivered,
                "a published number of {} stepped back",
                before.destinations[0].name
            );
            assert!(new.dropped.iter().zip(&old.dropped).all(|(new, old)| new >= old), "a published drop stepped back");
        }
    }
}
