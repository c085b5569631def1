//! `fabric-agent cleanup`: removes every trace of the agent from this host.

use std::{fs, io, os::unix::net::UnixStream, path::Path};

use anyhow::{Context, bail};
use fabric_agent::{
    config::{Config, StoreAddress},
    dataplane,
    kernel::Netlink,
    store::{self, EmbeddedStore, EtcdStore},
};
use nix::fcntl::{Flock, FlockArg};

/// Removes the containers' veths, the agent's own devices, programs, links and pins, and the socket; with `purge` also the
/// store, or, where other hosts share it, this node and its endpoints in it. Returns one sentence for each; what is absent is success, so it can be done again. The store stays without
/// `purge`: it is what people declared, not what the agent made of it, and nothing else knows it.
pub(crate) async fn cleanup(config: &Config, purge: bool) -> anyhow::Result<Vec<String>> {
    dataplane::check_privileges()?;
    refuse_beside_an_agent(config)?;
    // Links first: a veth without its program would hand the container's packets to the host's stack.
    let mut done = Netlink::new()?.remove_everything_of_ours().await?;
    done.extend(dataplane::cleanup(&config.bpffs)?);
    if remove_file(&config.socket)? {
        done.push(format!("socket {} removed", config.socket.display()));
    }
    if let Some(path) = &config.docker_plugin
        && remove_file(path)?
    {
        done.push(format!("socket {} removed", path.display()));
    }
    if purge {
        match &config.store {
            StoreAddress::Local(directory) => {
                if EmbeddedStore::purge(directory)? {
                    done.push(format!("store {} removed", directory.display()));
                }
            }
            StoreAddress::Etcd(access) => {
                // Claiming the name shows that no agent of it runs elsewhere.
                let store = EtcdStore::open(access.clone(), Some(&config.node)).await?;
                let gone = store::leave(&store, &config.node).await?;
                done.extend(gone.into_iter().map(|what| format!("{what} removed from {}", access.address())));
            }
        }
    }
    Ok(done)
}

fn refuse_beside_an_agent(config: &Config) -> anyhow::Result<()> {
    if UnixStream::connect(&config.socket).is_ok() {
        bail!("an agent is running on {}: stop it first", config.socket.display());
    }
    if in_use(&config.bpffs) {
        bail!("an agent is running on {}: stop it first", config.bpffs.display());
    }
    Ok(())
}

/// Whether an agent holds the bpffs directory.
pub(crate) fn in_use(bpffs: &Path) -> bool {
    let Ok(directory) = fs::File::open(bpffs) else { return false };
    matches!(
        Flock::lock(directory, FlockArg::LockExclusiveNonblock),
        Err((_, nix::errno::Errno::EWOULDBLOCK))
    )
}

fn remove_file(path: &Path) -> anyhow::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("can't remove {}", path.display())),
    }
}
