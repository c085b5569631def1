//! Moves between nodes on one store, with agents that die.

use fabric_api::object::{Destination, MoveStep, MovementPhase};
use tokio::task::JoinHandle;

use super::{cluster::member_with, *};
use crate::store::Store;

struct Host {
    service: Service,
    fake: Arc<Fake>,
    agent: Option<JoinHandle<()>>,
}

impl Host {
    /// Its agent takes its part in moves, or dies.
    fn lives(&mut self, lives: bool) {
        if let Some(agent) = self.agent.take() {
            agent.abort();
        }
        self.agent = lives.then(|| tokio::spawn(self.service.clone().keep_moving()));
    }
}

/// Three nodes with agents, and `web` on the first.
async fn hosts() -> ([Host; 3], Arc<dyn Store>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(dir.path()).expect("the store opens"));
    let mut hosts = [("n1", "192.0.2.1"), ("n2", "192.0.2.2"), ("n3", "192.0.2.3")].map(|(node, vtep)| {
        let (service, fake) = member_with(&store, node, vtep);
        Host { service, fake, agent: None }
    });
    for host in &mut hosts {
        host.service.register_once().await.unwrap();
        host.lives(true);
    }
    let cli = Owner::cli();
    hosts[0].service.create_network(&cli, network("blue", "10.0.0.0/24")).await.unwrap();
    hosts[0].service.attach_endpoint(&cli, endpoint("web", "")).await.unwrap();
    (hosts, store, dir)
}

fn to(node: &str) -> Destination {
    Destination { node: node.to_owned(), netns: "/run/netns/there".to_owned(), ifname: None }
}

async fn take(host: &Host, step: MoveStep) -> Result<Endpoint, ServiceError> {
    host.service.move_endpoint(&Owner::cli(), "web", step).await
}

async fn stored(store: &Arc<dyn Store>) -> Endpoint {
    match store.snapshot().await.unwrap().get("Endpoint", "web") {
        Some(Object::Endpoint(endpoint)) => endpoint.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_move_keeps_what_the_endpoint_is_and_takes_its_connections() {
    let (hosts, store, _dir) = hosts().await;
    let before = stored(&store).await;
    *hosts[0].fake.flows.lock().unwrap() = "flows".to_owned();
    // From a host that has no part in it.
    let moved = take(&hosts[2], MoveStep::Move(to("n2"))).await.unwrap();
    let after = stored(&store).await;
    assert_eq!(moved.spec.node.as_deref(), Some("n2"));
    assert_eq!(after.spec.generation, 2);
    assert_eq!(
        (&after.spec.mac, &after.spec.addresses, &after.metadata.labels, &after.metadata.owner),
        (&before.spec.mac, &before.spec.addresses, &before.metadata.labels, &before.metadata.owner)
    );
    let attachment = after.spec.attachment.unwrap();
    assert_eq!((attachment.netns.as_str(), attachment.ifname.as_str()), ("/run/netns/there", "eth0"));
    assert_eq!(attachment.netns_inode, resolve("/run/netns/there").unwrap());
    assert_eq!(after.status.unwrap().slot, Some(0));
    let movement = after.spec.movement.unwrap();
    assert_eq!((movement.phase, movement.node.as_str()), (MovementPhase::Activated, "n1"));
    // What was there before the change, and the rest behind it.
    let flows = format!("flows of {} in 4096", after.spec.addresses[0]);
    let mut changes = store.watch();
    while hosts[1].fake.taken.lock().unwrap().len() < 2 {
        changes.changed().await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(hosts[1].fake.taken.lock().unwrap().iter().all(|taken| *taken == flows));
    // It is not moved again while the first one relays, and then it is.
    assert_eq!(take(&hosts[0], MoveStep::Move(to("n3"))).await.unwrap_err().kind, ErrorKind::Conflict);
    take(&hosts[0], MoveStep::Release).await.unwrap();
    assert!(store.snapshot().await.unwrap().cursors.keys().all(|name| !name.starts_with("flows/")));
    take(&hosts[0], MoveStep::Move(to("n1"))).await.unwrap();
    assert_eq!(stored(&store).await.spec.generation, 3);
}

#[tokio::test]
async fn an_orchestrator_takes_the_steps_itself() {
    let (hosts, store, _dir) = hosts().await;
    let prepared = take(&hosts[0], MoveStep::Prepare(to("n2"))).await.unwrap();
    assert_eq!(prepared.spec.node.as_deref(), Some("n1"), "nothing is sent there yet");
    assert_eq!(prepared.spec.movement.unwrap().phase, MovementPhase::Prepared);
    // Again, and what is declared meanwhile leaves it alone.
    take(&hosts[1], MoveStep::Prepare(to("n2"))).await.unwrap();
    let other = take(&hosts[0], MoveStep::Prepare(to("n3"))).await.unwrap_err();
    assert!(other.message.contains("being moved to node n2"), "{other}");
    let mut declared = Endpoint { status: None, ..stored(&store).await };
    declared.spec.movement = None;
    declared.metadata.labels.insert("a".to_owned(), "b".to_owned());
    hosts[0].service.apply(&Owner::cli(), vec![Object::Endpoint(declared)]).await.unwrap();
    assert!(stored(&store).await.spec.movement.is_some());
    take(&hosts[0], MoveStep::Abort).await.unwrap();
    assert_eq!(stored(&store).await.spec.movement, None);
    assert!(take(&hosts[0], MoveStep::Activate).await.unwrap_err().message.contains("prepare it first"));
    take(&hosts[0], MoveStep::Prepare(to("n2"))).await.unwrap();
    let active = take(&hosts[2], MoveStep::Activate).await.unwrap();
    assert_eq!(active.spec.node.as_deref(), Some("n2"));
    assert_eq!(active.metadata.labels.get("a").map(String::as_str), Some("b"));
    take(&hosts[2], MoveStep::Release).await.unwrap();
    assert_eq!(stored(&store).await.spec.movement, None);
}

#[tokio::test]
async fn what_can_not_be_moved_is_refused_with_a_reason() {
    let (hosts, store, _dir) = hosts().await;
    let refused = |step| async { take(&hosts[0], step).await.unwrap_err().message };
    assert!(refused(MoveStep::Move(to("n9"))).await.contains("node n9 is not known"));
    assert!(refused(MoveStep::Prepare(to("n1"))).await.contains("lives on node n1 already"));
    take(&hosts[0], MoveStep::Move(to("n1"))).await.expect("it is there");
    let gone = Destination { netns: "/gone".to_owned(), ..to("n2") };
    let text = refused(MoveStep::Move(gone)).await;
    assert!(text.contains("can't be moved to node n2") && text.contains("does not exist"), "{text}");
    assert_eq!(stored(&store).await.spec.movement, None, "it is undone");
    let relative = Destination { netns: "there".to_owned(), ..to("n2") };
    assert!(refused(MoveStep::Move(relative)).await.contains("absolute path"));
    let text = hosts[0].service.move_endpoint(&Owner::cli(), "nope", MoveStep::Abort).await.unwrap_err();
    assert_eq!(text.kind, ErrorKind::NotFound);
    let text = hosts[0].service.move_endpoint(&Owner::docker(), "web", MoveStep::Abort).await.unwrap_err();
    assert_eq!(text.kind, ErrorKind::Refused, "{text}");
    let mut forged = Endpoint { status: None, ..stored(&store).await };
    forged.spec.movement = Some(fabric_api::object::Movement {
        phase: MovementPhase::Armed,
        node: "n2".to_owned(),
        attachment: None,
        slot: None,
        activate: true,
        reason: String::new(),
    });
    let text = hosts[0].service.apply(&Owner::cli(), vec![Object::Endpoint(forged)]).await.unwrap_err();
    assert!(text.message.contains("movement is set by the agents"), "{text}");
    // A destination whose kernel does not take it.
    hosts[1].fake.refuses.store(true, Ordering::Relaxed);
    let text = refused(MoveStep::Move(to("n2"))).await;
    assert!(text.contains("the namespace vanished"), "{text}");
    assert_eq!(stored(&store).await.spec.movement, None);
}

#[tokio::test]
async fn a_dead_destination_costs_nothing_and_a_repeated_command_goes_on() {
    let (mut hosts, store, _dir) = hosts().await;
    hosts[1].lives(false);
    let text = take(&hosts[0], MoveStep::Move(to("n2"))).await.unwrap_err().message;
    assert!(text.contains("the agent of node n2 does not go on"), "{text}");
    assert_eq!(
        (stored(&store).await.spec.node.as_deref(), stored(&store).await.spec.movement),
        (Some("n1"), None)
    );
    hosts[1].lives(true);
    take(&hosts[0], MoveStep::Move(to("n2"))).await.unwrap();
    assert_eq!(stored(&store).await.spec.node.as_deref(), Some("n2"));
}

#[tokio::test]
async fn a_home_that_can_not_stop_is_not_left() {
    let (mut hosts, store, _dir) = hosts().await;
    take(&hosts[1], MoveStep::Prepare(to("n2"))).await.unwrap();
    hosts[0].lives(false);
    let text = take(&hosts[1], MoveStep::Activate).await.unwrap_err().message;
    assert!(text.contains("the agent of node n1 does not go on"), "{text}");
    assert_eq!(
        (stored(&store).await.spec.node.as_deref(), stored(&store).await.spec.movement),
        (Some("n1"), None)
    );
    // Armed: its kernel has not stopped, so the home is not changed; when it has, the returning agent does it.
    hosts[0].lives(true);
    hosts[0].fake.hangs.store(true, Ordering::Relaxed);
    let text = take(&hosts[1], MoveStep::Move(to("n2"))).await.unwrap_err().message;
    assert!(text.contains("the move ends when that returns"), "{text}");
    let armed = stored(&store).await;
    assert_eq!(armed.spec.movement.as_ref().map(|m| m.phase), Some(MovementPhase::Armed));
    assert_eq!((armed.spec.node.as_deref(), armed.spec.generation), (Some("n1"), 1));
    assert!(take(&hosts[1], MoveStep::Abort).await.unwrap_err().message.contains("just leaving"));
    hosts[0].lives(false);
    hosts[0].fake.hangs.store(false, Ordering::Relaxed);
    hosts[0].lives(true);
    take(&hosts[1], MoveStep::Move(to("n2"))).await.unwrap();
    assert_eq!(stored(&store).await.spec.node.as_deref(), Some("n2"));
}

#[tokio::test]
async fn a_drained_node_keeps_what_it_has_and_takes_nothing_more() {
    let (hosts, store, _dir) = hosts().await;
    let [first, second, _] = &hosts;
    let drained = |node: &Node| node.spec.drained;
    for name in ["n1", "n2"] {
        assert!(drained(&first.service.drain_node(name, true).await.unwrap()));
    }
    // It is no part of what its agent registers, and stays.
    for host in [first, second] {
        host.service.register_once().await.unwrap();
    }
    assert!(drained(&second.service.node("n2").await.unwrap()));
    let refused = first.service.attach_endpoint(&Owner::cli(), endpoint("db", "")).await.unwrap_err();
    assert!(refused.message.contains("node n1 is drained"), "{}", refused.message);
    let refused = take(first, MoveStep::Move(to("n2"))).await.unwrap_err();
    assert!(refused.message.contains("node n2 is drained"), "{}", refused.message);
    assert_eq!(stored(&store).await.spec.movement, None);
    take(first, MoveStep::Move(to("n3"))).await.unwrap();
    first.service.drain_node("n1", false).await.unwrap();
    first.service.attach_endpoint(&Owner::cli(), endpoint("db", "")).await.unwrap();
    let unknown = first.service.drain_node("n9", true).await.unwrap_err();
    assert_eq!(unknown.kind, ErrorKind::NotFound);
}
