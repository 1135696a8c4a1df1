//! The kinds of `forebay.dev/v1alpha1`, as the API server stores them: raw, possibly wrong, never defaulted. `plan` resolves
//! them. Here stand the two root kinds; what they hold has a file each.
//!
//! Rules of every field: signed integers with a minimum, sizes as quantities, times with their unit in the name, closed words
//! in CamelCase, a bound on every list, map and string, and nothing written for what is absent. What fields may not say to
//! each other stands in `rules` as CEL, so that the API server refuses it with both numbers in the message.

mod bounds;
mod buffer;
mod class;
mod manifest;
mod rules;
mod spec;
mod status;
mod status_flow;

pub use buffer::{Buffer, BufferMode, Claim, DiskBuffer, HostPath, Medium, MemoryBuffer};
pub use class::{Ceilings, ClassSources, NamespaceRule, Permission, SecretRef, TelemetryPipelineClass, TelemetryPipelineClassSpec};
pub use manifest::{crd, crds, yaml};
pub use spec::{
    Backpressure, BackpressureMode, ClassRef, Destination, Drain, EbpfSource, Effect, Exposure, Operator, OtlpGrpc, OtlpSource, Placement,
    Priorities, PriorityClass, ResourceAmounts, Resources, Retry, Sources, TelemetryPipeline, TelemetryPipelineSpec, Tenants, Toleration,
    Workload, WorkloadKind,
};
pub use status::{
    BufferStatus, Condition, ConfigStatus, DestinationStatus, Effective, QueueStatus, SourceStatus, Summary, TelemetryPipelineStatus,
    WorkloadStatus, WorstNode,
};
pub use status_flow::{Bounds, DropCount, Flow, FlowCell, HeldItems, KernelFlow, LossCount, RefuseCount, Retired, RetiredDestination};
