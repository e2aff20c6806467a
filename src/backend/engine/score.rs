//! Teacher forcing: log-likelihoods of given tokens, and arms' distributions on the same tokens beside base's.

use std::collections::BTreeMap;

use candle_core::Tensor;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::prefix::Prefixes;
use super::{Engine, Event, PREFILL_TOKENS, Row};
use crate::error::{Error, Result};
use crate::model::decoder::cache::Cache;
use crate::model::ops::rows::{Distances, Normaliser, argmax, distances, log_normaliser};
use crate::model::ops::view;

/// Positions whose logits are held at once, for each of two arms.
pub(super) const POSITIONS: usize = 128;

/// A prompt and the tokens that follow it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Continuation {
    pub(crate) arm: usize,
    pub(crate) prompt: Vec<u32>,
    pub(crate) tokens: Vec<u32>,
}

/// Two arms' next-token distributions p and q, position by position.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Compared {
    /// Σ_v p ln(p/q), nats.
    pub(crate) kl: Vec<f64>,
    /// Σ_v q ln(q/p), nats.
    pub(crate) reverse_kl: Vec<f64>,
    /// ½ Σ_v |p − q|.
    pub(crate) total_variation: Vec<f64>,
    /// Jensen and Shannon's divergence, nats.
    pub(crate) jensen_shannon: Vec<f64>,
    /// −ln p of the token that follows.
    pub(crate) nll_base: Vec<f64>,
    /// −ln q of it.
    pub(crate) nll_tuned: Vec<f64>,
    /// The most likely token of p, and −ln p of it.
    pub(crate) top_base: Vec<(u32, f64)>,
    /// The most likely token of q, and −ln q of it.
    pub(crate) top_tuned: Vec<(u32, f64)>,
}

/// One position of [`Compared`].
struct Position {
    distances: Distances,
    nll: [f64; 2],
    top: [(u32, f64); 2],
}

impl Position {
    /// Of two rows of logits of a position that `token` follows.
    fn new(p: &[f32], q: &[f32], token: usize) -> Self {
        let normalisers = [Normaliser::new(p), Normaliser::new(q)];
        let nll = |row: &[f32], normaliser: &Normaliser, token: usize| {
            // NaN, which is refused where it is added up, for a token outside the vocabulary.
            normaliser.log() - f64::from(row.get(token).copied().unwrap_or(f32::NAN))
        };
        let top = |row: &[f32], normaliser: &Normaliser| {
            let token = argmax(row);
            (token, nll(row, normaliser, token as usize))
        };
        Self {
            distances: distances(p, q, normalisers[0], normalisers[1]),
            nll: [nll(p, &normalisers[0], token), nll(q, &normalisers[1], token)],
            top: [top(p, &normalisers[0]), top(q, &normalisers[1])],
        }
    }
}

impl Compared {
    /// Compares two rows of logits of a position that `token` follows.
    #[cfg(feature = "llama-cpp")]
    pub(crate) fn push(&mut self, p: &[f32], q: &[f32], token: usize) {
        self.add(&Position::new(p, q, token));
    }

    fn add(&mut self, position: &Position) {
        let Position { distances, nll, top } = position;
        self.kl.push(distances.kl);
        self.reverse_kl.push(distances.reverse_kl);
        self.total_variation.push(distances.total_variation);
        self.jensen_shannon.push(distances.jensen_shannon);
        self.nll_base.push(nll[0]);
        self.nll_tuned.push(nll[1]);
        self.top_base.push(top[0]);
        self.top_tuned.push(top[1]);
    }
}

impl Engine<'_> {
    /// Σ ln p(token) of each continuation, in order.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub(crate) fn log_likelihoods(&self, continuations: &[Continuation]) -> Result<Vec<f64>> {
        let mut scores = vec![0.0; continuations.len()];
        let mut keep = |scored: Vec<(usize, f64)>| {
            scored.into_iter().for_each(|(i, score)| scores[i] = score);
            Ok(())
        };
        self.log_likelihoods_each(continuations, &mut keep)?;
        Ok(scores)
    }

    /// As [`Self::log_likelihoods`], but hands over scores as they are computed: the continuations' numbers and scores, all of one
    /// forward pass together. Those of one arm are computed in order.
    ///
    /// # Errors
    /// As [`Self::generate`], and those of `on_scored`.
    pub(crate) fn log_likelihoods_each(
        &self,
        continuations: &[Continuation],
        on_scored: &mut dyn FnMut(Vec<(usize, f64)>) -> Result<()>,
    ) -> Result<()> {
        self.check_tokens(continuations)?;
        let prompt_and_answer: Vec<Vec<u32>> =
            continuations.iter().map(|c| [c.prompt.as_slice(), &c.tokens].concat()).collect();
        let prompts: Vec<(usize, &[u32])> = continuations.iter().map(|c| (c.arm, c.prompt.as_slice())).collect();
        let prefixes = Prefixes::compute(self, &prompts)?;
        let mut order: Vec<usize> = (0..continuations.len()).collect();
        order.sort_by_key(|i| continuations[*i].arm);
        for group in groups(&order, |i| prompt_and_answer[i].len()) {
            let mut caches: Vec<Cache> =
                group.iter().map(|i| prefixes.start(self, continuations[*i].arm, &continuations[*i].prompt)).collect();
            let (mut rows, mut wanted, mut picked, mut at) = (Vec::new(), Vec::new(), Vec::new(), 0);
            for (i, cache) in group.iter().zip(&mut caches) {
                let c = &continuations[*i];
                let tokens = &prompt_and_answer[*i][cache.len()..prompt_and_answer[*i].len() - 1];
                let first = tokens.len() - c.tokens.len();
                picked.extend((first..tokens.len()).map(|p| (at + p) as u32));
                wanted.extend(c.tokens.iter().map(|t| (*i, *t)));
                at += tokens.len();
                rows.push(Row { arm: c.arm, tokens, cache });
            }
            let hidden = self.forward(&mut rows)?;
            let mut scores: BTreeMap<usize, f64> = group.iter().map(|i| (*i, 0.0)).collect();
            for (picked, wanted) in picked.chunks(POSITIONS).zip(wanted.chunks(POSITIONS)) {
                let arms = wanted.iter().map(|(i, _)| continuations[*i].arm);
                let logits = self.logits(&hidden.index_select(&Tensor::new(picked, hidden.device())?, 0)?, arms)?;
                let view = view(&logits);
                let nll =
                    |(row, (_, token)): (&[f32], &(usize, u32))| log_normaliser(row) - f64::from(row[*token as usize]);
                let losses: Vec<f64> =
                    view.slice()?.par_chunks(self.decoder.spec.vocab_size).zip(wanted).map(nll).collect();
                wanted.iter().zip(losses).for_each(|((i, _), loss)| *scores.entry(*i).or_default() -= loss);
            }
            on_scored(scores.into_iter().collect())?;
        }
        Ok(())
    }

    /// Refuses tokens outside the model's vocabulary.
    fn check_tokens(&self, continuations: &[Continuation]) -> Result<()> {
        let vocabulary = self.decoder.spec.vocab_size;
        let outside = |token: &&u32| **token as usize >= vocabulary;
        match continuations.iter().flat_map(|c| &c.tokens).find(outside) {
            Some(token) => Err(Error::failed(format!("token {token} is outside the vocabulary of {vocabulary}"))),
            None => Ok(()),
        }
    }

    /// Logits of every position that predicts one of a continuation's tokens: a row of the vocabulary each.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub(crate) fn logits_of(&self, continuations: &[Continuation]) -> Result<Vec<Vec<Vec<f32>>>> {
        let prompts: Vec<(usize, &[u32])> = continuations.iter().map(|c| (c.arm, c.prompt.as_slice())).collect();
        let prefixes = Prefixes::compute(self, &prompts)?;
        let mut all = Vec::new();
        for c in continuations {
            let mut cache = prefixes.start(self, c.arm, &c.prompt);
            let prompt_and_answer = [c.prompt.as_slice(), &c.tokens].concat();
            let tokens = &prompt_and_answer[cache.len()..prompt_and_answer.len() - 1];
            let hidden = self.forward(&mut [Row { arm: c.arm, tokens, cache: &mut cache }])?;
            let hidden = hidden.narrow(0, tokens.len() - c.tokens.len(), c.tokens.len())?;
            all.push(self.logits(&hidden.contiguous()?, c.tokens.iter().map(|_| c.arm))?.to_vec2::<f32>()?);
        }
        Ok(all)
    }

    /// Distributions of arm `base` and of each of `others` on the tokens of each text after its prompt: for each of `others` one item a
    /// text. Base is computed once for all of them. The arms of the texts are not looked at.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub(crate) fn compare(
        &self,
        texts: &[Continuation],
        base: usize,
        others: &[usize],
        on_event: &mut dyn FnMut(Event),
    ) -> Result<Vec<Vec<Compared>>> {
        self.check_tokens(texts)?;
        let arms: Vec<usize> = std::iter::once(base).chain(others.iter().copied()).collect();
        let prompts: Vec<(usize, &[u32])> =
            arms.iter().flat_map(|arm| texts.iter().map(|t| (*arm, t.prompt.as_slice()))).collect();
        let prefixes = Prefixes::compute(self, &prompts)?;
        let order: Vec<usize> = (0..texts.len()).filter(|i| !texts[*i].tokens.is_empty()).collect();
        let mut results = vec![vec![Compared::default(); texts.len()]; others.len()];
        for group in groups(&order, |i| texts[i].prompt.len() + texts[i].tokens.len()) {
            let group: Vec<(usize, &Continuation)> = group.into_iter().map(|i| (i, &texts[i])).collect();
            let mut hidden = Vec::new();
            for arm in &arms {
                let (states, tokens) = self.before_each(*arm, &group, &prefixes)?;
                on_event(Event::Tokens(tokens));
                hidden.push((*arm, states));
            }
            on_event(Event::Done(group.len()));
            let wanted: Vec<(usize, u32)> =
                group.iter().flat_map(|(i, text)| text.tokens.iter().map(|token| (*i, *token))).collect();
            for (chunk, wanted) in wanted.chunks(POSITIONS).enumerate() {
                self.compare_rows(&hidden, chunk * POSITIONS, wanted, &mut results)?;
            }
        }
        Ok(results)
    }

    /// An arm's hidden states at the positions that predict the tokens of some texts, (positions, hidden); and how many tokens were computed.
    fn before_each(
        &self,
        arm: usize,
        group: &[(usize, &Continuation)],
        prefixes: &Prefixes,
    ) -> Result<(Tensor, usize)> {
        let whole: Vec<Vec<u32>> =
            group.iter().map(|(_, text)| [text.prompt.as_slice(), &text.tokens].concat()).collect();
        let mut caches: Vec<Cache> = group.iter().map(|(_, text)| prefixes.start(self, arm, &text.prompt)).collect();
        let (mut rows, mut picked, mut at) = (Vec::new(), Vec::new(), 0);
        for (((_, text), whole), cache) in group.iter().zip(&whole).zip(&mut caches) {
            let tokens = &whole[cache.len()..whole.len() - 1];
            let first = tokens.len() - text.tokens.len();
            picked.extend((first..tokens.len()).map(|position| (at + position) as u32));
            at += tokens.len();
            rows.push(Row { arm, tokens, cache });
        }
        let hidden = self.forward(&mut rows)?;
        let positions = picked.len();
        Ok((hidden.index_select(&Tensor::from_vec(picked, positions, hidden.device())?, 0)?, at))
    }

    /// Compares base, the first of `hidden`, with each other arm at the positions from `first` on; `wanted` has the text and the token
    /// of each.
    fn compare_rows(
        &self,
        hidden: &[(usize, Tensor)],
        first: usize,
        wanted: &[(usize, u32)],
        results: &mut [Vec<Compared>],
    ) -> Result<()> {
        let logits = |(arm, states): &(usize, Tensor)| {
            self.logits(&states.narrow(0, first, wanted.len())?.contiguous()?, wanted.iter().map(|_| *arm))
        };
        let Some((base, others)) = hidden.split_first() else { return Ok(()) };
        let base = logits(base)?;
        let base = view(&base);
        let vocab = self.decoder.spec.vocab_size;
        for (other, results) in others.iter().zip(results) {
            let other = logits(other)?;
            let other = view(&other);
            let rows = base.slice()?.par_chunks(vocab).zip(other.slice()?.par_chunks(vocab)).zip(wanted);
            let positions: Vec<Position> =
                rows.map(|((p, q), (_, token))| Position::new(p, q, *token as usize)).collect();
            for ((i, _), position) in wanted.iter().zip(&positions) {
                results[*i].add(position);
            }
        }
        Ok(())
    }
}

/// Cuts `order` into groups of at most [`PREFILL_TOKENS`] tokens, at least one item each.
fn groups(order: &[usize], tokens: impl Fn(usize) -> usize) -> Vec<Vec<usize>> {
    let (mut groups, mut size): (Vec<Vec<usize>>, usize) = (Vec::new(), 0);
    for i in order {
        let n = tokens(*i);
        match groups.last_mut() {
            Some(group) if size + n <= PREFILL_TOKENS => {
                group.push(*i);
                size += n;
            }
            _ => {
                groups.push(vec![*i]);
                size = n;
            }
        }
    }
    groups
}
