//! The order in which classes are served, for one destination: deficit round robin by bytes (Shreedhar and Varghese, 1995)
//! with a floor for every class and promotion by age.
//!
//! # Worst-case wait
//!
//! Let `q(c) = max(weight(c), ⌈Σ weights / 50⌉) · 4 KiB` and `B` the largest record. From the instant a record becomes the head of its
//! class `c`, each other class `j` is served in turn at most `(⌈B / q(c)⌉ + 1) · q(j) + B` bytes before it: what `j` has saved, which
//! is less than `B + q(j)`, and what it is given in the rounds after which `c` can pay for any record. So every class moves, whatever
//! the others offer.
//!
//! A promotion takes nobody's turn and nothing that anybody saved, so it changes none of this. Promotions come on top: beside `S` sends
//! in turn at most `S / 7 + 1`, each of one record. And the head that is the oldest of all is one of the next eight sends, from the
//! promotion age on.

use std::time::Duration;

use vocabulary::Class;

use crate::ClassPolicy;
use crate::per_class::PerClass;

/// Bytes of service that one unit of weight is worth per round.
const QUANTUM_BYTES: u64 = 4 << 10;
/// A class gets at least one part in this many of the sum of weights.
const FLOOR_DIVISOR: u64 = 50;
/// Age from which a head may be sent out of turn. Longer than an ordinary retry, so that it answers starvation alone.
const PROMOTION_AGE: Duration = Duration::from_secs(30);
/// One send in this many may be out of turn: after an outage everything is old, and importance must still lead.
const PROMOTION_EVERY: u64 = 8;

/// The oldest record of a class that may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) bytes: u64,
    pub(crate) age: Duration,
}

/// Whose turn it is.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    quantum: PerClass<u64>,
    deficit: PerClass<u64>,
    sends: u64,
}

impl Turns {
    pub(crate) fn new(policies: &[ClassPolicy; Class::COUNT]) -> Self {
        let sum: u64 = policies.iter().map(|policy| u64::from(policy.weight)).sum();
        let floor = sum.div_ceil(FLOOR_DIVISOR).max(1);
        let quantum = PerClass(policies.map(|policy| u64::from(policy.weight).max(floor) * QUANTUM_BYTES));
        Self { quantum, deficit: PerClass::default(), sends: 0 }
    }

    /// Chooses the class whose head is sent next, and charges it.
    pub(crate) fn pick(&mut self, heads: &PerClass<Option<Head>>) -> Option<Class> {
        if self.promotes_next()
            && let Some(class) = oldest(heads)
        {
            self.sends += 1;
            return Some(class);
        }
        let (class, rounds, bytes) = self.nearest(heads)?;
        self.sends += 1;
        for (other, head) in heads.iter() {
            // A class with nothing to send saves nothing up.
            self.deficit[other] = if head.is_some() { self.deficit[other] + rounds * self.quantum[other] } else { 0 };
        }
        self.deficit[class] = self.deficit[class].saturating_sub(bytes);
        Some(class)
    }

    /// Whether the next send may be out of turn. Looks that found nothing to send do not count.
    const fn promotes_next(&self) -> bool {
        (self.sends + 1).is_multiple_of(PROMOTION_EVERY)
    }

    /// The class that needs the fewest rounds until it can pay for its head; of equals the most important.
    fn nearest(&self, heads: &PerClass<Option<Head>>) -> Option<(Class, u64, u64)> {
        let mut nearest: Option<(Class, u64, u64)> = None;
        for (class, head) in heads.iter() {
            let Some(bytes) = head.map(|head| head.bytes.max(1)) else { continue };
            let missing = bytes.saturating_sub(self.deficit[class]);
            if missing == 0 {
                return Some((class, 0, bytes));
            }
            let rounds = missing.div_ceil(self.quantum[class]);
            if nearest.is_none_or(|(_, fewest, _)| rounds < fewest) {
                nearest = Some((class, rounds, bytes));
            }
        }
        nearest
    }
}

/// The class with the oldest head, if that is old enough to be sent out of turn.
fn oldest(heads: &PerClass<Option<Head>>) -> Option<Class> {
    heads
        .iter()
        .filter_map(|(class, head)| head.map(|head| (class, head.age)))
        .filter(|&(_, age)| age >= PROMOTION_AGE)
        .max_by(|(first, age), (second, other)| age.cmp(other).then(second.cmp(first)))
        .map(|(class, _)| class)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policies(weights: [u32; Class::COUNT]) -> [ClassPolicy; Class::COUNT] {
        weights.map(|weight| ClassPolicy { weight, reserved_percent: 0 })
    }

    fn all(bytes: u64, age: Duration) -> PerClass<Option<Head>> {
        PerClass([Some(Head { bytes, age }); Class::COUNT])
    }

    #[test]
    fn classes_that_always_have_something_share_by_weight() {
        let mut turns = Turns::new(&policies([8, 4, 2, 1]));
        let mut served = PerClass([0_u32; Class::COUNT]);
        for _ in 0..15_000 {
            served[turns.pick(&all(10_000, Duration::ZERO)).unwrap()] += 1;
        }
        for (class, share) in [(Class::Critical, 8_000), (Class::High, 4_000), (Class::Normal, 2_000), (Class::Bulk, 1_000)] {
            assert!(served[class].abs_diff(share) <= 10, "{class} was served {} times", served[class]);
        }
    }

    #[test]
    fn the_least_of_classes_gets_its_floor_against_the_heaviest_weights() {
        let mut turns = Turns::new(&policies([100, 100, 100, 1]));
        let bulk = (0..60_000).filter(|_| turns.pick(&all(500, Duration::ZERO)) == Some(Class::Bulk)).count();
        assert!(bulk >= 60_000 / 51, "bulk was served {bulk} times");
    }

    #[test]
    fn an_old_head_is_sent_out_of_turn_but_once_in_eight_at_most() {
        let mut turns = Turns::new(&policies([100, 1, 1, 1]));
        let mut heads = all(1 << 20, Duration::ZERO);
        heads[Class::Bulk] = Some(Head { bytes: 1 << 20, age: PROMOTION_AGE });
        let picks: Vec<_> = (0..80).map(|_| turns.pick(&heads)).collect();
        let bulk = picks.iter().filter(|&&pick| pick == Some(Class::Bulk)).count();
        assert!((10..=14).contains(&bulk), "{bulk} of 80");
        assert_eq!(Turns::new(&policies([1; 4])).pick(&PerClass::default()), None);
    }

    proptest! {
        #[test]
        fn no_head_waits_longer_than_the_stated_bound_whatever_is_promoted_meanwhile(
            weights in prop::array::uniform4(1_u32..=100),
            watched in 0_usize..Class::COUNT,
            // A third of the heads is old enough to be promoted.
            sizes in prop::collection::vec(prop::array::uniform4(prop::option::of((1_u64..200_000, 0_u64..45))), 1..300),
        ) {
            let largest = 200_000_u64;
            let watched = Class::ALL[watched];
            let mut turns = Turns::new(&policies(weights));
            let mut waited = PerClass([0_u64; Class::COUNT]);
            let (mut in_turn, mut promoted, mut passed_over) = (0_u32, 0_u32, 0_u32);
            let mut head = (1_u64, 0_u64);
            for round in sizes.iter().cycle().take(4_000) {
                let of = |(bytes, seconds)| Head { bytes, age: Duration::from_secs(seconds) };
                let mut heads = PerClass(round.map(|head| head.map(of)));
                heads[watched] = Some(of(head));
                let oldest = oldest(&heads);
                let is_promotion = turns.promotes_next() && oldest.is_some();
                let class = turns.pick(&heads).unwrap();
                if class == watched {
                    (waited, in_turn, promoted, passed_over) = (PerClass::default(), 0, 0, 0);
                    head = round.iter().flatten().copied().max().unwrap_or((largest, 0));
                    continue;
                }
                passed_over = if oldest == Some(watched) { passed_over + 1 } else { 0 };
                prop_assert!(passed_over < PROMOTION_EVERY as u32, "{} is the oldest and waits", watched);
                if is_promotion {
                    promoted += 1;
                    prop_assert!(promoted <= in_turn / (PROMOTION_EVERY as u32 - 1) + 1, "{} beside {}", promoted, in_turn);
                    continue;
                }
                in_turn += 1;
                waited[class] += heads[class].unwrap().bytes;
                let rounds = largest.div_ceil(turns.quantum[watched]) + 1;
                prop_assert!(waited[class] <= rounds * turns.quantum[class] + largest, "{} waited for {} bytes of {}", watched, waited[class], class);
            }
        }
    }
}
