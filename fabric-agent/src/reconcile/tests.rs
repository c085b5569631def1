//! The reconciler against a kernel in memory.

use std::collections::BTreeMap;

use fabric_api::{Object, status::State};
use fabric_common::fdb::FdbKey;

use super::{
    fake::Fake,
    pass::{Engine, Mode},
};
use crate::{
    dataplane::Seated,
    model::{Cluster, Dscp},
    plan::desired::{Attachment, PlanSettings},
};

const SYNCED: Mode = Mode { in_sync: true, full: true };
const NOT_SYNCED: Mode = Mode { in_sync: false, full: true };

fn engine(fake: &Fake) -> Engine<Fake, Fake> {
    Engine::new(
        fake.clone(),
        fake.clone(),
        "n1",
        PlanSettings {
            vxlan_port: 4789,
            events_per_second: 10,
            dscp: Dscp::default(),
            nat_ports: (61000, 65535),
        },
    )
}

/// A network, another node with an endpoint, and the endpoints named, on this node.
fn cluster(local: &[&str]) -> Cluster {
    let mut text = String::from(
        "{kind: Network, metadata: {name: blue}, spec: {subnets: [192.168.10.0/24], vni: 100}}\n---\n\
         {kind: Node, metadata: {name: n2}, spec: {vteps: [192.0.2.2]}}\n---\n\
         {kind: Endpoint, metadata: {name: far}, spec: {network: blue, node: n2, addresses: [192.168.10.50]}}\n",
    );
    for (i, name) in local.iter().enumerate() {
        text.push_str(&format!(
            "---\n{{kind: Endpoint, metadata: {{name: {name}, labels: {{}}}}, spec: {{network: blue, node: n1, \
             addresses: [192.168.10.{}], attachment: {{netns: /run/netns/{name}, netnsInode: {}, ifname: eth0}}}}, \
             status: {{local: true, hostIfname: '', ifindex: 0, slot: {i}, state: pending, reason: ''}}}}\n",
            10 + i,
            1000 + i,
        ));
    }
    let objects: Vec<Object> = serde_saphyr::from_multiple(&text).expect("the cast parses");
    let cluster = Cluster::from_objects(&objects);
    assert_eq!(cluster.problems, BTreeMap::new());
    assert_eq!(cluster.endpoints.len(), 1 + local.len());
    cluster
}

fn state(report: &super::report::Report, name: &str) -> State {
    report[&("Endpoint", name.to_owned())].0
}

#[tokio::test]
async fn a_new_port_comes_in_order() {
    let fake = Fake::default();
    let report = engine(&fake).pass(&cluster(&["web"]), SYNCED).await;
    assert_eq!(state(&report, "web"), State::Ready);
    assert_eq!(state(&report, "far"), State::Ready);
    let journal = fake.world().journal.clone();
    let at = |what: &str| journal.iter().position(|step| step.starts_with(what)).expect(what);
    assert!(at("vxlan") < at("attach from_vxlan"));
    assert!(at("frag") < at("attach from_frag"));
    assert!(at("attach from_frag") < at("rows +"));
    assert!(at("create web") < at("attach from_container"));
    assert!(at("attach from_container") < at("rows +"));
    assert!(at("rows +") < at("host up web"));
    assert!(at("host up web") < at("container up web"));
}

#[tokio::test]
async fn a_pass_without_news_does_nothing() {
    let fake = Fake::default();
    let mut engine = engine(&fake);
    engine.pass(&cluster(&["web"]), SYNCED).await;
    fake.world().journal.clear();
    engine.pass(&cluster(&["web"]), SYNCED).await;
    assert_eq!(fake.world().journal, [] as [String; 0]);
    assert_eq!(engine.account.status().repairs, 0);
}

#[tokio::test]
async fn an_older_program_is_replaced_where_it_is_wanted_and_taken_off_elsewhere() {
    let fake = Fake::default();
    engine(&fake).pass(&cluster(&["web"]), SYNCED).await;
    let wanted = fake.world().attachments.clone();
    fake.world().attachments.values_mut().for_each(|seated| *seated = Seated::Older);
    let unwanted = Attachment { ifindex: 2, program: "from_uplink_xdp" };
    fake.world().attachments.insert(unwanted, Seated::Older);
    engine(&fake).pass(&cluster(&["web"]), SYNCED).await;
    assert_eq!(fake.world().attachments, wanted);
}

#[tokio::test]
async fn a_port_that_lost_its_program_is_down_until_it_is_back() {
    let fake = Fake::default();
    let mut engine = engine(&fake);
    engine.pass(&cluster(&["web"]), SYNCED).await;
    let up = || fake.world().links.iter().filter(|link| link.endpoint().is_some()).all(|link| link.up);
    assert!(up());
    fake.world().attachments.retain(|attachment, _| attachment.program != "from_container");
    fake.world().fail = Some("attach from_container");
    let report = engine.pass(&cluster(&["web"]), SYNCED).await;
    assert!(!up(), "nothing may pass unchecked");
    assert_eq!(state(&report, "web"), State::Degraded);
    fake.world().fail = None;
    let report = engine.pass(&cluster(&["web"]), SYNCED).await;
    assert!(up());
    assert_eq!(state(&report, "web"), State::Ready);
}

#[tokio::test]
async fn nothing_is_deleted_before_the_sources_are_known() {
    let fake = Fake::default();
    engine(&fake).pass(&cluster(&["web", "db"]), SYNCED).await;
    let links = fake.world().links.clone();
    let rows = fake.world().tables.fdb.clone();
    // A new agent that has not read everything yet.
    let mut successor = engine(&fake);
    successor.pass(&Cluster::default(), NOT_SYNCED).await;
    assert_eq!(fake.world().links, links);
    for key in rows.keys() {
        assert!(fake.world().tables.fdb.contains_key(key));
    }
    assert!(
        fake.world().journal.iter().all(|step| !step.starts_with("delete") && !step.starts_with("rows -"))
    );
    successor.pass(&Cluster::default(), SYNCED).await;
    assert!(fake.world().links.iter().all(|link| link.endpoint().is_none()));
    assert!(fake.world().tables.fdb.is_empty());
}

#[tokio::test]
async fn a_port_goes_after_its_rows_and_before_its_program() {
    let fake = Fake::default();
    let mut engine = engine(&fake);
    engine.pass(&cluster(&["web", "db"]), SYNCED).await;
    fake.world().journal.clear();
    engine.pass(&cluster(&["web"]), SYNCED).await;
    let journal = fake.world().journal.clone();
    assert!(journal[0].starts_with("rows -") && journal[0].contains("ports"), "{journal:?}");
    assert_eq!(journal[1..], ["delete fabric:endpoint:db", "detach from_container"]);
}

#[tokio::test]
async fn a_port_that_can_not_be_removed_keeps_its_program() {
    let fake = Fake::default();
    let mut engine = engine(&fake);
    engine.pass(&cluster(&["web"]), SYNCED).await;
    let attachments = fake.world().attachments.clone();
    fake.world().fail = Some("delete");
    engine.pass(&cluster(&[]), SYNCED).await;
    assert_eq!(fake.world().attachments, attachments);
    fake.world().fail = None;
    engine.pass(&cluster(&[]), SYNCED).await;
    let world = fake.world();
    assert!(world.links.iter().all(|link| link.endpoint().is_none()));
    assert!(world.attachments.keys().all(|attachment| attachment.program != "from_container"));
}

#[tokio::test]
async fn an_agent_that_dies_after_any_step_leaves_work_that_the_next_one_completes() {
    let wanted = Fake::default();
    engine(&wanted).pass(&cluster(&["web"]), SYNCED).await;
    let steps = u32::try_from(wanted.world().journal.len()).expect("few");
    for lives in 0..=steps {
        let fake = Fake::default();
        // There is something to delete as well.
        engine(&fake).pass(&cluster(&["old"]), SYNCED).await;
        fake.world().lives = Some(lives);
        engine(&fake).pass(&cluster(&["web"]), SYNCED).await;
        fake.world().lives = None;
        let report = engine(&fake).pass(&cluster(&["web"]), SYNCED).await;
        assert_eq!(state(&report, "web"), State::Ready, "died after {lives} steps");
        let world = fake.world();
        let ports: Vec<_> = world.links.iter().filter_map(|link| link.endpoint()).collect();
        assert_eq!(ports, ["web"], "died after {lives} steps");
        assert_eq!(
            world.tables.fdb.keys().collect::<Vec<_>>(),
            wanted.world().tables.fdb.keys().collect::<Vec<_>>()
        );
        assert_eq!(world.attachments.len(), wanted.world().attachments.len(), "died after {lives} steps");
    }
}

#[tokio::test]
async fn a_fault_is_shown_at_its_object_and_tried_again() {
    for fault in ["create web", "attach from_container", "rows +", "host up", "container up"] {
        let fake = Fake::default();
        fake.world().fail = Some(fault);
        let mut engine = engine(&fake);
        let report = engine.pass(&cluster(&["web"]), SYNCED).await;
        let (state_now, reason) = report[&("Endpoint", "web".to_owned())].clone();
        assert_eq!(state_now, State::Degraded, "{fault}");
        assert!(reason.contains("fault injected"), "{fault}: {reason}");
        assert!(!engine.account.status().errors.is_empty());
        fake.world().fail = None;
        let report = engine.pass(&cluster(&["web"]), Mode { in_sync: true, full: false }).await;
        assert_eq!(state(&report, "web"), State::Ready, "{fault}");
        assert!(engine.account.status().errors.is_empty(), "{fault}");
    }
}

#[tokio::test]
async fn a_port_is_not_set_up_without_its_program() {
    let fake = Fake::default();
    fake.world().fail = Some("attach from_container");
    engine(&fake).pass(&cluster(&["web"]), SYNCED).await;
    assert!(fake.world().journal.iter().all(|step| !step.starts_with("host up")));
    assert!(fake.world().links.iter().all(|link| link.endpoint().is_none() || !link.up));
}

#[tokio::test]
async fn exactly_what_was_taken_is_repaired_and_named() {
    let fake = Fake::default();
    let mut engine = engine(&fake);
    let cast = cluster(&["web"]);
    engine.pass(&cast, SYNCED).await;
    let changes = engine.account.status().changes;
    let far = FdbKey::new(100, cast.endpoints["far"].mac);
    fake.world().tables.fdb.remove(&far);
    fake.world().journal.clear();
    engine.pass(&cast, SYNCED).await;
    assert_eq!(fake.world().journal, ["rows +fdb"]);
    let status = engine.account.status().clone();
    assert_eq!((status.changes, status.repairs), (changes, 1));
    assert_eq!(status.last_repairs, [format!("map row fdb {{vni 100, mac {}}}", cast.endpoints["far"].mac)]);

    let uplink = Attachment { ifindex: 2, program: "from_uplink" };
    assert!(fake.world().attachments.remove(&uplink).is_some());
    fake.world().journal.clear();
    engine.pass(&cast, SYNCED).await;
    assert_eq!(fake.world().journal, ["attach from_uplink"]);
    assert_eq!(engine.account.status().repairs, 2);
    assert_eq!(engine.account.status().changes, changes);
}

#[tokio::test]
async fn a_veth_that_was_deleted_comes_back_as_one_repair() {
    let fake = Fake::default();
    let mut engine = engine(&fake);
    engine.pass(&cluster(&["web"]), SYNCED).await;
    fake.world().links.retain(|link| link.endpoint().is_none());
    fake.world().attachments.retain(|attachment, _| attachment.program != "from_container");
    let report = engine.pass(&cluster(&["web"]), SYNCED).await;
    assert_eq!(state(&report, "web"), State::Ready);
    assert_eq!(engine.account.status().repairs, 1, "{:?}", engine.account.status().last_repairs);
    assert!(engine.account.status().last_repairs[0].starts_with("veth fab"));
    assert_eq!(fake.world().tables.ports.len(), 1);
}

#[tokio::test]
async fn what_an_engine_took_and_lost_is_not_made_again() {
    let fake = Fake::default();
    let mut engine = engine(&fake);
    let mut cluster = cluster(&["web"]);
    let attachment = cluster.endpoints.get_mut("web").and_then(|web| web.attachment.as_mut());
    attachment.expect("attached").engine = Some("docker/unknown".to_owned());
    let report = engine.pass(&cluster, SYNCED).await;
    assert_eq!(state(&report, "web"), State::Ready);
    // The engine takes it; its container ends without a word.
    let port = |link: &crate::kernel::link::Link| link.endpoint().is_some();
    fake.world().links.iter_mut().filter(|link| port(link)).for_each(|link| link.peer_elsewhere = true);
    engine.pass(&cluster, SYNCED).await;
    assert!(engine.facts.plugged.contains("web"));
    fake.world().links.retain(|link| !port(link));
    fake.world().journal.clear();
    let report = engine.pass(&cluster, SYNCED).await;
    assert_eq!(state(&report, "web"), State::Degraded);
    assert!(
        !fake.world().journal.iter().any(|step| step.starts_with("create")),
        "{:?}",
        fake.world().journal
    );
    assert!(engine.facts.plugged.is_empty() && engine.equal, "nothing is to be mended here");
}

#[tokio::test]
async fn a_container_that_can_not_be_found_by_its_path_any_more_goes_on() {
    let fake = Fake::default();
    engine(&fake).pass(&cluster(&["web"]), SYNCED).await;
    fake.world().out_of_reach = true;
    fake.world().journal.clear();
    let mut successor = engine(&fake);
    let report = successor.pass(&cluster(&["web"]), SYNCED).await;
    assert_eq!(state(&report, "web"), State::Ready, "{report:?}");
    assert!(successor.account.status().errors.is_empty());
    assert!(
        fake.world().journal.iter().all(|step| !step.starts_with("delete")),
        "{:?}",
        fake.world().journal
    );
}

#[tokio::test]
async fn a_container_that_was_never_set_up_and_is_out_of_reach_is_reported() {
    let fake = Fake::default();
    fake.world().out_of_reach = true;
    let mut engine = engine(&fake);
    let report = engine.pass(&cluster(&["web"]), SYNCED).await;
    let (state, reason) = &report[&("Endpoint", "web".to_owned())];
    assert_eq!(*state, State::Degraded);
    assert!(reason.contains("can't be opened at /run/netns/web"), "{reason}");
    fake.world().out_of_reach = false;
    let report = engine.pass(&cluster(&["web"]), SYNCED).await;
    assert_eq!(report[&("Endpoint", "web".to_owned())].0, State::Ready);
}

#[tokio::test]
async fn a_port_is_not_set_up_before_its_network_has_its_gateway() {
    let fake = Fake::default();
    fake.world().no_gateways = true;
    let mut engine = engine(&fake);
    let report = engine.pass(&cluster(&["web"]), SYNCED).await;
    let (state, reason) = &report[&("Endpoint", "web".to_owned())];
    assert_eq!(*state, State::Degraded);
    assert!(reason.contains("map `endpoints` is full"), "{reason}");
    assert_eq!(report[&("Network", "blue".to_owned())].0, State::Degraded);
    assert!(fake.world().journal.iter().all(|step| !step.contains(" up ")), "{:?}", fake.world().journal);
    fake.world().no_gateways = false;
    let report = engine.pass(&cluster(&["web"]), SYNCED).await;
    assert_eq!(report[&("Endpoint", "web".to_owned())].0, State::Ready);
}

#[tokio::test]
async fn a_container_out_of_reach_that_must_change_is_reported() {
    let fake = Fake::default();
    let mut engine = engine(&fake);
    engine.pass(&cluster(&["web"]), SYNCED).await;
    fake.world().out_of_reach = true;
    let mut changed = cluster(&["web"]);
    changed.networks.values_mut().for_each(|network| network.mtu = Some(1300));
    let report = engine.pass(&changed, SYNCED).await;
    assert_eq!(state(&report, "web"), State::Degraded, "{report:?}");
    assert!(fake.world().journal.iter().all(|step| !step.starts_with("delete")));
}

/// The cluster with host access.
fn with_host() -> Cluster {
    let mut cluster = cluster(&["web"]);
    cluster.networks.values_mut().for_each(|network| network.host_access = true);
    cluster
}

#[tokio::test]
async fn an_access_port_comes_in_order_stays_and_goes() {
    let fake = Fake::default();
    let mut first = engine(&fake);
    let report = first.pass(&with_host(), SYNCED).await;
    let network = || ("Network", "blue".to_owned());
    assert_eq!(report[&network()].0, State::Ready);
    let journal = fake.world().journal.clone();
    let at = |what: &str| journal.iter().position(|step| step.starts_with(what)).expect(what);
    assert!(at("create access blue") < at("attach from_container"));
    assert!(at("rows +") < at("access up blue"));
    let tables = fake.world().tables.clone();
    let host = tables.fdb.values().filter(|row| row.flags == fabric_common::fdb::FLAG_HOST).count();
    assert_eq!((host, tables.ports.len()), (1, 2));
    fake.world().journal.clear();
    engine(&fake).pass(&with_host(), SYNCED).await;
    assert!(!fake.world().journal.iter().any(|step| step.contains("access") || step.starts_with("delete")));

    fake.world().fail = Some("access up");
    fake.world().links.iter_mut().filter(|link| link.is_access_side()).for_each(|link| link.up = false);
    let report = first.pass(&with_host(), SYNCED).await;
    assert_eq!(report[&network()].0, State::Degraded);
    fake.world().fail = None;
    assert_eq!(first.pass(&with_host(), SYNCED).await[&network()].0, State::Ready);
    assert_eq!(first.account.status().repairs, 1);

    first.pass(&cluster(&["web"]), SYNCED).await;
    let left =
        fake.world().links.iter().filter(|link| link.access().is_some() || link.is_access_side()).count();
    assert_eq!((left, fake.world().tables.ports.len()), (0, 1));
}

#[tokio::test]
async fn an_agent_that_dies_anywhere_leaves_an_access_port_that_the_next_one_completes() {
    for lives in 0..30 {
        let fake = Fake::default();
        fake.world().lives = Some(lives);
        engine(&fake).pass(&with_host(), SYNCED).await;
        fake.world().lives = None;
        let report = engine(&fake).pass(&with_host(), SYNCED).await;
        assert_eq!(report[&("Network", "blue".to_owned())].0, State::Ready, "after {lives} steps");
        let sides = fake.world().links.iter().filter(|link| link.access().is_some()).count();
        assert_eq!(sides, 1, "after {lives} steps");
    }
}
