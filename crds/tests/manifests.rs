//! The definitions as they are installed: equal to the committed files, small enough to be applied, and without the traps that
//! a derived schema falls into. The examples of the documentation are read here too.
#![cfg(feature = "kube")]

use std::fs;
use std::path::{Path, PathBuf};

use crds::v1alpha1::{TelemetryPipeline, TelemetryPipelineStatus, crd, crds, yaml};
use kube::core::cel::Validator;
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn walk(value: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, value);
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| walk(value, &format!("{path}.{name}"), visit)),
        Value::Array(items) => items.iter().enumerate().for_each(|(at, value)| walk(value, &format!("{path}[{at}]"), visit)),
        _ => {}
    }
}

#[test]
fn the_committed_files_are_those_the_types_give() {
    for (name, crd) in crds().expect("derived") {
        for folder in ["crds/manifests", "charts/forebay/templates/crds"] {
            let file = root().join(folder).join(name);
            let found = fs::read_to_string(&file).unwrap_or_default();
            let same = found == yaml(&crd).expect("written");
            assert!(same, "{folder}/{name} differs from the types; run `cargo xtask gen`");
        }
    }
}

#[test]
fn a_definition_stays_below_150_kilobytes_and_never_closes_a_template() {
    for (name, crd) in crds().expect("derived") {
        let text = yaml(&crd).expect("written");
        assert!(text.len() < 150_000, "{name} has {} bytes", text.len());
        assert!(!text.contains("{{"), "{name} would be taken for a Helm template");
    }
}

#[test]
fn no_schema_has_an_unsigned_format_or_admits_null() {
    for (name, crd) in crds().expect("derived") {
        walk(&serde_json::to_value(crd).expect("JSON"), name, &mut |path, value| {
            let format = value.get("format").and_then(Value::as_str).unwrap_or_default();
            assert!(!format.starts_with("uint"), "{path} is unsigned");
            assert!(value.get("nullable").is_none(), "{path} admits null");
        });
    }
}

#[test]
fn every_list_map_string_and_integer_of_a_schema_is_bounded() {
    for (name, crd) in crds().expect("derived") {
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).expect("JSON");
        walk(&schema["openAPIV3Schema"]["properties"], name, &mut |path, value| {
            if !path.contains("spec") && !path.contains("status") {
                return;
            }
            let has = |key: &str| value.get(key).is_some();
            match value.get("type").and_then(Value::as_str) {
                Some("array") => assert!(has("maxItems"), "{path} is a list without a bound"),
                Some("string") => assert!(has("maxLength") || has("enum") || has("format"), "{path} is a string without a bound"),
                Some("integer") => assert!(has("minimum"), "{path} is an integer without a minimum"),
                Some("object") => {
                    assert!(has("properties") || has("maxProperties") || path.ends_with("ebpf"), "{path} is a map without a bound")
                }
                _ => {}
            }
        });
    }
}

#[test]
fn what_is_absent_is_not_written_as_null() {
    let spec = serde_json::json!({
        "workload": { "kind": "Deployment", "replicas": 1 }, "sources": { "otlp": {} }, "buffer": { "mode": "Memory" },
        "destinations": [{ "name": "a", "otlpGrpc": { "endpoint": "http://a.b:1" } }],
    });
    let mut pipeline = TelemetryPipeline::new("p", serde_json::from_value(spec).expect("complete"));
    pipeline.status = Some(TelemetryPipelineStatus {
        summary: Some(crds::v1alpha1::Summary::default()),
        flow: Some(crds::v1alpha1::Flow::default()),
        retired: Some(crds::v1alpha1::Retired::default()),
        config: Some(crds::v1alpha1::ConfigStatus::default()),
        ..Default::default()
    });
    walk(&serde_json::to_value(&pipeline).expect("JSON"), "object", &mut |path, value| assert!(!value.is_null(), "{path} is null"));
}

#[test]
fn the_columns_are_those_of_the_contract() {
    let crd = crd::<TelemetryPipeline>().expect("derived");
    let columns = crd.spec.versions[0].additional_printer_columns.clone().expect("there are some");
    let of = |priority| {
        columns
            .iter()
            .filter(|column| column.priority.unwrap_or(0) == priority)
            .map(|column| column.name.to_uppercase())
            .collect::<Vec<_>>()
    };
    assert_eq!(of(0), ["KIND", "READY", "HEALTH", "DROPPED", "DROPPED-5M", "QUEUE", "BACKLOG", "REPORTED", "AGE"]);
    assert_eq!(of(1), ["REASON", "REPORTING", "OLDEST", "SENT", "CONFIG", "VERSION"]);
}

#[test]
fn every_example_of_the_documentation_is_accepted() {
    let schema =
        crd::<TelemetryPipeline>().expect("derived").spec.versions.swap_remove(0).schema.and_then(|schema| schema.open_api_v3_schema);
    let schema = serde_json::to_value(schema.expect("it has a schema")).expect("JSON");
    let mut seen = 0;
    for entry in fs::read_dir(root().join("docs/examples")).expect("the folder exists") {
        let file = entry.expect("readable").path();
        let text = fs::read_to_string(&file).expect("readable");
        let raw: Value = serde_saphyr::from_str(&text).expect("YAML");
        let typed: TelemetryPipeline = serde_json::from_value(raw.clone()).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let written = serde_json::to_value(&typed).expect("JSON");
        assert_eq!(raw["spec"], written["spec"], "{} has a field that the types do not know", file.display());
        if let Err(errors) = Validator::new().validate(&schema, &raw, None) {
            panic!("{}: {errors}", file.display());
        }
        seen += 1;
    }
    assert!(seen >= 3, "only {seen} examples were found");
}
