//! The records that travel through the rings. Separate from the counters because they are bytes from another address space: the agent
//! reads each field from the bytes it was given and never casts them.

use core::mem::{offset_of, size_of};

/// Bytes of a process's name in the kernel, its closing zero included.
pub const COMM_BYTES: usize = 16;
/// Longest path of a cgroup that is reported, its closing zero included.
pub const PATH_BYTES: usize = 512;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// [`OomKill`].
    OomKill = 1,
    /// [`Exit`].
    Exit = 2,
    /// [`CgroupCreated`].
    CgroupCreated = 3,
    /// [`CgroupRemoved`].
    CgroupRemoved = 4,
}

/// How every record begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Head {
    /// A [`Kind`].
    pub kind: u32,
    /// Number of the time slot in which it was counted as attempted.
    pub slot: u32,
    /// Cgroup it belongs to, by its id in the canonical hierarchy (the inode of its directory).
    pub cgroup: u64,
    /// Nanoseconds of the monotonic clock.
    pub time_nanos: u64,
}

/// The out-of-memory killer chose a victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct OomKill {
    /// How every record begins.
    pub head: Head,
    /// Process id of the victim, as the host sees it.
    pub pid: u32,
    /// Zero.
    pub padding: u32,
    /// Virtual memory of the victim, in bytes; `u64::MAX` when unknown.
    pub total_vm_bytes: u64,
    /// Its anonymous resident memory, in bytes (as exact as the kernel's per-CPU batching allows); `u64::MAX` when unknown.
    pub anon_rss_bytes: u64,
    /// Its name.
    pub comm: [u8; COMM_BYTES],
}

/// A process was ended by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Exit {
    /// How every record begins.
    pub head: Head,
    /// Process id, as the host sees it.
    pub pid: u32,
    /// What `wait` returns: the signal in bits 0 to 6, bit 7 for a core dump, the exit status in bits 8 to 15.
    pub code: u32,
    /// Name of the process (of its leading thread).
    pub comm: [u8; COMM_BYTES],
}

/// A cgroup was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CgroupCreated {
    /// How every record begins; `cgroup` is the new one.
    pub head: Head,
    /// Bytes of `path` that are used.
    pub path_bytes: u32,
    /// Zero.
    pub padding: u32,
    /// Its path from the root of its hierarchy, as the host sees it; cut at the end if it is longer.
    pub path: [u8; PATH_BYTES],
}

/// A cgroup was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CgroupRemoved {
    /// How every record begins; `cgroup` is the one that is gone.
    pub head: Head,
}

const _: () = assert!(size_of::<Head>() == 24);
const _: () = assert!(size_of::<OomKill>() == 64 && offset_of!(OomKill, comm) == 48);
const _: () = assert!(size_of::<Exit>() == 48 && offset_of!(Exit, comm) == 32);
const _: () = assert!(size_of::<CgroupCreated>() == 544 && offset_of!(CgroupCreated, path) == 32);
const _: () = assert!(size_of::<CgroupRemoved>() == 24);

fn bytes_at<const N: usize>(record: &[u8], offset: usize) -> Option<[u8; N]> {
    record.get(offset..)?.first_chunk().copied()
}

fn u32_at(record: &[u8], offset: usize) -> Option<u32> {
    bytes_at(record, offset).map(u32::from_ne_bytes)
}

fn u64_at(record: &[u8], offset: usize) -> Option<u64> {
    bytes_at(record, offset).map(u64::from_ne_bytes)
}

fn until_zero(text: &[u8]) -> &[u8] {
    text.split(|&byte| byte == 0).next().unwrap_or(&[])
}

impl Kind {
    /// The kind with this number, or none if it is unknown.
    #[must_use]
    pub const fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::OomKill),
            2 => Some(Self::Exit),
            3 => Some(Self::CgroupCreated),
            4 => Some(Self::CgroupRemoved),
            _ => None,
        }
    }
}

impl Head {
    /// Reads it from a record's first bytes; none if there are too few.
    #[must_use]
    pub fn read(record: &[u8]) -> Option<Self> {
        Some(Self {
            kind: u32_at(record, offset_of!(Self, kind))?,
            slot: u32_at(record, offset_of!(Self, slot))?,
            cgroup: u64_at(record, offset_of!(Self, cgroup))?,
            time_nanos: u64_at(record, offset_of!(Self, time_nanos))?,
        })
    }
}

impl OomKill {
    /// Reads it from a record's bytes; none if there are too few.
    #[must_use]
    pub fn read(record: &[u8]) -> Option<Self> {
        Some(Self {
            head: Head::read(record)?,
            pid: u32_at(record, offset_of!(Self, pid))?,
            padding: 0,
            total_vm_bytes: u64_at(record, offset_of!(Self, total_vm_bytes))?,
            anon_rss_bytes: u64_at(record, offset_of!(Self, anon_rss_bytes))?,
            comm: bytes_at(record, offset_of!(Self, comm))?,
        })
    }

    /// Name of the victim, without the closing zero; any bytes.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        until_zero(&self.comm)
    }
}

impl Exit {
    /// Reads it from a record's bytes; none if there are too few.
    #[must_use]
    pub fn read(record: &[u8]) -> Option<Self> {
        Some(Self {
            head: Head::read(record)?,
            pid: u32_at(record, offset_of!(Self, pid))?,
            code: u32_at(record, offset_of!(Self, code))?,
            comm: bytes_at(record, offset_of!(Self, comm))?,
        })
    }

    /// Name of the process, without the closing zero; any bytes.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        until_zero(&self.comm)
    }

    /// The signal that ended it; 0 if none did.
    #[must_use]
    pub const fn signal(&self) -> u32 {
        self.code & 0x7f
    }

    /// Whether a core was dumped.
    #[must_use]
    pub const fn dumped_core(&self) -> bool {
        self.code & 0x80 != 0
    }

    /// Exit code as shells and container runtimes show it: 128 and the signal if one ended it, else its own status.
    #[must_use]
    pub const fn exit_code(&self) -> u32 {
        match self.signal() {
            0 => (self.code >> 8) & 0xff,
            signal => 128 + signal,
        }
    }
}

impl CgroupCreated {
    /// Reads it from a record's bytes; none if there are too few or the path's length is impossible.
    #[must_use]
    pub fn read(record: &[u8]) -> Option<Self> {
        let created = Self {
            head: Head::read(record)?,
            path_bytes: u32_at(record, offset_of!(Self, path_bytes))?,
            padding: 0,
            path: bytes_at(record, offset_of!(Self, path))?,
        };
        (created.path_bytes as usize <= PATH_BYTES).then_some(created)
    }

    /// Its path; any bytes but zero.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        until_zero(self.path.get(..self.path_bytes as usize).unwrap_or(&[]))
    }
}

impl CgroupRemoved {
    /// Reads it from a record's bytes; none if there are too few.
    #[must_use]
    pub fn read(record: &[u8]) -> Option<Self> {
        Some(Self { head: Head::read(record)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_field_by_field_and_a_short_one_is_refused() {
        let mut bytes = [0u8; 48];
        bytes[0..4].copy_from_slice(&2u32.to_ne_bytes());
        bytes[4..8].copy_from_slice(&7u32.to_ne_bytes());
        bytes[8..16].copy_from_slice(&99u64.to_ne_bytes());
        bytes[24..28].copy_from_slice(&1234u32.to_ne_bytes());
        bytes[28..32].copy_from_slice(&(0x80u32 | 11).to_ne_bytes());
        bytes[32..36].copy_from_slice(b"java");
        let exit = Exit::read(&bytes).expect("it is long enough");
        assert_eq!((exit.head.slot, exit.head.cgroup, exit.pid, exit.name()), (7, 99, 1234, b"java".as_slice()));
        assert_eq!((exit.signal(), exit.dumped_core(), exit.exit_code()), (11, true, 139));
        assert_eq!(Exit::read(&bytes[..47]), None);
        assert_eq!(Kind::from_code(exit.head.kind), Some(Kind::Exit));
    }

    #[test]
    fn a_path_longer_than_its_field_is_refused() {
        let mut bytes = [0u8; 544];
        bytes[24..28].copy_from_slice(&513u32.to_ne_bytes());
        assert_eq!(CgroupCreated::read(&bytes), None);
        bytes[24..28].copy_from_slice(&3u32.to_ne_bytes());
        bytes[32..36].copy_from_slice(b"/a\0b");
        assert_eq!(CgroupCreated::read(&bytes).expect("it fits").path(), b"/a");
    }
}
