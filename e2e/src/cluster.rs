//! The harness on a cluster: namespaces, backend, load, pipelines, what to wait for, and what to keep when a scenario fails.

mod artifacts;
mod kubectl;
mod manifests;
mod place;
mod scene;
mod wait;

pub use artifacts::collect;
pub use kubectl::Kubectl;
pub use manifests::{IMAGE, LABEL, pipeline};
pub use place::{LoadPod, LoadSpec, Place};
pub use scene::Scene;
pub use wait::{eventually, until};
