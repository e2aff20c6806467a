//! Records of version 1: two arms, one sample a case.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    Aggregate, Answer, Arm, CaseRecord, Completion, Cost, Divergence, Drift, DriftMethod, Made, ModelInfo, Prompt,
    Proof, Role, RunError, RunRecord, Sample, Sampling, ScenarioRecord, TUNED, Verdict,
};

#[derive(Deserialize)]
pub(super) struct Run {
    finetest: String,
    project: String,
    model: ModelInfo,
    arms: Vec<Arm>,
    backend: String,
    scenarios: Vec<Scenario>,
    drift: Option<OldDrift>,
    proof: Option<Proof>,
    #[serde(default)]
    errors: BTreeMap<String, String>,
    cost: Cost,
}

#[derive(Deserialize)]
struct Scenario {
    name: String,
    path: String,
    role: Role,
    description: String,
    #[serde(default)]
    sampling: Sampling,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    prompt: Prompt,
    checks: Vec<String>,
    answers: BTreeMap<String, OldAnswer>,
}

#[derive(Deserialize)]
struct OldAnswer {
    completion: Option<Completion>,
    verdict: Verdict,
    failures: Vec<String>,
}

#[derive(Deserialize)]
struct OldDrift {
    source: String,
    tokens: usize,
    kl_mean: f64,
    kl_se: f64,
    kl_median: f64,
    kl_p99: f64,
    same_top1: f64,
    nll_base: f64,
    nll_tuned: f64,
    nll_change_se: f64,
}

impl From<Run> for RunRecord {
    fn from(run: Run) -> Self {
        let error = |(what, why): (String, String)| {
            let arm = TUNED.to_owned();
            if what == "proof" { RunError::Proof { arm, why } } else { RunError::Drift { arm, why } }
        };
        Self {
            version: Self::VERSION,
            finetest: run.finetest,
            project: run.project,
            made: Made::default(),
            model: run.model,
            arms: run.arms,
            backend: run.backend,
            scenarios: run.scenarios.into_iter().map(Into::into).collect(),
            target_drift: BTreeMap::new(),
            spill_over: BTreeMap::new(),
            drift: run.drift.into_iter().map(|drift| (TUNED.to_owned(), drift.into())).collect(),
            proof: run.proof.into_iter().map(|proof| (TUNED.to_owned(), proof)).collect(),
            again: BTreeMap::new(),
            errors: run.errors.into_iter().map(error).collect(),
            part: None,
            decision: None,
            cost: run.cost,
        }
    }
}

impl From<Scenario> for ScenarioRecord {
    fn from(scenario: Scenario) -> Self {
        let Scenario { name, path, role, description, sampling, cases } = scenario;
        let cases = cases.into_iter().map(Into::into).collect();
        Self { name, path, role, description, sampling, aggregate: Aggregate::All, cases }
    }
}

impl From<Case> for CaseRecord {
    fn from(case: Case) -> Self {
        let Case { name, prompt, checks, answers } = case;
        let answers = answers.into_iter().map(|(arm, answer)| (arm, answer.into())).collect();
        Self { name, line: None, family: None, prompt, follow_ups: Vec::new(), checks, choices: Vec::new(), answers }
    }
}

impl From<OldAnswer> for Answer {
    fn from(answer: OldAnswer) -> Self {
        let OldAnswer { completion, verdict, failures } = answer;
        // Without an answer, its failure was why there is none.
        let (failures, error) = match completion {
            Some(_) => (failures, None),
            None => (Vec::new(), failures.into_iter().next()),
        };
        let asked = completion.is_some() || error.is_some() || verdict != Verdict::NotEvaluated;
        let sample = Sample { turns: completion.into_iter().collect(), verdict, failures, error };
        Self { verdict, samples: if asked { vec![sample] } else { Vec::new() } }
    }
}

impl From<OldDrift> for Drift {
    fn from(drift: OldDrift) -> Self {
        let kl = Divergence { mean: drift.kl_mean, se: drift.kl_se, median: drift.kl_median, p99: drift.kl_p99 };
        Self {
            source: drift.source,
            method: DriftMethod::FullKl,
            tokens: drift.tokens,
            kl: Some(kl),
            covered: None,
            decided_by: None,
            same_top1: Some(drift.same_top1),
            nll_base: drift.nll_base,
            nll_tuned: drift.nll_tuned,
            nll_change_se: drift.nll_change_se,
            measures: None,
            floor: None,
            texts: Vec::new(),
        }
    }
}
