//! What a checkpoint says of one record, and how a record is settled in a checkpoint while no engine runs: for whoever delivers what a
//! directory holds by other means. Afterwards an engine neither sends the record to that destination nor counts it again.

use vocabulary::Class;

use crate::moves::HeldState;
use crate::{Checkpoint, IdRanges, RecordId, Stored};

/// What a checkpoint says of a record that is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No destination needs it.
    Settled,
    /// Its items are in the books.
    Held {
        /// The destinations that still need it: bit `n` is the n-th of `Checkpoint::settled`.
        needing: u64,
        /// Whether the checkpoint names it as stored; otherwise memory held it at that time.
        was_stored: bool,
    },
    /// The checkpoint does not know it: it was stored afterwards, and counts as received from the next start on.
    New,
}

impl Checkpoint {
    /// What this checkpoint says of a record that is on disk.
    #[must_use]
    pub fn standing(&self, id: RecordId) -> Standing {
        let contains = |ranges: &[IdRanges; Class::COUNT]| ranges.get(id.class.index()).is_some_and(|set| set.contains(id.sequence));
        let was_stored = contains(&self.stored);
        let known = self.settled.iter().take(64);
        let all = known.len();
        let needing = known.enumerate().filter(|(_, (_, settled))| !contains(settled)).fold(0, |bits, (position, _)| bits | 1 << position);
        match u64::count_ones(needing) as usize {
            0 if all > 0 => Standing::Settled,
            count if was_stored || count < all => Standing::Held { needing, was_stored },
            _ => Standing::New,
        }
    }

    /// Takes a record that is on disk and that no checkpoint knows into the books, as the next start would. Only where there is one
    /// destination: which of several take its signal is known to their configuration alone. Whether it was taken in.
    pub fn receive_new(&mut self, record: &Stored) -> bool {
        let [(name, _)] = self.settled.as_slice() else { return false };
        let Some(position) = self.books.destinations.iter().position(|book| book.name == *name) else { return false };
        if self.standing(record.id) != Standing::New {
            return false;
        }
        self.books.receive(record.signal, &record.counts);
        if let Some(book) = self.books.destinations.get_mut(position) {
            book.take_on(record.signal, &record.counts, HeldState::OnDisk);
        }
        let class = record.id.class.index();
        if let (Some(stored), Some(next)) = (self.stored.get_mut(class), self.next_sequence.get_mut(class)) {
            stored.insert(record.id.sequence);
            *next = (*next).max(record.id.sequence.saturating_add(1));
        }
        true
    }

    /// One destination confirmed a record but for `rejected` of its items, after `attempts` tries. Whether anything changed: not if
    /// the destination is unknown, needs the record no more, or the record is new.
    pub fn settle(&mut self, destination: &str, record: &Stored, rejected: u64, attempts: u64) -> bool {
        let Standing::Held { needing, was_stored } = self.standing(record.id) else { return false };
        let Some(position) = self.settled.iter().position(|(name, _)| name == destination) else { return false };
        let Some(book) = self.books.destinations.iter_mut().find(|book| book.name == destination) else { return false };
        if needing & (1 << position) == 0 {
            return false;
        }
        book.attempts += attempts;
        book.settle_found(record.signal, &record.counts, was_stored, rejected);
        let class = record.id.class.index();
        if let Some(settled) = self.settled.get_mut(position).and_then(|(_, settled)| settled.get_mut(class)) {
            settled.insert(record.id.sequence);
        }
        if self.standing(record.id) == Standing::Settled
            && let Some(stored) = self.stored.get_mut(class)
        {
            stored.remove(record.id.sequence);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use vocabulary::{ClassCounts, DropReason, Signal};

    use super::*;
    use crate::{
        Acknowledge, BufferMode, ClassPolicy, Config, Delivery, DestinationConfig, DestinationIndex, MemoryLimits, OnFull, Origin,
        Pipeline, Recovered, Request, RetryPolicy, Verdict,
    };

    fn config(destinations: &[&str]) -> Config {
        let retry = RetryPolicy { initial: Duration::from_millis(100), max: Duration::from_secs(1), deadline: None };
        let named = |name: &&str| DestinationConfig {
            name: (*name).into(),
            signals: Vec::new(),
            in_flight: 4,
            delivery: Delivery::Required,
            retry,
        };
        Config {
            mode: BufferMode::Mirror,
            acknowledge: Acknowledge::AtRest,
            memory: MemoryLimits { bytes: 1 << 20, items: 10_000 },
            disk_bytes: 1 << 20,
            on_full: OnFull::RefuseIntake,
            max_age: None,
            soft_percent: 100,
            tenants_max: 0,
            replay_seed: 0,
            on_removed: crate::OnRemoved::Keep,
            classes: [ClassPolicy { weight: 1, reserved_percent: 0 }; Class::COUNT],
            destinations: destinations.iter().map(named).collect(),
        }
    }

    /// An engine that had these many records stored, and what is on disk.
    fn stored(destinations: &[&str], records: usize) -> (Pipeline, Vec<Stored>) {
        let mut pipeline = Pipeline::new(config(destinations), Some(Recovered::default()));
        let mut found = Vec::new();
        for _ in 0..records {
            let counts = ClassCounts::of(Class::Normal, 5);
            let body = Bytes::from_static(b"five");
            let request = Request { signal: Signal::Logs, origin: Origin::Client, counts, body };
            let Verdict::Admitted(admission) = pipeline.offer(Duration::ZERO, 1, request) else { panic!("there is room") };
            for record in admission.persist {
                found.push(Stored { id: record.id, signal: record.signal, counts, bytes: 4, received_unix_ms: 1 });
                pipeline.handle_stored(Duration::ZERO, record.id);
            }
        }
        (pipeline, found)
    }

    fn restart(destinations: &[&str], checkpoint: Checkpoint, stored: Vec<Stored>) -> Pipeline {
        let pipeline =
            Pipeline::new(config(destinations), Some(Recovered { checkpoint: Some(checkpoint), stored, ..Recovered::default() }));
        pipeline.check_held().expect("the books hold");
        pipeline
    }

    #[test]
    fn what_is_settled_in_a_checkpoint_is_neither_sent_nor_counted_again() {
        let (mut before, found) = stored(&["one", "two"], 3);
        let mut checkpoint = before.checkpoint();
        assert!(checkpoint.settle("one", &found[0], 2, 4) && !checkpoint.settle("one", &found[0], 2, 4), "the second time changes nothing");
        assert!(!checkpoint.settle("three", &found[0], 0, 1), "nobody of that name");
        assert_eq!(checkpoint.standing(found[0].id), Standing::Held { needing: 2, was_stored: true });
        assert!(checkpoint.settle("two", &found[0], 0, 1));
        assert_eq!(checkpoint.standing(found[0].id), Standing::Settled);
        let mut after = restart(&["one", "two"], checkpoint, found.clone());
        let sent = [0, 1].map(|index| after.poll_send(Duration::ZERO, DestinationIndex(index)).expect("two records wait").id);
        assert_eq!(sent, [found[1].id; 2]);
        let cell = &after.books().destinations[0].cells[Signal::Logs.index()][Class::Normal.index()];
        assert_eq!((cell.routed, cell.delivered, cell.dropped[DropReason::Rejected.index()], cell.held.total()), (15, 3, 2, 10));
        assert_eq!(after.books().destinations[0].attempts, 5, "four tries, and the one above");
    }

    #[test]
    fn a_record_that_no_checkpoint_knows_stays_new_unless_there_is_one_destination() {
        for (destinations, is_received) in [(&["one"][..], true), (&["one", "two"], false)] {
            let (mut before, mut found) = stored(destinations, 1);
            let mut checkpoint = before.checkpoint();
            let id = RecordId { class: Class::High, sequence: 1 };
            let new = Stored { id, signal: Signal::Logs, counts: ClassCounts::of(Class::High, 7), bytes: 4, received_unix_ms: 2 };
            found.push(new.clone());
            assert!(!checkpoint.settle("one", &new, 0, 1), "it is not in the books");
            assert_eq!(checkpoint.receive_new(&new), is_received);
            assert_eq!(checkpoint.settle("one", &new, 0, 1), is_received);
            let after = restart(destinations, checkpoint, found);
            let cell = &after.books().destinations[0].cells[Signal::Logs.index()][Class::High.index()];
            assert_eq!((cell.routed, cell.delivered), (7, if is_received { 7 } else { 0 }));
        }
    }
}
