//! From NetworkPolicy objects to policies.

use fabric_api::object::{
    self, DEFAULT_NAMESPACE, LabelSelector, NETWORK_POLICY_VERSION, NetworkPolicyPeer, NetworkPolicyPort,
    PortReference,
};

use super::{
    error::{ModelError, refuse},
    name::{check_labels, check_name},
    policy::{Namespaces, NetworkPolicy, Peer, Ports, Rule, Selector, Verdict},
    selector::{self, SCTP, TCP, UDP, at},
    treatment::Treatments,
};

impl NetworkPolicy {
    /// Checks a declared NetworkPolicy. What is left open is as Kubernetes has it: namespace `default`, protocol TCP, the
    /// policy types by which rules there are.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn new(object: &object::NetworkPolicy) -> Result<Self, ModelError> {
        if object.api_version != NETWORK_POLICY_VERSION {
            refuse!("apiVersion {:?} is not known: use {NETWORK_POLICY_VERSION:?}", object.api_version);
        }
        let name = object.metadata.name.clone();
        let namespace = object.metadata.namespace.clone().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
        check_name("policy name", &name)?;
        check_name("namespace", &namespace)?;
        check_labels(&object.metadata.labels)?;
        let spec = &object.spec;
        let whom = optional(spec.pod_selector.as_ref());
        let selector = at("spec.podSelector", whom)?;
        let prefix = format!("NetworkPolicy/{namespace}/{name}");
        let treatments = Treatments::of(&object.metadata.annotations)?;
        let mut ingress = Vec::new();
        for (i, rule) in spec.ingress.iter().flatten().enumerate() {
            let checked = rule_of(&namespace, "from", rule.from.as_deref(), rule.ports.as_deref());
            let (peers, ports) = at(&format!("spec.ingress[{i}]"), checked)?;
            ingress.push(Rule {
                name: format!("{prefix}/ingress/{i}"),
                verdict: Verdict::Accept,
                peers,
                ports,
                treatment: treatments.rule(&format!("ingress/{i}")),
            });
        }
        let mut egress = Vec::new();
        for (i, rule) in spec.egress.iter().flatten().enumerate() {
            let checked = rule_of(&namespace, "to", rule.to.as_deref(), rule.ports.as_deref());
            let (peers, ports) = at(&format!("spec.egress[{i}]"), checked)?;
            egress.push(Rule {
                name: format!("{prefix}/egress/{i}"),
                verdict: Verdict::Accept,
                peers,
                ports,
                treatment: treatments.rule(&format!("egress/{i}")),
            });
        }
        let types = at("spec.policyTypes", types(spec))?;
        treatments.check(&prefix, ingress.iter().chain(&egress).map(|rule| rule.name.as_str()))?;
        Ok(Self {
            namespace,
            name,
            selector,
            ingress: types.0.then_some(ingress),
            egress: types.1.then_some(egress),
            treatment: treatments.whole(),
        })
    }
}

/// Whether ingress and egress are restricted.
fn types(spec: &object::NetworkPolicySpec) -> Result<(bool, bool), ModelError> {
    let given = spec.policy_types.as_deref().unwrap_or_default();
    if given.is_empty() {
        return Ok((true, spec.egress.as_ref().is_some_and(|rules| !rules.is_empty())));
    }
    if let Some(other) = given.iter().find(|t| *t != "Ingress" && *t != "Egress") {
        refuse!("{other:?} is not known: use Ingress and Egress");
    }
    let has = |wanted: &str| given.iter().any(|t| t == wanted);
    Ok((has("Ingress"), has("Egress")))
}

fn optional(object: Option<&LabelSelector>) -> Result<Selector, ModelError> {
    object.map_or_else(|| Ok(Selector::default()), selector::selector)
}

fn rule_of(
    namespace: &str,
    side: &str,
    peers: Option<&[NetworkPolicyPeer]>,
    ports: Option<&[NetworkPolicyPort]>,
) -> Result<(Vec<Peer>, Vec<Ports>), ModelError> {
    let mut checked = Vec::new();
    for (i, peer) in peers.unwrap_or_default().iter().enumerate() {
        checked.push(at(&format!("{side}[{i}]"), peer_of(namespace, peer))?);
    }
    if checked.is_empty() {
        checked.push(Peer::Anyone);
    }
    let mut numbers = Vec::new();
    for (i, port) in ports.unwrap_or_default().iter().enumerate() {
        numbers.extend(at(&format!("ports[{i}]"), ports_of(port))?);
    }
    if numbers.is_empty() {
        numbers.push(Ports::All);
    }
    Ok((checked, numbers))
}

fn peer_of(namespace: &str, peer: &NetworkPolicyPeer) -> Result<Peer, ModelError> {
    let endpoints = at("podSelector", optional(peer.pod_selector.as_ref()))?;
    match (&peer.pod_selector, &peer.namespace_selector, &peer.ip_block) {
        (None, None, None) => refuse!("it selects nobody: give podSelector, namespaceSelector or ipBlock"),
        (None, None, Some(block)) => {
            let except = block.except.as_deref().unwrap_or_default();
            let (net, except) = at("ipBlock", selector::cidr(block.cidr, except))?;
            Ok(Peer::Cidr(net, except))
        }
        (_, _, Some(_)) => refuse!("ipBlock is there together with a selector: write two peers"),
        (_, None, None) => Ok(Peer::Endpoints(Namespaces::Named(namespace.to_owned()), endpoints)),
        (_, Some(namespaces), None) => {
            let namespaces = at("namespaceSelector", selector::selector(namespaces))?;
            Ok(Peer::Endpoints(Namespaces::Matching(namespaces), endpoints))
        }
    }
}

fn ports_of(port: &NetworkPolicyPort) -> Result<Vec<Ports>, ModelError> {
    let protocol = match port.protocol.as_deref() {
        None | Some("TCP") => TCP,
        Some("UDP") => UDP,
        Some("SCTP") => SCTP,
        Some(other) => refuse!("protocol {other:?} is not known: use TCP, UDP or SCTP"),
    };
    match (&port.port, port.end_port) {
        (None, None) => Ok(vec![selector::all_of(protocol)]),
        (Some(PortReference::Number(number)), end) => {
            Ok(vec![selector::range(protocol, *number, end.unwrap_or(*number))?])
        }
        (Some(PortReference::Name(name)), None) => selector::named(&[protocol], name),
        (None | Some(PortReference::Name(_)), Some(_)) => {
            refuse!("endPort is there without a port number: give port a number, or take endPort out")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn policy(spec: Value) -> Result<NetworkPolicy, String> {
        let value = json!({"apiVersion": "networking.k8s.io/v1",
                           "metadata": {"name": "db", "namespace": "shop"}, "spec": spec});
        NetworkPolicy::new(&serde_json::from_value(value).expect("a policy")).map_err(|e| e.0)
    }

    #[test]
    fn policy_types_are_by_the_rules_where_none_are_given() {
        let sides =
            |spec| policy(spec).map(|p| (p.ingress.map(|r| r.len()), p.egress.map(|r| r.len()))).unwrap();
        assert_eq!(sides(json!({"podSelector": {}})), (Some(0), None));
        assert_eq!(sides(json!({"ingress": [{}], "policyTypes": []})), (Some(1), None));
        assert_eq!(sides(json!({"egress": []})), (Some(0), None));
        assert_eq!(sides(json!({"egress": [{}]})), (Some(0), Some(1)));
        assert_eq!(sides(json!({"policyTypes": ["Egress"]})), (None, Some(0)));
        assert_eq!(sides(json!({"policyTypes": ["Egress", "Ingress"]})), (Some(0), Some(0)));
        assert!(
            policy(json!({"policyTypes": ["ingress"]}))
                .unwrap_err()
                .contains("spec.policyTypes: \"ingress\"")
        );
    }

    #[test]
    fn rules_have_names_peers_and_ports() {
        let spec = json!({"ingress": [
            {},
            {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}, {"namespaceSelector": {}},
                      {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}],
             "ports": [{"port": 80}, {"protocol": "UDP", "port": 100, "endPort": 200}, {"port": "http"},
                       {"protocol": "SCTP"}]}]});
        let rules = policy(spec).unwrap().ingress.unwrap();
        assert_eq!(
            (rules[0].name.as_str(), rules[0].verdict),
            ("NetworkPolicy/shop/db/ingress/0", Verdict::Accept)
        );
        assert_eq!((&rules[0].peers, &rules[0].ports), (&vec![Peer::Anyone], &vec![Ports::All]));
        let web = Selector {
            requirements: vec![super::super::policy::Requirement::In("app".into(), vec!["web".into()])],
        };
        assert_eq!(rules[1].peers[0], Peer::Endpoints(Namespaces::Named("shop".into()), web));
        let all = Selector::default();
        assert_eq!(rules[1].peers[1], Peer::Endpoints(Namespaces::Matching(all.clone()), all));
        let net = |text: &str| text.parse().unwrap();
        assert_eq!(rules[1].peers[2], Peer::Cidr(net("0.0.0.0/0"), vec![net("10.0.0.0/8")]));
        let ports = [
            Ports::Range(6, 80, 80),
            Ports::Range(17, 100, 200),
            Ports::Named(6, "http".into()),
            Ports::Range(132, 0, 65535),
        ];
        assert_eq!(rules[1].ports, ports);
    }

    #[test]
    fn annotations_reach_every_rule_and_the_default_deny() {
        let of = |annotations: Value| {
            let value = json!({"metadata": {"name": "db", "namespace": "shop", "annotations": annotations},
                               "spec": {"ingress": [{}, {}]}});
            NetworkPolicy::new(&serde_json::from_value(value).expect("a policy")).map_err(|e| e.0)
        };
        let policy = of(json!({"fabric.io/on-deny": "reject", "fabric.io/mode": "audit",
                               "fabric.io/log": "ingress/1"}))
        .unwrap();
        assert!(policy.treatment.reject && policy.treatment.audit && !policy.treatment.log);
        let rules = policy.ingress.unwrap();
        assert_eq!([rules[0].treatment.log, rules[1].treatment.log], [false, true]);
        assert!(rules.iter().all(|rule| rule.treatment.reject && rule.treatment.audit));
        assert!(of(json!({"fabric.io/log": "ingress/2"})).unwrap_err().contains("no rule \"ingress/2\""));
        assert!(of(json!({"fabric.io/on-deny": "RST"})).unwrap_err().contains("use drop or reject"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let port = |port: Value| policy(json!({"ingress": [{"ports": [port]}]})).unwrap_err();
        assert!(port(json!({"port": 0})).starts_with("spec.ingress[0]: ports[0]: 0 is not a port"));
        assert!(port(json!({"port": 65536})).contains("65536"));
        assert!(port(json!({"port": 9, "endPort": 8})).contains("before it begins"));
        assert!(port(json!({"port": "http", "endPort": 8})).contains("endPort"));
        assert!(port(json!({"endPort": 8})).contains("endPort"));
        assert!(port(json!({"protocol": "ICMP"})).contains("\"ICMP\""));
        assert!(port(json!({"port": "80"})).contains("port name \"80\""));
        let peer = |peer: Value| policy(json!({"egress": [{"to": [peer]}]})).unwrap_err();
        assert!(peer(json!({})).starts_with("spec.egress[0]: to[0]: it selects nobody"));
        assert!(peer(json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}})).contains("two peers"));
        assert!(
            peer(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/9"]}})).contains("11.0.0.0/9")
        );
        let version = json!({"apiVersion": "extensions/v1beta1", "metadata": {"name": "x"}, "spec": {}});
        let refused = NetworkPolicy::new(&serde_json::from_value(version).unwrap()).unwrap_err();
        assert!(refused.0.contains("extensions/v1beta1"), "{refused}");
    }
}
