//! What the operator writes but for status: children by server-side apply, the end of history and of Services, the list of who may read pods,
//! and the fleet's authority. Every write asks first whether this process still leads.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, Subject};
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use plan::build::Child;
use plan::diff::LabelledService;
use plan::names;

use crate::certificates::Authority;
use crate::gather;
use crate::lease::{Term, TermOver};

/// Why something could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    #[error(transparent)]
    Over(#[from] TermOver),
    #[error("could not apply {object}")]
    Apply {
        object: String,
        #[source]
        source: kube::Error,
    },
    #[error("could not delete the configuration {0}")]
    Prune(String, #[source] kube::Error),
    #[error("could not delete the Service {0}")]
    Service(String, #[source] kube::Error),
    #[error("could not keep the fleet's certificate authority")]
    Authority(#[source] kube::Error),
}

/// Applies an object; answers with the object as it is then.
pub(crate) async fn child(client: &Client, term: &Term, namespace: &str, child: &Child) -> Result<DynamicObject, ApplyError> {
    term.check()?;
    let params = PatchParams::apply(names::MANAGER_WORKLOAD).force();
    let (group, _) = child.kind.resource();
    let mut body = child.body.clone();
    if let Some(object) = body.as_object_mut() {
        object.insert("apiVersion".into(), if group.is_empty() { "v1".into() } else { format!("{group}/v1").into() });
        object.insert("kind".into(), child.kind.name().into());
    }
    let applied = gather::children(client, child.kind, namespace).patch(&child.name, &params, &Patch::Apply(&body)).await;
    applied.map_err(|source| ApplyError::Apply { object: format!("{} {}", child.kind.name(), child.name), source })
}

/// Deletes the oldest copies of configurations beyond those that are kept.
pub(crate) async fn prune(client: &Client, term: &Term, namespace: &str, copies: &[String]) -> Result<(), ApplyError> {
    let maps = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    for copy in copies.iter().take(copies.len().saturating_sub(names::HISTORY_MAX)) {
        term.check()?;
        match maps.delete(copy, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            answer => drop(answer.map_err(|source| ApplyError::Prune(copy.clone(), source))?),
        }
    }
    Ok(())
}

/// Deletes Services that are not intended any more; one of the same name that was made since is left alone.
pub(crate) async fn remove(client: &Client, term: &Term, namespace: &str, surplus: &[&LabelledService]) -> Result<(), ApplyError> {
    let services = Api::<Service>::namespaced(client.clone(), namespace);
    for service in surplus {
        term.check()?;
        let params = DeleteParams::default().preconditions(Preconditions { uid: Some(service.uid.clone()), resource_version: None });
        match services.delete(&service.name, &params).await {
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
            answer => drop(answer.map_err(|source| ApplyError::Service(service.name.clone(), source))?),
        }
    }
    Ok(())
}

/// Writes who may read pods into the one binding that the chart made for it. One binding with a list, instead of one binding
/// per pipeline, because it lets the operator do with the right to patch a single named object, and leaves nothing behind.
pub(crate) async fn readers(client: &Client, term: &Term, subjects: &[Subject]) -> Result<(), ApplyError> {
    term.check()?;
    let patch = serde_json::json!({"subjects": subjects});
    let bindings = Api::<ClusterRoleBinding>::all(client.clone());
    let params = PatchParams { field_manager: Some(names::MANAGER_WORKLOAD.into()), ..PatchParams::default() };
    let written = bindings.patch(names::AGENT_PODS_ROLE, &params, &Patch::Merge(&patch)).await;
    written.map(drop).map_err(|source| ApplyError::Apply { object: format!("ClusterRoleBinding {}", names::AGENT_PODS_ROLE), source })
}

/// Keeps a new authority in its Secret; fails if another leader was faster.
pub(crate) async fn authority(client: &Client, term: &Term, secret: Secret, authority: &Authority) -> Result<(), ApplyError> {
    term.check()?;
    let data = [("ca.crt", &authority.certificate), ("ca.key", &authority.key)];
    let data = data.map(|(key, text)| (key.to_owned(), ByteString(text.clone().into_bytes())));
    let namespace = secret.metadata.namespace.clone().unwrap_or_default();
    let kept = Secret { data: Some(data.into()), ..secret };
    let secrets = Api::<Secret>::namespaced(client.clone(), &namespace);
    secrets.replace(gather::AUTHORITY_SECRET, &PostParams::default(), &kept).await.map(drop).map_err(ApplyError::Authority)
}
