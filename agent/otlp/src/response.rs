//! What an export request is answered with. The three services share one layout:
//! `{1: partial_success {1: rejected (varint), 2: error_message (text)}}`.

use bytes::Bytes;

use crate::wire::{Fields, Malformed, Value, put_length_delimited, put_varint};

/// What a destination says it did not take. `rejected` 0 with a message is a warning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartialSuccess {
    /// Items the destination will not take, whatever is tried.
    pub rejected: u64,
    /// Its words, at most [`MESSAGE_BYTES_MAX`] bytes of them.
    pub message: String,
}

/// Most bytes kept of a destination's message.
pub const MESSAGE_BYTES_MAX: usize = 200;

/// Everything was accepted.
#[must_use]
pub fn success() -> Bytes {
    Bytes::new()
}

/// All but `rejected` items were accepted; the client must not send the rejected ones again.
#[must_use]
pub fn partial_success(rejected: u64, message: &str) -> Bytes {
    let mut inner = Vec::with_capacity(message.len() + 16);
    put_varint(&mut inner, 1 << 3);
    put_varint(&mut inner, rejected);
    put_length_delimited(&mut inner, 2, &[message.as_bytes()]);
    let mut body = Vec::with_capacity(inner.len() + 8);
    put_length_delimited(&mut body, 1, &[&inner]);
    Bytes::from(body)
}

/// Reads a destination's answer.
///
/// # Errors
/// When it is not well formed.
pub fn read_partial_success(body: &[u8]) -> Result<PartialSuccess, Malformed> {
    let mut answer = PartialSuccess::default();
    let mut fields = Fields::new(body, 0, 0);
    while let Some(field) = fields.next()? {
        if let (1, Value::Length(inner)) = (field.number, field.value) {
            read_inner(inner, field.value_offset(inner), &mut answer)?;
        }
    }
    Ok(answer)
}

fn read_inner(inner: &[u8], base: usize, answer: &mut PartialSuccess) -> Result<(), Malformed> {
    let mut fields = Fields::new(inner, base, 1);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            // The protocol's type is signed; a negative number of rejected items says nothing, so it is none.
            (1, Value::Varint(rejected)) => answer.rejected = u64::try_from(rejected as i64).unwrap_or(0),
            (2, Value::Length(text)) => {
                let kept = text.get(..MESSAGE_BYTES_MAX).unwrap_or(text);
                answer.message = String::from_utf8_lossy(kept).into_owned();
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_reads_as_it_was_written_and_its_message_is_cut_where_the_limit_lies() {
        let message = "x".repeat(MESSAGE_BYTES_MAX + 1);
        let read = |message: &str| read_partial_success(&partial_success(7, message)).expect("well formed");
        assert_eq!(read("too old"), PartialSuccess { rejected: 7, message: "too old".into() });
        assert_eq!(read(&message), PartialSuccess { rejected: 7, message: message[..MESSAGE_BYTES_MAX].into() });
        assert_eq!(read_partial_success(&success()), Ok(PartialSuccess::default()));
    }
}
