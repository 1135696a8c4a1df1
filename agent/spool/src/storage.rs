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
    /// Where a file is, for messages.
    fn path(&self, name: &str) -> PathBuf;
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
    /// Makes content and length durable. After an error nothing may be assumed about what was not synced before.
    fn sync(&self) -> io::Result<()>;
    /// The length in bytes.
    fn bytes(&self) -> io::Result<u64>;
}
