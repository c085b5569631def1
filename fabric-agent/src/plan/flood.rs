//! `flood`: who gets copies of broadcast and multicast in the networks that replicate it. Every node that has a part in the
//! network gets one; which of its ports want it is for that node to know.

use fabric_common::{
    flood::{FloodKey, FloodValue, NODES, PLACES, PORTS},
    network::FLAG_MULTICAST,
    policy::NO_POLICY,
};

use super::{Context, desired::Desired};

/// Comes behind `ports` and `members`, from which the lists are made.
pub(super) fn compile(context: &mut Context<'_>, desired: &mut Desired) {
    let cluster = context.cluster;
    for network in cluster.networks.values() {
        let vni = network.vni.get();
        let replicates = desired.tables.networks.get(&vni).is_some_and(|row| row.flags & FLAG_MULTICAST != 0);
        if !replicates {
            continue;
        }
        // Who is being moved here gets its copies where it still lives.
        let here = |ifindex: &u32| !context.arriving.contains(ifindex);
        let ports = desired.tables.ports.iter().filter(|(ifindex, port)| port.vni == vni && here(ifindex));
        let ports: Vec<_> = ports
            .map(|(ifindex, port)| FloodValue {
                ifindex: *ifindex,
                node: 0,
                slot: port.slot,
                policy: port.policy,
            })
            .collect();
        let nodes = desired.tables.members.keys().filter(|key| key.vni == vni);
        let nodes: Vec<_> =
            nodes.map(|key| FloodValue { ifindex: 0, node: key.node, slot: 0, policy: NO_POLICY }).collect();
        for (list, targets, what) in [(PORTS, ports, "ports of this node"), (NODES, nodes, "other nodes")] {
            if targets.len() > PLACES as usize {
                let text = format!(
                    "it has {} {what}, and broadcast and multicast is replicated to {PLACES} of them: split the network",
                    targets.len()
                );
                context.problem("Network", &network.name, text);
            }
            for (place, target) in (0..PLACES).zip(targets) {
                desired.tables.flood.insert(FloodKey { vni, list, place }, target);
            }
        }
    }
}
