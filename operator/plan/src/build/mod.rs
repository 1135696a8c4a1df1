//! From a resolved and solved specification to the objects that carry it out. Infallible: what could fail has failed before.

mod config;
mod pod;
mod service;
mod workload;

use budget::Budget;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::names;
use crate::resolve::Resolved;

/// What the operator's installation decides, not the pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// Image of the agents.
    pub agent_image: String,
    /// When it is pulled.
    pub agent_image_pull_policy: String,
    /// Namespace of the operator.
    pub namespace: String,
    /// PEM of the certificate authority that signs the fleet service.
    pub fleet_ca: String,
}

/// The kind of a child, as the API server names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChildKind {
    /// Identity of the agents.
    ServiceAccount,
    /// Their configuration.
    ConfigMap,
    /// The way to their OTLP port.
    Service,
    /// One agent per node.
    DaemonSet,
    /// Replicas with a volume each.
    StatefulSet,
    /// Replicas without.
    Deployment,
}

impl ChildKind {
    /// API group (empty for the core), and the plural in URLs.
    #[must_use]
    pub const fn resource(self) -> (&'static str, &'static str) {
        match self {
            Self::ServiceAccount => ("", "serviceaccounts"),
            Self::ConfigMap => ("", "configmaps"),
            Self::Service => ("", "services"),
            Self::DaemonSet => ("apps", "daemonsets"),
            Self::StatefulSet => ("apps", "statefulsets"),
            Self::Deployment => ("apps", "deployments"),
        }
    }

    /// The kind's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ServiceAccount => "ServiceAccount",
            Self::ConfigMap => "ConfigMap",
            Self::Service => "Service",
            Self::DaemonSet => "DaemonSet",
            Self::StatefulSet => "StatefulSet",
            Self::Deployment => "Deployment",
        }
    }

    /// Whether it runs pods.
    #[must_use]
    pub const fn is_workload(self) -> bool {
        matches!(self, Self::DaemonSet | Self::StatefulSet | Self::Deployment)
    }
}

/// An object to be applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    /// Its kind.
    pub kind: ChildKind,
    /// Its name.
    pub name: String,
    /// The whole intended object.
    pub body: serde_json::Value,
    /// Hash of the body.
    pub hash: String,
}

/// Everything one pipeline needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects {
    /// The children, in the order in which they are applied: what a pod refers to comes before the pod.
    pub children: Vec<Child>,
    /// Hash of the configuration the agents should run with.
    pub config_hash: String,
    /// Whether the agents may read the pods of their node.
    pub reads_pods: bool,
}

/// Builds the objects.
#[must_use]
pub fn build(resolved: &Resolved, budget: &Budget, installation: &Installation) -> Objects {
    let rendered = config::render(resolved, budget, installation);
    let mut children = vec![child(ChildKind::ServiceAccount, names::service_account(&resolved.identity.name), &service_account(resolved))];
    children.extend(config::maps(resolved, &rendered, installation));
    children.extend(service::services(resolved));
    children.push(workload::workload(resolved, budget, installation, &rendered.hash));
    Objects { children, config_hash: rendered.hash, reads_pods: resolved.ebpf }
}

/// The account has a token only where an agent asks the API server, for the pods of its node; see the pod.
fn service_account(resolved: &Resolved) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(resolved, names::service_account(&resolved.identity.name)),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

fn metadata(resolved: &Resolved, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(resolved.identity.namespace.clone()),
        labels: Some(names::labels(&resolved.identity.name)),
        owner_references: Some(vec![OwnerReference {
            api_version: "forebay.dev/v1alpha1".into(),
            kind: "TelemetryPipeline".into(),
            name: resolved.identity.name.clone(),
            uid: resolved.identity.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    }
}

fn child<K: Serialize>(kind: ChildKind, name: String, object: &K) -> Child {
    // Kubernetes' own types have string keys throughout, so that turning them into JSON cannot fail.
    let body = serde_json::to_value(object).unwrap_or_default();
    let hash = hash(&body.to_string());
    Child { kind, name, body, hash }
}

/// The first 16 hexadecimal digits of the SHA-256 of `text`.
#[must_use]
pub fn hash(text: &str) -> String {
    use std::fmt::Write;
    Sha256::digest(text.as_bytes()).iter().take(8).fold(String::new(), |mut digits, byte| {
        // Writing into a String cannot fail.
        write!(digits, "{byte:02x}").ok();
        digits
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::solve;
    use crate::resolve::tests::{node_agents, resolved};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn installation() -> Installation {
        Installation {
            agent_image: "forebay/agent:0.1.0".into(),
            agent_image_pull_policy: "IfNotPresent".into(),
            namespace: "forebay-system".into(),
            fleet_ca: "-----BEGIN CERTIFICATE-----\n".into(),
        }
    }

    fn built(spec: Value) -> Objects {
        let resolved = resolved(spec).expect("it can be built");
        build(&resolved, &solve(&resolved).expect("it suffices"), &installation())
    }

    fn gateway(kind: &str, disk: Value) -> Value {
        json!({
            "workload": {"kind": kind, "replicas": 2},
            "sources": {"otlp": {}},
            "buffer": {"mode": if disk.is_null() { "Memory" } else { "Mirror" }, "disk": disk},
            "destinations": [{"name": "backend", "otlpGrpc": {"endpoint": "http://collector:4317"}}],
        })
    }

    fn pod(objects: &Objects) -> &Value {
        let workload = objects.children.iter().find(|child| child.kind.is_workload()).expect("a workload");
        &workload.body["spec"]["template"]["spec"]
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the golden files are read, and written anew on request")]
    fn the_rendered_objects_are_those_of_the_golden_files() {
        for (name, spec) in [
            ("node-agents", node_agents()),
            ("gateway", gateway("StatefulSet", json!({"size": "1Gi", "medium": "PersistentVolumeClaim"}))),
            ("memory", gateway("Deployment", Value::Null)),
        ] {
            let bodies: Vec<_> = built(spec).children.into_iter().map(|child| child.body).collect();
            let rendered = serde_saphyr::to_string(&bodies).expect("it is YAML");
            let path = format!("{}/tests/golden/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
            if option_env!("BLESS").is_some() {
                std::fs::write(&path, &rendered).expect("the golden folder is there");
            }
            let golden = std::fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(rendered, golden, "{path} differs: look at the difference, then run with BLESS=1 at compile time");
        }
    }

    #[test]
    fn the_same_specification_builds_the_same_objects() {
        assert_eq!(built(node_agents()), built(node_agents()));
    }

    #[test]
    fn another_configuration_has_another_hash_and_rolls_the_pods() {
        let before = built(node_agents());
        let mut spec = node_agents();
        spec["destinations"][0]["otlpGrpc"]["endpoint"] = json!("http://elsewhere:4317");
        let after = built(spec);
        assert_ne!(before.config_hash, after.config_hash);
        let annotation = |objects: &Objects| {
            let workload = objects.children.last().expect("a workload").body.clone();
            workload["spec"]["template"]["metadata"]["annotations"][names::ANNOTATION_CONFIG_HASH].clone()
        };
        assert_ne!(annotation(&before), annotation(&after));
    }

    fn any_spec() -> impl Strategy<Value = Value> {
        (0_usize..3, any::<bool>(), any::<bool>(), 0_usize..4, proptest::option::of("[a-z]{1,8}")).prop_map(
            |(kind, ebpf, otlp, disk, label)| {
                let kind = ["DaemonSet", "StatefulSet", "Deployment"][kind];
                let medium = match (disk, kind) {
                    (0, _) => None,
                    (1, "DaemonSet") => Some("HostPath"),
                    (1 | 2, "StatefulSet") => Some("PersistentVolumeClaim"),
                    _ => Some("EmptyDir"),
                };
                let mut sources = json!({});
                if ebpf && kind == "DaemonSet" {
                    sources["ebpf"] = json!({});
                }
                if otlp || sources == json!({}) {
                    sources["otlp"] = json!({});
                }
                let mut spec = json!({
                    "workload": {"kind": kind, "placement": {"nodeSelector": label.map(|label| json!({label: "x"})).unwrap_or(json!({}))}},
                    "sources": sources,
                    "buffer": {"mode": "Memory"},
                    "destinations": [{"name": "backend", "otlpGrpc": {"endpoint": "http://collector:4317"}}],
                });
                if kind != "DaemonSet" {
                    spec["workload"]["replicas"] = json!(2);
                }
                if let Some(medium) = medium {
                    spec["buffer"] = json!({"mode": "Spill", "disk": {"size": "1Gi", "medium": medium}});
                }
                spec
            },
        )
    }

    proptest! {
        #[test]
        fn no_pod_has_more_rights_than_its_sources_and_its_disk_call_for(spec in any_spec()) {
            let objects = built(spec.clone());
            let pod = pod(&objects);
            let ebpf = !spec["sources"]["ebpf"].is_null();
            let host_path = spec["buffer"]["disk"]["medium"] == "HostPath";
            for forbidden in ["hostNetwork", "hostPID", "hostIPC"] {
                prop_assert!(pod[forbidden].is_null());
            }
            let container = &pod["containers"][0];
            let context = &container["securityContext"];
            prop_assert_eq!(&context["allowPrivilegeEscalation"], &json!(false));
            prop_assert_eq!(&context["readOnlyRootFilesystem"], &json!(true));
            prop_assert_eq!(&context["capabilities"]["drop"], &json!(["ALL"]));
            prop_assert!(context["privileged"].is_null());
            prop_assert_eq!(&context["capabilities"]["add"], &if ebpf { json!(["BPF", "PERFMON"]) } else { Value::Null });
            prop_assert_eq!(&pod["securityContext"]["seccompProfile"]["type"], &json!("RuntimeDefault"));
            let is_root = pod["securityContext"]["runAsUser"] == json!(0);
            prop_assert_eq!(is_root, ebpf || host_path);
            prop_assert_eq!(pod["automountServiceAccountToken"] == json!(true), ebpf);
            let host_paths: Vec<_> = pod["volumes"].as_array().into_iter().flatten().filter_map(|volume| volume["hostPath"]["path"].as_str()).collect();
            for path in &host_paths {
                prop_assert!((ebpf && *path == "/sys/fs/cgroup") || (host_path && path.starts_with("/var/lib/forebay/")), "{}", path);
            }
            for mount in container["volumeMounts"].as_array().into_iter().flatten() {
                prop_assert!(mount["name"] == "buffer" || mount["readOnly"] == json!(true), "{}", mount);
            }
        }
    }
}
