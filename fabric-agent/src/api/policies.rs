//! `/v1/policies`.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use fabric_api::{
    // utoipa takes the bare name for any JSON object.
    Object as AnyObject,
    policy::{LintFinding, PolicyAnswer, PolicyQuestion},
    status::ErrorBody,
};

use super::{ApiState, body::JsonBody, error::ApiError};
use crate::service::Owner;

/// Every policy: ClusterNetworkPolicies, then NetworkPolicies, each by name.
#[utoipa::path(get, path = "/v1/policies", tag = "policies", operation_id = "list_policies",
    responses((status = 200, description = "Every ClusterNetworkPolicy, then every NetworkPolicy", body = Vec<AnyObject>)))]
pub(super) async fn list(State(state): State<ApiState>) -> Result<Json<Vec<AnyObject>>, ApiError> {
    Ok(Json(state.service.policies().await?))
}

/// One policy.
#[utoipa::path(get, path = "/v1/policies/{name}", tag = "policies", operation_id = "inspect_policy",
    params(("name" = String, Path, description = "`NAMESPACE/NAME` (the slash encoded as `%2F`) of a NetworkPolicy; `NAME` of a ClusterNetworkPolicy or, if there is none, of a NetworkPolicy in the namespace `default`. The kind may be in front, as in `ClusterNetworkPolicy/NAME`")),
    responses(
        (status = 200, description = "The policy", body = AnyObject),
        (status = 404, description = "There is none of that name", body = ErrorBody)))]
pub(super) async fn inspect(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<AnyObject>, ApiError> {
    Ok(Json(state.service.policy(&name).await?))
}

/// Removes a policy.
#[utoipa::path(delete, path = "/v1/policies/{name}", tag = "policies", operation_id = "remove_policy",
    params(("name" = String, Path, description = "As for reading one")),
    responses(
        (status = 204, description = "It is removed"),
        (status = "4XX", description = "Nothing was done", body = ErrorBody)))]
pub(super) async fn remove(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    state.service.delete_policy(&Owner::cli(), &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// May one talk to the other?
#[utoipa::path(post, path = "/v1/policies/test", tag = "policies", operation_id = "test_policies",
    request_body = PolicyQuestion,
    responses(
        (status = 200, description = "What the policies say", body = PolicyAnswer),
        (status = "4XX", description = "The question can't be answered", body = ErrorBody)))]
pub(super) async fn test(
    State(state): State<ApiState>,
    JsonBody(question): JsonBody<PolicyQuestion>,
) -> Result<Json<PolicyAnswer>, ApiError> {
    Ok(Json(state.service.ask_policies(&question).await?))
}

/// What in the policies is probably not meant.
#[utoipa::path(get, path = "/v1/policies/lint", tag = "policies", operation_id = "lint_policies",
    responses((status = 200, description = "One finding a mistake", body = Vec<LintFinding>)))]
pub(super) async fn lint(State(state): State<ApiState>) -> Result<Json<Vec<LintFinding>>, ApiError> {
    Ok(Json(state.service.lint_policies().await?))
}
