//! Rare kernel events as log records. Separate from the metrics because each is an item of its own, with its own class.

use std::collections::BTreeMap;

use abi::{Exit, OomKill};
use bytes::Bytes;
use enrich::Attribution;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use prost::Message;
use vocabulary::{Class, ClassCounts};

use crate::resource::{flag, number, resource, scope, text};

/// A record that becomes a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// The out-of-memory killer chose a victim. Critical.
    OomKill(OomKill),
    /// A process was ended by a signal. High, but for those that end processes every day: Normal.
    Exit(Exit),
}

/// A record, whom it belongs to and when it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEvent {
    /// What happened.
    pub record: Record,
    /// Whom it belongs to.
    pub attribution: Attribution,
    /// When it happened, in nanoseconds of the Unix epoch.
    pub unix_nanos: u64,
}

/// One export request with all events, and how many of each class it holds; none for no events.
#[must_use]
pub fn logs(events: &[LogEvent]) -> Option<(Bytes, ClassCounts)> {
    let mut counts = ClassCounts::default();
    let mut containers: BTreeMap<&Attribution, Vec<LogRecord>> = BTreeMap::new();
    for event in events {
        let (class, log) = match &event.record {
            Record::OomKill(kill) => (Class::Critical, oom_kill(kill, event.unix_nanos)),
            Record::Exit(exit) if is_ordinary(exit) => (Class::Normal, process_exit(exit, event.unix_nanos)),
            Record::Exit(exit) => (Class::High, process_exit(exit, event.unix_nanos)),
        };
        counts[class] += 1;
        containers.entry(&event.attribution).or_default().push(log);
    }
    let resource_logs = containers.into_iter().map(|(attribution, log_records)| ResourceLogs {
        resource: Some(resource(attribution)),
        scope_logs: vec![ScopeLogs { scope: Some(scope()), log_records, ..ScopeLogs::default() }],
        ..ResourceLogs::default()
    });
    let request = ExportLogsServiceRequest { resource_logs: resource_logs.collect() };
    (!events.is_empty()).then(|| (request.encode_to_vec().into(), counts))
}

fn oom_kill(kill: &OomKill, unix_nanos: u64) -> LogRecord {
    let name = String::from_utf8_lossy(kill.name());
    let mut attributes = vec![number("process.pid", kill.pid.into()), text("process.executable.name", &name)];
    let sizes = [("forebay.oom.virtual_bytes", kill.total_vm_bytes), ("forebay.oom.anonymous_rss_bytes", kill.anon_rss_bytes)];
    attributes.extend(sizes.into_iter().filter(|&(_, bytes)| bytes != u64::MAX).map(|(key, bytes)| number(key, bytes)));
    LogRecord {
        time_unix_nano: unix_nanos,
        observed_time_unix_nano: unix_nanos,
        severity_number: SeverityNumber::Fatal.into(),
        severity_text: "FATAL".into(),
        event_name: "forebay.kernel.oom_kill".into(),
        body: body(format!("out of memory: the kernel killed process {} ({name})", kill.pid)),
        attributes,
        ..LogRecord::default()
    }
}

/// Whether a process was ended as pods, terminals and pipes end them every day: by SIGHUP, SIGINT, SIGPIPE or SIGTERM.
fn is_ordinary(exit: &Exit) -> bool {
    matches!(exit.signal(), 1 | 2 | 13 | 15)
}

fn process_exit(exit: &Exit, unix_nanos: u64) -> LogRecord {
    let (severity, severity_text) = if is_ordinary(exit) { (SeverityNumber::Info, "INFO") } else { (SeverityNumber::Error, "ERROR") };
    let name = String::from_utf8_lossy(exit.name());
    let core = if exit.dumped_core() { ", core dumped" } else { "" };
    LogRecord {
        time_unix_nano: unix_nanos,
        observed_time_unix_nano: unix_nanos,
        severity_number: severity.into(),
        severity_text: severity_text.into(),
        event_name: "forebay.kernel.process_exit".into(),
        body: body(format!("process {} ({name}) was ended by signal {}{core}", exit.pid, exit.signal())),
        attributes: vec![
            number("process.pid", exit.pid.into()),
            text("process.executable.name", &name),
            number("process.exit.code", exit.exit_code().into()),
            number("forebay.process.signal", exit.signal().into()),
            flag("forebay.process.core_dumped", exit.dumped_core()),
        ],
        ..LogRecord::default()
    }
}

fn body(text: String) -> Option<AnyValue> {
    Some(AnyValue { value: Some(Value::StringValue(text)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::{COMM_BYTES, Head, Kind};
    use opentelemetry_proto::tonic::common::v1::KeyValue;

    fn head(kind: Kind) -> Head {
        Head { kind: kind as u32, slot: 1, cgroup: 7, time_nanos: 5 }
    }

    fn comm(name: &str) -> [u8; COMM_BYTES] {
        let mut comm = [0; COMM_BYTES];
        comm[..name.len()].copy_from_slice(name.as_bytes());
        comm
    }

    fn kill() -> OomKill {
        OomKill { head: head(Kind::OomKill), pid: 42, padding: 0, total_vm_bytes: 1 << 30, anon_rss_bytes: 1 << 20, comm: comm("java") }
    }

    fn exit(code: u32) -> Exit {
        Exit { head: head(Kind::Exit), pid: 43, code, comm: comm("nginx") }
    }

    fn container(name: &str) -> Attribution {
        Attribution {
            container_id: Some(format!("{name}-id")),
            pod_uid: Some("uid".into()),
            pod_name: Some("cart-1".into()),
            namespace: Some("shop".into()),
            container_name: Some(name.into()),
            node_name: Some("worker-1".into()),
        }
    }

    fn event(record: Record, attribution: Attribution) -> LogEvent {
        LogEvent { record, attribution, unix_nanos: 1_700_000_000_000_000_001 }
    }

    fn shown(attributes: &[KeyValue]) -> Vec<(String, Value)> {
        attributes
            .iter()
            .map(|one| (one.key.clone(), one.value.clone().and_then(|value| value.value).expect("every attribute has a value")))
            .collect()
    }

    fn string(key: &str, value: &str) -> (String, Value) {
        (key.into(), Value::StringValue(value.into()))
    }

    fn integer(key: &str, value: i64) -> (String, Value) {
        (key.into(), Value::IntValue(value))
    }

    #[test]
    fn an_oom_kill_is_a_fatal_log_that_names_its_container() {
        let (bytes, counts) = logs(&[event(Record::OomKill(kill()), container("cart"))]).expect("one event");
        assert_eq!(counts, ClassCounts::of(Class::Critical, 1));
        let request = ExportLogsServiceRequest::decode(bytes).expect("it is well formed");
        let of = &request.resource_logs[0];
        assert_eq!(
            shown(&of.resource.as_ref().expect("a resource").attributes),
            [
                string("container.id", "cart-id"),
                string("k8s.pod.uid", "uid"),
                string("k8s.pod.name", "cart-1"),
                string("k8s.namespace.name", "shop"),
                string("k8s.container.name", "cart"),
                string("k8s.node.name", "worker-1"),
            ]
        );
        assert_eq!(of.scope_logs[0].scope.as_ref().expect("a scope").name, "forebay.kernel");
        let log = &of.scope_logs[0].log_records[0];
        assert_eq!((log.severity_number, log.severity_text.as_str(), log.event_name.as_str()), (21, "FATAL", "forebay.kernel.oom_kill"));
        assert_eq!((log.time_unix_nano, log.observed_time_unix_nano), (1_700_000_000_000_000_001, 1_700_000_000_000_000_001));
        assert_eq!(
            shown(&log.attributes),
            [
                integer("process.pid", 42),
                string("process.executable.name", "java"),
                integer("forebay.oom.virtual_bytes", 1 << 30),
                integer("forebay.oom.anonymous_rss_bytes", 1 << 20),
            ]
        );
    }

    #[test]
    fn sizes_the_kernel_could_not_tell_are_left_out() {
        let unknown = OomKill { total_vm_bytes: u64::MAX, anon_rss_bytes: u64::MAX, ..kill() };
        let (bytes, _) = logs(&[event(Record::OomKill(unknown), Attribution::default())]).expect("one event");
        let request = ExportLogsServiceRequest::decode(bytes).expect("it is well formed");
        assert_eq!(request.resource_logs[0].scope_logs[0].log_records[0].attributes.len(), 2);
        assert_eq!(request.resource_logs[0].resource.as_ref().expect("a resource").attributes, []);
    }

    #[test]
    fn a_fatal_exit_is_an_error_log_with_signal_and_code() {
        let (bytes, counts) = logs(&[event(Record::Exit(exit(0x80 | 11)), container("web"))]).expect("one event");
        assert_eq!(counts, ClassCounts::of(Class::High, 1));
        let request = ExportLogsServiceRequest::decode(bytes).expect("it is well formed");
        let log = &request.resource_logs[0].scope_logs[0].log_records[0];
        assert_eq!((log.severity_number, log.event_name.as_str()), (17, "forebay.kernel.process_exit"));
        assert_eq!(
            shown(&log.attributes),
            [
                integer("process.pid", 43),
                string("process.executable.name", "nginx"),
                integer("process.exit.code", 139),
                integer("forebay.process.signal", 11),
                ("forebay.process.core_dumped".into(), Value::BoolValue(true)),
            ]
        );
    }

    #[test]
    fn the_signals_of_an_ordinary_shutdown_are_information_and_all_others_errors() {
        let seen = |signal: u32| {
            let (bytes, counts) = logs(&[event(Record::Exit(exit(signal)), container("web"))]).expect("one event");
            let request = ExportLogsServiceRequest::decode(bytes).expect("it is well formed");
            (request.resource_logs[0].scope_logs[0].log_records[0].severity_number, counts)
        };
        for signal in 1..=31 {
            let is_ordinary = [1, 2, 13, 15].contains(&signal);
            let expected = if is_ordinary { (9, ClassCounts::of(Class::Normal, 1)) } else { (17, ClassCounts::of(Class::High, 1)) };
            assert_eq!(seen(signal), expected, "signal {signal}");
        }
    }

    #[test]
    fn each_container_has_one_resource_and_the_counts_are_those_of_the_bytes() {
        let events = [
            event(Record::OomKill(kill()), container("cart")),
            event(Record::Exit(exit(9)), container("web")),
            event(Record::Exit(exit(9)), container("cart")),
        ];
        let (bytes, counts) = logs(&events).expect("three events");
        let request = ExportLogsServiceRequest::decode(bytes).expect("it is well formed");
        let sizes: Vec<_> = request.resource_logs.iter().map(|of| of.scope_logs[0].log_records.len()).collect();
        assert_eq!((sizes, counts[Class::Critical], counts[Class::High], counts.total()), (vec![2, 1], 1, 2, 3));
        assert_eq!(logs(&[]), None);
    }
}
