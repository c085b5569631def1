use clap::Parser;

use super::*;

fn args(text: &[&str]) -> Args {
    Args::try_parse_from([&["fabric-agent"], text].concat()).expect("valid arguments")
}

fn complaint(text: &[&str]) -> String {
    Config::check(args(text).settings).expect_err("must be refused").to_string()
}

#[test]
fn defaults_are_the_documented_ones() {
    let config = Config::check(args(&["--node", "n1"]).settings).unwrap();
    assert_eq!(config.vxlan_port, 4789);
    assert_eq!(config.uplink_mode, UplinkMode::Auto);
    assert_eq!(config.store, StoreAddress::Local("/var/lib/fabric".into()));
    assert_eq!(config.socket, PathBuf::from("/run/fabric/fabric.sock"));
    assert_eq!(config.bpffs, PathBuf::from("/sys/fs/bpf/fabric"));
    assert_eq!(config.maps, default_maps());
    assert_eq!(config.slots(), 4096);
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    std::fs::write(&path, "node = \"file\"\nvxlan-port = 8472\nunderlay = [\"e0\", \"e1\"]\nuplink-mode = \"xdp\"\n[maps]\nports = 16\n").unwrap();
    let config = Config::load(&args(&["--config", path.to_str().unwrap(), "--node", "flag"])).unwrap();
    assert_eq!(config.node, "flag");
    assert_eq!(config.vxlan_port, 8472);
    assert_eq!(config.underlay, ["e0", "e1"]);
    assert_eq!(config.uplink_mode, UplinkMode::Xdp);
    assert_eq!(config.maps["ports"], 16);
    assert_eq!(config.slots(), 16);
}

#[test]
fn the_dscp_may_be_a_number_or_a_word_in_the_file_too() {
    for (text, dscp) in
        [("dscp = 46", Dscp::Fixed(46)), ("dscp = \"46\"", Dscp::Fixed(46)), ("dscp = \"copy\"", Dscp::Copy)]
    {
        let settings = Settings { node: Some("a".to_owned()), ..parse(text).unwrap() };
        assert_eq!(Config::check(settings).unwrap().dscp, dscp, "{text}");
    }
    assert!(parse("dscp = [1]").unwrap_err().to_string().contains("expected a number or a string"));
}

#[test]
fn a_named_file_must_exist() {
    let text = Config::load(&args(&["--config", "/nonexistent/agent.toml"])).unwrap_err().to_string();
    assert_eq!(text, "file /nonexistent/agent.toml does not exist");
}

#[test]
fn unknown_keys_are_named_with_their_line() {
    let text = parse("node = \"a\"\nvxlan-prot = 1\n").unwrap_err().to_string();
    assert!(text.starts_with("line 2: unknown key `vxlan-prot`"), "{text}");
    assert!(parse("node = ").is_err());
    assert!(parse("vxlan-port = 70000").is_err());
    assert!(parse("uplink-mode = \"fast\"").is_err());
}

#[test]
fn every_flag_has_a_variable_of_its_name() {
    use clap::CommandFactory;
    let command = Args::command();
    for arg in command.get_arguments().filter(|a| !matches!(a.get_id().as_str(), "help" | "version")) {
        let long = arg.get_long().expect("every argument is a flag");
        let variable = format!("FABRIC_{}", long.to_uppercase().replace('-', "_"));
        assert_eq!(arg.get_env().and_then(|e| e.to_str()), Some(variable.as_str()), "--{long}");
    }
}

#[test]
fn every_flag_is_a_key_of_the_file() {
    use clap::CommandFactory;
    let command = Args::command();
    for arg in
        command.get_arguments().filter(|a| !matches!(a.get_id().as_str(), "help" | "version" | "config"))
    {
        let key = arg.get_long().unwrap();
        let error = parse(&format!("{key} = {{}}")).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(!error.contains("unknown key"), "{key}: {error}");
    }
}

#[test]
fn relative_paths_are_refused() {
    assert_eq!(complaint(&["--docker-plugin", "x"]), "--docker-plugin x: give an absolute path");
}

#[test]
fn bad_values_are_named() {
    for (bad, word) in [
        (&["--node", "A B"][..], "--node"),
        (&["--node", "a", "--underlay", "way-too-long-name"], "--underlay"),
        (&["--node", "a", "--underlay", "e0", "--underlay", "e0"], "twice"),
        (&["--node", "a", "--vtep", "127.0.0.1"], "--vtep"),
        (&["--node", "a", "--vtep", "fe80::1"], "not a usable unicast address"),
        (&["--node", "a", "--vxlan-port", "0"], "--vxlan-port"),
        (&["--node", "a", "--probe-port", "0"], "--probe-port"),
        (&["--node", "a", "--probe-port", "4789"], "--probe-port"),
        (&["--node", "a", "--vxlan-port", "4790", "--probe-port", "4790"], "--probe-port"),
        (&["--node", "a", "--nat-ports", "80-90"], "--nat-ports 80-90"),
        (&["--node", "a", "--nat-ports", "5000-4000"], "--nat-ports"),
        (&["--node", "a", "--nat-ports", "4000-5000"], "4789 of VXLAN"),
        (&["--node", "a", "--nat-ports", "5000-6000", "--probe-port", "5500"], "5500"),
        (&["--node", "a", "--dscp", "64"], "--dscp: \"64\" is no DSCP"),
        (&["--node", "a", "--store", "local://x"], "--store"),
        (&["--node", "a", "--store", "/var/lib"], "--store"),
        (&["--node", "a", "--store", "etcd://h"], "--store"),
        (&["--node", "a", "--store-ca", "/ca"], "--store-ca"),
        (&["--node", "a", "--bpffs", "x"], "--bpffs"),
        (&["--node", "a", "--events-per-second", "4000000000"], "--events-per-second"),
    ] {
        let text = complaint(bad);
        assert!(text.contains(word), "{bad:?}: {text}");
    }
}

#[test]
fn map_sizes_are_checked() {
    let sizes = |name: &str, size: u64| maps::check(&[(name.to_owned(), size)].into());
    assert_eq!(sizes("endpoints", 10).unwrap()["endpoints"], 10);
    assert!(sizes("endpoints", 0).is_err());
    assert!(sizes("endpoints", 1 << 40).is_err());
    assert!(sizes("settings", 2).unwrap_err().to_string().contains("unknown key settings"));
    assert!(sizes("endpoint", 2).unwrap_err().to_string().contains("endpoints"));
    assert!(sizes("events", 5000).unwrap_err().to_string().contains("power of two"));
    assert!(sizes("events", 8192).is_ok());
}

#[test]
fn subcommands_take_the_flags_behind_them() {
    let args = args(&["cleanup", "--bpffs", "/sys/fs/bpf/x"]);
    assert_eq!(args.command, Some(Command::Cleanup { purge: false }));
    assert_eq!(args.settings.bpffs, Some(PathBuf::from("/sys/fs/bpf/x")));
}

#[test]
fn the_programs_log_only_where_it_is_asked_for() {
    let debug = |text: &[&str]| Config::check(args(text).settings).unwrap().debug_dataplane;
    assert!(!debug(&["--node", "n1"]));
    assert!(debug(&["--node", "n1", "--debug-dataplane"]));
    assert!(debug(&["--node", "n1", "--debug-dataplane", "true"]));
    assert!(!debug(&["--node", "n1", "--debug-dataplane", "false"]));
}
