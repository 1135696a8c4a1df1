//! Load generator and sink face to face: without an agent between them, their books must already agree.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use tempfile::TempDir;
use vocabulary::{Class, Signal};

use super::{LoadOptions, Loadgen, Truth};
use crate::cluster::eventually;
use crate::control::Control;
use crate::sequences::SequenceSet;
use crate::sink::{SinkOptions, SinkReport, serve};

const DEADLINE: Duration = Duration::from_secs(20);

async fn sink(folder: &TempDir) -> (SocketAddr, Control) {
    let free = || TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("loopback has free ports");
    let (listen, control) = (free(), free());
    tokio::spawn(serve(SinkOptions { listen, control, journal: folder.path().join("journal") }, std::future::pending()));
    let http = Control::Loopback(control);
    eventually("the sink", DEADLINE, async || Ok(http.get("/healthz").await.is_ok())).await.expect("it comes up");
    (listen, http)
}

fn start(listen: SocketAddr, items_per_second: u64) -> Loadgen {
    Loadgen::start(LoadOptions {
        endpoint: format!("http://{listen}"),
        producer: "p".into(),
        signals: vec![(Signal::Traces, 6), (Signal::Metrics, 2), (Signal::Logs, 2)],
        items_per_second,
        batch_items: 50,
        error_percent: 2.0,
        payload_bytes: 20,
    })
    .expect("it is an endpoint")
}

async fn settled(loadgen: &Loadgen, sent: u64) -> Truth {
    eventually("enough items", DEADLINE, async || Ok(loadgen.truth().sum(|class| class.sent) >= sent)).await.expect("load is made");
    loadgen.stop();
    eventually("outcomes", DEADLINE, async || Ok(loadgen.truth().settled)).await.expect("it settles");
    loadgen.truth()
}

fn agree(truth: &Truth, report: &SinkReport) {
    for signal in crate::codec::SIGNALS {
        for class in Class::ALL {
            let accepted = truth.cell(signal, class).map_or(0, |cell| cell.accepted);
            assert_eq!(accepted, report.produced(signal, class).distinct, "{signal} {class}");
        }
    }
}

#[tokio::test]
async fn what_was_accepted_is_what_arrived() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (listen, http) = sink(&folder).await;
    let loadgen = start(listen, 20_000);
    let truth = settled(&loadgen, 5_000).await;
    agree(&truth, &http.json("/report").await.expect("a report"));
    let seen: Vec<(u64, u64)> = http.json("/seen?producer=p&signal=traces").await.expect("ranges");
    let accepted = SequenceSet::from_ranges(&loadgen.accepted(Signal::Traces));
    assert_eq!(accepted.without(&SequenceSet::from_ranges(&seen)), Vec::new());
    assert!(truth.cell(Signal::Traces, Class::High).expect("spans were made").sent > 0);
}

#[tokio::test]
async fn what_a_throttle_refuses_is_sent_again_and_arrives_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (listen, http) = sink(&folder).await;
    http.get("/throttle?items_per_second=1500").await.expect("it is steered");
    let loadgen = start(listen, 6_000);
    eventually("refusals", DEADLINE, async || Ok(loadgen.truth().sum(|class| class.refused) > 0)).await.expect("the throttle bites");
    http.get("/throttle?items_per_second=0").await.expect("it is steered");
    let truth = settled(&loadgen, 1_000).await;
    let report: SinkReport = http.json("/report").await.expect("a report");
    agree(&truth, &report);
    assert!(report.requests_refused > 0);
    assert!(report.producers.iter().all(|entry| entry.tally.duplicates == 0));
}

#[tokio::test]
async fn a_request_that_is_rejected_for_ever_is_abandoned_and_counted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (listen, http) = sink(&folder).await;
    http.get("/fail?mode=reject").await.expect("it is steered");
    let truth = settled(&start(listen, 5_000), 500).await;
    assert_eq!(truth.sum(|class| class.abandoned), truth.sum(|class| class.sent));
    assert!(truth.last_failure.expect("it says why").contains("told to reject"));
}
