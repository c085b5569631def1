//! Refusals: an HTTP status and one sentence.

use std::collections::BTreeMap;

use axum::{
    Json,
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use fabric_api::status::ErrorBody;

use crate::service::{ErrorKind, ServiceError};

/// Why a request failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    status: StatusCode,
    sentence: String,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, sentence: impl Into<String>) -> Self {
        Self { status, sentence: sentence.into() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { error: self.sentence, details: BTreeMap::new() })).into_response()
    }
}

impl From<ServiceError> for ApiError {
    fn from(error: ServiceError) -> Self {
        let status = match error.kind {
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Refused => StatusCode::FORBIDDEN,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.message)
    }
}

pub(super) async fn no_such_path(uri: Uri) -> ApiError {
    let path = uri.path();
    ApiError::new(
        StatusCode::NOT_FOUND,
        format!("{path} does not exist here: see GET /v1/openapi.json for what does"),
    )
}

pub(super) async fn no_such_method(method: Method, uri: Uri) -> ApiError {
    let path = uri.path();
    let sentence =
        format!("{path} can't be asked with {method}: see GET /v1/openapi.json for what it answers");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, sentence)
}
