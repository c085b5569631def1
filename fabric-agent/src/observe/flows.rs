//! Flows in the API's words: names instead of numbers, times instead of clocks, and only those that are wanted.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use fabric_api::{
    Endpoint, Network,
    flow::{Flow, FlowFilter, FlowSide, FlowState},
};
use fabric_common::{
    addr::Addr,
    flow::{
        FLAG_ANSWERED, FLAG_BEGAN_HIGH, FLAG_FIN_ANSWER, FLAG_FIN_BEGAN, FLAG_RESET, FlowKey, FlowValue,
        lifetime,
    },
    policy::verdict,
};
use ipnet::IpNet;

pub use crate::dataplane::boot_time;

use super::{
    events::{protocol, wall_clock},
    names::vnis,
};
use crate::{
    dataplane::{FlowCursor, Flows},
    policy::RuleNames,
};

const SECOND: u64 = 1_000_000_000;

/// Where flows come from.
pub trait FlowSource: Send + Sync {
    /// A reading of all flows, from the beginning.
    fn scan(&self) -> Box<dyn FlowScan>;
}

/// A reading of all flows, in parts of bounded size.
pub trait FlowScan: Send {
    /// The next rows, expired ones among them; absent at the end.
    ///
    /// # Errors
    /// The maps can't be read.
    fn next_rows(&mut self) -> anyhow::Result<Option<Vec<(FlowKey, FlowValue)>>>;
}

impl FlowSource for Flows {
    fn scan(&self) -> Box<dyn FlowScan> {
        Box::new(self.cursor())
    }
}

impl FlowScan for FlowCursor {
    fn next_rows(&mut self) -> anyhow::Result<Option<Vec<(FlowKey, FlowValue)>>> {
        Ok(Self::next_rows(self)?)
    }
}

/// How far a flow is; absent if it has expired at `now`, nanoseconds since boot.
pub fn state(key: &FlowKey, value: &FlowValue, now: u64) -> Option<FlowState> {
    if now.saturating_sub(value.seen) > lifetime(key.protocol, value.flags) {
        return None;
    }
    Some(if value.flags & (FLAG_FIN_BEGAN | FLAG_FIN_ANSWER | FLAG_RESET) != 0 {
        FlowState::Closing
    } else if value.flags & FLAG_ANSWERED != 0 {
        FlowState::Established
    } else {
        FlowState::New
    })
}

/// Names of what flows have numbers and addresses of.
#[derive(Debug, Default)]
pub struct FlowNames {
    networks: BTreeMap<u32, String>,
    endpoints: HashMap<IpAddr, Vec<(u32, String)>>,
    rules: Arc<RuleNames>,
}

impl FlowNames {
    /// Takes the names from objects with their status, as the service gives them, and of the rules in force.
    pub fn new(networks: &[Network], endpoints: &[Endpoint], rules: Arc<RuleNames>) -> Self {
        let numbers = vnis(networks);
        let networks = numbers.iter().map(|(name, vni)| (*vni, (*name).to_owned())).collect();
        let mut names = Self { networks, rules, ..Self::default() };
        for endpoint in endpoints {
            let Some(vni) = numbers.get(endpoint.spec.network.as_str()) else { continue };
            for address in &endpoint.spec.addresses {
                let named = names.endpoints.entry(*address).or_default();
                named.push((*vni, endpoint.metadata.name.clone()));
            }
        }
        names
    }

    /// Network and name of the endpoint that has an address: in the flow's network, or in the only other one in which
    /// somebody has it, since networks that are opened to each other share no address.
    fn endpoint(&self, vni: u32, address: IpAddr) -> Option<&(u32, String)> {
        let known = self.endpoints.get(&address)?;
        known
            .iter()
            .find(|(network, _)| *network == vni)
            .or_else(|| known.first().filter(|_| known.len() == 1))
    }

    fn rule(&self, policy: u32, rule: u32) -> Option<String> {
        let number = rule & verdict::NUMBER;
        (policy != 0 && number != 0)
            .then(|| self.rules.get(&number).cloned().unwrap_or_else(|| number.to_string()))
    }
}

/// A filter whose words are understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    endpoint: Option<String>,
    network: Option<u32>,
    protocol: Option<u8>,
    address: Option<IpNet>,
    port: Option<u16>,
    state: Option<FlowState>,
}

impl Wanted {
    /// Checks a filter against what there is.
    ///
    /// # Errors
    /// One sentence: a protocol, an address or a network that is none.
    pub fn new(filter: &FlowFilter, names: &FlowNames) -> Result<Self, String> {
        let network = |name: &String| {
            let found = names.networks.iter().find(|(_, known)| *known == name);
            found.map(|(vni, _)| *vni).ok_or_else(|| format!("there is no network {name}"))
        };
        let endpoint = |name: &String| {
            let known = names.endpoints.values().flatten().any(|(_, known)| known == name);
            if known { Ok(name.clone()) } else { Err(format!("there is no endpoint {name}")) }
        };
        Ok(Self {
            endpoint: filter.endpoint.as_ref().map(endpoint).transpose()?,
            network: filter.network.as_ref().map(network).transpose()?,
            protocol: filter.protocol.as_deref().map(number).transpose()?,
            address: filter.address.as_deref().map(prefix).transpose()?,
            port: filter.port,
            state: filter.state,
        })
    }
}

fn number(name: &str) -> Result<u8, String> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "icmp" => 1,
        "tcp" => 6,
        "udp" => 17,
        "icmpv6" => 58,
        "sctp" => 132,
        other => other.parse().map_err(|_| {
            format!("protocol {name:?} is none: tcp, udp, sctp, icmp, icmpv6 or a number from 0 to 255 is expected")
        })?,
    })
}

fn prefix(text: &str) -> Result<IpNet, String> {
    let single = text.parse::<IpAddr>().map(IpNet::from);
    single.or_else(|_| text.parse()).map_err(|_| format!("{text:?} is neither an address nor a prefix"))
}

/// A row in the API's words; absent if it has expired at `now` or is not wanted.
pub fn told(key: &FlowKey, value: &FlowValue, now: u64, names: &FlowNames, wanted: &Wanted) -> Option<Flow> {
    let state = state(key, value, now)?;
    if wanted.state.is_some_and(|wanted| wanted != state)
        || wanted.protocol.is_some_and(|wanted| wanted != key.protocol)
    {
        return None;
    }
    let side = |address: Addr, port: [u8; 2], bytes| {
        let address = address.to_ip();
        let named = names.endpoint(key.vni, address);
        let endpoint = named.map(|(_, name)| name.clone()).unwrap_or_default();
        let vni = named.map_or(key.vni, |(vni, _)| *vni);
        (FlowSide { address, port: u16::from_be_bytes(port), endpoint, bytes }, vni)
    };
    let (low, high) = ((key.low, key.low_port), (key.high, key.high_port));
    let (began, answers) = if value.flags & FLAG_BEGAN_HIGH != 0 { (high, low) } else { (low, high) };
    let (source, of_source) = side(began.0, began.1, value.began_bytes);
    let (destination, of_destination) = side(answers.0, answers.1, value.answer_bytes);
    let sides = [&source, &destination];
    let fits = wanted.endpoint.as_ref().is_none_or(|name| sides.iter().any(|side| side.endpoint == *name))
        && wanted.network.is_none_or(|vni| [key.vni, of_source, of_destination].contains(&vni))
        && wanted.address.is_none_or(|prefix| sides.iter().any(|side| prefix.contains(&side.address)))
        && wanted.port.is_none_or(|port| sides.iter().any(|side| side.port == port));
    let idle = now.saturating_sub(value.seen);
    fits.then(|| Flow {
        network: names.networks.get(&key.vni).cloned().unwrap_or_else(|| key.vni.to_string()),
        vni: key.vni,
        protocol: protocol(key.protocol),
        source,
        destination,
        state,
        began: humantime::format_rfc3339_seconds(wall_clock(u64::from(value.began) * SECOND)).to_string(),
        age: (now / SECOND).saturating_sub(value.began.into()),
        idle: idle / SECOND,
        expires: lifetime(key.protocol, value.flags).saturating_sub(idle) / SECOND,
        egress_rule: names.rule(value.egress_policy, value.egress_rule),
        ingress_rule: names.rule(value.ingress_policy, value.ingress_rule),
        would_drop: (value.egress_rule | value.ingress_rule) & verdict::AUDIT != 0,
    })
}

#[cfg(test)]
mod tests;
