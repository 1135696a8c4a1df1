//! How long a group of appends waits for company before it is synced; pure. A request alone is synced at once. Where several came
//! together, the next group waits until as many are there, but no longer than half of what a sync takes: those that are just being
//! answered send again within that time, and one sync more would cost everybody twice as much.

use std::time::Duration;

/// Longest wait, however slow the disk is.
const WAIT_MAX: Duration = Duration::from_millis(5);
/// A group of so many bytes syncs no better for more.
const BYTES_ENOUGH: usize = 1 << 20;

/// What was measured of the groups so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    /// What a sync takes, smoothed.
    sync: Duration,
    /// Requests of the last group.
    requests: usize,
}

impl Window {
    /// How long a group may wait from its first request on.
    pub(crate) fn wait(&self) -> Duration {
        if self.requests < 2 { Duration::ZERO } else { (self.sync / 2).min(WAIT_MAX) }
    }

    /// Whether a group of so many requests and bytes goes at once.
    pub(crate) fn is_enough(&self, requests: usize, bytes: usize) -> bool {
        requests >= self.requests || bytes >= BYTES_ENOUGH
    }

    /// A group of so many requests was synced.
    pub(crate) fn note(&mut self, requests: usize, sync: Duration) {
        self.requests = requests;
        self.sync = (self.sync * 3 + sync) / 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(requests: usize, sync: Duration) -> Window {
        let mut window = Window::default();
        (0..20).for_each(|_| window.note(requests, sync));
        window
    }

    #[test]
    fn a_request_alone_never_waits() {
        assert_eq!(Window::default().wait(), Duration::ZERO);
        assert_eq!(after(1, Duration::from_secs(1)).wait(), Duration::ZERO);
    }

    #[test]
    fn a_group_waits_half_a_sync_and_never_above_the_bound() {
        let wait = after(8, Duration::from_millis(4)).wait();
        assert!(wait <= Duration::from_millis(2) && wait > Duration::from_micros(1_900), "{wait:?}");
        assert_eq!(after(8, Duration::from_secs(3)).wait(), WAIT_MAX);
    }

    #[test]
    fn as_many_as_last_time_or_a_megabyte_are_enough() {
        let window = after(8, Duration::from_millis(4));
        assert!(!window.is_enough(7, 100) && window.is_enough(8, 100) && window.is_enough(1, 1 << 20));
    }
}
