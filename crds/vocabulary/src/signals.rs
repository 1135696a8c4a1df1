//! What kinds of telemetry there are, and how important an item is.

use core::ops::{Index, IndexMut};

use crate::names::words;

words! {
    /// The OTLP signal an item belongs to.
    Signal {
        /// Spans.
        Traces = 0 "traces",
        /// Data points.
        Metrics = 1 "metrics",
        /// Log records.
        Logs = 2 "logs",
        /// Profiles, a signal OTLP still develops.
        Profiles = 3 "profiles",
    }
}

words! {
    /// How important an item is. The order is the order of importance: `Critical` first, so `min` finds the most important.
    Class {
        /// What a person is woken for: out-of-memory kills, fatal signals, FATAL logs.
        Critical = 0 "critical",
        /// Errors and what is slow.
        High = 1 "high",
        /// Ordinary spans, metrics and logs.
        Normal = 2 "normal",
        /// What may go first: DEBUG and TRACE logs.
        Bulk = 3 "bulk",
    }
}

/// A number of items per class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClassCounts(pub [u32; Class::COUNT]);

impl ClassCounts {
    /// `items` of one class and none of the others.
    #[must_use]
    pub fn of(class: Class, items: u32) -> Self {
        let mut counts = Self::default();
        counts[class] = items;
        counts
    }

    /// All items, whatever their class.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().map(|&items| u64::from(items)).sum()
    }

    /// Each class with its items, most important first, none left out.
    pub fn iter(&self) -> impl Iterator<Item = (Class, u32)> + '_ {
        Class::ALL.into_iter().map(|class| (class, self[class]))
    }

    /// The most important class that has an item.
    #[must_use]
    pub fn highest(&self) -> Option<Class> {
        self.iter().find(|&(_, items)| items > 0).map(|(class, _)| class)
    }

    /// Whether items of more than one class are counted here.
    #[must_use]
    pub fn is_mixed(&self) -> bool {
        self.0.iter().filter(|&&items| items > 0).count() > 1
    }
}

impl Index<Class> for ClassCounts {
    type Output = u32;
    #[expect(clippy::indexing_slicing, reason = "the array has a cell for every class")]
    fn index(&self, class: Class) -> &u32 {
        &self.0[class.index()]
    }
}

impl IndexMut<Class> for ClassCounts {
    #[expect(clippy::indexing_slicing, reason = "the array has a cell for every class")]
    fn index_mut(&mut self, class: Class) -> &mut u32 {
        &mut self.0[class.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_class_is_the_most_important_one_present() {
        let mut counts = ClassCounts::of(Class::Bulk, 3);
        assert_eq!((counts.highest(), counts.is_mixed()), (Some(Class::Bulk), false));
        counts[Class::High] = 1;
        assert_eq!((counts.highest(), counts.is_mixed(), counts.total()), (Some(Class::High), true, 4));
        assert_eq!(ClassCounts::default().highest(), None);
    }
}
