//! The page of the format: where each field of the files lies, in words. Made of the constants that the encoders use, and held against
//! what they write by a test; separate from them because it is for people who read a directory without this program.

use vocabulary::{Class, DropReason, LossReason, RefuseReason, Signal};

use crate::checkpoint::{self, SLOT_HEADER_BYTES};
use crate::files::LOCK_NAME;
use crate::footer::{self, ROW_BYTES, SUMMARY_BYTES, TRAILER_BYTES};
use crate::format::{
    self, ALIGNMENT, BODY_BYTES_MAX, KIND_FOOTER, KIND_RECORD, MARKER, PACKED_ZSTD, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES,
    SEGMENT_RECORDS_MAX, VERSION,
};
use crate::identity::{self, IDENTITY_BYTES_MAX, IDENTITY_NAME};
use crate::log::SET_ASIDE;
use crate::log::room::{RESERVE_NAME, SPARE};
use crate::slots::SLOT_NAMES;

/// A field of a structure whose fields follow each other without gaps.
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) bytes: usize,
    holds: String,
}

fn field(name: &'static str, bytes: usize, holds: impl Into<String>) -> Field {
    Field { name, bytes, holds: holds.into() }
}

pub(crate) fn segment_header() -> Vec<Field> {
    vec![
        field("magic", 8, text(&format::MAGIC)),
        field("version", 2, VERSION.to_string()),
        field("header length", 2, SEGMENT_HEADER_BYTES.to_string()),
        field("class", 1, "the class of all its records"),
        field("zeros", 3, "0"),
        field("buffer", 16, "the random name of the buffer"),
        field("creation", 8, "counts the files this buffer ever created; the file's name shows it"),
        field("first sequence", 8, "of its first record when it was created"),
        field("more zeros", 12, "0"),
        field("checksum", 4, format!("of the {} bytes before", SEGMENT_HEADER_BYTES - 4)),
    ]
}

pub(crate) fn record_header() -> Vec<Field> {
    vec![
        field("marker", 4, format!("{}: where a reader resumes behind damage", text(&MARKER))),
        field("kind", 1, format!("{KIND_RECORD} a record, {KIND_FOOTER} the footer")),
        field("signal", 1, "the one signal all its items belong to; 0 in a footer"),
        field("packing", 1, format!("0 the body is as it came, {PACKED_ZSTD} Zstandard")),
        field("zero", 1, "0"),
        field("length", 4, "of the body as it is stored"),
        field("items", 4 * Class::COUNT, format!("{} numbers of 4 bytes: items per class", Class::COUNT)),
        field("body checksum", 4, "of the body as it is stored, seeded with place and sequence"),
        field("sequence", 8, "its id within the class, never used twice; 0 in a footer"),
        field("received", 8, "milliseconds since the Unix epoch; 0 in a footer"),
        field("unpacked length", 4, "of the body as it came if it is packed, else 0"),
        field("header checksum", 4, format!("of the {} bytes before, seeded with the place", RECORD_HEADER_BYTES - 4)),
    ]
}

pub(crate) fn footer_row() -> Vec<Field> {
    vec![
        field("sequence", 8, "of the record"),
        field("received", 8, "of the record"),
        field("offset", 4, "where its header begins"),
        field("length", 4, "of its body as it is stored"),
        field("body length", 4, "of its body as it came"),
        field("items", 4 * Class::COUNT, "per class"),
        field("signal", 1, "of the record"),
        field("zeros", 3, "0"),
    ]
}

pub(crate) fn footer_summary() -> Vec<Field> {
    vec![
        field("signals", 1, Signal::COUNT.to_string()),
        field("classes", 1, Class::COUNT.to_string()),
        field("zeros", 2, "0"),
        field("rows", 4, "how many"),
        field("sequences", 16, "lowest, highest"),
        field("times", 16, "earliest, latest receipt"),
        field("items", 8 * Signal::COUNT * Class::COUNT, "per signal and class, 8 bytes each"),
    ]
}

pub(crate) fn trailer() -> Vec<Field> {
    vec![field("magic", 8, text(&footer::MAGIC)), field("offset", 8, "where the footer's header begins")]
}

pub(crate) fn slot_header() -> Vec<Field> {
    vec![
        field("magic", 8, text(&checkpoint::MAGIC)),
        field("version", 2, checkpoint::VERSION.to_string()),
        field("zeros", 2, "0"),
        field("length", 4, "of the body"),
        field("buffer", 16, "the random name of the buffer"),
        field("generation", 8, "counts the checkpoints this buffer ever wrote: the higher slot is the newer"),
        field("body checksum", 4, "starts from that of buffer and generation (8)"),
        field("header checksum", 4, format!("of the {} bytes before", SLOT_HEADER_BYTES - 4)),
    ]
}

/// The beginning of the file `identity`; the pipeline's identity and a checksum of all before follow.
pub(crate) fn identity_head() -> Vec<Field> {
    vec![
        field("magic", 8, text(&identity::MAGIC)),
        field("version", 2, identity::VERSION.to_string()),
        field("length", 2, "of the pipeline's identity"),
        field("buffer", 16, "sixteen random bytes: its name for life"),
    ]
}

/// The page, in Markdown.
#[must_use]
pub fn format_page() -> String {
    let mut page = String::new();
    page.push_str(
        "# The format of the disk log\n\nMade by `cargo xtask gen` from `agent/spool/src/page.rs`, which is where to change it. What the \
         format is good for stands in\n[durability.md](durability.md).\n\nAll numbers are little-endian, all checksums CRC-32C. A release \
         reads every version up to its own, and opens no directory in which a newer one wrote: it names the file and leaves all as it is.\n",
    );
    files(&mut page);
    segments(&mut page);
    table(&mut page, "Segment header", SEGMENT_HEADER_BYTES, &segment_header());
    table(&mut page, "Record header", RECORD_HEADER_BYTES, &record_header());
    table(&mut page, "Row of a footer", ROW_BYTES, &footer_row());
    table(&mut page, "Summary of a footer", SUMMARY_BYTES, &footer_summary());
    table(&mut page, "Trailer", TRAILER_BYTES as usize, &trailer());
    table(&mut page, "Header of a checkpoint", SLOT_HEADER_BYTES, &slot_header());
    checkpoint_body(&mut page);
    let head = identity_head();
    table(&mut page, "Head of the file `identity`", length(&head), &head);
    page.push_str(&format!(
        "\nThe pipeline's identity follows, UTF-8, and a checksum of all before in 4 bytes; the file has at most {IDENTITY_BYTES_MAX} bytes.\n"
    ));
    codes(&mut page);
    page
}

fn files(page: &mut String) {
    let segment = "CREATION-CLASS.segment";
    let rows = [
        (LOCK_NAME.to_owned(), "locked while a process owns the directory; names that process".to_owned()),
        (IDENTITY_NAME.to_owned(), "whose buffer it is".to_owned()),
        (SLOT_NAMES.join("`, `"), "written in turn, so that one of them is whole at any moment".to_owned()),
        (segment.to_owned(), "records of one class; CREATION in 16 hexadecimal digits, so that names sort by age".to_owned()),
        (format!("{segment}{SET_ASIDE}"), "evidence of damage; at most two segments' worth is kept".to_owned()),
        (format!("{segment}{SPARE}"), "a released file that will be used again: what it holds means nothing".to_owned()),
        (RESERVE_NAME.to_owned(), "room held back for checkpoints on a full disk".to_owned()),
    ];
    page.push_str("\n## Files\n\n| file | holds |\n|---|---|\n");
    for (name, holds) in rows {
        line(page, &format!("| `{name}` | {holds} |"));
    }
    page.push_str("\n| limit | value |\n|---|---|\n");
    let limits = [
        ("body of a record", bytes(BODY_BYTES_MAX as u64)),
        ("records of a segment", SEGMENT_RECORDS_MAX.to_string()),
        ("segment", format!("{} to {}", bytes(*crate::SEGMENT_BYTES.start()), bytes(*crate::SEGMENT_BYTES.end()))),
        ("body of a checkpoint", bytes(checkpoint::BODY_BYTES_MAX as u64)),
    ];
    for (what, value) in limits {
        line(page, &format!("| {what} | {value} |"));
    }
}

fn segments(page: &mut String) {
    page.push_str(&format!(
        "\n## A segment\n\n```\nsegment = segment header ({SEGMENT_HEADER_BYTES})  record*  [footer]\n\
         record  = record header ({RECORD_HEADER_BYTES})  body  zeros up to a multiple of {ALIGNMENT}\n\
         footer  = record header ({RECORD_HEADER_BYTES})  row ({ROW_BYTES})*  summary ({SUMMARY_BYTES})  \
         zeros up to a multiple of {ALIGNMENT}  trailer ({TRAILER_BYTES})\n```\n\n\
         The checksums of a record are seeded: each starts from that of buffer, class (1 byte), creation (8) and the record's offset (8), the \
         body's\nfrom the sequence (8) as well. So a header that checks out was written for exactly this place of exactly this file, and \
         stale, copied or\nmisdirected bytes never pass for records. A file that is used again keeps bytes of its earlier life behind its last \
         record.\n\nA footer is believed in a segment that has a successor of its class; in the last one the records are walked. \
         Version 1 has no footer and no packed bodies, and is otherwise the same.\n"
    ));
}

fn checkpoint_body(page: &mut String) {
    let rows = [
        ("known", format!("5 × 1: how many signals ({}), classes ({}), drop reasons ({}), refuse reasons ({}) and loss reasons ({}) the writer knew", Signal::COUNT, Class::COUNT, DropReason::COUNT, RefuseReason::COUNT, LossReason::COUNT)),
        ("generation", "8".to_owned()),
        ("volatile ceiling", "8: items that memory alone may hold until the next one".to_owned()),
        ("crash-volatile bounds", "2 × 8: least and most items that crashes took from memory so far".to_owned()),
        ("next sequence", "8 per class".to_owned()),
        ("stored", "ranges per class: on disk, and needed by some destination".to_owned()),
        ("inputs", "per signal and class: offered 8, received 8, refused 8 per reason, filtered 8, dropped 8 per reason".to_owned()),
        ("kernel", "attempted 8, produced 8, lost 8 per reason".to_owned()),
        ("refused requests", "8 per reason".to_owned()),
        ("destinations", "count 2, then of each: name, attempts 8, and per signal and class: routed 8, delivered 8, dropped 8 per reason, held 5 × 8 (queued, on disk, in flight, waiting for a retry, quarantined)".to_owned()),
        ("settled", "count 2, then of each destination: name, ranges per class".to_owned()),
    ];
    page.push_str("\n## Body of a checkpoint\n\n| field | bytes |\n|---|---|\n");
    for (name, holds) in rows {
        line(page, &format!("| {name} | {holds} |"));
    }
    page.push_str(
        "\nA name is its length in 2 bytes and UTF-8. Ranges are their count in 4 bytes, then first and last of each, 8 bytes each. What a \
         writer did\nnot know is read as zero. What it counted under reasons that the reader does not know is read as the last one of their list that it \
         does;\nmore signals or classes make the slot a newer release's. Anything may follow the body: a slot never shrinks.\n",
    );
}

fn codes(page: &mut String) {
    page.push_str("\n## Codes\n\n| code | class | signal |\n|---|---|---|\n");
    let name = |found: Option<&'static str>| found.map_or_else(String::new, |name| format!("`{name}`"));
    for code in 0..=u8::MAX {
        let (class, signal) = (Class::from_code(code).map(Class::label), Signal::from_code(code).map(Signal::label));
        if class.is_some() || signal.is_some() {
            line(page, &format!("| {code} | {} | {} |", name(class), name(signal)));
        }
    }
}

fn table(page: &mut String, title: &str, bytes: usize, fields: &[Field]) {
    page.push_str(&format!("\n## {title}: {bytes} bytes\n\n| at | bytes | field | holds |\n|---|---|---|---|\n"));
    let mut at = 0;
    for Field { name, bytes, holds } in fields {
        line(page, &format!("| {at} | {bytes} | {name} | {holds} |"));
        at += bytes;
    }
}

pub(crate) fn length(fields: &[Field]) -> usize {
    fields.iter().map(|field| field.bytes).sum()
}

fn line(page: &mut String, text: &str) {
    page.push_str(text);
    page.push('\n');
}

fn text(magic: &[u8]) -> String {
    format!("`{}`", String::from_utf8_lossy(magic))
}

fn bytes(number: u64) -> String {
    match number {
        number if number >= 1 << 30 => format!("{} GiB", number >> 30),
        number if number >= 1 << 20 => format!("{} MiB", number >> 20),
        number => format!("{} KiB", number >> 10),
    }
}
