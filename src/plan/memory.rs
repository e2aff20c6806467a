//! The memory of a training, by part, from the shape of the model alone.
//!
//! Of finetest's own training it counts what the tape of a step holds (`model::ops::tape`): the inputs and outputs of every operation,
//! each once. Of other trainers on a GPU it counts what QLoRA (Dettmers et al. 2023, arXiv 2305.14314) and the full recomputation of
//! activations (Korthikanti et al. 2022, arXiv 2205.05198) hold, in 16 bits.

use serde::Serialize;

use crate::model::architecture::{Positions, Projection, Residual};
use crate::model::{DecoderSpec, Sizes};

const F32: u64 = 4;
const HALF: u64 = 2;
/// Copies of the adapter in f32 that a step of finetest holds: values, the same as tensors, gradients as tensors and summed, two moments.
pub(crate) const COPIES: u64 = 6;
/// Positions whose logits finetest holds at once.
const POSITIONS: u64 = 128;
/// The program, its threads and a tokenizer without its tokens, as measured; and bytes of a tokenizer for each of its tokens.
const PROGRAM: u64 = 100_000_000;
const TOKEN: u64 = 300;
/// Bytes of a value in NF4 with its scales quantised again: 4.127 bits.
const NF4: f64 = 0.516;
/// CUDA's context, and what an allocator cannot use.
const CUDA: u64 = 1_000_000_000;

/// Bytes by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The base's weights.
    pub weights: u64,
    /// The adapter with its gradients.
    pub adapter: u64,
    /// The optimizer's moments.
    pub optimizer: u64,
    /// What the backward needs of the forward.
    pub activations: u64,
    /// Logits.
    pub head: u64,
    /// The program or the GPU's context.
    pub rest: u64,
}

impl Memory {
    /// In all.
    #[must_use]
    pub fn total(&self) -> u64 {
        [self.weights, self.adapter, self.optimizer, self.activations, self.head, self.rest]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

/// What a step computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Tokens of a micro-batch.
    pub tokens: u64,
    /// Rank of the adapter, on every linear layer.
    pub rank: u64,
    /// Blocks are computed again in the backward.
    pub checkpointing: bool,
}

/// Values for each token that the operations of a block make.
fn of_block(spec: &DecoderSpec, block: usize) -> u64 {
    let (a, f, h) = (&spec.attention, &spec.feed_forward, spec.hidden_size);
    let (q, k, v) = (a.heads * a.head_dim, a.kv_heads * a.head_dim, a.kv_heads * a.value_dim);
    // Two norms, what attention and feed-forward give, and the sums.
    let around = match spec.residual {
        Residual::Sequential => 6 * h,
        Residual::Sandwich => 8 * h,
        Residual::Parallel { own_norm } => (5 + usize::from(own_norm)) * h,
    };
    let projected = match &a.projection {
        Projection::Separate => q + k + v,
        Projection::Fused(_) => 2 * (q + k + v),
        Projection::Latent(latent) => {
            let low = latent.q_rank.map_or(0, |rank| 2 * rank) + 3 * latent.kv_rank + latent.rope;
            2 * q + k + v + a.heads * (latent.nope + a.value_dim) + low
        }
    };
    let rotary = matches!(spec.positions, Positions::Rotary { .. });
    let turned = (usize::from(rotary) + usize::from(a.qk_norm)) * (q + k);
    let inside = |width: usize| if f.gated { 3 * width } else { 2 * width };
    let feed_forward = match spec.experts(block) {
        None => inside(f.intermediate_size),
        Some(e) => {
            let one = inside(e.intermediate_size) + 2 * h;
            let shared = if e.shared_size > 0 { inside(e.shared_size) + h } else { 0 };
            e.per_token * one + shared + 2 * e.count + h
        }
    };
    (around + projected + turned + a.heads * a.value_dim + feed_forward) as u64
}

/// The widest block, and all of them.
fn blocks(spec: &DecoderSpec) -> (u64, u64) {
    let each = (0..spec.layers).map(|block| of_block(spec, block));
    each.fold((0, 0), |(most, all), values| (most.max(values), all + values))
}

/// Gradients that are there at once in the backward of a block.
fn passing(spec: &DecoderSpec) -> u64 {
    let f = &spec.feed_forward;
    let width = f.experts.as_ref().map_or(f.intermediate_size, |e| e.intermediate_size.max(e.shared_size));
    (3 * width + 2 * spec.hidden_size) as u64
}

/// Of a training by finetest on the CPU, whose weights take `weights` bytes in their file.
#[must_use]
pub fn here(spec: &DecoderSpec, weights: u64, step: Step) -> Memory {
    let (most, all) = blocks(spec);
    let h = spec.hidden_size as u64;
    let held = if step.checkpointing { spec.layers as u64 * h + most } else { all };
    let values = Sizes::of(spec).lora_values.saturating_mul(step.rank).saturating_mul(F32);
    let activations = (held + passing(spec) + 3 * h).saturating_mul(step.tokens).saturating_mul(F32);
    let vocabulary = spec.vocab_size as u64;
    // Of an embedding that is not the head, few rows are read, and the rest of the file stays on the disk.
    let unread = if spec.tied_head { 0.0 } else { (vocabulary * h) as f64 / Sizes::of(spec).parameters.max(1) as f64 };
    Memory {
        weights: (weights as f64 * (1.0 - unread)) as u64,
        adapter: values.saturating_mul(COPIES - 2),
        optimizer: values.saturating_mul(2),
        activations,
        head: step.tokens.min(POSITIONS).saturating_mul(vocabulary).saturating_mul(F32),
        rest: PROGRAM + TOKEN.saturating_mul(vocabulary),
    }
}

/// Of a training by PEFT on a GPU: the base in NF4 (`quantised`) or in 16 bits.
#[must_use]
pub fn on_gpu(spec: &DecoderSpec, quantised: bool, step: Step) -> Memory {
    let sizes = Sizes::of(spec);
    let (most, all) = blocks(spec);
    let (h, vocabulary) = (spec.hidden_size as u64, spec.vocab_size as u64);
    let values = sizes.lora_values.saturating_mul(step.rank);
    let held = if step.checkpointing { spec.layers as u64 * h + most } else { all };
    Memory {
        weights: weights_on_gpu(spec, quantised),
        adapter: values.saturating_mul(2 * F32),
        optimizer: values.saturating_mul(2 * F32),
        activations: (held + passing(spec)).saturating_mul(step.tokens).saturating_mul(HALF),
        // In 16 bits, and once more in f32 for the loss.
        head: step.tokens.saturating_mul(vocabulary).saturating_mul(HALF + F32),
        rest: CUDA,
    }
}

/// Embedding and head are not quantised.
fn weights_on_gpu(spec: &DecoderSpec, quantised: bool) -> u64 {
    let all = Sizes::of(spec).parameters;
    if !quantised {
        return all.saturating_mul(HALF);
    }
    let tables = if spec.tied_head { 1 } else { 2 };
    let outside = (spec.vocab_size as u64).saturating_mul(spec.hidden_size as u64).saturating_mul(tables).min(all);
    ((all - outside) as f64 * NF4) as u64 + outside.saturating_mul(HALF)
}

/// The most examples of `length` tokens whose step fits into `available` bytes; 0 where one does not.
pub fn largest_batch(available: u64, length: u64, memory: impl Fn(u64) -> Memory) -> u64 {
    let fits = |batch: u64| memory(batch.saturating_mul(length)).total() <= available;
    if !fits(1) {
        return 0;
    }
    let mut batch = 1;
    while batch < 1024 && fits(batch * 2) {
        batch *= 2;
    }
    batch
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::plan::catalogue::candidates;

    fn spec(name: &str) -> DecoderSpec {
        let all = candidates(None::<&Path>).expect("a catalogue");
        all.into_iter().find(|model| model.name == name).expect("a model").spec
    }

    /// The performance page has 1499 MB for 4 × 256 tokens of the default model.
    #[test]
    fn the_default_model_s_peak_is_near_the_measured_one() {
        let memory =
            here(&spec("SmolLM2 135M Instruct"), 91_000_000, Step { tokens: 1024, rank: 16, checkpointing: false });
        let ratio = memory.total() as f64 / 1.499e9;
        assert!((0.85..1.15).contains(&ratio), "{memory:?} {ratio}");
    }

    /// QLoRA's authors train a 7B in 48 GB with room to spare and call 5 GB its weights; Llama 3.1 8B in NF4 is published as about 5.7 GB.
    #[test]
    fn parts_on_a_gpu_are_as_published() {
        let llama = spec("Llama 3.1 8B Instruct");
        let step = Step { tokens: 2048, rank: 16, checkpointing: true };
        let four = on_gpu(&llama, true, step);
        assert!((5.3e9..6.0e9).contains(&(four.weights as f64)), "{four:?}");
        assert_eq!(on_gpu(&llama, false, step).weights, 2 * Sizes::of(&llama).parameters);
        // It is trained on cards of 16 GB, and not on those of 8.
        assert!((8_000_000_000..16_000_000_000).contains(&four.total()), "{four:?}");
    }

    #[test]
    fn memory_grows_with_tokens_and_rank_and_checkpointing_lowers_it() {
        let qwen = spec("Qwen2.5 0.5B Instruct");
        let step = Step { tokens: 512, rank: 16, checkpointing: false };
        let one = here(&qwen, 400_000_000, step);
        let twice = here(&qwen, 400_000_000, Step { tokens: 1024, rank: 32, ..step });
        assert_eq!(twice.activations, 2 * one.activations);
        assert_eq!((twice.adapter, twice.optimizer), (2 * one.adapter, 2 * one.optimizer));
        let again = here(&qwen, 400_000_000, Step { checkpointing: true, ..step });
        assert!(again.activations * 4 < one.activations);
        let memory = |tokens| here(&qwen, 400_000_000, Step { tokens, ..step });
        let batch = largest_batch(4_000_000_000, 256, memory);
        assert!(memory(batch * 256).total() <= 4_000_000_000 && memory(batch * 512).total() > 4_000_000_000);
        assert_eq!(largest_batch(1, 256, memory), 0);
    }
}
