//! A look at a directory from outside: nothing is locked, created, written or repaired, and the owner may go on meanwhile. Separate
//! from recovery because it decides nothing: what recovery would cut off or set aside, this only names.
//!
//! The newest checkpoint is read before the segments are listed. So every record it names was on disk by then, and one that a later
//! checkpoint still names must be found. A segment that vanishes in between was settled, or what was needed of it copied: looked for
//! again, it is found.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use bytes::Bytes;
use pipeline::{Checkpoint, RecordId, Stored};
use vocabulary::Class;

use crate::checkpoint::Unusable;
use crate::damage::{Damage, DamageKind};
use crate::error::{InspectError, ReadError};
use crate::files::{OpenFile, View};
use crate::footer::{TRAILER_BYTES, read_footer};
use crate::format::{
    BufferId, FooterHeader, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentId, decode_segment_header, parse_segment_name,
    record_bytes,
};
use crate::identity::{self, IDENTITY_BYTES_MAX, IDENTITY_NAME, Identity};
use crate::index::{Entry, Segment};
use crate::log::SET_ASIDE;
use crate::scan::{Found, Scanner};
use crate::slots::{SLOT_NAMES, read_slot};
use crate::storage::{Listed, StorageFile};

/// How often a checkpoint slot that cannot be read is read again while the directory has an owner: it may be writing this one.
const SLOT_LOOKS: usize = 5;

/// What a directory holds, as of the moment it was opened.
pub struct Inspection {
    view: View,
    buffer: Option<BufferId>,
    pipeline: Option<String>,
    owner: Option<String>,
    checkpoint: Option<Checkpoint>,
    segments: Vec<SegmentFile>,
    damage: Vec<Damage>,
    set_aside: Vec<SetAside>,
}

/// One file of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFile {
    /// Name within the directory.
    pub name: String,
    /// Class of its records.
    pub class: Class,
    /// Counts the files this buffer ever created.
    pub creation: u64,
    /// Its length when it was found.
    pub bytes: u64,
    /// Whether it is the newest of its class: behind its last whole record lies what is being written, or was when the owner ended.
    pub is_newest: bool,
    /// Whether its header checked out; without it the records prove themselves.
    pub is_header_whole: bool,
    id: SegmentId,
}

/// A file that an earlier start took out of the log as damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Name within the directory.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// A segment, open for reading.
pub struct OpenSegment {
    of: SegmentFile,
    segment: Segment<OpenFile>,
    bytes: u64,
}

/// What lies at a place of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A record.
    Record(Located),
    /// Bytes that are no record, or a record whose body is not what was written.
    Damaged {
        /// Where and what.
        damage: Damage,
        /// The record that is lost, where its header could still be read.
        lost: Option<Stored>,
    },
    /// What follows the last whole record of the newest segment: room for more, or what was being written. It was never
    /// acknowledged, and the next start cuts it off.
    Unfinished {
        /// Where it begins.
        offset: u64,
        /// How much it is.
        bytes: u64,
    },
}

/// A record and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// What is said of it beside its body.
    pub stored: Stored,
    /// Where its header begins.
    pub offset: u64,
    entry: Entry,
}

/// A walk over one segment.
pub struct Walk<'a> {
    of: &'a OpenSegment,
    /// None if the footer told everything.
    scanner: Option<Scanner<'a, OpenFile>>,
    is_thorough: bool,
    pending: VecDeque<Place>,
    /// Bad places that are damage only if a whole record follows.
    bad: Vec<Bad>,
}

/// A damaged place, and the record that stood there where that is known.
type Bad = (Damage, Option<Stored>);

impl Inspection {
    /// Reads identity, checkpoint and the names and lengths of the segments.
    ///
    /// # Errors
    /// If there is no such directory, if it is no buffer or one of a newer release, or if the disk fails.
    pub fn open(directory: &Path) -> Result<Self, InspectError> {
        let unreadable = |source| InspectError::Directory { directory: directory.to_owned(), source };
        let view = View::of(directory).map_err(unreadable)?;
        let owner = view.owner().map_err(unreadable)?;
        let mut inspection =
            Self { view, buffer: None, pipeline: None, owner, checkpoint: None, segments: vec![], damage: vec![], set_aside: vec![] };
        inspection.read_identity()?;
        let has_slot = inspection.read_checkpoint()?;
        let listed = inspection.view.list().map_err(unreadable)?;
        inspection.gather(&listed)?;
        if inspection.buffer.is_none() && !has_slot && inspection.segments.is_empty() && inspection.set_aside.is_empty() {
            return Err(InspectError::NotABuffer { directory: directory.to_owned(), is_empty: listed.is_empty() });
        }
        Ok(inspection)
    }

    /// Whose buffer it is; none if the file that says so is gone or damaged.
    #[must_use]
    pub fn pipeline(&self) -> Option<&str> {
        self.pipeline.as_deref()
    }

    /// The buffer's name for life, as `Spool::buffer_id` has it.
    #[must_use]
    pub fn buffer_id(&self) -> Option<String> {
        self.buffer.map(|buffer| format!("{:032x}", u128::from_be_bytes(buffer)))
    }

    /// The process that owned the directory when it was opened.
    #[must_use]
    pub fn owner(&self) -> Option<&str> {
        self.owner.as_deref()
    }

    /// The newest durable checkpoint.
    #[must_use]
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        self.checkpoint.as_ref()
    }

    /// The segments, by class and then by age.
    #[must_use]
    pub fn segments(&self) -> &[SegmentFile] {
        &self.segments
    }

    /// What is wrong outside the segments' records: the identity, a checkpoint slot, files that are not this buffer's.
    #[must_use]
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }

    /// Evidence of earlier damage that is kept beside the log.
    #[must_use]
    pub fn set_aside(&self) -> &[SetAside] {
        &self.set_aside
    }

    /// Opens a segment; none if it is gone because its records were settled or copied elsewhere since.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn segment(&self, segment: &SegmentFile) -> Result<Option<OpenSegment>, InspectError> {
        let path = self.view.path(&segment.name);
        let failed = |source| InspectError::Read { path: path.clone(), source };
        let Some(file) = self.view.open(&segment.name).map_err(failed)? else { return Ok(None) };
        let bytes = file.bytes().map_err(failed)?;
        let segment_file = Segment::new(segment.name.clone(), path, segment.id.seed(), file, bytes);
        Ok(Some(OpenSegment { of: segment.clone(), segment: segment_file, bytes }))
    }

    /// Whether a segment is gone by now. What was read of it meanwhile may have been another's, for files are used again.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn is_gone(&self, segment: &SegmentFile) -> Result<bool, InspectError> {
        let opened = self.view.open(&segment.name);
        opened.map(|file| file.is_none()).map_err(|source| InspectError::Read { path: self.view.path(&segment.name), source })
    }

    fn read_identity(&mut self) -> Result<(), InspectError> {
        let path = self.view.path(IDENTITY_NAME);
        let failed = |source| InspectError::Read { path: path.clone(), source };
        let Some(file) = self.view.open(IDENTITY_NAME).map_err(failed)? else { return Ok(()) };
        let mut content = vec![0; IDENTITY_BYTES_MAX];
        let length = file.read_at(&mut content, 0).map_err(failed)?;
        content.truncate(length);
        match identity::decode(&content) {
            Identity::Known { buffer, pipeline } => (self.buffer, self.pipeline) = (Some(buffer), Some(pipeline)),
            Identity::Newer(version) => return Err(InspectError::NewerVersion { path, version }),
            Identity::Broken => self.report(IDENTITY_NAME, length as u64, DamageKind::Identity),
        }
        Ok(())
    }

    /// Reads the newest checkpoint; whether there is a slot at all.
    fn read_checkpoint(&mut self) -> Result<bool, InspectError> {
        let mut has_slot = false;
        let mut newest = None;
        for name in SLOT_NAMES {
            let path = self.view.path(name);
            let failed = |source| InspectError::Read { path: path.clone(), source };
            let Some(file) = self.view.open(name).map_err(failed)? else { continue };
            has_slot = true;
            let mut found = read_slot(&file).map_err(failed)?;
            for _ in 1..SLOT_LOOKS {
                if self.owner.is_some() && matches!(found, Some(Err(Unusable::Broken))) {
                    found = read_slot(&file).map_err(failed)?;
                }
            }
            let bytes = file.bytes().map_err(failed)?;
            match found {
                None => {}
                Some(Err(Unusable::Broken)) => self.report(name, bytes, DamageKind::Checkpoint),
                Some(Err(Unusable::Newer(_))) => self.report(name, bytes, DamageKind::NewerVersion),
                Some(Ok((header, _))) if self.buffer.is_some_and(|buffer| buffer != header.buffer) => {
                    self.report(name, bytes, DamageKind::Foreign);
                }
                Some(Ok((header, checkpoint))) => {
                    self.buffer = Some(header.buffer);
                    if newest.as_ref().is_none_or(|(generation, _)| *generation < header.generation) {
                        newest = Some((header.generation, checkpoint));
                    }
                }
            }
        }
        self.checkpoint = newest.map(|(_, checkpoint)| checkpoint);
        Ok(has_slot)
    }

    fn gather(&mut self, listed: &[Listed]) -> Result<(), InspectError> {
        for listed in listed {
            let Some((class, creation)) = parse_segment_name(listed.name.trim_end_matches(SET_ASIDE)) else { continue };
            if listed.name.ends_with(SET_ASIDE) {
                self.set_aside.push(SetAside { name: listed.name.clone(), bytes: listed.bytes });
            } else if listed.is_file {
                self.gather_segment(listed, class, creation)?;
            } else {
                self.report(&listed.name, listed.bytes, DamageKind::NotAFile);
            }
        }
        self.set_aside.sort_by(|one, other| one.name.cmp(&other.name));
        self.segments.sort_by(|one, other| (one.class, one.creation, &one.name).cmp(&(other.class, other.creation, &other.name)));
        for class in Class::ALL {
            if let Some(newest) = self.segments.iter_mut().rfind(|segment| segment.class == class) {
                newest.is_newest = true;
            }
        }
        Ok(())
    }

    fn gather_segment(&mut self, listed: &Listed, class: Class, creation: u64) -> Result<(), InspectError> {
        let path = self.view.path(&listed.name);
        let failed = |source| InspectError::Read { path: path.clone(), source };
        let Some(file) = self.view.open(&listed.name).map_err(failed)? else { return Ok(()) };
        let mut header = [0; SEGMENT_HEADER_BYTES];
        file.read_at(&mut header, 0).map_err(failed)?;
        let bytes = file.bytes().map_err(failed)?;
        let (id, is_header_whole) = match decode_segment_header(&header) {
            SegmentHeader::Known { id, .. } if self.buffer.is_none_or(|buffer| buffer == id.buffer) => {
                self.buffer = Some(id.buffer);
                (id, true)
            }
            SegmentHeader::Broken => (SegmentId { buffer: self.buffer.unwrap_or_default(), class, creation }, false),
            SegmentHeader::Known { .. } => {
                self.report(&listed.name, bytes, DamageKind::Foreign);
                return Ok(());
            }
            SegmentHeader::Newer(_) => {
                self.report(&listed.name, bytes, DamageKind::NewerVersion);
                return Ok(());
            }
        };
        let (class, creation) = (id.class, id.creation);
        self.segments.push(SegmentFile { name: listed.name.clone(), class, creation, bytes, is_newest: false, is_header_whole, id });
        Ok(())
    }

    fn report(&mut self, name: &str, bytes: u64, kind: DamageKind) {
        self.damage.push(Damage { file: name.to_owned(), offset: 0, bytes, kind, lost: None });
    }
}

fn damaged((damage, lost): Bad) -> Place {
    Place::Damaged { damage, lost }
}

impl OpenSegment {
    /// Which it is.
    #[must_use]
    pub fn file(&self) -> &SegmentFile {
        &self.of
    }

    /// Walks its records. A thorough walk visits every byte and verifies every body. Otherwise a full segment is known by its footer,
    /// and a body is verified when it is read, except in the newest segment of a class, whose end may be being written.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn walk(&self, is_thorough: bool) -> Result<Walk<'_>, InspectError> {
        let mut walk =
            Walk { of: self, scanner: None, is_thorough: is_thorough || self.of.is_newest, pending: VecDeque::new(), bad: vec![] };
        // A newest file without a whole header is one that is being created, or was.
        let is_being_created = self.of.is_newest && self.bytes <= SEGMENT_HEADER_BYTES as u64;
        if !self.of.is_header_whole && !is_being_created {
            let damage = self.damage(0, self.bytes.min(SEGMENT_HEADER_BYTES as u64), DamageKind::SegmentHeader, None);
            walk.pending.push_back(damaged((damage, None)));
        }
        let (file, seed) = (&self.segment.file, self.segment.seed);
        let footer = if walk.is_thorough { Ok(None) } else { read_footer(file, self.of.class, seed, self.bytes) };
        match footer.map_err(|source| self.failed(source))? {
            Some(records) => {
                let places = records.into_iter().map(|(entry, stored)| Located { stored, offset: entry.offset.into(), entry });
                walk.pending.extend(places.map(Place::Record));
            }
            None => walk.scanner = Some(Scanner::new(file, seed, self.bytes)),
        }
        Ok(walk)
    }

    /// A record's body, its checksum verified.
    ///
    /// # Errors
    /// If it is damaged, or the disk fails.
    pub fn body(&self, record: &Located) -> Result<Bytes, ReadError> {
        self.segment.read(record.stored.id, record.entry)
    }

    fn damage(&self, offset: u64, bytes: u64, kind: DamageKind, lost: Option<RecordId>) -> Damage {
        Damage { file: self.of.name.clone(), offset, bytes, kind, lost }
    }

    fn failed(&self, source: io::Error) -> InspectError {
        InspectError::Read { path: self.segment.path.clone(), source }
    }
}

impl Walk<'_> {
    /// The next place, or none at the end.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn next_place(&mut self) -> Result<Option<Place>, InspectError> {
        while self.pending.is_empty() {
            let Some(scanner) = &mut self.scanner else { return Ok(None) };
            let found = scanner.next().map_err(|source| self.of.failed(source))?;
            match found {
                None => self.end(),
                Some(Found::Hole { offset, bytes }) => self.bad.push((self.of.damage(offset, bytes, DamageKind::Hole, None), None)),
                Some(Found::Record { offset, header }) => self.record(offset, header)?,
                Some(Found::Footer { offset, header }) => self.footer(offset, &header)?,
            }
        }
        Ok(self.pending.pop_front())
    }

    fn record(&mut self, offset: u64, header: RecordHeader) -> Result<(), InspectError> {
        let stored = header.stored(self.of.of.class);
        let is_whole = match &mut self.scanner {
            Some(scanner) if self.is_thorough => scanner.is_body_whole(offset, &header).map_err(|source| self.of.failed(source))?,
            _ => true,
        };
        // No segment is long enough for an offset beyond; a file that is was not written by us.
        let place = u32::try_from(offset).ok().filter(|_| is_whole);
        let Some(place) = place else {
            let damage = self.of.damage(offset, record_bytes(u64::from(header.length)), DamageKind::Body, Some(stored.id));
            self.bad.push((damage, Some(stored)));
            return Ok(());
        };
        let entry = Entry { sequence: header.sequence, offset: place, length: header.length };
        self.pending.extend(self.bad.drain(..).map(damaged));
        self.pending.push_back(Place::Record(Located { stored, offset, entry }));
        Ok(())
    }

    fn footer(&mut self, offset: u64, header: &FooterHeader) -> Result<(), InspectError> {
        let is_whole = match &self.scanner {
            Some(scanner) => scanner.is_footer_whole(offset, header).map_err(|source| self.of.failed(source))?,
            None => true,
        };
        if !is_whole {
            let bytes = record_bytes(u64::from(header.length)) + TRAILER_BYTES;
            self.bad.push((self.of.damage(offset, bytes, DamageKind::Footer, None), None));
        }
        Ok(())
    }

    fn end(&mut self) {
        self.scanner = None;
        let bad = std::mem::take(&mut self.bad);
        match bad.first() {
            Some((first, _)) if self.of.of.is_newest => {
                self.pending.push_back(Place::Unfinished { offset: first.offset, bytes: self.of.bytes.saturating_sub(first.offset) });
            }
            _ => self.pending.extend(bad.into_iter().map(damaged)),
        }
    }
}
