//! The recipes in `tests/recipes`, live: under each, everybody tries every port of everybody, over IPv4 and IPv6, and what happens
//! is what the matrix beside it says, and what `fabric policy test` says.
#![expect(clippy::print_stdout, reason = "counts are for the report")]

use std::{collections::BTreeMap, thread};

use anyhow::{Context, Result, anyhow, ensure};
use fabric_lab::{
    Cast,
    recipes::{PORTS, Question, Recipe, recipes},
};

/// Questions to `fabric policy test` that run at once.
const ASKING: usize = 4;

/// What `fabric policy test` says to every question, on the host whose number changes from one to the next.
fn predicted(cast: &Cast, questions: &[Question]) -> Result<BTreeMap<Question, bool>> {
    let one = |n: usize, (from, to, letter): &Question| -> Result<(Question, bool)> {
        let port = PORTS.iter().find(|port| port.letter == *letter).context("a port of the cast")?;
        let host = cast.lab().host(1 + n % 2);
        let (from_name, to_name) = (Cast::called(from), Cast::called(to));
        let (allowed, _) = host.policy_test(&from_name, &to_name, port.protocol, port.number)?;
        Ok(((from.clone(), to.clone(), *letter), allowed))
    };
    let numbered: Vec<_> = questions.iter().enumerate().collect();
    let parts = thread::scope(|scope| {
        let threads: Vec<_> = numbered
            .chunks(numbered.len().div_ceil(ASKING).max(1))
            .map(|part| {
                scope.spawn(|| part.iter().map(|(n, question)| one(*n, question)).collect::<Result<Vec<_>>>())
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
            .collect::<Result<Vec<_>>>()
    })?;
    Ok(parts.into_iter().flatten().collect())
}

/// What is wrong under a recipe, in sentences, and how many answers were compared.
fn under(cast: &Cast, recipe: &Recipe) -> Result<(Vec<String>, usize)> {
    let questions = cast.questions();
    let wanted: Vec<_> = recipe.matrix.keys().cloned().collect();
    ensure!(
        wanted.len() == questions.len(),
        "the matrix has {} of {} questions",
        wanted.len(),
        questions.len()
    );
    cast.enforce(&recipe.manifest)?;
    let predicted = predicted(cast, &questions)?;
    let outcomes = cast.ask(&questions)?;
    let mut wrong = Vec::new();
    for (question, open) in &recipe.matrix {
        let (from, to, letter) = question;
        let said = predicted.get(question).context("a prediction for every question")?;
        if said != open {
            wrong.push(format!("{from} to {to} at {letter}: the matrix says {open}, `policy test` {said}"));
        }
        for six in [false, true] {
            let outcome = outcomes.get(&(question.clone(), six)).context("an outcome of every question")?;
            // What a policy forbids is dropped: nobody answers for the receiver.
            let expected = if *open { "open" } else { "timeout" };
            if outcome != expected {
                let family = if six { "IPv6" } else { "IPv4" };
                wrong.push(format!(
                    "{from} to {to} at {letter}, {family}: {expected} expected, {outcome} seen"
                ));
            }
        }
    }
    Ok((wrong, predicted.len() + outcomes.len()))
}

/// All recipes whose names begin with one of `prefixes`, one after the other.
fn all(id: &str, prefixes: &[&str]) -> Result<()> {
    let cast = Cast::new(id)?;
    let (mut compared, mut wrong, mut number) = (0, Vec::new(), 0);
    for prefix in prefixes {
        for recipe in recipes(prefix)? {
            let (found, answers) = under(&cast, &recipe).with_context(|| recipe.name.clone())?;
            println!("{}: {answers} answers, {} wrong", recipe.name, found.len());
            wrong.extend(found.into_iter().map(|sentence| format!("{}: {sentence}", recipe.name)));
            cast.remove_policies()?;
            cast.until_open().with_context(|| format!("after {}", recipe.name))?;
            (compared, number) = (compared + answers, number + 1);
        }
    }
    println!("\ncounted {compared} policy answers of the lab compared");
    println!("{number} recipes, {} wrong", wrong.len());
    ensure!(
        wrong.is_empty(),
        "{} answers are wrong:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(40)].join("\n")
    );
    for host in cast.lab().hosts() {
        let status = host.status()?;
        ensure!(status.problems.is_empty(), "{}: {:?}", host.name(), status.problems);
        ensure!(status.reconcile.repairs == 0, "{}: {:?}", host.name(), status.reconcile);
    }
    Ok(())
}

#[test]
fn ingress_recipes_hold() -> Result<()> {
    all("ringr", &["0", "10"])
}

#[test]
fn port_and_egress_recipes_hold() -> Result<()> {
    all("regr", &["11", "12", "13", "14", "15", "16", "17", "18", "19", "2"])
}

#[test]
fn cluster_recipes_hold() -> Result<()> {
    all("radm", &["3"])
}
