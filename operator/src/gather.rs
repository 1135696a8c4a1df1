//! What the operator reads: pipelines and classes by the controller, pods and nodes by watches of its own, the rest on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

use crds::v1alpha1::{TelemetryPipeline, TelemetryPipelineClass, WorkloadKind};
use futures::StreamExt;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, Subject};
use kube::api::{Api, ApiResource, DynamicObject, ListParams, ObjectMeta, PartialObjectMeta};
use kube::runtime::controller::Config;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{Controller, WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use plan::build::{Child, ChildKind};
use plan::diff::{LabelledService, Live, World};
use plan::names;
use plan::observe::WorkloadView;
use serde::de::DeserializeOwned;
use tracing::warn;

use crate::certificates::Authority;

/// A silently dropped connection is noticed after this many seconds, and five.
const WATCH_SECONDS: u32 = 60;
/// Reconciliations at once.
const CONCURRENCY: u16 = 8;
/// Time for further changes to join a change.
const DEBOUNCE: Duration = Duration::from_secs(1);
/// The Secret of the fleet's certificate authority; the chart makes it, empty.
pub(crate) const AUTHORITY_SECRET: &str = "forebay-fleet-ca";

fn watching() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS)
}

/// The API for children of one kind.
pub(crate) fn children(client: &Client, kind: ChildKind, namespace: &str) -> Api<DynamicObject> {
    let (group, plural) = kind.resource();
    let api_version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
    let resource = ApiResource { group: group.into(), version: "v1".into(), api_version, kind: kind.name().into(), plural: plural.into() };
    Api::namespaced_with(client.clone(), namespace, &resource)
}

/// Pods and nodes of the cluster, kept up to date by two watches.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) pods: Store<Pod>,
    pub(crate) nodes: Store<PartialObjectMeta<Node>>,
}

impl Cluster {
    /// Starts the watches; they end with the future that is returned.
    pub(crate) fn watch(client: &Client) -> (Self, impl Future<Output = ()> + use<>) {
        let (pods, pod_writer) = reflector::store();
        let (nodes, node_writer) = reflector::store();
        let agents = Api::<Pod>::all(client.clone());
        let pod_watch = follow(watcher(agents, watching().labels(names::SELECTOR_MANAGED)), pod_writer, slim);
        let node_watch = follow(watcher(Api::<PartialObjectMeta<Node>>::all(client.clone()), watching()), node_writer, |node| {
            node.metadata.managed_fields = None;
            node.metadata.annotations = None;
        });
        let watches = async {
            tokio::join!(pod_watch, node_watch);
        };
        (Self { pods, nodes }, watches)
    }

    /// Returns when both have their first answer.
    pub(crate) async fn is_synced(&self) {
        for known in [self.pods.wait_until_ready().await, self.nodes.wait_until_ready().await] {
            if known.is_err() {
                warn!("a watch ended before its first answer");
            }
        }
    }

    pub(crate) fn node_names(&self) -> BTreeSet<String> {
        self.nodes.state().iter().map(|node| node.name_any()).collect()
    }
}

/// Only what a status needs is kept of a pod.
fn slim(pod: &mut Pod) {
    pod.spec = None;
    pod.metadata.managed_fields = None;
    pod.metadata.annotations = None;
}

async fn follow<K>(
    events: impl futures::Stream<Item = watcher::Result<watcher::Event<K>>>,
    writer: reflector::store::Writer<K>,
    trim: fn(&mut K),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Default + Eq + Hash + Clone,
{
    let stream = events.default_backoff().modify(trim).reflect(writer).touched_objects();
    stream
        .for_each(|event| async {
            if let Err(error) = event {
                warn!(error = &error as &dyn std::error::Error, "a watch failed and starts again");
            }
        })
        .await;
}

/// Classes, and the labels of the pipeline's namespace.
pub(crate) async fn rules(
    client: &Client,
    namespace: &str,
) -> Result<(Vec<TelemetryPipelineClass>, BTreeMap<String, String>), kube::Error> {
    let classes = Api::<TelemetryPipelineClass>::all(client.clone()).list(&ListParams::default()).await?.items;
    let labels = Api::<Namespace>::all(client.clone()).get(namespace).await?.metadata.labels.unwrap_or_default();
    Ok((classes, labels))
}

/// What is there of the intended objects, and the workload itself.
pub(crate) async fn world(client: &Client, namespace: &str, intended: &[Child]) -> Result<(World, Option<serde_json::Value>), kube::Error> {
    let mut world = World::new();
    let mut workload = None;
    for child in intended {
        let Some(object) = children(client, child.kind, namespace).get_opt(&child.name).await? else { continue };
        world.insert((child.kind, child.name.clone()), live(&object));
        if child.kind.is_workload() {
            workload = serde_json::to_value(&object).ok();
        }
    }
    Ok((world, workload))
}

/// The workload of a pipeline whose objects are not built at the moment.
pub(crate) async fn workload(
    client: &Client,
    namespace: &str,
    kind: WorkloadKind,
    name: &str,
) -> Result<Option<WorkloadView>, kube::Error> {
    let child = match kind {
        WorkloadKind::DaemonSet => ChildKind::DaemonSet,
        WorkloadKind::StatefulSet => ChildKind::StatefulSet,
        WorkloadKind::Deployment => ChildKind::Deployment,
    };
    let object = children(client, child, namespace).get_opt(name).await?;
    Ok(object.and_then(|object| serde_json::to_value(object).ok()).map(|object| WorkloadView::of(kind, &object)))
}

/// A workload's status changes all the time; its generation only when its intention does.
pub(crate) fn live(object: &DynamicObject) -> Live {
    let metadata = &object.metadata;
    let version =
        metadata.generation.map_or_else(|| metadata.resource_version.clone().unwrap_or_default(), |generation| generation.to_string());
    Live { version, owner: controlled_by(metadata) }
}

/// UID of the object that controls the one of `metadata`.
fn controlled_by(metadata: &ObjectMeta) -> Option<String> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone())
}

/// The Services that wear a pipeline's label.
pub(crate) async fn services(client: &Client, namespace: &str, pipeline: &str) -> Result<Vec<LabelledService>, kube::Error> {
    let selector = ListParams::default().labels(&format!("{},{}={pipeline}", names::SELECTOR_MANAGED, names::LABEL_PIPELINE));
    let services = Api::<PartialObjectMeta<Service>>::namespaced(client.clone(), namespace).list(&selector).await?;
    let labelled = |service: PartialObjectMeta<Service>| LabelledService {
        owner: controlled_by(&service.metadata),
        name: service.metadata.name.unwrap_or_default(),
        uid: service.metadata.uid.unwrap_or_default(),
    };
    Ok(services.items.into_iter().map(labelled).collect())
}

/// Names of the copies of earlier configurations, oldest first.
pub(crate) async fn history(client: &Client, namespace: &str, pipeline: &str) -> Result<Vec<String>, kube::Error> {
    let selector = ListParams::default().labels(&format!("{}={pipeline}", names::LABEL_HISTORY));
    let mut copies = Api::<PartialObjectMeta<ConfigMap>>::namespaced(client.clone(), namespace).list(&selector).await?.items;
    copies.sort_by_key(|copy| (copy.metadata.creation_timestamp.as_ref().map(|time| time.0), copy.name_any()));
    Ok(copies.iter().map(ResourceExt::name_any).collect())
}

/// Who may read pods, as the binding says.
pub(crate) async fn readers(client: &Client) -> Result<Vec<Subject>, kube::Error> {
    let binding = Api::<ClusterRoleBinding>::all(client.clone()).get(names::AGENT_PODS_ROLE).await?;
    Ok(binding.subjects.unwrap_or_default())
}

/// The Secret of the authority, and the authority if it holds one.
pub(crate) async fn authority(client: &Client, namespace: &str) -> Result<(Secret, Option<Authority>), kube::Error> {
    let secret = Api::<Secret>::namespaced(client.clone(), namespace).get(AUTHORITY_SECRET).await?;
    let text = |key: &str| String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok().filter(|text| !text.is_empty());
    let authority = text("ca.crt").zip(text("ca.key")).map(|(certificate, key)| Authority { certificate, key });
    Ok((secret, authority))
}

/// The controller of pipelines: with their children, and with the classes, whose change concerns every pipeline.
pub(crate) fn controller(client: &Client) -> Controller<TelemetryPipeline> {
    let config = Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE);
    let controller = Controller::new(Api::<TelemetryPipeline>::all(client.clone()), watching()).with_config(config);
    let known = controller.store();
    let all = move |_| known.state().iter().map(|pipeline| ObjectRef::from_obj(pipeline.as_ref())).collect::<Vec<_>>();
    let managed = || watching().labels(names::SELECTOR_MANAGED);
    controller
        .owns(Api::<DaemonSet>::all(client.clone()), managed())
        .owns(Api::<StatefulSet>::all(client.clone()), managed())
        .owns(Api::<Deployment>::all(client.clone()), managed())
        .owns(Api::<ConfigMap>::all(client.clone()), managed())
        .owns(Api::<Service>::all(client.clone()), managed())
        .owns(Api::<ServiceAccount>::all(client.clone()), managed())
        .watches(Api::<TelemetryPipelineClass>::all(client.clone()), watching(), all)
}
