//! The accept and reject tables, judged by the local CEL evaluator over the schema as it is installed. The API server judges
//! the same tables in the end-to-end tests.
#![cfg(feature = "kube")]

mod table;

use crds::v1alpha1::{TelemetryPipeline, TelemetryPipelineClass, crd};
use kube::core::cel::Validator;
use serde_json::Value;
use table::{Model, TABLES, Table};

fn schema(base: Model) -> Value {
    let crd = if base == Model::Class { crd::<TelemetryPipelineClass>() } else { crd::<TelemetryPipeline>() }.expect("it is derived");
    let version = crd.spec.versions.into_iter().next().expect("there is one");
    serde_json::to_value(version.schema.and_then(|schema| schema.open_api_v3_schema).expect("it has a schema")).expect("it is JSON")
}

#[test]
fn every_object_of_the_tables_is_judged_as_they_say() {
    let mut wrong = Vec::new();
    for (file, text) in TABLES {
        let table = Table::read(text);
        let schema = schema(table.base);
        for case in table.cases.iter().filter(|case| case.only.is_none()) {
            let (object, before) = (case.object(table.base, "here"), case.before(table.base, "here"));
            let verdict = match Validator::new().validate(&schema, &object, before.as_ref()) {
                Ok(()) => None,
                Err(errors) => Some(errors.to_string()),
            };
            let as_said = match (&case.refused, &verdict) {
                (None, None) => true,
                (Some(fragment), Some(message)) => message.contains(fragment),
                _ => false,
            };
            if !as_said {
                wrong.push(format!("{file}: {}\n  expected {:?}\n  found    {verdict:?}", case.name, case.refused));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_rule_refuses_an_object_of_the_tables() {
    let mut fragments = Vec::new();
    for (_, text) in TABLES {
        fragments.extend(Table::read(text).cases.into_iter().filter_map(|case| case.refused));
    }
    for base in [Model::DaemonSet, Model::Class] {
        let mut words = Vec::new();
        collect(&schema(base), &mut words);
        for message in words {
            // The first literal of a message is in every text it gives.
            let literal = message.split('\'').nth(1).unwrap_or(&message).split('%').next().unwrap_or_default().trim().to_owned();
            let literal = &literal[..literal.len().min(18)];
            assert!(fragments.iter().any(|fragment| fragment.starts_with(literal)), "no case is refused with `{message}`");
        }
    }
}

fn collect(schema: &Value, messages: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            for rule in fields.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
                let message = rule.get("message").or_else(|| rule.get("messageExpression")).and_then(Value::as_str);
                messages.push(message.expect("every rule has a message").to_owned());
            }
            fields.values().for_each(|value| collect(value, messages));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, messages)),
        _ => {}
    }
}
