//! A network and mount namespace for one test of the agent's dataplane, on a bpffs that the dataplane mounts itself.

use std::{error::Error, fs, path::PathBuf, process::Command, thread};

use aya::programs::{SchedClassifier, TcAttachType};
use fabric_agent::{
    dataplane::{
        Dataplane, Options,
        ownership::{self, map_pin},
    },
    plan::desired::Attachment,
};
use fabric_common::abi::{self, MapSpec, program};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};

/// What a test returns.
pub type Result<T = ()> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// A network and mount namespace, and a directory for the bpffs. The namespaces go with the thread.
pub struct World {
    directory: tempfile::TempDir,
}

impl Drop for World {
    /// The bpffs would keep the directory busy; also after a panic.
    fn drop(&mut self) {
        let _absent = umount2(&self.bpffs(), MntFlags::MNT_DETACH);
    }
}

impl World {
    /// Runs a test in namespaces of its own.
    ///
    /// # Panics
    /// If the test fails.
    pub fn run(test: impl FnOnce(&Self) -> Result + Send + 'static) {
        let thread = thread::spawn(move || -> Result {
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)?;
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
            let world = Self { directory: tempfile::tempdir()? };
            test(&world)
        });
        match thread.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => panic!("{error}"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// The agent's directory.
    pub fn bpffs(&self) -> PathBuf {
        self.directory.path().join("bpf")
    }

    /// Small maps, so that a load takes milliseconds.
    pub fn options(&self) -> Options {
        let small = abi::MAPS
            .iter()
            .filter(|map| map.sized && ![abi::EVENTS.name, abi::CAPTURED.name].contains(&map.name));
        let sizes = small.map(|map| (map.name.to_owned(), 64)).collect();
        Options { bpffs: self.bpffs(), sizes, ..Options::default() }
    }

    /// Opens the dataplane as a starting agent does.
    ///
    /// # Errors
    /// Those of [`Dataplane::open`].
    pub fn open(&self) -> Result<Dataplane> {
        Ok(Dataplane::open(&self.options())?)
    }

    /// Where a map is pinned.
    pub fn pin(&self, spec: &MapSpec) -> PathBuf {
        self.bpffs().join(ownership::MAPS_DIR).join(map_pin(spec))
    }

    /// Names of what is in one of the agent's directories, sorted.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn files(&self, directory: &str) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.bpffs().join(directory))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// Makes a veth whose other side is in the same namespace; its interface index.
    ///
    /// # Errors
    /// If `ip` refuses.
    pub fn veth(&self, name: &str) -> Result<u32> {
        ip(&["link", "add", name, "type", "veth", "peer", "name", &format!("{name}p")])?;
        ip(&["link", "set", name, "up"])?;
        Ok(if_nametoindex(name)?)
    }
}

/// Runs `ip`.
///
/// # Errors
/// What it says.
pub fn ip(arguments: &[&str]) -> Result {
    let output = Command::new("ip").args(arguments).output()?;
    if !output.status.success() {
        return Err(format!("ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(())
}

/// The attachment of a container's port.
pub fn port(ifindex: u32) -> Attachment {
    Attachment { ifindex, program: program::FROM_CONTAINER }
}

/// Program ids at the TCX ingress hook of an interface.
///
/// # Errors
/// If there is no such interface.
pub fn at_hook(interface: &str) -> Result<Vec<u32>> {
    let (_, programs) = SchedClassifier::query_tcx(interface, TcAttachType::Ingress)?;
    Ok(programs.iter().map(aya::programs::ProgramInfo::id).collect())
}

/// The clsact filters at the ingress of an interface, as `tc` shows them.
///
/// # Errors
/// If `tc` can't be run.
pub fn filters(interface: &str) -> Result<String> {
    let output = Command::new("tc").args(["filter", "show", "dev", interface, "ingress"]).output()?;
    Ok(String::from_utf8(output.stdout)?)
}
