//! The agent's API, called over its Unix socket: one method a route, each with a connection of its own.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use crate::{
    capture::CaptureRequest,
    event::Event,
    flow::{Flow, FlowFilter},
    object::{DenySet, DenySetChange, Drain, Endpoint, MoveStep, Namespace, Network, Node, Object},
    policy::{LintFinding, PolicyAnswer, PolicyQuestion},
    report::Report,
    status::{Applied, Counter, ErrorBody, Status},
    trace::{TraceReport, TraceRequest},
};

/// Where the agent listens unless it was told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/fabric/fabric.sock";

/// How long an answer may take. An endpoint's attachment waits for the kernel, hence not shorter.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a call failed; the text is one sentence for people.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No agent could be reached.
    #[error("{}", connect_sentence(socket, source))]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The agent refused; the sentence is its own.
    #[error("{}", body.error)]
    Refused {
        /// HTTP status, 400 to 599.
        status: u16,
        /// The agent's words.
        body: ErrorBody,
    },
    /// The connection broke, took too long, or the answer is not what this version expects.
    #[error("the agent on {} {what}", socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What happened, as the end of a sentence.
        what: String,
    },
}

fn connect_sentence(socket: &Path, source: &io::Error) -> String {
    let socket = socket.display();
    let start =
        "start one with `fabric-agent --underlay IFACE`, or name its socket with --socket or FABRIC_SOCKET";
    if source.kind() == io::ErrorKind::NotFound {
        format!("no agent listens on {socket}, the socket does not exist: {start}")
    } else if source.kind() == io::ErrorKind::ConnectionRefused {
        format!("no agent listens on {socket}, it has stopped: {start}")
    } else if source.kind() == io::ErrorKind::PermissionDenied {
        format!("no permission to open {socket}: the agent's socket is for its own user only, try with sudo")
    } else {
        format!("can't connect to the agent on {socket}: {source}")
    }
}

/// A client of one agent. Cheap to make and to clone; nothing is connected until a call.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// What `events` should leave out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Only drops.
    pub drops: bool,
    /// Only what concerns this local endpoint.
    pub endpoint: Option<String>,
}

impl Client {
    /// A client of the agent that listens on `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Every network, by name.
    ///
    /// # Errors
    /// Any [`ClientError`]; so do all methods below.
    pub async fn networks(&self) -> Result<Vec<Network>, ClientError> {
        self.get("/v1/networks").await
    }

    /// One network.
    pub async fn network(&self, name: &str) -> Result<Network, ClientError> {
        self.get(&named("networks", name)).await
    }

    /// Creates a network; the answer has what the agent chose.
    pub async fn create_network(&self, network: &Network) -> Result<Network, ClientError> {
        self.post("/v1/networks", network).await
    }

    /// Removes a network.
    pub async fn delete_network(&self, name: &str) -> Result<(), ClientError> {
        self.delete(&named("networks", name)).await
    }

    /// Every endpoint, local and remote, by name.
    pub async fn endpoints(&self) -> Result<Vec<Endpoint>, ClientError> {
        self.get("/v1/endpoints").await
    }

    /// One endpoint.
    pub async fn endpoint(&self, name: &str) -> Result<Endpoint, ClientError> {
        self.get(&named("endpoints", name)).await
    }

    /// Attaches an endpoint of this node; the answer comes when it carries packets.
    pub async fn attach_endpoint(&self, endpoint: &Endpoint) -> Result<Endpoint, ClientError> {
        self.post("/v1/endpoints", endpoint).await
    }

    /// Detaches an endpoint.
    pub async fn detach_endpoint(&self, name: &str) -> Result<(), ClientError> {
        self.delete(&named("endpoints", name)).await
    }

    /// Moves an endpoint to another node, or takes one step of that.
    pub async fn move_endpoint(&self, name: &str, step: &MoveStep) -> Result<Endpoint, ClientError> {
        self.post(&format!("{}/move", named("endpoints", name)), step).await
    }

    /// Every node, by name.
    pub async fn nodes(&self) -> Result<Vec<Node>, ClientError> {
        self.get("/v1/nodes").await
    }

    /// One node.
    pub async fn node(&self, name: &str) -> Result<Node, ClientError> {
        self.get(&named("nodes", name)).await
    }

    /// Lets a node take no endpoints more, or take them again.
    pub async fn drain_node(&self, name: &str, drained: bool) -> Result<Node, ClientError> {
        self.post(&format!("{}/drain", named("nodes", name)), &Drain { drained }).await
    }

    /// Every policy: ClusterNetworkPolicies, then NetworkPolicies, each by name.
    pub async fn policies(&self) -> Result<Vec<Object>, ClientError> {
        self.get("/v1/policies").await
    }

    /// One policy: `NAMESPACE/NAME` is a NetworkPolicy, `NAME` a ClusterNetworkPolicy or, if there is none, a NetworkPolicy of
    /// the namespace `default`.
    pub async fn policy(&self, name: &str) -> Result<Object, ClientError> {
        self.get(&policy_path(name)).await
    }

    /// Removes a policy, named as for [`Self::policy`].
    pub async fn delete_policy(&self, name: &str) -> Result<(), ClientError> {
        self.delete(&policy_path(name)).await
    }

    /// Asks the policies whether one may talk to the other.
    pub async fn test_policies(&self, question: &PolicyQuestion) -> Result<PolicyAnswer, ClientError> {
        self.post("/v1/policies/test", question).await
    }

    /// What in the policies is probably not meant.
    pub async fn lint_policies(&self) -> Result<Vec<LintFinding>, ClientError> {
        self.get("/v1/policies/lint").await
    }

    /// Every deny set, by name.
    pub async fn deny_sets(&self) -> Result<Vec<DenySet>, ClientError> {
        self.get("/v1/denysets").await
    }

    /// Adds prefixes to a deny set, which is made if there is none of the name, or takes some out.
    pub async fn change_deny_set(&self, name: &str, change: &DenySetChange) -> Result<DenySet, ClientError> {
        self.post(&format!("{}/change", named("denysets", name)), change).await
    }

    /// Every namespace, by name.
    pub async fn namespaces(&self) -> Result<Vec<Namespace>, ClientError> {
        self.get("/v1/namespaces").await
    }

    /// One namespace.
    pub async fn namespace(&self, name: &str) -> Result<Namespace, ClientError> {
        self.get(&named("namespaces", name)).await
    }

    /// Removes a Namespace object.
    pub async fn delete_namespace(&self, name: &str) -> Result<(), ClientError> {
        self.delete(&named("namespaces", name)).await
    }

    /// Creates or changes objects, all or none.
    pub async fn apply(&self, objects: &[Object]) -> Result<Vec<Applied>, ClientError> {
        self.post("/v1/apply", objects).await
    }

    /// The node's health.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// Every drop and action of every hook, zeros included.
    pub async fn counters(&self) -> Result<Vec<Counter>, ClientError> {
        self.get("/v1/counters").await
    }

    /// What only the agent can read: maps, programs, the last events and the end of its log.
    pub async fn report(&self) -> Result<Report, ClientError> {
        self.get("/v1/report").await
    }

    /// Walks one packet through the programs, without sending it.
    pub async fn trace(&self, request: &TraceRequest) -> Result<TraceReport, ClientError> {
        self.post("/v1/trace", request).await
    }

    /// Live events, from now on.
    pub async fn events(&self, filter: &EventFilter) -> Result<Events, ClientError> {
        let mut path = format!("/v1/events?drops={}", filter.drops);
        if let Some(endpoint) = &filter.endpoint {
            path.push_str("&endpoint=");
            path.push_str(&encoded(endpoint));
        }
        let response = self.within(self.send(Method::GET, &path, Bytes::new())).await?;
        let body = self.checked(response).await?;
        Ok(Events { lines: Lines { socket: self.socket.clone(), body, buffer: Vec::new(), of: "events" } })
    }

    /// Flows as they are now, in no order. They come as they are read, so that a million of them need no room.
    pub async fn flows(&self, filter: &FlowFilter) -> Result<Flows, ClientError> {
        let text = |text: &Option<String>| text.as_deref().map(encoded);
        let values = [
            ("endpoint", text(&filter.endpoint)),
            ("network", text(&filter.network)),
            ("protocol", text(&filter.protocol)),
            ("address", text(&filter.address)),
            ("port", filter.port.map(|port| port.to_string())),
            ("state", filter.state.map(|state| state.as_str().to_owned())),
            ("limit", filter.limit.map(|limit| limit.to_string())),
        ];
        let values = values.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
        let path = format!("/v1/flows?{}", values.collect::<Vec<_>>().join("&"));
        let response = self.within(self.send(Method::GET, &path, Bytes::new())).await?;
        let body = self.checked(response).await?;
        Ok(Flows { lines: Lines { socket: self.socket.clone(), body, buffer: Vec::new(), of: "flows" } })
    }

    /// A capture, from now on, in the pcapng format.
    pub async fn capture(&self, request: &CaptureRequest) -> Result<Packets, ClientError> {
        let body = self.body_of(request)?;
        let response = self.within(self.send(Method::POST, "/v1/capture", body)).await?;
        Ok(Packets { socket: self.socket.clone(), body: self.checked(response).await? })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.within(async { self.decoded(self.send(Method::GET, path, Bytes::new()).await?).await }).await
    }

    async fn post<B, T>(&self, path: &str, body: &B) -> Result<T, ClientError>
    where
        B: Serialize + ?Sized,
        T: DeserializeOwned,
    {
        let body = self.body_of(body)?;
        self.within(async { self.decoded(self.send(Method::POST, path, body).await?).await }).await
    }

    fn body_of<B: Serialize + ?Sized>(&self, body: &B) -> Result<Bytes, ClientError> {
        let body = serde_json::to_vec(body);
        body.map(Bytes::from).map_err(|error| self.broken(format!("can't be asked that: {error}")))
    }

    async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.within(async {
            let response = self.send(Method::DELETE, path, Bytes::new()).await?;
            self.checked(response).await.map(drop)
        })
        .await
    }

    async fn within<T>(&self, call: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        let seconds = PATIENCE.as_secs();
        tokio::time::timeout(PATIENCE, call)
            .await
            .unwrap_or_else(|_| Err(self.broken(format!("did not answer within {seconds} s"))))
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Connect { socket: self.socket.clone(), source })?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.unanswered(&error))?;
        // Ends when the response was read or dropped; an error of it reaches the reader of the response as well.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "fabric")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.broken(format!("can't be asked that: {error}")))?;
        sender.send_request(request).await.map_err(|error| self.unanswered(&error))
    }

    /// The body of a success, or the agent's refusal.
    async fn checked(&self, response: Response<Incoming>) -> Result<Incoming, ClientError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let bytes = self.collected(response.into_body()).await?;
        let body = serde_json::from_slice(&bytes).map_err(|_| {
            self.broken(format!("answered {status} without saying why: is it a Fabric agent?"))
        })?;
        Err(ClientError::Refused { status: status.as_u16(), body })
    }

    async fn decoded<T: DeserializeOwned>(&self, response: Response<Incoming>) -> Result<T, ClientError> {
        let body = self.checked(response).await?;
        let bytes = self.collected(body).await?;
        crate::parse::text(&bytes).map_err(|error| {
            self.broken(format!("gave an answer that this version does not understand: {error}"))
        })
    }

    async fn collected(&self, body: Incoming) -> Result<Bytes, ClientError> {
        Ok(body.collect().await.map_err(|error| self.unanswered(&error))?.to_bytes())
    }

    fn unanswered(&self, error: &hyper::Error) -> ClientError {
        self.broken(format!("closed the connection before it had answered ({error}): look at its log"))
    }

    fn broken(&self, what: String) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), what }
    }
}

/// A stream of events; dropping it ends the subscription.
#[derive(Debug)]
pub struct Events {
    lines: Lines,
}

impl Events {
    /// The next event; `None` when the agent has ended.
    ///
    /// # Errors
    /// The connection broke, or a line is no event. Cancelling this future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        self.lines.next().await
    }
}

/// A stream of flows; dropping it ends the reading.
#[derive(Debug)]
pub struct Flows {
    lines: Lines,
}

impl Flows {
    /// The next flow; `None` at the end.
    ///
    /// # Errors
    /// The connection broke, or a line is no flow. Cancelling this future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Flow>, ClientError> {
        self.lines.next().await
    }
}

/// A body of one JSON object a line.
#[derive(Debug)]
struct Lines {
    socket: PathBuf,
    body: Incoming,
    buffer: Vec<u8>,
    of: &'static str,
}

impl Lines {
    async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ClientError> {
        let broken = |socket: &Path, what| ClientError::Broken { socket: socket.to_owned(), what };
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return crate::parse::text(&line).map(Some).map_err(|error| {
                    let of = self.of;
                    broken(&self.socket, format!("sent {of} that this version does not understand: {error}"))
                });
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                Some(Err(_)) => {
                    let what = format!("ended while {} were read: look at its log, then ask again", self.of);
                    return Err(broken(&self.socket, what));
                }
            }
        }
    }
}

/// A running capture; dropping it ends it.
#[derive(Debug)]
pub struct Packets {
    socket: PathBuf,
    body: Incoming,
}

impl Packets {
    /// The next bytes of the capture, which need not end with a block; `None` when it has ended.
    ///
    /// # Errors
    /// The connection broke. Cancelling this future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(_)) => {
                    let what =
                        "ended while packets were captured: start it again, then the capture".to_owned();
                    return Err(ClientError::Broken { socket: self.socket.clone(), what });
                }
            }
        }
    }
}

/// Two names are routes of their own; the kind in front tells the policies apart from them.
fn policy_path(name: &str) -> String {
    match name {
        "test" | "lint" => named("policies", &format!("ClusterNetworkPolicy/{name}")),
        _ => named("policies", name),
    }
}

fn named(kind: &str, name: &str) -> String {
    format!("/v1/{kind}/{}", encoded(name))
}

/// Percent-encoding (RFC 3986) of everything that is not unreserved, so that any text is one path segment or value.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{named, policy_path};

    #[test]
    fn a_policy_may_be_called_as_a_route_is() {
        assert_eq!(policy_path("lint"), "/v1/policies/ClusterNetworkPolicy%2Flint");
        assert_eq!(policy_path("shop/lint"), "/v1/policies/shop%2Flint");
    }

    #[test]
    fn any_name_is_one_path_segment() {
        assert_eq!(named("networks", "blue-1.x"), "/v1/networks/blue-1.x");
        assert_eq!(named("networks", "a/b ?ü"), "/v1/networks/a%2Fb%20%3F%C3%BC");
    }
}
