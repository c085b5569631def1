//! An endpoint that was checked: a container's attachment to a network, here or on another node.

use std::net::IpAddr;

use fabric_api::object::{self, Attachment, Movement, MovementPhase, NamedPort};
use fabric_common::addr::Mac;

use super::{
    error::{ModelError, refuse},
    ids,
    name::{check_ifname, check_labels, check_name, check_port_name},
    network::check_version,
    policy::Labels,
};

/// An endpoint that was checked on its own; [`super::Cluster`] checks it against its network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name.
    pub name: String,
    /// Its network's name.
    pub network: String,
    /// The node where it lives.
    pub node: String,
    /// Policy namespace.
    pub namespace: String,
    /// Labels, which policies select by.
    pub labels: Labels,
    /// At least one, without duplicates.
    pub addresses: Vec<IpAddr>,
    /// Unicast.
    pub mac: Mac,
    /// Named ports.
    pub ports: Vec<NamedPort>,
    /// Generation of the location, at least 1.
    pub generation: u64,
    /// Where the container's side goes, if that is known here.
    pub attachment: Option<Attachment>,
    /// Slot of its counters, if it lives here.
    pub slot: Option<u32>,
    /// Its way to another node, or from one.
    pub movement: Option<Movement>,
}

/// What an endpoint is to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence<'a> {
    /// It lives there.
    Home,
    /// It lives there and came from this node, which relays.
    Arrived(&'a str),
    /// It is being moved there.
    Arriving,
    /// It has left for this node.
    Left(&'a str),
    /// It is elsewhere.
    Away,
}

impl Endpoint {
    /// Checks a declared endpoint. Its node and addresses must have been chosen by now.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn new(object: &object::Endpoint) -> Result<Self, ModelError> {
        check_fields(object)?;
        let spec = &object.spec;
        let name = &object.metadata.name;
        let Some(node) = &spec.node else { refuse!("the endpoint has no node") };
        if spec.addresses.is_empty() {
            refuse!("the endpoint has no address");
        }
        let mac = match &spec.mac {
            Some(text) => parse_mac(text)?,
            None => ids::endpoint_mac(&spec.addresses, name),
        };
        Ok(Self {
            name: name.clone(),
            network: spec.network.clone(),
            node: node.clone(),
            namespace: spec.namespace.clone().unwrap_or_else(|| spec.network.clone()),
            labels: object.metadata.labels.clone(),
            addresses: spec.addresses.clone(),
            mac,
            ports: spec.ports.clone(),
            generation: spec.generation,
            attachment: spec.attachment.clone(),
            slot: object.status.as_ref().and_then(|status| status.slot),
            movement: spec.movement.clone(),
        })
    }

    /// What it is to `node`. Of all nodes at most one delivers to it what its peers send: the home, until it reads that the
    /// destination is armed; the destination gets nothing before that, since only the home writes the phase behind it, and by
    /// then it has stopped.
    pub fn presence(&self, node: &str) -> Presence<'_> {
        let home = self.node == node;
        let Some(movement) = &self.movement else {
            return if home { Presence::Home } else { Presence::Away };
        };
        let other = movement.node == node;
        match movement.phase {
            MovementPhase::Activated if home => Presence::Arrived(&movement.node),
            MovementPhase::Activated if other => Presence::Left(&self.node),
            MovementPhase::Armed if home => Presence::Left(&movement.node),
            MovementPhase::Requested | MovementPhase::Prepared | MovementPhase::Copied if home => {
                Presence::Home
            }
            MovementPhase::Requested
            | MovementPhase::Prepared
            | MovementPhase::Copied
            | MovementPhase::Armed
                if other =>
            {
                Presence::Arriving
            }
            MovementPhase::Requested
            | MovementPhase::Prepared
            | MovementPhase::Copied
            | MovementPhase::Armed
            | MovementPhase::Activated => Presence::Away,
        }
    }

    /// Its port on `node`, where it has one or should have: the container's side, and the slot of its counters once one is chosen.
    pub fn seat(&self, node: &str) -> Option<(&Attachment, Option<u32>)> {
        match self.presence(node) {
            Presence::Home | Presence::Arrived(_) => Some((self.attachment.as_ref()?, self.slot)),
            Presence::Arriving => {
                let movement = self.movement.as_ref()?;
                Some((movement.attachment.as_ref()?, Some(movement.slot?)))
            }
            Presence::Left(_) | Presence::Away => None,
        }
    }

    /// The nodes that may send what it sends: its home, and the other node of a move.
    pub fn senders(&self) -> impl Iterator<Item = &str> {
        [Some(self.node.as_str()), self.movement.as_ref().map(|m| m.node.as_str())].into_iter().flatten()
    }
}

/// Checks every field that was given, before anything is chosen for those that were not.
///
/// # Errors
/// The first field that is wrong.
pub fn check_fields(object: &object::Endpoint) -> Result<(), ModelError> {
    check_version(&object.api_version)?;
    check_name("endpoint name", &object.metadata.name)?;
    check_labels(&object.metadata.labels)?;
    let spec = &object.spec;
    check_name("network name", &spec.network)?;
    if let Some(node) = &spec.node {
        check_name("node name", node)?;
    }
    if let Some(namespace) = &spec.namespace {
        check_name("namespace", namespace)?;
    }
    for (i, address) in spec.addresses.iter().enumerate() {
        if spec.addresses[..i].contains(address) {
            refuse!("address {address} is listed twice");
        }
    }
    if let Some(mac) = &spec.mac {
        parse_mac(mac)?;
    }
    if spec.generation == 0 {
        refuse!("generation 0 is not valid: the first one is 1");
    }
    check_ports(&spec.ports)?;
    if let Some(movement) = &spec.movement {
        check_name("node name", &movement.node)?;
        if spec.node.as_ref() == Some(&movement.node) {
            refuse!("it is on node {} already and can't be moved there", movement.node);
        }
        if let Some(attachment) = &movement.attachment {
            check_attachment(attachment)?;
        }
    }
    match &spec.attachment {
        Some(attachment) => check_attachment(attachment),
        None => Ok(()),
    }
}

pub(crate) fn check_attachment(attachment: &Attachment) -> Result<(), ModelError> {
    check_ifname(&attachment.ifname)?;
    let unknown_yet = attachment.engine.is_some() && attachment.netns.is_empty();
    if unknown_yet {
        return Ok(());
    }
    if !attachment.netns.starts_with('/') || attachment.netns.contains('\0') {
        refuse!("network namespace path {:?} is not valid: give an absolute path", attachment.netns);
    }
    Ok(())
}

fn check_ports(ports: &[NamedPort]) -> Result<(), ModelError> {
    for (i, port) in ports.iter().enumerate() {
        check_port_name(&port.name)?;
        if port.port == 0 {
            refuse!("port {}: 0 is not a port number", port.name);
        }
        if !matches!(port.protocol.as_str(), "TCP" | "UDP" | "SCTP") {
            refuse!("port {}: protocol {:?} is not known, use TCP, UDP or SCTP", port.name, port.protocol);
        }
        if ports[..i].iter().any(|other| other.name == port.name) {
            refuse!("port name {} is used twice", port.name);
        }
    }
    Ok(())
}

/// A unicast MAC.
///
/// # Errors
/// Not a MAC, or a group or all-zero one.
pub fn parse_mac(text: &str) -> Result<Mac, ModelError> {
    let mac: Mac = match text.parse() {
        Ok(mac) => mac,
        Err(e) => refuse!("MAC {text:?} is {e}"),
    };
    if !mac.is_valid_source() {
        refuse!("MAC {text} is a group or all-zero address: choose a unicast one, like 02:00:5e:10:00:01");
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(spec: &str) -> Result<Endpoint, ModelError> {
        let json =
            format!(r#"{{"metadata":{{"name":"c1"}},"spec":{{"network":"blue","node":"n1",{spec}}}}}"#);
        Endpoint::new(&serde_json::from_str(&json).expect("valid JSON"))
    }

    #[test]
    fn defaults() {
        let e = endpoint(r#""addresses":["10.1.0.5"]"#).unwrap();
        assert_eq!(e.namespace, "blue");
        assert_eq!(e.generation, 1);
        assert_eq!(e.mac.to_string(), "02:fc:0a:01:00:05");
    }

    #[test]
    fn bad_fields_are_named() {
        let complaint = |spec: &str| endpoint(spec).expect_err("must be refused").to_string();
        assert!(complaint(r#""addresses":["10.1.0.5"],"mac":"01:00:5e:00:00:01""#).contains("group"));
        assert!(complaint(r#""addresses":["10.1.0.5"],"mac":"00:00:00:00:00:00""#).contains("all-zero"));
        assert!(complaint(r#""addresses":["10.1.0.5"],"mac":"x""#).contains("not a MAC"));
        assert!(complaint(r#""addresses":["10.1.0.5","10.1.0.5"]"#).contains("twice"));
        assert!(complaint(r#""addresses":["10.1.0.5"],"generation":0"#).contains("generation"));
        assert!(
            complaint(r#""addresses":["10.1.0.5"],"ports":[{"name":"http","port":0,"protocol":"TCP"}]"#)
                .contains("0 is not")
        );
        assert!(
            complaint(r#""addresses":["10.1.0.5"],"ports":[{"name":"http","port":1,"protocol":"tcp"}]"#)
                .contains("protocol")
        );
        assert!(
            complaint(r#""addresses":["10.1.0.5"],"attachment":{"netns":"x","ifname":"eth0"}"#)
                .contains("absolute")
        );
        assert!(
            complaint(r#""addresses":["10.1.0.5"],"attachment":{"netns":"/x","ifname":"a/b"}"#)
                .contains("interface name")
        );
    }
}
