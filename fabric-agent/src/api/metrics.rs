//! `/metrics` on an address of its own, for Prometheus.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::Mutex};

use super::ApiState;
use crate::observe::{
    counters::by_name,
    metrics::{self, Snapshot},
};

/// The OpenMetrics text format, as the library writes it.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whoever is scraped. One at a time: a scrape counts a million rows.
type Scraped = Arc<Mutex<ApiState>>;

/// Serves `/metrics` until `shutdown` resolves.
///
/// # Errors
/// The listener fails.
pub async fn serve_metrics(
    listener: TcpListener,
    state: ApiState,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let router = Router::new().route("/metrics", get(scrape)).with_state(Arc::new(Mutex::new(state)));
    let served = axum::serve(listener, router).with_graceful_shutdown(shutdown);
    served.await.context("the metrics' socket failed")
}

async fn scrape(State(scraped): State<Scraped>) -> Response {
    let state = scraped.lock().await;
    match snapshot(&state).await {
        Ok(snapshot) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], snapshot.text()).into_response(),
        Err(error) => {
            tracing::warn!("metrics can't be told: {error:#}");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response()
        }
    }
}

async fn snapshot(state: &ApiState) -> anyhow::Result<Snapshot> {
    let mut snapshot = Snapshot {
        status: state.service.status().await.map_err(|error| anyhow::anyhow!("{error}"))?,
        store_up: state.service.store_troubles().is_empty(),
        ..Snapshot::default()
    };
    // Without the store these are not known; all else is.
    if let Ok(networks) = state.service.networks().await {
        snapshot.networks = networks.len() as u64;
    }
    if let Ok(nodes) = state.service.nodes().await {
        snapshot.nodes = nodes.len() as u64;
    }
    if let Ok(endpoints) = state.service.endpoints().await {
        let here = endpoints.iter().filter(|e| e.status.as_ref().is_some_and(|status| status.local)).count();
        snapshot.endpoints = (here as u64, (endpoints.len() - here) as u64);
    }
    let (counters, names) = (Arc::clone(&state.counters), state.events.rules());
    let scan = state.flows.as_ref().map(|flows| flows.scan());
    tokio::task::spawn_blocking(move || {
        snapshot.counters = counters.read()?;
        let rules = by_name(&*counters, &names)?;
        snapshot.rules =
            rules.into_iter().map(|(name, tally)| (name, (tally.packets, tally.bytes))).collect();
        snapshot.flows = scan.map(metrics::count).transpose()?.unwrap_or_else(BTreeMap::new);
        Ok(snapshot)
    })
    .await?
}
