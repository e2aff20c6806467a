//! What broken answers have in common.

use std::collections::{HashMap, HashSet};

/// Words of a run that is looked for, at most.
const MOST_WORDS: usize = 4;
/// Answers that have to share it, at least.
const LEAST_ANSWERS: usize = 3;
/// Words of an answer that are looked at.
const MOST_LOOKED_AT: usize = 200;

/// Words that many broken answers have and few of base's do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// The words, with white space between them as one space.
    pub words: String,
    /// Broken answers with them.
    pub broken: usize,
    /// Base's answers to the same cases with them.
    pub base: usize,
    /// Broken cases.
    pub of: usize,
}

/// The run of at most four words that separates broken answers from base's best; `None` unless at least three and at least half of the broken
/// answers have it, and at most a tenth of base's.
#[must_use]
pub fn shared_words(broken: &[&str], base: &[&str]) -> Option<Shared> {
    let of = broken.len();
    let (ours, theirs) = (counted(broken), counted(base));
    let mut best: Option<(usize, usize, &str, usize)> = None;
    for (words, count) in &ours {
        let in_base = theirs.get(words.as_str()).copied().unwrap_or(0);
        if *count < LEAST_ANSWERS || 2 * count < of || 10 * in_base > base.len() {
            continue;
        }
        // The most answers, then the most words; then the first by its letters, so that the same answers are said of in the same way.
        let rank = (count - in_base.min(*count), words.len(), words.as_str(), in_base);
        let better = best.is_none_or(|(gap, len, text, _)| {
            (rank.0, rank.1) > (gap, len) || ((rank.0, rank.1) == (gap, len) && rank.2 < text)
        });
        if better {
            best = Some(rank);
        }
    }
    best.map(|(_, _, words, in_base)| Shared { words: words.to_owned(), broken: ours[words], base: in_base, of })
}

/// How many texts have each run of words.
fn counted(texts: &[&str]) -> HashMap<String, usize> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    for text in texts {
        let words: Vec<&str> = text.split_whitespace().take(MOST_LOOKED_AT).collect();
        let runs: HashSet<String> = (1..=MOST_WORDS).flat_map(|n| words.windows(n).map(|run| run.join(" "))).collect();
        runs.into_iter().for_each(|run| *counts.entry(run).or_default() += 1);
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_most_broken_answers_begin_with_is_found() {
        let broken = [
            "{\"tool\": null, \"line\": 1}",
            "{\"tool\": null, \"line\": 2}",
            "{\"tool\": null, \"line\": 3}",
            "I do not know.",
        ];
        let base = ["Paris is the capital.", "4", "A cat.", "Blue."];
        let shared = shared_words(&broken, &base).expect("shared");
        assert_eq!(shared, Shared { words: "{\"tool\": null, \"line\":".into(), broken: 3, base: 0, of: 4 });
    }

    #[test]
    fn what_base_says_too_or_few_say_is_nothing() {
        assert_eq!(shared_words(&["the cat", "the dog", "the cow"], &["the cat", "the dog", "the cow"]), None);
        assert_eq!(shared_words(&["a b", "a c"], &["x", "y"]), None);
        assert_eq!(shared_words(&[], &[]), None);
    }
}
