//! Falcon 7B, 40B and 180B, and Falcon-RW.

use serde_json::{Value, json};

use super::classic::{self, Classic, NO_BACKWARD, layer_norm};
use super::{Facts, Family, bloom};
use crate::error::Result;
use crate::model::architecture::gguf::rotary_positions;
use crate::model::architecture::hf_keys::{Keys, activation, rotary};
use crate::model::architecture::names::Names;
use crate::model::architecture::rows::GgufRows;
use crate::model::architecture::{Activation, DecoderSpec, FusedOrder, Positions, Residual, write};

pub(super) const FALCON: Facts = Facts {
    name: "falcon",
    architecture: "falcon",
    class: "FalconForCausalLM",
    names: bloom::NAMES,
    // The newer form's.
    names_with_own_norm: Some(Names { attention_norm: "ln_attn", ffn_norm: "ln_mlp", ..bloom::NAMES }),
    rows: GgufRows::Blocks,
    norms_less: 0.0,
    from_config,
    from_gguf: |keys, family| {
        let positions = rotary_positions(keys)?;
        let spec = classic::from_gguf(keys, family, positions, FusedOrder::ByGroup, Activation::Gelu)?;
        let residual = Residual::Parallel { own_norm: keys.has("blk.0.attn_norm_2.weight") };
        Ok(DecoderSpec { residual, ..spec })
    },
    to_config,
    without_backward: Some(NO_BACKWARD),
};

fn from_config(keys: &Keys<'_>, family: Family) -> Result<DecoderSpec> {
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

fn to_config(spec: &DecoderSpec) -> Option<Value> {
    let a = &spec.attention;
    let Positions::Rotary { global, .. } = &spec.positions else { return None };
    let (parallel, own_norm) = match spec.residual {
        Residual::Parallel { own_norm } => (true, own_norm),
        _ => (false, false),
    };
    // The newer form has any number of key-value heads, the older one or all.
    let new = own_norm || (a.kv_heads != 1 && a.kv_heads != a.heads);
    let mut keys = json!({
        "hidden_size": spec.hidden_size,
        "num_attention_heads": a.heads,
        "num_kv_heads": a.kv_heads,
        "num_hidden_layers": spec.layers,
        "ffn_hidden_size": spec.feed_forward.intermediate_size,
        "activation": write::activation(spec.feed_forward.activation),
        "layer_norm_epsilon": spec.norm.eps,
        "max_position_embeddings": spec.context,
        "rope_theta": global.theta,
        "new_decoder_architecture": new,
        "multi_query": !new && a.kv_heads == 1,
        "parallel_attn": parallel,
        "bias": a.qkv_bias,
        "alibi": false,
    });
    if new {
        keys["num_ln_in_parallel_attn"] = json!(if own_norm { 2 } else { 1 });
    }
    Some(keys)
}
