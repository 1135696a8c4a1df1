//! Turns whatever a directory holds into a log that goes on. It needs no free space, may be cut off anywhere and started again, and
//! no content but a newer release's makes it fail. What it decides, in this order:
//!
//! 1. *Whose directory?* Another pipeline's is refused untouched, and so is one with a file of a newer release's format.
//! 2. *Which checkpoint?* The one of the higher generation whose checksums hold.
//! 3. *Which segments?* This buffer's; a segment with a damaged header is known by its name, and its records prove it.
//! 4. *Which records?* See `sweep`.

use std::sync::Arc;

use pipeline::Checkpoint;
use vocabulary::Class;

use crate::Recovery;
use crate::checkpoint::{SlotHeader, Unusable};
use crate::damage::{Damage, DamageKind, REPORTS_MAX};
use crate::error::{OpenError, is_full};
use crate::format::{BufferId, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentId, decode_segment_header, parse_segment_name};
use crate::identity::{self, IDENTITY_BYTES_MAX, IDENTITY_NAME, Identity};
use crate::index::Segment;
use crate::log::room::{Limits, Room};
use crate::log::{Log, Parts, SET_ASIDE, evidence_bytes_max};
use crate::points::reach;
use crate::slots::{SLOT_NAMES, Slot, Slots, read_slot};
use crate::storage::{Listed, Storage, StorageFile};
use crate::sweep::{highest_sequence, sweep_class};

/// What a slot held; none if it was never written.
type FoundSlot = Option<Result<(SlotHeader, Checkpoint), Unusable>>;
/// The two slots, and what each held.
type BothSlots<F> = ([Slot<F>; 2], [FoundSlot; 2]);
/// The buffer, and its segments in any order.
type Segments<F> = (BufferId, Vec<Candidate<F>>);
/// A segment as its name has it, and what its header says.
type OpenedSegment<F> = (Candidate<F>, SegmentHeader);

/// What recovery gathers on its way.
pub(crate) struct Survey<'a, S> {
    pub(crate) storage: &'a S,
    pub(crate) segment_bytes: u64,
    damage: Vec<Damage>,
    damage_unlisted: u64,
    other_bytes: u64,
    next_creation: u64,
    /// Per class, the highest sequence that anything outside the log's segments tells.
    highest: [u64; Class::COUNT],
}

/// A segment whose records are to be looked for.
pub(crate) struct Candidate<F> {
    pub(crate) name: String,
    pub(crate) id: SegmentId,
    pub(crate) file: F,
    pub(crate) bytes: u64,
    /// None if the header cannot be read.
    pub(crate) version: Option<u16>,
    /// What the header says of its first record.
    pub(crate) first_sequence: u64,
}

/// Opens what a storage holds. `fresh` names the buffer if there is none yet.
pub(crate) fn open<S: Storage>(storage: S, pipeline: &str, fresh: BufferId, limits: Limits) -> Result<(Log<S>, Recovery), OpenError> {
    let listed = storage.list().map_err(|source| OpenError::Read { path: storage.path(""), source })?;
    let mut survey = Survey {
        storage: &storage,
        segment_bytes: limits.segment_bytes,
        damage: Vec::new(),
        damage_unlisted: 0,
        other_bytes: 0,
        next_creation: 1,
        highest: [0; Class::COUNT],
    };
    let identity = survey.read_identity(&listed, pipeline)?;
    let (slots, found) = survey.read_slots(&listed)?;
    let (buffer, candidates) = survey.buffer_and_segments(&listed, pipeline, identity, &found, fresh)?;
    reach("recovery.identified");
    let (slots, mut checkpoint) = survey.choose_slot(slots, found, buffer)?;
    reach("recovery.chosen");
    survey.trim_evidence(&listed, buffer)?;
    let mut by_class: [Vec<Candidate<S::File>>; Class::COUNT] = Default::default();
    for candidate in candidates {
        if let Some(class) = by_class.get_mut(candidate.id.class.index()) {
            class.push(candidate);
        }
    }
    let mut segments: [Vec<Arc<Segment<S::File>>>; Class::COUNT] = Default::default();
    let mut tails = [const { None }; Class::COUNT];
    let (mut stored, mut damaged, mut next_sequence) = (Vec::new(), Vec::new(), [1; Class::COUNT]);
    for (((class, candidates), segments), tail) in Class::ALL.into_iter().zip(by_class).zip(&mut segments).zip(&mut tails) {
        let swept = sweep_class(&mut survey, class, candidates, checkpoint.as_mut())?;
        *segments = swept.segments;
        *tail = swept.tail;
        stored.extend(swept.stored);
        damaged.extend(swept.damaged);
        if let Some(next) = next_sequence.get_mut(class.index()) {
            *next = swept.highest.saturating_add(1);
        }
    }
    reach("recovery.swept");
    let room = Room::open(&storage, &listed, limits).map_err(|source| OpenError::Repair { path: storage.path(""), source })?;
    // Names that were created but not synced before an end without warning must not vanish after they were reported.
    storage.sync_directory().map_err(|source| OpenError::Sync { path: storage.path(""), source })?;
    let Survey { damage, damage_unlisted, other_bytes, next_creation, .. } = survey;
    let log = Log::new(Parts { storage, buffer, room, segments, tails, next_creation, slots, other_bytes });
    let recovered = pipeline::Recovered { checkpoint, stored, damaged, next_sequence, ..pipeline::Recovered::default() };
    Ok((log, Recovery { recovered, damage, damage_unlisted }))
}

impl<S: Storage> Survey<'_, S> {
    pub(crate) fn report(&mut self, damage: Damage) {
        if self.damage.len() < REPORTS_MAX {
            self.damage.push(damage);
        } else {
            self.damage_unlisted += 1;
        }
    }

    fn report_file(&mut self, listed: &Listed, kind: DamageKind) {
        self.report(Damage { file: listed.name.clone(), offset: 0, bytes: listed.bytes, kind, lost: None });
    }

    pub(crate) fn read_error(&self, name: &str) -> impl FnOnce(std::io::Error) -> OpenError + use<S> {
        let path = self.storage.path(name);
        move |source| OpenError::Read { path, source }
    }

    pub(crate) fn repair_error(&self, name: &str) -> impl FnOnce(std::io::Error) -> OpenError + use<S> {
        let path = self.storage.path(name);
        move |source| OpenError::Repair { path, source }
    }

    fn newer(&self, name: &str, version: u16) -> OpenError {
        OpenError::NewerVersion { path: self.storage.path(name), version }
    }

    /// Takes a file out of the log and keeps it as evidence.
    pub(crate) fn set_aside(&mut self, name: &str, bytes: u64) -> Result<(), OpenError> {
        self.other_bytes += bytes;
        self.storage.rename(name, &format!("{name}{SET_ASIDE}")).map_err(self.repair_error(name))
    }

    /// The buffer named by the identity file; none if there is no file or it cannot be read.
    fn read_identity(&self, listed: &[Listed], pipeline: &str) -> Result<Option<BufferId>, OpenError> {
        if listed.iter().all(|listed| listed.name != IDENTITY_NAME) {
            return Ok(None);
        }
        let file = self.storage.open(IDENTITY_NAME).map_err(self.read_error(IDENTITY_NAME))?;
        let mut content = vec![0; IDENTITY_BYTES_MAX];
        let length = file.read_at(&mut content, 0).map_err(self.read_error(IDENTITY_NAME))?;
        content.truncate(length);
        let expected = identity::kept(pipeline);
        let foreign = |found| Err(OpenError::ForeignBuffer { directory: self.storage.path(""), found, expected: expected.to_owned() });
        match identity::decode(&content) {
            Identity::Newer(version) => Err(self.newer(IDENTITY_NAME, version)),
            Identity::Known { pipeline: found, .. } if found != expected => foreign(found),
            Identity::Known { buffer, .. } => Ok(Some(buffer)),
            Identity::Broken => Ok(None),
        }
    }

    fn read_slots(&mut self, listed: &[Listed]) -> Result<BothSlots<S::File>, OpenError> {
        let mut read = |name: &'static str| -> Result<(Slot<S::File>, FoundSlot), OpenError> {
            let Some(listed) = listed.iter().find(|listed| listed.name == name) else {
                return Ok((Slot { name, file: None, bytes: 0, is_name_durable: false }, None));
            };
            let file = self.storage.open(name).map_err(self.read_error(name))?;
            let found = read_slot(&file).map_err(self.read_error(name))?;
            match found {
                Some(Err(Unusable::Broken)) => self.report_file(listed, DamageKind::Checkpoint),
                Some(Err(Unusable::Newer(version))) => return Err(self.newer(name, version)),
                Some(Ok(_)) | None => {}
            }
            // The name counts as durable because opening ends with a sync of the directory.
            Ok((Slot { name, file: Some(file), bytes: listed.bytes, is_name_durable: true }, found))
        };
        let [first, second] = SLOT_NAMES;
        let ((first, first_found), (second, second_found)) = (read(first)?, read(second)?);
        Ok(([first, second], [first_found, second_found]))
    }

    /// Settles which buffer this is, writes it down if that was not known, and gathers the buffer's segments.
    fn buffer_and_segments(
        &mut self,
        listed: &[Listed],
        pipeline: &str,
        identity: Option<BufferId>,
        slots: &[FoundSlot; 2],
        fresh: BufferId,
    ) -> Result<Segments<S::File>, OpenError> {
        let mut opened = Vec::new();
        for listed in listed {
            if let Some((class, creation)) = parse_segment_name(listed.name.trim_end_matches(SET_ASIDE)) {
                self.next_creation = self.next_creation.max(creation.saturating_add(1));
                if !listed.name.ends_with(SET_ASIDE) {
                    opened.extend(self.open_segment(listed, class, creation)?);
                }
            }
        }
        let in_slots: Vec<BufferId> = slots.iter().flatten().flatten().map(|(header, _)| header.buffer).collect();
        let in_segments = opened.iter().filter_map(|(_, header)| match header {
            SegmentHeader::Known { id, .. } => Some(id.buffer),
            SegmentHeader::Newer(_) | SegmentHeader::Broken => None,
        });
        let named: Vec<BufferId> = in_slots.iter().copied().chain(in_segments).collect();
        let adopted = named.first().copied();
        // A checkpoint and everything else against the identity alone: that file is another directory's.
        let identity = identity.filter(|buffer| in_slots.is_empty() || named.contains(buffer));
        let buffer = identity.or(adopted).unwrap_or(fresh);
        if identity.is_none() {
            // Without anything else in the directory a missing or torn identity is just a first start that was cut off.
            if adopted.is_some() {
                self.report(Damage { file: IDENTITY_NAME.to_owned(), offset: 0, bytes: 0, kind: DamageKind::Identity, lost: None });
            }
            self.write_identity(buffer, pipeline, adopted.is_some())?;
        }
        let candidates = opened.into_iter().filter_map(|(candidate, header)| self.admit(candidate, header, buffer));
        Ok((buffer, candidates.collect()))
    }

    /// A segment as its name has it, with what its header says.
    fn open_segment(&mut self, listed: &Listed, class: Class, creation: u64) -> Result<Option<OpenedSegment<S::File>>, OpenError> {
        if !listed.is_file {
            self.report_file(listed, DamageKind::NotAFile);
            return Ok(None);
        }
        let file = self.storage.open(&listed.name).map_err(self.read_error(&listed.name))?;
        let mut header = [0; SEGMENT_HEADER_BYTES];
        file.read_at(&mut header, 0).map_err(self.read_error(&listed.name))?;
        let bytes = file.bytes().map_err(self.read_error(&listed.name))?;
        let id = SegmentId { buffer: BufferId::default(), class, creation };
        let candidate = Candidate { name: listed.name.clone(), id, file, bytes, version: None, first_sequence: 0 };
        match decode_segment_header(&header) {
            // Whosever it is: where its header names the buffer is not known.
            SegmentHeader::Newer(version) => Err(self.newer(&listed.name, version)),
            header => Ok(Some((candidate, header))),
        }
    }

    fn admit(&mut self, candidate: Candidate<S::File>, header: SegmentHeader, buffer: BufferId) -> Option<Candidate<S::File>> {
        let kind = match header {
            // The header is believed before the name: two files whose names were exchanged still deliver.
            SegmentHeader::Known { id, version, first_sequence } if id.buffer == buffer => {
                self.next_creation = self.next_creation.max(id.creation.saturating_add(1));
                return Some(Candidate { id, version: Some(version), first_sequence, ..candidate });
            }
            SegmentHeader::Broken => return Some(Candidate { id: SegmentId { buffer, ..candidate.id }, ..candidate }),
            SegmentHeader::Known { .. } => DamageKind::Foreign,
            SegmentHeader::Newer(_) => DamageKind::NewerVersion,
        };
        self.other_bytes += candidate.bytes;
        self.report(Damage { file: candidate.name, offset: 0, bytes: candidate.bytes, kind, lost: None });
        None
    }

    fn write_identity(&mut self, buffer: BufferId, pipeline: &str, is_adopted: bool) -> Result<(), OpenError> {
        let content = identity::encode(buffer, pipeline);
        let written = (|| {
            let file = match self.storage.create(IDENTITY_NAME) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => self.storage.open(IDENTITY_NAME)?,
                created => created?,
            };
            file.write_at(&content, 0)?;
            reach("recovery.identity");
            file.truncate(content.len() as u64)?;
            file.sync()?;
            self.storage.sync_directory()
        })();
        match written {
            // A buffer that is known by its segments opens on a full disk too; the file is tried again at the next start.
            Err(source) if !(is_adopted && is_full(&source)) => {
                // After a failed sync the page cache shows what the disk may never get: the next start must not believe it.
                self.storage.remove(IDENTITY_NAME).ok();
                Err(OpenError::WriteIdentity { path: self.storage.path(IDENTITY_NAME), source })
            }
            _ => Ok(()),
        }
    }

    /// The best checkpoint, made durable: it may have been read from the page cache of a process that was killed in its sync.
    fn choose_slot(
        &mut self,
        [first, second]: [Slot<S::File>; 2],
        found: [FoundSlot; 2],
        buffer: BufferId,
    ) -> Result<(Slots<S::File>, Option<Checkpoint>), OpenError> {
        let mut usable = [None, None];
        for ((slot, found), usable) in [&first, &second].into_iter().zip(found).zip(&mut usable) {
            let Some(Ok((header, checkpoint))) = found else { continue };
            if header.buffer != buffer {
                self.report(Damage { file: slot.name.to_owned(), offset: 0, bytes: slot.bytes, kind: DamageKind::Foreign, lost: None });
                continue;
            }
            if let Some(file) = &slot.file {
                file.sync().map_err(|source| OpenError::Sync { path: self.storage.path(slot.name), source })?;
            }
            *usable = Some((header.generation, checkpoint));
        }
        let generation = |usable: &Option<(u64, Checkpoint)>| usable.as_ref().map(|(generation, _)| *generation);
        let [in_first, in_second] = usable;
        if generation(&in_first) > generation(&in_second) {
            let (generation, checkpoint) = in_first.unzip();
            return Ok((Slots::new(first, second, generation.unwrap_or_default()), checkpoint));
        }
        let (generation, checkpoint) = in_second.unzip();
        Ok((Slots::new(second, first, generation.unwrap_or_default()), checkpoint))
    }

    /// Evidence of earlier damage, oldest first, goes when it exceeds its bound. The ids it tells were given once.
    fn trim_evidence(&mut self, listed: &[Listed], buffer: BufferId) -> Result<(), OpenError> {
        let mut evidence: Vec<&Listed> = listed.iter().filter(|listed| listed.is_file && listed.name.ends_with(SET_ASIDE)).collect();
        evidence.sort_by(|one, other| other.name.cmp(&one.name));
        let mut kept_bytes = 0;
        for listed in evidence {
            self.note_evidence(listed, buffer)?;
            if kept_bytes + listed.bytes > evidence_bytes_max(self.segment_bytes) {
                self.storage.remove(&listed.name).map_err(self.repair_error(&listed.name))?;
            } else {
                kept_bytes += listed.bytes;
            }
        }
        self.other_bytes += kept_bytes;
        Ok(())
    }

    fn note_evidence(&mut self, listed: &Listed, buffer: BufferId) -> Result<(), OpenError> {
        let Some((class, creation)) = parse_segment_name(listed.name.trim_end_matches(SET_ASIDE)) else { return Ok(()) };
        let mut highest = 0;
        if let Some((candidate, header)) = self.open_segment(listed, class, creation)? {
            let by_name = SegmentId { buffer, ..candidate.id };
            let candidate = match header {
                SegmentHeader::Known { id, first_sequence, .. } => Candidate { id, first_sequence, ..candidate },
                SegmentHeader::Newer(_) | SegmentHeader::Broken => Candidate { id: by_name, ..candidate },
            };
            if candidate.id.buffer == buffer {
                highest = highest_sequence(&candidate).map_err(self.read_error(&listed.name))?;
            }
        }
        if let Some(known) = self.highest.get_mut(class.index()) {
            *known = (*known).max(highest);
        }
        Ok(())
    }

    /// The highest sequence of a class that the evidence tells.
    pub(crate) fn highest_in_evidence(&self, class: Class) -> u64 {
        self.highest.get(class.index()).copied().unwrap_or_default()
    }
}
