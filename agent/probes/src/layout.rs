//! Fills in the programs' layout from the running kernel's types. Separate from the reader of types because this is what must follow the
//! kernel's changes. Every structure is reached from a tracepoint's prototype, so that a namesake elsewhere in the kernel is never taken.

use abi::{Layout, NO_FIELD, field};

use crate::btf::{Btf, Member, TypeId};
use crate::error::LayoutError;

/// Where the members are; `hierarchy` is the number of the canonical hierarchy, 0 for version 2.
pub(crate) fn resolve(btf: &Btf, hierarchy: u32, page_bytes: usize) -> Result<Layout, LayoutError> {
    let task = btf.tracepoint("sched_process_exec").and_then(|arguments| btf.pointee(*arguments.first()?));
    let task = task.ok_or_else(|| missing("tracepoint sched_process_exec with a task"))?;
    let cgroups = member(btf, task, "cgroups")?;
    let css_set = pointee(btf, cgroups, "css_set")?;
    let default_cgroup = member(btf, css_set, "dfl_cgrp")?;
    let cgroup = pointee(btf, default_cgroup, "cgroup")?;
    let own_state = member(btf, cgroup, "self")?;
    let parent = member(btf, own_state.of, "parent")?;
    let node = member(btf, cgroup, "kn")?;
    let root = member(btf, cgroup, "root")?;
    let memory = member(btf, task, "mm")?;
    let memory_type = pointee(btf, memory, "mm_struct")?;
    let canonical = if hierarchy == 0 { default_cgroup.offset } else { memory_state(btf, css_set)? };

    let values = [
        (field::TASK_PID, member(btf, task, "pid")?.offset),
        (field::TASK_TGID, member(btf, task, "tgid")?.offset),
        (field::TASK_COMM, member(btf, task, "comm")?.offset),
        (field::TASK_LEADER, member(btf, task, "group_leader")?.offset),
        (field::TASK_EXIT_CODE, member(btf, task, "exit_code")?.offset),
        (field::TASK_CGROUPS, cgroups.offset),
        (field::TASK_MM, memory.offset),
        (field::CSS_SET_CGROUP, canonical),
        (field::CSS_SET_IS_V2, u32::from(hierarchy == 0)),
        (field::CSS_CGROUP, member(btf, own_state.of, "cgroup")?.offset),
        (field::CGROUP_PARENT, own_state.offset + parent.offset),
        (field::CGROUP_KN, node.offset),
        (field::CGROUP_ROOT, root.offset),
        (field::ROOT_HIERARCHY, member(btf, pointee(btf, root, "cgroup_root")?, "hierarchy_id")?.offset),
        (field::KERNFS_ID, member(btf, pointee(btf, node, "kernfs_node")?, "id")?.offset),
        (field::MM_TOTAL_VM, btf.member(memory_type, "total_vm").map_or(NO_FIELD, |total| total.offset)),
        (field::MM_ANON_RSS, anonymous_rss(btf, memory_type).unwrap_or(NO_FIELD)),
        (field::PAGE_SHIFT, page_bytes.trailing_zeros()),
        (field::HIERARCHY, hierarchy),
    ];
    let mut layout = [NO_FIELD; field::COUNT];
    for (index, value) in values {
        if let Some(cell) = layout.get_mut(index) {
            *cell = value;
        }
    }
    Ok(layout)
}

fn missing(what: &str) -> LayoutError {
    LayoutError::Missing { what: what.into() }
}

fn member(btf: &Btf, structure: TypeId, name: &str) -> Result<Member, LayoutError> {
    btf.member(structure, name).ok_or_else(|| missing(&format!("{}.{name}", btf.name(structure))))
}

fn pointee(btf: &Btf, pointer: Member, name: &str) -> Result<TypeId, LayoutError> {
    btf.pointee(pointer.of).ok_or_else(|| missing(&format!("pointer to {name}")))
}

/// `css_set.subsys[memory_cgrp_id]`. The index is an enum's value, which depends on the kernel's configuration.
fn memory_state(btf: &Btf, css_set: TypeId) -> Result<u32, LayoutError> {
    let index = btf.enum_value("memory_cgrp_id").ok_or_else(|| missing("memory controller"))?;
    let states = member(btf, css_set, "subsys")?;
    let (_, bytes) = btf.element(states.of).ok_or_else(|| missing("array css_set.subsys"))?;
    Ok(states.offset + index * bytes)
}

/// `mm_struct.rss_stat[MM_ANONPAGES].count`, or `rss_stat.count[MM_ANONPAGES]` before Linux 6.2.
fn anonymous_rss(btf: &Btf, memory: TypeId) -> Option<u32> {
    let index = btf.enum_value("MM_ANONPAGES")?;
    let counters = btf.member(memory, "rss_stat")?;
    if let Some((counter, bytes)) = btf.element(counters.of) {
        return Some(counters.offset + index * bytes + btf.member(counter, "count")?.offset);
    }
    let counts = btf.member(counters.of, "count")?;
    Some(counters.offset + counts.offset + index * btf.element(counts.of)?.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running_kernel() -> Btf {
        Btf::parse(std::fs::read("/sys/kernel/btf/vmlinux").expect("a kernel with BTF")).expect("it is whole")
    }

    #[test]
    fn every_member_is_found_on_the_running_kernel() {
        for hierarchy in [0, 4] {
            let layout = resolve(&running_kernel(), hierarchy, 4096).expect("every member is there");
            assert_eq!(layout.iter().position(|&value| value == NO_FIELD), None);
            assert_eq!(layout[field::HIERARCHY], hierarchy);
            assert_eq!(layout[field::PAGE_SHIFT], 12);
        }
    }

    #[test]
    fn version_2_and_the_memory_controller_are_different_members() {
        let btf = running_kernel();
        let (v2, v1) = (resolve(&btf, 0, 4096).expect("resolves"), resolve(&btf, 4, 4096).expect("resolves"));
        assert_ne!(v2[field::CSS_SET_CGROUP], v1[field::CSS_SET_CGROUP]);
        assert_eq!((v2[field::CSS_SET_IS_V2], v1[field::CSS_SET_IS_V2]), (1, 0));
    }
}
