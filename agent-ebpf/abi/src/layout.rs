//! Read-only globals of the programs: where the running kernel keeps the members they read. Separate because the loader fills them in from
//! the kernel's BTF before the object is loaded; they are frozen then, so the verifier knows each as a constant.

/// One value per [`field`].
pub type Layout = [u32; field::COUNT];

/// The running kernel has no such member: the value is reported as unknown.
pub const NO_FIELD: u32 = u32::MAX;

/// Which value stands where in [`Layout`].
pub mod field {
    /// `task_struct.pid`.
    pub const TASK_PID: usize = 0;
    /// `task_struct.tgid`.
    pub const TASK_TGID: usize = 1;
    /// `task_struct.comm`.
    pub const TASK_COMM: usize = 2;
    /// `task_struct.group_leader`.
    pub const TASK_LEADER: usize = 3;
    /// `task_struct.exit_code`.
    pub const TASK_EXIT_CODE: usize = 4;
    /// `task_struct.cgroups`.
    pub const TASK_CGROUPS: usize = 5;
    /// `task_struct.mm`.
    pub const TASK_MM: usize = 6;
    /// `css_set.dfl_cgrp` on version 2, else `css_set.subsys[memory]`.
    pub const CSS_SET_CGROUP: usize = 7;
    /// 1: the member above is a `cgroup`; 0: it is a `cgroup_subsys_state`, which points to one.
    pub const CSS_SET_IS_V2: usize = 8;
    /// `cgroup_subsys_state.cgroup`.
    pub const CSS_CGROUP: usize = 9;
    /// `cgroup.self.parent`.
    pub const CGROUP_PARENT: usize = 10;
    /// `cgroup.kn`.
    pub const CGROUP_KN: usize = 11;
    /// `cgroup.root`.
    pub const CGROUP_ROOT: usize = 12;
    /// `cgroup_root.hierarchy_id`.
    pub const ROOT_HIERARCHY: usize = 13;
    /// `kernfs_node.id`.
    pub const KERNFS_ID: usize = 14;
    /// `mm_struct.total_vm`, in pages.
    pub const MM_TOTAL_VM: usize = 15;
    /// `mm_struct.rss_stat[MM_ANONPAGES].count`, in pages.
    pub const MM_ANON_RSS: usize = 16;
    /// Bytes of a page as a power of two.
    pub const PAGE_SHIFT: usize = 17;
    /// Number of the hierarchy whose cgroups identify containers; 0 is version 2.
    pub const HIERARCHY: usize = 18;
    /// How many there are.
    pub const COUNT: usize = 19;
}
