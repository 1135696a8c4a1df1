//! Who leads: one Lease, taken when it is free or was not renewed, given back on the way out. A term ends by this process's
//! own monotonic clock before anybody else may begin one, so that two leaders never write.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use plan::names::LABEL_LEADER;
use tokio::sync::watch;
use tracing::{info, warn};

const LEASE: &str = "forebay-operator";
/// How long others wait for a renewal.
const DURATION: Duration = Duration::from_secs(15);
/// Without a renewal for so long, a term is over.
const TERM: Duration = Duration::from_secs(10);
/// Time between two renewals while all is well: twelve writes a minute, and a second attempt before the term is over.
const RENEWAL: Duration = Duration::from_secs(5);
/// Time between two attempts otherwise.
const RETRY: Duration = Duration::from_secs(2);
/// No single request may eat up the margin between the end of a term and the end of the lease.
const REQUEST: Duration = Duration::from_secs(4);

/// The end of the term, as far as it is renewed; none: this process does not lead.
pub(crate) type TermEnd = Option<Instant>;

/// What every write asks before it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Term(watch::Receiver<TermEnd>);

/// The term is over: somebody else may lead.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the term of this leader is over")]
pub(crate) struct TermOver;

impl Term {
    /// Succeeds while this process leads.
    pub(crate) fn check(&self) -> Result<(), TermOver> {
        self.0.borrow().filter(|end| Instant::now() < *end).map(|_| ()).ok_or(TermOver)
    }

    /// Returns when this process leads.
    pub(crate) async fn begun(&mut self) {
        // The elector lives as long as the process; its end ends the wait too, and the check that follows fails.
        self.0.wait_for(Option::is_some).await.map(drop).unwrap_or_default();
    }

    /// Returns when it does not lead any more.
    pub(crate) async fn over(&mut self) {
        loop {
            let end = *self.0.borrow_and_update();
            let Some(end) = end.filter(|end| Instant::now() < *end) else { return };
            tokio::select! {
                changed = self.0.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(end.into()) => {}
            }
        }
    }
}

/// The elector of one process.
pub(crate) struct Elector {
    leases: Api<Lease>,
    pods: Api<Pod>,
    identity: String,
    end: watch::Sender<TermEnd>,
    /// Whether this process's pod wears the leader's label, as far as is known.
    labelled: bool,
    /// The lease as it was last seen to change, and when: others' clocks are not trusted.
    seen: Option<(String, Instant)>,
}

impl Elector {
    pub(crate) fn new(client: Client, namespace: &str, identity: String) -> (Self, Term) {
        let (end, term) = watch::channel(None);
        let leases = Api::namespaced(client.clone(), namespace);
        let pods = Api::namespaced(client, namespace);
        (Self { leases, pods, identity, end, labelled: false, seen: None }, Term(term))
    }

    /// Takes and renews the lease until `stop`, then gives it back.
    pub(crate) async fn run(mut self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            let started = Instant::now();
            let attempt = tokio::time::timeout(REQUEST, self.attempt()).await;
            let pause = self.conclude(attempt, started).await;
            tokio::select! {
                () = &mut stop => break,
                () = tokio::time::sleep(pause.saturating_sub(started.elapsed())) => {}
            }
        }
        let led = self.end.send_replace(None).is_some();
        if led {
            self.release().await;
        }
    }

    /// Draws the conclusions of an attempt; answers with the time from its start to the next.
    async fn conclude(&mut self, attempt: Result<Result<bool, kube::Error>, tokio::time::error::Elapsed>, started: Instant) -> Duration {
        let renewed = matches!(attempt, Ok(Ok(true)));
        let led = self.end.borrow().is_some();
        match attempt {
            Ok(Ok(true)) => {
                self.end.send_replace(Some(started + TERM));
                if !led {
                    info!(identity = self.identity, "leading");
                }
            }
            Ok(Ok(false)) if led => {
                warn!("lost the lease");
                self.end.send_replace(None);
            }
            Ok(Ok(false)) => {}
            Ok(Err(error)) => warn!(%error, "could not renew the lease"),
            Err(_) => warn!("the API server did not answer in time"),
        }
        let over = self.end.borrow().is_some_and(|end| Instant::now() >= end);
        if over {
            self.end.send_replace(None);
        }
        // Agents find the leader by this label alone, so that it is tried until it is done.
        let leads = self.end.borrow().is_some();
        if self.labelled != leads {
            self.label(leads).await;
        }
        if renewed && self.labelled { RENEWAL } else { RETRY }
    }

    /// One attempt; tells whether this process holds the lease.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let Some(lease) = self.leases.get_opt(LEASE).await? else {
            let lease = Lease { metadata: ObjectMeta { name: Some(LEASE.into()), ..ObjectMeta::default() }, spec: Some(self.spec(None)) };
            return held(self.leases.create(&PostParams::default(), &lease).await.map(drop));
        };
        let version = lease.resource_version().unwrap_or_default();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != version) {
            self.seen = Some((version, Instant::now()));
        }
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        let expired = self.seen.as_ref().is_some_and(|(_, since)| since.elapsed() >= DURATION);
        if holder != self.identity && !holder.is_empty() && !expired {
            return Ok(false);
        }
        let spec = self.spec(lease.spec.as_ref());
        let renewed = Lease { metadata: lease.metadata, spec: Some(spec) };
        held(self.leases.replace(LEASE, &PostParams::default(), &renewed).await.map(drop))
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let mine = before.filter(|before| before.holder_identity.as_ref() == Some(&self.identity));
        let transitions = before.and_then(|before| before.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(15),
            renew_time: Some(now.clone()),
            acquire_time: mine.and_then(|mine| mine.acquire_time.clone()).or(Some(now)),
            lease_transitions: Some(if mine.is_some() { transitions } else { transitions + 1 }),
            ..LeaseSpec::default()
        }
    }

    async fn release(&mut self) {
        self.label(false).await;
        let given_back = async {
            let mut lease = self.leases.get(LEASE).await?;
            let is_mine = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_ref()) == Some(&self.identity);
            if let Some(spec) = lease.spec.as_mut().filter(|_| is_mine) {
                spec.holder_identity = Some(String::new());
                self.leases.replace(LEASE, &PostParams::default(), &lease).await?;
            }
            Ok::<(), kube::Error>(())
        };
        match tokio::time::timeout(REQUEST, given_back).await {
            Ok(Ok(())) => info!("gave the lease back"),
            Ok(Err(error)) => warn!(%error, "could not give the lease back"),
            Err(_) => warn!("the API server did not answer in time"),
        }
    }

    /// Moves the leader's label, by which the fleet's Service finds its pod. A predecessor that died may still wear it.
    async fn label(&mut self, leads: bool) {
        let moved = async {
            let labelled = self.pods.list(&ListParams::default().labels(&format!("{LABEL_LEADER}=true"))).await?;
            for pod in labelled.items.iter().map(ResourceExt::name_any).filter(|name| *name != self.identity || !leads) {
                if leads || pod == self.identity {
                    self.patch_label(&pod, serde_json::Value::Null).await?;
                }
            }
            if leads {
                self.patch_label(&self.identity, "true".into()).await?;
            }
            Ok::<(), kube::Error>(())
        };
        match tokio::time::timeout(REQUEST, moved).await {
            Ok(Ok(())) => self.labelled = leads,
            Ok(Err(error)) => warn!(%error, "could not move the leader's label: agents cannot reach this leader"),
            Err(_) => warn!("the API server did not answer in time"),
        }
    }

    async fn patch_label(&self, pod: &str, value: serde_json::Value) -> Result<(), kube::Error> {
        let patch = serde_json::json!({"metadata": {"labels": {LABEL_LEADER: value}}});
        match self.pods.patch(pod, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            answer => answer.map(drop),
        }
    }
}

/// A conflict means that somebody else was faster.
fn held(answer: Result<(), kube::Error>) -> Result<bool, kube::Error> {
    match answer {
        Ok(()) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use kube::client::Body;

    use super::*;

    /// An API server that fails its first request and counts the labels it was asked for.
    fn flaky(labels: Arc<AtomicUsize>) -> Client {
        let requests = AtomicUsize::new(0);
        let answer = move |request: http::Request<Body>| {
            let is_first = requests.fetch_add(1, Ordering::Relaxed) == 0;
            let (code, body) = match request.method() {
                _ if is_first => (500, serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 500})),
                &http::Method::GET => (200, serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": []})),
                _ => {
                    labels.fetch_add(1, Ordering::Relaxed);
                    (200, serde_json::json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "me"}}))
                }
            };
            let response = http::Response::builder().status(code).body(Body::from(body.to_string().into_bytes()));
            async { Ok::<_, Infallible>(response.expect("a response")) }
        };
        Client::new(tower::service_fn(answer), "forebay-system")
    }

    #[tokio::test]
    async fn the_leaders_label_is_tried_until_it_is_done_and_then_left_alone() {
        let labels = Arc::new(AtomicUsize::new(0));
        let (mut elector, term) = Elector::new(flaky(labels.clone()), "forebay-system", "me".into());
        let mut rounds = Vec::new();
        for _ in 0..3 {
            let pause = elector.conclude(Ok(Ok(true)), Instant::now()).await;
            rounds.push((pause, labels.load(Ordering::Relaxed)));
        }
        term.check().expect("it leads");
        assert_eq!(rounds, [(RETRY, 0), (RENEWAL, 1), (RENEWAL, 1)]);
    }
}
