//! A set of sequence numbers as a bitmap: one bit per item, so that a million items cost 125 kB and "seen before" is exact.

/// Largest number a set takes; 268 million items are hours of load, and 32 MiB of bitmap.
pub const SEQUENCE_MAX: u64 = (1 << 28) - 1;

/// The set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SequenceSet {
    words: Vec<u64>,
    members: u64,
}

impl SequenceSet {
    /// Adds one; whether it was new. Numbers above [`SEQUENCE_MAX`] are not taken and count as known.
    pub fn insert(&mut self, sequence: u64) -> bool {
        if sequence > SEQUENCE_MAX {
            return false;
        }
        let index = usize::try_from(sequence / 64).expect("SEQUENCE_MAX fits in memory");
        if self.words.len() <= index {
            self.words.resize(index + 1, 0);
        }
        let mask = 1 << (sequence % 64);
        let Some(word) = self.words.get_mut(index) else { return false };
        let fresh = *word & mask == 0;
        *word |= mask;
        self.members += u64::from(fresh);
        fresh
    }

    /// Whether it was added.
    #[must_use]
    pub fn contains(&self, sequence: u64) -> bool {
        usize::try_from(sequence / 64).ok().and_then(|index| self.words.get(index)).is_some_and(|word| word & (1 << (sequence % 64)) != 0)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.members
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members == 0
    }

    /// The members as ascending inclusive ranges.
    #[must_use]
    pub fn ranges(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let numbers = (0_u64..).zip(&self.words).filter(|&(_, &word)| word != 0);
        for sequence in
            numbers.flat_map(|(index, &word)| (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| index * 64 + bit))
        {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == sequence => *last = sequence,
                _ => ranges.push((sequence, sequence)),
            }
        }
        ranges
    }

    /// The set with these members.
    #[must_use]
    pub fn from_ranges(ranges: &[(u64, u64)]) -> Self {
        let mut set = Self::default();
        for &(first, last) in ranges {
            for sequence in first..=last.min(SEQUENCE_MAX) {
                set.insert(sequence);
            }
        }
        set
    }

    /// What is in here and not in `other`, as ranges.
    #[must_use]
    pub fn without(&self, other: &Self) -> Vec<(u64, u64)> {
        let mut difference = Self::default();
        let members = self.ranges().into_iter().flat_map(|(first, last)| first..=last);
        for sequence in members.filter(|&sequence| !other.contains(sequence)) {
            difference.insert(sequence);
        }
        difference.ranges()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_lead_back_to_the_same_set() {
        let ranges = vec![(0, 63), (65, 65), (127, 300)];
        let set = SequenceSet::from_ranges(&ranges);
        assert_eq!((set.ranges(), set.len()), (ranges, 64 + 1 + 174));
    }

    #[test]
    fn a_number_is_new_only_once() {
        let mut set = SequenceSet::default();
        assert!(set.insert(70));
        assert!(!set.insert(70));
        assert!(!set.insert(SEQUENCE_MAX + 1));
        assert_eq!(set.len(), 1);
    }

    #[test]
    fn what_is_missing_is_told_by_number() {
        let acknowledged = SequenceSet::from_ranges(&[(0, 99)]);
        let arrived = SequenceSet::from_ranges(&[(0, 41), (43, 98), (200, 220)]);
        assert_eq!(acknowledged.without(&arrived), vec![(42, 42), (99, 99)]);
    }
}
