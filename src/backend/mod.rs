//! What answers: candle in this process, llama.cpp in a process of its own, or a script.
//!
//! A backend is asked about arms by their number, base first. It knows prompts and tokens, and nothing of scenarios.

#[cfg(feature = "candle")]
mod candle;
#[cfg(feature = "llama-cpp")]
mod isolated;
#[cfg(feature = "llama-cpp")]
mod llama_cpp;
#[cfg(feature = "candle")]
mod prompts;
mod scripted;
#[cfg(feature = "llama-cpp")]
mod training;
#[cfg(feature = "llama-cpp")]
mod widened;

#[cfg(feature = "candle")]
pub(crate) use candle::ArmAdapter;
#[cfg(feature = "candle")]
pub use candle::CandleBackend;
#[cfg(feature = "llama-cpp")]
pub use llama_cpp::LlamaCppBackend;
#[cfg(feature = "llama-cpp")]
pub(crate) use llama_cpp::{Kept, LlamaAdapter};
pub use scripted::Scripted;
#[cfg(feature = "llama-cpp")]
pub(crate) use training::LlamaCppObjective;

use crate::compare::DriftSample;
use crate::error::Result;
use crate::record::{Completion, Prompt, Proof, Request};

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
    /// The text that was approved: it is expected to hold, and holds where its tokens are the likeliest or tie with them.
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

/// Something that answers prompts for several arms.
pub trait Backend {
    /// Its name and version, as they decide an answer: `candle 0.11`.
    fn name(&self) -> String;

    /// Answers questions, in order. What is wrong with one question alone is that question's answer.
    ///
    /// # Errors
    /// The model cannot be loaded, a prompt does not fit, an answer is not finite.
    fn complete(&mut self, questions: &[Question<'_>], on_progress: &mut dyn FnMut(Progress)) -> Result<Vec<Answered>>;

    /// Both arms' next-token distributions on the same tokens, one sample a text; `None` when the backend cannot see them.
    /// What is wrong with one text alone is that text's sample.
    ///
    /// # Errors
    /// As [`Self::complete`].
    fn drift(
        &mut self,
        texts: &[DriftText<'_>],
        arms: (usize, usize),
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Option<Vec<Measured<DriftSample>>>>;

    /// Shows on `prompts` that arm `tuned`'s adapter changes logits and that arm `base` has the logits of a model without any
    /// adapter; `None` when the backend cannot show it. That it was taken down while it did is no proof, and why.
    ///
    /// # Errors
    /// The adapter changes nothing, or base is changed by it; or as [`Self::complete`].
    fn prove(&mut self, prompts: &[&Prompt], arms: (usize, usize)) -> Result<Option<Measured<Proof>>>;
}
