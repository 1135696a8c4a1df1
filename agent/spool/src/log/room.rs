//! Room on the volume: how much of it the log leaves to others, how many files it may have, the files it keeps to use again, and what
//! it holds back so that a checkpoint can be written when nothing else can.

use std::io;

use vocabulary::Class;

use crate::error::AppendError;
use crate::storage::{Listed, Storage, StorageFile, Volume};

/// Name of the file that is given up for a checkpoint.
pub(crate) const RESERVE_NAME: &str = "reserve";
/// The file name ending of a released segment that waits to be used again. None outlives a start.
pub(crate) const SPARE: &str = ".spare";
/// Most that is held back: the longest checkpoint.
const RESERVE_BYTES_MAX: u64 = 16 << 20;
/// What the log leaves free on a volume: below it other users of a node fail, and the kubelet begins to evict.
const FLOOR_BYTES: u64 = 64 << 20;
/// The same as a part of the volume, and the most of a small one.
const FLOOR_PART: u64 = 20;
const FLOOR_PART_MAX: u64 = 8;
/// Segments beyond twice those that fill the budget: one growing and one being delivered per class, and what damage and small
/// segments add.
const SEGMENTS_EXTRA: u64 = 64;

/// How much a log may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Size at which a segment is full.
    pub(crate) segment_bytes: u64,
    /// What all files together stay within; 0 bounds nothing and keeps neither spare files nor a reserve.
    pub(crate) budget_bytes: u64,
    /// Most files of records.
    pub(crate) segments_max: usize,
}

/// A released file.
pub(crate) struct Spare<F> {
    pub(crate) name: String,
    pub(crate) file: F,
    pub(crate) bytes: u64,
}

/// What is kept for later.
pub(crate) struct Room<F> {
    pub(crate) limits: Limits,
    spares: Vec<Spare<F>>,
    reserve: Option<F>,
}

impl Limits {
    pub(crate) fn new(segment_bytes: u64, budget_bytes: u64) -> Self {
        let segments = (budget_bytes / segment_bytes.max(1)).saturating_mul(2).saturating_add(SEGMENTS_EXTRA);
        let segments_max = if budget_bytes == 0 { usize::MAX } else { usize::try_from(segments).unwrap_or(usize::MAX) };
        Self { segment_bytes, budget_bytes, segments_max }
    }

    fn reserve_bytes(&self) -> u64 {
        (self.budget_bytes / 64).min(RESERVE_BYTES_MAX)
    }
}

/// What must stay free of a volume.
fn floor(total: u64) -> u64 {
    (total / FLOOR_PART).max(FLOOR_BYTES).min(total / FLOOR_PART_MAX)
}

/// What the log may still take of a volume; without end if that does not say how full it is.
pub(super) fn left_on<S: Storage>(storage: &S) -> u64 {
    let Volume { free, total } = storage.volume().unwrap_or_default();
    if total == 0 { u64::MAX } else { free.saturating_sub(floor(total)) }
}

impl<F: StorageFile> Room<F> {
    /// Takes the reserve over, or makes it if there is room, and forgets the spare files of an earlier process: which of their names
    /// a crash left is not known.
    pub(crate) fn open<S: Storage<File = F>>(storage: &S, listed: &[Listed], limits: Limits) -> io::Result<Self> {
        for spare in listed.iter().filter(|listed| listed.is_file && listed.name.ends_with(SPARE)) {
            storage.remove(&spare.name)?;
        }
        let mut room = Self { limits, spares: Vec::new(), reserve: None };
        if listed.iter().any(|listed| listed.is_file && listed.name == RESERVE_NAME) {
            room.reserve = Some(storage.open(RESERVE_NAME)?);
        }
        room.make_reserve(storage);
        Ok(room)
    }

    /// What is kept takes up, or will: a reserve that was given up is made anew.
    pub(crate) fn charged(&self) -> u64 {
        self.spares.iter().map(|spare| spare.bytes).sum::<u64>() + self.limits.reserve_bytes()
    }

    /// Gives a spare file back to the volume; false if there is none.
    pub(crate) fn drop_spare<S: Storage<File = F>>(&mut self, storage: &S) -> bool {
        let Some(spare) = self.spares.pop() else { return false };
        if storage.remove(&spare.name).is_ok() {
            return true;
        }
        self.spares.push(spare);
        false
    }

    /// Another budget, and the reserve that belongs to it.
    pub(crate) fn set_budget<S: Storage<File = F>>(&mut self, storage: &S, budget_bytes: u64) {
        let limits = Limits::new(self.limits.segment_bytes, budget_bytes);
        if limits == self.limits {
            return;
        }
        if limits.reserve_bytes() != self.limits.reserve_bytes() {
            self.give_reserve(storage);
        }
        self.limits = limits;
        self.make_reserve(storage);
    }

    /// What is kept takes up.
    pub(crate) fn bytes(&self) -> u64 {
        let reserve = if self.reserve.is_some() { self.limits.reserve_bytes() } else { 0 };
        self.spares.iter().map(|spare| spare.bytes).sum::<u64>() + reserve
    }

    /// Whether one more file of so many bytes may be kept beside `waiting` others, where the log takes up `used`.
    pub(crate) fn may_keep(&self, bytes: u64, waiting: usize, used: u64) -> bool {
        let is_worthwhile = bytes >= self.limits.segment_bytes / 2 && bytes <= self.limits.segment_bytes.saturating_mul(2);
        is_worthwhile && self.spares.len() + waiting < Class::COUNT && used.saturating_add(bytes) <= self.limits.budget_bytes
    }

    pub(crate) fn keep(&mut self, spare: Spare<F>) {
        self.spares.push(spare);
    }

    pub(crate) fn take_spare(&mut self) -> Option<Spare<F>> {
        self.spares.pop()
    }

    /// Refuses a new file where the volume or the number of files does not allow it.
    pub(crate) fn check_growth<S: Storage<File = F>>(&self, storage: &S, segments: usize) -> Result<(), AppendError> {
        if segments >= self.limits.segments_max {
            return Err(AppendError::TooManySegments { segments });
        }
        // A volume that does not say how full it is shows it by the first write that fails.
        if left_on(storage) < self.limits.segment_bytes {
            let Volume { free, total } = storage.volume().unwrap_or_default();
            let floor_bytes = floor(total);
            return Err(AppendError::VolumeFloor { directory: storage.path(""), free_bytes: free, floor_bytes });
        }
        Ok(())
    }

    /// Gives the reserve back to the volume; false if there is none.
    pub(crate) fn give_reserve<S: Storage<File = F>>(&mut self, storage: &S) -> bool {
        let Some(file) = self.reserve.take() else { return false };
        // Either alone frees the room; what fails is tried again when the reserve is made anew.
        file.truncate(0).and_then(|()| storage.remove(RESERVE_NAME)).is_ok()
    }

    /// Makes the reserve when there is room for it beyond what is left to others.
    pub(crate) fn make_reserve<S: Storage<File = F>>(&mut self, storage: &S) {
        let bytes = self.limits.reserve_bytes();
        if self.reserve.is_some() || bytes == 0 || left_on(storage) < bytes {
            return;
        }
        let made = storage.create(RESERVE_NAME).or_else(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => storage.open(RESERVE_NAME),
            _ => Err(error),
        });
        // Without a reserve a full disk only means that a checkpoint waits for the room that the next release gives.
        self.reserve = made.ok().filter(|file| file.preallocate(bytes).is_ok());
        if self.reserve.is_none() {
            storage.remove(RESERVE_NAME).ok();
        }
    }
}
