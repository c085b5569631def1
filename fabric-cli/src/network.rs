//! `fabric network`.

use std::net::IpAddr;

use clap::{Args, Subcommand};
use fabric_api::{
    client::Client,
    object::{API_VERSION, Metadata, Network, NetworkSpec, Route},
    status::RouteStatus,
};
use ipnet::IpNet;

use crate::{
    args::label,
    output::{self, Column, Format, OutputArgs},
};

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// Create a network
    #[command(
        after_help = "Example:\n  fabric network create blue --subnet 192.168.10.0/24 --subnet fd00:10::/64 --label team=web"
    )]
    Create(CreateArgs),
    /// List the networks
    #[command(visible_alias = "list", after_help = "Example:\n  fabric network ls -o json")]
    Ls(OutputArgs),
    /// Show one network
    #[command(after_help = "Example:\n  fabric network inspect blue -o yaml")]
    Inspect(InspectArgs),
    /// Remove a network that has no endpoints any more
    #[command(after_help = "Example:\n  fabric network rm blue")]
    Rm(NameArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Its name: a-z, 0-9, - and ., at most 63 characters
    name: String,
    /// A subnet, IPv4 or IPv6; may be repeated
    #[arg(long = "subnet", value_name = "CIDR", required = true, value_parser = subnet)]
    subnets: Vec<IpNet>,
    /// The gateway of one of the subnets; the first usable address if absent
    #[arg(long = "gateway", value_name = "IP")]
    gateways: Vec<IpAddr>,
    /// VXLAN network identifier; a free one if absent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=16_777_215))]
    vni: Option<u32>,
    /// Largest IP packet, bytes; from the underlay if absent
    #[arg(long, value_name = "N")]
    mtu: Option<u16>,
    /// A network to let in; until there is connection tracking, packets then pass both ways. May be repeated
    #[arg(long, value_name = "NET")]
    allow_from: Vec<String>,
    /// Let the hosts themselves into the network: they reach its containers, and are reached
    #[arg(long)]
    host_access: bool,
    /// Let endpoints reach the world outside of the fabric through their host, with the host's address in place of their own
    #[arg(long)]
    masquerade: bool,
    /// A static route: packets to the gateway for PREFIX go to the endpoint that has the address NEXTHOP in the network, which
    /// may pass on packets from there. May be repeated
    #[arg(long = "route", value_name = "PREFIX=NEXTHOP", value_parser = route)]
    routes: Vec<Route>,
    /// Replicate broadcast and multicast to everybody in the network
    #[arg(long)]
    multicast: bool,
    /// Let connections go on that were answered when a changed policy admits them no more
    #[arg(long)]
    keep: bool,
    /// Let the gateway send IPv6 router advertisements: default route, MTU and on-link prefixes, no addresses
    #[arg(long)]
    router_advertisement: bool,
    /// A label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    output: OutputArgs,
}

/// What the parser of the library says of a wrong prefix length does not name it.
fn subnet(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| {
        "write an address and a prefix length of at most 32 (IPv4) or 128 (IPv6), like 192.168.10.0/24"
            .to_owned()
    })
}

fn route(text: &str) -> Result<Route, String> {
    let parsed = text.split_once('=').and_then(|(prefix, next_hop)| {
        Some(Route { prefix: prefix.parse().ok()?, next_hop: next_hop.parse().ok()? })
    });
    parsed.ok_or_else(|| "write a prefix and an address, like 10.9.0.0/16=192.168.10.9".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The network
    name: String,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The network
    name: String,
}

const COLUMNS: &[Column<Network>] = &[
    Column::new("NAME", |network| network.metadata.name.clone()),
    Column::new("VNI", |network| vni(network).map_or_else(String::new, |vni| vni.to_string())),
    Column::new("SUBNETS", |network| output::joined(&network.spec.subnets)),
    Column::new("GATEWAYS", |network| output::joined(gateways(network))),
    Column::new("MTU", |network| mtu(network).map_or_else(String::new, |mtu| mtu.to_string())),
    Column::new("ENDPOINTS", |network| {
        network.status.as_ref().map_or_else(String::new, |status| status.endpoints.to_string())
    }),
    Column::new("STATE", |network| {
        network.status.as_ref().map_or_else(String::new, |status| output::state(status.state, &status.reason))
    }),
    Column::wide("OPENED", |network| {
        network.status.as_ref().map_or_else(String::new, |status| output::joined(&status.opened))
    }),
    Column::wide("ROUTES", |network| {
        let routes = network.status.iter().flat_map(|status| &status.routes);
        output::joined(&routes.map(route_text).collect::<Vec<_>>())
    }),
    Column::wide("NODE-ADDRESSES", |network| {
        network.status.as_ref().map_or_else(String::new, |status| output::joined(&status.node_addresses))
    }),
    Column::wide("HOST-INTERFACE", |network| {
        network.status.as_ref().map_or_else(String::new, |status| status.host_ifname.clone())
    }),
    Column::wide("OWNER", |network| network.metadata.owner.clone()),
    Column::wide("LABELS", |network| output::labels(&network.metadata)),
];

fn route_text(route: &RouteStatus) -> String {
    let whom = if route.endpoint.is_empty() { "nobody" } else { &route.endpoint };
    format!("{}={} ({whom})", route.prefix, route.next_hop)
}

fn vni(network: &Network) -> Option<u32> {
    network.status.as_ref().map(|status| status.vni).or(network.spec.vni)
}

fn mtu(network: &Network) -> Option<u16> {
    network.status.as_ref().map(|status| status.mtu).filter(|mtu| *mtu != 0).or(network.spec.mtu)
}

fn gateways(network: &Network) -> &[IpAddr] {
    network.status.as_ref().map_or(&network.spec.gateways, |status| &status.gateways)
}

/// Runs one verb.
pub(crate) async fn run(client: &Client, command: NetworkCommand) -> anyhow::Result<()> {
    match command {
        NetworkCommand::Create(args) => create(client, args).await,
        NetworkCommand::Ls(args) => {
            let empty = "no networks yet: create one with `fabric network create NAME --subnet CIDR`";
            output::list(args.format, &client.networks().await?, COLUMNS, empty)
        }
        NetworkCommand::Inspect(args) => {
            output::one(args.output.format, &client.network(&args.name).await?, COLUMNS)
        }
        NetworkCommand::Rm(args) => {
            client.delete_network(&args.name).await?;
            output::line(&format!("network {} removed", args.name))
        }
    }
}

async fn create(client: &Client, args: CreateArgs) -> anyhow::Result<()> {
    let network = Network {
        api_version: API_VERSION.to_owned(),
        metadata: Metadata {
            name: args.name,
            labels: args.labels.into_iter().collect(),
            ..Metadata::default()
        },
        spec: NetworkSpec {
            subnets: args.subnets,
            gateways: args.gateways,
            vni: args.vni,
            mtu: args.mtu,
            allow_from: args.allow_from,
            host_access: args.host_access,
            masquerade: args.masquerade,
            routes: args.routes,
            multicast: args.multicast,
            keep: args.keep,
            router_advertisement: args.router_advertisement,
        },
        status: None,
    };
    let created = client.create_network(&network).await?;
    match args.output.format {
        Format::Table => output::line(&sentence(&created)),
        Format::Wide | Format::Json | Format::Yaml => output::one(args.output.format, &created, COLUMNS),
    }
}

fn sentence(network: &Network) -> String {
    let mut text = format!("network {} created", network.metadata.name);
    if let Some(vni) = vni(network) {
        text.push_str(&format!(": VNI {vni}"));
    }
    if !gateways(network).is_empty() {
        text.push_str(&format!(", gateway {}", output::joined(gateways(network))));
    }
    if let Some(mtu) = mtu(network) {
        text.push_str(&format!(", MTU {mtu}"));
    }
    let opened = network.status.as_ref().map(|status| output::joined(&status.opened)).unwrap_or_default();
    if !opened.is_empty() {
        text.push_str(&format!(", opened to {opened} in both directions"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{route, subnet};

    #[test]
    fn a_route_is_a_prefix_and_an_address() {
        assert!(route("10.9.0.0/16=192.168.10.9").is_ok() && route("::/0=fd00::9").is_ok());
        for wrong in ["10.9.0.0/16", "10.9.0.0/16=", "=10.0.0.1", "10.9.0.0=10.0.0.1", "a=b"] {
            assert!(route(wrong).unwrap_err().contains("like 10.9.0.0/16=192.168.10.9"), "{wrong}");
        }
    }

    #[test]
    fn a_subnet_that_is_none_is_explained() {
        assert!(subnet("10.0.0.0/8").is_ok() && subnet("fd00::/64").is_ok());
        for wrong in ["10.0.0.0/33", "fd00::/129", "10.0.0.0", "blue"] {
            assert!(subnet(wrong).unwrap_err().contains("at most 32"), "{wrong}");
        }
    }
}
