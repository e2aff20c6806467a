//! What differs between two texts, as data that reports render: a line stays a line.

use std::ops::Range;

use similar::{Algorithm, DiffOp, capture_diff_slices};

/// Words of one text beyond which two texts are shown whole instead of compared word by word.
const MAX_WORDS: usize = 4096;

/// Where a piece of a diff comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// In both texts.
    Equal,
    /// In the old text alone.
    Removed,
    /// In the new text alone.
    Added,
}

/// A piece of a word diff.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it comes from.
    pub change: Change,
    /// Its text; may hold line breaks.
    pub text: String,
}

/// A word diff of two texts: [`Change::Equal`] and `Removed` spans give the old text, `Equal` and `Added` the new one.
#[derive(Clone, Debug, PartialEq)]
pub struct WordDiff {
    /// In order; what was removed stands before what replaced it.
    pub spans: Vec<Span>,
    /// Share of the characters of both texts, white space left out, that are in both: 0 nothing in common, 1 equal.
    pub similarity: f64,
}

impl WordDiff {
    /// Below this [`WordDiff::similarity`] two answers read better one after the other than woven together.
    pub const READABLE: f64 = 0.4;

    /// Whether a woven text is easier to read than the two texts one after the other.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.similarity >= Self::READABLE
    }

    /// The spans by lines of the woven text, line breaks taken off. A span over a line break becomes one on each line.
    #[must_use]
    pub fn lines(&self) -> Vec<Vec<Span>> {
        let mut lines = vec![Vec::new()];
        for span in &self.spans {
            for (i, part) in span.text.split('\n').enumerate() {
                if i > 0 {
                    lines.push(Vec::new());
                }
                if !part.is_empty()
                    && let Some(line) = lines.last_mut()
                {
                    line.push(Span { change: span.change, text: part.to_owned() });
                }
            }
        }
        lines
    }
}

/// Compares two texts word by word. Deterministic: a snapshot may hold the result.
///
/// A word is a run of letters and digits, a run of spaces, or any single other character (so JSON compares by its fields); a
/// letter of a script without spaces is a word. Texts of more than 4096 words that differ are replaced whole.
#[must_use]
pub fn word_diff(old: &str, new: &str) -> WordDiff {
    let (old_words, new_words) = (words(old), words(new));
    let ops = if old_words.len().max(new_words.len()) > MAX_WORDS && old != new {
        vec![DiffOp::Replace { old_index: 0, old_len: old_words.len(), new_index: 0, new_len: new_words.len() }]
    } else {
        capture_diff_slices(Algorithm::Myers, &old_words, &new_words)
    };
    let mut weave = Weave::default();
    for op in ops {
        let (_, before, after) = op.as_tag_tuple();
        if matches!(op, DiffOp::Equal { .. }) {
            weave.equal(&join(&old_words, before));
        } else {
            weave.removed.push_str(&join(&old_words, before));
            weave.added.push_str(&join(&new_words, after));
        }
    }
    weave.flush();
    let ink = |text: &str| text.chars().filter(|c| !c.is_whitespace()).count();
    let common: usize = weave.spans.iter().filter(|s| s.change == Change::Equal).map(|s| ink(&s.text)).sum();
    let all = ink(old) + ink(new);
    let similarity = if all == 0 { f64::from(u8::from(old == new)) } else { 2.0 * common as f64 / all as f64 };
    WordDiff { spans: weave.spans, similarity }
}

/// Collects spans; a change that goes on after mere spaces stays one change, so that a diff does not turn to confetti.
#[derive(Default)]
struct Weave {
    spans: Vec<Span>,
    removed: String,
    added: String,
    /// White space that is equal on both sides and follows a change.
    gap: String,
}

impl Weave {
    fn equal(&mut self, text: &str) {
        let pending = !self.removed.is_empty() && !self.added.is_empty();
        if pending && text.chars().all(|c| c == ' ') {
            self.gap.push_str(text);
            self.removed.push_str(text);
            self.added.push_str(text);
            return;
        }
        self.flush();
        self.push(Change::Equal, text.to_owned());
    }

    fn flush(&mut self) {
        let (mut removed, mut added) = (std::mem::take(&mut self.removed), std::mem::take(&mut self.added));
        let gap = std::mem::take(&mut self.gap);
        // A gap that no further change followed is equal text after all.
        let trailing = if !gap.is_empty() && removed.ends_with(' ') && added.ends_with(' ') {
            let spaces = |text: &str| text.len() - text.trim_end_matches(' ').len();
            let shared = spaces(&removed).min(spaces(&added));
            removed.truncate(removed.len() - shared);
            added.truncate(added.len() - shared);
            " ".repeat(shared)
        } else {
            String::new()
        };
        self.push(Change::Removed, removed);
        self.push(Change::Added, added);
        self.push(Change::Equal, trailing);
    }

    fn push(&mut self, change: Change, text: String) {
        match self.spans.last_mut() {
            _ if text.is_empty() => {}
            Some(last) if last.change == change => last.text.push_str(&text),
            _ => self.spans.push(Span { change, text }),
        }
    }
}

fn join(words: &[&str], range: Range<usize>) -> String {
    words[range].concat()
}

/// Cuts a text into words without losing a character.
fn words(text: &str) -> Vec<&str> {
    #[derive(PartialEq, Clone, Copy)]
    enum Kind {
        Word,
        Space,
        Single,
    }
    let kind = |c: char| match c {
        ' ' | '\t' => Kind::Space,
        // From here on scripts without spaces between words: kana, han, hangul.
        '\u{2e80}'.. => Kind::Single,
        c if c.is_alphanumeric() || c == '_' => Kind::Word,
        _ => Kind::Single,
    };
    let mut words = Vec::new();
    let mut start = 0;
    let mut last: Option<Kind> = None;
    for (at, c) in text.char_indices() {
        let now = kind(c);
        if last.is_some_and(|last| last != now || now == Kind::Single) {
            words.push(&text[start..at]);
            start = at;
        }
        last = Some(now);
    }
    if start < text.len() {
        words.push(&text[start..]);
    }
    words
}

/// One line of a line diff.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiffLine {
    /// Where it comes from.
    pub change: Change,
    /// The line without its break.
    pub text: String,
}

/// Compares two texts line by line, all lines kept, as in a patch with unlimited context.
///
/// More than 4096 lines that differ are replaced whole.
#[must_use]
pub fn line_diff(old: &str, new: &str) -> Vec<DiffLine> {
    let (old_lines, new_lines): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let ops = if old_lines.len().max(new_lines.len()) > MAX_WORDS {
        vec![DiffOp::Replace { old_index: 0, old_len: old_lines.len(), new_index: 0, new_len: new_lines.len() }]
    } else {
        capture_diff_slices(Algorithm::Myers, &old_lines, &new_lines)
    };
    let mut lines = Vec::new();
    let mut push = |change, from: &[&str]| {
        lines.extend(from.iter().map(|text| DiffLine { change, text: (*text).to_owned() }));
    };
    for op in ops {
        let (_, before, after) = op.as_tag_tuple();
        if matches!(op, DiffOp::Equal { .. }) {
            push(Change::Equal, &old_lines[before]);
        } else {
            push(Change::Removed, &old_lines[before]);
            push(Change::Added, &new_lines[after]);
        }
    }
    lines
}

/// The first place where two texts differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// Bytes that both texts begin with; a character boundary of both.
    pub byte: usize,
    /// Line, counted from 1.
    pub line: usize,
    /// Character in that line, counted from 1.
    pub column: usize,
}

/// Where two texts part; `None` when they are equal.
#[must_use]
pub fn first_divergence(old: &str, new: &str) -> Option<Divergence> {
    if old == new {
        return None;
    }
    let common = old.chars().zip(new.chars()).take_while(|(a, b)| a == b);
    let byte: usize = common.map(|(c, _)| c.len_utf8()).sum();
    let before = &old[..byte];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    Some(Divergence { byte, line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn woven(old: &str, new: &str) -> String {
        let mark = |s: &Span| match s.change {
            Change::Equal => s.text.clone(),
            Change::Removed => format!("[-{}-]", s.text),
            Change::Added => format!("{{+{}+}}", s.text),
        };
        word_diff(old, new).spans.iter().map(mark).collect()
    }

    #[test]
    fn one_word_changed_is_one_change() {
        assert_eq!(woven("17 + 25 is 42.", "17 + 25 is 41."), "17 + 25 is [-42-]{+41+}.");
        assert_eq!(woven("same", "same"), "same");
        assert_eq!(woven("", "new"), "{+new+}");
    }

    #[test]
    fn neighbouring_words_change_together() {
        assert_eq!(woven("the quick brown fox", "the slow red fox"), "the [-quick brown-]{+slow red+} fox");
    }

    #[test]
    fn json_compares_by_its_fields() {
        let diff = woven(r#"{"line":3,"file":"a.rs"}"#, r#"{"line":4,"file":"a.rs"}"#);
        assert_eq!(diff, r#"{"line":[-3-]{+4+},"file":"a.rs"}"#);
    }

    #[test]
    fn scripts_without_spaces_compare_by_character() {
        assert_eq!(woven("東京は首都", "京都は首都"), "[-東-]京{+都+}は首都");
    }

    #[test]
    fn lines_stay_lines() {
        let lines = word_diff("one\ntwo\nthree", "one\n2\nthree").lines();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1].len(), 2);
        assert_eq!(lines[2], [Span { change: Change::Equal, text: "three".into() }]);
    }

    #[test]
    fn unlike_answers_are_not_woven() {
        assert!(!word_diff("The capital is Paris.", r#"{"tool": "rustc"}"#).is_readable());
        assert!(word_diff("The capital is Paris.", "The capital is Lyon.").is_readable());
        assert_eq!(word_diff("", "").similarity, 1.0);
    }

    #[test]
    fn endless_texts_are_replaced_whole() {
        let (old, new) = ("a ".repeat(5000), "b ".repeat(5000));
        let diff = word_diff(&old, &new);
        assert_eq!(diff.spans.len(), 2);
        assert_eq!(line_diff(&"a\n".repeat(5000), &"b\n".repeat(5000)).len(), 10_000);
    }

    #[test]
    fn divergence_is_a_line_and_a_column() {
        assert_eq!(first_divergence("a", "a"), None);
        assert_eq!(first_divergence("añb\ncd", "añb\ncé"), Some(Divergence { byte: 6, line: 2, column: 2 }));
        assert_eq!(first_divergence("ab", "abc"), Some(Divergence { byte: 2, line: 1, column: 3 }));
    }

    proptest! {
        #[test]
        fn a_diff_gives_back_both_texts(old in "[ab é\n{,東]{0,40}", new in "[ab é\n{,東]{0,40}") {
            let diff = word_diff(&old, &new);
            let text = |left: Change| diff.spans.iter().filter(|s| s.change != left).map(|s| s.text.as_str()).collect::<String>();
            prop_assert_eq!(text(Change::Added), old.clone());
            prop_assert_eq!(text(Change::Removed), new.clone());
            prop_assert!((0.0..=1.0).contains(&diff.similarity));
            prop_assert_eq!(diff.similarity == 1.0 && old == new, old == new);
        }

        #[test]
        fn a_line_diff_gives_back_both_texts(old in "[ab\n]{0,30}", new in "[ab\n]{0,30}") {
            let diff = line_diff(&old, &new);
            let text = |left: Change| diff.iter().filter(|l| l.change != left).map(|l| l.text.clone()).collect::<Vec<_>>();
            prop_assert_eq!(text(Change::Added), old.lines().map(str::to_owned).collect::<Vec<_>>());
            prop_assert_eq!(text(Change::Removed), new.lines().map(str::to_owned).collect::<Vec<_>>());
        }
    }
}
