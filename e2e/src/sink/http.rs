//! The HTTP side of the sink: what it recorded, and how a scenario steers it. All by GET, so that the API server's proxy and a
//! browser reach it alike.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::Value;

use super::pace::Failure;
use super::report::SinkReport;
use super::server::{Desk, lock};
use crate::words;

/// `/report`, `/seen`, `/kernel`, `/throttle`, `/fail`, `/healthz`.
pub(super) fn routes(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/report", get(report))
        .route("/seen", get(seen))
        .route("/kernel", get(kernel))
        .route("/throttle", get(throttle))
        .route("/fail", get(fail))
        .with_state(desk)
}

async fn report(State(desk): State<Arc<Desk>>) -> Json<SinkReport> {
    Json(lock(&desk.record).report(desk.refused.load(Ordering::Relaxed)))
}

#[derive(Deserialize)]
struct Seen {
    producer: String,
    signal: String,
}

async fn seen(State(desk): State<Arc<Desk>>, Query(query): Query<Seen>) -> Result<Json<Vec<(u64, u64)>>, (StatusCode, String)> {
    let unknown = || (StatusCode::BAD_REQUEST, format!("`{}` is no signal\n", query.signal));
    let signal = words::signal::parse(&query.signal).ok_or_else(unknown)?;
    Ok(Json(lock(&desk.record).seen(&query.producer, signal)))
}

async fn kernel(State(desk): State<Arc<Desk>>, Query(query): Query<BTreeMap<String, String>>) -> Json<Vec<Value>> {
    let words: Vec<&str> = query.get("contains").map(|words| words.split(',').collect()).unwrap_or_default();
    Json(lock(&desk.record).kernel_logs(&words))
}

#[derive(Deserialize)]
struct Throttle {
    items_per_second: u64,
}

async fn throttle(State(desk): State<Arc<Desk>>, Query(query): Query<Throttle>) -> &'static str {
    lock(&desk.pace).set(query.items_per_second);
    "ok\n"
}

#[derive(Deserialize)]
struct Fail {
    mode: Failure,
}

async fn fail(State(desk): State<Arc<Desk>>, Query(query): Query<Fail>) -> &'static str {
    *lock(&desk.failure) = query.mode;
    "ok\n"
}
