//! How each scenario's answers of a run stand to the approved ones, and their approval.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::bytes::{self, Header, Pending};
use super::place::{self, Place, Rejected};
use super::verdicts::{self, VerdictChange};
use super::workspace;
use super::{Identity, SnapshotState, compare_files, render};
use crate::compare::{DiffLine, line_diff};
use crate::config::nearest;
use crate::error::{Error, Result};
use crate::files::{sweep, write_atomically};
use crate::record::{RunRecord, ScenarioRecord};

/// Cases or names that an error tells.
const SHOWN: usize = 5;

/// How answers stand to the approved ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Standing {
    /// The answers are the approved ones.
    Approved,
    /// Answers differ, and every verdict is the approved one.
    Reworded,
    /// Verdicts differ.
    VerdictsChanged,
    /// There are no approved answers.
    New,
    /// A pending file cannot be accepted: it holds other answers than the run, or is no snapshot.
    Pending,
    /// The run has no such scenario.
    Orphaned,
}

impl Standing {
    /// All of them, as they are counted.
    pub(crate) const ALL: [Self; 6] =
        [Self::Approved, Self::Reworded, Self::VerdictsChanged, Self::New, Self::Pending, Self::Orphaned];

    /// As a person reads it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Reworded => "reworded",
            Self::VerdictsChanged => "verdicts changed",
            Self::New => "new",
            Self::Pending => "pending",
            Self::Orphaned => "orphaned",
        }
    }

    /// As JSON has it.
    pub(crate) fn name(self) -> &'static str {
        if self == Self::VerdictsChanged { "verdicts-changed" } else { self.word() }
    }

    /// Whether the run's answers can be accepted, and are not yet.
    pub(crate) fn is_acceptable(self) -> bool {
        matches!(self, Self::Reworded | Self::VerdictsChanged | Self::New)
    }
}

/// What a pending file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Held {
    /// The answers of the run.
    ThisRun,
    /// Other answers.
    OtherAnswers,
    /// No snapshot that finetest can accept: why.
    Nothing(String),
}

/// Answers that wait for a review in a file of insta's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Waiting {
    /// The file.
    pub(crate) file: PathBuf,
    /// What it holds.
    pub(crate) holds: Held,
    /// The bytes that it becomes once it is accepted.
    #[serde(skip)]
    approved: String,
}

/// A scenario's snapshot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ScenarioSnapshot {
    /// The scenario.
    pub(crate) scenario: String,
    /// How the run's answers stand to the approved ones.
    pub(crate) state: Standing,
    /// The file of the approved answers.
    pub(crate) file: PathBuf,
    /// Cases of the scenario.
    pub(crate) cases: usize,
    /// Cases that are not as approved.
    pub(crate) changed_cases: usize,
    /// Verdicts that are not the approved ones.
    pub(crate) verdicts: Vec<VerdictChange>,
    /// Answers in a file of insta's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pending: Option<Waiting>,
    /// All lines of the approved answers and of those of the run; none when they are the same.
    #[serde(skip)]
    pub(crate) diff: Vec<DiffLine>,
}

/// What approving a scenario's answers wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// The file of the approved answers.
    pub(crate) file: PathBuf,
    /// Whether other answers were approved before.
    pub(crate) is_replaced: bool,
    /// The pending file that was removed.
    pub(crate) removed: Option<PathBuf>,
}

/// A run's answers beside the approved ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Snapshots<'a> {
    place: &'a Place,
    run: &'a RunRecord,
    arms: &'a [&'a str],
}

impl<'a> Snapshots<'a> {
    /// The answers of `arms` in a run that was read from `record`.
    ///
    /// # Errors
    /// A run of a part of the cases, one that lacks an arm, and one that lacks answers: a snapshot holds all of them.
    pub(crate) fn of(place: &'a Place, record: &Path, run: &'a RunRecord, arms: &'a [&'a str]) -> Result<Self> {
        let refused = |message: String| Err(Error::input(record, None, message));
        if let Some(selected) = &run.made.selected {
            let (cases, of) = (selected.cases, selected.of);
            return refused(format!(
                "is a run of {cases} of {of} cases, and a snapshot holds all cases of a scenario; run all of them: `finetest run`"
            ));
        }
        if let Some(absent) = arms.iter().find(|name| run.arms.iter().all(|arm| arm.name != **name)) {
            return refused(format!("has no answers of {absent}, which [run] snapshot_arms names; run `finetest run`"));
        }
        let missing: Vec<String> = run
            .cases()
            .flat_map(|(scenario, case)| {
                let told = move |(arm, why): (&str, &str)| format!("{} of {arm} ({why})", scenario.test_name(case));
                case.errors().filter(|(arm, _)| arms.contains(arm)).map(told)
            })
            .collect();
        if !missing.is_empty() {
            return refused(format!(
                "lacks {}: {}; an answer that is missing cannot be approved. `finetest run` computes what is missing",
                if missing.len() == 1 { "an answer".to_owned() } else { format!("{} answers", missing.len()) },
                first(&missing)
            ));
        }
        Ok(Self { place, run, arms })
    }

    /// Every scenario of the run, in its order, and the snapshots and pending files that belong to none.
    ///
    /// # Errors
    /// An approved snapshot that is none, is a link or cannot be read; each is told.
    pub(crate) fn all(&self) -> Result<Vec<ScenarioSnapshot>> {
        let (mut all, mut errors) = (Vec::new(), Vec::new());
        for scenario in &self.run.scenarios {
            match self.snapshot(scenario) {
                Ok(snapshot) => all.push(snapshot),
                Err(error) => errors.push(error),
            }
        }
        Error::collect(errors)?;
        let mut others = [self.place.approved_names()?, self.place.pending_names()?].concat();
        others.sort();
        others.dedup();
        let known: Vec<PathBuf> = all.iter().map(|one| one.file.clone()).collect();
        let orphans = others.into_iter().filter(|name| !known.contains(&self.place.approved_file(name)));
        all.extend(orphans.map(|name| self.orphan(name)));
        Ok(all)
    }

    fn orphan(&self, name: String) -> ScenarioSnapshot {
        let file = self.place.pending_file(&name);
        let waiting = || Waiting { file: file.clone(), holds: Held::OtherAnswers, approved: String::new() };
        ScenarioSnapshot {
            state: Standing::Orphaned,
            file: self.place.approved_file(&name),
            cases: 0,
            changed_cases: 0,
            verdicts: Vec::new(),
            pending: file.symlink_metadata().is_ok().then(waiting),
            diff: Vec::new(),
            scenario: name,
        }
    }

    fn snapshot(&self, scenario: &ScenarioRecord) -> Result<ScenarioSnapshot> {
        let file = self.place.approved_file(&scenario.name);
        let body = render(scenario, self.arms);
        // Refuses a link, which is not followed out of the project.
        let approved = place::read(&file)?;
        let (diff, verdicts, state) = match compare_files(self.place.folder(), scenario, self.arms)? {
            SnapshotState::Same => (Vec::new(), Vec::new(), Standing::Approved),
            SnapshotState::Missing => (line_diff("", body.trim_end()), Vec::new(), Standing::New),
            SnapshotState::Changed { diff } => {
                let before = approved.as_deref().and_then(super::body_of).unwrap_or_default();
                let verdicts = verdicts::changed(before, &body);
                let state = if verdicts.is_empty() { Standing::Reworded } else { Standing::VerdictsChanged };
                (diff, verdicts, state)
            }
        };
        let pending = self.pending(scenario, &body);
        let is_foreign = pending.as_ref().is_some_and(|pending| pending.holds != Held::ThisRun);
        Ok(ScenarioSnapshot {
            scenario: scenario.name.clone(),
            state: if is_foreign { Standing::Pending } else { state },
            file,
            cases: scenario.cases.len(),
            changed_cases: verdicts::cases_touched(&diff),
            verdicts,
            pending,
            diff,
        })
    }

    fn pending(&self, scenario: &ScenarioRecord, body: &str) -> Option<Waiting> {
        let file = self.place.pending_file(&scenario.name);
        let found = place::read(&file).and_then(|text| match text {
            Some(text) => bytes::pending(&file, &text, scenario).map(Some),
            None => Ok(None),
        });
        let (holds, approved) = match found {
            Ok(None) => return None,
            Ok(Some(Pending { body: held, approved })) if held == body.trim_end() => (Held::ThisRun, approved),
            Ok(Some(Pending { approved, .. })) => (Held::OtherAnswers, approved),
            Err(error) => (Held::Nothing(error.to_string()), String::new()),
        };
        Some(Waiting { file, holds, approved })
    }

    /// Approves a scenario's answers of the run: its pending file is moved, as `cargo insta accept` does it; without one they are written
    /// as insta would have.
    ///
    /// # Errors
    /// Its pending file holds something else, the scenario is not in the run, or a file cannot be written. The old snapshot is then
    /// untouched.
    pub(crate) fn accept(&self, snapshot: &ScenarioSnapshot) -> Result<Accepted> {
        self.check_acceptable(snapshot)?;
        let text = match &snapshot.pending {
            Some(pending) => pending.approved.clone(),
            None => self.written(snapshot)?,
        };
        // What a killed process left of an earlier approval.
        sweep(self.place.folder());
        if snapshot.state != Standing::Approved {
            write_atomically(&snapshot.file, text.as_bytes())?;
        }
        let removed = match self.place.reject(&snapshot.scenario)? {
            Rejected::Removed(path) => Some(path),
            Rejected::NothingPending => None,
        };
        let is_replaced = matches!(snapshot.state, Standing::Reworded | Standing::VerdictsChanged);
        Ok(Accepted { file: snapshot.file.clone(), is_replaced, removed })
    }

    /// Whether a scenario's answers can be approved.
    ///
    /// # Errors
    /// Its pending file holds something else than the run, or the run has no such scenario.
    pub(crate) fn check_acceptable(&self, snapshot: &ScenarioSnapshot) -> Result<()> {
        let name = &snapshot.scenario;
        match (&snapshot.state, &snapshot.pending) {
            (Standing::Orphaned, _) => Err(Error::Usage(format!(
                "{name} is no scenario of this run, so there are no answers to accept; run `finetest run` if it is new"
            ))),
            (_, Some(Waiting { holds: Held::Nothing(why), .. })) => {
                Err(Error::failed(format!("{why}. `finetest snapshots reject {name}` removes it")))
            }
            (_, Some(Waiting { file, holds: Held::OtherAnswers, .. })) => Err(Error::input(
                file,
                None,
                format!(
                    "holds other answers than the run; name the run that wrote it with --run RUN.json, or remove it with `finetest \
                     snapshots reject {name}` and accept those of the run"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// The snapshot of a scenario as insta would write it.
    fn written(&self, snapshot: &ScenarioSnapshot) -> Result<String> {
        let scenario = self.run.scenarios.iter().find(|one| one.name == snapshot.scenario);
        let scenario = scenario.ok_or_else(|| Error::failed(format!("{} is not in the run", snapshot.scenario)))?;
        let Place { root, workspace, .. } = self.place;
        let input_file = workspace::input_file(&root.join(&scenario.path), workspace);
        let header = Header {
            source: &self.source(&snapshot.file)?,
            info: Identity::of(self.run, self.arms, scenario),
            input_file: input_file.as_deref(),
        };
        header.over(&render(scenario, self.arms))
    }

    /// Where the test of these snapshots is: in the project; or where a snapshot that insta wrote says it is.
    fn source(&self, file: &Path) -> Result<String> {
        let Place { root, workspace, .. } = self.place;
        if !workspace::has_test(root) {
            let others = self.place.approved_names()?;
            let files = std::iter::once(file.to_path_buf()).chain(others.iter().map(|n| self.place.approved_file(n)));
            let said = files.into_iter().find_map(|file| bytes::source_of(&place::read(&file).ok()??));
            if let Some(said) = said {
                return Ok(said);
            }
        }
        Ok(workspace::test_source(root, workspace))
    }
}

/// Those of `all` that `names` name, in the order of `all`; all of them where no name is given.
///
/// # Errors
/// A name is of none: the nearest one, else all of them, are told.
pub(crate) fn named<'s, T>(all: &'s [T], names: &[String], name_of: impl Fn(&T) -> &str) -> Result<Vec<&'s T>> {
    if let Some(name) = names.iter().find(|name| all.iter().all(|one| name_of(one) != name.as_str())) {
        let known: Vec<&str> = all.iter().map(&name_of).collect();
        let advice = match nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "there is none".to_owned(),
            None => format!("expected one of {}", known.join(", ")),
        };
        return Err(Error::Usage(format!("there is no scenario `{name}`; {advice}")));
    }
    let is_named = |one: &&T| names.is_empty() || names.iter().any(|name| name == name_of(one));
    Ok(all.iter().filter(is_named).collect())
}

/// The first of many, and how many more there are.
fn first(all: &[String]) -> String {
    let shown = all.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
