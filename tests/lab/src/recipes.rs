//! The recipes in `tests/recipes`: policies as people write them, each with the matrix of who reaches whom under it.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// A port that everybody in the cast serves, by its letter in a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// The letter.
    pub letter: char,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// The number.
    pub number: u16,
}

/// Every port of a matrix, in the order of a cell's letters.
pub const PORTS: [Port; 3] = [
    Port { letter: 'h', protocol: "tcp", number: 80 },
    Port { letter: 'a', protocol: "tcp", number: 8080 },
    Port { letter: 'd', protocol: "udp", number: 53 },
];

/// One question: from whom, to whom, the port's letter.
pub type Question = (String, String, char);

/// One recipe.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The files' name.
    pub name: String,
    /// The manifest.
    pub manifest: PathBuf,
    /// Who reaches whom at which port.
    pub matrix: BTreeMap<Question, bool>,
}

/// The directory of the recipes.
pub fn directory() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../recipes"))
}

/// All recipes whose names begin with `prefix`, in order.
///
/// # Errors
/// If there is none, a file can't be read, or a matrix is not as [`matrix`] wants it.
pub fn recipes(prefix: &str) -> Result<Vec<Recipe>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory()).context("can't list the recipes")? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if path.extension().is_none_or(|end| end != "reach") || !name.starts_with(prefix) {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        let matrix = matrix(&text).with_context(|| path.display().to_string())?;
        let manifest = path.with_extension("yaml");
        ensure!(manifest.exists(), "recipe {name} has a matrix and no manifest");
        all.push(Recipe { name, manifest, matrix });
    }
    ensure!(!all.is_empty(), "no recipe's name begins with {prefix:?}");
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// Reads a matrix: `#` begins a comment, the first line names receivers, each other one a sender and, for each receiver, a letter
/// a port or `-` in its place; `.` where nothing is asked.
///
/// # Errors
/// If a line has too many or too few cells, or a cell other letters.
pub fn matrix(text: &str) -> Result<BTreeMap<Question, bool>> {
    let mut lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let receivers: Vec<&str> = lines.next().context("no line of receivers")?.split_whitespace().collect();
    let mut matrix = BTreeMap::new();
    for line in lines {
        let mut cells = line.split_whitespace();
        let sender = cells.next().unwrap_or_default();
        let cells: Vec<&str> = cells.collect();
        ensure!(cells.len() == receivers.len(), "{sender} has {} cells for {}", cells.len(), receivers.len());
        for (receiver, cell) in receivers.iter().zip(cells).filter(|(_, cell)| *cell != ".") {
            ensure!(cell.chars().count() == PORTS.len(), "{sender} to {receiver}: {cell:?}");
            for (port, letter) in PORTS.iter().zip(cell.chars()) {
                let reached = match letter {
                    '-' => false,
                    letter if letter == port.letter => true,
                    letter => {
                        bail!("{sender} to {receiver}: {letter:?} is neither {:?} nor '-'", port.letter)
                    }
                };
                matrix.insert((sender.to_owned(), (*receiver).to_owned(), port.letter), reached);
            }
        }
    }
    Ok(matrix)
}

#[cfg(test)]
mod tests {
    use super::{PORTS, matrix, recipes};

    #[test]
    fn a_matrix_is_read() {
        let read = matrix("# x\n  a b\na . h-d\nb --- .\n").expect("a matrix");
        let open: Vec<_> = read.iter().filter(|(_, open)| **open).map(|(key, _)| key.2).collect();
        assert_eq!((read.len(), open), (6, vec!['d', 'h']));
        for bad in ["", "a b\na .\n", "a\nb hha\n", "a\nb ha\n"] {
            assert!(matrix(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_recipe_closes_something_and_leaves_something_open() {
        for recipe in recipes("").expect("recipes") {
            // Nine of the cast; nothing is asked of one and itself, nor of the two that are outside.
            assert_eq!(recipe.matrix.len(), (9 * 8 - 2) * PORTS.len(), "{}", recipe.name);
            let open = recipe.matrix.values().filter(|open| **open).count();
            assert!(open > 0 && open < recipe.matrix.len(), "{}: {open}", recipe.name);
        }
    }
}
