//! What stays on disk after nobody needs it, for whoever looks into the buffer later: by number or by time, and never at the cost of
//! what waits.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use vocabulary::Class;

use super::Log;
use crate::index::Segment;
use crate::storage::Storage;

/// Segments below the most there may be, so that what arrives until the next release finds some: one per class.
const SEGMENTS_SPARE: usize = Class::COUNT;

/// How much of what is settled stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retention {
    /// Nothing.
    #[default]
    Nothing,
    /// The newest segments, this many of all classes together.
    Segments(usize),
    /// Each segment for this long after it was settled, or after the start of this process if that is later.
    For(Duration),
}

impl<S: Storage> Log<S> {
    pub(crate) fn set_retention(&mut self, retention: Retention, now: Duration) {
        self.retention = retention;
        self.now = self.now.max(now);
    }

    /// Of settled segments those that go: the oldest, but for what policy retains within the budget.
    pub(super) fn expendable(&self, mut settled: Vec<(Class, Arc<Segment<S::File>>)>) -> Vec<(Class, Arc<Segment<S::File>>)> {
        settled.sort_by(|(_, one), (_, other)| (one.settled_at(self.now), &one.name).cmp(&(other.settled_at(self.now), &other.name)));
        let wanted = match self.retention {
            Retention::Nothing => 0,
            Retention::Segments(most) => most,
            Retention::For(time) => {
                settled.iter().filter(|(_, segment)| self.now.saturating_sub(segment.settled_at(self.now)) < time).count()
            }
        };
        let bytes = |segment: &Segment<S::File>| segment.bytes.load(Ordering::Relaxed);
        let mut going = settled.len().saturating_sub(wanted);
        let gone: u64 = settled.iter().take(going).map(|(_, segment)| bytes(segment)).sum();
        let mut used = self.charged().saturating_sub(gone);
        let mut count = self.index.segment_count().saturating_sub(going);
        for (_, segment) in settled.iter().skip(going) {
            if used <= self.room.limits.budget_bytes && count.saturating_add(SEGMENTS_SPARE) <= self.room.limits.segments_max {
                break;
            }
            (used, count, going) = (used.saturating_sub(bytes(segment)), count.saturating_sub(1), going + 1);
        }
        settled.truncate(going);
        settled
    }

    /// Gives the oldest retained segment back, because what waits needs its room. Whether there was one.
    pub(super) fn give_up_retained(&mut self) -> bool {
        let all = Class::ALL.into_iter().flat_map(|class| self.index.segments(class).into_iter().map(move |segment| (class, segment)));
        // Evidence of damage is set aside when its time comes, not deleted.
        let sound = all.filter(|(_, segment)| !segment.is_damaged.load(Ordering::Relaxed));
        let retained = sound.filter_map(|(class, segment)| Some((*segment.settled_at.get()?, segment.name.clone(), class, segment)));
        let Some((.., class, segment)) = retained.min_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1))) else { return false };
        let removed = self.storage.remove(&segment.name).is_ok();
        if removed {
            self.index.remove(class, &segment);
            self.verification.forget(&segment);
        }
        removed && self.storage.sync_directory().is_ok()
    }
}

impl<F> Segment<F> {
    /// When it was first seen settled; `now` if that is now.
    fn settled_at(&self, now: Duration) -> Duration {
        self.settled_at.get().copied().unwrap_or(now)
    }
}
