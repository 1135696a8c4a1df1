//! The admin endpoint: metrics, health, readiness and the ledger over plain HTTP, on loopback unless told otherwise.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::board::{Board, Started};
use crate::engine::unix_ms;
use crate::ledger_page::LedgerPage;
use crate::metrics;
use crate::watchdog::Watchdog;

/// Pause between two tries to get the port.
const RETRY_EVERY: Duration = Duration::from_secs(2);
/// The engine's lock is held for microseconds; a second means that it will not be given back.
const LOCK_TIME_MAX: Duration = Duration::from_secs(1);
/// A storage thread that has not come around for this long hangs in the disk: longer than any sync that ends well.
const STORAGE_SILENCE_MAX: Duration = Duration::from_secs(60);
/// Name of this part on the board.
const PART: &str = "admin";

struct Admin {
    board: Arc<Board>,
    registry: Registry,
    watchdog: Mutex<Watchdog>,
}

/// Serves until it is dropped. A taken port keeps the agent from being ready, not from working.
pub(crate) async fn serve(address: String, board: Arc<Board>) {
    board.expect(PART);
    let state = Arc::new(Admin { registry: metrics::registry(&board), board: board.clone(), watchdog: Mutex::default() });
    let routes = Router::new()
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/ledger", get(ledger))
        .with_state(state);
    loop {
        let error = match TcpListener::bind(&address).await {
            Ok(listener) => {
                let bound = listener.local_addr().map_or_else(|_| address.clone(), |bound| bound.to_string());
                tracing::info!(part = PART, address = bound, "listening");
                board.unblock(PART);
                axum::serve(listener, routes.clone()).await.err().map_or_else(|| "the server ended".to_owned(), |error| error.to_string())
            }
            Err(error) => format!("cannot listen on {address} ({error}): end who listens there, or change adminListen"),
        };
        board.block(PART, error);
        tokio::time::sleep(RETRY_EVERY).await;
    }
}

async fn metrics_page(State(admin): State<Arc<Admin>>) -> Response {
    match metrics::render(&admin.registry) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Alive: the engine's lock is to be had, the storage thread comes around, and what is due to a destination gets an answer. A failing
/// disk or destination is no reason to die.
async fn healthz(State(admin): State<Arc<Admin>>) -> (StatusCode, &'static str) {
    let Some(Started { engine, .. }) = admin.board.started() else { return (StatusCode::OK, "waiting for the buffer\n") };
    let engine = engine.clone();
    let looked = tokio::task::spawn_blocking(move || engine.with(|pipeline, now| (now, pipeline.progress(now))));
    let Ok(Ok((now, progress))) = tokio::time::timeout(LOCK_TIME_MAX, looked).await else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the engine does not move\n");
    };
    if admin.watchdog.lock().unwrap_or_else(PoisonError::into_inner).look(now, &progress).is_some() {
        return (StatusCode::SERVICE_UNAVAILABLE, "a destination is due what it is not sent\n");
    }
    let beat = admin.board.storage_beat.load(Ordering::Relaxed);
    if beat != 0 && unix_ms().saturating_sub(beat) > STORAGE_SILENCE_MAX.as_secs() * 1000 {
        return (StatusCode::SERVICE_UNAVAILABLE, "the storage thread does not move\n");
    }
    (StatusCode::OK, "ok\n")
}

async fn readyz(State(admin): State<Arc<Admin>>) -> (StatusCode, Json<BTreeMap<&'static str, String>>) {
    let blockers = admin.board.blockers();
    let is_ready = blockers.is_empty() && admin.board.started().is_some();
    (if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(blockers))
}

async fn ledger(State(admin): State<Arc<Admin>>) -> Response {
    match admin.board.started() {
        Some(started) => Json(LedgerPage::of(started, &started.engine.snapshot(), &admin.board.quarantine)).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, Json(admin.board.blockers())).into_response(),
    }
}
