//! GGUF's metadata. What a family always has is not written there; it is said here, as llama.cpp says it in its code.

use std::path::Path;

use candle_core::quantized::gguf_file::Value;

use super::gguf_keys::Keys;
use super::rotary::yarn_magnitude;
use super::{
    Activation, AttentionSpec, DecoderSpec, Experts, Family, FeedForwardSpec, Groups, NormKind, NormSpec, Positions,
    Projection, Residual, RopeScaling, Rotary, Router, Score, Yarn,
};
use crate::error::{Error, Result};
use crate::model::formats::gguf::Header;

pub(super) fn read(path: &Path, header: &Header) -> Result<DecoderSpec> {
    let keys = Keys::of(path, header)?;
    match keys.family()? {
        Some(family) => {
            check_arithmetic(&keys)?;
            (family.facts().from_gguf)(&keys, family)
        }
        None => Err(Family::unknown(path, keys.architecture, Family::architecture)),
    }
}

/// Refuses keys that change what a model computes, and that this crate's decoder does not apply.
fn check_arithmetic(keys: &Keys<'_>) -> Result<()> {
    let refuse = |key: &str, value: String| {
        let message = format!(
            "metadata `{}.{key}` is {value}, which is not supported; run and train may use the model with --backend llama-cpp",
            keys.architecture
        );
        Err(Error::model(keys.path, message))
    };
    if keys.flag("attention.causal")? == Some(false) {
        return refuse("attention.causal", "false".to_owned());
    }
    // What each is when it changes nothing, besides 0.
    let neutral = [
        ("attn_logit_softcapping", 0.0),
        ("final_logit_softcapping", 0.0),
        ("attention.clamp_kqv", 0.0),
        ("attention.scale", 0.0),
        ("logit_scale", 1.0),
        ("embedding_scale", 1.0),
        ("residual_scale", 1.0),
    ];
    for (key, off) in neutral {
        match keys.number_if(key)? {
            Some(value) if value != 0.0 && value != off => return refuse(key, value.to_string()),
            _ => {}
        }
    }
    match keys.count_if("expert_gating_func")? {
        Some(function) if function > 2 => refuse("expert_gating_func", function.to_string()),
        _ => Ok(()),
    }
}

/// What most families have in common, as Llama has it; a family changes its own part of it.
pub(super) fn common(keys: &Keys<'_>, family: Family, norm: NormSpec, positions: Positions) -> Result<DecoderSpec> {
    let path = keys.path;
    let vocab_size = match keys.header.tensors.get("token_embd.weight").map(|t| t.shape.as_slice()) {
        Some([vocab, _]) => *vocab,
        _ => return Err(Error::model(path, "tensor `token_embd.weight` is missing or not a matrix")),
    };
    let (hidden_size, heads) = (keys.count("embedding_length")?, keys.count("attention.head_count")?);
    let layers = keys.count("block_count")?;
    if layers > super::MOST_PARTS {
        return Err(Error::model(path, format!("block_count is {layers}")));
    }
    let head_dim = head_dim(keys)?;
    Ok(DecoderSpec {
        family,
        vocab_size,
        hidden_size,
        layers,
        attention: AttentionSpec {
            heads,
            kv_heads: keys.count_if("attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            value_dim: keys.count_if("attention.value_length")?.unwrap_or(head_dim),
            projection: Projection::Separate,
            qkv_bias: keys.has("blk.0.attn_q.bias") || keys.has("blk.0.attn_qkv.bias"),
            output_bias: keys.has("blk.0.attn_output.bias"),
            qk_norm: keys.has("blk.0.attn_q_norm.weight"),
            scale: (head_dim as f64).sqrt().recip(),
            window: None,
        },
        feed_forward: feed_forward(keys, layers)?,
        norm,
        positions,
        residual: Residual::Sequential,
        embedding_scale: 1.0,
        embedding_norm: false,
        tied_head: !keys.has("output.weight"),
        context: keys.count("context_length")?,
        eos: keys.optional("tokenizer.ggml.eos_token_id", Value::to_u32)?.into_iter().collect(),
    })
}

fn head_dim(keys: &Keys<'_>) -> Result<usize> {
    let heads = keys.count("attention.head_count")?;
    Ok(match keys.count_if("attention.key_length")? {
        Some(length) => length,
        None => keys.count("embedding_length")? / heads.max(1),
    })
}

/// RMSNorm.
pub(super) fn rms(keys: &Keys<'_>) -> Result<NormSpec> {
    Ok(NormSpec { kind: NormKind::Rms, eps: keys.number("attention.layer_norm_rms_epsilon")? })
}

/// Rotary positions of heads that are turned whole, or as far as the file says.
pub(super) fn rotary_positions(keys: &Keys<'_>) -> Result<Positions> {
    let dim = match keys.count_if("rope.dimension_count")? {
        Some(dim) => dim,
        None => head_dim(keys)?,
    };
    let scaling = scaling(keys, |factor| yarn_magnitude(factor, 1.0))?;
    Ok(Positions::Rotary { global: rotary(keys, dim, false, scaling)?, local: None })
}

/// Turns of the first `dim` elements of a head, with the file's own factors where it has them.
pub(super) fn rotary(keys: &Keys<'_>, dim: usize, interleaved: bool, scaling: RopeScaling) -> Result<Rotary> {
    let theta = keys.number_if("rope.freq_base")?.unwrap_or(10_000.0);
    let scaling = match (keys.has("rope_freqs.weight"), scaling) {
        (true, RopeScaling::None) => RopeScaling::Factors(Vec::new()),
        // llama.cpp divides by both.
        (true, RopeScaling::Linear { factor }) if factor > 0.0 && factor.is_finite() => {
            RopeScaling::Factors(vec![factor])
        }
        (true, other) => {
            let message = format!(
                "has both `rope_freqs.weight` and the rope scaling {other:?}, which is not supported; run and train may use it with \
                 --backend llama-cpp"
            );
            return Err(Error::model(keys.path, message));
        }
        (false, scaling) => scaling,
    };
    Ok(Rotary { theta, dim, interleaved, scaling })
}

/// How angles are scaled. `magnitude`: YaRN's of a factor, where the file does not say one.
pub(super) fn scaling(keys: &Keys<'_>, magnitude: impl Fn(f64) -> f64) -> Result<RopeScaling> {
    match keys.text_if("rope.scaling.type")?.as_deref() {
        Some("none") => Ok(RopeScaling::None),
        // A factor alone is linear, as in llama.cpp; old files call it so.
        None => {
            let factor = keys
                .number_if("rope.scaling.factor")?
                .map_or_else(|| keys.number_if("rope.scale_linear"), |f| Ok(Some(f)))?;
            Ok(match factor.filter(|factor| *factor != 0.0 && *factor != 1.0) {
                Some(factor) => RopeScaling::Linear { factor },
                None => RopeScaling::None,
            })
        }
        Some("linear") => Ok(RopeScaling::Linear { factor: keys.number("rope.scaling.factor")? }),
        Some("yarn") => {
            let factor = keys.number("rope.scaling.factor")?;
            let magnitude = match keys.number_if("rope.scaling.attn_factor")? {
                Some(given) => given * yarn_magnitude(factor, 1.0),
                None => magnitude(factor),
            };
            Ok(RopeScaling::Yarn(Yarn {
                factor,
                original_context: keys.count("rope.scaling.original_context_length")?,
                beta_fast: keys.number_if("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: keys.number_if("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                truncate: true,
                magnitude,
            }))
        }
        Some(other) => {
            let message = format!("rope scaling `{other}` is not known; known are: none, linear, yarn");
            Err(Error::model(keys.path, message))
        }
    }
}

fn feed_forward(keys: &Keys<'_>, layers: usize) -> Result<FeedForwardSpec> {
    let experts = match keys.count_if("expert_count")?.filter(|count| *count > 0) {
        Some(count) => Some(experts(keys, layers, count)?),
        None => None,
    };
    let intermediate_size = match keys.count_if("feed_forward_length")? {
        Some(size) if size > 0 => size,
        // Files of models whose every layer has experts may leave it out.
        _ => experts.as_ref().map(|e| e.intermediate_size).unwrap_or_default(),
    };
    Ok(FeedForwardSpec {
        intermediate_size,
        activation: Activation::Silu,
        gated: true,
        bias: keys.has("blk.0.ffn_up.bias"),
        experts,
    })
}

fn experts(keys: &Keys<'_>, layers: usize, count: usize) -> Result<Experts> {
    let groups = keys.count_if("expert_group_count")?.unwrap_or(1);
    let keep = keys.count_if("expert_group_used_count")?.unwrap_or(1);
    Ok(Experts {
        count,
        per_token: keys.count("expert_used_count")?,
        intermediate_size: match keys.count_if("expert_feed_forward_length")? {
            Some(size) => size,
            None => keys.count("feed_forward_length")?,
        },
        shared_size: keys.rows("ffn_up_shexp.weight").unwrap_or(0),
        shared_gate: keys.has_suffix("ffn_gate_inp_shexp.weight"),
        layers: keys.layers_with(layers, "ffn_gate_inp.weight"),
        router: Router {
            score: if keys.count_if("expert_gating_func")? == Some(2) { Score::Sigmoid } else { Score::Softmax },
            correction: keys.has_suffix("exp_probs_b.bias"),
            groups: (groups > 1).then_some(Groups { count: groups, keep, best: 1 }),
            normalize: keys.flag("expert_weights_norm")?.unwrap_or(false),
            scale: keys.number_if("expert_weights_scale")?.filter(|scale| *scale != 0.0).unwrap_or(1.0),
        },
    })
}

#[cfg(test)]
mod tests;
