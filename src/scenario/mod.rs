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
//! temperature = 0.7                   # optional, default 0: the most likely token; above it top_k, top_p and seed may be given
//! repeat = 5                          # optional, with a temperature: each case is asked with so many seeds, from seed on
//! aggregate = { rate = 0.8 }          # optional, with repeat: "all" samples have to pass (the default), "any", or a share of them
//! checks = ["no-template-tags"]       # optional, of every case
//! tags = ["facts"]                    # optional: `finetest run -E 'tag(facts)'` selects by them; a case may have its own
//!
//! [[cases]]
//! name = "france"                     # optional, default case_1, case_2, … by position
//! prompt = "What is the capital of France?"   # one user message; or `messages`, or `text` without a template
//! checks = [{ contains = "Paris" }, { max-length = 200 }]
//! then = [{ prompt = "And of Italy?", checks = [{ contains = "Rome" }] }]   # optional: the user's next turns, each after the answer
//! ```
//!
//! The cases may be the rows of a file, JSON Lines or CSV. `[case]` then says how a row becomes a case: in each of its texts,
//! `{{column}}` is replaced by the row's text.
//!
//! ```toml
//! role = "target"
//! description = "capitals, out of a table"
//! cases = "capitals.csv"              # or .jsonl; the path starts at this file
//!
//! [case]
//! name = "{{id}}"                     # optional, default line_2, line_3, … by the row's line
//! prompt = "What is the capital of {{country}}?"
//! checks = [{ contains = "{{capital}}" }]
//! ```
//!
//! A CSV file names its columns in line 1. Fields are separated by commas, semicolons or tabs, whichever that line has most of. In
//! `json-fields`, a text that is one `{{column}}` alone keeps the row's type: a number of a JSON Lines file is compared as a number.
//! Errors name the row's file and line. A case's own place is the line of `cases =`.
//!
//! The checks of a case judge the answer to its prompt, those of a turn the answer to that turn, and the file's every answer. A case
//! passes when all of them hold.
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
//! | `{ starts-with = "s" }`, `{ ends-with = "s" }`, `not-…` | it begins, ends with `s`, or does not |
//! | `{ count = { of = "sentences", min = 2, max = 3 } }` | it has so many words, sentences, lines, paragraphs or items; or `exactly` |
//! | `{ casing = "lower" }`, `"upper"` | every letter that has a case is of this one |
//! | `{ language = "German" }` | it is in this language |
//! | `"refusal"`, `"not-refusal"` | it declines to help, or does not; not evaluated when it is not coherent |
//! | `"coherent"` | it says something, does not repeat itself, and no tag leaked |
//! | `"no-repetition"` | nothing is said over and over: see [`Check::NoRepetition`] |
//! | `{ script = "Latin" }` | at least 90 % of its letters, and at least one, belong to this Unicode script |
//! | `"no-template-tags"` | no tag of a chat template leaked into it |

mod check;
mod count;
mod directory;
mod file;
pub(crate) mod fill;
mod filter;
pub(crate) mod habits;
mod json;
#[cfg(feature = "candle")]
pub(crate) mod packs;
mod pattern;
pub(crate) mod rows;
mod schema;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

pub use crate::record::{Choice, Normalize};
pub use crate::text::{Language, Writing};
pub use check::{Casing, Check, Matcher};
pub use count::{Count, Counted};
#[cfg(all(test, feature = "candle"))]
pub(crate) use file::RawScenario as ScenarioSchema;
#[cfg(feature = "candle")]
pub(crate) use file::is_name;
#[cfg(feature = "candle")]
pub(crate) use filter::{Filter, Test};
pub use json::Schema;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::files::read_regular_text;
use crate::record::{Aggregate, Completion, Finish, Message, Prompt, Request, Role, Verdict};
use check::Outcome;

/// Most new tokens of an answer, unless the scenario says otherwise.
pub const DEFAULT_MAX_TOKENS: usize = 64;

/// How the description of a scenario begins that is still to be written.
const PLACEHOLDER: &str = "TODO";

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
    /// How often each case is asked, each time with the next seed; at least 1.
    pub repeat: usize,
    /// What the samples of a case come to together.
    pub aggregate: Aggregate,
    /// At least one, in the file's order.
    pub cases: Vec<Case>,
}

/// One question, and what its answer must hold.
#[derive(Clone, Debug)]
pub struct Case {
    /// Unique in the scenario: letters `a` to `z`, digits, `-` and `_`.
    pub name: String,
    /// Its line in the scenario's file; for a case out of a file of rows, the line that names that file.
    pub line: usize,
    /// What it can be selected by: its own tags, then the file's. Letters `a` to `z`, digits, `-` and `_`.
    pub tags: Vec<String>,
    /// The question that it asks in other words, by the first case's name: cases of one family are one cluster for statistics. `None` for a
    /// question that is asked once.
    pub family: Option<String>,
    /// What is asked first. `max_tokens` is 0 when every check is a [`Check::Choice`].
    pub request: Request,
    /// Of the first answer: the case's own, then the file's. A case has at least one, here or in a turn.
    pub checks: Vec<Check>,
    /// What the user says next, each after the answer to what was said before.
    pub follow_ups: Vec<FollowUp>,
}

/// A further turn of the user.
#[derive(Clone, Debug)]
pub struct FollowUp {
    /// What the user says.
    pub message: String,
    /// Most new tokens of the answer to it.
    pub max_tokens: usize,
    /// Continuations whose log-likelihood is wanted.
    pub choices: Vec<String>,
    /// Of the answer to it: the turn's own, then the file's.
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

    /// What a person should know where its cases mean nothing yet: `finetest init` writes such a scenario where it has no data.
    #[must_use]
    pub fn placeholder(&self) -> Option<String> {
        let path = &self.path;
        self.description.starts_with(PLACEHOLDER).then(|| {
            format!("{path} is a placeholder, which proves nothing: its description says {PLACEHOLDER}; write cases of your own")
        })
    }

    /// `control::arithmetic::case_2`: the name of a case's test.
    #[must_use]
    pub fn test_name(&self, case: &Case) -> String {
        format!("{}::{}::{}", self.role, self.name, case.name)
    }
}

impl Case {
    /// Turns of the user.
    #[must_use]
    pub fn turns(&self) -> usize {
        1 + self.follow_ups.len()
    }

    /// What a sample asks after these answers: the first turn when there are none. Sample n has the case's seed plus n.
    #[must_use]
    pub fn turn(&self, answers: &[Completion], sample: usize) -> Cow<'_, Request> {
        if answers.is_empty() && sample == 0 {
            return Cow::Borrowed(&self.request);
        }
        let mut request = self.request.clone();
        request.sampling.seed = request.sampling.seed.wrapping_add(sample as u64);
        if let Prompt::Messages(messages) = &mut request.prompt {
            for (answer, next) in answers.iter().zip(&self.follow_ups) {
                messages.push(Message::new("assistant", answer.text.as_str()));
                messages.push(Message::new("user", next.message.as_str()));
                (request.max_tokens, request.choices) = (next.max_tokens, next.choices.clone());
            }
        }
        Cow::Owned(request)
    }

    /// What a turn asks, the first being 0, behind empty answers, with room for the longest ones in `max_tokens`: if this fits a context, so
    /// does the turn.
    pub(crate) fn longest_turn(&self, turn: usize) -> Cow<'_, Request> {
        if turn == 0 {
            return Cow::Borrowed(&self.request);
        }
        let empty = Completion {
            text: String::new(),
            tokens: Vec::new(),
            finish: Finish::Stop,
            prompt_tokens: 0,
            choices: Vec::new(),
            near_ties: 0,
        };
        let mut request = self.turn(&vec![empty; turn], 0).into_owned();
        let earlier = self.follow_ups.iter().take(turn - 1).map(|before| before.max_tokens);
        request.max_tokens += self.request.max_tokens + earlier.sum::<usize>();
        Cow::Owned(request)
    }

    /// Judges the answers to all turns, in their order: as [`Self::judge`] does each, failures of later ones behind `turn 2: `.
    #[must_use]
    pub fn judge_turns(&self, answers: &[Completion]) -> (Verdict, Vec<String>) {
        if self.follow_ups.is_empty() {
            return answers.first().map_or((Verdict::NotEvaluated, Vec::new()), |answer| self.judge(answer));
        }
        let checks = std::iter::once(&self.checks).chain(self.follow_ups.iter().map(|turn| &turn.checks));
        let (mut verdicts, mut failures) = (Vec::new(), Vec::new());
        for (turn, (checks, answer)) in checks.zip(answers).enumerate().filter(|(_, (checks, _))| !checks.is_empty()) {
            let (verdict, of_turn) = judge(checks, answer);
            verdicts.push(verdict);
            failures.extend(of_turn.into_iter().map(|failure| format!("turn {}: {failure}", turn + 1)));
        }
        let verdict =
            if answers.len() < self.turns() { Verdict::NotEvaluated } else { Aggregate::All.verdict(verdicts) };
        (verdict, failures)
    }

    /// Judges the answer to the first turn: passed when every check holds, and for each that does not, what was expected and what was
    /// found.
    ///
    /// Not evaluated when no check fails but one of them has nothing to judge: no text was generated, or a choice was not
    /// scored. An answer that was cut at the token limit is judged as it is, and its failures say so.
    #[must_use]
    pub fn judge(&self, completion: &Completion) -> (Verdict, Vec<String>) {
        judge(&self.checks, completion)
    }

    /// What each choice among the checks of its first turn chooses between.
    #[must_use]
    pub fn choices(&self) -> Vec<Choice> {
        let choice = |check: &Check| match check {
            Check::Choice(choice) => Some(choice.clone()),
            _ => None,
        };
        self.checks.iter().filter_map(choice).collect()
    }

    /// Its checks, as a person reads them: those of later turns behind `turn 2: `.
    #[must_use]
    pub fn checks_shown(&self) -> Vec<String> {
        let mut shown: Vec<String> = self.checks.iter().map(ToString::to_string).collect();
        for (turn, follow_up) in self.follow_ups.iter().enumerate() {
            shown.extend(follow_up.checks.iter().map(|check| format!("turn {}: {check}", turn + 2)));
        }
        shown
    }
}

fn judge(checks: &[Check], completion: &Completion) -> (Verdict, Vec<String>) {
    let mut verdict = if checks.is_empty() { Verdict::NotEvaluated } else { Verdict::Passed };
    let cut = match completion.finish {
        Finish::Length => format!(" (answer was cut at {} tokens)", completion.tokens.len()),
        Finish::Stop | Finish::Scored => String::new(),
    };
    let mut failures = Vec::new();
    for check in checks {
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

/// The scenario that `text` is, once it is the file `path`.
///
/// # Errors
/// As [`Scenario::load`].
pub(crate) fn check_text(path: &Path, root: &Path, text: &str) -> Result<Scenario> {
    file::parse(path, root, text)
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
pub(crate) mod tests {
    use super::*;

    /// An answer that the model ended.
    pub(crate) fn completion(text: &str) -> Completion {
        Completion {
            text: text.into(),
            tokens: vec![1],
            finish: Finish::Stop,
            prompt_tokens: 1,
            choices: Vec::new(),
            near_ties: 0,
        }
    }

    #[test]
    fn every_turn_is_judged_and_one_that_is_missing_is_no_pass() {
        let text = "role = \"control\"\ndescription = \"d\"\n[[cases]]\nprompt = \"x\"\n\
                    then = [{ prompt = \"y\", checks = [\"json\"] }, { prompt = \"z\", checks = [{ contains = \"a\" }] }]\n";
        let (_dir, config) = project(&[("scenarios/a.toml", text)]);
        let case = load_all(&config).expect("a scenario").remove(0).cases.remove(0);
        assert_eq!((case.turns(), case.line), (3, 3));
        let judge = |texts: &[&str]| case.judge_turns(&texts.iter().map(|text| completion(text)).collect::<Vec<_>>());
        assert_eq!(judge(&["anything", "{}", "a"]), (Verdict::Passed, Vec::new()));
        let (verdict, failures) = judge(&["anything", "no", "b"]);
        assert_eq!(verdict, Verdict::Failed);
        assert!(
            failures[0].starts_with("turn 2: json: ") && failures[1].starts_with("turn 3: contains"),
            "{failures:?}"
        );
        assert_eq!(judge(&["anything", "{}"]).0, Verdict::NotEvaluated);
        assert_eq!(case.checks_shown(), ["turn 2: json", "turn 3: contains \"a\""]);
    }

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
        assert_eq!(scenario.cases[0].judge(&completion("[]")), (Verdict::Passed, Vec::new()));
        let (verdict, failures) = scenario.cases[0].judge(&completion("{}"));
        assert_eq!(verdict, Verdict::Failed);
        assert!(failures[0].starts_with("json-schema schema.json: "), "{failures:?}");
    }
}
