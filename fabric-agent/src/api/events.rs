//! `/v1/events`: a stream that ends when either side does.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    extract::{Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use fabric_api::{Event, status::ErrorBody};
use futures::stream;
use serde::Deserialize;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{ApiState, error::ApiError};
use crate::observe::{events::Subscription, names::Names};

/// How often a stream looks whether networks or endpoints have come or gone.
const NAMES_EVERY: Duration = Duration::from_secs(1);

/// What to leave out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventQuery {
    /// Leave out the verdicts about packets that passed.
    #[serde(default)]
    drops: bool,
    endpoint: Option<String>,
}

/// Live events, one JSON object a line.
#[utoipa::path(get, path = "/v1/events", tag = "node", operation_id = "events",
    params(
        ("drops" = Option<bool>, Query, description = "Only dropped packets"),
        ("endpoint" = Option<String>, Query, description = "Only packets of this local endpoint")),
    responses(
        (status = 200, description = "One event a line, until either side ends", body = Event,
            content_type = "application/x-ndjson"),
        (status = "4XX", description = "No such endpoint on this node", body = ErrorBody)))]
pub(super) async fn stream(
    State(state): State<ApiState>,
    query: Result<Query<EventQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|rejection| {
        let sentence =
            format!("only drops=true|false and endpoint=NAME choose events: {}", rejection.body_text());
        ApiError::new(StatusCode::BAD_REQUEST, sentence)
    })?;
    if let Some(name) = &query.endpoint {
        check_local(&state, name).await?;
    }
    refresh_names(&state).await;
    let subscription = state.events.subscribe();
    let mut names = interval(NAMES_EVERY);
    names.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stream = EventStream { state, subscription, names, drops: query.drops, endpoint: query.endpoint };
    let lines = stream::unfold(stream, |mut stream| async { Some((stream.line().await?, stream)) });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

async fn check_local(state: &ApiState, name: &str) -> Result<(), ApiError> {
    let endpoint = state.service.endpoint(name).await?;
    if endpoint.status.is_some_and(|status| status.local) {
        return Ok(());
    }
    let node = endpoint.spec.node.unwrap_or_else(|| "another node".to_owned());
    let sentence = format!("endpoint {name} lives on {node}: ask the agent there for its events");
    Err(ApiError::new(StatusCode::CONFLICT, sentence))
}

/// Gives the hub the names of this moment; if they can't be read, events keep the old ones.
pub(super) async fn refresh_names(state: &ApiState) {
    if let (Ok(networks), Ok(endpoints)) = (state.service.networks().await, state.service.endpoints().await) {
        state.events.set_names(Names::new(&networks, &endpoints));
    }
}

struct EventStream {
    state: ApiState,
    subscription: Subscription,
    names: Interval,
    drops: bool,
    endpoint: Option<String>,
}

impl EventStream {
    /// The next line; `None` when the server ends.
    async fn line(&mut self) -> Option<Result<Bytes, serde_json::Error>> {
        let mut closing = self.state.closing.clone();
        let closed = async {
            if closing.wait_for(|closing| *closing).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::pin!(closed);
        loop {
            let (drops, endpoint) = (self.drops, self.endpoint.as_deref());
            let wanted = |event: &Event| {
                (!drops || event.is_drop()) && endpoint.is_none_or(|name| event.endpoint == name)
            };
            tokio::select! {
                () = &mut closed => return None,
                _ = self.names.tick() => refresh_names(&self.state).await,
                event = self.subscription.next(wanted) => {
                    let line = serde_json::to_vec(&event?).map(|mut line| {
                        line.push(b'\n');
                        Bytes::from(line)
                    });
                    return Some(line);
                }
            }
        }
    }
}
