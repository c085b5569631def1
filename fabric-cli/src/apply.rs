//! `fabric apply`: objects from files, declaratively.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::Args;
use fabric_api::{client::Client, object::Object, parse, status::Applied};
use serde_json::Value;

use crate::{
    output::{self, Column, Format, OutputArgs},
    session,
};

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  fabric apply -f nodes.yaml endpoints.yaml\n  ssh host-a cat nodes.yaml | fabric apply -f -"
)]
pub(crate) struct ApplyArgs {
    /// Files of YAML or JSON with any number of objects; - reads standard input
    #[arg(short = 'f', long = "file", value_name = "FILE", required = true, num_args = 1..)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

const COLUMNS: &[Column<Applied>] = &[
    Column::new("KIND", |applied| applied.kind.clone()),
    Column::new("NAME", |applied| applied.name.clone()),
    Column::new("OUTCOME", |applied| applied.outcome.clone()),
];

/// Reads every file, then applies all objects at once.
pub(crate) async fn run(client: &Client, args: ApplyArgs) -> anyhow::Result<()> {
    send(client, &read_all(&args.files)?, args.output.format).await
}

/// The objects of all files.
///
/// # Errors
/// One can't be read, or there is no object.
pub(crate) fn read_all(files: &[PathBuf]) -> anyhow::Result<Vec<Object>> {
    let mut objects = Vec::new();
    for file in files {
        objects.extend(read(file)?);
    }
    if objects.is_empty() {
        bail!("{} has no objects: a document with kind, metadata and spec is expected", names(files));
    }
    Ok(objects)
}

/// Applies objects and says what was done with each.
pub(crate) async fn send(client: &Client, objects: &[Object], format: Format) -> anyhow::Result<()> {
    for object in objects {
        if let Object::DenySet(set) = object {
            session::spare(&set.spec.prefixes)?;
        }
    }
    let applied = client.apply(objects).await?;
    match format {
        Format::Table => applied
            .iter()
            .try_for_each(|a| output::line(&format!("{} {} {}", a.kind.to_lowercase(), a.name, a.outcome))),
        Format::Wide | Format::Json | Format::Yaml => output::list(format, &applied, COLUMNS, ""),
    }
}

fn names(files: &[PathBuf]) -> String {
    files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn read(file: &Path) -> anyhow::Result<Vec<Object>> {
    if file == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).context("can't read standard input")?;
        return objects("standard input", &text);
    }
    let name = file.display();
    if file.is_dir() {
        bail!(
            "{name} is a directory: name the files in it, like {name}/*.yaml, or give the agent --manifests {name}"
        );
    }
    let text = fs::read_to_string(file).with_context(|| format!("can't read {name}"))?;
    objects(&name.to_string(), &text)
}

/// The objects of a text: YAML or JSON documents, each an object or a list of objects.
fn objects(source: &str, text: &str) -> anyhow::Result<Vec<Object>> {
    let documents = documents(text).with_context(|| source.to_owned())?;
    let several = documents.len() > 1;
    let mut objects = Vec::new();
    for (index, document) in documents.into_iter().enumerate() {
        let place = if several { format!("{source}, document {}", index + 1) } else { source.to_owned() };
        let values = match document {
            Value::Array(values) => values,
            value @ (Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Object(_)) => {
                vec![value]
            }
        };
        for value in values {
            objects.push(parse::object(value).with_context(|| place.clone())?);
        }
    }
    Ok(objects)
}

fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
    // JSON first where it looks like it: several JSON values one after the other are no YAML.
    if text.trim_start().starts_with(['{', '[']) {
        let json: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(text).into_iter().collect();
        match json {
            Ok(values) => return Ok(values),
            Err(error) if serde_saphyr::from_multiple_with_options::<Value>(text, limits()).is_err() => {
                bail!("not JSON: {error}")
            }
            Err(_) => {}
        }
    }
    serde_saphyr::from_multiple_with_options(text, limits()).map_err(|error| {
        let message = error.without_snippet().to_string();
        anyhow::anyhow!("not YAML: {}", message.lines().next().unwrap_or_default())
    })
}

/// Files of many thousand objects are meant; what protects from mistakes is the agent's limit of bytes.
fn limits() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_documents: 1 << 20, max_nodes: 1 << 26, max_events: 1 << 27 },
    }
}

#[cfg(test)]
mod tests {
    use super::objects;

    #[test]
    fn a_file_holds_thousands_of_objects() {
        let text: String = (0..3000)
            .map(|i| format!("---\nkind: Node\nmetadata: {{name: n{i}}}\nspec: {{vteps: [192.0.2.1]}}\n"))
            .collect();
        assert_eq!(super::documents(&text).expect("it is YAML").len(), 3000);
    }

    const YAML: &str = "\
kind: Network
metadata: {name: blue}
spec:
  subnets: [192.168.10.0/24]
---
# nothing here
---
- kind: Node
  metadata: {name: b}
  spec: {vteps: [192.0.2.2]}
- kind: Endpoint
  metadata: {name: db}
  spec: {network: blue, node: b, addresses: [192.168.10.9]}
";

    fn refused(text: &str) -> String {
        format!("{:#}", objects("f.yaml", text).expect_err("this should be refused"))
    }

    #[test]
    fn yaml_documents_lists_and_json_give_the_same_objects() {
        let from_yaml = objects("f", YAML).expect("good YAML");
        assert_eq!(from_yaml.iter().map(|o| o.kind()).collect::<Vec<_>>(), ["Network", "Node", "Endpoint"]);
        let array = serde_json::to_string(&from_yaml).expect("JSON");
        assert_eq!(objects("f", &array).expect("a JSON array"), from_yaml);
        let lines: String =
            from_yaml.iter().map(|o| serde_json::to_string_pretty(o).expect("JSON") + "\n").collect();
        assert_eq!(objects("f", &lines).expect("JSON one after the other"), from_yaml);
    }

    #[test]
    fn flow_style_yaml_is_no_broken_json() {
        let text = "{kind: Network, metadata: {name: blue}, spec: {subnets: [10.0.0.0/8]}}";
        assert_eq!(objects("f", text).expect("good YAML").len(), 1);
    }

    #[test]
    fn mistakes_name_the_file_the_document_and_the_field() {
        let message = refused(&YAML.replace("addresses", "adresses"));
        assert!(
            message.starts_with("f.yaml, document 2: Endpoint db: spec.adresses: unknown field"),
            "{message}"
        );
        let message = refused("kind: Network\nmetadata: [\n");
        assert!(message.starts_with("f.yaml: not YAML: ") && !message.contains('\n'), "{message}");
        let message = refused("{\"kind\": ");
        assert!(message.starts_with("f.yaml: not JSON: "), "{message}");
    }

    #[test]
    fn a_name_is_text() {
        let message = refused("kind: Node\nmetadata: {name: 12}\nspec: {vteps: []}\n");
        assert!(
            message.contains("metadata.name: invalid type: integer `12`, expected a string"),
            "{message}"
        );
    }
}
