//! Training steps, scoring and greedy decoding of given tokens, one repetition at a time: `benches/speed.rs` prints them, and
//! `benches/peers/` lets other programs do the same work in turn.

use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::backend::engine::{Continuation, Ends, Generation};
use crate::backend::{ArmAdapter, CandleBackend};
use crate::config::{Bf16, ModelConfig, Recipe};
use crate::error::{Error, Result};
use crate::model::architecture::outline::Outline;
use crate::model::lora::Adapter;
use crate::model::{load_decoder, sources};
use crate::train::encode::Encoded;
use crate::train::{InProcess, Trainer, TrainerState};

/// What to do.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Steps of a training: examples of their tokens each, and how many of those are the prompt. A repetition is one step.
    Train(Vec<Vec<(Vec<u32>, usize)>>),
    /// The same with `gradient_checkpointing`.
    TrainCheckpointing(Vec<Vec<(Vec<u32>, usize)>>),
    /// Sequences whose every token but the first is scored.
    Score(Vec<Vec<u32>>),
    /// Prompts, decoded together, and how many tokens each is answered with.
    Generate(Vec<Vec<u32>>, usize),
    /// A prompt that base and further adapters answer together, with how many tokens, and how many they are with base.
    Arms(Vec<u32>, usize, usize),
}

/// One repetition.
#[derive(Clone, Debug, Serialize)]
pub struct Repetition {
    /// Tokens: of the step, scored, or generated.
    pub units: usize,
    /// How long it took.
    pub seconds: f64,
    /// What came of it, to compare with other programs: the loss, mean log-likelihoods of the sequences, or the tokens.
    pub result: Vec<f64>,
    /// Bytes that hold the weights.
    pub weight_bytes: u64,
}

/// Does `work` with a GGUF file or a Hugging Face directory, in bf16 or f32, as often as `next` says, which is reported of every repetition.
///
/// # Errors
/// The model cannot be loaded, or the work does not fit it.
pub fn serve(model: &str, work: &Work, bf16: Bf16, next: &mut dyn FnMut(Option<Repetition>) -> bool) -> Result<()> {
    let config = ModelConfig { source: model.to_owned(), dtype: bf16.dtype(), ..ModelConfig::default() };
    match work {
        Work::Train(steps) => train(&config, &Recipe { bf16, ..Recipe::default() }, steps, next),
        Work::TrainCheckpointing(steps) => {
            train(&config, &Recipe { bf16, gradient_checkpointing: true, ..Recipe::default() }, steps, next)
        }
        Work::Score(sequences) => {
            let split = |s: &Vec<u32>| match s.split_first() {
                Some((first, rest)) if !rest.is_empty() => {
                    Ok(Continuation { arm: 0, prompt: vec![*first], tokens: rest.to_vec() })
                }
                _ => Err(Error::failed("a sequence to score has fewer than two tokens")),
            };
            let continuations = sequences.iter().map(split).collect::<Result<Vec<_>>>()?;
            let units = sequences.iter().map(Vec::len).sum();
            let mut backend = CandleBackend::new(sources::resolve(&config, &mut |_| {})?, config, vec![None], 1);
            let engine = backend.engine()?;
            repeat(units, engine.decoder.weight_bytes(), next, || {
                let scores = engine.log_likelihoods(&continuations)?;
                Ok(scores.iter().zip(&continuations).map(|(score, c)| score / c.tokens.len() as f64).collect())
            })
        }
        Work::Generate(prompts, max_tokens) => {
            let generations: Vec<Generation> =
                prompts.iter().map(|prompt| Generation::greedy(0, prompt.clone(), *max_tokens)).collect();
            generate(config, vec![None], &generations, prompts.len() * max_tokens, next)
        }
        Work::Arms(prompt, max_tokens, arms) => {
            let decoder = load_decoder(&sources::resolve(&config, &mut |_| {})?, &config)?;
            let outline = Outline::of(&decoder.spec);
            let adapter = || Adapter::initialised(&Recipe::default(), &outline, model);
            let adapters: Vec<ArmAdapter> = std::iter::once(Ok(None))
                .chain((1..*arms).map(|_| adapter().map(|adapter| Some((Arc::new(adapter), 1.0)))))
                .collect::<Result<_>>()?;
            let generations: Vec<Generation> =
                (0..adapters.len()).map(|arm| Generation::greedy(arm, prompt.clone(), *max_tokens)).collect();
            generate(config, adapters, &generations, *max_tokens, next)
        }
    }
}

/// Answers everything at once. No token ends an answer, so that every one is as long.
fn generate(
    config: ModelConfig,
    arms: Vec<ArmAdapter>,
    generations: &[Generation],
    units: usize,
    next: &mut dyn FnMut(Option<Repetition>) -> bool,
) -> Result<()> {
    let files = sources::resolve(&config, &mut |_| {})?;
    let mut backend = CandleBackend::new(files, config, arms, generations.len().max(1));
    let engine = backend.engine()?;
    repeat(units, engine.decoder.weight_bytes(), next, || {
        let answers = engine.generate(generations, &Ends::NONE, &mut |_| {})?;
        Ok(answers.into_iter().flat_map(|a| a.tokens).map(f64::from).collect())
    })
}

/// Steps of a recipe's LoRA.
fn train(
    config: &ModelConfig,
    recipe: &Recipe,
    steps: &[Vec<(Vec<u32>, usize)>],
    next: &mut dyn FnMut(Option<Repetition>) -> bool,
) -> Result<()> {
    let decoder = load_decoder(&sources::resolve(config, &mut |_| {})?, config)?;
    let encode = |(ids, prompt): &(Vec<u32>, usize)| Encoded {
        ids: ids.clone(),
        labels: (0..ids.len()).map(|i| i > 0 && i >= *prompt).collect(),
        line: 0,
    };
    let steps: Vec<Vec<Encoded>> = steps.iter().map(|examples| examples.iter().map(encode).collect()).collect();
    let adapter = Adapter::initialised(recipe, &Outline::of(&decoder.spec), &config.source)?;
    let mut trainer =
        Trainer::new(Box::new(InProcess::new(&decoder, recipe)), recipe, adapter, TrainerState::default());
    let mut said = None;
    for step in steps.iter().cycle() {
        if !next(said) {
            break;
        }
        let started = Instant::now();
        let entry = trainer.step(&[step.iter().collect()], 1e-5, 0.0)?;
        said = Some(Repetition {
            units: step.iter().map(|e| e.ids.len()).sum(),
            seconds: started.elapsed().as_secs_f64(),
            result: entry.loss.into_iter().collect(),
            weight_bytes: decoder.weight_bytes(),
        });
    }
    Ok(())
}

fn repeat(
    units: usize,
    weight_bytes: u64,
    next: &mut dyn FnMut(Option<Repetition>) -> bool,
    mut work: impl FnMut() -> Result<Vec<f64>>,
) -> Result<()> {
    let mut said = None;
    while next(said) {
        let started = Instant::now();
        let result = work()?;
        said = Some(Repetition { units, seconds: started.elapsed().as_secs_f64(), result, weight_bytes });
    }
    Ok(())
}
