//! The load generator's HTTP side: the truth, and how a scenario steers it. All by GET, so that the API server's proxy and a
//! browser reach it alike.

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use tokio::net::TcpListener;

use super::engine::Loadgen;
use super::truth::Truth;
use crate::words;

/// Serves `/truth`, `/accepted`, `/rate`, `/stop` and `/healthz` for as long as the process lives.
///
/// # Errors
/// When the server ends by itself.
pub async fn serve_control(listener: TcpListener, loadgen: Loadgen) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/truth", get(truth))
        .route("/accepted", get(accepted))
        .route("/rate", get(rate))
        .route("/stop", get(stop))
        .with_state(loadgen);
    axum::serve(listener, routes).await
}

async fn truth(State(loadgen): State<Loadgen>) -> Json<Truth> {
    Json(loadgen.truth())
}

#[derive(Deserialize)]
struct Accepted {
    signal: String,
}

async fn accepted(State(loadgen): State<Loadgen>, Query(query): Query<Accepted>) -> Result<Json<Vec<(u64, u64)>>, (StatusCode, String)> {
    let unknown = || (StatusCode::BAD_REQUEST, format!("`{}` is no signal\n", query.signal));
    words::signal::parse(&query.signal).ok_or_else(unknown).map(|signal| Json(loadgen.accepted(signal)))
}

#[derive(Deserialize)]
struct Rate {
    items_per_second: u64,
    error_percent: Option<f64>,
}

async fn rate(State(loadgen): State<Loadgen>, Query(query): Query<Rate>) -> &'static str {
    loadgen.steer(query.items_per_second, query.error_percent);
    "ok\n"
}

async fn stop(State(loadgen): State<Loadgen>) -> &'static str {
    loadgen.stop();
    "ok\n"
}
