//! The vocabulary that operator and agent share: the kinds of the API group `forebay.dev/v1alpha1`, the agent's configuration
//! document, conditions and their reasons, and the messages of the fleet protocol.
//!
//! Operator and agent meet only here. The Kubernetes kinds stand behind the feature `kube`, so that the agent's pure parts
//! need no Kubernetes.

pub mod agent;
pub mod conditions;
pub mod fleet;
pub mod quantity;
#[cfg(feature = "kube")]
#[expect(unreachable_pub, reason = "the derive of KubeSchema copies each public type into a function")]
#[expect(clippy::duplicated_attributes, reason = "printed columns share their type, each within an attribute of its own")]
pub mod v1alpha1;
mod words;

pub use vocabulary;
