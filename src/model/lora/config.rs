//! `adapter_config.json`: what PEFT says of an adapter.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde_json::Value;

use super::ADAPTER_CONFIG;
use super::keys::{Keys, clipped, ends, expression, shown};
use super::targets::Targets;
use crate::error::{Error, Result};
use crate::files::read_regular_text;

/// Bytes of a configuration: one with a rank for each of 100 000 modules has fewer.
const MOST_BYTES: u64 = 16 << 20;
/// Patterns that are regular expressions and no plain names.
const MOST_EXPRESSIONS: usize = 256;

/// What is used of a configuration.
pub(super) struct PeftConfig {
    pub(super) r: usize,
    pub(super) lora_alpha: f64,
    pub(super) lora_dropout: f64,
    /// `base_model_name_or_path`, or nothing.
    pub(super) base: String,
    pub(super) revision: Option<String>,
    use_rslora: bool,
    pub(super) use_dora: bool,
    pub(super) bias: String,
    pub(super) target_parameters: Vec<String>,
    pub(super) modules_to_save: Vec<String>,
    pub(super) targets: Option<Targets>,
    ranks: Patterns<usize>,
    alphas: Patterns<f64>,
    alpha_line: Option<usize>,
    path: PathBuf,
}

/// Keys that change what the tensors mean and that are not supported; an adapter is refused when one of them is set.
const REFUSED: [&str; 10] = [
    "ensure_weight_tying",
    "trainable_token_indices",
    "layer_replication",
    "alora_invocation_tokens",
    "arrow_config",
    "lora_bias",
    "use_bdlora",
    "use_qalora",
    "kasa_config",
    "monteclora_config",
];

/// Ways to begin that leave the base as it is. Others (PiSSA, OLoRA, CorDA, LoftQ, …) change the base's weights too, and the
/// adapter is for that changed base alone.
const STARTS: [&str; 3] = ["gaussian", "orthogonal", "eva"];

impl PeftConfig {
    /// Reads the configuration of a PEFT directory.
    ///
    /// # Errors
    /// A file that is missing, too long or no JSON; a key of a wrong type; a kind of adapter that is not supported, by name.
    pub(super) fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(ADAPTER_CONFIG);
        let text = read_regular_text(&path, MOST_BYTES)?;
        // Some editors put a mark before the text.
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        if text.trim().is_empty() {
            return Err(Error::input(&path, None, "is empty; save the adapter again"));
        }
        let value: Value = serde_json::from_str(text)
            .map_err(|e| Error::input(&path, e.line(), format!("is not valid JSON: {e}; save the adapter again")))?;
        let Value::Object(map) = &value else {
            let got = shown(&value);
            return Err(Error::input(&path, 1, format!("is {got}, expected an object as PEFT writes it")));
        };
        Self::of(&Keys { path: &path, text, map })
    }

    fn of(keys: &Keys<'_>) -> Result<Self> {
        if let Some(key) = REFUSED.iter().find(|key| keys.map.get(**key).is_some_and(is_set)) {
            return Err(keys.error(key, format!("{key} is set, and is not supported")));
        }
        check_start(keys)?;
        let kind = keys.text("peft_type")?.ok_or_else(|| keys.wrong("peft_type", "\"LORA\""))?;
        if kind != "LORA" {
            return Err(keys.error("peft_type", format!("peft_type is {kind}, expected LORA")));
        }
        let bias = if keys.map.contains_key("bias") { keys.required_text("bias", "a word")? } else { "none" };
        if !["none", "all", "lora_only"].contains(&bias) {
            let message = format!("bias is {bias:?}, expected \"none\", \"all\" or \"lora_only\"");
            return Err(keys.error("bias", message));
        }
        let ranks = Patterns::read(keys, "rank_pattern", RANK, rank)?;
        Ok(Self {
            r: keys.value("r", RANK, rank)?,
            lora_alpha: keys.value("lora_alpha", "a number", Value::as_f64)?,
            lora_dropout: if keys.map.contains_key("lora_dropout") {
                keys.value("lora_dropout", "a number", Value::as_f64)?
            } else {
                0.0
            },
            base: keys.text("base_model_name_or_path")?.unwrap_or_default().to_owned(),
            revision: keys.text("revision")?.map(str::to_owned),
            use_rslora: keys.flag("use_rslora")?,
            use_dora: keys.flag("use_dora")?,
            bias: bias.to_owned(),
            target_parameters: keys.texts("target_parameters")?,
            modules_to_save: keys.texts("modules_to_save")?,
            targets: Targets::read(keys)?,
            ranks,
            alphas: Patterns::read(keys, "alpha_pattern", "a number", Value::as_f64)?,
            alpha_line: keys.line("lora_alpha"),
            path: keys.path.to_path_buf(),
        })
    }

    /// The rank of a module.
    pub(super) fn rank(&self, module: &str) -> usize {
        self.ranks.for_module(module).unwrap_or(self.r)
    }

    /// alpha/r, or alpha/√r (rsLoRA, Kalajdzievski 2023, arXiv 2312.03732).
    pub(super) fn scale(&self, module: &str, rank: usize) -> f64 {
        let alpha = self.alphas.for_module(module).unwrap_or(self.lora_alpha);
        if self.use_rslora { alpha / (rank as f64).sqrt() } else { alpha / rank as f64 }
    }

    /// The error of an adapter whose products are all multiplied by 0.
    pub(super) fn no_alpha(&self) -> Error {
        let key =
            if self.lora_alpha == 0.0 { "lora_alpha is 0" } else { "alpha_pattern gives every module an alpha of 0" };
        let message = format!("{key}, so the adapter changes nothing; expected the value that it was trained with");
        Error::input(&self.path, self.alpha_line, message)
    }
}

const RANK: &str = "a whole number of at least 1";

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

/// Refuses an adapter of a changed base, or of another task than continuing a text.
fn check_start(keys: &Keys<'_>) -> Result<()> {
    match keys.map.get("init_lora_weights") {
        None | Some(Value::Null | Value::Bool(_)) => {}
        Some(Value::String(start)) if STARTS.contains(&start.as_str()) => {}
        Some(other) => {
            let message = format!(
                "init_lora_weights is {}, which changes the base's own weights: the adapter is not for the base as it is; \
                 save it with PEFT's path_initial_model_for_weight_conversion first",
                shown(other)
            );
            return Err(keys.error("init_lora_weights", message));
        }
    }
    match keys.map.get("task_type") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(task)) if task == "CAUSAL_LM" => Ok(()),
        Some(_) => Err(keys.wrong("task_type", "CAUSAL_LM")),
    }
}

/// PEFT's patterns: a key is a regular expression for a module's path or its end after a dot; the first that fits counts.
struct Patterns<T> {
    /// Keys that are names, with their place: an adapter may have one for each of its modules.
    plain: HashMap<String, (usize, T)>,
    expressions: Vec<(usize, Regex, T)>,
}

impl<T: Copy> Patterns<T> {
    fn read(keys: &Keys<'_>, key: &'static str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Self> {
        let mut patterns = Self { plain: HashMap::new(), expressions: Vec::new() };
        let Some(value) = keys.get(key) else { return Ok(patterns) };
        let map = value.as_object().ok_or_else(|| keys.wrong(key, "an object of patterns"))?;
        for (place, (pattern, value)) in map.iter().enumerate() {
            let named = format!("{pattern:?} of {key}", pattern = clipped(pattern));
            let value = read(value)
                .ok_or_else(|| keys.error(key, format!("{named} is {}, expected {expected}", shown(value))))?;
            if is_plain(pattern) {
                patterns.plain.insert(pattern.clone(), (place, value));
                continue;
            }
            let whole = expression(&format!("^(?:.*\\.)?(?:{pattern})$"))
                .ok_or_else(|| keys.error(key, format!("{named} is not a regular expression that finetest can use")))?;
            patterns.expressions.push((place, whole, value));
        }
        let count = patterns.expressions.len();
        if count > MOST_EXPRESSIONS {
            let message = format!("{key} has {count} regular expressions, expected at most {MOST_EXPRESSIONS}");
            return Err(keys.error(key, message));
        }
        Ok(patterns)
    }

    fn for_module(&self, module: &str) -> Option<T> {
        let plain = ends(module).filter_map(|end| self.plain.get(end).copied());
        let matching = self.expressions.iter().find(|(_, expression, _)| expression.is_match(module));
        plain.chain(matching.map(|(place, _, value)| (*place, *value))).min_by_key(|(place, _)| *place).map(|(_, v)| v)
    }
}

fn is_plain(pattern: &str) -> bool {
    !pattern.is_empty() && pattern.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

fn rank(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok().filter(|rank| *rank > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "{\n \"peft_type\": \"LORA\",\n \"r\": 4,\n \"lora_alpha\": 8\n}";

    fn read(text: &str) -> Result<PeftConfig> {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(ADAPTER_CONFIG), text).expect("a file");
        PeftConfig::read(folder.path())
    }

    #[track_caller]
    fn refused(text: &str, words: &[&str]) {
        let message = read(text).err().expect("must be refused").to_string();
        for word in words {
            assert!(message.contains(word), "{word:?} is not in {message}");
        }
        for word in ["invalid type", "f64", "usize", "struct", "invalid value"] {
            assert!(!message.contains(word), "{word:?} is in {message}");
        }
    }

    #[test]
    fn a_key_of_a_wrong_type_is_named_with_its_line_what_it_holds_and_what_was_expected() {
        let with = |key: &str, value: &str| {
            let others = [("peft_type", "\"LORA\""), ("r", "4"), ("lora_alpha", "8")];
            let others = others.iter().filter(|(name, _)| *name != key).map(|(k, v)| format!(" \"{k}\": {v},\n"));
            format!("{{\n{} \"{key}\": {value}\n}}", others.collect::<String>())
        };
        for (key, value, expected) in [
            ("lora_alpha", "null", "lora_alpha is null, expected a number"),
            ("lora_alpha", "\"16\"", "lora_alpha is \"16\", expected a number"),
            ("r", "-4", "r is -4, expected a whole number of at least 1"),
            ("r", "0", "r is 0, expected a whole number of at least 1"),
            ("r", "4.5", "r is 4.5, expected a whole number of at least 1"),
            ("r", "[4]", "r is [4], expected a whole number"),
            ("lora_dropout", "true", "lora_dropout is true, expected a number"),
            ("peft_type", "null", "peft_type is null, expected \"LORA\""),
            ("peft_type", "7", "peft_type is 7, expected a text in quotes"),
            ("peft_type", "\"IA3\"", "peft_type is IA3, expected LORA"),
            ("bias", "null", "bias is null, expected a word"),
            ("bias", "\"some\"", "bias is \"some\", expected \"none\""),
            ("use_rslora", "\"yes\"", "use_rslora is \"yes\", expected true or false"),
            ("base_model_name_or_path", "5", "base_model_name_or_path is 5, expected a text in quotes"),
            ("modules_to_save", "\"lm_head\"", "modules_to_save is \"lm_head\", expected a list of names"),
            ("target_parameters", "[1]", "target_parameters is [1], expected a list of names"),
            ("rank_pattern", "[]", "rank_pattern is [], expected an object of patterns"),
            ("rank_pattern", "{\"q_proj\": null}", "\"q_proj\" of rank_pattern is null, expected a whole number"),
            (
                "rank_pattern",
                "{\"q_proj\": 0}",
                "\"q_proj\" of rank_pattern is 0, expected a whole number of at least 1",
            ),
            ("alpha_pattern", "{\"(\": 1}", "\"(\" of alpha_pattern is not a regular expression"),
            ("target_modules", "5", "target_modules is 5, expected a list of names or a pattern"),
            ("layers_to_transform", "\"all\"", "layers_to_transform is \"all\", expected"),
            ("init_lora_weights", "\"pissa\"", "init_lora_weights is \"pissa\", which changes the base's own weights"),
            ("task_type", "\"SEQ_CLS\"", "task_type is \"SEQ_CLS\", expected CAUSAL_LM"),
            ("lora_bias", "true", "lora_bias is set, and is not supported"),
        ] {
            let text = with(key, value);
            let line = text.lines().count() - 1;
            refused(&text, &[expected, &format!("adapter_config.json:{line}: ")]);
        }
        refused("{\"peft_type\": \"LORA\", \"r\": 4}", &["lora_alpha is missing, expected a number"]);
        refused("[]", &["is [], expected an object"]);
        refused("\n", &["is empty"]);
        refused("{", &["adapter_config.json:1: is not valid JSON"]);
    }

    #[test]
    fn what_is_null_or_marked_by_an_editor_is_read() {
        let config = read(&format!("\u{feff}{}", GOOD.replace('}', ", \"use_dora\": null, \"rank_pattern\": null}")));
        assert_eq!(config.expect("a configuration").rank("model.layers.0.mlp.up_proj"), 4);
    }

    #[test]
    fn the_first_pattern_that_fits_counts() {
        let patterns =
            "\"rank_pattern\": {\"layers.0.mlp.up_proj\": 1, \".*_proj\": 2, \"up_proj\": 3, \"down_proj\": 5}}";
        let config = read(&GOOD.replace('}', &format!(",{patterns}"))).expect("a configuration");
        let rank = |module| config.rank(&format!("model.layers.{module}"));
        assert_eq!([rank("0.mlp.up_proj"), rank("1.mlp.up_proj"), rank("1.mlp.down_proj")], [1, 2, 2]);
        assert_eq!((rank("10.mlp.up"), rank("0.mlp.up_projx")), (4, 4));
    }

    #[test]
    fn many_patterns_take_no_time_each_module() {
        let many: Vec<String> = (0..20_000).map(|i| format!("\"layers.{i}.q_proj\": {}", 1 + i % 8)).collect();
        let config = read(&GOOD.replace('}', &format!(",\"rank_pattern\": {{{}}}}}", many.join(",")))).expect("read");
        assert_eq!(config.rank("model.layers.19999.q_proj"), 8);
        let hostile: Vec<String> = (0..300).map(|i| format!("\"a{i}+\": 1")).collect();
        let hostile = GOOD.replace('}', &format!(",\"rank_pattern\": {{{}}}}}", hostile.join(",")));
        refused(&hostile, &["rank_pattern has 300 regular expressions, expected at most 256"]);
    }
}
