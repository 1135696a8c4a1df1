//! Spread without randomness: a counter is hashed, so that two runs with the same inputs take the same pauses.

use std::time::Duration;

/// A well-mixed number for a counter (the finaliser of SplitMix64: Steele, Lea and Flood, OOPSLA 2014).
pub(crate) const fn hash(counter: u64) -> u64 {
    let mut mixed = counter.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// A number for a text (FNV-1a), to give each destination a seed of its own.
pub(crate) fn hash_text(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

/// A pause between `low` and `high`, chosen by the counter.
pub(crate) fn between(low: Duration, high: Duration, counter: u64) -> Duration {
    let span = u64::try_from(high.saturating_sub(low).as_micros()).unwrap_or(u64::MAX);
    let part = (u128::from(hash(counter)) * u128::from(span)) >> 64;
    low + Duration::from_micros(u64::try_from(part).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_stays_in_its_bounds_and_is_spread_over_them() {
        let (low, high) = (Duration::from_secs(1), Duration::from_secs(5));
        let pauses: Vec<_> = (0..400).map(|counter| between(low, high, counter)).collect();
        assert!(pauses.iter().all(|&pause| low <= pause && pause <= high));
        for quarter in 0..4 {
            let from = low + Duration::from_secs(quarter);
            let inside = pauses.iter().filter(|&&pause| from <= pause && pause < from + Duration::from_secs(1)).count();
            assert!((60..=140).contains(&inside), "{inside} of 400 pauses in second {quarter}");
        }
        assert_eq!(between(low, low, 7), low);
        assert_ne!(hash_text("primary"), hash_text("archive"));
    }
}
