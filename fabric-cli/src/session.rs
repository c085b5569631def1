//! The login session in which the command runs: what would cut it off is refused.

use std::{env, net::IpAddr};

use anyhow::bail;
use ipnet::IpNet;

/// Where the session comes from, if it came by ssh. sshd sets `SSH_CONNECTION` to the client's address and port and the server's
/// (`man ssh`).
fn peer(connection: Option<&str>) -> Option<IpAddr> {
    // A link-local address has its interface behind it.
    let client = connection?.split_whitespace().next()?.split('%').next()?;
    client.parse().ok()
}

/// Refuses prefixes to be denied that cover the host from where the session comes.
///
/// # Errors
/// One does.
pub(crate) fn spare(prefixes: &[IpNet]) -> anyhow::Result<()> {
    spare_from(env::var("SSH_CONNECTION").ok().as_deref(), prefixes)
}

fn spare_from(connection: Option<&str>, prefixes: &[IpNet]) -> anyhow::Result<()> {
    let Some(peer) = peer(connection) else { return Ok(()) };
    if let Some(net) = prefixes.iter().find(|net| net.contains(&peer)) {
        bail!(
            "prefix {net} covers {peer}, from where you are logged in by ssh: deny narrower prefixes, or use `fabric deny add --force`"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{peer, spare_from};

    #[test]
    fn the_own_session_is_spared() {
        let connection = Some("192.0.2.7 50022 192.0.2.1 22");
        let nets = |text: &str| [text.parse().expect("a prefix")];
        let refused = spare_from(connection, &nets("192.0.2.0/24")).expect_err("it is covered").to_string();
        assert!(
            refused.starts_with("prefix 192.0.2.0/24 covers 192.0.2.7, from where you are logged in"),
            "{refused}"
        );
        assert!(spare_from(connection, &nets("198.51.100.0/24")).is_ok());
        assert!(spare_from(None, &nets("0.0.0.0/0")).is_ok());
        assert_eq!(
            peer(Some("fe80::1%eth0 50022 fe80::2%eth0 22")),
            Some("fe80::1".parse().expect("an address"))
        );
    }
}
