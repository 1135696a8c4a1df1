//! What a benchmark finds: samples with a unit and, where one was promised, a target; and how pairs are taken.

use anyhow::Result;
use serde::Serialize;

/// What was promised of a figure's median.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

/// One thing that was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) samples: Vec<f64>,
    pub(crate) target: Option<Target>,
}

impl Figure {
    /// A figure that nothing was promised of.
    pub(crate) fn plain(name: impl Into<String>, unit: &'static str, samples: Vec<f64>) -> Self {
        Self { name: name.into(), unit, samples, target: None }
    }

    pub(crate) fn at_least(self, least: f64) -> Self {
        Self { target: Some(Target::AtLeast(least)), ..self }
    }

    pub(crate) fn at_most(self, most: f64) -> Self {
        Self { target: Some(Target::AtMost(most)), ..self }
    }

    /// Whether the median keeps what was promised; none if nothing was.
    pub(crate) fn is_met(&self) -> Option<bool> {
        let median = quantile(&self.samples, 0.5);
        self.target.map(|target| match target {
            Target::AtLeast(least) => median >= least,
            Target::AtMost(most) => median <= most,
        })
    }
}

/// The value below which this part of the samples lies, the nearest rank; 0 without samples.
pub(crate) fn quantile(samples: &[f64], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// What two things gave that were measured in turn.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pairs {
    pub(crate) ours: Vec<f64>,
    pub(crate) theirs: Vec<f64>,
    /// Ours by theirs, of each pair.
    pub(crate) ratios: Vec<f64>,
}

/// Measures two things in turn, so that what else the machine does falls on both: one pair to warm up, then `count` pairs, every
/// other one the other way round.
pub(crate) fn pairs(count: u32, mut ours: impl FnMut() -> Result<f64>, mut theirs: impl FnMut() -> Result<f64>) -> Result<Pairs> {
    let mut pairs = Pairs::default();
    ours()?;
    theirs()?;
    for pair in 0..count {
        let (one, other) = if pair % 2 == 0 {
            let one = ours()?;
            (one, theirs()?)
        } else {
            let other = theirs()?;
            (ours()?, other)
        };
        pairs.ours.push(one);
        pairs.theirs.push(other);
        pairs.ratios.push(one / other);
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn a_median_is_the_middle_sample_and_meets_its_target_or_not() {
        let figure = Figure::plain("x", "ns", vec![9.0, 1.0, 5.0]);
        assert_eq!(quantile(&figure.samples, 0.5), 5.0);
        assert_eq!(figure.is_met(), None);
        assert_eq!(figure.clone().at_most(4.9).is_met(), Some(false));
        assert_eq!(figure.at_least(5.0).is_met(), Some(true));
        assert_eq!(quantile(&[], 0.5), 0.0);
    }

    #[test]
    fn pairs_alternate_their_order_after_a_pair_that_does_not_count() {
        let order = RefCell::new(String::new());
        let take = |name: char, value: f64| {
            order.borrow_mut().push(name);
            Ok(value)
        };
        let pairs = pairs(2, || take('a', 6.0), || take('b', 3.0)).unwrap();
        assert_eq!(order.into_inner(), "ababba");
        assert_eq!(pairs.ratios, [2.0, 2.0]);
    }
}
