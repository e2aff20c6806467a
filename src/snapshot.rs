//! Approved answers: one snapshot a scenario, in the form that insta writes and compares.
//!
//! Under a test harness [`assert_scenario`] leaves everything to insta, so that `cargo insta review`, `accept` and
//! `--unreferenced=reject` work. An installed binary, with no cargo workspace around it, compares files with [`compare_files`] and
//! approves answers by itself (`snapshot/standing.rs`), in the bytes that insta would have written.

mod approved;
mod bytes;
mod environment;
mod place;
mod render;
mod standing;
mod verdicts;
mod workspace;

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Once;

use serde::Serialize;

pub use approved::approved;
pub use environment::check_environment;
#[cfg(feature = "candle")]
pub(crate) use environment::check_writing;
pub(crate) use environment::is_ci;
#[cfg(any(feature = "candle", test))]
pub(crate) use place::Place;
#[cfg(feature = "candle")]
pub(crate) use place::Rejected;
pub use render::render;
#[cfg(any(feature = "candle", test))]
pub(crate) use standing::{Accepted, Snapshots, named};
pub(crate) use standing::{Held, ScenarioSnapshot, Standing};
pub(crate) use verdicts::VerdictChange;

use crate::compare::{Change, DiffLine, line_diff};
use crate::error::{Error, Result, panic_message};
use crate::files::read_regular_text;
use crate::record::{RunRecord, Sampling, ScenarioRecord};

/// Bytes of a snapshot.
const MOST_BYTES: u64 = 256 << 20;
/// Changed lines that a message shows.
const MESSAGE_LINES: usize = 40;

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
    /// The arms whose answers are approved, base first.
    pub arms: &'a [&'a str],
    /// insta's assertion.
    pub assertion: Assertion,
}

/// What answered, in a snapshot's header: shown in a review, and not compared. Hashes are no part of it, since they would be those of an
/// old adapter wherever the answers stay the same.
#[derive(Serialize)]
struct Identity<'a> {
    model: &'a str,
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
}

impl<'a> Identity<'a> {
    fn of(run: &'a RunRecord, shown: &[&str], scenario: &ScenarioRecord) -> Self {
        let arms = run.arms.iter().filter(|arm| shown.contains(&arm.name.as_str())).map(|arm| IdentityArm {
            name: &arm.name,
            adapter: arm.adapter.as_deref(),
            scale: (arm.adapter.is_some() && arm.scale != 1.0).then_some(arm.scale),
        });
        Self { model: &run.model.source, backend: &run.backend, arms: arms.collect(), sampling: scenario.sampling }
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
    let body = render(scenario, context.arms);
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(context.directory);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_info(&Identity::of(context.run, context.arms, scenario));
    settings.set_input_file(context.root.join(&scenario.path));
    let asserted = quietly(|| settings.bind(|| (context.assertion)(&scenario.name, &body)));
    let state = state_of(&context.directory.join(file_of(&scenario.name)), &body);
    match (asserted, state) {
        (Ok(()), Ok(SnapshotState::Same)) => Ok(()),
        // Outside CI insta may be told to let a difference pass (`cargo insta test` collects them for a review).
        (Ok(()), _) if !is_ci() => Ok(()),
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
pub fn compare_files(directory: &Path, scenario: &ScenarioRecord, arms: &[&str]) -> Result<SnapshotState> {
    state_of(&directory.join(file_of(&scenario.name)), &render(scenario, arms))
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
        Err(error) if error.is_not_found() => return Ok(SnapshotState::Missing),
        Err(error) => return Err(error),
    };
    // White space at the end does not count, as insta has it.
    let text = text.replace("\r\n", "\n");
    let approved = body_of(&text).ok_or_else(|| no_snapshot(path))?;
    if approved.trim_end() == body.trim_end() {
        Ok(SnapshotState::Same)
    } else {
        Ok(SnapshotState::Changed { diff: line_diff(approved.trim_end(), body.trim_end()) })
    }
}

fn no_snapshot(path: &Path) -> Error {
    Error::input(
        path,
        1,
        "no snapshot: expected a header between two lines of `---`; delete it and approve the answers again",
    )
}

#[cfg(test)]
mod tests;
