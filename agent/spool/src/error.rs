//! How each operation of the spool fails, with the path and what to do about it; one file, so that the wording stays alike.

use std::io;
use std::path::PathBuf;

use pipeline::RecordId;

/// Opening failed. The content of a directory is never the cause, except when it is another pipeline's or a newer release's.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses the directory.
    #[error("{directory} is in use by {owner}: stop that process, or give this one another directory")]
    Locked {
        /// The directory.
        directory: PathBuf,
        /// Process id and host as the owner wrote them.
        owner: String,
    },
    /// A file is of a format that this release does not know: what it could make of the rest would be wrong, and what it wrote would
    /// be over what the newer one needs. Nothing in the directory was touched.
    #[error(
        "{path} was written by a newer release, in format version {version}: run that release or a newer one, or move the directory away"
    )]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// The version it has.
        version: u16,
    },
    /// The directory holds the records of another pipeline; nothing in it was touched.
    #[error("{directory} belongs to {found:?}, not to {expected:?}: choose another directory, or move this one away")]
    ForeignBuffer {
        /// The directory.
        directory: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asked.
        expected: String,
    },
    /// The path leads through a link or to something that is no directory.
    #[error("{path} must be a directory, and no symbolic link: remove it, or choose another path")]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// The directory could not be created.
    #[error("cannot create the directory {path}: check that its parent exists and may be written")]
    CreateDirectory {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The lock file could not be opened or locked.
    #[error("cannot lock {path}: check that it may be written and that the file system supports locks")]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The directory or a file in it belongs to somebody who could change it at any time. Nothing in it was touched.
    #[error(
        "{path} belongs to uid {owner}, and this process runs as uid {own}: a buffer belongs to the agent or to root; change its owner, or choose another path"
    )]
    ForeignOwner {
        /// The directory or file.
        path: PathBuf,
        /// Whom it belongs to.
        owner: u32,
        /// As whom this process runs.
        own: u32,
    },
    /// A file or the directory could not be read.
    #[error("cannot read {path}: check the disk and the permissions")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A new directory could not be marked as this pipeline's.
    #[error("cannot write {path}: check that the volume is writable and has a few kilobytes free")]
    WriteIdentity {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A torn tail could not be cut, or a damaged file not be set aside.
    #[error("cannot repair {path}: check that the volume is writable")]
    Repair {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// What was found could not be made durable.
    #[error("cannot sync {path}: check the disk")]
    Sync {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// A directory could not be looked at. Nothing in it was touched.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It is not there, is no directory, or may not be read.
    #[error("cannot read the directory {directory}: check the path and the permissions")]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Nothing in it is a buffer's.
    #[error(
        "{directory} is {}: name the directory that holds the files `identity` and `lock`, the path of `buffer.disk` in the agent's configuration",
        if *is_empty { "empty" } else { "no buffer" }
    )]
    NotABuffer {
        /// The directory.
        directory: PathBuf,
        /// Whether there is nothing at all in it.
        is_empty: bool,
    },
    /// The directory is a newer release's.
    #[error("{path} has format version {version}, which this release does not know: use the release that wrote it, or a newer one")]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// The version it has.
        version: u16,
    },
    /// A file could not be read.
    #[error("cannot read {path}: check the disk and the permissions")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// A record was not taken. Records appended before it in the same group are unaffected, unless said otherwise.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Larger than any record may be.
    #[error("a record of {bytes} bytes exceeds the largest one the log takes, {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The volume is full. Nothing of the record was kept; it may be appended again once there is room.
    #[error("no room for {path}: free space on the volume or wait until the backlog drains")]
    DiskFull {
        /// The file that had to grow.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A new segment could not be created.
    #[error("cannot create the segment {path}: check that the directory exists and the volume is writable")]
    CreateSegment {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The volume has room, and it is left to others: the log takes up no more of it.
    #[error(
        "{directory} has {free_bytes} bytes free, of which {floor_bytes} are left to others: free space or wait until the backlog drains"
    )]
    VolumeFloor {
        /// The directory.
        directory: PathBuf,
        /// What the volume has free.
        free_bytes: u64,
        /// What stays free.
        floor_bytes: u64,
    },
    /// The log's files take up what they may. It is no fault of the disk: a release, or copying records together, gives room.
    #[error("no room for {bytes} bytes: the files of {directory} take up {used_bytes} of {budget_bytes}: wait until the backlog drains")]
    Budget {
        /// The directory.
        directory: PathBuf,
        /// What the record needs, and what must stay free for records that are copied together.
        bytes: u64,
        /// What the files take up, or will when those that grow are full.
        used_bytes: u64,
        /// `Options::budget_bytes`.
        budget_bytes: u64,
    },
    /// The log has as many files as it may have.
    #[error("the log has {segments} segments, its limit: wait until a checkpoint and a release have given some back")]
    TooManySegments {
        /// How many.
        segments: usize,
    },
    /// The bytes could not be written.
    #[error("cannot write the segment {path}: check the disk")]
    WriteSegment {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A full segment could not be synced: its part of the group is lost, and the group's commit will fail.
    #[error("cannot sync the segment {path}: check the disk")]
    SyncSegment {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// A group of records, or a checkpoint, did not become durable. None of the group's records is stored.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The volume is full.
    #[error("no room for {path}: free space on the volume or wait until the backlog drains")]
    DiskFull {
        /// The file that had to grow.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The bytes could not be written.
    #[error("cannot write {path}: check the disk")]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The sync failed; the file is not written again, because a later sync of it would prove nothing.
    #[error("cannot sync {path}: check the disk")]
    Sync {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Records that were not synced where they lie could not be written anew.
    #[error("records of {path}, which could not be synced, cannot be written anew: check the disk")]
    Copy {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Box<AppendError>,
    },
    /// Records that were not synced where they lie could not be read to be written anew.
    #[error("records of {path}, which could not be synced, cannot be read back: check the disk")]
    ReadBack {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A checkpoint has too many ranges to be stored.
    #[error("a checkpoint of {bytes} bytes exceeds the largest one, {bytes_max}")]
    CheckpointTooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
}

/// A record could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It was never committed, or is released.
    #[error("record {} of class {} is not in the log", id.sequence, id.class)]
    NotFound {
        /// Which.
        id: RecordId,
    },
    /// Its checksum does not match: the disk gave back other bytes than were written.
    #[error("record {} of class {} is damaged at offset {offset} of {path}", id.sequence, id.class)]
    Corrupt {
        /// Which.
        id: RecordId,
        /// The segment.
        path: PathBuf,
        /// Where it starts.
        offset: u64,
    },
    /// The disk did not give it.
    #[error("cannot read {path}: check the disk")]
    Read {
        /// The segment.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Space could not be given back; what was deleted before stays deleted.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// A segment could not be deleted; it is tried again at the next release.
    #[error("cannot delete the segment {path}: check that the directory is writable")]
    DeleteSegment {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The deletions are not durable: after a power cut the segments may be back, which costs their reading again.
    #[error("cannot sync the directory {path}: check the disk")]
    SyncDirectory {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Long-waiting records could not be copied together; all of them are still where they were.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// One could not be read; its segment stays.
    #[error("cannot read a record that was to be copied")]
    Read {
        /// The cause.
        source: ReadError,
    },
    /// One could not be appended.
    #[error("cannot copy a record")]
    Append {
        /// The cause.
        source: AppendError,
    },
    /// The copies could not be made durable.
    #[error("cannot make copied records durable")]
    Commit {
        /// The cause.
        source: CommitError,
    },
    /// The copies are durable, and the segment they came from could not be given back.
    #[error("cannot give back a segment whose records were copied")]
    Release {
        /// The cause.
        source: ReleaseError,
    },
}

/// Something could not be put into quarantine, or taken out of it; nothing was stored.
#[derive(Debug, thiserror::Error)]
pub enum SetAsideError {
    /// It would exceed its bound.
    #[error("the quarantine {path} is full ({bytes_max} bytes): look at what it holds, and replay or remove it")]
    Full {
        /// The directory.
        path: PathBuf,
        /// The bound.
        bytes_max: u64,
    },
    /// The disk failed, or the volume is full.
    #[error("cannot change {path}: check the disk and the room on the volume")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Whether the cause is a lack of room rather than a fault.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

impl AppendError {
    /// Whether the disk is whole, and what the log may take up of it is full.
    #[must_use]
    pub fn is_over_budget(&self) -> bool {
        matches!(self, Self::Budget { .. } | Self::TooManySegments { .. })
    }

    pub(crate) fn write(path: PathBuf, source: io::Error) -> Self {
        if is_full(&source) { Self::DiskFull { path, source } } else { Self::WriteSegment { path, source } }
    }

    pub(crate) fn create(path: PathBuf, source: io::Error) -> Self {
        if is_full(&source) { Self::DiskFull { path, source } } else { Self::CreateSegment { path, source } }
    }
}

impl CommitError {
    pub(crate) fn write(path: PathBuf, source: io::Error) -> Self {
        if is_full(&source) { Self::DiskFull { path, source } } else { Self::Write { path, source } }
    }
}
