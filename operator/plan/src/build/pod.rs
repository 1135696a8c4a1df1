//! The agents' pod: a fixed template. Nothing in it comes from the pipeline but sizes, placement and the two choices that call
//! for rights: kernel events, and a buffer on a host path.

use std::collections::BTreeMap;

use budget::Budget;
use crds::quantity::Quantity as Amount;
use crds::v1alpha1::{Effect, Exposure, Operator};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource, HTTPGetAction,
    HostPathVolumeSource, LocalObjectReference, ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
    ProjectedVolumeSource, ResourceRequirements, SeccompProfile, SecurityContext, ServiceAccountTokenProjection, Toleration, Volume,
    VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Installation;
use crate::names;
use crate::resolve::{Place, Resolved};

/// Where the configuration is mounted.
pub(super) const CONFIG_MOUNT: &str = "/etc/forebay";
/// Where the fleet token is mounted.
pub(super) const TOKEN_MOUNT: &str = "/var/run/forebay";
/// Where the buffer's volume is mounted.
pub(super) const BUFFER_MOUNT: &str = "/var/lib/forebay";
/// Where the host's cgroup tree is mounted.
pub(super) const CGROUP_MOUNT: &str = "/host/cgroup";
/// Lifetime of the fleet token; the kubelet renews it after 80 % of it, and the least the API server grants is 600.
const TOKEN_SECONDS: i64 = 3600;
/// The user of agents that need no rights; the same number as in the image.
const NON_ROOT: i64 = 65_532;

pub(super) fn template(resolved: &Resolved, budget: &Budget, installation: &Installation, config_hash: &str) -> PodTemplateSpec {
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(names::labels(&resolved.identity.name)),
            annotations: Some(BTreeMap::from([(names::ANNOTATION_CONFIG_HASH.to_owned(), config_hash.to_owned())])),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            automount_service_account_token: Some(resolved.ebpf),
            containers: vec![container(resolved, installation, config_hash)],
            enable_service_links: Some(false),
            image_pull_secrets: not_empty(
                resolved.image_pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect(),
            ),
            node_selector: Some(resolved.placement.node_selector.clone()).filter(|labels| !labels.is_empty()),
            priority_class_name: resolved.priority_class_name.clone(),
            security_context: Some(security_context(resolved)),
            service_account_name: Some(names::service_account(&resolved.identity.name)),
            termination_grace_period_seconds: Some(i64::from(budget.termination_grace_seconds)),
            tolerations: not_empty(tolerations(resolved)),
            volumes: Some(volumes(resolved)),
            ..PodSpec::default()
        }),
    }
}

fn not_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}

fn container(resolved: &Resolved, installation: &Installation, config_hash: &str) -> Container {
    let otlp = resolved.otlp.map(|exposure| ContainerPort {
        name: Some("otlp-grpc".into()),
        container_port: names::OTLP_PORT,
        host_port: (exposure == Exposure::HostPort).then_some(names::OTLP_PORT),
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    });
    let admin = ContainerPort {
        name: Some("admin".into()),
        container_port: names::ADMIN_PORT,
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    };
    Container {
        name: "agent".into(),
        image: Some(installation.agent_image.clone()),
        image_pull_policy: Some(installation.agent_image_pull_policy.clone()),
        args: Some(["run", "--config", "/etc/forebay/agent.yaml"].map(String::from).to_vec()),
        env: Some(environment(config_hash)),
        ports: Some(otlp.into_iter().chain([admin]).collect()),
        resources: Some(resources(resolved)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".into()]),
                add: resolved.ebpf.then(|| vec!["BPF".into(), "PERFMON".into()]),
            }),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        }),
        // Recovery of a large buffer may take minutes; only then does a silent process count as dead.
        startup_probe: Some(probe("/healthz", 2, 150)),
        liveness_probe: Some(probe("/healthz", 10, 6)),
        readiness_probe: Some(probe("/readyz", 5, 2)),
        volume_mounts: Some(mounts(resolved)),
        ..Container::default()
    }
}

fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction { path: Some(path.into()), port: IntOrString::Int(names::ADMIN_PORT), ..HTTPGetAction::default() }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failure_threshold),
        timeout_seconds: Some(3),
        ..Probe::default()
    }
}

fn environment(config_hash: &str) -> Vec<EnvVar> {
    let field = |name: &str, path: &str| EnvVar {
        name: name.into(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { api_version: Some("v1".into()), field_path: path.into() }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    vec![
        field("FOREBAY_NODE_NAME", "spec.nodeName"),
        field("FOREBAY_POD_NAME", "metadata.name"),
        field("FOREBAY_POD_NAMESPACE", "metadata.namespace"),
        field("FOREBAY_POD_UID", "metadata.uid"),
        EnvVar { name: "FOREBAY_CONFIG_HASH".into(), value: Some(config_hash.into()), ..EnvVar::default() },
    ]
}

fn resources(resolved: &Resolved) -> ResourceRequirements {
    let amounts = &resolved.amounts;
    let pair = |cpu: u64, memory: u64| {
        BTreeMap::from([
            ("cpu".to_owned(), Quantity::from(&Amount::of_millicores(cpu))),
            ("memory".to_owned(), Quantity::from(&Amount::of_bytes(memory))),
        ])
    };
    ResourceRequirements {
        limits: Some(pair(amounts.cpu_millicores, amounts.memory_bytes)),
        requests: Some(pair(amounts.cpu_request_millicores, amounts.memory_request_bytes)),
        ..ResourceRequirements::default()
    }
}

/// Kernel programs are loaded by root with two capabilities; a host path belongs to root, and no fsGroup reaches it.
fn security_context(resolved: &Resolved) -> PodSecurityContext {
    let on_host_path = matches!(resolved.disk.as_ref().map(|disk| &disk.place), Some(Place::HostPath(_)));
    let is_root = resolved.ebpf || on_host_path;
    let user = if is_root { 0 } else { NON_ROOT };
    PodSecurityContext {
        fs_group: (!is_root).then_some(NON_ROOT),
        run_as_group: Some(user),
        run_as_non_root: (!is_root).then_some(true),
        run_as_user: Some(user),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..SeccompProfile::default() }),
        ..PodSecurityContext::default()
    }
}

fn tolerations(resolved: &Resolved) -> Vec<Toleration> {
    let of = |toleration: &crds::v1alpha1::Toleration| Toleration {
        key: toleration.key.clone(),
        operator: toleration.operator.map(|operator| if operator == Operator::Exists { "Exists".into() } else { "Equal".into() }),
        value: toleration.value.clone(),
        effect: toleration.effect.map(|effect| {
            match effect {
                Effect::NoSchedule => "NoSchedule",
                Effect::PreferNoSchedule => "PreferNoSchedule",
                Effect::NoExecute => "NoExecute",
            }
            .to_owned()
        }),
        toleration_seconds: None,
    };
    resolved.placement.tolerations.iter().map(of).collect()
}

fn volumes(resolved: &Resolved) -> Vec<Volume> {
    let mut volumes = vec![
        Volume {
            name: "config".into(),
            config_map: Some(ConfigMapVolumeSource {
                name: names::config_map(&resolved.identity.name),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        Volume {
            name: "token".into(),
            projected: Some(ProjectedVolumeSource {
                sources: Some(vec![VolumeProjection {
                    service_account_token: Some(ServiceAccountTokenProjection {
                        audience: Some(crds::fleet::AUDIENCE.into()),
                        expiration_seconds: Some(TOKEN_SECONDS),
                        path: "token".into(),
                    }),
                    ..VolumeProjection::default()
                }]),
                ..ProjectedVolumeSource::default()
            }),
            ..Volume::default()
        },
    ];
    if resolved.ebpf {
        let host = HostPathVolumeSource { path: "/sys/fs/cgroup".into(), type_: Some("Directory".into()) };
        volumes.push(Volume { name: "cgroup".into(), host_path: Some(host), ..Volume::default() });
    }
    let buffer = Volume { name: "buffer".into(), ..Volume::default() };
    match resolved.disk.as_ref().map(|disk| (&disk.place, disk.bytes)) {
        Some((Place::HostPath(path), _)) => {
            let host = HostPathVolumeSource { path: path.clone(), type_: Some("DirectoryOrCreate".into()) };
            volumes.push(Volume { host_path: Some(host), ..buffer });
        }
        Some((Place::EmptyDir, bytes)) => {
            let empty =
                EmptyDirVolumeSource { size_limit: Some(Quantity::from(&Amount::of_bytes(bytes))), ..EmptyDirVolumeSource::default() };
            volumes.push(Volume { empty_dir: Some(empty), ..buffer });
        }
        // A claim comes from the StatefulSet's own template.
        Some((Place::Claim(_), _)) | None => {}
    }
    volumes
}

fn mounts(resolved: &Resolved) -> Vec<VolumeMount> {
    let read_only = |name: &str, path: &str| VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    let mut mounts = vec![read_only("config", CONFIG_MOUNT), read_only("token", TOKEN_MOUNT)];
    if resolved.ebpf {
        // The tree of a version 1 hierarchy consists of mounts within the mount.
        mounts.push(VolumeMount { recursive_read_only: Some("IfPossible".into()), ..read_only("cgroup", CGROUP_MOUNT) });
    }
    if resolved.disk.is_some() {
        mounts.push(VolumeMount { name: "buffer".into(), mount_path: BUFFER_MOUNT.into(), ..VolumeMount::default() });
    }
    mounts
}
