//! `/v1/denysets`.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use fabric_api::{DenySet, object::DenySetChange, status::ErrorBody};

use super::{ApiState, body::JsonBody, error::ApiError};
use crate::service::Owner;

/// Every deny set, by name.
#[utoipa::path(get, path = "/v1/denysets", tag = "policies", operation_id = "list_denysets",
    responses((status = 200, description = "Every deny set, by name", body = Vec<DenySet>)))]
pub(super) async fn list(State(state): State<ApiState>) -> Result<Json<Vec<DenySet>>, ApiError> {
    Ok(Json(state.service.deny_sets().await?))
}

/// One deny set.
#[utoipa::path(get, path = "/v1/denysets/{name}", tag = "policies", operation_id = "inspect_denyset",
    params(("name" = String, Path, description = "The deny set")),
    responses(
        (status = 200, description = "The deny set", body = DenySet),
        (status = 404, description = "There is none of that name", body = ErrorBody)))]
pub(super) async fn inspect(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<DenySet>, ApiError> {
    Ok(Json(state.service.deny_set(&name).await?))
}

/// Adds prefixes to a deny set, which is made if there is none of the name, and takes some out.
#[utoipa::path(post, path = "/v1/denysets/{name}/change", tag = "policies", operation_id = "change_denyset",
    params(("name" = String, Path, description = "The deny set")),
    request_body = DenySetChange,
    responses(
        (status = 200, description = "The deny set as it is now; without prefixes it is removed", body = DenySet),
        (status = "4XX", description = "Nothing was done", body = ErrorBody)))]
pub(super) async fn change(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    JsonBody(change): JsonBody<DenySetChange>,
) -> Result<Json<DenySet>, ApiError> {
    Ok(Json(state.service.change_deny_set(&Owner::cli(), &name, &change).await?))
}

/// Removes a deny set with all its prefixes.
#[utoipa::path(delete, path = "/v1/denysets/{name}", tag = "policies", operation_id = "remove_denyset",
    params(("name" = String, Path, description = "The deny set")),
    responses(
        (status = 204, description = "It is removed"),
        (status = "4XX", description = "Nothing was done", body = ErrorBody)))]
pub(super) async fn remove(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    state.service.delete_deny_set(&Owner::cli(), &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
