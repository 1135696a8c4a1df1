//! The telemetry that is sent: real OTLP requests whose every item carries its number, so that whatever arrives can be named and
//! compared byte by byte with what was sent. Requests are real because the engine has them cut by class: a plain body could not be.

use bytes::Bytes;
use vocabulary::{Class, Signal};

/// One item of a request: a span, a log record, or a metric of up to three data points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) signal: Signal,
    pub(crate) class: Class,
    /// Its place among all units of the simulation.
    pub(crate) number: u64,
}

impl Unit {
    /// How many items the books count for it.
    pub(crate) fn items(self) -> u32 {
        if self.signal == Signal::Metrics { 1 + (self.number % 3) as u32 } else { 1 }
    }

    /// Its encoding; what it is decides every byte.
    fn encode(self) -> Vec<u8> {
        self.encode_points(self.items())
    }

    /// Its encoding with so many of its data points.
    fn encode_points(self, points: u32) -> Vec<u8> {
        let mut item = Vec::with_capacity(64);
        let padding = "~".repeat((self.number * 37 % 90) as usize);
        match self.signal {
            Signal::Logs => {
                put_fixed64(&mut item, 1, self.number);
                let severity = match self.class {
                    Class::Critical => 21,
                    Class::High => 17,
                    Class::Normal => 9,
                    Class::Bulk => 5,
                };
                item.extend([2 << 3, severity]);
                let mut text = Vec::new();
                put_bytes(&mut text, 1, padding.as_bytes());
                put_bytes(&mut item, 5, &text);
            }
            Signal::Traces => {
                put_fixed64(&mut item, 7, self.number);
                let is_slow = self.class == Class::High && self.number.is_multiple_of(2);
                put_fixed64(&mut item, 8, self.number + if is_slow { 3_000_000_000 } else { 5 });
                put_bytes(&mut item, 5, padding.as_bytes());
                if self.class == Class::High && !is_slow {
                    put_bytes(&mut item, 15, &[3 << 3, 2]);
                }
            }
            Signal::Metrics | Signal::Profiles => {
                put_bytes(&mut item, 1, format!("{:016x}", self.number).as_bytes());
                let mut point = Vec::new();
                put_fixed64(&mut point, 3, self.number);
                let mut gauge = Vec::new();
                for _ in 0..points {
                    put_bytes(&mut gauge, 1, &point);
                }
                put_bytes(&mut item, 2, padding.as_bytes());
                put_bytes(&mut item, 5, &gauge);
            }
        }
        item
    }
}

/// An export request of these units, in one resource group for every five of them.
pub(crate) fn encode(units: &[Unit]) -> Bytes {
    let mut body = Vec::new();
    for (position, group) in units.chunks(5).enumerate() {
        let mut scope = Vec::new();
        put_bytes(&mut scope, 1, &[]);
        for unit in group {
            put_bytes(&mut scope, 2, &unit.encode());
        }
        let mut attribute = Vec::new();
        put_bytes(&mut attribute, 1, format!("group-{position}").as_bytes());
        let (mut resource, mut whole) = (Vec::new(), Vec::new());
        put_bytes(&mut resource, 1, &attribute);
        put_bytes(&mut whole, 1, &resource);
        put_bytes(&mut whole, 2, &scope);
        put_bytes(&mut body, 1, &whole);
    }
    Bytes::from(body)
}

/// The units of a request that arrived. `sent` tells the unit of a number.
///
/// Panics if anything is in it that was not sent, or if a byte of an item differs.
pub(crate) fn decode(signal: Signal, body: &[u8], sent: impl Fn(u64) -> Option<Unit>) -> Vec<Unit> {
    let mut units = Vec::new();
    for (field, group) in fields(body) {
        assert_eq!(field, 1, "a request holds groups alone");
        for (_, scope) in fields(group).filter(|(field, _)| *field == 2) {
            for (_, item) in fields(scope).filter(|(field, _)| *field == 2) {
                let number = number_of(signal, item);
                let unit = sent(number).unwrap_or_else(|| unreachable!("{signal} item {number} arrived and was never sent"));
                assert_eq!(unit.signal, signal, "item {number} arrived as another signal");
                // A metric may arrive in slices, point by point.
                let is_slice = (1..unit.items()).any(|points| unit.encode_points(points) == item);
                assert!(is_slice || unit.encode() == item, "item {number} arrived changed");
                units.push(unit);
            }
        }
    }
    units
}

fn number_of(signal: Signal, item: &[u8]) -> u64 {
    if signal == Signal::Metrics {
        let digits = std::str::from_utf8(&item[2..18]).unwrap_or_default();
        return u64::from_str_radix(digits, 16).unwrap_or(u64::MAX);
    }
    let mut number = [0; 8];
    number.copy_from_slice(&item[1..9]);
    u64::from_le_bytes(number)
}

/// The length-delimited fields of a message that holds nothing else.
fn fields(mut message: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    std::iter::from_fn(move || {
        let tag = take_varint(&mut message)?;
        assert_eq!(tag & 7, 2, "an envelope changed");
        let length = take_varint(&mut message)? as usize;
        let (value, rest) = message.split_at(length);
        message = rest;
        Some((tag >> 3, value))
    })
}

fn take_varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    Some(value)
}

fn put_varint(target: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        target.push(value as u8 | 0x80);
        value >>= 7;
    }
    target.push(value as u8);
}

fn put_bytes(target: &mut Vec<u8>, field: u64, value: &[u8]) {
    put_varint(target, field << 3 | 2);
    put_varint(target, value.len() as u64);
    target.extend_from_slice(value);
}

fn put_fixed64(target: &mut Vec<u8>, field: u64, value: u64) {
    put_varint(target, field << 3 | 1);
    target.extend(value.to_le_bytes());
}

/// The classes that items of a signal can have.
pub(crate) fn classes_of(signal: Signal) -> &'static [Class] {
    match signal {
        Signal::Logs => &Class::ALL,
        Signal::Traces => &[Class::High, Class::Normal],
        Signal::Metrics | Signal::Profiles => &[Class::Normal],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_item_has_the_class_and_count_that_the_walk_finds_and_comes_back_by_its_number() {
        for signal in [Signal::Traces, Signal::Metrics, Signal::Logs] {
            let classes = classes_of(signal);
            let unit = |number: u64| Unit { signal, class: classes[number as usize % classes.len()], number };
            let units: Vec<Unit> = (0..40).map(unit).collect();
            let body = encode(&units);
            let counts = otlp::inspect(signal, &body, &otlp::Rules::default(), &otlp::Limits::default()).unwrap();
            for class in Class::ALL {
                let items: u32 = units.iter().filter(|unit| unit.class == class).map(|unit| unit.items()).sum();
                assert_eq!(counts[class], items, "{signal} {class}");
            }
            assert_eq!(decode(signal, &body, |number| Some(unit(number))), units);
        }
    }

    #[test]
    #[should_panic(expected = "arrived changed")]
    fn a_changed_byte_is_found() {
        let unit = Unit { signal: Signal::Logs, class: Class::High, number: 7 };
        let mut body = encode(&[unit]).to_vec();
        let last = body.len() - 1;
        body[last] ^= 1;
        decode(Signal::Logs, &body, |_| Some(unit));
    }
}
