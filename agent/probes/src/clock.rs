//! From the kernel's monotonic time to the time of day. Separate because it is the only place here that reads a clock.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Nanoseconds of the Unix epoch of an instant that a record gives in nanoseconds of the monotonic clock. As exact as the time of day is at
/// this moment: a clock that was set in between moves the result with it.
#[must_use]
pub fn unix_nanos(monotonic_nanos: u64) -> u64 {
    let age = nanos(clock_gettime(ClockId::Monotonic)).saturating_sub(monotonic_nanos);
    nanos(clock_gettime(ClockId::Realtime)).saturating_sub(age)
}

fn nanos(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_keeps_its_distance_from_the_present() {
        let monotonic = nanos(clock_gettime(ClockId::Monotonic));
        let before = nanos(clock_gettime(ClockId::Realtime));
        let minute_ago = unix_nanos(monotonic - 60_000_000_000);
        let distance = before.abs_diff(minute_ago + 60_000_000_000);
        assert!(distance < 5_000_000_000, "{distance} ns off");
    }
}
