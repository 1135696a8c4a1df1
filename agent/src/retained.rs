//! What the storage thread keeps of settled segments: the policy, and when to look whether the time of some is over although nothing
//! else happens.

use std::time::{Duration, Instant};

use pipeline::IdRanges;
use spool::{ReleaseError, Retention, Spool};
use vocabulary::Class;

/// Time between two looks while nothing settles; retention is minutes to days.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The policy, and what it was applied to last.
pub(crate) struct Retained {
    policy: Retention,
    started: Instant,
    looked: Instant,
    settled: [IdRanges; Class::COUNT],
    /// Whether the last release left something behind.
    is_any: bool,
}

impl Retained {
    pub(crate) fn new(policy: Retention) -> Self {
        let now = Instant::now();
        Self { policy, started: now, looked: now, settled: Default::default(), is_any: false }
    }

    /// Gives back what a durable checkpoint settles, but for what the policy retains.
    pub(crate) fn release(&mut self, spool: &mut Spool, settled: &[IdRanges; Class::COUNT]) -> Result<(), ReleaseError> {
        self.looked = Instant::now();
        spool.set_retention(self.policy, self.started.elapsed());
        let released = spool.release(settled)?;
        self.is_any = released.retained > 0;
        if self.is_any {
            self.settled.clone_from(settled);
        }
        Ok(())
    }

    /// Whether something may have been kept for long enough.
    pub(crate) fn is_due(&self) -> bool {
        self.is_any && matches!(self.policy, Retention::For(_)) && self.looked.elapsed() >= LOOK_EVERY
    }

    /// As the last release, at this time.
    pub(crate) fn release_again(&mut self, spool: &mut Spool) -> Result<(), ReleaseError> {
        let settled = std::mem::take(&mut self.settled);
        let released = self.release(spool, &settled);
        if released.is_err() {
            self.settled = settled;
        }
        released
    }
}
