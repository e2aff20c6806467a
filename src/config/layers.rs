//! A manifest's text and those it extends, merged into one table that still knows where each key was written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::message::{Lines, line_at, toml_error};
use super::paths::{adapter_path, directory_name, identity, normalise};
use super::places::{ARMS, Places};
use super::raw::{RawAdapter, RawManifest};
use super::recipe::{ALIASES, ALTERNATIVES, INVERSES};
use super::{MOST_MANIFEST_BYTES, foreign, keys};

use crate::error::{Error, Result};
use crate::files::read_regular_text;

/// Longest chain of `extends`.
const DEEPEST: usize = 8;

/// A manifest with what it extends.
pub(super) struct Layers {
    /// The keys, by their canonical names; a manifest's own override those of the one it extends.
    pub(super) table: toml::Table,
    /// Where each was written.
    pub(super) places: Places,
    /// The directory of the manifest that extends no other.
    pub(super) root: PathBuf,
    /// Where the extended manifest's adapter is, when this one trains something else.
    pub(super) foreign_adapter: Option<PathBuf>,
    /// What a person should know of keys that change nothing.
    pub(super) notes: Vec<String>,
}

/// Reads `path` and what it extends, each checked on its own, so that a wrong key is reported where it stands.
pub(super) fn layers(path: &Path) -> Result<Layers> {
    read(path, &mut Vec::new())
}

fn read(path: &Path, open: &mut Vec<PathBuf>) -> Result<Layers> {
    let text = read_regular_text(path, MOST_MANIFEST_BYTES)?;
    // A byte order mark is what some editors begin a file with.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned();
    let lines = Lines::of(&text);
    let mut table = DeTable::parse(&text).map_err(|e| toml_error(path, &text, &e))?;
    let notes = canonical(path, &text, table.get_mut())?;
    keys::check(path, &lines, table.get_ref())?;
    let keys = places(path, &lines, table.get_ref());
    let extends = extended(path, &text, &table)?;
    let mut own = toml::Table::deserialize(Deserializer::from(table)).map_err(|e| toml_error(path, &text, &e))?;
    own.remove("extends");
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Some((base, line)) = extends else {
        let places = Places { manifest: path.to_path_buf(), keys };
        return Ok(Layers { table: own, places, root: directory.to_path_buf(), foreign_adapter: None, notes });
    };

    open.push(identity(path));
    let base = normalise(&directory.join(base));
    if open.len() > DEEPEST || open.contains(&identity(&base)) {
        let why = if open.len() > DEEPEST {
            format!("is deeper than {DEEPEST} manifests")
        } else {
            "goes round in a circle".into()
        };
        return Err(Error::input(path, line, format!("extends = \"{}\" {why}", base.display())));
    }
    let mut below = read(&base, open)?;
    below.foreign_adapter = foreign_adapter(&own, &below);
    below.places.manifest = path.to_path_buf();
    below.notes.extend(notes);
    override_with(&mut below.table, own);
    below.places.keys.extend(keys);
    Ok(below)
}

/// Checks every key and type of one manifest, and gives the path it extends, with its line.
fn extended(path: &Path, text: &str, table: &Spanned<DeTable<'_>>) -> Result<Option<(PathBuf, usize)>> {
    let raw = RawManifest::deserialize(Deserializer::from(table.clone())).map_err(|error| {
        let mut told = toml_error(path, text, &error);
        let key = error.span().and_then(|span| key_at(table.get_ref(), span.start));
        if let (Some(key), Error::Input { message, .. }) = (key, &mut told) {
            // The key is known by its place; what serde says names only the type.
            if message.starts_with("is ") || message.starts_with("has ") {
                *message = format!("{key} {message}");
            } else if let Some(rest) = message.strip_prefix("unknown variant ") {
                *message = format!("{key} is {rest}");
            }
        }
        told
    })?;
    let Some(extends) = raw.extends else { return Ok(None) };
    let line = line_at(text, &extends.span());
    if extends.get_ref().as_os_str().is_empty() {
        return Err(Error::input(path, line, "extends is empty; give a manifest's path, or leave it out"));
    }
    Ok(Some((extends.into_inner(), line)))
}

/// Renames the aliases in `[train]`, and takes out what changes nothing; the same key under two names is an error.
fn canonical(path: &Path, text: &str, table: &mut DeTable<'_>) -> Result<Vec<String>> {
    let Some(train) = table.get_mut("train") else { return Ok(Vec::new()) };
    let DeValue::Table(train) = train.get_mut() else { return Ok(Vec::new()) };
    let notes = foreign::without_effect(path, text, train)?;
    let names = ALIASES.iter().map(|(alias, name)| (*alias, *name, false));
    for (alias, name, inverse) in names.chain(INVERSES.iter().map(|(alias, name)| (*alias, *name, true))) {
        let Some((key, mut value)) = train.remove_entry(alias) else { continue };
        let at = line_at(text, &key.span());
        if train.contains_key(name) {
            let message = format!("[train] `{alias}` is another name of `{name}`, and both are given; give one");
            return Err(Error::input(path, at, message));
        }
        if inverse {
            let DeValue::Boolean(given) = value.get_mut() else {
                return Err(Error::input(path, at, format!("[train] {alias} is not true or false")));
            };
            *given = !*given;
        }
        train.insert(Spanned::new(key.span(), name.into()), value);
    }
    Ok(notes)
}

/// The key whose value the byte at `offset` belongs to: `[train] lora_r`, or `[train]`.
fn key_at(table: &DeTable<'_>, offset: usize) -> Option<String> {
    let holds = |value: &Spanned<DeValue<'_>>| value.span().contains(&offset);
    for (section, value) in table.iter() {
        let inner = value.get_ref().as_table().and_then(|keys| keys.iter().find(|(_, value)| holds(value)));
        let arm = inner.filter(|_| section.get_ref() == "arms");
        if let Some((name, keys)) = arm {
            let within = keys.get_ref().as_table().and_then(|keys| keys.iter().find(|(_, value)| holds(value)));
            let key = within.map_or_else(String::new, |(key, _)| format!(" {}", key.get_ref()));
            return Some(format!("[{ARMS}{}]{key}", name.get_ref()));
        }
        if let Some((key, _)) = inner {
            return Some(format!("[{}] {}", section.get_ref(), key.get_ref()));
        }
        if holds(value) {
            return Some(if section.get_ref() == "extends" {
                "extends".into()
            } else {
                format!("[{}]", section.get_ref())
            });
        }
    }
    None
}

fn places(path: &Path, lines: &Lines, table: &DeTable<'_>) -> BTreeMap<String, (PathBuf, usize)> {
    let mut found = BTreeMap::new();
    let place = |span| (path.to_path_buf(), lines.at(&span));
    for (section, value) in table.iter() {
        found.insert(section.get_ref().to_string(), place(section.span()));
        for (key, _) in value.get_ref().as_table().into_iter().flat_map(|t| t.iter()) {
            found.insert(format!("{}.{}", section.get_ref(), key.get_ref()), place(key.span()));
        }
        let arms = value.get_ref().as_table().filter(|_| section.get_ref() == "arms");
        for (arm, keys) in arms.into_iter().flat_map(|arms| arms.iter()) {
            for (key, _) in keys.get_ref().as_table().into_iter().flat_map(|keys| keys.iter()) {
                found.insert(format!("{ARMS}{}.{}", arm.get_ref(), key.get_ref()), place(key.span()));
            }
        }
    }
    found
}

/// Puts `from`'s keys over `into`'s. A key of `[train]` also takes the place of those that it excludes.
fn override_with(into: &mut toml::Table, from: toml::Table) {
    for (section, value) in from {
        match (into.get_mut(&section), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => {
                for (key, other) in ALTERNATIVES.iter().flat_map(|(a, b)| [(a, b), (b, a)]) {
                    if section == "train" && new.contains_key(*key) && !new.contains_key(*other) {
                        old.remove(*other);
                    }
                }
                old.extend(new);
            }
            (_, value) => {
                into.insert(section, value);
            }
        }
    }
}

/// The path of the adapter below, when the manifest above describes another adapter: it has another model, data or recipe.
fn foreign_adapter(own: &toml::Table, below: &Layers) -> Option<PathBuf> {
    // The precision that a model is asked in is none of what an adapter comes from.
    let another_model = |model: &toml::Value| model.as_table().is_none_or(|keys| keys.keys().any(|key| key != "dtype"));
    let another = ["data", "train"].iter().any(|section| own.contains_key(*section));
    if !another && !own.get("model").is_some_and(another_model) {
        return below.foreign_adapter.clone();
    }
    let path = match below.table.get("adapter") {
        Some(adapter) => adapter.clone().try_into::<RawAdapter>().ok()?.path,
        None if below.table.contains_key("train") => None,
        None => return None,
    };
    let name = below.table.get("project").and_then(|p| p.get("name")).and_then(toml::Value::as_str).map(str::to_owned);
    Some(adapter_path(&below.root, path, &name.unwrap_or_else(|| directory_name(&below.root))))
}
