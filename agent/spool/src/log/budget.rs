//! The bound of what the files take up together. It is apart because every part of the log adds to it and none may exceed it: what is
//! counted is what files may grow to without asking, so that a footer, a cut that failed or a recycled file never comes as a surprise.

use vocabulary::Class;

use super::Log;
use super::room::left_on;
use super::tail::{Tail, first_charge};
use crate::error::AppendError;
use crate::storage::Storage;

/// What a record asks for room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Growth {
    /// It is new: it leaves a segment's worth to copies.
    New,
    /// It is copied, and its segment will be given back.
    Copy,
}

impl<S: Storage> Log<S> {
    /// What the files take up, or will when those that grow are full and sealed.
    pub(super) fn charged(&self) -> u64 {
        let growth: u64 = self.tails.iter().flatten().map(Tail::growth).sum();
        self.index.bytes() + growth + self.other_bytes + self.slots.bytes() + self.room.charged()
    }

    /// What the log may still take of the volume, which others fill too.
    pub(crate) fn left_on_volume(&self) -> u64 {
        left_on(&self.storage)
    }

    /// Whether the budget refused the last record that asked for more of it.
    pub(crate) fn is_room_short(&self) -> bool {
        self.is_room_short
    }

    /// Refuses a record of so many bytes that would take the files beyond the budget. Spare files go first.
    pub(super) fn make_room(&mut self, class: Class, bytes: u64, growth: Growth) -> Result<(), AppendError> {
        let (segment_bytes, budget_bytes) = (self.room.limits.segment_bytes, self.room.limits.budget_bytes);
        let more = match self.tail(class) {
            Some(tail) if !tail.is_full_for(bytes, segment_bytes) => tail.growth_for(bytes),
            _ => first_charge(bytes, segment_bytes),
        };
        if more == 0 || budget_bytes == 0 {
            return Ok(());
        }
        let needed = if growth == Growth::New { more.saturating_add(segment_bytes) } else { more };
        loop {
            let used_bytes = self.charged();
            if used_bytes.saturating_add(needed) <= budget_bytes {
                self.is_room_short &= growth == Growth::Copy;
                return Ok(());
            }
            if !self.room.drop_spare(&self.storage) {
                self.is_room_short = true;
                return Err(AppendError::Budget { directory: self.storage.path(""), bytes: needed, used_bytes, budget_bytes });
            }
        }
    }
}
