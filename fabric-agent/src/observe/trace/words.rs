//! The marks of a walk in words: names instead of numbers.

use fabric_api::{
    object::Endpoint,
    trace::{TraceReport, TraceStage},
};
use fabric_common::{
    addr::Mac,
    fdb::{FLAG_HOST, FdbValue},
    node::NodeValue,
    reason::Action,
    stage::{Mark, Stage},
};

use super::{
    Known, Start,
    frame::{self, ETH},
    vni,
};
use crate::{dataplane::Walked, model::ids};

/// What the sentences are made of.
pub(super) struct Words<'a> {
    pub(super) known: &'a Known,
    pub(super) start: &'a Start<'a>,
    pub(super) walked: &'a Walked,
    pub(super) inner: usize,
    pub(super) vni: u32,
    pub(super) dst: Mac,
    pub(super) entry: Option<FdbValue>,
    pub(super) node: Option<NodeValue>,
}

/// A whole hook that is passed on the way to the one that decides.
pub(super) fn let_through(start: &Start<'_>, walked: &Walked) -> TraceStage {
    let text = match walked.end {
        Some(Mark::Done(action)) => format!("let through: {}", action.explain().trim()),
        Some(Mark::Dropped(_) | Mark::Passed(_)) | None => "let through".to_owned(),
    };
    TraceStage { name: start.hook.as_str().to_owned(), text }
}

impl Words<'_> {
    /// What a stage found.
    pub(super) fn stage(&self, stage: Stage) -> String {
        let frame = &self.start.frame;
        let addresses = frame::addresses(frame, self.inner + ETH);
        let plain = || stage.explain().trim().to_owned();
        let detail = match stage {
            Stage::Port => self.start.port.map(|port| {
                format!(
                    "endpoint {} in network {}, VNI {}",
                    port.endpoint.metadata.name, port.endpoint.spec.network, port.vni
                )
            }),
            Stage::SourceMac => Some(frame::mac(frame, self.inner + 6).to_string()),
            Stage::SourceAddress | Stage::SourceRecord => addresses.map(|(src, _)| src.to_string()),
            Stage::Routed => Some(self.dst.to_string()),
            Stage::Fdb | Stage::Router => Some(frame::mac(frame, self.inner).to_string()),
            Stage::Node => self.node.map(|row| {
                format!(
                    "node {}, VTEP {}, inner packets up to {} bytes",
                    self.node_name(),
                    row.remote,
                    row.mtu
                )
            }),
            Stage::LocalPort | Stage::Receiver => Some(if self.is_host() {
                "this node itself".to_owned()
            } else {
                format!("endpoint {}", self.receiver())
            }),
            Stage::PolicyEgress | Stage::PolicyIngress => None,
            Stage::Encapsulated => frame::outer(&self.walked.frame).map(|outer| outer.text),
            Stage::Outer => frame::outer(frame).map(|outer| outer.text),
            Stage::Vtep => frame::addresses(frame, ETH).map(|(src, _)| src.to_string()),
            Stage::World => addresses.map(|(_, dst)| dst.to_string()),
            Stage::Translated => {
                frame::addresses(&self.walked.frame, ETH).map(|(src, dst)| format!("now from {src} to {dst}"))
            }
            Stage::Arp
            | Stage::NeighbourDiscovery
            | Stage::IpHeader
            | Stage::Size
            | Stage::Device
            | Stage::InnerFrame
            | Stage::Decapsulated
            | Stage::Group
            | Stage::CopyLocal
            | Stage::CopyRemote => None,
        };
        detail.map_or_else(plain, |detail| format!("{} ({detail})", plain().trim_end_matches('.')))
    }

    fn node_name(&self) -> String {
        let number = self.entry.map_or(0, |entry| entry.node);
        let found = self.known.nodes.iter().find(|(id, _)| *id == number);
        found.map_or_else(|| format!("number {number}"), |(_, name)| name.clone())
    }

    /// Whether the destination is the host's own access port.
    fn is_host(&self) -> bool {
        self.entry.is_some_and(|entry| entry.flags & FLAG_HOST != 0)
    }

    /// The network that the frame ends in.
    fn network(&self) -> String {
        let found = self
            .known
            .networks
            .iter()
            .find(|network| vni(self.known, &network.metadata.name) == Some(self.vni));
        found.map_or_else(|| format!("with VNI {}", self.vni), |network| network.metadata.name.clone())
    }

    /// The local endpoint behind the entry's port.
    fn receiver(&self) -> String {
        let ifindex = self.entry.map_or(0, |entry| entry.ifindex);
        let port = |endpoint: &&Endpoint| {
            endpoint.status.as_ref().is_some_and(|status| status.local && status.ifindex == ifindex)
        };
        let found = self.known.endpoints.iter().filter(|_| ifindex != 0).find(port);
        found.map_or_else(String::new, |endpoint| endpoint.metadata.name.clone())
    }

    /// How the walk ended.
    pub(super) fn end(&self, report: &mut TraceReport) {
        let hook = self.start.hook.as_str();
        if self.walked.goes_on {
            report.result = frame::to_hex(&self.walked.frame);
        }
        match self.walked.end {
            Some(Mark::Dropped(reason)) => {
                report.verdict = "drop".to_owned();
                report.reason = reason.as_str().to_owned();
                let explain = reason.explain().trim();
                report.sentence = format!("dropped by {} at {hook}: {explain}", reason.as_str());
                if let Some(told) = frame::error(&self.walked.frame).filter(|_| self.walked.goes_on) {
                    report.sentence.push_str(&format!(" And the sender is told: {told}"));
                }
            }
            Some(Mark::Done(action)) => {
                report.verdict = action.as_str().to_owned();
                if action == Action::Local && self.is_host() {
                    report.sentence = format!(
                        "delivered to node {} itself, in network {}",
                        self.known.node,
                        self.network()
                    );
                } else if action == Action::Local {
                    report.endpoint = self.receiver();
                    report.sentence = format!("delivered to endpoint {} on this node", report.endpoint);
                } else if matches!(action, Action::Remote | Action::ViaDevice) {
                    self.onward(report, action);
                } else {
                    if action == Action::Fragment {
                        report.unknown = vec![
                            "what becomes of the fragments: they are made behind that device".to_owned(),
                        ];
                    }
                    report.sentence = format!("{} at {hook}: {}", action.as_str(), action.explain().trim());
                }
            }
            Some(Mark::Passed(_)) | None => {
                report.verdict = "unknown".to_owned();
                report.sentence =
                    format!("{hook} ended without saying how: this is a fault, please report it");
            }
        }
    }

    fn onward(&self, report: &mut TraceReport, action: Action) {
        report.next_node = self.node_name();
        let (name, dst) = (report.next_node.clone(), self.dst.to_string());
        report.sentence = if action == Action::Remote {
            format!("sent to node {name} through the tunnel")
        } else {
            format!("sent to node {name} through the agent's vxlan device")
        };
        let there = self.known.endpoints.iter().find(|endpoint| {
            endpoint.spec.mac.as_ref() == Some(&dst)
                && endpoint.spec.node.as_deref() == Some(name.as_str())
                && vni(self.known, &endpoint.spec.network) == Some(self.vni)
        });
        report.known = vec![match there {
            None if ids::node_mac(&name).to_string() == dst => {
                format!("MAC {dst} is node {name}'s own in network {}", self.network())
            }
            Some(endpoint) => {
                format!("endpoint {} is declared on node {name} with MAC {dst}", endpoint.metadata.name)
            }
            None => format!("no endpoint with MAC {dst} is declared on node {name}"),
        }];
        report.unknown = vec![
            "the underlay between: route, neighbour, firewalls and whether the packet arrives".to_owned(),
            format!("what node {name} decides: its own tables are not known here"),
        ];
    }
}
