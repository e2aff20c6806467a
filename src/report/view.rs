//! What a report says, as numbers and enums: terminal, Markdown and JUnit draw it, each in its own way.

use crate::compare::{Comparison, FailureShown, FlipKind, ScenarioRow, Tally, failures_shown};
use crate::record::{
    Answer, BASE, CaseRecord, Decision, Drift, Ending, MovedToken, Proof, Role, Rule, RunRecord, ScenarioRecord,
    Selected, Verdict,
};
use crate::report::controls::ControlsView;
use crate::report::{Report, controls_sentence};

/// Lines of a question that are shown beside a case's name.
const QUESTION_LINES: usize = 2;

/// A run, ready to be drawn.
pub(super) struct View<'a> {
    pub(super) run: &'a RunRecord,
    pub(super) ending: Ending,
    /// The decision in a line.
    pub(super) summary: String,
    /// What the arms did, in a sentence or two.
    pub(super) sentences: Vec<String>,
    /// The arm that is judged first, and the others.
    pub(super) arms: Vec<ArmView<'a>>,
    pub(super) rules: Vec<RuleView<'a>>,
    /// What happened to the controls of each arm that is gated.
    pub(super) controls: Vec<ControlsView<'a>>,
    /// What could not be computed: what, and why.
    pub(super) errors: Vec<(String, String)>,
    /// Cases that an arm has no answer to, by scenario.
    pub(super) open: Vec<Group<'a>>,
    /// What to do next: what for, and the command or the file.
    pub(super) next: Vec<(&'static str, String)>,
    /// Lines of a `[gate]` that this run just passes, where there is no threshold.
    pub(super) thresholds: Vec<String>,
}

/// One arm against base.
pub(super) struct ArmView<'a> {
    pub(super) name: &'a str,
    pub(super) comparison: &'a Comparison<'a>,
    pub(super) drift: Option<&'a Drift>,
    pub(super) proof: Option<&'a Proof>,
    /// Cases that base passes and this arm fails, control cases first.
    pub(super) broken: Vec<CaseView<'a>>,
    /// Target cases that it fails as base does.
    pub(super) failed_targets: Vec<CaseView<'a>>,
    /// Cases that base fails and it passes, by scenario.
    pub(super) fixed: Vec<Group<'a>>,
}

/// A rule of the gate, and what is said about it.
pub(super) struct RuleView<'a> {
    pub(super) rule: &'a Rule,
    /// `10/13`, where it is a share of cases.
    pub(super) counts: Option<String>,
}

/// So many cases of one scenario.
pub(super) struct Group<'a> {
    pub(super) scenario: &'a ScenarioRecord,
    pub(super) cases: Vec<&'a CaseRecord>,
}

/// A case of two arms.
pub(super) struct CaseView<'a> {
    pub(super) scenario: &'a ScenarioRecord,
    pub(super) case: &'a CaseRecord,
    pub(super) test: String,
    /// The end of what was asked: that is where the question stands.
    pub(super) question: Vec<&'a str>,
    pub(super) failures: Vec<FailureShown>,
    pub(super) base: &'a str,
    pub(super) tuned: &'a str,
    /// Name of the arm that answered `tuned`.
    pub(super) tuned_arm: &'a str,
    /// `2 of 5 samples pass`, of an arm with several.
    pub(super) samples: Vec<String>,
    /// Arms whose answer is unstable between two tokens.
    pub(super) near_ties: Vec<&'a str>,
    /// Where the arm leaves base's answer.
    pub(super) divergence: Option<&'a MovedToken>,
}

impl<'a> View<'a> {
    pub(super) fn of(report: &Report<'a>) -> Self {
        let Report { run, comparisons, decision, .. } = *report;
        let errors = run.all_errors().iter().map(|error| (error.what(), error.why().to_owned())).collect();
        let ending = decision.ending();
        let arms: Vec<ArmView<'a>> = comparisons.iter().map(|comparison| ArmView::of(run, comparison)).collect();
        let judged = arms.first().filter(|_| ending == Ending::NotGated);
        Self {
            thresholds: judged.map(|arm| thresholds(arm, decision)).unwrap_or_default(),
            run,
            ending,
            summary: decision.summary(),
            sentences: partial(run)
                .into_iter()
                .chain(comparisons.first().map(sentences).unwrap_or_default())
                .chain(decision.controls.iter().map(controls_sentence))
                .collect(),
            controls: ControlsView::all(run, comparisons, decision),
            arms,
            rules: decision.rules.iter().map(|rule| RuleView::of(rule, comparisons)).collect(),
            errors,
            open: grouped(run.cases().filter(|(_, case)| open(case, comparisons))),
            next: next(report, ending),
        }
    }

    /// The arm that is judged first.
    pub(super) fn main(&self) -> Option<&ArmView<'a>> {
        self.arms.first()
    }
}

impl<'a> ArmView<'a> {
    fn of(run: &'a RunRecord, comparison: &'a Comparison<'a>) -> Self {
        let arm = comparison.tuned.as_str();
        let flips = |kind, role| {
            let of = comparison.flips.iter().filter(move |flip| flip.kind == kind && flip.scenario.role == role);
            of.map(|flip| (flip.scenario, flip.case))
        };
        let both_fail = |(scenario, case): &(&ScenarioRecord, &CaseRecord)| {
            scenario.role == Role::Target
                && case.verdict(arm) == Verdict::Failed
                && case.verdict(&comparison.base) != Verdict::Passed
        };
        let view = |(scenario, case)| CaseView::of(run, scenario, case, comparison);
        let broken = flips(FlipKind::Broken, Role::Control).chain(flips(FlipKind::Broken, Role::Target));
        Self {
            name: arm,
            comparison,
            drift: run.drift.get(arm),
            proof: run.proof.get(arm),
            broken: broken.map(view).collect(),
            failed_targets: run.cases().filter(both_fail).map(view).collect(),
            fixed: grouped(flips(FlipKind::Fixed, Role::Target).chain(flips(FlipKind::Fixed, Role::Control))),
        }
    }

    /// Its rows of a role.
    pub(super) fn rows(&self, role: Role) -> impl Iterator<Item = &ScenarioRow<'a>> {
        self.comparison.scenarios.iter().filter(move |row| row.scenario.role == role)
    }
}

impl<'a> RuleView<'a> {
    fn of(rule: &'a Rule, comparisons: &[Comparison<'_>]) -> Self {
        let of_arm = comparisons.iter().find(|comparison| comparison.tuned == rule.arm);
        let counts = of_arm.and_then(|comparison| {
            let rate = match rule.name.as_str() {
                "min_target_pass_rate" => comparison.target.tuned,
                "min_retention" => comparison.control.retention(),
                _ => return None,
            };
            Some(format!("{}/{}", rate.passed, rate.evaluated))
        });
        Self { rule, counts }
    }
}

impl<'a> CaseView<'a> {
    fn of(
        run: &'a RunRecord,
        scenario: &'a ScenarioRecord,
        case: &'a CaseRecord,
        comparison: &'a Comparison<'a>,
    ) -> Self {
        let arms: [&'a str; 2] = [comparison.base.as_str(), comparison.tuned.as_str()];
        let answer = |arm: &str| case.answers.get(arm);
        let shown = answer(arms[1]).and_then(Answer::shown);
        let counted = |arm: &&str| {
            let answer = answer(arm).filter(|answer| answer.samples.len() > 1)?;
            Some(format!("{arm}: {} of {} samples pass", answer.passed(), answer.samples.len()))
        };
        let close = |arm: &&str| answer(arm).and_then(Answer::completion).is_some_and(|c| c.near_ties > 0);
        let test = scenario.test_name(case);
        let drift = match scenario.role {
            Role::Control => &run.drift,
            Role::Target => &run.target_drift,
        };
        let text = drift.get(arms[1]).and_then(|drift| drift.texts.iter().find(|text| text.text == test));
        Self {
            divergence: text.and_then(|text| text.divergence.as_ref()),
            scenario,
            case,
            test,
            question: question(case),
            failures: shown.map(|sample| failures_shown(case, sample)).unwrap_or_default(),
            base: case.text(arms[0]).unwrap_or(""),
            tuned: case.text(arms[1]).unwrap_or(""),
            tuned_arm: arms[1],
            samples: arms.iter().filter_map(counted).collect(),
            near_ties: arms.into_iter().filter(close).collect(),
        }
    }
}

/// The last lines of what the user said last.
pub(super) fn question(case: &CaseRecord) -> Vec<&str> {
    let text = case.follow_ups.last().map_or_else(|| case.prompt.headline(), String::as_str);
    let mut lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.drain(..lines.len().saturating_sub(QUESTION_LINES));
    lines
}

/// All that was asked: the prompt, and the turns after it.
pub(super) fn asked(case: &CaseRecord) -> String {
    let then = case.follow_ups.iter().map(|next| format!("then: {next}"));
    std::iter::once(case.prompt.to_string()).chain(then).collect::<Vec<_>>().join("\n")
}

fn open(case: &CaseRecord, comparisons: &[Comparison<'_>]) -> bool {
    let arms = comparisons.iter().map(|comparison| comparison.tuned.as_str());
    arms.chain([BASE]).any(|arm| case.verdict(arm) == Verdict::NotEvaluated)
}

fn grouped<'a>(cases: impl Iterator<Item = (&'a ScenarioRecord, &'a CaseRecord)>) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    for (scenario, case) in cases {
        match groups.last_mut().filter(|group| std::ptr::eq(group.scenario, scenario)) {
            Some(group) => group.cases.push(case),
            None => groups.push(Group { scenario, cases: vec![case] }),
        }
    }
    groups
}

/// That only a part of the cases was run.
fn partial(run: &RunRecord) -> Option<String> {
    let Selected { filter, cases, of } = run.made.selected.as_ref()?;
    Some(format!("Only {cases} of {of} cases were run: {filter}."))
}

/// What both arms did, in words.
fn sentences(comparison: &Comparison<'_>) -> Vec<String> {
    let Comparison { base, tuned, target, control, .. } = comparison;
    let plural = |n: usize, one: &'static str, more: &'static str| if n == 1 { one } else { more };
    let mut said = Vec::new();
    if target.cases > 0 {
        let cases = plural(target.cases, "case", "cases");
        let (of, ours, theirs) = (target.cases, target.tuned.passed, target.base.passed);
        said.push(format!("Of {of} target {cases} {tuned} passes {ours}, and {base} {theirs}."));
    }
    if control.cases > 0 {
        let Tally { kept, broken, fixed, .. } = *control;
        let passable = kept + broken;
        let cases = plural(passable, "case", "cases");
        let are = plural(broken, "is", "are");
        let gained =
            if fixed > 0 { format!(", and {fixed} more {} fixed", plural(fixed, "is", "are")) } else { String::new() };
        said.push(format!(
            "Of {passable} control {cases} that {base} passes {tuned} keeps {kept}: {broken} {are} broken{gained}."
        ));
    }
    said
}

/// A `[gate]` with what was measured, each value rounded to where the run still passes.
fn thresholds(arm: &ArmView<'_>, decision: &Decision) -> Vec<String> {
    let comparison = arm.comparison;
    let down = |value: f64| (value * 100.0 + 1e-9).floor() / 100.0;
    let mut lines = vec!["[gate]".to_owned()];
    if let Some(gain) = comparison.gain {
        lines.push(format!("min_target_gain = {:.2}", down(gain.gain)));
    }
    if let Some(retention) = comparison.control.retention().share() {
        lines.push(format!("min_retention = {:.2}", down(retention)));
    }
    // What the rule measures, not the mean over tokens.
    if let Some(drift) =
        decision.controls.iter().filter(|c| c.arm == arm.name).flat_map(|c| &c.measures).find(|m| m.name == "drift")
    {
        lines.push(format!("max_drift = {:.3}", (drift.measured * 1000.0 - 1e-9).ceil() / 1000.0));
    }
    if lines.len() == 1 { Vec::new() } else { lines }
}

fn next(report: &Report<'_>, ending: Ending) -> Vec<(&'static str, String)> {
    let file = |label: &str| report.files.iter().find(|(name, _)| name == label).map(|(_, path)| path.clone());
    let record = file("record").or_else(|| file("run"));
    let mut next = Vec::new();
    next.extend(file("report").map(|path| ("every broken case, whole:", path)));
    match (ending, record) {
        (Ending::NotGated, Some(record)) => {
            next.push(("set thresholds in the manifest, then:", format!("finetest gate {record}")));
        }
        (Ending::Failed, Some(record)) => {
            next.push(("after a change of [gate], without asking again:", format!("finetest gate {record}")));
        }
        (Ending::Incomplete, _) => next.push(("to compute what is missing:", "the same command again".to_owned())),
        _ => {}
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::fixture::{self, F, P};
    use crate::record::{Message, Prompt};

    #[test]
    fn the_question_is_the_end_of_what_was_asked() {
        let mut case = fixture::case("one", "$ gcc -c a.c\n\na.c:3: error\nWhat is wrong?\n", (P, "a"), (F, "b"));
        assert_eq!(question(&case), ["a.c:3: error", "What is wrong?"]);
        case.follow_ups = vec!["And now?".into()];
        assert_eq!(question(&case), ["And now?"]);
        case.prompt = Prompt::Messages(vec![Message::new("system", "Be brief."), Message::new("user", "Hello")]);
        assert_eq!(asked(&case), "system: Be brief.\nuser: Hello\nthen: And now?");
    }
}
