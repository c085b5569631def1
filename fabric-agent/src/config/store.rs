//! `--store` and what belongs to it.

use std::path::PathBuf;

use super::{ConfigError, DEFAULT_STORE, absolute, fail};
use crate::store::EtcdAccess;

/// Under which keys a fabric is in etcd if nothing else is said.
const DEFAULT_PREFIX: &str = "/fabric";

/// Where the store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreAddress {
    /// An embedded store in this directory.
    Local(PathBuf),
    /// A fabric in an etcd cluster.
    Etcd(EtcdAccess),
}

pub(super) fn check(
    address: &str,
    ca: Option<PathBuf>,
    (cert, key): (Option<PathBuf>, Option<PathBuf>),
    login: Option<PathBuf>,
) -> Result<StoreAddress, ConfigError> {
    if let Some(rest) = address.strip_prefix("etcd://") {
        let (members, prefix) = etcd(address, rest)?;
        let absolute = |name, path: Option<PathBuf>| path.map(|path| absolute(name, path)).transpose();
        let (ca, login) = (absolute("store-ca", ca)?, absolute("store-login", login)?);
        let identity = match (absolute("store-cert", cert)?, absolute("store-key", key)?) {
            (Some(_), Some(_)) if ca.is_none() => {
                return fail(
                    "--store-cert is for TLS, which needs --store-ca: name the certificates that etcd's are signed by".to_owned(),
                );
            }
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => {
                return fail("--store-cert needs --store-key, the key that belongs to it".to_owned());
            }
            (None, Some(_)) => {
                return fail("--store-key needs --store-cert, the certificate that belongs to it".to_owned());
            }
        };
        return Ok(StoreAddress::Etcd(EtcdAccess { members, prefix, ca, identity, login }));
    }
    for (name, given) in [("ca", ca), ("cert", cert), ("key", key), ("login", login)] {
        if given.is_some() {
            return fail(format!(
                "--store-{name} is for --store etcd://…: take it out, or name an etcd cluster"
            ));
        }
    }
    match address.strip_prefix("local://") {
        Some(path) if path.starts_with('/') => Ok(StoreAddress::Local(path.into())),
        _ => fail(format!(
            "--store {address:?} is not a store: use local:///DIRECTORY, like {DEFAULT_STORE}, or etcd://HOST:PORT"
        )),
    }
}

/// Members and prefix.
fn etcd(address: &str, rest: &str) -> Result<(Vec<String>, String), ConfigError> {
    let (hosts, prefix) = rest.find('/').map_or((rest, DEFAULT_PREFIX), |at| rest.split_at(at));
    let mut members = Vec::new();
    for member in hosts.split(',') {
        if !is_member(member) {
            return fail(format!(
                "--store {address:?}: {member:?} is not HOST:PORT; name etcd's client addresses, like etcd://10.0.0.1:2379,10.0.0.2:2379"
            ));
        }
        if members.iter().any(|other| other == member) {
            return fail(format!("--store {address:?}: {member} is named twice"));
        }
        members.push(member.to_owned());
    }
    let word = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    if !prefix.split('/').skip(1).all(word) {
        return fail(format!(
            "--store {address:?}: prefix {prefix:?} is not /NAME or /NAME/NAME…, of letters, digits, '-', '_' and '.'"
        ));
    }
    Ok((members, prefix.to_owned()))
}

fn is_member(member: &str) -> bool {
    let Some((host, port)) = member.rsplit_once(':') else { return false };
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match v6 {
        Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b)),
    };
    host && port.parse::<u16>().is_ok_and(|port| port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(address: &str) -> Result<EtcdAccess, String> {
        match check(address, None, (None, None), None) {
            Ok(StoreAddress::Etcd(access)) => Ok(access),
            Ok(StoreAddress::Local(path)) => Err(path.display().to_string()),
            Err(e) => Err(e.0),
        }
    }

    #[test]
    fn members_and_prefix() {
        let access = checked("etcd://10.0.0.1:2379,etcd-2.example:2379,[fd00::3]:2379/site/blue").unwrap();
        assert_eq!(access.members, ["10.0.0.1:2379", "etcd-2.example:2379", "[fd00::3]:2379"]);
        assert_eq!(access.prefix, "/site/blue");
        assert_eq!(access.address(), "etcd://10.0.0.1:2379,etcd-2.example:2379,[fd00::3]:2379/site/blue");
        assert_eq!(checked("etcd://h:1").unwrap().prefix, "/fabric");
    }

    #[test]
    fn what_is_no_address_is_named() {
        for (bad, word) in [
            ("etcd://", "is not HOST:PORT"),
            ("etcd://h", "\"h\" is not HOST:PORT"),
            ("etcd://h:0", "is not HOST:PORT"),
            ("etcd://h:1,", "\"\" is not HOST:PORT"),
            ("etcd://http://h:1", "is not HOST:PORT"),
            ("etcd://user@h:1", "is not HOST:PORT"),
            ("etcd://[fd00::x]:1", "is not HOST:PORT"),
            ("etcd://h:1,h:1", "h:1 is named twice"),
            ("etcd://h:1/", "prefix \"/\""),
            ("etcd://h:1/a//b", "prefix"),
            ("etcd://h:1/a/", "prefix"),
            ("etcd://h:1/a b", "prefix"),
            ("etc://h:1", "is not a store"),
        ] {
            let text = checked(bad).unwrap_err();
            assert!(text.contains(word), "{bad}: {text}");
        }
    }

    #[test]
    fn files_belong_together() {
        let path = |text: &str| Some(PathBuf::from(text));
        let text = |ca, pair, login| check("etcd://h:1", ca, pair, login).unwrap_err().0;
        assert!(text(None, (path("/c"), path("/k")), None).contains("needs --store-ca"));
        assert!(text(path("/ca"), (path("/c"), None), None).contains("--store-cert needs --store-key"));
        assert!(text(path("/ca"), (None, path("/k")), None).contains("--store-key needs --store-cert"));
        assert!(text(path("ca"), (None, None), None).contains("--store-ca ca: give an absolute path"));
        let local = check("local:///x", None, (None, None), path("/login")).unwrap_err().0;
        assert!(local.contains("--store-login is for --store etcd://"), "{local}");
        let all = check("etcd://h:1", path("/ca"), (path("/c"), path("/k")), path("/l"));
        assert!(
            matches!(all, Ok(StoreAddress::Etcd(access)) if access.identity.is_some() && access.login.is_some())
        );
    }
}
