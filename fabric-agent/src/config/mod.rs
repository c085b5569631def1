//! The agent's settings: flags, environment variables and the file, in this order of precedence, made into checked
//! values once. Every setting has one name: `--vxlan-port`, `FABRIC_VXLAN_PORT`, and `vxlan-port` in the file.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use crate::model::{self, Dscp};

mod args;
mod maps;
mod store;
#[cfg(test)]
mod tests;

pub use args::{Args, Command, Settings, UplinkMode};
pub use maps::default_maps;
pub use store::StoreAddress;

/// Where the file is if `--config` does not say otherwise. It may be missing there.
pub const DEFAULT_FILE: &str = "/etc/fabric/agent.toml";
const DEFAULT_PORT: u16 = 4789;
const DEFAULT_STORE: &str = "local:///var/lib/fabric";
const DEFAULT_SOCKET: &str = "/run/fabric/fabric.sock";
const DEFAULT_DOCKER: &str = "/run/docker.sock";
const DEFAULT_BPFFS: &str = "/sys/fs/bpf/fabric";
const DEFAULT_EVENTS: u32 = 100;
/// Above the ports that Linux gives to the host's own sockets (`net.ipv4.ip_local_port_range`, to 60999).
const DEFAULT_NAT_PORTS: (u16, u16) = (61000, 65535);
/// More drop events a second and CPU than anything could read.
const MAX_EVENTS: u32 = 1_000_000;

/// One sentence: which setting is wrong and what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// Checked settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node's name: the host's name if none was given.
    pub node: String,
    /// Underlay interfaces, in order; empty: those of the default routes.
    pub underlay: Vec<String>,
    /// VTEP addresses of this node, preferred first; empty: those of the underlay interfaces.
    pub vteps: Vec<IpAddr>,
    /// UDP port of VXLAN, not 0.
    pub vxlan_port: u16,
    /// UDP port of probes of the paths to other VTEPs, not 0; none: nothing is probed.
    pub probe_port: Option<u16>,
    /// Where metrics are served; none: nowhere.
    pub metrics: Option<SocketAddr>,
    /// DSCP of outer headers.
    pub dscp: Dscp,
    /// First and last port of the host that masqueraded flows are given.
    pub nat_ports: (u16, u16),
    /// Whether XDP is used on the uplinks.
    pub uplink_mode: UplinkMode,
    /// A directory of objects.
    pub manifests: Option<PathBuf>,
    /// The store.
    pub store: StoreAddress,
    /// The API's Unix socket.
    pub socket: PathBuf,
    /// The socket of the Docker plug-in; none: Docker is not served.
    pub docker_plugin: Option<PathBuf>,
    /// The socket of Docker's own API.
    pub docker_socket: PathBuf,
    /// The directory of maps and links, on a bpffs.
    pub bpffs: PathBuf,
    /// Entries of every map that can be sized (bytes for `events`), by name.
    pub maps: BTreeMap<&'static str, u32>,
    /// Drop events a second and CPU; 0 turns them off.
    pub events_per_second: u32,
    /// Whether the programs log every drop.
    pub debug_dataplane: bool,
}

impl Config {
    /// Reads the file that the arguments name and makes a checked configuration of both. Reads the host's name only if
    /// no node name was given.
    ///
    /// # Errors
    /// The first setting that is wrong, a named file that is missing, or a file that can't be read.
    pub fn load(args: &Args) -> Result<Self, ConfigError> {
        let file = match &args.config {
            Some(path) => {
                read(path)?.ok_or_else(|| ConfigError(format!("file {} does not exist", path.display())))?
            }
            None => read(Path::new(DEFAULT_FILE))?.unwrap_or_default(),
        };
        Self::check(args.settings.clone().or(file))
    }

    /// Checks settings that were merged already.
    ///
    /// # Errors
    /// The first one that is wrong.
    pub fn check(settings: Settings) -> Result<Self, ConfigError> {
        let events_per_second = settings.events_per_second.unwrap_or(DEFAULT_EVENTS);
        if events_per_second > MAX_EVENTS {
            return fail(format!(
                "--events-per-second {events_per_second} is too high: use at most {MAX_EVENTS}"
            ));
        }
        Ok(Self {
            node: node(settings.node)?,
            underlay: underlay(settings.underlay)?,
            vteps: vteps(settings.vtep)?,
            vxlan_port: port(settings.vxlan_port)?,
            probe_port: probe_port(settings.probe_port, settings.vxlan_port)?,
            metrics: settings.metrics,
            dscp: dscp(settings.dscp.as_deref())?,
            nat_ports: nat_ports(settings.nat_ports.as_deref(), settings.vxlan_port, settings.probe_port)?,
            uplink_mode: settings.uplink_mode.unwrap_or_default(),
            manifests: settings.manifests.map(|path| absolute("manifests", path)).transpose()?,
            store: store::check(
                settings.store.as_deref().unwrap_or(DEFAULT_STORE),
                settings.store_ca,
                (settings.store_cert, settings.store_key),
                settings.store_login,
            )?,
            socket: absolute("socket", settings.socket.unwrap_or_else(|| DEFAULT_SOCKET.into()))?,
            docker_plugin: settings.docker_plugin.map(|path| absolute("docker-plugin", path)).transpose()?,
            docker_socket: absolute(
                "docker-socket",
                settings.docker_socket.unwrap_or_else(|| DEFAULT_DOCKER.into()),
            )?,
            bpffs: absolute("bpffs", settings.bpffs.unwrap_or_else(|| DEFAULT_BPFFS.into()))?,
            maps: maps::check(&settings.maps)?,
            events_per_second,
            debug_dataplane: settings.debug_dataplane.unwrap_or(false),
        })
    }

    /// How many local endpoints the maps have room for.
    pub fn slots(&self) -> u32 {
        let size = |name| self.maps.get(name).copied().unwrap_or(0);
        size("ports").min(size("port_counters"))
    }
}

fn dscp(given: Option<&str>) -> Result<Dscp, ConfigError> {
    given.map_or(Ok(Dscp::default()), |text| text.parse().map_err(|e| ConfigError(format!("--dscp: {e}"))))
}

fn fail<T>(text: String) -> Result<T, ConfigError> {
    Err(ConfigError(text))
}

/// None if the file does not exist.
fn read(path: &Path) -> Result<Option<Settings>, ConfigError> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            parse(&text).map(Some).map_err(|e| ConfigError(format!("file {}, {}", path.display(), e.0)))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => fail(format!("file {} can't be read: {e}", path.display())),
    }
}

fn parse(text: &str) -> Result<Settings, ConfigError> {
    toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        let message = e.message().replace("unknown field", "unknown key").replace('\n', " ");
        ConfigError(format!("line {line}: {message}"))
    })
}

fn node(given: Option<String>) -> Result<String, ConfigError> {
    let (name, hint) = match given {
        Some(name) => (name, ""),
        None => (host_name()?, "; the host's name is taken if --node is not given"),
    };
    model::name::check_name("node name", &name).map_err(|e| ConfigError(format!("--node: {e}{hint}")))?;
    Ok(name)
}

fn host_name() -> Result<String, ConfigError> {
    match std::fs::read_to_string("/proc/sys/kernel/hostname") {
        Ok(name) => Ok(name.trim().to_lowercase()),
        Err(e) => fail(format!("the host's name can't be read ({e}): give --node")),
    }
}

fn underlay(names: Vec<String>) -> Result<Vec<String>, ConfigError> {
    for (i, name) in names.iter().enumerate() {
        model::name::check_ifname(name).map_err(|e| ConfigError(format!("--underlay: {e}")))?;
        if names[..i].contains(name) {
            return fail(format!("--underlay {name} is given twice"));
        }
    }
    Ok(names)
}

fn vteps(addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, ConfigError> {
    for (i, address) in addresses.iter().enumerate() {
        model::node::check_unicast(*address).map_err(|e| ConfigError(format!("--vtep: {e}")))?;
        if addresses[..i].contains(address) {
            return fail(format!("--vtep {address} is given twice"));
        }
    }
    Ok(addresses)
}

fn port(given: Option<u16>) -> Result<u16, ConfigError> {
    match given.unwrap_or(DEFAULT_PORT) {
        0 => fail("--vxlan-port 0 is not a port: use 1 to 65535, usually 4789".to_owned()),
        port => Ok(port),
    }
}

fn probe_port(given: Option<u16>, vxlan: Option<u16>) -> Result<Option<u16>, ConfigError> {
    match given {
        Some(0) => fail("--probe-port 0 is not a port: use 1 to 65535, or leave it out".to_owned()),
        Some(port) if port == vxlan.unwrap_or(DEFAULT_PORT) => {
            fail(format!("--probe-port {port} is the port of VXLAN: use another one, the same on all hosts"))
        }
        port => Ok(port),
    }
}

/// Checks a range of ports of the host: those below 1024 stay the host's services', and what comes to VXLAN's or that
/// of probes is for no container.
fn nat_ports(given: Option<&str>, vxlan: Option<u16>, probe: Option<u16>) -> Result<(u16, u16), ConfigError> {
    let (first, last) = match given {
        None => DEFAULT_NAT_PORTS,
        Some(text) => {
            let range = text
                .split_once('-')
                .and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
            match range {
                Some((first, last)) if first >= 1024 && first <= last => (first, last),
                _ => {
                    return fail(format!(
                        "--nat-ports {text}: write the first and the last port, from 1024 on, like 61000-65535"
                    ));
                }
            }
        }
    };
    let other = [Some(vxlan.unwrap_or(DEFAULT_PORT)), probe];
    match other.into_iter().flatten().find(|port| (first..=last).contains(port)) {
        Some(port) => fail(format!(
            "--nat-ports {first}-{last} holds the port {port} of VXLAN or of probes: choose ports beside it"
        )),
        None => Ok((first, last)),
    }
}

fn absolute(name: &str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    if path.is_absolute() {
        Ok(path)
    } else {
        fail(format!("--{name} {}: give an absolute path", path.display()))
    }
}
