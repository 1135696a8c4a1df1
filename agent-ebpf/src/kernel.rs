//! Reads of kernel objects through pointers that the verifier types: plain loads at offsets from the layout. Separate because it is the only
//! place that knows how the kernel's structures hang together.

use abi::{ANCESTORS_MAX, COMM_BYTES, field};

use crate::globals::{has, layout, root_cgroup};

/// A pointer to a kernel object; the verifier knows of which type.
pub type Object = *const u8;

/// Loads a member. A fault (a null pointer on the way) reads as zero: the verifier arranges for that.
#[inline(always)]
fn load<T: Copy>(object: Object, member: usize) -> T {
    // SAFETY: the verifier accepts the load only where the type has such a member.
    unsafe { core::ptr::read_volatile(object.add(layout(member)).cast::<T>()) }
}

/// The canonical cgroup of a task: that of version 2, or of the memory controller where it still is version 1.
#[inline(always)]
pub fn cgroup_of_task(task: Object) -> Object {
    let css_set: Object = load(task, field::TASK_CGROUPS);
    let found: Object = load(css_set, field::CSS_SET_CGROUP);
    if layout(field::CSS_SET_IS_V2) == 1 { found } else { load(found, field::CSS_CGROUP) }
}

/// Id of a cgroup: the inode of its directory.
#[inline(always)]
pub fn cgroup_id(cgroup: Object) -> u64 {
    load(load(cgroup, field::CGROUP_KN), field::KERNFS_ID)
}

/// Whether the cgroup is in the canonical hierarchy: ids are unique only within one.
#[inline(always)]
pub fn is_canonical(cgroup: Object) -> bool {
    let hierarchy: u32 = load(load(cgroup, field::CGROUP_ROOT), field::ROOT_HIERARCHY);
    hierarchy as usize == layout(field::HIERARCHY)
}

/// Whether the cgroup, which must be of the canonical hierarchy, is the node's own root or lies below it.
#[inline(always)]
pub fn is_own(cgroup: Object) -> bool {
    let mut cgroup = cgroup;
    for _ in 0..ANCESTORS_MAX {
        if cgroup_id(cgroup) == root_cgroup() {
            return true;
        }
        let parent: Object = load(cgroup, field::CGROUP_PARENT);
        if parent.is_null() {
            return false;
        }
        cgroup = load(parent, field::CSS_CGROUP);
    }
    false
}

/// Process id of a task.
#[inline(always)]
pub fn pid(task: Object) -> u32 {
    load(task, field::TASK_PID)
}

/// Process id of the task's process.
#[inline(always)]
pub fn tgid(task: Object) -> u32 {
    load(task, field::TASK_TGID)
}

/// What `wait` will return for the task.
#[inline(always)]
pub fn exit_code(task: Object) -> u32 {
    load(task, field::TASK_EXIT_CODE)
}

/// Name of the task's process: of its leading thread.
#[inline(always)]
pub fn process_name(task: Object) -> [u64; COMM_BYTES / 8] {
    let leader: Object = load(task, field::TASK_LEADER);
    let name = layout(field::TASK_COMM);
    // SAFETY: as in `load`; the name has 16 bytes.
    unsafe { [core::ptr::read_volatile(leader.add(name).cast()), core::ptr::read_volatile(leader.add(name + 8).cast())] }
}

/// A number of pages of the task's memory as bytes, or `u64::MAX` if this kernel does not keep it where it can be read.
#[inline(always)]
pub fn memory_bytes(task: Object, member: usize) -> u64 {
    if !has(member) {
        return u64::MAX;
    }
    let pages: i64 = load(load(task, field::TASK_MM), member);
    // The kernel's per-CPU batching can leave the visible part of a counter below zero.
    if pages < 0 { 0 } else { (pages as u64) << layout(field::PAGE_SHIFT) }
}
