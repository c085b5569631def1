//! `/v1/endpoints`.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use fabric_api::{Endpoint, object::MoveStep, status::ErrorBody};

use super::{ApiState, body::JsonBody, error::ApiError};
use crate::service::Owner;

/// Every endpoint, local and remote, by name.
#[utoipa::path(get, path = "/v1/endpoints", tag = "endpoints", operation_id = "list_endpoints",
    responses((status = 200, description = "Every endpoint, local and remote, by name", body = Vec<Endpoint>)))]
pub(super) async fn list(State(state): State<ApiState>) -> Result<Json<Vec<Endpoint>>, ApiError> {
    Ok(Json(state.service.endpoints().await?))
}

/// Attaches an endpoint of this node. The answer comes when it carries packets; after a failure nothing is left of it.
#[utoipa::path(post, path = "/v1/endpoints", tag = "endpoints", operation_id = "attach_endpoint",
    request_body = Endpoint,
    responses(
        (status = 201, description = "The endpoint, with what the agent chose", body = Endpoint),
        (status = "4XX", description = "Nothing was done", body = ErrorBody),
        (status = "5XX", description = "It was undone", body = ErrorBody)))]
pub(super) async fn attach(
    State(state): State<ApiState>,
    JsonBody(endpoint): JsonBody<Endpoint>,
) -> Result<(StatusCode, Json<Endpoint>), ApiError> {
    let attached = state.service.attach_endpoint(&Owner::cli(), endpoint).await?;
    Ok((StatusCode::CREATED, Json(attached)))
}

/// One endpoint.
#[utoipa::path(get, path = "/v1/endpoints/{name}", tag = "endpoints", operation_id = "inspect_endpoint",
    params(("name" = String, Path, description = "The endpoint")),
    responses(
        (status = 200, description = "The endpoint, with its counters if it is local", body = Endpoint),
        (status = 404, description = "There is none of that name", body = ErrorBody)))]
pub(super) async fn inspect(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<Endpoint>, ApiError> {
    Ok(Json(state.service.endpoint(&name).await?))
}

/// Detaches an endpoint and frees its addresses.
#[utoipa::path(delete, path = "/v1/endpoints/{name}", tag = "endpoints", operation_id = "detach_endpoint",
    params(("name" = String, Path, description = "The endpoint")),
    responses(
        (status = 204, description = "It is detached"),
        (status = "4XX", description = "Nothing was done", body = ErrorBody)))]
pub(super) async fn detach(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    state.service.detach_endpoint(&Owner::cli(), &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Moves an endpoint to another node, or takes one step of that. Any agent takes the request.
#[utoipa::path(post, path = "/v1/endpoints/{name}/move", tag = "endpoints", operation_id = "move_endpoint",
    params(("name" = String, Path, description = "The endpoint")), request_body = MoveStep,
    responses(
        (status = 200, description = "The step is done; the endpoint as it is then", body = Endpoint),
        (status = "4XX", description = "Nothing was done", body = ErrorBody),
        (status = "5XX", description = "It was undone, or the sentence says what goes on", body = ErrorBody)))]
pub(super) async fn move_to(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    JsonBody(step): JsonBody<MoveStep>,
) -> Result<Json<Endpoint>, ApiError> {
    Ok(Json(state.service.move_endpoint(&Owner::cli(), &name, step).await?))
}
