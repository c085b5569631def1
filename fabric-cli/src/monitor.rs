//! `fabric monitor`.

use anyhow::{Context, bail};
use clap::Args;
use fabric_api::{
    Event,
    client::{Client, EventFilter},
};
use tokio::signal::unix::{SignalKind, signal};

use crate::output::{self, Format};

#[derive(Debug, Args)]
#[command(
    after_help = "Packets that passed are told of where a policy asks for it: would_drop, allowed.\n\nExample:\n  fabric monitor --drops --endpoint web\n  fabric monitor --drops -o json | jq -r .reason"
)]
pub(crate) struct MonitorArgs {
    /// Only dropped packets, without the verdicts that policies want reported
    #[arg(long)]
    drops: bool,
    /// Only packets of this local endpoint
    #[arg(long, value_name = "NAME")]
    endpoint: Option<String>,
    /// Form of the output: table (one line a packet) or json (one object a line)
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    format: Format,
}

/// Prints events until the agent ends, the reader goes away, or SIGINT or SIGTERM arrives.
pub(crate) async fn run(client: &Client, args: MonitorArgs) -> anyhow::Result<()> {
    if args.format == Format::Yaml {
        bail!("a live stream has no YAML form: use -o json, one object a line");
    }
    let mut interrupt = signal(SignalKind::interrupt()).context("can't wait for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("can't wait for SIGTERM")?;
    let filter = EventFilter { drops: args.drops, endpoint: args.endpoint };
    let mut events = client.events(&filter).await?;
    loop {
        let event = tokio::select! {
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            event = events.next() => event?,
        };
        let Some(event) = event else { bail!("the agent has ended: start it again, then the monitor") };
        if args.format == Format::Json {
            output::line(&serde_json::to_string(&event).context("can't write this as JSON")?)?;
        } else {
            output::line(&line(&event, args.format == Format::Wide))?;
        }
    }
}

/// One packet: time, hook, reason, network, endpoint, five-tuple or MACs, length. The wide form has the MACs and the
/// interface in any case.
fn line(event: &Event, wide: bool) -> String {
    // The date is the reader's own.
    let time = event.time.split_once('T').map_or(event.time.as_str(), |(_, time)| time);
    let reason = match &event.rule {
        Some(rule) => format!("{} by {rule}", event.reason),
        None => event.reason.clone(),
    };
    let mut line = format!(
        "{} {:<14} {:<20} network {} endpoint {} {}",
        time.trim_end_matches('Z'),
        event.hook,
        reason,
        or_dash(&event.network),
        or_dash(&event.endpoint),
        packet(event),
    );
    if wide && event.src.is_some() {
        line.push_str(&format!(" {}", macs(event)));
    }
    if wide {
        line.push_str(&format!(" on {}", or_dash(&event.ifname)));
    }
    if let Some(vtep) = event.vtep {
        line.push_str(&format!(" from VTEP {vtep}"));
    }
    line.push_str(&format!(" {} bytes", event.length));
    if event.suppressed > 0 {
        line.push_str(&format!(" ({} before it not shown: rate limit)", event.suppressed));
    }
    if event.lost > 0 {
        line.push_str(&format!(" ({} before it lost: read too slowly)", event.lost));
    }
    line
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

fn macs(event: &Event) -> String {
    format!("{} > {} {}", event.src_mac, event.dst_mac, event.ethertype)
}

fn packet(event: &Event) -> String {
    let (Some(src), Some(dst)) = (event.src, event.dst) else { return macs(event) };
    if event.src_port == 0 && event.dst_port == 0 {
        return format!("{src} > {dst} {}", or_dash(&event.protocol));
    }
    let side = |ip: std::net::IpAddr, port| {
        if ip.is_ipv6() { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
    };
    format!("{} > {} {}", side(src, event.src_port), side(dst, event.dst_port), or_dash(&event.protocol))
}

#[cfg(test)]
mod tests {
    use fabric_api::Event;

    use super::line;

    fn event() -> Event {
        Event {
            time: "2026-01-02T03:04:05.123456Z".to_owned(),
            hook: "from_container".to_owned(),
            reason: "spoof_ip".to_owned(),
            network: "blue".to_owned(),
            endpoint: "web".to_owned(),
            ifname: "fab0123456789ab".to_owned(),
            src_mac: "02:fc:c0:a8:0a:02".to_owned(),
            dst_mac: "02:fc:c0:a8:0a:03".to_owned(),
            ethertype: "0x0800".to_owned(),
            length: 74,
            ..Event::default()
        }
    }

    #[test]
    fn a_packet_without_addresses_shows_its_macs() {
        assert_eq!(
            line(&event(), false),
            "03:04:05.123456 from_container spoof_ip             network blue endpoint web \
             02:fc:c0:a8:0a:02 > 02:fc:c0:a8:0a:03 0x0800 74 bytes"
        );
    }

    #[test]
    fn a_drop_by_a_policy_names_the_rule() {
        let rule = Some("NetworkPolicy/shop/db/ingress".to_owned());
        let text = line(&Event { reason: "policy_ingress".to_owned(), rule, ..event() }, false);
        assert!(text.contains(" policy_ingress by NetworkPolicy/shop/db/ingress network blue "), "{text}");
    }

    #[test]
    fn a_packet_with_addresses_shows_its_five_tuple() {
        let mut event = event();
        event.src = Some("192.168.10.9".parse().expect("an address"));
        event.dst = Some("fd00::1".parse().expect("an address"));
        event.protocol = "TCP".to_owned();
        (event.src_port, event.dst_port, event.suppressed, event.lost) = (4242, 80, 3, 2);
        let text = line(&event, true);
        assert!(text.contains(" 192.168.10.9:4242 > [fd00::1]:80 TCP 02:fc:c0:a8:0a:02 > "), "{text}");
        assert!(
            text.contains(" on fab0123456789ab 74 bytes (3 before it not shown: rate limit) (2 before"),
            "{text}"
        );
    }
}
