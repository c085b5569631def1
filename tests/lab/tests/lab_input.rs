//! Bad input: one sentence that says what is wrong, the right exit code, and everything as it was before.

use std::{fs, os::unix::fs::PermissionsExt};

use anyhow::{Context, Result};
use fabric_lab::{Container, Host, Lab, Options, Output, until};

/// Everything that could have been changed by half: objects, links, rows.
fn state(host: &Host) -> Result<String> {
    let mut state = String::new();
    for what in [&["network", "ls"][..], &["endpoint", "ls"], &["node", "ls"]] {
        let text = host.fabric(&[what, &["-o", "json"]].concat())?;
        let mut value: serde_json::Value = serde_json::from_str(&text)?;
        // Counters move by themselves.
        for item in value.as_array_mut().into_iter().flatten() {
            item["status"]["counters"].take();
        }
        state.push_str(&serde_json::to_string_pretty(&value)?);
    }
    let status = host.status()?;
    state.push_str(&format!("\n{:?}\n", status.problems));
    let counting = ["actions", "drops", "events", "event_budget", "port_counters"];
    for map in status.maps.iter().filter(|map| !counting.contains(&map.name.as_str())) {
        state.push_str(&format!("{} {}\n", map.name, map.entries));
    }
    state.push_str(&host.link_names()?.join(" "));
    state.push_str(&host.sh(&["find", "/sys/fs/bpf"])?);
    Ok(state)
}

/// The exit code, and one sentence that holds all of `words`.
#[track_caller]
fn refused(what: &str, output: &Output, code: i32, words: &[&str]) {
    assert_eq!(output.code, code, "{what}: {output:?}");
    let lines: Vec<_> = output.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    // Usage errors show the usage as well.
    if code == 1 {
        assert_eq!(lines.len(), 1, "{what}: one sentence: {output:?}");
    }
    for word in words {
        assert!(output.stderr.to_lowercase().contains(&word.to_lowercase()), "{what}: {word:?}: {output:?}");
    }
    assert!(!output.stderr.contains("panicked"), "{what}: {output:?}");
}

fn scene(id: &str) -> Result<(Container, Lab)> {
    let lab = Lab::new(id, 1)?;
    lab.create_network(&["n1", "--subnet", "192.168.10.0/24", "--vni", "100"])?;
    let a = lab.container(1, "a")?;
    lab.host(1).attach(&a, "a", "n1", &["--ip", "192.168.10.11"])?;
    Ok((a, lab))
}

#[test]
fn the_cli_refuses_what_is_wrong_and_changes_nothing() -> Result<()> {
    let (a, lab) = scene("badcli")?;
    let host = lab.host(1);
    let other = lab.container(1, "c")?;
    let path = other.netns_path();
    let path = path.to_str().context("a path")?;
    let taken = a.netns_path();
    let taken = taken.to_str().context("a path")?;
    let file = |name: &str, text: &str| fs::write(host.directory().join("run").join(name), text);
    file("key.yaml", "kind: Network\nmetadata: {name: n9}\nspec: {subnets: [10.9.0.0/16], vnni: 5}\n")?;
    file("kind.yaml", "kind: Netwerk\nmetadata: {name: n9}\nspec: {}\n")?;
    file(
        "json.json",
        "{\"kind\": \"Network\", \"metadata\": {\"name\": \"n9\"}, \"spec\": {\"subnets\": [], \"x\": 1}}",
    )?;
    file(
        "half.yaml",
        "kind: Network\nmetadata: {name: n8}\nspec: {subnets: [10.8.0.0/16]}\n---\n\
          kind: Endpoint\nmetadata: {name: e8}\nspec: {network: nowhere, node: x, addresses: [10.8.0.5]}\n",
    )?;
    let create = |more: &[&'static str]| [&["network", "create"], more].concat();
    let attach = |more: &[&str]| -> Vec<String> {
        [&["endpoint", "attach"], more].concat().iter().map(|word| (*word).to_owned()).collect()
    };
    let own = |words: Vec<&str>| -> Vec<String> { words.into_iter().map(str::to_owned).collect() };
    let cases: Vec<(&str, Vec<String>, i32, Vec<&str>)> = vec![
        ("bad CIDR", own(create(&["x", "--subnet", "10.0.0.0/33"])), 2, vec!["10.0.0.0/33"]),
        ("host bits", own(create(&["x", "--subnet", "10.0.0.5/24"])), 1, vec!["10.0.0.5/24", "10.0.0.0/24"]),
        (
            "overlap inside",
            own(create(&["x", "--subnet", "10.0.0.0/16", "--subnet", "10.0.1.0/24"])),
            1,
            vec!["overlap"],
        ),
        ("duplicate network", own(create(&["n1", "--subnet", "10.0.0.0/16"])), 1, vec!["n1", "exists"]),
        (
            "duplicate VNI",
            own(create(&["x", "--subnet", "10.0.0.0/16", "--vni", "100"])),
            1,
            vec!["100", "n1"],
        ),
        (
            "VNI too large",
            own(create(&["x", "--subnet", "10.0.0.0/16", "--vni", "16777216"])),
            2,
            vec!["16777216"],
        ),
        ("bad name", own(create(&["X_", "--subnet", "10.0.0.0/16"])), 1, vec!["X_"]),
        (
            "foreign gateway",
            own(create(&["x", "--subnet", "10.0.0.0/16", "--gateway", "10.1.0.1"])),
            1,
            vec!["10.1.0.1"],
        ),
        ("no room for an MTU", own(create(&["x", "--subnet", "10.0.0.0/16", "--mtu", "60"])), 1, vec!["mtu"]),
        (
            "--allow-from",
            own(create(&["x", "--subnet", "10.0.0.0/16", "--allow-from", "nope"])),
            1,
            vec!["nope", "does not exist"],
        ),
        ("a network in use", own(vec!["network", "rm", "n1"]), 1, vec!["n1", "a"]),
        ("an unknown network", own(vec!["network", "inspect", "nope"]), 1, vec!["nope"]),
        (
            "no namespace",
            attach(&["e", "--network", "n1", "--netns", "/run/netns/nope"]),
            1,
            vec!["/run/netns/nope"],
        ),
        (
            "no namespace file",
            attach(&["e", "--network", "n1", "--netns", "/etc/passwd"]),
            1,
            vec!["/etc/passwd"],
        ),
        ("no process", attach(&["e", "--network", "n1", "--pid", "4000000"]), 1, vec!["4000000"]),
        ("neither", attach(&["e", "--network", "n1"]), 2, vec!["--netns"]),
        ("unknown network", attach(&["e", "--network", "nope", "--netns", path]), 1, vec!["nope"]),
        ("duplicate endpoint", attach(&["a", "--network", "n1", "--netns", path]), 1, vec!["a", "exists"]),
        ("interface taken", attach(&["e", "--network", "n1", "--netns", taken]), 1, vec!["eth0"]),
        (
            "loopback's name",
            attach(&["e", "--network", "n1", "--netns", path, "--ifname", "lo"]),
            1,
            vec!["lo"],
        ),
        (
            "long interface",
            attach(&["e", "--network", "n1", "--netns", path, "--ifname", "sixteen-letters-"]),
            1,
            vec!["sixteen-letters-"],
        ),
        (
            "outside the subnet",
            attach(&["e", "--network", "n1", "--netns", path, "--ip", "10.0.0.1"]),
            1,
            vec!["10.0.0.1"],
        ),
        (
            "the gateway's",
            attach(&["e", "--network", "n1", "--netns", path, "--ip", "192.168.10.1"]),
            1,
            vec!["192.168.10.1", "gateway"],
        ),
        (
            "broadcast",
            attach(&["e", "--network", "n1", "--netns", path, "--ip", "192.168.10.255"]),
            1,
            vec!["192.168.10.255"],
        ),
        (
            "a taken address",
            attach(&["e", "--network", "n1", "--netns", path, "--ip", "192.168.10.11"]),
            1,
            vec!["192.168.10.11"],
        ),
        (
            "a group MAC",
            attach(&["e", "--network", "n1", "--netns", path, "--mac", "01:00:5e:00:00:01"]),
            1,
            vec!["01:00:5e:00:00:01"],
        ),
        (
            "--rate",
            attach(&["e", "--network", "n1", "--netns", path, "--rate", "1Gbit"]),
            1,
            vec!["--rate is not available"],
        ),
        (
            "move",
            own(vec!["endpoint", "move", "nope", "--to", "x", "--netns", "/y"]),
            1,
            vec!["endpoint nope does not exist"],
        ),
        ("an unknown endpoint", own(vec!["endpoint", "detach", "nope"]), 1, vec!["nope"]),
        ("an unknown key", own(vec!["apply", "-f", "/run/key.yaml"]), 1, vec!["/run/key.yaml", "vnni"]),
        ("an unknown kind", own(vec!["apply", "-f", "/run/kind.yaml"]), 1, vec!["/run/kind.yaml", "Netwerk"]),
        ("an unknown key in JSON", own(vec!["apply", "-f", "/run/json.json"]), 1, vec!["/run/json.json"]),
        ("all or none", own(vec!["apply", "-f", "/run/half.yaml"]), 1, vec!["nowhere"]),
        ("no file", own(vec!["apply", "-f", "/run/none.yaml"]), 1, vec!["/run/none.yaml"]),
        ("no such policy", own(vec!["policy", "rm", "blue/nobody"]), 1, vec!["nobody"]),
        ("service", own(vec!["service", "ls"]), 1, vec!["service is not available"]),
        ("no such endpoint", own(vec!["flows", "--endpoint", "nobody"]), 1, vec!["no endpoint nobody"]),
        ("an unknown verb", own(vec!["nettwork", "ls"]), 2, vec!["nettwork"]),
        ("no agent", own(vec!["--socket", "/run/none.sock", "status"]), 1, vec!["/run/none.sock"]),
    ];
    let before = state(host)?;
    for (what, args, code, words) in &cases {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        refused(what, &host.try_fabric(&args)?, *code, words);
    }
    // What was undone is gone a moment later at most.
    let mut after = state(host)?;
    let same = until("everything is as before", || {
        after = state(host).unwrap_or_default();
        after == before
    });
    assert!(same.is_ok(), "before {before}\nafter {after}");
    assert!(other.sh(&["ip", "-o", "link"])?.lines().count() == 1, "only loopback in the other container");
    Ok(())
}

#[test]
fn an_exhausted_subnet_says_so() -> Result<()> {
    let (_a, lab) = scene("tiny")?;
    let host = lab.host(1);
    host.fabric(&["network", "create", "tiny", "--subnet", "10.1.0.0/29", "--vni", "101"])?;
    let mut containers = Vec::new();
    // Eight addresses less network, broadcast and gateway, and possibly the node's own.
    let refusal = loop {
        let name = format!("t{}", containers.len());
        let container = lab.container(1, &name)?;
        let path = container.netns_path();
        let path = path.to_str().context("a path")?;
        let before = state(host)?;
        let output = host.try_fabric(&["endpoint", "attach", &name, "--network", "tiny", "--netns", path])?;
        containers.push(container);
        if !output.success() {
            assert_eq!(state(host)?, before);
            break output;
        }
        assert!(containers.len() < 6, "more endpoints than addresses");
    };
    refused("an exhausted subnet", &refusal, 1, &["10.1.0.0/29"]);
    assert!(containers.len() >= 5, "only {} of 10.1.0.0/29 were given", containers.len() - 1);
    Ok(())
}

#[test]
fn a_full_map_is_named_and_hurts_nobody_else() -> Result<()> {
    let agent_args = vec!["--config".to_owned(), "/run/agent.toml".to_owned()];
    let mut lab = Lab::with("full", &Options { hosts: 1, agents: false, agent_args, ..Options::default() })?;
    // The gateway, this node and two endpoints.
    fs::write(lab.host(1).directory().join("run/agent.toml"), "[maps]\nendpoints = 4\n")?;
    lab.host_mut(1).start_agent()?;
    let host = lab.host(1);
    host.fabric(&["network", "create", "n1", "--subnet", "192.168.10.0/24", "--vni", "100"])?;
    let (a, b) = (lab.container(1, "a")?, lab.container(1, "b")?);
    host.attach(&a, "a", "n1", &["--ip", "192.168.10.11"])?;
    host.attach(&b, "b", "n1", &["--ip", "192.168.10.12"])?;
    a.ping("192.168.10.12")?;
    let before = state(host)?;
    let echo = b.serve(&["udp-echo", "--bind", "192.168.10.12:7", "--seconds", "30"])?;
    let probe = a.background(&["probe", "--to", "192.168.10.12:7", "--rate", "1000", "--seconds", "30"])?;
    let c = lab.container(1, "c")?;
    let path = c.netns_path();
    let path = path.to_str().context("a path")?;
    for name in ["c", "d"] {
        let line = ["endpoint", "attach", name, "--network", "n1", "--netns", path, "--ip", "192.168.10.13"];
        let refusal = host.try_fabric(&line)?;
        refused("a full map", &refusal, 1, &["map `endpoints` is full (4 entries)", "[maps]"]);
    }
    let mut after = String::new();
    let same = until("everything is as before", || {
        after = state(host).unwrap_or_default();
        after == before
    });
    assert!(same.is_ok(), "before {before}\nafter {after}");
    let report = probe.report()?;
    assert_eq!((&report["lost"], &report["errors"]), (&0.into(), &0.into()), "{report}");
    drop(echo);
    // Room again.
    host.fabric(&["endpoint", "detach", "b"])?;
    host.attach(&c, "c", "n1", &["--ip", "192.168.10.13"])?;
    a.ping("192.168.10.13")?;
    Ok(())
}

#[test]
fn the_agent_refuses_what_is_wrong_and_disturbs_nobody() -> Result<()> {
    let (_a, lab) = scene("badagent")?;
    let host = lab.host(1);
    let run = host.directory().join("run");
    let file = |name: &str, text: &str| fs::write(run.join(name), text);
    file("key.toml", "node = \"x\"\nvxlan-prot = 4789\n")?;
    file("map.toml", "[maps]\nendpoint = 5\n")?;
    file("value.toml", "uplink-mode = \"fast\"\n")?;
    let base =
        ["--node", "x", "--underlay", "u0", "--socket", "/run/second.sock", "--store", "local:///run/second"];
    let fresh = ["--bpffs", "/sys/fs/bpf/second"];
    let cases: Vec<(&str, Vec<&str>, i32, Vec<&str>)> = vec![
        (
            "an unknown key",
            vec!["--config", "/run/key.toml"],
            1,
            vec!["/run/key.toml", "line 2", "vxlan-prot"],
        ),
        ("an unknown map", vec!["--config", "/run/map.toml"], 1, vec!["endpoint"]),
        ("a bad value", vec!["--config", "/run/value.toml"], 1, vec!["/run/value.toml", "line 1", "fast"]),
        ("no file", vec!["--config", "/run/none.toml"], 1, vec!["/run/none.toml"]),
        ("a second agent on the same bpffs", base.to_vec(), 1, vec!["/sys/fs/bpf/fabric", "another"]),
        (
            "no such interface",
            [
                &[
                    "--node",
                    "x",
                    "--underlay",
                    "nope",
                    "--socket",
                    "/run/second.sock",
                    "--store",
                    "local:///run/second",
                ][..],
                &fresh,
            ]
            .concat(),
            1,
            vec!["nope"],
        ),
        ("no such VTEP", [&base[..], &fresh, &["--vtep", "10.9.9.9"]].concat(), 1, vec!["10.9.9.9"]),
        (
            "--metrics",
            [&base[..], &fresh, &["--metrics", "10.9.9.9:9961"]].concat(),
            1,
            vec!["--metrics 10.9.9.9:9961"],
        ),
        (
            "--docker-plugin",
            [&base[..], &fresh, &["--docker-plugin", "x"]].concat(),
            1,
            vec!["--docker-plugin x: give an absolute path"],
        ),
        (
            "no etcd",
            vec!["--node", "x", "--store", "etcd://127.0.0.1"],
            1,
            vec!["127.0.0.1", "is not HOST:PORT"],
        ),
        (
            "TLS without etcd",
            [&base[..], &["--store-ca", "/ca"]].concat(),
            1,
            vec!["--store-ca is for --store etcd://"],
        ),
        ("a bad mode", vec!["--uplink-mode", "fast"], 2, vec!["fast"]),
        ("an unknown flag", vec!["--undrelay", "u0"], 2, vec!["--undrelay"]),
    ];
    let before = state(host)?;
    for (what, args, code, words) in &cases {
        let line = [&["timeout", "20", "fabric-agent"], &args[..]].concat();
        refused(what, &host.exec(&line)?, *code, words);
    }
    // Root without capabilities: may read everything, may do nothing.
    let bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "timeout", "20", "fabric-agent"];
    let output = host.exec(&[&bare[..], &base, &fresh].concat())?;
    refused("no capabilities", &output, 1, &[]);
    assert!(["CAP_", "privilege", "root"].iter().any(|word| output.stderr.contains(word)), "{output:?}");
    // Somebody who is nobody: the socket is not for him.
    let cli = run.join("fabric-for-nobody");
    fs::copy(host.sh(&["sh", "-c", "command -v fabric"])?.trim(), &cli)?;
    fs::set_permissions(&cli, fs::Permissions::from_mode(0o755))?;
    let nobody =
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/run/fabric-for-nobody", "status"];
    refused("nobody", &host.exec(&nobody)?, 1, &["/run/fabric/fabric.sock"]);
    assert_eq!(state(host)?, before);
    for left in ["/run/second.sock", "/run/second", "/sys/fs/bpf/second"] {
        assert!(host.sh(&["ls", left]).is_err(), "{left} was left behind");
    }
    Ok(())
}
