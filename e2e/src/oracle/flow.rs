//! The ledger as a pipeline's status tells it.

use anyhow::Context;
use crds::v1alpha1::Flow;
use serde_json::Value;

/// The flow of a `TelemetryPipeline` as `kubectl get -o json` prints it; `None` before the first report.
///
/// # Errors
/// When there is a flow that does not follow its schema.
pub fn flow_of(pipeline: &Value) -> anyhow::Result<Option<Flow>> {
    let Some(flow) = pipeline.pointer("/status/flow") else { return Ok(None) };
    serde_json::from_value(flow.clone()).map(Some).with_context(|| format!("read the status' flow: {flow}"))
}
