//! Decoding of many prompts at once: rows join and leave the batch as they begin and end.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::choose::{Ends, choose};
use super::prefix::Prefixes;
use super::{Engine, Event, PREFILL_TOKENS, Row};
use crate::error::Result;
use crate::model::cache::Cache;
use crate::record::{Finish, Request, Sampling};

/// One prompt for one arm.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Generation {
    pub(crate) arm: usize,
    pub(crate) prompt: Vec<u32>,
    pub(crate) max_tokens: usize,
    /// Strings that end the answer.
    pub(crate) stop: Vec<String>,
    pub(crate) sampling: Sampling,
}

impl Generation {
    /// Of a request whose prompt is these tokens.
    pub(crate) fn of(arm: usize, prompt: Vec<u32>, request: &Request) -> Self {
        let Request { max_tokens, stop, sampling, .. } = request;
        Self { arm, prompt, max_tokens: *max_tokens, stop: stop.clone(), sampling: *sampling }
    }

    #[cfg(test)]
    pub(crate) fn greedy(arm: usize, prompt: Vec<u32>, max_tokens: usize) -> Self {
        Self { arm, prompt, max_tokens, stop: Vec::new(), sampling: Sampling::default() }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Generated {
    /// Without the token that ended the turn, with those of a string that did.
    pub(crate) tokens: Vec<u32>,
    pub(crate) finish: Finish,
}

struct Active {
    index: usize,
    arm: usize,
    cache: Cache,
    tokens: Vec<u32>,
}

impl Engine<'_> {
    /// Answers every generation, in order. `on_event` is called after each step.
    ///
    /// # Errors
    /// A prompt that with its answer would not fit the context, or logits that are not finite.
    pub(crate) fn generate(
        &self,
        generations: &[Generation],
        ends: &Ends<'_>,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<Vec<Generated>> {
        let prompts: Vec<(usize, &[u32])> = generations.iter().map(|g| (g.arm, g.prompt.as_slice())).collect();
        let prefixes = Prefixes::compute(self, &prompts)?;
        let mut order: Vec<usize> = (0..generations.len()).collect();
        // Long answers first, so that the batch stays full.
        order.sort_by_key(|i| std::cmp::Reverse(generations[*i].max_tokens));
        let mut waiting = order.into_iter().peekable();
        let mut done: Vec<Option<Generated>> = vec![None; generations.len()];
        let mut active: Vec<Active> = Vec::new();
        loop {
            let mut joining: Vec<usize> = Vec::new();
            let mut tokens = 0;
            while let Some(next) = waiting.peek()
                && active.len() + joining.len() < self.batch
                && (joining.is_empty() || tokens + generations[*next].prompt.len() <= PREFILL_TOKENS)
            {
                tokens += generations[*next].prompt.len();
                joining.extend(waiting.next());
            }
            if active.is_empty() && joining.is_empty() {
                break;
            }
            if joining.is_empty() {
                self.decode(generations, &mut active)?;
            } else {
                active.extend(self.prefill(generations, joining, &prefixes)?);
            }
            on_event(Event::Tokens(active.len() + tokens));
            let before = active.len();
            active.retain_mut(|row| {
                let Some(finish) = ends.ended(&generations[row.index], &mut row.tokens) else { return true };
                done[row.index] = Some(Generated { tokens: std::mem::take(&mut row.tokens), finish });
                false
            });
            on_event(Event::Done(before - active.len()));
        }
        Ok(done.into_iter().flatten().collect())
    }

    /// Runs prompts and takes each one's first token.
    fn prefill(&self, generations: &[Generation], mut joining: Vec<usize>, prefixes: &Prefixes) -> Result<Vec<Active>> {
        joining.sort_by_key(|i| (generations[*i].arm, *i));
        let mut caches: Vec<Cache> =
            joining.iter().map(|i| prefixes.start(self, generations[*i].arm, &generations[*i].prompt)).collect();
        let mut rows: Vec<Row<'_>> = Vec::new();
        let (mut ends, mut end) = (Vec::new(), 0);
        for (i, cache) in joining.iter().zip(&mut caches) {
            let tokens = &generations[*i].prompt[cache.len()..];
            end += tokens.len();
            ends.push(end as u32 - 1);
            rows.push(Row { arm: generations[*i].arm, tokens, cache });
        }
        let hidden = self.forward(&mut rows)?;
        let count = ends.len();
        let last = hidden.index_select(&Tensor::from_vec(ends, count, hidden.device())?, 0)?;
        let arms = joining.iter().map(|i| generations[*i].arm);
        let logits = self.logits(&last, arms)?.to_vec2::<f32>()?;
        let started = joining.into_iter().zip(caches).zip(logits).map(|((index, cache), logits)| Active {
            index,
            arm: generations[index].arm,
            cache,
            tokens: vec![choose(&logits, &generations[index].sampling, 0)],
        });
        Ok(started.collect())
    }

    /// One more token for every row.
    fn decode(&self, generations: &[Generation], active: &mut [Active]) -> Result<()> {
        active.sort_by_key(|row| (row.arm, row.index));
        let last: Vec<[u32; 1]> = active.iter().map(|row| [row.tokens.last().copied().unwrap_or_default()]).collect();
        let mut rows: Vec<Row<'_>> = active
            .iter_mut()
            .zip(&last)
            .map(|(row, token)| Row { arm: row.arm, tokens: token, cache: &mut row.cache })
            .collect();
        let hidden = self.forward(&mut rows)?;
        let logits = self.logits(&hidden, active.iter().map(|row| row.arm))?;
        let view = crate::model::ops::view(&logits);
        let vocab = self.decoder.spec.vocab_size;
        for (row, logits) in active.iter_mut().zip(view.slice()?.chunks(vocab)) {
            row.tokens.push(choose(logits, &generations[row.index].sampling, row.tokens.len()));
        }
        Ok(())
    }
}
