//! Which process of an engine asked: so that an agent knows, later and after its own restart, whether that engine is still there.

use std::fs;

use axum::{extract::connect_info::Connected, serve::IncomingStream};
use tokio::net::UnixListener;

/// An engine's process: `docker/BOOT/PID/START`, with the beginning of the boot's id and the process's start in clock ticks, which
/// together are never used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Engine(pub(super) String);

impl Connected<IncomingStream<'_, UnixListener>> for Engine {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let pid = stream.io().peer_cred().ok().and_then(|peer| peer.pid()).filter(|pid| *pid > 0);
        Self::of(pid)
    }
}

impl Engine {
    /// An engine whose process can't be told (it is in another pid namespace) counts as alive for ever.
    fn of(pid: Option<i32>) -> Self {
        let identity = pid.and_then(|pid| Some(format!("docker/{}/{pid}/{}", boot()?, started(pid)?)));
        Self(identity.unwrap_or_else(|| "docker/unknown".to_owned()))
    }
}

/// Whether the process that was written down so has ended.
pub(super) fn ended(identity: &str) -> bool {
    let mut words = identity.split('/').skip(1);
    let (Some(then), Some(pid), Some(start)) = (words.next(), words.next(), words.next()) else {
        return false;
    };
    let Some(now) = boot() else { return false };
    let Ok(pid) = pid.parse() else { return false };
    now != then || started(pid).is_none_or(|found| found != start)
}

fn boot() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().chars().take(8).collect())
}

/// When a process started, in clock ticks since boot; `None` if there is none, or a zombie.
fn started(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which is in parentheses and may hold anything: the state is the third field, the start the 22nd.
    let mut fields = stat.rsplit(") ").next()?.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.nth(18).map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use super::{Engine, ended};

    #[test]
    fn a_process_is_known_again_and_its_end_is_seen() {
        let own = Engine::of(i32::try_from(std::process::id()).ok());
        assert!(!ended(&own.0), "{own:?}");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep starts");
        let other = Engine::of(i32::try_from(child.id()).ok());
        assert!(!ended(&other.0));
        child.kill().expect("it runs");
        child.wait().expect("it ended");
        assert!(ended(&other.0));
        let (rest, _) = own.0.rsplit_once('/').expect("a start time");
        assert!(ended(&format!("{rest}/1")), "another process of that number");
        assert!(ended(&own.0.replacen("docker/", "docker/x", 1)), "before a reboot");
        assert!(!ended(&Engine::of(None).0), "who is not known counts as alive");
    }
}
