//! The layers around the attention: where queries, keys and values come from, and where what was seen goes.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::linear::{Adapters, Linear};
use super::loader::Loader;
use super::norm::Norm;
use crate::model::architecture::layers::{self, Place};
use crate::model::architecture::{AttentionSpec, FusedOrder, Latent, Projection};
use crate::model::ops::columns::{Piece, columns};
use crate::model::ops::rope::{RopeTable, rope};
use crate::model::ops::tape::reshape;

/// Queries (tokens, heads, head_dim), keys (tokens, kv_heads, head_dim) and values (tokens, kv_heads, value_dim).
pub(crate) struct Qkv {
    pub(crate) q: Tensor,
    pub(crate) k: Tensor,
    pub(crate) v: Tensor,
}

/// The attention's linear layers in one block.
pub(crate) struct Attention {
    layers: Layers,
    output: Linear,
    /// Norms of each head's query and key.
    qk_norm: Option<(Norm, Norm)>,
}

enum Layers {
    /// Of queries, keys and values.
    Separate(Box<[Linear; 3]>),
    Fused {
        qkv: Linear,
        order: FusedOrder,
    },
    Latent(Box<LatentLayers>),
}

struct LatentLayers {
    q: Query,
    kv_a: Linear,
    kv_norm: Norm,
    kv_b: Linear,
    latent: Latent,
}

enum Query {
    Full(Linear),
    Low { a: Linear, norm: Norm, b: Linear },
}

impl Attention {
    pub(crate) fn load(loader: &Loader<'_>, layer: usize) -> crate::Result<Self> {
        let (a, names, all) = (&loader.spec.attention, &loader.names, layers::attention(loader.spec));
        let linear = |module: &str| loader.linear(layer, all.get(Place::Block, module)?);
        let layers = match &a.projection {
            Projection::Separate => Layers::Separate(Box::new([linear(names.q)?, linear(names.k)?, linear(names.v)?])),
            Projection::Fused(order) => Layers::Fused { qkv: linear(names.qkv)?, order: *order },
            Projection::Latent(latent) => {
                let query = match latent.q_rank {
                    None => Query::Full(linear(names.q)?),
                    Some(rank) => Query::Low {
                        a: linear(names.q_a)?,
                        norm: loader.block_norm(layer, names.q_a_norm, rank)?,
                        b: linear(names.q_b)?,
                    },
                };
                Layers::Latent(Box::new(LatentLayers {
                    q: query,
                    kv_a: linear(names.kv_a)?,
                    kv_norm: loader.block_norm(layer, names.kv_a_norm, latent.kv_rank)?,
                    kv_b: loader.keys_and_values(layer, all.get(Place::Block, names.kv_b)?, latent)?,
                    latent: *latent,
                }))
            }
        };
        let qk_norm = if a.qk_norm {
            Some((
                loader.block_norm(layer, names.q_norm, a.head_dim)?,
                loader.block_norm(layer, names.k_norm, a.head_dim)?,
            ))
        } else {
            None
        };
        let output = linear(names.output)?;
        Ok(Self { layers, output, qk_norm })
    }

    /// Queries, keys and values of the normed input `h` (tokens, hidden), turned by the tokens' positions.
    pub(crate) fn project(
        &self,
        h: &Tensor,
        spec: &AttentionSpec,
        table: Option<&Arc<RopeTable>>,
        positions: &Arc<Vec<usize>>,
        adapters: Adapters<'_>,
    ) -> Result<Qkv> {
        let tape = adapters.tape();
        let tokens = h.dim(0)?;
        let shaped = |x: &Tensor, heads, dim| reshape(tape, x, &[tokens, heads, dim]);
        let (q, k, v) = match &self.layers {
            Layers::Separate(layers) => {
                let [q, k, v] = &**layers;
                (q.forward(h, adapters)?, k.forward(h, adapters)?, v.forward(h, adapters)?)
            }
            Layers::Fused { qkv, order } => {
                let all = qkv.forward(h, adapters)?;
                let [q, k, v] = fused_pieces(spec, *order);
                (columns(tape, &[&all], q)?, columns(tape, &[&all], k)?, columns(tape, &[&all], v)?)
            }
            Layers::Latent(layers) => {
                let LatentLayers { q, kv_a, kv_norm, kv_b, latent } = &**layers;
                let q = match q {
                    Query::Full(q) => q.forward(h, adapters)?,
                    Query::Low { a, norm, b } => b.forward(&norm.forward(tape, &a.forward(h, adapters)?)?, adapters)?,
                };
                let low = kv_a.forward(h, adapters)?;
                let compressed = columns(tape, &[&low], vec![Piece::of(0, 0, latent.kv_rank)])?;
                let expanded = kv_b.forward(&kv_norm.forward(tape, &compressed)?, adapters)?;
                let [q_pieces, k_pieces, v_pieces] = latent_pieces(spec, latent);
                (
                    columns(tape, &[&q], q_pieces)?,
                    columns(tape, &[&expanded, &low], k_pieces)?,
                    columns(tape, &[&expanded], v_pieces)?,
                )
            }
        };
        let mut q = shaped(&q, spec.heads, spec.head_dim)?;
        let mut k = shaped(&k, spec.kv_heads, spec.head_dim)?;
        let v = shaped(&v, spec.kv_heads, spec.value_dim)?;
        if let Some((q_norm, k_norm)) = &self.qk_norm {
            (q, k) = (q_norm.forward(tape, &q)?, k_norm.forward(tape, &k)?);
        }
        if let Some(table) = table {
            (q, k) = (rope(tape, &q, table, positions)?, rope(tape, &k, table, positions)?);
        }
        Ok(Qkv { q, k, v })
    }

    /// What was seen (tokens, heads · value_dim) → (tokens, hidden).
    pub(crate) fn output(&self, attn_out: &Tensor, adapters: Adapters<'_>) -> Result<Tensor> {
        self.output.forward(attn_out, adapters)
    }

    pub(crate) fn linears(&self) -> Vec<&Linear> {
        let mut found = match &self.layers {
            Layers::Separate(layers) => layers.iter().collect(),
            Layers::Fused { qkv, .. } => vec![qkv],
            Layers::Latent(layers) => {
                let LatentLayers { q, kv_a, kv_b, .. } = &**layers;
                match q {
                    Query::Full(q) => vec![q, kv_a, kv_b],
                    Query::Low { a, b, .. } => vec![a, b, kv_a, kv_b],
                }
            }
        };
        found.push(&self.output);
        found
    }

    pub(crate) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut found = match &mut self.layers {
            Layers::Separate(layers) => layers.iter_mut().collect(),
            Layers::Fused { qkv, .. } => vec![qkv],
            Layers::Latent(layers) => {
                let LatentLayers { q, kv_a, kv_b, .. } = &mut **layers;
                match q {
                    Query::Full(q) => vec![q, kv_a, kv_b],
                    Query::Low { a, b, .. } => vec![a, b, kv_a, kv_b],
                }
            }
        };
        found.push(&mut self.output);
        found
    }

    pub(crate) fn norms(&self) -> Vec<&Norm> {
        let mut found: Vec<&Norm> = self.qk_norm.iter().flat_map(|(q, k)| [q, k]).collect();
        if let Layers::Latent(layers) = &self.layers {
            found.push(&layers.kv_norm);
            if let Query::Low { norm, .. } = &layers.q {
                found.push(norm);
            }
        }
        found
    }
}

/// Columns of queries, keys and values in the output of a fused layer.
fn fused_pieces(spec: &AttentionSpec, order: FusedOrder) -> [Vec<Piece>; 3] {
    let (q, k, v) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim, spec.kv_heads * spec.value_dim);
    match order {
        FusedOrder::Blocks => [vec![Piece::of(0, 0, q)], vec![Piece::of(0, q, k)], vec![Piece::of(0, q + k, v)]],
        FusedOrder::ByGroup => {
            let queries = spec.heads / spec.kv_heads * spec.head_dim;
            let width = queries + spec.head_dim + spec.value_dim;
            let pieces =
                |at: usize, len: usize| (0..spec.kv_heads).map(|kv| Piece::of(0, kv * width + at, len)).collect();
            [pieces(0, queries), pieces(queries, spec.head_dim), pieces(queries + spec.head_dim, spec.value_dim)]
        }
    }
}

/// Columns of a latent attention. Each head's part that is turned is put first, in queries and keys alike, which leaves their
/// products as they are.
///
/// Sources: of queries their layer; of keys kv_b's output, then kv_a's; of values kv_b's output.
fn latent_pieces(spec: &AttentionSpec, latent: &Latent) -> [Vec<Piece>; 3] {
    let Latent { kv_rank, nope, rope, .. } = *latent;
    let (q_width, kv_width) = (nope + rope, nope + spec.value_dim);
    let heads = 0..spec.heads;
    let q = heads.clone().flat_map(|h| [Piece::of(0, h * q_width + nope, rope), Piece::of(0, h * q_width, nope)]);
    let k = heads.clone().flat_map(|h| [Piece::of(1, kv_rank, rope), Piece::of(0, h * kv_width, nope)]);
    let v = heads.map(|h| Piece::of(0, h * kv_width + nope, spec.value_dim));
    [q.collect(), k.collect(), v.collect()]
}
