//! What Docker sends, field by field as libnetwork's remote drivers write it. Go's nil is `null`: read as empty.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// `null` as the default.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// `NetworkDriver.CreateNetwork`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct CreateNetwork {
    #[serde(rename = "NetworkID")]
    pub(super) network_id: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) options: Map<String, Value>,
    #[serde(rename = "IPv4Data", deserialize_with = "nullable")]
    pub(super) ipv4: Vec<IpamData>,
    #[serde(rename = "IPv6Data", deserialize_with = "nullable")]
    pub(super) ipv6: Vec<IpamData>,
}

/// A pool of a network.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct IpamData {
    pub(super) pool: String,
    pub(super) gateway: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) aux_addresses: BTreeMap<String, String>,
}

/// Every call that is about an endpoint: what each lacks is empty.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct EndpointCall {
    #[serde(rename = "NetworkID")]
    pub(super) network_id: String,
    #[serde(rename = "EndpointID")]
    pub(super) endpoint_id: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) interface: Interface,
    pub(super) sandbox_key: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) options: Map<String, Value>,
}

/// What Docker has chosen for an endpoint.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Interface {
    pub(super) address: String,
    #[serde(rename = "AddressIPv6")]
    pub(super) address_v6: String,
    pub(super) mac_address: String,
}

/// `IpamDriver.RequestPool`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct RequestPool {
    pub(super) pool: String,
    pub(super) sub_pool: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) options: BTreeMap<String, String>,
    #[serde(rename = "V6")]
    pub(super) v6: bool,
}

/// The IPAM driver's other calls.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct PoolCall {
    #[serde(rename = "PoolID")]
    pub(super) pool_id: String,
    pub(super) address: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) options: BTreeMap<String, String>,
}

/// What is remembered of a Docker network: JSON in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// The fabric network's name.
    pub(super) network: String,
    /// Whether it was created with `--internal`.
    pub(super) internal: bool,
    /// The subnets that Docker uses of it.
    pub(super) subnets: Vec<IpNet>,
    /// `--aux-address`: given to nobody.
    pub(super) reserved: Vec<IpAddr>,
}

/// An address with or without a prefix length: libnetwork's documents say one, its code the other.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    let bare = text.split_once('/').map_or(text, |(address, _)| address);
    bare.parse().map_err(|_| format!("{text:?} is not an address"))
}
