//! `/v1/capture`: a stream that ends when either side does, or as asked.

use axum::{
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use fabric_api::{capture::CaptureRequest, status::ErrorBody};
use futures::StreamExt;

use super::{ApiState, body::JsonBody, error::ApiError, events::refresh_names};
use crate::observe::capture::Known;

/// Captures packets. What the programs drop is in it, with the reason as the packet's comment.
#[utoipa::path(post, path = "/v1/capture", tag = "node", operation_id = "capture", request_body = CaptureRequest,
    responses(
        (status = 200, description = "Packets in the pcapng format, until either side ends or as asked", body = Vec<u8>,
            content_type = "application/x-pcapng"),
        (status = "4XX", description = "The request is wrong", body = ErrorBody),
        (status = "5XX", description = "The kernel gives no packet socket", body = ErrorBody)))]
pub(super) async fn capture(
    State(state): State<ApiState>,
    JsonBody(request): JsonBody<CaptureRequest>,
) -> Result<Response, ApiError> {
    let unavailable = |sentence: &str| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, sentence);
    let captures = state.captures.clone().ok_or_else(|| unavailable("this agent can't capture"))?;
    refresh_names(&state).await;
    let known = Known {
        networks: state.service.networks().await?,
        endpoints: state.service.endpoints().await?,
        status: state.service.status().await?,
    };
    let packets = captures.capture(&request, &known)?;
    let mut closing = state.closing.clone();
    let closed = async move {
        if closing.wait_for(|closing| *closing).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let chunks = packets.take_until(Box::pin(closed)).map(Ok::<_, std::convert::Infallible>);
    Ok(([(header::CONTENT_TYPE, "application/x-pcapng")], Body::from_stream(chunks)).into_response())
}
