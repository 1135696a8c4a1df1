//! What one destination has yet to be sent of one class, in two parts: the backlog, which has waited for the destination or for the
//! agent, and what came in since, which is live. Apart from dispatch because it knows nothing of time, windows and failures.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use crate::IdRanges;
use crate::dispatch::Tries;
use crate::engine::{Entry, Lane};

/// Outages within one replay after which what waited through a further one is sent as if it were live.
const PIECES_MAX: usize = 8;

/// Which of what waits is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Backlog,
    Live,
}

/// The oldest record of a part.
pub(crate) type Oldest<'l> = (u64, Tries, &'l Entry);

/// What waits in one class. What is unsettled here waits if it stands in `behind`, in `pieces`, or from `live` up.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// Sequences that wait since before the last outage or start ended, ascending; what lies between was sent once.
    pieces: VecDeque<Range<u64>>,
    /// Sequences below this one are backlog; 0 without one.
    backlog_end: u64,
    live: u64,
    /// Other sequences that wait, with the tries they had: failed sends, and records stored out of order.
    behind: BTreeMap<u64, Tries>,
    /// Ids this destination needs no more.
    pub(crate) settled: IdRanges,
}

impl Queue {
    /// A record is there to be sent.
    pub(crate) fn enqueue(&mut self, sequence: u64) {
        if sequence < self.live && !self.pieces.iter().any(|piece| piece.contains(&sequence)) {
            self.behind.insert(sequence, Tries::default());
        }
    }

    /// Everything below `next` that waits is backlog from here on.
    pub(crate) fn divide(&mut self, next: u64) {
        if self.pieces.len() == PIECES_MAX {
            return;
        }
        if self.live < next {
            self.pieces.push_back(self.live..next);
            self.live = next;
        }
        self.backlog_end = next;
    }

    /// Whether there was a backlog when it was last looked for.
    pub(crate) const fn is_divided(&self) -> bool {
        self.backlog_end > 0
    }

    /// The oldest record that waits in a part: one that was tried before comes first, unless fresh ones are asked for.
    pub(crate) fn oldest<'l>(&mut self, lane: &'l Lane, bit: u16, part: Part, fresh_first: bool) -> Option<Oldest<'l>> {
        let (fresh, behind) = match part {
            Part::Backlog if self.backlog_end == 0 => return None,
            Part::Backlog => (self.first_of_pieces(lane, bit), self.behind.range(..self.backlog_end).next()),
            Part::Live => {
                let fresh = first_from(lane, bit, self.live);
                self.live = fresh.map_or(lane.next_sequence, |(sequence, ..)| sequence);
                (fresh, self.behind.range(self.backlog_end..).next())
            }
        };
        let behind = behind.and_then(|(&sequence, &tries)| Some((sequence, tries, lane.entries.get(&sequence)?)));
        if part == Part::Backlog && fresh.is_none() && behind.is_none() {
            // What of it is on its way and fails is sent again as if it were live.
            self.backlog_end = 0;
        }
        if fresh_first { fresh.or(behind) } else { behind.or(fresh) }
    }

    fn first_of_pieces<'l>(&mut self, lane: &'l Lane, bit: u16) -> Option<Oldest<'l>> {
        while let Some(piece) = self.pieces.front_mut() {
            if let Some(found) = first_from(lane, bit, piece.start).filter(|(sequence, ..)| *sequence < piece.end) {
                piece.start = found.0;
                return Some(found);
            }
            self.pieces.pop_front();
        }
        None
    }

    /// The oldest of a part is put on its way.
    pub(crate) fn leave(&mut self, sequence: u64) {
        if self.behind.remove(&sequence).is_some() {
            return;
        }
        match self.pieces.front_mut().filter(|piece| piece.contains(&sequence)) {
            Some(piece) => piece.start = sequence + 1,
            None => self.live = sequence + 1,
        }
    }

    /// A record is to be sent again, in its place.
    pub(crate) fn put_back(&mut self, sequence: u64, tries: Tries) {
        self.behind.insert(sequence, tries);
    }

    /// The tries of a record that waits to be sent again.
    pub(crate) fn tries(&self, sequence: u64) -> Option<&Tries> {
        self.behind.get(&sequence)
    }

    /// A record that waits is given up.
    pub(crate) fn forget(&mut self, sequence: u64) {
        self.behind.remove(&sequence);
    }
}

/// The first record from a sequence on that is unsettled for the destination of this bit.
fn first_from(lane: &Lane, bit: u16, sequence: u64) -> Option<Oldest<'_>> {
    let (sequence, entry) = lane.entries.first_from(&sequence, |entry| entry.unsettled & bit != 0)?;
    Some((sequence, Tries::default(), entry))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use proptest::prelude::*;
    use vocabulary::{ClassCounts, Signal};

    use super::*;
    use crate::Tenant;
    use crate::engine::Place;
    use crate::sorted::SortedMap;

    #[derive(Clone, Debug)]
    enum Step {
        /// A record gets its id.
        Accept,
        /// One that has an id is there to be sent, in whichever order.
        Store(prop::sample::Index),
        Divide,
        Take {
            part: Part,
            fresh_first: bool,
        },
        PutBack(prop::sample::Index),
        Settle(prop::sample::Index),
        GiveUp(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        let part = prop_oneof![Just(Part::Backlog), Just(Part::Live)];
        prop_oneof![
            6 => Just(Step::Accept),
            6 => any::<prop::sample::Index>().prop_map(Step::Store),
            1 => Just(Step::Divide),
            6 => (part, any::<bool>()).prop_map(|(part, fresh_first)| Step::Take { part, fresh_first }),
            2 => any::<prop::sample::Index>().prop_map(Step::PutBack),
            2 => any::<prop::sample::Index>().prop_map(Step::Settle),
            1 => any::<prop::sample::Index>().prop_map(Step::GiveUp),
        ]
    }

    /// The queue, and what it should hold by simple sets.
    struct World {
        queue: Queue,
        lane: Lane,
        accepted: Vec<u64>,
        waiting: BTreeSet<u64>,
        taken: Vec<u64>,
        divided_at: u64,
    }

    fn entry() -> Entry {
        Entry {
            body: None,
            received_unix_ms: 0,
            arrived: Duration::ZERO,
            counts: ClassCounts::default(),
            bytes: 1,
            unsettled: 1,
            signal: Signal::Logs,
            place: Place::Disk,
            tenant: Tenant::NOBODY,
        }
    }

    impl World {
        fn new() -> Self {
            let lane = Lane { next_sequence: 1, entries: SortedMap::default(), stored: IdRanges::default(), released: IdRanges::default() };
            let (queue, waiting) = (Queue::default(), BTreeSet::new());
            Self { queue, lane, accepted: Vec::new(), waiting, taken: Vec::new(), divided_at: 0 }
        }

        fn apply(&mut self, step: &Step) {
            match step {
                Step::Accept => {
                    self.accepted.push(self.lane.next_sequence);
                    self.lane.next_sequence += 1;
                }
                Step::Store(nth) if !self.accepted.is_empty() => {
                    let sequence = self.accepted.remove(nth.index(self.accepted.len()));
                    self.lane.entries.insert(sequence, entry());
                    self.queue.enqueue(sequence);
                    self.waiting.insert(sequence);
                }
                Step::Divide => {
                    self.queue.divide(self.lane.next_sequence);
                    self.divided_at = self.queue.backlog_end;
                }
                Step::Take { part, fresh_first } => drop(self.take(*part, *fresh_first)),
                Step::PutBack(nth) if !self.taken.is_empty() => {
                    let sequence = self.taken.remove(nth.index(self.taken.len()));
                    self.queue.put_back(sequence, Tries::default());
                    self.waiting.insert(sequence);
                }
                Step::Settle(nth) if !self.taken.is_empty() => {
                    let sequence = self.taken.remove(nth.index(self.taken.len()));
                    self.lane.entries.remove(&sequence);
                }
                Step::GiveUp(nth) if !self.waiting.is_empty() => {
                    let sequence = *nth.get(&self.waiting.iter().copied().collect::<Vec<_>>());
                    self.waiting.remove(&sequence);
                    self.queue.forget(sequence);
                    self.lane.entries.remove(&sequence);
                }
                _ => {}
            }
        }

        fn take(&mut self, part: Part, fresh_first: bool) -> Option<u64> {
            let (sequence, ..) = self.queue.oldest(&self.lane, 1, part, fresh_first)?;
            self.queue.leave(sequence);
            assert!(self.waiting.remove(&sequence), "{sequence} does not wait");
            assert!(part == Part::Live || sequence < self.divided_at, "{sequence} came after {}", self.divided_at);
            self.taken.push(sequence);
            Some(sequence)
        }
    }

    proptest! {
        #[test]
        fn whatever_waits_is_found_once_in_either_part_and_nothing_live_is_taken_for_backlog(steps in prop::collection::vec(step(), 1..200)) {
            let mut world = World::new();
            for step in &steps {
                world.apply(step);
            }
            while world.take(Part::Backlog, false).or_else(|| world.take(Part::Live, false)).is_some() {}
            prop_assert!(world.waiting.is_empty(), "never found: {:?}", world.waiting);
        }
    }
}
