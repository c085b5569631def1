//! `fabric policy`.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, Subcommand};
use fabric_api::{
    client::Client,
    object::Object,
    policy::{LintFinding, PolicyAnswer, PolicyQuestion, PolicySide},
    status::{PolicyStatus, RuleStatus},
};

use crate::{
    apply,
    output::{self, Column, Format, OutputArgs},
};

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Create or change policies and namespaces from YAML or JSON files, all or none
    #[command(
        after_help = "Example:\n  fabric policy apply -f deny-all.yaml allow-web.yaml\n  ssh host-a cat web.yaml | fabric policy apply -f -"
    )]
    Apply(ApplyArgs),
    /// List the policies
    #[command(visible_alias = "list", after_help = "Example:\n  fabric policy ls -o wide")]
    Ls(OutputArgs),
    /// Show one policy, and what its rules decided on, on this node
    #[command(
        after_help = "Example:\n  fabric policy inspect db --namespace shop\n  fabric policy inspect cluster-guard -o yaml"
    )]
    Inspect(InspectArgs),
    /// Remove a policy
    #[command(after_help = "Example:\n  fabric policy rm db --namespace shop")]
    Rm(NamedArgs),
    /// Ask the policies whether one may talk to the other, without sending anything
    #[command(
        after_help = "Example:\n  fabric policy test --from web --to db --proto tcp --port 5432 --explain\n  fabric policy test --from 203.0.113.7 --to web --port 443\n  fabric policy test --from web --to www.example.com --port 443"
    )]
    Test(TestArgs),
    /// Look for what is probably not meant: rules that can't decide, selectors that select nobody
    #[command(after_help = "Example:\n  fabric policy lint")]
    Lint(OutputArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// Files of YAML or JSON with NetworkPolicies, ClusterNetworkPolicies and Namespaces; - reads standard input
    #[arg(short = 'f', long = "file", value_name = "FILE", required = true, num_args = 1..)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    named: NamedArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct NamedArgs {
    /// NAME of a ClusterNetworkPolicy or of a NetworkPolicy in namespace default; NAMESPACE/NAME; either with the kind in front
    name: String,
    /// Namespace of the NetworkPolicy
    #[arg(long, value_name = "NS")]
    namespace: Option<String>,
}

impl NamedArgs {
    /// The name as the agent takes it.
    fn full(&self) -> anyhow::Result<String> {
        let Some(namespace) = &self.namespace else { return Ok(self.name.clone()) };
        let name = self.name.strip_prefix("NetworkPolicy/").unwrap_or(&self.name);
        if name.contains('/') {
            bail!(
                "{} already says where the policy is: leave --namespace out, or name the policy alone",
                self.name
            );
        }
        Ok(format!("NetworkPolicy/{namespace}/{name}"))
    }
}

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Who starts: an endpoint or an address
    #[arg(long, value_name = "ENDPOINT|IP")]
    from: String,
    /// Who is asked: an endpoint, an address or a domain name
    #[arg(long, value_name = "ENDPOINT|IP|DOMAIN")]
    to: String,
    /// tcp, udp, sctp, icmp, icmpv6 or a protocol number; tcp if absent
    #[arg(long, value_name = "PROTOCOL")]
    proto: Option<String>,
    /// Destination port; tcp, udp and sctp need one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// The network that addresses are in
    #[arg(long, value_name = "NET")]
    network: Option<String>,
    /// Show every rule that was asked, and why it matches or does not
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    output: OutputArgs,
}

const COLUMNS: &[Column<Object>] = &[
    Column::new("NAME", |policy| policy.id().into_owned()),
    Column::new("KIND", |policy| policy.kind().to_owned()),
    Column::new("TIER", |policy| match policy {
        Object::ClusterNetworkPolicy(policy) => format!("{} {}", policy.spec.tier, policy.spec.priority),
        Object::Network(_)
        | Object::Node(_)
        | Object::Endpoint(_)
        | Object::Namespace(_)
        | Object::DenySet(_)
        | Object::NetworkPolicy(_) => String::new(),
    }),
    Column::new("INGRESS", |policy| rules(policy).0),
    Column::new("EGRESS", |policy| rules(policy).1),
    Column::new("ENDPOINTS", |policy| {
        status(policy).map_or_else(String::new, |status| status.endpoints.to_string())
    }),
    Column::new("PACKETS", |policy| total(policy, |rule| rule.packets)),
    Column::new("BYTES", |policy| total(policy, |rule| rule.bytes)),
    Column::new("STATE", |policy| {
        status(policy).map_or_else(String::new, |status| output::state(status.state, &status.reason))
    }),
    Column::wide("OWNER", |policy| policy.metadata().owner.clone()),
    Column::wide("LABELS", |policy| output::labels(policy.metadata())),
];

const RULES: &[Column<RuleStatus>] = &[
    Column::new("RULE", |rule| rule.rule.clone()),
    Column::new("PACKETS", |rule| rule.packets.to_string()),
    Column::new("BYTES", |rule| rule.bytes.to_string()),
];

const FINDINGS: &[Column<LintFinding>] = &[
    Column::new("POLICY", |finding| finding.policy.clone()),
    Column::new("RULE", |finding| finding.rule.clone().unwrap_or_default()),
    Column::new("FINDING", |finding| finding.text.clone()),
];

/// Numbers of rules, ingress and egress; empty where the policy says nothing of that direction.
fn rules(policy: &Object) -> (String, String) {
    let count = |number: usize| if number == 1 { "1 rule".to_owned() } else { format!("{number} rules") };
    match policy {
        Object::NetworkPolicy(policy) => {
            let spec = &policy.spec;
            let ingress = spec.ingress.as_ref().map_or(0, Vec::len);
            let egress = spec.egress.as_ref().map_or(0, Vec::len);
            let types = spec.policy_types.as_deref().unwrap_or_default();
            let has = |name: &str, by_default: bool| {
                if types.is_empty() { by_default } else { types.iter().any(|t| t == name) }
            };
            let text = |applies: bool, number| if applies { count(number) } else { String::new() };
            (text(has("Ingress", true), ingress), text(has("Egress", egress > 0), egress))
        }
        Object::ClusterNetworkPolicy(policy) => {
            let text = |number: usize| if number > 0 { count(number) } else { String::new() };
            let ingress = policy.spec.ingress.as_ref().map_or(0, Vec::len);
            (text(ingress), text(policy.spec.egress.as_ref().map_or(0, Vec::len)))
        }
        Object::Network(_)
        | Object::Node(_)
        | Object::Endpoint(_)
        | Object::Namespace(_)
        | Object::DenySet(_) => (String::new(), String::new()),
    }
}

fn status(policy: &Object) -> Option<&PolicyStatus> {
    match policy {
        Object::NetworkPolicy(policy) => policy.status.as_ref(),
        Object::ClusterNetworkPolicy(policy) => policy.status.as_ref(),
        Object::Network(_)
        | Object::Node(_)
        | Object::Endpoint(_)
        | Object::Namespace(_)
        | Object::DenySet(_) => None,
    }
}

/// A sum over the rules that are counted here; empty if none is.
fn total(policy: &Object, of: fn(&RuleStatus) -> u64) -> String {
    let rules = status(policy).map_or(&[][..], |status| &status.rules);
    if rules.is_empty() { String::new() } else { rules.iter().map(of).sum::<u64>().to_string() }
}

fn inspect(format: Format, policy: &Object) -> anyhow::Result<()> {
    output::one(format, policy, COLUMNS)?;
    match status(policy) {
        Some(status) if matches!(format, Format::Table | Format::Wide) && !status.rules.is_empty() => {
            output::line("")?;
            output::list(format, &status.rules, RULES, "")
        }
        _ => Ok(()),
    }
}

/// Runs one verb.
pub(crate) async fn run(client: &Client, command: PolicyCommand) -> anyhow::Result<()> {
    match command {
        PolicyCommand::Apply(args) => {
            let objects = apply::read_all(&args.files)?;
            let known = ["NetworkPolicy", "ClusterNetworkPolicy", "Namespace"];
            if let Some(other) = objects.iter().find(|object| !known.contains(&object.kind())) {
                let (kind, name) = (other.kind().to_lowercase(), other.id());
                bail!("{kind} {name} is no policy: use `fabric apply`, which takes objects of every kind");
            }
            apply::send(client, &objects, args.output.format).await
        }
        PolicyCommand::Ls(args) => {
            let empty = "no policies yet: everybody may talk to everybody; add one with `fabric policy apply -f FILE`";
            output::list(args.format, &client.policies().await?, COLUMNS, empty)
        }
        PolicyCommand::Inspect(args) => {
            inspect(args.output.format, &client.policy(&args.named.full()?).await?)
        }
        PolicyCommand::Rm(args) => {
            let name = args.full()?;
            client.delete_policy(&name).await?;
            output::line(&format!("policy {} removed", name.strip_prefix("NetworkPolicy/").unwrap_or(&name)))
        }
        PolicyCommand::Test(args) => test(client, args).await,
        PolicyCommand::Lint(args) => {
            output::list(args.format, &client.lint_policies().await?, FINDINGS, "nothing found")
        }
    }
}

async fn test(client: &Client, args: TestArgs) -> anyhow::Result<()> {
    let question = PolicyQuestion {
        from: args.from,
        to: args.to,
        protocol: args.proto,
        port: args.port,
        network: args.network,
    };
    let answer = client.test_policies(&question).await?;
    match args.output.format {
        Format::Json | Format::Yaml => output::machine(args.output.format, &answer),
        Format::Table => output::text(&page(&question, &answer, args.explain)),
        Format::Wide => output::text(&page(&question, &answer, true)),
    }
}

/// The answer first, then each side.
fn page(question: &PolicyQuestion, answer: &PolicyAnswer, explain: bool) -> String {
    let verdict = if answer.allowed { "allowed" } else { "denied" };
    let protocol = question.protocol.as_deref().unwrap_or("tcp");
    let port = question.port.map_or_else(String::new, |port| format!(" port {port}"));
    let mut text = format!("{verdict}: {} > {} {protocol}{port}\n", question.from, question.to);
    let sides = [("egress", &answer.egress), ("ingress", &answer.ingress)];
    for (direction, side) in sides {
        if let Some(side) = side {
            text.push_str(&side_text(direction, side, explain));
        }
    }
    if answer.egress.is_none() && answer.ingress.is_none() {
        text.push_str("neither side is an endpoint, so no policy is asked\n");
    }
    text
}

fn side_text(direction: &str, side: &PolicySide, explain: bool) -> String {
    let rule = side.rule.as_ref().map_or_else(|| "no rule decides".to_owned(), |rule| format!("by {rule}"));
    let told = if side.reject { ", and the sender is told" } else { "" };
    let mut text = format!("{direction} of {}: {}, {rule}{told}\n", side.endpoint, side.verdict);
    if let Some(rule) = &side.would_deny {
        text.push_str(&format!("  would drop: by {rule}, whose policy is audited\n"));
    }
    if explain && !side.candidates.is_empty() {
        let row = |c: &fabric_api::policy::PolicyCandidate| {
            let matches = if c.matches { "matches" } else { "does not match" };
            vec![format!("  {}", c.rule), c.verdict.clone(), matches.to_owned(), c.why.clone()]
        };
        text.push_str(&output::table(None, side.candidates.iter().map(row).collect()));
    }
    text
}

#[cfg(test)]
mod tests {
    use fabric_api::{object::Object, parse, policy::PolicyCandidate};
    use serde_json::json;

    use super::*;

    fn policy(spec: serde_json::Value) -> Object {
        parse::object(json!({"kind": "NetworkPolicy", "metadata": {"name": "a"}, "spec": spec}))
            .expect("a policy")
    }

    #[test]
    fn directions_that_a_policy_says_nothing_of_are_empty() {
        let of = |spec| rules(&policy(spec));
        assert_eq!(of(json!({})), ("0 rules".to_owned(), String::new()));
        assert_eq!(of(json!({"egress": [{}]})), ("0 rules".to_owned(), "1 rule".to_owned()));
        assert_eq!(of(json!({"policyTypes": ["Egress"]})), (String::new(), "0 rules".to_owned()));
    }

    #[test]
    fn an_answer_names_the_rule_and_if_asked_those_before_it() {
        let candidate = |rule: &str, matches| PolicyCandidate {
            rule: rule.to_owned(),
            verdict: "accept".to_owned(),
            matches,
            why: "port 80".to_owned(),
        };
        let side = PolicySide {
            endpoint: "db".to_owned(),
            verdict: "deny".to_owned(),
            rule: Some("NetworkPolicy/shop/db/ingress".to_owned()),
            candidates: vec![candidate("NetworkPolicy/shop/db/ingress/0", false)],
            ..PolicySide::default()
        };
        let answer = PolicyAnswer { allowed: false, egress: None, ingress: Some(side) };
        let question = PolicyQuestion {
            from: "web".to_owned(),
            to: "db".to_owned(),
            port: Some(81),
            ..PolicyQuestion::default()
        };
        let short = "denied: web > db tcp port 81\ningress of db: deny, by NetworkPolicy/shop/db/ingress\n";
        assert_eq!(page(&question, &answer, false), short);
        let long = format!("{short}  NetworkPolicy/shop/db/ingress/0  accept  does not match  port 80\n");
        assert_eq!(page(&question, &answer, true), long);
    }
}
