//! From a pipeline to its objects: the steps in their order, and what becomes of a failure.

use std::sync::Arc;
use std::time::Duration;

use budget::Budget;
use crds::conditions::Reason;
use crds::v1alpha1::{Effective, TelemetryPipeline};
use jiff::Timestamp;
use kube::runtime::controller::Action;
use kube::{Client, ResourceExt};
use plan::build::{Installation, Objects, build};
use plan::diff::{World, diff, surplus};
use plan::observe::WorkloadView;
use plan::outcome::Applied;
use plan::resolve::{Gathered, Refusal, Resolved, resolve, solve};
use tracing::{info, warn};

use crate::admin::Metrics;
use crate::apply::{self, ApplyError};
use crate::gather;
use crate::lease::Term;
use crate::registry::Registry;

/// A pipeline is looked at again after this time even if nothing seems to have happened.
const AGAIN: Duration = Duration::from_secs(600);
/// After a refusal: what it was refused for may be the namespace's labels, and those are not watched.
const AFTER_REFUSAL: Duration = Duration::from_secs(30);
/// After a failure that may heal.
const AFTER_FAILURE: Duration = Duration::from_secs(10);

/// What every reconciliation needs.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) term: Term,
    pub(crate) registry: Arc<Registry>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) installation: Installation,
}

/// Why a reconciliation did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    #[error("could not read the cluster")]
    Gather(#[source] kube::Error),
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// One reconciliation.
pub(crate) async fn reconcile(pipeline: Arc<TelemetryPipeline>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let namespace = pipeline.namespace().unwrap_or_default();
    let uid = pipeline.uid().unwrap_or_default();
    let generation = pipeline.metadata.generation.unwrap_or(0);
    if pipeline.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    context.registry.adopt(&pipeline, Timestamp::now());
    // 1. Gather the rules.
    let (classes, namespace_labels) = gather::rules(&context.client, &namespace).await.map_err(ReconcileError::Gather)?;
    // 2. Resolve and solve.
    let gathered = Gathered { pipeline: &pipeline, classes: &classes, namespace_labels: &namespace_labels };
    let (resolved, budget) = match resolve(&gathered).and_then(|resolved| solve(&resolved).map(|budget| (resolved, budget))) {
        Ok(solved) => solved,
        Err(refusal) => return Ok(refuse(&context, &pipeline, refusal).await),
    };
    // 3. Build.
    let objects = build(&resolved, &budget, &context.installation);
    // 4. Gather what is there.
    let (world, workload) = gather::world(&context.client, &namespace, &objects.children).await.map_err(ReconcileError::Gather)?;
    // 5. Diff and apply.
    let (workload, failure) = match apply_changes(&context, &namespace, &uid, &objects, &world).await {
        // What the API server answered is newer than what was there before.
        Ok(applied) => (applied.or(workload), None),
        Err(error) => (workload, Some(failure(error)?)),
    };
    // 6. Remove what is not intended any more: Services after a change of the specification, old configurations.
    let is_settled = context.registry.update(&uid, |entry| entry.outcome.is_applied() && !entry.outcome.is_behind(generation));
    if failure.is_none() && is_settled != Some(true) {
        let services = gather::services(&context.client, &namespace, &pipeline.name_any()).await.map_err(ReconcileError::Gather)?;
        apply::remove(&context.client, &context.term, &namespace, &surplus(&objects.children, &services, &uid)).await?;
    }
    if failure.is_none() && !world.contains_key(&(plan::build::ChildKind::ConfigMap, history_name(&pipeline, &objects))) {
        let copies = gather::history(&context.client, &namespace, &pipeline.name_any()).await.map_err(ReconcileError::Gather)?;
        apply::prune(&context.client, &context.term, &namespace, &copies).await?;
    }
    // 7. Hand over to the reporter.
    let view = workload.map(|object| WorkloadView::of(resolved.kind, &object));
    let failed = failure.is_some();
    context.registry.update(&uid, |entry| {
        entry.workload = view.or(entry.workload.take());
        match failure {
            Some(failure) => entry.outcome.handle_failure(generation, failure),
            None => entry.outcome.handle_applied(generation, applied(&resolved, &budget, &objects)),
        }
    });
    context.metrics.reconciled(!failed);
    Ok(Action::requeue(if failed { AFTER_FAILURE } else { AGAIN }))
}

fn history_name(pipeline: &TelemetryPipeline, objects: &Objects) -> String {
    format!("{}-{}", plan::names::config_map(&pipeline.name_any()), objects.config_hash)
}

/// Leaves the objects of the last good specification alone, and says why; its workload is still watched.
async fn refuse(context: &Context, pipeline: &TelemetryPipeline, refusal: Refusal) -> Action {
    let (namespace, name) = (pipeline.namespace().unwrap_or_default(), pipeline.name_any());
    info!(namespace, name, reason = %refusal.stalled, message = refusal.message, "refused a specification");
    context.metrics.reconciled(false);
    let workload = gather::workload(&context.client, &namespace, pipeline.spec.workload.kind, &name).await;
    context.registry.update(&pipeline.uid().unwrap_or_default(), |entry| {
        entry.workload = workload.ok().flatten().or(entry.workload.take());
        entry.outcome.handle_refusal(pipeline.metadata.generation.unwrap_or(0), refusal);
    });
    Action::requeue(AFTER_REFUSAL)
}

/// Why objects are not as they should be.
#[derive(Debug, thiserror::Error)]
enum ChangeError {
    #[error(transparent)]
    Foreign(#[from] plan::diff::Foreign),
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// Applies what differs; answers with the workload, if that was applied.
async fn apply_changes(
    context: &Context,
    namespace: &str,
    uid: &str,
    objects: &Objects,
    world: &World,
) -> Result<Option<serde_json::Value>, ChangeError> {
    let mut workload = None;
    let memory = context.registry.update(uid, |entry| entry.memory.clone()).unwrap_or_default();
    for child in diff(&objects.children, world, &memory, uid)? {
        let applied = apply::child(&context.client, &context.term, namespace, child).await?;
        let version = gather::live(&applied).version;
        if child.kind.is_workload() {
            workload = serde_json::to_value(&applied).ok();
        }
        info!(namespace, kind = child.kind.name(), name = child.name, "applied");
        context.metrics.applied();
        context.registry.update(uid, |entry| entry.memory.insert((child.kind, child.name.clone()), (child.hash.clone(), version)));
    }
    context.registry.update(uid, |entry| {
        entry.memory.retain(|(kind, name), _| objects.children.iter().any(|child| child.kind == *kind && child.name == *name))
    });
    Ok(workload)
}

/// A refusal by the API server is a condition; what may heal by itself is an error.
fn failure(error: ChangeError) -> Result<(Reason, String), ReconcileError> {
    let error = match error {
        ChangeError::Foreign(foreign) => return Ok((Reason::RolloutFailed, foreign.to_string())),
        ChangeError::Apply(error) => error,
    };
    if let ApplyError::Apply { object, source: kube::Error::Api(status) } = &error {
        let told = format!("{object}: {}", status.message);
        match status.code {
            403 if status.message.contains("exceeded quota") => return Ok((Reason::QuotaExceeded, told)),
            403 => return Ok((Reason::PermissionDenied, told)),
            422 => return Ok((Reason::RolloutFailed, told)),
            _ => {}
        }
    }
    Err(error.into())
}

fn applied(resolved: &Resolved, budget: &Budget, objects: &Objects) -> Applied {
    let effective = budget.settings.iter().map(|setting| Effective {
        setting: setting.name.to_owned(),
        value: setting.value.clone(),
        because: setting.because.clone(),
    });
    Applied {
        config_hash: objects.config_hash.clone(),
        effective: effective.collect(),
        volume: resolved.volume(),
        reads_pods: objects.reads_pods,
    }
}

/// What may heal is tried again.
pub(crate) fn on_error(pipeline: Arc<TelemetryPipeline>, error: &ReconcileError, context: Arc<Context>) -> Action {
    warn!(namespace = pipeline.namespace(), name = pipeline.name_any(), error = error as &dyn std::error::Error, "could not reconcile");
    context.metrics.reconciled(false);
    Action::requeue(AFTER_FAILURE)
}
