//! A start that is refused leaves no store that was not there before.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::embedded::FILE;

/// Removes, when it is dropped, the store that was made since: the file, and those of its directories that were made
/// with it and are empty. A store that was there before is never touched.
#[derive(Debug)]
pub struct Fresh {
    /// From the file up to the topmost path that did not exist.
    missing: Vec<PathBuf>,
}

impl Fresh {
    /// Notes what of the store in `directory` does not exist yet. To be called before it is opened.
    pub fn before(directory: &Path) -> Self {
        let file = directory.join(FILE);
        let missing = file.ancestors().take_while(|path| fs::symlink_metadata(path).is_err());
        Self { missing: missing.map(Path::to_owned).collect() }
    }

    /// The store stays.
    pub fn keep(mut self) {
        self.missing.clear();
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let Some((file, directories)) = self.missing.split_first() else { return };
        // What can't be removed, or holds something else by now, stays.
        let _ = fs::remove_file(file);
        for directory in directories {
            let _ = fs::remove_dir(directory);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::Fresh;
    use crate::store::EmbeddedStore;

    #[test]
    fn a_new_store_goes_with_its_directories_unless_it_is_kept() {
        let top = tempfile::tempdir().expect("a directory");
        let directory = top.path().join("a/b");
        let fresh = Fresh::before(&directory);
        let store = EmbeddedStore::open(&directory).expect("it opens");
        drop(store);
        drop(fresh);
        assert_eq!(fs::read_dir(top.path()).expect("it is there").count(), 0);
        let fresh = Fresh::before(&directory);
        drop(EmbeddedStore::open(&directory).expect("it opens"));
        fresh.keep();
        assert!(EmbeddedStore::exists(&directory));
    }

    #[test]
    fn a_store_that_was_there_and_files_of_others_stay() {
        let top = tempfile::tempdir().expect("a directory");
        drop(EmbeddedStore::open(top.path()).expect("it opens"));
        drop(Fresh::before(top.path()));
        assert!(EmbeddedStore::exists(top.path()));
        let directory = top.path().join("other");
        let fresh = Fresh::before(&directory);
        drop(EmbeddedStore::open(&directory).expect("it opens"));
        fs::write(directory.join("precious"), "").expect("a file");
        drop(fresh);
        assert!(!EmbeddedStore::exists(&directory));
        assert!(directory.join("precious").exists());
    }
}
