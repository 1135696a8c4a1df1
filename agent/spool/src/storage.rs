//! What the log needs of a place to keep files, and nothing more. It is a trait because the log runs over two of them: a real
//! directory, and a model of one that forgets what was not synced, which is how every crash state is tested.

use std::io;
use std::path::PathBuf;

/// One flat directory of regular files.
pub(crate) trait Storage {
    /// An open file; a copy refers to the same file.
    type File: StorageFile;

    /// Everything in the directory, in any order.
    fn list(&self) -> io::Result<Vec<Listed>>;
    /// Creates a file that must not exist. Its name is durable after `sync_directory`.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// Opens a file that must exist and must not be a symbolic link.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Removes a name.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Gives a file another name, replacing what had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes creations, removals and renames durable.
    fn sync_directory(&self) -> io::Result<()>;
    /// Syncs several files, side by side where that is faster; all are tried. An error comes with the position of the first that failed.
    fn sync_files(&self, files: &[&Self::File]) -> Result<(), (usize, io::Error)> {
        let results = files.iter().map(|file| file.sync()).collect();
        first_failed(results)
    }
    /// How full the volume is; a total of 0 where that is not known.
    fn volume(&self) -> io::Result<Volume>;
    /// Where a file is, for messages.
    fn path(&self, name: &str) -> PathBuf;
}

/// The first failure, with its position.
pub(crate) fn first_failed(results: Vec<io::Result<()>>) -> Result<(), (usize, io::Error)> {
    let failed = results.into_iter().enumerate().find_map(|(position, result)| Some((position, result.err()?)));
    failed.map_or(Ok(()), Err)
}

/// How full a volume is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Volume {
    /// Bytes that may yet be written.
    pub(crate) free: u64,
    /// Its size.
    pub(crate) total: u64,
}

/// A name in the directory.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) name: String,
    /// False for links, directories and devices: they are never opened.
    pub(crate) is_file: bool,
    pub(crate) bytes: u64,
}

/// A file read and written by position; nothing depends on a cursor, so that any number of threads may read.
pub(crate) trait StorageFile: Send + Sync + 'static {
    /// Fills `target` from `offset` as far as the file goes; returns how many bytes that were.
    fn read_at(&self, target: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes`, or fails having written any part of them.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Sets the length.
    fn truncate(&self, bytes: u64) -> io::Result<()>;
    /// Keeps room on the volume for a length of `bytes` without changing the length; says whether the file system can do that. Fails
    /// if there is no room.
    fn preallocate(&self, bytes: u64) -> io::Result<bool>;
    /// Makes content and length durable. After an error nothing may be assumed about what was not synced before.
    fn sync(&self) -> io::Result<()>;
    /// The length in bytes.
    fn bytes(&self) -> io::Result<u64>;
    /// What it takes up on the volume, in bytes.
    fn allocated(&self) -> io::Result<u64>;
}
