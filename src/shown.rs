//! Text of a model or a file, made safe to show: what cannot be seen, or would act on a terminal, is shown as `\u{1b}`.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a character acts on a terminal or a page, or cannot be seen there, other than `\n` and `\t`.
fn is_hidden(c: char) -> bool {
    matches!(c,
        // C0 but tab and line feed, DEL, C1
        '\0'..='\u{8}' | '\u{b}'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        // soft hyphen, grapheme joiner, Arabic letter mark, Hangul fillers, Khmer and Mongolian invisibles
        | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        // zero width, marks, line and paragraph separators, embeddings and overrides
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        // joiners, invisible operators, isolates, deprecated controls
        | '\u{2060}'..='\u{206f}'
        // fillers, variation selectors but text and emoji style, byte order mark, annotations, replacement of an object
        | '\u{3164}' | '\u{fe00}'..='\u{fe0d}' | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffc}' | '\u{fffe}' | '\u{ffff}'
        // musical controls, shorthand controls, tags and further variation selectors
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Shows control characters, ANSI escapes, bidirectional marks, zero-width and tag characters as `\u{…}`; keeps `\n` and `\t`.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hidden(c) {
            let _ = write!(safe, "\\u{{{:x}}}", u32::from(c));
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// A model's text in quotes, on one line, cut to 80 characters, with nothing a terminal would obey.
pub(crate) fn quote(text: &str) -> String {
    let text = text.trim();
    let (cut, more) = match text.char_indices().nth(80) {
        Some((at, _)) => (&text[..at], "…"),
        None => (text, ""),
    };
    format!("{cut:?}{more}")
}

/// Text on one line, cut to `most` characters, with nothing a terminal would obey.
pub(crate) fn plain(text: &str, most: usize) -> String {
    let (cut, more) = match text.char_indices().nth(most) {
        Some((at, _)) => (&text[..at], "…"),
        None => (text, ""),
    };
    // What `escape_debug` escapes, but quotes and backslashes, which are no danger and are hard to read doubled.
    let lines = cut.split_inclusive(['"', '\'', '\\']).map(|piece| {
        let text = piece.trim_end_matches(['"', '\'', '\\']);
        format!("{}{}", text.escape_debug(), &piece[text.len()..])
    });
    lines.collect::<String>() + more
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_cannot_reach_a_terminal() {
        let attacks = [
            ("\u{1b}[2J\u{1b}[31mred", "\\u{1b}[2J\\u{1b}[31mred"),
            ("\u{1b}]8;;http://x\u{7}link\u{1b}]8;;\u{7}", "\\u{1b}]8;;http://x\\u{7}link\\u{1b}]8;;\\u{7}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("real\rfake", "real\\u{d}fake"),
            ("abc\u{8}\u{8}\u{8}xyz", "abc\\u{8}\\u{8}\\u{8}xyz"),
            ("user\u{202e}gpj.exe", "user\\u{202e}gpj.exe"),
            ("a\u{2066}b\u{2069}c", "a\\u{2066}b\\u{2069}c"),
            ("pay\u{200b}pal\u{feff}", "pay\\u{200b}pal\\u{feff}"),
            ("hi\u{e0041}\u{e007f}\u{e0100}", "hi\\u{e0041}\\u{e007f}\\u{e0100}"),
            ("\0\u{7f}\u{85}\u{2028}", "\\u{0}\\u{7f}\\u{85}\\u{2028}"),
        ];
        for (attack, shown) in attacks {
            assert_eq!(visible(attack), shown);
        }
    }

    #[test]
    fn plain_text_of_any_script_is_left_alone() {
        for text in ["line\n\tindented", "äöü ß", "日本語、テスト。", "שלום مرحبا", "नमस्ते", "❤\u{fe0f} 👍🏽", "e\u{301}"]
        {
            assert!(matches!(visible(text), Cow::Borrowed(t) if t == text));
        }
    }

    proptest! {
        #[test]
        fn nothing_hidden_is_left(text in any::<String>()) {
            prop_assert!(!visible(&text).chars().any(is_hidden));
        }
    }
}
