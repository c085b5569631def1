//! `fabric bugreport`: one archive that shows a fault, without secrets, with the agent and without it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use fabric_lab::{Lab, stdout_of, until};

const SECRET: &str = "hunter2";

/// Makes a report on the first host and unpacks it: the directory with its files.
fn report(lab: &Lab, name: &str) -> Result<(PathBuf, String)> {
    let inside = format!("/run/{name}.tar.gz");
    let ran = lab.host(1).try_fabric(&["bugreport", "-w", &inside, "--config", "/run/agent.toml"])?;
    ensure!(ran.success(), "{ran:?}");
    let archive = lab.host(1).directory().join(format!("run/{name}.tar.gz"));
    assert_eq!(fs::metadata(&archive)?.permissions().mode() & 0o777, 0o600);
    let directory = lab.directory().join(name);
    fs::create_dir_all(&directory)?;
    stdout_of(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&directory))?;
    let top = fs::read_dir(&directory)?.next().context("a directory in it")??.path();
    assert!(top.file_name().is_some_and(|name| name.to_string_lossy().starts_with("fabric-bugreport-")));
    Ok((top, ran.stderr))
}

fn text(directory: &Path, file: &str) -> Result<String> {
    fs::read_to_string(directory.join(file)).with_context(|| file.to_owned())
}

fn no_secret(directory: &Path) -> Result<()> {
    let found = Command::new("grep").args(["-r", SECRET]).arg(directory).output()?;
    ensure!(found.stdout.is_empty(), "{}", String::from_utf8_lossy(&found.stdout));
    Ok(())
}

#[test]
fn a_report_has_everything_but_secrets() -> Result<()> {
    let mut lab = Lab::new("kbug", 2)?;
    lab.create_network(&["n1", "--subnet", "192.168.10.0/24", "--vni", "100"])?;
    let (a, b) = (lab.container(1, "a")?, lab.container(2, "b")?);
    let label = format!("db-password={SECRET}");
    lab.host(1).attach(&a, "a", "n1", &["--ip", "192.168.10.11", "--label", &label])?;
    lab.host(2).attach(&b, "b", "n1", &["--ip", "192.168.10.21"])?;
    lab.declare_peers()?;
    until("the overlay carries packets", || a.ping("192.168.10.21").is_ok())?;
    let config = format!("store = \"etcd://fabric:{SECRET}@10.0.0.1:2379\"\ntoken = '{SECRET}'\n");
    fs::write(lab.host(1).directory().join("run/agent.toml"), config)?;
    a.send_frame(&[&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 8, 0, 0x45][..], &[0; 45]].concat(), 1)?;
    until("the drop is counted", || {
        lab.host(1).counts().is_ok_and(|counts| counts.get("from_container drop spoof_mac") == 1)
    })?;

    let (top, said) = report(&lab, "up")?;
    assert!(said.contains("up.tar.gz written"), "{said}");
    no_secret(&top)?;
    let summary = text(&top, "summary.txt")?;
    assert!(
        summary.starts_with("fabric bugreport of node h1") && !summary.contains("does not answer"),
        "{summary}"
    );
    assert!(text(&top, "agent.toml")?.contains("etcd://[redacted]@10.0.0.1:2379"));
    for (file, words) in [
        ("status.json", "\"inSync\": true"),
        ("objects/endpoints.json", "192.168.10.21"),
        ("objects/networks.json", "\"n1\""),
        ("objects/nodes.json", "10.0.2.1"),
        ("counters.json", "spoof_mac"),
        ("events.json", "spoof_mac"),
        ("agent.log", "ready"),
        ("programs.json", "from_container"),
        ("maps/endpoints.json", "192.168.10.21"),
        ("maps/vteps.json", "10.0.2.1"),
        ("maps/settings.json", "vxlan_ifindex"),
        ("host/link.txt", "u0"),
        ("host/route-v4.txt", "10.0.1."),
        ("host/bpf-programs.txt", "from_uplink"),
        ("host/pins.txt", "from_container"),
        ("host/sysctl.txt", "net/ipv4/ip_forward = 1"),
    ] {
        assert!(text(&top, file)?.contains(words), "{file} has no {words}: {}", text(&top, file)?);
    }
    // Both say the same of one row.
    let rows: serde_json::Value = serde_json::from_str(&text(&top, "maps/networks.json")?)?;
    assert_eq!(rows["rows"][0]["key"], 100, "{rows}");
    let programs: serde_json::Value = serde_json::from_str(&text(&top, "programs.json")?)?;
    let id = format!("{}: ", programs[0]["id"]);
    let tag = programs[0]["tag"].as_str().context("a tag")?;
    let shown = text(&top, "host/bpf-programs.txt")?;
    let line = shown.lines().find(|line| line.starts_with(&id)).with_context(|| shown.clone())?;
    assert!(line.contains(tag), "{line} is not {programs}");

    lab.host_mut(1).term_agent()?;
    let (top, said) = report(&lab, "down")?;
    no_secret(&top)?;
    let summary = text(&top, "summary.txt")?;
    for words in ["no agent listens on /run/fabric/fabric.sock", "the agent does not answer"] {
        assert!(summary.contains(words) && said.contains(words), "{said}\n{summary}");
    }
    assert!(text(&top, "host/link.txt")?.contains("u0"));
    let maps: Vec<_> =
        fs::read_dir(top.join("maps"))?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    let endpoints =
        maps.iter().map(|name| name.to_string_lossy()).find(|name| name.starts_with("endpoints@"));
    let rows = text(&top, &format!("maps/{}", endpoints.context("the map")?))?;
    assert!(rows.contains("key") && rows.contains("value"), "{rows}");
    Ok(())
}
