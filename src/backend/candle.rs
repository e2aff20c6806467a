//! The decoder of this crate, in this process, on candle.

use std::sync::Arc;

use super::encode::Answers;
use super::engine::{Compared, Continuation, Ends, Engine, Event, Generated, Generation};
use super::{Backend, Capabilities, DriftText, Logits, Measured, OnAnswers, Progress, Question, encode};
use crate::compare::DriftSample;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::decoder::Decoder;
use crate::model::lora::Adapter;
use crate::model::ops::bf16::arithmetic;
use crate::model::ops::low_rank::LowRank;
use crate::model::ops::matrix::Arithmetic;
use crate::model::ops::rows::{larger, largest_difference};
use crate::model::tokenizer::ChatTokenizer;
use crate::model::{self, Limits, ModelFiles, load_decoder};
use crate::record::{Prompt, Proof};

/// An arm's adapter, and the factor on its scale.
pub(crate) type ArmAdapter = Option<(Arc<Adapter>, f64)>;

/// The model is loaded at the first question that the store has no answer to.
pub(crate) struct CandleBackend {
    files: ModelFiles,
    config: ModelConfig,
    arms: Vec<ArmAdapter>,
    batch: usize,
    text: Option<Text>,
    loaded: Option<Loaded>,
}

/// What tells whether a question can be asked; it is opened before the weights.
struct Text {
    chat: ChatTokenizer,
    limits: Limits,
}

struct Loaded {
    decoder: Decoder,
    /// Each arm's adapter as the decoder takes it. With DoRA it is made by reading all of the base's weights.
    arms: Vec<Option<LowRank>>,
}

impl CandleBackend {
    /// Nothing is read yet.
    pub(crate) fn new(files: ModelFiles, config: ModelConfig, arms: Vec<ArmAdapter>, batch: usize) -> Self {
        Self { files, config, arms, batch, text: None, loaded: None }
    }

    /// Name and version, and the precision of products with the model's weights, as they decide an answer.
    #[must_use]
    pub(crate) fn version(config: &ModelConfig) -> String {
        match arithmetic(config.dtype) {
            Arithmetic::F32 => "candle 0.11".into(),
            Arithmetic::Bf16 => "candle 0.11 in bf16".into(),
        }
    }

    /// The tokenizer and the limits, read once.
    fn text(&mut self) -> Result<&Text> {
        let text = match self.text.take() {
            Some(text) => text,
            None => {
                let chat = ChatTokenizer::load(&self.files, &self.config)?;
                let limits = model::limits(&self.files, &self.config)?;
                chat.check_fits(limits.vocabulary)?;
                Text { chat, limits }
            }
        };
        Ok(self.text.insert(text))
    }

    fn load(&mut self, on_progress: &mut dyn FnMut(Progress)) -> Result<(&Text, Engine<'_>)> {
        self.text()?;
        if self.loaded.is_none() {
            on_progress(Progress::Started { what: "loading the model", units: 0 });
            let decoder = load_decoder(&self.files, &self.config)?;
            let attached = |arm: &ArmAdapter| {
                arm.as_ref().map(|(adapter, factor)| adapter.attached(&decoder, *factor)).transpose()
            };
            let arms = self.arms.iter().map(attached).collect::<Result<_>>()?;
            self.loaded = Some(Loaded { decoder, arms });
        }
        let (Some(text), Some(loaded)) = (&self.text, &self.loaded) else {
            return Err(Error::failed("the model is not loaded"));
        };
        Ok((text, Engine { decoder: &loaded.decoder, arms: &loaded.arms, batch: self.batch }))
    }

    /// The engine as a run has it, for `bench`.
    pub(crate) fn engine(&mut self) -> Result<Engine<'_>> {
        Ok(self.load(&mut |_| {})?.1)
    }

    /// Logits of every position that predicts one of an answer's tokens; (arm, prompt, answer) each.
    pub(crate) fn logits(&mut self, answers: &[(usize, &Prompt, &[u32])]) -> Result<Vec<Vec<Vec<f32>>>> {
        let (text, engine) = self.load(&mut |_| {})?;
        engine.logits_of(&encode::answers(&text.chat, answers)?)
    }
}

impl Backend for CandleBackend {
    fn name(&self) -> String {
        Self::version(&self.config)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            logits: Logits::Full,
            scores: true,
            drafts: true,
            seeds: true,
            adapters: true,
            proves_anew: false,
        }
    }

    fn answer(
        &mut self,
        questions: &[Question<'_>],
        on_answers: OnAnswers<'_>,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        // An invalid question is an error before the weights are loaded.
        let Text { chat, limits } = self.text()?;
        let context = limits.context;
        let encode = |q: &Question<'_>| encode::encode(context, chat, q.request);
        let prompts = questions.iter().map(encode).collect::<Result<Vec<_>>>()?;
        let (choices, continuations) = encode::choices(context, chat, questions, &prompts)?;
        let (Text { chat, .. }, engine) = self.load(on_progress)?;
        let mut answers = Answers::begin(questions, &prompts);
        let generated: Vec<usize> = (0..questions.len()).filter(|i| questions[*i].request.max_tokens > 0).collect();
        on_progress(Progress::Started { what: "answering", units: questions.len() });
        on_answers(answers.take_complete())?;
        let generations: Vec<Generation> = generated
            .iter()
            .map(|i| encode::generation(chat, &questions[*i], prompts[*i].clone()))
            .collect::<Result<_>>()?;
        let text = |tokens: &[u32]| chat.tokenizer.decode(tokens, false).unwrap_or_default();
        let ends = Ends { tokens: chat.tokenizer.stop_ids(), text: &text };
        let mut ended = |outputs: Vec<(usize, Generated)>| {
            let put = |(row, output): (usize, Generated)| {
                let i = generated[row];
                let request = questions[i].request;
                answers.put(i, Ok(output), |answer, output| encode::answered(chat, request, output, answer)).transpose()
            };
            on_answers(outputs.into_iter().filter_map(put).collect::<Result<_>>()?)
        };
        engine.generate_each(&generations, &ends, &mut ended, &mut |event| on_progress(progress(event)))?;
        engine.log_likelihoods_each(&continuations, &mut |scores| {
            let put = |(row, score): (usize, f64)| answers.put_score(&choices[row], Ok(score)).transpose();
            on_answers(scores.into_iter().filter_map(put).collect::<Result<_>>()?)
        })
    }

    fn drift(
        &mut self,
        texts: &[DriftText<'_>],
        (base, others): (usize, &[usize]),
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Vec<Measured<DriftSample>>>> {
        let (text, engine) = self.load(on_progress)?;
        let continuations = encode::texts(engine.decoder.spec.context, &text.chat, texts)?;
        on_progress(Progress::Started { what: "measuring drift", units: continuations.len() });
        let compared = engine.compare(&continuations, base, others, &mut |event| on_progress(progress(event)))?;
        let sample = |(of, found): (&Continuation, Compared)| Ok(encode::drift_sample(&text.chat, of, found));
        Ok(compared.into_iter().map(|of_arm| continuations.iter().zip(of_arm).map(sample).collect()).collect())
    }

    fn probe_adapter(&mut self, prompts: &[&Prompt], arms: (usize, usize)) -> Result<Measured<Proof>> {
        let Some((adapter, _)) = self.arms.get(arms.1).and_then(Option::as_ref) else {
            return Err(Error::failed("the tuned arm has no adapter"));
        };
        let adapted_modules = adapter.modules.len();
        if adapter.is_zero() {
            return Err(encode::untrained());
        }
        let (text, engine) = self.load(&mut |_| {})?;
        // As many rows as with the adapter: in bf16 another shape is another rounding.
        let alone = Engine { decoder: engine.decoder, arms: &[None, None], batch: 1 };
        let (mut effect, mut base) = (0f64, 0f64);
        for prompt in prompts {
            let prompt = text.chat.encode(prompt)?;
            let together = engine.last_logits(&prompt, &[arms.0, arms.1])?;
            let untouched = alone.last_logits(&prompt, &[0, 1])?;
            effect = larger(effect, largest_difference(&together[0], &together[1]));
            base = larger(base, largest_difference(&together[0], &untouched[0]));
        }
        encode::proof(effect, base, adapted_modules).map(Ok)
    }
}

fn progress(event: Event) -> Progress {
    match event {
        Event::Tokens(n) => Progress::Tokens(n),
        Event::Done(n) => Progress::Done(n),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::model::decoder::parity::fixture;
    use crate::model::{ModelKind, sources};
    use crate::record::Request;

    /// Weights that are not there would be an error too, if they were looked at first.
    #[test]
    fn a_question_that_cannot_be_asked_is_told_before_the_weights_are_loaded() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, from) in [
            ("config.json", "llama/config.json"),
            ("model.safetensors", "llama/model.safetensors"),
            ("tokenizer.json", "tokenizer/tokenizer.json"),
            ("tokenizer_config.json", "tokenizer/tokenizer_config.json"),
        ] {
            std::fs::copy(fixture(from), folder.path().join(name)).expect("a copy");
        }
        let config = ModelConfig { source: folder.path().display().to_string(), ..ModelConfig::default() };
        let mut files = sources::resolve(&config, &mut |_| {}).expect("a model");
        let ModelKind::HuggingFace(found) = &mut files.kind else { panic!("a directory") };
        found.weights = vec![PathBuf::from("nowhere.safetensors")];
        let mut backend = CandleBackend::new(files, config, vec![None], 1);
        let mut ask = |prompt: &str| {
            let request = Request::greedy(Prompt::Text(prompt.to_owned()), 4);
            let question = Question { arm: 0, request: &request, draft: None };
            backend.answer(&[question], &mut |_| Ok(()), &mut |_| {}).expect_err("an error").to_string()
        };
        assert!(ask(&"word ".repeat(300)).contains("context is 256"));
        assert!(ask("word").contains("nowhere.safetensors"));
    }
}
