//! A [`DecoderSpec`] as the `config.json` that transformers reads: for a model whose file has none, GGUF.

use serde_json::{Value, json};

use super::rotary::yarn_scale;
use super::{Activation, DecoderSpec, NormKind, Positions, Projection, RopeScaling, Rotary};

/// The configuration, in the keys of transformers 4, which 5 reads too; `None` where Hugging Face's form of the family cannot say it.
pub(super) fn config(spec: &DecoderSpec) -> Option<Value> {
    let facts = spec.family.facts();
    let (mut keys, family, class) = ((facts.to_config)(spec)?, facts.name, facts.class);
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

pub(super) fn activation(activation: Activation) -> &'static str {
    match activation {
        Activation::Silu => "silu",
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
    }
}

/// Llama's form and what grew out of it; `own`: the family's keys.
pub(super) fn modern(spec: &DecoderSpec, mut own: Value) -> Option<Value> {
    let (a, f) = (&spec.attention, &spec.feed_forward);
    let Positions::Rotary { global, .. } = &spec.positions else { return None };
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
    if !matches!(a.projection, Projection::Latent(_)) {
        keys["head_dim"] = json!(a.head_dim);
    }
    keys.as_object_mut()?.append(own.as_object_mut()?);
    match scaling(spec, global)? {
        Value::Null => {}
        scaling => keys["rope_scaling"] = scaling,
    }
    Some(keys)
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
    use crate::model::architecture::Family;
    use crate::model::decoder::parity::fixture;

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
