//! `/v1/nodes`.

use axum::{
    Json,
    extract::{Path, State},
};
use fabric_api::{Node, object::Drain, status::ErrorBody};

use super::{ApiState, body::JsonBody, error::ApiError};

/// Every node, this one included, by name.
#[utoipa::path(get, path = "/v1/nodes", tag = "nodes", operation_id = "list_nodes",
    responses((status = 200, description = "Every node, this one included, by name", body = Vec<Node>)))]
pub(super) async fn list(State(state): State<ApiState>) -> Result<Json<Vec<Node>>, ApiError> {
    Ok(Json(state.service.nodes().await?))
}

/// One node.
#[utoipa::path(get, path = "/v1/nodes/{name}", tag = "nodes", operation_id = "inspect_node",
    params(("name" = String, Path, description = "The node")),
    responses(
        (status = 200, description = "The node", body = Node),
        (status = 404, description = "There is none of that name", body = ErrorBody)))]
pub(super) async fn inspect(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<Node>, ApiError> {
    Ok(Json(state.service.node(&name).await?))
}

/// Lets a node take no endpoints more, or take them again. Any agent takes the request.
#[utoipa::path(post, path = "/v1/nodes/{name}/drain", tag = "nodes", operation_id = "drain_node",
    params(("name" = String, Path, description = "The node")), request_body = Drain,
    responses(
        (status = 200, description = "The node as it is then", body = Node),
        (status = "4XX", description = "Nothing was done", body = ErrorBody)))]
pub(super) async fn drain(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    JsonBody(drain): JsonBody<Drain>,
) -> Result<Json<Node>, ApiError> {
    Ok(Json(state.service.drain_node(&name, drain.drained).await?))
}
