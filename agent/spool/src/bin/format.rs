//! Prints the page of the log's format, which `cargo xtask gen` writes to `docs/format.md` and the suite `gen` compares.

fn main() {
    print!("{}", spool::format_page());
}
