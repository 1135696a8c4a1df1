//! The kernel programs: out-of-memory kills, fatal exits, process churn per cgroup, and births and deaths of cgroups, all through typed
//! tracepoints (`tp_btf`), so that neither kprobes nor fentry are needed.
//!
//! Each program asks first whether the event is of the own node: several nodes may share one kernel. It then counts the event as attempted,
//! and either records it or counts it as lost, with the reason. What they share with the agent is the crate `abi`.
//!
//! Tracepoints run with preemption off and none of these run in interrupts, so a CPU's own counters need no atomics.
#![no_std]
#![no_main]

mod account;
mod cgroups;
mod globals;
mod kernel;
mod processes;

/// A panic cannot be reached: the programs neither index nor divide, and the verifier would refuse the way to it.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Tracing programs and their helpers are for GPL-compatible code alone.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
