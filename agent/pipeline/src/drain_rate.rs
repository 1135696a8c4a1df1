//! How fast held bytes leave, measured, and the pause a refused client is told because of it.

use std::time::Duration;

use crate::jitter;

/// Length of one measurement; shorter ones would follow single answers of a destination.
const WINDOW: Duration = Duration::from_secs(1);
/// Shortest pause asked for: below one second a refused fleet would come back as one wave.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause asked for: several SDKs give up on a longer one.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A running mean of the bytes settled per second.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DrainRate {
    window_start: Duration,
    window_bytes: u64,
    bytes_per_second: u64,
}

impl DrainRate {
    /// `bytes` were settled.
    pub(crate) fn note(&mut self, now: Duration, bytes: u64) {
        self.roll(now);
        self.window_bytes = self.window_bytes.saturating_add(bytes);
    }

    /// The pause after which `bytes` will have left, spread by a quarter to each side by `counter`, and within 1 s and 5 s.
    pub(crate) fn pause(&mut self, now: Duration, bytes: u64, counter: u64) -> Duration {
        self.roll(now);
        let rate = self.bytes_per_second.max(self.window_bytes);
        let millis = bytes.saturating_mul(1_000).checked_div(rate).unwrap_or(u64::MAX);
        let pause = Duration::from_millis(millis).clamp(PAUSE_MIN, PAUSE_MAX);
        jitter::between((pause * 3 / 4).max(PAUSE_MIN), (pause * 5 / 4).min(PAUSE_MAX), counter)
    }

    /// Closes the window if it is over: half of the mean is what was known before.
    fn roll(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.window_start);
        if elapsed < WINDOW {
            return;
        }
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
        let measured = self.window_bytes.saturating_mul(1_000) / millis;
        self.bytes_per_second = self.bytes_per_second / 2 + measured / 2;
        (self.window_start, self.window_bytes) = (now, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_follows_the_measured_rate_and_stays_between_one_and_five_seconds() {
        let mut drain = DrainRate::default();
        assert!(drain.pause(Duration::ZERO, 1, 0) >= Duration::from_millis(3_750), "nothing leaves: the longest pause");
        for second in 0..20 {
            drain.note(Duration::from_secs(second), 1_000_000);
        }
        let now = Duration::from_secs(20);
        let pauses = |drain: &mut DrainRate, bytes: u64| (0..50).map(|counter| drain.pause(now, bytes, counter)).collect::<Vec<_>>();
        let long = pauses(&mut drain, 3_000_000);
        assert!(long.iter().all(|pause| (2_200..=3_900).contains(&pause.as_millis())), "{long:?}");
        assert!(long.windows(2).any(|pair| pair[0] != pair[1]), "no jitter");
        assert!(pauses(&mut drain, 10).iter().all(|pause| (1_000..=1_250).contains(&pause.as_millis())));
        assert!(pauses(&mut drain, u64::MAX).iter().all(|pause| (3_750..=5_000).contains(&pause.as_millis())));
    }
}
