//! The API: HTTP/1.1 with JSON over a Unix socket, versioned under `/v1`. Handlers translate and call the service
//! layer; they hold no state and know no map. One file a noun.

mod apply;
mod body;
mod capture;
mod denysets;
mod endpoints;
mod error;
mod events;
mod flows;
mod health;
mod metrics;
mod namespaces;
mod networks;
mod nodes;
mod openapi;
mod policies;
mod report;
mod socket;
#[cfg(test)]
mod tests;
mod trace;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{get, post},
};
use tokio::{net::UnixListener, sync::watch, time::sleep};

pub use self::{metrics::serve_metrics, openapi::openapi, socket::bind};
use crate::{
    observe::{
        capture::CaptureSource, counters::CounterSource, events::EventHub, flows::FlowSource,
        report::ReportSource, trace::TraceSource,
    },
    service::Service,
};

/// The largest request body, bytes: room for some ten thousand objects in one `apply`.
const MAX_BODY: usize = 16 << 20;

/// How long requests that are being worked on may take after the shutdown began.
const GRACE: Duration = Duration::from_secs(5);

/// What the handlers work with. Cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    service: Service,
    events: EventHub,
    counters: Arc<dyn CounterSource>,
    tracer: Option<Arc<dyn TraceSource>>,
    captures: Option<Arc<dyn CaptureSource>>,
    reports: Option<Arc<dyn ReportSource>>,
    flows: Option<Arc<dyn FlowSource>>,
    /// Becomes true when the server ends, so that streams end.
    closing: watch::Receiver<bool>,
}

impl ApiState {
    /// The service, the hub of drop events, and the counters.
    pub fn new(service: Service, events: EventHub, counters: Arc<dyn CounterSource>) -> Self {
        // Replaced by `serve`. A receiver whose sender is gone counts as "not closing".
        let (_, closing) = watch::channel(false);
        Self { service, events, counters, tracer: None, captures: None, reports: None, flows: None, closing }
    }

    /// With somebody who walks packets.
    #[must_use]
    pub fn with_tracer(self, tracer: Arc<dyn TraceSource>) -> Self {
        Self { tracer: Some(tracer), ..self }
    }

    /// With somebody who reads everything for a report.
    #[must_use]
    pub fn with_reports(self, reports: Arc<dyn ReportSource>) -> Self {
        Self { reports: Some(reports), ..self }
    }

    /// With somebody who reads flows.
    #[must_use]
    pub fn with_flows(self, flows: Arc<dyn FlowSource>) -> Self {
        Self { flows: Some(flows), ..self }
    }

    /// With somebody who captures packets.
    #[must_use]
    pub fn with_captures(self, captures: Arc<dyn CaptureSource>) -> Self {
        Self { captures: Some(captures), ..self }
    }
}

/// Serves the API until `shutdown` resolves; then no request is accepted any more, streams end, and requests that are
/// being worked on get five seconds.
///
/// # Errors
/// The listener fails.
pub async fn serve(
    listener: UnixListener,
    state: ApiState,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let (close, closing) = watch::channel(false);
    let mut ended = closing.clone();
    let router = router(ApiState { closing, ..state });
    let server = axum::serve(listener, router).with_graceful_shutdown(async move {
        shutdown.await;
        // `send_replace` succeeds without receivers as well.
        close.send_replace(true);
    });
    tokio::select! {
        result = server.into_future() => result.context("the API's socket failed"),
        () = async {
            drop(ended.wait_for(|closing| *closing).await);
            sleep(GRACE).await;
        } => Ok(()),
    }
}

fn router(state: ApiState) -> Router {
    Router::new()
        .route("/v1/networks", get(networks::list).post(networks::create))
        .route("/v1/networks/{name}", get(networks::inspect).delete(networks::remove))
        .route("/v1/endpoints", get(endpoints::list).post(endpoints::attach))
        .route("/v1/endpoints/{name}", get(endpoints::inspect).delete(endpoints::detach))
        .route("/v1/endpoints/{name}/move", post(endpoints::move_to))
        .route("/v1/nodes", get(nodes::list))
        .route("/v1/nodes/{name}", get(nodes::inspect))
        .route("/v1/nodes/{name}/drain", post(nodes::drain))
        .route("/v1/policies", get(policies::list))
        .route("/v1/policies/test", post(policies::test))
        .route("/v1/policies/lint", get(policies::lint))
        .route("/v1/policies/{name}", get(policies::inspect).delete(policies::remove))
        .route("/v1/denysets", get(denysets::list))
        .route("/v1/denysets/{name}", get(denysets::inspect).delete(denysets::remove))
        .route("/v1/denysets/{name}/change", post(denysets::change))
        .route("/v1/namespaces", get(namespaces::list))
        .route("/v1/namespaces/{name}", get(namespaces::inspect).delete(namespaces::remove))
        .route("/v1/apply", post(apply::apply))
        .route("/v1/status", get(health::status))
        .route("/v1/counters", get(health::counters))
        .route("/v1/events", get(events::stream))
        .route("/v1/flows", get(flows::stream))
        .route("/v1/trace", post(trace::trace))
        .route("/v1/report", get(report::report))
        .route("/v1/capture", post(capture::capture))
        .route("/v1/openapi.json", get(openapi::document))
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(state)
}
