//! Real etcd: a cluster with its members on hosts of a lab, and a single member on loopback for tests without one.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::{
    Host,
    process::{enter, processes_gone, signal, stdout_of, wait_for},
};

/// Electing a leader and reading a log take their time where two processors do the work of five hosts.
const START_LIMIT: Duration = Duration::from_secs(30);
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

/// A member: its process, and how it is started.
#[derive(Debug)]
struct Member {
    /// Network namespace and the process whose mounts it sees; none: those of the test.
    place: Option<(String, i32)>,
    line: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Member {
    fn start(&mut self) -> Result<()> {
        use std::os::unix::process::CommandExt;
        if self.child.is_some() {
            bail!("the member runs already");
        }
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = self
            .command(&self.line)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("etcd does not start; it is in the package etcd-server")?;
        self.child = Some(child);
        Ok(())
    }

    fn command(&self, line: &[String]) -> Command {
        match &self.place {
            Some((netns, init)) => enter(netns, Some(*init), line),
            None => {
                let mut command = Command::new(&line[0]);
                command.args(&line[1..]);
                command
            }
        }
    }

    fn send(&self, with: Signal) -> Result<()> {
        let child = self.child.as_ref().context("the member does not run")?;
        signal(i32::try_from(child.id())?, with);
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let pid = i32::try_from(child.id())?;
        let _ = child.kill();
        child.wait()?;
        processes_gone(&[pid])
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<_> = log.lines().collect();
        all[all.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn arguments(name: &str, data: &Path, client: &str, peer: &str, cluster: &str) -> Vec<String> {
    [
        "etcd",
        "--name",
        name,
        "--data-dir",
        &data.display().to_string(),
        "--listen-client-urls",
        client,
        "--advertise-client-urls",
        client,
        "--listen-peer-urls",
        peer,
        "--initial-advertise-peer-urls",
        peer,
        "--initial-cluster",
        cluster,
        "--initial-cluster-state",
        "new",
        // The tests kill processes, never the machine.
        "--unsafe-no-fsync",
    ]
    .map(str::to_owned)
    .into()
}

/// A cluster with a member on each of some hosts. Dropping it ends them.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    endpoints: Vec<String>,
}

impl Etcd {
    /// Starts a member on each host and waits until they have a leader.
    pub(crate) fn start(hosts: &[Host]) -> Result<Self> {
        let url = |host: &Host, port: u16| format!("http://{}:{port}", host.address());
        let cluster: Vec<_> =
            hosts.iter().map(|host| format!("{}={}", host.name(), url(host, PEER_PORT))).collect();
        let members = hosts.iter().map(|host| Member {
            place: Some((host.netns(), host.init())),
            line: arguments(
                &host.name(),
                &host.directory().join("etcd"),
                &url(host, CLIENT_PORT),
                &url(host, PEER_PORT),
                &cluster.join(","),
            ),
            log: host.directory().join("etcd.log"),
            child: None,
        });
        let endpoints = hosts.iter().map(|host| format!("{}:{CLIENT_PORT}", host.address())).collect();
        let mut etcd = Self { members: members.collect(), endpoints };
        etcd.start_all()?;
        Ok(etcd)
    }

    /// Starts the members that do not run and waits until the cluster works.
    ///
    /// # Errors
    /// If it does not; the message holds the end of a member's log.
    pub fn start_all(&mut self) -> Result<()> {
        for member in self.members.iter_mut().filter(|member| member.child.is_none()) {
            member.start()?;
        }
        let healthy =
            wait_for("etcd has a leader", START_LIMIT, || self.ctl(&["endpoint", "health"]).is_ok());
        healthy.with_context(|| self.members.first().map(Member::log_tail).unwrap_or_default())
    }

    /// Starts member `n`, counted from 1.
    ///
    /// # Errors
    /// If it runs or does not start.
    pub fn start_member(&mut self, n: usize) -> Result<()> {
        self.members[n - 1].start()
    }

    /// Ends member `n` by SIGKILL.
    ///
    /// # Errors
    /// If it does not end.
    pub fn kill_member(&mut self, n: usize) -> Result<()> {
        self.members[n - 1].kill()
    }

    /// Ends all members by SIGKILL.
    ///
    /// # Errors
    /// If one does not end.
    pub fn kill_all(&mut self) -> Result<()> {
        self.members.iter_mut().try_for_each(Member::kill)
    }

    /// Stops member `n` in its tracks, or lets it go on.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pause_member(&self, n: usize, pause: bool) -> Result<()> {
        self.members[n - 1].send(if pause { Signal::SIGSTOP } else { Signal::SIGCONT })
    }

    /// Runs `etcdctl` against all members.
    ///
    /// # Errors
    /// If it fails.
    pub fn ctl(&self, args: &[&str]) -> Result<String> {
        let endpoints = format!("--endpoints={}", self.endpoints.join(","));
        let line: Vec<String> = ["etcdctl", &endpoints, "--dial-timeout=2s", "--command-timeout=3s"]
            .iter()
            .chain(args)
            .map(|word| (*word).to_owned())
            .collect();
        stdout_of(self.members[0].command(&line).env("ETCDCTL_API", "3"))
    }

    /// The store's address for agents.
    pub fn address(&self) -> String {
        format!("etcd://{}", self.endpoints.join(","))
    }

    pub(crate) fn release(&mut self) {
        for member in &mut self.members {
            member.child = None;
        }
    }
}

/// A single member on loopback, at ports that were free. Dropping it ends it; its data are in a directory of the caller's.
#[derive(Debug)]
pub struct Loopback {
    member: Member,
    scheme: &'static str,
    port: u16,
    ctl_args: Vec<String>,
}

impl Loopback {
    /// Starts one, with further arguments of `etcd`; those of TLS make it speak TLS, for which `etcdctl` needs `ctl_args`.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(directory: &Path, args: &[&str], ctl_args: &[&str]) -> Result<Self> {
        let scheme = if args.iter().any(|arg| arg.starts_with("--cert-file")) { "https" } else { "http" };
        // Free a moment ago: the kernel gives other ports to others for a while.
        let (client, peer) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
        let (port, peer_port) = (client.local_addr()?.port(), peer.local_addr()?.port());
        drop((client, peer));
        let peer = format!("http://127.0.0.1:{peer_port}");
        let mut line = arguments(
            "solo",
            &directory.join("data"),
            &format!("{scheme}://127.0.0.1:{port}"),
            &peer,
            &format!("solo={peer}"),
        );
        line.extend(args.iter().map(|arg| (*arg).to_owned()));
        let member = Member { place: None, line, log: directory.join("etcd.log"), child: None };
        let ctl_args = ctl_args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut etcd = Self { member, scheme, port, ctl_args };
        etcd.start_again()?;
        Ok(etcd)
    }

    /// Starts it after it was killed.
    ///
    /// # Errors
    /// If it runs or does not start.
    pub fn start_again(&mut self) -> Result<()> {
        self.member.start()?;
        let healthy = wait_for("etcd answers", START_LIMIT, || self.ctl(&["endpoint", "health"]).is_ok());
        healthy.with_context(|| self.member.log_tail())
    }

    /// Ends it by SIGKILL.
    ///
    /// # Errors
    /// If it does not end.
    pub fn kill(&mut self) -> Result<()> {
        self.member.kill()
    }

    /// `HOST:PORT` for clients.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Runs `etcdctl`.
    ///
    /// # Errors
    /// If it fails.
    pub fn ctl(&self, args: &[&str]) -> Result<String> {
        let endpoint = format!("--endpoints={}://{}", self.scheme, self.endpoint());
        let mut command = Command::new("etcdctl");
        command.args([endpoint.as_str(), "--dial-timeout=2s", "--command-timeout=3s"]);
        command.args(&self.ctl_args).args(args);
        stdout_of(command.env("ETCDCTL_API", "3"))
    }
}
