//! `fabric namespace`.

use clap::{Args, Subcommand};
use fabric_api::{
    client::{Client, ClientError},
    object::{API_VERSION, Metadata, Namespace, Object},
};

use crate::{
    args::label,
    output::{self, Column, Format, OutputArgs},
};

#[derive(Debug, Subcommand)]
pub(crate) enum NamespaceCommand {
    /// List the namespaces: those with labels of their own, and those that endpoints or policies name
    #[command(visible_alias = "list", after_help = "Example:\n  fabric namespace ls -o wide")]
    Ls(OutputArgs),
    /// Show one namespace
    #[command(after_help = "Example:\n  fabric namespace inspect shop")]
    Inspect(InspectArgs),
    /// Give a namespace labels, change them or take them away
    #[command(after_help = "Example:\n  fabric namespace label shop team=web env-")]
    Label(LabelArgs),
    /// Remove a namespace's labels; its endpoints and policies stay
    #[command(after_help = "Example:\n  fabric namespace rm shop")]
    Rm(NameArgs),
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The namespace
    name: String,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The namespace
    name: String,
}

#[derive(Debug, Args)]
pub(crate) struct LabelArgs {
    /// The namespace; it need not exist yet
    name: String,
    /// Labels to set, and with a - behind the key to take away
    #[arg(value_name = "KEY=VALUE|KEY-", required = true, value_parser = change)]
    changes: Vec<Change>,
    #[command(flatten)]
    output: OutputArgs,
}

/// What becomes of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    key: String,
    /// None takes it away.
    value: Option<String>,
}

fn change(text: &str) -> Result<Change, String> {
    if let Some(key) = text.strip_suffix('-').filter(|key| !key.is_empty() && !key.contains('=')) {
        return Ok(Change { key: key.to_owned(), value: None });
    }
    label(text)
        .map(|(key, value)| Change { key, value: Some(value) })
        .map_err(|_| "write KEY=VALUE, like team=web, or KEY- to take the label away".to_owned())
}

const COLUMNS: &[Column<Namespace>] = &[
    Column::new("NAME", |namespace| namespace.metadata.name.clone()),
    Column::new("ENDPOINTS", |namespace| {
        namespace.status.as_ref().map_or_else(String::new, |status| status.endpoints.to_string())
    }),
    Column::new("POLICIES", |namespace| {
        namespace.status.as_ref().map_or_else(String::new, |status| status.policies.to_string())
    }),
    Column::new("LABELS", |namespace| output::labels(&namespace.metadata)),
    Column::wide("OWNER", |namespace| namespace.metadata.owner.clone()),
];

/// Runs one verb.
pub(crate) async fn run(client: &Client, command: NamespaceCommand) -> anyhow::Result<()> {
    match command {
        NamespaceCommand::Ls(args) => {
            let empty =
                "no namespaces yet: an endpoint's is its network's name, unless its spec says another";
            output::list(args.format, &client.namespaces().await?, COLUMNS, empty)
        }
        NamespaceCommand::Inspect(args) => {
            output::one(args.output.format, &client.namespace(&args.name).await?, COLUMNS)
        }
        NamespaceCommand::Label(args) => set_labels(client, args).await,
        NamespaceCommand::Rm(args) => {
            client.delete_namespace(&args.name).await?;
            output::line(&format!("namespace {} removed", args.name))
        }
    }
}

async fn set_labels(client: &Client, args: LabelArgs) -> anyhow::Result<()> {
    let known = match client.namespace(&args.name).await {
        Ok(known) => known.metadata,
        Err(ClientError::Refused { status: 404, .. }) => Metadata::default(),
        Err(error) => return Err(error.into()),
    };
    let mut labels = known.labels;
    for Change { key, value } in args.changes {
        match value {
            Some(value) => drop(labels.insert(key, value)),
            None => drop(labels.remove(&key)),
        }
    }
    let metadata =
        Metadata { name: args.name.clone(), labels, annotations: known.annotations, ..Metadata::default() };
    let namespace = Namespace { api_version: API_VERSION.to_owned(), metadata, status: None };
    client.apply(&[Object::Namespace(namespace)]).await?;
    let labelled = client.namespace(&args.name).await?;
    match args.output.format {
        Format::Table => {
            let labels = output::labels(&labelled.metadata);
            let labels = if labels.is_empty() { "none".to_owned() } else { labels };
            output::line(&format!("namespace {} has labels {labels}", args.name))
        }
        Format::Wide | Format::Json | Format::Yaml => output::one(args.output.format, &labelled, COLUMNS),
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, change};

    #[test]
    fn labels_are_set_and_taken_away() {
        let of =
            |key: &str, value: Option<&str>| Change { key: key.to_owned(), value: value.map(str::to_owned) };
        assert_eq!(change("team=web"), Ok(of("team", Some("web"))));
        assert_eq!(change("team="), Ok(of("team", Some(""))));
        assert_eq!(change("team=a-"), Ok(of("team", Some("a-"))), "that is a value");
        assert_eq!(change("team-"), Ok(of("team", None)));
        assert!(change("team").is_err() && change("-").is_err() && change("=x").is_err());
    }
}
