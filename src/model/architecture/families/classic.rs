//! What the LayerNorm families have in common: BLOOM, MPT, Falcon, GPT-2.

use super::Family;
use crate::error::Result;
use crate::model::architecture::gguf;
use crate::model::architecture::hf_keys::Keys;
use crate::model::architecture::{
    Activation, AttentionSpec, DecoderSpec, FeedForwardSpec, FusedOrder, NormKind, NormSpec, Positions, Projection,
    Residual, gguf_keys,
};

/// What llama.cpp has no backward of.
pub(super) const NO_BACKWARD: &str = "LayerNorm and GELU";

/// A fused layer, an ungated feed-forward, a tied head.
pub(super) struct Classic {
    pub(super) hidden_size: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) order: FusedOrder,
    pub(super) intermediate_size: usize,
    pub(super) activation: Activation,
    pub(super) bias: bool,
    pub(super) norm: NormSpec,
    pub(super) positions: Positions,
    pub(super) residual: Residual,
    pub(super) context: usize,
}

impl Classic {
    pub(super) fn spec(self, keys: &Keys<'_>, family: Family) -> Result<DecoderSpec> {
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

pub(super) fn layer_norm(keys: &Keys<'_>, bias: bool) -> Result<NormSpec> {
    Ok(NormSpec { kind: NormKind::Layer { bias }, eps: keys.number_or("layer_norm_epsilon", 1e-5)? })
}

/// Out of GGUF's metadata.
pub(super) fn from_gguf(
    keys: &gguf_keys::Keys<'_>,
    family: Family,
    positions: Positions,
    order: FusedOrder,
    activation: Activation,
) -> Result<DecoderSpec> {
    let kind = NormKind::Layer { bias: keys.has("output_norm.bias") };
    let norm = NormSpec { kind, eps: keys.number("attention.layer_norm_epsilon")? };
    let mut spec = gguf::common(keys, family, norm, positions)?;
    spec.attention.projection = Projection::Fused(order);
    spec.feed_forward.activation = activation;
    spec.feed_forward.gated = false;
    Ok(spec)
}
