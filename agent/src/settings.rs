//! From the configuration document to what the parts are built from. Every way in which a document can be wrong ends here, so
//! that building the parts cannot fail for it.

use std::collections::HashSet;
use std::time::Duration;

use crds::agent::{
    Acknowledge, AgentConfig, Buffer, BufferMode, ClassConfig, Delivery, DiskBuffer, OnDestinationRemoved, OnFull, OtlpSource, Sources,
    Tenants,
};
use outputs::{EndpointError, OtlpGrpc, Output, Terminal};
use pipeline::{ClassPolicy, Config, DestinationConfig, MemoryLimits, OnRemoved, RetryPolicy};
use spool::Retention;
use vocabulary::Class;

/// Largest request that may be configured: what one record on disk may hold.
const REQUEST_BYTES_MAX: u64 = 64 << 20;
/// Name of the destination that prints.
const TERMINAL: &str = "terminal";

/// Everything the process is built from.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The document itself, for the parts that need no more than it says.
    pub(crate) document: AgentConfig,
    /// What the engine obeys.
    pub(crate) pipeline: Config,
    /// Where each of its destinations goes, in the same order.
    pub(crate) targets: Vec<Target>,
    /// What stays on disk after it was settled.
    pub(crate) retention: Retention,
}

/// Where a destination goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// An OTLP/gRPC endpoint.
    OtlpGrpc(String),
    /// Standard output.
    Terminal,
}

/// What is wrong with a document that could be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidSettings {
    #[error("buffer.{0} is 0: nothing could be held; set what memory allows, e.g. 67108864 bytes and 500000 items")]
    EmptyMemory(&'static str),
    #[error("buffer.mode {0:?} needs buffer.disk with path, bytes and segmentBytes; without a disk use mode Memory")]
    DiskMissing(BufferMode),
    #[error("buffer.disk is set, but buffer.mode is Memory, which uses no disk: choose Spill, Mirror or Archive, or remove buffer.disk")]
    DiskUnused,
    #[error("buffer.acknowledge {acknowledge:?} does not go with buffer.mode {mode:?}, which answers after {:?}", mode.acknowledges())]
    Acknowledge { acknowledge: Acknowledge, mode: BufferMode },
    #[error(
        "buffer.disk.segmentBytes {segment} must be at least 1 and at most half of buffer.disk.bytes {bytes}, or nothing could ever be deleted"
    )]
    Segment { segment: u64, bytes: u64 },
    #[error("buffer.maxAgeSeconds is 0: nothing could wait at all; remove it to keep records until they are delivered")]
    NoAge,
    #[error(
        "destination `{name}`: retry.deadlineSeconds {deadline} is more than buffer.maxAgeSeconds {age}, which would always drop first"
    )]
    DeadlineBeyondAge { name: String, deadline: u32, age: u32 },
    #[error("buffer.disk.retention needs exactly one of segments and seconds, and it must be at least 1: remove it to keep nothing")]
    Retention,
    #[error("sources.otlp.requestBytesMax {0} is outside 1 to {REQUEST_BYTES_MAX} (64 MiB): no larger request could be held on disk")]
    RequestBytes(u64),
    #[error("softPercent {0} is outside 1 to 100")]
    SoftPercent(u32),
    #[error("tenants.resourceAttribute is empty: name the resource attribute that tells tenants apart, e.g. k8s.namespace.name")]
    TenantAttribute,
    #[error("tenants.max {0} is outside 1 to {most}", most = Config::TENANTS_MAX)]
    Tenants(u32),
    #[error("class {class}: weight {weight} is outside 1 to 100")]
    Weight { class: Class, weight: u32 },
    #[error("class {0} is listed twice in classes")]
    ClassTwice(Class),
    #[error(
        "reservedPercent of all classes together is {0}, but memory has only 100 percent (a class that is not listed keeps its default)"
    )]
    Reserved(u32),
    #[error("{0} destinations are configured, but at most {max} are possible", max = Config::DESTINATIONS_MAX)]
    TooManyDestinations(usize),
    #[error("destinations is empty: a pipeline of a cluster needs one, because nobody reads an agent's terminal there")]
    NoDestination,
    #[error("two destinations are named `{0}`: the name keys a destination's books, so each needs its own")]
    DestinationTwice(String),
    #[error("destination `{0}`: inFlight is 0, so nothing would ever be sent; use at least 1")]
    NoFlight(String),
    #[error("destination `{0}` has delivery BestEffort, but buffer.mode Memory has no share of a disk to drop from: remove delivery")]
    BestEffortWithoutDisk(String),
    #[error("destination `{name}`")]
    Endpoint { name: String, source: EndpointError },
}

impl Settings {
    /// Checks a document and fills in what it leaves open.
    pub(crate) fn resolve(document: AgentConfig) -> Result<Self, InvalidSettings> {
        check_buffer(&document.buffer)?;
        if !(1..=100).contains(&document.soft_percent) {
            return Err(InvalidSettings::SoftPercent(document.soft_percent));
        }
        if let Some(otlp) = &document.sources.otlp
            && !(1..=REQUEST_BYTES_MAX).contains(&otlp.request_bytes_max)
        {
            return Err(InvalidSettings::RequestBytes(otlp.request_bytes_max));
        }
        if let Some(tenants) = &document.tenants {
            check_tenants(tenants)?;
        }
        let classes = class_policies(&document)?;
        let (destinations, targets) = destinations(&document)?;
        let buffer = &document.buffer;
        let pipeline = Config {
            mode: match buffer.mode {
                BufferMode::Memory => pipeline::BufferMode::Memory,
                BufferMode::Spill => pipeline::BufferMode::Spill,
                BufferMode::Mirror => pipeline::BufferMode::Mirror,
                BufferMode::Archive => pipeline::BufferMode::Archive,
            },
            acknowledge: match buffer.acknowledge.unwrap_or(buffer.mode.acknowledge_default()) {
                Acknowledge::Memory | Acknowledge::Fsync => pipeline::Acknowledge::AtRest,
                Acknowledge::OsBuffered => pipeline::Acknowledge::OsBuffered,
                Acknowledge::Delivered => pipeline::Acknowledge::Delivered,
            },
            memory: MemoryLimits { bytes: buffer.memory_bytes, items: buffer.memory_items },
            disk_bytes: buffer.disk.as_ref().map_or(0, |disk| disk.shares().records),
            on_full: on_full(buffer.disk.as_ref().map(|disk| disk.on_full).unwrap_or_default()),
            max_age: buffer.max_age_seconds.map(|seconds| Duration::from_secs(seconds.into())),
            soft_percent: document.soft_percent,
            classes,
            on_removed: match buffer.on_destination_removed {
                OnDestinationRemoved::Keep => OnRemoved::Keep,
                OnDestinationRemoved::Drop => OnRemoved::Drop,
            },
            destinations,
            tenants_max: document.tenants.as_ref().map_or(0, |tenants| usize::try_from(tenants.max).unwrap_or(usize::MAX)),
            // The document is the same for a whole fleet; who starts knows its place.
            replay_seed: 0,
        };
        let retention = retention(buffer.disk.as_ref())?;
        Ok(Self { document, pipeline, targets, retention })
    }

    /// What runs without a document: enough to try it on one machine.
    pub(crate) fn for_a_person() -> Result<Self, InvalidSettings> {
        let text = "{buffer: {mode: Memory, memoryBytes: 1, memoryItems: 1}}";
        let mut document = AgentConfig::from_yaml(text).unwrap_or_else(|_| unreachable!("the text above is a complete document"));
        document.buffer = Buffer {
            mode: BufferMode::Spill,
            acknowledge: None,
            memory_bytes: 64 << 20,
            memory_items: 500_000,
            max_age_seconds: None,
            on_destination_removed: OnDestinationRemoved::default(),
            disk: Some(DiskBuffer {
                path: "./forebay-data".into(),
                bytes: 1 << 30,
                segment_bytes: 16 << 20,
                on_full: OnFull::default(),
                retention: None,
            }),
        };
        document.sources =
            Sources { otlp: Some(OtlpSource { grpc_listen: "127.0.0.1:4317".into(), request_bytes_max: 16 << 20 }), ebpf: None };
        Self::resolve(document)
    }

    /// Bytes that requests may use before the engine has them: a third of its memory, but always room for one request.
    pub(crate) fn receive_bytes(&self) -> u64 {
        let request = self.document.sources.otlp.as_ref().map_or(0, |otlp| otlp.request_bytes_max);
        (self.document.buffer.memory_bytes / 3).max(request.saturating_mul(2))
    }
}

impl Target {
    /// Builds the client. Must be called within a runtime.
    pub(crate) fn open(&self) -> Result<Output, EndpointError> {
        Ok(match self {
            Self::OtlpGrpc(endpoint) => Output::OtlpGrpc(OtlpGrpc::new(endpoint)?),
            Self::Terminal => Output::Terminal(Terminal),
        })
    }
}

fn check_buffer(buffer: &Buffer) -> Result<(), InvalidSettings> {
    if buffer.memory_bytes == 0 {
        return Err(InvalidSettings::EmptyMemory("memoryBytes"));
    }
    if buffer.memory_items == 0 {
        return Err(InvalidSettings::EmptyMemory("memoryItems"));
    }
    if buffer.max_age_seconds == Some(0) {
        return Err(InvalidSettings::NoAge);
    }
    if let Some(acknowledge) = buffer.acknowledge
        && !buffer.mode.acknowledges().contains(&acknowledge)
    {
        return Err(InvalidSettings::Acknowledge { acknowledge, mode: buffer.mode });
    }
    match (&buffer.disk, buffer.mode) {
        (None, BufferMode::Memory) => Ok(()),
        (None, mode) => Err(InvalidSettings::DiskMissing(mode)),
        (Some(_), BufferMode::Memory) => Err(InvalidSettings::DiskUnused),
        (Some(disk), _) if disk.segment_bytes == 0 || disk.segment_bytes > disk.bytes / 2 => {
            Err(InvalidSettings::Segment { segment: disk.segment_bytes, bytes: disk.bytes })
        }
        (Some(_), _) => Ok(()),
    }
}

fn check_tenants(tenants: &Tenants) -> Result<(), InvalidSettings> {
    if tenants.resource_attribute.is_empty() {
        return Err(InvalidSettings::TenantAttribute);
    }
    if !(1..=Config::TENANTS_MAX).contains(&usize::try_from(tenants.max).unwrap_or(usize::MAX)) {
        return Err(InvalidSettings::Tenants(tenants.max));
    }
    Ok(())
}

fn retention(disk: Option<&DiskBuffer>) -> Result<Retention, InvalidSettings> {
    let Some(wanted) = disk.and_then(|disk| disk.retention) else { return Ok(Retention::Nothing) };
    match (wanted.segments, wanted.seconds) {
        (Some(segments @ 1..), None) => Ok(Retention::Segments(usize::try_from(segments).unwrap_or(usize::MAX))),
        (None, Some(seconds @ 1..)) => Ok(Retention::For(Duration::from_secs(seconds.into()))),
        _ => Err(InvalidSettings::Retention),
    }
}

const fn on_full(policy: OnFull) -> pipeline::OnFull {
    match policy {
        OnFull::DropOldest => pipeline::OnFull::DropOldest,
        OnFull::DropNewest => pipeline::OnFull::DropNewest,
        OnFull::RefuseIntake => pipeline::OnFull::RefuseIntake,
    }
}

const fn delivery(delivery: Delivery) -> pipeline::Delivery {
    match delivery {
        Delivery::Required => pipeline::Delivery::Required,
        Delivery::BestEffort => pipeline::Delivery::BestEffort,
    }
}

fn class_policies(document: &AgentConfig) -> Result<[ClassPolicy; Class::COUNT], InvalidSettings> {
    let mut seen = HashSet::new();
    for class in &document.classes {
        if !seen.insert(class.class) {
            return Err(InvalidSettings::ClassTwice(class.class));
        }
        if !(1..=100).contains(&class.weight) {
            return Err(InvalidSettings::Weight { class: class.class, weight: class.weight });
        }
    }
    let policies = Class::ALL.map(|class| {
        let listed = document.classes.iter().find(|listed| listed.class == class).copied();
        let ClassConfig { weight, reserved_percent, .. } = listed.unwrap_or(ClassConfig::default_of(class));
        ClassPolicy { weight, reserved_percent }
    });
    let reserved = policies.iter().fold(0_u32, |sum, policy| sum.saturating_add(policy.reserved_percent));
    if reserved > 100 { Err(InvalidSettings::Reserved(reserved)) } else { Ok(policies) }
}

fn destinations(document: &AgentConfig) -> Result<(Vec<DestinationConfig>, Vec<Target>), InvalidSettings> {
    if document.destinations.is_empty() {
        return if document.pipeline.is_some() { Err(InvalidSettings::NoDestination) } else { Ok(terminal()) };
    }
    if document.destinations.len() > Config::DESTINATIONS_MAX {
        return Err(InvalidSettings::TooManyDestinations(document.destinations.len()));
    }
    let mut seen = HashSet::new();
    let mut built = (Vec::new(), Vec::new());
    for destination in &document.destinations {
        let name = destination.name.clone();
        if !seen.insert(name.clone()) {
            return Err(InvalidSettings::DestinationTwice(name));
        }
        if destination.in_flight == 0 {
            return Err(InvalidSettings::NoFlight(name));
        }
        if destination.delivery == Delivery::BestEffort && document.buffer.disk.is_none() {
            return Err(InvalidSettings::BestEffortWithoutDisk(name));
        }
        if let (Some(deadline), Some(age)) = (destination.retry.deadline_seconds, document.buffer.max_age_seconds)
            && deadline > age
        {
            return Err(InvalidSettings::DeadlineBeyondAge { name, deadline, age });
        }
        OtlpGrpc::check(&destination.endpoint).map_err(|source| InvalidSettings::Endpoint { name: name.clone(), source })?;
        let retry = RetryPolicy {
            initial: Duration::from_millis(destination.retry.initial_milliseconds.into()),
            max: Duration::from_millis(destination.retry.max_milliseconds.into()),
            deadline: destination.retry.deadline_seconds.map(|seconds| Duration::from_secs(seconds.into())),
        };
        let in_flight = usize::try_from(destination.in_flight).unwrap_or(usize::MAX);
        built.0.push(DestinationConfig {
            name,
            signals: destination.signals.clone(),
            in_flight,
            retry,
            delivery: delivery(destination.delivery),
        });
        built.1.push(Target::OtlpGrpc(destination.endpoint.clone()));
    }
    Ok(built)
}

fn terminal() -> (Vec<DestinationConfig>, Vec<Target>) {
    let retry = RetryPolicy { initial: Duration::from_millis(100), max: Duration::from_secs(1), deadline: None };
    let delivery = pipeline::Delivery::Required;
    let config = DestinationConfig { name: TERMINAL.into(), signals: Vec::new(), in_flight: 1, retry, delivery };
    (vec![config], vec![Target::Terminal])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<Settings, String> {
        let document = AgentConfig::from_yaml(text).expect("the document can be read");
        Settings::resolve(document).map_err(|invalid| invalid.to_string())
    }

    #[test]
    fn a_contradiction_is_refused_with_both_sides_named() {
        let text = "buffer: {mode: Spill, memoryBytes: 1048576, memoryItems: 1000}";
        assert!(resolve(text).expect_err("no disk").contains("buffer.mode Spill needs buffer.disk"));
        let text = "buffer: {mode: Mirror, memoryBytes: 1, memoryItems: 1, disk: {path: x, bytes: 100, segmentBytes: 51}}";
        let error = resolve(text).expect_err("one segment");
        assert!(error.contains("51") && error.contains("100"), "{error}");
        let text = "buffer: {mode: Memory, memoryBytes: 1, memoryItems: 1}\nclasses: [{class: Bulk, weight: 1, reservedPercent: 81}]";
        assert!(resolve(text).expect_err("10 + 10 + 81").contains("101"));
    }

    #[test]
    fn an_answer_that_does_not_go_with_the_mode_is_refused_with_those_that_do() {
        let with = |buffer: &str| resolve(&format!("buffer: {{memoryBytes: 1, memoryItems: 1, {buffer}}}"));
        let disk = "disk: {path: x, bytes: 100, segmentBytes: 10}";
        for fits in
            ["mode: Memory, acknowledge: Memory", &format!("mode: Archive, acknowledge: Fsync, {disk}"), &format!("mode: Mirror, {disk}")]
        {
            assert!(with(fits).is_ok(), "{fits}");
        }
        let error = with(&format!("mode: Mirror, acknowledge: Memory, {disk}")).expect_err("Mirror promises a disk");
        assert!(error.contains("acknowledge Memory does not go with buffer.mode Mirror") && error.contains("Fsync"), "{error}");
        assert!(with("mode: Memory, acknowledge: Fsync").is_err());
        assert!(with("mode: Memory, acknowledge: Delivered").is_ok());
        let error = with(&format!("mode: Archive, acknowledge: Delivered, {disk}")).expect_err("an archive delivers nothing");
        assert!(error.contains("acknowledge Delivered does not go with buffer.mode Archive"), "{error}");
    }

    #[test]
    fn retention_is_by_number_or_by_time() {
        let with = |retention: &str| {
            let disk = format!("disk: {{path: x, bytes: 100, segmentBytes: 10, retention: {{{retention}}}}}");
            resolve(&format!("buffer: {{mode: Spill, memoryBytes: 1, memoryItems: 1, {disk}}}")).map(|settings| settings.retention)
        };
        assert_eq!(with("segments: 8"), Ok(Retention::Segments(8)));
        assert_eq!(with("seconds: 60"), Ok(Retention::For(Duration::from_secs(60))));
        for wrong in ["", "segments: 0", "segments: 1, seconds: 1"] {
            assert!(with(wrong).expect_err("it is neither").contains("buffer.disk.retention"), "{wrong}");
        }
    }

    #[test]
    fn an_age_limit_leaves_room_for_every_retry_deadline() {
        let with = |age: u32, deadline: u32| {
            let buffer = format!("buffer: {{mode: Memory, memoryBytes: 1, memoryItems: 1, maxAgeSeconds: {age}}}");
            let retry = format!("retry: {{deadlineSeconds: {deadline}}}");
            resolve(&format!("{buffer}\ndestinations: [{{name: a, endpoint: 'http://x:1', inFlight: 1, {retry}}}]"))
        };
        let settings = with(60, 60).expect("they fit");
        assert_eq!(settings.pipeline.max_age, Some(Duration::from_secs(60)));
        let error = with(60, 61).expect_err("the deadline could never be met");
        assert!(error.contains("retry.deadlineSeconds 61") && error.contains("buffer.maxAgeSeconds 60"), "{error}");
        assert!(with(0, 1).expect_err("nothing could wait").contains("maxAgeSeconds is 0"));
    }

    #[test]
    fn a_request_may_be_as_large_as_a_record_on_disk_and_no_larger() {
        let with = |bytes: u64| {
            let buffer = "buffer: {mode: Memory, memoryBytes: 1, memoryItems: 1}";
            resolve(&format!("{buffer}\nsources: {{otlp: {{grpcListen: '127.0.0.1:0', requestBytesMax: {bytes}}}}}"))
        };
        assert!(with(64 << 20).is_ok());
        let error = with((64 << 20) + 1).expect_err("no record could hold it");
        assert!(error.contains("67108865") && error.contains("requestBytesMax"), "{error}");
        assert!(with(0).is_err());
    }

    #[test]
    fn destinations_need_names_of_their_own_and_usable_endpoints() {
        let start = "buffer: {mode: Memory, memoryBytes: 1, memoryItems: 1}\ndestinations:\n";
        let twice = "- {name: a, endpoint: 'http://x:1', inFlight: 1}\n- {name: a, endpoint: 'http://y:1', inFlight: 1}";
        assert!(resolve(&format!("{start}{twice}")).expect_err("twice").contains("`a`"));
        let wrong = "- {name: a, endpoint: 'ftp://x', inFlight: 1}";
        assert!(resolve(&format!("{start}{wrong}")).expect_err("no http").contains("destination `a`"));
    }

    #[test]
    fn without_a_document_records_go_to_the_terminal_through_a_disk_buffer() {
        let settings = Settings::for_a_person().expect("the defaults fit together");
        assert_eq!((settings.pipeline.mode, settings.targets), (pipeline::BufferMode::Spill, vec![Target::Terminal]));
    }
}
