use std::{process::Command, time::Duration};

use super::*;
use crate::store::{Expected, export_yaml};

fn network(name: &str) -> Object {
    let json = format!(
        r#"{{"kind":"Network","metadata":{{"name":"{name}"}},"spec":{{"vni":7,"subnets":["10.0.0.0/24"]}}}}"#
    );
    serde_json::from_str(&json).expect("a valid object")
}

fn put(name: &str, expected: Expected) -> Write {
    Write::Put { object: network(name).into(), expected }
}

fn open(directory: &Path) -> EmbeddedStore {
    EmbeddedStore::open(directory).expect("the store opens")
}

fn complaint(directory: &Path) -> String {
    EmbeddedStore::open(directory).err().expect("must be refused").to_string()
}

#[tokio::test]
async fn content_survives_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(store.commit(vec![put("b", Expected::Absent), put("a", Expected::Absent)]).await.unwrap(), 1);
    let cursor =
        Write::Cursor { name: "vni".to_owned(), value: Some("x".to_owned()), expected: Expected::Absent };
    assert_eq!(store.commit(vec![cursor]).await.unwrap(), 2);
    let before = store.snapshot().await.unwrap();
    drop(store);
    let after = open(dir.path()).snapshot().await.unwrap();
    assert_eq!(before, after);
    assert_eq!(after.revision, 2);
    assert_eq!(after.cursors["vni"].revision, 2);
    assert_eq!(after.get("Network", "a").unwrap().metadata().revision, 1);
    assert_eq!(after.objects.len(), 2);
}

#[tokio::test]
async fn a_transaction_is_all_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(vec![put("a", Expected::Absent)]).await.unwrap();
    let before = store.snapshot().await.unwrap();
    for bad in [
        put("a", Expected::Absent),
        put("a", Expected::Revision(9)),
        put("c", Expected::Revision(1)),
        Write::Delete { kind: "Network".to_owned(), name: "c".to_owned(), expected: Expected::Revision(1) },
        Write::Cursor { name: "x".to_owned(), value: None, expected: Expected::Revision(1) },
    ] {
        let result = store.commit(vec![put("b", Expected::Any), bad]).await;
        assert!(matches!(result, Err(StoreError::Conflict { .. })), "{result:?}");
        assert_eq!(before, store.snapshot().await.unwrap());
    }
}

#[tokio::test]
async fn the_watch_tells_revisions_that_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut watch = store.watch();
    store.commit(vec![put("a", Expected::Absent)]).await.unwrap();
    watch.changed().await.unwrap();
    assert_eq!(*watch.borrow(), 1);
    assert_eq!(store.commit(Vec::new()).await.unwrap(), 1);
    assert!(!watch.has_changed().unwrap());
}

#[tokio::test]
async fn a_second_agent_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(dir.path());
    assert!(complaint(dir.path()).contains("in use by another agent"));
}

#[test]
fn a_newer_schema_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let database = Database::open(dir.path().join(FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert("schema", SCHEMA + 1).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert!(complaint(dir.path()).contains("schema version 2, this version knows 1"));
}

#[tokio::test]
async fn damage_is_told_and_the_file_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    std::fs::write(&path, "this is not a store".repeat(1000)).unwrap();
    let text = complaint(dir.path());
    assert!(text.contains("can't be read") && text.contains(FILE), "{text}");
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("this is not"));
}

#[tokio::test]
async fn an_entry_that_is_no_object_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let database = Database::open(dir.path().join(FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(OBJECTS).unwrap().insert("Network/a", &b"{}"[..]).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert!(complaint(dir.path()).contains("entry Network/a"));
}

#[test]
fn files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("fabric");
    drop(open(&directory));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&directory.join(FILE)), 0o600);
}

#[tokio::test]
async fn the_export_can_be_applied() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(vec![put("a", Expected::Absent), put("b", Expected::Absent)]).await.unwrap();
    let yaml = export_yaml(&store.snapshot().await.unwrap()).unwrap();
    let objects = crate::manifests::parse_objects(&yaml).unwrap();
    assert_eq!(objects, [network("a"), network("b")]);
}

/// An endpoint whose move was under way stays at its home.
#[tokio::test]
async fn the_export_has_no_moves() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let json = r#"{"kind":"Endpoint","metadata":{"name":"web"},"spec":{"network":"blue","node":"h1",
        "movement":{"phase":"prepared","node":"h2","slot":3}}}"#;
    let object: Object = serde_json::from_str(json).unwrap();
    store.commit(vec![Write::Put { object: object.into(), expected: Expected::Absent }]).await.unwrap();
    let yaml = export_yaml(&store.snapshot().await.unwrap()).unwrap();
    assert!(yaml.contains("h1") && !yaml.contains("h2"), "{yaml}");
    crate::manifests::parse_objects(&yaml).unwrap();
}

/// Names the directory to write in; set only by the test below.
const CHILD: &str = "FABRIC_TEST_STORE_CHILD";

/// The child of the next test: commits until it is killed, and notes what was acknowledged.
#[tokio::test]
async fn child_commits_until_killed() {
    let Ok(directory) = std::env::var(CHILD) else { return };
    let directory = Path::new(&directory);
    let store = open(directory);
    for i in 0..100_000 {
        let revision = store.commit(vec![put(&format!("n{i}"), Expected::Absent)]).await.unwrap();
        std::fs::write(directory.join("acked.tmp"), revision.to_string()).unwrap();
        std::fs::rename(directory.join("acked.tmp"), directory.join("acked")).unwrap();
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::embedded::tests::child_commits_until_killed"])
        .env(CHILD, dir.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let acked = || -> u64 {
        std::fs::read_to_string(dir.path().join("acked")).ok().and_then(|t| t.parse().ok()).unwrap_or(0)
    };
    for _ in 0..600 {
        if acked() >= 20 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let acked = acked();
    assert!(acked >= 20, "the child acknowledged {acked} commits");
    let snapshot = open(dir.path()).snapshot().await.unwrap();
    assert!(snapshot.revision >= acked);
    assert_eq!(snapshot.objects.len() as u64, snapshot.revision);
}

#[test]
fn purging_takes_the_store_alone_and_not_one_that_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("store");
    assert!(!EmbeddedStore::purge(&directory).unwrap());
    let store = EmbeddedStore::open(&directory).unwrap();
    assert!(matches!(EmbeddedStore::purge(&directory), Err(StoreError::InUse { .. })));
    drop(store);
    std::fs::write(directory.join("precious"), "").unwrap();
    assert!(EmbeddedStore::purge(&directory).unwrap());
    assert!(directory.join("precious").exists());
    std::fs::remove_file(directory.join("precious")).unwrap();
    std::fs::write(directory.join(FILE), "damaged").unwrap();
    assert!(EmbeddedStore::purge(&directory).unwrap());
    assert!(!directory.exists());
}
