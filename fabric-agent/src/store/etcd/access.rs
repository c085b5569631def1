//! How a member of the etcd cluster is reached: address, TLS, user.

use std::{fs, path::PathBuf, time::Duration};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};

use super::fault::Fault;

/// Until a connection must be there, and the user known.
const CONNECT: Duration = Duration::from_secs(3);
/// etcd takes more frequent pings for an attack.
const PING: Duration = Duration::from_secs(6);
const PONG: Duration = Duration::from_secs(4);

/// Where a fabric's etcd is and how to get in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Members, `HOST:PORT`; at least one.
    pub members: Vec<String>,
    /// What all keys begin with: a slash first, none last.
    pub prefix: String,
    /// Certificates that the members' ones are signed by; with it TLS is spoken.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// A file with `USER:PASSWORD`.
    pub login: Option<PathBuf>,
}

impl Access {
    /// As in `--store`.
    pub fn address(&self) -> String {
        format!("etcd://{}{}", self.members.join(","), self.prefix)
    }

    /// Reads every file once.
    ///
    /// # Errors
    /// One that can't be read, or is not what it should be.
    pub(super) fn check(&self) -> Result<(), Fault> {
        self.options().map(drop)
    }

    /// Files are read at every connection, so that certificates and passwords can be replaced while the agent runs.
    fn options(&self) -> Result<ConnectOptions, Fault> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT)
            .with_keep_alive(PING, PONG)
            .with_keep_alive_while_idle(true)
            // A member that has lost the others must say so, instead of being silent.
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(ca) = &self.ca {
            let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(ca)?));
            if let Some((certificate, key)) = &self.identity {
                tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
            }
            options = options.with_tls(tls);
        }
        if let Some(path) = &self.login {
            let text = read(path)?;
            let line = text.lines().next().unwrap_or_default();
            let Some((user, password)) = line.split_once(':').filter(|(user, _)| !user.is_empty()) else {
                return Err(Fault::Refused(format!(
                    "{}: the first line is not USER:PASSWORD",
                    path.display()
                )));
            };
            options = options.with_user(user, password);
        }
        Ok(options)
    }

    /// Connects to one member.
    pub(super) async fn connect(&self, member: &str) -> Result<Client, Fault> {
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{member}");
        let connecting = Client::connect([url], Some(self.options()?));
        Fault::within(CONNECT, connecting).await.map_err(Fault::of_login)
    }
}

fn read(path: &PathBuf) -> Result<String, Fault> {
    fs::read_to_string(path).map_err(|e| Fault::Refused(format!("{} can't be read: {e}", path.display())))
}
