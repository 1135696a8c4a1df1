//! Which records a verb is about.

use anyhow::bail;
use jiff::Timestamp;
use pipeline::{Checkpoint, Standing, Stored};
use spool::SegmentFile;
use vocabulary::{Class, Signal};

use crate::args::{Bound, Names, SelectionArgs};

/// The records somebody asked for.
pub(super) struct Selection {
    names: Vec<Names>,
    classes: Vec<Class>,
    signals: Vec<Signal>,
    ids: (u64, u64),
    received_unix_ms: (u64, u64),
    unsettled: Option<Needed>,
}

/// Whom a record must still be needed by.
#[derive(Clone, Copy, Debug)]
enum Needed {
    ByAny,
    /// By the destination at this place of the checkpoint's list.
    By(usize),
}

impl Selection {
    /// Understands what was asked for, in terms of what the directory knows.
    pub(super) fn resolve(args: &SelectionArgs, checkpoint: Option<&Checkpoint>) -> anyhow::Result<Self> {
        let (mut ids, mut received_unix_ms) = ((0, u64::MAX), (0, u64::MAX));
        match args.from.map(resolve_bound) {
            Some(End::Id(id)) => ids.0 = id,
            Some(End::UnixMs(at)) => received_unix_ms.0 = at,
            None => {}
        }
        match args.to.map(resolve_bound) {
            Some(End::Id(id)) => ids.1 = id,
            Some(End::UnixMs(at)) => received_unix_ms.1 = at,
            None => {}
        }
        let unsettled = match &args.unsettled {
            None => None,
            Some(None) => Some(Needed::ByAny),
            Some(Some(name)) => Some(Needed::By(destination(checkpoint, name)?)),
        };
        let (names, classes, signals) = (args.names.clone(), args.class.clone(), args.signal.clone());
        Ok(Self { names, classes, signals, ids, received_unix_ms, unsettled })
    }

    /// Whether a segment may hold any of them.
    pub(super) fn touches(&self, segment: &SegmentFile) -> bool {
        let is_named = self.names.is_empty() || self.names.iter().any(|names| names.class == segment.class);
        is_named && (self.classes.is_empty() || self.classes.contains(&segment.class))
    }

    /// Whether a record is among them.
    pub(super) fn takes(&self, checkpoint: Option<&Checkpoint>, record: &Stored) -> bool {
        let (id, at) = (record.id, record.received_unix_ms);
        let is_in = |names: &Names| names.class == id.class && (names.first..=names.last).contains(&id.sequence);
        (self.names.is_empty() || self.names.iter().any(is_in))
            && (self.classes.is_empty() || self.classes.contains(&id.class))
            && (self.signals.is_empty() || self.signals.contains(&record.signal))
            && (self.ids.0..=self.ids.1).contains(&id.sequence)
            && (self.received_unix_ms.0..=self.received_unix_ms.1).contains(&at)
            && self.unsettled.is_none_or(|needed| is_needed(checkpoint, record, needed))
    }
}

/// Where a destination stands in the checkpoint's list.
pub(super) fn destination(checkpoint: Option<&Checkpoint>, name: &str) -> anyhow::Result<usize> {
    let known: Vec<&str> =
        checkpoint.map(|checkpoint| checkpoint.settled.iter().map(|(name, _)| name.as_str()).collect()).unwrap_or_default();
    match known.iter().position(|known| *known == name) {
        Some(position) => Ok(position),
        None if known.is_empty() => bail!(
            "the buffer has no checkpoint that can be read, so nothing is known of destination `{name}`: start the agent on it once, or use \
             `spool export`, which needs none"
        ),
        None => bail!("the buffer knows no destination `{name}`, only `{}`", known.join("`, `")),
    }
}

/// Whether a record is still needed by the destination at this place of the list. One that the checkpoint does not know is.
pub(super) fn is_needed_by(checkpoint: &Checkpoint, record: &Stored, position: usize) -> bool {
    is_needed(Some(checkpoint), record, Needed::By(position))
}

fn is_needed(checkpoint: Option<&Checkpoint>, record: &Stored, needed: Needed) -> bool {
    match (checkpoint.map_or(Standing::New, |checkpoint| checkpoint.standing(record.id)), needed) {
        (Standing::Settled, _) => false,
        (Standing::New, _) | (Standing::Held { .. }, Needed::ByAny) => true,
        (Standing::Held { needing, .. }, Needed::By(position)) => needing & (1 << position) != 0,
    }
}

/// One end of a range, as a number.
enum End {
    Id(u64),
    UnixMs(u64),
}

fn resolve_bound(bound: Bound) -> End {
    let at = match bound {
        Bound::Id(id) => return End::Id(id),
        Bound::At(at) => at,
        Bound::Ago(ago) => Timestamp::now().checked_sub(ago).unwrap_or(Timestamp::MIN),
    };
    End::UnixMs(u64::try_from(at.as_millisecond()).unwrap_or(0))
}
