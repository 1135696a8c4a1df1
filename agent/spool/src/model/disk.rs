//! A disk in memory that keeps apart what was written from what was synced. After a crash every write since the last sync is there
//! or not, whole, in part or as zeros, in any combination, and every new name is there or not: what a file system may do, and more.
//! It is apart from the log over it because it is all that the log's tests need.

#![expect(clippy::indexing_slicing, reason = "a model of a disk for tests: its numbers are its own, and a wrong one must fail the test")]

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use crate::storage::{Listed, Storage, StorageFile, Volume};
use crate::sync::Mutex;

/// Picks one of so many possibilities.
pub type Choose<'a> = &'a mut dyn FnMut(usize) -> usize;

/// How many fates an unsynced write has.
const FATES: usize = 5;

/// The disk; a copy is the same disk.
#[derive(Clone, Default)]
pub struct ModelDisk(Arc<Mutex<State>>);

/// An open file of it.
#[derive(Clone)]
pub struct ModelFile {
    disk: Arc<Mutex<State>>,
    inode: usize,
}

#[derive(Clone, Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    unsynced_names: Vec<(String, Option<usize>)>,
    /// Changing operations until the power goes.
    steps_left: Option<usize>,
    steps_done: usize,
    is_dark: bool,
    /// Bytes until the volume is full.
    room: Option<u64>,
    /// How many syncs will fail from here on.
    failing_syncs: usize,
    /// How many writes will fail from here on, having written nothing.
    failing_writes: usize,
    /// How many reads will fail from here on.
    failing_reads: usize,
    bytes_read: usize,
    /// What the volume says of itself; a write fails by `room` alone.
    volume: Volume,
    /// Whether room can be kept for a file beyond its end.
    is_preallocating: bool,
}

#[derive(Clone, Default)]
struct Inode {
    content: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    /// Up to which length room is kept for it.
    preallocated: u64,
}

impl Inode {
    /// What it takes up.
    fn allocated(&self) -> u64 {
        (self.content.len() as u64).max(self.preallocated)
    }
}

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Truncate(bytes) => content.resize(*bytes as usize, 0),
            Self::Write(offset, bytes) => {
                let end = *offset as usize + bytes.len();
                content.resize(content.len().max(end), 0);
                content[*offset as usize..end].copy_from_slice(bytes);
            }
        }
    }

    fn apply_with_fate(&self, fate: usize, content: &mut Vec<u8>) {
        match (self, fate) {
            (_, 0) => {}
            (Self::Write(offset, bytes), 2) => Self::Write(*offset, bytes[..bytes.len() / 2].to_vec()).apply(content),
            (Self::Write(offset, bytes), 3) => Self::Write(*offset, vec![0; bytes.len()]).apply(content),
            (Self::Write(offset, bytes), 4) => Self::Write(*offset, bytes[..bytes.len() - 1].to_vec()).apply(content),
            _ => self.apply(content),
        }
    }
}

impl State {
    /// Counts one changing operation; fails once the power is gone.
    fn step(&mut self) -> io::Result<()> {
        self.steps_done += 1;
        match &mut self.steps_left {
            Some(0) => {
                self.is_dark = true;
                Err(io::Error::other("the power is gone"))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn change(&mut self, inode: usize, change: Change) {
        let inode = &mut self.inodes[inode];
        change.apply(&mut inode.content);
        inode.unsynced.push(change);
    }

    fn fail_sync(&mut self) -> bool {
        count_down(&mut self.failing_syncs)
    }

    fn name(&mut self, name: &str, inode: Option<usize>) {
        match inode {
            Some(inode) => self.names.insert(name.to_owned(), inode),
            None => self.names.remove(name),
        };
        self.unsynced_names.push((name.to_owned(), inode));
    }
}

/// Whether there was one left.
fn count_down(left: &mut usize) -> bool {
    let is_one_left = *left > 0;
    *left = left.saturating_sub(1);
    is_one_left
}

impl ModelDisk {
    fn state<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The disk as the next boot finds it.
    #[must_use]
    pub fn crash(&self, choose: Choose<'_>) -> Self {
        let mut state = self.state(|state| state.clone());
        for inode in &mut state.inodes {
            for change in std::mem::take(&mut inode.unsynced) {
                change.apply_with_fate(choose(FATES), &mut inode.durable);
            }
            inode.content = inode.durable.clone();
        }
        let mut names = std::mem::take(&mut state.durable_names);
        for (name, inode) in std::mem::take(&mut state.unsynced_names) {
            if choose(2) == 0 {
                continue;
            }
            match inode {
                Some(inode) => names.insert(name, inode),
                None => names.remove(&name),
            };
        }
        let (inodes, durable_names) = (state.inodes, names.clone());
        Self(Arc::new(Mutex::new(State { inodes, names, durable_names, ..State::default() })))
    }

    /// The same content, independent of this one.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(self.state(|state| state.clone()))))
    }

    /// The power goes after so many changing operations: from then on none succeeds.
    pub fn lose_power_after(&self, steps: usize) {
        self.state(|state| state.steps_left = Some(steps));
    }

    /// Every fault ends: there is power and room, and nothing fails.
    pub fn heal(&self) {
        self.state(|state| {
            (state.steps_left, state.room) = (None, None);
            (state.failing_syncs, state.failing_writes, state.failing_reads) = (0, 0, 0);
        });
    }

    /// Whether the power went: an operation was tried without it.
    #[must_use]
    pub fn is_dark(&self) -> bool {
        self.state(|state| state.is_dark)
    }

    /// Changing operations that were tried.
    #[must_use]
    pub fn steps_done(&self) -> usize {
        self.state(|state| state.steps_done)
    }

    /// How much was read so far.
    #[must_use]
    pub fn bytes_read(&self) -> usize {
        self.state(|state| state.bytes_read)
    }

    /// Bytes by which files may grow until the volume is full; none means without end.
    pub fn set_room(&self, room: Option<u64>) {
        self.state(|state| state.room = room);
    }

    /// What the volume says of how full it is; at first it does not know.
    pub fn set_volume(&self, free: u64, total: u64) {
        self.state(|state| state.volume = Volume { free, total });
    }

    /// From here on the room of a preallocated file is taken at once.
    pub fn preallocate_files(&self) {
        self.state(|state| state.is_preallocating = true);
    }

    /// The next syncs fail, and what they were to make durable never will be.
    pub fn fail_syncs(&self, count: usize) {
        self.state(|state| state.failing_syncs = count);
    }

    /// The next writes fail.
    pub fn fail_writes(&self, count: usize) {
        self.state(|state| state.failing_writes = count);
    }

    /// The next reads fail.
    pub fn fail_reads(&self, count: usize) {
        self.state(|state| state.failing_reads = count);
    }

    /// The names in the directory, ascending.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.state(|state| state.names.keys().cloned().collect())
    }

    /// What the files take up, and the room that is kept for them.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        self.state(|state| state.names.values().map(|&inode| state.inodes[inode].allocated()).sum())
    }

    /// What a file holds at present.
    #[must_use]
    pub fn content(&self, name: &str) -> Vec<u8> {
        self.state(|state| state.inodes[state.names[name]].content.clone())
    }

    /// Puts a file there, durably.
    pub fn place(&self, name: &str, content: &[u8]) {
        self.state(|state| {
            let inode = Inode { content: content.to_vec(), durable: content.to_vec(), ..Inode::default() };
            state.inodes.push(inode);
            state.names.insert(name.to_owned(), state.inodes.len() - 1);
            state.durable_names.insert(name.to_owned(), state.inodes.len() - 1);
        });
    }

    /// Takes a name away, durably.
    pub fn remove_durably(&self, name: &str) {
        self.state(|state| {
            state.names.remove(name);
            state.durable_names.remove(name);
        });
    }

    /// Flips bits of one byte, durably; false if the file is not that long.
    pub fn flip(&self, name: &str, offset: usize, mask: u8) -> bool {
        self.state(|state| {
            let inode = &mut state.inodes[state.names[name]];
            let places = [inode.content.get_mut(offset), inode.durable.get_mut(offset)];
            let count = places.into_iter().flatten().map(|byte| *byte ^= mask).count();
            count > 0
        })
    }
}

impl Storage for ModelDisk {
    type File = ModelFile;

    fn list(&self) -> io::Result<Vec<Listed>> {
        let listed = |state: &mut State| {
            let bytes = |inode: &usize| state.inodes[*inode].content.len() as u64;
            state.names.iter().map(|(name, inode)| Listed { name: name.clone(), is_file: true, bytes: bytes(inode) }).collect()
        };
        Ok(self.state(listed))
    }

    fn create(&self, name: &str) -> io::Result<ModelFile> {
        let inode = self.state(|state| {
            state.step()?;
            if state.names.contains_key(name) {
                return Err(io::Error::from(ErrorKind::AlreadyExists));
            }
            state.inodes.push(Inode::default());
            let inode = state.inodes.len() - 1;
            state.name(name, Some(inode));
            Ok(inode)
        })?;
        Ok(ModelFile { disk: Arc::clone(&self.0), inode })
    }

    fn open(&self, name: &str) -> io::Result<ModelFile> {
        let inode = self.state(|state| state.names.get(name).copied()).ok_or(ErrorKind::NotFound)?;
        Ok(ModelFile { disk: Arc::clone(&self.0), inode })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.state(|state| {
            state.step()?;
            let freed = state.names.get(name).map_or(0, |&inode| state.inodes[inode].allocated());
            state.room = state.room.map(|room| room + freed);
            state.name(name, None);
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.state(|state| {
            state.step()?;
            let inode = state.names.get(from).copied().ok_or(ErrorKind::NotFound)?;
            state.name(to, Some(inode));
            state.name(from, None);
            Ok(())
        })
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.state(|state| {
            state.step()?;
            if state.fail_sync() {
                return Err(io::Error::other("the sync failed"));
            }
            state.durable_names = state.names.clone();
            state.unsynced_names.clear();
            Ok(())
        })
    }

    fn volume(&self) -> io::Result<Volume> {
        Ok(self.state(|state| state.volume))
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("model").join(name)
    }
}

impl ModelFile {
    fn state<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.disk.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl StorageFile for ModelFile {
    fn read_at(&self, target: &mut [u8], offset: u64) -> io::Result<usize> {
        self.state(|state| {
            if count_down(&mut state.failing_reads) {
                return Err(io::Error::other("the read failed"));
            }
            let content = &state.inodes[self.inode].content;
            let rest = content.get(offset as usize..).unwrap_or_default();
            let length = rest.len().min(target.len());
            target[..length].copy_from_slice(&rest[..length]);
            state.bytes_read += length;
            Ok(length)
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.state(|state| {
            state.step()?;
            if count_down(&mut state.failing_writes) {
                return Err(io::Error::other("the write failed"));
            }
            let end = offset + bytes.len() as u64;
            let growth = end.saturating_sub(state.inodes[self.inode].allocated());
            let Some(room) = state.room.filter(|&room| growth > room) else {
                state.room = state.room.map(|room| room - growth);
                state.change(self.inode, Change::Write(offset, bytes.to_vec()));
                return Ok(());
            };
            let fits = (bytes.len() as u64 - (growth - room)) as usize;
            state.room = Some(0);
            if fits > 0 {
                state.change(self.inode, Change::Write(offset, bytes[..fits].to_vec()));
            }
            Err(io::Error::from(ErrorKind::StorageFull))
        })
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.state(|state| {
            state.step()?;
            let freed = state.inodes[self.inode].allocated().saturating_sub(bytes);
            state.room = state.room.map(|room| room + freed);
            state.inodes[self.inode].preallocated = 0;
            state.change(self.inode, Change::Truncate(bytes));
            Ok(())
        })
    }

    fn preallocate(&self, bytes: u64) -> io::Result<bool> {
        self.state(|state| {
            if !state.is_preallocating {
                return Ok(false);
            }
            let growth = bytes.saturating_sub(state.inodes[self.inode].allocated());
            if state.room.is_some_and(|room| growth > room) {
                return Err(io::Error::from(ErrorKind::StorageFull));
            }
            state.room = state.room.map(|room| room - growth);
            state.inodes[self.inode].preallocated = bytes;
            Ok(true)
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.state(|state| {
            state.step()?;
            let fails = state.fail_sync();
            let inode = &mut state.inodes[self.inode];
            // After a failed sync the cache still shows what the disk will never get, as real kernels do.
            for change in std::mem::take(&mut inode.unsynced) {
                if !fails {
                    change.apply(&mut inode.durable);
                }
            }
            if fails { Err(io::Error::other("the sync failed")) } else { Ok(()) }
        })
    }

    fn bytes(&self) -> io::Result<u64> {
        self.state(|state| Ok(state.inodes[self.inode].content.len() as u64))
    }

    fn allocated(&self) -> io::Result<u64> {
        self.state(|state| Ok(state.inodes[self.inode].allocated()))
    }
}
