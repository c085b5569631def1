//! Networks that let others in.

use super::*;

fn letting_in(name: &str, subnet: &str, from: &[&str]) -> Network {
    let mut network = network(name, subnet);
    network.spec.allow_from = from.iter().map(|name| (*name).to_owned()).collect();
    network
}

async fn opened(b: &Bench, name: &str) -> Vec<String> {
    b.service.network(name).await.unwrap().status.unwrap().opened
}

#[tokio::test]
async fn an_opening_shows_on_both_sides() {
    let b = bench();
    blue(&b, "10.1.0.0/24").await;
    let green = letting_in("green", "10.2.0.0/24", &["blue"]);
    let created = b.service.create_network(&Owner::cli(), green).await.unwrap();
    assert_eq!(created.spec.allow_from, ["blue"]);
    assert_eq!(created.status.unwrap().opened, ["blue"]);
    assert_eq!(opened(&b, "blue").await, ["green"]);
    let closed = Object::Network(network("green", "10.2.0.0/24"));
    b.service.apply(&Owner::cli(), vec![closed]).await.unwrap();
    assert!(opened(&b, "green").await.is_empty() && opened(&b, "blue").await.is_empty());
}

#[tokio::test]
async fn openings_that_can_not_be_are_refused_in_one_sentence() {
    let b = bench();
    blue(&b, "10.1.0.0/16").await;
    b.service.create_network(&Owner::cli(), network("red", "10.2.0.0/16")).await.unwrap();
    for (network, words) in [
        (
            letting_in("green", "10.1.2.0/24", &["blue"]),
            &["green", "blue", "10.1.2.0/24", "overlaps 10.1"][..],
        ),
        (letting_in("green", "10.3.0.0/24", &["nope"]), &["green", "nope", "does not exist"]),
        (letting_in("green", "10.3.0.0/24", &["green"]), &["lets itself in"]),
    ] {
        let e = b.service.create_network(&Owner::cli(), network).await.unwrap_err();
        assert!(e.kind == ErrorKind::Invalid && words.iter().all(|w| e.message.contains(w)), "{e}");
    }
    // Overlapping networks may be, but not be opened to one and the same.
    let twin = letting_in("twin", "10.1.0.0/24", &["red"]);
    b.service.create_network(&Owner::cli(), twin).await.unwrap();
    let blue = Object::Network(letting_in("blue", "10.1.0.0/16", &["red"]));
    let e = b.service.apply(&Owner::cli(), vec![blue]).await.unwrap_err();
    assert!(["red", "twin", "10.1.0.0/24"].iter().all(|w| e.message.contains(w)), "{e}");
    assert_eq!(opened(&b, "red").await, ["twin"]);
    // Nor become overlapping once they are opened.
    let grown = letting_in("twin", "10.2.3.0/24", &["red"]);
    let e = b.service.apply(&Owner::cli(), vec![Object::Network(grown)]).await.unwrap_err();
    assert!(e.message.contains("overlaps"), "{e}");
}

#[tokio::test]
async fn a_network_that_is_let_in_stays() {
    let b = bench();
    blue(&b, "10.1.0.0/24").await;
    let green = letting_in("green", "10.2.0.0/24", &["blue"]);
    b.service.create_network(&Owner::cli(), green).await.unwrap();
    let e = b.service.delete_network(&Owner::cli(), "blue").await.unwrap_err();
    assert!(
        e.kind == ErrorKind::Refused && e.message.contains("let in by networks that stay (green)"),
        "{e}"
    );
    b.service.delete_network(&Owner::cli(), "green").await.unwrap();
    b.service.delete_network(&Owner::cli(), "blue").await.unwrap();
}

#[tokio::test]
async fn manifests_may_name_each_other_in_any_order() {
    let b = bench();
    let files = Owner::manifests(std::path::Path::new("/etc/m"));
    let both = [
        letting_in("blue", "10.1.0.0/24", &["green"]),
        letting_in("green", "10.2.0.0/24", &["blue"]),
        letting_in("a", "10.3.0.0/24", &["z"]),
        network("z", "10.4.0.0/24"),
    ]
    .map(Object::Network);
    let wrong = remote("bad", "n2", "10.9.0.1");
    let all = [both.as_slice(), &[node("n2"), wrong]].concat();
    let replaced = b.service.replace_owned(&files, all, true).await.unwrap();
    assert_eq!((replaced.applied.len(), replaced.problems.len()), (5, 1), "{replaced:?}");
    assert_eq!(opened(&b, "blue").await, ["green"]);
    let replaced = b.service.replace_owned(&files, vec![node("n2")], true).await.unwrap();
    assert_eq!((replaced.removed.len(), replaced.problems.len()), (4, 0), "{replaced:?}");
}
