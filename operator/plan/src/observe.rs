//! Pods and workloads as far as a status needs them, read from what the API server says.

use crds::conditions::Reason;
use crds::v1alpha1::WorkloadKind;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde_json::Value;

use crate::windows::seconds_between;

/// A workload without a single pod for so long was most likely refused by admission.
const NO_POD_SECONDS: i64 = 15;

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodView {
    /// UID.
    pub uid: String,
    /// Name.
    pub name: String,
    /// Whether it is ready and stays.
    pub ready: bool,
    /// What keeps it from being ready, if that is known.
    pub trouble: Option<Reason>,
    /// The words of Kubernetes about it.
    pub detail: String,
}

impl PodView {
    /// Reads a pod.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let is_ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let leaving = pod.metadata.deletion_timestamp.is_some();
        let unschedulable = conditions.iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
        let container = status.and_then(|status| status.container_statuses.as_deref()).and_then(<[ContainerStatus]>::first);
        let (trouble, detail) = match (unschedulable, container.and_then(trouble_of)) {
            (Some(condition), _) => (Some(Reason::PodsUnschedulable), condition.message.clone().unwrap_or_default()),
            (None, Some((reason, detail))) => (Some(reason), detail),
            (None, None) => (None, String::new()),
        };
        Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            ready: is_ready && !leaving,
            trouble: trouble.filter(|_| !is_ready),
            detail,
        }
    }
}

fn trouble_of(container: &ContainerStatus) -> Option<(Reason, String)> {
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    let ended = [&container.state, &container.last_state].into_iter().flatten().find_map(|state| state.terminated.as_ref());
    let told = waiting.and_then(|waiting| waiting.message.clone()).unwrap_or_default();
    match (waiting.and_then(|waiting| waiting.reason.as_deref()), ended.and_then(|ended| ended.reason.as_deref())) {
        (Some("ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull"), _) => Some((Reason::ImagePullFailed, told)),
        (_, Some("OOMKilled")) => Some((Reason::OutOfMemory, format!("{} restarts", container.restart_count))),
        (Some("CrashLoopBackOff" | "RunContainerError" | "CreateContainerError"), _) => Some((Reason::CrashLooping, told)),
        _ => None,
    }
}

/// What runs the agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadView {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Pods there should be.
    pub desired: i32,
    /// Pods that are ready.
    pub ready: i32,
    /// Pods of the latest template.
    pub updated: i32,
    /// Pods there are.
    pub replicas: i32,
    /// Whether the controller has seen the latest specification.
    pub is_observed: bool,
    /// When it was made.
    pub created: Option<Timestamp>,
}

impl WorkloadView {
    /// Reads a DaemonSet, StatefulSet or Deployment.
    #[must_use]
    pub fn of(kind: WorkloadKind, object: &Value) -> Self {
        let number =
            |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).and_then(|number| i32::try_from(number).ok()).unwrap_or(0);
        let generation = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
        let names = match kind {
            WorkloadKind::DaemonSet => [
                "/status/desiredNumberScheduled",
                "/status/numberReady",
                "/status/updatedNumberScheduled",
                "/status/currentNumberScheduled",
            ],
            WorkloadKind::StatefulSet | WorkloadKind::Deployment => {
                ["/spec/replicas", "/status/readyReplicas", "/status/updatedReplicas", "/status/replicas"]
            }
        };
        let [desired, ready, updated, replicas] = names.map(number);
        Self {
            kind,
            desired,
            ready,
            updated,
            replicas,
            is_observed: generation("/status/observedGeneration") >= generation("/metadata/generation"),
            created: object.pointer("/metadata/creationTimestamp").and_then(Value::as_str).and_then(|time| time.parse().ok()),
        }
    }

    /// Whether every pod there should be is there, of the latest template.
    #[must_use]
    pub fn is_rolled_out(&self) -> bool {
        self.is_observed && self.updated >= self.desired && self.replicas <= self.desired
    }

    /// Whether at least nine tenths of the pods are ready, rounded up.
    #[must_use]
    pub fn has_minimum(&self) -> bool {
        self.ready > 0 && self.desired - self.ready <= self.desired / 10
    }

    /// Whether admission most likely refuses its pods: there should be some, and there is none.
    #[must_use]
    pub fn is_refused(&self, pods: &[PodView], now: Timestamp) -> bool {
        self.desired > 0 && pods.is_empty() && self.created.is_some_and(|created| seconds_between(created, now) >= NO_POD_SECONDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_reason_of_a_pod_that_does_not_start_is_found() {
        for (status, reason) in [
            (
                json!({"containerStatuses": [{"name": "agent", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]}),
                Some(Reason::ImagePullFailed),
            ),
            (
                json!({"containerStatuses": [{"name": "agent", "image": "", "imageID": "", "ready": false, "restartCount": 3,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}]}),
                Some(Reason::OutOfMemory),
            ),
            (json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]}), Some(Reason::PodsUnschedulable)),
            (json!({"conditions": [{"type": "Ready", "status": "True"}]}), None),
        ] {
            let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "a", "uid": "u"}, "status": status})).expect("a pod");
            assert_eq!(PodView::of(&pod).trouble, reason);
        }
    }

    #[test]
    fn a_rollout_is_complete_when_every_pod_is_of_the_latest_template() {
        let object = json!({"metadata": {"generation": 2}, "status": {"observedGeneration": 2, "desiredNumberScheduled": 2, "numberReady": 2,
            "updatedNumberScheduled": 1, "currentNumberScheduled": 2}});
        let view = WorkloadView::of(WorkloadKind::DaemonSet, &object);
        assert!(view.has_minimum() && !view.is_rolled_out());
    }
}
