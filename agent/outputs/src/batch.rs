//! The name a record, or a slice of one, has on the wire. A record that may have arrived is sent again under the same name and with the
//! same content, so a receiver that remembers names takes it once.

use std::fmt;
use std::ops::Range;

use pipeline::RecordId;
use tonic::metadata::{Ascii, MetadataValue};

/// The metadata key of the name.
pub const BATCH_ID_KEY: &str = "forebay-batch-id";

/// `BUFFER/CLASS/FIRST-LAST`, and `/items FIRST-LAST` for a slice: ids of records in the buffer, and items of a record from 0, both
/// ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchId<'a> {
    /// Names the buffer: the same for as long as its directory lives, or for as long as the process where there is none.
    pub buffer: &'a str,
    /// The record.
    pub record: RecordId,
    /// The items of it that are sent; none means all.
    pub items: Option<Range<u32>>,
}

impl fmt::Display for BatchId<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RecordId { class, sequence } = self.record;
        write!(formatter, "{}/{}/{sequence}-{sequence}", self.buffer, class.label())?;
        match &self.items {
            Some(items) => write!(formatter, "/items {}-{}", items.start, items.end.saturating_sub(1)),
            None => Ok(()),
        }
    }
}

impl BatchId<'_> {
    /// As metadata; none if the buffer's name is not printable.
    pub(crate) fn metadata(&self) -> Option<MetadataValue<Ascii>> {
        self.to_string().parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use vocabulary::Class;

    use super::*;

    #[test]
    fn a_name_tells_buffer_class_record_and_items() {
        let record = RecordId { class: Class::High, sequence: 17 };
        let whole = BatchId { buffer: "9f", record, items: None };
        assert_eq!(whole.to_string(), "9f/high/17-17");
        assert_eq!(BatchId { items: Some(3..9), ..whole }.to_string(), "9f/high/17-17/items 3-8");
    }
}
