//! The archive: texts without secrets, bounded in size.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use flate2::{Compression, write::GzEncoder};
use serde::Serialize;

use super::redact::redact;

/// Bytes of one file; what is longer is cut.
pub(super) const LARGEST: usize = 8 << 20;
/// Bytes of all files together; what comes later is left out.
const ALL: usize = 96 << 20;

/// Files by name, in the order in which they came.
#[derive(Default)]
pub(super) struct Archive {
    files: Vec<(String, String)>,
    notes: Vec<String>,
    secrets: usize,
    bytes: usize,
}

impl Archive {
    /// Adds a text, without what looks like a secret.
    pub(super) fn add(&mut self, name: &str, text: &str) {
        let (mut text, secrets) = redact(text);
        self.secrets += secrets;
        if text.len() > LARGEST {
            let end = (0..=LARGEST).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.truncate(end);
            text.push_str("\n[cut here]\n");
            self.note(&format!("{name}: longer than {} MiB, cut", LARGEST >> 20));
        }
        if self.bytes + text.len() > ALL {
            self.note(&format!("{name}: left out, the archive would be too large"));
            return;
        }
        self.bytes += text.len();
        self.files.push((name.to_owned(), text));
    }

    /// Adds a value as JSON.
    pub(super) fn json(&mut self, name: &str, value: &impl Serialize) {
        match serde_json::to_string_pretty(value) {
            Ok(text) => self.add(name, &(text + "\n")),
            Err(error) => self.note(&format!("{name}: {error}")),
        }
    }

    /// Notes that something is missing.
    pub(super) fn note(&mut self, note: &str) {
        self.notes.push(redact(note).0);
    }

    /// What is missing.
    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Puts a page in front that says what there is.
    pub(super) fn summarize(&mut self, node: &str, time: &str) {
        let mut page = format!(
            "fabric bugreport of node {node}, {time}, fabric {}\n{} secrets taken out\n\nmissing:\n",
            env!("CARGO_PKG_VERSION"),
            self.secrets
        );
        if self.notes.is_empty() {
            page.push_str("  nothing\n");
        }
        self.notes.iter().for_each(|note| page.push_str(&format!("  {note}\n")));
        page.push_str("\nfiles:\n");
        self.files
            .iter()
            .for_each(|(name, text)| page.push_str(&format!("  {name} ({} bytes)\n", text.len())));
        self.files.insert(0, ("summary.txt".to_owned(), page));
    }

    /// Writes everything as one compressed tar below a directory `name`.
    ///
    /// # Errors
    /// If it can't be written.
    pub(super) fn write(&self, to: impl Write, name: &str) -> io::Result<()> {
        let mut tar = tar::Builder::new(GzEncoder::new(to, Compression::default()));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        for (file, text) in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(now.as_secs());
            tar.append_data(&mut header, format!("{name}/{file}"), text.as_bytes())?;
        }
        tar.into_inner()?.finish()?.flush()
    }
}

/// A file that only its owner reads.
///
/// # Errors
/// If it can't be made.
pub(super) fn private_file(path: &Path) -> anyhow::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path).with_context(|| format!("can't write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::{Archive, LARGEST};

    #[test]
    fn an_archive_is_bounded_and_says_what_it_lacks() {
        let mut archive = Archive::default();
        archive.add("small.txt", "token=abc\n");
        archive.add("large.txt", &"x".repeat(LARGEST + 5));
        archive.note("agent: no answer");
        archive.summarize("h1", "now");
        let mut bytes = Vec::new();
        archive.write(&mut bytes, "dir").expect("memory");
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(&bytes[..]));
        let files = tar.entries().expect("a tar").map(|entry| {
            let mut entry = entry.expect("an entry");
            let mut text = String::new();
            entry.read_to_string(&mut text).expect("text");
            (entry.path().expect("a name").display().to_string(), text)
        });
        let files: Vec<_> = files.collect();
        let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["dir/summary.txt", "dir/small.txt", "dir/large.txt"]);
        let summary = &files[0].1;
        assert!(summary.contains("1 secrets taken out") && summary.contains("agent: no answer"), "{summary}");
        assert!(summary.contains("large.txt: longer than 8 MiB, cut"), "{summary}");
        assert!(!files[1].1.contains("abc"));
        assert!(files[2].1.len() < LARGEST + 20 && files[2].1.ends_with("[cut here]\n"));
    }
}
