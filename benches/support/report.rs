//! Results as tables for people and as lines of JSON for programs.

use serde_json::{Map, Value, json};

/// Where results go.
#[derive(Debug)]
pub struct Report {
    json: bool,
}

/// One figure or word in a table.
#[derive(Debug, Clone)]
pub enum Cell {
    /// A number and how many of its decimals matter.
    Number(f64, usize),
    /// A word.
    Text(String),
    /// Nothing to say.
    Empty,
}

/// A number shown with `decimals`.
pub fn number(value: f64, decimals: usize) -> Cell {
    Cell::Number(value, decimals)
}

/// Whether `value` is at most `bar`, in words.
pub fn verdict(value: f64, bar: f64) -> Cell {
    Cell::Text(if value <= bar { "met".into() } else { "missed".into() })
}

impl Cell {
    fn text(&self) -> String {
        match self {
            Cell::Number(value, decimals) => format!("{value:.decimals$}"),
            Cell::Text(text) => text.clone(),
            Cell::Empty => String::new(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Cell::Number(value, decimals) => {
                let scale = 10_f64.powi(i32::try_from(*decimals).unwrap_or(0));
                json!((value * scale).round() / scale)
            }
            Cell::Text(text) => json!(text),
            Cell::Empty => Value::Null,
        }
    }
}

/// Cases as rows, figures as columns.
#[derive(Debug)]
pub struct Table {
    bench: &'static str,
    title: String,
    columns: Vec<&'static str>,
    rows: Vec<(String, Vec<Cell>)>,
}

impl Table {
    /// A table of `bench`; column names carry their units.
    pub fn new(bench: &'static str, title: impl Into<String>, columns: &[&'static str]) -> Self {
        Self { bench, title: title.into(), columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds the figures of one case, one per column.
    pub fn row(&mut self, case: impl Into<String>, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push((case.into(), cells.into_iter().collect()));
    }

    fn text(&self) -> String {
        let header = std::iter::once("").chain(self.columns.iter().copied()).map(str::to_string).collect();
        let body = self
            .rows
            .iter()
            .map(|(case, cells)| std::iter::once(case.clone()).chain(cells.iter().map(Cell::text)).collect());
        let lines: Vec<Vec<String>> = std::iter::once(header).chain(body).collect();
        let width = |column: usize| {
            lines
                .iter()
                .filter_map(|line| line.get(column))
                .map(|text| text.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..=self.columns.len()).map(width).collect();
        let mut text = format!("{}: {}\n", self.bench, self.title);
        for line in &lines {
            for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
                let padded =
                    if column == 0 { format!("  {cell:<width$}") } else { format!("  {cell:>width$}") };
                text.push_str(&padded);
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text
    }

    fn json_lines(&self) -> impl Iterator<Item = String> {
        self.rows.iter().map(|(case, cells)| {
            let mut object = Map::new();
            object.insert("bench".into(), json!(self.bench));
            object.insert("table".into(), json!(self.title));
            object.insert("case".into(), json!(case));
            for (column, cell) in self.columns.iter().zip(cells) {
                object.insert((*column).into(), cell.json());
            }
            Value::Object(object).to_string()
        })
    }
}

impl Report {
    /// Tables on stdout; or, with `json`, lines of JSON there and the tables on stderr.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Shows a finished table.
    pub fn show(&self, table: &Table) {
        if self.json {
            eprintln!("{}", table.text());
            table.json_lines().for_each(|line| println!("{line}"));
        } else {
            println!("{}", table.text());
        }
    }
}
