//! `cargo test` for scenarios: each case, each scenario's snapshot and each rule of the gate is a test.
//!
//! A project needs three files: a dev-dependency on finetest, `finetest.toml` with a scenario, and
//!
//! ```toml
//! # Cargo.toml
//! [[test]]
//! name = "scenarios"
//! harness = false
//! ```
//!
//! ```ignore
//! // tests/scenarios.rs
//! finetest::scenarios!();
//! ```
//!
//! The model is asked once, by the first test that needs an answer. Under `cargo nextest`, which runs a process for each test, the
//! first process computes, and the others wait for it and read its answers. Listing tests loads no model.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::cli::progress::Display;
use crate::cli::{github, interrupt};
use crate::compare::{CaseOutcome, Comparison, case_outcome};
use crate::config::{Config, MANIFEST};
use crate::error::Result;
use crate::project::{self, Outcome, TrainPolicy};
use crate::record::{Arm, BASE, Decision, Role, Rule, RunError, RunRecord, TUNED, Verdict};
use crate::report::Report;
use crate::scenario::{self, Names};
use crate::shown::visible;
use crate::snapshot::{Assertion, SnapshotContext, assert_scenario, check_environment};

/// Writes the `main` of a test with `harness = false` that tests the project of the crate it is written in.
#[macro_export]
macro_rules! scenarios {
    () => {
        fn main() -> ::std::process::ExitCode {
            $crate::harness::main(env!("CARGO_MANIFEST_DIR"), $crate::snapshot_assertion!())
        }
    };
}

/// One project's tests, and the run that they share.
struct Suite {
    config: Config,
    root: PathBuf,
    assertion: Assertion,
    outcome: OnceLock<std::result::Result<Outcome, String>>,
}

/// Runs the tests of the project whose `finetest.toml` is in `directory` (or that the environment variable `FINETEST_MANIFEST`
/// names). Exits with 0 or 101, as test programs do.
pub fn main(directory: &str, assertion: Assertion) -> ExitCode {
    #[cfg(feature = "llama-cpp")]
    if let Some(ended) = crate::backend::llama_cpp::worker::serve::serve_if_asked() {
        return ended;
    }
    interrupt::install();
    let arguments = Arguments::from_args();
    match suite(Path::new(directory), assertion, arguments.list) {
        Ok((suite, names)) => {
            let trials = trials(&Arc::new(suite), names);
            libtest_mimic::run(&arguments, trials).exit_code()
        }
        Err(error) => {
            // A test that fails says it where test results are read.
            let message = visible(&error.to_string()).into_owned();
            let trial = Trial::test("manifest", move || Err(Failed::from(message)));
            libtest_mimic::run(&Arguments { filter: None, ..arguments }, vec![trial]).exit_code()
        }
    }
}

/// A listing reads names alone; what is wrong with a check is then told by the run.
fn suite(directory: &Path, assertion: Assertion, list: bool) -> Result<(Suite, Vec<Names>)> {
    let manifest = std::env::var_os("FINETEST_MANIFEST").map_or_else(|| directory.join(MANIFEST), PathBuf::from);
    let config = Config::load(&manifest)?;
    let names = match scenario::names(&config).filter(|_| list) {
        Some(names) => names,
        None => scenario::load_all(&config)?.iter().map(Names::from).collect(),
    };
    let root = config.root.canonicalize().unwrap_or_else(|_| config.root.clone());
    Ok((Suite { config, root, assertion, outcome: OnceLock::new() }, names))
}

fn listed(position: usize, name: &str) -> Listed<'_> {
    Listed { position, name }
}

fn trials(suite: &Arc<Suite>, scenarios: Vec<Names>) -> Vec<Trial> {
    let mut trials = Vec::new();
    // Cases are tuned's; those of another arm are tests where the gate judges it.
    let arms = suite.config.gate.arms().into_iter().filter(|arm| *arm != TUNED).map(str::to_owned);
    for arm in std::iter::once(TUNED.to_owned()).chain(arms) {
        let prefix = if arm == TUNED { String::new() } else { format!("{arm}::") };
        for (i, Names { role, scenario, cases }) in scenarios.iter().enumerate() {
            for (j, case) in cases.iter().enumerate() {
                let (suite, arm, name, case) = (Arc::clone(suite), arm.clone(), scenario.clone(), case.clone());
                let test = format!("{prefix}{role}::{scenario}::{case}");
                trials.push(Trial::ignorable_test(test, move || suite.case(&arm, listed(i, &name), listed(j, &case))));
            }
        }
    }
    for (i, Names { scenario, .. }) in scenarios.into_iter().enumerate() {
        let suite = Arc::clone(suite);
        trials.push(Trial::test(format!("snapshot::{scenario}"), move || suite.snapshot(listed(i, &scenario))));
    }
    for (arm, label) in suite.config.gate.labels() {
        let suite = Arc::clone(suite);
        trials.push(Trial::test(format!("gate::{label}"), move || suite.rule(&arm, &label)));
    }
    let proving = Arc::clone(suite);
    trials.push(Trial::test("gate::adapter_is_applied", move || proving.proof()));
    trials
}

/// Something that was listed.
#[derive(Clone, Copy)]
struct Listed<'n> {
    position: usize,
    name: &'n str,
}

/// What has a listed name: at its position, unless the files were changed after they were listed. To look through all cases for each
/// of them would take a large project's size squared.
fn find<'a, T>(all: &'a [T], listed: Listed<'_>, name_of: impl Fn(&T) -> &str) -> Option<&'a T> {
    let Listed { position, name } = listed;
    let there = all.get(position).filter(|item| name_of(item) == name);
    there.or_else(|| all.iter().find(|item| name_of(item) == name))
}

impl Suite {
    fn outcome(&self) -> std::result::Result<&Outcome, Failed> {
        let outcome = self.outcome.get_or_init(|| {
            let policy = TrainPolicy::from_env().map_err(|e| e.to_string())?;
            check_environment().map_err(|e| e.to_string())?;
            let mut display = Display::new(false);
            let outcome = project::run(&self.config, policy, &mut |event| display.show(&event));
            display.finish();
            if let Ok(outcome) = &outcome {
                github_told(&self.config, outcome);
            }
            outcome.map_err(|e| visible(&e.to_string()).into_owned())
        });
        outcome.as_ref().map_err(|message| Failed::from(message.clone()))
    }

    /// A case fails when it was not evaluated, or when the gate fails and this case is one of the reasons. One that fails and that the
    /// gate tolerates is ignored, and says so.
    fn case(&self, arm: &str, scenario: Listed<'_>, case: Listed<'_>) -> std::result::Result<Completion, Failed> {
        let outcome = self.outcome()?;
        let scenario = find(&outcome.run.scenarios, scenario, |s| &s.name);
        let found = scenario.and_then(|s| Some((s, find(&s.cases, case, |c| &c.name)?)));
        let (scenario, case) = found.ok_or_else(|| Failed::from("the case was not run"))?;
        let told = |text: &str| visible(text).replace('\n', " ");
        match case_outcome(case, scenario.role, BASE, arm) {
            CaseOutcome::NotEvaluated(why) => Err(Failed::from(visible(&format!("not evaluated: {why}")).into_owned())),
            CaseOutcome::Failed(reason) if outcome.decision.blames(arm) => {
                Err(Failed::from(visible(&explain(&reason, scenario.role, arm, case)).into_owned()))
            }
            CaseOutcome::Failed(reason) => {
                Ok(Completion::ignored_with(told(&format!("tolerated by the gate: {reason}"))))
            }
            CaseOutcome::Skipped(why) => Ok(Completion::ignored_with(told(&why))),
            CaseOutcome::Passed => Ok(Completion::Completed),
        }
    }

    fn snapshot(&self, scenario: Listed<'_>) -> std::result::Result<(), Failed> {
        let outcome = self.outcome()?;
        let scenario = find(&outcome.run.scenarios, scenario, |s| &s.name)
            .ok_or_else(|| Failed::from("the scenario was not run"))?;
        let directory = absolute(&self.config.run.snapshots);
        let arms: Vec<&str> = self.config.run.snapshot_arms.iter().map(String::as_str).collect();
        let context = SnapshotContext {
            directory: &directory,
            root: &self.root,
            run: &outcome.run,
            arms: &arms,
            assertion: self.assertion,
        };
        assert_scenario(scenario, &context).map_err(Failed::from)
    }

    /// A rule of an arm, by its label.
    fn rule(&self, arm: &str, label: &str) -> std::result::Result<(), Failed> {
        let Outcome { run, decision: Decision { rules, .. }, .. } = self.outcome()?;
        if label.ends_with("max_drift")
            && let Some(error) = lost(run, |error| matches!(error, RunError::Drift { arm: of, .. } if of == arm))
        {
            return Err(error);
        }
        let rule: &Rule =
            rules.iter().find(|r| r.label() == label).ok_or_else(|| Failed::from("the rule was not applied"))?;
        if rule.verdict == Verdict::Passed { Ok(()) } else { Err(Failed::from(rule.explanation.clone())) }
    }

    fn proof(&self) -> std::result::Result<(), Failed> {
        let Outcome { run, decision, .. } = self.outcome()?;
        // Where no rule asks for drift, none of the rules' tests says that it is missing.
        let asked = |arm: &str| decision.rules.iter().any(|rule| rule.name == "max_drift" && rule.arm == arm);
        let unseen = |error: &RunError| match error {
            RunError::Drift { arm, .. } => !asked(arm),
            RunError::Proof { .. } => true,
            RunError::Answer { .. } => false,
        };
        if let Some(error) = lost(run, unseen) {
            return Err(error);
        }
        let proven = |arm: &Arm| run.proof.get(&arm.name).is_some_and(|proof| proof.adapter_effect > 0.0);
        match run.arms.iter().skip(1).find(|arm| !proven(arm)) {
            None => Ok(()),
            Some(arm) => Err(Failed::from(format!("there is no proof that the adapter of {} is applied", arm.name))),
        }
    }
}

/// The first error of a run that is one of these.
fn lost(run: &RunRecord, is: impl Fn(&RunError) -> bool) -> Option<Failed> {
    let error = run.errors.iter().find(|error| is(error))?;
    Some(Failed::from(visible(&format!("{}: {}", error.what(), error.why())).into_owned()))
}

/// In a GitHub workflow: the summary and the annotations, as `finetest run` writes them. Under nextest the process that computed answers
/// does it, and not each of the others.
fn github_told(config: &Config, Outcome { run, decision, files }: &Outcome) {
    if std::env::var_os("NEXTEST").is_some() && run.cost.computed == 0 {
        return;
    }
    let comparisons = Comparison::all(run);
    let report = Report { run, comparisons: &comparisons, decision, files };
    let mut out = std::io::stdout().lock();
    if let Some(note) = github::summary(config, &report) {
        let _ = writeln!(std::io::stderr(), "note: {}", visible(&note));
    }
    for annotation in github::annotated(&report) {
        let _ = writeln!(out, "{annotation}");
    }
}

fn explain(reason: &str, role: Role, arm: &str, case: &crate::record::CaseRecord) -> String {
    let answer = |arm: &str| case.text(arm).unwrap_or("(not generated)").to_owned();
    let (asked, base, ours) = (case.prompt.headline(), answer(BASE), answer(arm));
    format!("{role}: {reason}\nasked: {asked}\nbase:  {base}\n{arm}: {ours}")
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}
