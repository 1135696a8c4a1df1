//! Records, counters and globals shared by the kernel programs and the agent that loads them.
//!
//! They are a crate of their own because two compilers build them for two machines: the kernel side has neither `std` nor `alloc`.
//! Everything is in the byte order of the machine, padded explicitly, and checked for size at compile time. A change of anything here
//! raises [`VERSION`], which the object carries in its section [`VERSION_SECTION`] and the loader compares before it loads a thing.
//!
//! **Accounting.** Each CPU keeps two sets of [`counter`]s, one for even and one for odd time slots. A program reads the slot's number once
//! and uses it for all it does, so a slot that has ended and whose programs have returned no longer changes, and
//! `attempted = produced + lost` holds exactly for it. Counters only grow. The unit is one kernel event that a program took on: a fork,
//! an exec or an exit for the churn cells, and a record for a ring.
#![no_std]

mod layout;
mod records;

pub use layout::{Layout, NO_FIELD, field};
pub use records::{COMM_BYTES, CgroupCreated, CgroupRemoved, Exit, Head, Kind, OomKill, PATH_BYTES};

/// Version of everything in this crate.
pub const VERSION: u32 = 1;
/// Section of the object that holds [`VERSION`] as a `u32`.
pub const VERSION_SECTION: &str = ".rodata.abi";

/// Ring for what is rare and urgent; each record wakes the reader.
pub const URGENT_RING_BYTES: u32 = 64 << 10;
/// Ring for births and deaths of cgroups; read by a timer.
pub const LIFECYCLE_RING_BYTES: u32 = 256 << 10;
/// Churn cells, of all slots that are not yet read.
pub const CHURN_CELLS_MAX: u32 = 4096;
/// Ancestors of a cgroup that are looked at to find the node's own root.
pub const ANCESTORS_MAX: u32 = 24;

/// Cells of one set of counters: an array of `u64`.
pub mod counter {
    /// Events a program took on.
    pub const ATTEMPTED: usize = 0;
    /// First of the losses; the code of the reason is added.
    pub const LOST: usize = 1;
    /// Lost: no ring space. The codes are those of the vocabulary's `LossReason`.
    pub const RING_FULL: usize = 0;
    /// Lost: no map slot.
    pub const MAP_FULL: usize = 1;
    /// Lost: map update contended.
    pub const MAP_BUSY: usize = 2;
    /// How many reasons there are.
    pub const REASONS: usize = 6;
    /// Cells.
    pub const COUNT: usize = LOST + REASONS;
    /// Sets of counters: slots are told apart by the parity of their number.
    pub const SETS: u32 = 2;
}

/// What the processes of one cgroup did in one time slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Churn {
    /// New processes (threads are not counted).
    pub forks: u64,
    /// Programs executed.
    pub execs: u64,
    /// Processes that ended, whatever the reason.
    pub exits: u64,
}

impl Churn {
    /// Index of [`Churn::forks`] in the kernel's cell.
    pub const FORKS: usize = 0;
    /// Index of [`Churn::execs`] in the kernel's cell.
    pub const EXECS: usize = 1;
    /// Index of [`Churn::exits`] in the kernel's cell.
    pub const EXITS: usize = 2;
    /// Numbers in the kernel's cell.
    pub const COUNT: usize = 3;

    /// Adds what one CPU counted.
    #[must_use]
    pub const fn plus(self, cell: [u64; Self::COUNT]) -> Self {
        let [forks, execs, exits] = cell;
        Self { forks: self.forks + forks, execs: self.execs + execs, exits: self.exits + exits }
    }

    /// Events counted here.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.forks + self.execs + self.exits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn churn_adds_up_over_processors_and_kinds() {
        let churn = Churn::default().plus([1, 10, 100]).plus([2, 20, 200]);
        assert_eq!((churn.forks, churn.execs, churn.exits, churn.total()), (3, 30, 300, 333));
    }
}
