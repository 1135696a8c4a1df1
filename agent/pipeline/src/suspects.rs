//! The records that one destination found bad and that are searched, a slice at a time. One slice is on its way at a time, and while
//! other records wait at most every fourth send is one: a bad record takes neither the window nor the turn of the others.

use std::collections::BTreeMap;
use std::ops::Range;

use vocabulary::{ClassCounts, DropReason};

use crate::RecordId;
use crate::dispatch::Tries;
use crate::poison::{Answer, Search};

/// One send in this many may be a slice while others wait.
const SLICE_EVERY: u32 = 4;

/// The state of all searches of one destination.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    searches: BTreeMap<RecordId, Search>,
    /// Whose next slice waits to be sent, with the tries the record had.
    ready: BTreeMap<RecordId, Tries>,
    /// Whose slice is on its way.
    sent: Option<RecordId>,
    sends: u32,
}

impl Suspects {
    /// Chooses a slice to be sent, most important class first; none if it is the turn of others or one is on its way.
    pub(crate) fn choose(&mut self, others_wait: bool) -> Option<(RecordId, Tries, Range<u32>)> {
        self.sends = self.sends.wrapping_add(1);
        if self.sent.is_some() || others_wait && !self.sends.is_multiple_of(SLICE_EVERY) {
            return None;
        }
        let (id, tries) = self.ready.pop_first()?;
        self.sent = Some(id);
        Some((id, tries, self.searches.get(&id)?.next()))
    }

    /// The answer for a record arrived.
    pub(crate) fn land(&mut self, id: RecordId) {
        self.sent = self.sent.filter(|&sent| sent != id);
    }

    /// Notes what the destination said of the record, of `items` items, or of the slice on its way. Whether all its items are
    /// decided; none if what was sent is not what was asked for.
    pub(crate) fn note(&mut self, id: RecordId, items: u32, answer: Answer) -> Option<bool> {
        let Some(search) = self.searches.get_mut(&id) else {
            let search = Search::new(items, answer);
            let is_done = search.is_done();
            self.searches.insert(id, search);
            return Some(is_done);
        };
        if let Answer::Taken { counts, .. } = answer
            && counts.total() != search.next().len() as u64
        {
            return None;
        }
        search.note(answer);
        Some(search.is_done())
    }

    /// The next slice of a record may be sent; false if the record is not searched.
    pub(crate) fn wait(&mut self, id: RecordId, tries: Tries) -> bool {
        let is_searched = self.contains(id);
        if is_searched {
            self.ready.insert(id, tries);
        }
        is_searched
    }

    /// The record's next slice waits no more; false if it did not.
    pub(crate) fn forget(&mut self, id: RecordId) -> bool {
        self.ready.remove(&id).is_some()
    }

    pub(crate) fn contains(&self, id: RecordId) -> bool {
        self.searches.contains_key(&id)
    }

    /// How many wait to be sent.
    pub(crate) fn waiting(&self) -> u64 {
        self.ready.len() as u64
    }

    /// Why what was found bad of the record is.
    pub(crate) fn reason(&self, id: RecordId) -> DropReason {
        self.searches.get(&id).map_or(DropReason::Rejected, Search::reason)
    }

    /// What of a record was taken (confirmed, and rejected in partial success), and which items are bad, ascending.
    pub(crate) fn found(&self, id: RecordId) -> Option<([ClassCounts; 2], &[Range<u32>])> {
        let search = self.searches.get(&id)?;
        let (delivered, rejected) = search.taken();
        Some(([delivered, rejected], search.bad()))
    }

    /// The record is settled: ends its search and tells what of it was confirmed, and rejected in partial success.
    pub(crate) fn end(&mut self, id: RecordId) -> Option<(ClassCounts, ClassCounts)> {
        self.searches.remove(&id).map(|search| search.taken())
    }
}
