//! Which of a base's layers an adapter's configuration names, as PEFT reads it, and what is said when its file has only some of them.

use std::collections::{BTreeSet, HashSet};

use regex::Regex;
use serde_json::Value;

use super::Adapter;
use super::keys::{Keys, ends, expression};
use crate::error::Result;
use crate::model::architecture::outline::Outline;

/// Modules that a note names.
const EXAMPLES: usize = 3;

/// What `target_modules` and the keys that narrow it say.
#[derive(Clone, Debug)]
pub(crate) struct Targets {
    named: Named,
    excluded: Option<Named>,
    /// `modules_to_save`: those are replaced and have no pairs.
    saved: HashSet<String>,
    layers: Option<BTreeSet<i64>>,
    layer_number: Vec<Regex>,
}

#[derive(Clone, Debug)]
enum Named {
    /// Every linear layer.
    All,
    /// The whole path.
    Pattern(Regex),
    /// The path, or its end after a dot.
    Names(HashSet<String>),
}

impl Named {
    /// `None`: a pattern that Python's `re` understands and this crate's does not.
    fn read(keys: &Keys<'_>, key: &str, value: &Value) -> Result<Option<Self>> {
        Ok(match value {
            Value::String(text) if text.eq_ignore_ascii_case("all-linear") => Some(Self::All),
            Value::String(pattern) => expression(&format!("^(?:{pattern})$")).map(Self::Pattern),
            Value::Array(_) => Some(Self::Names(keys.texts(key)?.into_iter().collect())),
            _ => return Err(keys.wrong(key, "a list of names or a pattern")),
        })
    }

    fn names(&self, path: &str) -> bool {
        match self {
            Self::All => true,
            Self::Pattern(pattern) => pattern.is_match(path),
            Self::Names(names) => ends(path).any(|end| names.contains(end)),
        }
    }
}

impl Targets {
    /// `None` when the configuration does not say, or says it in a way that cannot be followed here.
    ///
    /// # Errors
    /// A key of a wrong type.
    pub(super) fn read(keys: &Keys<'_>) -> Result<Option<Self>> {
        let named = keys.get("target_modules").map(|value| Named::read(keys, "target_modules", value)).transpose()?;
        let excluded =
            keys.get("exclude_modules").map(|value| Named::read(keys, "exclude_modules", value)).transpose()?;
        let layers = match keys.get("layers_to_transform") {
            None => None,
            Some(value) => {
                let numbers = match value {
                    Value::Array(all) => all.iter().map(Value::as_i64).collect(),
                    one => one.as_i64().map(|one| BTreeSet::from([one])),
                };
                let numbers: Option<BTreeSet<i64>> = numbers;
                let numbers =
                    numbers.ok_or_else(|| keys.wrong("layers_to_transform", "a number or a list of numbers"))?;
                Some(numbers).filter(|numbers| !numbers.is_empty())
            }
        };
        let patterns = match keys.get("layers_pattern") {
            Some(Value::String(one)) => vec![one.clone()],
            _ => keys.texts("layers_pattern")?,
        };
        let patterns = if patterns.iter().all(String::is_empty) { vec!["[^.]*".to_owned()] } else { patterns };
        let layer_number: Option<Vec<Regex>> =
            patterns.iter().take(EXAMPLES * 8).map(|p| expression(&format!("^.*\\.(?:{p})\\.(\\d+)\\."))).collect();
        let saved = keys.texts("modules_to_save")?.into_iter().collect();
        let (Some(Some(named)), Some(layer_number)) = (named, layer_number) else { return Ok(None) };
        let Some(excluded) = excluded.map_or(Some(None), |excluded| excluded.map(Some)) else { return Ok(None) };
        Ok(Some(Self { named, excluded, saved, layers, layer_number }))
    }

    /// Does it name the module at this path?
    fn names(&self, path: &str) -> bool {
        let is_excluded = self.excluded.as_ref().is_some_and(|excluded| excluded.names(path));
        if is_excluded || (!self.saved.is_empty() && self.is_saved(path)) {
            return false;
        }
        // A pattern, and a path that is named whole, are not narrowed by layers.
        let whole = match &self.named {
            Named::Names(names) => names.contains(path),
            Named::Pattern(_) => true,
            Named::All => false,
        };
        self.named.names(path) && (whole || self.layers.as_ref().is_none_or(|layers| self.is_in(path, layers)))
    }

    /// Is it in a module that is saved whole?
    fn is_saved(&self, path: &str) -> bool {
        let starts_of = |end: &str| {
            let starts = end.match_indices('.').map(|(at, _)| &end[..at]);
            starts.chain([end]).any(|name| self.saved.contains(name))
        };
        ends(path).any(starts_of)
    }

    fn is_in(&self, path: &str, layers: &BTreeSet<i64>) -> bool {
        let number = self.layer_number.iter().find_map(|pattern| pattern.captures(path));
        number.and_then(|found| found[1].parse().ok()).is_some_and(|number: i64| layers.contains(&number))
    }
}

/// What to say of an adapter whose configuration names other modules of the base than its file holds; PEFT warns of those that are
/// missing, and leaves out those that are not named.
pub(crate) fn partial(adapter: &Adapter, base: &Outline) -> Vec<String> {
    let Some(targets) = adapter.targets.as_ref().filter(|_| base.has_names()) else { return Vec::new() };
    // Newer versions of transformers have a layer's experts in one parameter, which `target_modules` does not reach.
    let experts = adapter.modules.keys().any(|path| base.expert(path).is_some());
    let named = base.layers.keys().filter(|path| base.expert(path).is_none() || experts);
    let named: Vec<&String> = named.filter(|path| targets.names(path)).collect();
    let missing: Vec<&String> = named.iter().copied().filter(|path| !adapter.modules.contains_key(*path)).collect();
    let unnamed = adapter.modules.keys().filter(|path| base.expert(path).is_none() && !targets.names(path));
    let unnamed: Vec<&String> = unnamed.collect();
    let path = adapter.path.display();
    let mut notes = Vec::new();
    if !missing.is_empty() && !named.is_empty() {
        notes.push(format!(
            "{path}: only part of the adapter is there: {} of the {} modules that its target_modules names have no tensors ({}). \
             These layers stay as the base has them. Save the adapter again if that is not meant",
            missing.len(),
            named.len(),
            examples(&missing)
        ));
    }
    if !unnamed.is_empty() {
        notes.push(format!(
            "{path}: {} of its {} modules are not named by its target_modules ({}). finetest applies them, and PEFT leaves \
             them out",
            unnamed.len(),
            adapter.modules.len(),
            examples(&unnamed)
        ));
    }
    notes
}

fn examples(paths: &[&String]) -> String {
    let shown: Vec<&str> = paths.iter().take(EXAMPLES).map(|path| path.as_str()).collect();
    format!("{}{}", shown.join(", "), if paths.len() > EXAMPLES { ", …" } else { "" })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::decoder::parity::fixture;
    use crate::model::formats::safetensors::{EncodedTensor, read_tensors, write_tensors};
    use crate::model::lora::tests::base;
    use crate::model::lora::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, load};

    /// The llama adapter with these keys in its configuration and these tensors left in its file.
    fn adapter(keys: &[(&str, Value)], kept: fn(&str) -> bool) -> (tempfile::TempDir, Adapter) {
        let folder = tempfile::tempdir().expect("a folder");
        let from = fixture("llama/adapter");
        let text = std::fs::read_to_string(from.join(ADAPTER_CONFIG)).expect("a configuration");
        let mut config: Value = serde_json::from_str(&text).expect("JSON");
        keys.iter().for_each(|(key, value)| config[*key] = value.clone());
        std::fs::write(folder.path().join(ADAPTER_CONFIG), config.to_string()).expect("a file");
        let tensors = read_tensors(&from.join(ADAPTER_WEIGHTS)).expect("tensors");
        let tensors: Vec<_> = tensors
            .iter()
            .filter(|(name, _)| kept(name))
            .map(|(name, read)| EncodedTensor::f32(name.clone(), read.shape.clone(), &read.values))
            .collect();
        write_tensors(&folder.path().join(ADAPTER_WEIGHTS), &tensors).expect("written");
        let adapter = load(folder.path()).expect("an adapter");
        (folder, adapter)
    }

    #[track_caller]
    fn notes(keys: &[(&str, Value)], kept: fn(&str) -> bool) -> String {
        partial(&adapter(keys, kept).1, &base("llama")).join("\n")
    }

    #[test]
    fn half_an_adapter_is_said_with_how_many_and_which() {
        let first_gone = notes(&[], |name| !name.contains("layers.0."));
        for word in ["7 of the 21 modules", "model.layers.0.mlp.down_proj, ", ", …)"] {
            assert!(first_gone.contains(word), "{first_gone}");
        }
        let one = notes(&[], |name| name.contains("layers.1.self_attn.q_proj"));
        assert!(one.contains("20 of the 21 modules"), "{one}");
        let none_of_v = notes(&[("target_modules", "all-linear".into())], |name| !name.contains("v_proj"));
        assert!(
            none_of_v.contains("3 of the 21 modules") && none_of_v.contains("layers.2.self_attn.v_proj)"),
            "{none_of_v}"
        );
        let pattern = notes(&[("target_modules", r".*\.\d+\.self_attn\.[qk]_proj".into())], |name| {
            name.contains("q_proj") && !name.contains("layers.1.")
        });
        assert!(pattern.contains("4 of the 6 modules"), "{pattern}");
    }

    #[test]
    fn what_narrows_the_targets_gives_no_note() {
        let list = |names: &[&str]| Value::from(names.to_vec());
        let only_two: fn(&str) -> bool = |name| name.contains("layers.2.");
        for keys in [
            vec![("layers_to_transform", Value::from(2))],
            vec![("layers_to_transform", Value::from(vec![2, 9])), ("layers_pattern", "layers".into())],
            vec![("layers_to_transform", Value::from(vec![2])), ("layers_pattern", list(&["h", "layers"]))],
            vec![("exclude_modules", r"model\.layers\.[01]\..*".into())],
            vec![("target_modules", r".*\.2\..*_proj".into())],
        ] {
            assert_eq!(notes(&keys, only_two), "", "{keys:?}");
        }
        let no_v: fn(&str) -> bool = |name| !name.contains("v_proj");
        assert_eq!(notes(&[("exclude_modules", list(&["v_proj"]))], no_v), "");
        assert_eq!(notes(&[("exclude_modules", list(&["self_attn.v_proj"]))], no_v), "");
        // What Python's `re` alone understands is not followed, and nothing is said.
        assert_eq!(notes(&[("target_modules", r"(?!x).*".into())], only_two), "");
        assert_eq!(notes(&[("target_modules", Value::Null)], only_two), "");
    }

    #[test]
    fn modules_that_no_target_names_are_said() {
        let more = notes(&[("target_modules", Value::from(vec!["q_proj"]))], |_| true);
        assert!(more.contains("18 of its 21 modules are not named by its target_modules"), "{more}");
        assert!(!more.contains("only part"), "{more}");
    }

    /// Adapters that PEFT saved whole, of every kind of configuration.
    #[test]
    fn whole_adapters_give_no_note() {
        for (family, adapter) in [
            ("llama", "llama/adapter"),
            ("qwen2", "qwen2/adapter"),
            ("qwen2_moe", "qwen2_moe/adapter"),
            ("qwen3_moe", "qwen3_moe/adapter"),
            ("deepseek_v3", "deepseek_v3/adapter"),
            ("gpt2", "gpt2/adapter"),
            ("falcon", "falcon/adapter"),
            ("llama", "adapters/layers"),
            ("llama", "adapters/patterns"),
            ("llama", "adapters/saved"),
            ("llama", "adapters/dora"),
        ] {
            let directory = fixture(adapter);
            if !Path::new(&directory).join(ADAPTER_CONFIG).is_file() {
                continue;
            }
            let loaded = load(&directory).expect(adapter);
            let base = base(family);
            if loaded.check_fits(&base).is_ok() {
                assert_eq!(partial(&loaded, &base).join("\n"), "", "{adapter}");
            }
        }
    }
}
