//! The books of the kernel records: which numbers are final. Pure and separate, because the identity must hold exactly whatever the programs
//! do while the numbers are read.
//!
//! The programs count into one of two sets by the parity of the slot. A set is read when its slot has ended and every program that began in
//! it has returned, so it stands still; what was read from rings and cells is sorted by the same parity. Both are published together.

use abi::counter;

/// Numbers of one set, absolute.
pub(crate) type Set = [u64; counter::COUNT];

/// Kernel records in numbers that add up: `attempted` is `produced` and `lost` together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelCounters {
    /// Events the programs took on.
    pub attempted: u64,
    /// Events that reached user space.
    pub produced: u64,
    /// Events that did not, by the code of `LossReason`.
    pub lost: [u64; counter::REASONS],
}

/// Code of `LossReason::Recursion`: the kernel itself counts programs that were re-entered, and runs none of their code.
const RECURSION: usize = 5;

/// What was read, and what of it is final.
#[derive(Debug, Default)]
pub(crate) struct Account {
    read: [u64; 2],
    final_read: [u64; 2],
    final_sets: [Set; 2],
    missed: u64,
}

impl Account {
    /// So many events of this slot have reached user space.
    pub(crate) fn produced(&mut self, slot: u32, events: u64) {
        let [even, odd] = &mut self.read;
        *(if slot.is_multiple_of(2) { even } else { odd }) += events;
    }

    /// A slot has ended, its events are read, and this is its set; `missed` are all events of re-entered programs so far.
    pub(crate) fn close(&mut self, slot: u32, set: Set, missed: u64) {
        let index = if slot.is_multiple_of(2) { 0 } else { 1 };
        if let (Some(read), Some(final_read), Some(final_set)) =
            (self.read.get(index), self.final_read.get_mut(index), self.final_sets.get_mut(index))
        {
            *final_read = *read;
            *final_set = set;
        }
        self.missed = self.missed.max(missed);
    }

    /// The numbers of all slots that are closed.
    pub(crate) fn published(&self) -> KernelCounters {
        let mut counters = KernelCounters { attempted: self.missed, produced: self.final_read.iter().sum(), ..KernelCounters::default() };
        for [attempted, lost @ ..] in self.final_sets {
            counters.attempted += attempted;
            counters.lost.iter_mut().zip(lost).for_each(|(sum, lost)| *sum += lost);
        }
        if let Some(recursion) = counters.lost.get_mut(RECURSION) {
            *recursion += self.missed;
        }
        counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_exact(counters: KernelCounters) -> bool {
        counters.attempted == counters.produced + counters.lost.iter().sum::<u64>()
    }

    #[test]
    fn what_is_read_early_from_the_next_slot_waits_for_its_set() {
        let mut account = Account::default();
        account.produced(0, 5);
        account.produced(1, 2);
        account.close(0, [6, 1, 0, 0, 0, 0, 0], 0);
        let first = account.published();
        assert_eq!((first.attempted, first.produced, first.lost[0]), (6, 5, 1));
        account.produced(1, 1);
        account.close(1, [3, 0, 0, 0, 0, 0, 0], 0);
        let second = account.published();
        assert_eq!((second.attempted, second.produced), (9, 8));
        assert!(is_exact(first) && is_exact(second));
    }

    #[test]
    fn a_re_entered_program_is_attempted_and_lost() {
        let mut account = Account::default();
        account.close(0, [0; counter::COUNT], 4);
        account.close(1, [0; counter::COUNT], 3);
        let counters = account.published();
        assert_eq!((counters.attempted, counters.lost[RECURSION]), (4, 4));
        assert!(is_exact(counters));
    }
}
