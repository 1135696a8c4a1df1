//! The table on the terminal: one line per figure, columns as wide as they must be.

use crate::figure::{Figure, Target, quantile};

/// Renders figures with the names of their benchmarks.
pub(crate) fn render(rows: &[(&str, Figure)]) -> String {
    let titles = ["benchmark", "figure", "median", "range", "unit", "target", ""].map(str::to_owned);
    let mut lines = vec![titles];
    lines.extend(rows.iter().map(|(benchmark, figure)| line(benchmark, figure)));
    let widths: Vec<usize> =
        (0..7).map(|column| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            let is_number = column == 2 || column == 5;
            if is_number { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn line(benchmark: &str, figure: &Figure) -> [String; 7] {
    let target = match figure.target {
        Some(Target::AtLeast(least)) => format!(">= {}", number(least)),
        Some(Target::AtMost(most)) => format!("<= {}", number(most)),
        None => String::new(),
    };
    let verdict = match figure.is_met() {
        Some(true) => "met",
        Some(false) => "MISSED",
        None => "",
    };
    let at = |part: f64| number(quantile(&figure.samples, part));
    let range = if figure.samples.len() > 1 { format!("{} .. {}", at(0.0), at(1.0)) } else { String::new() };
    [benchmark.to_owned(), figure.name.clone(), at(0.5), range, figure.unit.to_owned(), target, verdict.to_owned()]
}

/// Three digits that count; thousands are grouped.
pub(crate) fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (position, digit) in whole.chars().enumerate() {
        if position > 0 && (whole.len() - position).is_multiple_of(3) && digit.is_ascii_digit() && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_show_three_digits_that_count() {
        let shown = [0.0, 0.0456, 1.234, 12.34, 123.4, 1234.5, 1_234_567.0].map(number);
        assert_eq!(shown, ["0", "0.046", "1.23", "12.3", "123", "1,234", "1,234,567"]);
    }

    #[test]
    fn a_missed_target_stands_out_and_columns_are_aligned() {
        let rows = [
            ("engine", Figure::plain("a record", "ns", vec![200.0, 100.0, 300.0]).at_most(150.0)),
            ("append", Figure::plain("commits", "of the bare disk's", vec![0.9]).at_least(0.7)),
        ];
        let text = render(&rows);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].ends_with("MISSED") && lines[1].contains("100 .. 300"), "{text}");
        assert!(lines[2].ends_with("met"), "{text}");
        assert_eq!(lines[0].find("unit"), lines[1].find("ns"));
    }
}
