//! `/v1/namespaces`.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use fabric_api::{Namespace, status::ErrorBody};

use super::{ApiState, error::ApiError};
use crate::service::Owner;

/// Every namespace, by name: those with an object, and those that an endpoint or a policy names.
#[utoipa::path(get, path = "/v1/namespaces", tag = "policies", operation_id = "list_namespaces",
    responses((status = 200, description = "Every namespace, by name", body = Vec<Namespace>)))]
pub(super) async fn list(State(state): State<ApiState>) -> Result<Json<Vec<Namespace>>, ApiError> {
    Ok(Json(state.service.namespaces().await?))
}

/// One namespace.
#[utoipa::path(get, path = "/v1/namespaces/{name}", tag = "policies", operation_id = "inspect_namespace",
    params(("name" = String, Path, description = "The namespace")),
    responses(
        (status = 200, description = "The namespace", body = Namespace),
        (status = 404, description = "There is none of that name", body = ErrorBody)))]
pub(super) async fn inspect(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<Namespace>, ApiError> {
    Ok(Json(state.service.namespace(&name).await?))
}

/// Removes a Namespace object. What is in the namespace stays, without the object's labels.
#[utoipa::path(delete, path = "/v1/namespaces/{name}", tag = "policies", operation_id = "remove_namespace",
    params(("name" = String, Path, description = "The namespace")),
    responses(
        (status = 204, description = "It is removed"),
        (status = "4XX", description = "Nothing was done", body = ErrorBody)))]
pub(super) async fn remove(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    state.service.delete_namespace(&Owner::cli(), &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
