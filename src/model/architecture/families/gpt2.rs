//! GPT-2.

use serde_json::{Value, json};

use super::classic::{self, Classic, NO_BACKWARD, layer_norm};
use super::{Facts, Family};
use crate::error::Result;
use crate::model::architecture::hf_keys::{Keys, activation};
use crate::model::architecture::names::{LLAMA, Names};
use crate::model::architecture::rows::GgufRows;
use crate::model::architecture::{Activation, DecoderSpec, FusedOrder, Positions, Residual, write};

pub(super) const GPT2: Facts = Facts {
    name: "gpt2",
    architecture: "gpt2",
    class: "GPT2LMHeadModel",
    names: NAMES,
    names_with_own_norm: None,
    rows: GgufRows::Same,
    norms_less: 0.0,
    from_config,
    from_gguf: |keys, family| {
        classic::from_gguf(keys, family, Positions::Learned, FusedOrder::Blocks, Activation::GeluTanh)
    },
    to_config,
    without_backward: Some(NO_BACKWARD),
};

const NAMES: Names = Names {
    embedding: "transformer.wte",
    positions: "transformer.wpe",
    final_norm: "transformer.ln_f",
    blocks: "transformer.h",
    attention_norm: "ln_1",
    ffn_norm: "ln_2",
    qkv: "attn.c_attn",
    output: "attn.c_proj",
    up: "mlp.c_fc",
    down: "mlp.c_proj",
    transposed: true,
    ..LLAMA
};

fn from_config(keys: &Keys<'_>, family: Family) -> Result<DecoderSpec> {
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

fn to_config(spec: &DecoderSpec) -> Option<Value> {
    let a = &spec.attention;
    Some(json!({
        "n_embd": spec.hidden_size,
        "n_head": a.heads,
        "n_layer": spec.layers,
        "n_inner": spec.feed_forward.intermediate_size,
        "n_positions": spec.context,
        "activation_function": write::activation(spec.feed_forward.activation),
        "layer_norm_epsilon": spec.norm.eps,
        "scale_attn_weights": a.scale != 1.0,
    }))
}
