//! Latencies in buckets that are 1/16 of an octave wide: percentiles within 5 %, in memory that does not grow.

use std::time::Duration;

use super::truth::Latency;

/// Buckets per doubling.
const PER_OCTAVE: f64 = 16.0;
/// 28 octaves from one microsecond: up to four minutes.
const BUCKETS: usize = 16 * 28;

/// The buckets.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    counts: Vec<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS] }
    }
}

impl Histogram {
    /// Adds one.
    pub(super) fn record(&mut self, latency: Duration) {
        let microseconds = (latency.as_secs_f64() * 1e6).max(1.0);
        let index = (microseconds.log2() * PER_OCTAVE) as usize;
        if let Some(count) = self.counts.get_mut(index.min(BUCKETS - 1)) {
            *count += 1;
        }
    }

    /// Median and 99th percentile.
    pub(super) fn summary(&self) -> Latency {
        Latency { p50_milliseconds: self.percentile(0.5), p99_milliseconds: self.percentile(0.99) }
    }

    fn percentile(&self, part: f64) -> f64 {
        let wanted = (self.counts.iter().sum::<u64>() as f64 * part).ceil() as u64;
        let mut passed = 0;
        for (index, count) in self.counts.iter().enumerate() {
            passed += count;
            if passed >= wanted && passed > 0 {
                let milliseconds = ((index as f64 + 1.0) / PER_OCTAVE).exp2() / 1e3;
                return (milliseconds * 100.0).round() / 100.0;
            }
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_within_five_percent() {
        let mut histogram = Histogram::default();
        for milliseconds in 1..=1_000 {
            histogram.record(Duration::from_millis(milliseconds));
        }
        let Latency { p50_milliseconds, p99_milliseconds } = histogram.summary();
        assert!((475.0..=525.0).contains(&p50_milliseconds), "{p50_milliseconds}");
        assert!((940.0..=1_040.0).contains(&p99_milliseconds), "{p99_milliseconds}");
    }

    #[test]
    fn without_a_request_there_is_no_latency() {
        assert_eq!(Histogram::default().summary(), Latency::default());
    }
}
