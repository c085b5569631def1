//! Addresses and VNIs are given away once, whoever asks at the same time and whoever dies while asking.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use fabric_agent::{
    plan::desired::NodeFacts,
    service::{Kernel, Owner, Service, ServiceSettings},
    store::{EtcdAccess, EtcdStore, Store},
};
use fabric_api::{
    Endpoint, Network, Object,
    status::{EndpointCounters, State, Status},
};
use fabric_lab::Loopback;
use futures::future::BoxFuture;

const PROCESSES: usize = 10;
/// Nodes in each process: 50 ask at once.
const NODES: usize = 5;
const ENDPOINTS: usize = 6;
/// Processes that are killed while they ask, and started again.
const KILLED: usize = 4;

/// What a child must know, separated by spaces: member, number, round, namespace, file for what it was given.
const CHILD: &str = "FABRIC_TEST_ALLOCATOR";

/// Takes everything at once: what is asked for here never reaches a kernel.
struct Willing(String);

impl Kernel for Willing {
    fn programmed(&self, _revision: u64) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn state(&self, _kind: &str, _name: &str) -> Option<(State, String)> {
        Some((State::Ready, String::new()))
    }

    fn facts(&self) -> NodeFacts {
        NodeFacts { node: self.0.clone(), ..NodeFacts::default() }
    }

    fn counters(&self, _slot: u32) -> Option<EndpointCounters> {
        None
    }

    fn reset_counters(&self, _slot: u32) {}

    fn node_status(&self) -> Status {
        Status::default()
    }
}

async fn service(member: &str, node: &str) -> Result<Service> {
    let access = EtcdAccess {
        members: vec![member.to_owned()],
        prefix: "/fabric".to_owned(),
        ..EtcdAccess::default()
    };
    let store = EtcdStore::open(access, Some(node)).await?;
    let settings = ServiceSettings { node: node.to_owned(), slots: 4096, blocks: store.shared() };
    Ok(Service::new(Arc::new(store), Arc::new(Willing(node.to_owned())), settings))
}

fn network(name: &str, subnet: &str) -> Result<Network> {
    let json =
        format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{"subnets":["{subnet}","fd00:10::/64"]}}}}"#);
    Ok(serde_json::from_str(&json)?)
}

/// One node of a child: makes a network and attaches endpoints, and notes what it was told that it has.
async fn ask(member: String, node: String, round: String, netns: String, notes: String) -> Result<()> {
    let service = service(&member, &node).await?;
    let note = |line: String| -> Result<()> {
        let mut file = fs::File::options().append(true).create(true).open(&notes)?;
        Ok(file.write_all(format!("{line}\n").as_bytes())?)
    };
    let made =
        service.create_network(&Owner::cli(), network(&format!("{node}-{round}"), "10.9.0.0/24")?).await?;
    note(format!("network {} {}", made.metadata.name, made.spec.vni.context("a VNI")?))?;
    for n in 0..ENDPOINTS {
        let name = format!("{node}-{round}-{n}");
        let json = format!(
            r#"{{"metadata":{{"name":"{name}"}},"spec":{{"network":"blue","attachment":{{"netns":"{netns}","ifname":"e{round}{n}"}}}}}}"#
        );
        let endpoint: Endpoint = serde_json::from_str(&json)?;
        let made = service.attach_endpoint(&Owner::cli(), endpoint).await?;
        for address in made.spec.addresses {
            note(format!("endpoint {name} {address}"))?;
        }
    }
    Ok(())
}

/// The child of the next test.
#[tokio::test]
async fn child_asks_for_addresses_and_vnis() -> Result<()> {
    let Ok(words) = std::env::var(CHILD) else { return Ok(()) };
    let [member, number, round, netns, notes] = words.split(' ').collect::<Vec<_>>()[..] else {
        anyhow::bail!("{words:?}");
    };
    let nodes = (0..NODES).map(|n| {
        let node = format!("p{number}-n{n}");
        ask(member.to_owned(), node, round.to_owned(), netns.to_owned(), notes.to_owned())
    });
    futures::future::try_join_all(nodes).await.map(drop)
}

/// Ends a child whatever happens.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn child(member: &str, number: usize, round: usize, netns: &str, notes: &Path) -> Result<Ended> {
    let child = Command::new(std::env::current_exe()?)
        .args(["--exact", "child_asks_for_addresses_and_vnis"])
        .env(CHILD, format!("{member} {number} {round} {netns} {}", notes.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    Ok(Ended(child))
}

/// A network namespace, held by a process, and its path.
fn namespace() -> Result<(Ended, String)> {
    let holder = Command::new("unshare").args(["--net", "sleep", "600"]).stdin(Stdio::null()).spawn()?;
    let path = format!("/proc/{}/ns/net", holder.id());
    let holder = Ended(holder);
    let own = fs::metadata("/proc/self/ns/net")?.ino();
    for _ in 0..200 {
        if fs::metadata(&path)?.ino() != own {
            return Ok((holder, path));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    anyhow::bail!("no namespace");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_given_twice_by_fifty_at_once_some_of_which_are_killed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let etcd = Loopback::start(directory.path(), &[], &[])?;
    let (_holder, netns) = namespace()?;
    let member = etcd.endpoint();
    let first = service(&member, "first").await?;
    first.create_network(&Owner::cli(), network("blue", "10.1.0.0/22")?).await?;
    let notes = |number: usize| directory.path().join(format!("notes{number}"));
    let lines = |number: usize| fs::read_to_string(notes(number)).unwrap_or_default();
    let mut children = Vec::new();
    for number in 0..PROCESSES {
        children.push(child(&member, number, 1, &netns, &notes(number))?);
    }
    // Killed as soon as they have got something, at any line of theirs.
    let mut alive = (0..KILLED).collect::<BTreeSet<_>>();
    for _ in 0..2400 {
        alive.retain(|number| {
            let there = lines(*number).lines().count() >= 3 + number * 3;
            if there {
                let _ = children[*number].0.kill();
            }
            !there
        });
        if alive.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    ensure!(alive.is_empty(), "processes got nothing: {alive:?}");
    for (number, killed) in children.iter_mut().enumerate().take(KILLED) {
        ensure!(!killed.0.wait()?.success(), "process {number} had ended before it was killed");
        *killed = child(&member, number, 2, &netns, &notes(number))?;
    }
    for (number, child) in children.iter_mut().enumerate() {
        ensure!(child.0.wait()?.success(), "process {number} failed; it had got:\n{}", lines(number));
    }
    let store = EtcdStore::open(
        EtcdAccess { members: vec![member], prefix: "/fabric".to_owned(), ..EtcdAccess::default() },
        None,
    )
    .await?;
    let snapshot = store.snapshot().await?;
    let mut vnis: BTreeMap<u32, &str> = BTreeMap::new();
    let mut addresses: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for object in &snapshot.objects {
        let name = object.metadata().name.as_str();
        if let Object::Network(network) = object {
            let other = vnis.insert(network.spec.vni.context("a VNI")?, name);
            assert_eq!(other, None, "{name} has the same VNI");
        } else if let Object::Endpoint(endpoint) = object {
            for address in &endpoint.spec.addresses {
                let other = addresses.insert(*address, name);
                assert_eq!(other, None, "{name} has the same address {address}");
            }
        }
    }
    for line in (0..PROCESSES).flat_map(|number| lines(number).lines().map(str::to_owned).collect::<Vec<_>>())
    {
        let [kind, name, value] = line.split(' ').collect::<Vec<_>>()[..] else { anyhow::bail!("{line:?}") };
        let holder = match kind {
            "network" => vnis.get(&value.parse()?),
            _ => addresses.get(&value.parse()?),
        };
        assert_eq!(holder, Some(&name), "{line}: what was told stays");
    }
    let wanted = PROCESSES * NODES * ENDPOINTS * 2;
    ensure!(addresses.len() >= wanted, "{} addresses of at least {wanted}", addresses.len());
    let blocks = snapshot.cursors.keys().filter(|name| name.starts_with("addresses/blue/10.")).count();
    eprintln!("{} addresses, {} VNIs, {blocks} blocks of IPv4", addresses.len(), vnis.len());
    Ok(())
}
