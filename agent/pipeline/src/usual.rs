//! How long 99 of 100 records took at most within the last minute, in bounded memory: two tables of counts, each of half a minute.
//! Apart from the governor because it is arithmetic alone.

use std::time::Duration;

/// Times below this one are all the same to who asks: twice of it is promised anyway.
const FIRST: Duration = Duration::from_micros(FIRST_MICROS);
const FIRST_MICROS: u64 = 25_000;
/// Buckets of one doubling: a time is known to a fifth.
const PER_OCTAVE: usize = 4;
/// The first bucket, and twelve doublings: up to 102 s.
const BUCKETS: usize = 1 + 12 * PER_OCTAVE;
/// What one table covers.
const HALF: Duration = Duration::from_secs(30);
/// With fewer than these nothing is known.
const KNOWN_MIN: u32 = 16;

#[derive(Clone, Debug)]
pub(crate) struct Usual {
    /// The half minute that goes on, and the one before.
    halves: [[u32; BUCKETS]; 2],
    began: Duration,
}

impl Default for Usual {
    fn default() -> Self {
        Self { halves: [[0; BUCKETS]; 2], began: Duration::ZERO }
    }
}

impl Usual {
    /// A record took this long.
    pub(crate) fn note(&mut self, now: Duration, took: Duration) {
        let age = now.saturating_sub(self.began);
        if age >= HALF {
            let [last, _] = self.halves;
            self.halves = [[0; BUCKETS], if age < 2 * HALF { last } else { [0; BUCKETS] }];
            self.began = now;
        }
        let [current, _] = &mut self.halves;
        if let Some(count) = current.get_mut(bucket(took)) {
            *count = count.saturating_add(1);
        }
    }

    /// What 99 of 100 took at most, rounded down by up to a fifth; none while too little is known.
    pub(crate) fn most(&self) -> Option<Duration> {
        let [current, last] = &self.halves;
        let counts = || current.iter().zip(last).map(|(current, last)| current.saturating_add(*last));
        let all = counts().fold(0, u32::saturating_add);
        let mut below = 0_u32;
        let found = counts().position(|count| {
            below = below.saturating_add(count);
            below >= all - all / 100
        });
        found.filter(|_| all >= KNOWN_MIN).map(least)
    }
}

/// Which bucket a time belongs to.
fn bucket(took: Duration) -> usize {
    // In eighths of the first bound, so that the two bits below the leading one tell the part of the doubling.
    let eighths = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).saturating_mul(8) / FIRST_MICROS;
    let Some(octave) = eighths.checked_ilog2().and_then(|bits| bits.checked_sub(3)) else { return 0 };
    let part = usize::try_from(eighths >> (octave + 1)).unwrap_or(usize::MAX) % PER_OCTAVE;
    (1 + octave as usize * PER_OCTAVE + part).min(BUCKETS - 1)
}

/// The shortest time of a bucket.
fn least(bucket: usize) -> Duration {
    let Some(above) = bucket.checked_sub(1) else { return Duration::ZERO };
    let (octave, part) = (above / PER_OCTAVE, above % PER_OCTAVE);
    FIRST * ((PER_OCTAVE + part) << octave) as u32 / PER_OCTAVE as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_time_is_known_to_a_fifth_and_never_taken_for_longer() {
        for took in (25..90_000).step_by(7).map(millis) {
            let known = least(bucket(took));
            assert!(known <= took && took <= known * 5 / 4, "{took:?} is taken for {known:?}");
        }
        assert_eq!((least(bucket(millis(24))), least(bucket(Duration::MAX))), (Duration::ZERO, least(BUCKETS - 1)));
    }

    #[test]
    fn one_slow_record_of_a_hundred_is_not_usual_and_two_are() {
        let most = |slow: usize| {
            let mut usual = Usual::default();
            (0..100 - slow).for_each(|_| usual.note(Duration::ZERO, millis(30)));
            (0..slow).for_each(|_| usual.note(Duration::ZERO, millis(200)));
            usual.most()
        };
        assert_eq!((most(1), most(2)), (Some(millis(25)), Some(millis(200))));
    }

    #[test]
    fn what_is_older_than_a_minute_is_forgotten_and_few_records_tell_nothing() {
        let mut usual = Usual::default();
        (0..16).for_each(|_| usual.note(Duration::ZERO, millis(200)));
        assert_eq!(usual.most(), Some(millis(200)));
        usual.note(millis(31_000), millis(25));
        assert_eq!(usual.most(), Some(millis(200)), "it is of the half minute before");
        usual.note(millis(62_000), millis(25));
        assert_eq!(usual.most(), None, "two records");
        let mut idle = Usual::default();
        (0..16).for_each(|_| idle.note(Duration::ZERO, millis(200)));
        idle.note(millis(600_000), millis(25));
        assert_eq!(idle.most(), None, "one record");
    }
}
