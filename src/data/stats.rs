//! What a data file consists of, by language, script, kind and length, and how far that is from another file's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use rayon::prelude::*;
use regex::Regex;
use serde::Serialize;
use unicode_script::{Script, UnicodeScript};
use whatlang::{Detector, Lang};

use super::{OnRead, Turns, each_batch};
use crate::config::DataFormat;
use crate::error::{Error, Result};
use crate::text::{pattern, without_code};

/// Letters below which no language is detected.
const SHORTEST: usize = 24;
/// Characters of an example in which its language is detected, at most.
const LOOKED_AT: usize = 600;
/// The least of whatlang's confidence: a sentence has some, and a wrong one of a few examples moves no share by much.
const SURE: f64 = 0.2;
/// Languages that are detected. Rare ones are left out, since short texts of a common one look like them.
const COMMON: [Lang; 33] = [
    Lang::Eng,
    Lang::Deu,
    Lang::Fra,
    Lang::Spa,
    Lang::Ita,
    Lang::Por,
    Lang::Nld,
    Lang::Pol,
    Lang::Ces,
    Lang::Ron,
    Lang::Hun,
    Lang::Swe,
    Lang::Dan,
    Lang::Nob,
    Lang::Fin,
    Lang::Tur,
    Lang::Vie,
    Lang::Ind,
    Lang::Rus,
    Lang::Ukr,
    Lang::Bul,
    Lang::Ell,
    Lang::Ara,
    Lang::Heb,
    Lang::Pes,
    Lang::Urd,
    Lang::Hin,
    Lang::Ben,
    Lang::Tam,
    Lang::Tha,
    Lang::Cmn,
    Lang::Jpn,
    Lang::Kor,
];
/// The name of no language: there are too few letters, or the detector is too unsure.
const UNKNOWN: &str = "unknown";

/// Shares of examples by a property, the largest first; they add up to 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Shares(pub Vec<(String, f64)>);

impl Shares {
    fn of(counts: &BTreeMap<String, f64>) -> Self {
        let all: f64 = counts.values().sum();
        let mut shares: Vec<(String, f64)> = counts.iter().map(|(name, count)| (name.clone(), count / all)).collect();
        shares.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Self(shares)
    }

    /// Jensen–Shannon divergence in bits: 0 for the same shares, 1 for nothing in common (Lin 1991).
    #[must_use]
    pub fn divergence(&self, other: &Self) -> f64 {
        let get =
            |shares: &Self, name: &str| shares.0.iter().find(|(own, _)| own == name).map_or(0.0, |(_, share)| *share);
        let term = |p: f64, m: f64| if p > 0.0 { p * (p / m).log2() } else { 0.0 };
        let names: std::collections::BTreeSet<&str> =
            self.0.iter().chain(&other.0).map(|(name, _)| name.as_str()).collect();
        let sum: f64 = names
            .into_iter()
            .map(|name| {
                let (p, q) = (get(self, name), get(other, name));
                let m = (p + q) / 2.0;
                0.5 * term(p, m) + 0.5 * term(q, m)
            })
            .sum();
        sum.clamp(0.0, 1.0)
    }
}

/// Lengths, in characters or tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lengths {
    /// The shortest.
    pub least: usize,
    /// Half are shorter.
    pub median: usize,
    /// A tenth is longer.
    pub p90: usize,
    /// The longest.
    pub most: usize,
}

impl Lengths {
    pub(crate) fn of(mut lengths: Vec<u32>) -> Self {
        lengths.sort_unstable();
        let at = |share: f64| {
            let place = (share * lengths.len().saturating_sub(1) as f64).round() as usize;
            lengths.get(place).map_or(0, |length| *length as usize)
        };
        Self { least: at(0.0), median: at(0.5), p90: at(0.9), most: at(1.0) }
    }
}

/// What a file consists of.
#[derive(Clone, Debug, Serialize)]
pub struct DataStats {
    /// The file.
    pub path: PathBuf,
    /// Examples.
    pub examples: usize,
    /// Items that are none, which are left out.
    pub unreadable: usize,
    /// Shares of examples by the language of most of their prose.
    pub languages: Shares,
    /// Shares of letters by their Unicode script.
    pub scripts: Shares,
    /// Shares of answers that are code, JSON, a word or number, or prose.
    pub kinds: Shares,
    /// Characters of prompts.
    pub prompts: Lengths,
    /// Characters of answers.
    pub answers: Lengths,
}

/// How far two files are from each other, in bits: 0 is the same, 1 has nothing in common.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Divergences {
    /// Of languages.
    pub languages: f64,
    /// Of scripts.
    pub scripts: f64,
    /// Of kinds of answers.
    pub kinds: f64,
}

impl DataStats {
    /// How far this file is from another.
    #[must_use]
    pub fn divergences(&self, other: &Self) -> Divergences {
        Divergences {
            languages: self.languages.divergence(&other.languages),
            scripts: self.scripts.divergence(&other.scripts),
            kinds: self.kinds.divergence(&other.kinds),
        }
    }
}

/// What one example is.
struct Looked {
    language: &'static str,
    scripts: BTreeMap<&'static str, f64>,
    kind: &'static str,
    prompt: u32,
    answer: u32,
}

/// Reads a file and counts; tells `on_read` the bytes as they are read.
///
/// # Errors
/// A file that cannot be read, whose format cannot be told, or without an example.
pub fn stats(path: &Path, format: DataFormat, on_read: OnRead<'_>) -> Result<DataStats> {
    let (mut languages, mut scripts, mut kinds) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let (mut prompts, mut answers, mut unreadable) = (Vec::new(), Vec::new(), 0);
    each_batch(path, format, on_read, &mut |batch| {
        let looked: Vec<Option<Looked>> =
            batch.into_par_iter().map(|(_, turns)| turns.ok().map(|turns| look(&turns))).collect();
        for found in looked {
            let Some(found) = found else {
                unreadable += 1;
                continue;
            };
            *languages.entry(found.language.to_owned()).or_insert(0.0) += 1.0;
            *kinds.entry(found.kind.to_owned()).or_insert(0.0) += 1.0;
            for (script, letters) in found.scripts {
                *scripts.entry(script.to_owned()).or_insert(0.0) += letters;
            }
            prompts.push(found.prompt);
            answers.push(found.answer);
        }
        Ok(())
    })?;
    if answers.is_empty() {
        return Err(Error::input(path, None, "has no example that can be read; `finetest data check` says why"));
    }
    Ok(DataStats {
        path: path.to_owned(),
        examples: answers.len(),
        unreadable,
        languages: Shares::of(&languages),
        scripts: Shares::of(&scripts),
        kinds: Shares::of(&kinds),
        prompts: Lengths::of(prompts),
        answers: Lengths::of(answers),
    })
}

fn look(turns: &Turns) -> Looked {
    let (mut prompt, mut answer) = (String::new(), String::new());
    match turns {
        Turns::Chat { messages, .. } => {
            for message in messages {
                let into = if message.role == "assistant" { &mut answer } else { &mut prompt };
                for text in message.texts() {
                    into.push_str(text);
                    into.push('\n');
                }
            }
        }
        Turns::Completion { prompt: asked, completion } => {
            prompt.push_str(asked);
            answer.push_str(completion);
        }
        Turns::Text(text) => answer.push_str(text),
    }
    let mut scripts = BTreeMap::new();
    for c in prompt.chars().chain(answer.chars()).filter(|c| c.is_alphabetic()) {
        *scripts.entry(c.script().full_name()).or_insert(0.0) += 1.0;
    }
    let kind = kind(answer.trim());
    // Code and JSON have words of English, whatever is said around them.
    let said = if matches!(kind, "code" | "JSON") { prompt.clone() } else { format!("{answer}\n{prompt}") };
    Looked {
        language: language(&said),
        scripts,
        kind,
        prompt: prompt.trim().chars().count() as u32,
        answer: answer.trim().chars().count() as u32,
    }
}

/// The English name of a text's language.
fn language(text: &str) -> &'static str {
    static ADDRESS: LazyLock<Regex> = LazyLock::new(|| pattern(r"https?://\S+"));
    let text = without_code(text);
    let text = ADDRESS.replace_all(&text, " ");
    let end = text.char_indices().nth(LOOKED_AT).map_or(text.len(), |(at, _)| at);
    let text = &text[..end];
    if text.chars().filter(|c| c.is_alphabetic()).map(|c| if c.is_ascii() { 1 } else { 2 }).sum::<usize>() < SHORTEST {
        return UNKNOWN;
    }
    static DETECTOR: LazyLock<Detector> = LazyLock::new(|| Detector::with_allowlist(COMMON.to_vec()));
    DETECTOR.detect(text).filter(|found| found.confidence() >= SURE).map_or(UNKNOWN, |found| found.lang().eng_name())
}

/// What an answer is: `code`, `JSON`, `short` or `prose`.
fn kind(answer: &str) -> &'static str {
    static CODE_LINE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?m)^\s*(?:(?:pub |export |async |static |private |public |protected )*(?:def|fn|func|function|class|struct|enum|interface|impl|import|from|package|using|#include|return|let|const|var|if|for|while|SELECT|INSERT|UPDATE|CREATE)\b.*|.*[;{}]|[\w.]+\(.*\)|[\w.\[\]]+ *[-+*/]?= *\S.*|//.*|</?\w+[^>]*>.*)$",
        )
    });
    if answer.starts_with(['{', '[']) && serde_json::from_str::<serde::de::IgnoredAny>(answer).is_ok() {
        return "JSON";
    }
    let fenced: usize = answer.split("```").skip(1).step_by(2).map(str::len).sum();
    let lines = answer.lines().filter(|line| !line.trim().is_empty()).count();
    let of_code = CODE_LINE.find_iter(answer).count();
    if fenced * 2 > answer.len() || (lines >= 1 && of_code * 5 >= lines * 3) {
        return "code";
    }
    // A dozen letters of a script without spaces are a sentence.
    let spaceless = answer
        .chars()
        .filter(|c| {
            matches!(
                c.script(),
                Script::Han | Script::Hiragana | Script::Katakana | Script::Thai | Script::Khmer | Script::Lao
            )
        })
        .count()
        > 12;
    if answer.split_whitespace().count() <= 3 && answer.chars().count() <= 40 && !spaceless { "short" } else { "prose" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> DataStats {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("d.jsonl");
        let line = |text: &&str| serde_json::json!({ "prompt": "?", "completion": text }).to_string() + "\n";
        std::fs::write(&path, lines.iter().map(line).collect::<String>()).expect("a file");
        stats(&path, DataFormat::Auto, &mut |_| {}).expect("stats")
    }

    fn share(shares: &Shares, name: &str) -> f64 {
        shares.0.iter().find(|(own, _)| own == name).map_or(0.0, |(_, share)| *share)
    }

    #[test]
    fn languages_scripts_and_kinds_are_distinguished() {
        let found = of(&[
            "The library opens at nine in the morning and closes at six in the evening.",
            "Die Bibliothek öffnet um neun Uhr morgens und schließt um sechs Uhr abends.",
            "Библиотека открывается в девять утра и закрывается в шесть вечера.",
            "图书馆早上九点开门，晚上六点关门，周末不开放。",
            "def area(r):\n    return 3.14 * r ** 2\n",
            "{\"tool\": \"rustc\", \"line\": 3}",
            "Berlin",
            "```rust\nfn main() { println!(\"hi\"); }\n```",
        ]);
        for language in ["English", "German", "Russian", "Mandarin"] {
            assert!((share(&found.languages, language) - 0.125).abs() < 1e-9, "{language}: {:?}", found.languages);
        }
        assert!((share(&found.languages, UNKNOWN) - 0.5).abs() < 1e-9, "{:?}", found.languages);
        let kinds: Vec<f64> = ["prose", "code", "JSON", "short"].iter().map(|kind| share(&found.kinds, kind)).collect();
        assert_eq!(kinds, [0.5, 0.25, 0.125, 0.125]);
        assert!(share(&found.scripts, "Han") > 0.05 && share(&found.scripts, "Cyrillic") > 0.1, "{:?}", found.scripts);
        assert_eq!((found.answers.least, found.prompts.most), (6, 1));
    }

    /// Against SciPy: jensenshannon([.5, .5, 0], [.25, .25, .5], base=2)² = 0.311278….
    #[test]
    fn the_divergence_is_scipy_s() {
        let shares =
            |values: &[(&str, f64)]| Shares(values.iter().map(|(name, share)| ((*name).to_owned(), *share)).collect());
        let (a, b) = (shares(&[("x", 0.5), ("y", 0.5)]), shares(&[("x", 0.25), ("y", 0.25), ("z", 0.5)]));
        assert!((a.divergence(&b) - 0.311_278_124_459_132_8).abs() < 1e-12, "{}", a.divergence(&b));
        assert!((a.divergence(&a)).abs() < 1e-12);
        assert!((a.divergence(&shares(&[("z", 1.0)])) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn lengths_are_quantiles() {
        assert_eq!(Lengths::of((1..=101).collect()), Lengths { least: 1, median: 51, p90: 91, most: 101 });
        assert_eq!(Lengths::of(Vec::new()), Lengths::default());
    }
}
