//! Whether an answer says the same thing over and over, as a model does that got stuck.

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;

use unicode_script::{Script, UnicodeScript};

use crate::shown::quote;

/// How long a sequence, how often, and how long a run of one unit is too much.
struct Limits {
    sequence: usize,
    times: usize,
    run: usize,
}

const WORDS: Limits = Limits { sequence: 4, times: 3, run: 5 };
const CHARACTERS: Limits = Limits { sequence: 10, times: 3, run: 10 };
const LINES: usize = 3;

/// What is repeated in `text`, if something is.
pub(crate) fn repeated(text: &str) -> Option<String> {
    let words: Vec<String> = text.split_whitespace().filter_map(bare).collect();
    stuck(&words, &WORDS, " ").or_else(|| repeated_line(text)).or_else(|| {
        let whole = !text.trim().contains(char::is_whitespace);
        let characters: Vec<char> = text.trim().chars().filter(|c| whole || is_spaceless(*c)).collect();
        stuck(&characters, &CHARACTERS, "")
    })
}

/// A word without its case and the punctuation around it; `None` for punctuation alone.
fn bare(word: &str) -> Option<String> {
    let word = word.trim_matches(|c: char| !c.is_alphanumeric());
    (!word.is_empty()).then(|| word.to_lowercase())
}

fn stuck<T: Display + Eq + Hash>(units: &[T], limits: &Limits, between: &str) -> Option<String> {
    let joined = |units: &[T]| units.iter().map(ToString::to_string).collect::<Vec<_>>().join(between);
    if let Some(run) = units.chunk_by(|a, b| a == b).find(|run| run.len() >= limits.run) {
        return Some(format!("{} is there {} times in a row", quote(&joined(&run[..1])), run.len()));
    }
    let mut seen: HashMap<&[T], usize> = HashMap::new();
    for sequence in units.windows(limits.sequence) {
        let times = seen.entry(sequence).or_default();
        *times += 1;
        if *times == limits.times {
            return Some(format!("{} is there {} times", quote(&joined(sequence)), limits.times));
        }
    }
    None
}

/// Lines of brackets and rules alone may recur.
fn repeated_line(text: &str) -> Option<String> {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for line in text.lines().map(str::trim).filter(|line| line.contains(char::is_alphanumeric)) {
        let times = seen.entry(line).or_default();
        *times += 1;
        if *times == LINES {
            return Some(format!("the line {} is there {LINES} times", quote(line)));
        }
    }
    None
}

/// Letters of scripts that are written without spaces between words.
fn is_spaceless(c: char) -> bool {
    use Script::{Han, Hiragana, Katakana, Khmer, Lao, Myanmar, Thai};
    matches!(c.script(), Han | Hiragana | Katakana | Khmer | Lao | Myanmar | Thai)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_text_does_not_repeat_itself() {
        for text in [
            "",
            "The capital of France is Paris. The capital of Germany is Berlin. The capital of Japan is Tokyo.",
            "fn a() {\n    if x {\n        y();\n    }\n}\n\nfn b() {\n    if z {\n        w();\n    }\n}\n",
            "1, 2, 3, 4, 5",
            "| a | b |\n| --- | --- |\n| 1 | 2 |",
            "no no no no, really",
            "人工智能是计算机科学的一个分支。人工智能研究智能的本质。人工智能包括机器人、语言识别。",
            "https://example.com/a/b/c",
            "哈哈哈哈哈",
        ] {
            assert_eq!(repeated(text), None, "{text}");
        }
    }

    #[test]
    fn four_words_three_times_repeat() {
        let text = "I am a model. I am a model that helps. Yes, I am A model!";
        assert_eq!(repeated(text).as_deref(), Some("\"i am a model\" is there 3 times"));
        assert_eq!(repeated("I am a model. I am a model that helps."), None);
    }

    #[test]
    fn one_word_five_times_in_a_row_repeats() {
        assert_eq!(repeated("So very very, Very very very").as_deref(), Some("\"very\" is there 5 times in a row"));
        assert_eq!(repeated("* * * * * * *"), None);
    }

    #[test]
    fn a_line_three_times_repeats() {
        let failure = repeated("Yes.\nNo.\n Yes.\nMaybe.\nYes.\n");
        assert_eq!(failure.as_deref(), Some("the line \"Yes.\" is there 3 times"));
        assert_eq!(repeated("Yes.\nNo.\nYes.\n"), None);
    }

    #[test]
    fn without_spaces_characters_repeat() {
        assert!(repeated("我喜欢在公园里散步和跑步。我喜欢在公园里散步和跑步。我喜欢在公园里散步和跑步。").is_some());
        assert!(repeated(&"ก".repeat(10)).is_some());
        assert!(repeated(&"!".repeat(30)).is_some());
        assert!(repeated(&"abcabcabc".repeat(5)).is_some());
        assert!(repeated("mixed 我喜欢在公园里散步和 我喜欢在公园里散步和 我喜欢在公园里散步和 text").is_some());
    }
}
