//! Removal of every link and route that bears one of our marks.

use futures::TryStreamExt;
use netlink_packet_route::route::RouteProtocol;
use rtnetlink::RouteMessageBuilder;

use super::{KernelError, Netlink, explain, frag};
use crate::dataplane::ownership::{FRAG_NAME, ROUTE_PROTOCOL, VXLAN_ALIAS, VXLAN_NAME};

impl Netlink {
    /// Deletes the containers' veths, the host's access ports, the `vxlan` device, the pair for fragments and routes with our
    /// protocol number, in this namespace. A
    /// container's addresses and routes go with its veth. Returns one sentence for each thing; absent is success.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn remove_everything_of_ours(&self) -> Result<Vec<String>, KernelError> {
        let mut done = Vec::new();
        for link in self.links().await? {
            let vxlan = link.vxlan.is_some() && (link.alias == VXLAN_ALIAS || link.name == VXLAN_NAME);
            let frag = frag::is_side(&link, FRAG_NAME);
            if vxlan || frag || link.is_port() || link.is_half_made() {
                self.delete_link(link.index).await?;
                done.push(format!("interface {} removed", link.name));
            }
        }
        for request in [
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        ] {
            let routes = self.handle.route().get(request).execute().try_collect::<Vec<_>>().await;
            for route in explain(routes, || "listing routes".to_owned())? {
                if route.header.protocol != RouteProtocol::from(ROUTE_PROTOCOL) {
                    continue;
                }
                match explain(self.handle.route().del(route).execute().await, || {
                    "removing a route".to_owned()
                }) {
                    Err(error) if !error.is_absent() => return Err(error),
                    Ok(()) | Err(_) => done.push("route removed".to_owned()),
                }
            }
        }
        Ok(done)
    }
}
