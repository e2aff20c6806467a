//! What a model is, in words, from its shape.

use crate::model::DecoderSpec;
use crate::model::architecture::{NormKind, Positions, Projection, RopeScaling};

pub(super) fn attention(spec: &DecoderSpec) -> String {
    let a = &spec.attention;
    let mut words = format!("{} heads of {}, {} for keys and values", a.heads, a.head_dim, a.kv_heads);
    match &a.projection {
        Projection::Separate => {}
        Projection::Fused(_) => words.push_str(", one layer for all three"),
        Projection::Latent(latent) => words.push_str(&format!(", latents of {} and {}", latent.kv_rank, latent.rope)),
    }
    for (there, what) in [(a.qkv_bias, "biases"), (a.qk_norm, "norms on queries and keys")] {
        if there {
            words.push_str(&format!(", {what}"));
        }
    }
    if let Some(window) = window(spec) {
        words.push_str(&format!(", {window}"));
    }
    words
}

pub(super) fn positions(positions: &Positions) -> String {
    match positions {
        Positions::Learned => "learned".to_owned(),
        Positions::Alibi { .. } => "ALiBi".to_owned(),
        Positions::Rotary { global, .. } => {
            format!("RoPE of θ {}, {}", global.theta as f32, scaling(&global.scaling))
        }
    }
}

/// How the frequencies of rotary positions are stretched.
pub(super) fn scaling(scaling: &RopeScaling) -> String {
    match scaling {
        RopeScaling::None => "no scaling".to_owned(),
        RopeScaling::Linear { factor } => format!("linear scaling by {factor}"),
        RopeScaling::Llama3 { factor, .. } => format!("Llama 3.1's scaling by {factor}"),
        RopeScaling::Yarn(yarn) => format!("YaRN by {}", yarn.factor),
        RopeScaling::Factors(_) => "a factor for each frequency".to_owned(),
    }
}

/// Layers with a sliding window, and how far they see; `None` where every layer sees all.
pub(super) fn window(spec: &DecoderSpec) -> Option<String> {
    let window = spec.attention.window.as_ref()?;
    let layers = window.layers.iter().filter(|slides| **slides).count();
    // One as wide as the context hides nothing.
    (layers > 0 && window.size < spec.context)
        .then(|| format!("{layers} of {} layers see the last {} tokens", spec.layers, window.size))
}

pub(super) fn norm(spec: &DecoderSpec) -> String {
    let kind = match spec.norm.kind {
        NormKind::Rms => "RMSNorm",
        NormKind::RmsPlusOne => "RMSNorm, weights less 1",
        NormKind::Layer { bias: true } => "LayerNorm with bias",
        NormKind::Layer { bias: false } => "LayerNorm",
    };
    // Files hold it in 32 bits.
    format!("{kind}, ε {:e}", spec.norm.eps as f32)
}

pub(super) fn experts(spec: &DecoderSpec) -> Option<String> {
    let e = spec.feed_forward.experts.as_ref()?;
    let layers = e.layers.iter().filter(|there| **there).count();
    let shared = if e.shared_size > 0 { format!(", a shared one of {}", e.shared_size) } else { String::new() };
    Some(format!(
        "{} of {}, {} for each token, in {layers} of {} layers{shared}",
        e.count, e.intermediate_size, e.per_token, spec.layers
    ))
}
