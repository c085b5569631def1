//! `/v1/nodes`.

use axum::{
    Json,
    extract::{Path, State},
};
use fabric_api::{Node, status::ErrorBody};

use super::{ApiState, error::ApiError};

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
