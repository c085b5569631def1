//! Everything that goes to standard output: tables for people, JSON and YAML for programs.

use std::io::{self, Write};

use anyhow::Context;
use clap::{Args, ValueEnum};
use comfy_table::{Table, presets::NOTHING};
use fabric_api::{object::Metadata, status::State};
use serde::Serialize;

/// Chooses the form of the output.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct OutputArgs {
    /// Form of the output; JSON and YAML are exactly the API's and stable
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub(crate) format: Format,
}

/// The forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A compact table
    Table,
    /// A table with more columns
    Wide,
    /// JSON; a list is an array
    Json,
    /// YAML
    Yaml,
}

/// One column of a listing, one line of an inspection.
pub(crate) struct Column<T> {
    /// Title in a table, capitals.
    pub(crate) title: &'static str,
    /// Only in the wide form.
    pub(crate) wide: bool,
    /// The text; empty becomes `-`.
    pub(crate) cell: fn(&T) -> String,
}

impl<T> Column<T> {
    /// A column of every table.
    pub(crate) const fn new(title: &'static str, cell: fn(&T) -> String) -> Self {
        Self { title, wide: false, cell }
    }

    /// A column of the wide table.
    pub(crate) const fn wide(title: &'static str, cell: fn(&T) -> String) -> Self {
        Self { title, wide: true, cell }
    }

    fn text(&self, item: &T) -> String {
        Some((self.cell)(item)).filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned())
    }
}

/// Writes text to standard output as it is.
pub(crate) fn text(text: &str) -> anyhow::Result<()> {
    // Not wrapped in a context: `main` looks for a broken pipe.
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Writes one line.
pub(crate) fn line(line: &str) -> anyhow::Result<()> {
    text(&format!("{line}\n"))
}

/// Writes a list. A table without rows is the sentence `empty`, on standard error so that scripts see nothing.
pub(crate) fn list<T: Serialize>(
    format: Format,
    items: &[T],
    columns: &[Column<T>],
    empty: &str,
) -> anyhow::Result<()> {
    match format {
        Format::Json | Format::Yaml => machine(format, items),
        Format::Table | Format::Wide if items.is_empty() => {
            eprintln!("{empty}");
            Ok(())
        }
        Format::Table | Format::Wide => {
            let shown: Vec<_> =
                columns.iter().filter(|column| !column.wide || format == Format::Wide).collect();
            let titles = shown.iter().map(|column| column.title.to_owned()).collect();
            let rows =
                items.iter().map(|item| shown.iter().map(|column| column.text(item)).collect()).collect();
            text(&table(Some(titles), rows))
        }
    }
}

/// Writes one object: in the table forms one line a column, all of them.
pub(crate) fn one<T: Serialize>(format: Format, item: &T, columns: &[Column<T>]) -> anyhow::Result<()> {
    match format {
        Format::Json | Format::Yaml => machine(format, item),
        Format::Table | Format::Wide => {
            let rows = columns
                .iter()
                .map(|column| (column, (column.cell)(item)))
                .filter(|(column, cell)| !cell.is_empty() || format == Format::Wide || !column.wide)
                .map(|(column, _)| vec![format!("{}:", column.title.to_lowercase()), column.text(item)])
                .collect();
            text(&table(None, rows))
        }
    }
}

/// Writes JSON or YAML; `format` must be one of these.
pub(crate) fn machine<T: Serialize + ?Sized>(format: Format, value: &T) -> anyhow::Result<()> {
    if format == Format::Yaml {
        let yaml =
            serde_saphyr::to_string(&serde_json::to_value(value)?).context("can't write this as YAML")?;
        return text(&if yaml.ends_with('\n') { yaml } else { format!("{yaml}\n") });
    }
    line(&serde_json::to_string_pretty(value).context("can't write this as JSON")?)
}

/// A table without lines: columns two blanks apart.
pub(crate) fn table(titles: Option<Vec<String>>, rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    if let Some(titles) = titles {
        table.set_header(titles);
    }
    table.add_rows(rows);
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    table.to_string().lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Texts with commas between them.
pub(crate) fn joined<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

/// The labels of an object.
pub(crate) fn labels(metadata: &Metadata) -> String {
    metadata.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// A state and, if something is wrong, what.
pub(crate) fn state(state: State, reason: &str) -> String {
    let name = match state {
        State::Pending => "pending",
        State::Ready => "ready",
        State::Degraded => "degraded",
    };
    if reason.is_empty() { name.to_owned() } else { format!("{name} ({reason})") }
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn tables_have_no_lines_and_no_trailing_blanks() {
        let rows = vec![vec!["blue".to_owned(), "1".to_owned()], vec!["a".to_owned(), "22".to_owned()]];
        let text = table(Some(vec!["NAME".to_owned(), "VNI".to_owned()]), rows);
        assert_eq!(text, "NAME  VNI\nblue  1\na     22\n");
    }
}
