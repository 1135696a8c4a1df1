//! Whose a request is: the value of one attribute of its resources, found without reading what the resources hold beside it.

use crate::walk::RESOURCE_GROUP;
use crate::wire::{Fields, Malformed, Value};

/// Field of a resource group that holds the resource, and of a resource that holds an attribute.
const RESOURCE: u32 = 1;
const ATTRIBUTE: u32 = 1;

/// The value of a resource attribute that all resources of an export request share, of any signal. None if they differ, if one lacks
/// it, or if it is no text.
#[must_use]
pub fn tenant<'b>(body: &'b [u8], attribute: &str) -> Option<&'b str> {
    find(body, attribute).ok().flatten()
}

fn find<'b>(body: &'b [u8], attribute: &str) -> Result<Option<&'b str>, Malformed> {
    let mut shared = None;
    let mut groups = Fields::new(body, 0, 0);
    while let Some(group) = groups.next()? {
        let (RESOURCE_GROUP, Value::Length(group)) = (group.number, group.value) else { continue };
        let value = in_group(group, attribute)?;
        if value.is_none() || shared.is_some_and(|shared| Some(shared) != value) {
            return Ok(None);
        }
        shared = value;
    }
    Ok(shared)
}

/// A field that occurs twice is one message in two parts, so the last value wins.
fn in_group<'b>(group: &'b [u8], attribute: &str) -> Result<Option<&'b str>, Malformed> {
    let mut value = None;
    let mut fields = Fields::new(group, 0, 1);
    while let Some(field) = fields.next()? {
        let (RESOURCE, Value::Length(resource)) = (field.number, field.value) else { continue };
        let mut attributes = Fields::new(resource, 0, 2);
        while let Some(pair) = attributes.next()? {
            let (ATTRIBUTE, Value::Length(pair)) = (pair.number, pair.value) else { continue };
            value = text_of(pair, attribute)?.or(value);
        }
    }
    Ok(value)
}

/// The text of an attribute of that name.
fn text_of<'b>(pair: &'b [u8], attribute: &str) -> Result<Option<&'b str>, Malformed> {
    let (mut is_it, mut text) = (false, None);
    let mut fields = Fields::new(pair, 0, 3);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Length(key)) => is_it = key == attribute.as_bytes(),
            (2, Value::Length(value)) => text = string_of(value)?,
            _ => {}
        }
    }
    Ok(text.filter(|_| is_it))
}

fn string_of(value: &[u8]) -> Result<Option<&str>, Malformed> {
    let mut text = None;
    let mut fields = Fields::new(value, 0, 4);
    while let Some(field) = fields.next()? {
        text = match (field.number, field.value) {
            (1, Value::Length(string)) => std::str::from_utf8(string).ok(),
            _ => None,
        };
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
    use opentelemetry_proto::tonic::logs::v1::ResourceLogs;
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use prost::Message;

    use super::*;

    const NAMESPACE: &str = "k8s.namespace.name";

    fn attribute(key: &str, value: any_value::Value) -> KeyValue {
        KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
    }

    fn text(value: &str) -> any_value::Value {
        any_value::Value::StringValue(value.into())
    }

    fn request(resources: &[&[KeyValue]]) -> Vec<u8> {
        let group = |attributes: &&[KeyValue]| ResourceLogs {
            resource: Some(Resource { attributes: attributes.to_vec(), ..Resource::default() }),
            ..ResourceLogs::default()
        };
        ExportLogsServiceRequest { resource_logs: resources.iter().map(group).collect() }.encode_to_vec()
    }

    #[test]
    fn the_tenant_is_the_value_that_all_resources_share() {
        let shop = [attribute("service.name", text("cart")), attribute(NAMESPACE, text("shop"))];
        let bank = [attribute(NAMESPACE, text("bank"))];
        assert_eq!(tenant(&request(&[&shop]), NAMESPACE), Some("shop"));
        assert_eq!(tenant(&request(&[&shop, &shop[1..]]), NAMESPACE), Some("shop"));
        assert_eq!(tenant(&request(&[&shop]), "service.name"), Some("cart"));
        assert_eq!(tenant(&request(&[&shop, &bank]), NAMESPACE), None, "they differ");
        assert_eq!(tenant(&request(&[&shop, &shop[..1]]), NAMESPACE), None, "one lacks it");
        assert_eq!(tenant(&request(&[&[attribute(NAMESPACE, any_value::Value::IntValue(7))]]), NAMESPACE), None, "it is no text");
        assert_eq!(tenant(&[], NAMESPACE), None);
    }

    #[test]
    fn bytes_that_are_no_request_are_nobodys() {
        let body = request(&[&[attribute(NAMESPACE, text("shop"))]]);
        for end in 1..body.len() {
            assert_eq!(tenant(&body[..end], NAMESPACE), None, "cut at {end}");
        }
    }
}
