//! The ledger: where every item that was offered has gone. The identities are those of the contracts page:
//!
//! ```text
//! offered   = received + refused{reason}
//! received  = filtered + dropped(intake){reason} + routed
//! routed(d) = delivered(d) + dropped(d){reason} + held(d)         for each destination
//! attempted = produced + lost{reason}                             for kernel records
//! ```

use vocabulary::{Class, DropReason, LossReason, RefuseReason, Signal};

/// What an input saw of one signal and class, in items.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputCell {
    /// Received and refused together.
    pub offered: u64,
    /// May have been acknowledged.
    pub received: u64,
    /// Not accepted; the client will try again where the answer says so. Indexed by `RefuseReason`.
    pub refused: [u64; RefuseReason::COUNT],
    /// Removed on purpose by a rule.
    pub filtered: u64,
    /// Received, and dropped before any destination. Indexed by `DropReason`.
    pub dropped: [u64; DropReason::COUNT],
}

/// Items a destination has yet to settle, each in exactly one of these states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Waiting in memory (whether or not also on disk).
    pub queued: u64,
    /// Waiting on disk alone.
    pub on_disk: u64,
    /// Sent, no answer yet.
    pub in_flight: u64,
    /// Failed, and waiting to be sent again.
    pub waiting_retry: u64,
    /// Set aside because the destination finds it bad.
    pub quarantined: u64,
}

/// What became of the items of one signal and class that were routed to one destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DestinationCell {
    /// Taken on.
    pub routed: u64,
    /// Confirmed by the destination.
    pub delivered: u64,
    /// Given up. Indexed by `DropReason`.
    pub dropped: [u64; DropReason::COUNT],
    /// Yet to settle.
    pub held: Held,
}

/// The books of one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationBook {
    /// Its configured name.
    pub name: String,
    /// Indexed by signal, then class.
    pub cells: [[DestinationCell; Class::COUNT]; Signal::COUNT],
    /// Records sent, retries included.
    pub attempts: u64,
}

/// Kernel records, from the probe's first touch to user space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelBook {
    /// Seen by a probe.
    pub attempted: u64,
    /// Read by the agent.
    pub produced: u64,
    /// Lost in between. Indexed by `LossReason`.
    pub lost: [u64; LossReason::COUNT],
}

/// All books of one agent. Plain numbers: a copy of it is what a checkpoint stores and a report carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Books {
    /// Indexed by signal, then class.
    pub inputs: [[InputCell; Class::COUNT]; Signal::COUNT],
    /// One per configured destination, and one per removed destination that still has numbers to tell.
    pub destinations: Vec<DestinationBook>,
    /// Kernel records; its numbers come from the probes.
    pub kernel: KernelBook,
    /// Requests refused before their items could be counted. Indexed by `RefuseReason`.
    pub requests_refused: [u64; RefuseReason::COUNT],
    /// Bounds of what `CrashVolatile` may really be (the sum uses what the last checkpoint knew), in items: lower, upper.
    pub crash_volatile_bounds: (u64, u64),
}

/// An identity that does not hold: a bug, shown as the condition `LedgerBroken`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which of the four identities, and for which destination, signal and class.
    pub identity: String,
    /// Left side.
    pub left: u64,
    /// Right side.
    pub right: u64,
}

impl Held {
    /// All states together.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.queued + self.on_disk + self.in_flight + self.waiting_retry + self.quarantined
    }
}

impl Books {
    /// Verifies the identities that the numbers alone can prove: what was offered, what each destination was routed, that
    /// no destination was routed more than there was, and what the kernel attempted.
    ///
    /// # Errors
    /// The first identity that does not hold.
    pub fn check(&self) -> Result<(), Broken> {
        for (signal, row) in Signal::ALL.into_iter().zip(&self.inputs) {
            for (class, cell) in Class::ALL.into_iter().zip(row) {
                let about = || format!("offered = received + refused of {signal} {class}");
                equal(about, cell.offered, cell.received + sum(&cell.refused))?;
                let taken = cell.filtered + sum(&cell.dropped);
                if taken > cell.received {
                    return Err(Broken {
                        identity: format!("received >= filtered + dropped of {signal} {class}"),
                        left: cell.received,
                        right: taken,
                    });
                }
            }
        }
        for book in &self.destinations {
            self.check_destination(book)?;
        }
        equal(
            || "attempted = produced + lost of the kernel".to_owned(),
            self.kernel.attempted,
            self.kernel.produced + sum(&self.kernel.lost),
        )
    }

    fn check_destination(&self, book: &DestinationBook) -> Result<(), Broken> {
        for ((signal, row), inputs) in Signal::ALL.into_iter().zip(&book.cells).zip(&self.inputs) {
            for ((class, cell), input) in Class::ALL.into_iter().zip(row).zip(inputs) {
                let about = || format!("routed = delivered + dropped + held of {}, {signal} {class}", book.name);
                equal(about, cell.routed, cell.delivered + sum(&cell.dropped) + cell.held.total())?;
                if cell.routed > input.routed() {
                    let identity = format!("received >= filtered + dropped + routed to {}, {signal} {class}", book.name);
                    return Err(Broken { identity, left: input.routed(), right: cell.routed });
                }
            }
        }
        Ok(())
    }
}

impl InputCell {
    /// Items that went on to the destinations.
    #[must_use]
    pub fn routed(&self) -> u64 {
        self.received.saturating_sub(self.filtered + sum(&self.dropped))
    }
}

fn sum(numbers: &[u64]) -> u64 {
    numbers.iter().sum()
}

pub(crate) fn equal(identity: impl FnOnce() -> String, left: u64, right: u64) -> Result<(), Broken> {
    if left == right { Ok(()) } else { Err(Broken { identity: identity(), left, right }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Books {
        let mut books = Books::for_destinations(["only"].into_iter());
        let cell = &mut books.inputs[0][2];
        (cell.offered, cell.received, cell.refused[0], cell.dropped[0]) = (10, 8, 2, 3);
        let cell = &mut books.destinations[0].cells[0][2];
        (cell.routed, cell.delivered, cell.dropped[8], cell.held.in_flight) = (5, 2, 1, 2);
        (books.kernel.attempted, books.kernel.produced, books.kernel.lost[0]) = (4, 3, 1);
        books
    }

    #[test]
    fn each_identity_that_is_off_by_one_is_named_with_both_sides() {
        assert_eq!(sound().check(), Ok(()));
        let broken = |spoil: fn(&mut Books)| {
            let mut books = sound();
            spoil(&mut books);
            books.check().unwrap_err()
        };
        let offered = broken(|books| books.inputs[0][2].offered += 1);
        assert_eq!((offered.identity.as_str(), offered.left, offered.right), ("offered = received + refused of Traces Normal", 11, 10));
        assert!(broken(|books| books.destinations[0].cells[0][2].delivered += 1).identity.starts_with("routed = delivered"));
        assert!(broken(|books| books.inputs[0][2].dropped[1] += 1).identity.starts_with("received >= filtered + dropped + routed"));
        assert!(broken(|books| books.kernel.lost[2] += 1).identity.starts_with("attempted"));
    }
}
