//! The ledger as a table for people: one row per pipeline, signal and class.

use std::collections::BTreeMap;

use vocabulary::{Class, Signal};

use super::judge::Evidence;
use crate::codec::SIGNALS;

/// One row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Namespace and name.
    pub pipeline: String,
    /// Signal and class.
    pub cell: Option<(Signal, Class)>,
    /// Received and refused together.
    pub offered: u64,
    /// Refused.
    pub refused: u64,
    /// Received.
    pub received: u64,
    /// Filtered.
    pub filtered: u64,
    /// Delivered.
    pub delivered: u64,
    /// Dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Held.
    pub held: u64,
    /// Distinct items at the sink.
    pub distinct: u64,
    /// Further arrivals of the same items.
    pub duplicates: u64,
}

/// The rows of one pipeline; signals and classes without any number are left out.
#[must_use]
pub fn rows(evidence: &Evidence) -> Vec<Row> {
    let cells = SIGNALS.into_iter().flat_map(|signal| Class::ALL.into_iter().map(move |class| (signal, class)));
    cells.map(|(signal, class)| row(evidence, signal, class)).filter(|row| row.offered + row.distinct > 0).collect()
}

fn row(evidence: &Evidence, signal: Signal, class: Class) -> Row {
    let mut row = Row { pipeline: evidence.pipeline.clone(), cell: Some((signal, class)), ..Row::default() };
    for ledger in evidence.ledgers.iter().map(|agent| &agent.ledger) {
        for cell in ledger.inputs.iter().filter(|cell| (cell.signal, cell.class) == (signal, class)) {
            row.offered += cell.offered;
            row.received += cell.received;
            row.refused += cell.refused.values().sum::<u64>();
            row.filtered += cell.filtered;
            add(&mut row.dropped, &cell.dropped);
        }
        for cell in ledger.destinations.iter().flat_map(|book| &book.cells).filter(|cell| (cell.signal, cell.class) == (signal, class)) {
            row.delivered += cell.delivered;
            row.held += cell.held.total();
            add(&mut row.dropped, &cell.dropped);
        }
    }
    for tally in [evidence.sink.produced(signal, class), evidence.sink.kernel(signal, class), evidence.sink.unidentified(signal, class)] {
        row.distinct += tally.distinct;
        row.duplicates += tally.duplicates;
    }
    row
}

fn add(sum: &mut BTreeMap<String, u64>, more: &BTreeMap<String, u64>) {
    for (reason, items) in more.iter().filter(|&(_, &items)| items > 0) {
        *sum.entry(reason.clone()).or_default() += items;
    }
}

/// The table, columns aligned.
#[must_use]
pub fn render(rows: &[Row]) -> String {
    let head = [
        "PIPELINE",
        "SIGNAL",
        "CLASS",
        "OFFERED",
        "REFUSED",
        "RECEIVED",
        "FILTERED",
        "DELIVERED",
        "DROPPED",
        "HELD",
        "AT SINK",
        "TWICE",
        "REASON",
    ];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for row in rows {
        let (signal, class) = row.cell.map(|(signal, class)| (signal.label(), class.name())).unwrap_or_default();
        let reasons: Vec<String> = row.dropped.iter().map(|(reason, items)| format!("{reason} {}", grouped(*items))).collect();
        let numbers = [
            row.offered,
            row.refused,
            row.received,
            row.filtered,
            row.delivered,
            row.dropped.values().sum(),
            row.held,
            row.distinct,
            row.duplicates,
        ];
        let mut line = vec![row.pipeline.clone(), signal.to_owned(), class.to_owned()];
        line.extend(numbers.map(grouped));
        line.push(reasons.join(", "));
        lines.push(line);
    }
    align(&lines, 3..12)
}

/// Lines with their columns aligned; those in `right` to the right.
#[must_use]
pub fn align(lines: &[Vec<String>], right: std::ops::Range<usize>) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|text| text.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells =
            line.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
                if right.contains(&column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// 12387 as `12,387`.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0, 999, 1_000, 12_387, 1_234_567].map(grouped), ["0", "999", "1,000", "12,387", "1,234,567"]);
    }

    #[test]
    fn numbers_stand_under_their_head_to_the_right() {
        let lines = [vec!["NAME".to_owned(), "ITEMS".to_owned()], vec!["a".to_owned(), "7".to_owned()]];
        assert_eq!(align(&lines, 1..2), "NAME  ITEMS\na         7\n");
    }
}
