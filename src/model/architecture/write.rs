//! A [`DecoderSpec`] as the `config.json` that transformers reads: for a model whose file has none, GGUF.

use serde_json::{Value, json};

use super::rotary::yarn_scale;
use super::{
    Activation, DecoderSpec, Experts, Family, NormKind, Positions, Projection, Residual, RopeScaling, Rotary, Score,
};

/// The configuration, in the keys of transformers 4, which 5 reads too; `None` where Hugging Face's form of the family cannot say it.
pub(super) fn config(spec: &DecoderSpec) -> Option<Value> {
    let mut keys = match spec.family {
        Family::Bloom => bloom(spec),
        Family::Mpt => mpt(spec),
        Family::Falcon => falcon(spec)?,
        Family::Gpt2 => gpt2(spec),
        _ => modern(spec)?,
    };
    let (family, class) = (spec.family.name(), class(spec.family));
    let mut all = json!({
        "architectures": [class],
        "model_type": family,
        "vocab_size": spec.vocab_size,
        "tie_word_embeddings": spec.tied_head,
    });
    if !spec.eos.is_empty() {
        all["eos_token_id"] = json!(spec.eos);
    }
    all.as_object_mut()?.append(keys.as_object_mut()?);
    Some(all)
}

/// What transformers calls the family's model.
fn class(family: Family) -> &'static str {
    match family {
        Family::Llama => "LlamaForCausalLM",
        Family::Qwen2 => "Qwen2ForCausalLM",
        Family::Qwen2Moe => "Qwen2MoeForCausalLM",
        Family::Qwen3 => "Qwen3ForCausalLM",
        Family::Qwen3Moe => "Qwen3MoeForCausalLM",
        Family::DeepseekV2 => "DeepseekV2ForCausalLM",
        Family::DeepseekV3 => "DeepseekV3ForCausalLM",
        Family::Gemma3 => "Gemma3ForCausalLM",
        Family::Bloom => "BloomForCausalLM",
        Family::Mpt => "MptForCausalLM",
        Family::Falcon => "FalconForCausalLM",
        Family::Gpt2 => "GPT2LMHeadModel",
    }
}

fn activation(activation: Activation) -> &'static str {
    match activation {
        Activation::Silu => "silu",
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
    }
}

/// Llama's form and what grew out of it.
fn modern(spec: &DecoderSpec) -> Option<Value> {
    let (a, f) = (&spec.attention, &spec.feed_forward);
    let Positions::Rotary { global, local } = &spec.positions else { return None };
    let mut keys = json!({
        "hidden_size": spec.hidden_size,
        "intermediate_size": f.intermediate_size,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "hidden_act": activation(f.activation),
        "rms_norm_eps": spec.norm.eps,
        "max_position_embeddings": spec.context,
        "rope_theta": global.theta,
    });
    let set = |keys: &mut Value, more: Value| {
        if let (Some(keys), Value::Object(mut more)) = (keys.as_object_mut(), more) {
            keys.append(&mut more);
        }
    };
    if !matches!(a.projection, Projection::Latent(_)) {
        set(&mut keys, json!({"head_dim": a.head_dim}));
    }
    match spec.family {
        // One key says both; the projection's own biases go with Qwen 2.
        Family::Llama => set(&mut keys, json!({"attention_bias": a.qkv_bias, "mlp_bias": f.bias})),
        Family::Qwen2 | Family::Qwen2Moe => set(&mut keys, json!({"qkv_bias": a.qkv_bias})),
        Family::Gemma3 => {
            let window = a.window.as_ref()?;
            let kind = |slides: &bool| if *slides { "sliding_attention" } else { "full_attention" };
            set(
                &mut keys,
                json!({
                    "hidden_activation": activation(f.activation),
                    "query_pre_attn_scalar": whole(a.scale.powi(-2)),
                    "sliding_window": window.size,
                    "layer_types": window.layers.iter().map(kind).collect::<Vec<_>>(),
                    "rope_local_base_freq": local.as_ref()?.theta,
                }),
            );
        }
        _ => {}
    }
    if let Projection::Latent(latent) = &a.projection {
        set(
            &mut keys,
            json!({
                "attention_bias": a.qkv_bias,
                "q_lora_rank": latent.q_rank,
                "kv_lora_rank": latent.kv_rank,
                "qk_nope_head_dim": latent.nope,
                "qk_rope_head_dim": latent.rope,
                "v_head_dim": a.value_dim,
                "rope_interleave": global.interleaved,
            }),
        );
    }
    if let Some(experts) = &f.experts {
        set(&mut keys, mixture(spec, experts)?);
    }
    match scaling(spec, global)? {
        Value::Null => {}
        scaling => keys["rope_scaling"] = scaling,
    }
    Some(keys)
}

/// 24 rather than 23.999999999: transformers wants a whole number where there is one.
fn whole(value: f64) -> Value {
    if (value - value.round()).abs() < 1e-6 * value.abs() { json!(value.round() as i64) } else { json!(value) }
}

fn mixture(spec: &DecoderSpec, e: &Experts) -> Option<Value> {
    let deepseek = matches!(spec.family, Family::DeepseekV2 | Family::DeepseekV3);
    if !deepseek {
        let dense: Vec<usize> = (0..spec.layers).filter(|layer| !e.layers[*layer]).collect();
        return Some(json!({
            "num_experts": e.count,
            "num_experts_per_tok": e.per_token,
            "moe_intermediate_size": e.intermediate_size,
            "shared_expert_intermediate_size": e.shared_size,
            "norm_topk_prob": e.router.normalize,
            "decoder_sparse_step": 1,
            "mlp_only_layers": dense,
        }));
    }
    let v3 = spec.family == Family::DeepseekV3;
    let groups = e.router.groups;
    let method = if v3 {
        "noaux_tc"
    } else if groups.is_some() {
        "group_limited_greedy"
    } else {
        "greedy"
    };
    Some(json!({
        "n_routed_experts": e.count,
        "num_experts_per_tok": e.per_token,
        "moe_intermediate_size": e.intermediate_size,
        "n_shared_experts": e.shared_size / e.intermediate_size.max(1),
        "first_k_dense_replace": e.layers.iter().take_while(|sparse| !**sparse).count(),
        "moe_layer_freq": 1,
        "n_group": groups.map_or(1, |g| g.count),
        "topk_group": groups.map_or(1, |g| g.keep),
        "topk_method": method,
        "scoring_func": if e.router.score == Score::Sigmoid { "sigmoid" } else { "softmax" },
        "norm_topk_prob": e.router.normalize,
        "routed_scaling_factor": e.router.scale,
    }))
}

/// `rope_scaling`; null for none, `None` when no `rope_type` says it.
fn scaling(spec: &DecoderSpec, rotary: &Rotary) -> Option<Value> {
    Some(match &rotary.scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_context,
        }),
        RopeScaling::Factors(factors) => {
            let llama3 = llama3_of(rotary, factors)?;
            return scaling(spec, &Rotary { scaling: llama3, ..rotary.clone() });
        }
        RopeScaling::Yarn(yarn) => {
            let mut keys = json!({
                "rope_type": "yarn",
                "factor": yarn.factor,
                "original_max_position_embeddings": yarn.original_context,
                "beta_fast": yarn.beta_fast,
                "beta_slow": yarn.beta_slow,
            });
            if !yarn.truncate {
                keys["truncate"] = json!(false);
            }
            match spec.attention.projection {
                // Scores are multiplied by the square of one magnitude, cos and sin by the other's share of it.
                Projection::Latent(_) => {
                    let all = (spec.attention.scale * (spec.attention.head_dim as f64).sqrt()).sqrt();
                    let of = |magnitude: f64| yarn_scale(yarn.factor, magnitude);
                    keys["mscale"] = json!(of(yarn.magnitude * all));
                    keys["mscale_all_dim"] = json!(of(all));
                }
                _ => keys["attention_factor"] = json!(yarn.magnitude),
            }
            keys
        }
    })
}

/// Llama 3's constants out of the factors that llama.cpp stores in their place.
///
/// On the ramp between kept and divided frequencies 1/factor is linear in the frequency, so two of its points give
/// `original_context / (high − low)` and `low / (high − low)`; every published model has a low of 1, and any other would be the
/// same ramp. Small heads have fewer points; then a high of 4, as published, is assumed. What is found must give the same factors.
fn llama3_of(rotary: &Rotary, factors: &[f64]) -> Option<RopeScaling> {
    let factor = factors.iter().copied().fold(1.0, f64::max);
    let plain = Rotary { scaling: RopeScaling::None, ..rotary.clone() }.frequencies();
    let turns = |f: f64| f / std::f64::consts::TAU;
    let ramp = |own: f64| (own.recip() - factor.recip()) / (1.0 - factor.recip());
    let inside = |own: &f64| *own > 1.0 + 1e-4 && *own < factor * (1.0 - 1e-4);
    let on_ramp: Vec<(f64, f64)> =
        plain.iter().zip(factors).filter(|(_, own)| inside(own)).map(|(f, own)| (turns(*f), ramp(*own))).collect();
    let published = match on_ramp.first() {
        Some((x, y)) => (3.0 * y + 1.0) / x,
        // The slowest of those that are kept turns at least `high` times.
        None => {
            plain.iter().zip(factors).filter(|(_, own)| **own <= 1.0).map(|(f, _)| 4.0 / turns(*f)).next_back()?.ceil()
        }
    };
    let general = on_ramp.first().zip(on_ramp.last()).map(|((x, y), (x2, y2))| {
        let slope = (y2 - y) / (x2 - x);
        let width = (slope * x - y).recip();
        (slope * width, ((1.0 + width) * 1e4).round() / 1e4)
    });
    let candidates = std::iter::once((published, 4.0)).chain(general);
    let scalings = candidates.filter(|(context, high)| context.is_finite() && *high > 1.0).map(|(context, high)| {
        let original_context = context.round() as usize;
        RopeScaling::Llama3 { factor, low_freq_factor: 1.0, high_freq_factor: high, original_context }
    });
    let says_the_same = |scaling: &RopeScaling| {
        let again = Rotary { scaling: scaling.clone(), ..rotary.clone() }.frequencies();
        let near = |((f, own), again): ((&f64, &f64), &f64)| (f / own - again).abs() <= 1e-4 * again;
        plain.iter().zip(factors).zip(&again).all(near)
    };
    scalings.into_iter().find(says_the_same)
}

fn bloom(spec: &DecoderSpec) -> Value {
    json!({
        "hidden_size": spec.hidden_size,
        "n_head": spec.attention.heads,
        "n_layer": spec.layers,
        "layer_norm_epsilon": spec.norm.eps,
        "seq_length": spec.context,
    })
}

fn mpt(spec: &DecoderSpec) -> Value {
    let bias = match spec.positions {
        Positions::Alibi { max_bias } => max_bias,
        _ => 0.0,
    };
    json!({
        "d_model": spec.hidden_size,
        "n_heads": spec.attention.heads,
        "n_layers": spec.layers,
        "layer_norm_epsilon": spec.norm.eps,
        "max_seq_len": spec.context,
        "expansion_ratio": spec.feed_forward.intermediate_size / spec.hidden_size.max(1),
        "no_bias": true,
        "attn_config": {"alibi": true, "alibi_bias_max": bias},
    })
}

fn falcon(spec: &DecoderSpec) -> Option<Value> {
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
        "activation": activation(spec.feed_forward.activation),
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

fn gpt2(spec: &DecoderSpec) -> Value {
    let a = &spec.attention;
    json!({
        "n_embd": spec.hidden_size,
        "n_head": a.heads,
        "n_layer": spec.layers,
        "n_inner": spec.feed_forward.intermediate_size,
        "n_positions": spec.context,
        "activation_function": activation(spec.feed_forward.activation),
        "layer_norm_epsilon": spec.norm.eps,
        "scale_attn_weights": a.scale != 1.0,
    })
}

/// Are two specs the same model? `wrote` was read from what [`config`] made of `from`.
pub(super) fn same(from: &DecoderSpec, wrote: &DecoderSpec) -> bool {
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-6 * b.abs();
    let comparable = |spec: &DecoderSpec| {
        let mut spec = spec.clone();
        // Computed back and forth; compared by themselves below.
        spec.attention.scale = 0.0;
        if spec.norm.kind == NormKind::RmsPlusOne {
            spec.norm.kind = NormKind::Rms;
        }
        let mut turns = Vec::new();
        if let Positions::Rotary { global, local } = &mut spec.positions {
            for rotary in std::iter::once(global).chain(local) {
                turns.extend(rotary.frequencies());
                turns.push(rotary.magnitude());
                rotary.scaling = RopeScaling::None;
            }
        }
        (spec, turns)
    };
    let ((a, turns), (b, wrote_turns)) = (comparable(from), comparable(wrote));
    let turned = turns.len() == wrote_turns.len()
        && turns.iter().zip(&wrote_turns).all(|(a, b)| (a - b).abs() <= 1e-4 * b.abs());
    a == b && turned && near(from.attention.scale, wrote.attention.scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parity::fixture;

    /// What is written says what was read, for each family.
    #[test]
    fn every_family_s_configuration_survives_being_written() {
        for family in Family::ALL {
            let name = family.name();
            let path = fixture(&format!("{name}/config.json"));
            let spec = DecoderSpec::from_config(&path).expect("a configuration");
            let text = spec.to_config(&path).expect("one that can be written");
            let folder = tempfile::tempdir().expect("a folder");
            let again = folder.path().join("config.json");
            std::fs::write(&again, text.to_string()).expect("a file");
            assert!(same(&spec, &DecoderSpec::from_config(&again).expect("a configuration")), "{name}");
        }
    }

    /// llama.cpp stores Llama 3's scaling as factors; here are those of the published constants.
    #[test]
    fn llama_3_s_constants_are_found_in_their_factors() {
        for (factor, high, context, dim) in
            [(8.0, 4.0, 8192, 128), (32.0, 4.0, 8192, 64), (8.0, 4.0, 32, 16), (4.0, 6.0, 4096, 128)]
        {
            let scaling =
                RopeScaling::Llama3 { factor, low_freq_factor: 1.0, high_freq_factor: high, original_context: context };
            let rotary = Rotary { theta: 500_000.0, dim, interleaved: false, scaling };
            let plain = Rotary { scaling: RopeScaling::None, ..rotary.clone() }.frequencies();
            let factors: Vec<f64> =
                plain.iter().zip(rotary.frequencies()).map(|(p, f)| f64::from((p / f) as f32)).collect();
            let found = llama3_of(&rotary, &factors).expect("constants");
            let again = Rotary { scaling: found.clone(), ..rotary.clone() }.frequencies();
            assert!(again.iter().zip(rotary.frequencies()).all(|(a, b)| (a - b).abs() < 1e-4 * b));
            // A small head has no frequency on the ramp, and several constants say the same.
            assert!(found == rotary.scaling || dim == 16, "{found:?}");
            let mut other = factors;
            other[0] *= 3.0;
            assert_eq!(llama3_of(&rotary, &other), None, "no ramp of Llama 3's");
        }
    }
}
