//! `leno get --watch`: the rows of a table as they change, for as long as somebody looks.
//!
//! Invariant: what the control plane ends by itself goes on where it ended; only what people end is an end.

use serde_json::Value;

use crate::{
    client::{Client, ended},
    exit::{CommandError, Outcome},
    output::{Format, items, print, print_value, text},
};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// How rows are shown.
#[derive(Clone, Copy)]
pub(super) struct Shown {
    pub(super) format: Format,
    /// With each row's namespace.
    pub(super) namespaces: bool,
}

/// Shows what there is at `path`, which has a query already, and every change.
pub(super) async fn watch(client: &Client, path: &str, shown: Shown) -> Outcome {
    let accept = match shown.format {
        Format::Table | Format::Wide => TABLE,
        Format::Json | Format::Yaml | Format::Name => "application/json",
    };
    let mut rows = Rows {
        shown,
        columns: Vec::new(),
        widths: Vec::new(),
    };
    let mut seen = String::new();
    loop {
        let from = match seen.as_str() {
            "" => String::new(),
            seen => format!("&resourceVersion={seen}"),
        };
        let path = format!("{path}&allowWatchBookmarks=true{from}");
        let mut lines = client.stream_as(&path, accept).await?;
        let mut told = false;
        while let Some(Ok(event)) = lines.next().await {
            told = true;
            let object = event.get("object").unwrap_or(&Value::Null);
            match text(&event, "/type") {
                // What happened since is no longer known: what there is, is shown anew.
                "ERROR" if object.get("code").is_some_and(|code| code == 410) => {
                    seen.clear();
                    break;
                }
                "ERROR" => return Err(CommandError::failed(text(object, "/message"))),
                kind => {
                    let last = text(object, "/metadata/resourceVersion");
                    last.clone_into(&mut seen);
                    if kind != "BOOKMARK" {
                        rows.show(kind, &event)?;
                    }
                }
            }
        }
        if !told {
            return Err(ended("watch"));
        }
    }
}

struct Rows {
    shown: Shown,
    columns: Vec<usize>,
    widths: Vec<usize>,
}

impl Rows {
    fn show(&mut self, what: &str, event: &Value) -> Result<(), CommandError> {
        let object = event.get("object").unwrap_or(&Value::Null);
        match self.shown.format {
            Format::Json | Format::Yaml => print_value(event, self.shown.format),
            Format::Name => {
                let (kind, name) = (text(object, "/kind"), text(object, "/metadata/name"));
                print(&format!("{}/{name}", kind.to_lowercase()));
                Ok(())
            }
            Format::Table | Format::Wide => {
                self.header(object);
                for row in items(object, "/rows") {
                    self.row(what, row);
                }
                Ok(())
            }
        }
    }

    /// Columns are told with the first row only.
    fn header(&mut self, table: &Value) {
        let wide = self.shown.format == Format::Wide;
        let all: Vec<(usize, String)> = items(table, "/columnDefinitions")
            .enumerate()
            .filter(|(_, column)| wide || column.get("priority").is_none_or(|of| *of == 0))
            .map(|(index, column)| (index, text(column, "/name").to_uppercase()))
            .collect();
        if all.is_empty() || !self.columns.is_empty() {
            return;
        }
        self.columns = all.iter().map(|(index, _)| *index).collect();
        let first = self.shown.namespaces.then(|| "NAMESPACE".to_owned());
        let cells: Vec<String> = first
            .into_iter()
            .chain(all.into_iter().map(|(_, name)| name))
            .collect();
        // The first row is wide enough for most; columns only ever grow.
        if let Some(row) = items(table, "/rows").next() {
            let row = self.cells(row);
            self.fit(&row);
        }
        self.line(&cells, "");
    }

    fn cells(&self, row: &Value) -> Vec<String> {
        let namespace = self.shown.namespaces;
        let namespace = namespace.then(|| text(row, "/object/metadata/namespace").to_owned());
        let cell = |index: &usize| match row.get("cells").and_then(|cells| cells.get(index)) {
            Some(Value::String(text)) => text.clone(),
            None | Some(Value::Null) => "-".into(),
            Some(other) => other.to_string(),
        };
        let cells = self.columns.iter().map(cell);
        namespace.into_iter().chain(cells).collect()
    }

    fn row(&mut self, what: &str, row: &Value) {
        let cells = self.cells(row);
        let note = if what == "DELETED" { "   deleted" } else { "" };
        self.line(&cells, note);
    }

    fn fit(&mut self, cells: &[String]) {
        self.widths.resize(cells.len().max(self.widths.len()), 0);
        for (width, cell) in self.widths.iter_mut().zip(cells) {
            *width = (*width).max(cell.chars().count());
        }
    }

    fn line(&mut self, cells: &[String], note: &str) {
        self.fit(cells);
        let padded = cells
            .iter()
            .zip(&self.widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        let line: Vec<String> = padded.collect();
        print(format!("{}{note}", line.join("   ").trim_end()).as_str());
    }
}
