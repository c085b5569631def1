//! Routes: a container's default routes, and which uplink leads to a remote VTEP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteType,
};
use rtnetlink::RouteMessageBuilder;

use super::{KernelError, Netlink, explain};
use crate::{dataplane::ownership::ROUTE_PROTOCOL, plan::desired::RouteFacts};

/// A default route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    /// Whether it is an IPv6 route.
    pub ipv6: bool,
    /// Interface that it leads out of.
    pub ifindex: u32,
    /// Metric; the lowest wins.
    pub metric: u32,
    /// Whether it was learned from a router advertisement.
    pub advertised: bool,
}

impl Netlink {
    /// The default routes of the main table, IPv4 first.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn default_routes(&self) -> Result<Vec<DefaultRoute>, KernelError> {
        let mut routes = Vec::new();
        for ipv6 in [false, true] {
            let request = if ipv6 {
                RouteMessageBuilder::<Ipv6Addr>::new().build()
            } else {
                RouteMessageBuilder::<Ipv4Addr>::new().build()
            };
            let messages = self.handle.route().get(request).execute().try_collect::<Vec<_>>().await;
            let messages = explain(messages, || "listing routes".to_owned())?;
            routes.extend(messages.iter().filter_map(|message| default_route(message, ipv6)));
        }
        Ok(routes)
    }

    /// Adds a default route through `gateway`, marked as ours. One that is there already is success.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn add_default_route(
        &self,
        ifindex: u32,
        gateway: IpAddr,
        mtu: u16,
    ) -> Result<(), KernelError> {
        let mut message = match gateway {
            IpAddr::V4(gateway) => {
                RouteMessageBuilder::<Ipv4Addr>::new().output_interface(ifindex).gateway(gateway).build()
            }
            IpAddr::V6(gateway) => {
                RouteMessageBuilder::<Ipv6Addr>::new().output_interface(ifindex).gateway(gateway).build()
            }
        };
        message.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(u32::from(mtu))]));
        let result = self.handle.route().add(message).replace().execute().await;
        explain(result, || format!("adding the default route through {gateway}"))
    }

    /// The route that the kernel chooses toward `to`, with the MTU of the path where the kernel knows one; `None` if there
    /// is no route.
    ///
    /// # Errors
    /// If the kernel refuses for another reason.
    pub async fn route_to(&self, to: IpAddr) -> Result<Option<RouteFacts>, KernelError> {
        let mut message = match to {
            IpAddr::V4(to) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, 32).build(),
            IpAddr::V6(to) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to, 128).build(),
        };
        message.header.protocol = RouteProtocol::Unspec;
        message.header.table = RouteHeader::RT_TABLE_UNSPEC;
        let found = self.handle.route().get(message).execute().try_next().await;
        match explain(found, || format!("looking up the route to {to}")) {
            Ok(message) => Ok(message
                .filter(|m| m.header.kind == RouteType::Unicast)
                .and_then(|m| Some(RouteFacts { ifindex: oif(&m)?, mtu: mtu(&m) }))),
            Err(error) => match error.errno().map(nix::errno::Errno::from_raw) {
                Some(
                    nix::errno::Errno::ENETUNREACH
                    | nix::errno::Errno::EHOSTUNREACH
                    | nix::errno::Errno::EACCES
                    | nix::errno::Errno::EINVAL
                    | nix::errno::Errno::EAFNOSUPPORT,
                ) => Ok(None),
                _ => Err(error),
            },
        }
    }
}

fn oif(message: &RouteMessage) -> Option<u32> {
    message
        .attributes
        .iter()
        .find_map(|a| if let RouteAttribute::Oif(index) = a { Some(*index) } else { None })
}

/// The MTU that a route has or that was learned on it.
fn mtu(message: &RouteMessage) -> Option<u32> {
    let metrics = message
        .attributes
        .iter()
        .filter_map(|a| if let RouteAttribute::Metrics(metrics) = a { Some(metrics) } else { None });
    metrics
        .flatten()
        .find_map(|m| if let RouteMetric::Mtu(mtu) = m { Some(*mtu).filter(|mtu| *mtu != 0) } else { None })
}

fn default_route(message: &RouteMessage, ipv6: bool) -> Option<DefaultRoute> {
    let main = message.header.table == RouteHeader::RT_TABLE_MAIN;
    let unicast = message.header.kind == RouteType::Unicast;
    if !main || !unicast || message.header.destination_prefix_length != 0 {
        return None;
    }
    let metric = message
        .attributes
        .iter()
        .find_map(|a| if let RouteAttribute::Priority(metric) = a { Some(*metric) } else { None })
        .unwrap_or(0);
    // A multipath route names its interfaces elsewhere; it still counts as a default route.
    Some(DefaultRoute {
        ipv6,
        ifindex: oif(message).unwrap_or(0),
        metric,
        advertised: message.header.protocol == RouteProtocol::Ra,
    })
}
