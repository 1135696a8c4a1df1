//! Names, labels and paths that the rendered objects agree on; everything that is looked up elsewhere by name stands here once.

use std::collections::BTreeMap;

/// Field manager of child objects.
pub const MANAGER_WORKLOAD: &str = "forebay.dev/workload";
/// Field manager of the status.
pub const MANAGER_STATUS: &str = "forebay.dev/status";
/// Label with the name of the pipeline a child belongs to.
pub const LABEL_PIPELINE: &str = "forebay.dev/pipeline";
/// Label of the copies of earlier configurations.
pub const LABEL_HISTORY: &str = "forebay.dev/config-history";
/// Label on the operator's pod that leads.
pub const LABEL_LEADER: &str = "forebay.dev/leader";
/// Selects every object the operator made.
pub const SELECTOR_MANAGED: &str = "app.kubernetes.io/managed-by=forebay";
/// Annotation of a class that pipelines without a `classRef` use.
pub const ANNOTATION_DEFAULT_CLASS: &str = "forebay.dev/default-class";
/// Annotation of the pod template: another configuration rolls the pods.
pub const ANNOTATION_CONFIG_HASH: &str = "forebay.dev/config-hash";
/// The Service through which agents reach the leader.
pub const FLEET_SERVICE: &str = "forebay-fleet";
/// Its port.
pub const FLEET_PORT: i32 = 9443;
/// The chart's ClusterRole, and the binding of the same name that lists the agents which may read pods.
pub const AGENT_PODS_ROLE: &str = "forebay-agent-pods";
/// OTLP over gRPC.
pub const OTLP_PORT: i32 = 4317;
/// Metrics, probes and the ledger of an agent.
pub const ADMIN_PORT: i32 = 9464;
/// Copies of earlier configurations that are kept.
pub const HISTORY_MAX: usize = 5;

/// Name of the agents' service account.
#[must_use]
pub fn service_account(pipeline: &str) -> String {
    format!("{pipeline}-agent")
}

/// Name of the mounted configuration.
#[must_use]
pub fn config_map(pipeline: &str) -> String {
    format!("{pipeline}-config")
}

/// Name of the headless Service of a StatefulSet.
#[must_use]
pub fn headless(pipeline: &str) -> String {
    format!("{pipeline}-headless")
}

/// The labels that select a pipeline's pods; they never change.
#[must_use]
pub fn selector(pipeline: &str) -> BTreeMap<String, String> {
    labels_from(&[("app.kubernetes.io/name", "forebay-agent"), ("app.kubernetes.io/instance", pipeline)])
}

/// The labels of every child.
#[must_use]
pub fn labels(pipeline: &str) -> BTreeMap<String, String> {
    let mut labels = selector(pipeline);
    labels.extend(labels_from(&[
        ("app.kubernetes.io/component", "agent"),
        ("app.kubernetes.io/managed-by", "forebay"),
        (LABEL_PIPELINE, pipeline),
    ]));
    labels
}

fn labels_from(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}
