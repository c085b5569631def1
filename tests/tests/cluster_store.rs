//! The promises of a store, shown of every backend: the embedded one, and the one on a real etcd.

use std::{future::Future, path::Path, sync::Arc, time::Duration};

use anyhow::Result;
use fabric_agent::store::{EmbeddedStore, EtcdAccess, EtcdStore, Expected, Store, StoreError, Write};
use fabric_api::Object;
use fabric_lab::Loopback;

fn network(name: &str) -> Object {
    let json = format!(
        r#"{{"kind":"Network","metadata":{{"name":"{name}"}},"spec":{{"vni":7,"subnets":["10.0.0.0/24"]}}}}"#
    );
    serde_json::from_str(&json).expect("a valid object")
}

fn put(name: &str, expected: Expected) -> Write {
    Write::Put { object: network(name).into(), expected }
}

fn delete(name: &str, expected: Expected) -> Write {
    Write::Delete { kind: "Network".to_owned(), name: name.to_owned(), expected }
}

fn require(name: &str, expected: Expected) -> Write {
    Write::Require { kind: "Network".to_owned(), name: name.to_owned(), expected }
}

fn cursor(name: &str, value: Option<&str>, expected: Expected) -> Write {
    Write::Cursor { name: name.to_owned(), value: value.map(str::to_owned), expected }
}

fn access(etcd: &Loopback) -> EtcdAccess {
    EtcdAccess { members: vec![etcd.endpoint()], prefix: "/fabric".to_owned(), ..EtcdAccess::default() }
}

/// Runs `check` on both backends.
async fn both<F: Future<Output = Result<()>>>(check: impl Fn(Arc<dyn Store>) -> F) -> Result<()> {
    let directory = tempfile::tempdir()?;
    check(Arc::new(EmbeddedStore::open(&directory.path().join("embedded"))?)).await?;
    let etcd = Loopback::start(directory.path(), &[], &[])?;
    check(Arc::new(EtcdStore::open(access(&etcd), Some("n1")).await?)).await
}

/// Waits until a condition on the snapshot holds.
async fn until(store: &dyn Store, what: &str, condition: impl Fn(&fabric_agent::store::Snapshot) -> bool) {
    for _ in 0..400 {
        if store.snapshot().await.is_ok_and(|snapshot| condition(&snapshot)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not within 20 s: {what}; troubles: {:?}", store.troubles());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_writes_reads_it_with_its_revision() -> Result<()> {
    both(|store| async move {
        let first = store.commit(vec![put("b", Expected::Absent), put("a", Expected::Absent)]).await?;
        let second = store.commit(vec![cursor("vni/x", Some("7"), Expected::Absent)]).await?;
        assert!(first < second);
        let snapshot = store.snapshot().await?;
        assert_eq!(snapshot.revision, second);
        assert_eq!(snapshot.get("Network", "a").map(|o| o.metadata().revision), Some(first));
        let names: Vec<_> = snapshot.objects.iter().map(|o| o.metadata().name.as_str()).collect();
        assert_eq!(names, ["a", "b"], "in order");
        assert_eq!(snapshot.cursors["vni/x"].value, "7");
        assert_eq!(snapshot.cursors["vni/x"].revision, second);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_all_or_nothing() -> Result<()> {
    both(|store| async move {
        let at = store.commit(vec![put("a", Expected::Absent)]).await?;
        let before = store.snapshot().await?;
        for bad in [
            put("a", Expected::Absent),
            put("a", Expected::Revision(at + 8)),
            put("c", Expected::Revision(at)),
            delete("c", Expected::Revision(at)),
            require("c", Expected::Revision(at)),
            require("a", Expected::Revision(at + 1)),
            require("a", Expected::Absent),
            cursor("x", None, Expected::Revision(at)),
        ] {
            let result = store.commit(vec![put("b", Expected::Any), bad.clone()]).await;
            assert!(matches!(result, Err(StoreError::Conflict { .. })), "{bad:?}: {result:?}");
            store.catch_up().await?;
            assert_eq!(before.objects, store.snapshot().await?.objects);
        }
        let good = vec![require("a", Expected::Revision(at)), put("b", Expected::Absent)];
        store.commit(good).await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_nothing_has_no_revision_of_its_own() -> Result<()> {
    both(|store| async move {
        let at = store.commit(vec![put("a", Expected::Any)]).await?;
        assert_eq!(store.commit(Vec::new()).await?, at);
        store.commit(vec![delete("absent", Expected::Any)]).await?;
        // The last write of an entry wins; what is expected is about what was there before.
        let twice = vec![put("b", Expected::Absent), delete("b", Expected::Absent)];
        store.commit(twice).await?;
        let snapshot = store.snapshot().await?;
        assert!(snapshot.get("Network", "b").is_none());
        assert_eq!(snapshot.get("Network", "a").map(|o| o.metadata().revision), Some(at));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watch_tells_revisions_that_can_be_read() -> Result<()> {
    both(|store| async move {
        let mut watch = store.watch();
        for n in 0..20 {
            let at = store.commit(vec![put(&format!("n{n}"), Expected::Absent)]).await?;
            watch.wait_for(|told| *told >= at).await?;
            assert!(store.snapshot().await?.revision >= at);
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_step_of_a_counter_is_lost_among_many_writers() -> Result<()> {
    both(|store| async move {
        let count = |store: Arc<dyn Store>| async move {
            for _ in 0..10 {
                loop {
                    let snapshot = store.snapshot().await?;
                    let (value, expected) = match snapshot.cursors.get("counter") {
                        Some(found) => (found.value.parse::<u32>()?, Expected::Revision(found.revision)),
                        None => (0, Expected::Absent),
                    };
                    let step = cursor("counter", Some(&(value + 1).to_string()), expected);
                    match store.commit(vec![step]).await {
                        Ok(_) => break,
                        Err(StoreError::Conflict { .. }) => store.catch_up().await?,
                        Err(e) => return Err(e.into()),
                    }
                }
            }
            Ok::<_, anyhow::Error>(())
        };
        let writers: Vec<_> = (0..5).map(|_| tokio::spawn(count(store.clone()))).collect();
        for writer in writers {
            writer.await??;
        }
        assert_eq!(store.snapshot().await?.cursors["counter"].value, "50");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_listed_in_pages_and_followed_from_there() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let etcd = Loopback::start(directory.path(), &[], &[])?;
    let writer = EtcdStore::open(access(&etcd), Some("n1")).await?;
    let all: Vec<String> = (0..1000).map(|n| format!("n{n:04}")).collect();
    for part in all.chunks(writer.limit()) {
        writer.commit(part.iter().map(|name| put(name, Expected::Absent)).collect()).await?;
    }
    let reader = EtcdStore::open(access(&etcd), Some("n2")).await?;
    let snapshot = reader.snapshot().await?;
    assert_eq!(snapshot.objects, writer.snapshot().await?.objects);
    assert_eq!(snapshot.objects.len(), 1000);
    writer.commit(vec![delete("n0500", Expected::Any), put("new", Expected::Absent)]).await?;
    until(&reader, "the change is seen", |s| s.get("Network", "new").is_some()).await;
    assert!(reader.snapshot().await?.get("Network", "n0500").is_none(), "never half of a transaction");
    let live = reader.snapshot().await?.live.clone().unwrap_or_default();
    assert_eq!(live.keys().map(String::as_str).collect::<Vec<_>>(), ["n1", "n2"]);
    let text = writer.commit(all.iter().map(|name| put(name, Expected::Any)).collect()).await;
    assert!(text.unwrap_err().to_string().contains("make it in smaller parts"));
    // Another fabric in the same cluster has nothing to do with this one.
    let other = EtcdAccess { prefix: "/fabric2".to_owned(), ..access(&etcd) };
    assert!(EtcdStore::open(other, Some("n1")).await?.snapshot().await?.objects.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_loses_nothing_and_what_was_read_stays_readable() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut etcd = Loopback::start(directory.path(), &[], &[])?;
    let store = Arc::new(EtcdStore::open(access(&etcd), Some("n1")).await?);
    store.commit(vec![put("a", Expected::Absent)]).await?;
    etcd.kill()?;
    until(&*store, "the outage is noticed", |_| !store.troubles().is_empty()).await;
    assert!(store.snapshot().await?.get("Network", "a").is_some());
    // One write that waits for the cluster, and one that gives up before.
    let waiting = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.commit(vec![put("b", Expected::Absent)]).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    etcd.start_again()?;
    waiting.await??;
    assert!(store.snapshot().await?.get("Network", "b").is_some());
    assert!(store.troubles().is_empty(), "{:?}", store.troubles());
    etcd.kill()?;
    let refused = store.commit(vec![put("c", Expected::Absent)]).await;
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("etcd://127.0.0.1"), "{text}");
    assert!(store.snapshot().await?.get("Network", "c").is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_can_not_be_resumed_starts_over() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut etcd = Loopback::start(directory.path(), &[], &[])?;
    let store = EtcdStore::open(access(&etcd), Some("n1")).await?;
    store.commit(vec![put("a", Expected::Absent), put("b", Expected::Absent)]).await?;
    // Writes and a compaction that the store can't see, since its member's port is another one's meanwhile.
    etcd.kill()?;
    until(&store, "the outage is noticed", |_| !store.troubles().is_empty()).await;
    let hidden = Loopback::start(directory.path(), &[], &[])?;
    let json = r#"{"kind":"Network","metadata":{"name":"c"},"spec":{"subnets":["10.9.0.0/24"]}}"#;
    hidden.ctl(&["put", "/fabric/objects/Network/c", json])?;
    hidden.ctl(&["del", "/fabric/objects/Network/a"])?;
    for _ in 0..3 {
        hidden.ctl(&["put", "/elsewhere", "x"])?;
    }
    let status: serde_json::Value =
        serde_json::from_str(&hidden.ctl(&["endpoint", "status", "-w", "json"])?)?;
    let revision = status[0]["Status"]["header"]["revision"].to_string();
    hidden.ctl(&["compaction", &revision])?;
    drop(hidden);
    etcd.start_again()?;
    until(&store, "what was written meanwhile is seen", |s| s.get("Network", "c").is_some()).await;
    let snapshot = store.snapshot().await?;
    assert!(snapshot.get("Network", "a").is_none() && snapshot.get("Network", "b").is_some());
    store.commit(vec![put("d", Expected::Absent)]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_layout_is_refused_at_the_start_and_later() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let etcd = Loopback::start(directory.path(), &[], &[])?;
    let store = EtcdStore::open(access(&etcd), Some("n1")).await?;
    store.commit(vec![put("a", Expected::Absent)]).await?;
    assert_eq!(etcd.ctl(&["get", "--print-value-only", "/fabric/schema"])?.trim(), "1");
    etcd.ctl(&["put", "/fabric/schema", "2"])?;
    let text = store.commit(vec![put("b", Expected::Absent)]).await.unwrap_err().to_string();
    assert!(text.contains("schema version 2, this version knows 1"), "{text}");
    let opened = EtcdStore::open(access(&etcd), Some("n2")).await;
    let text = opened.err().expect("must be refused").to_string();
    assert!(text.contains("schema version 2, this version knows 1"), "{text}");
    assert!(store.snapshot().await?.get("Network", "a").is_some());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fabric_that_vanishes_is_no_reason_to_forget_it() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut etcd = Loopback::start(directory.path(), &[], &[])?;
    let store = EtcdStore::open(access(&etcd), Some("n1")).await?;
    store.commit(vec![put("a", Expected::Absent)]).await?;
    etcd.kill()?;
    std::fs::remove_dir_all(directory.path().join("data"))?;
    etcd.start_again()?;
    let told = |_: &fabric_agent::store::Snapshot| {
        store.troubles().iter().any(|t| t.contains("has vanished from etcd"))
    };
    until(&store, "it is told", told).await;
    assert!(store.snapshot().await?.get("Network", "a").is_some());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_can_not_be_read_harms_no_other() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let etcd = Loopback::start(directory.path(), &[], &[])?;
    let store = EtcdStore::open(access(&etcd), Some("n1")).await?;
    store.commit(vec![put("a", Expected::Absent)]).await?;
    etcd.ctl(&["put", "/fabric/objects/Network/a", "{}"])?;
    etcd.ctl(&["put", "/fabric/objects/Later/x", r#"{"kind":"Later"}"#])?;
    store.commit(vec![put("b", Expected::Absent)]).await?;
    let snapshot = store.snapshot().await?;
    assert!(snapshot.get("Network", "a").is_some() && snapshot.get("Network", "b").is_some());
    let troubles = store.troubles().join("\n");
    assert!(
        troubles.contains("/fabric/objects/Network/a") && troubles.contains("/fabric/objects/Later/x"),
        "{troubles}"
    );
    Ok(())
}

/// A certificate authority, and certificates of a server and a client, by `openssl`.
fn certificates(directory: &Path) -> Result<()> {
    let script = r#"
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem
        for name in server client; do
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=$name -keyout $name.key -out $name.csr
            printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n' >ext
            openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out $name.pem
        done"#;
    let done = std::process::Command::new("sh").args(["-ec", script]).current_dir(directory).output()?;
    anyhow::ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_a_user_let_in_and_nobody_else_is() -> Result<()> {
    let directory = tempfile::tempdir()?;
    certificates(directory.path())?;
    let file = |name: &str| directory.path().join(name).display().to_string();
    let (cert, key, ca) = (file("server.pem"), file("server.key"), file("ca.pem"));
    let server = [
        format!("--cert-file={cert}"),
        format!("--key-file={key}"),
        format!("--trusted-ca-file={ca}"),
        "--client-cert-auth".to_owned(),
    ];
    let client = [
        format!("--cacert={ca}"),
        format!("--cert={}", file("client.pem")),
        format!("--key={}", file("client.key")),
    ];
    let etcd = Loopback::start(
        directory.path(),
        &server.each_ref().map(String::as_str),
        &client.each_ref().map(String::as_str),
    )?;
    for line in [
        "user add root:r",
        "user grant-role root root",
        "role add fabric",
        "role grant-permission fabric --prefix=true readwrite /fabric/",
        "user add agent:secret:word",
        "user grant-role agent fabric",
        "auth enable",
    ] {
        etcd.ctl(&line.split(' ').collect::<Vec<_>>())?;
    }
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("login"), "agent:secret:word\nmore\n")?;
    std::fs::write(path("wrong"), "agent:guess\n")?;
    std::fs::write(path("empty"), "\n")?;
    let good = EtcdAccess {
        ca: Some(path("ca.pem")),
        identity: Some((path("client.pem"), path("client.key"))),
        login: Some(path("login")),
        ..access(&etcd)
    };
    let store = EtcdStore::open(good.clone(), Some("n1")).await?;
    store.commit(vec![put("a", Expected::Absent)]).await?;
    assert!(store.snapshot().await?.get("Network", "a").is_some());
    let complaint = |access: EtcdAccess| async move {
        EtcdStore::open(access, Some("n2")).await.err().map(|e| e.to_string()).unwrap_or_default()
    };
    let wrong = complaint(EtcdAccess { login: Some(path("wrong")), ..good.clone() }).await;
    assert!(wrong.contains("login: ") && wrong.contains("authentication failed"), "{wrong}");
    let empty = complaint(EtcdAccess { login: Some(path("empty")), ..good.clone() }).await;
    assert!(empty.contains("the first line is not USER:PASSWORD"), "{empty}");
    let missing = complaint(EtcdAccess { ca: Some(path("none.pem")), ..good.clone() }).await;
    assert!(missing.contains("none.pem can't be read"), "{missing}");
    let elsewhere = complaint(EtcdAccess { prefix: "/other".to_owned(), ..good.clone() }).await;
    assert!(elsewhere.contains("permission denied"), "{elsewhere}");
    // A member whose certificate nobody we know has signed is not believed.
    let strange = EtcdAccess { ca: Some(path("client.pem")), ..good };
    let store = EtcdStore::open(strange, Some("n2")).await?;
    assert!(store.snapshot().await.is_err() && !store.troubles().is_empty());
    Ok(())
}
