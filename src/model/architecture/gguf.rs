//! GGUF's metadata. What a family always has is not written there; it is said here, as llama.cpp says it in its code.

use std::path::Path;

use candle_core::quantized::gguf_file::Value;

use super::keys::Keys;
use super::rotary::yarn_magnitude;
use super::{
    Activation, AttentionSpec, DecoderSpec, Experts, Family, FeedForwardSpec, FusedOrder, Groups, Latent, NormKind,
    NormSpec, Positions, Projection, Residual, RopeScaling, Rotary, Router, Score, Window, Yarn,
};
use crate::error::{Error, Result};
use crate::model::formats::gguf::Header;

pub(super) fn read(path: &Path, header: &Header) -> Result<DecoderSpec> {
    let keys = Keys::of(path, header)?;
    match keys.family()? {
        Some(family) => spec(&keys, family),
        None => Err(Family::unknown(path, keys.architecture, Family::architecture)),
    }
}

fn spec(keys: &Keys<'_>, family: Family) -> Result<DecoderSpec> {
    let path = keys.path;
    check_arithmetic(keys)?;
    let vocab_size = match keys.header.tensors.get("token_embd.weight").map(|t| t.shape.as_slice()) {
        Some([vocab, _]) => *vocab,
        _ => return Err(Error::model(path, "tensor `token_embd.weight` is missing or not a matrix")),
    };
    let (hidden_size, heads) = (keys.count("embedding_length")?, keys.count("attention.head_count")?);
    let layers = keys.count("block_count")?;
    if layers > super::MOST_PARTS {
        return Err(Error::model(path, format!("block_count is {layers}")));
    }
    let attention = attention(keys, family, hidden_size, heads, layers)?;
    let norm = match family {
        Family::Bloom | Family::Falcon | Family::Gpt2 | Family::Mpt => NormSpec {
            kind: NormKind::Layer { bias: keys.has("output_norm.bias") },
            eps: keys.number("attention.layer_norm_epsilon")?,
        },
        // The weights of Gemma's norms are stored with their 1.
        _ => NormSpec { kind: NormKind::Rms, eps: keys.number("attention.layer_norm_rms_epsilon")? },
    };
    Ok(DecoderSpec {
        family,
        vocab_size,
        hidden_size,
        layers,
        feed_forward: feed_forward(keys, family, layers)?,
        norm,
        positions: positions(keys, family, &attention)?,
        attention,
        residual: match family {
            Family::Gemma3 => Residual::Sandwich,
            Family::Falcon => Residual::Parallel { own_norm: keys.has("blk.0.attn_norm_2.weight") },
            _ => Residual::Sequential,
        },
        embedding_scale: if family == Family::Gemma3 { (hidden_size as f64).sqrt() } else { 1.0 },
        embedding_norm: family == Family::Bloom,
        tied_head: !keys.has("output.weight"),
        context: keys.count("context_length")?,
        eos: keys.optional("tokenizer.ggml.eos_token_id", Value::to_u32)?.into_iter().collect(),
    })
}

/// Says no to keys that change what a model computes, and that this crate's decoder does not apply.
fn check_arithmetic(keys: &Keys<'_>) -> Result<()> {
    let refuse = |key: &str, value: String| {
        let message = format!(
            "metadata `{}.{key}` is {value}, which is not supported; run and train may use the model with --backend llama-cpp",
            keys.architecture
        );
        Err(Error::model(keys.path, message))
    };
    if keys.flag("attention.causal")? == Some(false) {
        return refuse("attention.causal", "false".to_owned());
    }
    // What each is when it changes nothing, besides 0.
    let neutral = [
        ("attn_logit_softcapping", 0.0),
        ("final_logit_softcapping", 0.0),
        ("attention.clamp_kqv", 0.0),
        ("attention.scale", 0.0),
        ("logit_scale", 1.0),
        ("embedding_scale", 1.0),
        ("residual_scale", 1.0),
    ];
    for (key, off) in neutral {
        match keys.number_if(key)? {
            Some(value) if value != 0.0 && value != off => return refuse(key, value.to_string()),
            _ => {}
        }
    }
    match keys.count_if("expert_gating_func")? {
        Some(function) if function > 2 => refuse("expert_gating_func", function.to_string()),
        _ => Ok(()),
    }
}

fn attention(
    keys: &Keys<'_>,
    family: Family,
    hidden_size: usize,
    heads: usize,
    layers: usize,
) -> Result<AttentionSpec> {
    let kv_heads = keys.count_if("attention.head_count_kv")?.unwrap_or(heads);
    let mut head_dim = keys.count_if("attention.key_length")?.unwrap_or(hidden_size / heads.max(1));
    let mut value_dim = keys.count_if("attention.value_length")?.unwrap_or(head_dim);
    let mut scale = (head_dim as f64).sqrt().recip();
    let mut kv_heads = kv_heads;
    let projection = match family {
        Family::Bloom | Family::Falcon => Projection::Fused(FusedOrder::ByGroup),
        Family::Gpt2 | Family::Mpt => Projection::Fused(FusedOrder::Blocks),
        Family::DeepseekV2 | Family::DeepseekV3 => {
            // Newer files describe the absorbed form there, and the plain one under `…_mla`.
            head_dim = keys.count_if("attention.key_length_mla")?.unwrap_or(head_dim);
            value_dim = keys.count_if("attention.value_length_mla")?.unwrap_or(value_dim);
            kv_heads = heads;
            scale = (head_dim as f64).sqrt().recip();
            let rope = keys.count("rope.dimension_count")?;
            let nope = head_dim.checked_sub(rope).ok_or_else(|| {
                let message = format!("{rope} elements of a head of {head_dim} are turned");
                Error::model(keys.path, message)
            })?;
            if let (Some(factor), Some(log)) =
                (keys.number_if("rope.scaling.factor")?, keys.number_if("rope.scaling.yarn_log_multiplier")?)
            {
                // The multiplier is 0.1 · mscale_all_dim.
                scale *= yarn_magnitude(factor, log * 10.0).powi(2);
            }
            Projection::Latent(Latent {
                q_rank: keys.count_if("attention.q_lora_rank")?.filter(|rank| *rank > 0),
                kv_rank: keys.count("attention.kv_lora_rank")?,
                nope,
                rope,
            })
        }
        _ => Projection::Separate,
    };
    // Gemma 3 27B alone divides by the hidden size's share of a head; GGUF does not say so, and llama.cpp tells it by its layers.
    if family == Family::Gemma3 && layers == 62 {
        scale = (hidden_size as f64 / heads.max(1) as f64).sqrt().recip();
    }
    let window = match (family, keys.count_if("attention.sliding_window")?) {
        (Family::Gemma3, Some(size)) => {
            Some(Window { size, layers: (0..layers).map(|layer| (layer + 1) % 6 != 0).collect() })
        }
        _ => None,
    };
    Ok(AttentionSpec {
        heads,
        kv_heads,
        head_dim,
        value_dim,
        projection,
        qkv_bias: keys.has("blk.0.attn_q.bias") || keys.has("blk.0.attn_qkv.bias"),
        output_bias: keys.has("blk.0.attn_output.bias"),
        qk_norm: keys.has("blk.0.attn_q_norm.weight"),
        scale,
        window,
    })
}

fn positions(keys: &Keys<'_>, family: Family, attention: &AttentionSpec) -> Result<Positions> {
    let (dim, interleaved) = match &attention.projection {
        Projection::Latent(latent) => (latent.rope, true),
        _ => (keys.count_if("rope.dimension_count")?.unwrap_or(attention.head_dim), false),
    };
    match family {
        Family::Gpt2 => return Ok(Positions::Learned),
        Family::Bloom => return Ok(Positions::Alibi { max_bias: 8.0 }),
        Family::Mpt => {
            return Ok(Positions::Alibi { max_bias: keys.number_if("attention.max_alibi_bias")?.unwrap_or(8.0) });
        }
        _ => {}
    }
    let theta = keys.number_if("rope.freq_base")?.unwrap_or(10_000.0);
    let scaling = match (keys.has("rope_freqs.weight"), scaling(keys, family)?) {
        (true, RopeScaling::None) => RopeScaling::Factors(Vec::new()),
        // llama.cpp divides by both.
        (true, RopeScaling::Linear { factor }) if factor > 0.0 && factor.is_finite() => {
            RopeScaling::Factors(vec![factor])
        }
        (true, other) => {
            let message = format!(
                "has both `rope_freqs.weight` and the rope scaling {other:?}, which is not supported; run and train may use it with \
                 --backend llama-cpp"
            );
            return Err(Error::model(keys.path, message));
        }
        (false, scaling) => scaling,
    };
    let local = match family {
        Family::Gemma3 => Some(Rotary {
            theta: keys.number_if("rope.freq_base_swa")?.unwrap_or(10_000.0),
            dim,
            interleaved,
            scaling: RopeScaling::None,
        }),
        _ => None,
    };
    Ok(Positions::Rotary { global: Rotary { theta, dim, interleaved, scaling }, local })
}

fn scaling(keys: &Keys<'_>, family: Family) -> Result<RopeScaling> {
    match keys.text_if("rope.scaling.type")?.as_deref() {
        Some("none") => Ok(RopeScaling::None),
        // A factor alone is linear, as in llama.cpp; old files call it so.
        None => {
            let factor = keys
                .number_if("rope.scaling.factor")?
                .map_or_else(|| keys.number_if("rope.scale_linear"), |f| Ok(Some(f)))?;
            Ok(match factor.filter(|factor| *factor != 0.0 && *factor != 1.0) {
                Some(factor) => RopeScaling::Linear { factor },
                None => RopeScaling::None,
            })
        }
        Some("linear") => Ok(RopeScaling::Linear { factor: keys.number("rope.scaling.factor")? }),
        Some("yarn") => {
            let factor = keys.number("rope.scaling.factor")?;
            // DeepSeek's mscale and mscale_all_dim are equal in every published model, and cancel each other here.
            let latent = matches!(family, Family::DeepseekV2 | Family::DeepseekV3);
            let magnitude = match keys.number_if("rope.scaling.attn_factor")? {
                Some(given) => given * yarn_magnitude(factor, 1.0),
                None if latent => 1.0,
                None => yarn_magnitude(factor, 1.0),
            };
            Ok(RopeScaling::Yarn(Yarn {
                factor,
                original_context: keys.count("rope.scaling.original_context_length")?,
                beta_fast: keys.number_if("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: keys.number_if("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                truncate: true,
                magnitude,
            }))
        }
        Some(other) => {
            let message = format!("rope scaling `{other}` is not known; known are: none, linear, yarn");
            Err(Error::model(keys.path, message))
        }
    }
}

fn feed_forward(keys: &Keys<'_>, family: Family, layers: usize) -> Result<FeedForwardSpec> {
    let experts = match keys.count_if("expert_count")?.filter(|count| *count > 0) {
        Some(count) => Some(experts(keys, family, layers, count)?),
        None => None,
    };
    let intermediate_size = match keys.count_if("feed_forward_length")? {
        Some(size) if size > 0 => size,
        // Files of models whose every layer has experts may leave it out.
        _ => experts.as_ref().map(|e| e.intermediate_size).unwrap_or_default(),
    };
    Ok(FeedForwardSpec {
        intermediate_size,
        activation: match family {
            Family::Gemma3 | Family::Bloom | Family::Gpt2 => Activation::GeluTanh,
            Family::Mpt | Family::Falcon => Activation::Gelu,
            _ => Activation::Silu,
        },
        gated: !matches!(family, Family::Bloom | Family::Mpt | Family::Falcon | Family::Gpt2),
        bias: keys.has("blk.0.ffn_up.bias"),
        experts,
    })
}

fn experts(keys: &Keys<'_>, family: Family, layers: usize, count: usize) -> Result<Experts> {
    let v3 = family == Family::DeepseekV3;
    let groups = keys.count_if("expert_group_count")?.unwrap_or(if v3 && count == 256 { 8 } else { 1 });
    let keep = keys.count_if("expert_group_used_count")?.unwrap_or(if v3 && count == 256 { 4 } else { 1 });
    Ok(Experts {
        count,
        per_token: keys.count("expert_used_count")?,
        intermediate_size: match keys.count_if("expert_feed_forward_length")? {
            Some(size) => size,
            None => keys.count("feed_forward_length")?,
        },
        shared_size: keys.rows("ffn_up_shexp.weight").unwrap_or(0),
        shared_gate: keys.has_suffix("ffn_gate_inp_shexp.weight"),
        layers: keys.layers_with(layers, "ffn_gate_inp.weight"),
        router: Router {
            score: if keys.count_if("expert_gating_func")? == Some(2) { Score::Sigmoid } else { Score::Softmax },
            correction: keys.has_suffix("exp_probs_b.bias"),
            groups: (groups > 1).then_some(Groups { count: groups, keep, best: if v3 { 2 } else { 1 } }),
            normalize: match keys.flag("expert_weights_norm")? {
                Some(normalize) => normalize,
                // Llama's files with experts are Mixtral's, which has no key for what it always does.
                None => matches!(family, Family::Qwen3Moe | Family::Llama),
            },
            scale: keys.number_if("expert_weights_scale")?.filter(|scale| *scale != 0.0).unwrap_or(1.0),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::formats::gguf::{Kind, TensorInfo};

    /// The fixture's description with more keys; `factors`: with frequency factors.
    fn described(keys: &[(&str, Value)], factors: bool) -> Result<DecoderSpec> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama/model.gguf");
        let mut header = Header::read(&path, &std::fs::read(&path).expect("a file")).expect("a header");
        for (key, value) in keys {
            header.metadata.insert(format!("llama.{key}"), value.clone());
        }
        header.tensors.remove("rope_freqs.weight");
        if factors {
            let info = TensorInfo { kind: Kind::F32, shape: vec![4], offset: 0 };
            header.tensors.insert("rope_freqs.weight".to_owned(), info);
        }
        DecoderSpec::from_gguf(&path, &header)
    }

    fn told(keys: &[(&str, Value)], factors: bool) -> String {
        described(keys, factors).expect_err("refused").to_string()
    }

    #[test]
    fn keys_that_change_what_is_computed_are_refused() {
        let number = Value::F32(30.0);
        for (key, value, words) in [
            ("attention.causal", Value::Bool(false), "`llama.attention.causal` is false, which is not supported"),
            ("attn_logit_softcapping", number.clone(), "`llama.attn_logit_softcapping` is 30"),
            ("final_logit_softcapping", number.clone(), "`llama.final_logit_softcapping` is 30"),
            ("attention.clamp_kqv", number.clone(), "`llama.attention.clamp_kqv` is 30"),
            ("attention.scale", number.clone(), "`llama.attention.scale` is 30"),
            ("logit_scale", number.clone(), "`llama.logit_scale` is 30"),
            ("embedding_scale", number.clone(), "`llama.embedding_scale` is 30"),
            ("residual_scale", number, "`llama.residual_scale` is 30"),
            ("expert_gating_func", Value::U32(3), "`llama.expert_gating_func` is 3"),
            ("attention.causal", Value::U32(0), "`llama.attention.causal`"),
            ("rope.scaling.type", Value::String("zzz".into()), "rope scaling `zzz` is not known"),
        ] {
            let message = told(&[(key, value)], false);
            assert!(message.contains(words), "{key}: {message}");
        }
        for (key, value) in [
            ("attention.causal", Value::Bool(true)),
            ("attention.clamp_kqv", Value::F32(0.0)),
            ("logit_scale", Value::F32(1.0)),
            ("expert_gating_func", Value::U32(1)),
        ] {
            assert!(described(&[(key, value)], false).is_ok(), "{key}");
        }
    }

    #[test]
    fn frequency_factors_and_scaling_go_together_as_in_llama_cpp() {
        let scaling = |keys: &[(&str, Value)], factors| match described(keys, factors).expect("a model").positions {
            Positions::Rotary { global, .. } => global.scaling,
            other => panic!("{other:?}"),
        };
        let kind = |name: &str| ("rope.scaling.type", Value::String(name.into()));
        let factor = ("rope.scaling.factor", Value::F32(4.0));
        assert_eq!(scaling(&[], true), RopeScaling::Factors(Vec::new()));
        assert_eq!(scaling(&[kind("linear"), factor.clone()], true), RopeScaling::Factors(vec![4.0]));
        assert_eq!(scaling(&[kind("none"), factor.clone()], true), RopeScaling::Factors(Vec::new()));
        assert_eq!(scaling(std::slice::from_ref(&factor), false), RopeScaling::Linear { factor: 4.0 });
        assert_eq!(scaling(&[("rope.scale_linear", Value::F32(4.0))], false), RopeScaling::Linear { factor: 4.0 });
        assert_eq!(scaling(&[("rope.scaling.factor", Value::F32(1.0))], false), RopeScaling::None);
        assert!(told(&[kind("zzz")], true).contains("rope scaling `zzz` is not known"));
        let context = ("rope.scaling.original_context_length", Value::U32(64));
        assert!(told(&[kind("yarn"), factor, context], true).contains("has both `rope_freqs.weight`"));
    }
}
