//! Builds the eBPF object with the pinned compiler and puts it into `OUT_DIR/fabric`, from where the agent embeds it; and once
//! more with marks for `fabric trace`, into `OUT_DIR/fabric-trace`.
//!
//! Always release: unoptimised objects do not pass the verifier. The flags live in `ebpf-flags.txt`, so that `cargo
//! xtask` lints with the same ones.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const TARGET: &str = "bpfel-unknown-none";

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let workspace = manifest.parent().expect("the crate lies in the workspace").to_path_buf();
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for path in [
        "fabric-ebpf/src",
        "fabric-ebpf/Cargo.toml",
        "fabric-ebpf/ebpf-flags.txt",
        "fabric-common/src",
        "fabric-ebpf/bpf-linker.txt",
        "rust-toolchain.toml",
        "Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed={}", workspace.join(path).display());
    }
    println!("cargo::rerun-if-env-changed=FABRIC_BPF_LINKER");
    let linker = linker(&workspace);
    println!("cargo::rerun-if-changed={}", linker.display());

    // Its own target directory: the outer cargo holds the lock of the usual one.
    let target_dir = out_dir.ancestors().nth(4).expect("OUT_DIR is inside the target directory").join("ebpf");
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    let flags =
        fs::read_to_string(workspace.join("fabric-ebpf/ebpf-flags.txt")).expect("ebpf-flags.txt is readable");
    let mut flags: Vec<String> = flags.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    flags.push(format!("--cfg=bpf_target_arch=\"{arch}\""));
    flags.push(format!("-Clinker={}", linker.display()));

    for (features, name) in [(None, "fabric"), (Some("trace"), "fabric-trace")] {
        let mut cargo = build(&workspace, &target_dir, &flags.join("\x1f"));
        cargo.args(features.map(|features| format!("--features={features}")));
        let status = cargo.status().expect("cargo can be started");
        assert!(
            status.success(),
            "building the eBPF object failed; `cargo xtask setup` prepares what it needs"
        );
        fs::copy(target_dir.join(TARGET).join("release/fabric"), out_dir.join(name))
            .expect("the object can be copied");
    }
}

fn build(workspace: &Path, target_dir: &Path, flags: &str) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"));
    cargo
        .current_dir(workspace)
        .args([
            "build",
            "--package",
            "fabric-ebpf",
            "--bins",
            "--release",
            "--target",
            TARGET,
            "-Zbuild-std=core",
        ])
        .arg("--target-dir")
        .arg(target_dir)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags);
    // What the outer cargo sets for host builds must not reach this one.
    for key in ["RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "CARGO_TARGET_DIR"] {
        cargo.env_remove(key);
    }
    cargo
}

fn linker(workspace: &Path) -> PathBuf {
    if let Some(path) = env::var_os("FABRIC_BPF_LINKER") {
        return path.into();
    }
    let cache = env::var_os("XDG_CACHE_HOME")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .expect("HOME or XDG_CACHE_HOME is set");
    let read = |path| fs::read_to_string(workspace.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let rust = read("rust-toolchain.toml");
    let rust = rust.lines().find_map(|line| line.strip_prefix("channel = ")).expect("it names the channel");
    let version = read("fabric-ebpf/bpf-linker.txt");
    let name = format!("bpf-linker-{}-rust-{}", version.trim(), rust.trim_matches('"'));
    let path = cache.join("fabric/tools").join(name).join("bin/bpf-linker");
    assert!(path.exists(), "bpf-linker is missing; `cargo xtask setup` builds it");
    path
}
