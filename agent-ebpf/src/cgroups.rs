//! Programs about cgroups: their births and deaths, from which the agent learns containers before a process runs in them.

use abi::{CgroupCreated, CgroupRemoved, Kind, PATH_BYTES};
use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;

use crate::account::{Attempt, LIFECYCLE};
use crate::kernel::{Object, cgroup_id, is_canonical, is_own};

/// `cgroup_mkdir(cgroup, path)`.
#[btf_tracepoint(function = "cgroup_mkdir")]
pub fn fb_cgroup_new(ctx: BtfTracePointContext) -> i32 {
    let cgroup: Object = ctx.arg(0);
    let path: *const u8 = ctx.arg(1);
    if !is_canonical(cgroup) || !is_own(cgroup) {
        return 0;
    }
    let Some(attempt) = Attempt::begin() else { return 0 };
    attempt.record::<CgroupCreated>(&LIFECYCLE, Kind::CgroupCreated, cgroup_id(cgroup), false, |record| {
        // SAFETY: the record is reserved and large enough; the helper writes at most as many bytes as it is told.
        unsafe {
            let read = bpf_probe_read_kernel_str((&raw mut (*record).path).cast(), PATH_BYTES as u32, path.cast());
            // The helper counts the closing zero.
            (*record).path_bytes = if read > 0 { read as u32 - 1 } else { 0 };
            (*record).padding = 0;
        }
    });
    0
}

/// `cgroup_rmdir(cgroup, path)`.
#[btf_tracepoint(function = "cgroup_rmdir")]
pub fn fb_cgroup_gone(ctx: BtfTracePointContext) -> i32 {
    let cgroup: Object = ctx.arg(0);
    if !is_canonical(cgroup) || !is_own(cgroup) {
        return 0;
    }
    if let Some(attempt) = Attempt::begin() {
        attempt.record::<CgroupRemoved>(&LIFECYCLE, Kind::CgroupRemoved, cgroup_id(cgroup), false, |_| {});
    }
    0
}
