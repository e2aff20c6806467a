//! Llama 1 to 3, and what has its form.

use super::{Facts, Family};
use crate::error::Result;
use crate::model::architecture::gguf::{self, rms, rotary_positions};
use crate::model::architecture::hf_keys::{self, activation, rotary};
use crate::model::architecture::names::LLAMA;
use crate::model::architecture::rows::GgufRows;
use crate::model::architecture::{
    AttentionSpec, DecoderSpec, FeedForwardSpec, Positions, Projection, Residual, gguf_keys, write,
};

pub(super) const FACTS: Facts = Facts {
    name: "llama",
    architecture: "llama",
    class: "LlamaForCausalLM",
    names: LLAMA,
    names_with_own_norm: None,
    rows: GgufRows::Interleaved,
    norms_less: 0.0,
    from_config,
    from_gguf: |keys, family| {
        let mut spec = from_gguf(keys, family)?;
        if let Some(experts) = &mut spec.feed_forward.experts {
            // Files with experts are Mixtral's, which has no key for what it always does.
            experts.router.normalize = keys.flag("expert_weights_norm")?.unwrap_or(true);
        }
        Ok(spec)
    },
    // One key says both biases of the attention.
    to_config: |spec| {
        let (attention, inner) = (spec.attention.qkv_bias, spec.feed_forward.bias);
        write::modern(spec, serde_json::json!({"attention_bias": attention, "mlp_bias": inner}))
    },
    without_backward: None,
};

/// Also what the families after it have in common.
pub(super) fn from_config(keys: &hf_keys::Keys<'_>, family: Family) -> Result<DecoderSpec> {
    let (hidden_size, heads) = (keys.count("hidden_size")?, keys.count("num_attention_heads")?);
    let head_dim = keys.count_or("head_dim", hidden_size / heads.max(1))?;
    let bias = keys.flag("attention_bias", false)?;
    Ok(DecoderSpec {
        family,
        vocab_size: keys.count("vocab_size")?,
        hidden_size,
        layers: keys.layers("num_hidden_layers")?,
        attention: AttentionSpec {
            heads,
            kv_heads: keys.count_or("num_key_value_heads", heads)?,
            head_dim,
            value_dim: head_dim,
            projection: Projection::Separate,
            qkv_bias: bias,
            output_bias: bias,
            qk_norm: false,
            scale: (head_dim as f64).sqrt().recip(),
            window: None,
        },
        feed_forward: FeedForwardSpec {
            intermediate_size: keys.count("intermediate_size")?,
            activation: activation(keys, "hidden_act", "silu")?,
            gated: true,
            bias: keys.flag("mlp_bias", false)?,
            experts: None,
        },
        norm: hf_keys::rms(keys)?,
        positions: Positions::Rotary { global: rotary(keys, head_dim, false)?, local: None },
        residual: Residual::Sequential,
        embedding_scale: 1.0,
        embedding_norm: false,
        tied_head: keys.flag("tie_word_embeddings", false)?,
        context: keys.count("max_position_embeddings")?,
        eos: keys.ids("eos_token_id")?,
    })
}

/// As [`from_config`], out of GGUF's metadata.
pub(super) fn from_gguf(keys: &gguf_keys::Keys<'_>, family: Family) -> Result<DecoderSpec> {
    gguf::common(keys, family, rms(keys)?, rotary_positions(keys)?)
}
