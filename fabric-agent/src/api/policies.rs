//! `/v1/policies`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use fabric_api::{
    // utoipa takes the bare name for any JSON object.
    Object as AnyObject,
    policy::{LintFinding, PolicyAnswer, PolicyQuestion},
    status::{ErrorBody, RuleStatus},
};
use tokio::task::spawn_blocking;

use super::{ApiState, body::JsonBody, error::ApiError};
use crate::{
    observe::counters::by_name,
    service::{ErrorKind, Owner, ServiceError},
};

/// Every policy: ClusterNetworkPolicies, then NetworkPolicies, each by name.
#[utoipa::path(get, path = "/v1/policies", tag = "policies", operation_id = "list_policies",
    responses((status = 200, description = "Every ClusterNetworkPolicy, then every NetworkPolicy", body = Vec<AnyObject>)))]
pub(super) async fn list(State(state): State<ApiState>) -> Result<Json<Vec<AnyObject>>, ApiError> {
    let mut policies = state.service.policies().await?;
    count(&state, &mut policies).await?;
    Ok(Json(policies))
}

/// One policy.
#[utoipa::path(get, path = "/v1/policies/{name}", tag = "policies", operation_id = "inspect_policy",
    params(("name" = String, Path, description = "`NAMESPACE/NAME` (the slash encoded as `%2F`) of a NetworkPolicy; `NAME` of a ClusterNetworkPolicy or of a NetworkPolicy in the namespace `default`, if no other policy has that name. The kind may be in front, as in `ClusterNetworkPolicy/NAME`")),
    responses(
        (status = 200, description = "The policy", body = AnyObject),
        (status = 404, description = "There is none of that name", body = ErrorBody),
        (status = 409, description = "There is more than one of that name", body = ErrorBody)))]
pub(super) async fn inspect(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<AnyObject>, ApiError> {
    let mut policy = state.service.policy(&name).await?;
    count(&state, std::slice::from_mut(&mut policy)).await?;
    Ok(Json(policy))
}

/// Adds what the rules decided on to the policies' status.
async fn count(state: &ApiState, policies: &mut [AnyObject]) -> Result<(), ApiError> {
    if policies.is_empty() {
        return Ok(());
    }
    let (counters, names) = (Arc::clone(&state.counters), state.events.rules());
    let read = spawn_blocking(move || by_name(&*counters, &names)).await;
    let unreadable = |error: &dyn std::fmt::Display| {
        ServiceError::new(ErrorKind::Internal, format!("the counters of rules can't be read: {error:#}"))
    };
    let rules = read.map_err(|error| unreadable(&error))?.map_err(|error| unreadable(&error))?;
    for policy in policies {
        let prefix = format!("{}/{}/", policy.kind(), policy.id());
        let status = match policy {
            AnyObject::NetworkPolicy(policy) => policy.status.as_mut(),
            AnyObject::ClusterNetworkPolicy(policy) => policy.status.as_mut(),
            AnyObject::Network(_)
            | AnyObject::Node(_)
            | AnyObject::Endpoint(_)
            | AnyObject::Namespace(_)
            | AnyObject::DenySet(_) => None,
        };
        if let Some(status) = status {
            let own = rules.range(prefix.clone()..).map_while(|(name, tally)| {
                let rule = name.strip_prefix(&prefix)?.to_owned();
                Some(RuleStatus { rule, packets: tally.packets, bytes: tally.bytes })
            });
            status.rules = own.collect();
        }
    }
    Ok(())
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
