//! What passed, as tables.

use std::{fmt::Write, fs, time::Instant};

use eyre::eyre;

use crate::render::{repository, say};

/// Named results, in the order of their making.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    failures: Vec<String>,
}

struct Row {
    name: String,
    cells: Vec<(&'static str, String)>,
}

impl Report {
    /// Does one thing, and goes on whatever comes of it. Says whether it was done.
    pub(crate) fn does(
        &mut self,
        row: &str,
        column: &'static str,
        step: impl FnOnce() -> eyre::Result<()>,
    ) -> bool {
        let since = Instant::now();
        let result = step();
        let secs = since.elapsed().as_secs();
        self.note(row, column, result.map(|()| format!("{secs} s")))
    }

    /// Tries what must be refused with this reason.
    pub(crate) fn refuses<T>(
        &mut self,
        row: &str,
        reason: &str,
        attempt: impl FnOnce() -> eyre::Result<T>,
    ) {
        let result = match attempt() {
            Ok(_) => Err(eyre!("it was let in")),
            Err(error) if format!("{error:#}").contains(reason) => Ok(format!("`{reason}`")),
            Err(error) => Err(error),
        };
        self.note(row, "refused, saying", result);
    }

    fn note(&mut self, row: &str, column: &'static str, result: eyre::Result<String>) -> bool {
        let (cell, done) = match result {
            Ok(cell) => (cell, true),
            Err(error) => {
                say(&format!("{error:#}"));
                self.failures.push(format!("{row}: {column}: {error:#}"));
                ("FAILED".to_owned(), false)
            }
        };
        say(&format!("{row}: {column}: {cell}"));
        match self.rows.iter_mut().find(|known| known.name == row) {
            Some(known) => known.cells.push((column, cell)),
            None => self.rows.push(Row {
                name: row.to_owned(),
                cells: vec![(column, cell)],
            }),
        }
        done
    }

    /// Shows all of it, and fails if something did.
    pub(crate) fn finish(self) {
        let tables = self.tables();
        println!("\n{tables}");
        assert!(self.failures.is_empty(), "{}", self.failures.join("\n"));
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            let path = repository().join("docs/kubernetes.md");
            let page = fs::read_to_string(&path).unwrap();
            let (before, _) = page.split_once("<!-- results -->\n").unwrap();
            fs::write(path, format!("{before}<!-- results -->\n{tables}")).unwrap();
        }
    }

    /// A table for all rows with the same columns.
    fn tables(&self) -> String {
        let columns = |row: &Row| {
            row.cells
                .iter()
                .map(|(column, _)| *column)
                .collect::<Vec<_>>()
        };
        let mut rest: Vec<&Row> = self.rows.iter().collect();
        let mut text = String::new();
        while let Some(first) = rest.first() {
            let here = columns(first);
            let (rows, others): (Vec<&Row>, _) =
                rest.into_iter().partition(|row| columns(row) == here);
            let rule = "|---".repeat(here.len() + 1);
            let _ = write!(text, "\n| | {} |\n{rule}|\n", here.join(" | "));
            for Row { name, cells } in rows {
                let cells: Vec<&str> = cells.iter().map(|(_, cell)| cell.as_str()).collect();
                let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
            }
            rest = others;
        }
        text
    }
}
