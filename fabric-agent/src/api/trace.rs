//! `/v1/trace`.

use axum::{Json, extract::State, http::StatusCode};
use fabric_api::{
    status::ErrorBody,
    trace::{TraceReport, TraceRequest},
};

use super::{ApiState, body::JsonBody, error::ApiError};
use crate::observe::trace::Known;

/// Walks one packet through the real programs and tables of this node. Nothing is sent and nothing is counted.
#[utoipa::path(post, path = "/v1/trace", tag = "node", operation_id = "trace", request_body = TraceRequest,
    responses(
        (status = 200, description = "What happened to it, stage by stage", body = TraceReport),
        (status = "4XX", description = "The request is wrong", body = ErrorBody),
        (status = "5XX", description = "The kernel refuses to run the programs", body = ErrorBody)))]
pub(super) async fn trace(
    State(state): State<ApiState>,
    JsonBody(request): JsonBody<TraceRequest>,
) -> Result<Json<TraceReport>, ApiError> {
    let unavailable = |sentence: &str| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, sentence);
    let tracer =
        state.tracer.clone().ok_or_else(|| unavailable("this agent has no programs to trace with"))?;
    let nodes = state.service.nodes().await?.into_iter();
    let uplinks = state.service.status().await?.uplinks.into_iter();
    let known = Known {
        node: state.service.node_name().to_owned(),
        networks: state.service.networks().await?,
        endpoints: state.service.endpoints().await?,
        nodes: nodes.filter_map(|node| Some((node.status?.id, node.metadata.name))).collect(),
        xdp: uplinks.filter(|uplink| uplink.mode.contains("xdp")).map(|uplink| uplink.ifindex).collect(),
    };
    // Loading the programs takes a part of a second.
    let walked = tokio::task::spawn_blocking(move || tracer.trace(&request, &known)).await;
    Ok(Json(walked.map_err(|_| unavailable("the trace failed inside the agent: look at its log"))??))
}
