//! The comparison for programs: every case, and all numbers as numbers.

use serde::Serialize;

use super::Compared;
use crate::compare::{CaseChange, ComparedCase, Difference, DriftPair, Note, RunComparison, Side, Total};
use crate::record::{Answer, Commit, Drift, DriftMethod, Interval, Role, Selected, Verdict};
use crate::report::view::asked;

/// A comparison as JSON.
#[derive(Serialize)]
pub(super) struct Data<'a> {
    verdict: &'static str,
    exit_code: u8,
    summary: String,
    arm: &'a str,
    before: Run<'a>,
    after: Run<'a>,
    /// Whether the drift of both runs may be compared.
    drift: DriftPair,
    notes: &'a [Note],
    totals: Totals,
    cases: Vec<Case<'a>>,
}

#[derive(Serialize)]
struct Run<'a> {
    path: &'a str,
    project: &'a str,
    time: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    git: Option<&'a Commit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    selected: Option<&'a Selected>,
    finetest: &'a str,
    backend: &'a str,
    machine: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter: Option<&'a str>,
    scale: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    retention: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    drift: Option<Moved<'a>>,
}

#[derive(Serialize)]
struct Rate {
    passed: usize,
    evaluated: usize,
    share: Option<f64>,
    interval: Option<Interval>,
}

/// Drift without its values at each position.
#[derive(Serialize)]
struct Moved<'a> {
    method: DriftMethod,
    source: &'a str,
    tokens: usize,
    kl_mean: Option<f64>,
    kl_se: Option<f64>,
    nll_change: f64,
    nll_change_se: f64,
}

#[derive(Serialize)]
struct Totals {
    all: Counted,
    target: Counted,
    control: Counted,
}

#[derive(Serialize)]
struct Counted {
    newly_broken: usize,
    fixed: usize,
    changed: usize,
    same: usize,
    not_evaluated: usize,
    changed_question: usize,
    gone: usize,
    new: usize,
    compared: usize,
    passed_before: usize,
    passed_after: usize,
    /// Pass rate now − before.
    difference: Option<f64>,
    difference_interval: Option<Interval>,
    /// One-sided: more newly broken than fixed.
    mcnemar_p: f64,
}

#[derive(Serialize)]
struct Case<'a> {
    test: String,
    role: Role,
    file: &'a str,
    line: Option<usize>,
    change: CaseChange,
    #[serde(skip_serializing_if = "<[Difference]>::is_empty")]
    differences: &'a [Difference],
    asked: String,
    /// The turn whose answers are given, counted from 1.
    turn: usize,
    before: Option<Said<'a>>,
    after: Option<Said<'a>>,
}

#[derive(Serialize)]
struct Said<'a> {
    verdict: Verdict,
    answer: Option<&'a str>,
    failures: &'a [String],
    samples: usize,
    samples_passed: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl<'a> Data<'a> {
    pub(super) fn of(compared: &Compared<'a>) -> Self {
        let comparison: &'a RunComparison<'a> = compared.comparison;
        let [before, after] = compared.paths;
        Self {
            verdict: compared.ending().word(),
            exit_code: comparison.exit_code(compared.fail_on),
            summary: compared.summary(),
            arm: comparison.arm(),
            before: Run::of(comparison.before, before),
            after: Run::of(comparison.after, after),
            drift: comparison.drift(),
            notes: &comparison.notes,
            totals: Totals {
                all: Counted::of(&comparison.all),
                target: Counted::of(&comparison.target),
                control: Counted::of(&comparison.control),
            },
            cases: comparison.cases.iter().map(Case::of).collect(),
        }
    }
}

impl<'a> Run<'a> {
    fn of(side: Side<'a>, path: &'a str) -> Self {
        let Side { run, arm, retention, drift } = side;
        let rate = |rate: crate::compare::Rate| Rate {
            passed: rate.passed,
            evaluated: rate.evaluated,
            share: rate.share(),
            interval: rate.interval(),
        };
        Self {
            path,
            project: &run.project,
            time: &run.made.time,
            git: run.made.git.as_ref(),
            selected: run.made.selected.as_ref(),
            finetest: &run.finetest,
            backend: &run.backend,
            machine: &run.made.machine,
            adapter: arm.adapter.as_deref(),
            scale: arm.scale,
            retention: retention.map(rate),
            drift: drift.map(Moved::of),
        }
    }
}

impl<'a> Moved<'a> {
    fn of(drift: &'a Drift) -> Self {
        Self {
            method: drift.method,
            source: &drift.source,
            tokens: drift.tokens,
            kl_mean: drift.kl.map(|kl| kl.mean),
            kl_se: drift.kl.map(|kl| kl.se),
            nll_change: drift.nll_change(),
            nll_change_se: drift.nll_change_se,
        }
    }
}

impl Counted {
    fn of(total: &Total) -> Self {
        let counts = &total.counts;
        let [before, after] = counts.rates();
        Self {
            newly_broken: counts.count(CaseChange::NewlyBroken),
            fixed: counts.count(CaseChange::Fixed),
            changed: counts.count(CaseChange::Changed),
            same: counts.count(CaseChange::Same),
            not_evaluated: counts.count(CaseChange::NotEvaluated),
            changed_question: counts.count(CaseChange::ChangedQuestion),
            gone: counts.count(CaseChange::Gone),
            new: counts.count(CaseChange::New),
            compared: counts.compared(),
            passed_before: before.passed,
            passed_after: after.passed,
            difference: total.difference.map(|difference| difference.gain),
            difference_interval: total.difference.map(|difference| difference.interval),
            mcnemar_p: counts.broken_p(),
        }
    }
}

impl<'a> Case<'a> {
    fn of(case: &'a ComparedCase<'a>) -> Self {
        let shown = case.shown();
        let said = |at: usize, answer: Option<&'a Answer>| {
            let (answer, sample) = (answer?, shown.samples[at]);
            Some(Said {
                verdict: answer.verdict,
                answer: shown.texts()[at],
                failures: sample.map_or(&[], |sample| &sample.failures),
                samples: answer.samples.len(),
                samples_passed: answer.passed(),
                error: answer.error(),
            })
        };
        Self {
            test: case.test(),
            role: case.scenario.role,
            file: &case.scenario.path,
            line: case.case.line,
            change: case.change,
            differences: &case.differences,
            asked: asked(case.case),
            turn: shown.turn + 1,
            before: said(0, case.before),
            after: said(1, case.after),
        }
    }
}
