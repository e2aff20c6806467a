//! What a model is, in words, from its shape.

use crate::model::DecoderSpec;
use crate::model::architecture::header::{ExpertCounts, HeaderSpec};
use crate::model::architecture::{NormKind, NormSpec, Positions, Projection, RopeScaling};

/// What is said of what a file does not say.
const NOT_SAID: &str = "not said by the file";

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

/// Of a family without a decoder here.
pub(super) fn attention_of_header(spec: &HeaderSpec, window: Option<&str>) -> String {
    let mut words = Vec::new();
    if let Some(heads) = &spec.heads {
        let (queries, size) = (heads.queries, heads.key_size);
        let attending: Vec<usize> = heads.kv.iter().copied().filter(|n| *n > 0).collect();
        let (least, most) = (attending.iter().min().unwrap_or(&0), attending.iter().max().unwrap_or(&0));
        let kv = if least == most { most.to_string() } else { format!("{least} to {most}") };
        words.push(format!("{queries} heads of {size}, {kv} for keys and values"));
        if attending.len() < heads.kv.len() {
            words.push(format!("in {} of {} layers", attending.len(), heads.kv.len()));
        }
        if spec.fused {
            words.push("one layer for all three".to_owned());
        }
        words.extend(heads.latent.map(|[rank, turned]| format!("latents of {rank} and {turned}")));
    }
    words.extend(
        spec.states.map(|[channels, values]| {
            format!("a state space that keeps {values} values of each of {channels} channels")
        }),
    );
    words.extend(window.map(str::to_owned));
    if words.is_empty() { NOT_SAID.to_owned() } else { words.join(", ") }
}

pub(super) fn positions(positions: Option<&Positions>) -> String {
    match positions {
        None => NOT_SAID.to_owned(),
        Some(Positions::Learned) => "learned".to_owned(),
        Some(Positions::Alibi { .. }) => "ALiBi".to_owned(),
        Some(Positions::Rotary { global, .. }) => {
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

pub(super) fn norm(norm: Option<NormSpec>) -> String {
    let Some(norm) = norm else { return NOT_SAID.to_owned() };
    let kind = match norm.kind {
        NormKind::Rms => "RMSNorm",
        NormKind::RmsPlusOne => "RMSNorm, weights less 1",
        NormKind::Layer { bias: true } => "LayerNorm with bias",
        NormKind::Layer { bias: false } => "LayerNorm",
    };
    // Files hold it in 32 bits.
    format!("{kind}, ε {:e}", norm.eps as f32)
}

pub(super) fn experts(spec: &DecoderSpec) -> Option<String> {
    let e = spec.feed_forward.experts.as_ref()?;
    let found = ExpertCounts {
        count: e.count,
        per_token: e.per_token,
        intermediate_size: e.intermediate_size,
        layers: e.layers.iter().filter(|there| **there).count(),
        shared_size: e.shared_size,
    };
    Some(expert_counts(&found, spec.layers))
}

pub(super) fn expert_counts(e: &ExpertCounts, layers: usize) -> String {
    let shared = if e.shared_size > 0 { format!(", a shared one of {}", e.shared_size) } else { String::new() };
    format!(
        "{} of {}, {} for each token, in {} of {layers} layers{shared}",
        e.count, e.intermediate_size, e.per_token, e.layers
    )
}
