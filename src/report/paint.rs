//! Lines for a terminal: coloured, aligned and wrapped by display width, and safe whatever text they hold.

use std::borrow::Cow;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::compare::{Change, Span};
use crate::report::escape::terminal_safe;

/// How a terminal report is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// ANSI colours; without them everything is reported by signs and words.
    pub color: bool,
    /// Columns; at least 20 are used.
    pub width: usize,
}

/// What a piece of text looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ink {
    Plain,
    Bold,
    Dim,
    Good,
    Bad,
    Warn,
    Removed,
    Added,
}

impl Ink {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Good => "32",
            Self::Bad => "31",
            Self::Warn => "33",
            Self::Removed => "9;31",
            Self::Added => "1;32",
        }
    }
}

/// A piece of a line.
pub(super) type Piece = (Ink, String);

/// A piece made of anything that is text.
pub(super) fn piece(ink: Ink, text: impl Into<String>) -> Piece {
    (ink, text.into())
}

/// Columns that `text` takes.
pub(super) fn columns(text: &str) -> usize {
    text.width()
}

/// `text` cut to `width` columns, with `…` where something was cut off.
pub(super) fn clip(text: &str, width: usize) -> Cow<'_, str> {
    if columns(text) <= width {
        return Cow::Borrowed(text);
    }
    let mut used = 0;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used < width
    };
    let mut cut: String = text.chars().take_while(fits).collect();
    cut.push('…');
    Cow::Owned(cut)
}

/// `text` in a field of `width` columns, to the left.
pub(super) fn left(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(columns(text))))
}

/// `text` in a field of `width` columns, to the right.
pub(super) fn right(text: &str, width: usize) -> String {
    format!("{}{text}", " ".repeat(width.saturating_sub(columns(text))))
}

/// A page that grows line by line. All text passes [`terminal_safe`] here, so nothing can reach the terminal raw.
pub(super) struct Page {
    style: Style,
    out: String,
}

impl Page {
    pub(super) fn new(style: Style) -> Self {
        Self { style: Style { width: style.width.max(20), ..style }, out: String::new() }
    }

    pub(super) fn width(&self) -> usize {
        self.style.width
    }

    pub(super) fn finish(self) -> String {
        self.out
    }

    pub(super) fn blank(&mut self) {
        self.out.push('\n');
    }

    /// One line, as it is; on a terminal that it does not fit, several.
    pub(super) fn line(&mut self, pieces: &[Piece]) {
        if pieces.iter().map(|(_, text)| columns(&safe(text))).sum::<usize>() > self.style.width {
            return self.wrapped(4, pieces);
        }
        for (ink, text) in pieces {
            self.put(*ink, &safe(text));
        }
        self.end();
    }

    /// One line or more: broken between words, or within a word longer than a line; further lines begin with `indent` spaces.
    pub(super) fn wrapped(&mut self, indent: usize, pieces: &[Piece]) {
        self.wrapped_under(&" ".repeat(indent), pieces);
    }

    /// As [`Page::wrapped`], further lines beginning with `prefix`.
    pub(super) fn wrapped_under(&mut self, prefix: &str, pieces: &[Piece]) {
        let mut column = 0;
        let indent = columns(prefix);
        for (ink, text) in pieces {
            // What stays on one line is coloured once.
            let mut run = String::new();
            for word in safe(text).split_inclusive(' ') {
                let wide = columns(word.trim_end_matches(' '));
                if column > indent && column + wide > self.style.width {
                    self.put(*ink, &std::mem::take(&mut run));
                    self.break_line(prefix, &mut column);
                }
                if column + wide <= self.style.width {
                    column += columns(word);
                    run.push_str(word);
                } else {
                    self.put(*ink, &std::mem::take(&mut run));
                    self.long_word(*ink, word, prefix, &mut column);
                }
            }
            self.put(*ink, &run);
        }
        self.end();
    }

    fn long_word(&mut self, ink: Ink, word: &str, prefix: &str, column: &mut usize) {
        let mut part = String::new();
        for c in word.chars() {
            let wide = c.width().unwrap_or(0);
            if *column + wide > self.style.width && *column > columns(prefix) {
                self.put(ink, &std::mem::take(&mut part));
                self.break_line(prefix, column);
            }
            part.push(c);
            *column += wide;
        }
        self.put(ink, &part);
    }

    fn break_line(&mut self, prefix: &str, column: &mut usize) {
        self.end();
        self.put(Ink::Dim, prefix);
        *column = columns(prefix);
    }

    /// Ends the line, without spaces before its end.
    fn end(&mut self) {
        self.out.truncate(self.out.trim_end_matches(' ').len());
        self.out.push('\n');
    }

    fn put(&mut self, ink: Ink, text: &str) {
        let code = ink.code();
        // Spaces stay outside of the colour, so that a line's end can be trimmed.
        let inner = text.trim_matches(' ');
        if !self.style.color || code.is_empty() || (inner.is_empty() && ink != Ink::Removed && ink != Ink::Added) {
            self.out.push_str(text);
            return;
        }
        let start = text.len() - text.trim_start_matches(' ').len();
        let (before, rest) = text.split_at(if inner.is_empty() { 0 } else { start });
        let (body, after) = rest.split_at(if inner.is_empty() { rest.len() } else { inner.len() });
        self.out.push_str(&format!("{before}\u{1b}[{code}m{body}\u{1b}[0m{after}"));
    }

    /// A line of a word diff; without colour `[-removed-]` and `{+added+}`.
    pub(super) fn woven(&self, spans: &[Span]) -> Vec<Piece> {
        let marks = !self.style.color;
        spans
            .iter()
            .map(|span| match span.change {
                Change::Equal => (Ink::Plain, span.text.clone()),
                Change::Removed if marks => (Ink::Removed, format!("[-{}-]", span.text)),
                Change::Added if marks => (Ink::Added, format!("{{+{}+}}", span.text)),
                Change::Removed => (Ink::Removed, span.text.clone()),
                Change::Added => (Ink::Added, span.text.clone()),
            })
            .collect()
    }
}

fn safe(text: &str) -> String {
    terminal_safe(text).replace('\t', "    ").replace('\n', " ⏎ ")
}

/// A heading, and how many things are below it.
pub(super) fn heading(page: &mut Page, text: &str, count: Option<usize>) {
    page.blank();
    let count = count.map_or_else(String::new, |n| format!(" ({n})"));
    page.wrapped(2, &[piece(Ink::Bold, text), piece(Ink::Dim, count)]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page(color: bool, width: usize) -> Page {
        Page::new(Style { color, width })
    }

    #[test]
    fn width_is_display_width() {
        assert_eq!(left("日本", 6), "日本  ");
        assert_eq!(right("é", 3), "  é");
        assert_eq!(clip("日本語", 5), "日本…");
        assert_eq!(clip("abc", 3), "abc");
        assert_eq!(clip("abcd", 3), "ab…");
    }

    #[test]
    fn long_lines_break_between_words_and_keep_their_indent() {
        let mut page = page(false, 40);
        page.wrapped(4, &[piece(Ink::Plain, "    one two three four five six seven eight nine ten")]);
        assert_eq!(page.finish(), "    one two three four five six seven\n    eight nine ten\n");
    }

    #[test]
    fn a_colour_is_set_once_a_line() {
        let mut page = page(true, 40);
        page.wrapped(2, &[piece(Ink::Dim, "one two three four five six seven eight nine")]);
        let dim = |text: &str| format!("\u{1b}[2m{text}\u{1b}[0m\n");
        assert_eq!(page.finish(), format!("{}  {}", dim("one two three four five six seven eight"), dim("nine")));
    }

    #[test]
    fn colours_do_not_count_and_end_on_their_line() {
        let mut page = page(true, 40);
        page.line(&[piece(Ink::Bad, "bad  "), piece(Ink::Plain, "plain")]);
        assert_eq!(page.finish(), "\u{1b}[31mbad\u{1b}[0m  plain\n");
    }

    #[test]
    fn text_reaches_the_terminal_escaped() {
        let mut page = page(false, 80);
        page.line(&[piece(Ink::Plain, "a\u{1b}[2Jb\tc\nd")]);
        page.wrapped(2, &[piece(Ink::Bad, "\u{202e}x")]);
        assert_eq!(page.finish(), "a\\u{1b}[2Jb    c ⏎ d\n\\u{202e}x\n");
    }

    #[test]
    fn a_word_longer_than_a_line_begins_one_and_is_cut() {
        let mut page = page(false, 40);
        page.wrapped(2, &[piece(Ink::Plain, format!("see {} end", "x".repeat(50)))]);
        assert_eq!(page.finish(), format!("see\n  {}\n  {} end\n", "x".repeat(38), "x".repeat(12)));
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_the_page(text in "[a日 \u{1b}]{0,200}", indent in 0_usize..16, width in 20_usize..60) {
            let mut page = page(false, width);
            page.line(&[piece(Ink::Plain, text.as_str())]);
            page.wrapped(indent, &[piece(Ink::Plain, text)]);
            for line in page.finish().lines() {
                prop_assert!(columns(line) <= width, "{} columns: {line}", columns(line));
            }
        }
    }
}
