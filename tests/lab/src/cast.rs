//! The cast of policy tests: seven endpoints in three namespaces on two hosts, and two addresses outside that a router leads to.

use std::{collections::BTreeMap, path::Path, thread};

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

use crate::{
    Container, Lab, Options, Server,
    recipes::{PORTS, Question, directory},
    until,
};

/// How long an answer is awaited, milliseconds: a SYN that was lost is sent again after one second.
const TIMEOUT: &str = "2000";
const NETWORK: &str = "n1";
/// What the router leads to: name, addresses.
const OUTSIDE: [(&str, [&str; 2]); 2] =
    [("ext", ["10.9.1.1", "2001:db8:9:1::1"]), ("far", ["10.9.2.1", "2001:db8:9:2::1"])];
const ROUTER: [&str; 2] = ["192.168.10.99", "fd00:10::99"];

/// Who an endpoint of the cast is.
struct Part {
    name: &'static str,
    namespace: &'static str,
    host: usize,
    /// The last part of its addresses.
    number: u8,
    labels: &'static [&'static str],
    /// Named ports.
    ports: &'static [&'static str],
}

impl Part {
    fn addresses(&self) -> [String; 2] {
        [format!("192.168.10.{}", self.number), format!("fd00:10::{}", self.number)]
    }
}

const PARTS: [Part; 7] = [
    Part {
        name: "web",
        namespace: "default",
        host: 1,
        number: 11,
        labels: &["app=bookstore", "role=api"],
        ports: &["http=80/tcp", "metrics=8080/tcp"],
    },
    Part {
        name: "front",
        namespace: "default",
        host: 2,
        number: 21,
        labels: &["app=bookstore", "role=frontend"],
        ports: &[],
    },
    Part {
        name: "db",
        namespace: "default",
        host: 2,
        number: 22,
        labels: &["app=db", "role=store"],
        ports: &["http=8080/tcp"],
    },
    Part {
        name: "admin",
        namespace: "prod",
        host: 1,
        number: 12,
        labels: &["app=admin", "type=monitoring"],
        ports: &[],
    },
    Part { name: "job", namespace: "prod", host: 2, number: 23, labels: &["app=batch"], ports: &[] },
    Part {
        name: "mon",
        namespace: "ops",
        host: 1,
        number: 13,
        labels: &["app=prometheus", "type=monitoring"],
        ports: &[],
    },
    Part { name: "misc", namespace: "ops", host: 2, number: 24, labels: &["app=misc"], ports: &[] },
];

/// The cast as it is declared: its network, its hosts' nodes, its endpoints.
pub fn declared() -> Vec<Value> {
    let mut objects = vec![json!({
        "kind": "Network", "metadata": {"name": NETWORK},
        "spec": {"vni": 100, "subnets": ["192.168.10.0/24", "fd00:10::/64"]},
    })];
    for host in 1..=2 {
        let (name, vtep) = (format!("h{host}"), format!("10.0.{host}.1"));
        objects.push(json!({"kind": "Node", "metadata": {"name": name}, "spec": {"vteps": [vtep]}}));
    }
    objects.extend(PARTS.iter().map(|part| {
        let labels: BTreeMap<_, _> = part.labels.iter().filter_map(|label| label.split_once('=')).collect();
        let port = |text: &&str| {
            let (name, port) = text.split_once('=')?;
            let (number, protocol) = port.split_once('/')?;
            let number: u16 = number.parse().ok()?;
            Some(json!({"name": name, "port": number, "protocol": protocol.to_uppercase()}))
        };
        let ports: Vec<_> = part.ports.iter().filter_map(port).collect();
        json!({
            "kind": "Endpoint", "metadata": {"name": part.name, "labels": labels},
            "spec": {
                "network": NETWORK, "node": format!("h{}", part.host), "namespace": part.namespace,
                "addresses": part.addresses(), "ports": ports,
            },
        })
    }));
    objects
}

/// The cast, every member of which serves every port.
#[derive(Debug)]
pub struct Cast {
    containers: BTreeMap<String, Container>,
    addresses: BTreeMap<String, [String; 2]>,
    servers: BTreeMap<String, Server>,
    lab: Lab,
}

/// What came of every question, once a family: `open`, `refused`, `timeout`, or an error.
pub type Outcomes = BTreeMap<(Question, bool), String>;

impl Cast {
    /// Two hosts that share a store, and the cast on them; returns once everybody reaches everybody.
    ///
    /// # Errors
    /// If a step fails.
    pub fn new(id: &str) -> Result<Self> {
        let lab = Lab::with(id, &Options { hosts: 2, etcd: 1, ..Options::default() })?;
        lab.host(1).fabric(&[
            "network",
            "create",
            NETWORK,
            "--subnet",
            "192.168.10.0/24",
            "--subnet",
            "fd00:10::/64",
            "--route",
            &format!("10.9.0.0/16={}", ROUTER[0]),
            "--route",
            &format!("2001:db8:9::/48={}", ROUTER[1]),
        ])?;
        until("host 2 knows the network", || lab.host(2).networks().is_ok_and(|all| all.len() == 1))?;
        lab.host(1).apply(&directory().join("cast.yaml"))?;
        let mut cast =
            Self { containers: BTreeMap::new(), addresses: BTreeMap::new(), servers: BTreeMap::new(), lab };
        for part in &PARTS {
            let mut args = vec!["--namespace", part.namespace];
            part.labels.iter().for_each(|label| args.extend(["--label", label]));
            part.ports.iter().for_each(|port| args.extend(["--port-name", port]));
            cast.add(part.name, part.host, part.addresses(), &args)?;
        }
        let router = cast.lab.container(2, "router")?;
        let args = ["--namespace", "edge", "--ip", ROUTER[0], "--ip", ROUTER[1]];
        cast.lab.host(2).attach(&router, "router", NETWORK, &args)?;
        for (name, [v4, v6]) in OUTSIDE {
            router.sh(&["ip", "addr", "add", &format!("{v4}/32"), "dev", "lo"])?;
            router.sh(&["ip", "addr", "add", &format!("{v6}/128"), "dev", "lo", "nodad"])?;
            cast.addresses.insert(name.to_owned(), [v4.to_owned(), v6.to_owned()]);
        }
        let at: Vec<&str> = OUTSIDE.iter().flat_map(|(_, addresses)| *addresses).collect();
        cast.serve("router", &router, &at)?;
        cast.containers.insert("router".to_owned(), router);
        cast.until_open()?;
        Ok(cast)
    }

    /// A further endpoint of the network, or one that comes again, serving the ports of everybody.
    ///
    /// # Errors
    /// If it can't be attached.
    pub fn add(&mut self, name: &str, host: usize, addresses: [String; 2], args: &[&str]) -> Result<()> {
        let container = self.lab.container(host, name)?;
        let place = ["--ip", &addresses[0], "--ip", &addresses[1]];
        self.serve(name, &container, &[])?;
        self.lab.host(host).attach(&container, name, NETWORK, &[&place, args].concat())?;
        self.containers.insert(name.to_owned(), container);
        self.addresses.insert(name.to_owned(), addresses);
        Ok(())
    }

    /// Detaches an endpoint and ends its container.
    ///
    /// # Errors
    /// If it is not there or can't be detached.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        let container = self.containers.remove(name).with_context(|| format!("{name} is not in the cast"))?;
        self.servers.remove(name);
        self.addresses.remove(name);
        self.lab.host(container.host()).fabric(&["endpoint", "detach", name])?;
        container.vanish()
    }

    /// With addresses `at`, datagrams are answered from these.
    fn serve(&mut self, name: &str, container: &Container, at: &[&str]) -> Result<()> {
        let mut line = vec!["serve".to_owned(), "--seconds".to_owned(), "600".to_owned()];
        line.extend(PORTS.iter().flat_map(|port| [format!("--{}", port.protocol), port.number.to_string()]));
        let mut line: Vec<&str> = line.iter().map(String::as_str).collect();
        at.iter().for_each(|address| line.extend(["--at", address]));
        self.servers.insert(name.to_owned(), container.serve(&line)?);
        Ok(())
    }

    /// The lab.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The lab, to start and end agents.
    pub fn lab_mut(&mut self) -> &mut Lab {
        &mut self.lab
    }

    /// The container of a member; of what is outside, the router.
    ///
    /// # Errors
    /// If there is none.
    pub fn container(&self, name: &str) -> Result<&Container> {
        let name = if OUTSIDE.iter().any(|(outside, _)| *outside == name) { "router" } else { name };
        self.containers.get(name).with_context(|| format!("{name} is not in the cast"))
    }

    /// A member's addresses: IPv4, IPv6.
    ///
    /// # Errors
    /// If there is no such member.
    pub fn addresses(&self, name: &str) -> Result<&[String; 2]> {
        self.addresses.get(name).with_context(|| format!("{name} is not in the cast"))
    }

    /// How `fabric policy test` and people call a member: by the endpoint's name, or what is outside by its address.
    pub fn called(name: &str) -> String {
        OUTSIDE.iter().find(|(outside, _)| *outside == name).map_or(name, |(_, [v4, _])| v4).to_owned()
    }

    /// Every question that there is.
    pub fn questions(&self) -> Vec<Question> {
        let outside = |name: &str| OUTSIDE.iter().any(|(outside, _)| *outside == name);
        let mut questions = Vec::new();
        for from in self.addresses.keys() {
            for to in self.addresses.keys().filter(|to| from != *to && !(outside(from) && outside(to))) {
                questions.extend(PORTS.map(|port| (from.clone(), to.clone(), port.letter)));
            }
        }
        questions
    }

    /// Puts every question to the network, in both families, all at once.
    ///
    /// # Errors
    /// If the traffic tool fails.
    pub fn ask(&self, questions: &[Question]) -> Result<Outcomes> {
        let mut of_sender: BTreeMap<&str, Vec<&Question>> = BTreeMap::new();
        for question in questions {
            of_sender.entry(&question.0).or_default().push(question);
        }
        let answers = thread::scope(|scope| {
            let threads: Vec<_> = of_sender
                .iter()
                .map(|(sender, questions)| scope.spawn(move || self.ask_from(sender, questions)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().map_err(|_| anyhow!("a sender's thread panicked"))?)
                .collect::<Result<Vec<_>>>()
        })?;
        Ok(answers.into_iter().flatten().collect())
    }

    fn ask_from(&self, sender: &str, questions: &[&Question]) -> Result<Outcomes> {
        let [v4, v6] = self.addresses(sender)?;
        let mut line: Vec<String> =
            ["reach", "--timeout", TIMEOUT, "--from", v4, "--from", v6].map(str::to_owned).into();
        let mut asked = Vec::new();
        for question in questions {
            for six in [false, true] {
                line.extend(["--to".to_owned(), self.target(&question.1, question.2, six)?]);
                asked.push(((*question).clone(), six));
            }
        }
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let report = self.container(sender)?.traffic(&line)?;
        let rows = report.as_array().context("a list")?;
        let outcome = |row: &Value| row["outcome"].as_str().unwrap_or_default().to_owned();
        Ok(asked.into_iter().zip(rows.iter().map(outcome)).collect())
    }

    /// A member's port as the traffic tool calls it.
    fn target(&self, name: &str, letter: char, six: bool) -> Result<String> {
        let port = PORTS.iter().find(|port| port.letter == letter).context("a port of the cast")?;
        let [v4, v6] = self.addresses(name)?;
        let address = if six { format!("[{v6}]") } else { v4.clone() };
        Ok(format!("{}/{address}:{}", port.protocol, port.number))
    }

    /// Waits until everybody reaches everybody at every port.
    ///
    /// # Errors
    /// If that does not come.
    pub fn until_open(&self) -> Result<()> {
        let questions = self.questions();
        let mut closed = Vec::new();
        let result = until("everybody reaches everybody", || match self.ask(&questions) {
            Ok(outcomes) => {
                closed = outcomes.into_iter().filter(|(_, outcome)| outcome != "open").collect();
                closed.is_empty()
            }
            Err(_) => false,
        });
        result.with_context(|| {
            format!("{} are not open, as {:?}", closed.len(), &closed[..closed.len().min(8)])
        })
    }

    /// Applies a manifest on host 1 and waits until the agents of both hosts enforce it.
    ///
    /// # Errors
    /// With the CLI's sentence, or what an agent says instead of `ready`.
    pub fn enforce(&self, manifest: &Path) -> Result<()> {
        let names = self.lab.host(1).apply(manifest)?;
        for host in self.lab.hosts() {
            host.wait_for_policies(&names)?;
        }
        Ok(())
    }

    /// As [`Cast::enforce`], with the manifest's text.
    ///
    /// # Errors
    /// As [`Cast::enforce`].
    pub fn enforce_text(&self, text: &str) -> Result<()> {
        // A host does not see the machine's files under /run.
        std::fs::write(self.lab.host(1).directory().join("run/policy.yaml"), text)?;
        self.enforce(Path::new("/run/policy.yaml"))
    }

    /// Removes every policy and waits until no agent knows one.
    ///
    /// # Errors
    /// With the CLI's sentence.
    pub fn remove_policies(&self) -> Result<()> {
        for policy in self.lab.host(1).policies()? {
            let id = policy.namespace.as_ref().map_or_else(String::new, |namespace| format!("{namespace}/"));
            self.lab.host(1).fabric(&["policy", "rm", &format!("{id}{}", policy.name)])?;
        }
        for host in self.lab.hosts() {
            until("no policy is known", || host.policies().is_ok_and(|all| all.is_empty()))?;
        }
        Ok(())
    }
}
