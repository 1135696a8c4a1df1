//! Cuts a request by class, so that one important item does not carry hundreds of ordinary ones past a full queue.

use bytes::Bytes;
use vocabulary::{Class, Signal};

use crate::walk::{ITEM, RESOURCE_GROUP, Rules, SCOPE_GROUP, classify};
use crate::wire::{Field, Fields, Malformed, Value, put_length_delimited};

/// For each class that has items, most important first: the class, its items, and an export request of them alone with the same
/// resource and scope envelopes. Fields this version does not know travel with their group, those of the request itself with the
/// most important part. Groups without items are left out.
///
/// # Errors
/// When `body` is not well formed; a body that passed [`crate::inspect`] always is.
pub fn split(signal: Signal, body: &[u8], rules: &Rules) -> Result<Vec<(Class, u32, Bytes)>, Malformed> {
    let mut cut = Cut { signal, rules, parts: Default::default(), groups: Default::default(), scopes: Default::default() };
    let mut unknown = Vec::new();
    let mut fields = Fields::new(body, 0, 0);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (RESOURCE_GROUP, Value::Length(group)) => cut.resource_group(group)?,
            _ => unknown.extend_from_slice(field.raw),
        }
    }
    let parts = Class::ALL.into_iter().zip(cut.parts).filter(|(_, part)| part.items > 0);
    Ok(parts
        .map(|(class, mut part)| {
            part.body.append(&mut unknown);
            (class, part.items, Bytes::from(part.body))
        })
        .collect())
}

/// One class's share of a request or of a group.
#[derive(Default)]
struct Part {
    items: u32,
    body: Vec<u8>,
}

/// Buffers per class for the request, the resource group and the scope group being cut; reused from group to group.
struct Cut<'r> {
    signal: Signal,
    rules: &'r Rules,
    parts: [Part; Class::COUNT],
    groups: [Part; Class::COUNT],
    scopes: [Part; Class::COUNT],
}

impl Cut<'_> {
    fn resource_group(&mut self, group: &[u8]) -> Result<(), Malformed> {
        let mut envelope = Vec::new();
        let mut fields = Fields::new(group, 0, 1);
        while let Some(field) = fields.next()? {
            match (field.number, field.value) {
                (SCOPE_GROUP, Value::Length(scope)) => self.scope_group(scope)?,
                _ => envelope.extend_from_slice(field.raw),
            }
        }
        close(&mut self.groups, &envelope, &mut self.parts, RESOURCE_GROUP);
        Ok(())
    }

    fn scope_group(&mut self, group: &[u8]) -> Result<(), Malformed> {
        let mut envelope = Vec::new();
        let mut fields = Fields::new(group, 0, 2);
        while let Some(field) = fields.next()? {
            match (field.number, field.value) {
                (ITEM, Value::Length(item)) => self.item(item, &field)?,
                _ => envelope.extend_from_slice(field.raw),
            }
        }
        close(&mut self.scopes, &envelope, &mut self.groups, SCOPE_GROUP);
        Ok(())
    }

    fn item(&mut self, item: &[u8], field: &Field<'_>) -> Result<(), Malformed> {
        let (class, items) = classify(self.signal, item, self.rules)?;
        if let Some(part) = self.scopes.get_mut(class.index()) {
            part.items += items;
            part.body.extend_from_slice(field.raw);
        }
        Ok(())
    }
}

/// Ends a group: each class's share becomes one field of the outer share, envelope first.
fn close(inner: &mut [Part; Class::COUNT], envelope: &[u8], outer: &mut [Part; Class::COUNT], number: u32) {
    for (inner, outer) in inner.iter_mut().zip(outer) {
        if !inner.body.is_empty() {
            put_length_delimited(&mut outer.body, number, &[envelope, &inner.body]);
            outer.items += inner.items;
        }
        inner.items = 0;
        inner.body.clear();
    }
}
