//! `/v1/networks`.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use fabric_api::{Network, status::ErrorBody};

use super::{ApiState, body::JsonBody, error::ApiError};
use crate::service::Owner;

/// Every network, by name.
#[utoipa::path(get, path = "/v1/networks", tag = "networks", operation_id = "list_networks",
    responses((status = 200, description = "Every network, by name", body = Vec<Network>)))]
pub(super) async fn list(State(state): State<ApiState>) -> Result<Json<Vec<Network>>, ApiError> {
    Ok(Json(state.service.networks().await?))
}

/// Creates a network.
#[utoipa::path(post, path = "/v1/networks", tag = "networks", operation_id = "create_network", request_body = Network,
    responses(
        (status = 201, description = "The network, with what the agent chose", body = Network),
        (status = "4XX", description = "Nothing was done", body = ErrorBody),
        (status = "5XX", description = "Nothing was done", body = ErrorBody)))]
pub(super) async fn create(
    State(state): State<ApiState>,
    JsonBody(network): JsonBody<Network>,
) -> Result<(StatusCode, Json<Network>), ApiError> {
    let network = state.service.create_network(&Owner::cli(), network).await?;
    Ok((StatusCode::CREATED, Json(network)))
}

/// One network.
#[utoipa::path(get, path = "/v1/networks/{name}", tag = "networks", operation_id = "inspect_network",
    params(("name" = String, Path, description = "The network")),
    responses(
        (status = 200, description = "The network", body = Network),
        (status = 404, description = "There is none of that name", body = ErrorBody)))]
pub(super) async fn inspect(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<Network>, ApiError> {
    Ok(Json(state.service.network(&name).await?))
}

/// Removes a network without endpoints.
#[utoipa::path(delete, path = "/v1/networks/{name}", tag = "networks", operation_id = "remove_network",
    params(("name" = String, Path, description = "The network")),
    responses(
        (status = 204, description = "It is removed"),
        (status = "4XX", description = "Nothing was done", body = ErrorBody)))]
pub(super) async fn remove(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    state.service.delete_network(&Owner::cli(), &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
