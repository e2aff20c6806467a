//! Sequences through contexts: what they begin with in common is computed once, many share a batch, and they come and go.
//!
//! Each sequence has a stream of the cache to itself. In a cache that all share, attention looks at everybody's cells and masks
//! all but a sequence's own: with 64 rows that was half of the time.
//!
//! Several contexts (base's and tuned's) can be fed the same batches in lockstep, so that their logits are compared position by
//! position and none are kept.

use std::collections::{BTreeMap, VecDeque};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;

use crate::backend::engine::shared_beginnings;
use crate::error::{Error, Result};

/// Tokens of one batch. llama.cpp keeps logits of a whole batch: 256 × 150 000 × 4 bytes is 150 MB.
pub(super) const BATCH: usize = 256;
/// Cells of a whole cache, unless two streams of one length need more. A product with quantised weights costs as much for each
/// row as for one, so that more rows would gain nothing.
pub(super) const CELLS: usize = 4096;
/// llama.cpp rounds the length of a stream up to a multiple of this.
const STEP: usize = 256;
/// A beginning is kept in a stream of its own when that saves so many tokens.
const WORTH: usize = 64;

/// Tokens to be run, and whose logits are wanted.
pub(super) struct Sequence {
    /// The caller's number of it.
    pub(super) item: usize,
    pub(super) tokens: Vec<u32>,
    /// Logits are wanted from this position on.
    pub(super) wanted: usize,
    /// Most tokens it may grow to.
    pub(super) most: usize,
}

/// Takes up what comes out.
pub(super) trait Reader {
    /// `item` is in the next batches.
    fn started(&mut self, item: usize) -> Result<()>;
    /// Logits of each context after the token at `position`; the token to continue with, if it goes on.
    fn logits(&mut self, item: usize, position: usize, rows: &[&[f32]]) -> Result<Option<u32>>;
    /// So many tokens were computed.
    fn computed(&mut self, tokens: usize) -> Result<()>;
    /// Nothing more of `item` is to be run.
    fn finished(&mut self, item: usize) -> Result<()>;
}

/// How large a context must be for some sequences.
pub(super) struct Shape {
    /// Sequences at once, besides the beginnings.
    rows: usize,
    prefixes: Vec<Vec<u32>>,
    /// Cells of one sequence.
    cells: usize,
}

impl Shape {
    /// For sequences of about one length; at most `batch` of them at once.
    pub(super) fn of(sequences: &[Sequence], batch: usize) -> Self {
        let prompts: Vec<(usize, &[u32])> =
            sequences.iter().map(|s| (0, &s.tokens[..(s.wanted + 1).min(s.tokens.len())])).collect();
        let mut prefixes: Vec<Vec<u32>> = shared_beginnings(&prompts).into_iter().map(|(_, tokens)| tokens).collect();
        let saved = |prefix: &Vec<u32>| {
            let sharing = prompts.iter().filter(|(_, tokens)| tokens.starts_with(prefix)).count();
            sharing.saturating_sub(1) * prefix.len()
        };
        prefixes.retain(|prefix| saved(prefix) >= WORTH);
        prefixes.sort_by_key(|prefix| std::cmp::Reverse(saved(prefix)));
        let cells = length(sequences.iter().map(|s| s.most.max(s.tokens.len())).max().unwrap_or(0));
        let streams = (CELLS / cells).max(2);
        prefixes.truncate(streams / 2);
        let rows = (streams - prefixes.len()).min(batch).clamp(1, sequences.len().max(1));
        Self { rows, prefixes, cells }
    }

    /// Cells of all streams.
    pub(super) fn cells(&self) -> u32 {
        u32::try_from(self.cells * self.sequences() as usize).unwrap_or(u32::MAX)
    }

    pub(super) fn sequences(&self) -> u32 {
        (self.rows + self.prefixes.len()) as u32
    }
}

/// Sequences that are to share a context: the streams of one are all as long as its longest sequence.
pub(super) fn by_length(sequences: Vec<Sequence>) -> impl Iterator<Item = Vec<Sequence>> {
    let mut groups: BTreeMap<usize, Vec<Sequence>> = BTreeMap::new();
    for sequence in sequences {
        let cells = length(sequence.most.max(sequence.tokens.len()));
        groups.entry(cells.next_power_of_two()).or_default().push(sequence);
    }
    groups.into_values()
}

fn length(tokens: usize) -> usize {
    tokens.max(1).next_multiple_of(STEP)
}

/// A sequence in the stream of its number among the active ones.
struct Row {
    sequence: Sequence,
    /// Tokens that are in the cache.
    at: usize,
}

/// Runs sequences through contexts of the same shape.
pub(super) fn feed(
    contexts: &mut [LlamaContext<'_>],
    shape: &Shape,
    sequences: Vec<Sequence>,
    reader: &mut dyn Reader,
) -> Result<()> {
    let mut batch = LlamaBatch::new(BATCH, 1);
    prefixes(contexts, shape, &mut batch)?;
    let mut sequences = sequences;
    // Long ones first, so that the batch stays full.
    sequences.sort_by_key(|s| (std::cmp::Reverse(s.most), s.item));
    let mut waiting = VecDeque::from(sequences);
    let mut active: Vec<Row> = Vec::new();
    loop {
        while active.len() < shape.rows
            && let Some(sequence) = waiting.pop_front()
        {
            let shared = longest(shape, &sequence.tokens, sequence.wanted);
            reader.started(sequence.item)?;
            for context in contexts.iter_mut() {
                super::abort_for_a_test(context, &sequence.tokens);
                if let Some(prefix) = shared {
                    copy(context, shape.rows + prefix, active.len())?;
                }
            }
            active.push(Row { sequence, at: shared.map_or(0, |i| shape.prefixes[i].len()) });
        }
        if active.is_empty() {
            return Ok(());
        }
        let placed = fill(&mut batch, &mut active)?;
        reader.computed(batch.n_tokens() as usize)?;
        decode(contexts, &mut batch)?;
        read(contexts, &placed, &mut active, reader)?;
        for i in (0..active.len()).rev() {
            if active[i].at < active[i].sequence.tokens.len() {
                continue;
            }
            // llama.cpp computes streams together only while there is no gap between them.
            let last = active.len() - 1;
            for context in contexts.iter_mut() {
                if i < last {
                    copy(context, last, i)?;
                }
                clear(context, last)?;
            }
            reader.finished(active.swap_remove(i).sequence.item)?;
        }
    }
}

/// Where logits are: a row's number, its position, and the batch's.
type Placed = Vec<(usize, usize, i32)>;

/// The next tokens of as many rows as there is room for.
fn fill(batch: &mut LlamaBatch<'_>, active: &mut [Row]) -> Result<Placed> {
    batch.clear();
    let mut placed = Vec::new();
    for (i, row) in active.iter_mut().enumerate() {
        let room = BATCH - batch.n_tokens() as usize;
        let end = row.sequence.tokens.len().min(row.at + room);
        for position in row.at..end {
            let wanted = position >= row.sequence.wanted;
            if wanted {
                placed.push((i, position, batch.n_tokens()));
            }
            add(batch, row.sequence.tokens[position], position, i, wanted)?;
        }
        row.at = end;
    }
    Ok(placed)
}

fn read(contexts: &[LlamaContext<'_>], placed: &Placed, active: &mut [Row], reader: &mut dyn Reader) -> Result<()> {
    for (row, position, index) in placed {
        let rows: Vec<&[f32]> = contexts.iter().map(|context| context.get_logits_ith(*index)).collect();
        if rows.iter().any(|row| row.iter().any(|logit| !logit.is_finite())) {
            let message =
                "the model's answer is not finite: the base holds NaN or infinite values, or the adapter diverged";
            return Err(Error::failed(message));
        }
        let row = &mut active[*row];
        row.sequence.tokens.extend(reader.logits(row.sequence.item, *position, &rows)?);
    }
    Ok(())
}

/// Computes the beginnings, each in a sequence of its own after those of the rows.
fn prefixes(contexts: &mut [LlamaContext<'_>], shape: &Shape, batch: &mut LlamaBatch<'_>) -> Result<()> {
    for (i, tokens) in shape.prefixes.iter().enumerate() {
        for (chunk, tokens) in tokens.chunks(BATCH).enumerate() {
            batch.clear();
            for (j, token) in tokens.iter().enumerate() {
                add(batch, *token, chunk * BATCH + j, shape.rows + i, false)?;
            }
            decode(contexts, batch)?;
        }
    }
    Ok(())
}

/// The longest beginning of `tokens` that is kept. What logits are wanted of is never taken from there.
fn longest(shape: &Shape, tokens: &[u32], wanted: usize) -> Option<usize> {
    let fits = |prefix: &[u32]| prefix.len() <= wanted && tokens.starts_with(prefix);
    let found = shape.prefixes.iter().enumerate().filter(|(_, prefix)| fits(prefix));
    found.max_by_key(|(_, prefix)| prefix.len()).map(|(i, _)| i)
}

fn add(batch: &mut LlamaBatch<'_>, token: u32, position: usize, sequence: usize, logits: bool) -> Result<()> {
    let added = batch.add(LlamaToken(token as i32), position as i32, &[sequence as i32], logits);
    added.map_err(|e| Error::failed(format!("a batch of llama.cpp is too small: {e}")))
}

fn decode(contexts: &mut [LlamaContext<'_>], batch: &mut LlamaBatch<'_>) -> Result<()> {
    for context in contexts {
        context.decode(batch).map_err(|error| {
            let (tokens, why) = (batch.n_tokens(), super::logs::take_errors());
            Error::failed(format!("llama.cpp cannot compute a batch of {tokens} tokens: {error} {why}"))
        })?;
    }
    Ok(())
}

/// Gives all that a stream holds to another one, whose own is lost.
fn copy(context: &mut LlamaContext<'_>, from: usize, to: usize) -> Result<()> {
    context.copy_kv_cache_seq(from as i32, to as i32, None, None).map_err(|e| Error::failed(e.to_string()))
}

fn clear(context: &mut LlamaContext<'_>, sequence: usize) -> Result<()> {
    let cleared = context.clear_kv_cache_seq(u32::try_from(sequence).ok(), None, None);
    cleared.map(|_| ()).map_err(|e| Error::failed(e.to_string()))
}
