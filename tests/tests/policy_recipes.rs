//! The recipes in `tests/recipes`, asked of the agent's decision alone: what it says is what the matrix beside each says.
//! `lab_policy` tries the same with containers.

#![expect(clippy::print_stdout, reason = "counts are for the report")]

use std::fs;

use anyhow::{Context, Result, ensure};
use fabric_agent::{model::Cluster, plan::desired::NodeFacts, policy};
use fabric_api::{object::Object, parse, policy::PolicyQuestion};
use fabric_lab::{
    Cast, declared,
    recipes::{PORTS, directory, recipes},
};

fn read(file: &std::path::Path) -> Result<Vec<Object>> {
    let text = fs::read_to_string(file)?;
    let values: Vec<serde_json::Value> = serde_saphyr::from_multiple(&text)?;
    values.into_iter().map(|value| Ok(parse::object(value)?)).collect()
}

#[test]
fn every_recipe_is_decided_as_its_matrix_says() -> Result<()> {
    let mut cast: Vec<Object> =
        declared().into_iter().map(|value| Ok(parse::object(value)?)).collect::<Result<_>>()?;
    cast.extend(read(&directory().join("cast.yaml"))?);
    let here = NodeFacts { node: "h1".to_owned(), ..NodeFacts::default() };
    let mut wrong = Vec::new();
    let (mut asked, all) = (0, recipes("")?);
    for recipe in &all {
        let mut objects = cast.clone();
        objects.extend(read(&recipe.manifest).with_context(|| recipe.name.clone())?);
        let cluster = Cluster::from_objects(&objects);
        for ((from, to, letter), open) in &recipe.matrix {
            let port = PORTS.iter().find(|port| port.letter == *letter).context("a port")?;
            let question = PolicyQuestion {
                from: Cast::called(from),
                to: Cast::called(to),
                protocol: Some(port.protocol.to_owned()),
                port: Some(port.number),
                network: None,
            };
            let answer = policy::decide(&cluster, &here, &question)
                .map_err(|error| anyhow::anyhow!("{}: {question:?}: {error}", recipe.name))?;
            asked += 1;
            if answer.allowed != *open {
                wrong.push(format!("{}: {from} to {to} at {letter}: not {open}: {answer:?}", recipe.name));
            }
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} of {asked} are wrong:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
    println!("\ncounted {asked} questions about {} policy recipes", all.len());
    Ok(())
}
