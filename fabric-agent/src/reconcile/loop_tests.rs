//! The loop that makes the passes, with a store on disk and a kernel in memory.

use std::{sync::Arc, time::Duration};

use fabric_api::{Object, status::State};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{Handle, Reconciler, Settings, fake::Fake};
use crate::{
    model::Dscp,
    plan::desired::PlanSettings,
    service::Kernel,
    store::{EmbeddedStore, Expected, Store, Write},
};

const LONG: Duration = Duration::from_secs(20);

struct Bench {
    _dir: tempfile::TempDir,
    store: Arc<dyn Store>,
    fake: Fake,
    handle: Handle,
    note: mpsc::Sender<()>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Bench {
    async fn new(resync: Duration) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(dir.path()).expect("a store"));
        let fake = Fake::default();
        let settings = Settings {
            node: "n1".to_owned(),
            plan: PlanSettings {
                vxlan_port: 4789,
                events_per_second: 10,
                dscp: Dscp::default(),
                nat_ports: (61000, 65535),
            },
            guard: Default::default(),
            resync,
            bpffs: "/nowhere".to_owned(),
        };
        let made =
            Reconciler::new(fake.clone(), fake.clone(), Arc::clone(&store), (None, None), settings).await;
        let (reconciler, handle) = made.expect("an uplink");
        let (note, changed) = mpsc::channel(1);
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(reconciler.run(changed, stopped));
        Self { _dir: dir, store, fake, handle, note, stop, task }
    }

    fn passes(&self) -> u64 {
        self.handle.node_status().reconcile.passes
    }

    async fn end(self) {
        self.stop.send_replace(true);
        timeout(LONG, self.task).await.expect("the loop ends").expect("without a panic");
    }
}

fn blue() -> Object {
    let text =
        r#"{"kind":"Network","metadata":{"name":"blue"},"spec":{"subnets":["192.168.10.0/24"],"vni":100}}"#;
    serde_json::from_str(text).expect("a network")
}

#[tokio::test]
async fn a_change_of_the_store_is_programmed_and_told() {
    let b = Bench::new(LONG).await;
    b.handle.sources_ready();
    timeout(LONG, b.handle.complete()).await.expect("a first pass");
    let write = Write::Put { object: blue().into(), expected: Expected::Absent };
    let revision = b.store.commit(vec![write]).await.expect("it is stored");
    timeout(LONG, b.handle.programmed(revision)).await.expect("it is programmed");
    assert_eq!(b.handle.state("Network", "blue"), Some((State::Ready, String::new())));
    assert!(b.fake.world().tables.networks.contains_key(&100));
    b.end().await;
}

#[tokio::test]
async fn notifications_share_passes_and_do_not_put_comparisons_off() {
    let b = Bench::new(Duration::from_millis(100)).await;
    b.handle.sources_ready();
    timeout(LONG, b.handle.complete()).await.expect("a first pass");
    let before = b.passes();
    b.fake.world().tables.settings.clear();
    let begun = Instant::now();
    while b.fake.world().tables.settings.is_empty() {
        // As an interface that comes and goes all the time would.
        let _full = b.note.try_send(());
        sleep(Duration::from_millis(1)).await;
        assert!(begun.elapsed() < LONG, "the row is not repaired while notifications come");
    }
    sleep(Duration::from_millis(200)).await;
    let passes = b.passes() - before;
    let most = u64::try_from(begun.elapsed().as_millis() / 20 + 2).expect("few");
    assert!(passes <= most, "{passes} passes in {:?}", begun.elapsed());
    assert_eq!(b.handle.node_status().reconcile.repairs, 1);
    b.end().await;
}

/// On a busy host a pass takes long and costs no more than elsewhere: what was changed by hand is found as soon.
#[tokio::test]
async fn a_pass_that_waits_does_not_put_the_next_one_off() {
    let b = Bench::new(Duration::from_millis(100)).await;
    b.handle.sources_ready();
    timeout(LONG, b.handle.complete()).await.expect("a first pass");
    b.fake.world().slow = Duration::from_millis(600);
    let before = b.passes();
    let three = async {
        while b.passes() < before + 3 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG * 3, three).await.expect("fifty times what a pass took is not waited for");
    b.end().await;
}

#[tokio::test]
async fn a_loop_that_waits_ends_when_it_is_told_to() {
    let b = Bench::new(LONG).await;
    timeout(LONG, b.handle.programmed(0)).await.expect("a first pass");
    b.end().await;
}
