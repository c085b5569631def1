//! Policies, four times: by the documents, by the agent's answers to people, by the rows that the programs read, and by the
//! programs. Needs root.

#![expect(clippy::print_stdout, reason = "counts are for the report")]

use fabric_agent::{
    model::Cluster,
    plan::desired::{NodeFacts, Tables},
    policy,
};
use fabric_api::policy::{PolicyQuestion, PolicySide};
use fabric_tests::{
    policy_model::{
        generate::{self, HERE, NETWORK, Packet, World},
        programs::{Fate, Programs},
        reference::{self, Said},
        rows,
    },
    random::{Random, seed},
    walk::Stage,
};

const WORLDS: u64 = 600;
const PACKETS: usize = 100;
const PACKETS_TO_RUN: usize = 250;

/// Where they differ, and how many verdicts were compared.
fn compare(world: &World, cluster: &Cluster, tables: &Tables, packet: &Packet) -> Result<usize, String> {
    let opinion = reference::judge(world, packet);
    let question = PolicyQuestion {
        from: packet.from.to_string(),
        to: packet.to.to_string(),
        protocol: Some(packet.protocol.to_string()),
        port: (packet.port != 0).then_some(packet.port),
        network: Some(NETWORK.to_owned()),
    };
    let facts = NodeFacts { node: HERE.to_owned(), ..NodeFacts::default() };
    let answer = policy::decide(cluster, &facts, &question).map_err(|e| e.to_string())?;
    let read = rows::judge(world, tables, packet);
    let mut compared = 0;
    for (word, expected, said, read) in [
        ("egress", opinion.egress, &answer.egress, read.egress),
        ("ingress", opinion.ingress, &answer.ingress, read.ingress),
    ] {
        let told = said.as_ref().map(told);
        if told != expected {
            return Err(format!("{word}: expected {expected:?}, the answer is {said:?}"));
        }
        if read.is_some() && read != expected {
            return Err(format!(
                "{word}: expected {expected:?}, the rows say {read:?}, the answer is {said:?}"
            ));
        }
        compared += usize::from(told.is_some()) + usize::from(read.is_some());
    }
    Ok(compared)
}

fn told(side: &PolicySide) -> Said {
    match (side.verdict.as_str(), side.reject, &side.would_deny) {
        ("accept", false, None) => Said::Accept,
        ("accept", false, Some(_)) => Said::WouldDeny,
        ("deny", false, None) => Said::Deny,
        ("deny", true, None) => Said::Reject,
        _ => panic!("{side:?} contradicts itself"),
    }
}

fn check(world: &World, packet: &Packet) -> Result<usize, String> {
    let cluster = world.cluster();
    compare(world, &cluster, &rows::plan(&cluster), packet)
}

/// What the programs did if they were asked, or where they differ.
fn run(programs: &mut Programs, world: &World, packet: &Packet) -> Result<Option<bool>, String> {
    let Some(fate) = programs.judge(world, packet) else { return Ok(None) };
    let opinion = reference::judge(world, packet);
    let here = |address| world.endpoint(address).is_some_and(|endpoint| endpoint.node == HERE);
    let sides = [(packet.from, opinion.egress), (packet.to, opinion.ingress)];
    let expected = sides.iter().all(|(address, said)| !here(*address) || said.is_some_and(Said::passes));
    let passed = fate == Fate::Passed;
    // Answers are limited, so that one who should be told may not be.
    let told = sides.iter().any(|(address, said)| here(*address) && *said == Some(Said::Reject));
    if passed != expected || fate == Fate::Told && !told {
        return Err(format!("{opinion:?}, but the programs: {fate:?}"));
    }
    Ok(Some(passed))
}

/// Takes away what the difference does not need.
fn shrink(mut world: World, check: &mut dyn FnMut(&World) -> bool) -> World {
    loop {
        let smaller = candidates(&world).into_iter().find(|world| check(world));
        let Some(smaller) = smaller else { return world };
        world = smaller;
    }
}

fn candidates(world: &World) -> Vec<World> {
    let mut found = Vec::new();
    let mut with = |change: &dyn Fn(&mut World)| {
        let mut smaller = world.clone();
        change(&mut smaller);
        found.push(smaller);
    };
    (0..world.endpoints.len()).for_each(|at| with(&|w| drop(w.endpoints.remove(at))));
    (0..world.namespaces.len()).for_each(|at| with(&|w| drop(w.namespaces.remove(at))));
    for (at, policy) in world.network_policies.iter().enumerate() {
        with(&|w| drop(w.network_policies.remove(at)));
        for rule in 0..policy.ingress.as_ref().map_or(0, Vec::len) {
            with(&|w| drop(w.network_policies[at].ingress.as_mut().map(|rules| rules.remove(rule))));
        }
        for rule in 0..policy.egress.as_ref().map_or(0, Vec::len) {
            with(&|w| drop(w.network_policies[at].egress.as_mut().map(|rules| rules.remove(rule))));
        }
    }
    for (at, policy) in world.cluster_policies.iter().enumerate() {
        with(&|w| drop(w.cluster_policies.remove(at)));
        (0..policy.ingress.len())
            .for_each(|rule| with(&|w| drop(w.cluster_policies[at].ingress.remove(rule))));
        (0..policy.egress.len()).for_each(|rule| with(&|w| drop(w.cluster_policies[at].egress.remove(rule))));
    }
    found
}

#[test]
fn documents_answers_and_rows_agree() {
    let seed = seed();
    println!("FABRIC_SEED={seed}");
    let (mut compared, mut denied, mut rejected, mut audited) = (0, 0, 0, 0);
    for number in 0..WORLDS {
        let mut random = Random::new(seed.wrapping_add(number));
        let world = generate::world(&mut random);
        let cluster = world.cluster();
        let tables = rows::plan(&cluster);
        for _ in 0..PACKETS {
            let packet = generate::packet(&mut random, &world);
            match compare(&world, &cluster, &tables, &packet) {
                Ok(count) => compared += count,
                Err(text) => {
                    let small = shrink(world, &mut |world| check(world, &packet).is_err());
                    let text = check(&small, &packet).err().unwrap_or(text);
                    panic!("FABRIC_SEED={seed}, world {number}: {packet:?}: {text}\n{small:#?}");
                }
            }
            let opinion = reference::judge(&world, &packet);
            for said in [opinion.egress, opinion.ingress].into_iter().flatten() {
                denied += usize::from(!said.passes());
                rejected += usize::from(said == Said::Reject);
                audited += usize::from(said == Said::WouldDeny);
            }
        }
    }
    println!("\ncounted {compared} policy verdicts compared");
    println!("{denied} sides denied, {rejected} of them rejected; {audited} would be denied");
    assert!(compared >= 100_000, "only {compared} verdicts were compared");
    assert!(rejected > 1_000 && audited > 1_000, "{rejected} sides rejected, {audited} audited: too few");
    assert!(denied > 5_000, "only {denied} sides denied: the worlds are too open to show anything");
}

#[test]
fn documents_and_programs_agree() {
    let seed = seed();
    println!("FABRIC_SEED={seed}");
    let stage = Stage::enter();
    let mut programs = Programs::new(&stage);
    let (mut compared, mut dropped, mut strangers) = (0, 0, 0);
    for number in 0..WORLDS {
        let mut random = Random::new(seed.wrapping_add(number));
        let world = generate::world(&mut random);
        programs.enter(&world.cluster());
        for _ in 0..PACKETS_TO_RUN {
            let packet = generate::packet(&mut random, &world);
            match run(&mut programs, &world, &packet) {
                Ok(None) => {}
                Ok(Some(passed)) => {
                    compared += 1;
                    dropped += usize::from(!passed);
                    let both = [packet.from, packet.to].iter().all(|side| world.endpoint(*side).is_some());
                    strangers += usize::from(!both);
                }
                Err(text) => {
                    let small = shrink(world, &mut |world| {
                        programs.enter(&world.cluster());
                        run(&mut programs, world, &packet).is_err()
                    });
                    panic!("FABRIC_SEED={seed}, world {number}: {packet:?}: {text}\n{small:#?}");
                }
            }
        }
    }
    println!("\ncounted {compared} policy verdicts of the programs compared");
    println!("{dropped} dropped, {strangers} from or to outside");
    assert!(compared >= 100_000, "only {compared} packets were run");
    assert!(
        dropped > 10_000,
        "only {dropped} packets were dropped: the worlds are too open to show anything"
    );
    assert!(strangers > 10_000, "only {strangers} packets were from or to outside");
}
