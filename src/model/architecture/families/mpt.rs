//! MPT.

use serde_json::{Map, Value, json};

use super::classic::{self, Classic, NO_BACKWARD, layer_norm};
use super::{Facts, Family};
use crate::error::Result;
use crate::model::architecture::hf_keys::Keys;
use crate::model::architecture::names::{LLAMA, Names};
use crate::model::architecture::rows::GgufRows;
use crate::model::architecture::{Activation, DecoderSpec, FusedOrder, Positions, Residual};

pub(super) const MPT: Facts = Facts {
    name: "mpt",
    architecture: "mpt",
    class: "MptForCausalLM",
    names: NAMES,
    names_with_own_norm: None,
    rows: GgufRows::Same,
    norms_less: 0.0,
    from_config,
    from_gguf: |keys, family| {
        let positions = Positions::Alibi { max_bias: keys.number_if("attention.max_alibi_bias")?.unwrap_or(8.0) };
        classic::from_gguf(keys, family, positions, FusedOrder::Blocks, Activation::Gelu)
    },
    to_config,
    without_backward: Some(NO_BACKWARD),
};

const NAMES: Names = Names {
    embedding: "transformer.wte",
    final_norm: "transformer.norm_f",
    blocks: "transformer.blocks",
    attention_norm: "norm_1",
    ffn_norm: "norm_2",
    qkv: "attn.Wqkv",
    output: "attn.out_proj",
    up: "ffn.up_proj",
    down: "ffn.down_proj",
    ..LLAMA
};

fn from_config(keys: &Keys<'_>, family: Family) -> Result<DecoderSpec> {
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

fn to_config(spec: &DecoderSpec) -> Option<Value> {
    let bias = match spec.positions {
        Positions::Alibi { max_bias } => max_bias,
        _ => 0.0,
    };
    Some(json!({
        "d_model": spec.hidden_size,
        "n_heads": spec.attention.heads,
        "n_layers": spec.layers,
        "layer_norm_epsilon": spec.norm.eps,
        "max_seq_len": spec.context,
        "expansion_ratio": spec.feed_forward.intermediate_size / spec.hidden_size.max(1),
        "no_bias": true,
        "attn_config": {"alibi": true, "alibi_bias_max": bias},
    }))
}
