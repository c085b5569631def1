//! House rules that no general tool knows: sizes of files, and which room may name which.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use crate::{ui, workspace::root};

/// A file longer than this should be split.
const WARN: usize = 400;
/// A file longer than this must be.
const FAIL: usize = 600;

const SOURCES: &[&str] =
    &["fabric-agent", "fabric-api", "fabric-cli", "fabric-common", "fabric-ebpf", "tests", "xtask"];

/// A room (files whose path begins so) and words that its `use` lines and paths may not have.
struct Rule {
    rooms: &'static [&'static str],
    banned: &'static [&'static str],
    because: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        rooms: &["fabric-agent/src/plan", "fabric-agent/src/model", "fabric-agent/src/delta"],
        banned: &["aya", "tokio", "std::fs", "std::net::TcpStream", "std::process", "std::time", "rtnetlink"],
        because: "planning is pure: no I/O, no clock",
    },
    Rule {
        rooms: &["fabric-agent/src/api", "fabric-agent/src/docker", "fabric-agent/src/manifests"],
        banned: &["aya", "rtnetlink", "crate::dataplane", "crate::kernel"],
        because: "front doors translate and call the service; they never see a map or a link",
    },
    Rule {
        rooms: &["fabric-agent/src/dataplane", "fabric-agent/src/kernel"],
        banned: &["axum", "crate::api", "crate::service", "crate::store", "crate::manifests"],
        because: "what faces the kernel knows neither HTTP nor the store",
    },
    Rule {
        rooms: &["fabric-cli"],
        banned: &["aya", "fabric_agent", "rtnetlink"],
        because: "the CLI is unprivileged and talks to the API only",
    },
];

/// Checks every source file. The note of a success counts the warnings.
///
/// # Errors
/// Lists what breaks a rule.
pub(crate) fn run() -> Result<String> {
    let (mut errors, mut warnings) = (Vec::new(), Vec::new());
    for directory in SOURCES {
        for file in rust_files(&root().join(directory))? {
            let name = file.strip_prefix(root()).unwrap_or(&file).display().to_string();
            let text = fs::read_to_string(&file)?;
            let lines = text.lines().count();
            if lines > FAIL {
                errors.push(format!("{name} has {lines} lines; split it by feature (limit {FAIL})"));
            } else if lines > WARN {
                warnings.push(format!("{name} has {lines} lines; consider splitting it (over {WARN})"));
            }
            errors.extend(rooms(&name, &text));
        }
    }
    if !errors.is_empty() {
        bail!("{}", errors.join("\n"));
    }
    let notes: Vec<_> = warnings.iter().map(|warning| format!("\n  {} {warning}", ui::yellow("!"))).collect();
    Ok(notes.concat())
}

fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() && !path.ends_with("target") {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Offences against the rooms' rules in one file.
fn rooms(name: &str, text: &str) -> Vec<String> {
    let mut offences = Vec::new();
    let room_of = |room: &str| name.strip_prefix(room).is_some_and(|rest| rest.starts_with(['/', '.']));
    for rule in RULES.iter().filter(|rule| rule.rooms.iter().any(|room| room_of(room))) {
        for path in used_paths(text) {
            let hit = |banned: &&&str| path == **banned || path.starts_with(&format!("{banned}::"));
            if let Some(banned) = rule.banned.iter().find(hit) {
                offences.push(format!("{name} uses {banned}: {}", rule.because));
            }
        }
    }
    offences
}

/// Paths that `use` items name, groups spread out; test modules at the end of a file are left out.
fn used_paths(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let mut paths = Vec::new();
    for item in code.split(';') {
        let start = item.lines().position(|line| {
            let line = line.trim_start();
            line.starts_with("use ") || line.starts_with("pub use ") || line.starts_with("pub(crate) use ")
        });
        if let Some(start) = start {
            let item: String = item.lines().skip(start).map(str::trim).collect();
            if let Some((_, tree)) = item.split_once("use ") {
                spread("", tree, &mut paths);
            }
        }
    }
    paths
}

/// `a::{b, c::{d}}` is `a::b` and `a::c::d`.
fn spread(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        if !tree.is_empty() {
            paths.push(format!("{prefix}{}", tree.split(" as ").next().unwrap_or(tree).trim()));
        }
        return;
    };
    let prefix = format!("{prefix}{head}");
    let body = rest.rsplit_once('}').map_or(rest, |(body, _)| body);
    let (mut depth, mut start) = (0, 0);
    for (at, letter) in body.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                spread(&prefix, &body[start..at], paths);
                start = at + 1;
            }
            _ => {}
        }
    }
    spread(&prefix, &body[start..], paths);
}

#[cfg(test)]
mod tests {
    use super::{rooms, used_paths};

    #[test]
    fn groups_are_spread_out() {
        let text = "//! x\nuse std::{\n    fs,\n    net::{IpAddr, TcpStream as T},\n};\npub use crate::a;\nfn f() { let x = 1; }";
        assert_eq!(used_paths(text), ["std::fs", "std::net::IpAddr", "std::net::TcpStream", "crate::a"]);
    }

    #[test]
    fn a_room_keeps_its_rules() {
        assert_eq!(rooms("fabric-agent/src/plan/mod.rs", "use tokio::sync::watch;").len(), 1);
        assert_eq!(rooms("fabric-agent/src/plan/mod.rs", "use std::{fs, io};").len(), 1);
        assert_eq!(rooms("fabric-agent/src/manifests.rs", "use crate::dataplane::Maps;").len(), 1);
        assert!(rooms("fabric-agent/src/store/mod.rs", "use tokio::sync::watch;").is_empty());
        assert!(
            rooms("fabric-agent/src/plan/mod.rs", "use std::net::IpAddr;\n#[cfg(test)]\nuse std::fs;")
                .is_empty()
        );
    }
}
