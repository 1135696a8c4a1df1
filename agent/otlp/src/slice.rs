//! Cuts ranges of items out of a request, so that what a destination finds bad can be told from the rest. Items are numbered from 0
//! in the order they stand; those of a metric are its data points.

use std::ops::Range;

use bytes::Bytes;
use vocabulary::{ClassCounts, Signal};

use crate::walk::{ITEM, RESOURCE_GROUP, Rules, SCOPE_GROUP, classify};
use crate::wire::{Field, Fields, Malformed, Value, put_length_delimited};

/// An export request of the items in `ranges` (ascending, not overlapping) alone, with the same resource, scope and metric
/// envelopes, and how many there are of each class. Groups without such items are left out; unknown fields travel with what holds
/// them.
///
/// # Errors
/// When `body` is not well formed; a body that passed [`crate::inspect`] always is. Profiles are not walked.
pub fn slice(signal: Signal, body: &[u8], ranges: &[Range<u32>], rules: &Rules) -> Result<(ClassCounts, Bytes), Malformed> {
    let mut cut = Cut { signal, ranges, rules, at: 0, counts: ClassCounts::default() };
    let mut sliced = Vec::with_capacity(body.len());
    cut.message(Level::Request, body, &mut sliced)?;
    Ok((cut.counts, Bytes::from(sliced)))
}

/// How deep a message stands.
#[derive(Clone, Copy)]
enum Level {
    Request,
    ResourceGroup,
    ScopeGroup,
}

struct Cut<'r> {
    signal: Signal,
    ranges: &'r [Range<u32>],
    rules: &'r Rules,
    /// Number of the next item.
    at: u32,
    counts: ClassCounts,
}

impl Cut<'_> {
    /// Copies a message with those of its children that hold items of the ranges; whether there were any.
    fn message(&mut self, level: Level, message: &[u8], out: &mut Vec<u8>) -> Result<bool, Malformed> {
        let (child, depth) = match level {
            Level::Request => (RESOURCE_GROUP, 0),
            Level::ResourceGroup => (SCOPE_GROUP, 1),
            Level::ScopeGroup => (ITEM, 2),
        };
        let mut is_any = false;
        let mut inner = Vec::new();
        let mut fields = Fields::new(message, 0, depth);
        while let Some(field) = fields.next()? {
            let body = match field.value {
                Value::Length(body) if field.number == child => body,
                _ => {
                    out.extend_from_slice(field.raw);
                    continue;
                }
            };
            inner.clear();
            let is_taken = match level {
                Level::Request => self.message(Level::ResourceGroup, body, &mut inner)?,
                Level::ResourceGroup => self.message(Level::ScopeGroup, body, &mut inner)?,
                Level::ScopeGroup => {
                    is_any |= self.item(&field, body, out)?;
                    continue;
                }
            };
            if is_taken {
                put_length_delimited(out, child, &[&inner]);
                is_any = true;
            }
        }
        Ok(is_any)
    }

    /// Copies a span, a log record, or a metric with those of its points that are in the ranges.
    fn item(&mut self, field: &Field<'_>, item: &[u8], out: &mut Vec<u8>) -> Result<bool, Malformed> {
        let (class, items) = classify(self.signal, item, self.rules)?;
        let first = self.at;
        self.at = first.saturating_add(items);
        let taken: u32 = self.ranges.iter().map(|range| range.end.min(self.at).saturating_sub(range.start.max(first))).sum();
        if taken == 0 {
            return Ok(false);
        }
        self.counts[class] = self.counts[class].saturating_add(taken);
        if taken == items {
            out.extend_from_slice(field.raw);
        } else {
            put_length_delimited(out, ITEM, &[&self.metric(item, first)?]);
        }
        Ok(true)
    }

    /// A metric with those of its points that are in the ranges. Its data is one of several kinds: the last kind wins, and repeats of
    /// one kind are merged.
    fn metric(&self, metric: &[u8], first: u32) -> Result<Vec<u8>, Malformed> {
        let (mut envelope, mut data, mut kind, mut at) = (Vec::new(), Vec::new(), 0, first);
        let mut fields = Fields::new(metric, 0, 3);
        while let Some(field) = fields.next()? {
            let (5 | 7 | 9 | 10 | 11, Value::Length(body)) = (field.number, field.value) else {
                envelope.extend_from_slice(field.raw);
                continue;
            };
            if kind != field.number {
                data.clear();
                (kind, at) = (field.number, first);
            }
            let mut kept = Vec::new();
            at = self.points(body, at, &mut kept)?;
            put_length_delimited(&mut data, kind, &[&kept]);
        }
        envelope.append(&mut data);
        Ok(envelope)
    }

    /// Copies what is no data point, and the points in the ranges; returns the number of the next point.
    fn points(&self, data: &[u8], mut at: u32, kept: &mut Vec<u8>) -> Result<u32, Malformed> {
        let mut fields = Fields::new(data, 0, 4);
        while let Some(field) = fields.next()? {
            let is_point = field.number == 1;
            if !is_point || self.ranges.iter().any(|range| range.contains(&at)) {
                kept.extend_from_slice(field.raw);
            }
            at = at.saturating_add(u32::from(is_point));
        }
        Ok(at)
    }
}
