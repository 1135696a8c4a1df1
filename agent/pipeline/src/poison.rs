//! The search for the bad items of one record that its destination refuses: which items to try next, and what the answers so far
//! say. Pure numbers; nothing here knows of destinations or bodies.
//!
//! # How it searches
//!
//! From the front. A range that was refused holds a bad item: its front half is tried; if that is good the bad item is behind it,
//! and only there the search goes on. When one bad item is alone and refused, all that is behind it is tried at once. So what is
//! good is delivered in order, and what is not yet decided is always one range up to the end.
//!
//! A refusal for size says nothing about any item: the largest slice is halved, and slices of that size follow each other.
//!
//! # Bound
//!
//! With `k` bad items of `n`, each costs at most ⌈log2 n⌉ halvings, one try alone (where it was found by exclusion), and one of all
//! that is behind it; with the first try of the whole record that is at most `k · (⌈log2 n⌉ + 3)` tries, and never more than
//! [`TRIES_MAX`]: what is undecided then counts as bad.

use std::ops::Range;

use vocabulary::{Class, ClassCounts, DropReason};

/// Most tries of one record, the first of the whole included.
pub(crate) const TRIES_MAX: u32 = 64;

/// What a destination said of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Taken, but for `rejected` items it does not name.
    Taken { counts: ClassCounts, rejected: u64 },
    /// Something in it is bad.
    Bad,
    /// As a whole it is too large.
    TooLarge,
    /// Nobody can be asked: the agent itself cannot handle the record, and nothing more of it is tried.
    Undecodable,
}

/// What is known of one record.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    /// Items before this one are decided.
    from: u32,
    /// How many items there are.
    end: u32,
    /// The items up to here, and not all of them good.
    known: Option<u32>,
    /// Most items of a slice.
    step: u32,
    tries: u32,
    /// What was taken, and what of it was rejected in partial success.
    delivered: ClassCounts,
    rejected: ClassCounts,
    /// Ascending, not adjacent.
    bad: Vec<Range<u32>>,
    /// Whether anything was refused for something else than its size.
    is_any_refused: bool,
    is_undecodable: bool,
}

impl Search {
    /// The whole record, of at least one item, was refused.
    pub(crate) fn new(items: u32, answer: Answer) -> Self {
        let mut search = Self {
            from: 0,
            end: items,
            known: None,
            step: items,
            tries: 0,
            delivered: ClassCounts::default(),
            rejected: ClassCounts::default(),
            bad: Vec::new(),
            is_any_refused: false,
            is_undecodable: false,
        };
        search.note(answer);
        search
    }

    /// The items to try next; empty when all are decided.
    pub(crate) fn next(&self) -> Range<u32> {
        let end = match self.known {
            Some(known) => self.from + ((known - self.from) / 2).max(1),
            None => self.end.min(self.from.saturating_add(self.step)),
        };
        self.from..end
    }

    /// The destination answered for `next`.
    pub(crate) fn note(&mut self, answer: Answer) {
        // The first answer is for the whole record, which is what `next` says while nothing is known.
        let tried = self.next();
        let is_one = tried.len() == 1;
        self.tries += 1;
        self.is_any_refused |= answer == Answer::Bad;
        match answer {
            Answer::Taken { counts, rejected } => {
                self.take(&counts, rejected);
                self.from = tried.end;
                self.known = self.known.filter(|&known| known > tried.end);
            }
            Answer::Bad if !is_one => self.known = Some(tried.end),
            Answer::TooLarge if !is_one => (self.known, self.step) = (None, tried.end.saturating_sub(tried.start) / 2),
            Answer::Bad | Answer::TooLarge => self.condemn(tried.end),
            Answer::Undecodable => {
                self.is_undecodable = true;
                self.condemn(self.end);
            }
        }
        if self.tries >= TRIES_MAX && !self.is_done() {
            self.condemn(self.end);
        }
    }

    fn take(&mut self, counts: &ClassCounts, mut rejected: u64) {
        // From the lowest class up, as with a whole record.
        for (class, items) in Class::ALL.into_iter().zip(counts.0).rev() {
            let charged = u32::try_from(rejected).unwrap_or(u32::MAX).min(items);
            rejected -= u64::from(charged);
            self.rejected[class] += charged;
            self.delivered[class] += items - charged;
        }
    }

    /// Everything undecided before `end` is bad.
    fn condemn(&mut self, end: u32) {
        match self.bad.last_mut().filter(|last| last.end == self.from) {
            Some(last) => last.end = end,
            None => self.bad.push(self.from..end),
        }
        (self.from, self.known) = (end, None);
    }

    pub(crate) const fn is_done(&self) -> bool {
        self.from == self.end
    }

    /// Confirmed, and rejected in partial success.
    pub(crate) const fn taken(&self) -> (ClassCounts, ClassCounts) {
        (self.delivered, self.rejected)
    }

    /// The items found bad, ascending.
    pub(crate) fn bad(&self) -> &[Range<u32>] {
        &self.bad
    }

    /// Why they are.
    pub(crate) const fn reason(&self) -> DropReason {
        match () {
            () if self.is_undecodable => DropReason::Undecodable,
            () if self.is_any_refused => DropReason::Rejected,
            () => DropReason::TooLarge,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Searches a record of which `bad` items are bad and `limit` items fit; returns what was found bad, and the tries.
    fn search(items: u32, bad: &BTreeSet<u32>, limit: u32) -> (BTreeSet<u32>, u32) {
        let answer = |tried: Range<u32>| {
            if tried.len() as u32 > limit {
                Answer::TooLarge
            } else if bad.range(tried.clone()).next().is_some() {
                Answer::Bad
            } else {
                Answer::Taken { counts: ClassCounts::of(Class::Normal, tried.len() as u32), rejected: 0 }
            }
        };
        let mut search = Search::new(items, answer(0..items));
        let mut at = 0;
        while !search.is_done() {
            let next = search.next();
            assert!(next.start >= at && !next.is_empty() && next.end <= items, "{next:?} after {at} of {items}");
            at = next.start;
            search.note(answer(next));
        }
        let found: BTreeSet<u32> = search.bad().iter().cloned().flatten().collect();
        assert_eq!(search.taken().0.total() + found.len() as u64, u64::from(items), "every item is decided once");
        (found, search.tries)
    }

    fn bound(items: u32, bad: usize) -> u32 {
        u32::try_from(bad).unwrap() * (items.next_power_of_two().ilog2() + 3)
    }

    proptest! {
        #[test]
        fn exactly_the_bad_items_are_found_within_the_stated_tries(items in 1_u32..5_000, places in prop::collection::vec(any::<prop::sample::Index>(), 1..20)) {
            let bad: BTreeSet<u32> = places.iter().map(|place| place.index(items as usize) as u32).collect();
            let (found, tries) = search(items, &bad, u32::MAX);
            prop_assert!(tries <= TRIES_MAX && found.is_superset(&bad));
            if tries < TRIES_MAX {
                prop_assert_eq!(&found, &bad);
                prop_assert!(tries <= bound(items, bad.len()), "{} tries for {} bad of {}", tries, bad.len(), items);
            } else {
                prop_assert!(bound(items, bad.len()) >= TRIES_MAX, "{} bad of {} took all tries", bad.len(), items);
            }
        }

        #[test]
        fn what_is_too_large_together_is_delivered_in_slices(items in 1_u32..2_000, limit in 1_u32..2_000, place in any::<prop::sample::Index>()) {
            let bad = BTreeSet::from([place.index(items as usize) as u32]);
            let (found, tries) = search(items, &BTreeSet::new(), limit);
            prop_assert!(found.is_empty() || tries == TRIES_MAX, "{} good items set aside in {} tries", found.len(), tries);
            prop_assert!(tries == TRIES_MAX || tries <= 2 * items.div_ceil(limit) + 12, "{} tries for {} slices", tries, items.div_ceil(limit));
            let (found, tries) = search(items, &bad, limit);
            prop_assert!(found == bad || tries == TRIES_MAX);
        }
    }

    #[test]
    fn one_item_is_found_bad_by_the_first_try() {
        assert_eq!(search(1, &BTreeSet::from([0]), 1), (BTreeSet::from([0]), 1));
    }

    #[test]
    fn the_reason_is_size_only_if_nothing_else_was_wrong() {
        let mut search = Search::new(2, Answer::TooLarge);
        search.note(Answer::TooLarge);
        assert_eq!(search.reason(), DropReason::TooLarge);
        search.note(Answer::Bad);
        assert_eq!((search.reason(), search.is_done(), search.bad()), (DropReason::Rejected, true, std::slice::from_ref(&(0..2))));
    }

    #[test]
    fn of_a_record_that_the_agent_cannot_handle_nothing_more_is_tried() {
        let mut search = Search::new(8, Answer::Bad);
        search.note(Answer::Taken { counts: ClassCounts::of(Class::High, 4), rejected: 0 });
        search.note(Answer::Undecodable);
        assert_eq!((search.reason(), search.is_done(), search.bad()), (DropReason::Undecodable, true, std::slice::from_ref(&(4..8))));
    }
}
