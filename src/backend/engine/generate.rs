//! Decoding of many prompts at once: rows join and leave the batch as they begin and end, and drafts of their answers are checked
//! many tokens at a time.
//!
//! A draft changes how fast an answer is found and not what it is: each of its tokens is taken only where the model would have
//! chosen it. An approved answer that still holds is thus read like a prompt, in one pass.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::choose::{Ends, choose};
use super::prefix::Prefixes;
use super::score::POSITIONS;
use super::{Engine, Event, PREFILL_TOKENS, Row};
use crate::error::Result;
use crate::model::decoder::cache::Cache;
use crate::record::{Finish, Request, Sampling};

/// Rows of a product that cost less than twice as much as one, most of which is reading and widening the weights. Doubtful drafts are
/// tried only within it.
const CHEAP: usize = 8;
/// Tokens that must be found in a draft for an answer that left it to follow it again.
const MEETING: usize = 2;

/// One prompt for one arm.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Generation {
    pub(crate) arm: usize,
    pub(crate) prompt: Vec<u32>,
    pub(crate) max_tokens: usize,
    /// Strings that end the answer.
    #[serde(default)]
    pub(crate) stop: Vec<String>,
    #[serde(default)]
    pub(crate) sampling: Sampling,
    /// What the answer may be.
    #[serde(skip)]
    pub(crate) draft: Draft,
}

/// What an answer may be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draft {
    pub(crate) tokens: Vec<u32>,
    /// It is expected to hold: it is tried as a whole, and a token of it that ties with the most likely is taken.
    pub(crate) approved: bool,
}

impl Generation {
    /// Of a request whose prompt is these tokens.
    pub(crate) fn of(arm: usize, prompt: Vec<u32>, request: &Request) -> Self {
        let Request { max_tokens, stop, sampling, .. } = request;
        let (max_tokens, stop, sampling) = (*max_tokens, stop.clone(), *sampling);
        Self { arm, prompt, max_tokens, stop, sampling, draft: Draft::default() }
    }

    /// The most likely answer, which nothing but its length ends before its turn.
    pub(crate) fn greedy(arm: usize, prompt: Vec<u32>, max_tokens: usize) -> Self {
        let (stop, sampling) = (Vec::new(), Sampling::default());
        Self { arm, prompt, max_tokens, stop, sampling, draft: Draft::default() }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Generated {
    /// Without the token that ended the turn, with those of a string that did.
    pub(crate) tokens: Vec<u32>,
    pub(crate) finish: Finish,
    /// Tokens with a rival as likely but for rounding.
    pub(crate) near_ties: usize,
}

/// A row of the batch. All but the last of its tokens are in the cache.
struct Active<'g> {
    index: usize,
    asked: &'g Generation,
    cache: Cache,
    tokens: Vec<u32>,
    near_ties: usize,
    finish: Option<Finish>,
    /// Where the draft goes on, while the answer follows it.
    follows: Option<usize>,
    /// The answer is still the approved one.
    approved: bool,
}

impl<'g> Active<'g> {
    fn new(index: usize, asked: &'g Generation, cache: Cache) -> Self {
        let follows = (!asked.draft.tokens.is_empty()).then_some(0);
        let approved = asked.draft.approved;
        Self { index, asked, cache, tokens: Vec::new(), near_ties: 0, finish: None, follows, approved }
    }

    /// Tokens to run next, how many of them at the end are proposed by the draft, and whether the prompt ends among them.
    fn next(&self, room: usize, rows: usize) -> Next {
        let prompt = &self.asked.prompt;
        let mut tokens = match self.tokens.last() {
            Some(last) => vec![*last],
            None => prompt[self.cache.len()..prompt.len().min(self.cache.len() + PREFILL_TOKENS)].to_vec(),
        };
        let complete = self.cache.len() + tokens.len() >= prompt.len();
        let most = if self.approved { room.saturating_sub(tokens.len()) } else { (CHEAP / rows).saturating_sub(1) };
        // The answer's last token is chosen after what is run.
        let most = most.min(self.asked.max_tokens - self.tokens.len() - 1);
        let drafted = self.follows.filter(|_| complete).and_then(|at| self.asked.draft.tokens.get(at..)).unwrap_or(&[]);
        let proposed = drafted.len().min(most);
        tokens.extend_from_slice(&drafted[..proposed]);
        Next { tokens, proposed, complete }
    }

    /// The token that the draft has next.
    fn drafted(&self) -> Option<u32> {
        self.asked.draft.tokens.get(self.follows?).copied()
    }

    /// Takes the token that `logits` choose; whether the token that was run after it is this one.
    fn take(&mut self, logits: &[f32], ends: &Ends<'_>) -> bool {
        let drafted = self.drafted();
        let choice = choose(logits, &self.asked.sampling, self.tokens.len(), drafted.filter(|_| self.approved));
        let (token, holds) = (choice.token, drafted == Some(choice.token));
        self.near_ties += usize::from(choice.near_tie);
        self.tokens.push(token);
        self.finish = ends.ended(self.asked, &mut self.tokens);
        if holds {
            self.follows = self.follows.map(|at| at + 1);
        } else {
            self.approved = false;
            self.follows = self.meet();
        }
        holds
    }

    /// Where the draft goes on after the answer's last tokens.
    fn meet(&self) -> Option<usize> {
        let last = self.tokens.get(self.tokens.len().checked_sub(MEETING)?..)?;
        self.asked.draft.tokens.windows(MEETING).position(|window| window == last).map(|at| at + MEETING)
    }
}

struct Next {
    tokens: Vec<u32>,
    proposed: usize,
    complete: bool,
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
        let mut done: Vec<Option<Generated>> = vec![None; generations.len()];
        let mut keep = |ended: Vec<(usize, Generated)>| {
            ended.into_iter().for_each(|(i, generated)| done[i] = Some(generated));
            Ok(())
        };
        self.generate_each(generations, ends, &mut keep, on_event)?;
        Ok(done.into_iter().flatten().collect())
    }

    /// As [`Self::generate`], but hands over answers as they end: the generations' numbers and what came of them, all that ended in one
    /// step together. Longer answers are begun first, so the order is not that of the generations.
    ///
    /// # Errors
    /// As [`Self::generate`], and those of `on_done`.
    pub(crate) fn generate_each(
        &self,
        generations: &[Generation],
        ends: &Ends<'_>,
        on_done: &mut dyn FnMut(Vec<(usize, Generated)>) -> Result<()>,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<()> {
        let prompts: Vec<(usize, &[u32])> = generations.iter().map(|g| (g.arm, g.prompt.as_slice())).collect();
        let prefixes = Prefixes::compute(self, &prompts)?;
        let mut order: Vec<usize> = (0..generations.len()).collect();
        // Long answers first, so that the batch stays full.
        order.sort_by_key(|i| std::cmp::Reverse(generations[*i].max_tokens));
        let mut waiting = order.into_iter().peekable();
        let mut active: Vec<Active<'_>> = Vec::new();
        loop {
            let mut joined = 0;
            while let Some(next) = waiting.peek().map(|i| &generations[*i])
                && active.len() < self.batch
                && (joined == 0 || joined + next.prompt.len() + next.draft.tokens.len() <= PREFILL_TOKENS)
            {
                joined += next.prompt.len() + next.draft.tokens.len();
                active.extend(waiting.next().map(|i| {
                    let cache = prefixes.start(self, next.arm, &next.prompt);
                    Active::new(i, next, cache)
                }));
            }
            if active.is_empty() {
                break;
            }
            on_event(Event::Tokens(self.step(&mut active, ends)?));
            let mut ended = Vec::new();
            active.retain_mut(|row| {
                let Some(finish) = row.finish else { return true };
                let (tokens, near_ties) = (std::mem::take(&mut row.tokens), row.near_ties);
                ended.push((row.index, Generated { tokens, finish, near_ties }));
                false
            });
            if !ended.is_empty() {
                on_event(Event::Done(ended.len()));
                on_done(ended)?;
            }
        }
        Ok(())
    }

    /// At least one more token for every row whose prompt is complete; how many tokens were run.
    fn step(&self, active: &mut [Active<'_>], ends: &Ends<'_>) -> Result<usize> {
        active.sort_by_key(|row| (row.asked.arm, row.index));
        let (rows, mut room) = (active.len(), PREFILL_TOKENS);
        let nexts: Vec<Next> = active
            .iter()
            .map(|row| {
                let next = row.next(room, rows);
                room = room.saturating_sub(next.tokens.len());
                next
            })
            .collect();
        let hidden = {
            let rows = active.iter_mut().zip(&nexts);
            let mut rows: Vec<Row<'_>> = rows
                .map(|(row, next)| Row { arm: row.asked.arm, tokens: &next.tokens, cache: &mut row.cache })
                .collect();
            self.forward(&mut rows)?
        };
        // Where a token is chosen: the row's number, and the place among all that were run.
        let (mut places, mut start) = (Vec::new(), 0);
        for (i, next) in nexts.iter().enumerate() {
            let end = start + next.tokens.len();
            if next.complete {
                places.extend((end - 1 - next.proposed..end).map(|place| (i, place as u32)));
            }
            start = end;
        }
        let mut left: Vec<bool> = vec![false; active.len()];
        for places in places.chunks(POSITIONS) {
            let picked: Vec<u32> = places.iter().map(|(_, place)| *place).collect();
            let picked = Tensor::from_vec(picked, places.len(), hidden.device())?;
            let arms = places.iter().map(|(i, _)| active[*i].asked.arm);
            let logits = self.logits(&hidden.index_select(&picked, 0)?, arms)?;
            let view = crate::model::ops::view(&logits);
            for ((i, _), logits) in places.iter().zip(view.slice()?.chunks(self.decoder.spec.vocab_size)) {
                let row = &mut active[*i];
                if left[*i] || row.finish.is_some() {
                    continue;
                }
                left[*i] = !row.take(logits, ends);
            }
        }
        for row in active.iter_mut().filter(|row| row.finish.is_none() && !row.tokens.is_empty()) {
            row.cache.truncate(row.asked.prompt.len() + row.tokens.len() - 1);
        }
        Ok(start)
    }
}
