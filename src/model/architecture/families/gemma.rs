//! Gemma 3, text only.

use serde_json::json;

use super::{Facts, Family, llama};
use crate::error::Result;
use crate::model::architecture::gguf::{self, rms, rotary_positions};
use crate::model::architecture::hf_keys::{Keys, activation, layer_types, rotary, scaling};
use crate::model::architecture::names::{LLAMA, Names};
use crate::model::architecture::rows::GgufRows;
use crate::model::architecture::{
    Activation, DecoderSpec, NormKind, Positions, Residual, RopeScaling, Rotary, Window, gguf_keys, write,
};

pub(super) const GEMMA3: Facts = Facts {
    name: "gemma3_text",
    architecture: "gemma3",
    class: "Gemma3ForCausalLM",
    names: Names { ffn_norm: "pre_feedforward_layernorm", ..LLAMA },
    names_with_own_norm: None,
    rows: GgufRows::Same,
    norms_less: 1.0,
    from_config,
    from_gguf,
    to_config,
    without_backward: Some("GEGLU"),
};

fn from_config(keys: &Keys<'_>, family: Family) -> Result<DecoderSpec> {
    keys.must_be_off("attn_logit_softcapping")?;
    keys.must_be_off("final_logit_softcapping")?;
    keys.must_be_off("use_bidirectional_attention")?;
    let mut spec = llama::from_config(keys, family)?;
    let head_dim = keys.count_or("head_dim", 256)?;
    let layers = spec.layers;
    let a = &mut spec.attention;
    (a.head_dim, a.value_dim) = (head_dim, head_dim);
    a.qk_norm = true;
    a.scale = keys.number_or("query_pre_attn_scalar", 256.0)?.sqrt().recip();
    let slides = match layer_types(keys, layers)? {
        Some(slides) => slides,
        None => {
            let pattern = keys.count_or("sliding_window_pattern", 6)?.max(1);
            (0..layers).map(|layer| (layer + 1) % pattern != 0).collect()
        }
    };
    a.window = Some(Window { size: keys.count_or("sliding_window", 4096)?, layers: slides });
    spec.feed_forward.activation = activation(keys, "hidden_activation", "gelu_pytorch_tanh")?;
    spec.norm.kind = NormKind::RmsPlusOne;
    spec.residual = Residual::Sandwich;
    // transformers multiplies in the embedding's own precision; in f32 this is the whole root.
    spec.embedding_scale = (spec.hidden_size as f64).sqrt();
    spec.tied_head = keys.flag("tie_word_embeddings", true)?;
    spec.positions = positions(keys, head_dim)?;
    Ok(spec)
}

fn positions(keys: &Keys<'_>, head_dim: usize) -> Result<Positions> {
    let nested = match keys.object("rope_parameters")? {
        Some(parameters) => (parameters.object("full_attention")?, parameters.object("sliding_attention")?),
        None => (None, None),
    };
    let context = keys.count("max_position_embeddings")?;
    let of = |inner: Keys<'_>, theta: f64| -> Result<Rotary> {
        let theta = inner.number_or("rope_theta", theta)?;
        Ok(Rotary { theta, dim: head_dim, interleaved: false, scaling: scaling(&inner, context)? })
    };
    if let (Some(full), Some(sliding)) = nested {
        return Ok(Positions::Rotary { global: of(full, 1e6)?, local: Some(of(sliding, 10_000.0)?) });
    }
    let mut global = rotary(keys, head_dim, false)?;
    global.theta = keys.number_or("rope_theta", 1e6)?;
    let theta = keys.number_or("rope_local_base_freq", 10_000.0)?;
    let local = Rotary { theta, dim: head_dim, interleaved: false, scaling: RopeScaling::None };
    Ok(Positions::Rotary { global, local: Some(local) })
}

fn from_gguf(keys: &gguf_keys::Keys<'_>, family: Family) -> Result<DecoderSpec> {
    let mut positions = rotary_positions(keys)?;
    if let Positions::Rotary { global, local } = &mut positions {
        let theta = keys.number_if("rope.freq_base_swa")?.unwrap_or(10_000.0);
        *local = Some(Rotary { theta, scaling: RopeScaling::None, ..global.clone() });
    }
    // The weights of Gemma's norms are stored with their 1.
    let mut spec = gguf::common(keys, family, rms(keys)?, positions)?;
    let layers = spec.layers;
    // Gemma 3 27B alone divides by the hidden size's share of a head; GGUF does not say so, and llama.cpp tells it by its layers.
    if layers == 62 {
        spec.attention.scale = (spec.hidden_size as f64 / spec.attention.heads.max(1) as f64).sqrt().recip();
    }
    let size = keys.count_if("attention.sliding_window")?;
    spec.attention.window =
        size.map(|size| Window { size, layers: (0..layers).map(|layer| (layer + 1) % 6 != 0).collect() });
    spec.feed_forward.activation = Activation::GeluTanh;
    spec.residual = Residual::Sandwich;
    spec.embedding_scale = (spec.hidden_size as f64).sqrt();
    Ok(spec)
}

fn to_config(spec: &DecoderSpec) -> Option<serde_json::Value> {
    let window = spec.attention.window.as_ref()?;
    let Positions::Rotary { local, .. } = &spec.positions else { return None };
    let kind = |slides: &bool| if *slides { "sliding_attention" } else { "full_attention" };
    let own = json!({
        "hidden_activation": write::activation(spec.feed_forward.activation),
        "query_pre_attn_scalar": integer_if_close(spec.attention.scale.powi(-2)),
        "sliding_window": window.size,
        "layer_types": window.layers.iter().map(kind).collect::<Vec<_>>(),
        "rope_local_base_freq": local.as_ref()?.theta,
    });
    write::modern(spec, own)
}

/// 24 rather than 23.999999999: transformers wants a whole number where there is one.
fn integer_if_close(value: f64) -> serde_json::Value {
    if (value - value.round()).abs() < 1e-6 * value.abs() { json!(value.round() as i64) } else { json!(value) }
}
