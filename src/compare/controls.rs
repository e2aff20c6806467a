//! What a fine-tune did to the controls: every measure of it over questions, with limits that say how sure it is.
//!
//! All controls count, not only those that base passes: a control that is chosen because base passes it can only be lost, so that harmless
//! jitter alone looks like a loss. A *question* is a case with its paraphrases; questions are the clusters of all limits here.

use std::collections::HashMap;

use super::stats::{
    self, ALPHA, ClusteredMean, ClusteredShare, FlipTable, PositiveMean, clustered_mean, clustered_share, mean,
    mean_and_sd, positive_mean, tango_paired,
};
use crate::record::{BASE, CaseRecord, Interval, Noise, Role, RunRecord, ScenarioRecord, Verdict};

/// Controls from which on it is no chance that base passes all of them.
const SELECTED: usize = 10;
/// Questions from which on their spread says anything.
const MIN_QUESTIONS: usize = 4;
/// A question is out of reach when base's margin is lower than this many standard deviations of what margins changed by.
const REACH: f64 = 3.0;

/// A control question: a case, or a case with its paraphrases.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// Its scenario.
    pub scenario: &'a ScenarioRecord,
    /// Its cases, the first named one first.
    pub cases: Vec<&'a CaseRecord>,
    /// Whether it cannot be lost or won: both arms fail it however it is asked, and far from otherwise.
    pub dead: bool,
}

impl Question<'_> {
    /// Whether an arm fails every case of it, further from passing than changes of this standard deviation reach.
    #[must_use]
    pub fn is_out_of_reach(&self, arm: &str, spread: f64) -> bool {
        is_dead(self, arm, spread)
    }

    /// `control::facts::germany`.
    #[must_use]
    pub fn name(&self) -> String {
        self.scenario.test_name(self.cases[0])
    }
}

/// The change of pass rate on all live controls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NetLoss {
    /// (broken − fixed) / pairs; positive is worse.
    pub loss: f64,
    /// Limits with an error of 5 % on each side.
    pub limits: Interval,
    /// The pairs' verdicts.
    pub table: FlipTable,
}

/// Controls of one arm against base.
#[derive(Clone, Debug)]
pub struct Controls<'a> {
    /// All of them, in the run's order.
    pub questions: Vec<Question<'a>>,
    /// Drift in nats/token, a mean over questions, of the mean over a question's cases of the mean over positions; `None` where it was not
    /// measured by divergences.
    pub drift: Option<PositiveMean>,
    /// The mean change of [`Choice::loss`](crate::record::Choice::loss) in nats, over cases with their questions as clusters; positive is
    /// worse. `None` without choices.
    pub choice_loss: Option<ClusteredMean>,
    /// Standard deviation of that change between questions.
    pub choice_sd: f64,
    /// `None` without a live pair.
    pub net: Option<NetLoss>,
    /// Of the pairs that base passes, those that the arm passes too.
    pub retention: Option<ClusteredShare>,
    /// Flips that guessing alone would make among cases that only choose, as a share of them; `None` without such cases.
    pub guessing: Option<f64>,
    /// Of the paraphrases of a question that base passes in other words, the share that base itself fails: what rephrasing alone would
    /// cost. `None` without paraphrases.
    pub rephrasing: Option<f64>,
    /// What the answers differ by themselves; `None` where they cannot, or were not asked again.
    pub noise: Option<Noise>,
}

impl<'a> Controls<'a> {
    /// The controls of `arm`.
    #[must_use]
    pub fn of(run: &'a RunRecord, arm: &str) -> Self {
        let mut questions = questions(run);
        let changes: Vec<Vec<f64>> = questions.iter().map(|question| choice_changes(question, arm)).collect();
        let choice_loss = clustered_mean(&changes);
        let means: Vec<f64> = changes.iter().filter(|c| !c.is_empty()).map(|c| mean(c)).collect();
        let choice_sd = mean_and_sd(&means).1;
        questions.iter_mut().for_each(|question| question.dead = is_dead(question, arm, choice_sd));
        Self {
            drift: drift(run, arm, &questions),
            choice_loss,
            choice_sd,
            net: net(&questions, arm),
            retention: retention(&questions, arm),
            guessing: guessing(&questions, arm),
            rephrasing: rephrasing(&questions),
            noise: run.noise(arm),
            questions,
        }
    }

    /// Whether base passes every control: they may have been chosen for that, and then even a harmless change loses some and gains none.
    #[must_use]
    pub fn all_pass(&self) -> bool {
        self.net.is_some_and(|net| net.table.fixed + net.table.neither == 0 && net.table.pairs() >= SELECTED)
    }

    /// Questions that cannot be lost or won.
    pub fn dead(&self) -> impl Iterator<Item = &Question<'a>> {
        self.questions.iter().filter(|question| question.dead)
    }

    /// The live pairs of each scenario, in the run's order.
    #[must_use]
    pub fn flips_by_scenario(&self, arm: &str) -> Vec<(&'a ScenarioRecord, FlipTable)> {
        // The questions of a scenario stand together.
        let scenarios = self.questions.chunk_by(|a, b| std::ptr::eq(a.scenario, b.scenario));
        let table = |own: &[Question<'a>]| {
            let live = own.iter().filter(|question| !question.dead).flat_map(|question| &question.cases);
            (own[0].scenario, live.filter_map(|case| pair(case, arm)).collect())
        };
        scenarios.map(table).collect()
    }
}

/// The control cases of a run, those of a family together.
fn questions(run: &RunRecord) -> Vec<Question<'_>> {
    let mut questions: Vec<Question<'_>> = Vec::new();
    for scenario in run.scenarios.iter().filter(|scenario| scenario.role == Role::Control) {
        let mut families: HashMap<&str, usize> = HashMap::new();
        for case in &scenario.cases {
            let known = case.family.as_deref().and_then(|family| families.get(family).copied());
            match known {
                Some(at) => questions[at].cases.push(case),
                None => {
                    families.extend(case.family.as_deref().map(|family| (family, questions.len())));
                    questions.push(Question { scenario, cases: vec![case], dead: false });
                }
            }
        }
    }
    questions
}

/// A case's verdicts of base and an arm, when both have one: whether they pass.
fn pair(case: &CaseRecord, arm: &str) -> Option<(bool, bool)> {
    let passes = |arm: &str| match case.verdict(arm) {
        Verdict::Passed => Some(true),
        Verdict::Failed => Some(false),
        Verdict::NotEvaluated => None,
    };
    Some((passes(BASE)?, passes(arm)?))
}

/// Mean loss of a case's choices by an arm.
fn choice_loss(case: &CaseRecord, arm: &str) -> Option<f64> {
    let scores = &case.answers.get(arm)?.samples.first()?.turns.first()?.choices;
    let losses: Vec<f64> = case.choices.iter().map(|choice| choice.loss(scores)).collect::<Option<_>>()?;
    (!losses.is_empty()).then(|| mean(&losses))
}

fn choice_changes(question: &Question<'_>, arm: &str) -> Vec<f64> {
    let change = |case: &&CaseRecord| Some(choice_loss(case, arm)? - choice_loss(case, BASE)?);
    question.cases.iter().filter_map(change).collect()
}

/// Whether both arms fail every case of a question, and no case was near to being passed: base is sure of a wrong choice, or fails in several
/// wordings.
fn is_dead(question: &Question<'_>, arm: &str, spread: f64) -> bool {
    let pairs: Vec<(bool, bool)> = question.cases.iter().filter_map(|case| pair(case, arm)).collect();
    if pairs.is_empty() || pairs.iter().any(|(base, tuned)| *base || *tuned) {
        return false;
    }
    let losses: Vec<f64> = question.cases.iter().filter_map(|case| choice_loss(case, BASE)).collect();
    // Where the loss is ln 2 the right one is as likely as all others together.
    let far = losses.iter().all(|loss| *loss > std::f64::consts::LN_2 + REACH * spread);
    if losses.is_empty() { pairs.len() > 1 } else { far }
}

fn net(questions: &[Question<'_>], arm: &str) -> Option<NetLoss> {
    let live = questions.iter().filter(|question| !question.dead);
    let pairs: Vec<Vec<(bool, bool)>> = live
        .map(|q| q.cases.iter().filter_map(|case| pair(case, arm)).collect())
        .filter(|p: &Vec<_>| !p.is_empty())
        .collect();
    let table: FlipTable = pairs.iter().flatten().copied().collect();
    let score = tango_paired(&table, ALPHA)?;
    let mut limits = Interval { low: -score.high, high: -score.low };
    // Paraphrases flip together: their questions may be fewer than they look.
    if pairs.len() < table.pairs() && pairs.len() >= MIN_QUESTIONS {
        let loss = |(base, tuned): &(bool, bool)| f64::from(i8::from(*base) - i8::from(*tuned));
        let losses: Vec<Vec<f64>> = pairs.iter().map(|p| p.iter().map(loss).collect()).collect();
        if let Some(clustered) = clustered_mean(&losses).and_then(|mean| mean.interval(ALPHA)) {
            limits.low = limits.low.min(clustered.low).max(-1.0);
            limits.high = limits.high.max(clustered.high).min(1.0);
        }
    }
    Some(NetLoss { loss: -table.net()?, limits, table })
}

fn retention(questions: &[Question<'_>], arm: &str) -> Option<ClusteredShare> {
    let kept = |question: &Question<'_>| {
        let pairs = question.cases.iter().filter_map(|case| pair(case, arm));
        pairs.filter(|(base, _)| *base).map(|(_, tuned)| tuned).collect::<Vec<bool>>()
    };
    clustered_share(&questions.iter().map(kept).filter(|kept| !kept.is_empty()).collect::<Vec<_>>())
}

/// Expected flips by guessing among the cases whose verdict is a choice and nothing else.
fn guessing(questions: &[Question<'_>], arm: &str) -> Option<f64> {
    let chooses = |case: &&&CaseRecord| !case.choices.is_empty() && case.choices.len() == case.checks.len();
    let cases: Vec<&CaseRecord> = questions.iter().flat_map(|q| &q.cases).filter(chooses).copied().collect();
    let pairs: Vec<(bool, bool)> = cases.iter().filter_map(|case| pair(case, arm)).collect();
    let n = pairs.len() as f64;
    let share = |passes: fn(&(bool, bool)) -> bool| pairs.iter().filter(|pair| passes(pair)).count() as f64 / n;
    let options = cases.iter().flat_map(|case| &case.choices).map(|choice| choice.others.len() + 1).min()?;
    (!pairs.is_empty()).then(|| chance_flips(share(|pair| pair.0), share(|pair| pair.1), options))
}

fn rephrasing(questions: &[Question<'_>]) -> Option<f64> {
    let (mut failed, mut asked) = (0_usize, 0_usize);
    for question in questions {
        let verdicts: Vec<bool> = question
            .cases
            .iter()
            .map(|case| case.verdict(BASE))
            .filter(|verdict| *verdict != Verdict::NotEvaluated)
            .map(|verdict| verdict == Verdict::Passed)
            .collect();
        let passed = verdicts.iter().filter(|passed| **passed).count();
        failed += passed * (verdicts.len() - passed);
        asked += passed * verdicts.len().saturating_sub(1);
    }
    (asked > 0).then(|| failed as f64 / asked as f64)
}

/// Mean drift of each text by its name.
fn drift_by_text<'r>(run: &'r RunRecord, arm: &str) -> Option<HashMap<&'r str, f64>> {
    let drift = run.drift.get(arm)?;
    drift.kl?;
    Some(drift.texts.iter().filter_map(|text| Some((text.text.as_str(), text.kl()?))).collect())
}

/// A value for each question: the mean of what its cases' texts have. What was found is taken out of `texts`.
fn drift_of_questions(texts: &mut HashMap<&str, f64>, questions: &[Question<'_>]) -> Vec<f64> {
    let mut values = Vec::new();
    for question in questions {
        let mut own = Vec::new();
        for case in &question.cases {
            let name = question.scenario.test_name(case);
            own.extend(texts.remove(name.as_str()));
            for turn in 1..=case.follow_ups.len() {
                own.extend(texts.remove(format!("{name}, turn {}", turn + 1).as_str()));
            }
        }
        if !own.is_empty() {
            values.push(mean(&own));
        }
    }
    values
}

/// Drift over questions, and over the stretches of the project's own text.
fn drift(run: &RunRecord, arm: &str, questions: &[Question<'_>]) -> Option<PositiveMean> {
    let mut texts = drift_by_text(run, arm)?;
    let mut values = drift_of_questions(&mut texts, questions);
    let mut others: Vec<(&str, f64)> = texts.into_iter().collect();
    others.sort_by(|a, b| a.0.cmp(b.0));
    values.extend(others.into_iter().map(|(_, value)| value));
    positive_mean(&values)
}

/// Flips that guessing alone makes among multiple-choice questions: of the cases that base passes by guessing right, those that the arm
/// guesses wrong.
///
/// Who does not know guesses, and of k options a wrong guess is k − 1 times as frequent as a right one: of cases with accuracy a the share (1 − a)/(k
/// − 1) is guessed right.
#[must_use]
pub fn chance_flips(base: f64, arm: f64, options: usize) -> f64 {
    if options < 2 {
        return 0.0;
    }
    (1.0 - base).max(0.0) / (options - 1) as f64 * (1.0 - arm).max(0.0)
}

/// Questions that more would be needed for the same choice loss to be shown above or below `threshold`.
#[must_use]
pub fn questions_to_show(mean: f64, sd: f64, threshold: f64) -> Option<usize> {
    let distance = (mean - threshold).abs();
    if !(distance > 0.0 && sd.is_finite() && sd > 0.0) {
        return None;
    }
    let n = (stats::Z_95_ONE_SIDED * sd / distance).powi(2).ceil();
    (n < 1e6).then_some(n as usize)
}

#[cfg(test)]
mod tests;
