//! The keys that a manifest may have: those that are not known are all reported at once, each with its line and what was meant.

use std::path::Path;

use serde::de::value::Error as Unread;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::message::{Lines, nearest};
use super::raw::{RawAdapter, RawArm, RawData, RawManifest, RawModel, RawProject};
use super::recipe::{ALIASES, INVERSES};
use super::{Policy, Recipe, RunConfig, backend::RawBackend};
use crate::error::{Error, Result};

/// Unknown keys that are shown; the others are counted.
const SHOWN: usize = 20;
/// Characters of a key that are shown.
const LONGEST: usize = 60;

/// The keys of a section, or `None` when there is no such section.
fn keys_of(section: &str) -> Option<&'static [&'static str]> {
    match section {
        "project" => Some(fields::<RawProject>()),
        "model" => Some(fields::<RawModel>()),
        "adapter" => Some(fields::<RawAdapter>()),
        // Its keys are the names of arms.
        "arms" => Some(&[]),
        "data" => Some(fields::<RawData>()),
        "train" => Some(fields::<Recipe>()),
        "backend" => Some(fields::<RawBackend>()),
        "run" => Some(fields::<RunConfig>()),
        "gate" => Some(fields::<Policy>()),
        _ => None,
    }
}

/// Refuses a manifest with keys that are not known.
///
/// # Errors
/// All of them, by their lines; those past the first 20 are counted.
pub(super) fn check(path: &Path, lines: &Lines, table: &DeTable<'_>) -> Result<()> {
    let mut unknown: Vec<(usize, String)> = Vec::new();
    let mut more = 0;
    let mut add = |at: usize, message: &dyn Fn() -> String| {
        if unknown.len() < SHOWN { unknown.push((at, message())) } else { more += 1 }
    };
    for (section, value) in table.iter() {
        let (name, at) = (section.get_ref().as_ref(), lines.at(&section.span()));
        if name == "extends" {
            continue;
        }
        let Some(known) = keys_of(name) else {
            add(at, &|| no_section(name, value));
            continue;
        };
        if name == "arms" {
            check_arms(lines, value, &mut add);
            continue;
        }
        if !value.get_ref().is_table() {
            // A list would be read as the section's keys in their order.
            add(at, &|| format!("[{name}] is {}, expected a table", what(value.get_ref())));
        }
        for key in value.get_ref().as_table().into_iter().flat_map(|keys| keys.keys()) {
            if !known.contains(&key.get_ref().as_ref()) {
                add(lines.at(&key.span()), &|| no_key(name, key.get_ref(), known));
            }
        }
    }
    // A table gives its keys in another order than the file.
    unknown.sort();
    let mut errors: Vec<Error> = unknown.into_iter().map(|(line, message)| Error::input(path, line, message)).collect();
    if more > 0 {
        errors.push(Error::input(path, None, format!("has {more} more unknown keys")));
    }
    Error::collect(errors)
}

/// Checks the sections below `[arms]`, one an arm.
fn check_arms(lines: &Lines, arms: &Spanned<DeValue<'_>>, add: &mut dyn FnMut(usize, &dyn Fn() -> String)) {
    let Some(arms) = arms.get_ref().as_table() else {
        let at = lines.at(&arms.span());
        return add(at, &|| format!("[arms] is {}, expected a table for each arm: [arms.NAME]", what(arms.get_ref())));
    };
    let known = fields::<RawArm>();
    for (name, arm) in arms.iter() {
        let section = format!("arms.{}", cut(name.get_ref()));
        let Some(keys) = arm.get_ref().as_table() else {
            let message = || format!("[{section}] is {}, expected a table", what(arm.get_ref()));
            add(lines.at(&name.span()), &message);
            continue;
        };
        for key in keys.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            add(lines.at(&key.span()), &|| no_key(&section, key.get_ref(), known));
        }
    }
}

fn what(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the text {:?}", cut(text)),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(yes) => yes.to_string(),
        DeValue::Datetime(date) => date.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

fn no_section(name: &str, value: &Spanned<DeValue<'_>>) -> String {
    let sections = fields::<RawManifest>();
    if value.get_ref().is_table() {
        let tables = sections.iter().copied().filter(|section| *section != "extends");
        let meant = nearest(name, tables.clone()).map(|near| format!("did you mean [{near}]?"));
        let known = || format!("known are {}", tables.map(|s| format!("[{s}]")).collect::<Vec<_>>().join(", "));
        return format!("has the unknown section [{}]; {}", cut(name), meant.unwrap_or_else(known));
    }
    // A key that stands above all sections: it may belong below one.
    let homes = sections.iter().filter(|section| keys_of(section).is_some_and(|keys| keys.contains(&name)));
    let homes: Vec<String> = homes.map(|section| format!("[{section}]")).collect();
    let advice = if !homes.is_empty() {
        format!("it belongs under {}", homes.join(" or "))
    } else if let Some(near) = nearest(name, sections.iter().copied()) {
        format!("did you mean {}?", if near == "extends" { near.to_owned() } else { format!("[{near}]") })
    } else {
        "keys stand under a section, such as [model]".to_owned()
    };
    format!("has the unknown key `{}`; {advice}", cut(name))
}

fn no_key(section: &str, key: &str, known: &[&'static str]) -> String {
    let aliases = if section == "train" { ALIASES.as_slice() } else { &[] };
    let inverses = if section == "train" { INVERSES.as_slice() } else { &[] };
    let others = aliases.iter().chain(inverses).map(|(alias, _)| *alias);
    let meant = nearest(key, known.iter().copied()).or_else(|| nearest(key, others));
    let advice =
        meant.map_or_else(|| format!("known are {}", known.join(", ")), |near| format!("did you mean `{near}`?"));
    format!("[{section}] has the unknown key `{}`; {advice}", cut(key))
}

/// A key may be as long as the file.
fn cut(name: &str) -> String {
    let mut shown: String = name.chars().take(LONGEST).collect();
    if shown.len() < name.len() {
        shown.push('…');
    }
    shown
}

/// The names of a struct's fields, as it asks a deserializer for them: so this list and the struct cannot differ.
fn fields<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut found: &'static [&'static str] = &[];
    // It ends with an error by design: only the names are wanted.
    drop(T::deserialize(Fields(&mut found)));
    found
}

struct Fields<'f>(&'f mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = Unread;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Unread> {
        Err(Unread::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Unread> {
        *self.0 = fields;
        Err(Unread::custom("its fields are known now"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq
        tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_has_its_keys() {
        for section in fields::<RawManifest>().iter().filter(|section| !["extends", "arms"].contains(section)) {
            assert!(keys_of(section).is_some_and(|keys| !keys.is_empty()), "{section}");
        }
        assert!(fields::<Recipe>().contains(&"lora_r") && fields::<Policy>().len() == 9);
    }

    fn told(text: &str) -> Vec<String> {
        let table = DeTable::parse(text).expect("TOML");
        match check(Path::new("f.toml"), &Lines::of(text), table.get_ref()) {
            Ok(()) => Vec::new(),
            Err(error) => error.to_string().lines().map(str::to_owned).collect(),
        }
    }

    #[test]
    fn all_unknown_keys_are_told_in_the_order_of_the_file() {
        let text =
            "[modl]\nsource = 1\n[train]\nlora_rr = 1\nload_in_4bit = true\ncutoff_length = 3\n[gate]\nzzz = 1\n";
        let lines = told(text);
        assert_eq!(lines[0], "5 problems");
        assert_eq!(lines[1], "- f.toml:1: has the unknown section [modl]; did you mean [model]?");
        assert_eq!(lines[2], "- f.toml:4: [train] has the unknown key `lora_rr`; did you mean `lora_r`?");
        assert!(
            lines[3].starts_with(
                "- f.toml:5: [train] has the unknown key `load_in_4bit`; known are engine, launch, adapter"
            )
        );
        assert!(lines[4].ends_with("did you mean `cutoff_len`?"), "{lines:?}");
        assert!(lines[5].starts_with("- f.toml:8: [gate] has the unknown key `zzz`; known are min_target_pass_rate"));
        assert_eq!(told("model = [\"a\"]\n"), ["f.toml:1: [model] is a list, expected a table"]);
        assert_eq!(told("[[gate]]\n"), ["f.toml:1: [gate] is a list, expected a table"]);
        assert_eq!(told("source = 1\n"), ["f.toml:1: has the unknown key `source`; it belongs under [model]"]);
    }

    #[test]
    fn many_unknown_keys_are_counted_in_linear_time() {
        let keys: String = (0..100_000).map(|i| format!("unknown_{i} = {i}\n")).collect();
        let lines = told(&format!("[gate]\n{keys}"));
        assert_eq!(lines.len(), 22);
        assert_eq!(lines[21], "- f.toml: has 99980 more unknown keys");
        let long = told(&format!("[gate]\n{} = 1\n", "x".repeat(1_000_000)));
        assert!(long[0].len() < 400, "{}", long[0].len());
    }
}
