//! `/v1/flows`: a stream that ends with the last flow.

use std::{io, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::{Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use fabric_api::{
    flow::{Flow, FlowFilter, FlowState},
    status::ErrorBody,
};
use futures::stream;

use super::{ApiState, error::ApiError};
use crate::observe::flows::{self, FlowNames, FlowScan, Wanted};

/// Flows that connection tracking knows, in no order, one JSON object a line. They are read while they are sent, so a flow that is
/// answered meanwhile may come twice.
#[utoipa::path(get, path = "/v1/flows", tag = "node", operation_id = "flows",
    params(
        ("endpoint" = Option<String>, Query, description = "Only flows of this endpoint, on either side"),
        ("network" = Option<String>, Query, description = "Only flows of this network"),
        ("protocol" = Option<String>, Query, description = "`tcp`, `udp`, `sctp`, `icmp`, `icmpv6` or a number"),
        ("address" = Option<String>, Query, description = "Only flows of this address or prefix, on either side"),
        ("port" = Option<u16>, Query, description = "Only flows with this port, on either side"),
        ("state" = Option<FlowState>, Query, description = "Only flows that are so far"),
        ("limit" = Option<u64>, Query, description = "At most so many")),
    responses(
        (status = 200, description = "One flow a line", body = Flow, content_type = "application/x-ndjson"),
        (status = "4XX", description = "The filter is wrong", body = ErrorBody)))]
pub(super) async fn stream(
    State(state): State<ApiState>,
    query: Result<Query<FlowFilter>, QueryRejection>,
) -> Result<Response, ApiError> {
    let bad = |sentence: String| ApiError::new(StatusCode::BAD_REQUEST, sentence);
    let Query(filter) = query.map_err(|rejection| {
        bad(format!(
            "only endpoint, network, protocol, address, port, state=new|established|closing and limit choose flows: {}",
            rejection.body_text()
        ))
    })?;
    let unavailable = || ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "this agent tracks no flows");
    let source = state.flows.clone().ok_or_else(unavailable)?;
    let (networks, endpoints) = (state.service.networks().await?, state.service.endpoints().await?);
    let names = FlowNames::new(&networks, &endpoints, state.events.rules());
    let wanted = Wanted::new(&filter, &names).map_err(bad)?;
    let left = filter.limit.unwrap_or(u64::MAX);
    let reading = Reading { scan: source.scan(), names: Arc::new(names), wanted, left };
    let chunks = stream::unfold(Some(reading), |reading| async move {
        // Not on this thread: a part takes milliseconds.
        let reading = reading?;
        match tokio::task::spawn_blocking(move || reading.part()).await.map_err(anyhow::Error::from).flatten()
        {
            Ok(part) => part.map(|(lines, reading)| (Ok(lines), Some(reading))),
            // The reader must not take a part for all.
            Err(error) => {
                tracing::warn!("flows can't be read: {error:#}");
                Some((Err(io::Error::other("flows can't be read")), None))
            }
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(chunks)).into_response())
}

struct Reading {
    scan: Box<dyn FlowScan>,
    names: Arc<FlowNames>,
    wanted: Wanted,
    left: u64,
}

impl Reading {
    /// The lines of the next part that has any; absent at the end.
    fn part(mut self) -> anyhow::Result<Option<(Bytes, Self)>> {
        let mut lines = Vec::new();
        while lines.is_empty() && self.left > 0 {
            let Some(rows) = self.scan.next_rows()? else { break };
            let now = flows::boot_time();
            let wanted = rows.iter().filter_map(|(k, v)| flows::told(k, v, now, &self.names, &self.wanted));
            for flow in wanted.take(usize::try_from(self.left).unwrap_or(usize::MAX)) {
                self.left -= 1;
                serde_json::to_writer(&mut lines, &flow)?;
                lines.push(b'\n');
            }
        }
        Ok((!lines.is_empty()).then(|| (Bytes::from(lines), self)))
    }
}
