//! `forebay-agent spool` as a process, on directories made by the real spool and engine: what it says, what it writes, what it
//! delivers, and that it changes nothing else.

#![expect(clippy::indexing_slicing, reason = "a missing key of a JSON value is null, and what is cut too short the failure of the test")]

#[expect(dead_code, reason = "these tests need a part of the rig")]
mod rig;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use pipeline::{
    Acknowledge, BufferMode, ClassPolicy, Config, Delivery, DestinationConfig, MemoryLimits, OnFull, Origin, Pipeline, RecordId, Recovered,
    Request, RetryPolicy, Verdict,
};
use prost::Message;
use rig::{Agent, Sink, destination_sum, request};
use serde_json::Value;
use spool::{Append, Options, Quarantine, QuarantineFile, Spool};
use vocabulary::{Class, ClassCounts, DropReason, Signal};

/// Milliseconds since the epoch at which the first record was received; each further one a second later.
const EPOCH_MS: u64 = 1_750_000_000_000;

/// A directory that an agent with these destinations left behind, with this many records of ten spans each.
struct Buffer {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl Buffer {
    fn with(destinations: &[&str], records: usize) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("buffer");
        let options = Options { segment_bytes: 64 << 10, budget_bytes: 64 << 20, identity: "local".into(), host: "node-a".into() };
        let (mut spool, _) = Spool::open(&path, options).expect("an empty directory can be opened");
        let mut engine = Pipeline::new(config(destinations), Some(Recovered::default()));
        for number in 0..records {
            let body = Bytes::from(request(&number.to_string(), 10, 0, 100).encode_to_vec());
            let class = if number % 5 == 0 { Class::High } else { Class::Normal };
            let request = Request { signal: Signal::Traces, origin: Origin::Client, counts: ClassCounts::of(class, 10), body };
            let received = EPOCH_MS + 1000 * number as u64;
            let Verdict::Admitted(admission) = engine.offer(Duration::ZERO, received, request) else { unreachable!("there is room") };
            for record in admission.persist {
                let (id, signal, counts) = (record.id, record.signal, record.counts);
                spool.append(&Append { id, signal, counts, received_unix_ms: received, body: &record.body }).expect("there is room");
                spool.commit().expect("the disk works");
                engine.handle_stored(Duration::ZERO, id);
            }
        }
        spool.write_checkpoint(&engine.checkpoint()).expect("the disk works");
        Self { _directory: directory, path }
    }

    /// Content of every file.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = std::fs::read_dir(&self.path).expect("it is there").map(|entry| entry.expect("it can be read").path());
        entries.map(|path| (path.clone(), std::fs::read(path).expect("it can be read"))).collect()
    }

    /// The segments of a class, oldest first.
    fn segments(&self, class: &str) -> Vec<PathBuf> {
        let mut segments: Vec<_> =
            self.files().into_keys().filter(|path| path.to_string_lossy().ends_with(&format!("-{class}.segment"))).collect();
        segments.sort();
        segments
    }

    fn spool(&self, verb: &str, args: &[&str]) -> Output {
        tool(verb, &self.path, args).output().expect("it runs")
    }

    fn json(&self, verb: &str, args: &[&str]) -> Value {
        let output = self.spool(verb, &[args, &["--output", "json"]].concat());
        let document = serde_json::from_slice(&output.stdout);
        assert!(document.is_ok(), "{verb} says no JSON: {}", said(&output));
        document.unwrap_or_default()
    }

    /// How many records the destination still needs.
    fn needed(&self, destination: &str) -> u64 {
        let listing = self.json("ls", &[]);
        let rows = listing["destinations"].as_array().expect("a list").iter().filter(|row| row["destination"] == destination);
        rows.map(|row| row["heldRecords"].as_u64().expect("a number")).sum()
    }
}

fn config(destinations: &[&str]) -> Config {
    let retry = RetryPolicy { initial: Duration::from_millis(100), max: Duration::from_secs(1), deadline: None };
    let named =
        |name: &&str| DestinationConfig { name: (*name).into(), signals: Vec::new(), in_flight: 4, delivery: Delivery::Required, retry };
    Config {
        mode: BufferMode::Mirror,
        acknowledge: Acknowledge::AtRest,
        memory: MemoryLimits { bytes: 16 << 20, items: 1_000_000 },
        disk_bytes: 64 << 20,
        on_full: OnFull::RefuseIntake,
        max_age: None,
        soft_percent: 100,
        tenants_max: 0,
        replay_seed: 0,
        on_removed: pipeline::OnRemoved::Keep,
        classes: [ClassPolicy { weight: 1, reserved_percent: 0 }; Class::COUNT],
        destinations: destinations.iter().map(named).collect(),
    }
}

fn tool(verb: &str, directory: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay-agent"));
    command.args(["spool", verb]).arg(directory).args(args).stdin(Stdio::null());
    command
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Spans of an export, by name.
fn names(requests: &[ExportTraceServiceRequest]) -> Vec<String> {
    let groups = requests.iter().flat_map(|request| &request.resource_spans);
    let spans = groups.flat_map(|group| &group.scope_spans).flat_map(|scope| &scope.spans);
    let mut names: Vec<_> = spans.map(|span| span.name.clone()).collect();
    names.sort();
    names
}

fn document(destination: SocketAddr, buffer: &Path) -> String {
    format!(
        "adminListen: 127.0.0.1:0\ndrainSeconds: 5\nsources: {{otlp: {{grpcListen: '127.0.0.1:0'}}}}\n\
         buffer: {{mode: Mirror, memoryBytes: 16777216, memoryItems: 1000000, disk: {{path: '{}', bytes: 67108864, segmentBytes: 1048576}}}}\n\
         destinations:\n- {{name: backend, endpoint: 'http://{destination}', inFlight: 4, retry: {{initialMilliseconds: 50, maxMilliseconds: 200}}}}\n",
        buffer.display()
    )
}

fn replay_args(address: SocketAddr) -> [String; 4] {
    ["--destination".into(), "backend".into(), "--endpoint".into(), format!("http://{address}")]
}

/// Runs a replay to its end while the sink of this runtime serves it.
async fn replay(buffer: &Buffer, address: SocketAddr, more: &[&str]) -> Output {
    let (path, args) = (buffer.path.clone(), replay_args(address));
    let more: Vec<String> = more.iter().map(|&arg| arg.to_owned()).collect();
    let run = move || {
        let all: Vec<&str> = args.iter().chain(&more).map(String::as_str).collect();
        tool("replay", &path, &all).output().expect("it runs")
    };
    tokio::task::spawn_blocking(run).await.expect("no panic")
}

#[test]
fn looking_changes_nothing_and_tells_what_is_held() {
    let buffer = Buffer::with(&["backend", "archive"], 100);
    let before = buffer.files();
    let listing = buffer.json("ls", &[]);
    let rows = listing["destinations"].as_array().expect("a list");
    let row = |destination: &str, class: &str| {
        rows.iter().find(|row| row["destination"] == destination && row["class"] == class).unwrap_or(&Value::Null).clone()
    };
    for destination in ["backend", "archive"] {
        assert_eq!((&row(destination, "high")["heldRecords"], &row(destination, "normal")["heldItems"]), (&20.into(), &800.into()));
    }
    assert_eq!(row("backend", "high")["oldest"], "2025-06-15T15:06:40.000Z");
    let segments = listing["segments"].as_array().expect("a list");
    assert!(segments.len() > 2, "64 KiB segments and 150 KiB of records");
    assert_eq!(segments.iter().map(|segment| segment["items"]["traces"].as_u64().unwrap_or(0)).sum::<u64>(), 1000);
    assert_eq!((&listing["owner"], &listing["pipeline"]), (&Value::Null, &"local".into()));
    assert!(buffer.spool("verify", &[]).status.success() && buffer.spool("cat", &[]).status.success());
    assert!(buffer.spool("export", &[]).status.success());
    assert_eq!(buffer.files(), before);
}

#[test]
fn records_are_selected_by_name_class_and_time() {
    let buffer = Buffer::with(&["backend"], 20);
    let shown = |args: &[&str]| {
        let output = buffer.spool("cat", &[args, &["--output", "json"]].concat());
        let lines = String::from_utf8(output.stdout).expect("it is text");
        lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["record"].as_str().expect("a name").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(shown(&["high/2", "normal/3-4"]), ["high/2", "normal/3", "normal/4"]);
    assert_eq!(shown(&["--class", "high", "--from", "3"]), ["high/3", "high/4"]);
    assert_eq!(shown(&["--from", "2025-06-15T15:06:41Z", "--to", "2025-06-15T15:06:43Z"]), ["normal/1", "normal/2", "normal/3"]);
    assert_eq!(shown(&["--from", "1h"]), Vec::<String>::new(), "they are old");
    assert_eq!((shown(&["--unsettled"]).len(), shown(&["--unsettled=backend"]).len(), shown(&["--signal", "logs"]).len()), (20, 20, 0));
    let text = said(&buffer.spool("cat", &["normal/1"]));
    assert!(text.starts_with("normal/1  traces  10 items (10 normal)") && text.contains("needed by backend"), "{text}");
    assert!(text.contains("    healthy-1-0-xxx"), "{text}");
    let unknown = said(&buffer.spool("cat", &["--unsettled=nobody"]));
    assert!(unknown.contains("knows no destination `nobody`, only `backend`"), "{unknown}");
}

#[test]
fn damage_is_named_with_file_offset_record_and_items() {
    let buffer = Buffer::with(&["backend"], 100);
    assert!(said(&buffer.spool("verify", &[])).contains(": whole. Read"));
    let segment = buffer.segments("normal").remove(0);
    let mut content = std::fs::read(&segment).expect("it can be read");
    content[300] ^= 1;
    std::fs::write(&segment, content).expect("it can be written");
    let findings = buffer.json("verify", &[]);
    let damage = &findings["damage"][0];
    assert_eq!(
        (&damage["file"], &damage["record"], &damage["items"]),
        (&segment.file_name().expect("a name").to_string_lossy().into_owned().into(), &"normal/1".into(), &10.into())
    );
    assert_eq!((&damage["offset"], findings["damage"].as_array().expect("a list").len()), (&64.into(), 1));
    assert_eq!(
        (&findings["lostRecords"], &findings["lost"][0]["first"], &findings["lostItems"][0]["items"]),
        (&1.into(), &1.into(), &10.into())
    );
    let output = buffer.spool("verify", &[]);
    assert_eq!(output.status.code(), Some(1));
    let exported = buffer.spool("export", &[]);
    assert_eq!(
        (exported.status.code(), exported.stdout.split(|&byte| byte == b'\n').count()),
        (Some(1), 100),
        "99 lines: {}",
        String::from_utf8_lossy(&exported.stderr)
    );
    assert!(String::from_utf8_lossy(&exported.stderr).contains("left out: normal/1"));
}

#[test]
fn a_segment_that_is_gone_is_told_by_the_ids_it_held() {
    let buffer = Buffer::with(&["backend"], 100);
    let segment = buffer.segments("normal").remove(0);
    let listing = buffer.json("ls", &[]);
    let held = listing["segments"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|row| segment.ends_with(row["name"].as_str().unwrap_or("")))
        .expect("it was listed");
    std::fs::remove_file(&segment).expect("it can be removed");
    let findings = buffer.json("verify", &[]);
    assert_eq!(
        (&findings["lost"][0]["first"], &findings["lost"][0]["last"], &findings["lostRecords"]),
        (&held["firstId"], &held["lastId"], &held["records"])
    );
    assert_eq!(findings["lostItems"][0]["items"], held["items"]["traces"]);
    assert_eq!(findings["damage"].as_array().map(Vec::len), Some(0));
}

#[test]
fn what_is_exported_can_be_read_back_from_both_forms() {
    let buffer = Buffer::with(&["backend"], 12);
    let expected = names(&(0..12).map(|number| request(&number.to_string(), 10, 0, 100)).collect::<Vec<_>>());
    let json = buffer.spool("export", &[]);
    let lines = String::from_utf8(json.stdout).expect("it is text");
    let requests: Vec<ExportTraceServiceRequest> = lines.lines().map(|line| serde_json::from_str(line).expect("OTLP/JSON")).collect();
    assert_eq!((requests.len(), names(&requests)), (12, expected.clone()));
    let line: Value = serde_json::from_str(lines.lines().next().expect("a line")).expect("JSON");
    assert_eq!(line["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["traceId"], "01".repeat(16), "ids are hexadecimal");

    let file = buffer.path.with_file_name("spans.bin");
    let args = ["--format", "proto", "--signal", "traces", "--file", file.to_str().expect("it is text")];
    assert!(buffer.spool("export", &args).status.success());
    let content = std::fs::read(&file).expect("it is there");
    let (mut rest, mut requests) = (content.as_slice(), Vec::new());
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let (message, behind) = behind.split_at(u32::from_be_bytes(*length) as usize);
        requests.push(ExportTraceServiceRequest::decode(message).expect("a request"));
        rest = behind;
    }
    assert_eq!(names(&requests), expected);
    let again = buffer.spool("export", &args);
    assert!(!again.status.success() && said(&again).contains("exists already"), "{}", said(&again));
    assert!(buffer.spool("export", &[&args[..], &["--force"]].concat()).status.success());
    assert_eq!(std::fs::read(&file).expect("it is there"), content, "twice gives the same");
    let folder = buffer.path.with_file_name("folder");
    std::fs::create_dir(&folder).expect("it can be made");
    let link = buffer.path.with_file_name("link");
    std::os::unix::fs::symlink(&file, &link).expect("it can be made");
    for special in [&folder, &link] {
        let refused = said(&buffer.spool("export", &["--force", "--file", special.to_str().expect("it is text")]));
        assert!(refused.contains("is no regular file") && special.symlink_metadata().is_ok_and(|found| !found.is_file()), "{refused}");
    }
    let unclear = said(&buffer.spool("export", &["--format", "proto"]));
    assert!(unclear.contains("exactly one --signal"), "{unclear}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let buffer = Buffer::with(&["backend"], 200);
    for verb in ["cat", "export", "ls"] {
        let mut child = tool(verb, &buffer.path, &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        let mut line = String::new();
        BufReader::with_capacity(16, child.stdout.take().expect("it is piped")).read_line(&mut line).expect("a line");
        let mut stderr = String::new();
        child.stderr.take().expect("it is piped").read_to_string(&mut stderr).expect("it is text");
        assert!(child.wait().expect("it ends").success() && !stderr.contains("forebay-agent:"), "{verb}: {stderr}");
    }
}

#[test]
fn a_directory_that_is_no_buffer_is_refused_in_a_sentence() {
    let directory = tempfile::tempdir().expect("a directory");
    let told = |path: &Path| said(&tool("ls", path, &[]).output().expect("it runs"));
    assert!(told(&directory.path().join("nowhere")).contains("cannot read the directory"));
    assert!(told(directory.path()).contains("is empty: name the directory"), "{}", told(directory.path()));
    std::fs::write(directory.path().join("notes.txt"), "hello").expect("it can be written");
    assert!(told(directory.path()).contains("is no buffer"));
    assert!(told(&directory.path().join("notes.txt")).contains("cannot read the directory"));
    let buffer = Buffer::with(&["backend"], 1);
    let above = told(buffer.path.parent().expect("it has one"));
    assert!(above.contains(&format!("did you mean {}?", buffer.path.display())), "{above}");
    let identity = buffer.path.join("identity");
    let mut content = std::fs::read(&identity).expect("it can be read");
    content[8] = 77;
    let end = content.len() - 4;
    let crc = crc32c::crc32c(&content[..end]);
    content[end..].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&identity, content).expect("it can be written");
    assert!(told(&buffer.path).contains("has format version 77, which this release does not know"), "{}", told(&buffer.path));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_range_is_neither_sent_nor_counted_again() {
    let buffer = Buffer::with(&["backend"], 50);
    let (sink, address) = Sink::start().await;
    let first = replay(&buffer, address, &["normal/1-10", "--output", "json"]).await;
    assert!(first.status.success(), "{}", said(&first));
    let done: Value = serde_json::from_slice(&first.stdout).expect("JSON");
    assert_eq!(
        (&done["records"], &done["deliveredRecords"], &done["deliveredItems"], &done["ended"]),
        (&10.into(), &10.into(), &100.into(), &"done".into())
    );
    assert_eq!((sink.distinct(), sink.arrivals(), buffer.needed("backend")), (100, 100, 40));
    let second = replay(&buffer, address, &["normal/1-10"]).await;
    assert!(second.status.success() && said(&second).contains("nothing to do"), "{}", said(&second));
    assert_eq!(sink.arrivals(), 100);
    let directory = tempfile::tempdir().expect("a directory");
    let agent = Agent::start(directory.path(), &document(address, &buffer.path));
    let ledger = agent.await_ledger("the rest", |ledger| destination_sum(ledger, "/delivered") == 500).await;
    assert_eq!((destination_sum(&ledger, "/routed"), sink.arrivals(), sink.distinct()), (500, 500, 500));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_for_one_destination_leaves_the_others_their_records() {
    let buffer = Buffer::with(&["archive", "backend"], 20);
    let (_sink, address) = Sink::start().await;
    let output = replay(&buffer, address, &[]).await;
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!((buffer.needed("backend"), buffer.needed("archive")), (0, 20));
    assert!(buffer.spool("verify", &[]).status.success());
}

/// Starts a replay and waits until something of it arrived.
async fn slow_replay(buffer: &Buffer, sink: &Sink, address: SocketAddr) -> Child {
    let args = replay_args(address);
    let args: Vec<&str> = args.iter().map(String::as_str).chain(["--rate", "400", "--in-flight", "2"]).collect();
    let child = tool("replay", &buffer.path, &args).stdout(Stdio::piped()).spawn().expect("it runs");
    sink.await_distinct(200).await;
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_was_killed_goes_on_where_it_was() {
    let buffer = Buffer::with(&["backend"], 100);
    let (sink, address) = Sink::start().await;
    let mut child = slow_replay(&buffer, &sink, address).await;
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
    let (needed, arrived) = (buffer.needed("backend"), sink.distinct() as u64 / 10);
    assert!(needed < 100 && 100 - needed <= arrived, "marked is only what arrived: {needed} needed, {arrived} arrived");
    let again = replay(&buffer, address, &[]).await;
    assert!(again.status.success() && sink.distinct() == 1000, "{}", said(&again));
    let third = replay(&buffer, address, &[]).await;
    assert!(said(&third).contains("nothing to do"), "{}", said(&third));
    assert!(buffer.spool("verify", &[]).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_replay_marks_all_that_was_answered() {
    let buffer = Buffer::with(&["backend"], 100);
    let (sink, address) = Sink::start().await;
    let child = slow_replay(&buffer, &sink, address).await;
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill can be run").success());
    let output = tokio::task::spawn_blocking(|| child.wait_with_output()).await.expect("no panic").expect("it ends");
    assert!(output.status.code() == Some(130) && said(&output).contains("interrupted: the same command goes on"), "{}", said(&output));
    assert_eq!(buffer.needed("backend"), 100 - sink.arrivals() / 10, "each span arrived once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_takes_nothing_is_given_up_and_nothing_is_marked() {
    let buffer = Buffer::with(&["backend"], 5);
    let (sink, address) = Sink::start().await;
    sink.close(true);
    let output = replay(&buffer, address, &["--patience", "300ms"]).await;
    assert!(
        output.status.code() == Some(1) && said(&output).contains("given up: backend takes nothing (Unavailable: closed)"),
        "{}",
        said(&output)
    );
    assert_eq!(buffer.needed("backend"), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_running_agent_everything_reads_and_replay_names_the_owner() {
    let directory = tempfile::tempdir().expect("a directory");
    let (sink, address) = Sink::start().await;
    sink.close(true);
    let buffer = Buffer::with(&["backend"], 100);
    let agent = Agent::start(directory.path(), &document(address, &buffer.path));
    let mut client = agent.client().await;
    let looks = std::thread::scope(|threads| {
        let looks = threads.spawn(|| ["ls", "verify", "cat", "export", "ls", "verify"].map(|verb| (verb, buffer.spool(verb, &[]))));
        looks.join().expect("no panic")
    });
    for batch in 0..20 {
        client.export(request(&format!("live-{batch}"), 10, 0, 100)).await.expect("there is room");
    }
    for (verb, output) in looks {
        assert!(output.status.success(), "{verb}: {}", said(&output));
    }
    let owner = buffer.json("ls", &[])["owner"].as_str().expect("it has one").to_owned();
    assert!(owner.contains(&format!("process {}", agent.child.id())), "{owner}");
    let refused = replay(&buffer, address, &[]).await;
    assert!(!refused.status.success() && said(&refused).contains(&format!("is in use by {owner}")), "{}", said(&refused));
    sink.close(false);
    agent.await_ledger("delivery", |ledger| destination_sum(ledger, "/delivered") == 1200).await;
    for verb in ["ls", "verify", "cat", "export"] {
        let output = buffer.spool(verb, &[]);
        assert!(output.status.success(), "{verb}: {}", said(&output));
    }
}

/// Sets aside what `backend` found bad of these records of ten spans: their first two.
fn set_aside(buffer: &Buffer, records: std::ops::RangeInclusive<u64>) {
    let (mut quarantine, _) = Quarantine::open(&buffer.path, 64 << 20, "node-a", 0).expect("it can be made");
    for sequence in records {
        let file = QuarantineFile {
            destination: "backend".into(),
            id: RecordId { class: Class::Normal, sequence },
            signal: Signal::Traces,
            counts: ClassCounts::of(Class::Normal, 2),
            rejected: ClassCounts::default(),
            reason: DropReason::Rejected,
            received_unix_ms: EPOCH_MS,
            items: std::iter::once(0..2).collect(),
            body: request(&format!("bad-{sequence}"), 2, 0, 10).encode_to_vec().into(),
        };
        quarantine.store(&file).expect("there is room");
    }
}

#[test]
fn what_was_set_aside_is_listed_shown_exported_and_given_up() {
    let buffer = Buffer::with(&["backend"], 20);
    assert!(said(&buffer.spool("quarantine", &[])).contains("nothing is in quarantine"));
    set_aside(&buffer, 3..=5);
    let rows = buffer.json("quarantine", &[]);
    let names: Vec<_> = rows.as_array().expect("a list").iter().map(|row| row["record"].as_str().expect("a name")).collect();
    assert_eq!(
        (names, &rows[0]["items"], &rows[0]["positions"][0][1], &rows[0]["reason"]),
        (vec!["normal/3", "normal/4", "normal/5"], &2.into(), &1.into(), &"Rejected".into())
    );
    let shown = said(&buffer.spool("quarantine", &["cat", "normal/4"]));
    assert!(shown.contains("items 0-1 of the record; backend finds them bad: Rejected") && shown.contains("healthy-bad-4-0"), "{shown}");
    let exported = buffer.spool("quarantine", &["export", "--destination", "backend"]);
    assert_eq!(exported.stdout.split(|&byte| byte == b'\n').count(), 4, "three lines");
    assert!(said(&buffer.spool("quarantine", &["remove"])).contains("say which records are given up"));
    let removed = said(&buffer.spool("quarantine", &["remove", "normal/4"]));
    assert!(removed.contains("1 record with 2 items given up"), "{removed}");
    assert!(said(&buffer.spool("quarantine", &["remove", "normal/4"])).contains("0 records"), "twice gives the same");
    assert_eq!(buffer.json("quarantine", &[])[1]["state"], "given up, not counted yet");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_replayed_from_quarantine_is_marked_once_it_is_taken() {
    let buffer = Buffer::with(&["backend"], 20);
    set_aside(&buffer, 3..=5);
    let (sink, address) = Sink::start().await;
    let path = buffer.path.clone();
    let run = move |patience: &'static str| {
        let endpoint = format!("http://{address}");
        let args = ["replay", "--destination", "backend", "--endpoint", &endpoint, "--patience", patience];
        tool("quarantine", &path, &args).output().expect("it runs")
    };
    sink.close(true);
    let (refused, run) = tokio::task::spawn_blocking(move || (run("300ms"), run)).await.expect("no panic");
    assert!(refused.status.code() == Some(1) && said(&refused).contains("given up: backend takes nothing"), "{}", said(&refused));
    assert_eq!(buffer.json("quarantine", &[])[0]["state"], "held");
    sink.close(false);
    let (taken, run) = tokio::task::spawn_blocking(move || (run("1m"), run)).await.expect("no panic");
    assert!(taken.status.success() && sink.distinct() == 6, "{}", said(&taken));
    assert_eq!(buffer.json("quarantine", &[])[2]["state"], "delivered, not counted yet");
    let again = tokio::task::spawn_blocking(move || run("1m")).await.expect("no panic");
    assert!(said(&again).contains("nothing to do") && sink.arrivals() == 6, "{}", said(&again));
}
