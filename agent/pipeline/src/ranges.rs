//! A set of sequence numbers that stays small because neighbours merge: what is settled is nearly always one range.

use crate::sorted::SortedMap;

/// A set of sequence numbers kept as sorted, disjoint, non-adjacent inclusive ranges. Each operation on one number is
/// O(log r) in the number of ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdRanges {
    /// First number of each range, with its last.
    ranges: SortedMap<u64>,
}

impl IdRanges {
    /// Adds one number.
    pub fn insert(&mut self, sequence: u64) {
        self.insert_range(sequence, sequence);
    }

    /// Adds all numbers from `first` to `last`, both included; nothing if `last` is smaller.
    pub fn insert_range(&mut self, first: u64, last: u64) {
        if last < first {
            return;
        }
        // Numbers mostly come in order.
        if let Some((start, end)) = self.ranges.last_mut()
            && (start..=end.saturating_add(1)).contains(&first)
        {
            *end = last.max(*end);
            return;
        }
        let (mut start, mut end) = (first, last);
        let reach = last.saturating_add(1);
        while let Some((other_start, other_end)) = self.ranges.last_up_to_mut(&reach) {
            if other_end.saturating_add(1) < first {
                break;
            }
            end = end.max(*other_end);
            if other_start <= first {
                *other_end = end;
                return;
            }
            start = start.min(other_start);
            self.ranges.remove(&other_start);
        }
        self.ranges.insert(start, end);
    }

    /// Takes one number out; nothing if it is not in.
    pub fn remove(&mut self, sequence: u64) {
        let Some((&start, &end)) = self.ranges.last_up_to(&sequence) else { return };
        if end < sequence {
            return;
        }
        if start == sequence {
            self.ranges.remove(&start);
        } else if let Some(end) = self.ranges.get_mut(&start) {
            *end = sequence - 1;
        }
        if sequence < end {
            self.ranges.insert(sequence + 1, end);
        }
    }

    /// Whether the number is in the set.
    #[must_use]
    pub fn contains(&self, sequence: u64) -> bool {
        self.ranges.last_up_to(&sequence).is_some_and(|(_, &end)| sequence <= end)
    }

    /// Whether every number from `first` to `last`, both included, is in the set.
    #[must_use]
    pub fn contains_range(&self, first: u64, last: u64) -> bool {
        self.ranges.last_up_to(&first).is_some_and(|(_, &end)| last <= end)
    }

    /// The ranges as (first, last), both included, ascending, with a gap between any two.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().map(|(&first, &last)| (first, last))
    }

    /// How many ranges there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether no number is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The largest number.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        self.ranges.last_key_value().map(|(_, &end)| end)
    }
}

/// Builds the set from inclusive ranges in any order, overlapping or not.
impl FromIterator<(u64, u64)> for IdRanges {
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(ranges: I) -> Self {
        let mut set = Self::default();
        for (first, last) in ranges {
            set.insert_range(first, last);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn numbers(set: &IdRanges) -> BTreeSet<u64> {
        set.iter().flat_map(|(first, last)| first..=last).collect()
    }

    proptest! {
        #[test]
        fn ranges_hold_the_same_numbers_as_a_plain_set_and_never_touch(steps in prop::collection::vec((0_u8..3, 0_u64..60, 0_u64..6), 0..80)) {
            let (mut set, mut model) = (IdRanges::default(), BTreeSet::new());
            for (kind, first, length) in steps {
                match kind {
                    0 => { set.insert(first); model.insert(first); }
                    1 => { set.insert_range(first, first + length); model.extend(first..=first + length); }
                    _ => { set.remove(first); model.remove(&first); }
                }
                prop_assert_eq!(numbers(&set), model.clone());
                let pairs: Vec<_> = set.iter().collect();
                prop_assert!(pairs.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "neighbours not merged: {:?}", pairs);
                for number in 0..70 {
                    prop_assert_eq!(set.contains(number), model.contains(&number));
                    prop_assert_eq!(set.contains_range(number, number + 2), (number..=number + 2).all(|each| model.contains(&each)));
                }
                prop_assert_eq!(set.last(), model.last().copied());
                prop_assert_eq!(&set.iter().collect::<IdRanges>(), &set);
            }
        }
    }

    #[test]
    fn the_largest_number_can_be_held() {
        let mut set = IdRanges::default();
        set.insert(u64::MAX);
        set.insert(u64::MAX - 1);
        assert_eq!(set.iter().collect::<Vec<_>>(), [(u64::MAX - 1, u64::MAX)]);
        set.remove(u64::MAX);
        assert_eq!(set.last(), Some(u64::MAX - 1));
    }
}
