//! Two files that take checkpoints in turn. While one is written the other holds the last durable checkpoint, so a torn write
//! costs nothing but that write.

use std::io;

use pipeline::Checkpoint;

use crate::checkpoint::{BODY_BYTES_MAX, SLOT_HEADER_BYTES, SlotHeader, Unusable, decode_slot_body, decode_slot_header, encode_slot};
use crate::error::CommitError;
use crate::format::BufferId;
use crate::points::reach;
use crate::storage::{Storage, StorageFile};

/// Names of the two files.
pub(crate) const SLOT_NAMES: [&str; 2] = ["checkpoint-0", "checkpoint-1"];

/// One of the two.
pub(crate) struct Slot<F> {
    pub(crate) name: &'static str,
    /// None until it is first written, and after a sync of it failed.
    pub(crate) file: Option<F>,
    pub(crate) bytes: u64,
    /// Whether the directory was synced since the file was created; an attempt may fail between the two.
    pub(crate) is_name_durable: bool,
}

/// The slots of one buffer.
pub(crate) struct Slots<F> {
    /// Holds the last durable checkpoint, if there is one.
    newest: Slot<F>,
    /// Is written next.
    next: Slot<F>,
    /// Of the last checkpoint written or tried.
    generation: u64,
}

impl<F: StorageFile> Slots<F> {
    /// `generation` is that of `newest`.
    pub(crate) fn new(newest: Slot<F>, next: Slot<F>, generation: u64) -> Self {
        Self { newest, next, generation }
    }

    /// Space they take.
    pub(crate) fn bytes(&self) -> u64 {
        self.newest.bytes + self.next.bytes
    }

    /// Makes a checkpoint durable, or leaves the last one as it was.
    pub(crate) fn write<S: Storage<File = F>>(
        &mut self,
        storage: &S,
        buffer: BufferId,
        checkpoint: &Checkpoint,
    ) -> Result<(), CommitError> {
        let content = encode_slot(buffer, self.generation + 1, checkpoint);
        if content.len() > SLOT_HEADER_BYTES + BODY_BYTES_MAX {
            return Err(CommitError::CheckpointTooLarge { bytes: content.len(), bytes_max: SLOT_HEADER_BYTES + BODY_BYTES_MAX });
        }
        let path = storage.path(self.next.name);
        let file = match self.next.file.take() {
            Some(file) => file,
            None => {
                self.next.is_name_durable = false;
                create_anew(storage, self.next.name).map_err(|source| CommitError::write(path.clone(), source))?
            }
        };
        if let Err(source) = file.write_at(&content, 0) {
            // The slot is torn, which its checksum tells; the same slot is written again next time.
            self.next.file = Some(file);
            return Err(CommitError::write(path, source));
        }
        reach("slot.written");
        self.next.bytes = self.next.bytes.max(content.len() as u64);
        let synced = file.sync().and_then(|()| if self.next.is_name_durable { Ok(()) } else { storage.sync_directory() });
        if let Err(source) = synced {
            // A second sync of this file would prove nothing, and a restart would find in the page cache what is not on disk:
            // the next attempt starts with a new file. It removes this one if that fails here.
            storage.remove(self.next.name).ok();
            self.next.bytes = 0;
            return Err(CommitError::Sync { path, source });
        }
        reach("slot.synced");
        self.next.file = Some(file);
        self.next.is_name_durable = true;
        self.generation += 1;
        std::mem::swap(&mut self.newest, &mut self.next);
        Ok(())
    }
}

fn create_anew<S: Storage>(storage: &S, name: &str) -> io::Result<S::File> {
    match storage.create(name) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            storage.remove(name)?;
            storage.create(name)
        }
        created => created,
    }
}

/// Reads a slot's file; none if nothing was ever written to it.
pub(crate) fn read_slot(file: &impl StorageFile) -> io::Result<Option<Result<(SlotHeader, Checkpoint), Unusable>>> {
    let mut header = [0; SLOT_HEADER_BYTES];
    if file.read_at(&mut header, 0)? == 0 {
        return Ok(None);
    }
    let header = match decode_slot_header(&header) {
        Ok(header) => header,
        Err(unusable) => return Ok(Some(Err(unusable))),
    };
    let available = file.bytes()?.saturating_sub(SLOT_HEADER_BYTES as u64);
    if header.length as u64 > available {
        return Ok(Some(Err(Unusable::Broken)));
    }
    let mut body = vec![0; header.length];
    let got = file.read_at(&mut body, SLOT_HEADER_BYTES as u64)?;
    body.truncate(got);
    Ok(Some(decode_slot_body(&header, &body).map(|checkpoint| (header, checkpoint))))
}
