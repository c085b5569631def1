//! Reading requests: JSON whatever its content type, and an error that names the field.

use axum::{
    body::{Bytes, HttpBody},
    extract::{FromRequest, Request},
    http::StatusCode,
};
use fabric_api::parse;
use serde::de::DeserializeOwned;

use super::{ApiState, MAX_BODY, error::ApiError};

/// A request's body as a value of a known type.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<ApiState> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, ApiError> {
        // Said at once, not after all of it has been read.
        if request.body().size_hint().lower() > MAX_BODY as u64 {
            return Err(too_large());
        }
        let bytes =
            Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => too_large(),
                status => ApiError::new(
                    status,
                    format!("the request's body can't be read: {}", rejection.body_text()),
                ),
            })?;
        parse::text(&bytes).map(Self).map_err(|error| bad_request(&error))
    }
}

fn too_large() -> ApiError {
    let sentence = format!("the request's body is larger than {} MiB: send it in parts", MAX_BODY >> 20);
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, sentence)
}

/// What is wrong with a body.
pub(super) fn bad_request(error: &parse::ParseError) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, format!("the request is not valid: {error}"))
}
