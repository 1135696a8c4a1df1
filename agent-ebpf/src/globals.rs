//! Read-only globals that the loader fills in, and the version it checks. Separate because their names are part of the contract.

use abi::{Layout, NO_FIELD, field};

/// Where the running kernel keeps what the programs read.
#[unsafe(no_mangle)]
static LAYOUT: Layout = [NO_FIELD; field::COUNT];

/// Id of the node's own root cgroup.
#[unsafe(no_mangle)]
static ROOT_CGROUP: u64 = 0;

/// What the loader compares with its own `abi::VERSION`.
#[used]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata.abi")]
static ABI_VERSION: u32 = abi::VERSION;

/// One value of the layout. Volatile, because the compiler must not believe the initial values.
#[inline(always)]
pub fn layout(index: usize) -> usize {
    // SAFETY: every caller passes one of `abi::field`, which are below the array's length.
    unsafe { core::ptr::read_volatile((&raw const LAYOUT).cast::<u32>().add(index)) as usize }
}

/// Whether the running kernel has this member.
#[inline(always)]
pub fn has(index: usize) -> bool {
    layout(index) != NO_FIELD as usize
}

/// Id of the node's own root cgroup.
#[inline(always)]
pub fn root_cgroup() -> u64 {
    // SAFETY: it is a valid static.
    unsafe { core::ptr::read_volatile(&raw const ROOT_CGROUP) }
}
