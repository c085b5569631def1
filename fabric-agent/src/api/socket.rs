//! The socket's file.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use tokio::net::UnixListener;

/// Listens on `path`, which setting `flag` has named, mode 0600, and makes its directory if need be. A socket that nobody listens on
/// any more is replaced. Needs a tokio runtime.
///
/// # Errors
/// Another agent listens there; something that is no socket is there; the directory can't be written.
pub fn bind(path: &Path, flag: &str) -> anyhow::Result<UnixListener> {
    let shown = path.display();
    if let Ok(metadata) = fs::symlink_metadata(path) {
        use std::os::unix::fs::FileTypeExt;
        if !metadata.file_type().is_socket() {
            bail!("{shown} exists and is no socket: choose another {flag}, or remove it");
        }
    }
    if UnixStream::connect(path).is_ok() {
        bail!("another agent listens on {shown}: stop it, or give this one a {flag} of its own");
    }
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::create_dir_all(directory).with_context(|| format!("can't make the directory of {shown}"))?;
    }
    make(path).with_context(|| format!("can't make the socket {shown}"))
}

/// Makes the socket in a directory that nobody else may enter, until its mode is right; then it takes the place of a dead
/// one in one step.
fn make(path: &Path) -> io::Result<UnixListener> {
    let mut room = path.as_os_str().to_owned();
    room.push(".new");
    let room = PathBuf::from(room);
    let fresh = room.join("s");
    // What an agent left that died in between.
    remove(fs::remove_file(&fresh))?;
    remove(fs::remove_dir(&room))?;
    fs::DirBuilder::new().mode(0o700).create(&room)?;
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    fs::rename(&fresh, path)?;
    fs::remove_dir(&room)?;
    Ok(listener)
}

/// Removing the absent is success.
fn remove(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(())
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::bind;

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("run/fabric.sock");
        let listener = bind(&path, "--socket").expect("a new socket");
        assert_eq!(fs::metadata(&path).expect("it exists").permissions().mode() & 0o777, 0o600);
        let error = bind(&path, "--socket").expect_err("one listens").to_string();
        assert!(error.contains("another agent listens on"), "{error}");
        drop(listener);
        // What an agent leaves that dies in the middle.
        fs::create_dir(directory.path().join("run/fabric.sock.new")).expect("a directory");
        fs::write(directory.path().join("run/fabric.sock.new/s"), "").expect("a file");
        bind(&path, "--socket").expect("nobody listens any more");
        fs::write(directory.path().join("file"), "precious").expect("a file");
        let error = bind(&directory.path().join("file"), "--socket").expect_err("no socket").to_string();
        assert!(error.contains("is no socket"), "{error}");
    }
}
