//! Approved answers: one snapshot a scenario, written and compared through insta and through nothing else.
//!
//! Under a test harness [`assert_scenario`] leaves everything to insta, so that `cargo insta review`, `accept` and
//! `--unreferenced=reject` work. An installed binary, with no cargo workspace around it, compares files with [`compare_files`].

mod approved;

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Once};

use regex::Regex;
use serde::Serialize;

pub use approved::approved;

use crate::compare::{Change, DiffLine, Span, line_diff, word_diff};
use crate::error::{Error, Result, panic_message};
use crate::files::read_regular_text;
use crate::record::{Answer, CaseRecord, Completion, RunRecord, Sampling, ScenarioRecord, Verdict};
use crate::shown::visible;

/// Bytes of a snapshot.
const MOST_BYTES: u64 = 256 << 20;
/// Changed lines that a message shows.
const MESSAGE_LINES: usize = 40;

/// Renders a scenario's answers as they are approved: readable in a pull request, and stable.
///
/// A case is its name, the first line of what it asks, and both arms' verdicts and answers, each line of an answer behind
/// `  | `. Tuned's answer is `= base` when it is base's; when the two have much in common, the difference is woven into one text
/// with `[-removed-]` and `{+added+}`. There are no scores, times or fingerprints, and no invisible characters, and a changed
/// answer changes the lines of its own case only.
#[must_use]
pub fn render(scenario: &ScenarioRecord, base: &str, tuned: &str) -> String {
    let mut body = format!("# {}::{}\n", scenario.role, line(&scenario.name));
    if !scenario.description.trim().is_empty() {
        body.push_str(&format!("{}\n", line(&scenario.description)));
    }
    for case in &scenario.cases {
        render_case(&mut body, case, base, tuned);
    }
    body
}

fn render_case(body: &mut String, case: &CaseRecord, base: &str, tuned: &str) {
    body.push_str(&format!("\n## {}\n", line(&case.name)));
    let asked = case.prompt.headline().lines().find(|l| !l.trim().is_empty()).unwrap_or("");
    body.push_str(&format!("> {}\n", line(asked)));
    let (before, after) = (case.text(base), case.text(tuned));
    let same = before.is_some() && before == after && !is_scored(case, base) && !is_scored(case, tuned);
    render_answer(body, case.answers.get(base), base, None);
    render_answer(body, case.answers.get(tuned), tuned, same.then_some(base));
    let (Some(before), Some(after)) = (before, after) else { return };
    if before == after {
        return;
    }
    let diff = word_diff(before, after);
    if diff.is_readable() {
        body.push_str("diff\n");
        for spans in diff.lines() {
            quote(body, &woven(&spans));
        }
    }
}

fn is_scored(case: &CaseRecord, arm: &str) -> bool {
    case.answers.get(arm).and_then(|a| a.completion.as_ref()).is_some_and(only_scored)
}

/// Whether nothing was to be generated: there is no text to show.
fn only_scored(completion: &Completion) -> bool {
    completion.text.is_empty() && !completion.choices.is_empty()
}

fn render_answer(body: &mut String, answer: Option<&Answer>, arm: &str, same_as: Option<&str>) {
    let verdict = match answer.map_or(Verdict::NotEvaluated, |a| a.verdict) {
        Verdict::Passed => "passed",
        Verdict::Failed => "failed",
        Verdict::NotEvaluated => "not evaluated",
    };
    let same = same_as.map_or_else(String::new, |other| format!(" = {}", line(other)));
    body.push_str(&format!("{}: {verdict}{same}\n", line(arm)));
    let Some(answer) = answer else { return };
    if let Some(completion) = &answer.completion {
        if same_as.is_none() && !only_scored(completion) {
            completion.text.split('\n').for_each(|l| quote(body, l));
        }
        if let Some(likeliest) = likeliest(completion) {
            body.push_str(&format!("  likeliest: {}\n", line(&format!("{likeliest:?}"))));
        }
    }
    let scored = answer.completion.as_ref().is_some_and(|c| !c.choices.is_empty());
    for failure in &answer.failures {
        body.push_str(&format!("  ! {}\n", line(&steady(failure, scored))));
    }
}

/// The continuation with the highest log-likelihood; its score would not be the same on the next machine.
fn likeliest(completion: &Completion) -> Option<&str> {
    let scored = completion.choices.iter().filter(|c| !c.log_likelihood.is_nan());
    scored.max_by(|a, b| a.log_likelihood.total_cmp(&b.log_likelihood)).map(|c| c.text.as_str())
}

/// A failure without scores: decimal numbers of one that compares log-likelihoods become `…`.
fn steady(failure: &str, scored: bool) -> String {
    static DECIMAL: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[-+]?\b\d+\.\d+(?:e[-+]?\d+)?\b").ok());
    match &*DECIMAL {
        Some(decimal) if scored => decimal.replace_all(failure, "…").into_owned(),
        _ => failure.to_owned(),
    }
}

fn woven(spans: &[Span]) -> String {
    let mark = |span: &Span| match span.change {
        Change::Equal => span.text.clone(),
        Change::Removed => format!("[-{}-]", span.text),
        Change::Added => format!("{{+{}+}}", span.text),
    };
    spans.iter().map(mark).collect()
}

/// One line of an answer. A blank at its end is spelt out, since editors and git take it off or complain.
fn quote(body: &mut String, text: &str) {
    let shown = visible(text);
    let shown = match shown.strip_suffix([' ', '\t']) {
        Some(rest) if shown.ends_with(' ') => format!("{rest}\\u{{20}}"),
        Some(rest) => format!("{rest}\\u{{9}}"),
        None => shown.into_owned(),
    };
    body.push_str(if shown.is_empty() { "  |" } else { "  | " });
    body.push_str(&shown);
    body.push('\n');
}

fn line(text: &str) -> String {
    visible(text.trim()).replace('\n', " ⏎ ")
}

/// Calls insta's assertion, under the settings bound by [`assert_scenario`], with a snapshot's name and body.
///
/// Written out by [`snapshot_assertion!`](crate::snapshot_assertion) in the crate whose tests run: insta's macro takes that
/// crate's workspace and file, so that `cargo insta` finds its snapshots.
pub type Assertion = fn(&str, &str);

/// An [`Assertion`](crate::snapshot::Assertion) of the crate it is written in.
#[macro_export]
macro_rules! snapshot_assertion {
    () => {
        |name: &str, body: &str| $crate::insta::assert_snapshot!(name, body)
    };
}

/// Where snapshots are and what the answers are of.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotContext<'a> {
    /// Directory of the snapshots, absolute.
    pub directory: &'a Path,
    /// The project's directory, absolute: a scenario's path is relative to it.
    pub root: &'a Path,
    /// The run: its model, arms and backend are written into a snapshot's header.
    pub run: &'a RunRecord,
    /// The control arm.
    pub base: &'a str,
    /// The arm that is judged.
    pub tuned: &'a str,
    /// insta's assertion.
    pub assertion: Assertion,
}

/// What answered, in a snapshot's header. It is shown in a review and not compared.
#[derive(Serialize)]
struct Identity<'a> {
    model: &'a str,
    weights: &'a str,
    backend: &'a str,
    arms: Vec<IdentityArm<'a>>,
    #[serde(skip_serializing_if = "Sampling::is_greedy")]
    sampling: Sampling,
}

#[derive(Serialize)]
struct IdentityArm<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scale: Option<f64>,
    fingerprint: &'a str,
}

impl<'a> Identity<'a> {
    fn of(context: &SnapshotContext<'a>, scenario: &ScenarioRecord) -> Self {
        let shown = |name: &str| name == context.base || name == context.tuned;
        let arms = context.run.arms.iter().filter(|arm| shown(&arm.name)).map(|arm| IdentityArm {
            name: &arm.name,
            adapter: arm.adapter.as_deref(),
            scale: (arm.adapter.is_some() && arm.scale != 1.0).then_some(arm.scale),
            fingerprint: &arm.fingerprint,
        });
        Self {
            model: &context.run.model.source,
            weights: &context.run.model.weights,
            backend: &context.run.backend,
            arms: arms.collect(),
            sampling: scenario.sampling,
        }
    }
}

/// Asserts a scenario's answers against its approved snapshot `<directory>/<scenario>.snap`, through insta.
///
/// What happens to answers that are new or changed is insta's to say (`INSTA_UPDATE`; by default a `.snap.new` outside CI,
/// nothing in CI). insta prints the difference on stdout; its panic is caught, so that a harness can go on.
///
/// # Errors
/// Answers that differ from the approved ones, or were never approved: the file, the changed lines and what to do.
pub fn assert_scenario(scenario: &ScenarioRecord, context: &SnapshotContext<'_>) -> Result<(), String> {
    check_environment().map_err(|e| e.to_string())?;
    let body = render(scenario, context.base, context.tuned);
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(context.directory);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_info(&Identity::of(context, scenario));
    settings.set_input_file(context.root.join(&scenario.path));
    let asserted = quietly(|| settings.bind(|| (context.assertion)(&scenario.name, &body)));
    let state = state_of(&context.directory.join(file_of(&scenario.name)), &body);
    match (asserted, state) {
        (Ok(()), Ok(SnapshotState::Same)) => Ok(()),
        // Outside CI insta may be told to let a difference pass (`cargo insta test` collects them for a review).
        (Ok(()), _) if !is_ci(variable("CI").as_deref(), variable("TF_BUILD").is_some()) => Ok(()),
        (_, Ok(state)) => Err(message(scenario, context, &state)),
        (Err(panic), Err(_)) => Err(panic),
        (Ok(()), Err(error)) => Err(error.to_string()),
    }
}

fn message(scenario: &ScenarioRecord, context: &SnapshotContext<'_>, state: &SnapshotState) -> String {
    let path = context.directory.join(file_of(&scenario.name));
    let path = path.strip_prefix(context.root).unwrap_or(&path).display().to_string();
    let review = "`cargo insta review` shows and approves them";
    match state {
        SnapshotState::Missing => format!("{path}: the answers were never approved; {review}"),
        SnapshotState::Same => format!("{path}: the answers are the approved ones, yet insta did not accept them"),
        SnapshotState::Changed { diff } => {
            format!(
                "{path}: the answers differ from the approved ones; {review}\n{}",
                changed_lines(diff, MESSAGE_LINES)
            )
        }
    }
}

/// The changed lines of a diff behind `-` and `+`, each case's under its heading; at most `limit` of them.
#[must_use]
pub fn changed_lines(diff: &[DiffLine], limit: usize) -> String {
    let mut heading = None;
    let mut lines: Vec<String> = Vec::new();
    let mut shown = 0;
    let all = diff.iter().filter(|l| l.change != Change::Equal).count();
    for line in diff {
        let sign = match line.change {
            Change::Equal => {
                if line.text.starts_with("## ") {
                    heading = Some(&line.text);
                }
                continue;
            }
            Change::Removed => '-',
            Change::Added => '+',
        };
        if shown == limit {
            lines.push(format!("  … {} more lines", all - shown));
            break;
        }
        if let Some(heading) = heading.take() {
            lines.push(format!("  {heading}"));
        }
        lines.push(format!("{sign} {}", line.text));
        shown += 1;
    }
    lines.join("\n")
}

/// What a panic said, without printing it: insta has printed the difference by then.
fn quietly(assertion: impl FnOnce()) -> Result<(), String> {
    thread_local! {
        static QUIET: Cell<bool> = const { Cell::new(false) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.with(Cell::get) {
                loud(info);
            }
        }));
    });
    QUIET.with(|quiet| quiet.set(true));
    let caught = panic::catch_unwind(AssertUnwindSafe(assertion));
    QUIET.with(|quiet| quiet.set(false));
    caught.map_err(|payload: Box<dyn Any + Send>| {
        panic_message(payload.as_ref()).unwrap_or("insta panicked without a message").to_owned()
    })
}

/// An approved snapshot against the answers of now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotState {
    /// The answers are the approved ones.
    Same,
    /// They are not.
    Changed {
        /// All lines of both.
        diff: Vec<DiffLine>,
    },
    /// There is no approved snapshot.
    Missing,
}

/// Compares a scenario's answers with `<directory>/<scenario>.snap`, without insta and without writing anything.
///
/// # Errors
/// A file that cannot be read or is no snapshot.
pub fn compare_files(directory: &Path, scenario: &ScenarioRecord, base: &str, tuned: &str) -> Result<SnapshotState> {
    state_of(&directory.join(file_of(&scenario.name)), &render(scenario, base, tuned))
}

/// The name insta gives a scenario's snapshot.
fn file_of(scenario: &str) -> PathBuf {
    PathBuf::from(format!("{}.snap", scenario.replace(['/', '\\'], "__")))
}

/// What is approved: all after a header between two lines of `---`.
fn body_of(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("---\n")?;
    rest.strip_prefix("---\n").or_else(|| rest.split_once("\n---\n").map(|(_, body)| body))
}

fn state_of(path: &Path, body: &str) -> Result<SnapshotState> {
    let text = match read_regular_text(path, MOST_BYTES) {
        Ok(text) => text,
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(SnapshotState::Missing);
        }
        Err(error) => return Err(error),
    };
    // White space at the end does not count, as insta has it.
    let text = text.replace("\r\n", "\n");
    let approved = body_of(&text).ok_or_else(|| {
        Error::input(
            path,
            1,
            "no snapshot: expected a header between two lines of `---`; delete it and approve the answers anew",
        )
    })?;
    if approved.trim_end() == body.trim_end() {
        Ok(SnapshotState::Same)
    } else {
        Ok(SnapshotState::Changed { diff: line_diff(approved.trim_end(), body.trim_end()) })
    }
}

/// Refuses settings of insta that would make CI green, or approve answers there, without anybody having looked.
///
/// # Errors
/// In CI (`CI` set and not empty, `false` or `0`; or `TF_BUILD` set): `INSTA_FORCE_PASS`, and an `INSTA_UPDATE` that writes in
/// place (`always`, `force`, `unseen`, and the older spellings).
pub fn check_environment() -> Result<()> {
    check_variables(&variable)
}

fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

fn is_ci(ci: Option<&str>, azure: bool) -> bool {
    match ci {
        None => azure,
        Some(value) => !matches!(value, "" | "false" | "0"),
    }
}

fn check_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<()> {
    if !is_ci(variable("CI").as_deref(), variable("TF_BUILD").is_some()) {
        return Ok(());
    }
    let refused: [(&str, &[&str]); 4] = [
        ("INSTA_FORCE_PASS", &["1"]),
        ("INSTA_UPDATE", &["always", "force", "unseen", "1"]),
        ("INSTA_FORCE_UPDATE", &["1"]),
        ("INSTA_FORCE_UPDATE_SNAPSHOTS", &["1"]),
    ];
    for (name, values) in refused {
        if let Some(value) = variable(name).filter(|v| values.contains(&v.as_str())) {
            return Err(Error::Usage(format!(
                "{name}={value} in CI would pass or approve answers that nobody has looked at; unset it here, and approve answers \
                 with `cargo insta review` where the run can be seen"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
