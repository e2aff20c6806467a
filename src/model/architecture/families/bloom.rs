//! BLOOM.

use serde_json::{Value, json};

use super::classic::{self, Classic, NO_BACKWARD, layer_norm};
use super::{Facts, Family};
use crate::error::Result;
use crate::model::architecture::hf_keys::Keys;
use crate::model::architecture::names::{LLAMA, Names};
use crate::model::architecture::rows::GgufRows;
use crate::model::architecture::{Activation, DecoderSpec, FusedOrder, Positions, Residual};

pub(super) const BLOOM: Facts = Facts {
    name: "bloom",
    architecture: "bloom",
    class: "BloomForCausalLM",
    names: NAMES,
    names_with_own_norm: None,
    rows: GgufRows::Blocks,
    norms_less: 0.0,
    from_config,
    from_gguf: |keys, family| {
        let positions = Positions::Alibi { max_bias: 8.0 };
        let spec = classic::from_gguf(keys, family, positions, FusedOrder::ByGroup, Activation::GeluTanh)?;
        Ok(DecoderSpec { embedding_norm: true, ..spec })
    },
    to_config,
    without_backward: Some(NO_BACKWARD),
};

/// BLOOM's names, and Falcon's.
pub(super) const NAMES: Names = Names {
    embedding: "transformer.word_embeddings",
    embedding_norm: "transformer.word_embeddings_layernorm",
    final_norm: "transformer.ln_f",
    blocks: "transformer.h",
    qkv: "self_attention.query_key_value",
    output: "self_attention.dense",
    up: "mlp.dense_h_to_4h",
    down: "mlp.dense_4h_to_h",
    ..LLAMA
};

fn from_config(keys: &Keys<'_>, family: Family) -> Result<DecoderSpec> {
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

fn to_config(spec: &DecoderSpec) -> Option<Value> {
    Some(json!({
        "hidden_size": spec.hidden_size,
        "n_head": spec.attention.heads,
        "n_layer": spec.layers,
        "layer_norm_epsilon": spec.norm.eps,
        "seq_length": spec.context,
    }))
}
