//! DeepSeek-V2 and V3 (R1): latent attention, and experts that are chosen in groups.

use serde_json::{Value, json};

use super::{Facts, Family, llama};
use crate::error::{Error, Result};
use crate::model::architecture::gguf::{self, rms, rotary, scaling};
use crate::model::architecture::hf_keys::{self, Keys};
use crate::model::architecture::names::LLAMA;
use crate::model::architecture::rotary::yarn_magnitude;
use crate::model::architecture::rows::GgufRows;
use crate::model::architecture::{
    DecoderSpec, Experts, Groups, Latent, Positions, Projection, RopeScaling, Router, Score, gguf_keys, write,
};

pub(super) const V2: Facts = Facts {
    name: "deepseek_v2",
    architecture: "deepseek2",
    class: "DeepseekV2ForCausalLM",
    names: LLAMA,
    names_with_own_norm: None,
    rows: GgufRows::Same,
    norms_less: 0.0,
    from_config,
    from_gguf,
    to_config,
    without_backward: Some("its latent attention and experts"),
};

pub(super) const V3: Facts = Facts { name: "deepseek_v3", class: "DeepseekV3ForCausalLM", ..V2 };

fn from_config(keys: &Keys<'_>, family: Family) -> Result<DecoderSpec> {
    let (nope, rope) = (keys.count("qk_nope_head_dim")?, keys.count("qk_rope_head_dim")?);
    let mut spec = llama::from_config(keys, family)?;
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
    let global = hf_keys::rotary(keys, rope, keys.flag("rope_interleave", true)?)?;
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

fn from_gguf(keys: &gguf_keys::Keys<'_>, family: Family) -> Result<DecoderSpec> {
    let rope = keys.count("rope.dimension_count")?;
    // DeepSeek's mscale and mscale_all_dim are equal in every published model, and cancel each other here.
    let global = rotary(keys, rope, true, scaling(keys, |_| 1.0)?)?;
    let mut spec = gguf::common(keys, family, rms(keys)?, Positions::Rotary { global, local: None })?;
    let a = &mut spec.attention;
    // Newer files describe the absorbed form in the plain keys, and the plain one under `…_mla`.
    a.head_dim = keys.count_if("attention.key_length_mla")?.unwrap_or(a.head_dim);
    a.value_dim = keys.count_if("attention.value_length_mla")?.unwrap_or(a.value_dim);
    a.kv_heads = a.heads;
    a.scale = (a.head_dim as f64).sqrt().recip();
    let nope = a.head_dim.checked_sub(rope).ok_or_else(|| {
        let message = format!("{rope} elements of a head of {} are turned", a.head_dim);
        Error::model(keys.path, message)
    })?;
    if let (Some(factor), Some(log)) =
        (keys.number_if("rope.scaling.factor")?, keys.number_if("rope.scaling.yarn_log_multiplier")?)
    {
        // The multiplier is 0.1 · mscale_all_dim.
        a.scale *= yarn_magnitude(factor, log * 10.0).powi(2);
    }
    a.projection = Projection::Latent(Latent {
        q_rank: keys.count_if("attention.q_lora_rank")?.filter(|rank| *rank > 0),
        kv_rank: keys.count("attention.kv_lora_rank")?,
        nope,
        rope,
    });
    if family == Family::DeepseekV3
        && let Some(experts) = &mut spec.feed_forward.experts
    {
        // Files of V3 itself, which has 256 experts, may leave the groups out.
        let integer = |key: &str, of_v3: usize| -> Result<usize> {
            Ok(keys.count_if(key)?.unwrap_or(if experts.count == 256 { of_v3 } else { 1 }))
        };
        let (count, keep) = (integer("expert_group_count", 8)?, integer("expert_group_used_count", 4)?);
        experts.router.groups = (count > 1).then_some(Groups { count, keep, best: 2 });
    }
    Ok(spec)
}

fn to_config(spec: &DecoderSpec) -> Option<Value> {
    let a = &spec.attention;
    let (Projection::Latent(latent), Positions::Rotary { global, .. }) = (&a.projection, &spec.positions) else {
        return None;
    };
    let mut own = json!({
        "attention_bias": a.qkv_bias,
        "q_lora_rank": latent.q_rank,
        "kv_lora_rank": latent.kv_rank,
        "qk_nope_head_dim": latent.nope,
        "qk_rope_head_dim": latent.rope,
        "v_head_dim": a.value_dim,
        "rope_interleave": global.interleaved,
    });
    if let Some(e) = &spec.feed_forward.experts {
        own.as_object_mut()?.append(experts(spec, e).as_object_mut()?);
    }
    write::modern(spec, own)
}

fn experts(spec: &DecoderSpec, e: &Experts) -> Value {
    let groups = e.router.groups;
    let method = match (spec.family, groups) {
        (Family::DeepseekV3, _) => "noaux_tc",
        (_, Some(_)) => "group_limited_greedy",
        (_, None) => "greedy",
    };
    json!({
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
    })
}
