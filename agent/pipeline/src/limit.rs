//! A limit with hysteresis in level and in time. It is reached at once, because it protects; it is left only when the level has
//! fallen and a dwell time is over, so that no input makes it change faster.

use std::time::Duration;

/// Shortest time for which a limit stays reached. Ten changes a second are few enough to be followed by people and peers, and at the
/// highest rate that one core sends, a full queue of 64 MiB does not run empty within it.
pub const LIMIT_DWELL: Duration = Duration::from_millis(100);

/// Whether a limit is reached, and since when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Limit {
    #[default]
    Below,
    Reached {
        since: Duration,
    },
}

impl Limit {
    pub(crate) fn reach(&mut self, now: Duration) {
        if *self == Self::Below {
            *self = Self::Reached { since: now };
        }
    }

    /// The level allows the limit to be left.
    pub(crate) fn leave(&mut self, now: Duration) {
        if self.may_be_left(now) {
            *self = Self::Below;
        }
    }

    pub(crate) const fn is_reached(self) -> bool {
        matches!(self, Self::Reached { .. })
    }

    /// Whether it is reached, and was for the dwell time.
    pub(crate) fn may_be_left(self, now: Duration) -> bool {
        self.dwells_until().is_some_and(|until| now >= until)
    }

    /// Until when it is not left, whatever the level.
    pub(crate) fn dwells_until(self) -> Option<Duration> {
        match self {
            Self::Below => None,
            Self::Reached { since } => Some(since.saturating_add(LIMIT_DWELL)),
        }
    }
}
