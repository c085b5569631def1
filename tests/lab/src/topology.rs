//! The lab as a whole: hosts, the router between them, and the record on disk that lets another process use it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    Host, UNDERLAY, UNDERLAY_MTU,
    container::Container,
    etcd::Etcd,
    host::{self, HostRecord},
    net,
    process::ip,
    teardown,
};

const BASE: &str = "/run/fabric-lab";
const MAX_HOSTS: usize = 200;

/// How a lab is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of hosts, at least 1.
    pub hosts: usize,
    /// Start an agent on each.
    pub agents: bool,
    /// Arguments for every agent beside those that the lab gives.
    pub agent_args: Vec<String>,
    /// Members of an etcd cluster that is the agents' store, one a host from the first on; 0: every host has a store of its own.
    pub etcd: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { hosts: 2, agents: true, agent_args: Vec::new(), etcd: 0 }
    }
}

/// What another process needs to know of a lab.
#[derive(Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) hosts: Vec<HostRecord>,
}

/// Hosts joined by a router. Dropping it removes everything, unless [`Lab::keep`] was called.
#[derive(Debug)]
pub struct Lab {
    id: String,
    hosts: Vec<Host>,
    etcd: Option<Etcd>,
    keep: bool,
}

impl Lab {
    /// A lab of `hosts` hosts with an agent on each. A lab of the same id is removed first.
    ///
    /// # Errors
    /// If we are not root, the id is not 1 to 8 characters of `a-z` and `0-9`, or a step fails; what was made until
    /// then is removed.
    pub fn new(id: &str, hosts: usize) -> Result<Self> {
        Self::with(id, &Options { hosts, ..Options::default() })
    }

    /// As [`Lab::new`], with choices.
    ///
    /// # Errors
    /// As [`Lab::new`].
    pub fn with(id: &str, options: &Options) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "a lab needs root for namespaces and eBPF; run this as root"
        );
        check_id(id)?;
        ensure!(
            (1..=MAX_HOSTS).contains(&options.hosts),
            "a lab has 1 to {MAX_HOSTS} hosts, not {}; choose another --hosts",
            options.hosts
        );
        teardown::remove(id)?;
        let mut lab = Self { id: id.to_owned(), hosts: Vec::new(), etcd: None, keep: false };
        lab.build(options)?;
        Ok(lab)
    }

    fn build(&mut self, options: &Options) -> Result<()> {
        fs::create_dir_all(directory(&self.id))?;
        let router = self.router();
        net::namespace(&router)?;
        net::forward(&router)?;
        for n in 1..=options.hosts {
            let mut host = Host::new(&self.id, n)?;
            host.agent_args.clone_from(&options.agent_args);
            self.hosts.push(host);
            self.cable(n)?;
            self.hosts[n - 1].boot()?;
        }
        // An interface is of use to IPv6 only once the kernel has noticed its carrier, up to a second later.
        for n in 1..=options.hosts {
            net::wait_until_up(&host::netns(&self.id, n), UNDERLAY)?;
            net::wait_until_up(&self.router(), &format!("h{n}"))?;
        }
        if options.etcd > 0 {
            ensure!(options.etcd <= self.hosts.len(), "{} members of etcd need as many hosts", options.etcd);
            let etcd = Etcd::start(&self.hosts[..options.etcd])?;
            for host in &mut self.hosts {
                host.store = Some(etcd.address());
            }
            self.etcd = Some(etcd);
        }
        // The record is there before the agents are, so that `down` works whatever happens to them.
        self.save()?;
        if options.agents {
            for host in &mut self.hosts {
                host.start_agent()?;
            }
            self.save()?;
        }
        Ok(())
    }

    /// Host N's cable to the router: 10.0.N.1/24 and fd00:0:0:N::1/64 on the host, .254 and ::fe on the router.
    fn cable(&self, n: usize) -> Result<()> {
        let (host, router) = (host::netns(&self.id, n), self.router());
        ip(&format!(
            "link add {UNDERLAY} mtu {UNDERLAY_MTU} netns {host} type veth peer name h{n} mtu {UNDERLAY_MTU} netns {router}"
        ))?;
        for (netns, link, last4, last6) in
            [(&host, UNDERLAY.to_owned(), 1, "1"), (&router, format!("h{n}"), 254, "fe")]
        {
            net::skip_dad(netns, &link)?;
            ip(&format!("-n {netns} addr add 10.0.{n}.{last4}/24 dev {link}"))?;
            ip(&format!("-n {netns} addr add fd00:0:0:{n:x}::{last6}/64 dev {link} nodad"))?;
            ip(&format!("-n {netns} link set {link} up"))?;
        }
        ip(&format!("-n {host} route add default via 10.0.{n}.254"))?;
        ip(&format!("-n {host} route add default via fd00:0:0:{n:x}::fe"))?;
        Ok(())
    }

    /// A lab that another process made and left running. Dropping the value leaves it running.
    ///
    /// # Errors
    /// If there is none of this id.
    pub fn load(id: &str) -> Result<Self> {
        check_id(id)?;
        let file = directory(id).join("lab.json");
        ensure!(file.exists(), "no lab is up; start one with `cargo xtask lab up`");
        let text = fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))?;
        let record: Record =
            serde_json::from_str(&text).with_context(|| format!("{} is damaged", file.display()))?;
        let hosts = record.hosts.into_iter().map(|host| Host::load(id, host)).collect::<Result<_>>()?;
        Ok(Self { id: record.id, hosts, etcd: None, keep: true })
    }

    /// Leaves the lab running when this value is dropped; [`remove`](crate::remove) ends it.
    ///
    /// # Errors
    /// If its record can't be written.
    pub fn keep(mut self) -> Result<()> {
        self.save()?;
        self.keep = true;
        for host in &mut self.hosts {
            host.release();
        }
        if let Some(etcd) = &mut self.etcd {
            etcd.release();
        }
        Ok(())
    }

    /// Writes down what another process needs to know; call it after an agent was restarted in a lab that is kept.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn save(&self) -> Result<()> {
        let record = Record { id: self.id.clone(), hosts: self.hosts.iter().map(Host::record).collect() };
        fs::write(directory(&self.id).join("lab.json"), serde_json::to_vec_pretty(&record)?)?;
        Ok(())
    }

    /// The id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Hosts, from 1.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Host `n`, counted from 1.
    ///
    /// # Panics
    /// If there is no such host.
    pub fn host(&self, n: usize) -> &Host {
        assert!((1..=self.hosts.len()).contains(&n), "the lab has hosts 1 to {}, not {n}", self.hosts.len());
        &self.hosts[n - 1]
    }

    /// As [`Lab::host`], to start and end its agent.
    ///
    /// # Panics
    /// As [`Lab::host`].
    pub fn host_mut(&mut self, n: usize) -> &mut Host {
        assert!((1..=self.hosts.len()).contains(&n), "the lab has hosts 1 to {}, not {n}", self.hosts.len());
        &mut self.hosts[n - 1]
    }

    /// The etcd cluster.
    ///
    /// # Panics
    /// If the lab has none, or was made by another process.
    pub fn etcd(&mut self) -> &mut Etcd {
        self.etcd.as_mut().expect("a lab with etcd members")
    }

    /// The router's network namespace.
    pub fn router(&self) -> String {
        format!("{}r", prefix(&self.id))
    }

    /// The directory with the lab's record, and the hosts' stores, manifests and logs.
    pub fn directory(&self) -> PathBuf {
        directory(&self.id)
    }

    /// A container on host `n`: a network namespace with a process in it.
    ///
    /// # Errors
    /// If the namespace or the process can't be made.
    pub fn container(&self, n: usize, name: &str) -> Result<Container> {
        Container::new(self.host(n), name)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        // A failed test is easier to understand with the agents' last words.
        if std::thread::panicking() {
            for host in &self.hosts {
                eprintln!("--- agent of {} ---\n{}", host.name(), host.agent_log_tail(40));
            }
        }
        // Ends our own children first and reaps them.
        self.hosts.clear();
        if let Err(error) = teardown::remove(&self.id) {
            eprintln!("lab {}: {error:#}", self.id);
        }
    }
}

/// What the names of all of a lab's namespaces begin with.
pub(crate) fn prefix(id: &str) -> String {
    format!("fab{id}-")
}

/// The lab's directory.
pub(crate) fn directory(id: &str) -> PathBuf {
    Path::new(BASE).join(id)
}

pub(crate) fn check_id(id: &str) -> Result<()> {
    if id.is_empty() || id.len() > 8 || !id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        bail!("lab id {id:?} is not 1 to 8 characters of a-z and 0-9");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_id;

    #[test]
    fn ids_are_checked() {
        assert!(check_id("lab").is_ok());
        for bad in ["", "a-b", "../x", "ninechars", "Ab"] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }
}
