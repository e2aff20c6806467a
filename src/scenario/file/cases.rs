//! The cases of a file: written in it, or one for each row of another file, by the template `[case]`.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::paraphrases::paraphrase_name;
use super::{RawCase, RawScenario, Reader, words};
use crate::error::Error;
use crate::scenario::Case;
use crate::scenario::fill::{columns, fill, only_column};
use crate::scenario::rows::{Cell, Row, Rows, no_column};

/// The key whose values are compared by their types.
const TYPED: &str = "json-fields";

#[cfg(test)]
#[derive(schemars::JsonSchema)]
#[allow(dead_code, reason = "only its schema is used")]
#[schemars(untagged)]
pub(super) enum CasesSchema {
    Listed(Vec<RawCase>),
    Rows(String),
}

/// What `cases` is in a file: a list, or the path of a file of rows.
pub(super) enum Cases<C> {
    Listed(Vec<C>),
    Rows(String),
}

impl<'de, C: Deserialize<'de>> Deserialize<'de> for Cases<C> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<C>(std::marker::PhantomData<C>);
        impl<'de, C: Deserialize<'de>> Visitor<'de> for Either<C> {
            type Value = Cases<C>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of cases, or the path of a file of rows in quotes")
            }

            fn visit_str<E: serde::de::Error>(self, path: &str) -> Result<Self::Value, E> {
                Ok(Cases::Rows(path.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut cases = Vec::new();
                while let Some(case) = list.next_element()? {
                    cases.push(case);
                }
                Ok(Cases::Listed(cases))
            }
        }
        deserializer.deserialize_any(Either(std::marker::PhantomData))
    }
}

/// `line_7`: the name of a case whose template names none, after the row's line.
pub(super) fn row_name(line: usize) -> String {
    format!("line_{line}")
}

/// The names of the cases of a file of rows, by the template's name and number of paraphrases; `None` when they cannot be had.
pub(super) fn row_names(scenario: &Path, file: &str, name: Option<&str>, paraphrases: usize) -> Option<Vec<String>> {
    let rows = Rows::read(&scenario.with_file_name(file)).ok()?.rows;
    let named = |row: &Row| match name {
        Some(name) => fill(name, row).ok(),
        None => Some(row_name(row.line)),
    };
    let mut names = Vec::new();
    for row in &rows {
        let name = named(row)?;
        let further: Vec<String> = (0..paraphrases).map(|i| paraphrase_name(&name, i)).collect();
        names.push(name);
        names.extend(further);
    }
    Some(names)
}

impl Reader<'_> {
    /// All cases of the file whose content is `text`.
    pub(super) fn cases(&mut self, raw: &mut RawScenario, text: &str) -> Vec<Case> {
        let template = raw.case.take().map(|template| template.span());
        let Some(cases) = raw.cases.take() else {
            if let Some(at) = template {
                self.fail(
                    &at,
                    "[case] is a template for rows, and no file is named; give one: cases = \"cases.jsonl\"",
                );
            }
            return Vec::new();
        };
        let at = cases.span();
        match (cases.into_inner(), template) {
            (Cases::Listed(_), Some(at)) => {
                let message = "[case] is a template for a file of rows, and the cases are written here; write each as [[cases]], \
                               or name a file: cases = \"cases.jsonl\"";
                self.fail(&at, message);
                Vec::new()
            }
            (Cases::Listed(list), None) => self.listed(list),
            (Cases::Rows(file), None) => {
                let message = format!(
                    "cases = {file:?} needs the table [case], which says how a row becomes a case: prompt = \"{{{{question}}}}\" and \
                     checks"
                );
                self.fail(&at, message);
                Vec::new()
            }
            (Cases::Rows(file), Some(template)) => self.of_rows(&at, &file, template, text),
        }
    }

    fn listed(&mut self, list: Vec<Spanned<RawCase>>) -> Vec<Case> {
        let mut names = HashSet::new();
        let mut cases = Vec::new();
        for (position, raw) in list.into_iter().enumerate() {
            let at = raw.span();
            for case in self.family(raw.into_inner(), || super::default_name(position), &at) {
                self.check_unique(&mut names, &case, &at);
                cases.push(case);
            }
        }
        cases
    }

    /// A case for each row of a file. `at` is where the file is named, which is the place of all of its cases in the scenario's file.
    fn of_rows(&mut self, at: &Range<usize>, file: &str, template: Range<usize>, text: &str) -> Vec<Case> {
        let rows = match Rows::read(&self.path.with_file_name(file)) {
            Ok(rows) => rows,
            // The place that names the file is the one to mend when the file is not there.
            Err(error @ Error::Io { .. }) => {
                self.fail(at, format!("cases = {file:?}: {error}"));
                return Vec::new();
            }
            Err(error) => {
                self.errors.push(error);
                return Vec::new();
            }
        };
        let document = DeTable::parse(text).ok();
        let table = document.as_ref().and_then(|document| document.get_ref().get("case")?.get_ref().as_table());
        let Some(table) = table.filter(|table| self.check_template(table, &rows, &template)) else {
            return Vec::new();
        };
        let mut names = HashSet::new();
        let mut cases = Vec::new();
        for row in &rows.rows {
            self.row = Some((rows.path.clone(), row.line));
            let mut table: DeTable<'_> = table.clone();
            if let Err((at, message)) = fill_table(&mut table, row, false) {
                self.fail(&at, message);
                continue;
            }
            let filled = toml::de::Deserializer::from(Spanned::new(template.clone(), table));
            match RawCase::deserialize(filled) {
                Ok(raw) => {
                    for case in self.family(raw, || row_name(row.line), at) {
                        self.check_unique(&mut names, &case, at);
                        cases.push(case);
                    }
                }
                Err(error) => {
                    // It is the template's, and so every row's.
                    self.errors.push(words::explained(self.path, text, &error));
                    break;
                }
            }
        }
        self.row = None;
        cases
    }

    /// Whether the template can be filled at all: it uses columns, and those of a CSV file are there.
    fn check_template(&mut self, table: &DeTable<'_>, rows: &Rows, at: &Range<usize>) -> bool {
        let before = self.errors.len();
        let mut used = false;
        for (place, text) in texts(table) {
            match columns(text) {
                Err(message) => self.fail(&place, message),
                Ok(named) => {
                    used |= !named.is_empty();
                    let Some(known) = &rows.columns else { continue };
                    let known = known.iter().map(String::as_str);
                    for column in named.into_iter().filter(|column| !known.clone().any(|known| known == *column)) {
                        let file = rows.path.display();
                        self.fail(&place, format!("{file} {}", no_column(column, known.clone())));
                    }
                }
            }
        }
        if !used && self.errors.len() == before {
            let shown: Vec<String> = rows.rows[0].columns().take(8).map(|name| format!("{{{{{name}}}}}")).collect();
            let message = format!(
                "[case] uses no column, so the cases of all rows would be the same; write one of {} where its text belongs",
                shown.join(", ")
            );
            self.fail(at, message);
        }
        if self.system.is_some() && !table.contains_key("prompt") {
            self.fail(at, "system is said only to cases with `prompt`, and [case] has none");
        }
        self.errors.len() == before
    }

    fn check_unique(&mut self, names: &mut HashSet<String>, case: &Case, at: &Range<usize>) {
        if !names.insert(case.name.clone()) {
            self.fail(at, format!("two cases are named {:?}; a name tells a case's test from the others", case.name));
        }
    }
}

/// Every text in a table, with its place.
fn texts<'t>(table: &'t DeTable<'_>) -> Vec<(Range<usize>, &'t str)> {
    let mut found = Vec::new();
    let mut open: Vec<&Spanned<DeValue<'_>>> = table.values().collect();
    while let Some(value) = open.pop() {
        match value.get_ref() {
            DeValue::String(text) => found.push((value.span(), text.as_ref())),
            DeValue::Array(items) => open.extend(items.iter()),
            DeValue::Table(table) => open.extend(table.values()),
            _ => {}
        }
    }
    found.sort_by_key(|(at, _)| at.start);
    found
}

type Misfit = (Range<usize>, String);

/// Replaces the columns in every text of a table. Where values are compared by their types, a text that is one column alone becomes the
/// row's number, `true` or `false`.
fn fill_table<'r>(table: &mut DeTable<'r>, row: &'r Row, typed: bool) -> Result<(), Misfit> {
    for (key, value) in table.iter_mut() {
        fill_value(value, row, typed || key.get_ref() == TYPED)?;
    }
    Ok(())
}

fn fill_value<'r>(value: &mut Spanned<DeValue<'r>>, row: &'r Row, typed: bool) -> Result<(), Misfit> {
    let at = value.span();
    match value.get_mut() {
        DeValue::String(text) => {
            let own = typed.then(|| only_column(text)).flatten().and_then(|column| typed_cell(row, column));
            let filled = match own {
                Some(own) => own,
                None => DeValue::String(fill(text, row).map_err(|message| (at, message))?.into()),
            };
            *value.get_mut() = filled;
        }
        DeValue::Array(items) => items.iter_mut().try_for_each(|item| fill_value(item, row, typed))?,
        DeValue::Table(table) => fill_table(table, row, typed)?,
        _ => {}
    }
    Ok(())
}

/// A number, `true` or `false` of a row as TOML has it.
fn typed_cell<'r>(row: &'r Row, column: &str) -> Option<DeValue<'r>> {
    match row.cell(column).ok()? {
        Cell::Flag(flag) => Some(DeValue::Boolean(*flag)),
        Cell::Number(number) => DeValue::parse(number).ok().map(Spanned::into_inner),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
