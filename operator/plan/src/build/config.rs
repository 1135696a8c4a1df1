//! The agents' configuration: the document, its hash, the mounted ConfigMap and the copy kept as history.

use std::collections::BTreeMap;

use budget::Budget;
use crds::agent::{AgentConfig, Buffer, Destination, DiskBuffer, EbpfSource, Fleet, OtlpSource, PipelineIdentity, Sources};
use k8s_openapi::api::core::v1::ConfigMap;

use super::{Child, ChildKind, Installation, child, hash, metadata, pod};
use crate::names;
use crate::resolve::Resolved;

/// The document and its hash.
pub(super) struct Rendered {
    document: String,
    pub(super) hash: String,
}

pub(super) fn render(resolved: &Resolved, budget: &Budget, installation: &Installation) -> Rendered {
    let config = document(resolved, budget, installation);
    // The document has string keys and plain values throughout, so that writing it cannot fail.
    let document = serde_saphyr::to_string(&config).unwrap_or_default();
    let hash = hash(&format!("{document}{}", installation.fleet_ca));
    Rendered { document, hash }
}

fn document(resolved: &Resolved, budget: &Budget, installation: &Installation) -> AgentConfig {
    let identity = &resolved.identity;
    let server_name = format!("{}.{}.svc", names::FLEET_SERVICE, installation.namespace);
    AgentConfig {
        pipeline: Some(PipelineIdentity { namespace: identity.namespace.clone(), name: identity.name.clone(), uid: identity.uid.clone() }),
        sources: Sources {
            otlp: resolved
                .otlp
                .map(|_| OtlpSource { grpc_listen: format!("0.0.0.0:{}", names::OTLP_PORT), request_bytes_max: budget.request_bytes_max }),
            ebpf: resolved.ebpf.then(|| EbpfSource {
                object: "/usr/lib/forebay/agent-ebpf".into(),
                cgroup_root: pod::CGROUP_MOUNT.into(),
                slot_seconds: 10,
                // One document serves every node: the agent takes the name of its own from FOREBAY_NODE_NAME.
                node_name: None,
            }),
        },
        buffer: Buffer {
            mode: resolved.mode,
            acknowledge: resolved.acknowledge,
            memory_bytes: budget.queue_bytes,
            memory_items: budget.queue_items,
            max_age_seconds: resolved.max_age_seconds,
            on_destination_removed: resolved.on_destination_removed,
            disk: resolved.disk.as_ref().map(|disk| DiskBuffer {
                path: format!("{}/buffer", pod::BUFFER_MOUNT),
                bytes: budget.disk_bytes,
                segment_bytes: budget.segment_bytes,
                on_full: disk.on_full,
                retention: disk.retention,
            }),
        },
        classes: resolved.classes.clone(),
        soft_percent: resolved.soft_percent,
        tenants: resolved.tenants.clone(),
        destinations: resolved
            .destinations
            .iter()
            .map(|destination| Destination { in_flight: budget.in_flight, ..destination.clone() })
            .collect(),
        drain_seconds: budget.drain_seconds,
        workers: budget.workers,
        admin_listen: format!("0.0.0.0:{}", names::ADMIN_PORT),
        fleet: Some(Fleet {
            endpoint: format!("https://{server_name}:{}", names::FLEET_PORT),
            server_name,
            ca_file: format!("{}/ca.crt", pod::CONFIG_MOUNT),
            token_file: format!("{}/token", pod::TOKEN_MOUNT),
            report_seconds: 5,
        }),
    }
}

/// The mounted map, and its immutable copy that tells later what ran.
pub(super) fn maps(resolved: &Resolved, rendered: &Rendered, installation: &Installation) -> [Child; 2] {
    let data = BTreeMap::from([("agent.yaml".to_owned(), rendered.document.clone()), ("ca.crt".to_owned(), installation.fleet_ca.clone())]);
    let name = names::config_map(&resolved.identity.name);
    let mounted = ConfigMap { metadata: metadata(resolved, name.clone()), data: Some(data.clone()), ..ConfigMap::default() };
    let copy_name = format!("{name}-{}", rendered.hash);
    let mut copy =
        ConfigMap { metadata: metadata(resolved, copy_name.clone()), data: Some(data), immutable: Some(true), ..ConfigMap::default() };
    copy.metadata.labels.get_or_insert_default().insert(names::LABEL_HISTORY.into(), resolved.identity.name.clone());
    [child(ChildKind::ConfigMap, name, &mounted), child(ChildKind::ConfigMap, copy_name, &copy)]
}
