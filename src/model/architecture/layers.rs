//! The layers of a model as its [`DecoderSpec`] says them, without a weight: what loads them, counts them and puts adapters on them asks
//! here for their names, shapes and kinds.

use super::names::Names;
use super::rows::MatrixRole;
use super::{DecoderSpec, NormKind, Projection};
use crate::error::{Error, Result};

/// Where a layer lies in its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the block itself.
    Block,
    /// In each of the experts.
    Expert,
    /// In the expert that every token uses.
    Shared,
    /// It chooses experts; no adapter reaches it.
    Router,
}

/// A linear layer of a block; of experts one for all of them.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) place: Place,
    /// Its name there: `self_attn.q_proj`, or `gate_proj` in an expert.
    pub(crate) module: &'static str,
    pub(crate) role: MatrixRole,
    /// (out, in).
    pub(crate) shape: [usize; 2],
    pub(crate) bias: bool,
}

impl Layer {
    fn new(place: Place, module: &'static str, shape: [usize; 2], bias: bool) -> Self {
        Self { place, module, role: MatrixRole::Other, shape, bias }
    }

    /// Its path relative to the block. An expert's is relative to that expert.
    pub(crate) fn module(&self, names: &Names) -> String {
        match self.place {
            Place::Shared => format!("{}.{}", names.shared, self.module),
            Place::Block | Place::Expert | Place::Router => self.module.to_owned(),
        }
    }

    /// Its paths in a block: one, or one for each of `experts`.
    fn paths(&self, names: &Names, block: usize, experts: usize) -> Vec<String> {
        match self.place {
            Place::Expert => {
                let all = names.block(block, names.experts);
                (0..experts).map(|expert| format!("{all}.{expert}.{}", self.module)).collect()
            }
            Place::Block | Place::Shared | Place::Router => vec![names.block(block, &self.module(names))],
        }
    }
}

/// A block's layers of one of its two parts.
pub(crate) struct Layers(pub(crate) Vec<Layer>);

impl Layers {
    /// The layer of this name and place.
    ///
    /// # Errors
    /// The decoder asks for a layer that the spec does not have.
    pub(crate) fn get(&self, place: Place, module: &str) -> Result<&Layer> {
        let found = self.0.iter().find(|layer| layer.place == place && layer.module == module);
        found.ok_or_else(|| Error::failed(format!("the model has no layer `{module}`")))
    }
}

/// Every block's layers of attention, in the order that adapters and reports have them.
pub(crate) fn attention(spec: &DecoderSpec) -> Layers {
    let (a, names, hidden) = (&spec.attention, spec.names(), spec.hidden_size);
    let (q, k, v) = (a.heads * a.head_dim, a.kv_heads * a.head_dim, a.kv_heads * a.value_dim);
    let layer = |module, rows, cols, bias| Layer::new(Place::Block, module, [rows, cols], bias);
    let with = |role, layer: Layer| Layer { role, ..layer };
    let mut layers = match &a.projection {
        Projection::Separate => vec![
            with(MatrixRole::Rotary, layer(names.q, q, hidden, a.qkv_bias)),
            with(MatrixRole::Rotary, layer(names.k, k, hidden, a.qkv_bias)),
            layer(names.v, v, hidden, a.qkv_bias),
        ],
        Projection::Fused(_) => vec![with(MatrixRole::Fused, layer(names.qkv, q + k + v, hidden, a.qkv_bias))],
        Projection::Latent(latent) => {
            let mut layers = match latent.q_rank {
                None => vec![layer(names.q, q, hidden, false)],
                Some(rank) => {
                    vec![layer(names.q_a, rank, hidden, a.qkv_bias), layer(names.q_b, q, rank, false)]
                }
            };
            layers.push(layer(names.kv_a, latent.kv_rank + latent.rope, hidden, a.qkv_bias));
            layers.push(layer(names.kv_b, a.heads * (latent.nope + a.value_dim), latent.kv_rank, false));
            layers
        }
    };
    layers.push(layer(names.output, hidden, a.heads * a.value_dim, a.output_bias));
    Layers(layers)
}

/// The layers of a block's feed-forward part.
pub(crate) fn feed_forward(spec: &DecoderSpec, block: usize) -> Layers {
    let (f, names, hidden) = (&spec.feed_forward, spec.names(), spec.hidden_size);
    let network = |place, [gate, up, down]: [&'static str; 3], size, gated: bool, bias| {
        let gate = gated.then(|| Layer::new(place, gate, [size, hidden], bias));
        let rest = [Layer::new(place, up, [size, hidden], bias), Layer::new(place, down, [hidden, size], bias)];
        gate.into_iter().chain(rest)
    };
    let Some(e) = spec.experts(block) else {
        let modules = [names.gate, names.up, names.down];
        return Layers(network(Place::Block, modules, f.intermediate_size, f.gated, f.bias).collect());
    };
    let modules = [names.expert_gate, names.expert_up, names.expert_down];
    let mut layers: Vec<Layer> = network(Place::Expert, modules, e.intermediate_size, true, false).collect();
    if e.shared_size > 0 {
        layers.extend(network(Place::Shared, modules, e.shared_size, true, false));
    }
    layers.push(Layer::new(Place::Router, names.router, [e.count, hidden], false));
    if e.shared_gate {
        layers.push(Layer::new(Place::Router, names.shared_gate, [1, hidden], false));
    }
    Layers(layers)
}

/// Names and widths of a block's norms inside its attention.
pub(crate) fn attention_norms(spec: &DecoderSpec) -> Vec<(&'static str, usize)> {
    let (a, names) = (&spec.attention, spec.names());
    let mut norms = Vec::new();
    if a.qk_norm {
        norms.extend([(names.q_norm, a.head_dim), (names.k_norm, a.head_dim)]);
    }
    if let Projection::Latent(latent) = &a.projection {
        norms.push((names.kv_a_norm, latent.kv_rank));
        norms.extend(latent.q_rank.map(|rank| (names.q_a_norm, rank)));
    }
    norms
}

/// Vectors of a norm: its weight, and its bias where it has one.
pub(crate) fn vectors_of_norm(spec: &DecoderSpec) -> usize {
    if spec.norm.kind == (NormKind::Layer { bias: true }) { 2 } else { 1 }
}

/// (out, in) of every linear layer of every block, but routers, by its path: those that `all-linear` adapts.
pub(crate) fn adaptable(spec: &DecoderSpec) -> impl Iterator<Item = (String, [usize; 2])> {
    let names = spec.names();
    (0..spec.layers).flat_map(move |block| {
        let experts = spec.experts(block).map_or(0, |e| e.count);
        let all = attention(spec).0.into_iter().chain(feed_forward(spec, block).0);
        all.filter(|layer| layer.place != Place::Router)
            .flat_map(move |layer| layer.paths(&names, block, experts).into_iter().map(move |path| (path, layer.shape)))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::architecture::Family;
    use crate::model::decoder::parity::decoder;

    /// What is said of every family's layers on paper is what was loaded, from both forms of its files.
    #[test]
    fn layers_are_those_of_the_loaded_decoder() {
        for family in Family::ALL {
            for file in [family.name().to_owned(), format!("{}/model.gguf", family.name())] {
                let decoder = decoder(&file);
                let loaded = decoder.linears().map(|l| (l.path.clone(), [l.frozen.weight.rows, l.frozen.weight.cols]));
                let on_paper: BTreeMap<_, _> = adaptable(&decoder.spec).collect();
                assert_eq!(on_paper, loaded.collect(), "{file}");
            }
        }
    }
}
