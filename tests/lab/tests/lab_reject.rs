//! What a policy rejects is refused at once, in containers that connect for real: on the receiver's host, and through the tunnel.
//! What it only denies runs into the sender's own patience; what an audited policy would drop passes and is told.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fabric_lab::{Cast, until};

/// Nobody reaches web, which is treated so.
fn deny(annotations: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{name: web, namespace: default, annotations: {{{annotations}}}}}\n\
         spec: {{podSelector: {{matchLabels: {{role: api}}}}, policyTypes: [Ingress]}}\n"
    )
}

/// What somebody hears who tries web by TCP and UDP, IPv4 and IPv6, and how long that took.
fn tries(cast: &Cast, from: &str, timeout: &str) -> Result<([String; 4], Duration)> {
    let [v4, v6] = cast.addresses("web")?;
    let [own4, own6] = cast.addresses(from)?;
    let to =
        [format!("tcp/{v4}:80"), format!("tcp/[{v6}]:80"), format!("udp/{v4}:53"), format!("udp/[{v6}]:53")];
    let mut line = vec!["reach", "--timeout", timeout, "--from", own4, "--from", own6];
    line.extend(to.iter().flat_map(|to| ["--to", to.as_str()]));
    let start = Instant::now();
    let report = cast.container(from)?.traffic(&line)?;
    let outcome = |at: usize| report[at]["outcome"].as_str().unwrap_or_default().to_owned();
    Ok(([0, 1, 2, 3].map(outcome), start.elapsed()))
}

#[test]
fn a_rejected_connection_is_refused_at_once_and_a_denied_one_is_not() -> Result<()> {
    let cast = Cast::new("prej")?;
    let web = cast.container("web")?.host();
    let senders = ["mon", "front", "job"];
    let here = senders.iter().filter(|name| cast.container(name).is_ok_and(|c| c.host() == web)).count();
    ensure!((1..3).contains(&here), "{here} senders of three are on web's host");
    cast.enforce_text(&deny("fabric.io/on-deny: reject"))?;
    for from in senders {
        let (heard, took) = tries(&cast, from, "3000")?;
        ensure!(heard[..2] == ["refused", "refused"], "{from}: {heard:?}");
        // `icmp_err_convert` and `tab_unreach` of Linux.
        ensure!(heard[2].starts_with("No route to host"), "{from}: {heard:?}");
        ensure!(heard[3].starts_with("Permission denied"), "{from}: {heard:?}");
        ensure!(took < Duration::from_secs(2), "{from}: only after {took:?}");
    }
    let (_, answer) =
        cast.lab().host(1).policy_test(&Cast::called("front"), &Cast::called("web"), "tcp", 80)?;
    ensure!(answer["ingress"]["reject"] == true, "{answer}");

    cast.enforce_text(&deny(""))?;
    until("what is denied is not answered", || {
        tries(&cast, "mon", "300").is_ok_and(|(heard, _)| heard.iter().all(|outcome| outcome == "timeout"))
    })?;

    cast.enforce_text(&deny("fabric.io/mode: audit"))?;
    cast.until_open().context("under an audited policy")?;
    let host = cast.lab().host(web);
    let flows = host.fabric(&["flows"])?;
    ensure!(flows.contains("NetworkPolicy/default/web/ingress (would drop)"), "{flows}");
    let (allowed, answer) = host.policy_test(&Cast::called("front"), &Cast::called("web"), "tcp", 80)?;
    ensure!(allowed && answer["ingress"]["wouldDeny"] == "NetworkPolicy/default/web/ingress", "{answer}");
    for host in cast.lab().hosts() {
        let status = host.status()?;
        ensure!(status.problems.is_empty(), "{}: {:?}", host.name(), status.problems);
    }
    Ok(())
}
