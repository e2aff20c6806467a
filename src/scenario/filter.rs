//! Filters: expressions that select tests, such as `role(control) & (tag(facts) | verdict(broken))`.
//!
//! The language is a small one of nextest's kind:
//!
//! | expression | selects the tests |
//! |---|---|
//! | `role(target)`, `role(control)` | of scenarios of this role |
//! | `scenario(NAME)`, `case(NAME)`, `tag(NAME)` | of this scenario, case or tag; `*` stands for any characters |
//! | `test(TEXT)` | whose name, `control::facts::france`, contains the text |
//! | `verdict(WORD)` | that ended so in the last run: `passed`, `failed`, `broken`, `fixed` or `not-evaluated` |
//! | `all()`, `none()` | all, none |
//! | `a & b`, `a \| b`, `not a`, `(a)` | of both, of either, of not this one; `and`, `or` and `!` are the same |

use std::fmt;

use crate::record::Role;

/// Characters of an expression.
const LONGEST: usize = 4096;
/// Parentheses and negations within each other.
const DEEPEST: usize = 64;

/// What a verdict of the last run is called.
pub(crate) const VERDICTS: [&str; 5] = ["passed", "failed", "broken", "fixed", "not-evaluated"];

/// A test, as a filter sees it.
pub(crate) struct Test<'a> {
    pub(crate) role: Role,
    pub(crate) scenario: &'a str,
    pub(crate) case: &'a str,
    pub(crate) tags: &'a [String],
    /// What became of it in the last run, of [`VERDICTS`]; a broken one has failed too.
    pub(crate) verdicts: &'a [&'static str],
}

impl Test<'_> {
    fn name(&self) -> String {
        format!("{}::{}::{}", self.role, self.scenario, self.case)
    }
}

/// An expression that selects tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    All,
    None,
    Role(Role),
    Scenario(Glob),
    Case(Glob),
    Tag(Glob),
    Name(String),
    Verdict(&'static str),
    /// The part of this number, from 1 on, of so many parts.
    Part(usize, usize),
    Not(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
}

/// The most parts of a run.
const MOST_PARTS: usize = 100_000;

/// The part that a test is in: by its name alone, so that a new test moves no other.
fn part_of(name: &str, of: usize) -> usize {
    let hash = blake3::hash(name.as_bytes());
    let first = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    // A number below `of`, which is a usize.
    1 + (first % of.max(1) as u64) as usize
}

/// A name in which `*` stands for any characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob(String);

impl Glob {
    fn matches(&self, name: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else { return self.0 == name };
        let Some(mut name) = name.strip_prefix(first) else { return false };
        let mut parts: Vec<&str> = rest.split('*').collect();
        let last = parts.pop().unwrap_or_default();
        for part in parts {
            let Some(at) = name.find(part) else { return false };
            name = &name[at + part.len()..];
        }
        name.ends_with(last)
    }
}

impl Filter {
    /// Reads an expression.
    ///
    /// # Errors
    /// It is none: what is wrong, and where.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.chars().count() > LONGEST {
            return Err(format!("the expression has more than {LONGEST} characters"));
        }
        let mut parser = Parser { text, at: 0, depth: 0 };
        let filter = parser.either()?;
        match parser.peek() {
            None => Ok(filter),
            Some(_) => Err(parser.unexpected("& or |")),
        }
    }

    /// Reads the number of a part, `1/4`.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn part(text: &str) -> Result<Self, String> {
        let numbers = text.strip_prefix("hash:").unwrap_or(text).split_once('/');
        let numbers = numbers.and_then(|(number, of)| Some((number.trim().parse().ok()?, of.trim().parse().ok()?)));
        match numbers {
            Some((number, of)) if number >= 1 && number <= of && of <= MOST_PARTS => Ok(Self::Part(number, of)),
            _ => Err(format!(
                "{text:?} is no part, expected one such as 1/4: its number from 1 on, and how many there are"
            )),
        }
    }

    /// A filter of tests whose name contains one of these; of all when there are none.
    pub(crate) fn names(names: &[String]) -> Self {
        let one = |name: &String| Self::Name(name.clone());
        let either = |a: Self, b: Self| Self::Or(Box::new(a), Box::new(b));
        names.iter().map(one).reduce(either).unwrap_or(Self::All)
    }

    /// What both select.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::All, one) | (one, Self::All) => one,
            (a, b) => Self::And(Box::new(a), Box::new(b)),
        }
    }

    /// Whether it selects a test.
    pub(crate) fn selects(&self, test: &Test<'_>) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Role(role) => *role == test.role,
            Self::Scenario(name) => name.matches(test.scenario),
            Self::Case(name) => name.matches(test.case),
            Self::Tag(name) => test.tags.iter().any(|tag| name.matches(tag)),
            Self::Name(part) => test.name().contains(part.as_str()),
            Self::Verdict(verdict) => test.verdicts.contains(verdict),
            Self::Part(number, of) => part_of(&test.name(), *of) == *number,
            Self::Not(a) => !a.selects(test),
            Self::And(a, b) => a.selects(test) && b.selects(test),
            Self::Or(a, b) => a.selects(test) || b.selects(test),
        }
    }

    /// Whether it asks what became of a test in the last run.
    pub(crate) fn needs_verdicts(&self) -> bool {
        match self {
            Self::Verdict(_) => true,
            Self::Not(a) => a.needs_verdicts(),
            Self::And(a, b) | Self::Or(a, b) => a.needs_verdicts() || b.needs_verdicts(),
            _ => false,
        }
    }
}

/// As an expression, which is read as the same filter.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all()"),
            Self::None => f.write_str("none()"),
            Self::Role(role) => write!(f, "role({role})"),
            Self::Scenario(name) => write!(f, "scenario({})", name.0),
            Self::Case(name) => write!(f, "case({})", name.0),
            Self::Tag(name) => write!(f, "tag({})", name.0),
            Self::Name(part) => write!(f, "test({part})"),
            Self::Verdict(verdict) => write!(f, "verdict({verdict})"),
            Self::Part(number, of) => write!(f, "part({number}/{of})"),
            Self::Not(a) => write!(f, "not ({a})"),
            Self::And(a, b) => write!(f, "({a}) & ({b})"),
            Self::Or(a, b) => write!(f, "({a}) | ({b})"),
        }
    }
}

struct Parser<'t> {
    text: &'t str,
    /// In bytes.
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&mut self) -> Option<char> {
        let blank = self.rest().len() - self.rest().trim_start().len();
        self.at += blank;
        self.rest().chars().next()
    }

    /// Steps over one of these words or signs, if it is next.
    fn take(&mut self, words: &[&str]) -> bool {
        self.peek();
        for word in words {
            let Some(rest) = self.rest().strip_prefix(word) else { continue };
            let is_word = word.ends_with(char::is_alphabetic);
            if is_word && rest.starts_with(|c: char| c.is_alphanumeric() || c == '-') {
                continue;
            }
            self.at += word.len();
            return true;
        }
        false
    }

    fn either(&mut self) -> Result<Filter, String> {
        let mut filter = self.both()?;
        while self.take(&["|", "or"]) {
            filter = Filter::Or(Box::new(filter), Box::new(self.both()?));
        }
        Ok(filter)
    }

    fn both(&mut self) -> Result<Filter, String> {
        let mut filter = self.one()?;
        while self.take(&["&", "and"]) {
            filter = Filter::And(Box::new(filter), Box::new(self.one()?));
        }
        Ok(filter)
    }

    fn one(&mut self) -> Result<Filter, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("the expression is nested deeper than {DEEPEST} levels"));
        }
        let filter = if self.take(&["!", "not"]) {
            Filter::Not(Box::new(self.one()?))
        } else if self.take(&["("]) {
            let filter = self.either()?;
            if !self.take(&[")"]) {
                return Err(self.unexpected(")"));
            }
            filter
        } else {
            self.predicate()?
        };
        self.depth -= 1;
        Ok(filter)
    }

    fn predicate(&mut self) -> Result<Filter, String> {
        const KNOWN: &str = "role(…), scenario(…), case(…), tag(…), test(…), verdict(…), part(…), all() or none()";
        self.peek();
        let Some((name, rest)) = self.rest().split_once('(') else { return Err(self.unexpected(KNOWN)) };
        let Some((argument, _)) = rest.split_once(')') else { return Err(self.unexpected("a closing )")) };
        let (name, argument, length) = (name.trim(), argument.trim(), name.len() + argument.len() + 2);
        let glob = || Glob(argument.to_owned());
        let filter = match name {
            "all" if argument.is_empty() => Filter::All,
            "none" if argument.is_empty() => Filter::None,
            _ if argument.is_empty() => return Err(format!("{name}() needs a value")),
            "role" => Filter::Role(match argument {
                "target" => Role::Target,
                "control" => Role::Control,
                other => return Err(format!("role({other}) is none, expected target or control")),
            }),
            "scenario" => Filter::Scenario(glob()),
            "case" => Filter::Case(glob()),
            "tag" => Filter::Tag(glob()),
            "test" => Filter::Name(argument.to_owned()),
            "verdict" => {
                let known = VERDICTS.into_iter().find(|verdict| *verdict == argument);
                let none = || format!("verdict({argument}) is none, expected {}", VERDICTS.join(", "));
                Filter::Verdict(known.ok_or_else(none)?)
            }
            "part" => Filter::part(argument)?,
            _ => return Err(self.unexpected(KNOWN)),
        };
        self.at += length;
        Ok(filter)
    }

    fn unexpected(&mut self, expected: &str) -> String {
        self.peek();
        let found: String = self.rest().chars().take(20).collect();
        let found = if found.is_empty() { "the end".to_owned() } else { format!("{found:?}") };
        let column = self.text[..self.at].chars().count() + 1;
        format!("at character {column} is {found}, expected {expected}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn selects(expression: &str, name: [&str; 2], tags: &[&str], verdicts: &[&'static str]) -> bool {
        let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let [scenario, case] = name;
        let test = Test { role: Role::Control, scenario, case, tags: &tags, verdicts };
        Filter::parse(expression).expect(expression).selects(&test)
    }

    #[test]
    fn expressions_select_by_role_name_tag_and_verdict() {
        for (expression, expected) in [
            ("all()", true),
            ("none()", false),
            ("role(control)", true),
            ("role(target)", false),
            ("scenario(facts)", true),
            ("scenario(fact)", false),
            ("scenario(f*s) & case(*an*e)", true),
            ("scenario(*)", true),
            ("case(f*f)", false),
            ("tag(slow)", true),
            ("tag(quick) | tag(slow)", true),
            ("tag(quick) or tag(quicker) and tag(slow)", false),
            ("not tag(quick)", true),
            ("!tag(slow)", false),
            ("!(tag(slow) & role(target))", true),
            ("test(::facts::)", true),
            ("verdict(broken) and verdict(failed)", true),
            ("verdict(fixed)", false),
            ("  role( control )&not(none( ))", true),
        ] {
            assert_eq!(
                selects(expression, ["facts", "france"], &["slow"], &["broken", "failed"]),
                expected,
                "{expression}"
            );
        }
    }

    #[test]
    fn what_is_no_expression_is_told_with_its_place() {
        for (expression, expected) in [
            ("", "at character 1 is the end, expected role(…)"),
            ("role(control) tag(x)", "at character 15 is \"tag(x)\", expected & or |"),
            ("(role(control)", "at character 15 is the end, expected )"),
            ("role(both)", "role(both) is none, expected target or control"),
            ("verdict(bad)", "verdict(bad) is none, expected passed, failed"),
            ("tag()", "tag() needs a value"),
            ("facts", "expected role(…)"),
            ("color(red)", "at character 1 is \"color(red)\", expected role(…)"),
            ("tag(x", "expected a closing )"),
            ("tag(x) &", "at character 9 is the end"),
        ] {
            let message = Filter::parse(expression).expect_err(expression);
            assert!(message.contains(expected), "{expression}: {message}");
        }
        assert!(Filter::parse(&"not ".repeat(100)).is_err_and(|why| why.contains("deeper than 64")));
        assert!(Filter::parse(&"(".repeat(5000)).is_err_and(|why| why.contains("more than 4096")));
    }

    #[test]
    fn names_are_parts_of_a_test_s_name() {
        let filter = Filter::names(&["control::facts".to_owned(), "france".to_owned()]);
        let test = |scenario, case| Test { role: Role::Control, scenario, case, tags: &[], verdicts: &[] };
        assert!(filter.selects(&test("facts", "x")) && filter.selects(&test("capitals", "france")));
        assert!(!filter.selects(&test("capitals", "italy")));
        assert!(Filter::names(&[]).selects(&test("a", "b")));
        assert!(Filter::parse("tag(a) & verdict(failed)").is_ok_and(|filter| filter.needs_verdicts()));
    }

    fn filters() -> impl Strategy<Value = Filter> {
        let name = "[a-z*]{1,4}";
        let leaf = prop_oneof![
            Just(Filter::All),
            Just(Filter::None),
            Just(Filter::Role(Role::Target)),
            name.prop_map(|name| Filter::Scenario(Glob(name))),
            name.prop_map(|name| Filter::Tag(Glob(name))),
            Just(Filter::Verdict("broken")),
            "[a-z:]{1,4}".prop_map(Filter::Name),
        ];
        leaf.prop_recursive(4, 16, 2, |inner| {
            let two = (inner.clone(), inner.clone());
            prop_oneof![
                inner.prop_map(|a| Filter::Not(Box::new(a))),
                two.clone().prop_map(|(a, b)| Filter::And(Box::new(a), Box::new(b))),
                two.prop_map(|(a, b)| Filter::Or(Box::new(a), Box::new(b))),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_filter_is_read_back_from_how_it_is_shown(filter in filters()) {
            prop_assert_eq!(Filter::parse(&filter.to_string()), Ok(filter));
        }

        #[test]
        fn nothing_panics(text in "\\PC{0,40}") {
            let _ = Filter::parse(&text);
        }
    }
}
