//! Qwen 1.5 to 3, dense and with experts.

use serde_json::{Value, json};

use super::{Facts, Family, NO_EXPERTS, llama};
use crate::error::Result;
use crate::model::architecture::hf_keys::{Keys, layer_types};
use crate::model::architecture::names::{LLAMA, Names};
use crate::model::architecture::rows::GgufRows;
use crate::model::architecture::{DecoderSpec, Experts, Router, Score, Window, write};

pub(super) const QWEN2: Facts = Facts {
    name: "qwen2",
    architecture: "qwen2",
    class: "Qwen2ForCausalLM",
    names: LLAMA,
    names_with_own_norm: None,
    rows: GgufRows::Same,
    norms_less: 0.0,
    from_config: qwen2,
    from_gguf: llama::from_gguf,
    to_config: |spec| with_experts(spec, json!({"qkv_bias": spec.attention.qkv_bias})),
    without_backward: None,
};

pub(super) const QWEN2_MOE: Facts = Facts {
    name: "qwen2_moe",
    architecture: "qwen2moe",
    class: "Qwen2MoeForCausalLM",
    names: Names { shared: "mlp.shared_expert", ..LLAMA },
    from_config: qwen2_moe,
    without_backward: Some(NO_EXPERTS),
    ..QWEN2
};

pub(super) const QWEN3: Facts = Facts {
    name: "qwen3",
    architecture: "qwen3",
    class: "Qwen3ForCausalLM",
    from_config: qwen3,
    to_config: |spec| with_experts(spec, json!({})),
    ..QWEN2
};

pub(super) const QWEN3_MOE: Facts = Facts {
    name: "qwen3_moe",
    architecture: "qwen3moe",
    class: "Qwen3MoeForCausalLM",
    from_config: qwen3_moe,
    from_gguf: |keys, family| {
        let mut spec = llama::from_gguf(keys, family)?;
        if let Some(experts) = &mut spec.feed_forward.experts {
            experts.router.normalize = keys.flag("expert_weights_norm")?.unwrap_or(true);
        }
        Ok(spec)
    },
    without_backward: Some(NO_EXPERTS),
    ..QWEN3
};

fn qwen2(keys: &Keys<'_>, family: Family) -> Result<DecoderSpec> {
    let mut spec = llama::from_config(keys, family)?;
    spec.attention.qkv_bias = keys.flag("qkv_bias", true)?;
    spec.attention.output_bias = false;
    spec.attention.window = window(keys, spec.layers)?;
    Ok(spec)
}

/// Qwen's: layers from `max_window_layers` on, when `use_sliding_window` is on.
fn window(keys: &Keys<'_>, layers: usize) -> Result<Option<Window>> {
    let Some(size) = keys.count_if("sliding_window")?.filter(|size| *size > 0) else { return Ok(None) };
    if !keys.flag("use_sliding_window", false)? {
        return Ok(None);
    }
    let first = keys.count_or("max_window_layers", 28)?;
    let layers = match layer_types(keys, layers)? {
        Some(layers) => layers,
        None => (0..layers).map(|layer| layer >= first).collect(),
    };
    Ok(Some(Window { size, layers }))
}

/// Layers with experts: every `decoder_sparse_step`-th, less `mlp_only_layers`.
fn sparse_layers(keys: &Keys<'_>, layers: usize) -> Result<Vec<bool>> {
    let step = keys.count_or("decoder_sparse_step", 1)?.max(1);
    let dense = keys.ids("mlp_only_layers")?;
    Ok((0..layers).map(|layer| (layer + 1) % step == 0 && !dense.contains(&(layer as u32))).collect())
}

/// Experts as Qwen names them.
fn qwen_experts(keys: &Keys<'_>, layers: usize, shared_size: usize) -> Result<Experts> {
    let count = match keys.count_if("num_experts")? {
        Some(count) => count,
        None => keys.count("num_local_experts")?,
    };
    Ok(Experts {
        count,
        per_token: keys.count("num_experts_per_tok")?,
        intermediate_size: keys.count("moe_intermediate_size")?,
        shared_size,
        shared_gate: shared_size > 0,
        layers: sparse_layers(keys, layers)?,
        router: Router {
            score: Score::Softmax,
            correction: false,
            groups: None,
            normalize: keys.flag("norm_topk_prob", false)?,
            scale: 1.0,
        },
    })
}

fn qwen2_moe(keys: &Keys<'_>, family: Family) -> Result<DecoderSpec> {
    let mut spec = qwen2(keys, family)?;
    let shared = keys.count("shared_expert_intermediate_size")?;
    spec.feed_forward.experts = Some(qwen_experts(keys, spec.layers, shared)?);
    Ok(spec)
}

fn qwen3(keys: &Keys<'_>, family: Family) -> Result<DecoderSpec> {
    let mut spec = llama::from_config(keys, family)?;
    spec.attention.qk_norm = true;
    spec.attention.window = window(keys, spec.layers)?;
    Ok(spec)
}

fn qwen3_moe(keys: &Keys<'_>, family: Family) -> Result<DecoderSpec> {
    let mut spec = qwen3(keys, family)?;
    spec.feed_forward.experts = Some(qwen_experts(keys, spec.layers, 0)?);
    Ok(spec)
}

/// The configuration, with experts where there are some; `own`: the family's other keys.
fn with_experts(spec: &DecoderSpec, mut own: Value) -> Option<Value> {
    if let Some(e) = &spec.feed_forward.experts {
        let dense: Vec<usize> = (0..spec.layers).filter(|layer| !e.layers[*layer]).collect();
        let mut experts = json!({
            "num_experts": e.count,
            "num_experts_per_tok": e.per_token,
            "moe_intermediate_size": e.intermediate_size,
            "shared_expert_intermediate_size": e.shared_size,
            "norm_topk_prob": e.router.normalize,
            "decoder_sparse_step": 1,
            "mlp_only_layers": dense,
        });
        own.as_object_mut()?.append(experts.as_object_mut()?);
    }
    write::modern(spec, own)
}
