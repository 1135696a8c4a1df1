//! Hysteresis of a condition's reason: it trips slowly enough to ignore a blip, and clears slowly enough not to flap.

use jiff::Timestamp;

/// Windows over the threshold, in a row, that trip the latch.
const TRIP_WINDOWS: u32 = 2;
/// Clean windows, in a row, that clear it: five minutes.
const CLEAR_WINDOWS: u32 = 30;

/// One reason's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Latch {
    /// Under the threshold.
    #[default]
    Clear,
    /// Over it, not yet for long enough.
    Suspected {
        /// Windows in a row.
        windows: u32,
        /// Start of the first.
        since: Timestamp,
    },
    /// Over it, or not under it for long enough.
    Tripped {
        /// When it first went over.
        since: Timestamp,
        /// Clean windows in a row.
        clean: u32,
    },
}

impl Latch {
    /// Takes in a closed window.
    pub(crate) fn observe(&mut self, over: bool, now: Timestamp) {
        *self = match (*self, over) {
            (Self::Clear, true) => Self::Suspected { windows: 1, since: now },
            (Self::Suspected { windows, since }, true) if windows + 1 >= TRIP_WINDOWS => Self::Tripped { since, clean: 0 },
            (Self::Suspected { windows, since }, true) => Self::Suspected { windows: windows + 1, since },
            (Self::Tripped { since, .. }, true) => Self::Tripped { since, clean: 0 },
            (Self::Tripped { since, clean }, false) if clean + 1 < CLEAR_WINDOWS => Self::Tripped { since, clean: clean + 1 },
            (Self::Clear | Self::Suspected { .. } | Self::Tripped { .. }, false) => Self::Clear,
        };
    }

    /// Since when it is tripped.
    #[must_use]
    pub(crate) fn tripped_since(&self) -> Option<Timestamp> {
        match self {
            Self::Tripped { since, .. } => Some(*since),
            Self::Clear | Self::Suspected { .. } => None,
        }
    }

    /// Whether it is tripped and the last window was over the threshold too.
    #[must_use]
    pub(crate) fn is_current(&self) -> bool {
        matches!(self, Self::Tripped { clean: 0, .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_bad_windows_trip_and_five_clean_minutes_clear() {
        let mut latch = Latch::default();
        latch.observe(true, Timestamp::UNIX_EPOCH);
        assert_eq!(latch.tripped_since(), None);
        latch.observe(true, Timestamp::UNIX_EPOCH);
        assert!(latch.is_current());
        for _ in 0..29 {
            latch.observe(false, Timestamp::UNIX_EPOCH);
        }
        assert!(latch.tripped_since().is_some() && !latch.is_current());
        latch.observe(false, Timestamp::UNIX_EPOCH);
        assert_eq!(latch, Latch::Clear);
    }

    #[test]
    fn a_single_bad_window_does_not_trip() {
        let mut latch = Latch::default();
        for window in 0..20 {
            latch.observe(window % 2 == 0, Timestamp::UNIX_EPOCH);
            assert_eq!(latch.tripped_since(), None);
        }
    }
}
