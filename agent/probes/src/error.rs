//! What can go wrong, and what to do about it. Separate so that every message is read side by side with its neighbours: they reach people
//! through the agent's log and the status of a pipeline.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;

/// Why no kernel program runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The process may not load programs.
    #[error("no kernel events: the process lacks {missing}; add BPF and PERFMON to the container's capabilities")]
    Capability {
        /// Names of the missing capabilities.
        missing: String,
    },
    /// The object is not there.
    #[error("no kernel events: cannot read the kernel programs at {}; name them in the configuration, or build them with `cargo xtask ebpf`", path.display())]
    ReadObject {
        /// Where it was looked for.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// The object is no set of kernel programs.
    #[error("no kernel events: {} holds no kernel programs; build them with `cargo xtask ebpf`", path.display())]
    ParseObject {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        source: aya_obj::ParseError,
    },
    /// The object belongs to another version of the agent.
    #[error("no kernel events: {} has records of version {found:?}, this agent reads version {}; use the object of the same release", path.display(), abi::VERSION)]
    OtherVersion {
        /// Where it is.
        path: PathBuf,
        /// Its version; none if it carries none.
        found: Option<u32>,
    },
    /// The kernel does not describe its types.
    #[error("no kernel events: cannot read the kernel's type information at {}; it needs CONFIG_DEBUG_INFO_BTF, or a BTF file of this kernel", path.display())]
    ReadBtf {
        /// Where it was looked for.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// The kernel's types are not those the programs know.
    #[error("no kernel events")]
    ResolveLayout(#[from] LayoutError),
    /// The cgroup tree is not one the agent can use.
    #[error("no kernel events")]
    FindCgroups(#[from] CgroupError),
    /// The kernel's type information cannot be used for loading.
    #[error("no kernel events: the kernel's type information cannot be used")]
    UseBtf(#[source] aya::BtfError),
    /// The kernel refused the maps.
    #[error("no kernel events: the kernel refused the maps (it needs Linux 5.10 or newer and memory for them)")]
    LoadObject(#[source] EbpfError),
    /// A map is missing or of another kind.
    #[error("no kernel events: the kernel programs lack the map {name}; use the object of the same release")]
    TakeMap {
        /// Its name.
        name: &'static str,
        /// What is wrong with it, if it is there at all.
        source: Option<MapError>,
    },
    /// The kernel refused every program.
    #[error("no kernel events: the kernel refused every program; the first: {reason}")]
    NothingAttached {
        /// Why it refused the first.
        reason: String,
    },
}

/// Why the kernel's types cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The bytes are no BTF.
    #[error("the kernel's type information is damaged at byte {offset}")]
    Damaged {
        /// Where reading stopped.
        offset: usize,
    },
    /// A member the programs cannot do without.
    #[error("this kernel has no {what}; the programs need Linux 5.10 or newer")]
    Missing {
        /// The type, member or tracepoint.
        what: String,
    },
}

/// Why the cgroup tree cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A file of it cannot be read.
    #[error("cannot read {}; mount the node's cgroup tree there", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no cgroup tree.
    #[error("{} is neither a version 2 cgroup tree nor one with a memory controller of version 1; mount the node's /sys/fs/cgroup there", path.display())]
    NoHierarchy {
        /// Where it was looked for.
        path: PathBuf,
    },
}

/// Why records or counters could not be read. The next call may succeed; nothing is lost by it.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// Waiting for the ring failed.
    #[error("cannot wait for kernel records")]
    Wait(#[source] io::Error),
    /// A map could not be read or written.
    #[error("cannot access the kernel map {name}")]
    Access {
        /// Its name.
        name: &'static str,
        /// Why.
        source: MapError,
    },
    /// Records of earlier slots were not taken.
    #[error("{waiting} kernel records wait to be taken; poll before another slot is read")]
    Untaken {
        /// How many.
        waiting: usize,
    },
}
