//! What a record is called, and what recovery finds of one on disk.

use vocabulary::{Class, ClassCounts, Signal};

/// Names one destination for as long as it holds anything: its position in the first `Config::destinations`, and what
/// `Pipeline::reconfigure` says for those that came later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationIndex(pub u8);

/// Names one record for ever: one accepted request, or the class part of one that was cut. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    /// The lane it queues in, and the log it is stored in.
    pub class: Class,
    /// Counts up from 1 within its class.
    pub sequence: u64,
}

/// What recovery found of one record on disk; its body is read when it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub id: RecordId,
    /// The one signal all its items belong to.
    pub signal: Signal,
    /// Its items by their own class; a record that was not cut holds items of several.
    pub counts: ClassCounts,
    /// Size of the encoded request, in bytes.
    pub bytes: u32,
    /// When it was accepted, in milliseconds since the Unix epoch.
    pub received_unix_ms: u64,
}
