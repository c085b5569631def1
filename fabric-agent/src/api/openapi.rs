//! The API's own description.

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use fabric_api::{
    DenySet,
    Endpoint,
    Event,
    Namespace,
    Network,
    Node,
    // utoipa takes the bare name for any JSON object.
    Object as AnyObject,
    capture::CaptureRequest,
    flow::{Flow, FlowState},
    policy::{LintFinding, PolicyAnswer, PolicyQuestion},
    report::Report,
    status::{Applied, Counter, ErrorBody, Status},
    trace::{TraceReport, TraceRequest},
};
use utoipa::OpenApi;

use super::{
    apply, capture, denysets, endpoints, events, flows, health, namespaces, networks, nodes, policies,
    report, trace,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Fabric",
        version = "v1",
        description = "The agent's API over its Unix socket, HTTP/1.1 with JSON. Unknown keys are refused.",
    ),
    paths(
        networks::list, networks::create, networks::inspect, networks::remove,
        endpoints::list, endpoints::attach, endpoints::inspect, endpoints::detach, endpoints::move_to,
        nodes::list, nodes::inspect, nodes::drain,
        policies::list, policies::inspect, policies::remove, policies::test, policies::lint,
        denysets::list, denysets::inspect, denysets::change, denysets::remove,
        namespaces::list, namespaces::inspect, namespaces::remove,
        apply::apply,
        health::status, health::counters,
        events::stream, flows::stream, trace::trace, capture::capture, report::report
    ),
    components(schemas(Network, Endpoint, Node, Namespace, DenySet, PolicyQuestion, PolicyAnswer, LintFinding, AnyObject, Applied, Status, Counter, Event, Flow, FlowState, TraceRequest, TraceReport, CaptureRequest, Report, ErrorBody)),
    tags(
        (name = "networks", description = "Layer 2 networks, one VNI each"),
        (name = "endpoints", description = "Attachments of containers"),
        (name = "nodes", description = "Hosts of the fabric and foreign VTEPs"),
        (name = "policies", description = "Who may talk to whom"),
        (name = "objects", description = "Objects of any kind, declaratively"),
        (name = "node", description = "What this node says of itself")
    )
)]
struct Document;

/// The OpenAPI document as JSON, the same on every build; ends with a newline.
pub fn openapi() -> String {
    // The document is plain data with text keys: it always has a JSON form.
    let mut json = Document::openapi().to_pretty_json().unwrap_or_default();
    json.push('\n');
    json
}

pub(super) async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], openapi()).into_response()
}
