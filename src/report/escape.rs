//! Text of a model, made safe for a terminal, a page, an XML file and a workflow command.
//!
//! What cannot be seen, or would act, is shown as `\u{1b}`: nothing is dropped, so a report never hides that it was there.

use std::borrow::Cow;
use std::fmt::Write;

pub use crate::shown::visible as terminal_safe;

/// [`terminal_safe`] on one line: line breaks shown as `⏎`, tabs as spaces.
#[must_use]
pub fn one_line(text: &str) -> String {
    terminal_safe(text.trim()).replace('\n', " ⏎ ").replace('\t', " ")
}

/// Text inside a line of Markdown: no markup, no HTML, no mention, no link comes of it, and it stays on one line.
///
/// Characters with a meaning become character references; `@`, `#`, `://` and `www.` are broken up by an invisible one, since
/// GitHub makes mentions and links of the rendered text.
#[must_use]
pub fn markdown_safe(text: &str) -> String {
    let line = one_line(text);
    let mut safe = String::with_capacity(line.len() + 16);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '@' | '#' => {
                let _ = write!(safe, "{c}&#8203;");
            }
            ':' if chars.peek() == Some(&'/') => safe.push_str(":&#8203;"),
            '.' if ends_with_www(&safe) => safe.push_str("&#8203;."),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '$' => {
                let _ = write!(safe, "&#{};", u32::from(c));
            }
            c => safe.push(c),
        }
    }
    safe
}

fn ends_with_www(text: &str) -> bool {
    text.len() >= 3 && text.as_bytes()[text.len() - 3..].eq_ignore_ascii_case(b"www")
}

/// Text for an HTML element whose content GitHub does not search for mentions (`<code>`), on one line. Within a line of Markdown its
/// content is Markdown: no emphasis, link or image comes of it, and no backslash is lost.
#[must_use]
pub fn html_safe(text: &str) -> String {
    one_line(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
        .replace('`', "&#96;")
        .replace('|', "&#124;")
        .replace('\\', "&#92;")
        .replace('[', "&#91;")
        .replace(']', "&#93;")
        .replace('*', "&#42;")
        .replace('~', "&#126;")
        .replace("://", "&#58;//")
        .replace("www.", "www&#46;")
}

/// A fenced block that `content` cannot close: the fence is longer than any run of backticks in it.
#[must_use]
pub fn fenced(language: &str, content: &str) -> String {
    let content = terminal_safe(content);
    let longest = content.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    let end = if content.ends_with('\n') || content.is_empty() { "" } else { "\n" };
    format!("{fence}{language}\n{content}{end}{fence}\n")
}

/// Text for an XML 1.0 document: characters it forbids are shown. Quoting `&` and `<` is left to the writer.
#[must_use]
pub fn xml_safe(text: &str) -> Cow<'_, str> {
    // XML forbids a part of what a terminal must not see; one rule for both keeps the reports alike.
    terminal_safe(text)
}

/// Message of a GitHub workflow command: `%`, CR and LF quoted.
#[must_use]
pub fn github_message(text: &str) -> String {
    terminal_safe(&text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")).into_owned()
}

/// Property of a GitHub workflow command: as [`github_message`], and `:` and `,` quoted.
#[must_use]
pub fn github_property(text: &str) -> String {
    github_message(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn markdown_gets_neither_markup_nor_mentions() {
        let safe = markdown_safe(
            "<img src=x onerror=alert(1)> **b** `c` [l](http://x.y) ![i](//z) | @octocat fixes #12\n\n# h",
        );
        for active in ["<", ">", "*", "`", "[", "](", "http:/", "@o", "fixes #12", "|", "\n", "://"] {
            assert!(!safe.contains(active), "{active:?} in {safe}");
        }
        assert!(!markdown_safe("www.example.com").contains("www.e"));
    }

    #[test]
    fn a_summary_line_cannot_leave_its_element() {
        let safe = html_safe("</code></summary>\n\n<script>\"'`|");
        assert!(!safe.contains(['<', '>', '\n', '"', '\'', '`', '|']), "{safe}");
        let safe = html_safe(r"![a](http://b) *c* www.d ~e~ \[");
        assert!(
            !safe.contains(['[', ']', '*', '~', '\\']) && !safe.contains("://") && !safe.contains("www."),
            "{safe}"
        );
    }

    #[test]
    fn content_cannot_close_its_fence() {
        assert_eq!(fenced("diff", "a"), "```diff\na\n```\n");
        let block = fenced("", "``` \n`````\n</details>");
        assert!(block.starts_with("``````\n") && block.ends_with("\n``````\n"), "{block}");
    }

    #[test]
    fn workflow_commands_stay_on_their_line() {
        assert_eq!(github_message("100%\r\n::set-env name=x::y"), "100%25%0D%0A::set-env name=x::y");
        assert_eq!(github_property("a,file=b:c\n%"), "a%2Cfile=b%3Ac%0A%25");
        assert_eq!(github_message("\u{1b}[0m"), "\\u{1b}[0m");
    }

    proptest! {
        #[test]
        fn no_text_acts_where_it_is_put(text in any::<String>()) {
            let message = github_property(&text);
            prop_assert!(!message.contains(['\n', '\r', ':', ',']));
            prop_assert!(!markdown_safe(&text).contains(['<', '>', '`', '\n', '|']));
        }

        #[test]
        fn a_fence_holds_whatever_is_in_it(text in "[`~\n a]{0,30}") {
            let block = fenced("", &text);
            let fence: String = block.chars().take_while(|c| *c == '`').collect();
            prop_assert!(!block[fence.len()..block.len() - fence.len() - 1].contains(&fence));
        }
    }
}
