//! Policies and namespaces as objects: names, owners, what is refused, what stays.

use serde_json::{Value, json};

use super::*;

fn policy(name: &str, more: &Value) -> Object {
    let mut value = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                           "metadata": {"name": name}, "spec": {}});
    for (key, part) in more.as_object().expect("a map") {
        for (field, wanted) in part.as_object().expect("a map") {
            value[key][field] = wanted.clone();
        }
    }
    fabric_api::parse::object(value).expect("a policy")
}

fn in_shop(name: &str) -> Object {
    policy(name, &json!({"metadata": {"namespace": "shop"}}))
}

fn guard(tier: &str) -> Object {
    object(
        &json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "metadata": {"name": "guard"},
            "spec": {"tier": tier, "priority": 1, "subject": {"namespaces": {}}}})
        .to_string(),
    )
}

#[tokio::test]
async fn one_name_may_be_in_two_namespaces_and_survives_a_restart() {
    let mut b = bench();
    let cli = Owner::cli();
    let all = vec![policy("db", &json!({})), in_shop("db"), guard("Admin")];
    let applied = b.service.apply(&cli, all.clone()).await.unwrap();
    let names: Vec<_> =
        applied.iter().map(|a| (a.kind.as_str(), a.name.as_str(), a.outcome.as_str())).collect();
    assert_eq!(
        names,
        [
            ("NetworkPolicy", "default/db", "created"),
            ("NetworkPolicy", "shop/db", "created"),
            ("ClusterNetworkPolicy", "guard", "created")
        ]
    );
    let again = b.service.apply(&cli, all).await.unwrap();
    assert!(again.iter().all(|a| a.outcome == "unchanged"), "{again:?}");
    let stored = b.service.policies().await.unwrap();
    drop(b.service);
    b.service = service_on(b.dir.path(), &b.fake);
    assert_eq!(b.service.policies().await.unwrap(), stored);
    let ids: Vec<_> = stored.iter().map(|o| o.id().into_owned()).collect();
    assert_eq!(ids, ["guard", "default/db", "shop/db"]);
    let metadata = |o: &Object| o.metadata().namespace.clone();
    assert_eq!(metadata(&stored[1]).as_deref(), Some("default"), "what was left open is written down");
    b.service.delete_policy(&cli, "shop/db").await.unwrap();
    assert_eq!(b.service.policy("shop/db").await.unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(b.service.policy("db").await.unwrap().id(), "default/db");
    assert_eq!(b.service.policy("NetworkPolicy/default/db").await.unwrap().id(), "default/db");
    assert_eq!(b.service.policy("ClusterNetworkPolicy/guard").await.unwrap().id(), "guard");
    let e = b.service.delete_policy(&cli, "ClusterNetworkPolicy/db").await.unwrap_err();
    assert!(e.message.contains("`fabric policy ls`"), "{e}");
    let twice = b.service.apply(&cli, vec![in_shop("x"), in_shop("x")]).await.unwrap_err();
    assert!(twice.message.contains("networkpolicy shop/x is given twice"), "{twice}");
}

#[tokio::test]
async fn a_name_that_several_policies_have_is_refused_with_what_it_may_be() {
    let b = bench();
    let cli = Owner::cli();
    let refused = async |name: &str| b.service.policy(name).await.unwrap_err();
    b.service.apply(&cli, vec![in_shop("db")]).await.unwrap();
    let elsewhere = refused("db").await;
    assert_eq!(elsewhere.kind, ErrorKind::NotFound);
    assert_eq!(
        elsewhere.message,
        "policy db is not in namespace default, but there is NetworkPolicy/shop/db: name it so"
    );
    let e = b.service.delete_policy(&cli, "db").await.unwrap_err();
    assert_eq!((e.kind, &e.message), (ErrorKind::NotFound, &elsewhere.message), "it may be the wrong one");
    b.service.apply(&cli, vec![policy("db", &json!({}))]).await.unwrap();
    let both = "policy db may be any of NetworkPolicy/default/db, NetworkPolicy/shop/db: \
                name one of them so, or its namespace with --namespace";
    assert_eq!((refused("db").await.kind, &*refused("db").await.message), (ErrorKind::Conflict, both));
    assert_eq!(b.service.delete_policy(&cli, "db").await.unwrap_err().message, both);
    assert_eq!(b.service.policies().await.unwrap().len(), 2, "nothing was removed");
    b.service.delete_policy(&cli, "default/db").await.unwrap();
    assert_eq!(b.service.policy("NetworkPolicy/shop/db").await.unwrap().id(), "shop/db");
}

#[tokio::test]
async fn only_the_owner_changes_a_policy() {
    let b = bench();
    let files = Owner::manifests(std::path::Path::new("/etc/fabric"));
    b.service.replace_owned(&files, vec![in_shop("db"), in_shop("web"), guard("Admin")], true).await.unwrap();
    let e = b.service.delete_policy(&Owner::cli(), "shop/db").await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Refused);
    assert!(e.message.starts_with("networkpolicy shop/db belongs to manifests:/etc/fabric"), "{e}");
    let replaced = b.service.replace_owned(&files, vec![in_shop("web")], true).await.unwrap();
    assert_eq!(replaced.removed.len(), 2, "{replaced:?}");
    let left = b.service.policies().await.unwrap();
    assert_eq!(left.iter().map(|o| o.id().into_owned()).collect::<Vec<_>>(), ["shop/web"]);
    let wrong = policy("web", &json!({"metadata": {"namespace": "shop"}, "spec": {"policyTypes": ["Both"]}}));
    let replaced = b.service.replace_owned(&files, vec![wrong], true).await.unwrap();
    assert!(
        replaced.problems[0].contains("shop/web") && replaced.problems[0].contains("\"Both\""),
        "{replaced:?}"
    );
    assert_eq!(b.service.policies().await.unwrap(), left, "the former state stays");
}

#[tokio::test]
async fn what_is_wrong_is_refused_by_object_and_field() {
    let b = bench();
    let refused = async |o: Object| b.service.apply(&Owner::cli(), vec![o]).await.unwrap_err().message;
    let rules = json!({"spec": {"ingress": [{"ports": [{"port": 0}]}]}});
    assert_eq!(
        refused(policy("db", &rules)).await,
        "networkpolicy default/db: spec.ingress[0]: ports[0]: 0 is not a port number: use 1 to 65535"
    );
    assert!(refused(guard("admin")).await.starts_with("clusternetworkpolicy guard: spec.tier: "));
    assert!(
        refused(policy("db", &json!({"metadata": {"namespace": "a/b"}}))).await.contains("namespace \"a/b\"")
    );
    let mut network = network("blue", "10.0.0.0/24");
    network.metadata.namespace = Some("shop".to_owned());
    assert!(refused(Object::Network(network)).await.contains("metadata.namespace is for NetworkPolicies"));
    assert!(b.service.policies().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_policy_counts_the_endpoints_it_applies_to() {
    let b = bench();
    let cli = Owner::cli();
    blue(&b, "10.1.0.0/24").await;
    let labelled = |name: &str, labels: &Value, more: &str| {
        let mut endpoint = endpoint(name, more);
        endpoint.metadata.labels = serde_json::from_value(labels.clone()).expect("labels");
        endpoint
    };
    for (name, app, more) in [("web", "web", ""), ("db", "db", r#","namespace":"shop""#)] {
        b.service.attach_endpoint(&cli, labelled(name, &json!({"app": app}), more)).await.unwrap();
    }
    let db =
        json!({"metadata": {"namespace": "shop"}, "spec": {"podSelector": {"matchLabels": {"app": "db"}}}});
    b.service.apply(&cli, vec![policy("db", &db), guard("Baseline")]).await.unwrap();
    let counts = async || {
        let policies = b.service.policies().await.unwrap();
        let count = |o: &Object| match o {
            Object::NetworkPolicy(p) => p.status.as_ref().map(|s| s.endpoints),
            Object::ClusterNetworkPolicy(p) => p.status.as_ref().map(|s| s.endpoints),
            Object::Network(_)
            | Object::Node(_)
            | Object::Endpoint(_)
            | Object::Namespace(_)
            | Object::DenySet(_) => None,
        };
        policies.iter().filter_map(count).collect::<Vec<_>>()
    };
    assert_eq!(counts().await, [2, 1]);
    // Labels change by declaring the endpoint again; what is left open is as if it were new, the attachment stays.
    let changed = object(
        r#"{"kind":"Endpoint","metadata":{"name":"db","labels":{"app":"other"}},"spec":{"network":"blue","namespace":"shop"}}"#,
    );
    let applied = b.service.apply(&cli, vec![changed]).await.unwrap();
    assert_eq!(applied[0].outcome, "changed");
    assert_eq!(counts().await, [2, 0]);
    let db = b.service.endpoint("db").await.unwrap();
    assert_eq!(db.spec.namespace.as_deref(), Some("shop"));
    assert!(db.spec.attachment.is_some() && db.metadata.labels["app"] == "other");
}

#[tokio::test]
async fn namespaces_are_those_with_labels_and_those_in_use() {
    let b = bench();
    let cli = Owner::cli();
    blue(&b, "10.1.0.0/24").await;
    attach(&b, "web", "").await.unwrap();
    let labelled =
        object(r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"zoo","labels":{"team":"a"}}}"#);
    b.service.apply(&cli, vec![labelled, in_shop("db")]).await.unwrap();
    let all = b.service.namespaces().await.unwrap();
    let known: Vec<_> = all
        .iter()
        .map(|n| (n.metadata.name.as_str(), n.status.as_ref().map(|s| (s.endpoints, s.policies)).unwrap()))
        .collect();
    assert_eq!(known, [("blue", (1, 0)), ("shop", (0, 1)), ("zoo", (0, 0))]);
    b.service.delete_namespace(&cli, "zoo").await.unwrap();
    assert_eq!(b.service.namespace("zoo").await.unwrap_err().kind, ErrorKind::NotFound);
    let e = b.service.delete_namespace(&cli, "shop").await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::NotFound, "it has no object");
}
