//! A run: every scenario asked of base and tuned, judged, and written down.
//!
//! `cargo test` and the command line both call [`execute`]; answers that the store already has are not computed again.

mod store;

use std::collections::BTreeMap;
use std::time::Instant;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use store::Store;

use crate::backend::{Answered, Backend, Draft, DriftText, Progress, Question, left_out, no_question};
use crate::compare;
use crate::error::{Error, Result};
use crate::record::{
    Answer, Approved, Arm, BASE, CaseRecord, Cost, Drift, ModelInfo, Prompt, Proof, Request, Role, RunRecord,
    ScenarioRecord, TUNED, Verdict,
};
use crate::scenario::Scenario;

/// Prompts that the adapter is proven on.
const PROBES: usize = 3;

/// What is asked of whom.
pub struct Inputs<'a> {
    /// The project's name.
    pub project: String,
    /// The base model.
    pub model: ModelInfo,
    /// Base first.
    pub arms: Vec<Arm>,
    /// In the order of the report.
    pub scenarios: &'a [Scenario],
    /// A text besides base's answers that drift is measured on: its name and content.
    pub drift_text: Option<(String, String)>,
    /// Guesses at the answers: what was approved before. An answer that still holds is verified, which is faster than to generate
    /// it anew, and comes out the same.
    pub approved: Approved,
}

impl<'a> Inputs<'a> {
    /// What a backend of your own is asked: every case, of base and tuned. Nothing is approved, and drift is measured on base's answers
    /// alone; set the fields for more.
    ///
    /// A stored answer is found again by the backend's [`name`](Backend::name), by `model`, the arm and the request. What else decides
    /// an answer (a version, a checkpoint, a server's model) belongs in that name, or an old answer is taken for a new one.
    pub fn new(project: &str, model: &str, backend: &dyn Backend, scenarios: &'a [Scenario]) -> Self {
        let arm = |name: &str| {
            let all = [backend.name().as_str(), model, name].join("\n");
            let fingerprint = blake3::hash(all.as_bytes()).to_hex().to_string();
            Arm { name: name.to_owned(), fingerprint, adapter: None, scale: 1.0 }
        };
        Self {
            project: project.to_owned(),
            model: ModelInfo { source: model.to_owned(), ..ModelInfo::default() },
            arms: vec![arm(BASE), arm(TUNED)],
            scenarios,
            drift_text: None,
            approved: Approved::default(),
        }
    }
}

/// Everything that decides one answer; its hash is the answer's name in the store.
#[derive(Serialize)]
struct AnswerKey<'a> {
    arm: &'a str,
    request: &'a Request,
}

#[derive(Serialize)]
struct PairKey<'a, T: Serialize> {
    arms: [&'a str; 2],
    of: T,
}

/// What was found, and what of it failed.
struct Found<T>(Option<T>, Option<String>);

impl<T> Found<T> {
    fn of(self, what: &str, errors: &mut BTreeMap<String, String>) -> Option<T> {
        errors.extend(self.1.map(|why| (what.to_owned(), why)));
        self.0
    }
}

/// Asks every case of every arm, judges the answers and compares the arms.
///
/// # Errors
/// There is no case ([`Error::NothingRan`]), or the backend fails.
pub fn execute(
    inputs: &Inputs<'_>,
    backend: &mut dyn Backend,
    store: &Store,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<RunRecord> {
    let started = Instant::now();
    let mut cost = Cost::default();
    let of_arm = |number: usize| {
        let name = &inputs.arms[number].name;
        let cases = inputs.scenarios.iter().flat_map(|s| s.cases.iter().map(move |case| (s, case)));
        cases.map(move |(scenario, case)| {
            let approved = inputs.approved.get(&scenario.name, &case.name, name);
            Question { arm: number, request: &case.request, draft: approved.map(Draft::Approved) }
        })
    };
    let requests: Vec<Question<'_>> = (0..inputs.arms.len()).flat_map(of_arm).collect();
    if requests.is_empty() {
        return Err(Error::NothingRan("there is no case in any scenario".into()));
    }
    let answers = answer(inputs, &requests, backend, store, &mut cost, on_progress)?;
    let scenarios = judge(inputs, answers);
    let has_tuned = inputs.arms.len() > 1;
    let mut errors = BTreeMap::new();
    let drift =
        if has_tuned { drift(inputs, &scenarios, backend, store, on_progress)?.of("drift", &mut errors) } else { None };
    let proof = if has_tuned { prove(inputs, &scenarios, backend, store)?.of("proof", &mut errors) } else { None };
    cost.seconds = started.elapsed().as_secs_f64();
    Ok(RunRecord {
        version: RunRecord::VERSION,
        finetest: env!("CARGO_PKG_VERSION").to_owned(),
        project: inputs.project.clone(),
        model: inputs.model.clone(),
        arms: inputs.arms.clone(),
        backend: backend.name(),
        scenarios,
        drift,
        proof,
        errors,
        cost,
    })
}

/// Answers of all requests, from the store where it has them.
fn answer(
    inputs: &Inputs<'_>,
    requests: &[Question<'_>],
    backend: &mut dyn Backend,
    store: &Store,
    cost: &mut Cost,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Answered>> {
    let key = |Question { arm, request, .. }: &Question<'_>| {
        let arm = inputs.arms[*arm].fingerprint.as_str();
        Ok((store::key("answer", &AnswerKey { arm, request })?, arm))
    };
    let keys = requests.par_iter().map(key).collect::<Result<Vec<_>>>()?;
    let mut answers: Vec<Option<Answered>> = store.read_all(&keys).into_iter().map(|found| found.map(Ok)).collect();
    let missing: Vec<usize> = (0..answers.len()).filter(|i| answers[*i].is_none()).collect();
    // All cases of the first arm, then of the next.
    let cases = requests.len() / inputs.arms.len();
    cost.stored = answers.len() - missing.len();
    cost.computed = missing.len();
    if !missing.is_empty() {
        let guess = |i: &usize| {
            let other = || answers[*i % cases].as_ref()?.as_ref().ok().map(|base| Draft::Other(&base.tokens));
            Question { draft: requests[*i].draft.or_else(other), ..requests[*i] }
        };
        let asked: Vec<Question<'_>> = missing.iter().map(guess).collect();
        let mut computed: Vec<(usize, Answered)> = Vec::with_capacity(missing.len());
        // Stored as they come: a run that is killed asks again only what it had not been answered.
        let mut keep = |ready: Vec<(usize, Answered)>| {
            if let Some((i, _)) = ready.iter().find(|(i, _)| *i >= missing.len()) {
                return Err(no_question(*i, missing.len()));
            }
            // What failed is asked again the next time.
            let good = ready.iter().filter_map(|(i, answered)| Some((&keys[missing[*i]], answered.as_ref().ok()?)));
            let (of, good): (Vec<_>, Vec<_>) = good.map(|(key, answer)| (key.clone(), Some(answer))).unzip();
            store.write_all(&of, &good)?;
            computed.extend(ready);
            Ok(())
        };
        backend.answer(&asked, &mut keep, on_progress)?;
        for (i, answered) in computed {
            if let Ok(completion) = &answered {
                cost.prompt_tokens += completion.prompt_tokens;
                cost.generated_tokens += completion.tokens.len();
            }
            answers[missing[i]] = Some(answered);
        }
    }
    let all = answers.len();
    let found: Vec<Answered> = answers.into_iter().flatten().collect();
    if found.len() == all { Ok(found) } else { Err(left_out(&backend.name(), found.len(), all)) }
}

/// Puts answers (all cases of the first arm, then of the next) beside their cases.
fn judge(inputs: &Inputs<'_>, answers: Vec<Answered>) -> Vec<ScenarioRecord> {
    let cases: usize = inputs.scenarios.iter().map(|s| s.cases.len()).sum();
    // Answers move into the records: two copies of a large run's would be most of its memory.
    let mut answers: Vec<Option<Answered>> = answers.into_iter().map(Some).collect();
    let mut records = Vec::new();
    let mut index = 0;
    for scenario in inputs.scenarios {
        let mut judged = Vec::new();
        for case in &scenario.cases {
            let mut by_arm = BTreeMap::new();
            for (number, arm) in inputs.arms.iter().enumerate() {
                let answer = answers.get_mut(number * cases + index).and_then(Option::take);
                let (completion, (verdict, failures)) = match answer {
                    Some(Ok(completion)) => {
                        let judged = case.judge(&completion);
                        (Some(completion), judged)
                    }
                    Some(Err(why)) => (None, (Verdict::NotEvaluated, vec![why])),
                    None => (None, (Verdict::NotEvaluated, Vec::new())),
                };
                by_arm.insert(arm.name.clone(), Answer { completion, verdict, failures });
            }
            index += 1;
            let checks = case.checks.iter().map(ToString::to_string).collect();
            judged.push(CaseRecord {
                name: case.name.clone(),
                prompt: case.request.prompt.clone(),
                checks,
                answers: by_arm,
            });
        }
        records.push(ScenarioRecord {
            name: scenario.name.clone(),
            path: scenario.path.clone(),
            role: scenario.role,
            description: scenario.description.clone(),
            sampling: scenario.cases.first().map(|case| case.request.sampling).unwrap_or_default(),
            cases: judged,
        });
    }
    records
}

/// Drift on base's own answers to the control cases, and on the project's text.
fn drift(
    inputs: &Inputs<'_>,
    scenarios: &[ScenarioRecord],
    backend: &mut dyn Backend,
    store: &Store,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<Found<Drift>> {
    let control = scenarios.iter().filter(|s| s.role == Role::Control).flat_map(|s| &s.cases);
    let answers: Vec<(&Prompt, &[u32])> = control
        .filter_map(|case| Some((&case.prompt, case.answers.get(BASE)?.completion.as_ref()?.tokens.as_slice())))
        .filter(|(_, tokens)| !tokens.is_empty())
        .collect();
    let mut texts: Vec<DriftText<'_>> =
        answers.iter().map(|(prompt, tokens)| DriftText::Answer(prompt, tokens)).collect();
    let mut source = "base's answers to the control cases".to_owned();
    if let Some((name, text)) = &inputs.drift_text {
        texts.push(DriftText::Plain(text));
        source = format!("{source} and {name}");
    }
    if texts.is_empty() {
        return Ok(Found(None, None));
    }
    let of = (&answers, &inputs.drift_text);
    let key = store::key("drift", &PairKey { arms: pair(inputs)?, of })?;
    if let Some(found) = store.read(&key) {
        return Ok(Found(Some(found), None));
    }
    let samples = backend.drift(&texts, (0, 1), on_progress)?;
    let Some(samples) = samples else {
        return Ok(Found(None, None));
    };
    let all = samples.len();
    let (samples, failed): (Vec<_>, Vec<_>) = samples.into_iter().partition(std::result::Result::is_ok);
    let samples: Vec<_> = samples.into_iter().flatten().collect();
    let Some(why) = failed.iter().find_map(|failed| failed.as_ref().err()) else {
        let drift = compare::drift::summarise(&source, &samples)?;
        store.write(&key, &drift)?;
        return Ok(Found(Some(drift), None));
    };
    // Not stored: what failed is measured again the next time.
    let left_out = format!("{} of {all} texts left out", failed.len());
    let enough = samples.iter().map(|sample| sample.kl.len()).sum::<usize>() > 1;
    let rest = if enough { Some(compare::drift::summarise(&format!("{source}, {left_out}"), &samples)?) } else { None };
    Ok(Found(rest, Some(format!("{left_out}: {why}"))))
}

#[derive(Serialize, Deserialize)]
struct StoredProof(Option<Proof>);

fn prove(
    inputs: &Inputs<'_>,
    scenarios: &[ScenarioRecord],
    backend: &mut dyn Backend,
    store: &Store,
) -> Result<Found<Proof>> {
    // A prompt that had no answer would have none here either.
    let cases = scenarios.iter().filter_map(|s| s.cases.iter().find(|c| c.errors().next().is_none()));
    let prompts: Vec<&Prompt> = cases.map(|c| &c.prompt).take(PROBES).collect();
    if prompts.is_empty() {
        return Ok(Found(None, None));
    }
    let key = store::key("proof", &PairKey { arms: pair(inputs)?, of: &prompts })?;
    if let Some(StoredProof(found)) = store.read(&key) {
        return Ok(Found(found, None));
    }
    match backend.prove(&prompts, (0, 1))?.transpose() {
        Ok(proof) => {
            store.write(&key, &StoredProof(proof.clone()))?;
            Ok(Found(proof, None))
        }
        Err(why) => Ok(Found(None, Some(why))),
    }
}

/// Fingerprints of the two arms that are compared.
///
/// # Errors
/// There are not two: a result must not be stored under the name of another one.
fn pair<'a>(inputs: &'a Inputs<'_>) -> Result<[&'a str; 2]> {
    match inputs.arms.as_slice() {
        [base, tuned, ..] => Ok([&base.fingerprint, &tuned.fingerprint]),
        arms => Err(Error::failed(format!("two arms are compared, and there are {}", arms.len()))),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::backend::{Measured, OnAnswers, Scripted};
    use crate::compare::DriftSample;
    use crate::record::{BASE, TUNED};

    /// Answers one question after another, and fails when it has answered so many; or answers what it was not asked.
    struct Failing {
        scripted: Scripted,
        after: usize,
        strange: bool,
    }

    impl Backend for Failing {
        fn name(&self) -> String {
            "failing".into()
        }

        fn answer(
            &mut self,
            questions: &[Question<'_>],
            on_answers: OnAnswers<'_>,
            on_progress: &mut dyn FnMut(Progress),
        ) -> Result<()> {
            for (i, answer) in self.scripted.complete(questions, on_progress)?.into_iter().enumerate().take(self.after)
            {
                on_answers(vec![(if self.strange { i + questions.len() } else { i }, answer)])?;
            }
            if self.strange { Ok(()) } else { Err(Error::failed("the disk of the model is gone")) }
        }

        fn drift(
            &mut self,
            _: &[DriftText<'_>],
            _: (usize, usize),
            _: &mut dyn FnMut(Progress),
        ) -> Result<Option<Vec<Measured<DriftSample>>>> {
            Ok(None)
        }

        fn prove(&mut self, _: &[&Prompt], _: (usize, usize)) -> Result<Option<Measured<Proof>>> {
            Ok(None)
        }
    }

    fn scenarios(directory: &Path) -> Vec<Scenario> {
        let case = |name: &str| format!("[[cases]]\nname = {name:?}\nprompt = {name:?}\nchecks = [\"not-json\"]\n");
        let file = format!("role = \"control\"\ndescription = \"d\"\n{}{}", case("one"), case("two"));
        std::fs::write(directory.join("s.toml"), file).expect("a file");
        vec![Scenario::load(directory.join("s.toml"), directory).expect("a scenario")]
    }

    fn inputs(scenarios: &[Scenario]) -> Inputs<'_> {
        let arm = |name: &str| Arm { name: name.into(), fingerprint: name.into(), adapter: None, scale: 1.0 };
        Inputs {
            project: "p".into(),
            model: ModelInfo::default(),
            arms: vec![arm(BASE), arm(TUNED)],
            scenarios,
            drift_text: None,
            approved: Approved::default(),
        }
    }

    fn scripted() -> Scripted {
        Scripted::new([(0, "one", "1"), (0, "two", "2"), (1, "one", "3"), (1, "two", "4")])
    }

    #[test]
    fn what_was_answered_before_an_error_is_stored() {
        let directory = tempfile::tempdir().expect("a directory");
        let scenarios = scenarios(directory.path());
        let (inputs, store) = (inputs(&scenarios), Store::new(directory.path().join("store")));
        let mut failing = Failing { scripted: scripted(), after: 3, strange: false };
        let error = execute(&inputs, &mut failing, &store, &mut |_| {}).expect_err("it fails");
        assert!(error.to_string().contains("is gone"), "{error}");
        let run = execute(&inputs, &mut scripted(), &store, &mut |_| {}).expect("a run");
        assert_eq!((run.cost.stored, run.cost.computed), (3, 1));
        let texts: Vec<Option<&str>> = run.cases().flat_map(|(_, case)| [case.text(BASE), case.text(TUNED)]).collect();
        assert_eq!(texts, [Some("1"), Some("3"), Some("2"), Some("4")]);
    }

    #[test]
    fn a_backend_that_answers_something_else_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let scenarios = scenarios(directory.path());
        let (inputs, store) = (inputs(&scenarios), Store::new(directory.path().join("store")));
        for (after, says) in [(1, "answered question 4"), (0, "gave 0 answers to 4 questions")] {
            let mut strange = Failing { scripted: scripted(), after, strange: true };
            let error = execute(&inputs, &mut strange, &store, &mut |_| {}).expect_err("it fails");
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
