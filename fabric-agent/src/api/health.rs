//! `/v1/status` and `/v1/counters`.

use axum::{Json, extract::State, http::StatusCode};
use fabric_api::status::{Counter, ErrorBody, Status};

use super::{ApiState, error::ApiError};

/// The node's health.
#[utoipa::path(get, path = "/v1/status", tag = "node", operation_id = "status",
    responses((status = 200, description = "The node's health", body = Status)))]
pub(super) async fn status(State(state): State<ApiState>) -> Result<Json<Status>, ApiError> {
    Ok(Json(state.service.status().await?))
}

/// Every drop and action of every hook.
#[utoipa::path(get, path = "/v1/counters", tag = "node", operation_id = "counters",
    responses(
        (status = 200, description = "Every drop and action of every hook, zeros included", body = Vec<Counter>),
        (status = 500, description = "The maps can't be read", body = ErrorBody)))]
pub(super) async fn counters(State(state): State<ApiState>) -> Result<Json<Vec<Counter>>, ApiError> {
    state.counters.read().map(Json).map_err(|error| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the counters can't be read: {error:#}"))
    })
}
