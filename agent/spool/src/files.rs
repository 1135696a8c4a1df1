//! The only file of this crate that touches the operating system: a locked directory and the files in it.

use std::fs::{DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, OFlags, fallocate, statvfs};

use crate::error::OpenError;
use crate::format::BufferId;
use crate::points::{reach, try_reach};
use crate::storage::{Listed, Storage, StorageFile, Volume, first_failed};

/// Name of the file whose lock means ownership of the directory.
pub(crate) const LOCK_NAME: &str = "lock";
/// No owner writes more than this about itself.
const OWNER_BYTES_MAX: u64 = 512;

/// The unit in which stat(2) tells what a file takes up.
const STAT_BLOCK_BYTES: u64 = 512;

/// A file of the directory; a copy refers to the same file.
pub(crate) type OpenFile = Arc<File>;

/// A directory that this process owns until the value is dropped.
pub(crate) struct Directory {
    /// Every use goes by the path: a directory that is removed and made again is another one.
    path: PathBuf,
    lock: File,
}

impl Directory {
    /// Creates what is missing of the path, durably, and locks the directory. Only the last component must not be a link: parents
    /// belong to whoever prepared the volume.
    pub(crate) fn lock(path: &Path, host: &str) -> Result<Self, OpenError> {
        create_durably(path).map_err(|source| OpenError::CreateDirectory { path: path.to_owned(), source })?;
        let metadata = std::fs::symlink_metadata(path).ok().filter(Metadata::is_dir);
        let Some(metadata) = metadata else { return Err(OpenError::NotADirectory { path: path.to_owned() }) };
        check_owner(path, &metadata)?;
        let lock_path = path.join(LOCK_NAME);
        let failed = |source| OpenError::Lock { path: lock_path.clone(), source };
        let mut lock = options().create(true).open(&lock_path).map_err(failed)?;
        check_owner(&lock_path, &lock.metadata().map_err(failed)?)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked { directory: path.to_owned(), owner: owner_of(&lock) }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // Who owns it is a courtesy to the reader of a message: a full disk must not stop the owner.
        let note = lock.set_len(0).and_then(|()| writeln!(lock, "process {} on {host}", std::process::id()));
        if let Err(source) = note.or_else(|source| if crate::error::is_full(&source) { Ok(()) } else { Err(source) }) {
            return Err(failed(source));
        }
        Ok(Self { path: path.to_owned(), lock })
    }
}

impl Drop for Directory {
    /// Let go by name: closing the file would not, while a child of this process that has yet to run its own program has it too.
    fn drop(&mut self) {
        self.lock.unlock().ok();
    }
}

/// A directory that somebody else may own: it is read, and nothing in it is created, written or kept locked.
pub(crate) struct View {
    path: PathBuf,
}

impl View {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        if std::fs::metadata(path)?.is_dir() { Ok(Self { path: path.to_owned() }) } else { Err(io::ErrorKind::NotADirectory.into()) }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.path.clone() } else { self.path.join(name) }
    }

    /// What is there at this moment; names that vanish meanwhile are left out.
    pub(crate) fn list(&self) -> io::Result<Vec<Listed>> {
        list(&self.path)
    }

    /// None if it vanished.
    pub(crate) fn open(&self, name: &str) -> io::Result<Option<OpenFile>> {
        // Without waiting: a pipe under the name of a file must not hang the reader.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        match OpenOptions::new().read(true).custom_flags(flags).open(self.path(name)) {
            Ok(file) => Ok(Some(Arc::new(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The process that owns the directory, as it names itself; none if nobody does. There is no way to ask for a lock but to try:
    /// an owner that starts in the instant between trying and letting go finds the directory locked, and tries again.
    pub(crate) fn owner(&self) -> io::Result<Option<String>> {
        let Some(lock) = self.open(LOCK_NAME)? else { return Ok(None) };
        match lock.try_lock_shared() {
            Ok(()) => lock.unlock().map(|()| None),
            Err(TryLockError::WouldBlock) => Ok(Some(owner_of(&lock))),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// Sixteen random bytes for a new buffer.
pub(crate) fn fresh_buffer_id() -> Result<BufferId, OpenError> {
    let path = Path::new("/dev/urandom");
    let mut id = BufferId::default();
    let read = File::open(path).and_then(|mut source| source.read_exact(&mut id));
    read.map(|()| id).map_err(|source| OpenError::Read { path: path.to_owned(), source })
}

fn owner_of(lock: &File) -> String {
    let mut owner = Vec::new();
    match lock.take(OWNER_BYTES_MAX).read_to_end(&mut owner) {
        Ok(length) if length > 0 => String::from_utf8_lossy(&owner).trim().to_owned(),
        _ => "another process".to_owned(),
    }
}

/// Creates a directory and its ancestors; each new name is synced in its parent, or a power cut could take the whole tree.
fn create_durably(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.symlink_metadata().is_ok() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_durably(parent)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => File::open(parent)?.sync_all(),
    }
}

fn list(path: &Path) -> io::Result<Vec<Listed>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let metadata = match std::fs::symlink_metadata(entry.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata?,
        };
        // A name that is no text is none of ours.
        if let Ok(name) = entry.file_name().into_string() {
            names.push(Listed { name, is_file: metadata.is_file(), bytes: metadata.len() });
        }
    }
    Ok(names)
}

/// Refuses what belongs to a stranger, who could exchange it at any time.
fn check_owner(path: &Path, metadata: &Metadata) -> Result<(), OpenError> {
    let (owner, own) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if is_trusted(owner, own) { Ok(()) } else { Err(OpenError::ForeignOwner { path: path.to_owned(), owner, own }) }
}

/// Volumes are made by root, who can change everything anyway. And root takes over what an agent without its rights left, for a
/// pipeline may come to need them; it follows no link there.
const fn is_trusted(owner: u32, own: u32) -> bool {
    own == 0 || owner == own || owner == 0
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits() as i32);
    options
}

impl Storage for Directory {
    type File = OpenFile;

    fn list(&self) -> io::Result<Vec<Listed>> {
        list(&self.path)
    }

    fn create(&self, name: &str) -> io::Result<Self::File> {
        try_reach("disk.create")?;
        let created = options().create_new(true).open(self.path(name)).map(Arc::new);
        reach("disk.created");
        created
    }

    fn open(&self, name: &str) -> io::Result<Self::File> {
        let file = options().open(self.path(name))?;
        check_owner(&self.path(name), &file.metadata()?).map_err(io::Error::other)?;
        Ok(Arc::new(file))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        try_reach("disk.remove")?;
        let removed = std::fs::remove_file(self.path(name));
        reach("disk.removed");
        removed
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        try_reach("disk.rename")?;
        std::fs::rename(self.path(from), self.path(to))?;
        reach("disk.renamed");
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        try_reach("disk.sync-directory")?;
        let synced = File::open(&self.path)?.sync_all();
        reach("disk.synced-directory");
        synced
    }

    /// One thread per file: the device takes the flushes of several files together, one after the other it takes them in turn.
    fn sync_files(&self, files: &[&Self::File]) -> Result<(), (usize, io::Error)> {
        let Some((first, others)) = files.split_first() else { return Ok(()) };
        let results = std::thread::scope(|scope| {
            let others: Vec<_> = others.iter().map(|file| scope.spawn(|| file.sync())).collect();
            let panicked = |_| Err(io::Error::other("the thread that synced it panicked"));
            std::iter::once(first.sync()).chain(others.into_iter().map(|thread| thread.join().unwrap_or_else(panicked))).collect()
        });
        first_failed(results)
    }

    fn volume(&self) -> io::Result<Volume> {
        let found = statvfs(&self.path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Volume { free: bytes(found.f_bavail), total: bytes(found.f_blocks) })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl StorageFile for OpenFile {
    fn read_at(&self, target: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = target.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match FileExt::read_at(&**self, rest, offset + done as u64) {
                Ok(0) => break,
                Ok(more) => done += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        try_reach("disk.write")?;
        if cfg!(feature = "failpoints") {
            // In two, so that a process can end within a write.
            let (first, rest) = bytes.split_at(bytes.len() / 2);
            self.write_all_at(first, offset)?;
            reach("disk.wrote-half");
            self.write_all_at(rest, offset + first.len() as u64)?;
        } else {
            self.write_all_at(bytes, offset)?;
        }
        reach("disk.wrote");
        Ok(())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        try_reach("disk.truncate")?;
        self.set_len(bytes)?;
        reach("disk.truncated");
        Ok(())
    }

    fn preallocate(&self, bytes: u64) -> io::Result<bool> {
        match fallocate(&**self, FallocateFlags::KEEP_SIZE, 0, bytes) {
            Ok(()) => Ok(true),
            Err(error) if crate::error::is_full(&error.into()) => Err(error.into()),
            // Not every file system has it: room is then taken as the file grows.
            Err(_) => Ok(false),
        }
    }

    fn sync(&self) -> io::Result<()> {
        try_reach("disk.sync")?;
        self.sync_data()?;
        // What is synced into a file whose name is gone, with its directory or alone, no start will find.
        if self.metadata()?.nlink() == 0 {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the file was removed by another process"));
        }
        reach("disk.synced");
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        self.metadata().map(|metadata| metadata.len())
    }

    fn allocated(&self) -> io::Result<u64> {
        self.metadata().map(|metadata| metadata.blocks().saturating_mul(STAT_BLOCK_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use super::is_trusted;

    #[test]
    fn what_belongs_to_a_stranger_is_refused_and_what_root_made_is_used() {
        assert!(is_trusted(65_532, 65_532) && is_trusted(0, 65_532) && is_trusted(65_532, 0));
        assert!(!is_trusted(1_000, 65_532));
    }
}
