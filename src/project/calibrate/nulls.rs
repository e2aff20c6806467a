//! What null adapters do to a base.

use std::path::PathBuf;
use std::sync::Arc;

use super::Jitter;
use crate::compare::Controls;
use crate::error::{Error, Result};
use crate::model::architecture::outline::Outline;
use crate::model::lora::{self, Adapter};
use crate::project::Events;
use crate::project::adapter::LoadedAdapter;
use crate::project::arms::Tested;
use crate::project::asked::Checked;
use crate::project::prepared::Prepared;
use crate::project::train::Summary;
use crate::record::{BASE, Drift, Role, RunRecord, ScenarioRecord};
use crate::run::RunEvent;
use crate::scenario::{Check, Scenario};

/// Drift of null adapters that are like no other, in nats/token: a third of what finetest calls too much.
const HARMLESS_DRIFT: f64 = 0.05;
/// Questions that the drift of null adapters is measured on, spread over all.
const DRIFT_QUESTIONS: usize = 24;
/// Questions whose choices null adapters are asked, spread over all: each costs a score of every choice by every adapter.
const CHOICE_QUESTIONS: usize = 96;

/// The jitter of null adapters, and how much they move the loss of a single question's choice: its standard deviation.
pub(super) fn jitter(
    prepared: &Prepared<'_>,
    outline: &Outline,
    run: &RunRecord,
    nulls: usize,
    on_event: Events<'_>,
) -> Result<(Jitter, f64)> {
    let (arms, like, drifts) = null_arms(prepared, outline, run, nulls, on_event)?;
    on_event(RunEvent::note(format!("asking {nulls} null adapters the choices")));
    let checked = Checked { scenarios: choices_alone(&prepared.checked.scenarios), ..Checked::default() };
    if checked.scenarios.is_empty() {
        return Err(Error::failed("the packs have no choice to measure jitter by"));
    }
    let asked = prepared.ask_others(&checked, prepared.config.backend, &arms, on_event)?;
    let (mut choice, mut net, mut spread) = (Vec::new(), Vec::new(), Vec::new());
    for arm in &arms {
        let controls = Controls::of(&asked, &arm.name);
        choice.extend(controls.choice_loss.map(|mean| mean.mean));
        net.extend(controls.net.map(|net| net.loss));
        spread.push(controls.choice_sd);
    }
    let jitter = Jitter { nulls, like, drift: range(&drifts), choice_loss: range(&choice), net_loss: range(&net) };
    Ok((jitter, spread.iter().sum::<f64>() / spread.len().max(1) as f64))
}

/// Null adapters at the scale that fits, in words what they are like, and the drift of each.
fn null_arms(
    prepared: &Prepared<'_>,
    outline: &Outline,
    run: &RunRecord,
    nulls: usize,
    on_event: Events<'_>,
) -> Result<(Vec<Tested>, String, Vec<f64>)> {
    let config = prepared.config;
    let sample = sample(run);
    let mut drift_of = |arms: &[Tested]| -> Result<Vec<f64>> {
        let drifts = prepared.drift_of(&sample, config.backend, arms, on_event)?;
        drifts.iter().map(mean_drift).collect()
    };
    let own = config.adapter.as_ref().filter(|own| own.path.exists());
    if let Some(own) = own {
        let like = lora::open(&own.path, outline)?;
        let shown = config.relative(&own.path);
        let arms: Vec<Tested> = (0..nulls)
            .map(|seed| tested(like.null_like(seed as u64), &format!("like {shown}"), seed, own.scale, outline))
            .collect();
        let drifts = drift_of(&arms)?;
        return Ok((arms, format!("the norms of {shown}"), drifts));
    }
    let null = |seed: usize, scale: f64| {
        tested(Adapter::null(outline, &config.model.source, seed as u64), "rank 8", seed, scale, outline)
    };
    // A small change's divergence grows with the square of its scale: two steps find the one that is wanted.
    let mut scale = 1.0;
    for _ in 0..3 {
        let found = drift_of(&[null(0, scale)])?.first().copied().unwrap_or(0.0);
        if !(found.is_finite() && found > 0.0) {
            return Err(Error::failed(format!(
                "a null adapter at scale {scale} changes nothing: its drift is {found}"
            )));
        }
        scale *= (HARMLESS_DRIFT / found).sqrt().clamp(0.02, 50.0);
    }
    let arms: Vec<Tested> = (0..nulls).map(|seed| null(seed, scale)).collect();
    let drifts = drift_of(&arms)?;
    Ok((arms, format!("a drift of about {HARMLESS_DRIFT} nats/token"), drifts))
}

fn tested(adapter: Adapter, like: &str, seed: usize, scale: f64, outline: &Outline) -> Tested {
    let ready = LoadedAdapter {
        adapter: Arc::new(adapter),
        directory: PathBuf::from(format!("null adapter {seed}")),
        hash: blake3::hash(format!("null {seed}, {like}").as_bytes()).to_hex().to_string(),
        scale,
        family: outline.family.clone(),
        parameters: outline.parameters,
        summary: Summary { directory: String::new(), trained: false, state: None },
    };
    Tested { name: format!("null-{}", seed + 1), ready }
}

fn mean_drift(drift: &Drift) -> Result<f64> {
    let values: Vec<f64> = drift.texts.iter().filter_map(crate::record::TextDrift::kl).collect();
    if values.is_empty() {
        return Err(Error::failed("no drift could be measured on base's answers: it answered nothing"));
    }
    Ok(values.iter().sum::<f64>() / values.len() as f64)
}

/// Some of the questions that base answered, in their first wording, spread over all scenarios.
fn sample(run: &RunRecord) -> Vec<ScenarioRecord> {
    let is_first = |name: &str, family: Option<&str>| family.is_none_or(|family| family == name);
    let answered = |scenario: &ScenarioRecord| {
        let cases = scenario.cases.iter().filter(|case| {
            let tokens = |answer: &crate::record::Answer| answer.completion().is_some_and(|c| !c.tokens.is_empty());
            is_first(&case.name, case.family.as_deref()) && case.answers.get(BASE).is_some_and(tokens)
        });
        cases.cloned().collect::<Vec<_>>()
    };
    let all: usize = run.scenarios.iter().map(|scenario| answered(scenario).len()).sum();
    let every = all.div_ceil(DRIFT_QUESTIONS).max(1);
    let mut number = 0;
    let mut sampled = Vec::new();
    for scenario in run.scenarios.iter().filter(|scenario| scenario.role == Role::Control) {
        let cases = answered(scenario).into_iter().filter(|_| {
            number += 1;
            (number - 1) % every == 0
        });
        let cases: Vec<_> = cases.collect();
        if !cases.is_empty() {
            sampled.push(ScenarioRecord { cases, ..scenario.clone() });
        }
    }
    sampled
}

/// The first wording of questions with a choice, at most 96 of them, asked the choices alone: nothing is generated.
fn choices_alone(scenarios: &[Scenario]) -> Vec<Scenario> {
    let mut asked = Vec::new();
    for scenario in scenarios {
        let mut scenario = scenario.clone();
        scenario.cases.retain(|case| case.family.as_deref().is_none_or(|family| family == case.name));
        for case in &mut scenario.cases {
            case.checks.retain(|check| matches!(check, Check::Choice(_)));
            case.follow_ups.clear();
            case.request.max_tokens = 0;
        }
        scenario.cases.retain(|case| !case.checks.is_empty());
        asked.push(scenario);
    }
    let every = asked.iter().map(|scenario| scenario.cases.len()).sum::<usize>().div_ceil(CHOICE_QUESTIONS).max(1);
    let mut number = 0;
    for scenario in &mut asked {
        scenario.cases.retain(|_| {
            number += 1;
            (number - 1) % every == 0
        });
    }
    asked.retain(|scenario| !scenario.cases.is_empty());
    asked
}

/// Least, mean and most.
fn range(values: &[f64]) -> [f64; 3] {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    if values.is_empty() { [0.0; 3] } else { [least, mean, most] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::packs::PACKS;

    #[test]
    fn choices_are_asked_once_a_question_and_generate_nothing() {
        let scenarios: Vec<Scenario> = PACKS.iter().map(|pack| pack.scenario().expect("a pack")).collect();
        let asked = choices_alone(&scenarios);
        let cases = || asked.iter().flat_map(|scenario| &scenario.cases);
        assert!((70..=CHOICE_QUESTIONS).contains(&cases().count()), "{}", cases().count());
        assert!(cases().all(|case| case.request.max_tokens == 0 && !case.request.choices.is_empty()));
        assert!(cases().all(|case| case.family.as_deref().is_none_or(|family| family == case.name)));
    }

    /// Through the real engine, on a tiny model: a null adapter of a harmless size passes, one of a harmful size does not.
    #[test]
    fn planted_adapters_are_told_apart() {
        use crate::config::{Config, Overrides, Policy};
        use crate::gate::decide;
        use crate::record::Evidence;
        let folder = tempfile::tempdir().expect("a folder");
        let model = folder.path().join("model");
        std::fs::create_dir(&model).expect("a folder");
        let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        for file in [
            "llama/config.json",
            "llama/model.safetensors",
            "tokenizer/tokenizer.json",
            "tokenizer/tokenizer_config.json",
        ] {
            let from = fixtures.join(file);
            std::fs::copy(&from, model.join(from.file_name().expect("a name"))).expect("a copy");
        }
        let overrides = Overrides { model: Some(model.display().to_string()), ..Overrides::default() };
        let config = Config::without_manifest(folder.path(), &overrides).expect("a project");
        let case = |i: usize| format!("[[cases]]\ntext = \"number {i} is\"\nchecks = [{{ min-length = 1 }}]\n");
        let text = format!(
            "role = \"control\"\ndescription = \"d\"\nmax_tokens = 8\n{}",
            (0..16).map(case).collect::<String>()
        );
        std::fs::create_dir(folder.path().join("scenarios")).expect("a folder");
        let path = folder.path().join("scenarios/numbers.toml");
        std::fs::write(&path, text).expect("a file");
        let scenarios = vec![Scenario::load(&path, folder.path()).expect("a scenario")];
        let checked = Checked { scenarios, ..Checked::default() };
        let prepared = Prepared::open(&config, checked, &mut |_| {}).expect("a project");
        let outline = crate::model::outline(&prepared.base.files, &config.model).expect("an outline");
        let planted = |scale: f64| {
            let mut arm = tested(Adapter::null(&outline, "m", 1), "planted", 1, scale, &outline);
            arm.name = crate::record::TUNED.to_owned();
            let run = prepared.ask(config.backend, &[arm], &mut |_| {}).expect("a run");
            let controls = decide(&run, &Policy::default()).controls.remove(0);
            (controls.evidence, run.drift[crate::record::TUNED].kl.expect("drift").mean)
        };
        let (harmless, small) = planted(0.5);
        let (harmful, large) = planted(200.0);
        assert_eq!((harmless, harmful), (Evidence::Kept, Evidence::Lost), "drift {small} and {large}");
    }

    #[test]
    fn a_range_of_nothing_is_nothing() {
        assert_eq!(range(&[]), [0.0; 3]);
        assert_eq!(range(&[0.3, 0.1, 0.2]).map(|v| (v * 10.0).round()), [1.0, 2.0, 3.0]);
    }
}
