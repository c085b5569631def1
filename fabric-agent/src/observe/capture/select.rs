//! Which packets a capture wants: where it listens, and what it takes there.

use std::net::IpAddr;

use fabric_api::{
    Event,
    capture::{CaptureRequest, Layer},
    object::{Attachment, Endpoint, Network},
    status::Status,
};
use fabric_common::{addr::Mac, capture::CapturedDrop, reason::Hook};

use crate::service::{ErrorKind, ServiceError};

/// What is declared and what this node is, as the service gives it.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Networks with their status.
    pub networks: Vec<Network>,
    /// Endpoints with their status.
    pub endpoints: Vec<Endpoint>,
    /// This node's.
    pub status: Status,
}

/// The container's side of an endpoint of this node.
pub(super) struct Inside<'a> {
    pub(super) name: &'a str,
    pub(super) network: &'a str,
    /// Interface index of the host's side.
    pub(super) ifindex: u32,
    pub(super) attachment: &'a Attachment,
}

/// What a capture wants, checked.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    layer: Layer,
    /// Name of the endpoint, and its MAC.
    endpoint: Option<(String, Mac)>,
    /// Name of the network, and its VNI.
    network: Option<(String, u32)>,
    port: u16,
}

impl Selection {
    /// Checks a request, and finds the endpoints whose interfaces are to be listened on.
    pub(super) fn new<'a>(
        request: &CaptureRequest,
        known: &'a Known,
    ) -> Result<(Self, Vec<Inside<'a>>), ServiceError> {
        let mut selection = Self { layer: request.layer, port: known.status.vxlan_port, ..Self::default() };
        if let Some(name) = &request.network {
            let network = known.networks.iter().find(|network| network.metadata.name == *name);
            selection.network = Some((name.clone(), vni(network).ok_or_else(|| unknown("network", name))?));
        }
        let Some(name) = &request.endpoint else {
            let wanted = |endpoint: &&Endpoint| {
                request.network.as_ref().is_none_or(|wanted| *wanted == endpoint.spec.network)
            };
            return Ok((selection, known.endpoints.iter().filter(wanted).filter_map(inside).collect()));
        };
        let endpoint = known.endpoints.iter().find(|endpoint| endpoint.metadata.name == *name);
        let endpoint = endpoint.ok_or_else(|| unknown("endpoint", name))?;
        let network = &endpoint.spec.network;
        if let Some(other) = request.network.as_ref().filter(|other| *other != network) {
            let sentence =
                format!("endpoint {name} is in network {network}, not in {other}: name one of the two");
            return Err(ServiceError::new(ErrorKind::Invalid, sentence));
        }
        if !endpoint.status.as_ref().is_some_and(|status| status.local) {
            let node = endpoint.spec.node.as_deref().unwrap_or("another node");
            let sentence = format!("endpoint {name} lives on {node}: capture with the agent there");
            return Err(ServiceError::new(ErrorKind::Conflict, sentence));
        }
        let mac = endpoint.spec.mac.as_deref().and_then(|mac| mac.parse().ok());
        let (Some(inside), Some(mac)) = (inside(endpoint), mac) else {
            let sentence = format!("endpoint {name} is not attached: see `fabric endpoint inspect {name}`");
            return Err(ServiceError::new(ErrorKind::Unavailable, sentence));
        };
        let found = known.networks.iter().find(|candidate| candidate.metadata.name == *network);
        selection.endpoint = Some((name.clone(), mac));
        selection.network = Some((network.clone(), vni(found).ok_or_else(|| unknown("network", network))?));
        Ok((selection, vec![inside]))
    }

    /// Whether frames of containers are wanted.
    pub(super) fn inner(&self) -> bool {
        self.layer != Layer::Outer
    }

    /// Whether tunnel packets are wanted.
    pub(super) fn outer(&self) -> bool {
        self.layer != Layer::Inner
    }

    /// Whether a frame at an uplink is a wanted tunnel packet.
    pub(super) fn takes_outer(&self, frame: &[u8]) -> bool {
        let Some((vni, inner)) = tunnel(frame, self.port) else { return false };
        let macs = inner.get(..12);
        let has = |mac: &Mac| {
            macs.is_some_and(|macs| macs[0] & 1 == 1 || macs[..6] == mac.bytes || macs[6..] == mac.bytes)
        };
        self.network.as_ref().is_none_or(|(_, wanted)| *wanted == vni)
            && self.endpoint.as_ref().is_none_or(|(_, mac)| has(mac))
    }

    /// The wanted part of a dropped packet's bytes, as an offset; `None` if the drop is not wanted.
    pub(super) fn takes_drop(&self, drop: &CapturedDrop, event: &Event) -> Option<usize> {
        let tunnelled =
            matches!(Hook::from_number(drop.event.hook), Some(Hook::FromUplink | Hook::FromUplinkXdp));
        let concerns = self.endpoint.as_ref().is_none_or(|(name, _)| *name == event.endpoint)
            && self.network.as_ref().is_none_or(|(name, _)| *name == event.network);
        if !concerns || (self.layer == Layer::Outer && !tunnelled) {
            return None;
        }
        // What has no inner frame yet, or none at all, is shown as it is.
        Some(if self.layer == Layer::Inner && tunnelled { drop.inner as usize } else { 0 })
    }
}

/// The endpoint's own interface, if it is attached here.
fn inside(endpoint: &Endpoint) -> Option<Inside<'_>> {
    let status = endpoint.status.as_ref().filter(|status| status.local && status.ifindex != 0)?;
    let attachment = endpoint.spec.attachment.as_ref()?;
    Some(Inside {
        name: &endpoint.metadata.name,
        network: &endpoint.spec.network,
        ifindex: status.ifindex,
        attachment,
    })
}

fn vni(network: Option<&Network>) -> Option<u32> {
    let network = network?;
    network.status.as_ref().map(|status| status.vni).or(network.spec.vni)
}

fn unknown(kind: &str, name: &str) -> ServiceError {
    let sentence = format!("{kind} {name} does not exist; `fabric {kind} ls` lists what does");
    ServiceError::new(ErrorKind::NotFound, sentence)
}

/// VNI and inner frame of a VXLAN packet to `port`, over IPv4 or IPv6 without extension headers.
fn tunnel(frame: &[u8], port: u16) -> Option<(u32, &[u8])> {
    let ip = frame.get(14..)?;
    let udp = match (frame.get(12..14)?, ip.first()? >> 4) {
        ([8, 0], 4) => ip.get(usize::from(ip[0] & 0xf) * 4..)?,
        ([0x86, 0xdd], 6) => ip.get(40..)?,
        _ => return None,
    };
    let vxlan = udp.get(8..16)?;
    let vni = u32::from_be_bytes([0, vxlan[4], vxlan[5], vxlan[6]]);
    (udp[2..4] == port.to_be_bytes()).then(|| (vni, &udp[16..]))
}

/// In words, for the comment of a dropped packet: where, why, and whom it concerned.
pub(super) fn comment(event: &Event, explain: &str) -> String {
    let explain = explain.trim().trim_end_matches('.');
    let mut text = format!("dropped by {} at {}: {} ({explain})", event.hook, event.ifname, event.reason);
    for (what, name) in [("network", &event.network), ("endpoint", &event.endpoint)] {
        if !name.is_empty() {
            text.push_str(&format!(", {what} {name}"));
        }
    }
    let vtep: Option<IpAddr> = event.vtep;
    text.push_str(&vtep.map_or_else(String::new, |vtep| format!(", from VTEP {vtep}")));
    text
}

#[cfg(test)]
mod tests {
    use fabric_api::{
        Event,
        capture::{CaptureRequest, Layer},
        object::{Attachment, Endpoint, EndpointSpec, Metadata, Network, NetworkSpec},
        status::{EndpointStatus, NetworkStatus, Status},
    };
    use fabric_common::{capture::CapturedDrop, reason::Hook};
    use zerocopy::FromZeros;

    use super::{Known, Selection};

    fn metadata(name: &str) -> Metadata {
        Metadata { name: name.to_owned(), ..Metadata::default() }
    }

    fn known() -> Known {
        let api_version = || "fabric/v1".to_owned();
        let network = |name: &str, vni| Network {
            api_version: api_version(),
            spec: NetworkSpec::default(),
            metadata: metadata(name),
            status: Some(NetworkStatus { vni, ..NetworkStatus::default() }),
        };
        let endpoint = |name: &str, network: &str, local: bool| Endpoint {
            api_version: api_version(),
            metadata: metadata(name),
            spec: EndpointSpec {
                network: network.to_owned(),
                mac: Some("02:00:00:00:00:01".to_owned()),
                attachment: local.then(|| Attachment {
                    netns: "/run/netns/x".to_owned(),
                    netns_inode: 1,
                    ifname: "eth0".to_owned(),
                    engine: None,
                    container: None,
                }),
                ..EndpointSpec::default()
            },
            status: Some(EndpointStatus { local, ifindex: u32::from(local), ..EndpointStatus::default() }),
        };
        Known {
            networks: vec![network("blue", 100), network("red", 200)],
            endpoints: vec![
                endpoint("web", "blue", true),
                endpoint("db", "red", true),
                endpoint("far", "blue", false),
            ],
            status: Status { vxlan_port: 4789, ..Status::default() },
        }
    }

    fn request(endpoint: Option<&str>, network: Option<&str>, layer: Layer) -> CaptureRequest {
        let text = |name: &str| name.to_owned();
        CaptureRequest {
            endpoint: endpoint.map(text),
            network: network.map(text),
            layer,
            ..Default::default()
        }
    }

    fn tunnel(vni: u32, macs: [u8; 12]) -> Vec<u8> {
        let mut frame = vec![0; 50];
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        frame[36..38].copy_from_slice(&4789_u16.to_be_bytes());
        frame[46..50].copy_from_slice(&(vni << 8).to_be_bytes());
        frame.extend(macs);
        frame
    }

    #[test]
    fn requests_choose_interfaces_or_are_refused_in_a_sentence() {
        let known = known();
        let chosen = |endpoint, network| {
            Selection::new(&request(endpoint, network, Layer::Inner), &known)
                .map(|(_, endpoints)| endpoints.iter().map(|inside| inside.name).collect::<Vec<_>>())
                .map_err(|error| error.message)
        };
        assert_eq!(chosen(None, None).as_deref(), Ok(&["web", "db"][..]));
        assert_eq!(chosen(None, Some("blue")).as_deref(), Ok(&["web"][..]));
        assert_eq!(chosen(Some("db"), Some("red")).as_deref(), Ok(&["db"][..]));
        for (endpoint, network, words) in [
            (Some("db"), Some("blue"), "is in network red, not in blue"),
            (Some("far"), None, "lives on another node"),
            (Some("nobody"), None, "does not exist"),
            (None, Some("green"), "network green does not exist"),
        ] {
            let refused = chosen(endpoint, network).expect_err(words);
            assert!(refused.contains(words), "{refused}");
        }
    }

    #[test]
    fn tunnel_packets_are_chosen_by_network_and_mac() {
        let known = known();
        let (web, other) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 9]);
        let macs = |a: [u8; 6], b: [u8; 6]| -> [u8; 12] { [a, b].concat().try_into().expect("twelve") };
        let takes = |endpoint, network, vni, macs| {
            let request = request(endpoint, network, Layer::Outer);
            Selection::new(&request, &known).expect("right").0.takes_outer(&tunnel(vni, macs))
        };
        assert!(takes(None, None, 7, macs(other, other)));
        assert!(takes(None, Some("blue"), 100, macs(other, other)));
        assert!(!takes(None, Some("blue"), 200, macs(other, other)));
        assert!(
            takes(Some("web"), None, 100, macs(web, other))
                && takes(Some("web"), None, 100, macs(other, web))
        );
        assert!(takes(Some("web"), None, 100, macs([0xff; 6], other)));
        assert!(!takes(Some("web"), None, 100, macs(other, other)));
        assert!(!takes(Some("web"), None, 200, macs(web, other)));
        let (all, _) = Selection::new(&CaptureRequest::default(), &known).expect("right");
        let mut frame = tunnel(100, macs(web, web));
        frame[37] ^= 1;
        assert!(!all.takes_outer(&frame) && !all.takes_outer(&frame[..40]));
    }

    #[test]
    fn drops_are_shown_by_layer() {
        let known = known();
        let mut drop = CapturedDrop::new_zeroed();
        let event = |endpoint: &str, network: &str| Event {
            endpoint: endpoint.to_owned(),
            network: network.to_owned(),
            ..Event::default()
        };
        drop.event.hook = Hook::FromUplink as u8;
        drop.inner = 50;
        let takes = |drop: &CapturedDrop, endpoint, layer, event: &Event| {
            let (selection, _) = Selection::new(&request(endpoint, None, layer), &known).expect("right");
            selection.takes_drop(drop, event)
        };
        let web = event("web", "blue");
        assert_eq!(takes(&drop, Some("web"), Layer::Inner, &web), Some(50));
        assert_eq!(takes(&drop, Some("web"), Layer::Both, &web), Some(0));
        assert_eq!(takes(&drop, Some("db"), Layer::Both, &web), None);
        assert_eq!(takes(&drop, None, Layer::Outer, &event("", "")), Some(0));
        drop.event.hook = Hook::FromContainer as u8;
        drop.inner = 0;
        assert_eq!(takes(&drop, Some("web"), Layer::Inner, &web), Some(0));
        assert_eq!(takes(&drop, Some("web"), Layer::Outer, &web), None);
    }
}
