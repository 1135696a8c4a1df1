//! A ring of ten-second windows over a pipeline's or an agent's totals: what happened lately, as opposed to what happened in all.

use std::collections::VecDeque;

use jiff::Timestamp;

use crate::books::Totals;

/// Length of a window in seconds; the unit of every threshold.
pub const WINDOW_SECONDS: i64 = 10;
/// Windows that are kept: five minutes.
pub const WINDOWS: usize = 30;

/// The ring. Bounded by [`WINDOWS`].
#[derive(Clone, Debug, Default)]
pub struct Windows {
    /// Totals at the end of each closed window, oldest first; the first entry is where counting began.
    marks: VecDeque<(Timestamp, Totals)>,
}

impl Windows {
    /// Takes in the totals of `now`. When a window is over, closes it and returns what happened in it.
    pub fn observe(&mut self, now: Timestamp, totals: Totals) -> Option<Totals> {
        let Some(&(at, before)) = self.marks.back() else {
            self.marks.push_back((now, totals));
            return None;
        };
        if seconds_between(at, now) < WINDOW_SECONDS {
            return None;
        }
        self.marks.push_back((now, totals));
        while self.marks.len() > WINDOWS + 1 {
            self.marks.pop_front();
        }
        Some(totals.since(&before))
    }

    /// What happened in the last five minutes, or since counting began if that is shorter.
    #[must_use]
    pub fn lately(&self, totals: Totals) -> Totals {
        self.marks.front().map_or_else(Totals::default, |(_, first)| totals.since(first))
    }

    /// Items per second of `field` over the last minute.
    #[must_use]
    pub fn rate(&self, now: Timestamp, totals: Totals, field: fn(&Totals) -> u64) -> u64 {
        let Some((at, mark)) = self.marks.iter().find(|(at, _)| seconds_between(*at, now) <= 60) else { return 0 };
        let seconds = seconds_between(*at, now).unsigned_abs();
        field(&totals.since(mark)).checked_div(seconds).unwrap_or(0)
    }
}

/// Whole seconds from `from` to `to`; negative if the clock was set back.
#[must_use]
pub fn seconds_between(from: Timestamp, to: Timestamp) -> i64 {
    to.as_second() - from.as_second()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).expect("in range")
    }

    fn dropped(items: u64) -> Totals {
        Totals { dropped: items, ..Totals::default() }
    }

    #[test]
    fn only_the_last_five_minutes_count_as_lately() {
        let mut windows = Windows::default();
        assert_eq!(windows.observe(at(0), dropped(7)), None);
        assert_eq!(windows.observe(at(5), dropped(9)), None);
        assert_eq!(windows.observe(at(10), dropped(9)).map(|window| window.dropped), Some(2));
        assert_eq!(windows.lately(dropped(9)).dropped, 2);
        for window in 2..=31 {
            windows.observe(at(window * 10), dropped(9));
        }
        assert_eq!(windows.lately(dropped(9)).dropped, 0);
    }

    #[test]
    fn a_rate_is_per_second_over_the_last_minute() {
        let mut windows = Windows::default();
        for window in 0..=12_u8 {
            windows.observe(at(i64::from(window) * 10), Totals { delivered: u64::from(window) * 1000, ..Totals::default() });
        }
        assert_eq!(windows.rate(at(120), Totals { delivered: 12_000, ..Totals::default() }, |totals| totals.delivered), 100);
    }
}
