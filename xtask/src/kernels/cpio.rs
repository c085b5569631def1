//! An initial file system for the kernel: the `newc` archive of `Documentation/driver-api/early-userspace/buffer-format.rst`.

/// Kind and permissions of a directory.
const DIRECTORY: u32 = 0o040_755;
/// Kind and permissions of a file; all of ours may be executed.
const FILE: u32 = 0o100_755;

/// An archive that grows.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    /// Adds a directory; what is above it must be there.
    pub(super) fn directory(&mut self, name: &str) {
        self.entry(name, DIRECTORY, &[]);
    }

    /// Adds a file; its directory must be there.
    pub(super) fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, FILE, content);
    }

    /// The whole archive.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.inode += 1;
        let links = 1;
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check.
        let fields =
            [self.inode, mode, 0, 0, links, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn headers_names_and_contents_begin_at_multiples_of_four() {
        let mut archive = Archive::default();
        archive.directory("d");
        archive.file("d/name", b"12345");
        let bytes = archive.end();
        let starts: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"070701")).collect();
        // 110 bytes of header, a name with its zero, both padded together; then the content, padded.
        assert_eq!(starts, [0, 112, 112 + 120 + 8]);
        assert_eq!(&bytes[112 + 54..112 + 62], b"00000005", "the content's length");
        assert_eq!(&bytes[112 + 120..112 + 128], b"12345\0\0\0");
        assert_eq!(bytes.len() % 4, 0);
    }
}
