//! A real Docker engine on a host of a lab: it starts and stops its own daemon, with its own state, and makes its images itself.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::{
    Host, Lab, Options,
    process::{Output, alive, enter, output, signal, stdout_of, wait_for},
    until,
};

/// Where the plug-in's socket is, on every host.
const DOCKER_PLUGIN: &str = "/run/docker/plugins/fabric.sock";
/// The image that [`Docker::start`] makes: as the public one of that name, but for fewer commands, and with iperf3.
pub const DOCKER_IMAGE: &str = "busybox";

const START_LIMIT: Duration = Duration::from_secs(60);
/// A daemon stops its containers first.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// $1 is the group of the containers' processes, the rest the daemon's own arguments. The directory that the daemon keeps a key in
/// is the machine's.
const DAEMON: &str = r#"
mkdir -p /run/docker-etc /run/docker-data
mount --bind /run/docker-etc /etc/docker
group=$1
shift
exec dockerd --data-root /run/docker-data --exec-root /run/docker --pidfile /run/docker.pid -H unix:///run/docker.sock \
    --storage-driver vfs --cgroup-parent "/$group" "$@"
"#;

/// $1 is the file to write. iperf3 and the libraries that it needs are the machine's.
const IMAGE: &str = r#"
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/bin" "$root/etc" "$root/tmp" "$root/proc" "$root/sys" "$root/dev"
cp /bin/busybox "$root/bin/"
for applet in sh sleep ping ip cat true nc; do ln -s busybox "$root/bin/$applet"; done
iperf3=$(command -v iperf3)
for file in "$iperf3" $(ldd "$iperf3" | grep -o '/[^ ]*'); do
    mkdir -p "$root$(dirname "$file")"
    cp -L "$file" "$root$file"
done
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
tar -C "$root" -cf "$1" .
"#;

/// An engine. Dropping it ends it and every container of it.
#[derive(Debug)]
pub struct Docker {
    netns: String,
    /// The process that holds the host's mount namespace.
    init: i32,
    directory: PathBuf,
    /// The control group of the containers.
    group: String,
    daemon: Option<Child>,
}

impl Lab {
    /// As [`Lab::new`], with agents that serve Docker.
    ///
    /// # Errors
    /// As [`Lab::new`].
    pub fn with_docker(id: &str, hosts: usize) -> Result<Self> {
        let agent_args = ["--docker-plugin", DOCKER_PLUGIN].map(str::to_owned).into();
        Self::with(id, &Options { hosts, agent_args, ..Options::default() })
    }
}

impl Docker {
    /// Starts an engine on a host with further arguments of `dockerd`, and makes its image.
    ///
    /// # Errors
    /// If it does not answer within a minute; the message holds the end of its log.
    pub fn start(host: &Host, args: &[&str]) -> Result<Self> {
        let mut docker = Self {
            netns: host.netns(),
            init: host.init(),
            directory: host.directory(),
            group: host.netns(),
            daemon: None,
        };
        docker.start_daemon(args)?;
        let tar = docker.directory.join("run/image.tar");
        let path = tar.to_str().context("the lab's directory is not UTF-8")?;
        stdout_of(Command::new("sh").args(["-euc", IMAGE, "image", path]))?;
        docker.run(&["import", "-c", "CMD [\"/bin/sh\"]", "/run/image.tar", DOCKER_IMAGE])?;
        Ok(docker)
    }

    /// Starts the daemon again, after [`Docker::stop`] or [`Docker::kill`].
    ///
    /// # Errors
    /// As [`Docker::start`].
    pub fn start_daemon(&mut self, args: &[&str]) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.directory.join("dockerd.log"))?;
        let daemon = self
            .command(&[&["sh", "-euc", DAEMON, "dockerd", &self.group], args].concat())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("dockerd does not start")?;
        let pid = i32::try_from(daemon.id())?;
        self.daemon = Some(daemon);
        let ready = wait_for("dockerd answers", START_LIMIT, || {
            self.daemon.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)))
                || self.try_run(&["version"]).is_ok_and(|output| output.success())
        });
        if ready.is_err() || !alive(pid) {
            bail!("dockerd is not up:\n{}", self.log_tail(20));
        }
        Ok(())
    }

    /// A command in the host's namespaces.
    fn command(&self, command: &[&str]) -> Command {
        enter(&self.netns, Some(self.init), command)
    }

    /// `docker` with these arguments, to be started by the caller.
    pub fn client(&self, args: &[&str]) -> Command {
        self.command(&[&[client()], args].concat())
    }

    /// Runs `docker` with these arguments, whatever the outcome.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn try_run(&self, args: &[&str]) -> Result<Output> {
        output(&mut self.client(args))
    }

    /// Runs `docker` with these arguments; it must succeed. Returns its standard output without the last line's end.
    ///
    /// # Errors
    /// If it fails; the message holds what it said.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        Ok(stdout_of(&mut self.client(args))?.trim_end().to_owned())
    }

    /// Runs `docker` with these words, as one types them: no word has a space in it.
    ///
    /// # Errors
    /// As [`Docker::run`].
    pub fn sh(&self, line: &str) -> Result<String> {
        self.run(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs a script on the engine's host, in which `docker` is the engine's own client; each of its commands must succeed.
    ///
    /// # Errors
    /// If one fails; the message holds what it said.
    pub fn script(&self, text: &str) -> Result<String> {
        let text = format!("docker() {{ {} \"$@\"; }}\n{text}", client());
        stdout_of(&mut self.command(&["sh", "-euc", &text]))
    }

    /// Starts a container that sleeps, with further arguments of `docker run`.
    ///
    /// # Errors
    /// With Docker's sentence.
    pub fn sleeper(&self, name: &str, network: &str, args: &[&str]) -> Result<()> {
        let run = ["run", "-d", "--name", name, "--network", network];
        self.run(&[&run, args, &[DOCKER_IMAGE, "sleep", "100000"]].concat()).map(drop)
    }

    /// One ping from a container, which must be answered.
    ///
    /// # Errors
    /// If it is not.
    pub fn ping(&self, from: &str, to: &str) -> Result<()> {
        self.run(&["exec", from, "ping", "-c", "1", "-W", "5", to]).map(drop)
    }

    /// One ping from a container, which must not be answered.
    ///
    /// # Errors
    /// If it is.
    pub fn no_ping(&self, from: &str, to: &str) -> Result<()> {
        let output = self.try_run(&["exec", from, "ping", "-c", "1", "-W", "1", to])?;
        ensure!(output.code == 1, "{from} reaches {to}: {output:?}");
        Ok(())
    }

    /// What `docker inspect` shows of a container in a network: `IPAddress`, `GlobalIPv6Address`, `MacAddress`, …
    ///
    /// # Errors
    /// With Docker's sentence.
    pub fn address(&self, container: &str, network: &str, field: &str) -> Result<String> {
        let template = format!("{{{{(index .NetworkSettings.Networks {network:?}).{field}}}}}");
        self.run(&["inspect", "-f", &template, container])
    }

    /// Nothing of Docker's is left in the fabric, nor of the fabric's interfaces on the host.
    ///
    /// # Errors
    /// Says what is left.
    pub fn nothing_left(&self, host: &Host) -> Result<()> {
        until("the fabric has no endpoint left", || host.endpoints().is_ok_and(|all| all.is_empty()))?;
        ensure!(host.networks()?.is_empty(), "networks are left: {:?}", host.networks()?);
        let links = host.sh(&["ip", "-br", "link"])?;
        let hexadecimal = |name: &str| name.bytes().take(12).all(|b| b.is_ascii_hexdigit());
        let ours = |line: &str| {
            let hash = line.strip_prefix("fab").or_else(|| line.strip_prefix("fap"));
            hash.is_some_and(hexadecimal)
        };
        ensure!(!links.lines().any(ours), "interfaces are left:\n{links}");
        Ok(())
    }

    /// Ends the daemon as an administrator does; it stops its containers, unless it runs with `--live-restore`.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop(&mut self) -> Result<()> {
        self.end(Signal::SIGTERM)
    }

    /// Ends the daemon without giving it time for anything.
    ///
    /// # Errors
    /// If it does not end.
    pub fn kill(&mut self) -> Result<()> {
        self.end(Signal::SIGKILL)
    }

    fn end(&mut self, with: Signal) -> Result<()> {
        let Some(mut child) = self.daemon.take() else { return Ok(()) };
        signal(i32::try_from(child.id())?, with);
        wait_for("dockerd ends", STOP_LIMIT, || !matches!(child.try_wait(), Ok(None)))
    }

    /// The daemon's process number, while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.daemon.as_ref().and_then(|child| i32::try_from(child.id()).ok())
    }

    /// The last lines of the daemon's log.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = fs::read_to_string(self.directory.join("dockerd.log")).unwrap_or_default();
        let all: Vec<_> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- dockerd of {} ---\n{}", self.netns, self.log_tail(30));
        }
        if let Err(error) = self.end(Signal::SIGKILL) {
            eprintln!("{error:#}");
        }
        // What watches the containers, and containerd, are in the host's namespace and end with the lab.
        for pid in crate::net::processes(&self.netns) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if name.starts_with("containerd") {
                signal(pid, Signal::SIGKILL);
            }
        }
        if let Err(error) = end_groups(&self.group) {
            eprintln!("{error:#}");
        }
    }
}

/// The engine's own client, whatever else is on the PATH.
fn client() -> &'static str {
    if Path::new("/usr/bin/docker").exists() { "/usr/bin/docker" } else { "docker" }
}

/// Ends every process of the containers in control groups whose name begins with `prefix`, and removes the groups. Absence is
/// success. The containers' own namespaces have no names by which a lab could find them.
pub(crate) fn end_groups(prefix: &str) -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    let mut groups = below(root);
    groups.extend(below(root).iter().flat_map(|hierarchy| below(hierarchy)));
    groups.retain(|group| {
        group.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix))
    });
    let all: Vec<PathBuf> = groups.iter().flat_map(|group| with_children(group)).collect();
    let processes = |all: &[PathBuf]| -> Vec<i32> {
        let files = all.iter().filter_map(|group| fs::read_to_string(group.join("cgroup.procs")).ok());
        files.flat_map(|text| text.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
    };
    processes(&all).into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
    wait_for("containers end", Duration::from_secs(10), || processes(&all).is_empty())?;
    // Children first.
    for group in all.iter().rev() {
        let _ = fs::remove_dir(group);
    }
    Ok(())
}

fn below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn with_children(directory: &Path) -> Vec<PathBuf> {
    let mut all = vec![directory.to_path_buf()];
    all.extend(below(directory).iter().flat_map(|child| with_children(child)));
    all
}
