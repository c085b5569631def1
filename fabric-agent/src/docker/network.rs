//! `NetworkDriver`: Docker's networks are networks of the fabric, its endpoints are endpoints of this node.

use std::{net::IpAddr, time::Duration};

use fabric_api::{
    Endpoint, Network,
    object::{API_VERSION, Attachment, EndpointSpec, Metadata, NetworkSpec},
};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::{
    Door, Engine, Fault, engine, notes,
    options::{self, Options},
    read,
    wire::{CreateNetwork, EndpointCall, Interface, IpamData, Note, address},
};
use crate::{
    model::ids,
    service::{ErrorKind, Owner},
};

/// How many characters of Docker's ids go into names: as many as `docker ps` shows.
const SHORT: usize = 12;
/// How long the kernel may take to remove the namespace of a container whose engine was killed.
const DYING: Duration = Duration::from_secs(5);
/// How often to look meanwhile.
const LOOK: Duration = Duration::from_millis(50);

impl Door {
    pub(super) async fn network_call(
        &self,
        method: &str,
        body: &[u8],
        engine: &Engine,
    ) -> Result<Value, Fault> {
        match method {
            // Every engine has its own networks; what they share is the fabric's network.
            "GetCapabilities" => Ok(json!({"Scope": "local", "ConnectivityScope": "local"})),
            "CreateNetwork" => self.create_network(read(body)?).await,
            "DeleteNetwork" => self.delete_network(&read::<CreateNetwork>(body)?.network_id).await,
            "AllocateNetwork" => Err(Fault::Refused(
                "networks of a swarm are not available in this version: create the network on each engine"
                    .to_owned(),
            )),
            "CreateEndpoint" => self.create_endpoint(&read(body)?, engine).await,
            "EndpointOperInfo" => self.endpoint_info(&read(body)?).await,
            "DeleteEndpoint" => self.delete_endpoint(&read(body)?).await,
            "Join" => self.join(&read(body)?).await,
            "ProgramExternalConnectivity" => {
                options::of_endpoint(&read::<EndpointCall>(body)?.options)?;
                Ok(json!({}))
            }
            // Docker takes the interface out by itself; the others are told for drivers that keep state of their own.
            "Leave" | "RevokeExternalConnectivity" | "FreeNetwork" | "DiscoverNew" | "DiscoverDelete" => {
                read::<serde_json::Map<String, Value>>(body)?;
                Ok(json!({}))
            }
            _ => Err(Fault::Unknown),
        }
    }

    async fn create_network(&self, call: CreateNetwork) -> Result<Value, Fault> {
        check_id("NetworkID", &call.network_id)?;
        let options = options::of_network(&call.options)?;
        let mut spec = NetworkSpec {
            vni: options.vni,
            mtu: options.mtu,
            multicast: options.multicast.unwrap_or(false),
            router_advertisement: false,
            host_access: options.host_access.unwrap_or(false),
            // As with Docker's own drivers: only `--internal` keeps a network from the world.
            masquerade: options.masquerade.unwrap_or(!options.internal),
            allow_from: options.allow_from.clone().unwrap_or_default(),
            routes: options.routes.clone().unwrap_or_default(),
            ..NetworkSpec::default()
        };
        let mut reserved = Vec::new();
        for data in call.ipv4.iter().chain(&call.ipv6) {
            add_pool(&mut spec, &mut reserved, data)?;
        }
        let name = options.network.clone().unwrap_or_else(|| short(&call.network_id));
        let note = Note {
            network: name.clone(),
            internal: options.internal,
            subnets: spec.subnets.clone(),
            reserved,
        };
        let value = serde_json::to_string(&note).map_err(|error| error.to_string())?;
        let key = format!("{}{}", notes(self.service.node_name()), call.network_id);
        let asked = spec.clone();
        let metadata = Metadata { name, ..Metadata::default() };
        let wanted = Network { api_version: API_VERSION.to_owned(), metadata, spec, status: None };
        let fits = |found: &Network| fits(found, &asked, &options);
        self.service.share_network(&Owner::docker(), wanted, (&key, &value), fits).await?;
        Ok(json!({}))
    }

    async fn delete_network(&self, id: &str) -> Result<Value, Fault> {
        let Some(note) = self.note(id).await? else { return Ok(json!({})) };
        let key = format!("{}{id}", notes(self.service.node_name()));
        let about =
            |value: &str| serde_json::from_str(value).is_ok_and(|other: Note| other.network == note.network);
        // Whoever shares the store may use it as well.
        self.service.leave_network(&Owner::docker(), &key, &note.network, ("docker/", about)).await?;
        Ok(json!({}))
    }

    /// What is remembered of a Docker network.
    async fn note(&self, id: &str) -> Result<Option<Note>, Fault> {
        let notes = self.notes().await?;
        Ok(notes.into_iter().find(|(key, _)| key == id).map(|(_, note)| note))
    }

    /// What is remembered of the Docker networks of this node, by their ids.
    pub(super) async fn notes(&self) -> Result<Vec<(String, Note)>, Fault> {
        let notes = self.service.notes(&notes(self.service.node_name())).await?;
        let read = |(id, value): (String, String)| Some((id, serde_json::from_str(&value).ok()?));
        Ok(notes.into_iter().filter_map(read).collect())
    }

    async fn known(&self, id: &str) -> Result<Note, Fault> {
        let note = self.note(id).await?;
        note.ok_or_else(|| {
            Fault::Refused(format!(
                "network {} is not known to this agent, whose store is not the one with which it was created: remove the network and create it again",
                id.get(..SHORT).unwrap_or(id)
            ))
        })
    }

    async fn create_endpoint(&self, call: &EndpointCall, engine: &Engine) -> Result<Value, Fault> {
        check_id("EndpointID", &call.endpoint_id)?;
        let note = self.known(&call.network_id).await?;
        options::of_endpoint(&call.options)?;
        let addresses = addresses(&call.interface)?;
        let name = short(&call.endpoint_id);
        let mac = Some(call.interface.mac_address.clone()).filter(|mac| !mac.is_empty());
        // Asked again, the answer is the same.
        if let Ok(found) = self.service.endpoint(&name).await
            && found.spec.network == note.network
            && found.spec.addresses == addresses
        {
            return Ok(answer(&found, mac.is_none()));
        }
        for address in &addresses {
            self.vacate(&note.network, *address, true).await?;
        }
        let attachment = Attachment {
            netns: String::new(),
            netns_inode: 0,
            ifname: ids::waiting_ifname(&name),
            engine: Some(engine.0.clone()),
            container: None,
        };
        let endpoint = Endpoint {
            api_version: API_VERSION.to_owned(),
            metadata: Metadata { name, ..Metadata::default() },
            spec: EndpointSpec {
                network: note.network,
                addresses: addresses.clone(),
                mac: mac.clone(),
                generation: 1,
                attachment: Some(attachment),
                ..EndpointSpec::default()
            },
            status: None,
        };
        let made = self.service.attach_endpoint(&Owner::docker(), endpoint).await?;
        self.pools.settled(&note.subnets, &addresses);
        Ok(answer(&made, mac.is_none()))
    }

    /// Removes the endpoint of a container that is no more from an address that is to be another container's: Docker does not say that
    /// a container is gone when it is killed itself, nor could it while the agent was away. A container that runs keeps its address.
    /// One that a living engine has made may be about to run; `given` says that this engine has given its address away again.
    pub(super) async fn vacate(&self, network: &str, address: IpAddr, given: bool) -> Result<(), Fault> {
        let own = self.service.own_endpoints(&Owner::docker()).await?;
        let holder = own
            .into_iter()
            .find(|endpoint| endpoint.spec.network == network && endpoint.spec.addresses.contains(&address));
        let Some(holder) = holder else { return Ok(()) };
        let name = &holder.metadata.name;
        let engine = holder.spec.attachment.as_ref().and_then(|a| a.engine.as_deref()).unwrap_or_default();
        let ended = engine::ended(engine);
        if ended {
            let gone = async {
                while self.service.plugged().contains(name) {
                    tokio::time::sleep(LOOK).await;
                }
            };
            let _ = tokio::time::timeout(DYING, gone).await;
        }
        if self.service.plugged().contains(name) || !(ended || given) {
            return Ok(());
        }
        tracing::info!("endpoint {name} is left over: {address} is another container's now");
        self.remove(name).await
    }

    async fn remove(&self, name: &str) -> Result<(), Fault> {
        match self.service.detach_endpoint(&Owner::docker(), name).await {
            Err(error) if error.kind != ErrorKind::NotFound => Err(error.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    async fn endpoint_info(&self, call: &EndpointCall) -> Result<Value, Fault> {
        let endpoint = self.service.endpoint(&short(&call.endpoint_id)).await?;
        let network = self.service.network(&endpoint.spec.network).await?;
        let status = endpoint.status.unwrap_or_default();
        Ok(json!({"Value": {
            "fabric.endpoint": endpoint.metadata.name,
            "fabric.network": endpoint.spec.network,
            "fabric.node": endpoint.spec.node,
            "fabric.vni": network.spec.vni.map(|vni| vni.to_string()),
            "fabric.interface": ids::host_ifname(&endpoint.metadata.name),
            "fabric.state": status.state,
        }}))
    }

    async fn join(&self, call: &EndpointCall) -> Result<Value, Fault> {
        let note = self.known(&call.network_id).await?;
        options::of_endpoint(&call.options)?;
        let name = short(&call.endpoint_id);
        if !call.sandbox_key.is_empty() {
            let amend = |endpoint: &mut Endpoint| {
                if let Some(attachment) = &mut endpoint.spec.attachment {
                    attachment.netns.clone_from(&call.sandbox_key);
                }
            };
            self.service.amend_endpoint(&Owner::docker(), &name, amend).await?;
        }
        let endpoint = self.service.endpoint(&name).await?;
        let network = self.service.network(&note.network).await?;
        let ifname = endpoint.spec.attachment.map(|attachment| attachment.ifname);
        let mut answer = json!({"InterfaceName": {"SrcName": ifname, "DstPrefix": "eth"}});
        // Without any gateway Docker would add an interface of its own for the rest of the world, unless told not to.
        answer["DisableGatewayService"] = json!(note.internal);
        if !note.internal {
            let gateways = network.status.unwrap_or_default().gateways;
            for (key, v6) in [("Gateway", false), ("GatewayIPv6", true)] {
                let own = endpoint.spec.addresses.iter().find(|address| address.is_ipv6() == v6);
                let subnet = network.spec.subnets.iter().position(|net| own.is_some_and(|a| net.contains(a)));
                if let Some(gateway) = subnet.and_then(|at| gateways.get(at)) {
                    answer[key] = json!(gateway);
                }
            }
        }
        Ok(answer)
    }

    async fn delete_endpoint(&self, call: &EndpointCall) -> Result<Value, Fault> {
        self.remove(&short(&call.endpoint_id)).await?;
        Ok(json!({}))
    }
}

/// Fabric's name of a Docker object: `docker-` and the beginning of its id.
pub(super) fn short(id: &str) -> String {
    format!("docker-{}", id.get(..SHORT).unwrap_or(id))
}

fn check_id(what: &str, id: &str) -> Result<(), Fault> {
    let good =
        !id.is_empty() && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if good { Ok(()) } else { Err(Fault::Malformed(format!("{what} {id:?} is not an id"))) }
}

fn add_pool(spec: &mut NetworkSpec, reserved: &mut Vec<IpAddr>, data: &IpamData) -> Result<(), String> {
    let net: IpNet = data.pool.parse().map_err(|_| format!("subnet {:?} is not a prefix", data.pool))?;
    spec.subnets.push(net);
    if !data.gateway.is_empty() {
        spec.gateways.push(address(&data.gateway)?);
    }
    for aux in data.aux_addresses.values() {
        reserved.push(address(aux)?);
    }
    Ok(())
}

fn addresses(interface: &Interface) -> Result<Vec<IpAddr>, String> {
    let given = [&interface.address, &interface.address_v6].into_iter().filter(|text| !text.is_empty());
    given.map(|text| address(text)).collect()
}

/// What Docker left open: the MAC, if it did.
fn answer(endpoint: &Endpoint, choose_mac: bool) -> Value {
    if choose_mac {
        json!({"Interface": {"MacAddress": endpoint.spec.mac}})
    } else {
        json!({"Interface": {}})
    }
}

/// Whether the network that is there is what a `docker network create` asks for; what it does not say fits anything.
fn fits(found: &Network, asked: &NetworkSpec, options: &Options) -> Result<(), String> {
    let spec = &found.spec;
    for net in &asked.subnets {
        if !spec.subnets.contains(net) {
            let subnets = spec.subnets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(format!("it has the subnets {subnets}, not {net}: give --subnet as one of them"));
        }
    }
    let found_gateway = |net: &IpNet| {
        let declared = spec.gateways.iter().copied().find(|gateway| net.contains(gateway));
        declared.unwrap_or_else(|| crate::model::network::first_usable(*net))
    };
    for gateway in &asked.gateways {
        let Some(net) = asked.subnets.iter().find(|net| net.contains(gateway)) else {
            return Err(format!("gateway {gateway} is in none of its subnets"));
        };
        if found_gateway(net) != *gateway {
            return Err(format!("its gateway in {net} is {0}: give --gateway {0}", found_gateway(net)));
        }
    }
    let differs = |name: &str, found: String, asked: Option<String>| match asked {
        Some(asked) if asked != found => {
            Err(format!("it has {name} {found}, not {asked}: leave out the option, or join another network"))
        }
        _ => Ok(()),
    };
    let shown = |value: Option<String>| value.unwrap_or_else(|| "of the underlay".to_owned());
    differs("VNI", shown(spec.vni.map(|n| n.to_string())), options.vni.map(|n| n.to_string()))?;
    differs("MTU", shown(spec.mtu.map(|n| n.to_string())), options.mtu.map(|n| n.to_string()))?;
    differs("multicast", spec.multicast.to_string(), options.multicast.map(|b| b.to_string()))?;
    differs("host access", spec.host_access.to_string(), options.host_access.map(|b| b.to_string()))?;
    differs("masquerade", spec.masquerade.to_string(), options.masquerade.map(|b| b.to_string()))?;
    let names = |list: &[String]| list.join(",");
    differs("allow-from", names(&spec.allow_from), options.allow_from.as_deref().map(names))?;
    if options.routes.as_ref().is_some_and(|routes| *routes != spec.routes) {
        return Err("it has other static routes: leave out fabric.route".to_owned());
    }
    Ok(())
}
