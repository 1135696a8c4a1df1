//! Who sends a report: the API server tells, by the token's review. Answers are remembered for a minute, so that a fleet that
//! connects anew after a change of leader asks once per agent.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::Client;
use kube::api::{Api, PostParams};

/// How long an answer is remembered.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Answers that are remembered at most; the largest cluster twice over.
const REMEMBERED_MAX: usize = 10_000;

/// The sender of a report, as its token tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sender {
    pub(crate) namespace: String,
    pub(crate) service_account: String,
    pub(crate) pod: String,
    pub(crate) pod_uid: String,
}

/// Why a token does not tell its sender.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("could not ask the API server about the token")]
    Review(#[source] kube::Error),
    #[error("the token is not accepted: {0}")]
    Refused(String),
    #[error("the token is not bound to a pod: mount it as a projected service account token")]
    NotOfAPod,
}

/// Reviews tokens.
pub(crate) struct Tokens {
    reviews: Api<TokenReview>,
    remembered: Mutex<HashMap<String, (Instant, Sender)>>,
}

impl Tokens {
    pub(crate) fn new(client: Client) -> Self {
        Self { reviews: Api::all(client), remembered: Mutex::default() }
    }

    pub(crate) async fn review(&self, token: &str) -> Result<Sender, TokenError> {
        let key = token.to_owned();
        if let Some(sender) = self.recall(&key) {
            return Ok(sender);
        }
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![crds::fleet::AUDIENCE.to_owned()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let status = self.reviews.create(&PostParams::default(), &review).await.map_err(TokenError::Review)?.status.unwrap_or_default();
        let for_us = status.audiences.unwrap_or_default().iter().any(|audience| audience == crds::fleet::AUDIENCE);
        if status.authenticated != Some(true) || !for_us {
            return Err(TokenError::Refused(status.error.unwrap_or_else(|| "it is not for this audience, or has expired".into())));
        }
        let sender = sender(&status.user.unwrap_or_default()).ok_or(TokenError::NotOfAPod)?;
        self.remember(key, sender.clone());
        Ok(sender)
    }

    fn recall(&self, key: &str) -> Option<Sender> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.get(key).filter(|(at, _)| at.elapsed() < REMEMBERED).map(|(_, sender)| sender.clone())
    }

    fn remember(&self, key: String, sender: Sender) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.retain(|_, (at, _)| at.elapsed() < REMEMBERED);
        }
        if remembered.len() < REMEMBERED_MAX {
            remembered.insert(key, (Instant::now(), sender));
        }
    }
}

fn sender(user: &UserInfo) -> Option<Sender> {
    let (namespace, service_account) = user.username.as_deref()?.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let extra = |key: &str| user.extra.as_ref()?.get(&format!("authentication.kubernetes.io/{key}"))?.first().cloned();
    Some(Sender {
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
        pod: extra("pod-name")?,
        pod_uid: extra("pod-uid")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_is_not_bound_to_a_pod_tells_no_sender() {
        let mut user = UserInfo { username: Some("system:serviceaccount:shop:small-agent".into()), ..UserInfo::default() };
        assert_eq!(sender(&user), None);
        let extra = [("pod-name", "small-1"), ("pod-uid", "u1")];
        user.extra =
            Some(extra.iter().map(|(key, value)| (format!("authentication.kubernetes.io/{key}"), vec![(*value).to_owned()])).collect());
        let expected =
            Sender { namespace: "shop".into(), service_account: "small-agent".into(), pod: "small-1".into(), pod_uid: "u1".into() };
        assert_eq!(sender(&user), Some(expected));
        user.username = Some("jane".into());
        assert_eq!(sender(&user), None);
    }
}
