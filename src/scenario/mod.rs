//! Scenarios: one ability in one file, its cases, and the checks that each answer must hold.
//!
//! A file is TOML, and its stem is the scenario's name. Unknown keys and unknown checks are errors.
//!
//! ```toml
//! role = "control"                    # or "target"
//! description = "capitals of well-known countries"
//! system = "Answer briefly."          # optional, for every case given by `prompt`
//! max_tokens = 48                     # optional, default 64
//! stop = ["\n\n"]                     # optional: an answer ends before the first of these
//! temperature = 0.7                   # optional, default 0: the likeliest token; above it top_k, top_p and seed may be given
//! checks = ["no-template-tags"]       # optional, of every case
//!
//! [[cases]]
//! name = "france"                     # optional, default case_1, case_2, … by position
//! prompt = "What is the capital of France?"   # one user message; or `messages`, or `text` without a template
//! checks = [{ contains = "Paris" }, { max-length = 200 }]
//! ```
//!
//! | check | holds when |
//! |---|---|
//! | `{ exact = "s" }` | the answer is `s`, white space around both aside |
//! | `{ contains = "s" }`, `{ icontains = "s" }` | `s` is in the answer; `icontains` whatever the case of letters |
//! | `{ regex = 'r' }` | `r` matches somewhere in the answer (`^` and `$` anchor) |
//! | `{ not-exact = … }`, `not-contains`, `not-icontains`, `not-regex` | the above does not hold |
//! | `"json"`, `"not-json"` | the whole answer is, or is not, one JSON value |
//! | `{ json-fields = { line = 3, code = "E1" } }` | it is a JSON object whose fields have these values; others may be there |
//! | `{ json-null = ["code"] }` | it is a JSON object in which these fields are there and `null` |
//! | `{ json-schema = { … } }`, `{ json-schema = "file.json" }` | it is JSON that fits the schema; a path starts at the scenario's file |
//! | `{ choice = { answer = " Paris", others = [" London"] } }` | `answer` is likelier than every other; a tie fails |
//! | `{ max-length = n }`, `{ min-length = n }` | it has at most, at least `n` characters |
//! | `{ max-words = n }`, `{ min-words = n }` | it has at most, at least `n` words |
//! | `"no-repetition"` | nothing is said over and over: see [`Check::NoRepetition`] |
//! | `{ script = "Latin" }` | at least 90 % of its letters, and at least one, belong to this Unicode script |
//! | `"no-template-tags"` | no tag of a chat template leaked into it |

mod check;
mod directory;
mod file;
mod json;
mod pattern;
mod repetition;
mod schema;
mod script;
mod tags;

use std::path::{Path, PathBuf};

use rayon::prelude::*;

pub use check::{Check, Choice, Matcher, Normalize};
pub use json::Schema;
pub use script::Writing;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::files::read_regular_text;
use crate::record::{Completion, Finish, Request, Role, Verdict};
use check::Outcome;

/// Most new tokens of an answer, unless the scenario says otherwise.
pub const DEFAULT_MAX_TOKENS: usize = 64;

/// Bytes of a scenario file.
const MOST_FILE_BYTES: u64 = 64 << 20;

/// One ability: a file of cases.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The file's stem: letters `a` to `z`, digits, `-` and `_`.
    pub name: String,
    /// The file, relative to the project's root, with `/`.
    pub path: String,
    /// Target or control.
    pub role: Role,
    /// The ability in a line.
    pub description: String,
    /// At least one, in the file's order.
    pub cases: Vec<Case>,
}

/// One question, and what its answer must hold.
#[derive(Clone, Debug)]
pub struct Case {
    /// Unique in the scenario: letters `a` to `z`, digits, `-` and `_`.
    pub name: String,
    /// What is asked. `max_tokens` is 0 when every check is a [`Check::Choice`].
    pub request: Request,
    /// At least one: the case's own, then the file's.
    pub checks: Vec<Check>,
}

impl Scenario {
    /// Reads a scenario file; its path is recorded relative to `root`. No model is needed.
    ///
    /// # Errors
    /// A file that cannot be read, or holds something that cannot be used: every such thing, with file and line.
    pub fn load(path: impl AsRef<Path>, root: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = read_regular_text(path, MOST_FILE_BYTES)?;
        file::parse(path, root.as_ref(), &text)
    }

    /// `control::arithmetic::case_2`: the name of a case's test.
    #[must_use]
    pub fn test_name(&self, case: &Case) -> String {
        format!("{}::{}::{}", self.role, self.name, case.name)
    }
}

impl Case {
    /// Judges an answer: passed when every check holds, and for each that does not, what was expected and what was found.
    ///
    /// Not evaluated when no check fails but one of them has nothing to judge: no text was generated, or a choice was not
    /// scored. An answer that was cut at the token limit is judged as it is, and its failures say so.
    #[must_use]
    pub fn judge(&self, completion: &Completion) -> (Verdict, Vec<String>) {
        let mut verdict = if self.checks.is_empty() { Verdict::NotEvaluated } else { Verdict::Passed };
        let cut = match completion.finish {
            Finish::Length => format!(" (answer was cut at {} tokens)", completion.tokens.len()),
            Finish::Stop | Finish::Scored => String::new(),
        };
        let mut failures = Vec::new();
        for check in &self.checks {
            match check.judge(completion) {
                Outcome::Holds => {}
                Outcome::Fails(found) => {
                    verdict = Verdict::Failed;
                    failures.push(format!("{check}: {found}{cut}"));
                }
                Outcome::Unanswered(why) => {
                    verdict = if verdict == Verdict::Failed { verdict } else { Verdict::NotEvaluated };
                    failures.push(format!("{check}: not evaluated, {why}"));
                }
            }
        }
        (verdict, failures)
    }
}

/// A scenario's name and its cases', as a listing shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) role: Role,
    pub(crate) scenario: String,
    pub(crate) cases: Vec<String>,
}

impl From<&Scenario> for Names {
    fn from(scenario: &Scenario) -> Self {
        let cases = scenario.cases.iter().map(|case| case.name.clone()).collect();
        Self { role: scenario.role, scenario: scenario.name.clone(), cases }
    }
}

/// The names of [`load_all`]'s scenarios, in its order, without compiling a check: whether all checks can be used is not seen.
/// `None` when a file cannot be read so; [`load_all`] says why.
pub(crate) fn names(config: &Config) -> Option<Vec<Names>> {
    let files = directory::read(&config.run.scenarios).ok()?.files;
    if files.is_empty() {
        return None;
    }
    let read = |path: &PathBuf| file::names(path, &read_regular_text(path, MOST_FILE_BYTES).ok()?);
    let mut names = files.par_iter().map(read).collect::<Option<Vec<_>>>()?;
    names.sort_by(|a, b| (a.role, &a.scenario).cmp(&(b.role, &b.scenario)));
    Some(names)
}

/// Reads every scenario of a project: all `*.toml` files in its directory of scenarios, targets first, then by name.
///
/// # Errors
/// No directory, or no scenario in it ([`Error::NothingRan`]); else every bad file, all together.
pub fn load_all(config: &Config) -> Result<Vec<Scenario>> {
    let directory = &config.run.scenarios;
    let files = directory::read(directory)?.files;
    if files.is_empty() {
        let directory = directory.display();
        return Err(Error::NothingRan(format!("no scenario in {directory}; put one in {directory}/NAME.toml")));
    }
    let mut scenarios = Vec::new();
    let mut errors = Vec::new();
    let loaded: Vec<_> = files.par_iter().map(|path| Scenario::load(path, &config.root)).collect();
    for scenario in loaded {
        match scenario {
            Ok(scenario) => scenarios.push(scenario),
            Err(Error::Many(several)) => errors.extend(several),
            Err(error) => errors.push(error),
        }
    }
    Error::collect(errors)?;
    scenarios.sort_by(|a, b| (a.role, &a.name).cmp(&(b.role, &b.name)));
    Ok(scenarios)
}

/// What is in the directory of scenarios and is not read, in a line, when a person could take it for a scenario.
pub(crate) fn passed_over(config: &Config) -> Option<String> {
    let directory = &config.run.scenarios;
    directory::read(directory).ok()?.note(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(files: &[(&str, &str)]) -> (tempfile::TempDir, Config) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("finetest.toml"), "[model]\nsource = \"m\"").expect("a file");
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            std::fs::write(path, text).expect("a file");
        }
        let config = Config::load(dir.path().join("finetest.toml")).expect("a manifest");
        (dir, config)
    }

    fn scenario(role: &str) -> String {
        format!("role = \"{role}\"\ndescription = \"d\"\nchecks = [\"json\"]\n[[cases]]\nprompt = \"x\"\n")
    }

    #[test]
    fn targets_come_first_then_names() {
        let (target, control) = (scenario("target"), scenario("control"));
        let files = [
            ("scenarios/a.toml", control.as_str()),
            ("scenarios/z.toml", target.as_str()),
            ("scenarios/b.toml", target.as_str()),
            ("scenarios/.b.toml", "an editor's"),
            ("scenarios/schema.json", "{}"),
        ];
        let (_dir, config) = project(&files);
        let found = load_all(&config).expect("scenarios");
        let names: Vec<&str> = found.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["b", "z", "a"]);
        assert_eq!(super::names(&config), Some(found.iter().map(Names::from).collect()));
        assert_eq!(found[0].path, "scenarios/b.toml");
    }

    #[test]
    fn all_bad_files_are_reported_together() {
        let bad = scenario("control").replace("\"json\"", "{ regex = '(' }, { max-words = 0 }");
        let files = [("scenarios/a.toml", bad.as_str()), ("scenarios/b.toml", "role = 3"), ("scenarios/c.toml", "x")];
        let (_dir, config) = project(&files);
        let message = load_all(&config).expect_err("four problems").to_string();
        assert!(message.starts_with("4 problems"), "{message}");
        assert!(
            message.contains("a.toml:3: ") && message.contains("b.toml:1: ") && message.contains("c.toml:1: "),
            "{message}"
        );
    }

    #[test]
    fn no_scenario_is_never_a_pass() {
        let (_dir, config) = project(&[]);
        let error = load_all(&config).expect_err("no directory");
        assert!(error.to_string().contains("does not exist"), "{error}");
        assert_eq!(error.exit_code(), crate::error::exit::NOTHING_RAN);
        let (_dir, config) = project(&[("scenarios/notes.txt", "")]);
        let error = load_all(&config).expect_err("no scenario");
        assert_eq!(error.exit_code(), crate::error::exit::NOTHING_RAN);
    }

    #[test]
    fn a_schema_is_read_from_beside_the_scenario() {
        let text = scenario("target").replace("\"json\"", "{ json-schema = \"schema.json\" }");
        let (_dir, config) =
            project(&[("scenarios/a.toml", &text), ("scenarios/schema.json", "{\"type\": \"array\"}")]);
        let scenario = load_all(&config).expect("a scenario").remove(0);
        let completion = |text: &str| Completion {
            text: text.into(),
            tokens: vec![1],
            finish: Finish::Stop,
            prompt_tokens: 1,
            choices: Vec::new(),
            near_ties: 0,
        };
        assert_eq!(scenario.cases[0].judge(&completion("[]")), (Verdict::Passed, Vec::new()));
        let (verdict, failures) = scenario.cases[0].judge(&completion("{}"));
        assert_eq!(verdict, Verdict::Failed);
        assert!(failures[0].starts_with("json-schema schema.json: "), "{failures:?}");
    }
}
