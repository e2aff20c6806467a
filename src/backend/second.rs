//! A backend that is compared with the reference, position by position: `finetest crosscheck`.

use super::Measured;
use super::engine::Compared;
use crate::compare::DriftSample;
use crate::error::Result;
use crate::model::tokenizer::ChatTokenizer;
use crate::record::{Message, Prompt};

/// The other one of two.
pub(crate) trait Second {
    /// The tokenizer and template that prompts are made with.
    fn chat(&mut self) -> Result<&ChatTokenizer>;

    /// Tokens of texts by its own tokenizer; nothing where it does not tell.
    fn tokenize(&mut self, texts: &[String]) -> Result<Option<Vec<Vec<u32>>>>;

    /// Texts of conversations as it would render them itself, nothing for one that it cannot; nothing where it renders none.
    fn render(&mut self, conversations: &[Vec<Message>]) -> Result<Option<Vec<Option<String>>>> {
        let _ = conversations;
        Ok(None)
    }

    /// It shows distributions over text that it is given.
    fn shows(&self) -> bool {
        true
    }

    /// Its distributions at every position that predicts one of an answer's tokens, beside the reference's logits there; (arm, prompt,
    /// answer) each. Or why one was not computed.
    fn beside(
        &mut self,
        answers: &[(usize, &Prompt, &[u32])],
        reference: &[Vec<Vec<f32>>],
    ) -> Result<Vec<Measured<DriftSample>>>;
}

/// What two backends' distributions have in common.
pub(super) fn sample(compared: Compared) -> DriftSample {
    let same_top1 = compared.top_base.iter().zip(&compared.top_tuned).map(|(one, other)| one.0 == other.0).collect();
    let Compared { kl, nll_base, nll_tuned, .. } = compared;
    DriftSample { kl, nll_base, nll_tuned, same_top1, ..DriftSample::default() }
}
