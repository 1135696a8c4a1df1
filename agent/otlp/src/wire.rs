//! The protobuf wire format: tags, varints, lengths and groups, read from bytes that nobody vouches for.

/// Why a body is refused. Offsets count from the first byte of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A value reaches past the end of the message that holds it.
    #[error("the value at byte {offset} reaches past the end of its message")]
    Truncated {
        /// Where the value begins.
        offset: usize,
    },
    /// A varint of more than ten bytes, or beyond 64 bits.
    #[error("the varint at byte {offset} does not end within 64 bits")]
    Varint {
        /// Where the varint begins.
        offset: usize,
    },
    /// Field number 0 or beyond 29 bits, a wire type that does not exist, or the end of a group that was not begun.
    #[error("the tag at byte {offset} is not valid")]
    Tag {
        /// Where the tag begins.
        offset: usize,
    },
    /// A known field with the wire type of another kind of value.
    #[error("field {field} of {message} at byte {offset} has the wrong wire type")]
    WireType {
        /// The message that holds the field.
        message: &'static str,
        /// The field's number.
        field: u32,
        /// Where its value begins.
        offset: usize,
    },
    /// A string that is not UTF-8.
    #[error("field {field} of {message} at byte {offset} is not UTF-8")]
    Utf8 {
        /// The message that holds the field.
        message: &'static str,
        /// The field's number.
        field: u32,
        /// Where its value begins.
        offset: usize,
    },
    /// Messages or attribute values nested deeper than allowed.
    #[error("nested more than {limit} levels deep at byte {offset}")]
    TooDeep {
        /// The limit that was passed.
        limit: u32,
        /// Where the first value beyond it begins.
        offset: usize,
    },
    /// More items than one request may hold.
    #[error("more than {limit} items in one request")]
    TooManyItems {
        /// The limit that was passed.
        limit: u32,
    },
}

impl Malformed {
    /// Whether the body passed a limit (refused as too large), rather than being no export request at all.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::TooDeep { .. } | Self::TooManyItems { .. })
    }
}

/// Deepest nesting of messages and groups; common decoders stop there.
pub(crate) const MESSAGE_DEPTH_MAX: u32 = 100;

/// One field's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Length(&'a [u8]),
    /// A group, already checked and skipped; OTLP has none of its own.
    Group,
}

/// One field as it stands in its message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'a> {
    pub(crate) number: u32,
    pub(crate) value: Value<'a>,
    /// Tag and value as they stand, to be copied.
    pub(crate) raw: &'a [u8],
    /// Offset of the field in the body.
    pub(crate) offset: usize,
}

/// Reads a message field by field.
pub(crate) struct Fields<'a> {
    message: &'a [u8],
    /// Position within `message`.
    at: usize,
    /// Offset of `message` in the body.
    base: usize,
    depth: u32,
}

impl<'a> Fields<'a> {
    /// `base` is the offset of `message` in the body, `depth` how many messages stand around it.
    pub(crate) fn new(message: &'a [u8], base: usize, depth: u32) -> Self {
        Self { message, at: 0, base, depth }
    }

    /// The next field, none at the end of the message. Inlined everywhere: a request has dozens of fields per item, and most callers
    /// need only a part of what a field says.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Result<Option<Field<'a>>, Malformed> {
        if self.at >= self.message.len() {
            return Ok(None);
        }
        let start = self.at;
        let (number, wire) = self.tag()?;
        let value = match wire {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => Value::Length(self.length_delimited()?),
            3 => {
                self.skip_group(number, self.depth + 1)?;
                Value::Group
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(Malformed::Tag { offset: self.base + start }),
        };
        let raw = self.message.get(start..self.at).unwrap_or_default();
        Ok(Some(Field { number, value, raw, offset: self.base + start }))
    }

    #[inline(always)]
    fn tag(&mut self) -> Result<(u32, u8), Malformed> {
        let start = self.at;
        let invalid = Malformed::Tag { offset: self.base + start };
        let key = u32::try_from(self.varint()?).map_err(|_| invalid)?;
        match key >> 3 {
            0 => Err(invalid),
            number => Ok((number, (key & 7) as u8)),
        }
    }

    /// Tags, lengths and small numbers are one byte long, nearly always.
    #[inline(always)]
    fn varint(&mut self) -> Result<u64, Malformed> {
        match self.message.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    #[inline(never)]
    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let start = self.at;
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let Some(&byte) = self.message.get(self.at) else {
                return Err(Malformed::Truncated { offset: self.base + start });
            };
            self.at += 1;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed::Varint { offset: self.base + start })
    }

    #[inline(always)]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let bytes = self.message.get(self.at..).and_then(|rest| rest.first_chunk::<N>());
        let bytes = bytes.ok_or(Malformed::Truncated { offset: self.base + self.at })?;
        self.at += N;
        Ok(*bytes)
    }

    #[inline(always)]
    fn length_delimited(&mut self) -> Result<&'a [u8], Malformed> {
        let start = self.at;
        let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
        let end = self.at.checked_add(length);
        let bytes = end.and_then(|end| self.message.get(self.at..end)).ok_or(Malformed::Truncated { offset: self.base + start })?;
        self.at += length;
        Ok(bytes)
    }

    /// Skips to the end of the group `number`, whose begin tag has been read.
    fn skip_group(&mut self, number: u32, depth: u32) -> Result<(), Malformed> {
        if depth > MESSAGE_DEPTH_MAX {
            return Err(Malformed::TooDeep { limit: MESSAGE_DEPTH_MAX, offset: self.base + self.at });
        }
        loop {
            let start = self.at;
            let (inner, wire) = self.tag()?;
            match wire {
                0 => drop(self.varint()?),
                1 => drop(self.array::<8>()?),
                2 => drop(self.length_delimited()?),
                3 => self.skip_group(inner, depth + 1)?,
                4 if inner == number => return Ok(()),
                5 => drop(self.array::<4>()?),
                _ => return Err(Malformed::Tag { offset: self.base + start }),
            }
        }
    }
}

impl<'a> Field<'a> {
    /// Offset in the body of a length-delimited value.
    pub(crate) fn value_offset(&self, value: &'a [u8]) -> usize {
        self.offset + self.raw.len() - value.len()
    }
}

/// Appends a varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a length-delimited field.
pub(crate) fn put_length_delimited(out: &mut Vec<u8>, number: u32, parts: &[&[u8]]) {
    put_varint(out, u64::from(number << 3 | 2));
    put_varint(out, parts.iter().map(|part| part.len() as u64).sum());
    for part in parts {
        out.extend_from_slice(part);
    }
}
