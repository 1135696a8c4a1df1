//! Programs about processes: out-of-memory kills, ends by a signal, and churn. Separate from those about cgroups because they find the own
//! node through the task.

use abi::{Churn, Exit, Kind, OomKill, field};
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;

use crate::account::{Attempt, URGENT};
use crate::kernel::{Object, cgroup_id, cgroup_of_task, exit_code, is_own, memory_bytes, pid, process_name, tgid};

/// `mark_victim(task, uid)`: the out-of-memory killer chose a victim.
#[btf_tracepoint(function = "mark_victim")]
pub fn fb_oom_kill(ctx: BtfTracePointContext) -> i32 {
    let task: Object = ctx.arg(0);
    let cgroup = cgroup_of_task(task);
    if !is_own(cgroup) {
        return 0;
    }
    let Some(attempt) = Attempt::begin() else { return 0 };
    attempt.record::<OomKill>(&URGENT, Kind::OomKill, cgroup_id(cgroup), true, |record| {
        // SAFETY: the record is reserved and large enough; each field is written once.
        unsafe {
            (*record).pid = tgid(task);
            (*record).padding = 0;
            (*record).total_vm_bytes = memory_bytes(task, field::MM_TOTAL_VM);
            (*record).anon_rss_bytes = memory_bytes(task, field::MM_ANON_RSS);
            (&raw mut (*record).comm).cast::<[u64; 2]>().write(process_name(task));
        }
    });
    0
}

/// `sched_process_exit(task, group_dead)`: a thread ends; the process with it if the group is dead.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn fb_exit(ctx: BtfTracePointContext) -> i32 {
    let task: Object = ctx.arg(0);
    // A boolean argument may carry garbage above its lowest byte.
    let group_dead: u64 = ctx.arg(1);
    if group_dead & 0xff == 0 {
        return 0;
    }
    let cgroup = cgroup_of_task(task);
    if !is_own(cgroup) {
        return 0;
    }
    let id = cgroup_id(cgroup);
    let Some(attempt) = Attempt::begin() else { return 0 };
    attempt.churn(id, Churn::EXITS);
    let code = exit_code(task);
    if code & 0xff == 0 {
        return 0;
    }
    let Some(attempt) = Attempt::begin() else { return 0 };
    attempt.record::<Exit>(&URGENT, Kind::Exit, id, true, |record| {
        // SAFETY: the record is reserved and large enough; each field is written once.
        unsafe {
            (*record).pid = tgid(task);
            (*record).code = code;
            (&raw mut (*record).comm).cast::<[u64; 2]>().write(process_name(task));
        }
    });
    0
}

/// `sched_process_fork(parent, child)`.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn fb_fork(ctx: BtfTracePointContext) -> i32 {
    let child: Object = ctx.arg(1);
    if pid(child) == tgid(child) {
        count(child, Churn::FORKS);
    }
    0
}

/// `sched_process_exec(task, old_pid, binprm)`.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn fb_exec(ctx: BtfTracePointContext) -> i32 {
    count(ctx.arg(0), Churn::EXECS);
    0
}

#[inline(always)]
fn count(task: Object, which: usize) {
    let cgroup = cgroup_of_task(task);
    if !is_own(cgroup) {
        return;
    }
    if let Some(attempt) = Attempt::begin() {
        attempt.churn(cgroup_id(cgroup), which);
    }
}
