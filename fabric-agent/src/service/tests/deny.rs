//! Deny sets: single prefixes come and go, and nobody locks the fabric out by mistake.

use fabric_api::object::DenySetChange;

use super::*;

fn change(add: &[&str], remove: &[&str], force: bool) -> DenySetChange {
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a prefix")).collect();
    DenySetChange { add: nets(add), remove: nets(remove), force, nodes: None }
}

fn node(name: &str, vtep: &str) -> Object {
    object(&format!(r#"{{"kind":"Node","metadata":{{"name":"{name}"}},"spec":{{"vteps":["{vtep}"]}}}}"#))
}

#[tokio::test]
async fn prefixes_come_and_go() {
    let b = bench();
    let cli = Owner::cli();
    let set =
        b.service.change_deny_set(&cli, "default", &change(&["198.51.100.9/24"], &[], false)).await.unwrap();
    assert_eq!(set.spec.prefixes, ["198.51.100.0/24".parse().unwrap()]);
    assert!(set.status.expect("the agent's part").applies);
    b.service.change_deny_set(&cli, "default", &change(&["2001:db8:bad::/48"], &[], false)).await.unwrap();
    let gone =
        b.service.change_deny_set(&cli, "default", &change(&[], &["192.0.2.0/24"], false)).await.unwrap_err();
    assert_eq!(
        gone.message,
        "prefix 192.0.2.0/24 is not in deny set default: `fabric deny ls` lists what is"
    );
    let left =
        b.service.change_deny_set(&cli, "default", &change(&[], &["198.51.100.0/24"], false)).await.unwrap();
    assert_eq!(left.spec.prefixes, ["2001:db8:bad::/48".parse().unwrap()]);
    b.service.change_deny_set(&cli, "default", &change(&[], &["2001:db8:bad::/48"], false)).await.unwrap();
    assert!(b.service.deny_sets().await.unwrap().is_empty(), "an empty set is removed");
    let absent =
        b.service.change_deny_set(&cli, "default", &change(&[], &["192.0.2.0/24"], false)).await.unwrap_err();
    assert_eq!(absent.kind, ErrorKind::NotFound);
    let nothing = b.service.change_deny_set(&cli, "default", &change(&[], &[], false)).await.unwrap_err();
    assert!(nothing.message.contains("the change is empty"), "{nothing}");
}

#[tokio::test]
async fn what_the_fabric_depends_on_is_not_denied_by_mistake() {
    let b = bench();
    let cli = Owner::cli();
    b.service.apply(&cli, vec![node("h2", "10.7.0.2")]).await.unwrap();
    let e =
        b.service.change_deny_set(&cli, "default", &change(&["10.7.0.0/16"], &[], false)).await.unwrap_err();
    assert_eq!(
        e.message,
        "denyset default: prefix 10.7.0.0/16 covers 10.7.0.2, the VTEP address of node h2: deny narrower prefixes, or force it (`fabric deny add --force`, spec.forced)"
    );
    let declared = r#"{"kind":"DenySet","metadata":{"name":"all"},"spec":{"prefixes":["0.0.0.0/0"]}}"#;
    let e = b.service.apply(&cli, vec![object(declared)]).await.unwrap_err();
    assert!(e.message.starts_with("denyset all: prefix 0.0.0.0/0 covers "), "{e}");
    // A node of the same request counts as well.
    let both = vec![node("h3", "10.8.0.3"), object(&declared.replace("0.0.0.0/0", "10.8.0.3/32"))];
    assert!(b.service.apply(&cli, both).await.unwrap_err().message.contains("node h3"));
    b.service.change_deny_set(&cli, "default", &change(&["10.7.0.0/16"], &[], true)).await.unwrap();
    let sets = b.service.deny_sets().await.unwrap();
    assert!(sets[0].spec.prefixes.is_empty() && sets[0].spec.forced.len() == 1);
    // That one is forced makes no other one so.
    let e = b.service.change_deny_set(&cli, "default", &change(&["10.7.0.2/32"], &[], false)).await;
    assert!(e.is_ok(), "the forced prefix has it denied already");
}
