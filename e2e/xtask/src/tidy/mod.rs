//! The house rules as a check: who may use whom, what pure crates may touch, how large files and functions may grow, what names say.
//! The rules stand in docs/style.md and docs/architecture.md; exceptions stand in `e2e/xtask/tidy.allow`, which may only shrink.

mod dependencies;
mod links;
mod promises;
mod purity;
mod rules;
mod source;
mod texts;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::process::program;
use source::Source;

const ALLOWED: &str = "e2e/xtask/tidy.allow";

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The rule's short name, as the allow-list uses it.
    pub(crate) rule: &'static str,
    /// The file, or the crate for a rule about crates.
    pub(crate) place: String,
    /// What is wrong and what would be right.
    pub(crate) message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.rule, self.message)
    }
}

fn violation(rule: &'static str, place: impl Into<String>, message: impl Into<String>) -> Violation {
    Violation { rule, place: place.into(), message: message.into() }
}

/// Everything in this checkout that breaks a rule and is not on the allow-list.
pub(crate) fn check(checkout: &Path) -> Result<Vec<Violation>> {
    let mut found = dependencies::check(&dependencies::read(checkout)?);
    let mut functions = BTreeSet::new();
    for path in tracked(checkout)? {
        let Ok(text) = fs::read_to_string(checkout.join(&path)) else { continue }; // not a text, or just removed
        found.extend(texts::check(&path, &text));
        if path.ends_with(".rs") {
            functions.extend(promises::functions(&text).map(str::to_owned));
            match Source::parse(&path, &text) {
                Ok(source) => found.extend(rules::check(&source).into_iter().chain(purity::check(&source))),
                Err(error) => found.push(violation("syntax", &path, error.to_string())),
            }
        } else if path.ends_with(".md") {
            found.extend(links::check(checkout, &path, &text));
        }
    }
    let promised = fs::read_to_string(checkout.join(promises::PAGE)).with_context(|| format!("cannot read {}", promises::PAGE))?;
    found.extend(promises::check(&promised, &functions));
    let allowed = fs::read_to_string(checkout.join(ALLOWED)).with_context(|| format!("cannot read {ALLOWED}"))?;
    Ok(without_allowed(found, &allowed))
}

/// Takes the allowed violations out, and adds one for each line of the list that allows nothing.
fn without_allowed(found: Vec<Violation>, list: &str) -> Vec<Violation> {
    let entries: BTreeSet<(&str, &str)> = list
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter_map(|line| line.split_once(' '))
        .map(|(rule, place)| (rule, place.trim()))
        .collect();
    let mut used = BTreeSet::new();
    let mut left = Vec::new();
    for one in found {
        match entries.iter().find(|(rule, place)| *rule == one.rule && *place == one.place) {
            Some(entry) => _ = used.insert(*entry),
            None => left.push(one),
        }
    }
    left.extend(
        entries
            .difference(&used)
            .map(|(rule, place)| violation("allow-list", ALLOWED, format!("`{rule} {place}` allows nothing: remove the line"))),
    );
    left
}

fn tracked(checkout: &Path) -> Result<Vec<String>> {
    let list = program("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]).dir(checkout).output()?;
    Ok(list.lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allow_list_takes_out_what_it_names_and_nothing_else() {
        let found = vec![violation("file-size", "a.rs", ""), violation("file-size", "b.rs", "")];
        let left = without_allowed(found, "# reasons\nfile-size a.rs  # being split\n");
        assert_eq!(left, vec![violation("file-size", "b.rs", "")]);
    }

    #[test]
    fn a_line_that_allows_nothing_must_go() {
        let left = without_allowed(Vec::new(), "file-size gone.rs\n");
        assert_eq!(left.iter().map(|violation| violation.rule).collect::<Vec<_>>(), ["allow-list"]);
    }
}
