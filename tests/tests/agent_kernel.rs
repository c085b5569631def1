//! The agent's netlink verbs against the real kernel, in network namespaces of our own. Needs root.

use std::{
    fs::{self, File},
    net::IpAddr,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    process::Command,
    sync::mpsc,
    thread,
    time::Duration,
};

use fabric_agent::{
    kernel::{KernelError, Netlink, netns::Netns, port::container_side_up},
    plan::desired::{PortLink, VxlanDevice},
};
use fabric_common::addr::Mac;
use nix::sched::{CloneFlags, unshare};

/// A network namespace that lives as long as this does: a thread that sits in it, found by its path in `/proc`.
struct Container {
    path: String,
    inode: u64,
    _stop: mpsc::Sender<()>,
}

impl Container {
    fn new() -> Self {
        let (tell, told) = mpsc::channel();
        let (stop, stopped) = mpsc::channel::<()>();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace; this test needs root");
            let file = File::open("/proc/thread-self/ns/net").expect("the namespace's file");
            let inode = file.metadata().expect("its metadata").ino();
            let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
            tell.send((path, inode)).expect("the test waits");
            // Ends with the sender.
            let _ = stopped.recv();
        });
        let (path, inode) = told.recv().expect("the thread runs");
        Self { path, inode, _stop: stop }
    }
}

/// Runs a test on a thread in a namespace of its own, as the agent on its host.
fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let host = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace; this test needs root");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(test());
    });
    if let Err(panic) = host.join() {
        std::panic::resume_unwind(panic);
    }
}

fn port(container: &Container) -> PortLink {
    PortLink {
        endpoint: "web".to_owned(),
        host_ifname: "fab0123456789ab".to_owned(),
        engine: false,
        netns: container.path.clone(),
        netns_inode: container.inode,
        ifname: "eth0".to_owned(),
        mac: Mac::new([2, 0xfc, 192, 168, 10, 11]),
        mtu: 1450,
        addresses: vec!["192.168.10.11/24".parse().expect("valid"), "fd00:10::11/64".parse().expect("valid")],
        gateways: vec!["192.168.10.1".parse().expect("valid"), "fd00:10::1".parse().expect("valid")],
        router_advertisement: false,
    }
}

#[test]
fn a_port_is_made_down_marked_and_then_set_up() {
    on_a_host(|| async {
        let container = Container::new();
        let port = port(&container);
        let host = Netlink::new().expect("a socket");
        let index = host.create_port(&port).await.expect("a veth");
        let link = host.link(&port.host_ifname).await.expect("a look").expect("it exists");
        assert_eq!((link.index, link.endpoint(), link.mtu, link.up), (index, Some("web"), 1450, false));
        let inside = Netns::open(&container.path).expect("the container").netlink().expect("a socket");
        let far = inside.link("eth0").await.expect("a look").expect("under its final name from the start");
        assert_eq!((far.mac, far.mtu, far.up, far.peer), (port.mac, 1450, false, index));

        host.host_side_up(&port, &link).await.expect("up");
        container_side_up(&port, index).await.expect("up");
        container_side_up(&port, index).await.expect("harmless to do again");
        let addresses = inside.addresses().await.expect("a look");
        for wanted in &port.addresses {
            let found = addresses.iter().find(|address| address.net == *wanted);
            assert!(found.is_some_and(|address| address.global), "{wanted} can be used at once");
        }
        let routes = inside.default_routes().await.expect("a look");
        assert_eq!(routes.iter().map(|route| route.ipv6).collect::<Vec<_>>(), [false, true]);
        assert!(host.link("fab0123456789ab").await.expect("a look").expect("it exists").up);
        host.delete_link(index).await.expect("gone");
        host.delete_link(index).await.expect("absent is success");
        assert_eq!(inside.link("eth0").await.expect("a look"), None);
    });
}

#[test]
fn a_port_for_an_engine_waits_on_the_host_until_the_engine_moves_it() {
    on_a_host(|| async {
        let container = Container::new();
        let port = PortLink {
            engine: true,
            netns: String::new(),
            netns_inode: 0,
            ifname: "fap0123456789ab".to_owned(),
            ..port(&container)
        };
        let host = Netlink::new().expect("a socket");
        let index = host.create_port(&port).await.expect("a veth");
        let link = host.link(&port.host_ifname).await.expect("a look").expect("it exists");
        assert!(!link.peer_elsewhere && link.endpoint() == Some("web"));
        let far = host.link(&port.ifname).await.expect("a look").expect("it waits here");
        assert_eq!((far.mac, far.mtu, far.up, far.index), (port.mac, 1450, false, link.peer));
        container_side_up(&port, index).await.expect("nothing to do");
        assert!(
            !host.link(&port.ifname).await.expect("a look").expect("it exists").up,
            "that is the engine's"
        );
        // As the engine does.
        let moved = Command::new("ip")
            .args(["link", "set", &port.ifname, "netns", &container.path])
            .status()
            .expect("ip starts");
        assert!(moved.success());
        let link = host.link(&port.host_ifname).await.expect("a look").expect("it exists");
        assert!(link.peer_elsewhere);
        host.delete_link(index).await.expect("gone");
        assert_eq!(host.link(&port.ifname).await.expect("a look"), None, "both sides go");
    });
}

#[test]
fn a_default_route_that_is_there_stays() {
    on_a_host(|| async {
        let container = Container::new();
        let first = PortLink { gateways: vec!["192.168.10.1".parse().expect("valid")], ..port(&container) };
        let host = Netlink::new().expect("a socket");
        let index = host.create_port(&first).await.expect("a veth");
        container_side_up(&first, index).await.expect("up");
        let second = PortLink {
            endpoint: "db".to_owned(),
            host_ifname: "fabcccccccccccc".to_owned(),
            ifname: "eth1".to_owned(),
            addresses: vec!["192.168.11.11/24".parse().expect("valid")],
            gateways: vec!["192.168.11.1".parse().expect("valid")],
            ..port(&container)
        };
        let index = host.create_port(&second).await.expect("a veth");
        container_side_up(&second, index).await.expect("up");
        let inside = Netns::open(&container.path).expect("the container").netlink().expect("a socket");
        let routes = inside.default_routes().await.expect("a look");
        assert_eq!(routes.len(), 1);
        assert_eq!(routes[0].ifindex, inside.link("eth0").await.expect("a look").expect("it exists").index);
    });
}

#[test]
fn the_first_interface_alone_takes_advertised_routes() {
    on_a_host(|| async {
        let container = Container::new();
        let host = Netlink::new().expect("a socket");
        let netns = Netns::open(&container.path).expect("the container");
        let setting = |ifname: &str, key: &str| {
            let path = format!("/proc/sys/net/ipv6/conf/{ifname}/{key}");
            netns.run(|| fs::read_to_string(path).expect("it exists").trim().to_owned()).expect("entered")
        };
        let plain = port(&container);
        let index = host.create_port(&plain).await.expect("a veth");
        container_side_up(&plain, index).await.expect("up");
        assert_eq!(setting("eth0", "accept_ra"), "0");
        let first = PortLink { router_advertisement: true, ..plain.clone() };
        container_side_up(&first, index).await.expect("up");
        assert_eq!(
            (setting("eth0", "accept_ra"), setting("eth0", "accept_ra_defrtr")),
            ("2".into(), "1".into())
        );
        let second = PortLink {
            endpoint: "db".to_owned(),
            host_ifname: "fabcccccccccccc".to_owned(),
            ifname: "eth1".to_owned(),
            addresses: vec!["fd00:11::11/64".parse().expect("valid")],
            gateways: vec!["fd00:11::1".parse().expect("valid")],
            ..first.clone()
        };
        let other = host.create_port(&second).await.expect("a veth");
        container_side_up(&second, other).await.expect("up");
        assert_eq!(
            (setting("eth1", "accept_ra"), setting("eth1", "accept_ra_defrtr")),
            ("2".into(), "0".into())
        );
        container_side_up(&plain, index).await.expect("up");
        assert_eq!(setting("eth0", "accept_ra"), "2", "it is still to hear the end");
    });
}

#[test]
fn what_cannot_be_made_leaves_nothing() {
    on_a_host(|| async {
        let container = Container::new();
        let port = port(&container);
        let host = Netlink::new().expect("a socket");
        host.create_port(&port).await.expect("a veth");
        let before = host.links().await.expect("a look").len();
        let second =
            PortLink { endpoint: "db".to_owned(), host_ifname: "fabcccccccccccc".to_owned(), ..port.clone() };
        let error = host.create_port(&second).await.expect_err("eth0 is taken");
        assert!(matches!(error, KernelError::InterfaceExists { .. }), "{error}");
        assert!(error.to_string().contains("eth0"));
        let gone = PortLink { netns_inode: 1, ifname: "eth1".to_owned(), ..second.clone() };
        assert!(matches!(host.create_port(&gone).await, Err(KernelError::NamespaceGone { .. })));
        let gone = PortLink { netns: "/run/netns/there-is-none".to_owned(), ..second };
        assert!(matches!(host.create_port(&gone).await, Err(KernelError::NamespaceGone { .. })));
        assert_eq!(host.links().await.expect("a look").len(), before);
    });
}

#[test]
fn a_veth_that_leads_to_another_container_is_noticed() {
    on_a_host(|| async {
        let (container, other) = (Container::new(), Container::new());
        let host = Netlink::new().expect("a socket");
        let index = host.create_port(&port(&container)).await.expect("a veth");
        let error = container_side_up(&port(&other), index).await.expect_err("it leads elsewhere");
        assert!(matches!(error, KernelError::Elsewhere { .. }), "{error}");
    });
}

#[test]
fn a_file_is_no_namespace() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("UTF-8");
    assert!(matches!(Netns::open(path), Err(KernelError::NotANamespace { .. })));
    // An unmounted bind mount leaves such a file behind.
    assert!(matches!(Netns::open_same(path, 7), Err(KernelError::NamespaceGone { .. })));
}

#[test]
fn the_vxlan_device_is_made_changed_and_replaced() {
    on_a_host(|| async {
        let host = Netlink::new().expect("a socket");
        let wanted = VxlanDevice { name: "fabric_vxlan".to_owned(), port: 4789, mtu: 1450 };
        let index = host.ensure_vxlan(&wanted).await.expect("a device");
        let link = host.link("fabric_vxlan").await.expect("a look").expect("it exists");
        let vxlan = link.vxlan.expect("it is a vxlan device");
        assert!(vxlan.collect_metadata && vxlan.zero_checksum6_rx && !vxlan.learning && link.up);
        assert_eq!((vxlan.port, link.mtu, link.alias.as_str()), (4789, 1450, "fabric:vxlan"));
        let smaller = VxlanDevice { mtu: 1400, ..wanted.clone() };
        assert_eq!(host.ensure_vxlan(&smaller).await.expect("changed in place"), index);
        let moved = VxlanDevice { port: 8472, ..wanted.clone() };
        assert_ne!(host.ensure_vxlan(&moved).await.expect("made anew"), index);
        let clash = VxlanDevice { name: "fabric_other".to_owned(), ..moved };
        let error = host.ensure_vxlan(&clash).await.expect_err("the port is taken").to_string();
        assert!(error.contains("8472") && error.contains("fabric_vxlan"), "{error}");
    });
}

/// A host whose network assigns addresses has some that come and go.
#[test]
fn addresses_that_do_not_stay_are_vteps_only_if_they_are_named() {
    on_a_host(|| async {
        let script = "cd /proc/sys/net/ipv6/conf
            ip link add u0 type veth peer name u1
            for name in all u0; do echo 0 >$name/accept_dad; done
            echo 2 >u0/use_tempaddr
            ip link set u1 up
            ip link set u0 up
            ip address add 192.0.2.1/24 dev u0
            ip address add 192.0.2.2/24 dev u0
            ip address add 2001:db8::1/64 dev u0 mngtmpaddr
            ip address add 2001:db8::2/64 dev u0 preferred_lft 0
            echo 1 >u0/accept_dad
            ip link set u1 down
            ip address add 2001:db8::3/64 dev u0";
        let made = Command::new("sh").args(["-ec", script]).output().expect("a shell");
        assert!(made.status.success(), "{made:?}");
        let host = Netlink::new().expect("a socket");
        let underlay = ["u0".to_owned()];
        let vteps = async |named: &[IpAddr]| -> Vec<IpAddr> {
            host.uplinks(&underlay, named).await.expect("facts").remove(0).vteps
        };
        let stay: [IpAddr; 3] =
            ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|ip| ip.parse().expect("an address"));
        // An address is tentative until the kernel's own thread has looked.
        let settled = async {
            while vteps(&[]).await.len() < stay.len() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), settled).await.expect("addresses to use");
        assert_eq!(vteps(&[]).await, stay);
        let addresses = host.addresses().await.expect("a look");
        let temporary = addresses.iter().find(|address| address.temporary).expect("one is made");
        for named in [temporary.net.addr(), "2001:db8::2".parse().expect("an address")] {
            assert_eq!(vteps(&[named]).await, [named]);
        }
    });
}

#[test]
fn everything_of_ours_is_removed_and_nothing_else() {
    on_a_host(|| async {
        let container = Container::new();
        let host = Netlink::new().expect("a socket");
        host.create_port(&port(&container)).await.expect("a veth");
        let wanted = VxlanDevice { name: "fabric_vxlan".to_owned(), port: 4789, mtu: 1450 };
        host.ensure_vxlan(&wanted).await.expect("a device");
        assert_eq!(host.remove_everything_of_ours().await.expect("removed").len(), 2);
        assert_eq!(host.remove_everything_of_ours().await.expect("nothing left"), [] as [String; 0]);
        let left: Vec<String> =
            host.links().await.expect("a look").into_iter().map(|link| link.name).collect();
        assert_eq!(left, ["lo"]);
    });
}
