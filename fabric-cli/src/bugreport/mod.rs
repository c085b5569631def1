//! `fabric bugreport`: one archive with what the agent knows and what the host tells, secrets taken out. It is made without the
//! agent as well, and says then what is missing.

mod archive;
mod host;
mod redact;

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::bail;
use clap::Args;
use fabric_api::client::{Client, ClientError};
use serde::Serialize;
use tokio::time::timeout;

use self::archive::Archive;

/// How long the agent may take for one answer.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  fabric bugreport\n  fabric bugreport -w /tmp/report.tar.gz\n  fabric bugreport -w - | ssh elsewhere tar -tzf -"
)]
pub(crate) struct BugreportArgs {
    /// The archive; - is standard output. If absent, a file in the current directory, named after node and time
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    file: Option<PathBuf>,
    /// The agent's configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/fabric/agent.toml")]
    config: PathBuf,
    /// The agent's directory on a bpffs, for an agent that does not answer
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/fabric")]
    bpffs: PathBuf,
}

/// Writes the archive, and to standard error what it is and what it lacks.
pub(crate) async fn run(client: &Client, args: BugreportArgs) -> anyhow::Result<()> {
    let to_stdout = args.file.as_ref().is_some_and(|file| file.as_os_str() == "-");
    if to_stdout && io::stdout().is_terminal() {
        bail!("an archive is no text for a terminal: name a file with -w, or redirect the output");
    }
    let now = SystemTime::now();
    let mut archive = Archive::default();
    let status = archive.answer("status.json", timeout(PATIENCE, client.status()).await);
    match &status {
        Some(_) => from_agent(client, &mut archive).await,
        None => archive.note("the agent does not answer: what only it knows is missing"),
    }
    let node = status.as_ref().map(|status| status.node.clone());
    let bpffs = status.as_ref().map_or(args.bpffs, |status| PathBuf::from(&status.bpffs));
    host::collect(&mut archive, &args.config, &bpffs, status.is_none()).await;

    let node = node.or_else(host::name).unwrap_or_else(|| "node".to_owned());
    let time: String = humantime::format_rfc3339_seconds(now).to_string();
    let time: String = time.chars().filter(|letter| !matches!(letter, '-' | ':')).collect();
    let name = format!("fabric-bugreport-{node}-{time}");
    archive.summarize(&node, &time);
    let missing = archive.notes().to_vec();
    if to_stdout {
        archive.write(io::stdout(), &name)?;
    } else {
        let path = args.file.unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
        archive.write(archive::private_file(&path)?, &name)?;
        eprintln!("{} written; look through it before you give it away", path.display());
    }
    missing.iter().for_each(|note| eprintln!("missing: {note}"));
    Ok(())
}

async fn from_agent(client: &Client, archive: &mut Archive) {
    archive.answer("objects/networks.json", timeout(PATIENCE, client.networks()).await);
    archive.answer("objects/endpoints.json", timeout(PATIENCE, client.endpoints()).await);
    archive.answer("objects/nodes.json", timeout(PATIENCE, client.nodes()).await);
    archive.answer("counters.json", timeout(PATIENCE, client.counters()).await);
    let report = match timeout(PATIENCE, client.report()).await {
        Ok(Ok(report)) => report,
        failed => {
            archive.note(&format!("maps, programs, events and log: {}", why(failed.map(Result::err))));
            return;
        }
    };
    archive.json("programs.json", &report.programs);
    archive.json("events.json", &report.events);
    archive.add("agent.log", &report.log);
    for map in &report.maps {
        archive.json(&format!("maps/{}.json", map.name), map);
    }
}

/// Why an answer did not come.
fn why<E>(failed: Result<Option<ClientError>, E>) -> String {
    match failed {
        Ok(Some(error)) => error.to_string(),
        Ok(None) => "no answer".to_owned(),
        Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
    }
}

impl Archive {
    /// Adds an answer of the agent, or notes that it is missing.
    fn answer<T: Serialize, E>(
        &mut self,
        name: &str,
        answer: Result<Result<T, ClientError>, E>,
    ) -> Option<T> {
        match answer {
            Ok(Ok(value)) => {
                self.json(name, &value);
                Some(value)
            }
            failed => {
                self.note(&format!("{name}: {}", why(failed.map(Result::err))));
                None
            }
        }
    }
}
