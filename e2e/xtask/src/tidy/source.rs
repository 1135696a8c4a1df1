//! One Rust file as the rules see it: what is code, what is test, which line belongs to what. Comments and strings are no code.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};

/// A parsed file.
pub(crate) struct Source {
    /// Its path from the top of the checkout.
    pub(crate) path: String,
    pub(crate) first_line: String,
    pub(crate) syntax: syn::File,
    /// The lines that hold code outside tests.
    pub(crate) code_lines: BTreeSet<usize>,
    /// The code outside tests, one token after another with a blank between.
    pub(crate) code: String,
    /// The code of tests, in the same form.
    pub(crate) tests: String,
}

impl Source {
    pub(crate) fn parse(path: &str, text: &str) -> Result<Self> {
        let syntax = syn::parse_file(text).with_context(|| format!("cannot parse {path}"))?;
        let tokens: TokenStream = text.parse().map_err(|error| anyhow::anyhow!("cannot split {path} into tokens: {error}"))?;
        let mut split = Split { in_tests: is_test_file(path), ..Split::default() };
        split.stream(tokens);
        Ok(Self {
            path: path.to_owned(),
            first_line: text.lines().next().unwrap_or_default().to_owned(),
            syntax,
            code_lines: split.lines,
            code: split.code,
            tests: split.tests,
        })
    }

    /// The folder of the crate this file is of.
    pub(crate) fn folder(&self) -> &str {
        let end = ["/src/", "/tests/", "/benches/", "/examples/"].iter().filter_map(|part| self.path.find(part)).min();
        end.and_then(|end| self.path.get(..end)).or_else(|| self.path.rsplit_once('/').map(|(folder, _)| folder)).unwrap_or_default()
    }

    /// How many lines of code outside tests lie within these.
    pub(crate) fn code_lines_within(&self, first: usize, last: usize) -> usize {
        self.code_lines.range(first..=last).count()
    }
}

/// Whole files of tests: integration tests, and modules that a `cfg(test)` in their parent declares.
fn is_test_file(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    path.starts_with("tests/") || path.contains("/tests/") || name == "tests.rs" || name.ends_with("_tests.rs")
}

#[derive(Default)]
struct Split {
    in_tests: bool,
    lines: BTreeSet<usize>,
    code: String,
    tests: String,
}

impl Split {
    fn stream(&mut self, stream: TokenStream) {
        let mut tokens = stream.into_iter().peekable();
        // Set by `#[cfg(test)]` until the item that it stands before has ended.
        let mut item_is_test = false;
        while let Some(token) = tokens.next() {
            if is_punct(&token, '#') {
                tokens.next_if(|token| is_punct(token, '!'));
                let attribute = tokens.next_if(|token| is_group(token, Delimiter::Bracket));
                item_is_test |= attribute.as_ref().is_some_and(marks_test);
                if let Some(attribute) = attribute.filter(|attribute| !is_doc(attribute)) {
                    self.within(item_is_test, attribute);
                }
                continue;
            }
            let ends = is_group(&token, Delimiter::Brace) || is_punct(&token, ';');
            self.within(item_is_test, token);
            item_is_test &= !ends;
        }
    }

    fn within(&mut self, is_test: bool, token: TokenTree) {
        let outside = self.in_tests;
        self.in_tests |= is_test;
        self.group_or_leaf(token);
        self.in_tests = outside;
    }

    fn group_or_leaf(&mut self, token: TokenTree) {
        match token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                self.leaf(open, group.span_open());
                self.stream(group.stream());
                self.leaf(close, group.span_close());
            }
            TokenTree::Literal(literal) => self.leaf("_", literal.span()),
            other => self.leaf(&other.to_string(), other.span()),
        }
    }

    fn leaf(&mut self, text: &str, span: Span) {
        let in_tests = self.in_tests;
        let into = if in_tests { &mut self.tests } else { &mut self.code };
        // `::` comes as two tokens that belong together.
        if !(text == ":" && into.ends_with(" :")) {
            into.push(' ');
        }
        into.push_str(text);
        if !in_tests {
            self.lines.extend(span.start().line..=span.end().line);
        }
    }
}

fn is_punct(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == character)
}

fn is_group(token: &TokenTree, delimiter: Delimiter) -> bool {
    matches!(token, TokenTree::Group(group) if group.delimiter() == delimiter)
}

/// The text within an attribute's brackets, without blanks.
fn within_brackets(attribute: &TokenTree) -> String {
    match attribute {
        TokenTree::Group(group) => group.stream().to_string().replace(' ', ""),
        _ => String::new(),
    }
}

fn marks_test(attribute: &TokenTree) -> bool {
    let text = within_brackets(attribute);
    ["test", "cfg(test)", "tokio::test"].contains(&text.as_str()) || text.starts_with("cfg(all(test")
}

fn is_doc(attribute: &TokenTree) -> bool {
    within_brackets(attribute).starts_with("doc=")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_docs_strings_and_tests_are_no_code() {
        let text = "//! Why.\n\n/// Doc of Instant::now.\nfn one() {\n    // std::env\n    let _ = \"std::env\";\n}\n\n#[cfg(test)]\nmod tests {\n    fn two() { std::env::args(); }\n}\nfn three() {}\n";
        let source = Source::parse("agent/pipeline/src/lib.rs", text).unwrap();
        assert_eq!(source.code_lines.iter().copied().collect::<Vec<_>>(), [4, 6, 7, 13]);
        assert!(!source.code.contains("env") && source.tests.contains("std :: env :: args"), "{} | {}", source.code, source.tests);
    }

    #[test]
    fn a_files_crate_is_the_folder_above_its_sources() {
        assert_eq!(Source::parse("agent/pipeline/src/a/b.rs", "").unwrap().folder(), "agent/pipeline");
        assert_eq!(Source::parse("agent/tests/a.rs", "").unwrap().folder(), "agent");
    }
}
