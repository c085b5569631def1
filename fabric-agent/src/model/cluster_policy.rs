//! From ClusterNetworkPolicy objects to policies.

use fabric_api::object::{
    self, CLUSTER_POLICY_VERSION, ClusterEgressPeer, ClusterPorts, ClusterProtocol, LabelSelector,
    NamespacedPods,
};

use super::{
    error::{ModelError, refuse},
    name::{check_labels, check_name},
    policy::{ClusterPolicy, Direction, Namespaces, Peer, Ports, Rule, Selector, Tier, Verdict},
    selector::{self, SCTP, TCP, UDP, at},
    treatment::Treatments,
};

/// Most rules of a direction, peers or protocols of a rule, and prefixes of a peer.
const MOST: usize = 100;
/// Most characters of a rule's name.
const NAME_MOST: usize = 100;
/// The last priority.
const PRIORITY_MOST: i32 = 1000;

impl ClusterPolicy {
    /// Checks a declared ClusterNetworkPolicy.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn new(object: &object::ClusterNetworkPolicy) -> Result<Self, ModelError> {
        if object.api_version != CLUSTER_POLICY_VERSION {
            refuse!("apiVersion {:?} is not known: use {CLUSTER_POLICY_VERSION:?}", object.api_version);
        }
        let name = object.metadata.name.clone();
        check_name("policy name", &name)?;
        check_labels(&object.metadata.labels)?;
        let treatments = Treatments::of(&object.metadata.annotations)?;
        let spec = &object.spec;
        let tier = match spec.tier.as_str() {
            "Admin" => Tier::Admin,
            "Baseline" => Tier::Baseline,
            other => refuse!("spec.tier: {other:?} is not known: use Admin or Baseline"),
        };
        if !(0..=PRIORITY_MOST).contains(&spec.priority) {
            refuse!("spec.priority: {} is not valid: use 0 to {PRIORITY_MOST}", spec.priority);
        }
        let whom = endpoints(spec.subject.namespaces.as_ref(), spec.subject.pods.as_ref());
        let Some((namespaces, selected)) = at("spec.subject", whom)? else {
            refuse!("spec.subject: it selects nobody: give namespaces or pods");
        };
        at("spec.ingress", few(spec.ingress.iter().flatten().count(), "rules"))?;
        at("spec.egress", few(spec.egress.iter().flatten().count(), "rules"))?;
        let mut ingress = Vec::new();
        for (i, rule) in spec.ingress.iter().flatten().enumerate() {
            // Who may come in can be selected in fewer ways.
            let peers: Vec<ClusterEgressPeer> = rule
                .from
                .iter()
                .map(|peer| ClusterEgressPeer {
                    namespaces: peer.namespaces.clone(),
                    pods: peer.pods.clone(),
                    ..ClusterEgressPeer::default()
                })
                .collect();
            let place = Place {
                policy: &name,
                tier,
                treatments: &treatments,
                direction: Direction::Ingress,
                index: i,
            };
            ingress.push(rule_of(
                &place,
                rule.name.as_deref(),
                &rule.action,
                &peers,
                rule.protocols.as_deref(),
            )?);
        }
        let mut egress = Vec::new();
        for (i, rule) in spec.egress.iter().flatten().enumerate() {
            let place = Place {
                policy: &name,
                tier,
                treatments: &treatments,
                direction: Direction::Egress,
                index: i,
            };
            egress.push(rule_of(
                &place,
                rule.name.as_deref(),
                &rule.action,
                &rule.to,
                rule.protocols.as_deref(),
            )?);
        }
        let rules = ingress.iter().chain(&egress).map(|rule| rule.name.as_str());
        treatments.check(&format!("ClusterNetworkPolicy/{name}"), rules)?;
        Ok(Self { name, tier, priority: spec.priority, namespaces, endpoints: selected, ingress, egress })
    }
}

fn few(count: usize, what: &str) -> Result<(), ModelError> {
    if count > MOST {
        refuse!("{count} {what} are too many: at most {MOST}, make two policies of it");
    }
    Ok(())
}

/// Where a rule is.
struct Place<'a> {
    policy: &'a str,
    treatments: &'a Treatments,
    tier: Tier,
    direction: Direction,
    index: usize,
}

impl Place<'_> {
    fn direction(&self) -> &'static str {
        match self.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
    }

    fn peers(&self) -> &'static str {
        match self.direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        }
    }
}

fn rule_of(
    place: &Place<'_>,
    name: Option<&str>,
    action: &str,
    peers: &[ClusterEgressPeer],
    protocols: Option<&[ClusterProtocol]>,
) -> Result<Rule, ModelError> {
    let direction = place.direction();
    at(&format!("spec.{direction}[{}]", place.index), {
        checked(place.peers(), name, action, peers, protocols).and_then(|(verdict, peers, ports)| {
            if peers.iter().any(|peer| matches!(peer, Peer::Name(_))) {
                may_name(place.tier, verdict)?;
            }
            let own = name.filter(|n| !n.is_empty()).map_or_else(|| place.index.to_string(), str::to_owned);
            let name = format!("ClusterNetworkPolicy/{}/{direction}/{own}", place.policy);
            let treatment = place.treatments.rule(&format!("{direction}/{own}"));
            Ok(Rule { name, verdict, peers, ports, treatment })
        })
    })
}

/// Not all addresses of a name are known, so that a rule that denies them would not; and what a rule of the Baseline tier says
/// of names no NetworkPolicy could say instead (NPEP-133).
fn may_name(tier: Tier, verdict: Verdict) -> Result<(), ModelError> {
    if verdict != Verdict::Accept {
        refuse!("domainNames is for Accept rules only: not every address of a name is known");
    }
    if tier != Tier::Admin {
        refuse!("domainNames is for the tier Admin only");
    }
    Ok(())
}

fn checked(
    side: &str,
    name: Option<&str>,
    action: &str,
    peers: &[ClusterEgressPeer],
    protocols: Option<&[ClusterProtocol]>,
) -> Result<(Verdict, Vec<Peer>, Vec<Ports>), ModelError> {
    if let Some(name) = name
        && (name.chars().count() > NAME_MOST || name.chars().any(char::is_control))
    {
        refuse!("name {name:?} is not valid: use at most {NAME_MOST} characters, all of them visible");
    }
    let verdict = match action {
        "Accept" => Verdict::Accept,
        "Deny" => Verdict::Deny,
        "Pass" => Verdict::Pass,
        other => refuse!("action {other:?} is not known: use Accept, Deny or Pass"),
    };
    if peers.is_empty() {
        refuse!("{side} is empty: list whom the rule is about, `namespaces: {{}}` for all endpoints");
    }
    at(side, few(peers.len(), "peers"))?;
    let mut whom = Vec::new();
    for (i, peer) in peers.iter().enumerate() {
        whom.extend(at(&format!("{side}[{i}]"), peers_of(peer))?);
    }
    let protocols = protocols.unwrap_or_default();
    at("protocols", few(protocols.len(), "entries"))?;
    let mut ports = Vec::new();
    for (i, protocol) in protocols.iter().enumerate() {
        ports.extend(at(&format!("protocols[{i}]"), ports_of(protocol))?);
    }
    let nameless = |peer: &Peer| matches!(peer, Peer::Cidr(..) | Peer::Nodes(_) | Peer::Name(_));
    if ports.iter().any(|p| matches!(p, Ports::Named(..))) && whom.iter().any(nameless) {
        refuse!(
            "destinationNamedPort is there with networks, nodes or domainNames, which have no named ports: give numbers"
        );
    }
    if ports.is_empty() {
        ports.push(Ports::All);
    }
    Ok((verdict, whom, ports))
}

/// None if neither is there.
fn endpoints(
    namespaces: Option<&LabelSelector>,
    pods: Option<&NamespacedPods>,
) -> Result<Option<(Namespaces, Selector)>, ModelError> {
    match (namespaces, pods) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => refuse!("namespaces and pods are both there: give one of them"),
        (Some(namespaces), None) => {
            let namespaces = at("namespaces", selector::selector(namespaces))?;
            Ok(Some((Namespaces::Matching(namespaces), Selector::default())))
        }
        (None, Some(pods)) => {
            let namespaces = at("pods.namespaceSelector", selector::selector(&pods.namespace_selector))?;
            let pods = at("pods.podSelector", selector::selector(&pods.pod_selector))?;
            Ok(Some((Namespaces::Matching(namespaces), pods)))
        }
    }
}

fn peers_of(peer: &ClusterEgressPeer) -> Result<Vec<Peer>, ModelError> {
    let selected = endpoints(peer.namespaces.as_ref(), peer.pods.as_ref())?;
    match (selected, &peer.nodes, &peer.networks, &peer.domain_names) {
        (Some((namespaces, pods)), None, None, None) => Ok(vec![Peer::Endpoints(namespaces, pods)]),
        (None, Some(nodes), None, None) => Ok(vec![Peer::Nodes(at("nodes", selector::selector(nodes))?)]),
        (None, None, Some(networks), None) => {
            if networks.is_empty() {
                refuse!("networks is empty: list at least one prefix");
            }
            at("networks", few(networks.len(), "prefixes"))?;
            Ok(networks.iter().map(|net| Peer::Cidr(net.trunc(), Vec::new())).collect())
        }
        (None, None, None, Some(names)) => at("domainNames", names_of(names)),
        (None, None, None, None) => {
            refuse!("it selects nobody: give namespaces, pods, nodes, networks or domainNames")
        }
        _ => refuse!("it selects in several ways: give one, and write a peer for each of the others"),
    }
}

fn names_of(names: &[String]) -> Result<Vec<Peer>, ModelError> {
    if names.is_empty() {
        refuse!("it is empty: list at least one name");
    }
    few(names.len(), "names")?;
    names.iter().map(|name| Ok(Peer::Name(name.parse()?))).collect()
}

fn ports_of(entry: &ClusterProtocol) -> Result<Vec<Ports>, ModelError> {
    match (&entry.tcp, &entry.udp, &entry.sctp, &entry.destination_named_port) {
        (Some(ports), None, None, None) => at("tcp", numbers(TCP, ports)),
        (None, Some(ports), None, None) => at("udp", numbers(UDP, ports)),
        (None, None, Some(ports), None) => at("sctp", numbers(SCTP, ports)),
        (None, None, None, Some(name)) => selector::named(&[TCP, UDP, SCTP], name),
        _ => refuse!("give exactly one of tcp, udp, sctp and destinationNamedPort"),
    }
}

fn numbers(protocol: u8, ports: &ClusterPorts) -> Result<Vec<Ports>, ModelError> {
    let Some(port) = &ports.destination_port else { return Ok(vec![selector::all_of(protocol)]) };
    match (port.number, &port.range) {
        (Some(number), None) => Ok(vec![selector::range(protocol, number, number)?]),
        (None, Some(range)) => Ok(vec![selector::range(protocol, range.start, range.end)?]),
        (None, None) | (Some(_), Some(_)) => refuse!("destinationPort: give either number or range"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn policy(change: impl FnOnce(&mut Value)) -> Result<ClusterPolicy, String> {
        let mut value = json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "metadata": {"name": "guard"},
            "spec": {"tier": "Admin", "priority": 10, "subject": {"namespaces": {}}}});
        change(&mut value["spec"]);
        ClusterPolicy::new(&serde_json::from_value(value).expect("a policy")).map_err(|e| e.0)
    }

    fn egress(rule: Value) -> Result<Rule, String> {
        policy(|spec| spec["egress"] = json!([rule])).map(|p| p.egress[0].clone())
    }

    #[test]
    fn a_policy_in_full() {
        let found = policy(|spec| {
            spec["subject"] = json!({"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "db"}}}});
            spec["ingress"] = json!([
                {"name": "from-web", "action": "Accept", "from": [{"namespaces": {"matchLabels": {"team": "a"}}}],
                 "protocols": [{"tcp": {"destinationPort": {"number": 5432}}}, {"destinationNamedPort": "sql"}]},
                {"action": "Pass", "from": [{"namespaces": {}}]}]);
            spec["egress"] = json!([{"action": "Deny", "to": [{"networks": ["10.1.2.3/8", "fd00::/8"]}, {"nodes": {}}],
                 "protocols": [{"udp": {"destinationPort": {"range": {"start": 5, "end": 9}}}}, {"sctp": {}}]}]);
        })
        .unwrap();
        assert_eq!((found.tier, found.priority), (Tier::Admin, 10));
        assert_eq!(found.endpoints.requirements.len(), 1);
        let names: Vec<_> =
            found.ingress.iter().chain(&found.egress).map(|r| (r.name.as_str(), r.verdict)).collect();
        assert_eq!(
            names,
            [
                ("ClusterNetworkPolicy/guard/ingress/from-web", Verdict::Accept),
                ("ClusterNetworkPolicy/guard/ingress/1", Verdict::Pass),
                ("ClusterNetworkPolicy/guard/egress/0", Verdict::Deny)
            ]
        );
        let sql = |protocol| Ports::Named(protocol, "sql".to_owned());
        assert_eq!(found.ingress[0].ports, [Ports::Range(6, 5432, 5432), sql(6), sql(17), sql(132)]);
        assert_eq!(found.ingress[1].ports, [Ports::All]);
        assert_eq!(found.egress[0].ports, [Ports::Range(17, 5, 9), Ports::Range(132, 0, 65535)]);
        assert_eq!(found.egress[0].peers[0], Peer::Cidr("10.0.0.0/8".parse().unwrap(), vec![]));
        assert_eq!(found.egress[0].peers[2], Peer::Nodes(Selector::default()));
    }

    #[test]
    fn limits_are_those_of_the_definition() {
        assert!(policy(|spec| spec["priority"] = json!(1000)).is_ok());
        assert!(policy(|spec| spec["priority"] = json!(1001)).unwrap_err().contains("1001"));
        assert!(policy(|spec| spec["priority"] = json!(-1)).is_err());
        assert!(policy(|spec| spec["tier"] = json!("admin")).unwrap_err().contains("spec.tier: \"admin\""));
        let rules = |count: usize| vec![json!({"action": "Deny", "from": [{"namespaces": {}}]}); count];
        assert!(policy(|spec| spec["ingress"] = json!(rules(100))).is_ok());
        assert!(policy(|spec| spec["ingress"] = json!(rules(101))).unwrap_err().contains("101 rules"));
        let peers = |count: usize| json!({"action": "Deny", "to": vec![json!({"namespaces": {}}); count]});
        assert!(egress(peers(100)).is_ok());
        assert!(egress(peers(101)).unwrap_err().contains("101 peers"));
        assert!(egress(peers(0)).unwrap_err().contains("to is empty"));
    }

    #[test]
    fn names_are_for_what_is_accepted_at_egress_in_the_admin_tier() {
        let names = json!(["*.Example.com", "example.org."]);
        let rule = |action: &str| json!({"action": action, "to": [{"domainNames": names}]});
        let found = egress(rule("Accept")).unwrap();
        let name = |text: &str| Peer::Name(text.parse().unwrap());
        assert_eq!(found.peers, [name("*.example.com"), name("example.org")]);
        for action in ["Deny", "Pass"] {
            let text = egress(rule(action)).unwrap_err();
            assert!(text.starts_with("spec.egress[0]: domainNames is for Accept rules only"), "{text}");
        }
        let baseline = policy(|spec| {
            spec["tier"] = json!("Baseline");
            spec["egress"] = json!([rule("Accept")]);
        });
        assert_eq!(baseline.unwrap_err(), "spec.egress[0]: domainNames is for the tier Admin only");
        let to = |peer: Value| egress(json!({"action": "Accept", "to": [peer]})).unwrap_err();
        assert!(to(json!({"domainNames": []})).contains("domainNames: it is empty"));
        let text = to(json!({"domainNames": ["a.*.com"]}));
        assert!(text.starts_with("spec.egress[0]: to[0]: domainNames: \"a.*.com\""), "{text}");
        assert!(to(json!({"domainNames": vec!["a.example"; 101]})).contains("101 names are too many"));
        assert!(
            to(json!({"domainNames": ["a.example"], "networks": ["10.0.0.0/8"]})).contains("several ways")
        );
        let named = json!({"action": "Accept", "to": [{"domainNames": ["a.example"]}],
            "protocols": [{"destinationNamedPort": "sql"}]});
        assert!(egress(named).unwrap_err().contains("no named ports"));
        // The field is not there at ingress, nor in a NetworkPolicy.
        let from = json!({"action": "Accept", "from": [{"domainNames": ["a.example"]}]});
        assert!(serde_json::from_value::<object::ClusterIngressRule>(from).is_err());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let to = |peer: Value| egress(json!({"action": "Accept", "to": [peer]})).unwrap_err();
        assert!(to(json!({})).contains("selects nobody"));
        assert!(to(json!({"nodes": {}, "networks": ["10.0.0.0/8"]})).contains("several ways"));
        assert!(to(json!({"networks": []})).contains("networks is empty"));
        let named =
            json!({"action": "Deny", "to": [{"nodes": {}}], "protocols": [{"destinationNamedPort": "sql"}]});
        assert!(egress(named).unwrap_err().contains("no named ports"));
        let port = |port: Value| {
            egress(json!({"action": "Deny", "to": [{"namespaces": {}}], "protocols": [port]})).unwrap_err()
        };
        assert!(port(json!({})).contains("exactly one"));
        assert!(port(json!({"tcp": {"destinationPort": {}}})).contains("number or range"));
        assert!(port(json!({"tcp": {"destinationPort": {"number": 0}}})).contains("0 is not a port"));
        assert!(egress(json!({"action": "Allow", "to": [{"nodes": {}}]})).unwrap_err().contains("\"Allow\""));
        assert!(policy(|spec| spec["subject"] = json!({})).unwrap_err().contains("spec.subject"));
    }
}
