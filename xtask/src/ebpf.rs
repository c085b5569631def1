//! The kernel crate, linted as `fabric-agent/build.rs` builds it.

use std::{fs, process::Command};

use anyhow::{Context, Result};

use crate::{
    setup::bpf_linker_prefix,
    workspace::{cargo, pinned_rust, root, target},
};

const TARGET: &str = "bpfel-unknown-none";

/// `cargo clippy` of the programs for the BPF target.
///
/// # Errors
/// If the file of flags can't be read.
pub(crate) fn clippy() -> Result<Command> {
    let file = root().join("fabric-ebpf/ebpf-flags.txt");
    let text = fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))?;
    let mut flags: Vec<String> = text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    flags.push(format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH));
    let linker = match std::env::var("FABRIC_BPF_LINKER") {
        Ok(path) => path,
        Err(_) => bpf_linker_prefix(&pinned_rust()?)?.join("bin/bpf-linker").display().to_string(),
    };
    flags.push(format!("-Clinker={linker}"));
    let mut command = cargo();
    command
        .args([
            "clippy",
            "--package=fabric-ebpf",
            "--bins",
            "--release",
            "--target",
            TARGET,
            "-Zbuild-std=core",
        ])
        .arg("--target-dir")
        .arg(target().join("ebpf"))
        .args(["--", "-D", "warnings"])
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env_remove("RUSTFLAGS");
    Ok(command)
}
