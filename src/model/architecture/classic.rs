//! `config.json` of the LayerNorm families: BLOOM, MPT, Falcon, GPT-2. Missing keys have transformers' defaults.

use serde_json::Map;

use super::hf_keys::{Keys, activation, rotary};
use super::{
    Activation, AttentionSpec, DecoderSpec, Family, FeedForwardSpec, FusedOrder, NormKind, NormSpec, Positions,
    Projection, Residual,
};
use crate::error::Result;

/// What the LayerNorm families have in common: a fused layer, an ungated feed-forward, a tied head.
struct Classic {
    hidden_size: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    order: FusedOrder,
    intermediate_size: usize,
    activation: Activation,
    bias: bool,
    norm: NormSpec,
    positions: Positions,
    residual: Residual,
    context: usize,
}

impl Classic {
    fn spec(self, keys: &Keys<'_>, family: Family) -> Result<DecoderSpec> {
        let head_dim = self.hidden_size / self.heads.max(1);
        Ok(DecoderSpec {
            family,
            vocab_size: keys.count("vocab_size")?,
            hidden_size: self.hidden_size,
            layers: self.layers,
            attention: AttentionSpec {
                heads: self.heads,
                kv_heads: self.kv_heads,
                head_dim,
                value_dim: head_dim,
                projection: Projection::Fused(self.order),
                qkv_bias: self.bias,
                output_bias: self.bias,
                qk_norm: false,
                scale: (head_dim as f64).sqrt().recip(),
                window: None,
            },
            feed_forward: FeedForwardSpec {
                intermediate_size: self.intermediate_size,
                activation: self.activation,
                gated: false,
                bias: self.bias,
                experts: None,
            },
            norm: self.norm,
            positions: self.positions,
            residual: self.residual,
            embedding_scale: 1.0,
            embedding_norm: false,
            tied_head: keys.flag("tie_word_embeddings", true)?,
            context: self.context,
            eos: keys.ids("eos_token_id")?,
        })
    }
}

fn layer_norm(keys: &Keys<'_>, bias: bool) -> Result<NormSpec> {
    Ok(NormSpec { kind: NormKind::Layer { bias }, eps: keys.number_or("layer_norm_epsilon", 1e-5)? })
}

pub(super) fn bloom(keys: &Keys<'_>, family: Family) -> Result<DecoderSpec> {
    keys.must_be_off("apply_residual_connection_post_layernorm")?;
    let hidden_size = match keys.count_if("hidden_size")? {
        Some(size) => size,
        None => keys.count("n_embed")?,
    };
    let heads = match keys.count_if("n_head")? {
        Some(heads) => heads,
        None => keys.count("num_attention_heads")?,
    };
    let classic = Classic {
        hidden_size,
        layers: keys.layers(if keys.get("n_layer").is_some() { "n_layer" } else { "num_hidden_layers" })?,
        heads,
        kv_heads: heads,
        order: FusedOrder::ByGroup,
        intermediate_size: hidden_size.saturating_mul(4),
        activation: Activation::GeluTanh,
        bias: true,
        norm: layer_norm(keys, true)?,
        positions: Positions::Alibi { max_bias: 8.0 },
        residual: Residual::Sequential,
        // ALiBi has no longest sequence; this is what the model was trained with.
        context: keys.count_or("seq_length", 2048)?,
    };
    Ok(DecoderSpec { embedding_norm: true, ..classic.spec(keys, family)? })
}

pub(super) fn mpt(keys: &Keys<'_>, family: Family) -> Result<DecoderSpec> {
    let empty = Map::new();
    let attention = keys.object("attn_config")?.unwrap_or(Keys { path: keys.path, map: &empty });
    for key in ["clip_qkv", "qk_ln", "prefix_lm", "attn_uses_sequence_id", "softmax_scale"] {
        attention.must_be_off(key)?;
    }
    keys.must_be_off("logit_scale")?;
    if !attention.flag("alibi", true)? {
        return Err(attention.refuse("alibi", "only MPT with ALiBi is supported"));
    }
    if !keys.flag("no_bias", true)? {
        return Err(keys.refuse("no_bias", "only MPT without biases is supported"));
    }
    let (hidden_size, heads) = (keys.count("d_model")?, keys.count("n_heads")?);
    Classic {
        hidden_size,
        layers: keys.layers("n_layers")?,
        heads,
        kv_heads: heads,
        order: FusedOrder::Blocks,
        // transformers' MPT is four times as wide inside whatever expansion_ratio says.
        intermediate_size: hidden_size.saturating_mul(4),
        activation: Activation::Gelu,
        bias: false,
        norm: layer_norm(keys, false)?,
        positions: Positions::Alibi { max_bias: attention.number_or("alibi_bias_max", 8.0)? },
        residual: Residual::Sequential,
        context: keys.count("max_seq_len")?,
    }
    .spec(keys, family)
}

pub(super) fn falcon(keys: &Keys<'_>, family: Family) -> Result<DecoderSpec> {
    let (hidden_size, heads) = (keys.count("hidden_size")?, keys.count("num_attention_heads")?);
    let new = keys.flag("new_decoder_architecture", false)?;
    let parallel = keys.flag("parallel_attn", true)?;
    let multi_query = keys.flag("multi_query", true)?;
    let kv_heads = match (new, multi_query) {
        (true, _) => keys.count_or("num_kv_heads", heads)?,
        (false, true) => 1,
        (false, false) => heads,
    };
    let own_norm = new && keys.count_or("num_ln_in_parallel_attn", 2)? == 2;
    // transformers scales the penalty here unlike BLOOM's; without a reference to compare with it is refused.
    keys.must_be_off("alibi")?;
    let head_dim = hidden_size / heads.max(1);
    Classic {
        hidden_size,
        layers: keys.layers("num_hidden_layers")?,
        heads,
        kv_heads,
        order: FusedOrder::ByGroup,
        intermediate_size: keys.count_or("ffn_hidden_size", hidden_size.saturating_mul(4))?,
        activation: activation(keys, "activation", "gelu")?,
        bias: keys.flag("bias", false)?,
        norm: layer_norm(keys, true)?,
        positions: Positions::Rotary { global: rotary(keys, head_dim, false)?, local: None },
        residual: if parallel || new { Residual::Parallel { own_norm } } else { Residual::Sequential },
        context: keys.count_or("max_position_embeddings", 2048)?,
    }
    .spec(keys, family)
}

pub(super) fn gpt2(keys: &Keys<'_>, family: Family) -> Result<DecoderSpec> {
    keys.must_be_off("scale_attn_by_inverse_layer_idx")?;
    let (hidden_size, heads) = (keys.count("n_embd")?, keys.count("n_head")?);
    let mut spec = Classic {
        hidden_size,
        layers: keys.layers("n_layer")?,
        heads,
        kv_heads: heads,
        order: FusedOrder::Blocks,
        intermediate_size: keys.count_or("n_inner", hidden_size.saturating_mul(4))?,
        activation: activation(keys, "activation_function", "gelu_new")?,
        bias: true,
        norm: layer_norm(keys, true)?,
        positions: Positions::Learned,
        residual: Residual::Sequential,
        context: keys.count("n_positions")?,
    }
    .spec(keys, family)?;
    if !keys.flag("scale_attn_weights", true)? {
        spec.attention.scale = 1.0;
    }
    Ok(spec)
}
