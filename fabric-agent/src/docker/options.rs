//! `-o` options of a network, and what may come with an endpoint. A wrong one is refused by its name.

use ipnet::IpNet;
use serde_json::{Map, Value};

use fabric_api::object::Route;

/// Where the user's `-o` options are among the options of a network.
const GENERIC: &str = "com.docker.network.generic";
/// Whether the network was created with `--internal`.
const INTERNAL: &str = "com.docker.network.internal";
/// Ports to be published.
const PORTS: &str = "com.docker.network.portmap";
/// What Docker itself says begins so; what is not known of it is none of our business.
const DOCKERS: &str = "com.docker.";
/// What can be said of a network, as in the sentence about a wrong option.
const KNOWN: &str = "com.docker.network.driver.mtu, fabric.network, fabric.vni, fabric.multicast, fabric.allow-from, fabric.host-access, fabric.masquerade, fabric.route";

/// What was asked for with `-o`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) internal: bool,
    pub(super) network: Option<String>,
    pub(super) vni: Option<u32>,
    pub(super) mtu: Option<u16>,
    pub(super) multicast: Option<bool>,
    pub(super) allow_from: Option<Vec<String>>,
    pub(super) host_access: Option<bool>,
    pub(super) masquerade: Option<bool>,
    pub(super) routes: Option<Vec<Route>>,
}

/// The options of a network.
pub(super) fn of_network(options: &Map<String, Value>) -> Result<Options, String> {
    let mut read = Options::default();
    for (key, value) in options {
        match key.as_str() {
            GENERIC => {
                for (key, value) in value.as_object().into_iter().flatten() {
                    generic(&mut read, key, &text(value))?;
                }
            }
            INTERNAL => read.internal = flag(key, &text(value))?,
            key if key.starts_with(DOCKERS) => {}
            key => return Err(unknown(key)),
        }
    }
    Ok(read)
}

fn generic(read: &mut Options, key: &str, value: &str) -> Result<(), String> {
    match key {
        "com.docker.network.driver.mtu" => read.mtu = Some(number(key, value)?),
        "fabric.network" => read.network = Some(value.to_owned()),
        "fabric.vni" => read.vni = Some(number(key, value)?),
        "fabric.multicast" => read.multicast = Some(flag(key, value)?),
        "fabric.masquerade" => read.masquerade = Some(flag(key, value)?),
        "fabric.host-access" => read.host_access = Some(flag(key, value)?),
        "fabric.allow-from" => read.allow_from = Some(list(value).map(str::to_owned).collect()),
        "fabric.route" => {
            let routes: Option<Vec<Route>> = list(value).map(route).collect();
            let routes = routes.ok_or_else(|| {
                format!("option {key}={value}: write a prefix and an address, like 10.9.0.0/16=10.1.0.9")
            })?;
            read.routes = Some(routes);
        }
        _ => return Err(unknown(key)),
    }
    Ok(())
}

/// What comes with an endpoint (`docker network connect --driver-opt`, `-p`): nothing of it is for us to know yet.
pub(super) fn of_endpoint(options: &Map<String, Value>) -> Result<(), String> {
    for (key, value) in options {
        if key == PORTS && value.as_array().is_some_and(|ports| !ports.is_empty()) {
            return Err(
                "published ports (-p, -P) are not available in this version: leave them out, or connect the container to a bridge network as well and publish them there"
                    .to_owned(),
            );
        }
        if !key.starts_with(DOCKERS) {
            return Err(format!("option {key} is not known: an endpoint takes none"));
        }
    }
    Ok(())
}

fn unknown(key: &str) -> String {
    format!("option {key} is not known: use one of {KNOWN}")
}

/// Docker sends strings; Compose lets people write numbers and booleans as well.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn number<T: std::str::FromStr>(key: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("option {key}={value}: it must be a number, not too large"))
}

fn flag(key: &str, value: &str) -> Result<bool, String> {
    match value {
        // `-o fabric.multicast` alone is the empty string.
        "true" | "1" | "" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("option {key}={value}: it must be true or false")),
    }
}

fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn route(text: &str) -> Option<Route> {
    let (prefix, next_hop) = text.split_once('=')?;
    Some(Route { prefix: prefix.parse::<IpNet>().ok()?, next_hop: next_hop.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Options, of_endpoint, of_network};

    fn network(generic: &Value) -> Result<Options, String> {
        let options = json!({"com.docker.network.enable_ipv6": false, "com.docker.network.generic": generic});
        of_network(options.as_object().expect("an object"))
    }

    #[test]
    fn options_are_read() {
        let read = network(&json!({
            "fabric.network": "blue", "fabric.vni": "77", "com.docker.network.driver.mtu": "1400",
            "fabric.multicast": "true", "fabric.host-access": "false", "fabric.allow-from": "red, green",
            "fabric.route": "10.9.0.0/16=10.1.0.9"
        }))
        .expect("they are good");
        assert_eq!((read.network.as_deref(), read.vni, read.mtu), (Some("blue"), Some(77), Some(1400)));
        assert_eq!((read.multicast, read.host_access, read.internal), (Some(true), Some(false), false));
        assert_eq!(read.allow_from.expect("given"), ["red", "green"]);
        assert_eq!(read.routes.expect("given").len(), 1);
        let internal = json!({"com.docker.network.internal": true});
        assert!(of_network(internal.as_object().expect("an object")).expect("good").internal);
    }

    #[test]
    fn a_wrong_option_is_refused_by_name() {
        for (option, part) in [
            (json!({"mtu": "1450"}), "option mtu is not known"),
            (json!({"fabric.mode": "encap"}), "option fabric.mode is not known"),
            (json!({"fabric.vni": "blue"}), "option fabric.vni=blue"),
            (json!({"fabric.vni": "-1"}), "option fabric.vni=-1"),
            (json!({"com.docker.network.driver.mtu": "70000"}), "option com.docker.network.driver.mtu=70000"),
            (json!({"fabric.multicast": "maybe"}), "option fabric.multicast=maybe"),
            (json!({"fabric.route": "10.9.0.0/16"}), "option fabric.route=10.9.0.0/16"),
        ] {
            let sentence = network(&option).expect_err("it is wrong");
            assert!(sentence.starts_with(part), "{sentence}");
        }
    }

    #[test]
    fn an_endpoint_takes_no_option_and_no_port() {
        let refused = |options: &Value| of_endpoint(options.as_object().expect("an object"));
        let plain = json!({"com.docker.network.endpoint.exposedports": [{"Proto": 6, "Port": 80}], "com.docker.network.portmap": []});
        assert_eq!(refused(&plain), Ok(()));
        let port = json!({"com.docker.network.portmap": [{"Proto": 6, "Port": 80, "HostPort": 8080}]});
        assert!(refused(&port).expect_err("a port").contains("published ports"));
        assert!(refused(&json!({"k1": "v1"})).expect_err("an option").contains("option k1 is not known"));
    }
}
