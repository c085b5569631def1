//! Policies and connections that go on: cut when their permission goes, answered while it is there, whatever becomes of the agents.

use std::{
    thread::sleep,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use fabric_lab::{Background, Cast, recipes::recipes, until};
use serde_json::Value;

/// Between what happened in the network and the reader's clock.
const SLACK: u64 = 1_000_000;

/// Nobody reaches the endpoints of a namespace that have a label.
fn deny_ingress(name: &str, namespace: &str, label: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{podSelector: {{matchLabels: {{{label}}}}}, policyTypes: [Ingress]}}\n"
    )
}

/// Unix time, µs.
fn now() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?)
}

/// Keeps a TCP connection from one member to another's port 80 busy.
fn hold(cast: &Cast, from: &str, to: &str, six: bool) -> Result<Background> {
    let [v4, v6] = cast.addresses(to)?;
    let to = if six { format!("[{v6}]:80") } else { format!("{v4}:80") };
    let own = &cast.addresses(from)?[usize::from(six)];
    cast.container(from)?.background(&["hold", "--to", &to, "--from", own, "--seconds", "120"])
}

fn number(report: &Value, field: &str) -> Result<u64> {
    report[field].as_u64().with_context(|| format!("no {field} in {report}"))
}

/// Ends a connection; every byte was answered.
fn unharmed(held: Background, what: &str) -> Result<()> {
    let report = held.report()?;
    ensure!(number(&report, "sent")? > 50, "{what} hardly ran: {report}");
    ensure!(report["sent"] == report["answered"] && report["ended"].is_null(), "{what}: {report}");
    // Nothing was lost either: TCP would have sent it again 200 ms later.
    ensure!(number(&report, "longest_gap_us")? < 200_000, "{what}: {report}");
    Ok(())
}

/// Ends a connection; it was answered until something happened between two times, and not behind them.
fn cut(held: Background, what: &str, from: u64, to: u64) -> Result<()> {
    let report = held.report()?;
    let last = number(&report, "last_us")?;
    ensure!(last + SLACK >= from, "{what} was cut {} ms too early: {report}", (from - last) / 1000);
    ensure!(
        last <= to + SLACK,
        "{what} was answered {} ms after it was forbidden: {report}",
        (last - to) / 1000
    );
    Ok(())
}

#[test]
fn a_connection_is_cut_with_its_permission_and_a_stream_comes_back_with_it() -> Result<()> {
    let cast = Cast::new("pcut")?;
    // Permitted by a policy, so that they are tracked; from another host, from the same one, and from outside.
    let permission = recipes("03")?.remove(0);
    cast.enforce(&permission.manifest)?;
    let mut held = Vec::new();
    for (from, six) in [("front", false), ("front", true), ("mon", false), ("admin", true), ("ext", false)] {
        held.push((format!("{from}, IPv6 {six}"), hold(&cast, from, "web", six)?));
    }
    let other = hold(&cast, "front", "mon", false)?;
    let web = cast.addresses("web")?[0].clone();
    let probe =
        cast.container("db")?.background(&["probe", "--to", &format!("{web}:53"), "--seconds", "60"])?;
    sleep(Duration::from_secs(1));
    let before = now()?;
    // What is left denies everything in the namespace.
    cast.lab().host(1).fabric(&["policy", "rm", "default/web-allow-all"])?;
    for host in cast.lab().hosts() {
        until("the permission is gone", || host.policies().is_ok_and(|all| all.len() == 1 && all[0].ready))?;
    }
    let revoked = now()?;
    sleep(Duration::from_secs(3));
    for (what, held) in held {
        cut(held, &what, before, revoked)?;
    }
    let returning = now()?;
    cast.remove_policies()?;
    cast.until_open()?;
    let returned = now()?;
    sleep(Duration::from_millis(500));
    let report = probe.report()?;
    let gap = number(&report, "longest_gap_us")?;
    ensure!(gap + SLACK >= returning - revoked, "the stream was not stopped for long enough: {report}");
    ensure!(gap <= returned - before + SLACK, "the stream was stopped for too long: {report}");
    unharmed(other, "a connection that no policy is about")
}

#[test]
fn replies_pass_and_a_policy_that_permits_does_not_cut() -> Result<()> {
    let cast = Cast::new("preply")?;
    let early = hold(&cast, "front", "web", false)?;
    sleep(Duration::from_millis(500));
    // Nobody may reach mon and db; what they ask others is answered.
    let both = [deny_ingress("mon", "ops", "app: prometheus"), deny_ingress("db", "default", "app: db")];
    cast.enforce_text(&both.join("---\n"))?;
    let pairs = [
        ("mon", "web", false),
        ("mon", "front", true),
        ("db", "web", false),
        ("db", "job", true),
        ("db", "ext", false),
    ];
    let mut held = Vec::new();
    for (from, to, six) in pairs {
        held.push((format!("{from} to {to}"), hold(&cast, from, to, six)?));
    }
    sleep(Duration::from_secs(1));
    // Now nobody may reach front either, which has a connection of which nothing is known yet; web is for the bookstore.
    cast.enforce_text(&deny_ingress("front", "default", "role: frontend"))?;
    cast.enforce(&recipes("02")?.remove(0).manifest)?;
    let forbidden = now()?;
    sleep(Duration::from_secs(3));
    for (what, held) in held {
        if ["mon to web", "mon to front", "db to web"].contains(&what.as_str()) {
            cut(held, &what, 0, forbidden)?;
        } else {
            unharmed(held, &what)?;
        }
    }
    // The answers of one round trip came before front's next byte told of the connection: TCP sent them again.
    let report = early.report()?;
    ensure!(report["sent"] == report["answered"] && report["ended"].is_null(), "front to web: {report}");
    Ok(())
}

#[test]
fn policies_hold_while_agents_die_and_return_and_connections_go_on() -> Result<()> {
    let mut cast = Cast::new("pdie")?;
    let recipe = recipes("02")?.remove(0);
    cast.enforce(&recipe.manifest)?;
    let sink = cast.container("web")?.serve(&["udp-sink", "--bind", "0.0.0.0:7000", "--seconds", "120"])?;
    let to = format!("{}:7000", cast.addresses("web")?[0]);
    let mut floods = Vec::new();
    for from in ["db", "mon"] {
        let line = ["udp-flood", "--to", &to, "--rate", "1000", "--seconds", "120"];
        floods.push(cast.container(from)?.background(&line)?);
    }
    let held = [
        hold(&cast, "front", "web", false)?,
        hold(&cast, "front", "web", true)?,
        hold(&cast, "web", "misc", false)?,
    ];
    let matrix = |cast: &Cast, when: &str| -> Result<()> {
        let questions: Vec<_> = recipe.matrix.keys().cloned().collect();
        for ((question, six), outcome) in cast.ask(&questions)? {
            let expected = if recipe.matrix[&question] { "open" } else { "timeout" };
            ensure!(outcome == expected, "{when}: {question:?}, IPv6 {six}: {outcome}, not {expected}");
        }
        Ok(())
    };
    matrix(&cast, "with agents")?;
    for n in [1, 2] {
        cast.lab_mut().host_mut(n).kill_agent()?;
    }
    matrix(&cast, "without agents")?;
    for n in [1, 2] {
        cast.lab_mut().host_mut(n).start_agent()?;
    }
    matrix(&cast, "with new agents")?;
    for n in [1, 2] {
        cast.lab_mut().host_mut(n).term_agent()?;
        cast.lab_mut().host_mut(n).start_agent()?;
    }
    for held in held {
        unharmed(held, "a permitted connection")?;
    }
    for flood in floods {
        ensure!(number(&flood.report()?, "sent")? > 5000, "the flood hardly ran");
    }
    let received = number(&sink.report()?, "packets")?;
    ensure!(received == 0, "{received} packets came through while agents died and returned");
    for host in cast.lab().hosts() {
        ensure!(host.policies()?.iter().all(|policy| policy.ready), "{:?}", host.policies()?);
        let status = host.status()?;
        ensure!(status.problems.is_empty() && status.reconcile.repairs == 0, "{:?}", status.reconcile);
    }
    cast.remove_policies()?;
    cast.until_open()
}

#[test]
fn a_policy_cuts_connections_that_are_older_than_it() -> Result<()> {
    let cast = Cast::new("pold")?;
    let mut held = Vec::new();
    for (from, six) in [("front", false), ("mon", true), ("ext", false)] {
        held.push((from, hold(&cast, from, "web", six)?));
    }
    let other = hold(&cast, "front", "db", false)?;
    sleep(Duration::from_secs(1));
    let before = now()?;
    cast.enforce(&recipes("01")?.remove(0).manifest)?;
    let forbidden = now()?;
    sleep(Duration::from_secs(3));
    for (what, held) in held {
        cut(held, what, before, forbidden)?;
    }
    unharmed(other, "a connection that no policy is about")
}
