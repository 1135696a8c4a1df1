//! Where every committed record lies, shared between the one writer and any number of readers. It costs 16 bytes per record and
//! one open file per segment.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use pipeline::{IdRanges, RecordId};
use vocabulary::Class;

use crate::error::ReadError;
use crate::format::{RECORD_HEADER_BYTES, RecordHeader, decode_record_header};
use crate::pack::unpack;
use crate::storage::StorageFile;
use crate::sync::{AtomicBool, AtomicU64, RwLock};

/// One record of a segment. Offset and length fit because a segment ends soon after `segment_bytes`, at most 1 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) sequence: u64,
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

const _: () = assert!(size_of::<Entry>() == 16);

/// One file of the log.
pub(crate) struct Segment<F> {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) seed: u32,
    pub(crate) file: F,
    /// Length of the file.
    pub(crate) bytes: AtomicU64,
    /// Whether it holds evidence of damage, and is set aside instead of being deleted.
    pub(crate) is_damaged: AtomicBool,
    /// The owner's time at which all its records were first seen settled.
    pub(crate) settled_at: OnceLock<Duration>,
    /// Committed records in ascending order of their sequence.
    records: RwLock<Vec<Entry>>,
}

/// All segments, by class and then by age.
pub(crate) struct Index<F> {
    classes: [RwLock<Vec<Arc<Segment<F>>>>; Class::COUNT],
}

impl<F: StorageFile> Segment<F> {
    pub(crate) fn new(name: String, path: PathBuf, seed: u32, file: F, bytes: u64) -> Self {
        let (bytes, is_damaged) = (AtomicU64::new(bytes), AtomicBool::new(false));
        Self { name, path, seed, file, bytes, is_damaged, settled_at: OnceLock::new(), records: RwLock::default() }
    }

    /// Makes committed records readable.
    pub(crate) fn publish(&self, entries: impl Iterator<Item = Entry>) {
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        for entry in entries {
            let at = records.partition_point(|other| other.sequence < entry.sequence);
            records.insert(at, entry);
        }
    }

    /// Makes records unreadable here, because they are readable in a newer segment.
    pub(crate) fn forget(&self, sequences: &[u64]) {
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        for sequence in sequences {
            if let Ok(at) = records.binary_search_by_key(sequence, |entry| entry.sequence) {
                records.remove(at);
            }
        }
    }

    /// Whether every record it holds is in `settled`. Cheap while the oldest is not.
    pub(crate) fn is_settled(&self, settled: &IdRanges) -> bool {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        records.iter().all(|entry| settled.contains(entry.sequence))
    }

    /// The record at a position, while there is one.
    pub(crate) fn entry(&self, position: usize) -> Option<Entry> {
        self.records.read().unwrap_or_else(PoisonError::into_inner).get(position).copied()
    }

    fn find(&self, sequence: u64) -> Option<Entry> {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        let at = records.binary_search_by_key(&sequence, |entry| entry.sequence).ok()?;
        records.get(at).copied()
    }

    /// Committed records that are not in `settled`.
    pub(crate) fn needed(&self, settled: &IdRanges) -> Vec<Entry> {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        records.iter().filter(|entry| !settled.contains(entry.sequence)).copied().collect()
    }

    /// The body of a record, verified.
    pub(crate) fn read(&self, id: RecordId, entry: Entry) -> Result<Bytes, ReadError> {
        let (header, body) = self.read_stored(id, entry)?;
        match header.unpacked_bytes {
            None => Ok(body),
            Some(bytes) => unpack(&body, bytes).map(Bytes::from).ok_or_else(|| self.corrupt(id, entry)),
        }
    }

    /// Header, and body as it is stored, verified.
    pub(crate) fn read_stored(&self, id: RecordId, entry: Entry) -> Result<(RecordHeader, Bytes), ReadError> {
        let offset = u64::from(entry.offset);
        let mut bytes = vec![0; RECORD_HEADER_BYTES + entry.length as usize];
        let got = self.file.read_at(&mut bytes, offset).map_err(|source| ReadError::Read { path: self.path.clone(), source })?;
        bytes.truncate(got);
        let body = bytes.get(RECORD_HEADER_BYTES..).unwrap_or_default();
        let header = decode_record_header(&bytes, self.seed, offset).filter(|header| {
            let crc = crc32c::crc32c_append(header.body_seed(self.seed, offset), body);
            let is_entry = (header.sequence, header.length) == (id.sequence, entry.length);
            is_entry && body.len() == entry.length as usize && header.body_crc == crc
        });
        let header = header.ok_or_else(|| self.corrupt(id, entry))?;
        Ok((header, Bytes::from(bytes).slice(RECORD_HEADER_BYTES..)))
    }

    fn corrupt(&self, id: RecordId, entry: Entry) -> ReadError {
        self.is_damaged.store(true, Ordering::Relaxed);
        ReadError::Corrupt { id, path: self.path.clone(), offset: entry.offset.into() }
    }
}

impl<F: StorageFile> Index<F> {
    pub(crate) fn new(classes: [Vec<Arc<Segment<F>>>; Class::COUNT]) -> Self {
        Self { classes: classes.map(RwLock::new) }
    }

    /// The segments of a class at this moment, oldest first.
    pub(crate) fn segments(&self, class: Class) -> Vec<Arc<Segment<F>>> {
        self.class(class).read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn add(&self, class: Class, segment: Arc<Segment<F>>) {
        self.class(class).write().unwrap_or_else(PoisonError::into_inner).push(segment);
    }

    pub(crate) fn remove(&self, class: Class, segment: &Arc<Segment<F>>) {
        self.class(class).write().unwrap_or_else(PoisonError::into_inner).retain(|other| !Arc::ptr_eq(other, segment));
    }

    pub(crate) fn segment_count(&self) -> usize {
        Class::ALL.into_iter().map(|class| self.class(class).read().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    pub(crate) fn bytes(&self) -> u64 {
        let sum = |segments: &[Arc<Segment<F>>]| segments.iter().map(|segment| segment.bytes.load(Ordering::Relaxed)).sum::<u64>();
        Class::ALL.into_iter().map(|class| sum(&self.class(class).read().unwrap_or_else(PoisonError::into_inner))).sum()
    }

    pub(crate) fn read(&self, id: RecordId) -> Result<Bytes, ReadError> {
        let (segment, entry) = self.find(id).ok_or(ReadError::NotFound { id })?;
        segment.read(id, entry).or_else(|error| match self.find(id) {
            // It was copied there meanwhile, and cut off here.
            Some((newer, entry)) if !Arc::ptr_eq(&segment, &newer) => newer.read(id, entry),
            _ => Err(error),
        })
    }

    /// Whether a segment newer than this one has the record.
    pub(crate) fn is_in_newer(&self, class: Class, older: &Arc<Segment<F>>, sequence: u64) -> bool {
        let segments = self.class(class).read().unwrap_or_else(PoisonError::into_inner);
        let newer = segments.iter().rev().take_while(|segment| !Arc::ptr_eq(segment, older));
        newer.into_iter().any(|segment| segment.find(sequence).is_some())
    }

    fn find(&self, id: RecordId) -> Option<(Arc<Segment<F>>, Entry)> {
        let segments = self.class(id.class).read().unwrap_or_else(PoisonError::into_inner);
        segments.iter().find_map(|segment| segment.find(id.sequence).map(|entry| (Arc::clone(segment), entry)))
    }

    #[expect(clippy::indexing_slicing, reason = "the array has a cell for every class")]
    fn class(&self, class: Class) -> &RwLock<Vec<Arc<Segment<F>>>> {
        &self.classes[class.index()]
    }
}
