//! What runs the agents: one of three kinds around the same pod.

use std::collections::BTreeMap;

use budget::Budget;
use crds::quantity::Quantity as Amount;
use crds::v1alpha1::WorkloadKind;
use k8s_openapi::api::apps::v1::{
    DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, Deployment, DeploymentSpec, RollingUpdateDaemonSet, StatefulSet,
    StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Child, ChildKind, Installation, child, metadata, pod};
use crate::names;
use crate::resolve::{Place, Resolved};

/// Copies of earlier templates that Kubernetes keeps; the configurations they name are kept as long.
const REVISIONS: i32 = 5;

pub(super) fn workload(resolved: &Resolved, budget: &Budget, installation: &Installation, config_hash: &str) -> Child {
    let name = resolved.identity.name.clone();
    let template = pod::template(resolved, budget, installation, config_hash);
    let selector = LabelSelector { match_labels: Some(names::selector(&name)), ..LabelSelector::default() };
    let metadata = metadata(resolved, name.clone());
    match resolved.kind {
        WorkloadKind::DaemonSet => {
            // A tenth of the nodes at once: a fleet of thousands is through in minutes, and a bad configuration meets few.
            let rolling = RollingUpdateDaemonSet { max_unavailable: Some(IntOrString::String("10%".into())), max_surge: None };
            let strategy = DaemonSetUpdateStrategy { rolling_update: Some(rolling), type_: Some("RollingUpdate".into()) };
            let spec = DaemonSetSpec {
                revision_history_limit: Some(REVISIONS),
                selector,
                template,
                update_strategy: Some(strategy),
                ..DaemonSetSpec::default()
            };
            child(ChildKind::DaemonSet, name, &DaemonSet { metadata, spec: Some(spec), ..DaemonSet::default() })
        }
        WorkloadKind::StatefulSet => {
            let spec = StatefulSetSpec {
                // No volume with undelivered items is deleted.
                persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                    when_deleted: Some("Retain".into()),
                    when_scaled: Some("Retain".into()),
                }),
                pod_management_policy: Some("Parallel".into()),
                replicas: Some(resolved.replicas),
                revision_history_limit: Some(REVISIONS),
                selector,
                service_name: Some(names::headless(&name)),
                template,
                volume_claim_templates: claim_template(resolved).map(|claim| vec![claim]),
                ..StatefulSetSpec::default()
            };
            child(ChildKind::StatefulSet, name, &StatefulSet { metadata, spec: Some(spec), ..StatefulSet::default() })
        }
        WorkloadKind::Deployment => {
            let spec = DeploymentSpec {
                replicas: Some(resolved.replicas),
                revision_history_limit: Some(REVISIONS),
                selector,
                template,
                ..DeploymentSpec::default()
            };
            child(ChildKind::Deployment, name, &Deployment { metadata, spec: Some(spec), ..Deployment::default() })
        }
    }
}

fn claim_template(resolved: &Resolved) -> Option<PersistentVolumeClaim> {
    let disk = resolved.disk.as_ref()?;
    let Place::Claim(storage_class_name) = &disk.place else { return None };
    let requests = BTreeMap::from([("storage".to_owned(), Quantity::from(&Amount::of_bytes(disk.bytes)))]);
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some("buffer".into()),
            labels: Some(names::selector(&resolved.identity.name)),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            resources: Some(VolumeResourceRequirements { requests: Some(requests), ..VolumeResourceRequirements::default() }),
            storage_class_name: storage_class_name.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    })
}
