//! A template's text before it is parsed: its nesting is bounded, and every value that it gives a name to is looked at.
//!
//! minijinja charges what a template computes against a budget, but three things cost nothing there: how deep values and expressions
//! nest (they are parsed, printed, compared and dropped by recursion), how large a list becomes by `+` and `*`, and how often a list
//! holds another. So expressions are bounded here by their number of tokens, and each value that gets a name (by `set`, `with`,
//! `for`, `macro` or `call`) passes the filter [`KEPT`] or [`HELD`], which bounds its depth and its size. What one expression makes of
//! bounded values is bounded.

/// The filter that bounds a value which gets a name.
pub(super) const KEPT: &str = "finetest_kept";
/// The filter that bounds a value which a namespace gets.
pub(super) const HELD: &str = "finetest_held";

/// Tokens of one tag.
const MOST_TOKENS: usize = 2000;
/// `elif` tags, which nest.
const MOST_ELIF: usize = 1000;
/// Largest number that a value may be multiplied by.
const LARGEST_FACTOR: u8 = 8;
/// Tokens of a tag that need no stack of their own.
const FEW_TOKENS: usize = 200;

/// A template that may be parsed.
#[derive(Debug)]
pub(super) struct Guarded {
    /// The text with its filters.
    pub(super) text: String,
    /// It neither calls itself nor nests deeply: any thread's stack is enough to render it.
    pub(super) flat: bool,
}

/// Why a template is not parsed.
#[derive(Debug, PartialEq)]
pub(super) struct Refused {
    pub(super) line: usize,
    pub(super) why: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Token<'s> {
    Name(&'s str),
    Text,
    Number,
    /// An operator or a bracket.
    Sign(&'s str),
}

/// A token and the bytes of the source that it takes.
#[derive(Clone, Copy, Debug)]
struct Placed<'s> {
    token: Token<'s>,
    start: usize,
    end: usize,
}

/// Bounds a template, and puts the filters where values get names.
pub(super) fn guard(source: &str) -> Result<Guarded, Refused> {
    let mut scan = Scan { source, at: 0, copied: 0, balance: 0, elifs: 0, flat: true, text: String::new() };
    while let Some(found) = source[scan.at..].find('{') {
        scan.at += found;
        let whole = match source.as_bytes().get(scan.at + 1) {
            Some(b'{') => scan.tag("}}", false)?,
            Some(b'%') if scan.skips_raw() => scan.raw(),
            Some(b'%') => scan.tag("%}", true)?,
            Some(b'#') => scan.comment(),
            _ => {
                scan.at += 1;
                true
            }
        };
        if !whole {
            // The parser stops at the same place, with a better message.
            break;
        }
    }
    let end = if scan.at < source.len() && source[scan.at..].contains('{') { scan.at } else { source.len() };
    scan.text.push_str(&source[scan.copied..end]);
    Ok(Guarded { text: scan.text, flat: scan.flat })
}

struct Scan<'s> {
    source: &'s str,
    at: usize,
    /// The source is copied up to here.
    copied: usize,
    /// Open brackets; minijinja counts them over all tags.
    balance: isize,
    elifs: usize,
    flat: bool,
    text: String,
}

impl<'s> Scan<'s> {
    fn refuse<T>(&self, at: usize, why: &'static str) -> Result<T, Refused> {
        Err(Refused { line: self.source[..at].matches('\n').count() + 1, why })
    }

    /// After a tag's first two bytes: where its content begins.
    fn content(&self) -> usize {
        let sign = matches!(self.source.as_bytes().get(self.at + 2), Some(b'-' | b'+'));
        self.at + 2 + usize::from(sign)
    }

    /// Goes behind a comment. False: it does not end.
    fn comment(&mut self) -> bool {
        let content = self.content();
        self.go_behind(self.source.get(content..).and_then(|rest| rest.find("#}")).map(|end| content + end + 2))
    }

    fn go_behind(&mut self, end: Option<usize>) -> bool {
        self.at = end.unwrap_or(self.source.len());
        end.is_some()
    }

    fn skips_raw(&self) -> bool {
        basic_tag(&self.source[self.content()..], "raw").is_some()
    }

    /// Goes behind a raw block. False: it does not end.
    fn raw(&mut self) -> bool {
        let content = self.content();
        let mut at = content + basic_tag(&self.source[content..], "raw").unwrap_or(0);
        while let Some(found) = self.source[at..].find("{%") {
            at += found + 2;
            let rest = &self.source[at..];
            let sign = usize::from(rest.starts_with(['-', '+']));
            if let Some(len) = basic_tag(&rest[sign..], "endraw") {
                return self.go_behind(Some(at + sign + len));
            }
        }
        self.go_behind(None)
    }

    /// Reads a tag and copies it with its filters. False: it does not end.
    fn tag(&mut self, closing: &str, block: bool) -> Result<bool, Refused> {
        let start = self.at;
        let mut tokens: Vec<Placed<'s>> = Vec::new();
        self.at = self.content();
        let end = loop {
            let rest = &self.source[self.at..];
            let blank = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_whitespace()).len();
            self.at += blank;
            let rest = &rest[blank..];
            if self.balance == 0 {
                let sign = usize::from(rest.starts_with(['-', '+']));
                if rest[sign..].starts_with(closing) {
                    break self.at;
                }
                if rest.starts_with(closing) {
                    break self.at;
                }
            }
            let Some(token) = self.token(rest) else {
                self.at += 1;
                self.at = (self.at..=self.source.len()).find(|at| self.source.is_char_boundary(*at)).unwrap_or(self.at);
                return Ok(false);
            };
            tokens.push(token);
            self.at = token.end;
            if tokens.len() > MOST_TOKENS {
                return self.refuse(start, "has an expression that is too long");
            }
        };
        let rest = &self.source[end..];
        let sign = usize::from(rest.starts_with(['-', '+']));
        self.at = end + sign + closing.len();
        self.check_products(&tokens)?;
        self.flat &= tokens.len() <= FEW_TOKENS;
        if block {
            self.statement(&tokens, end)?;
        }
        Ok(true)
    }

    /// The token that `rest` begins with. None: it is none, or a text without an end.
    fn token(&mut self, rest: &'s str) -> Option<Placed<'s>> {
        let first = *rest.as_bytes().first()?;
        let (token, len) = match first {
            b'\'' | b'"' => (Token::Text, text_len(rest)?),
            b'0'..=b'9' => (Token::Number, rest.bytes().take_while(|c| c.is_ascii_digit() || *c == b'_').count()),
            c if c.is_ascii_alphabetic() || c == b'_' => {
                let len = rest.bytes().take_while(|c| c.is_ascii_alphanumeric() || *c == b'_').count();
                (Token::Name(&rest[..len]), len)
            }
            _ => {
                let two = ["//", "**", "==", "!=", ">=", "<="].iter().any(|sign| rest.starts_with(sign));
                let len = 1 + usize::from(two);
                if !two && !b"+-*/%.,:~|=><()[]{}".contains(&first) {
                    return None;
                }
                self.balance += match first {
                    b'(' | b'[' | b'{' => 1,
                    b')' | b']' | b'}' => -1,
                    _ => 0,
                };
                (Token::Sign(&rest[..len]), len)
            }
        };
        Some(Placed { token, start: self.at, end: self.at + len })
    }

    /// A list times a number is as long as the number says, for nothing; times a text is a text, which is paid for. One small factor a
    /// tag makes nothing large.
    fn check_products(&self, tokens: &[Placed<'s>]) -> Result<(), Refused> {
        let sign = |i: Option<usize>, signs: &[&str]| {
            let token = i.and_then(|i| tokens.get(i)).map(|t| t.token);
            matches!(token, Some(Token::Sign(sign)) if signs.contains(&sign))
        };
        let small = |i: Option<usize>| {
            let number = i.and_then(|i| tokens.get(i)).filter(|token| token.token == Token::Number);
            let digits = number.map(|number| self.source[number.start..number.end].replace('_', ""));
            digits.and_then(|digits| digits.parse::<u8>().ok()).is_some_and(|factor| factor <= LARGEST_FACTOR)
        };
        let mut factors = 0;
        for (i, placed) in tokens.iter().enumerate() {
            let Token::Sign(found @ ("*" | "**")) = placed.token else { continue };
            // Arguments of a call: `f(*list)`.
            if sign(i.checked_sub(1), &["(", ","]) {
                continue;
            }
            let text = |i: Option<usize>| i.and_then(|i| tokens.get(i)).is_some_and(|t| t.token == Token::Text);
            let alone = !sign(i.checked_sub(2), &["*", "/", "//", "%", "**", "."]);
            let left = text(i.checked_sub(1)) && alone;
            let filtered = sign(Some(i + 2), &["|", ".", "[", "(", "**"])
                || tokens.get(i + 2).is_some_and(|t| t.token == Token::Name("is"));
            let right = text(Some(i + 1)) && !filtered;
            let factor = (small(i.checked_sub(1)) && alone) || small(Some(i + 1));
            if found == "*" && !(left || right) && factor && factors == 0 {
                factors += 1;
                continue;
            }
            if found == "**" || !(left || right) {
                return self
                    .refuse(placed.start, "multiplies values, which is not supported except by a text in quotes, and once a tag by a number up to 8");
            }
        }
        Ok(())
    }

    /// Puts filters into a block's tag, whose content ends at `end`; `self.at` is behind the tag.
    fn statement(&mut self, tokens: &[Placed<'s>], end: usize) -> Result<(), Refused> {
        let Some(Placed { token: Token::Name(keyword), start, .. }) = tokens.first().copied() else { return Ok(()) };
        match keyword {
            "set" => self.set(tokens, end)?,
            "with" => self.with(tokens, end),
            "for" => {
                self.flat &= !tokens.iter().any(|t| t.token == Token::Name("recursive"));
                let targets = tokens[1..].iter().take_while(|t| t.token != Token::Name("in"));
                let names = targets.filter_map(|t| name(t.token)).collect::<Vec<_>>();
                self.bind(&names, end);
            }
            "macro" | "call" => {
                self.flat = false;
                let first = if keyword == "macro" { 2 } else { 1 };
                self.bind(&parameters(tokens.get(first..).unwrap_or_default()), end);
            }
            "block" | "autoescape" => self.flat = false,
            "elif" => {
                self.elifs += 1;
                if self.elifs > MOST_ELIF {
                    return self.refuse(start, "has too many elif");
                }
                self.flat &= self.elifs <= FEW_TOKENS;
            }
            _ => {}
        }
        Ok(())
    }

    fn set(&mut self, tokens: &[Placed<'s>], end: usize) -> Result<(), Refused> {
        let equals = tokens.iter().position(|t| t.token == Token::Sign("="));
        let pipe = tokens.iter().position(|t| t.token == Token::Sign("|"));
        // Behind a filter, an equals sign names an argument: `{% set x | indent(width=2) %}`.
        let equals = equals.filter(|at| pipe.is_none_or(|pipe| *at < pipe));
        let target = &tokens[1.min(tokens.len())..equals.or(pipe).unwrap_or(tokens.len())];
        let filter = match target.iter().rposition(|t| t.token == Token::Sign(".")) {
            None => KEPT.to_owned(),
            Some(_) if target.iter().any(|t| t.token == Token::Sign(",")) => {
                return self.refuse(target[0].start, "sets several attributes in one tag; set each in its own tag");
            }
            Some(dot) => format!("{HELD}({})", &self.source[target[0].start..target[dot].start]),
        };
        match (equals, pipe) {
            (Some(at), _) if at + 1 < tokens.len() => {
                self.copy(tokens[at].end);
                self.text.push_str(" (");
                self.copy(tokens[tokens.len() - 1].end);
                self.text.push_str(&format!(")|{filter}"));
            }
            (None, Some(_)) => {
                self.copy(tokens[tokens.len() - 1].end);
                self.text.push_str(&format!("|{filter}"));
            }
            _ => {}
        }
        self.copy(end);
        Ok(())
    }

    fn with(&mut self, tokens: &[Placed<'s>], end: usize) {
        let (mut depth, mut open) = (0, false);
        for (i, placed) in tokens.iter().enumerate() {
            match placed.token {
                Token::Sign("(" | "[" | "{") => depth += 1,
                Token::Sign(")" | "]" | "}") => depth -= 1,
                Token::Sign("=") if depth == 0 && !open && i + 1 < tokens.len() => {
                    self.copy(placed.end);
                    self.text.push_str(" (");
                    open = true;
                }
                Token::Sign(",") if depth == 0 && open => {
                    self.copy(placed.start);
                    self.text.push_str(&format!(")|{KEPT}"));
                    open = false;
                }
                _ => {}
            }
        }
        if open {
            self.copy(tokens[tokens.len() - 1].end);
            self.text.push_str(&format!(")|{KEPT}"));
        }
        self.copy(end);
    }

    /// Bounds names that get their values when the block begins, by tags behind its own. The last one keeps its way with blanks.
    fn bind(&mut self, names: &[&str], end: usize) {
        if names.is_empty() {
            return;
        }
        self.copy(end);
        let closing = &self.source[end..self.at];
        self.text.push_str("%}");
        for (i, name) in names.iter().enumerate() {
            let closing = if i + 1 == names.len() { closing } else { "%}" };
            self.text.push_str(&format!("{{% set {name} = ({name})|{KEPT} {closing}"));
        }
        self.copied = self.at;
    }

    fn copy(&mut self, to: usize) {
        self.text.push_str(&self.source[self.copied..to]);
        self.copied = to;
    }
}

fn name<'s>(token: Token<'s>) -> Option<&'s str> {
    match token {
        Token::Name(name) => Some(name),
        _ => None,
    }
}

/// Names in the brackets that `tokens` begin with, without their defaults.
fn parameters<'s>(tokens: &[Placed<'s>]) -> Vec<&'s str> {
    let (mut depth, mut names) = (0, Vec::new());
    for (i, placed) in tokens.iter().enumerate() {
        match placed.token {
            Token::Sign("(" | "[" | "{") => depth += 1,
            Token::Sign(")" | "]" | "}") => depth -= 1,
            Token::Name(name) if depth == 1 && matches!(tokens[i - 1].token, Token::Sign("(" | ",")) => {
                names.push(name);
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

/// Length of the quoted text that `rest` begins with.
fn text_len(rest: &str) -> Option<usize> {
    let quote = rest.as_bytes()[0];
    let mut escaped = false;
    for (i, c) in rest.bytes().enumerate().skip(1) {
        match c {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            c if c == quote => return Some(i + 1),
            _ => {}
        }
    }
    None
}

/// Length of `NAME %}` at the beginning of `rest`.
fn basic_tag(rest: &str, name: &str) -> Option<usize> {
    let blank = |c: char| c.is_ascii_whitespace();
    let behind = rest.trim_start_matches(blank).strip_prefix(name)?.trim_start_matches(blank);
    let behind = behind.strip_prefix(['-', '+']).unwrap_or(behind).strip_prefix("%}")?;
    Some(rest.len() - behind.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(source: &str) -> String {
        guard(source).unwrap().text.replace(KEPT, "K").replace(HELD, "H")
    }

    #[test]
    fn values_that_get_a_name_pass_a_filter() {
        for (source, expected) in [
            ("a {{ b }} { {# {% set x = 1 %} #} c", "a {{ b }} { {# {% set x = 1 %} #} c"),
            ("{%- set x = a if b else c -%}", "{%- set x = ( a if b else c)|K -%}"),
            ("{% set x, y = 1, 2 %}", "{% set x, y = ( 1, 2)|K %}"),
            ("{% set x = '%} = ' ~ {'a': {}} %}!", "{% set x = ( '%} = ' ~ {'a': {}})|K %}!"),
            ("{% set ns.x = ns.x + [1] %}", "{% set ns.x = ( ns.x + [1])|H(ns) %}"),
            ("{% set a.b.c = 1 %}", "{% set a.b.c = ( 1)|H(a.b) %}"),
            ("{% set x %}text{% endset %}", "{% set x %}text{% endset %}"),
            ("{% set x | list %}t{% endset %}", "{% set x | list|K %}t{% endset %}"),
            ("{% set x | f(a, b=1) %}t{% endset %}", "{% set x | f(a, b=1)|K %}t{% endset %}"),
            ("{% set ns.x | list %}t{% endset %}", "{% set ns.x | list|H(ns) %}t{% endset %}"),
            ("{% with a = f(b=1), c = [2, 3] %}", "{% with a = ( f(b=1))|K, c = ( [2, 3])|K %}"),
            ("{% for m in messages if m == 1 -%} x", "{% for m in messages if m == 1 %}{% set m = (m)|K -%} x"),
            ("{% for (a, b) in c %}\n", "{% for (a, b) in c %}{% set a = (a)|K %}{% set b = (b)|K %}\n"),
            (
                "{% macro f(a, b=g(c), d=[e]) +%}",
                "{% macro f(a, b=g(c), d=[e]) %}{% set a = (a)|K %}{% set b = (b)|K %}{% set d = (d)|K +%}",
            ),
            ("{% macro f() %}x", "{% macro f() %}x"),
            ("{% call(a) f(b) %}", "{% call(a) f(b) %}{% set a = (a)|K %}"),
            ("{% call f(b) %}", "{% call f(b) %}"),
            (
                "{% raw %}{% set x = 1 %}{{{% endraw -%}{% set y=2%}",
                "{% raw %}{% set x = 1 %}{{{% endraw -%}{% set y= (2)|K%}",
            ),
            ("{% set x = %}", "{% set x = %}"),
            ("{% set %}", "{% set %}"),
        ] {
            assert_eq!(text(source), expected, "{source}");
        }
    }

    #[test]
    fn expressions_are_bounded() {
        let chain = |link: &str| format!("{{{{ 1{} }}}}", link.repeat(3000));
        for link in ["+1", "~1", ".a", "|string", " if 1 else 1"] {
            assert_eq!(guard(&chain(link)).unwrap_err().why, "has an expression that is too long", "{link}");
        }
        let source = format!("a\nb{{{{ {}1 }}}}", "not ".repeat(3000));
        assert_eq!(guard(&source).unwrap_err(), Refused { line: 2, why: "has an expression that is too long" });
        let elifs = format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(2000));
        assert_eq!(guard(&elifs).unwrap_err().why, "has too many elif");
        assert!(guard("{{ '-' * 3 }}{{ n * \"ab\" }}{{ f(*a, **b) }}").is_ok());
        assert!(guard("{{ messages|length * 2 }}{{ 3 * s }}{% set x = [a] * 8 %}").is_ok());
        for product in [
            "[a] * n",
            "n * 9",
            "n * 2 * 2",
            "n * 1_000",
            "2 ** n",
            "'a'|list * 50",
            "n * 'a'|list",
            "n * 'a'.split()",
            "n // 1 * [a]",
        ] {
            assert!(guard(&format!("{{{{ {product} }}}}")).is_err(), "{product}");
        }
    }

    #[test]
    fn what_has_no_end_is_cut_where_the_parser_stops() {
        for source in [
            "{{ 'a }}{% set x = [x] %}",
            "{# a {% set x = [x] %}",
            "{% raw %}{% set x = [x] %}",
            "{{ ? }}{% set x = [x] %}",
        ] {
            assert!(!text(source).contains("|K"), "{source}");
            let mut environment = minijinja::Environment::new();
            assert!(environment.add_template_owned("t", guard(source).unwrap().text).is_err(), "{source}");
        }
    }

    #[test]
    fn a_template_that_calls_itself_is_not_flat() {
        for (source, flat) in [
            ("{% for a in b %}{{ a }}{% endfor %}", true),
            ("{% for a in b recursive %}{{ loop(a) }}{% endfor %}", false),
            ("{% macro f() %}{{ f() }}{% endmacro %}", false),
            ("{% block a %}{{ self.a() }}{% endblock %}", false),
        ] {
            assert_eq!(guard(source).unwrap().flat, flat, "{source}");
        }
    }
}
