//! Hugging Face's `config.json`, family by family. Missing keys have transformers' defaults.

use std::path::Path;

use serde_json::Value;

use super::classic;
use super::hf_keys::{Keys, activation, rms, rotary, scaling};
use super::rotary::yarn_magnitude;
use super::{
    AttentionSpec, DecoderSpec, Experts, Family, FeedForwardSpec, Groups, Latent, NormKind, Positions, Projection,
    Residual, RopeScaling, Rotary, Router, Score, Window,
};
use crate::error::{Error, Result};
use crate::model::formats::json::read_json;

pub(super) fn read(path: &Path) -> Result<DecoderSpec> {
    parse(path, &read_json(path)?)
}

/// Reads the content of a `config.json`; `path` is for messages.
pub(super) fn parse(path: &Path, value: &Value) -> Result<DecoderSpec> {
    let Value::Object(map) = value else {
        return Err(Error::model(path, "is not a JSON object"));
    };
    super::check_supported(path, value)?;
    let keys = Keys { path, map };
    let name = keys.text("model_type")?;
    let family = Family::named(path, name, Family::name)?;
    match family {
        Family::Llama => llama(&keys, family),
        Family::Qwen2 => qwen2(&keys, family),
        Family::Qwen2Moe => qwen2_moe(&keys, family),
        Family::Qwen3 => qwen3(&keys, family),
        Family::Qwen3Moe => qwen3_moe(&keys, family),
        Family::DeepseekV2 | Family::DeepseekV3 => deepseek(&keys, family),
        Family::Gemma3 => gemma3(&keys, family),
        Family::Bloom => classic::bloom(&keys, family),
        Family::Mpt => classic::mpt(&keys, family),
        Family::Falcon => classic::falcon(&keys, family),
        Family::Gpt2 => classic::gpt2(&keys, family),
    }
}

/// What the families after Llama have in common.
fn llama(keys: &Keys<'_>, family: Family) -> Result<DecoderSpec> {
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
        norm: rms(keys)?,
        positions: Positions::Rotary { global: rotary(keys, head_dim, false)?, local: None },
        residual: Residual::Sequential,
        embedding_scale: 1.0,
        embedding_norm: false,
        tied_head: keys.flag("tie_word_embeddings", false)?,
        context: keys.count("max_position_embeddings")?,
        eos: keys.ids("eos_token_id")?,
    })
}

fn qwen2(keys: &Keys<'_>, family: Family) -> Result<DecoderSpec> {
    let mut spec = llama(keys, family)?;
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

/// Which layers slide, when `layer_types` says so.
fn layer_types(keys: &Keys<'_>, layers: usize) -> Result<Option<Vec<bool>>> {
    let Some(types) = keys.read("layer_types", "a list", Value::as_array)? else { return Ok(None) };
    if types.len() != layers {
        let message = format!("layer_types names {} layers, but num_hidden_layers is {layers}", types.len());
        return Err(Error::model(keys.path, message));
    }
    let slides = |value: &Value| match value.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => Err(Error::model(
            keys.path,
            format!("layer_types holds {value}, expected \"full_attention\" or \"sliding_attention\""),
        )),
    };
    types.iter().map(slides).collect::<Result<_>>().map(Some)
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
    let mut spec = llama(keys, family)?;
    spec.attention.qk_norm = true;
    spec.attention.window = window(keys, spec.layers)?;
    Ok(spec)
}

fn qwen3_moe(keys: &Keys<'_>, family: Family) -> Result<DecoderSpec> {
    let mut spec = qwen3(keys, family)?;
    spec.feed_forward.experts = Some(qwen_experts(keys, spec.layers, 0)?);
    Ok(spec)
}

fn deepseek(keys: &Keys<'_>, family: Family) -> Result<DecoderSpec> {
    let (nope, rope) = (keys.count("qk_nope_head_dim")?, keys.count("qk_rope_head_dim")?);
    let mut spec = llama(keys, family)?;
    let a = &mut spec.attention;
    a.kv_heads = a.heads;
    a.head_dim = nope.saturating_add(rope);
    a.value_dim = keys.count("v_head_dim")?;
    a.scale = (a.head_dim as f64).sqrt().recip();
    a.output_bias = a.qkv_bias;
    a.projection = Projection::Latent(Latent {
        q_rank: keys.count_if("q_lora_rank")?,
        kv_rank: keys.count("kv_lora_rank")?,
        nope,
        rope,
    });
    let global = rotary(keys, rope, keys.flag("rope_interleave", true)?)?;
    if let (RopeScaling::Yarn(yarn), Some(inner)) =
        (&global.scaling, keys.object("rope_parameters")?.or(keys.object("rope_scaling")?))
    {
        let all = inner.number_or("mscale_all_dim", 0.0)?;
        if all != 0.0 {
            a.scale *= yarn_magnitude(yarn.factor, all).powi(2);
        }
    }
    spec.positions = Positions::Rotary { global, local: None };
    let Some(count) = keys.count_if("n_routed_experts")?.filter(|n| *n > 0) else { return Ok(spec) };
    let dense = keys.count_or("first_k_dense_replace", 0)?;
    let step = keys.count_or("moe_layer_freq", 1)?.max(1);
    let size = keys.count("moe_intermediate_size")?;
    let grouped = match keys.text_or("topk_method", "noaux_tc")? {
        "greedy" => None,
        "group_limited_greedy" => Some(1),
        "noaux_tc" => Some(2),
        _ => {
            let known = "this is not known; known are: greedy, group_limited_greedy, noaux_tc";
            return Err(keys.refuse("topk_method", known));
        }
    };
    let (groups, keep) = (keys.count_or("n_group", 1)?, keys.count_or("topk_group", 1)?);
    let v3 = family == Family::DeepseekV3;
    let score = match keys.text_or("scoring_func", if v3 { "sigmoid" } else { "softmax" })? {
        "softmax" => Score::Softmax,
        "sigmoid" => Score::Sigmoid,
        _ => return Err(keys.refuse("scoring_func", "this router is not known; known are: softmax, sigmoid")),
    };
    spec.feed_forward.experts = Some(Experts {
        count,
        per_token: keys.count("num_experts_per_tok")?,
        intermediate_size: size,
        shared_size: size.saturating_mul(keys.count_or("n_shared_experts", 0)?),
        shared_gate: false,
        layers: (0..spec.layers).map(|layer| layer >= dense && layer % step == 0).collect(),
        router: Router {
            score,
            correction: v3,
            groups: grouped.filter(|_| groups > 1).map(|best| Groups { count: groups, keep, best }),
            // The released code of V2 never divides by the sum.
            normalize: v3 && keys.flag("norm_topk_prob", true)?,
            scale: keys.number_or("routed_scaling_factor", 1.0)?,
        },
    });
    Ok(spec)
}

fn gemma3(keys: &Keys<'_>, family: Family) -> Result<DecoderSpec> {
    keys.must_be_off("attn_logit_softcapping")?;
    keys.must_be_off("final_logit_softcapping")?;
    keys.must_be_off("use_bidirectional_attention")?;
    let mut spec = llama(keys, family)?;
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
    spec.positions = gemma3_positions(keys, head_dim)?;
    Ok(spec)
}

fn gemma3_positions(keys: &Keys<'_>, head_dim: usize) -> Result<Positions> {
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
