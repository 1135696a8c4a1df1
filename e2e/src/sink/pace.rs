//! How the sink plays a slow or broken backend: a rate it takes items at, and failures that were asked for.

use std::time::{Duration, Instant};

use serde::Deserialize;

/// Longest time a throttled request is held back before it is refused instead.
const HOLD_MAX: Duration = Duration::from_millis(500);

/// A failure that was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Failure {
    /// None.
    #[default]
    None,
    /// Every request is answered `UNAVAILABLE`.
    Unavailable,
    /// Every request is answered `INVALID_ARGUMENT`.
    Reject,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is recorded after this wait.
    After(Duration),
    /// It is refused, and may come again after this time.
    Refused(Duration),
}

/// A rate of items, handed out in turns.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    items_per_second: u64,
    free_at: Option<Instant>,
}

impl Pace {
    /// 0 switches the throttle off.
    pub(super) fn set(&mut self, items_per_second: u64) {
        *self = Self { items_per_second, free_at: None };
    }

    /// The turn of a request with `items`.
    pub(super) fn turn(&mut self, now: Instant, items: u64) -> Turn {
        if self.items_per_second == 0 {
            return Turn::After(Duration::ZERO);
        }
        let free_at = self.free_at.map_or(now, |free_at| free_at.max(now));
        let wait = free_at - now;
        if wait > HOLD_MAX {
            return Turn::Refused(wait);
        }
        self.free_at = Some(free_at + Duration::from_secs_f64(items as f64 / self.items_per_second as f64));
        Turn::After(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throttle_lets_its_rate_through_and_refuses_the_rest() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.set(1_000);
        let taken: u64 = (0..3_000_u64)
            .filter(|&millisecond| matches!(pace.turn(start + Duration::from_millis(millisecond), 100), Turn::After(_)))
            .count() as u64
            * 100;
        assert!((3_000..=3_700).contains(&taken), "{taken} items in 3 s");
        pace.set(0);
        assert_eq!(pace.turn(start, u64::MAX), Turn::After(Duration::ZERO));
    }
}
