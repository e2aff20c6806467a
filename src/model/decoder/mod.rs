//! The decoder: embedding, blocks of attention and feed-forward, final norm, head.
//!
//! Its input is a ragged batch: the tokens of several sequences one after another, without padding. Training and inference are
//! the same code; in training there is no cache, and an adapter's tensors carry gradients.

mod attention;
pub(crate) mod cache;
mod feed_forward;
pub(crate) mod linear;
pub(crate) mod loader;
mod norm;
#[cfg(test)]
pub(crate) mod parity;
pub(crate) mod weights;

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;

use super::architecture::names::Names;
use super::architecture::rows::GgufRows;
use super::architecture::{AttentionSpec, DecoderSpec, Positions, Residual, RopeScaling, Rotary};
use super::ops::attention::{Heads, Keys, Sequence, add_columns, alibi_slopes, attend, attention};
use super::ops::lora::{Dropout, Frozen, linear};
use super::ops::low_rank::LowRank;
use super::ops::matrix::Arithmetic;
use super::ops::matrix::Matrix;
use super::ops::rope::RopeTable;
use super::ops::tape::{Tape, add, checkpoint};
use super::ops::{cross_entropy, view};
use attention::{Attention, Qkv};
use cache::Cache;
use feed_forward::FeedForward;
use linear::{Adapters, Linear};
use loader::Loader;
use norm::Norm;
use weights::Weights;

/// Tokens of several sequences, one after another.
pub(crate) struct Batch {
    pub(crate) tokens: Vec<u32>,
    /// Which rows are whose.
    pub(crate) sequences: Arc<Vec<Sequence>>,
    /// Each token's place in its sequence.
    pub(crate) positions: Arc<Vec<usize>>,
}

impl Batch {
    /// Sequences that begin at position 0.
    pub(crate) fn new<'t>(sequences: impl IntoIterator<Item = &'t [u32]>) -> Self {
        Self::continued(sequences.into_iter().map(|s| (s, 0)))
    }

    /// Sequences that go on at the position given with each.
    pub(crate) fn continued<'t>(sequences: impl IntoIterator<Item = (&'t [u32], usize)>) -> Self {
        let (mut tokens, mut ranges, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        for (sequence, start) in sequences {
            ranges.push(Sequence::alone(tokens.len()..tokens.len() + sequence.len()));
            tokens.extend_from_slice(sequence);
            positions.extend(start..start + sequence.len());
        }
        Self { tokens, sequences: Arc::new(ranges), positions: Arc::new(positions) }
    }

    /// Sequences that all continue from `prefix`, whose rows come first and are there once.
    pub(crate) fn sharing<'t>(prefix: &[u32], sequences: impl IntoIterator<Item = &'t [u32]>) -> Self {
        let own = Self::continued(sequences.into_iter().map(|s| (s, prefix.len())));
        let n = prefix.len();
        let moved = |s: &Sequence| Sequence { rows: s.rows.start + n..s.rows.end + n, prefix: 0..n };
        let sequences = std::iter::once(Sequence::alone(0..n)).chain(own.sequences.iter().map(moved)).collect();
        let positions = (0..n).chain(own.positions.iter().copied()).collect();
        Self { tokens: [prefix, &own.tokens].concat(), sequences: Arc::new(sequences), positions: Arc::new(positions) }
    }
}

/// Are all values of a vector finite?
fn is_finite(values: &Tensor) -> bool {
    values.to_vec1::<f32>().is_ok_and(|values| values.iter().all(|v| v.is_finite()))
}

struct Block {
    attention_norm: Norm,
    attention: Attention,
    post_attention_norm: Option<Norm>,
    /// None where attention and feed-forward share their norm.
    ffn_norm: Option<Norm>,
    feed_forward: FeedForward,
    post_ffn_norm: Option<Norm>,
    spec: AttentionSpec,
    residual: Residual,
    heads: Heads,
    rope: Option<Arc<RopeTable>>,
}

impl Block {
    fn linears(&self) -> Vec<&Linear> {
        let mut found = self.attention.linears();
        found.extend(self.feed_forward.linears());
        found
    }

    fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.attention.linears_mut().into_iter().chain(self.feed_forward.linears_mut())
    }

    fn norms(&self) -> impl Iterator<Item = &Norm> {
        let optional = [&self.post_attention_norm, &self.ffn_norm, &self.post_ffn_norm];
        std::iter::once(&self.attention_norm).chain(optional.into_iter().flatten()).chain(self.attention.norms())
    }

    fn load(loader: &Loader<'_>, layer: usize, shared: &Shared) -> crate::Result<Self> {
        let (spec, names) = (loader.spec, &loader.names);
        let norm = |name: &str| loader.block_norm(layer, name, spec.hidden_size);
        let sandwich = spec.residual == Residual::Sandwich;
        let own_norm = spec.residual != Residual::Parallel { own_norm: false };
        let window = spec.window(layer);
        Ok(Self {
            attention_norm: norm(names.attention_norm)?,
            attention: Attention::load(loader, layer)?,
            post_attention_norm: if sandwich { Some(norm(names.post_attention_norm)?) } else { None },
            ffn_norm: if own_norm { Some(norm(names.ffn_norm)?) } else { None },
            feed_forward: FeedForward::load(loader, layer)?,
            post_ffn_norm: if sandwich { Some(norm(names.post_ffn_norm)?) } else { None },
            spec: spec.attention.clone(),
            residual: spec.residual,
            heads: Heads { window, ..shared.heads.clone() },
            rope: if window.is_some() { shared.local_rope.clone() } else { shared.rope.clone() },
        })
    }

    /// `x` (tokens, hidden) → (tokens, hidden); `attention` sees the tokens before, wherever they are.
    fn forward(
        &self,
        x: &Tensor,
        positions: &Arc<Vec<usize>>,
        adapters: Adapters<'_>,
        attention: impl FnOnce(Qkv) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let tape = adapters.tape();
        let post = |norm: &Option<Norm>, x: Tensor| match norm {
            Some(norm) => norm.forward(tape, &x),
            None => Ok(x),
        };
        let h = self.attention_norm.forward(tape, x)?;
        let qkv = self.attention.project(&h, &self.spec, self.rope.as_ref(), positions, adapters)?;
        let attn_out = self.attention.output(&attention(qkv)?, adapters)?;
        let attn_out = post(&self.post_attention_norm, attn_out)?;
        let parallel = matches!(self.residual, Residual::Parallel { .. });
        let before = if parallel { x.clone() } else { add(tape, x, &attn_out)? };
        let h = match &self.ffn_norm {
            Some(norm) => norm.forward(tape, &before)?,
            None => h,
        };
        let ffn_out = post(&self.post_ffn_norm, self.feed_forward.forward(&h, adapters)?)?;
        let x = add(tape, &before, &ffn_out)?;
        if parallel { add(tape, &x, &attn_out) } else { Ok(x) }
    }

    /// As [`Self::forward`], of sequences without a past.
    fn forward_alone(
        &self,
        x: &Tensor,
        sequences: &Arc<Vec<Sequence>>,
        positions: &Arc<Vec<usize>>,
        adapters: Adapters<'_>,
    ) -> Result<Tensor> {
        self.forward(x, positions, adapters, |Qkv { q, k, v }| {
            attention(adapters.tape(), &q, &k, &v, self.heads.clone(), sequences)
        })
    }

    /// As [`Self::forward_alone`], of which the tape keeps `x` alone. What is dropped depends on the dropout's seed and nothing
    /// that came before, so that it is the same when the block is run again.
    fn checkpointed(
        self: &Arc<Self>,
        x: &Tensor,
        batch: &Batch,
        adapter: &LowRank,
        dropout: Option<Dropout>,
        tape: &Tape,
    ) -> Result<Tensor> {
        let own = |linear: &Linear| Some((linear.path.clone(), adapter.pairs.get(&linear.path)?.clone()));
        let adapter = LowRank { pairs: self.linears().into_iter().filter_map(own).collect(), ..LowRank::default() };
        let (block, x) = (Arc::clone(self), x.clone());
        let (sequences, positions) = (Arc::clone(&batch.sequences), Arc::clone(&batch.positions));
        checkpoint(tape, move |tape| {
            let adapters = Adapters::Train { adapter: &adapter, dropout, tape: Some(tape), checkpointing: false };
            block.forward_alone(&x, &sequences, &positions, adapters)
        })
    }
}

/// What all blocks share.
struct Shared {
    heads: Heads,
    rope: Option<Arc<RopeTable>>,
    local_rope: Option<Arc<RopeTable>>,
}

impl Shared {
    fn new(spec: &DecoderSpec) -> Self {
        let a = &spec.attention;
        let table = |rotary: &Rotary| {
            let (frequencies, magnitude) = (rotary.frequencies(), rotary.magnitude());
            Arc::new(RopeTable::new(&frequencies, spec.context, magnitude, rotary.interleaved))
        };
        let (mut rope, mut local_rope, mut slopes) = (None, None, None);
        match &spec.positions {
            Positions::Rotary { global, local } => {
                let global = table(global);
                local_rope = Some(local.as_ref().map_or_else(|| Arc::clone(&global), table));
                rope = Some(global);
            }
            Positions::Alibi { max_bias } => slopes = Some(Arc::new(alibi_slopes(a.heads, *max_bias))),
            Positions::Learned => {}
        }
        let heads = Heads {
            heads: a.heads,
            kv_heads: a.kv_heads,
            dim: a.head_dim,
            value_dim: a.value_dim,
            scale: a.scale as f32,
            window: None,
            slopes,
        };
        Self { heads, rope, local_rope }
    }
}

/// One of a decoder's tensors.
pub(crate) enum Stored<'a> {
    /// Embedding, positions, head, router.
    Matrix(&'a Matrix),
    /// A layer that an adapter may change, by its path: its weight and its bias.
    Linear(&'a Linear),
    /// A norm, or a bias of a choice.
    Vector(Vec<f32>),
}

/// Positions whose logits [`Decoder::for_logits`] computes at once.
const LOGIT_ROWS: usize = 32;

/// A loaded decoder.
pub(crate) struct Decoder {
    pub(crate) spec: DecoderSpec,
    embedding: Matrix,
    embedding_norm: Option<Norm>,
    /// Learned positions, (context, hidden).
    positions: Option<Matrix>,
    /// Shared with the tape of a training that runs them again.
    blocks: Vec<Arc<Block>>,
    norm: Norm,
    head: Frozen,
}

impl Decoder {
    /// Takes the decoder's tensors out of `weights`; `rows`: how the file orders them. Routers stay in f32, whatever the precision.
    ///
    /// # Errors
    /// A tensor that is missing, has another shape, or is not the decoder's.
    pub(crate) fn load(
        mut spec: DecoderSpec,
        weights: &Weights,
        rows: GgufRows,
        arithmetic: Arithmetic,
    ) -> crate::Result<Self> {
        if let Positions::Rotary { global: Rotary { dim, scaling: RopeScaling::Factors(factors), .. }, .. } =
            &mut spec.positions
        {
            const NAME: &str = "rope_freqs.weight";
            let values = weights.vector(NAME, *dim / 2)?.to_vec1::<f32>()?;
            if let Some(at) = values.iter().position(|v| !v.is_finite() || *v == 0.0) {
                let message = format!("tensor `{NAME}` holds {} at {at}, expected numbers to divide by", values[at]);
                return Err(crate::Error::model(weights.root(), message));
            }
            // What all frequencies are divided by besides.
            let all = factors.first().copied().unwrap_or(1.0);
            *factors = values.into_iter().map(|v| f64::from(v) * all).collect();
        }
        let names = spec.names();
        let loader = Loader::new(weights, &spec, names, rows);
        let shared = Shared::new(&spec);
        let (vocabulary, hidden) = (spec.vocab_size, spec.hidden_size);
        let embedding = loader.matrix(names.embedding, vocabulary, hidden)?;
        let embedding_norm = spec.embedding_norm.then(|| loader.norm(names.embedding_norm, hidden)).transpose()?;
        let positions = match spec.positions {
            Positions::Learned => Some(loader.matrix(names.positions, spec.context, hidden)?),
            _ => None,
        };
        let block = |layer| {
            let mut block = Block::load(&loader, layer, &shared)?;
            block.linears_mut().for_each(|linear| linear.frozen.weight.arithmetic = arithmetic);
            Ok(Arc::new(block))
        };
        let blocks = (0..spec.layers).map(block).collect::<crate::Result<Vec<_>>>()?;
        let norm = loader.norm(names.final_norm, hidden)?;
        let mut head =
            if spec.tied_head { embedding.clone() } else { loader.matrix(names.head, vocabulary, hidden)? };
        head.arithmetic = arithmetic;
        loader.check_all_used()?;
        Ok(Self { embedding, embedding_norm, positions, blocks, norm, head: Frozen { weight: head, bias: None }, spec })
    }

    /// Every linear layer of every block, but routers: those that `all-linear` adapts.
    pub(crate) fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.blocks.iter().flat_map(|block| block.linears())
    }

    fn routers(&self) -> impl Iterator<Item = &Linear> {
        self.blocks.iter().flat_map(|block| block.feed_forward.routers())
    }

    /// The frozen vectors and their names: of norms, and of biases.
    fn vectors(&self) -> impl Iterator<Item = (String, &Tensor)> {
        let blocks = self.blocks.iter().flat_map(|block| block.norms());
        let norms = self.embedding_norm.iter().chain(blocks).chain(std::iter::once(&self.norm));
        let norms = norms.flat_map(|norm| {
            let bias = norm.bias.iter().map(|bias| (format!("{}.bias", norm.path), bias));
            std::iter::once((format!("{}.weight", norm.path), &norm.weight)).chain(bias)
        });
        let biases = self.linears().chain(self.routers());
        norms.chain(biases.flat_map(|l| l.frozen.bias.iter().map(|bias| (format!("{}.bias", l.path), bias))))
    }

    /// The first frozen tensor that holds NaN or infinite values, when one does. It reads all weights.
    pub(crate) fn first_non_finite(&self) -> Option<String> {
        let matrices = std::iter::once(&self.embedding)
            .chain(&self.positions)
            .chain(self.linears().map(|l| &l.frozen.weight))
            .chain(self.routers().map(|r| &r.frozen.weight))
            .chain(std::iter::once(&self.head.weight));
        let matrix = matrices.filter(|m| m.has_non_finite()).map(|m| m.name.to_string()).next();
        matrix.or_else(|| self.vectors().find(|(_, values)| !is_finite(values)).map(|(name, _)| name))
    }

    /// Weights in the base; a tied head counts once. What is counted on paper is tested against it.
    #[cfg(test)]
    pub(crate) fn parameters(&self) -> u64 {
        let size = |m: &Matrix| (m.rows * m.cols) as u64;
        let bias = |f: &Frozen| f.bias.as_ref().map_or(0, |b| b.elem_count() as u64);
        let layer = |f: &Frozen| size(&f.weight) + bias(f);
        let linear = self.linears().map(|l| layer(&l.frozen)).sum::<u64>();
        let routers = self.routers().map(|r| layer(&r.frozen)).sum::<u64>();
        let norms = self.blocks.iter().flat_map(|block| block.norms()).chain(&self.embedding_norm).chain([&self.norm]);
        let norms = norms.map(|n| n.parameters() as u64).sum::<u64>();
        let head = if self.spec.tied_head { 0 } else { size(&self.head.weight) };
        let corrections =
            self.blocks.iter().filter_map(|b| b.feed_forward.correction()).map(|c| c.len() as u64).sum::<u64>();
        linear + routers + norms + head + corrections + size(&self.embedding) + self.positions.as_ref().map_or(0, size)
    }

    /// Bytes that hold the weights.
    pub(crate) fn weight_bytes(&self) -> u64 {
        let of = |stored: &Stored<'_>| match stored {
            Stored::Matrix(matrix) => matrix.size(),
            Stored::Linear(linear) => linear.frozen.weight.size(),
            Stored::Vector(values) => size_of_val(values.as_slice()),
        };
        self.tensors().iter().map(|(_, stored)| of(stored) as u64).sum()
    }

    /// Every tensor by its Hugging Face name, in Hugging Face's order of rows; of a tied head none.
    pub(crate) fn tensors(&self) -> Vec<(String, Stored<'_>)> {
        let (names, mut all) = (self.names(), Vec::new());
        let weight = |path: &str| format!("{path}.weight");
        let less = self.spec.family.facts().norms_less as f32;
        let norm = |norm: &Norm, all: &mut Vec<_>| {
            let values = |t: &Tensor| t.to_vec1::<f32>().unwrap_or_default();
            all.push((weight(&norm.path), Stored::Vector(values(&norm.weight).iter().map(|v| v - less).collect())));
            all.extend(norm.bias.iter().map(|bias| (format!("{}.bias", norm.path), Stored::Vector(values(bias)))));
        };
        all.push((weight(names.embedding), Stored::Matrix(&self.embedding)));
        all.extend(self.positions.iter().map(|p| (weight(names.positions), Stored::Matrix(p))));
        self.embedding_norm.iter().for_each(|n| norm(n, &mut all));
        for (layer, block) in self.blocks.iter().enumerate() {
            block.norms().for_each(|n| norm(n, &mut all));
            all.extend(block.linears().into_iter().map(|linear| (linear.path.clone(), Stored::Linear(linear))));
            all.extend(
                block.feed_forward.routers().into_iter().map(|r| (weight(&r.path), Stored::Matrix(&r.frozen.weight))),
            );
            let correction = block.feed_forward.correction();
            all.extend(correction.map(|c| (names.block(layer, names.correction), Stored::Vector(c.to_vec()))));
        }
        norm(&self.norm, &mut all);
        if !self.spec.tied_head {
            all.push((weight(names.head), Stored::Matrix(&self.head.weight)));
        }
        all
    }

    /// Holds all weights in f32 from now on: the oracle of widening where they are used.
    #[cfg(test)]
    pub(crate) fn widen(&mut self) {
        self.embedding = self.embedding.widened();
        self.head.weight = if self.spec.tied_head { self.embedding.clone() } else { self.head.weight.widened() };
        for block in &mut self.blocks {
            let block = Arc::get_mut(block).expect("no tape holds it");
            for linear in block.linears_mut() {
                linear.frozen.weight = linear.frozen.weight.widened();
            }
        }
    }

    /// An empty cache for one sequence.
    pub(crate) fn cache(&self) -> Cache {
        Cache::new(self.blocks.len())
    }

    /// Output of the final norm, (tokens, hidden), of sequences without a past.
    ///
    /// # Errors
    /// A token outside the vocabulary or a position past the context.
    pub(crate) fn hidden(&self, batch: &Batch, adapters: Adapters<'_>) -> Result<Tensor> {
        self.run(batch, adapters, |_, block, x| match adapters {
            Adapters::Train { adapter, dropout, tape: Some(tape), checkpointing: true } => {
                block.checkpointed(x, batch, adapter, dropout, tape)
            }
            _ => block.forward_alone(x, &batch.sequences, &batch.positions, adapters),
        })
    }

    /// As [`Self::hidden`], for sequences that continue from `caches`, one a sequence, which take up the new tokens.
    pub(crate) fn hidden_cached(
        &self,
        batch: &Batch,
        adapters: Adapters<'_>,
        caches: &mut [&mut Cache],
    ) -> Result<Tensor> {
        if caches.len() != batch.sequences.len() {
            bail!("{} caches for {} sequences", caches.len(), batch.sequences.len());
        }
        let hidden = self.run(batch, adapters, |layer, block, x| {
            block.forward(x, &batch.positions, adapters, |qkv| self.attend_cached(layer, &qkv, batch, caches))
        })?;
        for (cache, sequence) in caches.iter_mut().zip(batch.sequences.iter()) {
            cache.advance(sequence.rows.len());
        }
        Ok(hidden)
    }

    fn run(
        &self,
        batch: &Batch,
        adapters: Adapters<'_>,
        mut forward: impl FnMut(usize, &Arc<Block>, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mut x = self.embed(batch, adapters)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            x = forward(layer, block, &x)?;
        }
        self.norm.forward(adapters.tape(), &x)
    }

    fn embed(&self, batch: &Batch, adapters: Adapters<'_>) -> Result<Tensor> {
        let width = self.spec.hidden_size;
        let mut out = vec![0f32; batch.tokens.len() * width];
        let scale = self.spec.embedding_scale as f32;
        let own: Vec<_> = adapters.rows().iter().filter_map(|(rows, a)| Some((rows, a.embedding.as_ref()?))).collect();
        for (i, (token, row)) in batch.tokens.iter().zip(out.chunks_mut(width)).enumerate() {
            let id = *token as usize;
            if id >= self.embedding.rows {
                bail!("token {id} is outside the vocabulary of {}", self.embedding.rows);
            }
            let table = own.iter().find(|(rows, _)| rows.contains(&i)).map_or(&self.embedding, |(_, table)| *table);
            table.row(id, row);
            if scale != 1.0 {
                row.iter_mut().for_each(|x| *x *= scale);
            }
        }
        if let Some(places) = &self.positions {
            let mut place_row = vec![0f32; width];
            for (place, row) in batch.positions.iter().zip(out.chunks_mut(width)) {
                if *place >= places.rows {
                    bail!("position {place} is past the {} positions that the model has", places.rows);
                }
                places.row(*place, &mut place_row);
                row.iter_mut().zip(&place_row).for_each(|(x, p)| *x += p);
            }
        }
        let x = Tensor::from_vec(out, (batch.tokens.len(), width), &Device::Cpu)?;
        match &self.embedding_norm {
            Some(norm) => norm.forward(None, &x),
            None => Ok(x),
        }
    }

    fn attend_cached(&self, layer: usize, qkv: &Qkv, batch: &Batch, caches: &mut [&mut Cache]) -> Result<Tensor> {
        let h = &self.blocks[layer].heads;
        let [q, k, v] = [&qkv.q, &qkv.k, &qkv.v].map(view);
        let (q, k, v) = (q.slice()?, k.slice()?, v.slice()?);
        let (q_stride, kv_stride) = (h.heads * h.dim, h.kv_heads * h.dim);
        let v_stride = h.kv_heads * h.value_dim;
        for (cache, s) in caches.iter_mut().zip(batch.sequences.iter().map(|s| &s.rows)) {
            cache.append(layer, &k[s.start * kv_stride..s.end * kv_stride], &v[s.start * v_stride..s.end * v_stride]);
        }
        let caches: &[&mut Cache] = caches;
        let tasks: Vec<(usize, usize)> =
            (0..caches.len()).flat_map(|i| (0..h.kv_heads).map(move |kv| (i, kv))).collect();
        let parts: Vec<Vec<f32>> = tasks
            .par_iter()
            .map(|(i, kv)| {
                let (cache, s) = (&caches[*i], &batch.sequences[*i].rows);
                let rows = cache.layer(layer);
                let keys = Keys { k: &rows.k, v: &rows.v, len: cache.len() + s.len() };
                attend(&q[s.start * q_stride..s.end * q_stride], s.len(), &keys, h, *kv)
            })
            .collect();
        let stride = h.heads * h.value_dim;
        let width = stride / h.kv_heads;
        let mut out = vec![0f32; batch.tokens.len() * stride];
        for ((i, kv), role) in tasks.iter().zip(&parts) {
            let s = &batch.sequences[*i].rows;
            add_columns(&mut out[s.start * stride..s.end * stride], stride, kv * width, role, width);
        }
        Tensor::from_vec(out, (batch.tokens.len(), stride), &Device::Cpu)
    }

    /// Logits (rows, vocabulary) of rows of [`Self::hidden`]; `adapters` says whose they are.
    pub(crate) fn logits(&self, hidden: &Tensor, adapters: &[(Range<usize>, &LowRank)]) -> Result<Tensor> {
        let mut parts = Vec::new();
        let mut done = 0;
        let with = |head: &Frozen, rows: Range<usize>| {
            linear(None, &hidden.narrow(0, rows.start, rows.len())?.contiguous()?, head, Vec::new())
        };
        for (rows, adapter) in adapters {
            let Some(weight) = &adapter.head else { continue };
            if done < rows.start {
                parts.push(with(&self.head, done..rows.start)?);
            }
            parts.push(with(&Frozen { weight: weight.clone(), bias: None }, rows.clone())?);
            done = rows.end;
        }
        if parts.is_empty() {
            return linear(None, hidden, &self.head, Vec::new());
        }
        let all = hidden.dim(0)?;
        if done < all {
            parts.push(with(&self.head, done..all)?);
        }
        Tensor::cat(&parts, 0)
    }

    /// Logits of every position of one sequence, given to `f` by a few positions at a time: the first one's number, and
    /// (positions, vocabulary) values.
    ///
    /// # Errors
    /// A token outside the vocabulary or a position past the context, and those of `f`.
    pub(crate) fn for_logits(
        &self,
        tokens: &[u32],
        adapter: Option<&LowRank>,
        mut f: impl FnMut(usize, &[f32]) -> crate::Result<()>,
    ) -> crate::Result<()> {
        let slots = |rows: usize| adapter.map(|adapter| (0..rows, adapter)).into_iter().collect::<Vec<_>>();
        let hidden = self.hidden(&Batch::new([tokens]), Adapters::Rows(&slots(tokens.len())))?;
        for start in (0..tokens.len()).step_by(LOGIT_ROWS) {
            let rows = LOGIT_ROWS.min(tokens.len() - start);
            let logits = self.logits(&hidden.narrow(0, start, rows)?, &slots(rows))?;
            f(start, &logits.flatten_all()?.to_vec1::<f32>()?)?;
        }
        Ok(())
    }

    /// Rows and columns of the embedding, and of the head.
    pub(crate) fn vocabulary_shape(&self) -> (usize, usize) {
        (self.embedding.rows, self.embedding.cols)
    }

    /// Paths of the embedding and the head.
    pub(crate) fn vocabulary_paths(&self) -> (&'static str, &'static str) {
        let names = self.names();
        (names.embedding, names.head)
    }

    /// The names of its tensors.
    pub(crate) fn names(&self) -> Names {
        self.spec.names()
    }

    /// Σ NLL of `targets` (one a row of `hidden`) over `divisor`: a differentiable scalar; logits are never held whole.
    pub(crate) fn cross_entropy(
        &self,
        tape: Option<&Tape>,
        hidden: &Tensor,
        targets: Vec<u32>,
        divisor: f64,
    ) -> Result<Tensor> {
        cross_entropy::head_cross_entropy(tape, hidden, &self.head.weight, targets, divisor)
    }
}
