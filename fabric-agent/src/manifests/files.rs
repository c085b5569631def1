//! Reads files of objects.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use fabric_api::Object;

/// Larger files are refused: somebody put something else there.
const MAX_BYTES: u64 = 16 << 20;

/// A file of the directory.
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) modified: Option<SystemTime>,
    pub(super) objects: Result<Vec<Object>, String>,
}

impl Found {
    /// Whether the file was changed within `age` before `now`.
    pub(super) fn changed_after(&self, now: SystemTime, age: Duration) -> bool {
        self.modified.is_some_and(|m| now.duration_since(m).is_ok_and(|passed| passed < age))
    }
}

/// Every `*.yaml`, `*.yml` and `*.json` of a directory, by name; hidden files are left out (editors' own).
pub(super) fn read(directory: &Path) -> std::io::Result<Vec<Found>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let ours = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if ours && !hidden {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths.into_iter().filter_map(read_one).collect())
}

/// None if the file is gone by now, or is a directory.
fn read_one(path: PathBuf) -> Option<Found> {
    let meta = match std::fs::metadata(&path) {
        Ok(meta) if meta.is_dir() => return None,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
        Ok(meta) => meta,
        Err(e) => return Some(Found { path, modified: None, objects: Err(e.to_string()) }),
    };
    let objects = if !meta.is_file() {
        Err("it is not a regular file".to_owned())
    } else if meta.len() > MAX_BYTES {
        Err(format!("it is larger than {} MiB", MAX_BYTES >> 20))
    } else {
        std::fs::read_to_string(&path).map_err(|e| e.to_string()).and_then(|text| parse_objects(&text))
    };
    Some(Found { path, modified: meta.modified().ok(), objects })
}

/// The objects of a text: YAML documents (JSON is YAML), each an object or a list of objects; empty ones are left out.
///
/// # Errors
/// One sentence: what is wrong, and where as far as that is known.
pub fn parse_objects(text: &str) -> Result<Vec<Object>, String> {
    // Through JSON values, so that an error speaks of the object's own kind.
    let documents: Vec<serde_json::Value> =
        serde_saphyr::from_multiple_with_options(text, limits()).map_err(|e| one_line(&e.to_string()))?;
    let mut objects = Vec::new();
    for value in documents {
        if let serde_json::Value::Array(values) = value {
            for value in values {
                objects.push(object(value)?);
            }
        } else if !value.is_null() {
            objects.push(object(value)?);
        }
    }
    Ok(objects)
}

/// Files of many thousand objects are meant; what protects from mistakes is the limit of bytes.
fn limits() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_documents: 1 << 20, max_nodes: 1 << 26, max_events: 1 << 27 },
    }
}

fn object(value: serde_json::Value) -> Result<Object, String> {
    let part = |key: &str| value.get(key).and_then(|v| v.as_str()).unwrap_or("?").to_owned();
    let kind = part("kind").to_lowercase();
    let name =
        value.get("metadata").and_then(|m| m.get("name")).and_then(|v| v.as_str()).unwrap_or("?").to_owned();
    serde_json::from_value(value).map_err(|e| format!("{kind} {name}: {}", one_line(&e.to_string())))
}

fn one_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::parse_objects;

    const NETWORK: &str = "kind: Network\nmetadata: {name: blue}\nspec: {subnets: [10.1.0.0/24]}\n";

    #[test]
    fn documents_lists_and_json() {
        assert_eq!(parse_objects(&format!("---\n{NETWORK}---\n{NETWORK}---\n")).unwrap().len(), 2);
        let json = r#"[{"kind":"Network","metadata":{"name":"blue"},"spec":{"subnets":["10.1.0.0/24"]}}]"#;
        assert_eq!(parse_objects(json).unwrap().len(), 1);
        assert!(parse_objects("").unwrap().is_empty());
        assert!(parse_objects("# nothing\n").unwrap().is_empty());
    }

    #[test]
    fn a_file_holds_thousands_of_objects() {
        let text: String = (0..3000)
            .map(|i| format!("---\nkind: Node\nmetadata: {{name: n{i}}}\nspec: {{vteps: [192.0.2.1]}}\n"))
            .collect();
        assert_eq!(parse_objects(&text).unwrap().len(), 3000);
    }

    #[test]
    fn mistakes_are_told_in_one_line_with_the_object() {
        let text = parse_objects(&format!("{NETWORK}status: {{}}\nextra: 1\n")).unwrap_err();
        assert!(text.starts_with("network blue: "), "{text}");
        let text =
            parse_objects("kind: Network\nmetadata: {name: blue}\nspec: {subnets: [10.1.0.0/24], vin: 7}\n")
                .unwrap_err();
        assert!(text.contains("network blue") && text.contains("vin"), "{text}");
        let text = parse_objects("kind: Netwrk\nmetadata: {name: blue}\n").unwrap_err();
        assert!(text.contains("Netwrk"), "{text}");
        for broken in ["kind: [", "a: b: c", "just text"] {
            let text = parse_objects(broken).unwrap_err();
            assert!(!text.is_empty() && !text.contains('\n'), "{broken}: {text}");
        }
    }
}
