//! How fast a backlog is sent beside live traffic, to one destination that has just recovered. Pure numbers; which records are backlog
//! is the queue's to know.
//!
//! - Without live traffic for [`LIVE_GONE`] it is free: nobody is disturbed.
//! - Beside live traffic it has a rate in bytes per second. It begins at [`RATE_FIRST`] and grows by [`RATE_STEP`] for each second in which
//!   nothing else holds the replay back. It is halved, at most once in [`HALVE_EVERY`] and not below [`RATE_MIN`], when the destination
//!   fails or asks for a pause, and when more than one live record in a hundred takes too long.
//! - What is promised is `max(2 × usual, 50 ms)`, where *usual* is what 99 of 100 records took at most in the last minute outside
//!   replays. Three quarters of it are too long, so that what is on its way at that moment still arrives in time.
//! - It begins at an instant drawn for the agent, so that the replays of a fleet do not come at once.
//!
//! # Bound
//!
//! In any span of time with live traffic throughout, at most what the rates over it allow and one record beyond are sent, for a record
//! is sent only when those before it are paid for; and at least [`RATE_MIN`] may be.

use std::time::Duration;

use crate::usual::Usual;

/// Live traffic is gone when nothing of it was sent for this long.
pub(crate) const LIVE_GONE: Duration = Duration::from_secs(1);
/// Rates, in bytes per second: a first one that any destination stands, a step that reaches 30 MiB/s in a minute, and a least one at
/// which a backlog still gets somewhere.
const RATE_FIRST: u64 = 1 << 20;
const RATE_STEP: u64 = 512 << 10;
const RATE_MIN: u64 = 128 << 10;
/// Live records that take no longer disturb nobody, whatever was usual.
const PROMISED_MIN: Duration = Duration::from_millis(50);
/// Signs of one jam come together: of those within this time one counts. The answers that are judged are of about twice this time.
const HALVE_EVERY: Duration = Duration::from_secs(1);
/// One live record of this many may take longer.
const SLOW_ONE_IN: u32 = 100;

/// The pace of one replay after the other.
#[derive(Clone, Debug)]
pub(crate) struct Governor {
    begins_at: Duration,
    rate: u64,
    /// Bytes that were sent and are not paid for; nothing is sent before they are.
    debt: u64,
    /// Up to when debt is paid and the rate has grown.
    paid_at: Duration,
    /// When something live was sent last, or waited.
    live_at: Option<Duration>,
    halved_at: Option<Duration>,
    usual: Usual,
    /// Live answers within replays, those of them that took too long, and when the two were halved last, to forget.
    answers: u32,
    slow: u32,
    forgot_at: Duration,
}

impl Default for Governor {
    fn default() -> Self {
        Self {
            begins_at: Duration::ZERO,
            rate: RATE_FIRST,
            debt: 0,
            paid_at: Duration::ZERO,
            live_at: None,
            halved_at: None,
            usual: Usual::default(),
            answers: 0,
            slow: 0,
            forgot_at: Duration::ZERO,
        }
    }
}

impl Governor {
    /// There is a backlog to be sent from this instant on.
    pub(crate) const fn begin(&mut self, at: Duration) {
        (self.begins_at, self.rate, self.debt, self.paid_at) = (at, RATE_FIRST, 0, at);
        (self.answers, self.slow) = (0, 0);
    }

    /// In bytes per second, beside live traffic.
    pub(crate) const fn rate(&self) -> u64 {
        self.rate
    }

    /// When the next record of the backlog may be sent; what has passed means at once.
    pub(crate) fn due_at(&self) -> Duration {
        let Some(live_at) = self.live_at else { return self.begins_at };
        let paid_at = self.paid_at.saturating_add(self.time_to_pay());
        self.begins_at.max(paid_at.min(live_at + LIVE_GONE))
    }

    /// Whether there is no live traffic.
    pub(crate) fn is_free(&self, now: Duration) -> bool {
        self.live_at.is_none_or(|live_at| now >= live_at + LIVE_GONE)
    }

    /// Something of the backlog is sent.
    pub(crate) fn note_replayed(&mut self, now: Duration, bytes: u64) {
        self.pay(now);
        self.debt = if self.is_free(now) { 0 } else { self.debt.saturating_add(bytes) };
    }

    /// Something live is sent, or waits.
    pub(crate) const fn note_live(&mut self, now: Duration) {
        self.live_at = Some(now);
    }

    /// The destination answered something live, this long after it was there to be sent.
    pub(crate) fn note_answer(&mut self, now: Duration, took: Duration, is_replaying: bool) {
        let known = if is_replaying { self.usual.most() } else { None };
        // A start has seen nothing before its replay: then its first answers, at the first rate, are what is usual.
        let Some(usual) = known else { return self.usual.note(now, took) };
        if now >= self.forgot_at + HALVE_EVERY {
            (self.answers, self.slow, self.forgot_at) = (self.answers / 2, self.slow / 2, now);
        }
        self.answers = self.answers.saturating_add(1);
        if took > PROMISED_MIN.max(usual * 2) * 3 / 4 {
            self.slow = self.slow.saturating_add(1);
            if self.slow.saturating_mul(SLOW_ONE_IN) > self.answers {
                self.note_jam(now);
            }
        }
    }

    /// The destination cannot take what it is sent.
    pub(crate) fn note_jam(&mut self, now: Duration) {
        self.pay(now);
        if self.halved_at.is_none_or(|halved_at| now >= halved_at + HALVE_EVERY) {
            self.rate = (self.rate / 2).max(RATE_MIN);
            self.halved_at = Some(now);
        }
    }

    /// Rounded up, so that all is paid by then.
    fn time_to_pay(&self) -> Duration {
        Duration::from_micros(self.debt.saturating_mul(1_000_000).div_ceil(self.rate))
    }

    /// Pays debt at the rate since the last payment, and lets the rate grow for the time in which there was some.
    fn pay(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.paid_at);
        let indebted = elapsed.min(self.time_to_pay());
        self.debt = self.debt.saturating_sub(per_time(self.rate, elapsed));
        self.rate = self.rate.saturating_add(per_time(RATE_STEP, indebted));
        self.paid_at = self.paid_at.max(now);
    }
}

/// What a rate per second comes to.
fn per_time(rate: u64, elapsed: Duration) -> u64 {
    u64::try_from(u128::from(rate) * elapsed.as_micros() / 1_000_000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A governor in the midst of a replay, to which answers within 10 ms are usual.
    fn replaying() -> Governor {
        let mut governor = Governor::default();
        for _ in 0..100 {
            governor.note_answer(Duration::ZERO, millis(10), false);
        }
        governor.begin(Duration::ZERO);
        governor.note_live(Duration::ZERO);
        governor
    }

    #[derive(Clone, Debug)]
    enum Event {
        Send { bytes: u64 },
        Answer { took: Duration },
        Jam,
        Wait { millis: u64 },
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            8 => (1_u64..1 << 20).prop_map(|bytes| Event::Send { bytes }),
            4 => (1_u64..400).prop_map(|took| Event::Answer { took: millis(took) }),
            1 => Just(Event::Jam),
            8 => (0_u64..900).prop_map(|millis| Event::Wait { millis }),
        ]
    }

    #[test]
    fn without_live_traffic_a_replay_is_free_and_beside_it_begins_slowly() {
        let mut governor = Governor::default();
        governor.begin(millis(300));
        assert_eq!((governor.due_at(), governor.is_free(millis(300))), (millis(300), true));
        governor.note_replayed(millis(300), 1 << 30);
        assert_eq!(governor.due_at(), millis(300), "nobody is disturbed");
        governor.note_live(millis(400));
        governor.note_replayed(millis(400), RATE_FIRST / 2);
        assert_eq!(governor.due_at(), millis(900), "what was sent is paid for first");
        governor.note_replayed(millis(900), 1 << 30);
        assert_eq!(governor.due_at(), millis(400) + LIVE_GONE, "nothing live came meanwhile");
        assert!(governor.is_free(governor.due_at()));
    }

    #[test]
    fn it_begins_at_its_instant_whatever_the_traffic() {
        let mut governor = replaying();
        governor.begin(millis(5_000));
        assert_eq!(governor.due_at(), millis(5_000));
    }

    #[test]
    fn the_rate_grows_while_it_is_what_holds_the_replay_back_and_only_then() {
        let mut governor = replaying();
        let mut now = Duration::ZERO;
        while now < millis(10_000) {
            governor.note_live(now);
            governor.note_replayed(now, 64 << 10);
            now = governor.due_at();
        }
        let grown = governor.rate();
        assert!(grown.abs_diff(RATE_FIRST + 10 * RATE_STEP) < RATE_STEP / 10, "{grown} bytes per second after ten seconds");
        governor.note_live(millis(60_000));
        governor.note_replayed(millis(60_000), 1);
        assert!(governor.rate() - grown < RATE_STEP / 10, "it grew although nothing was sent");
    }

    #[test]
    fn one_slow_record_in_two_hundred_is_usual_and_one_in_ten_halves_the_rate() {
        let rate_with_slow = |slow_every: u64| {
            let mut governor = replaying();
            for answer in 0..1_000 {
                let took = if answer % slow_every == slow_every - 1 { millis(45) } else { millis(30) };
                governor.note_answer(MILLI * answer as u32, took, true);
            }
            governor.rate()
        };
        assert_eq!((rate_with_slow(200), rate_with_slow(10)), (RATE_FIRST, RATE_FIRST / 2));
    }

    #[test]
    fn what_is_too_long_depends_on_what_was_usual() {
        for (usual, fine, too_long) in [(2, 37, 38), (100, 149, 151)] {
            let mut governor = Governor::default();
            (0..100).for_each(|_| governor.note_answer(Duration::ZERO, millis(usual), false));
            governor.begin(Duration::ZERO);
            governor.note_answer(Duration::ZERO, millis(fine), true);
            assert_eq!(governor.rate(), RATE_FIRST, "{fine} ms where {usual} ms are usual");
            governor.note_answer(Duration::ZERO, millis(too_long), true);
            assert_eq!(governor.rate(), RATE_FIRST / 2, "{too_long} ms where {usual} ms are usual");
        }
    }

    #[test]
    fn a_start_takes_its_first_answers_for_usual() {
        let mut governor = Governor::default();
        governor.begin(Duration::ZERO);
        (0..100).for_each(|_| governor.note_answer(Duration::ZERO, millis(300), true));
        assert_eq!(governor.rate(), RATE_FIRST);
        governor.note_answer(Duration::ZERO, millis(900), true);
        governor.note_answer(Duration::ZERO, millis(900), true);
        assert_eq!(governor.rate(), RATE_FIRST / 2);
    }

    proptest! {
        #[test]
        fn a_replay_gets_no_more_than_its_rate_and_no_less_than_the_least_and_is_halved_once_a_second(
            events in prop::collection::vec(event(), 1..200),
        ) {
            let mut governor = replaying();
            let (mut now, mut halved_at) = (Duration::ZERO, None);
            let (mut sent, mut allowed, mut largest) = (0, 0, 0);
            for event in events {
                let before = governor.rate();
                governor.note_live(now);
                match event {
                    Event::Send { bytes } if governor.due_at() <= now => {
                        governor.note_replayed(now, bytes);
                        (sent, largest) = (sent + bytes, largest.max(bytes));
                        let least = Duration::from_micros((bytes * 1_000_000).div_ceil(RATE_MIN));
                        prop_assert!(governor.due_at() <= now + least, "it is starved");
                    }
                    Event::Send { .. } => {}
                    Event::Answer { took } => governor.note_answer(now, took, true),
                    Event::Jam => governor.note_jam(now),
                    Event::Wait { millis: waited } => {
                        // No rate within this time is above the one it may have grown to at its end.
                        allowed += per_time(governor.rate() + per_time(RATE_STEP, now + millis(waited) - governor.paid_at), millis(waited));
                        now += millis(waited);
                    }
                }
                prop_assert!(governor.rate() >= RATE_MIN);
                if governor.rate() < before {
                    prop_assert!(halved_at.is_none_or(|at| now >= at + HALVE_EVERY), "halved twice within a second");
                    prop_assert!(governor.rate() >= before / 2);
                    halved_at = Some(now);
                }
                prop_assert!(sent <= allowed + largest, "{sent} bytes were sent, of {allowed} that the rates allow");
            }
        }
    }
}
