use std::sync::Arc;

use fabric_api::status::{EndpointCounters, State, Status};
use futures::future::BoxFuture;

use super::*;
use crate::{
    plan::desired::NodeFacts,
    service::{Kernel, ServiceSettings},
    store::EmbeddedStore,
};

struct Nothing;

impl Kernel for Nothing {
    fn programmed(&self, _revision: u64) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
    fn state(&self, _kind: &str, _name: &str) -> Option<(State, String)> {
        None
    }
    fn facts(&self) -> NodeFacts {
        NodeFacts { node: "n1".to_owned(), ..NodeFacts::default() }
    }
    fn counters(&self, _slot: u32) -> Option<EndpointCounters> {
        None
    }
    fn reset_counters(&self, _slot: u32) {}
    fn node_status(&self) -> Status {
        Status::default()
    }
}

struct Bench {
    dir: tempfile::TempDir,
    service: Service,
    manifests: Manifests,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(EmbeddedStore::open(&dir.path().join("store")).expect("the store opens"));
    let service = Service::new(
        store,
        Arc::new(Nothing),
        ServiceSettings { node: "n1".to_owned(), slots: 8, blocks: false },
    );
    let directory = dir.path().join("manifests");
    std::fs::create_dir(&directory).unwrap();
    let manifests = Manifests::new(directory, service.clone());
    Bench { dir, service, manifests }
}

impl Bench {
    /// Writes a file that looks old enough not to be half written.
    fn write(&self, file: &str, text: &str) {
        let path = self.dir.path().join("manifests").join(file);
        std::fs::write(&path, text).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
    }

    async fn names(&self) -> Vec<String> {
        self.service.networks().await.unwrap().into_iter().map(|n| n.metadata.name).collect()
    }

    async fn problems(&self) -> Vec<String> {
        self.service.status().await.unwrap().problems
    }
}

fn network(name: &str) -> String {
    format!("---\nkind: Network\nmetadata: {{name: {name}}}\nspec: {{subnets: [10.1.0.0/24]}}\n")
}

#[tokio::test]
async fn objects_come_and_go_with_their_files() {
    let mut b = bench();
    b.write("a.yaml", &(network("a") + &network("b")));
    b.write("c.json", r#"{"kind":"Network","metadata":{"name":"c"},"spec":{"subnets":["10.1.0.0/24"]}}"#);
    b.write("d.txt", &network("d"));
    b.write(".e.yaml", &network("e"));
    b.manifests.scan().await;
    assert_eq!(b.names().await, ["a", "b", "c"]);
    b.write("a.yaml", &network("b"));
    b.manifests.scan().await;
    assert_eq!(b.names().await, ["b", "c"]);
    std::fs::remove_file(b.dir.path().join("manifests/c.json")).unwrap();
    b.manifests.scan().await;
    assert_eq!(b.names().await, ["b"]);
    assert!(b.problems().await.is_empty());
}

#[tokio::test]
async fn a_broken_file_keeps_its_objects_and_is_reported() {
    let mut b = bench();
    b.write("a.yaml", &network("a"));
    b.write("b.yaml", &network("b"));
    b.manifests.scan().await;
    b.write("a.yaml", "kind: [");
    std::fs::remove_file(b.dir.path().join("manifests/b.yaml")).unwrap();
    b.manifests.scan().await;
    assert_eq!(b.names().await, ["a"]);
    let problems = b.problems().await;
    assert!(problems.iter().any(|p| p.contains("a.yaml") && p.contains("stay")), "{problems:?}");
    b.write("a.yaml", &network("a"));
    b.manifests.scan().await;
    assert!(b.problems().await.is_empty());
}

#[tokio::test]
async fn after_a_restart_nothing_goes_while_a_file_is_broken() {
    let mut b = bench();
    b.write("a.yaml", &network("a"));
    b.write("b.yaml", &network("b"));
    b.manifests.scan().await;
    b.write("a.yaml", "kind: [");
    std::fs::remove_file(b.dir.path().join("manifests/b.yaml")).unwrap();
    let mut again = Manifests::new(b.dir.path().join("manifests"), b.service.clone());
    again.scan().await;
    assert_eq!(b.names().await, ["a", "b"]);
    b.write("a.yaml", &network("a"));
    again.scan().await;
    assert_eq!(b.names().await, ["a"]);
}

#[tokio::test]
async fn a_vanished_directory_takes_nothing_with_it() {
    let mut b = bench();
    b.write("a.yaml", &network("a"));
    b.manifests.scan().await;
    std::fs::remove_dir_all(b.dir.path().join("manifests")).unwrap();
    b.manifests.scan().await;
    assert_eq!(b.names().await, ["a"]);
    assert_eq!(b.problems().await.len(), 1);
}

#[tokio::test]
async fn a_file_being_written_is_left_alone() {
    let mut b = bench();
    b.write("a.yaml", &network("a"));
    b.manifests.scan().await;
    std::fs::write(b.dir.path().join("manifests/a.yaml"), "").unwrap();
    assert!(b.manifests.scan().await, "another look is needed");
    assert_eq!(b.names().await, ["a"]);
    b.write("a.yaml", "");
    assert!(!b.manifests.scan().await);
    assert!(b.names().await.is_empty());
}

#[tokio::test]
async fn another_owners_object_is_refused_and_reported() {
    let mut b = bench();
    let theirs = parse_objects(&network("a")).unwrap();
    b.service.apply(&Owner::cli(), theirs).await.unwrap();
    b.write("a.yaml", &(network("a") + &network("b")));
    b.manifests.scan().await;
    assert_eq!(b.names().await, ["a", "b"]);
    let problems = b.problems().await;
    assert!(problems.iter().any(|p| p.contains("belongs to cli")), "{problems:?}");
}

#[tokio::test]
async fn the_watch_notices_a_rename() {
    let b = bench();
    let directory = b.dir.path().join("manifests");
    let service = b.service.clone();
    let task = tokio::spawn(b.manifests.run());
    std::fs::write(b.dir.path().join("draft"), network("a")).unwrap();
    std::fs::rename(b.dir.path().join("draft"), directory.join("a.yaml")).unwrap();
    let mut found = 0;
    for _ in 0..80 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        found = service.networks().await.unwrap().len();
        if found == 1 {
            break;
        }
    }
    task.abort();
    assert_eq!(found, 1);
}

#[tokio::test]
async fn reading_the_directory_is_no_reason_to_read_it_again() {
    let b = bench();
    let path = b.dir.path().join("a.yaml");
    std::fs::write(&path, "kind: Node\nmetadata: {name: n2}\nspec: {vteps: [192.0.2.9]}\n").unwrap();
    let (tell, mut told) = mpsc::channel(1);
    let _watch = watch(b.dir.path(), tell).expect("the directory can be watched");
    for _ in 0..3 {
        files::read(b.dir.path()).unwrap();
    }
    assert!(tokio::time::timeout(Duration::from_millis(200), told.recv()).await.is_err());
    std::fs::write(&path, "").unwrap();
    tokio::time::timeout(Duration::from_secs(20), told.recv()).await.expect("a change is told");
}

#[tokio::test]
async fn a_refused_object_is_tried_again_when_the_store_changes() {
    let mut b = bench();
    b.service.apply(&Owner::cli(), parse_objects(&network("a")).unwrap()).await.unwrap();
    b.write("a.yaml", &network("a"));
    b.manifests.scan().await;
    assert_eq!(b.problems().await.len(), 1);
    let service = b.service.clone();
    let task = tokio::spawn(b.manifests.run());
    // The first look of the watch, and what it may have been told meanwhile, is over.
    tokio::time::sleep(4 * SETTLE).await;
    service.delete_network(&Owner::cli(), "a").await.unwrap();
    let begun = std::time::Instant::now();
    while service.networks().await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(begun.elapsed() < RESCAN / 2, "it is not looked at again");
    }
    while !service.status().await.unwrap().problems.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(begun.elapsed() < RESCAN / 2, "the problem stays");
    }
    task.abort();
}
