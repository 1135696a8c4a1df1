//! What destinations find bad, kept beside the log so that it pins no segment: one file per record and destination, and nothing else in
//! the directory. It is apart from the log because it has another life: nobody waits for it, people read it, and tools empty it.
//!
//! ```text
//! DIRECTORY/quarantine/SEQUENCE-CLASS-DESTINATION.quarantined     held, until a tool renames it to
//!                                                .removed         given up by a person: counted as `Rejected`
//!                                                .replayed        taken by the destination after all: counted as delivered
//!                                                .removed-GENERATION, .replayed-GENERATION   being counted, then deleted, by the agent
//!                                                .part            being written; deleted at the next start
//!
//! file = magic "FOREBAYQ" | version u16 | signal u8 | class u8 | reason u8 | 0 ×3 | sequence u64 | received, Unix milliseconds u64
//!        | items per class 4 × u32 | rejected items per class 4 × u32 | length of the name u16 | ranges u16 | body length u32 | body CRC u32 | 0 ×4 | name of the
//!        destination, UTF-8 | first item u32, one past the last u32 of each range | header CRC of all before | body
//! ```
//!
//! Numbers are little-endian, checksums CRC-32C. The body is an export request of the bad items alone; the ranges say where they stood
//! in the record, and none means that it is the whole record.
//!
//! **For tools.** Read a file with [`decode_quarantine_file`], at any time: it is whole or not there. To take one out, with an agent running
//! or without, rename it from [`QuarantineState::Held`] to [`QuarantineState::Removed`] or [`QuarantineState::Replayed`] and sync the
//! directory. The agent moves the books within seconds, or at its next start, and deletes the file once a checkpoint says so: a crash at
//! any point counts each item once. Files that are just deleted are counted as `Corrupt` at the next start.
//!
//! **What holds.** A file that `store` confirmed survives the loss of power. Storing the same record again replaces its file.
//!
//! **Limits.** Bytes as given at the opening; 4,096 files.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use pipeline::RecordId;
use vocabulary::{Class, ClassCounts, DropReason, Signal};

use crate::error::{OpenError, SetAsideError};
use crate::files::{Directory, LOCK_NAME};
use crate::format::Fields;
use crate::storage::{Listed, Storage, StorageFile};

/// Name of the directory within the buffer's.
pub const QUARANTINE_DIRECTORY: &str = "quarantine";
/// Most files; a directory of more is slow to list, and somebody should look at it.
const FILES_MAX: usize = 4096;
/// Most ranges of one file: more than a search can find.
const RANGES_MAX: usize = 1024;
const MAGIC: [u8; 8] = *b"FOREBAYQ";
const VERSION: u16 = 1;
/// What stands before the destination's name.
const FIXED_BYTES: usize = 80;
/// Where the lengths of what follows stand.
const LENGTHS_AT: usize = FIXED_BYTES - 16;
/// Read of a file at once to know what it is: more than nearly every head.
const HEAD_GUESS: usize = 4096;

const _: () = assert!(8 + 2 + 1 + 1 + 1 + 3 + 8 + 8 + 2 * 4 * Class::COUNT + 2 + 2 + 4 + 4 + 4 == FIXED_BYTES);

/// What one destination found bad of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantineFile {
    /// The destination's configured name.
    pub destination: String,
    /// The record it was a part of.
    pub id: RecordId,
    /// The one signal of its items.
    pub signal: Signal,
    /// Its items by class.
    pub counts: ClassCounts,
    /// Other items of the record, by class, which the destination rejected in partial success: with them, and with what is held here,
    /// the record is accounted for, whatever the books come to know.
    pub rejected: ClassCounts,
    /// Why it is here: `Rejected`, `TooLarge` or `Undecodable`.
    pub reason: DropReason,
    /// When the record was accepted, in milliseconds since the Unix epoch.
    pub received_unix_ms: u64,
    /// Which items of the record they were, ascending; none means all.
    pub items: Vec<Range<u32>>,
    /// An export request of them.
    pub body: Bytes,
}

/// What the name of a file says of its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuarantineState {
    /// Held.
    Held,
    /// Given up by a person, and not counted yet.
    Removed,
    /// Taken by the destination after all, and not counted yet.
    Replayed,
}

/// What was taken out by a tool, to be moved in the books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenOut {
    /// What it was; its body is not read.
    pub was: QuarantineFile,
    /// Whether its destination took it after all.
    pub is_replayed: bool,
}

impl QuarantineState {
    const ALL: [Self; 3] = [Self::Held, Self::Removed, Self::Replayed];

    /// How the name of a file in this state ends.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Held => ".quarantined",
            Self::Removed => ".removed",
            Self::Replayed => ".replayed",
        }
    }

    /// The state of a file, and its name without the state; none if the name is none of a tool's business.
    #[must_use]
    pub fn parse(name: &str) -> Option<(Self, &str)> {
        Self::ALL.into_iter().find_map(|state| name.strip_suffix(state.suffix()).map(|stem| (state, stem)))
    }
}

/// Reads a file. None if it is damaged or of a newer format.
#[must_use]
pub fn decode_quarantine_file(file: &Bytes) -> Option<QuarantineFile> {
    let Head { record, bytes, body_bytes, body_crc } = decode_head(file)?;
    let body = file.slice(bytes..);
    let is_whole = body.len() == body_bytes && crc32c::crc32c(&body) == body_crc;
    is_whole.then_some(QuarantineFile { body, ..record })
}

/// What stands before a body.
struct Head {
    /// Without its body.
    record: QuarantineFile,
    /// Length of the head.
    bytes: usize,
    body_bytes: usize,
    body_crc: u32,
}

/// Length of a head whose fixed part is there, its checksum included.
fn head_bytes(file: &[u8]) -> Option<usize> {
    let mut lengths = Fields(file.get(LENGTHS_AT..FIXED_BYTES)?);
    Some(FIXED_BYTES + usize::from(lengths.u16()?) + usize::from(lengths.u16()?) * 8 + 4)
}

fn decode_head(file: &[u8]) -> Option<Head> {
    let bytes = head_bytes(file)?;
    let (head, crc) = file.get(..bytes)?.split_last_chunk()?;
    if crc32c::crc32c(head) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut fields = Fields(head);
    if fields.take()? != MAGIC || fields.u16()? != VERSION {
        return None;
    }
    let (signal, class) = (Signal::from_code(fields.u8()?)?, Class::from_code(fields.u8()?)?);
    let reason = DropReason::from_code(fields.u8()?)?;
    fields.take::<3>()?;
    let (sequence, received_unix_ms) = (fields.u64()?, fields.u64()?);
    let [mut counts, mut rejected] = [ClassCounts::default(); 2];
    for items in counts.0.iter_mut().chain(&mut rejected.0) {
        *items = fields.u32()?;
    }
    let (name_bytes, ranges) = (usize::from(fields.u16()?), usize::from(fields.u16()?));
    let (body_bytes, body_crc) = (fields.u32()? as usize, fields.u32()?);
    let name_end = FIXED_BYTES + name_bytes;
    let destination = std::str::from_utf8(head.get(FIXED_BYTES..name_end)?).ok()?.to_owned();
    let mut fields = Fields(head.get(name_end..)?);
    let items = (0..ranges).map(|_| Some(fields.u32()?..fields.u32()?)).collect::<Option<Vec<_>>>()?;
    let id = RecordId { class, sequence };
    let record = QuarantineFile { destination, id, signal, counts, rejected, reason, received_unix_ms, items, body: Bytes::new() };
    Some(Head { record, bytes, body_bytes, body_crc })
}

fn encode(record: &QuarantineFile) -> Vec<u8> {
    let QuarantineFile { destination, id, signal, counts, rejected, reason, received_unix_ms, items, body } = record;
    let name = destination.get(..destination.floor_char_boundary(usize::from(u16::MAX))).unwrap_or_default();
    let ranges = items.get(..items.len().min(RANGES_MAX)).unwrap_or_default();
    let mut file = Vec::with_capacity(FIXED_BYTES + name.len() + ranges.len() * 8 + 4 + body.len());
    file.extend_from_slice(&MAGIC);
    file.extend_from_slice(&VERSION.to_le_bytes());
    file.extend_from_slice(&[signal.code(), id.class.code(), reason.code(), 0, 0, 0]);
    file.extend_from_slice(&id.sequence.to_le_bytes());
    file.extend_from_slice(&received_unix_ms.to_le_bytes());
    file.extend(counts.0.iter().chain(&rejected.0).flat_map(|items| items.to_le_bytes()));
    file.extend_from_slice(&(name.len() as u16).to_le_bytes());
    file.extend_from_slice(&(ranges.len() as u16).to_le_bytes());
    file.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    file.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    file.extend_from_slice(&[0; 4]);
    file.extend_from_slice(name.as_bytes());
    file.extend(ranges.iter().flat_map(|range| [range.start, range.end]).flat_map(u32::to_le_bytes));
    let crc = crc32c::crc32c(&file);
    file.extend_from_slice(&crc.to_le_bytes());
    file.extend_from_slice(body);
    file
}

/// The name of a record's file without its state; a destination's name that is not fit for one is replaced by its checksum.
fn stem(record: &QuarantineFile) -> String {
    let name = record.destination.as_str();
    let is_fit = name.len() <= 63 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let RecordId { class, sequence } = record.id;
    let start = format!("{sequence:016x}-{}-", class.label());
    if is_fit {
        start + name
    } else {
        format!("{start}~{:08x}{:08x}", crc32c::crc32c(name.as_bytes()), crc32c::crc32c_append(1, name.as_bytes()))
    }
}

/// State, stem and generation of the name of a file that is being counted.
fn parse_counted(name: &str) -> Option<(QuarantineState, &str, u64)> {
    let (rest, generation) = name.rsplit_once('-')?;
    let generation = u64::from_str_radix(generation, 16).ok().filter(|_| generation.len() == 16)?;
    let (state, stem) = QuarantineState::parse(rest)?;
    (state != QuarantineState::Held).then_some((state, stem, generation))
}

/// The quarantine of one buffer, owned until dropped.
pub struct Quarantine {
    shelf: Shelf<Directory>,
}

impl Quarantine {
    /// Opens the quarantine of the buffer in `directory`, and lists what is held, without the bodies. `generation` is that of the
    /// checkpoint that was recovered, 0 without one.
    ///
    /// # Errors
    /// If the directory cannot be created, locked, read or changed; never because of what the files contain.
    pub fn open(directory: &Path, bytes_max: u64, host: &str, generation: u64) -> Result<(Self, Vec<QuarantineFile>), OpenError> {
        let storage = Directory::lock(&directory.join(QUARANTINE_DIRECTORY), host)?;
        let (shelf, held) = Shelf::open(storage, bytes_max, generation)?;
        Ok((Self { shelf }, held))
    }

    /// Makes a file durable.
    ///
    /// # Errors
    /// If there is no room for it, or the disk fails; then nothing is stored.
    pub fn store(&mut self, record: &QuarantineFile) -> Result<(), SetAsideError> {
        self.shelf.store(record)
    }

    /// Deletes a file that `store` confirmed and that nobody counts as held.
    ///
    /// # Errors
    /// If the disk fails; the file stays.
    pub fn withdraw(&mut self, record: &QuarantineFile) -> Result<(), SetAsideError> {
        self.shelf.withdraw(record)
    }

    /// What tools took out since the last call. Its move in the books must be in the checkpoint of this generation.
    ///
    /// # Errors
    /// If the disk fails; what was not returned is returned by a later call.
    pub fn take_out(&mut self, generation: u64) -> Result<Vec<TakenOut>, SetAsideError> {
        self.shelf.take_out(generation)
    }

    /// A checkpoint of this generation is durable: what it counts is deleted.
    ///
    /// # Errors
    /// If a file cannot be deleted; it is at the next start.
    pub fn forget(&mut self, generation: u64) -> Result<(), SetAsideError> {
        self.shelf.forget(generation)
    }

    /// Length of the files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shelf.bytes()
    }

    /// How many files there are.
    #[must_use]
    pub fn files(&self) -> usize {
        self.shelf.files.len()
    }

    /// Most bytes of all files.
    #[must_use]
    pub const fn bytes_max(&self) -> u64 {
        self.shelf.bytes_max
    }

    /// Another bound from here on; what is above it stays.
    pub const fn set_bytes_max(&mut self, bytes_max: u64) {
        self.shelf.bytes_max = bytes_max;
    }
}

/// The quarantine over any storage.
pub(crate) struct Shelf<S: Storage> {
    storage: S,
    bytes_max: u64,
    /// Every file and its length.
    files: BTreeMap<String, u64>,
    /// Files being counted, by the generation whose checkpoint has them.
    counted: Vec<(u64, String)>,
}

impl<S: Storage> Shelf<S> {
    pub(crate) fn open(storage: S, bytes_max: u64, generation: u64) -> Result<(Self, Vec<QuarantineFile>), OpenError> {
        let mut shelf = Self { storage, bytes_max, files: BTreeMap::new(), counted: Vec::new() };
        let root = shelf.storage.path("");
        let listed = shelf.storage.list().map_err(|source| OpenError::Read { path: root.clone(), source })?;
        let mut held = Vec::new();
        for Listed { name, is_file, bytes } in listed {
            if !is_file || name == LOCK_NAME {
                continue;
            }
            let repair = |source| OpenError::Repair { path: shelf.storage.path(&name), source };
            let counted = parse_counted(&name).map(|(state, stem, counted)| (format!("{stem}{}", state.suffix()), counted));
            let name = match counted {
                None if name.ends_with(".part") => {
                    shelf.storage.remove(&name).map_err(repair)?;
                    continue;
                }
                Some((_, counted)) if counted <= generation => {
                    shelf.storage.remove(&name).map_err(repair)?;
                    continue;
                }
                Some((plain, _)) => {
                    // The checkpoint that was to count it did not become durable.
                    shelf.storage.rename(&name, &plain).map_err(repair)?;
                    plain
                }
                None => name,
            };
            if QuarantineState::parse(&name).is_none() {
                continue;
            }
            held.extend(shelf.read(&name));
            shelf.files.insert(name, bytes);
        }
        shelf.storage.sync_directory().map_err(|source| OpenError::Sync { path: root, source })?;
        Ok((shelf, held))
    }

    /// A file without its body; none if its head is damaged, or it is cut short or gone. The body is not read, so that a start does
    /// not grow with what is held: who uses a body verifies it.
    fn read(&self, name: &str) -> Option<QuarantineFile> {
        let file = self.storage.open(name).ok()?;
        let bytes = file.bytes().ok()?;
        let read = |length: usize| {
            let mut content = vec![0; length.min(usize::try_from(bytes).unwrap_or(usize::MAX))];
            let got = file.read_at(&mut content, 0).ok()?;
            content.truncate(got);
            Some(content)
        };
        let mut content = read(HEAD_GUESS)?;
        let needed = head_bytes(&content)?;
        if needed > content.len() {
            content = read(needed)?;
        }
        let head = decode_head(&content)?;
        (bytes == (head.bytes + head.body_bytes) as u64).then_some(head.record)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.files.values().sum()
    }

    pub(crate) fn store(&mut self, record: &QuarantineFile) -> Result<(), SetAsideError> {
        let content = encode(record);
        let stem = stem(record);
        let name = format!("{stem}{}", QuarantineState::Held.suffix());
        let others = self.bytes() - self.files.get(&name).copied().unwrap_or(0);
        let is_full = others.saturating_add(content.len() as u64) > self.bytes_max;
        if is_full || self.files.len() >= FILES_MAX {
            return Err(SetAsideError::Full { path: self.storage.path(""), bytes_max: self.bytes_max });
        }
        let part = format!("{stem}.part");
        let written =
            self.write(&part, &content).and_then(|()| self.storage.rename(&part, &name)).and_then(|()| self.storage.sync_directory());
        if let Err(source) = written {
            // What is left of it is deleted at the next start, or replaced by the next try.
            self.storage.remove(&part).ok();
            return Err(SetAsideError::Write { path: self.storage.path(&name), source });
        }
        self.files.insert(name, content.len() as u64);
        Ok(())
    }

    pub(crate) fn withdraw(&mut self, record: &QuarantineFile) -> Result<(), SetAsideError> {
        let name = format!("{}{}", stem(record), QuarantineState::Held.suffix());
        let removed = self.storage.remove(&name).and_then(|()| self.storage.sync_directory());
        removed.map_err(|source| SetAsideError::Write { path: self.storage.path(&name), source })?;
        self.files.remove(&name);
        Ok(())
    }

    fn write(&self, part: &str, content: &[u8]) -> io::Result<()> {
        let file = match self.storage.create(part) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.storage.remove(part)?;
                self.storage.create(part)?
            }
            created => created?,
        };
        file.write_at(content, 0)?;
        file.sync()
    }

    pub(crate) fn take_out(&mut self, generation: u64) -> Result<Vec<TakenOut>, SetAsideError> {
        let failed = |storage: &S, source| SetAsideError::Write { path: storage.path(""), source };
        let listed = self.storage.list().map_err(|source| failed(&self.storage, source))?;
        let mut taken = Vec::new();
        for Listed { name, is_file, bytes } in listed {
            let Some((state, stem)) = QuarantineState::parse(&name).filter(|(state, _)| is_file && *state != QuarantineState::Held) else {
                continue;
            };
            self.files.remove(&format!("{stem}{}", QuarantineState::Held.suffix()));
            self.files.remove(&name);
            let was = self.read(&name);
            let counted = format!("{name}-{generation:016x}");
            self.storage.rename(&name, &counted).map_err(|source| failed(&self.storage, source))?;
            self.files.insert(counted.clone(), bytes);
            self.counted.push((generation, counted));
            // A damaged one stays in the books; the next start, which does not find it, counts it as Corrupt.
            taken.extend(was.map(|was| TakenOut { was, is_replayed: state == QuarantineState::Replayed }));
        }
        if !taken.is_empty() {
            self.storage.sync_directory().map_err(|source| failed(&self.storage, source))?;
        }
        Ok(taken)
    }

    pub(crate) fn forget(&mut self, generation: u64) -> Result<(), SetAsideError> {
        let (done, left) = std::mem::take(&mut self.counted).into_iter().partition(|(counted, _)| *counted <= generation);
        self.counted = left;
        let done: Vec<(u64, String)> = done;
        for (_, name) in done {
            self.storage.remove(&name).map_err(|source| SetAsideError::Write { path: self.storage.path(&name), source })?;
            self.files.remove(&name);
        }
        Ok(())
    }
}
