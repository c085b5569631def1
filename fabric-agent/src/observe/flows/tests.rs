//! What is told of a row, and what is not.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use fabric_api::{
    Endpoint, Network,
    flow::{Flow, FlowFilter, FlowState},
    parse,
};
use fabric_common::flow::{
    FLAG_ANSWERED, FLAG_BEGAN_HIGH, FLAG_FIN_ANSWER, FLAG_RESET, FlowKey, FlowValue, timeout,
};
use serde_json::json;

use super::{FlowNames, SECOND, Wanted, told};

const NOW: u64 = 1_000 * SECOND;
const WEB: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 2);
const FAR: Ipv4Addr = Ipv4Addr::new(192, 168, 20, 9);

fn names() -> FlowNames {
    let network = |name: &str, vni: u32| -> Network {
        parse::typed(json!({"metadata": {"name": name}, "spec": {"subnets": ["192.168.0.0/16"], "vni": vni}}))
            .expect("a network")
    };
    let endpoint = |name: &str, network: &str, address: Ipv4Addr| -> Endpoint {
        parse::typed(
            json!({"metadata": {"name": name}, "spec": {"network": network, "addresses": [address]}}),
        )
        .expect("an endpoint")
    };
    let networks = [network("blue", 77), network("red", 78)];
    let endpoints = [endpoint("web", "blue", WEB), endpoint("far", "red", FAR)];
    let rules = BTreeMap::from([(5, "NetworkPolicy/blue/web/egress/0".to_owned())]);
    FlowNames::new(&networks, &endpoints, Arc::new(rules))
}

fn row(flags: u32) -> (FlowKey, FlowValue) {
    let key = FlowKey {
        vni: 77,
        low: WEB.into(),
        high: FAR.into(),
        low_port: 80_u16.to_be_bytes(),
        high_port: 4000_u16.to_be_bytes(),
        protocol: 6,
        zero: [0; 3],
    };
    let value = FlowValue {
        flags,
        began: 900,
        seen: NOW - 3 * SECOND,
        began_bytes: 10,
        answer_bytes: 20,
        egress_policy: 1,
        egress_identity: 2,
        egress_rule: 5,
        ingress_policy: 0,
        ingress_identity: 0,
        ingress_rule: 0,
    };
    (key, value)
}

fn flow(flags: u32, filter: &FlowFilter) -> Option<Flow> {
    let ((key, value), names) = (row(flags), names());
    told(&key, &value, NOW, &names, &Wanted::new(filter, &names).expect("a filter"))
}

#[test]
fn a_row_is_told_from_who_began_with_names() {
    let flow = flow(FLAG_BEGAN_HIGH | FLAG_ANSWERED, &FlowFilter::default()).expect("it is there");
    assert_eq!((&*flow.network, &*flow.protocol, flow.state), ("blue", "TCP", FlowState::Established));
    let (source, destination) = (&flow.source, &flow.destination);
    assert_eq!((&*source.endpoint, source.port, source.bytes), ("far", 4000, 10), "of the other network");
    assert_eq!((&*destination.endpoint, destination.port, destination.bytes), ("web", 80, 20));
    assert_eq!((flow.age, flow.idle, flow.expires), (100, 3, timeout::TCP / SECOND - 3));
    assert_eq!(flow.egress_rule.as_deref(), Some("NetworkPolicy/blue/web/egress/0"));
    assert_eq!(flow.ingress_rule, None, "that side has no policy here");
}

#[test]
fn a_flow_says_that_an_audited_policy_would_not_admit_it() {
    let ((key, mut value), names) = (row(FLAG_BEGAN_HIGH | FLAG_ANSWERED), names());
    value.egress_rule |= fabric_common::policy::verdict::AUDIT;
    let flow = told(&key, &value, NOW, &names, &Wanted::default()).expect("it is there");
    assert!(flow.would_drop);
    assert_eq!(flow.egress_rule.as_deref(), Some("NetworkPolicy/blue/web/egress/0"));
}

#[test]
fn a_flow_is_new_then_established_then_closing_and_then_gone() {
    let state = |flags| flow(flags, &FlowFilter::default()).map(|flow| flow.state);
    assert_eq!(state(0), Some(FlowState::New));
    assert_eq!(state(FLAG_ANSWERED), Some(FlowState::Established));
    assert_eq!(state(FLAG_ANSWERED | FLAG_FIN_ANSWER), Some(FlowState::Closing));
    assert_eq!(state(FLAG_RESET), Some(FlowState::Closing));
    let (key, mut value) = row(0);
    value.seen = NOW - timeout::NEW - 1;
    assert_eq!(told(&key, &value, NOW, &names(), &Wanted::default()), None, "expired");
    value.seen = NOW + SECOND;
    assert!(told(&key, &value, NOW, &names(), &Wanted::default()).is_some(), "seen after the clock was read");
}

#[test]
fn every_filter_chooses_by_either_side() {
    let some = |text: &str| Some(text.to_owned());
    let none = FlowFilter::default;
    for (matches, filter) in [
        (true, FlowFilter { endpoint: some("web"), ..none() }),
        (true, FlowFilter { endpoint: some("far"), ..none() }),
        (true, FlowFilter { network: some("blue"), ..none() }),
        (true, FlowFilter { network: some("red"), ..none() }),
        (true, FlowFilter { protocol: some("TCP"), ..none() }),
        (true, FlowFilter { protocol: some("6"), ..none() }),
        (false, FlowFilter { protocol: some("udp"), ..none() }),
        (true, FlowFilter { address: some("192.168.20.9"), ..none() }),
        (true, FlowFilter { address: some("192.168.10.0/24"), ..none() }),
        (false, FlowFilter { address: some("fd00::/8"), ..none() }),
        (true, FlowFilter { port: Some(80), ..none() }),
        (true, FlowFilter { port: Some(4000), ..none() }),
        (false, FlowFilter { port: Some(81), ..none() }),
        (true, FlowFilter { state: Some(FlowState::New), ..none() }),
        (false, FlowFilter { state: Some(FlowState::Closing), ..none() }),
    ] {
        assert_eq!(flow(0, &filter).is_some(), matches, "{filter:?}");
    }
}

#[test]
fn what_a_filter_names_must_be_there() {
    let refused = |filter| Wanted::new(&filter, &names()).expect_err("a wrong filter");
    let some = |text: &str| Some(text.to_owned());
    let none = FlowFilter::default;
    assert_eq!(refused(FlowFilter { network: some("green"), ..none() }), "there is no network green");
    assert_eq!(refused(FlowFilter { endpoint: some("db"), ..none() }), "there is no endpoint db");
    assert!(refused(FlowFilter { protocol: some("tpc"), ..none() }).contains("tcp, udp, sctp"));
    assert!(
        refused(FlowFilter { address: some("10.0.0"), ..none() }).contains("neither an address nor a prefix")
    );
}
