//! What a model is made of: by its decoder's configuration, or by a GGUF file's header where there is no decoder of its family here.

use super::words;
use crate::model::architecture::header::HeaderSpec;
use crate::model::architecture::{NormSpec, Positions, Projection};
use crate::model::{DecoderSpec, Sizes};

/// A model without its weights. Texts are for a person.
pub(super) struct Shape {
    pub(super) family: String,
    /// Whether this crate has a decoder of the family.
    pub(super) decoder: bool,
    pub(super) layers: usize,
    pub(super) hidden_size: usize,
    pub(super) vocab_size: usize,
    pub(super) context: usize,
    pub(super) attention: String,
    /// `None`: its files do not say, or no layer attends.
    pub(super) positions: Option<Positions>,
    /// `None`: its files do not say.
    pub(super) norm: Option<NormSpec>,
    /// `None` where every layer sees all.
    pub(super) window: Option<String>,
    /// `None` of a dense model.
    pub(super) experts: Option<String>,
    /// Layers that hold queries, keys and values otherwise than as three.
    pub(super) other_layers: Option<String>,
    pub(super) tied_head: bool,
    pub(super) sizes: Sizes,
}

impl Shape {
    pub(super) fn of(spec: &DecoderSpec) -> Self {
        Self {
            family: spec.family.name().to_owned(),
            decoder: true,
            layers: spec.layers,
            hidden_size: spec.hidden_size,
            vocab_size: spec.vocab_size,
            context: spec.context,
            attention: words::attention(spec),
            positions: Some(spec.positions.clone()),
            norm: Some(spec.norm),
            window: words::window(spec),
            experts: words::experts(spec),
            other_layers: other_layers(spec),
            tied_head: spec.tied_head,
            sizes: Sizes::of(spec),
        }
    }

    /// By a header alone. What the family has in llama.cpp's code and not in its files is left out.
    pub(super) fn of_header(spec: &HeaderSpec) -> Self {
        // One as wide as the context hides nothing.
        let window = spec.window.filter(|size| *size < spec.context);
        let window = window.map(|size| format!("layers with a window see the last {size} tokens"));
        let fused = spec.fused.then(|| "queries, keys and values are one layer, attn_qkv".to_owned());
        let latent = spec.heads.as_ref().is_some_and(|heads| heads.latent.is_some());
        Self {
            family: spec.family.clone(),
            decoder: false,
            layers: spec.layers,
            hidden_size: spec.hidden_size,
            vocab_size: spec.vocab_size,
            context: spec.context,
            attention: words::attention_of_header(spec, window.as_deref()),
            positions: spec.positions.clone(),
            norm: spec.norm,
            window,
            experts: spec.experts.as_ref().map(|experts| words::expert_counts(experts, spec.layers)),
            other_layers: fused.or_else(|| latent.then(|| "latent attention".to_owned())),
            tied_head: spec.tied_head,
            sizes: spec.sizes,
        }
    }
}

fn other_layers(spec: &DecoderSpec) -> Option<String> {
    let names = spec.names();
    let short = |name: &'static str| name.rsplit('.').next().unwrap_or(name);
    match &spec.attention.projection {
        Projection::Fused(_) => Some(format!("queries, keys and values are one layer, {}", short(names.qkv))),
        Projection::Latent(_) => {
            let [q, a, b] = [names.q_b, names.kv_a, names.kv_b].map(short);
            Some(format!("latent attention: {q}, {a} and {b}"))
        }
        Projection::Separate => None,
    }
}
