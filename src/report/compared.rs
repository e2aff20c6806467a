//! Two recorded runs compared, for a terminal, as a page, and as data: the newly broken cases first.

mod data;
mod markdown;
mod terminal;
#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::compare::{
    CaseChange, ComparedCase, Counts, Difference, DriftPair, FailOn, FailureShown, PairedGain, RunComparison, Side,
    Total, failures_shown,
};
use crate::record::{Answer, Drift, Ending, Role, Unit, Verdict};
use crate::report::paint::Style;
use crate::report::view::question;
use crate::report::{drift, interval, made, points, share};

/// A comparison, where its runs come from, and what it fails on.
#[derive(Clone, Copy, Debug)]
pub struct Compared<'a> {
    /// The comparison.
    pub comparison: &'a RunComparison<'a>,
    /// The files of the earlier and of the later run.
    pub paths: [&'a str; 2],
    /// What it fails on.
    pub fail_on: FailOn,
}

impl Compared<'_> {
    /// Renders the comparison for a terminal; it begins and ends with what it came to.
    #[must_use]
    pub fn terminal(&self, style: Style) -> String {
        terminal::terminal(self, style)
    }

    /// Renders the comparison as GitHub's Markdown, at most 60 000 bytes: cases that do not fit are left out whole, and counted.
    #[must_use]
    pub fn markdown(&self) -> String {
        markdown::markdown(self)
    }

    /// The comparison with every case, to be written as JSON.
    #[must_use]
    pub fn data(&self) -> impl Serialize {
        data::Data::of(self)
    }

    fn ending(&self) -> Ending {
        self.comparison.ending(self.fail_on)
    }

    /// `1 newly broken, 2 fixed, 3 changed, 9 the same`.
    fn summary(&self) -> String {
        let counts = &self.comparison.all.counts;
        let [broken, fixed, changed, same] =
            [CaseChange::NewlyBroken, CaseChange::Fixed, CaseChange::Changed, CaseChange::Same]
                .map(|c| counts.count(c));
        if counts.compared() == 0 {
            return "no case has a verdict in both runs".to_owned();
        }
        let open = match (self.ending(), counts.count(CaseChange::NotEvaluated)) {
            (Ending::Incomplete, open) if open > 0 => format!(", {open} not evaluated"),
            _ => String::new(),
        };
        if counts.compared() == same {
            return format!("all {same} compared cases are the same{open}");
        }
        format!("{broken} newly broken, {fixed} fixed, {changed} changed, {same} the same{open}")
    }

    /// What the arm passes, and what was not compared, in sentences.
    fn sentences(&self) -> Vec<String> {
        let (comparison, counts) = (self.comparison, &self.comparison.all.counts);
        let mut said = Vec::new();
        if counts.compared() > 0 {
            let [before, after] = counts.rates().map(|rate| rate.passed);
            let (arm, all) = (comparison.arm(), counts.compared());
            let cases = if all == 1 { "case" } else { "cases" };
            said.push(format!("Of {all} compared {cases}, {arm} passed {before} before and passes {after} now."));
        }
        let apart = [
            (CaseChange::NotEvaluated, "not evaluated"),
            (CaseChange::ChangedQuestion, question_word(counts)),
            (CaseChange::Gone, "only in the first run"),
            (CaseChange::New, "only in the second run"),
        ];
        let counted = apart.map(|(change, words)| (counts.count(change), words));
        let parts: Vec<String> =
            counted.iter().filter(|(n, _)| *n > 0).map(|(n, words)| format!("{n} {words}")).collect();
        if !parts.is_empty() {
            said.push(format!("Not compared: {}.", parts.join(", ")));
        }
        if self.paths[0] == self.paths[1] {
            said.push("Both runs are the same record.".to_owned());
        }
        said
    }

    /// What a list of cases is called.
    fn heading(&self, change: CaseChange) -> &'static str {
        let is_part = |side: Side<'_>| side.run.made.selected.is_some();
        match change {
            CaseChange::NewlyBroken => "newly broken: passed before, fails now",
            CaseChange::Fixed => "fixed: failed before, passes now",
            CaseChange::Changed => "changed: the same verdict, another answer",
            CaseChange::Same => "the same",
            CaseChange::NotEvaluated => "not evaluated: a run has no answer to judge",
            CaseChange::ChangedQuestion => "changed question: not compared",
            CaseChange::Gone if is_part(self.comparison.after) => "only in the first run; the second ran a part",
            CaseChange::Gone => "gone: only in the first run",
            CaseChange::New if is_part(self.comparison.before) => "only in the second run; the first ran a part",
            CaseChange::New => "new: only in the second run",
        }
    }

    /// Retention and drift of both runs, and what else differs: a label and both values.
    fn about(&self) -> Vec<About> {
        let comparison = self.comparison;
        let sides = [comparison.before, comparison.after];
        let mut all = Vec::new();
        let mut add = |label: &'static str, [before, after]: [String; 2]| all.push(About { label, before, after });
        add("run", self.paths.map(str::to_owned));
        let made = sides.map(|side| made(side.run).unwrap_or_else(|| "unknown".to_owned()));
        add("made", made);
        if sides.iter().any(|side| side.retention.is_some()) {
            let counts = &comparison.control.counts;
            let apart = [CaseChange::Gone, CaseChange::New, CaseChange::ChangedQuestion].map(|c| counts.count(c));
            // Shares of different cases are not one quantity.
            let of = if apart == [0; 3] { "" } else { " of its own control cases" };
            add("retention", sides.map(|side| format!("{}{of}", retention(side))));
        }
        match comparison.drift() {
            DriftPair::NotMeasured => {}
            DriftPair::Comparable | DriftPair::OnlyOne => add("drift", sides.map(|side| moved(side.drift))),
            DriftPair::OtherMethod => add("drift", sides.map(|side| by(side.drift, "not compared: measured by"))),
            DriftPair::OtherText => add("drift", sides.map(|side| on(side.drift))),
        }
        for note in &comparison.notes {
            add(note.what, [note.before.clone(), note.after.clone()]);
        }
        all
    }
}

/// A label and what both runs say to it.
struct About {
    label: &'static str,
    before: String,
    after: String,
}

/// `88.7 % (47/53)`.
fn retention(side: Side<'_>) -> String {
    let Some(rate) = side.retention.filter(|rate| rate.evaluated > 0) else { return "unknown".to_owned() };
    format!("{} ({}/{})", share(&rate), rate.passed, rate.evaluated)
}

fn moved(measured: Option<&Drift>) -> String {
    measured.map_or_else(|| "not measured".to_owned(), drift)
}

/// Drift by another method is another quantity: its value beside the other run's would be read as a change.
fn by(measured: Option<&Drift>, words: &str) -> String {
    measured.map_or_else(|| "not measured".to_owned(), |drift| format!("{words} {}", drift.method))
}

fn on(measured: Option<&Drift>) -> String {
    measured.map_or_else(|| "not measured".to_owned(), |drift| format!("not compared: measured on {}", drift.source))
}

/// `difference +12.5 points [-3, +28]`.
fn difference(total: &Total) -> String {
    let words = |difference: PairedGain| {
        format!("difference {} {}", points(difference.gain), interval(Unit::Difference, difference.interval))
    };
    total.difference.map_or_else(|| "difference unknown".to_owned(), words)
}

/// Goes with the number of changed questions.
fn question_word(counts: &Counts) -> &'static str {
    if counts.count(CaseChange::ChangedQuestion) == 1 { "question changed" } else { "questions changed" }
}

/// What a scenario's cases became, but for the same: how many, and the word for it.
fn parts(counts: &Counts) -> Vec<(CaseChange, usize, &'static str)> {
    let all = [
        (CaseChange::NewlyBroken, "newly broken"),
        (CaseChange::Fixed, "fixed"),
        (CaseChange::Changed, "changed"),
        (CaseChange::NotEvaluated, "not evaluated"),
        (CaseChange::ChangedQuestion, question_word(counts)),
        (CaseChange::Gone, "gone"),
        (CaseChange::New, "new"),
    ];
    let counted = all.map(|(change, word)| (change, counts.count(change), word));
    counted.into_iter().filter(|(_, n, _)| *n > 0).collect()
}

/// A case that is shown with both answers.
struct CaseView<'a> {
    compared: &'a ComparedCase<'a>,
    test: String,
    /// `scenarios/facts.toml:7`, where the line is known.
    place: Option<String>,
    question: Vec<&'a str>,
    /// The earlier and the later answer; empty where there is none.
    texts: [&'a str; 2],
    /// Which turn they are of, where that is not the last one.
    turn: Option<usize>,
    /// Why it fails: of the run that fails it, the later one if both do.
    failures: Vec<FailureShown>,
    /// Whether `failures` are the earlier run's.
    failed_before: bool,
    /// `before: 2 of 5 samples pass`.
    samples: Vec<String>,
    /// Which of the answers hang on a near-tie between two tokens.
    near_ties: Vec<&'static str>,
}

impl<'a> CaseView<'a> {
    fn of(compared: &'a ComparedCase<'a>) -> Self {
        let (case, shown) = (compared.case, compared.shown());
        let failures = shown.samples.map(|sample| sample.map(|s| failures_shown(case, s)).unwrap_or_default());
        let [before, after] = failures;
        let failed_before = compared.change == CaseChange::Fixed;
        let last = shown.samples.iter().flatten().map(|sample| sample.turns.len()).max().unwrap_or(0);
        let sides = [("before", compared.before), ("now", compared.after)];
        let counted = |(name, answer): (&str, Option<&Answer>)| {
            let answer = answer.filter(|answer| answer.samples.len() > 1)?;
            Some(format!("{name}: {} of {} samples pass", answer.passed(), answer.samples.len()))
        };
        let near = |at: usize| shown.samples[at].is_some_and(|s| s.turns.iter().any(|turn| turn.near_ties > 0));
        let names = ["before", "now"];
        Self {
            compared,
            test: compared.test(),
            place: case.line.map(|line| format!("{}:{line}", compared.scenario.path)),
            question: question(case),
            texts: shown.texts().map(Option::unwrap_or_default),
            turn: (shown.turn + 1 < last).then_some(shown.turn + 1),
            failures: if failed_before { before } else { after },
            failed_before,
            samples: sides.into_iter().filter_map(counted).collect(),
            near_ties: (0..2).filter(|at| near(*at)).map(|at| names[at]).collect(),
        }
    }
}

/// Why a case is not compared, or where it is: what stands behind its name in a list.
fn why_apart(case: &ComparedCase<'_>) -> String {
    let error = |answer: Option<&Answer>| answer.and_then(|answer| answer.error()).map(str::to_owned);
    match case.change {
        CaseChange::ChangedQuestion => {
            let differ = case.differences.iter().map(Difference::to_string).collect::<Vec<_>>().join(", ");
            format!("changed: {differ}")
        }
        CaseChange::NotEvaluated => {
            let sides = [("before", case.before), ("now", case.after)];
            let verdicts = case.verdicts();
            let open = sides.into_iter().zip(verdicts).filter(|(_, v)| *v == Verdict::NotEvaluated);
            let words = |((when, answer), _): ((&str, Option<&Answer>), _)| match error(answer) {
                Some(error) => format!("{when}: {error}"),
                None => format!("{when}: no answer"),
            };
            open.map(words).collect::<Vec<_>>().join("; ")
        }
        CaseChange::Gone | CaseChange::New => {
            let verdicts = case.verdicts();
            let verdict = if case.change == CaseChange::Gone { verdicts[0] } else { verdicts[1] };
            verdict_word(verdict).to_owned()
        }
        _ => String::new(),
    }
}

fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "failed",
        Verdict::NotEvaluated => "not evaluated",
    }
}

const ROLES: [Role; 2] = [Role::Target, Role::Control];
/// The lists of cases that are shown with both answers, and those that are only named.
const SHOWN: [CaseChange; 3] = [CaseChange::NewlyBroken, CaseChange::Fixed, CaseChange::Changed];
const NAMED: [CaseChange; 4] =
    [CaseChange::NotEvaluated, CaseChange::ChangedQuestion, CaseChange::Gone, CaseChange::New];
