//! `/v1/report`.

use axum::{Json, extract::State, http::StatusCode};
use fabric_api::{report::Report, status::ErrorBody};

use super::{ApiState, error::ApiError};

/// What only the agent can read: maps, programs, the last events and the end of its log.
#[utoipa::path(get, path = "/v1/report", tag = "node", operation_id = "report",
    responses(
        (status = 200, description = "Maps, programs, events and log", body = Report),
        (status = "5XX", description = "It can't be read", body = ErrorBody)))]
pub(super) async fn report(State(state): State<ApiState>) -> Result<Json<Report>, ApiError> {
    let unavailable = |sentence: &str| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, sentence);
    let reports = state.reports.clone().ok_or_else(|| unavailable("this agent has nothing to report"))?;
    // Reading large tables takes its time.
    let report = tokio::task::spawn_blocking(move || reports.report()).await;
    report.map(Json).map_err(|_| unavailable("the report failed inside the agent: look at its log"))
}
