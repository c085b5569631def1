//! The socket's file.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
};

use anyhow::{Context, bail};
use tokio::net::UnixListener;

/// Listens on `path`, mode 0600, and makes its directory if need be. A socket that nobody listens on any more is
/// replaced. Needs a tokio runtime.
///
/// # Errors
/// Another agent listens there; something that is no socket is there; the directory can't be written.
pub fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    let shown = path.display();
    if let Ok(metadata) = fs::symlink_metadata(path) {
        use std::os::unix::fs::FileTypeExt;
        if !metadata.file_type().is_socket() {
            bail!("{shown} exists and is no socket: choose another --socket, or remove it");
        }
    }
    if UnixStream::connect(path).is_ok() {
        bail!("another agent listens on {shown}: stop it, or give this one a --socket of its own");
    }
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::create_dir_all(directory).with_context(|| format!("can't make the directory of {shown}"))?;
    }
    // Under another name until its mode is right; then it takes the place of a dead one in one step.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("can't make the socket {shown}"));
        }
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&fresh).with_context(|| format!("can't make the socket {shown}"))?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))
        .and_then(|()| fs::rename(&fresh, path))
        .with_context(|| format!("can't make the socket {shown}"))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::bind;

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("run/fabric.sock");
        let listener = bind(&path).expect("a new socket");
        assert_eq!(fs::metadata(&path).expect("it exists").permissions().mode() & 0o777, 0o600);
        let error = bind(&path).expect_err("one listens").to_string();
        assert!(error.contains("another agent listens on"), "{error}");
        drop(listener);
        bind(&path).expect("nobody listens any more");
        fs::write(directory.path().join("file"), "precious").expect("a file");
        let error = bind(&directory.path().join("file")).expect_err("no socket").to_string();
        assert!(error.contains("is no socket"), "{error}");
    }
}
