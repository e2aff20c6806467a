//! Two backends on the same base, adapter and scenarios: what differs is the serving, not the fine-tune.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::record::DriftSample;
use crate::record::{CaseRecord, RunRecord, Verdict};

/// Two tokens of which neither is likelier than the other by more, in nats, are a near-tie: arithmetic in another order or with
/// 8-bit activations, as llama.cpp's, decides between them.
pub const NEAR_TIE: f64 = 0.25;
/// Differing texts, answers and verdicts that are listed; all are counted.
const LISTED: usize = 20;

/// What two backends must have in common.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Limits {
    /// Least share of positions with the same most likely token, of each arm.
    pub min_same_top1: f64,
    /// Most of the mean KL(reference ‖ other) of each arm, nats/token; none unless it is asked for.
    pub max_kl: Option<f64>,
    /// Most cases of an arm whose verdict differs.
    pub max_flips: usize,
    /// Most hard texts that are tokenized differently; of the prompts that are asked, none may be.
    pub max_texts: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { min_same_top1: 0.99, max_kl: None, max_flips: 0, max_texts: 0 }
    }
}

/// How two backends are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct How {
    /// The other one ran on the weights in f32, so that it rounds no activations.
    pub exact: bool,
    /// The other one shows distributions over given text.
    pub distributions: bool,
    /// It shows the most likely tokens only: the KL divergence is at least the one given.
    pub at_least: bool,
}

/// Two backends compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CrossCheck {
    /// Both, with their versions; the first is the reference.
    pub backends: [String; 2],
    /// How they were compared.
    #[serde(flatten)]
    pub how: How,
    /// What they must have in common.
    pub limits: Limits,
    /// The tokenisers, on texts that are hard to tokenise; none where the other one does not tell its tokens.
    pub texts: Option<TokenCheck>,
    /// The same, on every case's prompt as the chat template renders it.
    pub prompts: Option<TokenCheck>,
    /// The chat template, by finetest's Jinja and by the form that the other has built in; none without a template. It is reported and no
    /// reason to fail: prompts are rendered by finetest, and servers render with Jinja too.
    pub template: Option<TemplateCheck>,
    /// Each arm's answers and distributions.
    pub arms: Vec<ArmCheck>,
    /// Cases whose verdict differs.
    pub flips: Vec<VerdictFlip>,
    /// What one of them could not compute, and why: it is compared nowhere, and the rest is.
    pub errors: BTreeMap<String, String>,
    /// Nothing is beyond its limit, and nothing is missing.
    pub passed: bool,
}

/// A chat template rendered twice.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TemplateCheck {
    /// How many conversations.
    pub conversations: usize,
    /// How many the other one has no form of its own for.
    pub unknown: usize,
    /// How many become other texts.
    pub different: usize,
    /// The first of those: the reference's text from where they part, and the other's.
    pub first: Option<[String; 2]>,
}

impl TemplateCheck {
    /// Compares texts of conversations: of the reference, and of the other where it has one.
    #[must_use]
    pub fn of(texts: &[(String, Option<String>)]) -> Self {
        let mut check = Self { conversations: texts.len(), ..Self::default() };
        for (ours, theirs) in texts {
            let Some(theirs) = theirs else {
                check.unknown += 1;
                continue;
            };
            if ours != theirs {
                check.different += 1;
                let rest = |text: &str, at: usize| text.chars().skip(at).collect();
                let at = ours.chars().zip(theirs.chars()).take_while(|(a, b)| a == b).count();
                check.first.get_or_insert_with(|| [rest(ours, at), rest(theirs, at)]);
            }
        }
        check
    }
}

/// Two tokenisers on the same texts.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TokenCheck {
    /// How many.
    pub texts: usize,
    /// How many are tokenized differently.
    pub different: usize,
    /// The first of those.
    pub examples: Vec<TokenDifference>,
}

/// A text that two tokenisers tokenized differently.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenDifference {
    /// The text.
    pub text: String,
    /// The first token that differs, counted from 0.
    pub at: usize,
    /// What each has there; nothing where its tokens end.
    pub tokens: [Option<Token>; 2],
}

/// A token, and what it spells alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Token {
    /// Its number in the vocabulary.
    pub id: u32,
    /// Its text; as the vocabulary has it, where it is a part of a character.
    pub text: String,
}

impl TokenCheck {
    /// Compares tokens of texts: (text, tokens of the first, tokens of the second); `spell` tells what a token spells.
    pub fn of<'a>(
        texts: impl IntoIterator<Item = (&'a str, &'a [u32], &'a [u32])>,
        spell: impl Fn(u32) -> String,
    ) -> Self {
        let mut check = Self::default();
        for (text, one, other) in texts {
            check.texts += 1;
            let Some((at, tokens)) = divergence(one, other) else { continue };
            check.different += 1;
            if check.examples.len() < LISTED {
                let tokens = spelt(tokens, &spell);
                check.examples.push(TokenDifference { text: text.to_owned(), at, tokens });
            }
        }
        check
    }
}

/// One arm on both backends.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ArmCheck {
    /// Its name.
    pub arm: String,
    /// Answers that both generated.
    pub answers: usize,
    /// How many of them are the same token for token.
    pub same_answers: usize,
    /// Tokens of the reference's answers, at which the distributions are compared; without distributions those up to where answers part.
    pub positions: usize,
    /// Mean KL(reference ‖ other), nats/token; none without positions.
    pub kl_mean: Option<f64>,
    /// Largest KL at a position.
    pub kl_max: f64,
    /// Share of positions with the same most likely token; none without positions.
    pub same_top1: Option<f64>,
    /// Choices that both scored.
    pub choices: usize,
    /// Largest difference of a choice's log-likelihood, nats/token.
    pub choice_max: f64,
    /// Where answers part, what is no near-tie first; the first of them.
    pub divergences: Vec<Divergence>,
    /// How many part where the tokens are no near-tie.
    pub clear_divergences: usize,
}

/// The first token at which two answers differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Divergence {
    /// The case.
    pub case: String,
    /// The token, counted from 0.
    pub at: usize,
    /// What each said there; nothing where it ended.
    pub tokens: [Option<Token>; 2],
    /// By how much the reference finds its own token likelier than the other's, in nats; unknown where one ended.
    pub margin: Option<f64>,
}

impl Divergence {
    /// Whether neither token is likelier by more than [`NEAR_TIE`].
    #[must_use]
    pub fn is_near_tie(&self) -> bool {
        self.margin.is_some_and(|margin| margin.abs() <= NEAR_TIE)
    }
}

/// A case that one backend's answer passes and the other's fails.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VerdictFlip {
    /// The case.
    pub case: String,
    /// Whose answers.
    pub arm: String,
    /// On each backend.
    pub verdicts: [Verdict; 2],
    /// The answers part at a near-tie, which rounding decides.
    pub near_tie: bool,
}

/// Where two rows of tokens first differ, and what each has there.
#[must_use]
pub fn divergence(one: &[u32], other: &[u32]) -> Option<(usize, [Option<u32>; 2])> {
    let at = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    let tokens = [one.get(at).copied(), other.get(at).copied()];
    (tokens != [None, None]).then_some((at, tokens))
}

/// Tokens with their texts.
pub fn spelt(tokens: [Option<u32>; 2], spell: impl Fn(u32) -> String) -> [Option<Token>; 2] {
    tokens.map(|token| token.map(|id| Token { id, text: spell(id) }))
}

/// One arm's samples and where its answers part.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Reference against the other, a sample an answer.
    pub samples: Vec<DriftSample>,
    /// In the order of the cases.
    pub divergences: Vec<Divergence>,
    /// Answers that both generated.
    pub answers: usize,
    /// Their tokens before they part.
    pub alike: usize,
    /// Cases whose distributions one of them could not compute, and why.
    pub errors: BTreeMap<String, String>,
}

impl CrossCheck {
    /// Puts together what was measured; `arms`: an arm's name each; `template`: why it could not be compared, where that was so.
    #[must_use]
    pub fn of(
        runs: [&RunRecord; 2],
        how: How,
        [texts, prompts]: [Option<TokenCheck>; 2],
        template: std::result::Result<Option<TemplateCheck>, String>,
        arms: Vec<(String, Measured)>,
        limits: Limits,
    ) -> Self {
        let backends = runs.map(|run| run.backend.clone());
        let mut errors = errors(runs);
        let template = template.unwrap_or_else(|why| {
            errors.insert("the chat template".to_owned(), why);
            None
        });
        for (arm, measured) in &arms {
            let of_arm = measured.errors.iter();
            errors.extend(of_arm.map(|(case, why)| (format!("logits of {arm} at {case}"), why.clone())));
        }
        let mut flips = flips(runs);
        for flip in &mut flips {
            let own = arms.iter().filter(|(arm, _)| *arm == flip.arm).flat_map(|(_, measured)| &measured.divergences);
            flip.near_tie = own.into_iter().any(|parted| parted.case == flip.case && parted.is_near_tie());
        }
        let arms: Vec<ArmCheck> = arms.into_iter().map(|(arm, measured)| measured.check(arm, how, runs)).collect();
        let mut check = Self { backends, how, limits, texts, prompts, template, arms, flips, errors, passed: false };
        check.passed = check.problems().is_empty() && check.errors.is_empty();
        check
    }

    /// What is beyond its limit, in words.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (what, tokens, most) in [("hard texts", &self.texts, self.limits.max_texts), ("prompts", &self.prompts, 0)]
        {
            if let Some(tokens) = tokens.as_ref().filter(|tokens| tokens.different > most) {
                let (different, texts) = (tokens.different, tokens.texts);
                problems
                    .push(format!("{different} of {texts} {what} are tokenized differently, expected at most {most}"));
            }
        }
        problems.extend(self.problems_of_arms());
        problems
    }

    /// What is beyond its limit in distributions and verdicts, in words.
    #[must_use]
    pub fn problems_of_arms(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for arm in &self.arms {
            // A project of choices alone generates nothing.
            if arm.positions == 0 && (arm.answers > 0 || arm.choices == 0) {
                problems.push(format!("{}: there is nothing to compare", arm.arm));
            }
            if let Some(same) = arm.same_top1.filter(|same| same.is_nan() || *same < self.limits.min_same_top1) {
                problems.push(format!(
                    "{}: the same first choice at {:.2} % of {} positions, expected at least {:.2} %",
                    arm.arm,
                    100.0 * same,
                    arm.positions,
                    100.0 * self.limits.min_same_top1
                ));
            }
            if let (Some(kl), Some(most)) = (arm.kl_mean, self.limits.max_kl)
                && (kl.is_nan() || kl > most)
            {
                problems.push(format!("{}: a mean KL of {kl:.2e} nats/token, expected at most {most:.2e}", arm.arm));
            }
            if !arm.choice_max.is_finite() {
                problems.push(format!("{}: a choice's log-likelihood is not finite", arm.arm));
            }
            let flipped = self.flips.iter().filter(|flip| flip.arm == arm.arm).count();
            if flipped > self.limits.max_flips {
                problems.push(format!(
                    "{}: {flipped} verdict {}, expected at most {}",
                    arm.arm,
                    if flipped == 1 { "flip" } else { "flips" },
                    self.limits.max_flips
                ));
            }
        }
        problems
    }
}

impl Measured {
    fn check(self, arm: String, how: How, runs: [&RunRecord; 2]) -> ArmCheck {
        let samples = &self.samples;
        let kl = || samples.iter().flat_map(|sample| &sample.kl).copied();
        let (same, positions) = if how.distributions {
            (samples.iter().flat_map(|sample| &sample.same_top1).filter(|same| **same).count(), kl().count())
        } else {
            // Up to where they part, both answers' tokens are first choices after the same text.
            (self.alike, self.alike + self.divergences.len())
        };
        let share = |sum: f64| (positions > 0).then(|| sum / positions as f64);
        let choices = choices(runs, &arm);
        let (near, clear): (Vec<_>, Vec<_>) = self.divergences.into_iter().partition(Divergence::is_near_tie);
        let (clear_divergences, parted) = (clear.len(), clear.len() + near.len());
        ArmCheck {
            arm,
            answers: self.answers,
            same_answers: self.answers - parted,
            positions,
            kl_mean: if how.distributions { share(kl().sum()) } else { None },
            kl_max: kl().fold(0.0, f64::max),
            same_top1: share(same as f64),
            choices: choices.len(),
            choice_max: choices.into_iter().fold(0.0, larger),
            divergences: clear.into_iter().chain(near).take(LISTED).collect(),
            clear_divergences,
        }
    }
}

/// By how much the log-likelihoods of each choice of an arm differ, nats/token.
fn choices([one, other]: [&RunRecord; 2], arm: &str) -> Vec<f64> {
    let scores = |case: &CaseRecord| -> Vec<(f64, usize)> {
        let completion = case.answers.get(arm).and_then(crate::record::Answer::completion);
        completion.iter().flat_map(|c| &c.choices).map(|c| (c.log_likelihood, c.tokens)).collect()
    };
    let cases = one.cases().zip(other.cases()).map(|((_, case), (_, same))| (scores(case), scores(same)));
    let pairs = cases.flat_map(|(ours, theirs)| ours.into_iter().zip(theirs));
    pairs.map(|((ours, tokens), (theirs, _))| (ours - theirs).abs() / tokens.max(1) as f64).collect()
}

/// The larger of two; what is not finite is larger than anything.
fn larger(a: f64, b: f64) -> f64 {
    if b > a || b.is_nan() { b } else { a }
}

/// What either run has no answer to, drift and proof included.
fn errors(runs: [&RunRecord; 2]) -> BTreeMap<String, String> {
    let of_run = |run: &RunRecord| {
        let backend = &run.backend;
        let cases = run.cases().flat_map(|(scenario, case)| {
            let name = scenario.test_name(case);
            case.errors()
                .map(|(arm, why)| (format!("{arm} at {name} on {backend}"), why.to_owned()))
                .collect::<Vec<_>>()
        });
        let whole = run.errors.iter().map(|error| (format!("{} on {backend}", error.what()), error.why().to_owned()));
        cases.chain(whole).collect::<Vec<_>>()
    };
    runs.into_iter().flat_map(of_run).collect()
}

fn flips([one, other]: [&RunRecord; 2]) -> Vec<VerdictFlip> {
    let mut flips = Vec::new();
    for ((scenario, case), (_, same)) in one.cases().zip(other.cases()) {
        for arm in case.answers.keys() {
            let verdicts = [case.verdict(arm), same.verdict(arm)];
            let lost = |case: &CaseRecord| case.errors().any(|(lost, _)| lost == arm);
            if verdicts[0] != verdicts[1] && !lost(case) && !lost(same) {
                let case = scenario.test_name(case);
                flips.push(VerdictFlip { case, arm: arm.clone(), verdicts, near_tie: false });
            }
        }
    }
    flips
}

#[cfg(test)]
mod tests;
