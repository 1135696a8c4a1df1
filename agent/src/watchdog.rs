//! Whether the agent goes on: not that its parts are alive, but that what is due gets done. Pure; the admin endpoint asks it for the
//! process's liveness, so that what hangs for good is restarted.

use std::time::Duration;

use pipeline::Progress;

/// Longest time without an answer while something is due: a call, its connect and a slow disk before it, and room to spare.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// What was seen of each destination.
#[derive(Debug, Default)]
pub(crate) struct Watchdog {
    seen: Vec<Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    landed: u64,
    /// Since when it is due and nothing lands.
    since: Duration,
}

impl Watchdog {
    /// Looks at every destination. The place of one that has stopped, if any has: something was due at every look for too long, and
    /// nothing landed in between.
    pub(crate) fn look(&mut self, now: Duration, destinations: &[Progress]) -> Option<usize> {
        self.seen.resize(destinations.len(), Seen { landed: 0, since: now });
        for (seen, progress) in self.seen.iter_mut().zip(destinations) {
            if !progress.is_due || progress.landed != seen.landed {
                *seen = Seen { landed: progress.landed, since: now };
            }
        }
        self.seen.iter().position(|seen| now.saturating_sub(seen.since) > SILENCE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUE: Progress = Progress { landed: 3, is_due: true };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_destination_to_which_something_is_due_and_of_which_nothing_is_heard_has_stopped() {
        let mut watchdog = Watchdog::default();
        let fine = |landed| Progress { landed, is_due: true };
        let looks = (0..=14).map(|look| watchdog.look(at(10 * look), &[fine(look), DUE]));
        let found: Vec<Option<usize>> = looks.collect();
        assert!(found[..13].iter().all(Option::is_none), "{found:?}");
        assert_eq!(found[13..], [Some(1), Some(1)]);
    }

    #[test]
    fn one_that_waits_for_its_destination_or_has_nothing_to_send_has_not() {
        let mut watchdog = Watchdog::default();
        for look in 0..100 {
            let idle = Progress { is_due: look % 10 == 0, ..DUE };
            assert_eq!(watchdog.look(at(10 * look), &[idle]), None, "look {look}");
        }
    }

    #[test]
    fn a_late_answer_is_enough() {
        let mut watchdog = Watchdog::default();
        watchdog.look(at(0), &[DUE]);
        assert_eq!(watchdog.look(at(119), &[DUE]), None);
        assert_eq!(watchdog.look(at(200), &[Progress { landed: 4, ..DUE }]), None);
        assert_eq!(watchdog.look(at(300), &[Progress { landed: 4, ..DUE }]), None);
        assert_eq!(watchdog.look(at(321), &[Progress { landed: 4, ..DUE }]), Some(0));
    }
}
