//! Links between pages: what a page points at must exist.

use std::path::Path;

use super::{Violation, violation};

pub(super) fn check(checkout: &Path, path: &str, text: &str) -> Vec<Violation> {
    let folder = Path::new(path).parent().unwrap_or(Path::new(""));
    let dead = targets(text).filter(|target| !checkout.join(folder).join(target).exists());
    dead.map(|target| violation("link", path, format!("`{target}` does not exist"))).collect()
}

/// The files that a page's links name, without their anchors; links elsewhere are left out.
fn targets(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.split('#').next().unwrap_or_default())
        .filter(|target| !target.is_empty() && !target.contains("://") && !target.contains(char::is_whitespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_link_is_found_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("there.md"), "").unwrap();
        let page = "[a](there.md#part) [b](gone.md) [c](https://example.com/x) [d](#here)";
        let found = check(folder.path(), "page.md", page);
        assert_eq!(found, [violation("link", "page.md", "`gone.md` does not exist")]);
    }
}
