//! Answers to people's questions, from the rules themselves: rows have no part in it.

use std::net::IpAddr;

use fabric_api::policy::{PolicyAnswer, PolicyQuestion, PolicySide};

use crate::{
    model::{Cluster, DomainName, Endpoint, Network, error::ModelError, policy::Direction},
    plan::desired::NodeFacts,
};

use super::{
    candidates::{Asked, ask},
    effective::Policy,
    identity::{Identity, blocks},
};

/// Protocols whose packets have a destination port.
const WITH_PORTS: [u8; 3] = [6, 17, 132];

/// Who is meant by one side of a question.
enum Party<'a> {
    Endpoint(&'a Endpoint),
    Address(IpAddr),
    /// A host of the world, in lower case.
    Name(String),
}

/// What the policies of both sides say. `facts` are those of the node that asks: networks' gateways are there, and so are the endpoints
/// of which it knows what they were told for domain names.
///
/// # Errors
/// The question names an endpoint or a network that is not there, or its protocol and port do not go together.
pub fn decide(
    cluster: &Cluster,
    facts: &NodeFacts,
    question: &PolicyQuestion,
) -> Result<PolicyAnswer, ModelError> {
    let protocol = protocol(question.protocol.as_deref().unwrap_or("tcp"))?;
    let port = match question.port {
        Some(0) => return refused("port 0 is not valid: use 1 to 65535".to_owned()),
        Some(port) if WITH_PORTS.contains(&protocol) => port,
        Some(_) => return refused(format!("protocol {protocol} has no ports: leave the port out")),
        None if WITH_PORTS.contains(&protocol) => {
            return refused("the question has no port: name the destination port".to_owned());
        }
        None => 0,
    };
    let (from, to) = (party(cluster, &question.from), party(cluster, &question.to));
    let network = network(cluster, question.network.as_deref(), [&from, &to])?;
    if matches!(from, Some(Party::Name(_))) {
        return refused(format!("{} can't be who starts: a domain name is for who is asked", question.from));
    }
    let from = place(cluster, network, from, &question.from)?;
    let to = place(cluster, network, to, &question.to)?;
    let egress = side(cluster, facts, network, (&from, &to), Direction::Egress, (protocol, port));
    let ingress = side(cluster, facts, network, (&to, &from), Direction::Ingress, (protocol, port));
    let allowed = [&egress, &ingress].into_iter().flatten().all(|side| side.verdict == "accept");
    Ok(PolicyAnswer { allowed, egress, ingress })
}

fn refused<T>(text: String) -> Result<T, ModelError> {
    Err(ModelError(text))
}

fn protocol(text: &str) -> Result<u8, ModelError> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(6),
        "udp" => Ok(17),
        "sctp" => Ok(132),
        "icmp" => Ok(1),
        "icmpv6" => Ok(58),
        other => other.parse().map_err(|_| {
            ModelError(format!("protocol {text:?} is not known: use tcp, udp, sctp or a number"))
        }),
    }
}

fn party<'a>(cluster: &'a Cluster, text: &str) -> Option<Party<'a>> {
    let endpoint = cluster.endpoints.get(text).map(Party::Endpoint);
    let name = || Some(Party::Name(text.parse::<DomainName>().ok()?.exact()?.to_owned()));
    endpoint.or_else(|| text.parse().ok().map(Party::Address)).or_else(name)
}

/// The network that addresses are in.
fn network<'a>(
    cluster: &'a Cluster,
    name: Option<&str>,
    parties: [&Option<Party<'_>>; 2],
) -> Result<Option<&'a Network>, ModelError> {
    if let Some(name) = name {
        let Some(network) = cluster.networks.get(name) else {
            return refused(format!("network {name} is not there: name one that is"));
        };
        return Ok(Some(network));
    }
    Ok(parties.into_iter().find_map(|party| match party {
        Some(Party::Endpoint(endpoint)) => cluster.networks.get(&endpoint.network),
        Some(Party::Address(_) | Party::Name(_)) | None => None,
    }))
}

/// An address that an endpoint has is that endpoint.
fn place<'a>(
    cluster: &'a Cluster,
    network: Option<&'a Network>,
    party: Option<Party<'a>>,
    text: &str,
) -> Result<Party<'a>, ModelError> {
    let Some(party) = party else {
        return refused(format!(
            "{text} is neither an endpoint nor an address or a domain name: name one of them"
        ));
    };
    let Party::Address(address) = party else { return Ok(party) };
    let Some(network) = network else {
        return refused(format!("the network of {address} is not known: name it"));
    };
    let networks = std::iter::once(network).chain(cluster.opened(network));
    let found = networks.into_iter().find_map(|network| cluster.endpoint_at(&network.name, address));
    Ok(found.map_or(Party::Address(address), Party::Endpoint))
}

fn side(
    cluster: &Cluster,
    facts: &NodeFacts,
    network: Option<&Network>,
    (asked, other): (&Party<'_>, &Party<'_>),
    direction: Direction,
    (protocol, port): (u8, u16),
) -> Option<PolicySide> {
    let Party::Endpoint(endpoint) = asked else { return None };
    let subject = Identity::of_endpoint(cluster, endpoint);
    let policy = Policy::new(cluster, &subject, &endpoint.node);
    let other = match other {
        Party::Endpoint(endpoint) => Identity::of_endpoint(cluster, endpoint),
        Party::Address(address) => {
            let found = of_address(cluster, &facts.node, network, *address);
            let port = facts.ports.get(&endpoint.name).filter(|_| direction == Direction::Egress);
            let names = port.and_then(|port| facts.names.get(port)?.get(address));
            match (&found, names) {
                (Identity::Anyone | Identity::Blocks(_), Some(names)) => {
                    Identity::of_named(*address, &blocks(cluster), policy.first_names(names))
                }
                _ => found,
            }
        }
        Party::Name(name) => {
            let names = policy.names().into_iter().filter(|rule| rule.matches(name));
            Identity::of_name(&blocks(cluster), names.cloned().collect())
        }
    };
    let (side, asked) = (policy.direction(direction), Asked { other: &other, protocol, port });
    let said = ask(&side.enforced, asked);
    let audited = side.audited.as_ref().map(|all| ask(all, asked)).filter(|then| said.accept && !then.accept);
    Some(PolicySide {
        reject: said.reject,
        would_deny: audited.and_then(|then| then.rule),
        endpoint: endpoint.name.clone(),
        verdict: if said.accept { "accept" } else { "deny" }.to_owned(),
        rule: said.rule,
        candidates: said.candidates,
    })
}

/// The identity of an address that no endpoint has.
fn of_address(cluster: &Cluster, node: &str, network: Option<&Network>, address: IpAddr) -> Identity {
    let networks =
        network.into_iter().flat_map(|network| std::iter::once(network).chain(cluster.opened(network)));
    for network in networks {
        if network.subnets.iter().any(|subnet| subnet.gateway == address) {
            return Identity::of_node(cluster, node);
        }
        let names = cluster.nodes.keys().map(String::as_str).filter(|name| *name != node);
        let found = names
            .chain([node])
            .find(|name| cluster.node_addresses(network, name, *name == node).contains(&address));
        if let Some(name) = found {
            return Identity::of_node(cluster, name);
        }
    }
    Identity::of_address(address, &blocks(cluster))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const WORLD: &str = r#"[
        {"kind": "Network", "metadata": {"name": "blue"}, "spec": {"vni": 100, "subnets": ["10.0.0.0/24"]}},
        {"kind": "Endpoint", "metadata": {"name": "web"}, "spec": {"network": "blue", "node": "n1", "addresses": ["10.0.0.2"]}},
        {"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": "names"},
         "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": [
            {"name": "known", "action": "Accept", "to": [{"domainNames": ["*.example.com", "example.org"]}],
             "protocols": [{"tcp": {"destinationPort": {"number": 443}}}]},
            {"name": "rest", "action": "Deny", "to": [{"networks": ["0.0.0.0/0", "::/0"]}]}]}}]"#;

    fn ask(to: &str, port: u16) -> Result<PolicySide, String> {
        let objects: Vec<serde_json::Value> = serde_json::from_str(WORLD).expect("JSON");
        let objects: Vec<_> =
            objects.into_iter().map(|o| fabric_api::parse::object(o).expect("an object")).collect();
        let cluster = Cluster::from_objects(&objects);
        assert!(cluster.problems.is_empty(), "{:?}", cluster.problems);
        let question = PolicyQuestion {
            from: "web".to_owned(),
            to: to.to_owned(),
            port: Some(port),
            ..PolicyQuestion::default()
        };
        let told = [("198.51.100.7".parse().expect("an address"), ["www.example.com".to_owned()].into())];
        let facts = NodeFacts {
            node: "n1".to_owned(),
            ports: [("web".to_owned(), 17)].into(),
            names: Arc::new([(17, told.into())].into()),
            ..NodeFacts::default()
        };
        let answer = decide(&cluster, &facts, &question).map_err(|error| error.0)?;
        Ok(answer.egress.expect("the sender is an endpoint"))
    }

    #[test]
    fn a_name_is_asked_about_like_its_addresses() {
        let known = "ClusterNetworkPolicy/names/egress/known";
        for name in ["www.example.com", "a.b.example.com", "EXAMPLE.org."] {
            let side = ask(name, 443).unwrap();
            assert_eq!((side.verdict.as_str(), side.rule.as_deref()), ("accept", Some(known)), "{name}");
        }
        let side = ask("198.51.100.7", 443).unwrap();
        assert_eq!(side.rule.as_deref(), Some(known), "an address that it was told");
        assert_eq!(ask("198.51.100.8", 443).unwrap().verdict, "deny");
        let said = ask("www.example.com", 443).unwrap().candidates;
        assert_eq!(said[0].why, "domain name *.example.com and port match");
        for (name, port) in [("example.com", 443), ("www.example.org", 443), ("www.example.com", 80)] {
            let side = ask(name, port).unwrap();
            let rule = side.rule.as_deref();
            assert_eq!(
                (side.verdict.as_str(), rule),
                ("deny", Some("ClusterNetworkPolicy/names/egress/rest")),
                "{name}"
            );
        }
        assert!(ask("*.example.com", 443).unwrap_err().contains("neither an endpoint nor an address"));
    }
}
