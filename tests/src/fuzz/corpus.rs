//! Frames worth keeping: for each hook the shortest known one for each end. `tests/corpus/HOOK.txt` has a line for each:
//! the end (a drop reason or an action), a space, the frame in hex. They are run every time, and are frames to start from.

use std::{collections::BTreeMap, fs, path::PathBuf};

use fabric_common::reason::Hook;

use super::campaign::Shortest;

fn path(hook: Hook) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("corpus/{hook}.txt"))
}

/// The frames that are kept for a hook, by their end.
///
/// # Panics
/// If a line is none of ours.
pub fn read(hook: Hook) -> Shortest {
    // A hook without a file has no frames yet.
    let text = fs::read_to_string(path(hook)).unwrap_or_default();
    let lines = text.lines().map(|line| {
        let (end, frame) = line.split_once(' ').unwrap_or_else(|| panic!("{line:?} has no frame"));
        (end.to_owned(), bytes(frame).unwrap_or_else(|| panic!("{frame:?} is not hex")))
    });
    lines.collect::<BTreeMap<_, _>>()
}

/// Writes them.
///
/// # Panics
/// If the file can't be written.
pub fn write(hook: Hook, frames: &Shortest) {
    let lines: String = frames.iter().map(|(end, frame)| format!("{end} {}\n", hex(frame))).collect();
    fs::write(path(hook), lines).expect("the corpus can be written");
}

/// A frame as digits.
pub fn hex(frame: &[u8]) -> String {
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        hex.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits?;
    (digits.len() % 2 == 0).then(|| digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::{bytes, hex};

    #[test]
    fn hex_comes_back() {
        assert_eq!(bytes(&hex(&[0, 0x1f, 0xff])), Some(vec![0, 0x1f, 0xff]));
        assert_eq!(bytes("1"), None);
        assert_eq!(bytes("zz"), None);
    }
}
