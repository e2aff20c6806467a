//! How far an exported model is from base and adapter.

use super::Export;
use crate::error::{Error, Result};
use crate::model::Opened;
use crate::model::decoder::linear::Adapters;
use crate::model::decoder::{Batch, Decoder};
use crate::model::ops::low_rank::LowRank;
use crate::model::ops::rows::{Normaliser, argmax, distances, larger, largest_difference};

/// Two models' next-token distributions on the same tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Difference {
    /// Positions compared.
    pub(crate) positions: usize,
    /// Largest difference of a logit.
    pub(crate) largest: f64,
    /// Mean Σ p ln(p/q), nats a token: what a rounded weight costs, in the unit of drift.
    pub(crate) drift: f64,
    /// Share of positions with the same most likely token.
    pub(crate) same_top1: f64,
}

/// More than this is no rounding: the file does not say what it should.
const MOST_DRIFT: f64 = 0.5;

impl Export<'_> {
    /// The logits of base and `tuned`, before anything is written.
    ///
    /// # Errors
    /// They are not finite, by the tensor that is the reason.
    pub(super) fn expected(&self, tuned: &LowRank) -> Result<Vec<Vec<f32>>> {
        let expected = logits(self.decoder, self.probe, Some(tuned))?;
        let finite = expected.iter().flatten().all(|logit| logit.is_finite());
        if finite { Ok(expected) } else { Err(self.not_finite()) }
    }

    /// How far what was read back, `adapter` on it, is from what was expected.
    ///
    /// # Errors
    /// They are too far apart.
    pub(super) fn compared(
        &self,
        expected: &[Vec<f32>],
        read_back: &Decoder,
        adapter: Option<&LowRank>,
    ) -> Result<Difference> {
        compare(expected, &logits(read_back, self.probe, adapter)?).map_err(|error| match read_back.first_non_finite() {
            Some(tensor) => Error::failed(format!(
                "{error}; tensor `{tensor}` is not finite in this precision: give --dtype f32, or lower the adapter's scale"
            )),
            None => error,
        })
    }

    fn not_finite(&self) -> Error {
        match self.decoder.first_non_finite() {
            Some(tensor) => {
                let message = format!("tensor `{tensor}` holds NaN or infinite values; nothing is exported");
                Error::model(&self.files.root, message)
            }
            None => {
                let message = "the logits of base and adapter are not finite, although the base's weights are: the adapter has \
                               diverged, or its scale is too large";
                Error::model(self.directory, message)
            }
        }
    }
}

/// What base and adapter, and what was written, are compared on.
const PROBE: &str = "The capital of France is Paris. In 1998 the team won 3 : 0.\n\n```python\nfor i in range(10):\n    print(i)\n```\n\n{\"name\": \"Ada\", \"year\": 1815}\n\nLa casa es grande. 你好，世界。";

/// Tokens that an export of a base is compared on. A model without a tokenizer is compared on any.
///
/// # Errors
/// Its tokenizer cannot be read, or is another model's.
pub(crate) fn probe(base: &Opened) -> Result<Vec<u32>> {
    let spec = &base.decoder.spec;
    let mut tokens = match base.chat()? {
        Some(chat) => chat.tokenizer.encode_raw(PROBE)?,
        None => (0..64).map(|i| (7 + 13 * i) % spec.vocab_size as u32).collect(),
    };
    tokens.truncate(spec.context);
    Ok(tokens)
}

/// Logits of every position.
pub(super) fn logits(decoder: &Decoder, tokens: &[u32], tuned: Option<&LowRank>) -> Result<Vec<Vec<f32>>> {
    let slots: Vec<_> = tuned.map(|tuned| (0..tokens.len(), tuned)).into_iter().collect();
    let hidden = decoder.hidden(&Batch::new([tokens]), Adapters::Rows(&slots))?;
    let logits = decoder.logits(&hidden, &slots)?.to_vec2::<f32>()?;
    // The export is compared with this, so a broken base is reported first.
    if tuned.is_some()
        && !logits.iter().flatten().all(|value| value.is_finite())
        && let Some(tensor) = decoder.first_non_finite()
    {
        return Err(Error::failed(format!(
            "the base's logits are not finite: its tensor `{tensor}` holds NaN or infinite values"
        )));
    }
    Ok(logits)
}

/// Compares logits; `expected` are those of base and adapter.
///
/// # Errors
/// They are too far apart for a rounding.
pub(super) fn compare(expected: &[Vec<f32>], got: &[Vec<f32>]) -> Result<Difference> {
    let (mut largest, mut drift, mut same) = (0f64, 0f64, 0usize);
    for (p, q) in expected.iter().zip(got) {
        largest = larger(largest, largest_difference(p, q));
        drift += distances(p, q, Normaliser::new(p), Normaliser::new(q)).kl;
        same += usize::from(argmax(p) == argmax(q));
    }
    let positions = expected.len().max(1);
    let difference =
        Difference { positions, largest, drift: drift / positions as f64, same_top1: same as f64 / positions as f64 };
    // Written so that NaN is refused too.
    if difference.drift <= MOST_DRIFT && difference.largest.is_finite() {
        return Ok(difference);
    }
    Err(Error::failed(format!(
        "what was written does not say what base and adapter say: {} nats a token over {positions} tokens, which is no rounding",
        difference.drift
    )))
}
