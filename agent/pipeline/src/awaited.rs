//! Requests whose clients wait until their destinations are done with them: which records each waits for, and what it is to be told.
//! It stands apart from the books, which are the same whether anybody waits or not.

use std::collections::{BTreeMap, VecDeque};

use vocabulary::{Class, ClassCounts, DropReason};

use crate::moves::{Rest, Settlement};
use crate::{Acknowledge, Delivery, Pipeline, RecordId};

/// Names a request whose client waits. No engine gives one twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// What became of a request whose client waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Every awaited destination has it, but for some items that are not to be sent again.
    Settled {
        /// Items that some awaited destination does not have.
        lost: ClassCounts,
        /// Why the first of them was lost; meaningless while `lost` is zero.
        reason: DropReason,
    },
    /// Of each item it is known that some awaited destination will not have it, and for none that it lies in the item: sending it again
    /// helps. Others may have it already.
    Lost {
        /// Why the first of it was lost.
        reason: DropReason,
    },
    /// The engine ends first. What lies on disk is delivered by the next one.
    Unsettled,
}

/// Who waits for what.
#[derive(Debug, Default)]
pub(crate) struct Awaited {
    issued: u64,
    requests: BTreeMap<Ticket, Waiting>,
    records: BTreeMap<RecordId, Owed>,
    told: VecDeque<(Ticket, Fate)>,
}

/// One request.
#[derive(Debug)]
struct Waiting {
    /// Its records that some awaited destination has yet to settle; at most one per class.
    records: Vec<RecordId>,
    /// Whether all its records are known.
    is_whole: bool,
    /// Items of those that are settled.
    items: u64,
    lost: ClassCounts,
    /// Why the first of them was lost; meaningless while there is none.
    reason: DropReason,
    /// Whether a destination refused items for what they are.
    is_at_fault: bool,
}

/// One record.
#[derive(Debug)]
struct Owed {
    ticket: Ticket,
    /// One bit per awaited destination that has yet to settle it.
    bits: u16,
    lost: ClassCounts,
}

impl Pipeline {
    /// The next request whose client is to be answered; to be asked for after every call while anybody waits.
    pub fn poll_answer(&mut self) -> Option<(Ticket, Fate)> {
        self.awaited.told.pop_front()
    }

    /// Whether clients wait for destinations, so that what is admitted has a ticket.
    #[must_use]
    pub fn is_delivery_awaited(&self) -> bool {
        self.config.acknowledge == Acknowledge::Delivered
    }

    /// Nobody waits for the answer any more. What was sent stays taken in.
    pub fn abandon(&mut self, ticket: Ticket) {
        self.awaited.abandon(ticket);
    }

    /// Of the destinations in `route`, those that a client waits for: the `Required` ones, or all if there is none.
    pub(crate) fn awaited_of(&self, route: u16) -> u16 {
        let required = self.destinations.iter().filter(|destination| destination.delivery == Delivery::Required);
        match required.fold(0, |bits, destination| bits | destination.bit) & route {
            0 => route,
            required => required,
        }
    }
}

impl Awaited {
    /// The client of a request waits for a record too, of which these destinations are awaited.
    pub(crate) fn owe(&mut self, ticket: &mut Option<Ticket>, id: RecordId, bits: u16) {
        let ticket = *ticket.get_or_insert_with(|| {
            self.issued += 1;
            Ticket(self.issued)
        });
        self.requests.entry(ticket).or_insert_with(Waiting::new).records.push(id);
        self.records.insert(id, Owed { ticket, bits, lost: ClassCounts::default() });
    }

    /// All records of a request are known.
    pub(crate) fn close(&mut self, ticket: Ticket) {
        if let Some(request) = self.requests.get_mut(&ticket) {
            request.is_whole = true;
            self.tell_if_settled(ticket);
        }
    }

    /// A destination needs a record no more.
    pub(crate) fn note(&mut self, id: RecordId, bit: u16, counts: &ClassCounts, how: Settlement) {
        let Some(owed) = self.records.get_mut(&id).filter(|owed| owed.bits & bit != 0) else { return };
        owed.bits &= !bit;
        let lost = lost_of(counts, how);
        for (class, items) in lost.iter() {
            owed.lost[class] = owed.lost[class].saturating_add(items).min(counts[class]);
        }
        if let Some(request) = self.requests.get_mut(&owed.ticket)
            && lost.total() > 0
        {
            let (reason, is_at_fault) = why(how);
            if request.lost.total() == 0 {
                request.reason = reason;
            }
            request.is_at_fault |= is_at_fault;
        }
        if owed.bits != 0 {
            return;
        }
        let (ticket, lost) = (owed.ticket, owed.lost);
        if let Some(request) = self.requests.get_mut(&ticket) {
            request.items += counts.total();
            for (class, items) in lost.iter() {
                request.lost[class] = request.lost[class].saturating_add(items);
            }
        }
        self.forget(id);
    }

    /// A record is not waited for any more.
    pub(crate) fn forget(&mut self, id: RecordId) {
        let Some(Owed { ticket, .. }) = self.records.remove(&id) else { return };
        if let Some(request) = self.requests.get_mut(&ticket) {
            request.records.retain(|record| *record != id);
            self.tell_if_settled(ticket);
        }
    }

    /// Nothing more is settled: whoever still waits is told so.
    pub(crate) fn end(&mut self) {
        self.records.clear();
        while let Some((ticket, _)) = self.requests.pop_first() {
            self.told.push_back((ticket, Fate::Unsettled));
        }
    }

    /// Requests whose clients wait.
    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    fn abandon(&mut self, ticket: Ticket) {
        self.told.retain(|(told, _)| *told != ticket);
        for id in self.requests.remove(&ticket).into_iter().flat_map(|request| request.records) {
            self.records.remove(&id);
        }
    }

    fn tell_if_settled(&mut self, ticket: Ticket) {
        if self.requests.get(&ticket).is_some_and(|request| request.is_whole && request.records.is_empty())
            && let Some(Waiting { items, lost, reason, is_at_fault, .. }) = self.requests.remove(&ticket)
        {
            let is_all_lost = items > 0 && lost.total() == items;
            let fate = if is_all_lost && !is_at_fault { Fate::Lost { reason } } else { Fate::Settled { lost, reason } };
            self.told.push_back((ticket, fate));
        }
    }
}

impl Waiting {
    fn new() -> Self {
        Self {
            records: Vec::new(),
            is_whole: false,
            items: 0,
            lost: ClassCounts::default(),
            reason: DropReason::SoftLimit,
            is_at_fault: false,
        }
    }
}

/// Items of a record that a destination does not have.
fn lost_of(counts: &ClassCounts, how: Settlement) -> ClassCounts {
    match how {
        Settlement::Dropped(_) | Settlement::Quarantined => *counts,
        Settlement::Delivered { mut rejected } => {
            let mut lost = ClassCounts::default();
            // From the lowest class up, as in the books.
            for class in Class::ALL.into_iter().rev() {
                lost[class] = counts[class].min(u32::try_from(rejected).unwrap_or(u32::MAX));
                rejected -= u64::from(lost[class]);
            }
            lost
        }
        Settlement::Parts { delivered, .. } => {
            let mut lost = *counts;
            for (class, items) in delivered.iter() {
                lost[class] = lost[class].saturating_sub(items);
            }
            lost
        }
    }
}

/// Why items are lost, and whether for what they are.
fn why(how: Settlement) -> (DropReason, bool) {
    let reason = match how {
        Settlement::Delivered { .. } | Settlement::Quarantined | Settlement::Parts { rest: Rest::Quarantined, .. } => DropReason::Rejected,
        Settlement::Parts { rejected, rest: Rest::Dropped(_), .. } if rejected.total() > 0 => DropReason::Rejected,
        Settlement::Dropped(reason) | Settlement::Parts { rest: Rest::Dropped(reason), .. } => reason,
    };
    (reason, matches!(reason, DropReason::Rejected | DropReason::TooLarge | DropReason::Undecodable))
}
