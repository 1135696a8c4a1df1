//! The operator's own endpoint: health, metrics, and the ledger of each pipeline as the leader knows it. Read-only.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use plan::write_policy::Write;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry as MetricRegistry;

use crate::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabel {
    cause: &'static str,
}

/// What the operator counts of itself.
pub(crate) struct Metrics {
    registry: MetricRegistry,
    reconciliations: Family<ResultLabel, Counter>,
    reports: Family<ResultLabel, Counter>,
    status_writes: Family<CauseLabel, Counter>,
    applies: Counter,
    leading: Gauge<u64, AtomicU64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: MetricRegistry::default(),
            reconciliations: Family::default(),
            reports: Family::default(),
            status_writes: Family::default(),
            applies: Counter::default(),
            leading: Gauge::default(),
        };
        let registry = &mut metrics.registry;
        registry.register("forebay_operator_reconciliations", "Reconciliations of pipelines", metrics.reconciliations.clone());
        registry.register("forebay_operator_reports", "Reports of agents", metrics.reports.clone());
        registry.register("forebay_operator_status_writes", "Writes of statuses, by what caused them", metrics.status_writes.clone());
        registry.register("forebay_operator_applied_objects", "Objects that were applied", metrics.applies.clone());
        registry.register("forebay_operator_leading", "1 while this process leads", metrics.leading.clone());
        metrics
    }

    pub(crate) fn reconciled(&self, succeeded: bool) {
        self.reconciliations.get_or_create(&ResultLabel { result: if succeeded { "applied" } else { "failed" } }).inc();
    }

    pub(crate) fn report(&self, taken: bool) {
        self.reports.get_or_create(&ResultLabel { result: if taken { "taken" } else { "refused" } }).inc();
    }

    pub(crate) fn written(&self, write: Write) {
        let cause = match write {
            Write::Conditions => "conditions",
            Write::Numbers => "numbers",
            Write::Heartbeat => "heartbeat",
        };
        self.status_writes.get_or_create(&CauseLabel { cause }).inc();
    }

    pub(crate) fn applied(&self) {
        self.applies.inc();
    }

    pub(crate) fn leads(&self, leads: bool) {
        self.leading.set(u64::from(leads));
    }

    fn is_leading(&self) -> bool {
        self.leading.inner().load(Ordering::Relaxed) == 1
    }
}

#[derive(Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    registry: Arc<Registry>,
}

/// The routes.
pub(crate) fn router(metrics: Arc<Metrics>, registry: Arc<Registry>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(async || "ok\n"))
        .route("/metrics", get(render))
        .route("/ledger/{namespace}/{name}", get(ledger))
        .with_state(Shared { metrics, registry })
}

async fn render(State(shared): State<Shared>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &shared.metrics.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ledger(State(shared): State<Shared>, Path((namespace, name)): Path<(String, String)>) -> Response {
    if !shared.metrics.is_leading() {
        return (StatusCode::SERVICE_UNAVAILABLE, "this replica does not lead; ask the Service forebay-fleet's pod\n").into_response();
    }
    match shared.registry.ledger(&namespace, &name) {
        Some(flow) => Json(flow).into_response(),
        None => (StatusCode::NOT_FOUND, "no such pipeline\n").into_response(),
    }
}
