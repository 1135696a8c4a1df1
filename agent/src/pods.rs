//! Follows the pods of the agent's own node, so that kernel records carry names. Without access to the API the records go out with
//! container id and pod UID, which the cgroup's path gives.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use enrich::{Index, Pod as KnownPod};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_stream};
use kube::{Api, Client};

/// Annotations of a static pod's mirror: its cgroup shows the hash, not the UID of the mirror.
const MIRROR: &str = "kubernetes.io/config.mirror";
const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// Whether this process runs in a cluster, so that an API to ask exists.
pub(crate) fn is_in_cluster() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// Follows the pods of `node` until it is dropped. `started` is when the index's time began.
pub(crate) async fn follow(node: String, index: Arc<Mutex<Index>>, started: Instant) {
    let client = match Client::try_default().await {
        Ok(client) => client,
        Err(cause) => {
            tracing::warn!(error = %cause, "no access to the Kubernetes API; kernel records go out without pod names");
            return;
        }
    };
    let wanted = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let mut events = std::pin::pin!(watch_stream(Api::<Pod>::all(client), wanted).default_backoff());
    let mut listed = HashSet::new();
    let mut known = HashSet::new();
    let mut is_failing = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                is_failing = false;
                let mut index = index.lock().unwrap_or_else(PoisonError::into_inner);
                take_event(event, &mut index, started, &mut listed, &mut known);
            }
            Err(cause) if !is_failing => {
                is_failing = true;
                tracing::warn!(error = %cause, "pods cannot be followed; tried again, names of new pods are missing meanwhile");
            }
            Err(_) => {}
        }
    }
}

/// A list replaces what was known: a pod that is missing from it is gone.
fn take_event(event: Event<Pod>, index: &mut Index, started: Instant, listed: &mut HashSet<String>, known: &mut HashSet<String>) {
    match event {
        Event::Init => listed.clear(),
        Event::InitApply(pod) => {
            if let Some(pod) = known_pod(pod) {
                listed.insert(pod.uid.clone());
                index.upsert_pod(pod);
            }
        }
        Event::InitDone => {
            for gone in known.difference(listed) {
                index.remove_pod(started.elapsed(), gone);
            }
            *known = std::mem::take(listed);
        }
        Event::Apply(pod) => {
            if let Some(pod) = known_pod(pod) {
                known.insert(pod.uid.clone());
                index.upsert_pod(pod);
            }
        }
        Event::Delete(pod) => {
            if let Some(pod) = known_pod(pod) {
                known.remove(&pod.uid);
                index.remove_pod(started.elapsed(), &pod.uid);
            }
        }
    }
}

fn known_pod(pod: Pod) -> Option<KnownPod> {
    let metadata = pod.metadata;
    let hash = metadata.annotations.filter(|notes| notes.contains_key(MIRROR)).and_then(|mut notes| notes.remove(CONFIG_HASH));
    let status = pod.status.unwrap_or_default();
    let lists = [status.container_statuses, status.init_container_statuses, status.ephemeral_container_statuses];
    let containers = lists.into_iter().flatten().flatten().flat_map(container_ids).collect();
    Some(KnownPod { uid: hash.or(metadata.uid)?, namespace: metadata.namespace?, name: metadata.name?, containers })
}

/// The container that runs and the one before it, whose last records may still be under way.
fn container_ids(status: ContainerStatus) -> impl Iterator<Item = (String, String)> {
    let last = status.last_state.and_then(|state| state.terminated).and_then(|ended| ended.container_id);
    let name = status.name;
    [status.container_id, last].into_iter().flatten().filter_map(move |id| {
        let (_, id) = id.split_once("://")?;
        Some((id.to_owned(), name.clone()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, hash: Option<&str>) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.uid = Some(uid.into());
        pod.metadata.name = Some("web".into());
        pod.metadata.namespace = Some("shop".into());
        pod.metadata.annotations =
            hash.map(|hash| [(MIRROR, hash), (CONFIG_HASH, hash)].map(|(key, value)| (key.into(), value.into())).into());
        pod
    }

    #[test]
    fn a_static_pod_is_known_by_the_hash_its_cgroup_shows() {
        assert_eq!(known_pod(pod("u", Some("h"))).expect("it has a name").uid, "h");
        assert_eq!(known_pod(pod("u", None)).expect("it has a name").uid, "u");
    }

    #[test]
    fn a_container_is_known_by_its_id_without_the_runtime() {
        let status = ContainerStatus { name: "app".into(), container_id: Some("containerd://abc".into()), ..ContainerStatus::default() };
        assert_eq!(container_ids(status).collect::<Vec<_>>(), [("abc".to_owned(), "app".to_owned())]);
    }

    #[test]
    fn a_pod_missing_from_a_new_list_is_gone() {
        let (mut index, started) = (Index::new(None), Instant::now());
        let (mut listed, mut known) = (HashSet::new(), HashSet::new());
        let mut take = |event| take_event(event, &mut index, started, &mut listed, &mut known);
        take(Event::Apply(pod("old", None)));
        take(Event::Init);
        take(Event::InitApply(pod("new", None)));
        take(Event::InitDone);
        assert_eq!(known, HashSet::from(["new".to_owned()]));
    }
}
