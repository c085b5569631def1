//! `/v1/apply`.

use axum::{Json, extract::State};
use fabric_api::{
    // utoipa takes the bare name for any JSON object.
    Object as AnyObject,
    parse,
    status::{Applied, ErrorBody},
};
use serde_json::Value;

use super::{
    ApiState,
    body::{JsonBody, bad_request},
    error::ApiError,
};
use crate::service::Owner;

/// Creates or changes objects of any kind, all or none.
#[utoipa::path(post, path = "/v1/apply", tag = "objects", operation_id = "apply", request_body = Vec<AnyObject>,
    responses(
        (status = 200, description = "What was done with each, in the order of the request", body = Vec<Applied>),
        (status = "4XX", description = "Nothing was done", body = ErrorBody),
        (status = "5XX", description = "Nothing was done", body = ErrorBody)))]
pub(super) async fn apply(
    State(state): State<ApiState>,
    JsonBody(values): JsonBody<Vec<Value>>,
) -> Result<Json<Vec<Applied>>, ApiError> {
    let objects = values.into_iter().map(parse::object).collect::<Result<Vec<_>, _>>();
    let objects = objects.map_err(|error| bad_request(&error))?;
    Ok(Json(state.service.apply(&Owner::cli(), objects).await?))
}
