//! What answers: candle in this process, llama.cpp in a process of its own, or a script.
//!
//! A backend is asked about arms by their number, base first. It knows prompts and tokens, and nothing of scenarios.

#[cfg(feature = "candle")]
mod candle;
#[cfg(feature = "candle")]
pub(crate) mod encode;
#[cfg(feature = "candle")]
pub(crate) mod engine;
#[cfg(feature = "llama-cpp")]
pub(crate) mod llama_cpp;
#[cfg(feature = "candle")]
mod remote;
mod scripted;
#[cfg(feature = "candle")]
mod second;

#[cfg(feature = "candle")]
pub(crate) use candle::ArmAdapter;
#[cfg(feature = "candle")]
pub(crate) use candle::CandleBackend;
#[cfg(feature = "llama-cpp")]
pub(crate) use llama_cpp::LlamaCppBackend;
#[cfg(feature = "llama-cpp")]
pub(crate) use llama_cpp::{ConvertedFiles, LlamaAdapter, LlamaCppObjective};
#[cfg(feature = "candle")]
pub(crate) use remote::{Here, Remote, RemoteBackend};
pub use scripted::Scripted;
#[cfg(feature = "candle")]
pub(crate) use second::Second;

use crate::compare::DriftSample;
use crate::error::{Error, Result};
use crate::record::{Completion, DriftMethod, Prompt, Proof, Request};

/// Raised when the code of this crate would answer a question differently from before: the decoder, sampling, tokenisation, templates, the
/// llama.cpp session. It is part of every answer's key, so that no stored answer of the old code is taken for one of the new.
/// A test of `engine/tests.rs` fails when it has to be raised.
pub const ENGINE_REVISION: u32 = 1;

/// What is going on while a backend works.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// Something begins, `units` of it in all (answers, texts), when that is known.
    Started {
        /// `loading the model`, `answering`, `measuring drift`.
        what: &'static str,
        /// How many.
        units: usize,
    },
    /// So many tokens were computed.
    Tokens(usize),
    /// So many units are done.
    Done(usize),
    /// Something that whoever waits should know.
    Note(String),
}

/// A prompt, and the tokens that one arm answered: drift is measured on them.
#[derive(Clone, Copy, Debug)]
pub enum DriftText<'a> {
    /// An answer to a prompt.
    Answer(&'a Prompt, &'a [u32]),
    /// Plain text.
    Plain(&'a str),
}

/// One question to one arm.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The arm's number.
    pub arm: usize,
    /// What is asked.
    pub request: &'a Request,
    /// What the answer may be. It makes an answer that holds faster to find, and none other.
    pub draft: Option<Draft<'a>>,
}

/// A guess at an answer.
#[derive(Clone, Copy, Debug)]
pub enum Draft<'a> {
    /// The text that was approved: it is expected to hold, and holds where its tokens are the most likely or tie with them.
    Approved(&'a str),
    /// The tokens of another arm's answer.
    Other(&'a [u32]),
}

impl<'a> Question<'a> {
    /// A question without a guess.
    #[must_use]
    pub fn new(arm: usize, request: &'a Request) -> Self {
        Self { arm, request, draft: None }
    }
}

/// An answer, or why this one question has none: it took the program that computes it down, and the others go on.
pub type Answered = std::result::Result<Completion, String>;

/// What was measured, or why this one thing was not: as with [`Answered`], the others go on.
pub type Measured<T> = std::result::Result<T, String>;

/// Receives answers as they are computed: the questions' numbers and their answers, as many as became ready together.
pub type OnAnswers<'a> = &'a mut dyn FnMut(Vec<(usize, Answered)>) -> Result<()>;

/// What of next-token distributions a backend sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Logits {
    /// Nothing.
    #[default]
    None,
    /// Probabilities of the top k tokens.
    TopK(usize),
    /// All of them.
    Full,
}

/// What a backend can do besides answering. What it cannot is left out of a run, or refused before anything is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// What it sees of distributions at every position.
    pub logits: Logits,
    /// It scores text that it is given: choices, and the drift of likelihoods.
    pub scores: bool,
    /// A [`Draft`] makes its answers faster.
    pub drafts: bool,
    /// The same seed makes the same answer.
    pub seeds: bool,
    /// Its arms are adapters on one base, so that [`Backend::probe_adapter`] can show that they are applied.
    pub adapters: bool,
    /// What was proven of its adapters may be otherwise the next time: it is proven in every run.
    pub proves_anew: bool,
}

impl Capabilities {
    /// By what drift can be measured; `None`: not at all.
    #[must_use]
    pub fn drift(&self) -> Option<DriftMethod> {
        match self.logits {
            Logits::Full => Some(DriftMethod::FullKl),
            Logits::TopK(k) => Some(DriftMethod::TopK(k)),
            Logits::None => self.scores.then_some(DriftMethod::Nll),
        }
    }
}

/// Something that answers prompts for several arms.
pub trait Backend {
    /// Its name and version, as they decide an answer: `candle 0.11`.
    fn name(&self) -> String;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Answers every question, and hands each answer to `on_answers` as soon as it is computed, so that it can be stored before the
    /// next one is there. The order is the backend's own. What is wrong with one question alone is that question's answer.
    ///
    /// # Errors
    /// The model cannot be loaded, a prompt does not fit, an answer is not finite; or those of `on_answers`.
    fn answer(
        &mut self,
        questions: &[Question<'_>],
        on_answers: OnAnswers<'_>,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<()>;

    /// All answers, in the order of the questions.
    ///
    /// # Errors
    /// As [`Self::answer`], or it left a question out.
    fn complete(&mut self, questions: &[Question<'_>], on_progress: &mut dyn FnMut(Progress)) -> Result<Vec<Answered>> {
        let mut answers: Vec<Option<Answered>> = questions.iter().map(|_| None).collect();
        let mut keep = |ready: Vec<(usize, Answered)>| {
            for (i, answer) in ready {
                *answers.get_mut(i).ok_or_else(|| no_question(i, questions.len()))? = Some(answer);
            }
            Ok(())
        };
        self.answer(questions, &mut keep, on_progress)?;
        let found: Vec<Answered> = answers.into_iter().flatten().collect();
        if found.len() == questions.len() {
            Ok(found)
        } else {
            Err(left_out(&self.name(), found.len(), questions.len()))
        }
    }

    /// Next-token distributions of base, the first of `arms`, and of each of the others on the same tokens, by the method of
    /// [`Capabilities::drift`]: for each of the others one sample a text, but of [`DriftText::Plain`], which comes last, one a stretch of
    /// it. What is wrong with one text alone is that text's sample.
    ///
    /// # Errors
    /// As [`Self::complete`]; it cannot measure drift.
    fn drift(
        &mut self,
        texts: &[DriftText<'_>],
        arms: (usize, &[usize]),
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Vec<Measured<DriftSample>>>> {
        let _ = (texts, arms, on_progress);
        Err(Error::failed(format!("{} cannot measure drift", self.name())))
    }

    /// What whoever waits should know since it was asked last.
    fn notes(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// So many likely tokens have this share of base's probability on a text, of a method that sees a part; `None` where that is not known.
    ///
    /// # Errors
    /// As [`Self::complete`].
    fn likely_tokens_for(&mut self, text: &DriftText<'_>, share: f64) -> Result<Option<usize>> {
        let _ = (text, share);
        Ok(None)
    }

    /// Shows on `prompts` that the second arm's adapter changes logits and that the first, base, has the logits of a model without any
    /// adapter. That it was taken down while it did is no proof, and why.
    ///
    /// # Errors
    /// The adapter changes nothing, or base is changed by it; it has no adapters; or as [`Self::complete`].
    fn probe_adapter(&mut self, prompts: &[&Prompt], arms: (usize, usize)) -> Result<Measured<Proof>> {
        let _ = (prompts, arms);
        Err(Error::failed(format!("{} has no adapters to check", self.name())))
    }
}

/// A backend answered what it was not asked.
pub(crate) fn no_question(number: usize, questions: usize) -> Error {
    Error::failed(format!("the backend answered question {number}, but was asked {questions}"))
}

/// A backend left questions out.
pub(crate) fn left_out(backend: &str, answers: usize, questions: usize) -> Error {
    Error::failed(format!("{backend} gave {answers} answers to {questions} questions"))
}
