//! What the host tells without the agent: the tools of the system, asked one after the other, each for a short time.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::AsyncReadExt,
    process::Command,
    time::{Instant, timeout, timeout_at},
};

use super::archive::{Archive, LARGEST};

/// How long one command may take, and all of them.
const EACH: Duration = Duration::from_secs(10);
const ALL: Duration = Duration::from_secs(60);

/// Files of the archive and the commands that print them.
const COMMANDS: &[(&str, &str)] = &[
    ("uname.txt", "uname -a"),
    ("link.txt", "ip -d -s link show"),
    ("address.txt", "ip -d address show"),
    ("route-v4.txt", "ip -4 route show table all"),
    ("route-v6.txt", "ip -6 route show table all"),
    ("rule-v4.txt", "ip -4 rule show"),
    ("rule-v6.txt", "ip -6 rule show"),
    ("neighbour.txt", "ip -s neigh show"),
    ("netns.txt", "ip netns list"),
    ("fdb.txt", "bridge fdb show"),
    ("qdisc.txt", "tc -s qdisc show"),
    ("sockets.txt", "ss -a -u -n -p"),
    ("firewall.txt", "nft list ruleset"),
    ("bpf-programs.txt", "bpftool prog show"),
    ("bpf-maps.txt", "bpftool map show"),
    ("bpf-links.txt", "bpftool link show"),
    ("bpf-net.txt", "bpftool net show"),
    ("journal.txt", "journalctl -u fabric-agent -n 2000 --no-pager"),
    ("kernel.log", "dmesg --level err,warn"),
];

/// Settings of the kernel that decide whether packets pass.
const SETTINGS: &[&str] = &[
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/conf/all/forwarding",
    "net/ipv6/conf/all/forwarding",
    "net/ipv6/conf/all/disable_ipv6",
    "net/core/bpf_jit_enable",
    "net/core/bpf_jit_harden",
    "net/core/netdev_max_backlog",
    "kernel/unprivileged_bpf_disabled",
    "kernel/osrelease",
];

/// The host's own name.
pub(super) fn name() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name: String =
        name.trim().chars().filter(|c| c.is_ascii_alphanumeric() || "-._".contains(*c)).collect();
    Some(name).filter(|name| !name.is_empty())
}

/// Adds all of it; the maps too, as bpftool reads them, where the agent could not tell.
pub(super) async fn collect(archive: &mut Archive, config: &Path, bpffs: &Path, maps: bool) {
    let end = Instant::now() + ALL;
    for (file, line) in COMMANDS {
        let words: Vec<_> = line.split_whitespace().collect();
        run(archive, &format!("host/{file}"), &words, end).await;
    }
    let settings = SETTINGS.iter().map(|name| {
        let value = fs::read_to_string(Path::new("/proc/sys").join(name));
        format!("{name} = {}\n", value.as_deref().map_or("?", str::trim))
    });
    archive.add("host/sysctl.txt", &settings.collect::<String>());
    match fs::read_to_string(config) {
        Ok(text) => archive.add("agent.toml", &text),
        // It need not have one.
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => archive.note(&format!("{}: {error}", config.display())),
    }
    let pins = pins(bpffs);
    let list: String = pins.iter().map(|pin| format!("{}\n", pin.display())).collect();
    archive.add("host/pins.txt", &list);
    for pin in pins.iter().filter(|pin| maps && pin.parent().is_some_and(|dir| dir.ends_with("maps"))) {
        let name = pin.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = pin.display().to_string();
        // A ring buffer has no rows.
        if !name.starts_with("events@") && !name.starts_with("captured@") {
            run(archive, &format!("maps/{name}.txt"), &["bpftool", "map", "dump", "pinned", &path], end)
                .await;
        }
    }
}

/// What is pinned in the agent's directory, two levels deep.
fn pins(bpffs: &Path) -> Vec<PathBuf> {
    let inside = |directory: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(directory).into_iter().flatten();
        entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
    };
    let mut pins: Vec<_> =
        inside(bpffs).iter().flat_map(|path| [vec![path.clone()], inside(path)].concat()).collect();
    pins.sort();
    pins
}

/// Adds what a command prints, on standard error too if it fails.
async fn run(archive: &mut Archive, file: &str, words: &[&str], end: Instant) {
    let line = words.join(" ");
    let ran = timeout_at(end, timeout(EACH, output(words))).await;
    match ran {
        Ok(Ok(Ok((true, text)))) => archive.add(file, &text),
        Ok(Ok(Ok((false, text)))) => {
            archive.note(&format!("`{line}` failed: {}", text.lines().last().unwrap_or_default()));
        }
        Ok(Ok(Err(error))) if error.kind() == ErrorKind::NotFound => {
            archive.note(&format!("{file}: {} is not installed", words[0]));
        }
        Ok(Ok(Err(error))) => archive.note(&format!("`{line}`: {error}")),
        Ok(Err(_)) => archive.note(&format!("`{line}`: not done within {} s", EACH.as_secs())),
        Err(_) => archive.note(&format!("{file}: left out, all of it took longer than {} s", ALL.as_secs())),
    }
}

/// Whether it succeeded, and the beginning of what it printed.
async fn output(words: &[&str]) -> std::io::Result<(bool, String)> {
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .env("LC_ALL", "C")
        .env("PATH", search_path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let limit = LARGEST as u64 + 1;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let stdout = child.stdout.take().map(|stdout| stdout.take(limit));
    let stderr = child.stderr.take().map(|stderr| stderr.take(limit));
    let (Some(mut stdout), Some(mut stderr)) = (stdout, stderr) else {
        return Ok((false, String::new()));
    };
    tokio::try_join!(stdout.read_to_end(&mut out), stderr.read_to_end(&mut err))?;
    if out.len() as u64 == limit {
        // The rest is not wanted.
        child.kill().await?;
        return Ok((true, String::from_utf8_lossy(&out).into_owned()));
    }
    let success = child.wait().await?.success();
    let text = if success { out } else { [out, err].concat() };
    Ok((success, String::from_utf8_lossy(&text).into_owned()))
}

/// The administration tools' directories too, which are not on everybody's path.
fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/sbin:/usr/local/sbin")
}
