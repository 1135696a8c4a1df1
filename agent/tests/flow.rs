//! The agent as a process between a client and a destination: what is acknowledged arrives, what does not is counted.

mod rig;

use rig::{Agent, BAD, Sink, destination_sum, input, request};
use tonic::Code;

fn document(destination: std::net::SocketAddr, buffer: &str) -> String {
    format!(
        "adminListen: 127.0.0.1:0\ndrainSeconds: 10\nsources: {{otlp: {{grpcListen: '127.0.0.1:0'}}}}\nbuffer: {buffer}\ndestinations:\n\
         - {{name: backend, endpoint: 'http://{destination}', inFlight: 4, retry: {{initialMilliseconds: 50, maxMilliseconds: 200}}}}\n"
    )
}

fn disk(directory: &std::path::Path, mode: &str, memory_bytes: u64) -> String {
    let path = directory.join("buffer");
    let disk = format!("{{path: '{}', bytes: 67108864, segmentBytes: 1048576}}", path.display());
    format!("{{mode: {mode}, memoryBytes: {memory_bytes}, memoryItems: 1000000, disk: {disk}}}")
}

const MEMORY: &str = "{mode: Memory, memoryBytes: 16777216, memoryItems: 1000000}";

#[tokio::test(flavor = "multi_thread")]
async fn steady_flow_arrives_once_and_the_ledger_is_exact() {
    let directory = tempfile::tempdir().expect("a directory");
    let (sink, address) = Sink::start().await;
    let agent = Agent::start(directory.path(), &document(address, MEMORY));
    let mut client = agent.client().await.send_compressed(tonic::codec::CompressionEncoding::Zstd);
    for batch in 0..20 {
        client.export(request(&batch.to_string(), 49, 1, 20)).await.expect("there is room");
    }
    sink.await_distinct(1000).await;
    let ledger = agent.await_ledger("delivery", |ledger| destination_sum(ledger, "/delivered") == 1000).await;
    assert_eq!((input(&ledger, "Normal", "/received"), input(&ledger, "High", "/received")), (980, 20));
    assert_eq!(sink.arrivals(), 1000);
    let (status, metrics) = agent.page("/metrics").await;
    assert!(status.contains("200") && metrics.contains("forebay_delivered_items_total{destination=\"backend\""), "{metrics}");
    assert!(agent.page("/readyz").await.0.contains("200") && agent.page("/healthz").await.0.contains("200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_ridden_out_on_disk() {
    let directory = tempfile::tempdir().expect("a directory");
    let (sink, address) = Sink::start().await;
    sink.close(true);
    let agent = Agent::start(directory.path(), &document(address, &disk(directory.path(), "Spill", 262_144)));
    let mut client = agent.client().await;
    for batch in 0..40 {
        let answer = client.export(request(&batch.to_string(), 50, 0, 400)).await.expect("the disk has room");
        assert!(answer.into_inner().partial_success.is_none(), "nothing is shed while the disk has room");
    }
    agent.await_ledger("a backlog on disk", |ledger| destination_sum(ledger, "/held/onDisk") > 0).await;
    sink.close(false);
    sink.await_distinct(2000).await;
    let ledger = agent.await_ledger("a drained backlog", |ledger| destination_sum(ledger, "/delivered") == 2000).await;
    assert_eq!(input(&ledger, "Normal", "/received"), 2000);
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_sheds_ordinary_spans_and_keeps_errors() {
    let directory = tempfile::tempdir().expect("a directory");
    let (sink, address) = Sink::start().await;
    sink.close(true);
    let buffer = "{mode: Memory, memoryBytes: 1048576, memoryItems: 1000000}";
    let agent = Agent::start(directory.path(), &document(address, buffer));
    let mut client = agent.client().await;
    let mut shed = 0;
    for batch in 0..40 {
        let answer = client.export(request(&batch.to_string(), 99, 1, 400)).await.expect("errors find room").into_inner();
        shed += answer.partial_success.map_or(0, |partial| partial.rejected_spans);
    }
    assert!(shed > 0, "3.9 MiB do not fit into 1 MiB");
    sink.close(false);
    let ledger =
        agent.await_ledger("delivery of what was kept", |ledger| destination_sum(ledger, "/delivered") == 4000 - shed as u64).await;
    assert_eq!(input(&ledger, "Normal", "/dropped/SoftLimit"), shed as u64);
    assert_eq!(sink.distinct_with("error-"), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_mirror_loses_nothing_it_acknowledged() {
    for mode in ["Mirror", "Mirror, acknowledge: OsBuffered"] {
        let directory = tempfile::tempdir().expect("a directory");
        let (sink, address) = Sink::start().await;
        sink.close(true);
        let document = document(address, &disk(directory.path(), mode, 1_048_576));
        let agent = Agent::start(directory.path(), &document);
        let mut client = agent.client().await;
        for batch in 0..20 {
            client.export(request(&batch.to_string(), 50, 0, 100)).await.expect("the disk has room");
        }
        agent.signal("KILL");
        assert!(!agent.ended().1);
        sink.close(false);
        let agent = Agent::start(directory.path(), &document);
        sink.await_distinct(1000).await;
        let ledger = agent.await_ledger("the books of both lives", |ledger| destination_sum(ledger, "/delivered") == 1000).await;
        assert_eq!(ledger["previousEnd"], "killed", "{mode}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_delivers_nothing_until_another_mode_does() {
    let directory = tempfile::tempdir().expect("a directory");
    let (sink, address) = Sink::start().await;
    let archive = document(address, &disk(directory.path(), "Archive", 1_048_576));
    let agent = Agent::start(directory.path(), &archive);
    agent.client().await.export(request("a", 100, 0, 10)).await.expect("the disk has room");
    let ledger = agent.await_ledger("the archive", |ledger| destination_sum(ledger, "/held/onDisk") == 100).await;
    assert_eq!(ledger["gauges"]["memoryBytes"], 0);
    agent.signal("TERM");
    assert!(agent.ended().1 && sink.distinct() == 0);
    let agent = Agent::start(directory.path(), &archive.replace("Archive", "Mirror"));
    sink.await_distinct(100).await;
    agent.await_ledger("the books of both lives", |ledger| destination_sum(ledger, "/delivered") == 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_bad_spans_are_kept_apart_until_a_tool_takes_them_out_whatever_ends_the_process() {
    let directory = tempfile::tempdir().expect("a directory");
    let (sink, address) = Sink::start().await;
    let document = document(address, &disk(directory.path(), "Mirror", 1_048_576));
    let agent = Agent::start(directory.path(), &document);
    let mut body = request("a", 100, 0, 10);
    for position in [17, 64] {
        let span = &mut body.resource_spans[0].scope_spans[0].spans[position];
        span.name.insert_str(0, BAD);
    }
    agent.client().await.export(body).await.expect("there is room");
    let is_searched = |ledger: &serde_json::Value| destination_sum(ledger, "/delivered") == 98 && ledger["quarantine"]["files"] == 1;
    let ledger = agent.await_ledger("the search", is_searched).await;
    assert_eq!((destination_sum(&ledger, "/held/quarantined"), destination_sum(&ledger, "/dropped/Rejected")), (2, 0));
    assert_eq!((sink.distinct(), sink.distinct_with(BAD)), (98, 0));
    agent.signal("KILL");
    assert!(!agent.ended().1);
    let agent = Agent::start(directory.path(), &document);
    let ledger = agent.await_ledger("the quarantine of both lives", |ledger| ledger["quarantine"]["files"] == 1).await;
    assert_eq!(destination_sum(&ledger, "/held/quarantined"), 2);
    let names = std::fs::read_dir(directory.path().join("buffer/quarantine")).expect("it is there");
    let mut paths = names.map(|entry| entry.expect("an entry").path());
    let file = paths.find(|path| path.extension().is_some_and(|state| state == "quarantined")).expect("the file");
    std::fs::rename(&file, file.with_extension("removed")).expect("a tool may");
    let ledger = agent.await_ledger("the end of it", |ledger| destination_sum(ledger, "/dropped/Rejected") == 2).await;
    assert_eq!(ledger["estimatedByClass"][0], "Rejected");
    assert_eq!((destination_sum(&ledger, "/held/quarantined"), destination_sum(&ledger, "/delivered")), (0, 98));
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_delivers_what_is_held_and_ends_with_the_ledger() {
    let directory = tempfile::tempdir().expect("a directory");
    let (sink, address) = Sink::start().await;
    sink.close(true);
    let agent = Agent::start(directory.path(), &document(address, MEMORY));
    let mut client = agent.client().await;
    client.export(request("a", 100, 0, 10)).await.expect("there is room");
    agent.signal("TERM");
    sink.close(false);
    let (ledger, is_clean) = agent.ended();
    let ledger = ledger.expect("the last line holds the ledger");
    assert!(is_clean && sink.distinct() == 100);
    assert_eq!((destination_sum(&ledger, "/delivered"), &ledger["broken"]), (100, &serde_json::Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_leaves_the_backlog_on_disk_for_the_next_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let (sink, address) = Sink::start().await;
    sink.close(true);
    let document = document(address, &disk(directory.path(), "Spill", 1_048_576)).replace("drainSeconds: 10", "drainSeconds: 2");
    let agent = Agent::start(directory.path(), &document);
    let mut client = agent.client().await;
    client.export(request("a", 100, 0, 10)).await.expect("there is room");
    agent.signal("TERM");
    let (ledger, is_clean) = agent.ended();
    assert!(is_clean);
    let ledger = ledger.expect("the last line holds the ledger");
    let held = ["/held/onDisk", "/held/waitingRetry"].map(|state| destination_sum(&ledger, state));
    assert_eq!((held.iter().sum::<u64>(), &ledger["gauges"]["memoryBytes"]), (100, &serde_json::json!(0)));
    sink.close(false);
    let agent = Agent::start(directory.path(), &document);
    let ledger = agent.await_ledger("the backlog", |ledger| destination_sum(ledger, "/delivered") == 100).await;
    let told = &ledger["previousEnd"]["told"];
    assert_eq!((&told["heldItems"], &told["isForced"]), (&serde_json::json!(100), &serde_json::json!(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_too_large_is_refused_for_good_and_counted() {
    let directory = tempfile::tempdir().expect("a directory");
    let (_sink, address) = Sink::start().await;
    let document = document(address, MEMORY).replace("'127.0.0.1:0'}", "'127.0.0.1:0', requestBytesMax: 65536}");
    let agent = Agent::start(directory.path(), &document);
    let mut client = agent.client().await;
    let told = client.export(request("a", 1000, 0, 100)).await.expect_err("it is larger than 64 KiB");
    assert_eq!(told.code(), Code::ResourceExhausted);
    assert!(told.details().is_empty(), "sending it again would not help");
    client.export(request("b", 1, 0, 1)).await.expect("others are not disturbed");
    agent.await_ledger("the count", |ledger| ledger["requestsRefused"]["TooLarge"] == 1).await;
}

/// Changes the document of a running agent and tells it.
fn change(agent: &Agent, directory: &std::path::Path, document: &str) {
    std::fs::write(directory.join("agent.yaml"), document).expect("the document can be written");
    agent.signal("HUP");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_moved_is_sent_to_at_its_new_place_without_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let ((before, old), (after, new)) = (Sink::start().await, Sink::start().await);
    before.close(true);
    let agent = Agent::start(directory.path(), &document(old, MEMORY));
    let mut client = agent.client().await;
    client.export(request("a", 10, 0, 10)).await.expect("there is room");
    change(&agent, directory.path(), &document(new, MEMORY));
    after.await_distinct(10).await;
    client.export(request("b", 10, 0, 10)).await.expect("there is room");
    after.await_distinct(20).await;
    agent.await_ledger("delivery", |ledger| destination_sum(ledger, "/delivered") == 20).await;
    agent.await_page("/metrics", |body| body.contains("forebay_config_reloads_total{result=\"applied\"} 1")).await;
    assert_eq!(before.distinct(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_destination_s_backlog_is_kept_and_delivered_when_it_returns() {
    let directory = tempfile::tempdir().expect("a directory");
    let ((sink, address), (other, elsewhere)) = (Sink::start().await, Sink::start().await);
    sink.close(true);
    let with = document(address, &disk(directory.path(), "Mirror", 1_048_576));
    let without = document(elsewhere, &disk(directory.path(), "Mirror", 1_048_576)).replace("name: backend", "name: other");
    let agent = Agent::start(directory.path(), &with);
    let mut client = agent.client().await;
    client.export(request("a", 10, 0, 10)).await.expect("the disk has room");
    change(&agent, directory.path(), &without);
    agent.await_page("/metrics", |body| body.contains("{destination=\"backend\",state=\"removed\"} 1")).await;
    client.export(request("b", 10, 0, 10)).await.expect("the disk has room");
    other.await_distinct(10).await;
    sink.close(false);
    change(&agent, directory.path(), &with);
    sink.await_distinct(10).await;
    agent.await_page("/metrics", |body| body.contains("{destination=\"backend\",state=\"closed\"} 1")).await;
    assert_eq!((sink.distinct_with("healthy-a"), sink.distinct_with("healthy-b"), other.distinct_with("healthy-a")), (10, 0, 0));
    agent.await_ledger("an even ledger", |ledger| ledger["gauges"]["heldRecords"] == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_document_that_is_wrong_or_needs_a_restart_is_refused_and_the_one_before_goes_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let (sink, address) = Sink::start().await;
    let good = document(address, MEMORY);
    let agent = Agent::start(directory.path(), &good);
    for (wrong, result) in [(format!("{good}softPercentage: 80\n"), "invalid"), (format!("{good}workers: 3\n"), "needs_restart")] {
        change(&agent, directory.path(), &wrong);
        let none = format!("forebay_config_reloads_total{{result=\"{result}\"}} 0");
        agent.await_page("/metrics", |body| body.contains("forebay_config_refused{} 1") && !body.contains(&none)).await;
    }
    agent.client().await.export(request("a", 10, 0, 10)).await.expect("there is room");
    sink.await_distinct(10).await;
    change(&agent, directory.path(), &good);
    agent.await_page("/metrics", |body| body.contains("forebay_config_refused{} 0")).await;
}

#[test]
fn a_wrong_document_ends_with_one_line_that_names_the_place() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("agent.yaml");
    std::fs::write(&file, "buffer: {mode: Memory, memoryBytes: 1, memoryItems: 1}\nsoftPercentage: 80\n").expect("it can be written");
    for command in [&["check"][..], &["run", "--config"]] {
        let mut agent = std::process::Command::new(env!("CARGO_BIN_EXE_forebay-agent"));
        let output = agent.args(command).arg(&file).env("FOREBAY_POINTS", "").output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains("softPercentage") && text.contains("line 2"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buffer_in_use_keeps_the_second_agent_waiting_until_it_is_free() {
    let directory = tempfile::tempdir().expect("a directory");
    let (_sink, address) = Sink::start().await;
    let document = document(address, &disk(directory.path(), "Spill", 1_048_576));
    let first = Agent::start(directory.path(), &document);
    first.await_ledger("a running agent", |_| true).await;
    let mut second = Agent::launch(directory.path(), &document);
    let page = second.await_page("/readyz", |body| body.contains("buffer") && !body.contains("\"starting\"")).await;
    assert!(page.0.contains("503"), "{page:?}");
    assert!(second.page("/ledger").await.0.contains("503"), "it has no engine yet");
    assert!(second.child.try_wait().expect("the child can be waited for").is_none(), "it waits");
    first.signal("TERM");
    assert!(first.ended().1);
    second.await_otlp();
    second.await_ledger("the second one's turn", |_| true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_delivery_is_answered_once_its_items_arrived() {
    for mode in ["Memory", "Spill", "Mirror"] {
        let directory = tempfile::tempdir().expect("a directory");
        let (sink, address) = Sink::start().await;
        sink.close(true);
        let buffer = match mode {
            "Memory" => MEMORY.replace("mode: Memory", "mode: Memory, acknowledge: Delivered"),
            _ => disk(directory.path(), &format!("{mode}, acknowledge: Delivered"), 1_048_576),
        };
        let agent = Agent::start(directory.path(), &document(address, &buffer));
        let mut client = agent.client().await;
        let (mut gone, mut waits) = (agent.client().await, client.clone());
        let gone = tokio::spawn(async move { gone.export(request("gone", 50, 0, 10)).await.map(|_| ()) });
        let waits = tokio::spawn(async move { waits.export(request("waits", 50, 0, 10)).await });
        agent.await_page("/metrics", |metrics| metrics.contains("\nforebay_waiting_requests{} 2\n")).await;
        gone.abort();
        agent.await_page("/metrics", |metrics| metrics.contains("\nforebay_waiting_requests{} 1\n")).await;
        assert!(!waits.is_finished());
        sink.close(false);
        let answer = waits.await.expect("no panic").expect("it arrives").into_inner();
        assert!(answer.partial_success.is_none() && sink.distinct_with("healthy-waits") == 50, "{mode}: {answer:?}");
        sink.await_distinct(100).await;
        let mut bad = request("more", 9, 0, 10);
        bad.resource_spans[0].scope_spans[0].spans[4].name.insert_str(0, BAD);
        let partial = client.export(bad).await.expect("the others arrive").into_inner().partial_success.expect("one does not");
        assert_eq!(partial.rejected_spans, 1, "{mode}: {partial:?}");
        assert!(partial.error_message.contains("Rejected") && sink.distinct() == 108, "{mode}: {partial:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_while_the_agent_ends_is_told_to_send_again_and_what_it_sent_is_delivered_by_the_next() {
    let directory = tempfile::tempdir().expect("a directory");
    let (sink, address) = Sink::start().await;
    sink.close(true);
    let buffer = disk(directory.path(), "Spill, acknowledge: Delivered", 1_048_576);
    let document = document(address, &buffer).replace("drainSeconds: 10", "drainSeconds: 3");
    let agent = Agent::start(directory.path(), &document);
    let mut client = agent.client().await;
    let waits = tokio::spawn(async move { client.export(request("waits", 50, 0, 10)).await });
    agent.await_page("/metrics", |metrics| metrics.contains("\nforebay_waiting_requests{} 1\n")).await;
    agent.signal("TERM");
    let told = waits.await.expect("no panic").expect_err("it did not arrive");
    assert_eq!(told.code(), Code::Unavailable, "{told:?}");
    assert!(!told.details().is_empty(), "it names a delay: {told:?}");
    assert!(agent.ended().1);
    sink.close(false);
    let _agent = Agent::start(directory.path(), &document);
    sink.await_distinct(50).await;
}
