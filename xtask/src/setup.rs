//! Prepares what a build or a test needs and the machine lacks: once, with progress, into the cache.
//!
//! Nothing is touched that is already there, so every command calls this first.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::{
    ui,
    workspace::{cache, cargo, is_root, pinned_rust, root, sysroot, tools, which},
};

/// One version for all who look for it: here, `ebpf.rs` and the agent's build script.
const BPF_LINKER: &str = include_str!("../../fabric-ebpf/bpf-linker.txt").trim_ascii();
const CARGO_DENY: &str = "0.20.2";
const CARGO_NEXTEST: &str = "0.9.143";

/// Executables that the lab and the tests call, each with its Debian package.
const PROGRAMS: &[(&str, &str)] = &[
    ("bpftool", "bpftool"),
    ("busybox", "busybox-static"),
    ("dockerd", "docker.io"),
    ("etcd", "etcd-server"),
    ("etcdctl", "etcd-client"),
    ("ethtool", "ethtool"),
    ("ip", "iproute2"),
    ("iperf3", "iperf3"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("openssl", "openssl"),
    ("ovs-vswitchd", "openvswitch-switch"),
    ("ping", "iputils-ping"),
    ("tcpdump", "tcpdump"),
    ("tshark", "tshark"),
];

/// What the client of etcd is built with: a compiler of protocol files, and those that come with it.
const BUILD_PROGRAMS: &[(&str, &str)] =
    &[("protoc", "protobuf-compiler"), ("/usr/include/google/protobuf/descriptor.proto", "libprotobuf-dev")];

/// What other kernels need: to be unpacked, to be made ready and to be booted.
const KERNEL_PROGRAMS: &[(&str, &str)] = &[
    ("depmod", "kmod"),
    ("dpkg-deb", "dpkg"),
    ("modprobe", "kmod"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("xz", "xz-utils"),
];

/// What a build needs: the compiler's sources, the eBPF linker, and the compiler of protocol files.
///
/// # Errors
/// One sentence that names what is missing and can't be prepared.
pub(crate) fn build_tools() -> Result<()> {
    programs(BUILD_PROGRAMS)?;
    let rust = pinned_rust()?;
    let sysroot = sysroot()?;
    if !sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
        let _lock = lock()?;
        ui::run_step(
            "rust-src for the eBPF target",
            Command::new("rustup")
                .args(["component", "add", "rust-src", "--toolchain", &rust])
                .current_dir(root()),
        )
        .context("the component rust-src is missing; install it with `rustup component add rust-src`")?;
    }
    bpf_linker(&rust, &sysroot)
}

/// What the lab needs beside a build.
///
/// # Errors
/// As [`build_tools`].
pub(crate) fn lab_tools() -> Result<()> {
    build_tools()?;
    if !is_root() {
        bail!("this needs root for network namespaces and eBPF; run it as root");
    }
    programs(PROGRAMS)
}

/// What the kernel matrix needs beside the lab.
///
/// # Errors
/// As [`build_tools`].
pub(crate) fn kernel_tools() -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("other kernels are tried on x86_64 only; this machine is {}", std::env::consts::ARCH);
    }
    programs(KERNEL_PROGRAMS)
}

/// What the whole test ladder needs.
///
/// # Errors
/// As [`build_tools`].
pub(crate) fn test_tools(quick: bool) -> Result<()> {
    build_tools()?;
    if !quick {
        programs(PROGRAMS)?;
        cargo_tool("cargo-deny", CARGO_DENY, &["--no-default-features"])?;
    }
    cargo_tool("cargo-nextest", CARGO_NEXTEST, &["--no-default-features", "--features", "default-no-update"])
}

/// Where a cargo tool is: on the `PATH` or in the cache.
pub(crate) fn tool(name: &str) -> Result<PathBuf> {
    let cached = tools()?.join(name).join("bin").join(name);
    if cached.is_file() {
        return Ok(cached);
    }
    which(name).with_context(|| format!("{name} is missing"))
}

/// Only one setup at a time; the second one then finds everything there.
fn lock() -> Result<Flock<File>> {
    let dir = tools()?;
    fs::create_dir_all(&dir).with_context(|| format!("can't create {}", dir.display()))?;
    let file = File::create(dir.join(".lock"))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .context("can't lock the tools' directory")
}

/// Where bpf-linker is installed: one for each compiler, whose libLLVM it uses.
///
/// # Errors
/// If there is no place for a cache.
pub(crate) fn bpf_linker_prefix(rust: &str) -> Result<PathBuf> {
    Ok(tools()?.join(format!("bpf-linker-{BPF_LINKER}-rust-{rust}")))
}

/// Builds bpf-linker against the compiler's own libLLVM, so that both speak the same bitcode.
fn bpf_linker(rust: &str, sysroot: &Path) -> Result<()> {
    if std::env::var_os("FABRIC_BPF_LINKER").is_some() {
        return Ok(());
    }
    let prefix = bpf_linker_prefix(rust)?;
    let program = prefix.join("bin/bpf-linker");
    if runs(&program) {
        return Ok(());
    }
    let _lock = lock()?;
    if runs(&program) {
        return Ok(());
    }
    let llvm = llvm_prefix(rust, sysroot)?;
    ui::run_step(
        &format!("bpf-linker {BPF_LINKER} (once, about a minute)"),
        install(&prefix)
            .args(["bpf-linker", "--version", BPF_LINKER, "--force"])
            .args(["--no-default-features", "--features", "llvm-22"])
            .env("LLVM_PREFIX", llvm)
            .env("RUSTFLAGS", format!("-C link-arg=-Wl,-rpath,{}", sysroot.join("lib").display())),
    )?;
    Ok(())
}

/// A linker of a compiler that has moved exists but can't load its libLLVM.
fn runs(program: &Path) -> bool {
    program.is_file()
        && Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// A directory that looks like an LLVM installation to bpf-linker: `lib/libLLVM.so`.
fn llvm_prefix(rust: &str, sysroot: &Path) -> Result<PathBuf> {
    let library = fs::read_dir(sysroot.join("lib"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("libLLVM.so.") && name.contains("-rust-") && name.ends_with("-stable")
        })
        .with_context(|| {
            format!(
                "{} has no libLLVM.so.*-rust-*-stable; a rustup toolchain is needed",
                sysroot.join("lib").display()
            )
        })?;
    let prefix = cache()?.join(format!("llvm-{rust}"));
    let link = prefix.join("lib/libLLVM.so");
    fs::create_dir_all(prefix.join("lib"))?;
    if fs::read_link(&link).ok().as_ref() != Some(&library) {
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(&library, &link)
            .with_context(|| format!("can't link {} to {}", link.display(), library.display()))?;
    }
    Ok(prefix)
}

/// `cargo install` into `prefix`.
fn install(prefix: &Path) -> Command {
    let mut command = cargo();
    command
        .args(["install", "--locked", "--root"])
        .arg(prefix)
        // The tool's build has nothing to do with this workspace's target directory.
        .env_remove("CARGO_TARGET_DIR");
    command
}

/// Builds a cargo tool unless one of its name is there. Its speed does not matter, so it is built for a short build.
fn cargo_tool(name: &str, version: &str, features: &[&str]) -> Result<()> {
    if tool(name).is_ok() {
        return Ok(());
    }
    let _lock = lock()?;
    if tool(name).is_ok() {
        return Ok(());
    }
    ui::run_step(
        &format!("{name} {version} (once, some minutes)"),
        install(&tools()?.join(name))
            .args([name, "--version", version])
            .args(features)
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "false"),
    )?;
    Ok(())
}

/// Installs the Debian packages of the programs that are missing.
fn programs(wanted: &[(&'static str, &'static str)]) -> Result<()> {
    let missing: Vec<_> = wanted.iter().filter(|(program, _)| which(program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = |pick: fn(&(&'static str, &'static str)) -> &'static str| {
        missing.iter().map(|entry| pick(entry)).collect::<Vec<_>>()
    };
    let names = list(|entry| entry.0).join(", ");
    if which("apt-get").is_none() {
        bail!("missing on this machine: {names}; install them with your package manager");
    }
    let packages = list(|entry| entry.1);
    if !is_root() {
        bail!(
            "missing on this machine: {names}; install them with `sudo apt-get install {}`",
            packages.join(" ")
        );
    }
    let _lock = lock()?;
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    let install = || {
        let mut command = apt(&["install", "--yes", "--quiet", "--no-install-recommends"]);
        command.args(&packages);
        command
    };
    let step = format!("Debian packages: {}", packages.join(", "));
    // The lists may be there already; fetching them takes far longer than the packages.
    if ui::run_quiet(&mut install(), |_| ()).is_err() {
        ui::run_step("Debian package lists", &mut apt(&["update", "--quiet"]))?;
        ui::run_step(&step, &mut install())
            .with_context(|| format!("missing on this machine: {names}; apt-get could not install them"))?;
    }
    if let Some((program, package)) = wanted.iter().find(|(program, _)| which(program).is_none()) {
        bail!("{program} is still missing after installing {package}");
    }
    Ok(())
}
