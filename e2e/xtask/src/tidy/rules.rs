//! Rules about one file of Rust: its opening, its size, its names, who holds an API client, and that tests wait for states.

use syn::visit::{self, Visit};

use super::source::Source;
use super::{Violation, violation};

const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 70;

/// Names that say nothing of what a thing does.
const EMPTY_NAMES: [&str; 8] = ["util", "helper", "common", "misc", "manager", "handler", "wrapper", "base"];

/// The files that ask the Kubernetes API, by the beginning of their paths.
const API_FILES: [&str; 7] = [
    "operator/src/gather",
    "operator/src/apply",
    "operator/src/report",
    "operator/src/token",
    "operator/src/lease",
    "agent/src/pods",
    "e2e/",
];
/// The files that may also hold its client, to pass it on.
const CLIENT_FILES: [&str; 2] = ["operator/src/main.rs", "operator/src/reconcile.rs"];

/// Where a test may pause between two looks at a cluster or at a process that it started.
const BOUNDED_WAITS: [&str; 2] = ["e2e/", "agent/tests/rig/"];

pub(super) fn check(source: &Source) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut report = |rule, message: String| found.push(violation(rule, &source.path, message));
    if !source.first_line.starts_with("//!") {
        report("first-line", "the first line is not `//!`: say what the file holds and why it is separate".to_owned());
    }
    if source.code_lines.len() > FILE_LINES {
        report("file-size", format!("{} lines of code, more than {FILE_LINES}: split by step or by data", source.code_lines.len()));
    }
    let mut names = Names { source, found: Vec::new() };
    names.module(module_name(&source.path));
    names.visit_file(&source.syntax);
    for (rule, message) in names.found {
        report(rule, message);
    }
    let lies_in = |files: &[&str]| files.iter().any(|start| source.path.starts_with(start));
    if mentions(&source.code, "Api") && !lies_in(&API_FILES)
        || mentions(&source.code, "Client") && !lies_in(&API_FILES) && !lies_in(&CLIENT_FILES)
    {
        report(
            "client",
            "asks the Kubernetes API: only gathering, applying, reporting, the token check, the lease and the pod watch do".to_owned(),
        );
    }
    if [&source.code, &source.tests].iter().any(|text| text.contains("# [ ignore") || text.contains(" [ ignore ")) {
        report("ignored-test", "a test is ignored: make it run, or remove it".to_owned());
    }
    let sleeps = ["thread :: sleep", "time :: sleep"].iter().any(|call| source.tests.contains(call));
    if sleeps && !BOUNDED_WAITS.iter().any(|folder| source.path.starts_with(folder)) {
        report("sleeping-test", "a test sleeps: await a state with a deadline".to_owned());
    }
    found
}

fn module_name(path: &str) -> &str {
    path.rsplit('/').next().and_then(|name| name.strip_suffix(".rs")).unwrap_or_default()
}

/// Whether a file that knows kube names this type of it.
fn mentions(code: &str, name: &str) -> bool {
    let code = code.replace("Error :: Api", ""); // an answer of the API, not a way to ask it
    code.contains(" kube ") && code.split(' ').any(|word| word == name)
}

struct Names<'s> {
    source: &'s Source,
    found: Vec<(&'static str, String)>,
}

impl Names<'_> {
    fn module(&mut self, name: &str) {
        self.judge(name, name.rsplit('_').next().unwrap_or(name));
    }

    fn type_name(&mut self, name: &syn::Ident) {
        let name = name.to_string();
        let last = name.rfind(char::is_uppercase).and_then(|start| name.get(start..)).unwrap_or(&name).to_lowercase();
        self.judge(&name, &last);
    }

    fn judge(&mut self, name: &str, last_word: &str) {
        if EMPTY_NAMES.iter().any(|empty| last_word == *empty || last_word.strip_suffix('s') == Some(empty)) {
            self.found.push(("name", format!("`{name}` says nothing of what it does: name it after its duty")));
        }
    }

    fn function(&mut self, name: &syn::Ident, block: &syn::Block) {
        let span = block.brace_token.span;
        let lines = self.source.code_lines_within(span.open().start().line, span.close().end().line);
        if lines > FUNCTION_LINES {
            self.found.push((
                "function-size",
                format!("`{name}` (line {}) has {lines} lines of code, more than {FUNCTION_LINES}", name.span().start().line),
            ));
        }
    }
}

impl<'ast> Visit<'ast> for Names<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.module(&item.ident.to_string());
        visit::visit_item_mod(self, item);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.type_name(&item.ident);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.type_name(&item.ident);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.type_name(&item.ident);
        visit::visit_item_trait(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig.ident, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig.ident, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.sig.ident, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<&'static str> {
        check(&Source::parse(path, text).unwrap()).into_iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn a_tidy_file_breaks_no_rule() {
        assert!(rules("operator/plan/src/build.rs", "//! Builds.\nstruct Workload;\nfn build() {}\n").is_empty());
    }

    #[test]
    fn a_file_that_does_not_say_why_it_exists_is_found() {
        assert_eq!(rules("agent/src/wire.rs", "fn wire() {}\n"), ["first-line"]);
    }

    #[test]
    fn a_file_above_the_limit_is_found_and_its_tests_do_not_count() {
        let code = |lines: usize| format!("//! Long.\n{}", "const _: u8 = 1;\n".repeat(lines));
        assert_eq!(rules("agent/src/wire.rs", &code(501)), ["file-size"]);
        assert!(
            rules("agent/src/wire.rs", &format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", code(500), "const _: u8 = 1;\n".repeat(50)))
                .is_empty()
        );
    }

    #[test]
    fn a_function_above_the_limit_is_found() {
        let function =
            |lines: usize| format!("//! Long.\nstruct S;\nimpl S {{\nfn go() {{\n{}}}\n}}\n", "// why\n    let _ = 1;\n".repeat(lines));
        assert_eq!(rules("agent/src/wire.rs", &function(69)), ["function-size"]);
        assert!(rules("agent/src/wire.rs", &function(68)).is_empty());
    }

    #[test]
    fn names_that_say_nothing_are_found() {
        assert_eq!(rules("agent/src/utils.rs", "//! Things.\n"), ["name"]);
        assert_eq!(
            rules("agent/src/wire.rs", "//! Things.\nstruct ConnectionManager;\nenum Helper {}\nmod common {}\n"),
            ["name", "name", "name"]
        );
        assert!(rules("agent/src/wire.rs", "//! Things.\nstruct Database;\n").is_empty());
    }

    #[test]
    fn a_client_outside_its_files_is_found() {
        let text = "//! Builds.\nuse kube::{Api, Client};\n";
        assert_eq!(rules("operator/src/fleet.rs", text), ["client"]);
        assert!(rules("operator/src/apply.rs", text).is_empty());
        assert_eq!(rules("operator/src/reconcile.rs", text), ["client"]);
        assert!(rules("operator/src/reconcile.rs", "//! Builds.\nuse kube::Client;\n").is_empty());
    }

    #[test]
    fn ignored_and_sleeping_tests_are_found() {
        let test = |body: &str| format!("//! T.\n#[cfg(test)]\nmod tests {{\n{body}\n}}\n");
        assert_eq!(rules("agent/src/wire.rs", &test("#[test]\n#[ignore]\nfn later() {}")), ["ignored-test"]);
        assert_eq!(rules("agent/src/wire.rs", &test("#[test]\n#[ignore = \"slow\"]\nfn later() {}")), ["ignored-test"]);
        assert_eq!(rules("agent/src/wire.rs", &test("fn nap() { std::thread::sleep(x); }")), ["sleeping-test"]);
        assert!(rules("e2e/tests/scenarios.rs", "//! S.\nasync fn look() { tokio::time::sleep(x).await; }").is_empty());
    }
}
