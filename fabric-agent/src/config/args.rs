//! What people type, before it is checked.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Deserializer};

/// Fabric's agent: keeps this node's eBPF programs and maps equal to what was declared.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "fabric-agent",
    version,
    after_help = "Example:\n  fabric-agent --node n1 --underlay eth0 --manifests /etc/fabric/manifests\n\nSIGTERM leaves the datapath running; `fabric-agent cleanup` removes it."
)]
pub struct Args {
    /// The file with these settings, `[maps]` among them [default: /etc/fabric/agent.toml, which may be missing]
    #[arg(long, global = true, value_name = "FILE", env = "FABRIC_CONFIG")]
    pub config: Option<PathBuf>,
    /// Settings given as flags or in the environment.
    #[command(flatten)]
    pub settings: Settings,
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the agent does instead of running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum Command {
    /// Remove every trace of the agent from this host: programs, maps, links, the socket. The store stays: it holds what
    /// was declared, and nothing else knows it.
    ///
    /// Example: fabric-agent cleanup --bpffs /sys/fs/bpf/fabric
    Cleanup {
        /// Remove the store as well: what was declared is lost. On etcd, which others share: take this node and its endpoints out
        #[arg(long)]
        purge: bool,
    },
    /// Print the store as YAML, fit for `fabric apply -f -`. With an embedded store the agent must not be running.
    ///
    /// Example: fabric-agent export --store local:///var/lib/fabric > backup.yaml
    Export,
    /// Print the API's description (OpenAPI), as the socket gives it under /v1/openapi.json
    #[command(hide = true)]
    Openapi,
    /// Print a page about every metric that --metrics serves
    Metrics,
}

/// How uplinks are watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UplinkMode {
    /// XDP where the driver feeds it frames before an skb exists, TC alone elsewhere
    #[default]
    Auto,
    /// TC alone
    Tc,
    /// XDP before TC, whatever the driver
    Xdp,
}

/// The settings, each a flag, a variable and a key of the file; absent ones are `None` or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Settings {
    /// This node's name [default: the host's name]
    #[arg(long, global = true, value_name = "NAME", env = "FABRIC_NODE")]
    pub node: Option<String>,
    /// Underlay interface; may be repeated [default: that of the default route]
    #[arg(long, global = true, value_name = "IFACE", env = "FABRIC_UNDERLAY", value_delimiter = ',')]
    pub underlay: Vec<String>,
    /// VTEP address of this node, IPv4 or IPv6; may be repeated, preferred first [default: the underlay interfaces' addresses]
    #[arg(long, global = true, value_name = "IP", env = "FABRIC_VTEP", value_delimiter = ',')]
    pub vtep: Vec<IpAddr>,
    /// UDP port of VXLAN [default: 4789]
    #[arg(long, global = true, value_name = "PORT", env = "FABRIC_VXLAN_PORT")]
    pub vxlan_port: Option<u16>,
    /// UDP port, the same on all hosts, on which the paths to other VTEPs are probed, for where ICMP is filtered [default: none]
    #[arg(long, global = true, value_name = "PORT", env = "FABRIC_PROBE_PORT")]
    pub probe_port: Option<u16>,
    /// DSCP of outer headers: 0 to 63, or "copy" to take over that of the inner packet [default: 0]
    #[arg(long, global = true, value_name = "DSCP", env = "FABRIC_DSCP")]
    #[serde(deserialize_with = "number_or_text")]
    pub dscp: Option<String>,
    /// Ports of this host that masqueraded flows are given; the host's own sockets must not be given them (net.ipv4.ip_local_port_range)
    /// [default: 61000-65535]
    #[arg(long, global = true, value_name = "FIRST-LAST", env = "FABRIC_NAT_PORTS")]
    pub nat_ports: Option<String>,
    /// Whether the first stage on the uplinks is XDP [default: auto]
    #[arg(long, global = true, value_enum, value_name = "MODE", env = "FABRIC_UPLINK_MODE")]
    pub uplink_mode: Option<UplinkMode>,
    /// Directory of objects in YAML or JSON; they come and go with their files
    #[arg(long, global = true, value_name = "DIR", env = "FABRIC_MANIFESTS")]
    pub manifests: Option<PathBuf>,
    /// The store: local:///DIRECTORY for this host alone, or etcd://HOST:PORT[,HOST:PORT...][/PREFIX], which the hosts of a fabric
    /// share [default: local:///var/lib/fabric]
    #[arg(long, global = true, value_name = "URL", env = "FABRIC_STORE")]
    pub store: Option<String>,
    /// Certificates (PEM) that sign those of etcd; with it TLS is spoken [default: no TLS]
    #[arg(long, global = true, value_name = "FILE", env = "FABRIC_STORE_CA")]
    pub store_ca: Option<PathBuf>,
    /// This agent's certificate (PEM) for etcd
    #[arg(long, global = true, value_name = "FILE", env = "FABRIC_STORE_CERT")]
    pub store_cert: Option<PathBuf>,
    /// The key (PEM) of that certificate
    #[arg(long, global = true, value_name = "FILE", env = "FABRIC_STORE_KEY")]
    pub store_key: Option<PathBuf>,
    /// File whose first line is USER:PASSWORD for etcd
    #[arg(long, global = true, value_name = "FILE", env = "FABRIC_STORE_LOGIN")]
    pub store_login: Option<PathBuf>,
    /// The API's Unix socket [default: /run/fabric/fabric.sock]
    #[arg(long, global = true, value_name = "PATH", env = "FABRIC_SOCKET")]
    pub socket: Option<PathBuf>,
    /// Directory of maps and links [default: /sys/fs/bpf/fabric]
    #[arg(long, global = true, value_name = "DIR", env = "FABRIC_BPFFS")]
    pub bpffs: Option<PathBuf>,
    /// Serve Docker on this socket, /run/docker/plugins/fabric.sock for `docker network create -d fabric` [default: Docker is not served]
    #[arg(long, global = true, value_name = "PATH", env = "FABRIC_DOCKER_PLUGIN")]
    pub docker_plugin: Option<PathBuf>,
    /// Docker's own API, where the names and labels of its containers are read [default: /run/docker.sock]
    #[arg(long, global = true, value_name = "PATH", env = "FABRIC_DOCKER_SOCKET")]
    pub docker_socket: Option<PathBuf>,
    /// Serve metrics for Prometheus on this address and TCP port, like 127.0.0.1:9961 [default: none]
    #[arg(long, global = true, value_name = "ADDR:PORT", env = "FABRIC_METRICS")]
    pub metrics: Option<SocketAddr>,
    /// Drop events a second and CPU; 0 turns them off, counters stay exact [default: 100]
    #[arg(long, global = true, value_name = "N", env = "FABRIC_EVENTS_PER_SECOND")]
    pub events_per_second: Option<u32>,
    /// Load the programs with their log on, for those who work on them: a line for every drop
    #[arg(
        long,
        global = true,
        hide = true,
        value_name = "BOOL",
        env = "FABRIC_DEBUG_DATAPLANE",
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    pub debug_dataplane: Option<bool>,
    /// Sizes of maps, by name. In the file only.
    #[arg(skip)]
    pub maps: BTreeMap<String, u64>,
}

impl Settings {
    /// These settings; what is absent here is taken from `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        fn list<T>(ours: Vec<T>, theirs: Vec<T>) -> Vec<T> {
            if ours.is_empty() { theirs } else { ours }
        }
        Self {
            node: self.node.or(other.node),
            underlay: list(self.underlay, other.underlay),
            vtep: list(self.vtep, other.vtep),
            vxlan_port: self.vxlan_port.or(other.vxlan_port),
            probe_port: self.probe_port.or(other.probe_port),
            dscp: self.dscp.or(other.dscp),
            nat_ports: self.nat_ports.or(other.nat_ports),
            uplink_mode: self.uplink_mode.or(other.uplink_mode),
            manifests: self.manifests.or(other.manifests),
            store: self.store.or(other.store),
            store_ca: self.store_ca.or(other.store_ca),
            store_cert: self.store_cert.or(other.store_cert),
            store_key: self.store_key.or(other.store_key),
            store_login: self.store_login.or(other.store_login),
            socket: self.socket.or(other.socket),
            bpffs: self.bpffs.or(other.bpffs),
            docker_plugin: self.docker_plugin.or(other.docker_plugin),
            docker_socket: self.docker_socket.or(other.docker_socket),
            metrics: self.metrics.or(other.metrics),
            events_per_second: self.events_per_second.or(other.events_per_second),
            debug_dataplane: self.debug_dataplane.or(other.debug_dataplane),
            maps: if self.maps.is_empty() { other.maps } else { self.maps },
        }
    }
}

/// What is written as a number or in quotes in the file.
fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a number or a string")]
    enum Either {
        Number(i64),
        Text(String),
    }
    Ok(Some(match Either::deserialize(deserializer)? {
        Either::Number(number) => number.to_string(),
        Either::Text(text) => text,
    }))
}
