//! The ways to the agents' OTLP port.

use crds::v1alpha1::{Exposure, WorkloadKind};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Child, ChildKind, child, metadata};
use crate::names;
use crate::resolve::Resolved;

/// The Service of the pipeline where OTLP is taken in, and the headless one that a StatefulSet names its pods by.
pub(super) fn services(resolved: &Resolved) -> Vec<Child> {
    let name = &resolved.identity.name;
    let mut services = Vec::new();
    if let Some(exposure) = resolved.otlp {
        let policy = if exposure == Exposure::ClusterService { "Cluster" } else { "Local" };
        services.push(service(
            resolved,
            name.clone(),
            ServiceSpec { internal_traffic_policy: Some(policy.into()), ..ServiceSpec::default() },
        ));
    }
    if resolved.kind == WorkloadKind::StatefulSet {
        let headless = ServiceSpec { cluster_ip: Some("None".into()), publish_not_ready_addresses: Some(true), ..ServiceSpec::default() };
        services.push(service(resolved, names::headless(name), headless));
    }
    services
}

fn service(resolved: &Resolved, name: String, spec: ServiceSpec) -> Child {
    let port = |name: &str, port: i32| ServicePort {
        name: Some(name.into()),
        port,
        target_port: Some(IntOrString::String(name.into())),
        protocol: Some("TCP".into()),
        ..ServicePort::default()
    };
    let ports = if resolved.otlp.is_some() { port("otlp-grpc", names::OTLP_PORT) } else { port("admin", names::ADMIN_PORT) };
    let spec = ServiceSpec { ports: Some(vec![ports]), selector: Some(names::selector(&resolved.identity.name)), ..spec };
    child(ChildKind::Service, name.clone(), &Service { metadata: metadata(resolved, name), spec: Some(spec), ..Service::default() })
}
