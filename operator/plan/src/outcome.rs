//! How the last reconciliation of a pipeline ended, and what is known of the agents that run because of one that ended well.
//! Kept apart from the status, because rights and the end of ledgers hang on it too.

use std::collections::BTreeSet;

use crds::conditions::Reason;
use crds::v1alpha1::Effective;

use crate::agents::Volume;
use crate::resolve::Refusal;

/// How the last reconciliation of a pipeline ended.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The specification's generation it was about; 0 before the first.
    pub generation: i64,
    /// Why the specification was refused.
    pub refusal: Option<Refusal>,
    /// Why objects could not be applied: reason of `Stalled`, and the words of the API server.
    pub failure: Option<(Reason, String)>,
    /// What this leader last saw applied in full. Absent, nothing is known of the agents that may run.
    pub applied: Option<Applied>,
}

/// A specification whose objects were all applied.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    /// Hash of the configuration.
    pub config_hash: String,
    /// The solved settings.
    pub effective: Vec<Effective>,
    /// What becomes of a buffer without its pod.
    pub volume: Volume,
    /// Whether the agents may read the pods of their node.
    pub reads_pods: bool,
}

/// Whether a pipeline's agents may read pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodReading {
    /// They may.
    Granted,
    /// They may not.
    Denied,
    /// Nothing is known: they keep what they have, and get nothing new.
    Undecided,
}

impl Outcome {
    /// Takes in that everything was applied.
    pub fn handle_applied(&mut self, generation: i64, applied: Applied) {
        *self = Self { generation, refusal: None, failure: None, applied: Some(applied) };
    }

    /// Takes in that something could not be applied. What was applied before still says how the agents run: a failed
    /// specification gives no right.
    pub fn handle_failure(&mut self, generation: i64, failure: (Reason, String)) {
        (self.generation, self.refusal, self.failure) = (generation, None, Some(failure));
    }

    /// Takes in that the specification was refused; the last good one goes on.
    pub fn handle_refusal(&mut self, generation: i64, refusal: Refusal) {
        (self.generation, self.refusal, self.failure) = (generation, Some(refusal), None);
    }

    /// Whether the latest specification that was looked at is applied.
    #[must_use]
    pub fn is_applied(&self) -> bool {
        self.is_evaluated() && self.refusal.is_none() && self.failure.is_none()
    }

    /// Whether any specification was looked at.
    #[must_use]
    pub fn is_evaluated(&self) -> bool {
        self.generation > 0
    }

    /// Whether it is about an older specification than that of `generation`.
    #[must_use]
    pub fn is_behind(&self, generation: i64) -> bool {
        self.is_evaluated() && self.generation != generation
    }

    /// What becomes of a buffer without its pod; none: not known to this leader.
    #[must_use]
    pub fn volume(&self) -> Option<Volume> {
        self.applied.as_ref().map(|applied| applied.volume)
    }

    /// Whether the agents may read pods. What a class forbids is taken away even while the last good specification runs.
    #[must_use]
    pub fn pod_reading(&self) -> PodReading {
        let forbidden = self.refusal.as_ref().is_some_and(|refusal| refusal.stalled == Reason::ForbiddenByClass);
        match &self.applied {
            _ if forbidden => PodReading::Denied,
            Some(applied) if applied.reads_pods => PodReading::Granted,
            Some(_) => PodReading::Denied,
            None => PodReading::Undecided,
        }
    }
}

/// A service account: namespace and name.
pub type Account = (String, String);

/// Who should be in the list of those that may read pods, if `listed` are in it and `pipelines` are all there are. Pipelines that
/// cannot be decided on hold up nobody else.
#[must_use]
pub fn pod_readers(pipelines: &[(Account, PodReading)], listed: &BTreeSet<Account>) -> BTreeSet<Account> {
    let stays = |(account, reading): &&(Account, PodReading)| match reading {
        PodReading::Granted => true,
        PodReading::Denied => false,
        PodReading::Undecided => listed.contains(account),
    };
    pipelines.iter().filter(stays).map(|(account, _)| account.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(reads_pods: bool) -> Applied {
        Applied { reads_pods, volume: Volume::Node, ..Applied::default() }
    }

    fn refused(stalled: Reason) -> Refusal {
        Refusal { config_valid: None, stalled, message: String::new() }
    }

    #[test]
    fn a_failed_first_application_gives_no_right_and_tells_nothing_of_the_volume() {
        let mut outcome = Outcome::default();
        outcome.handle_failure(1, (Reason::RolloutFailed, "ServiceAccount a-agent exists".into()));
        assert_eq!((outcome.pod_reading(), outcome.volume(), outcome.applied.is_some()), (PodReading::Undecided, None, false));
    }

    #[test]
    fn a_refusal_leaves_what_is_known_of_the_agents_that_run() {
        let mut outcome = Outcome::default();
        outcome.handle_refusal(1, refused(Reason::InvalidConfig));
        assert_eq!((outcome.pod_reading(), outcome.volume()), (PodReading::Undecided, None));
        outcome.handle_applied(2, applied(true));
        outcome.handle_refusal(3, refused(Reason::InvalidConfig));
        assert_eq!((outcome.pod_reading(), outcome.volume()), (PodReading::Granted, Some(Volume::Node)));
    }

    #[test]
    fn a_class_that_forbids_takes_the_right_away_from_a_new_leaders_pipeline_too() {
        for before in [None, Some(applied(true))] {
            let mut outcome = Outcome { applied: before, ..Outcome::default() };
            outcome.handle_refusal(1, refused(Reason::ForbiddenByClass));
            assert_eq!(outcome.pod_reading(), PodReading::Denied);
        }
    }

    #[test]
    fn a_pipeline_that_is_not_decided_keeps_its_place_and_holds_up_nobody() {
        let account = |name: &str| ("shop".to_owned(), name.to_owned());
        let listed = BTreeSet::from([account("kept"), account("forbidden"), account("deleted")]);
        let pipelines = [
            (account("new"), PodReading::Granted),
            (account("kept"), PodReading::Undecided),
            (account("unseen"), PodReading::Undecided),
            (account("forbidden"), PodReading::Denied),
        ];
        assert_eq!(pod_readers(&pipelines, &listed), BTreeSet::from([account("new"), account("kept")]));
    }
}
