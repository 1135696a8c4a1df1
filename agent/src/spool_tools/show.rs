//! How the spool tools write: tables, times, sizes, names of records, JSON, and the bar that tells how far they are.

use std::fmt::Write;
use std::io::{Write as _, stdout};

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{HumanCount, ProgressBar, ProgressState, ProgressStyle};
use jiff::Timestamp;
use pipeline::RecordId;
use serde::Serialize;
use spool::DamageKind;
use vocabulary::ClassCounts;

/// Blanks between columns.
const GAP: usize = 2;

/// Writes one JSON document as a line.
pub(super) fn json(document: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(document)?;
    line.push(b'\n');
    text(&line)
}

/// Writes text to standard output. `println!` would panic when its reader went away.
pub(super) fn text(text: impl AsRef<[u8]>) -> anyhow::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_ref())?;
    Ok(out.flush()?)
}

/// A table of columns and no lines, for this terminal. A heading that begins with `>` names a column of numbers, which is aligned
/// right; one that ends with `?` may be left out where the terminal is too narrow for all, the last such column first.
pub(super) fn table(headings: &[&str], rows: Vec<Vec<String>>) -> String {
    // Where no terminal is, nothing is too wide.
    let columns = rustix::termios::tcgetwinsize(stdout()).ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0);
    table_within(headings.to_vec(), rows, columns.unwrap_or(usize::MAX))
}

fn table_within(mut headings: Vec<&str>, mut rows: Vec<Vec<String>>, columns: usize) -> String {
    loop {
        let mut table = laid_out(&headings, rows.clone());
        let width: usize = table.column_max_content_widths().into_iter().map(|width| usize::from(width) + GAP).sum();
        let spare = headings.iter().rposition(|heading| heading.ends_with('?'));
        let Some(spare) = spare.filter(|_| width.saturating_sub(GAP) > columns) else {
            for (column, heading) in table.column_iter_mut().zip(&headings) {
                column.set_padding((0, GAP as u16));
                if heading.starts_with('>') {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
            return table.trim_fmt() + "\n";
        };
        headings.remove(spare);
        rows.iter_mut().for_each(|row| drop(row.remove(spare)));
    }
}

fn laid_out(headings: &[&str], rows: Vec<Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(headings.iter().map(|heading| heading.trim_start_matches('>').trim_end_matches('?')));
    table.add_rows(rows);
    table
}

/// The name of a record: what is typed to select it.
pub(super) fn name(id: RecordId) -> String {
    format!("{}/{}", id.class.label(), id.sequence)
}

/// A range of ids, both included.
pub(super) fn ids(first: u64, last: u64) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// A number with its thousands apart.
pub(super) fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

/// A size in bytes, KiB, MiB, …
pub(super) fn bytes(number: u64) -> String {
    indicatif::BinaryBytes(number).to_string()
}

/// A number and what it counts.
pub(super) fn counted(number: u64, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{} {many}", count(number)) }
}

/// UTC to the second; a dash for a time that is none.
pub(super) fn time(unix_ms: Option<u64>) -> String {
    timestamp(unix_ms).map_or_else(|| "-".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// RFC 3339 with milliseconds, for programs.
pub(super) fn rfc3339(unix_ms: Option<u64>) -> Option<String> {
    timestamp(unix_ms).map(|at| format!("{at:.3}"))
}

fn timestamp(unix_ms: Option<u64>) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(unix_ms?).ok()?).ok()
}

/// What is wrong with a place. What a start makes of it is left out: nothing was made of it yet.
pub(super) fn damage(kind: DamageKind) -> String {
    let text = kind.to_string();
    text.split_once(", ").map_or(text.as_str(), |(what, _)| what).to_owned()
}

/// Items by class, those that are there.
pub(super) fn classes(counts: &ClassCounts) -> String {
    let present = counts.iter().filter(|&(_, items)| items > 0);
    present.map(|(class, items)| format!("{} {}", count(u64::from(items)), class.label())).collect::<Vec<_>>().join(", ")
}

/// A bar over bytes, on standard error; nothing is drawn where that is no terminal.
pub(super) fn bar_of_bytes(what: &'static str, total: u64) -> ProgressBar {
    bar(what, total, "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left")
}

/// A bar over items.
pub(super) fn bar_of_items(what: &'static str, total: u64) -> ProgressBar {
    bar(what, total, "{msg} {wide_bar} {human_pos}/{human_len} items  {rate}/s  {eta} left")
}

fn bar(what: &'static str, total: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(total).with_message(what);
    match ProgressStyle::with_template(template) {
        Ok(style) => {
            let rate = |state: &ProgressState, to: &mut dyn Write| to.write_str(&count(state.per_sec() as u64)).unwrap_or(());
            bar.with_style(style.with_key("rate", rate))
        }
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_numbers_end_together_and_no_line_ends_in_blanks() {
        let rows = vec![vec!["a".into(), "5".into(), "x".into()], vec!["longer".into(), "1,000".into(), String::new()]];
        let headings = vec!["NAME", ">SIZE?", "STATE"];
        assert_eq!(table_within(headings, rows, usize::MAX), "NAME     SIZE  STATE\na           5  x\nlonger  1,000\n");
    }

    #[test]
    fn a_narrow_terminal_costs_the_last_columns_that_are_not_vital() {
        let row = ["a", "two", "three", "5", "end"];
        let fitting = |columns| {
            let rows = vec![row.map(str::to_owned).to_vec()];
            table_within(vec!["N", "B?", "C?", ">D", "E"], rows, columns)
        };
        assert_eq!(fitting(21), "N  B    C      D  E\na  two  three  5  end\n");
        assert_eq!(fitting(20), "N  B    D  E\na  two  5  end\n");
        assert_eq!(fitting(13), "N  D  E\na  5  end\n");
        assert_eq!(fitting(1), fitting(13));
    }

    #[test]
    fn times_are_utc_and_a_wild_one_is_a_dash() {
        assert_eq!((time(Some(1_000)).as_str(), time(Some(u64::MAX)).as_str(), time(None).as_str()), ("1970-01-01 00:00:01", "-", "-"));
        assert_eq!(rfc3339(Some(1_001)).as_deref(), Some("1970-01-01T00:00:01.001Z"));
    }
}
