//! A scenario file as it is written, and what it resolves to. Everything that is wrong with its cases is reported at once.

mod cases;
mod checks;
mod paraphrases;
mod sampling;
mod turns;
mod words;

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::check::Check;
use super::pattern::Patterns;
use super::{Case, DEFAULT_MAX_TOKENS, Names, Scenario};
use crate::config::{Lines, MOST_TOKENS, relative};
use crate::data::limits::MOST_TEXT_BYTES;
use crate::error::{Error, Result};
use crate::record::{Aggregate, Message, Prompt, Request, Role, Sampling};
use cases::{Cases, row_names};
use checks::{RawCheck, resolve};
use paraphrases::paraphrase_name;
use turns::RawTurn;

/// Problems of a file that are shown; the others are counted.
const SHOWN: usize = 50;
/// Checks that every case of a file shares: each case has a copy.
const MOST_SHARED: usize = 1000;

/// A scenario: one ability, its cases, and their checks. The file's stem is its name: letters a to z, digits, `-` and `_`.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct RawScenario {
    /// `target`: what the fine-tune is for. `control`: an ability of the base that must survive it.
    role: Role,
    /// The ability, in one line.
    description: String,
    /// System message of every case that is given by `prompt`.
    system: Option<String>,
    /// Maximum number of new tokens of an answer; default 64.
    max_tokens: Option<usize>,
    /// Texts that end an answer. It stops before the first of them.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    stop: Vec<Spanned<String>>,
    /// Sampling temperature; default 0, which is greedy decoding.
    #[cfg_attr(test, schemars(with = "Option<f64>"))]
    temperature: Option<Spanned<f64>>,
    /// Sample from the `top_k` most probable tokens. Needs `temperature`.
    #[cfg_attr(test, schemars(with = "Option<usize>"))]
    top_k: Option<Spanned<usize>>,
    /// Sample from the most probable tokens whose probabilities add up to `top_p`. Needs `temperature`.
    #[cfg_attr(test, schemars(with = "Option<f64>"))]
    top_p: Option<Spanned<f64>>,
    /// Seed of the sampling; default 0. Needs `temperature`.
    #[cfg_attr(test, schemars(with = "Option<u32>"))]
    seed: Option<Spanned<u32>>,
    /// Number of samples of each case, each with the next seed; default 1. Needs `temperature`.
    #[cfg_attr(test, schemars(with = "Option<usize>"))]
    repeat: Option<Spanned<usize>>,
    /// Which samples of a case have to pass: `"all"` (default), `"any"`, or `{ rate = 0.8 }`, at least this share. Needs `repeat`.
    #[cfg_attr(test, schemars(with = "Option<Aggregate>"))]
    aggregate: Option<Spanned<Aggregate>>,
    /// Tags of every case, to select tests by: `finetest run -E 'tag(NAME)'`.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    tags: Vec<Spanned<String>>,
    /// Checks of every answer in this file.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Vec<RawCheck>"))]
    checks: Vec<Spanned<RawCheck>>,
    /// The cases; or the path of a JSON Lines or CSV file, from this file. Each row of it becomes a case by the template `case`.
    #[cfg_attr(test, schemars(with = "Option<cases::CasesSchema>"))]
    cases: Option<Spanned<Cases<Spanned<RawCase>>>>,
    /// Template of the cases of a file: `{{column}}` in any text is replaced by the row's text.
    #[cfg_attr(test, schemars(with = "Option<RawCase>"))]
    case: Option<Spanned<serde::de::IgnoredAny>>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct RawCase {
    /// Name of the case: letters a to z, digits, `-` and `_`; default: `case_1`, `case_2`, … by position.
    name: Option<String>,
    /// The user's message. A case has exactly one of `prompt`, `messages` and `text`.
    prompt: Option<String>,
    /// Messages with `role` and `content`, for a longer conversation.
    messages: Option<Vec<Message>>,
    /// Raw text to continue, without a chat template.
    text: Option<String>,
    /// The same question in other words: each becomes a case of its own with the same checks, `NAME-2`, `NAME-3`, …. They are one cluster for
    /// statistics.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    paraphrases: Vec<Spanned<String>>,
    /// Maximum number of new tokens of this answer; default: the file's.
    max_tokens: Option<usize>,
    /// Tags of this case, besides the file's.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    tags: Vec<Spanned<String>>,
    /// Checks of the answer to the first turn, besides the file's.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Vec<RawCheck>"))]
    checks: Vec<Spanned<RawCheck>>,
    /// The user's next turns, each after the answer to the one before.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Vec<RawTurn>"))]
    then: Vec<Spanned<RawTurn>>,
}

/// What a listing needs of a file: patterns and schemas, which take most of the time of reading it, are not compiled.
#[derive(Deserialize)]
struct RawNames {
    role: Role,
    cases: Option<Cases<RawName>>,
    case: Option<RawName>,
}

#[derive(Deserialize)]
struct RawName {
    name: Option<String>,
    #[serde(default)]
    paraphrases: Vec<serde::de::IgnoredAny>,
}

/// The names in a file; `None` when they cannot be had without reading all of it.
pub(super) fn names(path: &Path, text: &str) -> Option<Names> {
    let raw: RawNames = toml::from_str(text).ok()?;
    let scenario = path.file_stem()?.to_string_lossy().into_owned();
    let named = |(position, case): (usize, RawName)| {
        let name = case.name.unwrap_or_else(|| default_name(position));
        let further = (0..case.paraphrases.len()).map(|i| paraphrase_name(&name, i)).collect::<Vec<_>>();
        std::iter::once(name).chain(further)
    };
    let cases = match raw.cases {
        None => Vec::new(),
        Some(Cases::Listed(list)) => list.into_iter().enumerate().flat_map(named).collect(),
        Some(Cases::Rows(file)) => {
            let template = raw.case?;
            row_names(path, &file, template.name.as_deref(), template.paraphrases.len())?
        }
    };
    Some(Names { role: raw.role, scenario, cases })
}

fn default_name(position: usize) -> String {
    format!("case_{}", position + 1)
}

/// What a file's cases are resolved with, and the errors found so far.
struct Reader<'t> {
    path: &'t Path,
    lines: Lines,
    patterns: Patterns,
    system: Option<String>,
    max_tokens: usize,
    stop: Vec<String>,
    tags: Vec<String>,
    sampling: Sampling,
    shared: Vec<Check>,
    has_shared: bool,
    /// The row that the case is made from: its file and line.
    row: Option<(PathBuf, usize)>,
    errors: Vec<Error>,
}

/// The scenario that `text`, the content of `path`, describes.
pub(super) fn parse(path: &Path, root: &Path, text: &str) -> Result<Scenario> {
    let mut raw: RawScenario = toml::from_str(text).map_err(|error| words::explained(path, text, &error))?;
    let max_tokens = raw.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS);
    let mut reader = Reader {
        path,
        lines: Lines::of(text),
        patterns: Patterns::default(),
        system: raw.system.take(),
        max_tokens,
        stop: Vec::new(),
        tags: Vec::new(),
        sampling: Sampling::default(),
        shared: Vec::new(),
        has_shared: !raw.checks.is_empty(),
        row: None,
        errors: Vec::new(),
    };
    let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    if !is_name(&name) {
        let message = format!("the scenario's name is the file's, {name:?}: expected letters a to z, digits, - and _");
        reader.errors.push(Error::input(path, None, message));
    }
    let description = raw.description.trim().to_owned();
    reader.head(&raw, &description);
    if raw.checks.len() > MOST_SHARED {
        let got = raw.checks.len();
        return Err(Error::input(
            path,
            None,
            format!("has {got} checks for every case, expected at most {MOST_SHARED}"),
        ));
    }
    reader.stop = reader.stop(std::mem::take(&mut raw.stop));
    reader.tags = reader.tags(std::mem::take(&mut raw.tags));
    reader.sampling = reader.sampling(&raw);
    let (repeat, aggregate) = reader.repeat(&raw);
    reader.shared = std::mem::take(&mut raw.checks).into_iter().filter_map(|check| reader.check(check)).collect();
    let cases = reader.cases(&mut raw, text);
    if reader.errors.len() > SHOWN {
        let more = reader.errors.split_off(SHOWN).len();
        reader.errors.push(Error::input(path, None, format!("has {more} more problems")));
    }
    Error::collect(reader.errors)?;
    Ok(Scenario { name, path: relative(root, path), role: raw.role, description, repeat, aggregate, cases })
}

impl Reader<'_> {
    /// Checks what is said before the cases.
    fn head(&mut self, raw: &RawScenario, description: &str) {
        if description.is_empty() || description.contains('\n') {
            self.errors.push(Error::input(
                self.path,
                None,
                "description is empty or several lines; name the ability in one line",
            ));
        }
        let listed = match raw.cases.as_ref().map(Spanned::get_ref) {
            Some(Cases::Rows(_)) => return,
            Some(Cases::Listed(list)) => list.as_slice(),
            None => &[],
        };
        if listed.is_empty() {
            self.errors.push(Error::input(
                self.path,
                None,
                "has no cases; add one: [[cases]] with a prompt and checks",
            ));
        } else if self.system.is_some() && listed.iter().all(|case| case.get_ref().prompt.is_none()) {
            self.errors.push(Error::input(
                self.path,
                None,
                "system is said only to cases with `prompt`, and there is none",
            ));
        }
    }

    fn fail(&mut self, at: &Range<usize>, message: impl Into<String>) {
        let line = self.lines.at(at);
        self.errors.push(match &self.row {
            None => Error::input(self.path, line, message),
            Some((rows, row)) => {
                let message = format!("{} (by [case] of {}:{line})", message.into(), self.path.display());
                Error::input(rows, *row, message)
            }
        });
    }

    fn case(&mut self, mut raw: RawCase, default_name: impl FnOnce() -> String, at: &Range<usize>) -> Case {
        let name = raw.name.take().unwrap_or_else(default_name);
        if !is_name(&name) {
            self.fail(at, format!("the case's name is {name:?}, expected letters a to z, digits, - and _"));
        }
        let can_fail =
            self.has_shared || !raw.checks.is_empty() || raw.then.iter().any(|turn| turn.get_ref().has_checks());
        if !can_fail {
            self.fail(
                at,
                format!(
                    "case {name} has no checks, so it could not fail; give it one: checks = [{{ contains = \"…\" }}]"
                ),
            );
        }
        let checks = self.checks(std::mem::take(&mut raw.checks));
        let max_tokens = self.max_tokens(at, &name, raw.max_tokens, &checks);
        let mut tags = self.tags(std::mem::take(&mut raw.tags));
        tags.extend(self.tags.iter().cloned());
        let then = std::mem::take(&mut raw.then);
        let prompt = self.prompt(at, &name, raw);
        let follow_ups = self.follow_ups(at, &name, &prompt, then);
        let (choices, stop, sampling) = (choices(&checks), self.stop.clone(), self.sampling);
        let request = Request { prompt, max_tokens, choices, stop, sampling };
        Case { name, line: self.lines.at(at), tags, family: None, request, checks, follow_ups }
    }

    fn tags(&mut self, tags: Vec<Spanned<String>>) -> Vec<String> {
        for tag in tags.iter().filter(|tag| !is_name(tag.get_ref())) {
            let message = format!("the tag is {:?}, expected letters a to z, digits, - and _", tag.get_ref());
            self.fail(&tag.span(), message);
        }
        tags.into_iter().map(Spanned::into_inner).collect()
    }

    /// The checks of one answer: its own, then the file's.
    fn checks(&mut self, own: Vec<Spanned<RawCheck>>) -> Vec<Check> {
        let mut checks: Vec<Check> = own.into_iter().filter_map(|check| self.check(check)).collect();
        checks.extend_from_slice(&self.shared);
        checks
    }

    fn max_tokens(&mut self, at: &Range<usize>, case: &str, own: Option<usize>, checks: &[Check]) -> usize {
        let only_choices = !checks.is_empty() && checks.iter().all(|check| matches!(check, Check::Choice(_)));
        let tokens = own.unwrap_or(if only_choices { 0 } else { self.max_tokens });
        if only_choices && tokens > 0 {
            self.fail(at, format!("case {case} has max_tokens, but only choices, which generate nothing; take it out"));
        }
        if tokens > MOST_TOKENS {
            self.fail(at, format!("case {case} has max_tokens = {tokens}, expected at most {MOST_TOKENS}"));
        }
        if !only_choices && tokens == 0 {
            self.fail(
                at,
                format!("case {case} has max_tokens = 0 and checks of the answer's text; expected at least 1"),
            );
        }
        tokens
    }

    fn prompt(&mut self, at: &Range<usize>, case: &str, raw: RawCase) -> Prompt {
        let RawCase { prompt, messages, text, .. } = raw;
        let given = [prompt.is_some(), messages.is_some(), text.is_some()].iter().filter(|given| **given).count();
        if given != 1 {
            self.fail(at, format!("case {case} has {given} of prompt, messages and text, expected exactly one"));
            return Prompt::Text(String::new());
        }
        if prompt.iter().chain(&text).any(|text| text.trim().is_empty()) {
            self.fail(at, format!("case {case} asks nothing: its prompt is empty"));
        }
        if let Some(long) = prompt.iter().chain(&text).map(String::len).find(|bytes| *bytes > MOST_TEXT_BYTES) {
            self.fail(at, format!("case {case} asks {long} bytes, expected at most {MOST_TEXT_BYTES}"));
        }
        if let Some(text) = text {
            return Prompt::Text(text);
        }
        let messages = messages.unwrap_or_else(|| {
            let system = self.system.iter().map(|system| Message::new("system", system));
            system.chain(prompt.map(|prompt| Message::new("user", prompt))).collect()
        });
        if let Some(message) = messages.iter().find(|m| !["system", "user", "assistant"].contains(&m.role.as_str())) {
            self.fail(
                at,
                format!("case {case} has a message of role {:?}, expected system, user or assistant", message.role),
            );
        } else if messages.iter().skip(1).any(|m| m.role == "system") {
            self.fail(at, format!("case {case} has a system message after the first one; put it first"));
        } else if messages.last().is_none_or(|m| m.role != "user" || m.content.trim().is_empty()) {
            self.fail(at, format!("case {case} has messages that do not end with what the user says"));
        }
        Prompt::Messages(messages)
    }

    /// A check, or `None` after noting what is wrong with it.
    fn check(&mut self, raw: Spanned<RawCheck>) -> Option<Check> {
        let at = raw.span();
        resolve(raw.into_inner(), self.path, &mut self.patterns).map_err(|message| self.fail(&at, message)).ok()
    }
}

/// Every continuation that these checks choose between, once.
fn choices(checks: &[Check]) -> Vec<String> {
    let mut choices: Vec<String> = Vec::new();
    let mut known: HashSet<&str> = HashSet::new();
    for check in checks {
        let Check::Choice(choice) = check else { continue };
        choices.extend(choice.texts().filter(|text| known.insert(text)).cloned());
    }
    choices
}

/// Whether this can be the name of a scenario, a case or a tag.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const HEAD: &str = "role = \"control\"\ndescription = \"d\"\n";

    fn read(text: &str) -> Result<Scenario> {
        parse(Path::new("p/scenarios/capitals.toml"), Path::new("p"), text)
    }

    pub(crate) fn scenario(text: &str) -> Result<Scenario> {
        read(&format!("{HEAD}{text}"))
    }

    pub(crate) fn cases(text: &str) -> Result<Vec<Case>> {
        scenario(text).map(|scenario| scenario.cases)
    }

    /// The checks of the one case, as a person reads them.
    fn checks(list: &str) -> Result<Vec<String>> {
        let cases = cases(&format!("[[cases]]\nprompt = \"x\"\nchecks = [{list}]"))?;
        Ok(cases[0].checks.iter().map(ToString::to_string).collect())
    }

    #[track_caller]
    pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T>, line: usize, with: &str) {
        let message = result.expect_err("must be refused").to_string();
        let expected = format!("p/scenarios/capitals.toml:{line}: ");
        assert!(message.contains(&expected) && message.contains(with), "{message}");
    }

    #[test]
    fn a_file_is_read_with_its_defaults() {
        let text = r#"
            role = "target"
            description = " capitals "
            system = "Be brief."
            checks = ["no-template-tags"]
            [[cases]]
            prompt = "France?"
            checks = [{ contains = "Paris" }]
            [[cases]]
            name = "raw-1"
            text = "The capital of France is"
            max_tokens = 5
            [[cases]]
            messages = [{ role = "user", content = "a" }, { role = "assistant", content = "b" }, { role = "user", content = "c" }]
        "#;
        let scenario = read(text).expect("a scenario");
        assert_eq!((scenario.name.as_str(), scenario.path.as_str()), ("capitals", "scenarios/capitals.toml"));
        assert_eq!((scenario.role, scenario.description.as_str()), (Role::Target, "capitals"));
        let [first, second, third] = scenario.cases.as_slice() else { panic!("three cases") };
        assert_eq!((first.name.as_str(), second.name.as_str(), third.name.as_str()), ("case_1", "raw-1", "case_3"));
        let messages = vec![Message::new("system", "Be brief."), Message::new("user", "France?")];
        assert_eq!(first.request, Request::greedy(Prompt::Messages(messages), 64));
        assert_eq!(second.request.prompt, Prompt::Text("The capital of France is".into()));
        assert_eq!(second.request.max_tokens, 5);
        assert!(matches!(&third.request.prompt, Prompt::Messages(m) if m.len() == 3));
        let shown: Vec<String> = first.checks.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["contains \"Paris\"", "no-template-tags"]);
        assert_eq!(scenario.test_name(second), "target::capitals::raw-1");
    }

    #[test]
    fn every_check_can_be_written_and_is_shown_as_it_is_written() {
        let written = [
            (r#"{ exact = "a" }"#, r#"exact "a""#),
            (r#"{ not-exact = "" }"#, r#"not-exact """#),
            (r#"{ contains = "a" }"#, r#"contains "a""#),
            (r#"{ not-contains = "a" }"#, r#"not-contains "a""#),
            (r#"{ icontains = "a" }"#, r#"icontains "a""#),
            (r#"{ not-icontains = "a" }"#, r#"not-icontains "a""#),
            (r"{ regex = '^\d+$' }", r"regex '^\d+$'"),
            (r"{ not-regex = '^\s*[\[{]' }", r"not-regex '^\s*[\[{]'"),
            (r#""json""#, "json"),
            (r#""not-json""#, "not-json"),
            (r#"{ json-fields = { tool = "gcc", line = 3 } }"#, r#"json-fields line = 3, tool = "gcc""#),
            (r#"{ json-null = ["code"] }"#, "json-null code"),
            (r#"{ json-schema = { type = "object" } }"#, r#"json-schema {"type":"object"}"#),
            (r#"{ choice = { answer = " a", others = [" b", " c"] } }"#, r#"choice " a" over " b", " c""#),
            ("{ max-length = 9 }", "max-length 9"),
            ("{ min-length = 9 }", "min-length 9"),
            ("{ max-words = 9 }", "max-words 9"),
            ("{ min-words = 9 }", "min-words 9"),
            (r#"{ starts-with = "Dear" }"#, r#"starts-with "Dear""#),
            (r#"{ not-starts-with = "Dear" }"#, r#"not-starts-with "Dear""#),
            (r#"{ ends-with = "." }"#, r#"ends-with ".""#),
            (r#"{ not-ends-with = "." }"#, r#"not-ends-with ".""#),
            (r#"{ count = { of = "sentences", min = 1, max = 2 } }"#, "count sentences min 1 max 2"),
            (r#"{ count = { of = "items", exactly = 3 } }"#, "count items exactly 3"),
            (r#"{ casing = "upper" }"#, "casing upper"),
            (r#"{ language = "german" }"#, "language German"),
            (r#""refusal""#, "refusal"),
            (r#""not-refusal""#, "not-refusal"),
            (r#""coherent""#, "coherent"),
            (r#""no-repetition""#, "no-repetition"),
            (r#"{ script = "Latin" }"#, "script Latin"),
            (r#""no-template-tags""#, "no-template-tags"),
        ];
        for (toml, shown) in written {
            assert_eq!(checks(toml).expect(toml), [shown]);
        }
        let all: Vec<&str> = written.iter().map(|(toml, _)| *toml).collect();
        assert_eq!(checks(&all.join(", ")).expect("all at once").len(), written.len());
    }

    #[test]
    fn a_case_of_choices_alone_generates_nothing() {
        let choice = |answer: &str| format!("{{ choice = {{ answer = \"{answer}\", others = [\"b\", \"c\"] }} }}");
        let two = format!("[[cases]]\ntext = \"x\"\nchecks = [{}, {}]", choice("a"), choice("d"));
        let found = cases(&two).expect("a case");
        assert_eq!(found[0].request.max_tokens, 0);
        assert_eq!(found[0].request.choices, ["a", "b", "c", "d"]);
        let mixed = cases(&format!("checks = [\"no-repetition\"]\n{two}")).expect("a case");
        assert_eq!(mixed[0].request.max_tokens, 64);
        refused(cases(&format!("{two}\nmax_tokens = 9")), 3, "take it out");
    }

    #[test]
    fn unknown_keys_and_checks_are_refused_with_line_and_suggestion() {
        refused(cases("[[cases]]\nprmpt = \"x\""), 4, "did you mean `prompt`?");
        refused(cases("checks = [\n\"no-repetitions\"]"), 4, "did you mean `no-repetition`?");
        refused(cases("[[cases]]\nprompt = \"x\"\nchecks = [\n{ containes = \"x\" }]"), 6, "did you mean `contains`?");
        refused(cases("temprature = 1"), 3, "did you mean `temperature`?");
        refused(checks("{ choice = { answer = \"a\", other = [\"b\"] } }"), 5, "did you mean `others`?");
        refused(read("role = \"controll\"\ndescription = \"d\""), 1, "did you mean `control`?");
        let missing = read("role = \"control\"").expect_err("no description").to_string();
        assert!(missing.contains("missing field `description`"), "{missing}");
    }

    #[test]
    fn a_check_in_the_wrong_form_is_explained() {
        for list in ["\"contains\"", "{ json = true }", "{ contains = \"a\", exact = \"b\" }", "{ contains = 3 }", "3"]
        {
            let message = checks(list).expect_err(list).to_string();
            assert!(message.contains("capitals.toml:5: "), "{list}: {message}");
        }
        refused(checks("{ contains = \"a\", exact = \"b\" }"), 5, "two checks are two of them");
    }

    #[test]
    fn checks_that_cannot_work_are_refused() {
        refused(checks("\n{ regex = '(' }"), 6, "unclosed group");
        refused(checks(r"{ regex = '\w{1000}{1000}' }"), 5, "compiles to more than 10 MiB");
        checks(r"{ regex = '^\w{1,30}$' }").expect("an ordinary pattern");
        refused(checks("{ contains = \"\" }"), 5, "contains is empty");
        refused(checks("{ min-words = 0 }"), 5, "min-words is 0");
        refused(checks("{ max-length = -1 }"), 5, "max-length is -1, expected a whole number of at least 0");
        refused(cases("max_tokens = \"9\""), 3, "max_tokens is the text \"9\", expected a whole number");
        refused(checks("{ json-fields = {} }"), 5, "names no field");
        refused(checks("{ json-fields = { a = 2024-01-01 } }"), 5, "a is 2024-01-01, which JSON cannot say");
        refused(checks("{ json-schema = { type = \"objekt\" } }"), 5, "not a JSON schema");
        refused(checks("{ json-schema = 3 }"), 5, "expected a schema");
        refused(checks("{ json-schema = \"gone.json\" }"), 5, "p/scenarios/gone.json: cannot read");
        refused(checks("{ choice = { answer = \"a\", others = [] } }"), 5, "no others");
        refused(checks("{ choice = { answer = \"a\", others = [\"a\"] } }"), 5, "twice");
        refused(checks("{ script = \"latin\" }"), 5, "did you mean \"Latin\"?");
    }

    #[test]
    fn a_case_must_ask_one_thing_and_be_able_to_fail() {
        refused(cases("[[cases]]\nprompt = \"x\""), 3, "has no checks");
        refused(cases("checks = [\"json\"]\n\n[[cases]]"), 5, "has 0 of prompt, messages and text");
        refused(cases("checks = [\"json\"]\n[[cases]]\nprompt = \"x\"\ntext = \"y\""), 4, "has 2 of prompt");
        refused(cases("checks = [\"json\"]\n[[cases]]\nprompt = \" \""), 4, "asks nothing");
        refused(cases("checks = [\"json\"]\n[[cases]]\nprompt = \"x\"\nmax_tokens = 0"), 4, "expected at least 1");
        for messages in ["", "{ role = \"user\", content = \"a\" }, { role = \"assistant\", content = \"b\" }"] {
            let text = format!("checks = [\"json\"]\n[[cases]]\nmessages = [{messages}]");
            refused(cases(&text), 4, "do not end with what the user says");
        }
        let tool = "checks = [\"json\"]\n[[cases]]\nmessages = [{ role = \"tool\", content = \"a\" }]";
        refused(cases(tool), 4, "role \"tool\", expected system, user or assistant");
    }

    #[test]
    fn names_are_plain_and_unique() {
        let two = |a: &str, b: &str| {
            cases(&format!("checks = [\"json\"]\n[[cases]]\n{a}prompt = \"x\"\n[[cases]]\n{b}prompt = \"y\""))
        };
        refused(two("name = \"a\"\n", "name = \"a\"\n"), 7, "two cases are named \"a\"");
        refused(two("name = \"case_2\"\n", ""), 7, "two cases are named \"case_2\"");
        refused(two("name = \"A b\"\n", ""), 4, "the case's name is \"A b\"");
        let file = parse(
            Path::new("Bad Name.toml"),
            Path::new("."),
            &format!("{HEAD}checks = [\"json\"]\n[[cases]]\nprompt = \"x\""),
        );
        assert!(file.expect_err("a bad name").to_string().contains("expected letters a to z"));
    }

    #[test]
    fn everything_wrong_with_a_file_is_said_at_once() {
        let text = "system = \"s\"\n[[cases]]\ntext = \"x\"\nchecks = [{ regex = '(' }, { min-words = 0 }]\n[[cases]]\ntext = \"y\"";
        let message = cases(text).expect_err("four problems").to_string();
        assert!(message.starts_with("4 problems"), "{message}");
        assert!(!message.contains("case case_1 has no checks"), "{message}");
        let empty = read("role = \"control\"\ndescription = \"\"").expect_err("two problems").to_string();
        assert!(empty.contains("has no cases") && empty.contains("description is empty"), "{empty}");
    }
}
