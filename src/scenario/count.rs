//! How much of something an answer has: words, sentences, lines, paragraphs, list items.

use std::fmt;
use std::sync::LazyLock;

use regex::Regex;
use serde::Deserialize;
use unicode_segmentation::UnicodeSegmentation;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Counted {
    /// Words between white space.
    Words,
    /// Sentences, as Unicode's rules find them.
    Sentences,
    /// Lines that are not empty.
    Lines,
    /// Paragraphs, which empty lines separate.
    Paragraphs,
    /// Lines that begin as a list's item: with `-`, `*`, `•`, or a number and `.` or `)`.
    Items,
}

/// How much of it there has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Count {
    /// What is counted.
    pub of: Counted,
    /// The number there has to be. Not with `min` or `max`.
    pub exactly: Option<usize>,
    /// The least number.
    pub min: Option<usize>,
    /// The greatest number.
    pub max: Option<usize>,
}

static ITEM: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?m)^\s*(?:[-*•]|\d{1,3}[.)])\s+\S").expect("a valid pattern"));

impl Counted {
    /// How much of it `text` has.
    pub(super) fn count(self, text: &str) -> usize {
        match self {
            Self::Words => text.split_whitespace().count(),
            Self::Sentences => text.unicode_sentences().count(),
            Self::Lines => lines(text).count(),
            Self::Paragraphs => {
                let filled: Vec<bool> = text.lines().map(|line| !line.trim().is_empty()).collect();
                filled.chunk_by(|a, b| a == b).filter(|part| part[0]).count()
            }
            Self::Items => ITEM.find_iter(text).count(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Words => "words",
            Self::Sentences => "sentences",
            Self::Lines => "lines",
            Self::Paragraphs => "paragraphs",
            Self::Items => "items",
        }
    }
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty())
}

impl Count {
    /// What makes it a check that cannot hold, cannot fail, or says two things.
    pub(super) fn problem(&self) -> Option<String> {
        match (self.exactly, self.min, self.max) {
            (None, None, None) => Some("count names no number; give exactly, min or max".into()),
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => Some("count has exactly, and min or max besides".into()),
            (None, Some(min), Some(max)) if min > max => Some(format!("count has min = {min} above max = {max}")),
            (None, Some(0), None) => Some("count has min = 0, which every answer has".into()),
            _ => None,
        }
    }

    /// What was found, when it is too much or too little.
    pub(super) fn misfit(&self, text: &str) -> Option<String> {
        let found = self.of.count(text);
        let least = self.exactly.or(self.min).unwrap_or(0);
        let most = self.exactly.or(self.max).unwrap_or(usize::MAX);
        (!(least..=most).contains(&found)).then(|| format!("got {found} {}", self.of.name()))
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "count {}", self.of.name())?;
        for (name, number) in [("exactly", self.exactly), ("min", self.min), ("max", self.max)] {
            if let Some(number) = number {
                write!(f, " {name} {number}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_would_count() {
        let text = "Dogs are loyal. They cost about 3.50 a day!\n\n- one\n* two\n 3) three\n\n\nIs that all?";
        let counted = |of: Counted| of.count(text);
        assert_eq!(counted(Counted::Words), 18);
        assert_eq!(counted(Counted::Lines), 5);
        assert_eq!(counted(Counted::Paragraphs), 3);
        assert_eq!(counted(Counted::Items), 3);
        assert_eq!(Counted::Sentences.count("Dogs are loyal. They cost about 3.50 a day! Is that all?"), 3);
        assert_eq!(Counted::Sentences.count("犬は忠実です。猫は自由です。"), 2);
        assert_eq!(Counted::Sentences.count("no full stop"), 1);
        for of in [Counted::Words, Counted::Sentences, Counted::Lines, Counted::Paragraphs, Counted::Items] {
            assert_eq!(of.count(" \n "), 0);
        }
        assert_eq!(Counted::Items.count("3.5 is a number\n-5 too\n* item"), 1);
    }

    #[test]
    fn a_count_is_held_to_its_numbers() {
        let count = |exactly, min, max| Count { of: Counted::Words, exactly, min, max };
        assert_eq!(count(Some(2), None, None).misfit("two words"), None);
        assert_eq!(count(Some(3), None, None).misfit("two words").as_deref(), Some("got 2 words"));
        assert_eq!(count(None, Some(2), Some(3)).misfit("one").as_deref(), Some("got 1 words"));
        assert_eq!(count(None, None, Some(1)).misfit("two words").as_deref(), Some("got 2 words"));
        assert_eq!(count(None, Some(1), Some(4)).to_string(), "count words min 1 max 4");
        for wrong in [
            count(None, None, None),
            count(Some(1), Some(1), None),
            count(None, Some(2), Some(1)),
            count(None, Some(0), None),
        ] {
            assert!(wrong.problem().is_some(), "{wrong}");
        }
        assert_eq!(count(Some(0), None, None).problem(), None);
    }
}
