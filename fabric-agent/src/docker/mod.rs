//! The door for Docker: libnetwork's remote network driver and remote IPAM driver, over the Unix socket of a legacy plug-in
//! (`docker network create -d fabric --ipam-driver fabric`). HTTP POST with JSON, one path a method; what is not a method is answered
//! with 404, as Docker expects of a driver that lacks an optional one.
//!
//! It translates and calls the service, like every front door. No call waits for another host or for Docker: Docker holds locks
//! while it waits, and calls nothing back. What a Docker network is to Fabric is remembered in the store, since Docker tells it
//! once; what a container is, in its endpoint. So the agent may be killed at any moment, and Docker too.
//!
//! Who moves the interface: Docker. The agent makes the veth with both sides in the host's namespace and sets its own side up;
//! libnetwork moves the other side into the container, names it `eth0`, and gives it addresses and routes.

mod containers;
mod engine;
mod ipam;
mod leftovers;
mod network;
mod options;
mod pool;
#[cfg(test)]
mod tests;
mod wire;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use axum::{
    Router,
    body::Bytes,
    extract::{ConnectInfo, State},
    http::{Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{net::UnixListener, sync::oneshot, time::sleep};

pub use self::{containers::Containers, leftovers::Leftovers};
use self::{engine::Engine, pool::Pools};
use crate::service::{Service, ServiceError};

/// How long calls that are being worked on may take after the shutdown began.
const GRACE: Duration = Duration::from_secs(5);
/// What Docker accepts, as it says in every request.
const CONTENT_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// What the handlers work with. Cheap to clone.
#[derive(Clone)]
struct Door {
    service: Service,
    pools: Arc<Pools>,
}

/// Why a call failed.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    /// There is no such method.
    Unknown,
    /// The request is not what the protocol says.
    Malformed(String),
    /// It is refused, or went wrong: one sentence.
    Refused(String),
}

impl From<ServiceError> for Fault {
    fn from(error: ServiceError) -> Self {
        Self::Refused(error.message)
    }
}

impl From<String> for Fault {
    fn from(sentence: String) -> Self {
        Self::Refused(sentence)
    }
}

/// Serves the plug-in's socket until `shutdown` resolves; calls that are being worked on then get five seconds.
///
/// # Errors
/// The listener fails.
pub async fn serve(
    listener: UnixListener,
    service: Service,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let door = Door { service, pools: Arc::default() };
    let router = Router::new().fallback(call).with_state(door);
    let (ending, ended) = oneshot::channel();
    let server = axum::serve(listener, router.into_make_service_with_connect_info::<Engine>())
        .with_graceful_shutdown(async move {
            shutdown.await;
            // Nobody listens any more: as good.
            let _ = ending.send(());
        });
    tokio::select! {
        result = server.into_future() => result.context("the Docker plug-in's socket failed"),
        () = async {
            let _ = ended.await;
            sleep(GRACE).await;
        } => Ok(()),
    }
}

async fn call(
    State(door): State<Door>,
    ConnectInfo(engine): ConnectInfo<Engine>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> Response {
    let path = uri.path().trim_start_matches('/');
    let (driver, name) = path.split_once('.').unwrap_or((path, ""));
    let outcome = if method == Method::POST {
        match (driver, name) {
            ("Plugin", "Activate") => Ok(json!({"Implements": ["NetworkDriver", "IpamDriver"]})),
            ("NetworkDriver", name) => door.network_call(name, &body, &engine).await,
            ("IpamDriver", name) => door.ipam_call(name, &body, &engine).await,
            _ => Err(Fault::Unknown),
        }
    } else {
        Err(Fault::Unknown)
    };
    let (status, answer) = match outcome {
        Ok(answer) => (StatusCode::OK, answer),
        Err(fault) => {
            if !matches!(fault, Fault::Unknown) {
                tracing::warn!("docker: {path}: {fault:?}");
            }
            refusal(driver, path, fault)
        }
    };
    (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], answer.to_string()).into_response()
}

/// How each API wants an error: `Err` of the network driver, `Error` of the IPAM driver, both with 200; whatever comes with another
/// status is read as `Err`.
fn refusal(driver: &str, path: &str, fault: Fault) -> (StatusCode, Value) {
    match fault {
        Fault::Unknown => (StatusCode::NOT_FOUND, json!({"Err": format!("{path} is not implemented")})),
        Fault::Malformed(text) => {
            (StatusCode::BAD_REQUEST, json!({"Err": format!("the request is not valid: {text}")}))
        }
        Fault::Refused(text) if driver == "IpamDriver" => (StatusCode::OK, json!({"Error": text})),
        Fault::Refused(text) => (StatusCode::OK, json!({"Err": text})),
    }
}

/// A request's body; nothing at all stands for an empty one.
fn read<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Fault> {
    if body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(body).map_err(|error| Fault::Malformed(error.to_string()))
}

/// What is remembered of Docker's networks on a node begins so.
fn notes(node: &str) -> String {
    format!("docker/{node}/")
}
