//! Reading of rings, cells and counters. Separate from the loading because it is what runs all the time.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::Duration;

use abi::{CgroupCreated, CgroupRemoved, Churn, Exit, Head, Kind, OomKill, counter};
use aya::Ebpf;
use aya::maps::{Array, MapData, MapError, PerCpuArray, PerCpuHashMap, RingBuf};
use aya::programs::Program;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{MembarrierCommand, membarrier};
use std::os::fd::{AsFd, AsRawFd};

pub use crate::account::KernelCounters;
use crate::account::{Account, Set};
use crate::error::PollError;
use crate::load::SignalState;

/// Most records read from a ring at once: as many of the smallest as fit, so that a reading is complete for everything that was there when
/// it began, and still ends under a flood.
const DRAIN_MAX: usize = (abi::LIFECYCLE_RING_BYTES / (size_of::<CgroupRemoved>() as u32 + RING_HEADER_BYTES)) as usize;
/// The kernel puts a header of 8 bytes before each record.
const RING_HEADER_BYTES: u32 = 8;
/// Records that wait to be taken, when slots are read without a poll in between.
const PENDING_MAX: usize = 2 * DRAIN_MAX;

/// A record from a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "an event is handed over once and not stored; a box per cgroup would cost more")]
pub enum Event {
    /// The out-of-memory killer chose a victim.
    OomKill(OomKill),
    /// A process was ended by a signal.
    Exit(Exit),
    /// A cgroup was made.
    CgroupCreated(CgroupCreated),
    /// A cgroup was removed.
    CgroupRemoved(CgroupRemoved),
}

/// The counters of a time slot that has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Cgroup ids, ascending, and what their processes did.
    pub cells: Vec<(u64, Churn)>,
}

/// Cells that were taken out of the kernel and are not yet handed over. They are counted as produced when they are taken, so they
/// stay here until the reading they belong to, or a later one, has succeeded.
#[derive(Debug, Default)]
struct Taken(BTreeMap<u64, Churn>);

impl Taken {
    fn add(&mut self, cgroup: u64, sum: Churn) {
        let cell = self.0.entry(cgroup).or_default();
        *cell = cell.plus([sum.forks, sum.execs, sum.exits]);
    }

    /// Hands over everything, if what had to be read besides was read.
    fn hand_over<T, E>(&mut self, besides: Result<T, E>) -> Result<(Slot, T), E> {
        let besides = besides?;
        Ok((Slot { cells: std::mem::take(&mut self.0).into_iter().collect() }, besides))
    }
}

pub(crate) struct Maps {
    pub(crate) urgent: RingBuf<MapData>,
    pub(crate) lifecycle: RingBuf<MapData>,
    pub(crate) churn: PerCpuHashMap<MapData, [u64; 2], [u64; Churn::COUNT]>,
    pub(crate) counters: PerCpuArray<MapData, Set>,
    pub(crate) slot: Array<MapData, u32>,
}

/// The running programs. Dropping it detaches them.
pub struct Probes {
    /// Holds the programs and their links.
    ebpf: Ebpf,
    maps: Maps,
    states: Vec<SignalState>,
    account: Account,
    slot: u32,
    taken: Taken,
    /// Records that were read to close a slot and are not yet taken.
    pending: VecDeque<Event>,
}

impl Probes {
    pub(crate) fn new(ebpf: Ebpf, maps: Maps, states: Vec<SignalState>, account: Account) -> Self {
        Self { ebpf, maps, states, account, slot: 0, taken: Taken::default(), pending: VecDeque::new() }
    }

    /// State of each signal, decided at the start.
    #[must_use]
    pub fn states(&self) -> Vec<SignalState> {
        self.states.clone()
    }

    /// Numbers of all time slots that were read; they only grow, and `attempted` is always `produced` and `lost` together.
    #[must_use]
    pub fn counters(&self) -> KernelCounters {
        self.account.published()
    }

    /// Waits at most `timeout` for an urgent record, then hands over what the rings hold, births and deaths of cgroups first, so that
    /// an urgent record's cgroup is known. Call it at least every second, or the ring of births and deaths may fill up.
    ///
    /// # Errors
    /// When the kernel refuses to wait.
    pub fn poll(&mut self, timeout: Duration, sink: &mut dyn FnMut(Event)) -> Result<(), PollError> {
        let timeout = if self.pending.is_empty() { timeout } else { Duration::ZERO };
        wait(&self.maps.urgent, timeout).map_err(PollError::Wait)?;
        self.pending.drain(..).for_each(&mut *sink);
        drain(&mut self.maps.lifecycle, &mut self.account, sink);
        drain(&mut self.maps.urgent, &mut self.account, sink);
        Ok(())
    }

    /// Ends the current time slot, begins the next, and reads the one that ended. Records that have to be read for it are handed over by
    /// the next poll.
    ///
    /// # Errors
    /// When a map cannot be accessed: what was not read then is read with the next slot. When no poll took the records of earlier slots.
    pub fn read_slot(&mut self) -> Result<Slot, PollError> {
        if self.pending.len() > PENDING_MAX {
            return Err(PollError::Untaken { waiting: self.pending.len() });
        }
        let ended = self.slot;
        let next = ended.wrapping_add(1);
        self.maps.slot.set(0, next, 0).map_err(|source| PollError::Access { name: "SLOT", source })?;
        self.slot = next;
        wait_for_programs();
        let pending = &mut self.pending;
        drain(&mut self.maps.lifecycle, &mut self.account, &mut |event| pending.push_back(event));
        drain(&mut self.maps.urgent, &mut self.account, &mut |event| pending.push_back(event));
        let read = self.read_cells(next).map_err(|source| PollError::Access { name: "CHURN", source });
        let set = read.and_then(|()| self.read_set(ended & 1).map_err(|source| PollError::Access { name: "COUNTERS", source }));
        let (slot, set) = self.taken.hand_over(set)?;
        let missed = self.missed();
        self.account.close(ended, set, missed);
        Ok(slot)
    }

    /// Takes the cells of all slots but the current one.
    fn read_cells(&mut self, current: u32) -> Result<(), MapError> {
        // The keys first, because a removal in between would send the kernel's iteration back to its start. Twice the map's size bounds it
        // while programs insert.
        let keys: Vec<[u64; 2]> = self.maps.churn.keys().take(2 * abi::CHURN_CELLS_MAX as usize).collect::<Result<_, _>>()?;
        for key in keys {
            let [cgroup, slot] = key;
            let slot = u32::try_from(slot).unwrap_or(0);
            if slot == current {
                continue;
            }
            let values = match self.maps.churn.get(&key, 0) {
                Ok(values) => values,
                // The iteration may show a key twice.
                Err(MapError::KeyNotFound) => continue,
                Err(error) => return Err(error),
            };
            let sum = values.iter().fold(Churn::default(), |sum, cell| sum.plus(*cell));
            self.maps.churn.remove(&key)?;
            self.account.produced(slot, sum.total());
            self.taken.add(cgroup, sum);
        }
        Ok(())
    }

    fn read_set(&self, parity: u32) -> Result<Set, MapError> {
        let values = self.maps.counters.get(&parity, 0)?;
        let mut sum = [0; counter::COUNT];
        for set in values.iter() {
            sum.iter_mut().zip(set).for_each(|(sum, value)| *sum += value);
        }
        Ok(sum)
    }

    /// Times the kernel skipped a program because it was already running on that CPU. The kernel tells it with each program's descriptor;
    /// one that does not (before Linux 5.12) does not count it either.
    fn missed(&self) -> u64 {
        let files = self.ebpf.programs().filter_map(|(_, program)| match program {
            Program::BtfTracePoint(loaded) => loaded.fd().ok().map(|fd| fd.as_fd().as_raw_fd()),
            _ => None,
        });
        files.filter_map(|fd| parse_missed(&std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?)).sum()
    }
}

fn parse_missed(fdinfo: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?.trim().parse().ok()
}

/// Returns when every program that saw the old slot has returned. Programs run in sections that this barrier waits for; it takes some
/// milliseconds. Where the kernel refuses it (CPUs without a clock tick), a pause a thousand times a program's run takes its place.
fn wait_for_programs() {
    if membarrier(MembarrierCommand::Global).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn wait(ring: &RingBuf<MapData>, timeout: Duration) -> io::Result<()> {
    let timeout = Timespec { tv_sec: timeout.as_secs().min(3600) as i64, tv_nsec: timeout.subsec_nanos().into() };
    match poll(&mut [PollFd::new(ring, PollFlags::IN)], Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn drain(ring: &mut RingBuf<MapData>, account: &mut Account, sink: &mut dyn FnMut(Event)) {
    for _ in 0..DRAIN_MAX {
        let Some(record) = ring.next() else { return };
        if let Some((slot, event)) = decode(&record) {
            drop(record);
            account.produced(slot, 1);
            sink(event);
        }
    }
}

/// The record's slot and what it is. None only if the programs wrote something this version does not know, which the version check excludes;
/// it would show as an identity that does not hold.
fn decode(record: &[u8]) -> Option<(u32, Event)> {
    let head = Head::read(record)?;
    let event = match Kind::from_code(head.kind)? {
        Kind::OomKill => Event::OomKill(OomKill::read(record)?),
        Kind::Exit => Event::Exit(Exit::read(record)?),
        Kind::CgroupCreated => Event::CgroupCreated(CgroupCreated::read(record)?),
        Kind::CgroupRemoved => Event::CgroupRemoved(CgroupRemoved::read(record)?),
    };
    Some((head.slot, event))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probes_can_move_to_a_thread_of_their_own() {
        fn is_send<T: Send>() {}
        is_send::<Probes>();
    }

    #[test]
    fn cells_of_a_reading_that_failed_are_handed_over_with_the_next() {
        let mut taken = Taken::default();
        taken.add(7, Churn { forks: 1, ..Churn::default() });
        assert_eq!(taken.hand_over(Err::<(), _>("no counters")), Err("no counters"));
        taken.add(7, Churn { forks: 2, ..Churn::default() });
        taken.add(3, Churn { exits: 1, ..Churn::default() });
        let cells = vec![(3, Churn { exits: 1, ..Churn::default() }), (7, Churn { forks: 3, ..Churn::default() })];
        assert_eq!(taken.hand_over(Ok::<_, ()>(())), Ok((Slot { cells }, ())));
        assert_eq!(taken.hand_over(Ok::<_, ()>(())), Ok((Slot::default(), ())));
    }

    #[test]
    fn the_kernels_own_count_of_skipped_runs_is_read() {
        assert_eq!(parse_missed("pos:\t0\nprog_type:\t26\nrecursion_misses:\t17\nverified_insns:\t43\n"), Some(17));
        assert_eq!(parse_missed("pos:\t0\n"), None);
    }

    #[test]
    fn bytes_that_are_no_record_are_none() {
        assert_eq!(decode(&[]), None);
        assert_eq!(decode(&[9; 600]), None);
    }
}
