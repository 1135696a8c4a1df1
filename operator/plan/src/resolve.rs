//! From the specification as it was written to one that can be built. Every failure ends here, as a [`Refusal`] that becomes
//! conditions; while there is one, the objects of the last good specification are left as they are.

use std::collections::BTreeMap;

use budget::{Budget, CPU_DEFAULT_MILLICORES, DRAIN_DEFAULT_SECONDS, Limits, MEMORY_DEFAULT_BYTES};
use crds::agent::{Acknowledge, BufferMode, ClassConfig, Destination, OnDestinationRemoved, OnFull, Retention, Retry, Tenants};
use crds::conditions::Reason;
use crds::quantity::{Quantity, QuantityError};
use crds::v1alpha1::{
    self as api, Exposure, Medium, Permission, Placement, TelemetryPipeline, TelemetryPipelineClass, TelemetryPipelineClassSpec,
    TelemetryPipelineSpec, WorkloadKind,
};
use vocabulary::Class;

use crate::agents::Volume;
use crate::names;

/// Where host paths lie when the pipeline names none.
const HOST_PATH_DEFAULT: &str = "/var/lib/forebay";

/// What is looked at: one pipeline, the classes there are, and the labels of its namespace.
#[derive(Debug)]
pub struct Gathered<'a> {
    /// The pipeline.
    pub pipeline: &'a TelemetryPipeline,
    /// Every class of the cluster.
    pub classes: &'a [TelemetryPipelineClass],
    /// Labels of the pipeline's namespace.
    pub namespace_labels: &'a BTreeMap<String, String>,
}

/// A specification that can be built.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// Who it is.
    pub identity: Identity,
    /// What runs the agents.
    pub kind: WorkloadKind,
    /// How many, but for a DaemonSet.
    pub replicas: i32,
    /// On which nodes.
    pub placement: Placement,
    /// Whether kernel events are taken in.
    pub ebpf: bool,
    /// Who reaches the OTLP port; none: it is not open.
    pub otlp: Option<Exposure>,
    /// How memory and disk work together.
    pub mode: BufferMode,
    /// When clients are answered, if the specification says so.
    pub acknowledge: Option<Acknowledge>,
    /// Age at which an item that waits is dropped, in seconds.
    pub max_age_seconds: Option<u32>,
    /// The disk part.
    pub disk: Option<Disk>,
    /// What happens to what is held for a destination that is not listed any more.
    pub on_destination_removed: OnDestinationRemoved,
    /// Policies that differ from the defaults.
    pub classes: Vec<ClassConfig>,
    /// The soft limit; 100: none.
    pub soft_percent: u32,
    /// How tenants are told apart, if they are.
    pub tenants: Option<Tenants>,
    /// Where items go; in-flight requests are filled in by the solver.
    pub destinations: Vec<Destination>,
    /// Limits and requests of one agent.
    pub amounts: Amounts,
    /// Bytes of waiting items that are asked for.
    pub queue_bytes_wanted: Option<u64>,
    /// Time to empty the buffer, in seconds.
    pub drain_seconds: u32,
    /// Secrets with which the image is pulled.
    pub image_pull_secrets: Vec<String>,
    /// Priority class of the pods.
    pub priority_class_name: Option<String>,
}

/// Who a pipeline is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

/// The disk part of a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Bytes.
    pub bytes: u64,
    /// Where it lies.
    pub place: Place,
    /// What happens when a destination's share of it is full.
    pub on_full: OnFull,
    /// What stays after it was delivered.
    pub retention: Option<Retention>,
}

/// Where a disk part lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory of the node that belongs to this pipeline alone.
    HostPath(String),
    /// A claim per replica, of this storage class.
    Claim(Option<String>),
    /// A directory of the pod.
    EmptyDir,
}

/// Resources of one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Amounts {
    /// Memory limit, in bytes.
    pub memory_bytes: u64,
    /// CPU limit, in millicores.
    pub cpu_millicores: u64,
    /// Memory request, in bytes.
    pub memory_request_bytes: u64,
    /// CPU request, in millicores.
    pub cpu_request_millicores: u64,
}

/// Why a specification cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Reason of `ConfigValid=False`; none: the specification itself was not evaluated.
    pub config_valid: Option<Reason>,
    /// Reason of `Stalled=True`.
    pub stalled: Reason,
    /// What, where, and what to do.
    pub message: String,
}

impl Refusal {
    fn invalid(reason: Reason, message: impl Into<String>) -> Self {
        Self { config_valid: Some(reason), stalled: Reason::InvalidConfig, message: message.into() }
    }

    fn forbidden(message: impl Into<String>) -> Self {
        Self { config_valid: None, stalled: Reason::ForbiddenByClass, message: message.into() }
    }
}

impl From<QuantityError> for Refusal {
    fn from(error: QuantityError) -> Self {
        Self::invalid(Reason::BudgetTooSmall, error.to_string())
    }
}

impl Resolved {
    /// What becomes of the buffer when its pod is gone.
    #[must_use]
    pub fn volume(&self) -> Volume {
        match self.disk.as_ref().map(|disk| &disk.place) {
            None => Volume::None,
            Some(Place::EmptyDir) => Volume::Pod,
            Some(Place::HostPath(_)) => Volume::Node,
            Some(Place::Claim(_)) => Volume::Claim,
        }
    }
}

/// Resolves a specification.
///
/// # Errors
/// When it cannot be carried out; the refusal says why and what to do.
pub fn resolve(gathered: &Gathered<'_>) -> Result<Resolved, Refusal> {
    let identity = identity(gathered.pipeline);
    let spec = &gathered.pipeline.spec;
    let class = class_of(gathered)?;
    let rules = &class.spec;
    check_sources(spec, rules)?;
    let amounts = amounts(spec, rules)?;
    let disk = disk(spec, rules, &identity)?;
    check_replicas(spec, rules)?;
    let is_node_agent = spec.workload.kind == WorkloadKind::DaemonSet;
    let by_default = if is_node_agent { Exposure::NodeLocal } else { Exposure::ClusterService };
    let memory = spec.buffer.memory.as_ref().map(|memory| memory.size.units("buffer.memory.size")).transpose()?;
    Ok(Resolved {
        kind: spec.workload.kind,
        replicas: spec.workload.replicas.unwrap_or(0),
        placement: spec.workload.placement.clone().unwrap_or_default(),
        ebpf: spec.sources.ebpf.is_some(),
        otlp: spec.sources.otlp.as_ref().map(|otlp| otlp.exposure.unwrap_or(by_default)),
        mode: mode(spec),
        acknowledge: spec.buffer.acknowledge,
        max_age_seconds: spec.buffer.max_age_seconds.map(positive),
        disk,
        on_destination_removed: spec.buffer.on_destination_removed.unwrap_or_default(),
        classes: classes(spec)?,
        soft_percent: soft_percent(spec),
        tenants: spec.tenants.as_ref().map(tenants),
        destinations: spec.destinations.iter().map(destination).collect::<Result<_, _>>()?,
        amounts,
        queue_bytes_wanted: memory,
        drain_seconds: spec.drain.as_ref().map_or(DRAIN_DEFAULT_SECONDS, |drain| positive(drain.deadline_seconds)),
        image_pull_secrets: rules.image_pull_secrets.iter().map(|secret| secret.name.clone()).collect(),
        priority_class_name: rules.priority_class_name.clone(),
        identity,
    })
}

/// Solves the sizes of a resolved specification.
///
/// # Errors
/// When a limit is too small to work within.
pub fn solve(resolved: &Resolved) -> Result<Budget, Refusal> {
    let limits = Limits {
        memory_bytes: resolved.amounts.memory_bytes,
        cpu_millicores: resolved.amounts.cpu_millicores,
        mode: resolved.mode,
        acknowledge: resolved.acknowledge,
        disk_bytes: resolved.disk.as_ref().map_or(0, |disk| disk.bytes),
        queue_bytes_wanted: resolved.queue_bytes_wanted,
        destinations: u32::try_from(resolved.destinations.len()).unwrap_or(u32::MAX),
        ebpf: resolved.ebpf,
        drain_seconds: resolved.drain_seconds,
    };
    budget::solve(&limits).map_err(|error| Refusal::invalid(Reason::BudgetTooSmall, error.to_string()))
}

fn identity(pipeline: &TelemetryPipeline) -> Identity {
    let metadata = &pipeline.metadata;
    Identity {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
    }
}

fn class_of<'a>(gathered: &Gathered<'a>) -> Result<&'a TelemetryPipelineClass, Refusal> {
    let not_found = |message: String| Refusal { config_valid: None, stalled: Reason::ReferenceNotFound, message };
    let is_default = |class: &&TelemetryPipelineClass| {
        let annotations = class.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get(names::ANNOTATION_DEFAULT_CLASS)).is_some_and(|value| value == "true")
    };
    let class = if let Some(wanted) = &gathered.pipeline.spec.class_ref {
        let named = gathered.classes.iter().find(|class| class.metadata.name.as_ref() == Some(&wanted.name));
        named.ok_or_else(|| {
            not_found(format!(
                "classRef.name is `{}`, and there is no TelemetryPipelineClass of that name: create it or name another",
                wanted.name
            ))
        })?
    } else {
        // With several defaults the oldest name wins, so that the choice does not depend on the order of a list.
        let default = gathered.classes.iter().filter(is_default).min_by_key(|class| class.metadata.name.clone());
        default.ok_or_else(|| {
            not_found(format!(
                "no classRef, and no TelemetryPipelineClass is annotated {}: \"true\": set classRef.name, or annotate a class",
                names::ANNOTATION_DEFAULT_CLASS
            ))
        })?
    };
    let wanted = class.spec.namespaces.iter().flat_map(|rule| &rule.match_labels);
    let missing: Vec<String> = wanted
        .filter(|(key, value)| gathered.namespace_labels.get(*key) != Some(*value))
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    if missing.is_empty() {
        return Ok(class);
    }
    let name = class.metadata.name.as_deref().unwrap_or_default();
    Err(Refusal::forbidden(format!(
        "class `{name}` serves namespaces labelled {}: ask the platform's owner for the label, or use another class",
        missing.join(", ")
    )))
}

fn check_sources(spec: &TelemetryPipelineSpec, rules: &TelemetryPipelineClassSpec) -> Result<(), Refusal> {
    if spec.sources.ebpf.is_some() && rules.sources.ebpf == Permission::Forbidden {
        return Err(Refusal::forbidden(
            "sources.ebpf is set, and the class forbids it: remove it, or use a class with sources.ebpf: Allowed",
        ));
    }
    if spec.sources.otlp.is_some() && rules.sources.otlp == Permission::Forbidden {
        return Err(Refusal::forbidden(
            "sources.otlp is set, and the class forbids it: remove it, or use a class with sources.otlp: Allowed",
        ));
    }
    if spec.sources.ebpf.is_none() && spec.sources.otlp.is_none() {
        return Err(Refusal::invalid(Reason::SourceUnsupported, "sources names neither ebpf nor otlp: name at least one"));
    }
    Ok(())
}

fn check_replicas(spec: &TelemetryPipelineSpec, rules: &TelemetryPipelineClassSpec) -> Result<(), Refusal> {
    match (spec.workload.replicas, rules.ceilings.as_ref().and_then(|ceilings| ceilings.replicas)) {
        (Some(wanted), Some(most)) if wanted > most => {
            Err(Refusal::forbidden(format!("workload.replicas is {wanted}, and the class allows {most}: lower it, or use another class")))
        }
        _ => Ok(()),
    }
}

fn amounts(spec: &TelemetryPipelineSpec, rules: &TelemetryPipelineClassSpec) -> Result<Amounts, Refusal> {
    let resources = spec.resources.clone().unwrap_or_default();
    let limits = resources.limits.unwrap_or_default();
    let requests = resources.requests.unwrap_or_default();
    let memory_bytes = limits.memory.as_ref().map_or(Ok(MEMORY_DEFAULT_BYTES), |memory| memory.units("resources.limits.memory"))?;
    let cpu_millicores = limits.cpu.as_ref().map_or(Ok(CPU_DEFAULT_MILLICORES), |cpu| cpu.thousandths("resources.limits.cpu"))?;
    let amounts = Amounts {
        memory_bytes,
        cpu_millicores,
        memory_request_bytes: requests
            .memory
            .as_ref()
            .map_or(Ok(memory_bytes), |memory| memory.units("resources.requests.memory"))?
            .min(memory_bytes),
        cpu_request_millicores: requests
            .cpu
            .as_ref()
            .map_or(Ok(cpu_millicores), |cpu| cpu.thousandths("resources.requests.cpu"))?
            .min(cpu_millicores),
    };
    let Some(ceilings) = &rules.ceilings else { return Ok(amounts) };
    if let Some(most) = &ceilings.memory_per_node {
        check_ceiling("resources.limits.memory", memory_bytes, most.units("ceilings.memoryPerNode")?, most)?;
    }
    if let Some(most) = &ceilings.cpu_per_node {
        check_ceiling("resources.limits.cpu", cpu_millicores, most.thousandths("ceilings.cpuPerNode")?, most)?;
    }
    Ok(amounts)
}

fn check_ceiling(field: &str, wanted: u64, most: u64, written: &Quantity) -> Result<(), Refusal> {
    if wanted <= most {
        return Ok(());
    }
    let wanted = if field.ends_with("cpu") { Quantity::of_millicores(wanted) } else { Quantity::of_bytes(wanted) };
    Err(Refusal::forbidden(format!("{field} is {wanted}, and the class allows {written}: lower it, or use another class")))
}

fn disk(spec: &TelemetryPipelineSpec, rules: &TelemetryPipelineClassSpec, identity: &Identity) -> Result<Option<Disk>, Refusal> {
    let Some(disk) = spec.buffer.disk.as_ref().filter(|_| spec.buffer.mode != api::BufferMode::Memory) else {
        return if spec.buffer.mode == api::BufferMode::Memory {
            Ok(None)
        } else {
            Err(Refusal::invalid(
                Reason::BudgetTooSmall,
                "buffer.mode needs a disk and buffer.disk is absent: add it, or use buffer.mode: Memory",
            ))
        };
    };
    let bytes = disk.size.units("buffer.disk.size")?;
    if let Some(most) = rules.ceilings.as_ref().and_then(|ceilings| ceilings.disk_per_node.as_ref()) {
        check_ceiling("buffer.disk.size", bytes, most.units("ceilings.diskPerNode")?, most)?;
    }
    let place = match disk.medium {
        Medium::EmptyDir => Place::EmptyDir,
        Medium::PersistentVolumeClaim => Place::Claim(disk.claim.as_ref().and_then(|claim| claim.storage_class_name.clone())),
        Medium::HostPath => Place::HostPath(host_path(disk, rules, identity)?),
    };
    let retention =
        disk.retention.map(|wanted| Retention { segments: wanted.segments.map(positive), seconds: wanted.seconds.map(positive) });
    Ok(Some(Disk { bytes, place, on_full: disk.on_full.unwrap_or_default(), retention }))
}

fn host_path(disk: &api::DiskBuffer, rules: &TelemetryPipelineClassSpec, identity: &Identity) -> Result<String, Refusal> {
    let wanted = disk.host_path.as_ref().map_or(HOST_PATH_DEFAULT, |host_path| host_path.path.as_str()).trim_end_matches('/');
    let is_plain = wanted.starts_with('/') && wanted.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != "..");
    let within = |allowed: &String| {
        let allowed = allowed.trim_end_matches('/');
        !allowed.is_empty() && wanted.strip_prefix(allowed).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if !is_plain || !rules.host_paths.iter().any(within) {
        let allowed = if rules.host_paths.is_empty() { "none".into() } else { rules.host_paths.join(", ") };
        return Err(Refusal::forbidden(format!(
            "buffer.disk.hostPath.path is `{wanted}`, and the class allows what lies within: {allowed}"
        )));
    }
    Ok(format!("{wanted}/{}", identity.uid))
}

fn mode(spec: &TelemetryPipelineSpec) -> BufferMode {
    match spec.buffer.mode {
        api::BufferMode::Memory => BufferMode::Memory,
        api::BufferMode::Spill => BufferMode::Spill,
        api::BufferMode::Mirror => BufferMode::Mirror,
        api::BufferMode::Archive => BufferMode::Archive,
    }
}

fn classes(spec: &TelemetryPipelineSpec) -> Result<Vec<ClassConfig>, Refusal> {
    let listed = spec.priorities.iter().flat_map(|priorities| &priorities.classes);
    let differing: Vec<ClassConfig> = listed
        .map(|class| {
            let default = ClassConfig::default_of(class.name);
            ClassConfig {
                class: class.name,
                weight: class.weight.map_or(default.weight, positive),
                reserved_percent: class.reserved_percent.map_or(default.reserved_percent, positive),
            }
        })
        .collect();
    let of = |class: Class| differing.iter().find(|listed| listed.class == class).copied().unwrap_or(ClassConfig::default_of(class));
    let reserved: u32 = Class::ALL.into_iter().map(|class| of(class).reserved_percent).sum();
    if reserved > 100 {
        return Err(Refusal::invalid(
            Reason::BudgetTooSmall,
            format!(
                "priorities.classes reserve {reserved} % of memory together with the defaults of the classes that are not listed; at most 100 % can be reserved"
            ),
        ));
    }
    Ok(differing)
}

fn tenants(asked: &api::Tenants) -> Tenants {
    let defaults = Tenants::default();
    Tenants {
        resource_attribute: asked.resource_attribute.clone().unwrap_or(defaults.resource_attribute),
        max: asked.max.map_or(defaults.max, positive),
    }
}

fn soft_percent(spec: &TelemetryPipelineSpec) -> u32 {
    let Some(backpressure) = spec.priorities.as_ref().and_then(|priorities| priorities.backpressure.as_ref()) else { return 90 };
    match backpressure.mode {
        Some(api::BackpressureMode::Disabled) => 100,
        Some(api::BackpressureMode::Enabled) | None => backpressure.soft_percent.map_or(90, positive),
    }
}

fn destination(destination: &api::Destination) -> Result<Destination, Refusal> {
    let field = format!("destinations[{}].otlpGrpc.endpoint", destination.name);
    let Some(otlp) = &destination.otlp_grpc else {
        return Err(Refusal::invalid(
            Reason::EndpointInvalid,
            format!("destinations[{}] names no protocol: add otlpGrpc", destination.name),
        ));
    };
    check_endpoint(&otlp.endpoint).map_err(|problem| {
        Refusal::invalid(
            Reason::EndpointInvalid,
            format!("{field} is `{}`: {problem}; write http://host:port or https://host:port", otlp.endpoint),
        )
    })?;
    let defaults = Retry::default();
    let retry = destination.retry.clone().unwrap_or_default();
    Ok(Destination {
        name: destination.name.clone(),
        signals: destination.signals.clone(),
        endpoint: otlp.endpoint.clone(),
        in_flight: 1,
        delivery: destination.delivery.unwrap_or_default(),
        retry: Retry {
            initial_milliseconds: retry.initial_milliseconds.map_or(defaults.initial_milliseconds, positive),
            max_milliseconds: retry.max_milliseconds.map_or(defaults.max_milliseconds, positive),
            deadline_seconds: retry.deadline_seconds.map(positive),
        },
    })
}

fn check_endpoint(endpoint: &str) -> Result<(), &'static str> {
    let rest =
        endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://")).ok_or("it has neither http:// nor https://")?;
    let (host, port) = rest.trim_end_matches('/').rsplit_once(':').ok_or("it has no port")?;
    if host.is_empty() || host.contains(['/', '@', ' ']) {
        return Err("it has no host");
    }
    port.parse::<u16>().ok().filter(|&port| port > 0).map(|_| ()).ok_or("its port is not between 1 and 65535")
}

fn positive(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    /// A class that allows everything within its ceilings.
    pub(crate) fn class() -> TelemetryPipelineClass {
        serde_json::from_value(json!({
            "apiVersion": "forebay.dev/v1alpha1", "kind": "TelemetryPipelineClass",
            "metadata": {"name": "default", "annotations": {"forebay.dev/default-class": "true"}},
            "spec": {"sources": {"ebpf": "Allowed", "otlp": "Allowed"}, "hostPaths": ["/var/lib/forebay"],
                "ceilings": {"memoryPerNode": "1Gi", "cpuPerNode": "1", "diskPerNode": "20Gi", "replicas": 20}},
        }))
        .expect("a class")
    }

    /// A pipeline with this specification.
    pub(crate) fn pipeline(spec: serde_json::Value) -> TelemetryPipeline {
        serde_json::from_value(json!({
            "apiVersion": "forebay.dev/v1alpha1", "kind": "TelemetryPipeline",
            "metadata": {"name": "node-agents", "namespace": "observability", "uid": "0b7c", "generation": 3},
            "spec": spec,
        }))
        .expect("a pipeline")
    }

    /// The smallest useful pipeline of the documentation.
    pub(crate) fn node_agents() -> serde_json::Value {
        json!({
            "workload": {"kind": "DaemonSet"},
            "sources": {"ebpf": {}, "otlp": {}},
            "buffer": {"mode": "Spill", "disk": {"size": "2Gi", "medium": "HostPath"}},
            "destinations": [{"name": "backend", "otlpGrpc": {"endpoint": "http://collector.observability:4317"}}],
        })
    }

    pub(crate) fn resolved(spec: serde_json::Value) -> Result<Resolved, Refusal> {
        let labels = BTreeMap::new();
        resolve(&Gathered { pipeline: &pipeline(spec), classes: &[class()], namespace_labels: &labels })
    }

    fn with(pointer: &str, value: serde_json::Value) -> serde_json::Value {
        let mut spec = node_agents();
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        spec.pointer_mut(parent).expect("the parent is there")[key] = value;
        spec
    }

    #[test]
    fn the_smallest_pipeline_needs_nothing_else() {
        let resolved = resolved(node_agents()).expect("it is complete");
        assert_eq!(resolved.otlp, Some(Exposure::NodeLocal));
        assert_eq!(resolved.disk.as_ref().map(|disk| &disk.place), Some(&Place::HostPath("/var/lib/forebay/0b7c".into())));
        assert_eq!((resolved.soft_percent, resolved.volume()), (90, Volume::Node));
        solve(&resolved).expect("the defaults suffice");
    }

    #[test]
    fn tenants_are_told_apart_by_namespace_unless_another_attribute_is_named() {
        assert_eq!(resolved(node_agents()).expect("it is complete").tenants, None);
        let tenants = |asked| resolved(with("/tenants", asked)).expect("it is complete").tenants;
        let by = |attribute: &str, max| Some(Tenants { resource_attribute: attribute.into(), max });
        assert_eq!(tenants(json!({})), by("k8s.namespace.name", 64));
        assert_eq!(tenants(json!({"resourceAttribute": "team", "max": 7})), by("team", 7));
    }

    #[test]
    fn what_the_class_does_not_allow_is_refused_with_both_numbers() {
        for (pointer, value, told) in [
            ("/buffer/disk/size", json!("50Gi"), ["50Gi", "20Gi"]),
            ("/resources", json!({"limits": {"memory": "2Gi"}}), ["2Gi", "1Gi"]),
            ("/resources", json!({"limits": {"cpu": "4"}}), ["4", "1"]),
            ("/buffer/disk/hostPath", json!({"path": "/var/lib/forebay-evil"}), ["/var/lib/forebay-evil", "/var/lib/forebay"]),
            ("/buffer/disk/hostPath", json!({"path": "/var/lib/forebay/../../etc"}), ["..", "/var/lib/forebay"]),
        ] {
            let refusal = resolved(with(pointer, value)).expect_err("the class forbids it");
            assert_eq!(refusal.stalled, Reason::ForbiddenByClass, "{refusal}");
            assert!(told.iter().all(|part| refusal.message.contains(part)), "{refusal}");
        }
    }

    #[test]
    fn a_class_that_is_not_there_or_not_for_this_namespace_stalls_the_pipeline() {
        let labels = BTreeMap::new();
        let pipeline = pipeline(node_agents());
        let nobody = resolve(&Gathered { pipeline: &pipeline, classes: &[], namespace_labels: &labels }).expect_err("no class");
        assert_eq!((nobody.stalled, nobody.config_valid), (Reason::ReferenceNotFound, None));
        let mut class = class();
        class.spec.namespaces = Some(api::NamespaceRule { match_labels: BTreeMap::from([("telemetry".into(), "allowed".into())]) });
        let elsewhere = resolve(&Gathered { pipeline: &pipeline, classes: &[class], namespace_labels: &labels }).expect_err("no label");
        assert_eq!(elsewhere.stalled, Reason::ForbiddenByClass);
    }

    #[test]
    fn an_endpoint_that_cannot_be_dialled_is_named() {
        for endpoint in ["collector:4317", "http://collector", "http://:4317", "http://collector:70000"] {
            let refusal = resolved(with("/destinations/0/otlpGrpc/endpoint", json!(endpoint))).expect_err(endpoint);
            assert_eq!(refusal.config_valid, Some(Reason::EndpointInvalid));
            assert!(refusal.message.contains("destinations[backend]"), "{refusal}");
        }
    }

    #[test]
    fn limits_too_small_to_work_within_are_a_condition() {
        let resolved = resolved(with("/resources", json!({"limits": {"memory": "16Mi"}}))).expect("the shape is right");
        assert_eq!(solve(&resolved).expect_err("too small").config_valid, Some(Reason::BudgetTooSmall));
    }
}
