//! The bytes of a checkpoint slot, format version 1; pure. A slot is one header and one body, written whole each time.
//!
//! What each field holds stands in `page`, and in docs/format.md, which is made of it. Anything may follow the body: a slot never
//! shrinks, so that on a full disk it is written over blocks it already has.
//!
//! A slot whose writer knew fewer signals, classes or reasons is read with zeros for the others. What a writer counted under reasons
//! that were added since is read as the last reason of its list that this release knows: the sums hold, and a rollback goes on. More
//! signals or classes make a slot a newer release's, for its records could not be read either. Lengths are checked against what is
//! there before anything is allocated.

use pipeline::{Books, Checkpoint, DestinationBook, DestinationCell, Held, IdRanges, InputCell, KernelBook};
use vocabulary::{Class, DropReason, LossReason, RefuseReason, Signal};

use crate::format::{BufferId, Fields};

/// Length of a slot's header.
pub(crate) const SLOT_HEADER_BYTES: usize = 48;
/// Largest body: room for a million ranges, of which the engine uses three quarters before it stops intake.
pub(crate) const BODY_BYTES_MAX: usize = 16 << 20;

/// The format this release writes, and the newest it reads.
pub(crate) const VERSION: u16 = 1;
pub(crate) const MAGIC: [u8; 8] = *b"FOREBAYC";

const _: () = assert!(8 + 2 + 2 + 4 + 16 + 8 + 4 + 4 == SLOT_HEADER_BYTES);
const _: () = assert!(pipeline::CHECKPOINT_RANGES_MAX * 16 * 4 / 3 <= BODY_BYTES_MAX as u64);
const _: () = assert!(DropReason::COUNT <= u8::MAX as usize);

/// A slot's header, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotHeader {
    pub(crate) buffer: BufferId,
    /// Counts the checkpoints this buffer ever wrote; the higher slot is the newer.
    pub(crate) generation: u64,
    pub(crate) length: usize,
    body_crc: u32,
}

/// Why a slot cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    Broken,
    /// A newer release's, of this format version.
    Newer(u16),
}

/// The whole content of a slot.
pub(crate) fn encode_slot(buffer: BufferId, slot_generation: u64, checkpoint: &Checkpoint) -> Vec<u8> {
    let mut slot = vec![0; SLOT_HEADER_BYTES];
    encode_body(checkpoint, &mut slot);
    let body = slot.get(SLOT_HEADER_BYTES..).unwrap_or_default();
    let mut header = Vec::with_capacity(SLOT_HEADER_BYTES);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&[0; 2]);
    header.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    header.extend_from_slice(&buffer);
    header.extend_from_slice(&slot_generation.to_le_bytes());
    header.extend_from_slice(&body_crc(buffer, slot_generation, body).to_le_bytes());
    let crc = crc32c::crc32c(&header);
    header.extend_from_slice(&crc.to_le_bytes());
    slot.splice(..SLOT_HEADER_BYTES, header);
    slot
}

/// Reads the start of a slot.
pub(crate) fn decode_slot_header(bytes: &[u8]) -> Result<SlotHeader, Unusable> {
    let header = bytes.first_chunk::<SLOT_HEADER_BYTES>().ok_or(Unusable::Broken)?;
    let (covered, crc) = header.split_last_chunk::<4>().ok_or(Unusable::Broken)?;
    if crc32c::crc32c(covered) != u32::from_le_bytes(*crc) {
        return Err(Unusable::Broken);
    }
    let mut fields = Fields(covered);
    if fields.take() != Some(MAGIC) {
        return Err(Unusable::Broken);
    }
    match fields.u16() {
        Some(VERSION) => {}
        version => return Err(Unusable::Newer(version.unwrap_or_default())),
    }
    let header = (|| {
        fields.u16()?;
        let length = fields.u32()? as usize;
        Some(SlotHeader { length, buffer: fields.take()?, generation: fields.u64()?, body_crc: fields.u32()? })
    })();
    header.filter(|header| header.length <= BODY_BYTES_MAX).ok_or(Unusable::Broken)
}

/// Reads the body that belongs to a slot's header.
pub(crate) fn decode_slot_body(header: &SlotHeader, body: &[u8]) -> Result<Checkpoint, Unusable> {
    if body.len() != header.length || body_crc(header.buffer, header.generation, body) != header.body_crc {
        return Err(Unusable::Broken);
    }
    let mut fields = Fields(body);
    let known = Known::decode(&mut fields).ok_or(Unusable::Broken)?;
    if known.exceeds_ours() {
        return Err(Unusable::Newer(VERSION));
    }
    decode_body(&mut fields, &known).ok_or(Unusable::Broken)
}

fn body_crc(buffer: BufferId, generation: u64, body: &[u8]) -> u32 {
    let seed = crc32c::crc32c_append(crc32c::crc32c(&buffer), &generation.to_le_bytes());
    crc32c::crc32c_append(seed, body)
}

/// How many members of each list the writer knew.
struct Known {
    signals: usize,
    classes: usize,
    drops: usize,
    refusals: usize,
    losses: usize,
}

impl Known {
    const OURS: [usize; 5] = [Signal::COUNT, Class::COUNT, DropReason::COUNT, RefuseReason::COUNT, LossReason::COUNT];

    fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let [signals, classes, drops, refusals, losses] = fields.take::<5>()?.map(usize::from);
        Some(Self { signals, classes, drops, refusals, losses })
    }

    fn exceeds_ours(&self) -> bool {
        self.signals > Signal::COUNT || self.classes > Class::COUNT
    }
}

fn encode_body(checkpoint: &Checkpoint, into: &mut Vec<u8>) {
    let Checkpoint { generation, books, settled, stored, next_sequence, volatile_ceiling } = checkpoint;
    let Books { inputs, destinations, kernel, requests_refused, crash_volatile_bounds } = books;
    into.extend(Known::OURS.map(|count| count as u8));
    put(into, &[*generation, *volatile_ceiling, crash_volatile_bounds.0, crash_volatile_bounds.1]);
    put(into, next_sequence);
    put_ranges(into, stored);
    for InputCell { offered, received, refused, filtered, dropped } in inputs.iter().flatten() {
        put(into, &[*offered, *received]);
        put(into, refused);
        put(into, &[*filtered]);
        put(into, dropped);
    }
    let KernelBook { attempted, produced, lost } = kernel;
    put(into, &[*attempted, *produced]);
    put(into, lost);
    put(into, requests_refused);
    put_count(into, destinations.len());
    for DestinationBook { name, cells, attempts } in destinations {
        put_name(into, name);
        put(into, &[*attempts]);
        for DestinationCell { routed, delivered, dropped, held } in cells.iter().flatten() {
            let Held { queued, on_disk, in_flight, waiting_retry, quarantined } = held;
            put(into, &[*routed, *delivered]);
            put(into, dropped);
            put(into, &[*queued, *on_disk, *in_flight, *waiting_retry, *quarantined]);
        }
    }
    put_count(into, settled.len());
    for (name, ranges) in settled {
        put_name(into, name);
        put_ranges(into, ranges);
    }
}

fn put(into: &mut Vec<u8>, numbers: &[u64]) {
    into.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
}

fn put_count(into: &mut Vec<u8>, count: usize) {
    into.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
}

fn put_name(into: &mut Vec<u8>, name: &str) {
    put_count(into, name.len());
    into.extend_from_slice(name.as_bytes());
}

fn put_ranges(into: &mut Vec<u8>, classes: &[IdRanges; Class::COUNT]) {
    for ranges in classes {
        let count = ranges.iter().count();
        into.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
        for (first, last) in ranges.iter() {
            put(into, &[first, last]);
        }
    }
}

fn decode_body(fields: &mut Fields<'_>, known: &Known) -> Option<Checkpoint> {
    let generation = fields.u64()?;
    let volatile_ceiling = fields.u64()?;
    let crash_volatile_bounds = (fields.u64()?, fields.u64()?);
    let next_sequence = numbers(fields, known.classes)?;
    let stored = ranges(fields, known)?;
    let inputs = cells(fields, known, |fields| {
        Some(InputCell {
            offered: fields.u64()?,
            received: fields.u64()?,
            refused: numbers(fields, known.refusals)?,
            filtered: fields.u64()?,
            dropped: numbers(fields, known.drops)?,
        })
    })?;
    let kernel = KernelBook { attempted: fields.u64()?, produced: fields.u64()?, lost: numbers(fields, known.losses)? };
    let requests_refused = numbers(fields, known.refusals)?;
    let mut destinations = Vec::new();
    for _ in 0..fields.u16()? {
        destinations.push(destination(fields, known)?);
    }
    let mut settled = Vec::new();
    for _ in 0..fields.u16()? {
        settled.push((name(fields)?, ranges(fields, known)?));
    }
    let books = Books { inputs, destinations, kernel, requests_refused, crash_volatile_bounds };
    fields.0.is_empty().then_some(Checkpoint { generation, books, settled, stored, next_sequence, volatile_ceiling })
}

fn destination(fields: &mut Fields<'_>, known: &Known) -> Option<DestinationBook> {
    let name = name(fields)?;
    let attempts = fields.u64()?;
    let cells = cells(fields, known, |fields| {
        Some(DestinationCell {
            routed: fields.u64()?,
            delivered: fields.u64()?,
            dropped: numbers(fields, known.drops)?,
            held: Held {
                queued: fields.u64()?,
                on_disk: fields.u64()?,
                in_flight: fields.u64()?,
                waiting_retry: fields.u64()?,
                quarantined: fields.u64()?,
            },
        })
    })?;
    Some(DestinationBook { name, cells, attempts })
}

/// As many numbers as were written; those beyond the last that is known are added to it.
fn numbers<const N: usize>(fields: &mut Fields<'_>, written: usize) -> Option<[u64; N]> {
    let mut numbers = [0_u64; N];
    for position in 0..written {
        let number = numbers.get_mut(position.min(N.saturating_sub(1)))?;
        *number = number.saturating_add(fields.u64()?);
    }
    Some(numbers)
}

fn cells<T: Default>(
    fields: &mut Fields<'_>,
    known: &Known,
    mut cell: impl FnMut(&mut Fields<'_>) -> Option<T>,
) -> Option<[[T; Class::COUNT]; Signal::COUNT]> {
    let mut cells: [[T; Class::COUNT]; Signal::COUNT] = Default::default();
    for row in cells.get_mut(..known.signals)? {
        for place in row.get_mut(..known.classes)? {
            *place = cell(fields)?;
        }
    }
    Some(cells)
}

fn name(fields: &mut Fields<'_>) -> Option<String> {
    let length = usize::from(fields.u16()?);
    let (name, rest) = fields.0.split_at_checked(length)?;
    fields.0 = rest;
    String::from_utf8(name.to_vec()).ok()
}

fn ranges(fields: &mut Fields<'_>, known: &Known) -> Option<[IdRanges; Class::COUNT]> {
    let mut classes: [IdRanges; Class::COUNT] = Default::default();
    for ranges in classes.get_mut(..known.classes)? {
        for _ in 0..fields.u32()? {
            let (first, last) = (fields.u64()?, fields.u64()?);
            if first > last {
                return None;
            }
            ranges.insert_range(first, last);
        }
    }
    Some(classes)
}
