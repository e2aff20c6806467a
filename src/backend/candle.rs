//! The decoder of this crate, in this process, on candle.

use super::{Backend, DriftText, Progress};
use crate::adapter::Adapter;
use crate::compare::DriftSample;
use crate::config::ModelConfig;
use crate::engine::{Compared, Continuation, Engine, Event, Generation};
use crate::error::{Error, Result};
use crate::model::decoder::Decoder;
use crate::model::{ModelFiles, Voice, load_decoder};
use crate::record::{ChoiceScore, Completion, Finish, Prompt, Proof, Request};

/// Largest model, in parameters, whose weights are widened to f32 for a run: 4 GB of memory.
const WIDEN_UP_TO: u64 = 1_000_000_000;
/// Tokens of one text when drift is measured on a file.
const WINDOW: usize = 256;
/// How far base's logits may be from those of a model without adapters: rounding in another order of sums.
const ROUNDING: f64 = 1e-2;

/// An arm's adapter, and the factor on its scale.
pub(crate) type ArmAdapter = Option<(Adapter, f64)>;

/// The model is loaded at the first question that the store has no answer to.
pub struct CandleBackend {
    files: ModelFiles,
    config: ModelConfig,
    arms: Vec<ArmAdapter>,
    batch: usize,
    loaded: Option<Loaded>,
}

struct Loaded {
    decoder: Decoder,
    voice: Voice,
}

impl CandleBackend {
    /// Nothing is read yet.
    pub(crate) fn new(files: ModelFiles, config: ModelConfig, arms: Vec<ArmAdapter>, batch: usize) -> Self {
        Self { files, config, arms, batch, loaded: None }
    }

    /// Name and version, as they decide an answer.
    #[must_use]
    pub fn version() -> String {
        "candle 0.11".into()
    }

    fn load(&mut self, on_progress: &mut dyn FnMut(Progress)) -> Result<(&Loaded, Engine<'_>)> {
        if self.loaded.is_none() {
            on_progress(Progress::Started { what: "loading the model", units: 0 });
            let voice = Voice::load(&self.files, &self.config)?;
            let mut decoder = load_decoder(&self.files, &self.config)?;
            if decoder.parameters() <= WIDEN_UP_TO {
                decoder.widen();
            }
            voice.check_fits(&decoder)?;
            self.loaded = Some(Loaded { decoder, voice });
        }
        let Some(loaded) = &self.loaded else {
            return Err(Error::failed("the model is not loaded"));
        };
        let mut arms = Vec::new();
        for arm in &self.arms {
            arms.push(match arm {
                Some((adapter, factor)) => Some(adapter.attached(&loaded.decoder, *factor)?),
                None => None,
            });
        }
        Ok((loaded, Engine { decoder: &loaded.decoder, arms, batch: self.batch }))
    }
}

impl Backend for CandleBackend {
    fn name(&self) -> String {
        Self::version()
    }

    fn complete(
        &mut self,
        questions: &[(usize, &Request)],
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Completion>> {
        let (loaded, engine) = self.load(on_progress)?;
        let voice = &loaded.voice;
        let prompts = questions.iter().map(|(_, r)| encode(&engine, voice, r)).collect::<Result<Vec<_>>>()?;
        let mut answers: Vec<Completion> = prompts
            .iter()
            .map(|p| Completion {
                text: String::new(),
                tokens: Vec::new(),
                finish: Finish::Scored,
                prompt_tokens: p.len(),
                choices: Vec::new(),
            })
            .collect();
        let generated: Vec<usize> = (0..questions.len()).filter(|i| questions[*i].1.max_tokens > 0).collect();
        on_progress(Progress::Started { what: "answering", units: questions.len() });
        let generations: Vec<Generation> = generated
            .iter()
            .map(|i| Generation {
                arm: questions[*i].0,
                prompt: prompts[*i].clone(),
                max_tokens: questions[*i].1.max_tokens,
            })
            .collect();
        let outputs =
            engine.generate(&generations, voice.tokenizer.stop_ids(), &mut |event| on_progress(progress(event)))?;
        for (i, output) in generated.into_iter().zip(outputs) {
            answers[i].text = voice.tokenizer.decode(&output.tokens, false)?;
            answers[i].tokens = output.tokens;
            answers[i].finish = output.finish;
        }
        let mut owners = Vec::new();
        let mut continuations = Vec::new();
        for (i, (arm, request)) in questions.iter().enumerate() {
            for choice in &request.choices {
                let tokens = voice.tokenizer.encode(choice, false)?;
                if tokens.is_empty() {
                    return Err(Error::failed(format!("the choice {choice:?} is no token")));
                }
                owners.push((i, choice, tokens.len()));
                continuations.push(Continuation { arm: *arm, prompt: prompts[i].clone(), tokens });
            }
        }
        let scores = engine.log_likelihoods(&continuations)?;
        for ((i, choice, tokens), log_likelihood) in owners.into_iter().zip(scores) {
            answers[i].choices.push(ChoiceScore { text: choice.clone(), log_likelihood, tokens });
        }
        Ok(answers)
    }

    fn drift(
        &mut self,
        texts: &[DriftText<'_>],
        arms: (usize, usize),
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Option<Vec<DriftSample>>> {
        let (loaded, engine) = self.load(on_progress)?;
        let mut continuations = Vec::new();
        for text in texts {
            match text {
                DriftText::Answer(prompt, tokens) => {
                    let prompt = loaded.voice.encode(prompt)?;
                    continuations.push(Continuation { arm: 0, prompt, tokens: tokens.to_vec() });
                }
                DriftText::Plain(text) => {
                    for window in loaded.voice.tokenizer.encode_raw(text)?.chunks(WINDOW).filter(|w| w.len() > 1) {
                        let (prompt, tokens) = (window[..1].to_vec(), window[1..].to_vec());
                        continuations.push(Continuation { arm: 0, prompt, tokens });
                    }
                }
            }
        }
        on_progress(Progress::Started { what: "measuring drift", units: continuations.len() });
        let compared = engine.compare(&continuations, arms.0, arms.1, &mut |event| on_progress(progress(event)))?;
        let sample = |c: Compared| DriftSample {
            kl: c.kl,
            nll_base: c.nll_base,
            nll_tuned: c.nll_tuned,
            same_top1: c.same_top1,
        };
        Ok(Some(compared.into_iter().map(sample).collect()))
    }

    fn prove(&mut self, prompts: &[&Prompt], arms: (usize, usize)) -> Result<Option<Proof>> {
        let Some((adapter, _)) = self.arms.get(arms.1).and_then(Option::as_ref) else {
            return Err(Error::failed("the tuned arm has no adapter"));
        };
        let adapted_modules = adapter.modules.len();
        if adapter.is_zero() {
            return Err(Error::failed(
                "the adapter changes nothing: every product B·A in it is zero; it was saved untrained",
            ));
        }
        let (loaded, engine) = self.load(&mut |_| {})?;
        let alone = Engine { decoder: engine.decoder, arms: vec![None], batch: 1 };
        let (mut effect, mut base) = (0f64, 0f64);
        for prompt in prompts {
            let prompt = loaded.voice.encode(prompt)?;
            let together = engine.last_logits(&prompt, &[arms.0, arms.1])?;
            let untouched = alone.last_logits(&prompt, &[0])?;
            effect = effect.max(difference(&together[0], &together[1]));
            base = base.max(difference(&together[0], &untouched[0]));
        }
        if effect == 0.0 {
            return Err(Error::failed(
                "the adapter is not applied: base and tuned have the same logits on every probe",
            ));
        }
        if base > ROUNDING {
            return Err(Error::failed(format!(
                "base is not untouched: its logits differ by {base} from those of the model without an adapter"
            )));
        }
        Ok(Some(Proof { adapter_effect: effect, base_difference: base, adapted_modules }))
    }
}

fn progress(event: Event) -> Progress {
    match event {
        Event::Tokens(n) => Progress::Tokens(n),
        Event::Done(n) => Progress::Done(n),
    }
}

/// A request's prompt in tokens, checked to leave room for the answer.
fn encode(engine: &Engine<'_>, voice: &Voice, request: &Request) -> Result<Vec<u32>> {
    let prompt = voice.encode(&request.prompt)?;
    if prompt.is_empty() {
        return Err(Error::failed("a prompt is empty"));
    }
    let context = engine.decoder.spec.context;
    let (length, most) = (prompt.len(), request.max_tokens);
    if length + most > context {
        let asked = request.prompt.headline().lines().next().unwrap_or_default();
        let asked: String = asked.chars().take(60).collect();
        return Err(Error::failed(format!(
            "the prompt {asked:?} has {length} tokens and its answer up to {most}, but the model's context is {context}; shorten it, or lower max_tokens"
        )));
    }
    Ok(prompt)
}

fn difference(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
}
