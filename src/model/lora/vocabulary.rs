//! The tokens of a tokenizer's file and their ids, no more: enough to tell whether two tokenizers are one.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Ids by token.
pub(super) type Vocabulary = HashMap<String, u64>;

/// Share of tokens with other ids from which on it is another tokenizer. Fine-tunes rename a few reserved ones.
pub(super) const MOST_OTHER: f64 = 0.1;

/// `tokenizer.json`, or the flat object of `added_tokens.json`.
#[derive(Default)]
struct File {
    tokens: Vocabulary,
}

#[derive(Deserialize)]
struct Added {
    id: u64,
    content: String,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    vocab: Tokens,
}

/// A vocabulary as a map of ids, or as a list of tokens with their scores.
#[derive(Default)]
struct Tokens(Vocabulary);

impl<'de> Deserialize<'de> for Tokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Tokens;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tokens with their ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tokens, A::Error> {
                let mut all = Vocabulary::new();
                while let Some((token, id)) = map.next_entry::<String, u64>()? {
                    all.insert(token, id);
                }
                Ok(Tokens(all))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tokens, A::Error> {
                let mut all = Vocabulary::new();
                while let Some((token, _)) = list.next_element::<(String, f64)>()? {
                    all.insert(token, all.len() as u64);
                }
                Ok(Tokens(all))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

impl<'de> Deserialize<'de> for File {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = File;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a tokenizer's object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<File, A::Error> {
                let mut file = File::default();
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "added_tokens" => {
                            let added: Vec<Added> = map.next_value()?;
                            file.tokens.extend(added.into_iter().map(|token| (token.content, token.id)));
                        }
                        "model" => {
                            let Model { vocab: Tokens(vocab) } = map.next_value()?;
                            file.tokens.extend(vocab);
                        }
                        "version" | "truncation" | "padding" | "normalizer" | "pre_tokenizer" | "post_processor"
                        | "decoder" => {
                            map.next_value::<IgnoredAny>()?;
                        }
                        _ => {
                            let id = map.next_value()?;
                            file.tokens.insert(key, id);
                        }
                    }
                }
                Ok(file)
            }
        }
        deserializer.deserialize_map(Read)
    }
}

/// Reads the tokens of `tokenizer.json` or `added_tokens.json`.
pub(super) fn parse(bytes: &[u8]) -> Result<Vocabulary, serde_json::Error> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    Ok(serde_json::from_slice::<File>(bytes)?.tokens)
}

/// What a vocabulary has that the base's does not.
#[derive(Debug, PartialEq)]
pub(super) struct Compared {
    /// A token whose id is no row of the base.
    pub(super) beyond: Option<(String, u64)>,
    /// The share of tokens that have another id in the base.
    pub(super) share: f64,
    /// Tokens that the base does not have, by their ids.
    pub(super) added: Vec<(String, u64)>,
}

/// Compares an adapter's tokens with the base's; `rows` is the number of rows of the base's vocabulary.
pub(super) fn compare(theirs: &Vocabulary, base: &Vocabulary, rows: usize) -> Compared {
    let beyond = theirs.iter().max_by_key(|(_, id)| **id).filter(|(_, id)| **id >= rows as u64);
    // A file of llama.cpp spells blanks as blanks.
    let spelt = |token: &str| token.replace('▁', " ");
    let ours: HashMap<String, u64> = base.iter().map(|(token, id)| (spelt(token), *id)).collect();
    let taken: HashSet<u64> = base.values().copied().collect();
    let (mut other, mut added) = (0usize, Vec::new());
    for (token, id) in theirs {
        match ours.get(&spelt(token)) {
            Some(own) if own == id => {}
            None if !taken.contains(id) => added.push((token.clone(), *id)),
            _ => other += 1,
        }
    }
    added.sort_by_key(|(_, id)| *id);
    let share = other as f64 / theirs.len().max(1) as f64;
    Compared { beyond: beyond.map(|(token, id)| (token.clone(), *id)), share, added }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = r#"{"version": "1.0", "added_tokens": [{"id": 3, "content": "<end>", "special": true}],
        "normalizer": {"type": "NFC"}, "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "▁c": 2}, "merges": []}}"#;

    fn read(text: &str) -> Vocabulary {
        parse(text.as_bytes()).expect("tokens")
    }

    #[test]
    fn tokens_of_every_form_are_read() {
        let ids = |vocabulary: &Vocabulary| {
            let mut all: Vec<(String, u64)> = vocabulary.iter().map(|(t, id)| (t.clone(), *id)).collect();
            all.sort_by_key(|(_, id)| *id);
            all.into_iter().map(|(token, id)| format!("{id} {token}")).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(ids(&read(BASE)), "0 a, 1 b, 2 ▁c, 3 <end>");
        assert_eq!(ids(&read(r#"{"model": {"vocab": [["x", -1.5], ["y", 0]]}}"#)), "0 x, 1 y");
        assert_eq!(ids(&read(r#"{"<new>": 7}"#)), "7 <new>");
        for broken in
            ["", "[]", "{\"model\": 1}", "{\"added_tokens\": [{\"id\": -1, \"content\": \"x\"}]}", "{\"x\": \"y\"}"]
        {
            assert!(parse(broken.as_bytes()).is_err(), "{broken}");
        }
    }

    #[test]
    fn the_same_tokens_differ_in_nothing() {
        let same = compare(&read(BASE), &read(&BASE.replace('▁', " ")), 4);
        assert_eq!(same, Compared { beyond: None, share: 0.0, added: Vec::new() });
    }

    #[test]
    fn added_tokens_those_beyond_the_rows_and_other_ids_are_told_apart() {
        let more = read(&BASE.replace("\"▁c\": 2", "\"▁c\": 2, \"<new>\": 5"));
        let found = compare(&more, &read(BASE), 8);
        assert_eq!((found.beyond, found.share, found.added), (None, 0.0, vec![("<new>".to_owned(), 5)]));
        assert_eq!(compare(&more, &read(BASE), 5).beyond, Some(("<new>".to_owned(), 5)));
        let swapped = read(&BASE.replace("\"a\": 0, \"b\": 1", "\"b\": 0, \"a\": 1"));
        assert_eq!(compare(&swapped, &read(BASE), 4).share, 0.5);
        let renamed = compare(&read(&BASE.replace("<end>", "<|im_end|>")), &read(BASE), 4);
        assert_eq!((renamed.share, renamed.added.len()), (0.25, 0));
    }
}
