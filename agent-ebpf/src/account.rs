//! The maps, and the rule by which every event is accounted for. Separate so that no program can record without counting.

use abi::{CHURN_CELLS_MAX, Churn, Head, Kind, LIFECYCLE_RING_BYTES, URGENT_RING_BYTES, counter};
use aya_ebpf::bindings::{BPF_NOEXIST, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray, PerCpuHashMap, RingBuf};

/// For what is rare and urgent; each record wakes the reader.
#[map(name = "URGENT")]
pub static URGENT: RingBuf = RingBuf::with_byte_size(URGENT_RING_BYTES, 0);
/// For births and deaths of cgroups; read by a timer, because waking costs ten times the record.
#[map(name = "LIFECYCLE")]
pub static LIFECYCLE: RingBuf = RingBuf::with_byte_size(LIFECYCLE_RING_BYTES, 0);
/// (cgroup, slot) → `abi::Churn` as an array.
#[map(name = "CHURN")]
static CHURN: PerCpuHashMap<[u64; 2], [u64; Churn::COUNT]> = PerCpuHashMap::with_max_entries(CHURN_CELLS_MAX, 0);
/// Two sets of `abi::counter`s, by the parity of the slot.
#[map(name = "COUNTERS")]
static COUNTERS: PerCpuArray<[u64; counter::COUNT]> = PerCpuArray::with_max_entries(counter::SETS, 0);
/// Number of the current time slot; the agent counts it up.
#[map(name = "SLOT")]
static SLOT: Array<u32> = Array::with_max_entries(1, 0);

const EEXIST: i32 = -17;
const EBUSY: i32 = -16;

/// An event that was counted as attempted and must be recorded or counted as lost.
pub struct Attempt {
    slot: u32,
    counters: *mut [u64; counter::COUNT],
}

impl Attempt {
    /// Counts an event as attempted in the current slot.
    #[inline(always)]
    pub fn begin() -> Option<Self> {
        // SAFETY: a four-byte load of a map's value.
        let slot = unsafe { core::ptr::read_volatile(SLOT.get_ptr(0)?) };
        let attempt = Self { slot, counters: COUNTERS.get_ptr_mut(slot & 1)? };
        attempt.count(counter::ATTEMPTED);
        Some(attempt)
    }

    #[inline(always)]
    fn count(&self, cell: usize) {
        // SAFETY: `cell` is below `counter::COUNT`, and the set belongs to this CPU.
        unsafe { *self.counters.cast::<u64>().add(cell) += 1 }
    }

    #[inline(always)]
    fn lose(&self, reason: usize) {
        self.count(counter::LOST + reason);
    }

    /// Reserves a record in a ring, writes its head, lets `fill` write the rest, and submits it.
    #[inline(always)]
    pub fn record<T: 'static>(self, ring: &RingBuf, kind: Kind, cgroup: u64, wake: bool, fill: impl FnOnce(*mut T)) {
        let Some(mut entry) = ring.reserve::<T>(0) else {
            self.lose(counter::RING_FULL);
            return;
        };
        let record = entry.as_mut_ptr();
        // SAFETY: every record begins with its head.
        unsafe {
            let head = record.cast::<Head>();
            (*head).kind = kind as u32;
            (*head).slot = self.slot;
            (*head).cgroup = cgroup;
            (*head).time_nanos = bpf_ktime_get_ns();
        }
        fill(record);
        entry.submit(u64::from(if wake { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP }));
    }

    /// Adds one to a number of the cgroup's churn cell in the slot.
    #[inline(always)]
    pub fn churn(self, cgroup: u64, which: usize) {
        let key = [cgroup, u64::from(self.slot)];
        if add_one(&key, which) {
            return;
        }
        let mut cell = [0; Churn::COUNT];
        cell[which] = 1;
        match CHURN.insert(&key, &cell, u64::from(BPF_NOEXIST)) {
            Ok(()) => {}
            // Another CPU made the cell in between.
            Err(EEXIST) if add_one(&key, which) => {}
            Err(EBUSY | EEXIST) => self.lose(counter::MAP_BUSY),
            Err(_) => self.lose(counter::MAP_FULL),
        }
    }
}

#[inline(always)]
fn add_one(key: &[u64; 2], which: usize) -> bool {
    let Some(cell) = CHURN.get_ptr_mut(key) else { return false };
    // SAFETY: `which` is below `Churn::COUNT`, and the cell belongs to this CPU.
    unsafe { *cell.cast::<u64>().add(which) += 1 };
    true
}
