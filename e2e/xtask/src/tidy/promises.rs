//! Promises and their proof: every test that docs/durability.md names exists, and every row of its tables names one.

use std::collections::BTreeSet;

use super::{Violation, violation};

/// The page whose promises are checked.
pub(super) const PAGE: &str = "docs/durability.md";
/// A test's name is a sentence: a name with so many words is one, and not a word of the code that the page explains.
const WORDS_MIN: usize = 4;

/// The names of all functions of a file.
pub(super) fn functions(text: &str) -> impl Iterator<Item = &str> {
    text.split("fn ").skip(1).filter_map(|rest| rest.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').next())
}

pub(super) fn check(page: &str, functions: &BTreeSet<String>) -> Vec<Violation> {
    let gone = tests(page).filter(|name| !functions.contains(*name));
    let mut found: Vec<_> = gone.map(|name| violation("promise", PAGE, format!("the test `{name}` does not exist"))).collect();
    let rows = page.lines().filter(|line| line.starts_with('|') && !line.starts_with("|---") && !line.ends_with("proved by |"));
    let bare = rows.filter(|row| tests(row).next().is_none());
    found.extend(bare.map(|row| violation("promise", PAGE, format!("nothing proves `{row}`"))));
    found
}

fn tests(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2).filter(|name| {
        name.split('_').count() >= WORDS_MIN
            && name.chars().all(|letter| letter == '_' || letter.is_ascii_lowercase() || letter.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_without_a_test_and_a_test_that_is_gone_are_found() {
        let known = BTreeSet::from_iter(functions("fn a_kill_loses_nothing() {}").map(str::to_owned));
        let page =
            "| event | proved by |\n|---|---|\n| kill | `a_kill_loses_nothing` |\n| cut | `a_cut_loses_nothing` |\n| flood | `Mirror` |\n";
        let found: Vec<String> = check(page, &known).into_iter().map(|violation| violation.message).collect();
        assert_eq!(found, ["the test `a_cut_loses_nothing` does not exist", "nothing proves `| flood | `Mirror` |`"]);
    }
}
