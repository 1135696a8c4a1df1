//! One pass over an export request: is it well formed, how many items has it, and how important is each.

use std::time::Duration;

use vocabulary::{Class, ClassCounts, Signal};

use crate::schema::{self, Kind, LOG_RECORD, METRIC, Message, SPAN};
use crate::wire::{FIXED32, FIXED64, Fields, LENGTH, MESSAGE_DEPTH_MAX, Malformed, Tag, VARINT, Value};

/// Bounds of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Levels of attribute values within attribute values. Default 32.
    pub depth_max: u32,
    /// Items. Default 100,000.
    pub items_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { depth_max: 32, items_max: 100_000 }
    }
}

/// What makes an item important, beside its own status or severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// A span at least this long is `High`. Default 2 s.
    pub slow_span: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self { slow_span: Duration::from_secs(2) }
    }
}

/// Field of a request that holds a resource group, of a resource group that holds a scope group, of a scope group that holds an item.
pub(crate) const RESOURCE_GROUP: u32 = 1;
pub(crate) const SCOPE_GROUP: u32 = 2;
pub(crate) const ITEM: u32 = 2;

/// Proves an encoded export request well formed and counts its items by class.
///
/// # Errors
/// When it is no export request of this signal, or passes a limit; see [`Malformed::is_too_large`]. Profiles are not walked and
/// refused as [`Malformed::Tag`].
pub fn inspect(signal: Signal, body: &[u8], rules: &Rules, limits: &Limits) -> Result<ClassCounts, Malformed> {
    let walk = Walk { kind: ItemKind::of(signal)?, rules, limits };
    let mut counts = ClassCounts::default();
    let mut fields = Fields::new(body, 0, 0);
    while let Some(tag) = fields.tag()? {
        match (tag.number, tag.wire) {
            (RESOURCE_GROUP, LENGTH) => {
                let group = fields.length_delimited()?;
                walk.resource_group(group, fields.offset() - group.len(), &mut counts)?;
            }
            _ => walk.check(&schema::REQUEST, tag, &mut fields, 1, 0)?,
        }
    }
    Ok(counts)
}

/// The class and number of items of one encoded span, log record or metric that has been inspected.
pub(crate) fn classify(signal: Signal, item: &[u8], rules: &Rules) -> Result<(Class, u32), Malformed> {
    let fields = Fields::new(item, 0, ITEM_DEPTH);
    match ItemKind::of(signal)? {
        ItemKind::Span => Ok((read_span(fields, rules, |fields, tag| fields.value(tag).map(drop))?, 1)),
        ItemKind::LogRecord => Ok((read_log_record(fields, |fields, tag| fields.value(tag).map(drop))?, 1)),
        ItemKind::Metric => Ok((Class::Normal, read_metric(fields, |fields, tag| fields.value(tag).map(drop))?)),
    }
}

/// What the items of a request are.
#[derive(Clone, Copy)]
enum ItemKind {
    Span,
    LogRecord,
    Metric,
}

impl ItemKind {
    fn of(signal: Signal) -> Result<Self, Malformed> {
        match signal {
            Signal::Traces => Ok(Self::Span),
            Signal::Logs => Ok(Self::LogRecord),
            Signal::Metrics => Ok(Self::Metric),
            Signal::Profiles => Err(Malformed::Tag { offset: 0 }),
        }
    }
}

struct Walk<'r> {
    kind: ItemKind,
    rules: &'r Rules,
    limits: &'r Limits,
}

/// How many messages stand around an item: request, resource group, scope group.
const ITEM_DEPTH: u32 = 3;

impl Walk<'_> {
    fn resource_group(&self, group: &[u8], base: usize, counts: &mut ClassCounts) -> Result<(), Malformed> {
        let mut fields = Fields::new(group, base, 1);
        while let Some(tag) = fields.tag()? {
            match (tag.number, tag.wire) {
                (SCOPE_GROUP, LENGTH) => {
                    let scope = fields.length_delimited()?;
                    self.scope_group(scope, fields.offset() - scope.len(), counts)?;
                }
                _ => self.check(&schema::RESOURCE_GROUP, tag, &mut fields, 2, 0)?,
            }
        }
        Ok(())
    }

    fn scope_group(&self, group: &[u8], base: usize, counts: &mut ClassCounts) -> Result<(), Malformed> {
        let mut fields = Fields::new(group, base, 2);
        while let Some(tag) = fields.tag()? {
            match (tag.number, tag.wire) {
                (ITEM, LENGTH) => {
                    let item = fields.length_delimited()?;
                    self.item(item, fields.offset() - item.len(), counts)?;
                }
                _ => self.check(&schema::SCOPE_GROUP, tag, &mut fields, ITEM_DEPTH, 0)?,
            }
        }
        Ok(())
    }

    fn item(&self, item: &[u8], base: usize, counts: &mut ClassCounts) -> Result<(), Malformed> {
        let fields = Fields::new(item, base, ITEM_DEPTH);
        let (class, items) = match self.kind {
            ItemKind::Span => (read_span(fields, self.rules, |fields, tag| self.check(&SPAN, tag, fields, ITEM_DEPTH + 1, 0))?, 1),
            ItemKind::LogRecord => (read_log_record(fields, |fields, tag| self.check(&LOG_RECORD, tag, fields, ITEM_DEPTH + 1, 0))?, 1),
            ItemKind::Metric => (Class::Normal, read_metric(fields, |fields, tag| self.check(&METRIC, tag, fields, ITEM_DEPTH + 1, 0))?),
        };
        counts[class] = counts[class].saturating_add(items);
        if counts.total() > u64::from(self.limits.items_max) {
            return Err(Malformed::TooManyItems { limit: self.limits.items_max });
        }
        Ok(())
    }

    /// Reads the value of a field and checks it against its kind, and what it holds against its own type.
    #[inline(always)]
    fn check(&self, message: &'static Message, tag: Tag, fields: &mut Fields<'_>, depth: u32, nesting: u32) -> Result<(), Malformed> {
        match (message.kind(tag.number), tag.wire) {
            (Kind::Text, LENGTH) => {
                let text = fields.length_delimited()?;
                if !is_ascii(text) && std::str::from_utf8(text).is_err() {
                    return Err(Malformed::Utf8 { message: message.name, field: tag.number, offset: tag.offset });
                }
            }
            (Kind::Sub(inner), LENGTH) => {
                let body = fields.length_delimited()?;
                self.message(inner, body, fields.offset() - body.len(), depth, nesting)?;
            }
            (Kind::Fixed64s, LENGTH) => {
                let packed = fields.length_delimited()?;
                if packed.len() % 8 != 0 {
                    return Err(Malformed::Truncated { offset: fields.offset() - packed.len() });
                }
            }
            (Kind::Varints, LENGTH) => {
                let packed = fields.length_delimited()?;
                check_packed_varints(packed, fields.offset() - packed.len())?;
            }
            (Kind::Bytes, LENGTH) => drop(fields.length_delimited()?),
            (Kind::Varint | Kind::Varints, VARINT) => drop(fields.varint()?),
            (Kind::Fixed64 | Kind::Fixed64s, FIXED64) => drop(fields.array::<8>()?),
            (Kind::Fixed32, FIXED32) => drop(fields.array::<4>()?),
            (Kind::Unknown, _) => drop(fields.value(tag)?),
            _ => {
                fields.value(tag)?;
                return Err(wrong_wire_type(message.name, tag));
            }
        }
        Ok(())
    }

    fn message(&self, message: &'static Message, body: &[u8], base: usize, depth: u32, nesting: u32) -> Result<(), Malformed> {
        let nesting = nesting + u32::from(message.nests);
        if depth > MESSAGE_DEPTH_MAX {
            return Err(Malformed::TooDeep { limit: MESSAGE_DEPTH_MAX, offset: base });
        }
        if nesting > self.limits.depth_max {
            return Err(Malformed::TooDeep { limit: self.limits.depth_max, offset: base });
        }
        let mut fields = Fields::new(body, base, depth);
        while let Some(tag) = fields.tag()? {
            self.check(message, tag, &mut fields, depth + 1, nesting)?;
        }
        Ok(())
    }
}

/// Whether a text is ASCII, as nearly all are. Most are so short that the library's checks cost more by their beginnings and ends.
#[inline(always)]
fn is_ascii(text: &[u8]) -> bool {
    const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
    let Some(last) = text.last_chunk::<8>() else { return text.iter().fold(0, |all, byte| all | byte) < 0x80 };
    let words = text.as_chunks::<8>().0.iter().fold(u64::from_le_bytes(*last), |all, word| all | u64::from_le_bytes(*word));
    words & HIGH_BITS == 0
}

fn wrong_wire_type(message: &'static str, tag: Tag) -> Malformed {
    Malformed::WireType { message, field: tag.number, offset: tag.offset }
}

fn check_packed_varints(packed: &[u8], base: usize) -> Result<(), Malformed> {
    let mut length = 0_u32;
    for (index, &byte) in packed.iter().enumerate() {
        length += 1;
        if length > 10 || (length == 10 && byte > 1) {
            return Err(Malformed::Varint { offset: base + index });
        }
        if byte < 0x80 {
            length = 0;
        }
    }
    if length == 0 { Ok(()) } else { Err(Malformed::Truncated { offset: base }) }
}

/// `Status.code` of a failed span.
const STATUS_ERROR: i32 = 2;

/// Reads a span field by field; `value` reads each value, and checks it or not.
fn read_span(
    mut fields: Fields<'_>,
    rules: &Rules,
    mut value: impl FnMut(&mut Fields<'_>, Tag) -> Result<(), Malformed>,
) -> Result<Class, Malformed> {
    let (mut start, mut end, mut status) = (0_u64, 0_u64, 0_i32);
    while let Some(tag) = fields.tag()? {
        match (tag.number, tag.wire) {
            (7, FIXED64) => start = u64::from_le_bytes(fields.ahead().array()?),
            (8, FIXED64) => end = u64::from_le_bytes(fields.ahead().array()?),
            (15, LENGTH) => status = last_varint(fields.ahead().message()?, 3)?.unwrap_or(status),
            _ => {}
        }
        value(&mut fields, tag)?;
    }
    let slow = u128::from(end.saturating_sub(start)) >= rules.slow_span.as_nanos();
    Ok(if status == STATUS_ERROR || slow { Class::High } else { Class::Normal })
}

fn read_log_record(
    mut fields: Fields<'_>,
    mut value: impl FnMut(&mut Fields<'_>, Tag) -> Result<(), Malformed>,
) -> Result<Class, Malformed> {
    let mut severity = 0_i32;
    while let Some(tag) = fields.tag()? {
        if let (2, VARINT) = (tag.number, tag.wire) {
            severity = fields.ahead().varint()? as i32;
        }
        value(&mut fields, tag)?;
    }
    // The ranges of OpenTelemetry's severity numbers: TRACE 1-4, DEBUG 5-8, INFO 9-12, WARN 13-16, ERROR 17-20, FATAL 21-24.
    Ok(match severity {
        1..=8 => Class::Bulk,
        17..=20 => Class::High,
        21.. => Class::Critical,
        _ => Class::Normal,
    })
}

/// Data points of a metric. Its data is one of several kinds: the last kind wins, and repeats of one kind are merged.
fn read_metric(mut fields: Fields<'_>, mut value: impl FnMut(&mut Fields<'_>, Tag) -> Result<(), Malformed>) -> Result<u32, Malformed> {
    let (mut kind, mut points) = (0, 0_u32);
    while let Some(tag) = fields.tag()? {
        if let (5 | 7 | 9 | 10 | 11, LENGTH) = (tag.number, tag.wire) {
            let more = count_data_points(fields.ahead().message()?)?;
            points = if kind == tag.number { points.saturating_add(more) } else { more };
            kind = tag.number;
        }
        value(&mut fields, tag)?;
    }
    Ok(points)
}

fn count_data_points(mut data: Fields<'_>) -> Result<u32, Malformed> {
    let mut points = 0;
    while let Some(field) = data.next()? {
        points += u32::from(field.number == 1);
    }
    Ok(points)
}

fn last_varint(mut fields: Fields<'_>, number: u32) -> Result<Option<i32>, Malformed> {
    let mut last = None;
    while let Some(field) = fields.next()? {
        if let (true, Value::Varint(value)) = (field.number == number, field.value) {
            last = Some(value as i32);
        }
    }
    Ok(last)
}
