//! One pass over an export request: is it well formed, how many items has it, and how important is each.

use std::time::Duration;

use vocabulary::{Class, ClassCounts, Signal};

use crate::schema::{Kind, LOG_RECORD, METRIC, Message, RESOURCE, SCOPE, SPAN};
use crate::wire::{Field, Fields, MESSAGE_DEPTH_MAX, Malformed, Value};

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
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (RESOURCE_GROUP, Value::Length(group)) => walk.resource_group(group, field.value_offset(group), &mut counts)?,
            (RESOURCE_GROUP, _) => return Err(wrong_wire_type("ExportServiceRequest", &field)),
            _ => {}
        }
    }
    Ok(counts)
}

/// The class and number of items of one encoded span, log record or metric that has been inspected.
pub(crate) fn classify(signal: Signal, item: &[u8], rules: &Rules) -> Result<(Class, u32), Malformed> {
    let limits = Limits::default();
    Walk { kind: ItemKind::of(signal)?, rules, limits: &limits }.read(item, 0, &mut |_| Ok(()))
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
        while let Some(field) = fields.next()? {
            match (field.number, field.value) {
                (SCOPE_GROUP, Value::Length(scope)) => self.scope_group(scope, field.value_offset(scope), counts)?,
                _ => self.envelope("ResourceGroup", &RESOURCE, &field, 2)?,
            }
        }
        Ok(())
    }

    fn scope_group(&self, group: &[u8], base: usize, counts: &mut ClassCounts) -> Result<(), Malformed> {
        let mut fields = Fields::new(group, base, 2);
        while let Some(field) = fields.next()? {
            match (field.number, field.value) {
                (ITEM, Value::Length(item)) => self.item(item, field.value_offset(item), counts)?,
                _ => self.envelope("ScopeGroup", &SCOPE, &field, ITEM_DEPTH)?,
            }
        }
        Ok(())
    }

    /// The fields beside the list: 1 the resource or scope, 2 the list itself (here only with a wrong wire type), 3 a schema URL.
    fn envelope(&self, name: &'static str, head: &'static Message, field: &Field<'_>, depth: u32) -> Result<(), Malformed> {
        match field.number {
            1 => self.check(name, Kind::Sub(head), field, depth, 0),
            2 => Err(wrong_wire_type(name, field)),
            3 => self.check(name, Kind::Text, field, depth, 0),
            _ => Ok(()),
        }
    }

    #[inline]
    fn item(&self, item: &[u8], base: usize, counts: &mut ClassCounts) -> Result<(), Malformed> {
        let message = match self.kind {
            ItemKind::Span => &SPAN,
            ItemKind::LogRecord => &LOG_RECORD,
            ItemKind::Metric => &METRIC,
        };
        let mut check = |field: &Field<'_>| self.check(message.name, message.kind(field.number), field, ITEM_DEPTH + 1, 0);
        let (class, items) = self.read(item, base, &mut check)?;
        counts[class] = counts[class].saturating_add(items);
        if counts.total() > u64::from(self.limits.items_max) {
            return Err(Malformed::TooManyItems { limit: self.limits.items_max });
        }
        Ok(())
    }

    #[inline]
    fn read(
        &self,
        item: &[u8],
        base: usize,
        check: &mut impl FnMut(&Field<'_>) -> Result<(), Malformed>,
    ) -> Result<(Class, u32), Malformed> {
        let fields = Fields::new(item, base, ITEM_DEPTH);
        match self.kind {
            ItemKind::Span => read_span(fields, self.rules, check).map(|class| (class, 1)),
            ItemKind::LogRecord => read_log_record(fields, check).map(|class| (class, 1)),
            ItemKind::Metric => read_metric(fields, check).map(|points| (Class::Normal, points)),
        }
    }

    /// Checks one field against its kind, and what it holds against its own type.
    #[inline]
    fn check(&self, name: &'static str, kind: Kind, field: &Field<'_>, depth: u32, nesting: u32) -> Result<(), Malformed> {
        match (kind, field.value) {
            (Kind::Unknown, _)
            | (Kind::Varint | Kind::Varints, Value::Varint(_))
            | (Kind::Fixed64 | Kind::Fixed64s, Value::Fixed64(_))
            | (Kind::Fixed32, Value::Fixed32(_))
            | (Kind::Bytes, Value::Length(_)) => Ok(()),
            (Kind::Text, Value::Length(text)) => match std::str::from_utf8(text) {
                Ok(_) => Ok(()),
                Err(_) => Err(Malformed::Utf8 { message: name, field: field.number, offset: field.offset }),
            },
            (Kind::Fixed64s, Value::Length(packed)) if packed.len() % 8 == 0 => Ok(()),
            (Kind::Fixed64s, Value::Length(packed)) => Err(Malformed::Truncated { offset: field.value_offset(packed) }),
            (Kind::Varints, Value::Length(packed)) => check_packed_varints(packed, field.value_offset(packed)),
            (Kind::Sub(message), Value::Length(body)) => self.message(message, body, field.value_offset(body), depth, nesting),
            _ => Err(wrong_wire_type(name, field)),
        }
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
        while let Some(field) = fields.next()? {
            self.check(message.name, message.kind(field.number), &field, depth + 1, nesting)?;
        }
        Ok(())
    }
}

fn wrong_wire_type(message: &'static str, field: &Field<'_>) -> Malformed {
    Malformed::WireType { message, field: field.number, offset: field.offset }
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

fn read_span(
    mut fields: Fields<'_>,
    rules: &Rules,
    check: &mut impl FnMut(&Field<'_>) -> Result<(), Malformed>,
) -> Result<Class, Malformed> {
    let (mut start, mut end, mut status) = (0_u64, 0_u64, 0_i32);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (7, Value::Fixed64(nanoseconds)) => start = nanoseconds,
            (8, Value::Fixed64(nanoseconds)) => end = nanoseconds,
            (15, Value::Length(body)) => status = last_varint(body, field.value_offset(body), 3)?.unwrap_or(status),
            _ => {}
        }
        check(&field)?;
    }
    let slow = u128::from(end.saturating_sub(start)) >= rules.slow_span.as_nanos();
    Ok(if status == STATUS_ERROR || slow { Class::High } else { Class::Normal })
}

fn read_log_record(mut fields: Fields<'_>, check: &mut impl FnMut(&Field<'_>) -> Result<(), Malformed>) -> Result<Class, Malformed> {
    let mut severity = 0_i32;
    while let Some(field) = fields.next()? {
        if let (2, Value::Varint(number)) = (field.number, field.value) {
            severity = number as i32;
        }
        check(&field)?;
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
fn read_metric(mut fields: Fields<'_>, check: &mut impl FnMut(&Field<'_>) -> Result<(), Malformed>) -> Result<u32, Malformed> {
    let (mut kind, mut points) = (0, 0_u32);
    while let Some(field) = fields.next()? {
        if let (5 | 7 | 9 | 10 | 11, Value::Length(data)) = (field.number, field.value) {
            let more = count_data_points(data, field.value_offset(data))?;
            points = if kind == field.number { points.saturating_add(more) } else { more };
            kind = field.number;
        }
        check(&field)?;
    }
    Ok(points)
}

fn count_data_points(data: &[u8], base: usize) -> Result<u32, Malformed> {
    let mut points = 0;
    let mut fields = Fields::new(data, base, ITEM_DEPTH + 1);
    while let Some(field) = fields.next()? {
        points += u32::from(field.number == 1);
    }
    Ok(points)
}

fn last_varint(message: &[u8], base: usize, number: u32) -> Result<Option<i32>, Malformed> {
    let mut last = None;
    let mut fields = Fields::new(message, base, ITEM_DEPTH + 1);
    while let Some(field) = fields.next()? {
        if let (true, Value::Varint(value)) = (field.number == number, field.value) {
            last = Some(value as i32);
        }
    }
    Ok(last)
}
