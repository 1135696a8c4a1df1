//! The CustomResourceDefinitions as they are installed: the derived ones, with what the derive gets wrong put right, and as
//! YAML. Separate from the kinds because this is about their form, not their meaning.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use super::{TelemetryPipeline, TelemetryPipelineClass};

/// First line of every generated file.
const HEAD: &str = "# Generated from crds/src/v1alpha1; change it there and run `cargo xtask gen`.\n";

/// Both definitions, each with the name of its file.
///
/// # Errors
/// When a definition is no JSON object, which the derive excludes.
pub fn crds() -> Result<Vec<(&'static str, CustomResourceDefinition)>, serde_json::Error> {
    Ok(vec![("telemetrypipelineclasses.yaml", crd::<TelemetryPipelineClass>()?), ("telemetrypipelines.yaml", crd::<TelemetryPipeline>()?)])
}

/// The definition of a kind as it is installed.
///
/// # Errors
/// When the derived definition is no JSON object, which the derive excludes.
pub fn crd<K: CustomResourceExt>() -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut document = serde_json::to_value(K::crd())?;
    mend(&mut document);
    let metadata = document.get_mut("metadata").and_then(Value::as_object_mut);
    if let Some(metadata) = metadata {
        // Helm must not remove the kinds, and with them every pipeline, when the chart is uninstalled.
        metadata.insert("annotations".into(), serde_json::json!({ "helm.sh/resource-policy": "keep" }));
    }
    serde_json::from_value(document)
}

/// The definition as YAML, with a line that says where it comes from.
///
/// # Errors
/// When it cannot be written, which no definition causes.
pub fn yaml(crd: &CustomResourceDefinition) -> Result<String, serde_saphyr::ser::Error> {
    Ok(format!("{HEAD}{}", serde_saphyr::to_string(crd)?))
}

/// Takes `nullable` out, so that the API server prunes an explicit null and `has()` means what it says.
fn mend(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.remove("nullable");
            object.values_mut().for_each(mend);
        }
        Value::Array(items) => items.iter_mut().for_each(mend),
        _ => {}
    }
}
