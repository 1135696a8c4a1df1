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

/// How a value is encoded.
pub(crate) const VARINT: u8 = 0;
pub(crate) const FIXED64: u8 = 1;
pub(crate) const LENGTH: u8 = 2;
const GROUP: u8 = 3;
const GROUP_END: u8 = 4;
pub(crate) const FIXED32: u8 = 5;

/// What stands before a value.
#[derive(Clone, Copy)]
pub(crate) struct Tag {
    pub(crate) number: u32,
    pub(crate) wire: u8,
    /// Where it begins in the body.
    pub(crate) offset: usize,
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
    /// What is yet to be read.
    rest: &'a [u8],
    /// Offset in the body of the end of the message.
    end: usize,
    depth: u32,
}

impl<'a> Fields<'a> {
    /// `base` is the offset of `message` in the body, `depth` how many messages stand around it.
    #[inline(always)]
    pub(crate) fn new(message: &'a [u8], base: usize, depth: u32) -> Self {
        Self { rest: message, end: base + message.len(), depth }
    }

    /// The next field, none at the end of the message. Inlined everywhere: a request has dozens of fields per item, and most callers
    /// need only a part of what a field says.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Result<Option<Field<'a>>, Malformed> {
        let start = self.rest;
        let Some(tag) = self.tag()? else { return Ok(None) };
        let value = self.value(tag)?;
        let raw = start.get(..start.len() - self.rest.len()).unwrap_or_default();
        Ok(Some(Field { number: tag.number, value, raw, offset: tag.offset }))
    }

    /// The value behind a tag.
    #[inline(always)]
    pub(crate) fn value(&mut self, tag: Tag) -> Result<Value<'a>, Malformed> {
        Ok(match tag.wire {
            VARINT => Value::Varint(self.varint()?),
            FIXED64 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            LENGTH => Value::Length(self.length_delimited()?),
            GROUP => {
                self.rest = skip_group(Self { depth: self.depth + 1, ..*self }, tag.number)?;
                Value::Group
            }
            FIXED32 => Value::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(Malformed::Tag { offset: tag.offset }),
        })
    }

    /// Offset in the body of what is read next.
    #[inline(always)]
    pub(crate) fn offset(&self) -> usize {
        self.end - self.rest.len()
    }

    /// The next tag, none at the end of the message.
    #[inline(always)]
    pub(crate) fn tag(&mut self) -> Result<Option<Tag>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let offset = self.offset();
        let key = u32::try_from(self.varint()?).map_err(|_| Malformed::Tag { offset })?;
        match key >> 3 {
            0 => Err(Malformed::Tag { offset }),
            number => Ok(Some(Tag { number, wire: (key & 7) as u8, offset })),
        }
    }

    /// Tags, lengths and small numbers are one byte long, nearly always.
    #[inline(always)]
    pub(crate) fn varint(&mut self) -> Result<u64, Malformed> {
        let (value, rest) = match self.rest {
            [byte @ ..0x80, rest @ ..] => (u64::from(*byte), rest),
            rest => long_varint(rest, self.offset())?,
        };
        self.rest = rest;
        Ok(value)
    }

    #[inline(always)]
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed::Truncated { offset: self.offset() })?;
        self.rest = rest;
        Ok(*bytes)
    }

    #[inline(always)]
    pub(crate) fn length_delimited(&mut self) -> Result<&'a [u8], Malformed> {
        let offset = self.offset();
        let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Truncated { offset })?;
        self.rest = rest;
        Ok(bytes)
    }

    /// The same position, to look at what is there.
    #[inline(always)]
    pub(crate) const fn ahead(&self) -> Self {
        Self { ..*self }
    }

    /// The fields of the message that is the next value.
    pub(crate) fn message(mut self) -> Result<Self, Malformed> {
        let message = self.length_delimited()?;
        Ok(Self::new(message, self.offset() - message.len(), self.depth + 1))
    }
}

// What is rare takes and gives its position by value: a position that others may change lies in memory, not in registers.

/// The varint at the beginning, and what is behind it.
#[inline(never)]
fn long_varint(mut rest: &[u8], offset: usize) -> Result<(u64, &[u8]), Malformed> {
    let mut value = 0_u64;
    for shift in (0..70).step_by(7) {
        let Some((&byte, behind)) = rest.split_first() else { return Err(Malformed::Truncated { offset }) };
        rest = behind;
        if shift == 63 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok((value, rest));
        }
    }
    Err(Malformed::Varint { offset })
}

/// What is behind the end of the group `number`, whose begin tag has been read.
#[cold]
fn skip_group(mut group: Fields<'_>, number: u32) -> Result<&[u8], Malformed> {
    if group.depth > MESSAGE_DEPTH_MAX {
        return Err(Malformed::TooDeep { limit: MESSAGE_DEPTH_MAX, offset: group.offset() });
    }
    loop {
        let Some(tag) = group.tag()? else { return Err(Malformed::Truncated { offset: group.offset() }) };
        if (tag.number, tag.wire) == (number, GROUP_END) {
            return Ok(group.rest);
        }
        group.value(tag)?;
    }
}

impl<'a> Field<'a> {
    /// Offset in the body of a length-delimited value.
    #[inline(always)]
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
