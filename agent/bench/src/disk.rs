//! The bare disk: how fast it takes writes that are synced, with nothing around them. It is what the log is measured against.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use rustix::fs::{FallocateFlags, fallocate};

/// Bytes of one write call: larger ones are slower on some kernels when they extend a file, and the log uses no larger ones.
const WRITE_BYTES: usize = 256 << 10;

/// A file that is written in commits from its beginning to its end, over and over.
pub(crate) struct BareFile {
    file: File,
    bytes: u64,
    content: Vec<u8>,
    offset: u64,
}

impl BareFile {
    /// A file of so many bytes with its room reserved; its blocks are written once before if they are to be used again.
    pub(crate) fn create(path: &Path, bytes: u64, content: Vec<u8>, is_used: bool) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        fallocate(&file, FallocateFlags::KEEP_SIZE, 0, bytes).context("the file system cannot reserve room")?;
        let mut bare = Self { file, bytes, content, offset: 0 };
        if is_used {
            while bare.offset < bytes {
                bare.commit(1 << 20)?;
            }
            bare.offset = 0;
        }
        Ok(bare)
    }

    /// Commits so many times so many bytes; bytes per second.
    pub(crate) fn rate(&mut self, commits: u64, bytes: usize) -> Result<f64> {
        let started = Instant::now();
        for _ in 0..commits {
            self.commit(bytes)?;
        }
        Ok((commits * bytes as u64) as f64 / started.elapsed().as_secs_f64())
    }

    /// Milliseconds of each commit of so many bytes.
    pub(crate) fn delays_ms(&mut self, commits: u64, bytes: usize) -> Result<Vec<f64>> {
        (0..commits)
            .map(|_| {
                let started = Instant::now();
                self.commit(bytes)?;
                Ok(started.elapsed().as_secs_f64() * 1e3)
            })
            .collect()
    }

    fn commit(&mut self, bytes: usize) -> Result<()> {
        if self.offset + bytes as u64 > self.bytes {
            self.offset = 0;
        }
        let mut left = bytes;
        while left > 0 {
            let piece = self.content.get(..left.min(WRITE_BYTES)).unwrap_or(&self.content);
            self.file.write_all_at(piece, self.offset)?;
            self.offset += piece.len() as u64;
            left -= piece.len();
        }
        self.file.sync_data()?;
        Ok(())
    }
}
