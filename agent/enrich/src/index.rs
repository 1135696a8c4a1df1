//! The index itself: cgroups by id, pods by UID, both bounded. Separate from the path parser because it is state.

use std::collections::HashMap;
use std::time::Duration;

use crate::path::{ContainerPath, parse_cgroup_path};

/// How long what was removed can still be looked up: longer than a time slot and the reading of it.
pub const KEEP: Duration = Duration::from_secs(60);
/// Most container cgroups that are remembered: the kubelet's 250 pods of several containers, and as many that died lately.
pub const CGROUPS_MAX: usize = 8192;
/// Most pods that are remembered.
pub const PODS_MAX: usize = 2048;

/// Whom a record belongs to, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attribution {
    /// Id of the container, without the runtime's prefix.
    pub container_id: Option<String>,
    /// UID of the pod.
    pub pod_uid: Option<String>,
    /// Name of the pod.
    pub pod_name: Option<String>,
    /// Its namespace.
    pub namespace: Option<String>,
    /// Name of the container within the pod.
    pub container_name: Option<String>,
    /// Name of the node.
    pub node_name: Option<String>,
}

/// A pod of the own node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its UID; a static pod's is the hash that its cgroup shows (`kubernetes.io/config.hash`).
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Id (without the runtime's prefix) and name of each container.
    pub containers: Vec<(String, String)>,
}

#[derive(Debug)]
struct Entry<T> {
    value: T,
    removed: Option<Duration>,
}

/// cgroup id → container → pod.
#[derive(Debug, Default)]
pub struct Index {
    node_name: Option<String>,
    cgroups: HashMap<u64, Entry<ContainerPath>>,
    pods: HashMap<String, Entry<Pod>>,
    refused: u64,
}

impl Index {
    /// An empty index; `node_name` goes into every attribution.
    #[must_use]
    pub fn new(node_name: Option<String>) -> Self {
        Self { node_name, ..Self::default() }
    }

    /// A cgroup is there. Only those of containers are remembered; an id that was used before gets the new path.
    pub fn insert_cgroup(&mut self, id: u64, path: &str) {
        match parse_cgroup_path(path) {
            Some(value) => self.refused += insert(&mut self.cgroups, CGROUPS_MAX, id, value),
            None => _ = self.cgroups.remove(&id),
        }
    }

    /// A cgroup is gone; it stays known for [`KEEP`].
    pub fn remove_cgroup(&mut self, now: Duration, id: u64) {
        if let Some(entry) = self.cgroups.get_mut(&id) {
            entry.removed.get_or_insert(now);
        }
    }

    /// A pod is there, or has changed. Containers that it no longer lists keep their names: they may still have records under way.
    pub fn upsert_pod(&mut self, mut pod: Pod) {
        if let Some(old) = self.pods.remove(&pod.uid) {
            let gone = old.value.containers.into_iter().filter(|(id, _)| !pod.containers.iter().any(|(new, _)| new == id));
            let gone: Vec<_> = gone.take(CONTAINERS_KEPT).collect();
            pod.containers.extend(gone);
        }
        self.refused += insert(&mut self.pods, PODS_MAX, pod.uid.clone(), pod);
    }

    /// A pod is gone; it stays known for [`KEEP`].
    pub fn remove_pod(&mut self, now: Duration, uid: &str) {
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.removed.get_or_insert(now);
        }
    }

    /// Whom this cgroup's records belong to. An unknown one yields the node alone.
    #[must_use]
    pub fn attribute(&self, cgroup: u64) -> Attribution {
        let mut found = Attribution { node_name: self.node_name.clone(), ..Attribution::default() };
        let Some(Entry { value: path, .. }) = self.cgroups.get(&cgroup) else { return found };
        found.container_id = Some(path.container_id.clone());
        found.pod_uid = Some(path.pod_uid.clone());
        if let Some(Entry { value: pod, .. }) = self.pods.get(&path.pod_uid) {
            found.pod_name = Some(pod.name.clone());
            found.namespace = Some(pod.namespace.clone());
            let named = pod.containers.iter().find(|(id, _)| *id == path.container_id);
            found.container_name = named.map(|(_, name)| name.clone());
        }
        found
    }

    /// Forgets what was removed longer ago than [`KEEP`].
    pub fn expire(&mut self, now: Duration) {
        let is_kept = |removed: Option<Duration>| removed.is_none_or(|removed| now.saturating_sub(removed) < KEEP);
        self.cgroups.retain(|_, entry| is_kept(entry.removed));
        self.pods.retain(|_, entry| is_kept(entry.removed));
    }

    /// Cgroups and pods that found no room, since the start.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

/// Containers of earlier states that a pod keeps: restarts of a crash loop come seconds apart at the fastest.
const CONTAINERS_KEPT: usize = 64;

/// Inserts within a bound; 1 if there was no room. The one removed first makes room.
fn insert<K: Clone + Eq + std::hash::Hash, V>(map: &mut HashMap<K, Entry<V>>, max: usize, key: K, value: V) -> u64 {
    if map.len() >= max && !map.contains_key(&key) {
        let oldest = map.iter().filter_map(|(key, entry)| Some((entry.removed?, key))).min_by_key(|&(removed, _)| removed);
        let Some(oldest) = oldest.map(|(_, key)| key.clone()) else { return 1 };
        map.remove(&oldest);
    }
    map.insert(key, Entry { value, removed: None });
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4a1c0c5c7c1f4a7d8a6a5d1b1f6e2c3d4a1c0c5c7c1f4a7d8a6a5d1b1f6e2c3d";
    const UID: &str = "0b7a6c1e-2f3d-4a5b-8c9d-0e1f2a3b4c5d";

    fn path() -> String {
        format!("/kubepods/burstable/pod{UID}/{ID}")
    }

    fn pod() -> Pod {
        Pod { uid: UID.into(), namespace: "shop".into(), name: "cart-1".into(), containers: vec![(ID.into(), "cart".into())] }
    }

    #[test]
    fn names_are_found_whichever_of_cgroup_and_pod_came_first() {
        let mut index = Index::new(Some("worker-1".into()));
        assert_eq!(index.attribute(5), Attribution { node_name: Some("worker-1".into()), ..Attribution::default() });
        index.insert_cgroup(5, &path());
        let ids_only = index.attribute(5);
        assert_eq!((ids_only.container_id.as_deref(), ids_only.pod_uid.as_deref(), ids_only.pod_name), (Some(ID), Some(UID), None));
        index.upsert_pod(pod());
        index.insert_cgroup(6, &format!("{}/nested", path()));
        for cgroup in [5, 6] {
            let known = index.attribute(cgroup);
            assert_eq!(
                (known.pod_name.as_deref(), known.namespace.as_deref(), known.container_name.as_deref()),
                (Some("cart-1"), Some("shop"), Some("cart"))
            );
        }
    }

    #[test]
    fn what_was_removed_is_known_until_it_expires() {
        let mut index = Index::new(None);
        index.insert_cgroup(5, &path());
        index.upsert_pod(pod());
        index.remove_cgroup(Duration::from_secs(10), 5);
        index.remove_pod(Duration::from_secs(10), UID);
        index.expire(Duration::from_secs(69));
        assert_eq!(index.attribute(5).pod_name.as_deref(), Some("cart-1"));
        index.expire(Duration::from_secs(70));
        assert_eq!(index.attribute(5), Attribution::default());
    }

    #[test]
    fn a_pod_that_was_removed_loses_its_names_when_it_expires_while_its_cgroup_lives_on() {
        let mut index = Index::new(None);
        index.insert_cgroup(5, &path());
        index.upsert_pod(pod());
        index.remove_pod(Duration::from_secs(10), UID);
        index.expire(Duration::from_secs(69));
        assert_eq!(index.attribute(5).pod_name.as_deref(), Some("cart-1"));
        index.expire(Duration::from_secs(70));
        assert_eq!((index.attribute(5).pod_name, index.attribute(5).pod_uid.as_deref()), (None, Some(UID)));
    }

    #[test]
    fn pods_beyond_the_most_are_counted_and_left_out() {
        let mut index = Index::new(None);
        for number in 0..PODS_MAX + 2 {
            index.upsert_pod(Pod { uid: number.to_string(), ..pod() });
        }
        assert_eq!(index.refused(), 2);
    }

    #[test]
    fn a_restarted_container_leaves_the_dead_one_its_name() {
        let mut index = Index::new(None);
        index.insert_cgroup(5, &path());
        index.upsert_pod(pod());
        index.upsert_pod(Pod { containers: vec![("f".repeat(64), "cart".into())], ..pod() });
        assert_eq!(index.attribute(5).container_name.as_deref(), Some("cart"));
    }

    #[test]
    fn a_full_index_gives_up_the_dead_first_and_counts_what_it_cannot_take() {
        let mut index = Index::new(None);
        for id in 0..CGROUPS_MAX as u64 {
            index.insert_cgroup(id, &path());
        }
        index.remove_cgroup(Duration::from_secs(1), 7);
        index.insert_cgroup(1 << 40, &path());
        assert_eq!((index.attribute(7).container_id, index.attribute(1 << 40).container_id.is_some(), index.refused()), (None, true, 0));
        index.insert_cgroup(1 << 41, &path());
        assert_eq!((index.attribute(1 << 41).container_id, index.refused()), (None, 1));
    }

    #[test]
    fn a_reused_id_does_not_inherit_the_container_of_its_predecessor() {
        let mut index = Index::new(None);
        index.insert_cgroup(5, &path());
        index.insert_cgroup(5, "/system.slice/cron.service");
        assert_eq!(index.attribute(5).container_id, None);
    }
}
