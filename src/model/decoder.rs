//! The decoder: embedding, blocks of attention and feed-forward, final norm, head.
//!
//! Its input is a ragged batch: the tokens of several sequences one after another, without padding. Training and inference are
//! the same code; in training there is no cache, and an adapter's tensors carry gradients.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;

use super::cache::Cache;
use super::linear::{Adapters, Linear};
use super::names;
use super::ops::attention::{Heads, Keys, Sequence, add_columns, attend, attention};
use super::ops::lora::{Frozen, linear};
use super::ops::rms_norm::rms_norm;
use super::ops::rope::{RopeTable, rope};
use super::ops::swiglu::swiglu;
use super::ops::{cross_entropy, view};
use super::spec::{DecoderSpec, RopeScaling};
use super::tape::{Tape, add, reshape};
use super::weights::{Matrix, Weights};

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

    /// Sequences that all go on from `prefix`, whose rows come first and are there once.
    pub(crate) fn sharing<'t>(prefix: &[u32], sequences: impl IntoIterator<Item = &'t [u32]>) -> Self {
        let own = Self::continued(sequences.into_iter().map(|s| (s, prefix.len())));
        let n = prefix.len();
        let moved = |s: &Sequence| Sequence { rows: s.rows.start + n..s.rows.end + n, prefix: 0..n };
        let sequences = std::iter::once(Sequence::alone(0..n)).chain(own.sequences.iter().map(moved)).collect();
        let positions = (0..n).chain(own.positions.iter().copied()).collect();
        Self { tokens: [prefix, &own.tokens].concat(), sequences: Arc::new(sequences), positions: Arc::new(positions) }
    }
}

struct Block {
    attention_norm: Tensor,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    ffn_norm: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Block {
    fn linears(&self) -> [&Linear; 7] {
        [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down]
    }

    fn linears_mut(&mut self) -> [&mut Linear; 7] {
        [&mut self.q, &mut self.k, &mut self.v, &mut self.o, &mut self.gate, &mut self.up, &mut self.down]
    }
}

/// A loaded decoder.
pub(crate) struct Decoder {
    pub(crate) spec: DecoderSpec,
    embedding: Matrix,
    blocks: Vec<Block>,
    norm: Tensor,
    head: Frozen,
    rope: Arc<RopeTable>,
    heads: Heads,
}

struct Loader<'w> {
    weights: &'w Weights,
    spec: &'w DecoderSpec,
    permuted: bool,
    index: u64,
}

impl Loader<'_> {
    fn matrix(&self, path: &str, rows: usize, cols: usize) -> crate::Result<Matrix> {
        let matrix = self.weights.matrix(&format!("{path}.weight"), rows, cols)?;
        let reorder = self.permuted && (path.ends_with("q_proj") || path.ends_with("k_proj"));
        Ok(if reorder { matrix.unpermuted(self.spec.head_dim) } else { matrix })
    }

    fn linear(&mut self, path: String, rows: usize, cols: usize, bias: bool) -> crate::Result<Linear> {
        let weight = self.matrix(&path, rows, cols)?;
        let bias = bias.then(|| self.weights.vector(&format!("{path}.bias"), rows)).transpose()?;
        self.index += 1;
        Ok(Linear { path, frozen: Frozen { weight, bias }, index: self.index })
    }

    fn norm(&self, path: &str) -> crate::Result<Tensor> {
        self.weights.vector(&format!("{path}.weight"), self.spec.hidden_size)
    }

    fn block(&mut self, layer: usize) -> crate::Result<Block> {
        let s = self.spec;
        let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
        let path = |module: &str| names::block(layer, module);
        Ok(Block {
            attention_norm: self.norm(&path("input_layernorm"))?,
            q: self.linear(path("self_attn.q_proj"), q, s.hidden_size, s.attention_bias)?,
            k: self.linear(path("self_attn.k_proj"), kv, s.hidden_size, s.attention_bias)?,
            v: self.linear(path("self_attn.v_proj"), kv, s.hidden_size, s.attention_bias)?,
            o: self.linear(path("self_attn.o_proj"), s.hidden_size, q, s.attention_bias)?,
            ffn_norm: self.norm(&path("post_attention_layernorm"))?,
            gate: self.linear(path("mlp.gate_proj"), s.intermediate_size, s.hidden_size, s.mlp_bias)?,
            up: self.linear(path("mlp.up_proj"), s.intermediate_size, s.hidden_size, s.mlp_bias)?,
            down: self.linear(path("mlp.down_proj"), s.hidden_size, s.intermediate_size, s.mlp_bias)?,
        })
    }
}

impl Decoder {
    /// Takes the decoder's tensors out of `weights`. `permuted`: q and k rows are in llama.cpp's order.
    ///
    /// # Errors
    /// A tensor that is missing, has another shape, or is not the decoder's.
    pub(crate) fn load(mut spec: DecoderSpec, weights: &Weights, permuted: bool) -> crate::Result<Self> {
        if matches!(spec.rope_scaling, RopeScaling::Factors(_)) {
            let factors = weights.vector("rope_freqs.weight", spec.head_dim / 2)?.to_vec1::<f32>()?;
            spec.rope_scaling = RopeScaling::Factors(factors.into_iter().map(f64::from).collect());
        }
        let mut loader = Loader { weights, spec: &spec, permuted, index: 0 };
        let embedding = loader.matrix(names::EMBEDDING, spec.vocab_size, spec.hidden_size)?;
        let blocks = (0..spec.layers).map(|layer| loader.block(layer)).collect::<crate::Result<Vec<_>>>()?;
        let norm = loader.norm(names::FINAL_NORM)?;
        let head = match spec.tied_head {
            true => embedding.clone(),
            false => loader.matrix(names::HEAD, spec.vocab_size, spec.hidden_size)?,
        };
        let rope = Arc::new(RopeTable::new(&spec.rope_frequencies(), spec.context, 1.0));
        let heads = Heads {
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            dim: spec.head_dim,
            value_dim: spec.head_dim,
            scale: (spec.head_dim as f32).sqrt().recip(),
        };
        Ok(Self { embedding, blocks, norm, head: Frozen { weight: head, bias: None }, rope, heads, spec })
    }

    /// Every linear layer of every block: those that `all-linear` adapts.
    pub(crate) fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.blocks.iter().flat_map(Block::linears)
    }

    /// The first frozen tensor that holds NaN or infinite values, when one does. It reads all weights.
    pub(crate) fn first_non_finite(&self) -> Option<String> {
        let matrices = std::iter::once(&self.embedding)
            .chain(self.linears().map(|l| &l.frozen.weight))
            .chain(std::iter::once(&self.head.weight));
        matrices.filter(|m| m.has_non_finite()).map(|m| m.name.to_string()).next()
    }

    /// Weights in the base; a tied head counts once.
    pub(crate) fn parameters(&self) -> u64 {
        let size = |m: &Matrix| (m.rows * m.cols) as u64;
        let matrices = self.linears().map(|l| size(&l.frozen.weight)).sum::<u64>() + size(&self.embedding);
        let norms = (self.spec.hidden_size * (2 * self.blocks.len() + 1)) as u64;
        let head = if self.spec.tied_head { 0 } else { size(&self.head.weight) };
        let biases =
            self.linears().filter(|l| l.frozen.bias.is_some()).map(|l| l.frozen.weight.rows as u64).sum::<u64>();
        matrices + norms + head + biases
    }

    /// Holds all weights in f32 from now on: four bytes a weight, and no widening where they are used. Until then quantised
    /// weights stay quantised in memory.
    pub(crate) fn widen(&mut self) {
        self.embedding = self.embedding.widened();
        self.head.weight = if self.spec.tied_head { self.embedding.clone() } else { self.head.weight.widened() };
        for block in &mut self.blocks {
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
        self.run(batch, adapters, |_, q, k, v| attention(adapters.tape(), &q, &k, &v, self.heads, &batch.sequences))
    }

    /// As [`Self::hidden`], for sequences that go on from `caches`, one a sequence, which take up the new tokens.
    pub(crate) fn hidden_cached(
        &self,
        batch: &Batch,
        adapters: Adapters<'_>,
        caches: &mut [&mut Cache],
    ) -> Result<Tensor> {
        if caches.len() != batch.sequences.len() {
            bail!("{} caches for {} sequences", caches.len(), batch.sequences.len());
        }
        let hidden =
            self.run(batch, adapters, |layer, q, k, v| self.attend_cached(layer, [&q, &k, &v], batch, caches))?;
        for (cache, sequence) in caches.iter_mut().zip(batch.sequences.iter()) {
            cache.advance(sequence.rows.len());
        }
        Ok(hidden)
    }

    fn run(
        &self,
        batch: &Batch,
        adapters: Adapters<'_>,
        mut attention: impl FnMut(usize, Tensor, Tensor, Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let s = &self.spec;
        let tokens = batch.tokens.len();
        let tape = adapters.tape();
        let mut x = self.embed(&batch.tokens)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            let h = rms_norm(tape, &x, &block.attention_norm, s.norm_eps)?;
            let q = reshape(tape, &block.q.forward(&h, adapters)?, &[tokens, s.heads, s.head_dim])?;
            let k = reshape(tape, &block.k.forward(&h, adapters)?, &[tokens, s.kv_heads, s.head_dim])?;
            let v = reshape(tape, &block.v.forward(&h, adapters)?, &[tokens, s.kv_heads, s.head_dim])?;
            let (q, k) = (rope(tape, &q, &self.rope, &batch.positions)?, rope(tape, &k, &self.rope, &batch.positions)?);
            let mixed = attention(layer, q, k, v)?;
            x = add(tape, &x, &block.o.forward(&mixed, adapters)?)?;
            let h = rms_norm(tape, &x, &block.ffn_norm, s.norm_eps)?;
            let h = swiglu(tape, &block.gate.forward(&h, adapters)?, &block.up.forward(&h, adapters)?)?;
            x = add(tape, &x, &block.down.forward(&h, adapters)?)?;
        }
        rms_norm(tape, &x, &self.norm, s.norm_eps)
    }

    fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        let width = self.spec.hidden_size;
        let mut out = vec![0f32; tokens.len() * width];
        for (token, row) in tokens.iter().zip(out.chunks_mut(width)) {
            let id = *token as usize;
            if id >= self.embedding.rows {
                bail!("token {id} is outside the vocabulary of {}", self.embedding.rows);
            }
            self.embedding.row(id, row);
        }
        Tensor::from_vec(out, (tokens.len(), width), &Device::Cpu)
    }

    fn attend_cached(
        &self,
        layer: usize,
        qkv: [&Tensor; 3],
        batch: &Batch,
        caches: &mut [&mut Cache],
    ) -> Result<Tensor> {
        let h = &self.heads;
        let [q, k, v] = qkv.map(view);
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
        for ((i, kv), part) in tasks.iter().zip(&parts) {
            let s = &batch.sequences[*i].rows;
            add_columns(&mut out[s.start * stride..s.end * stride], stride, kv * width, part, width);
        }
        Tensor::from_vec(out, (batch.tokens.len(), stride), &Device::Cpu)
    }

    /// Logits (rows, vocabulary) of rows of [`Self::hidden`].
    pub(crate) fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        linear(None, hidden, &self.head, Vec::new())
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
