//! What a GGUF header says of a model whose family this crate has no decoder for, by the keys that llama.cpp's families share.

use std::path::Path;

use candle_core::quantized::gguf_file::Value;

use super::outline::Outline;
use super::sizes::{Sizes, short};
use super::{Keys, MOST_PARTS, NormKind, NormSpec, Positions, gguf, integer};
use crate::error::{Error, Result};
use crate::model::formats::gguf::Header;

/// A model by its file's header. What a family has in its code alone is not in it.
#[derive(Clone, Debug)]
pub(crate) struct HeaderSpec {
    /// As GGUF calls it.
    pub(crate) family: String,
    pub(crate) layers: usize,
    pub(crate) hidden_size: usize,
    pub(crate) vocab_size: usize,
    pub(crate) context: usize,
    /// `None`: no layer attends.
    pub(crate) heads: Option<Heads>,
    /// Channels of a state-space layer, and values that it keeps of each.
    pub(crate) states: Option<[usize; 2]>,
    /// Queries, keys and values are one layer.
    pub(crate) fused: bool,
    /// `None`: the file does not say.
    pub(crate) positions: Option<Positions>,
    /// `None`: the file does not say.
    pub(crate) norm: Option<NormSpec>,
    /// Tokens that layers with a window see; which layers have one, the file does not say.
    pub(crate) window: Option<usize>,
    pub(crate) experts: Option<ExpertCounts>,
    /// The head is the embedding.
    pub(crate) tied_head: bool,
    pub(crate) sizes: Sizes,
}

/// Heads of the layers that attend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heads {
    /// The most of a layer.
    pub(crate) queries: usize,
    pub(crate) key_size: usize,
    pub(crate) value_size: usize,
    /// Heads of keys and values of each layer; 0 where it does not attend.
    pub(crate) kv: Vec<usize>,
    /// Ranks of a latent attention: keys and values together, and the part that is turned.
    pub(crate) latent: Option<[usize; 2]>,
}

/// Experts of some layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExpertCounts {
    pub(crate) count: usize,
    pub(crate) per_token: usize,
    pub(crate) intermediate_size: usize,
    /// Layers that have them.
    pub(crate) layers: usize,
    /// Width of the shared one; 0 for none.
    pub(crate) shared_size: usize,
}

impl HeaderSpec {
    /// That of a GGUF file of `len` bytes.
    ///
    /// # Errors
    /// Metadata that is missing or cannot be; a tensor that reaches past the end of the file.
    pub(crate) fn of_gguf(path: &Path, header: &Header, len: usize) -> Result<Self> {
        let outline = Outline::of_gguf(path, header, len)?;
        let keys = Keys::of(path, header)?;
        let (layers, hidden_size) = (keys.count("block_count")?, keys.count("embedding_length")?);
        if layers > MOST_PARTS {
            return Err(Error::model(path, format!("block_count is {layers}")));
        }
        let heads = heads(&keys, layers, hidden_size)?;
        let states = match (keys.count_if("ssm.inner_size")?, keys.count_if("ssm.state_size")?) {
            (Some(channels), Some(values)) => Some([channels, values]),
            _ => None,
        };
        let experts = experts(&keys, layers)?;
        Ok(Self {
            family: keys.architecture.to_owned(),
            layers,
            hidden_size,
            vocab_size: outline.vocabulary,
            context: outline.context,
            states,
            fused: keys.has_suffix("attn_qkv.weight"),
            positions: if heads.is_some() { positions(&keys)? } else { None },
            norm: norm(&keys)?,
            window: outline.window,
            tied_head: !keys.has("output.weight"),
            sizes: sizes(&outline, heads.as_ref(), experts.as_ref()),
            heads,
            experts,
        })
    }
}

/// A value for each layer; those of a file that has one for all are alike.
fn by_layer(keys: &Keys<'_>, name: &str, layers: usize) -> Result<Option<Vec<usize>>> {
    let found = keys.optional(&format!("{}.{name}", keys.architecture), |value| match value {
        Value::Array(items) => items.iter().map(integer).collect::<candle_core::Result<Vec<u64>>>(),
        value => Ok(vec![integer(value)?; layers]),
    })?;
    Ok(found.map(|all| all.into_iter().map(|n| usize::try_from(n).unwrap_or(usize::MAX)).collect()))
}

fn heads(keys: &Keys<'_>, layers: usize, hidden_size: usize) -> Result<Option<Heads>> {
    let queries = by_layer(keys, "attention.head_count", layers)?.unwrap_or_default();
    let most = queries.iter().copied().max().unwrap_or(0);
    if most == 0 {
        return Ok(None);
    }
    let own = by_layer(keys, "attention.head_count_kv", layers)?;
    let key_size = match keys.count_if("attention.key_length_mla")? {
        Some(size) => size,
        None => keys.count_if("attention.key_length")?.unwrap_or(hidden_size / most),
    };
    let value_size = match keys.count_if("attention.value_length_mla")? {
        Some(size) => size,
        None => keys.count_if("attention.value_length")?.unwrap_or(key_size),
    };
    let latent = match keys.count_if("attention.kv_lora_rank")?.filter(|rank| *rank > 0) {
        Some(rank) => Some([rank, keys.count_if("rope.dimension_count")?.unwrap_or(0)]),
        None => None,
    };
    // Keys and values of a latent attention are made for every head, whatever the file says of those that it stores.
    let kv = own.filter(|_| latent.is_none()).unwrap_or(queries);
    Ok(Some(Heads { queries: most, key_size, value_size, kv, latent }))
}

fn positions(keys: &Keys<'_>) -> Result<Option<Positions>> {
    if keys.has("position_embd.weight") {
        return Ok(Some(Positions::Learned));
    }
    if let Some(max_bias) = keys.number_if("attention.max_alibi_bias")?.filter(|bias| *bias > 0.0) {
        return Ok(Some(Positions::Alibi { max_bias }));
    }
    let turned = keys.count_if("rope.dimension_count")?.is_some() || keys.number_if("rope.freq_base")?.is_some();
    // Scaling that is not known here is llama.cpp's to know.
    Ok(if turned { gguf::rotary_positions(keys).ok() } else { None })
}

fn norm(keys: &Keys<'_>) -> Result<Option<NormSpec>> {
    if let Some(eps) = keys.number_if("attention.layer_norm_rms_epsilon")? {
        return Ok(Some(NormSpec { kind: NormKind::Rms, eps }));
    }
    let bias = keys.has("output_norm.bias");
    Ok(keys.number_if("attention.layer_norm_epsilon")?.map(|eps| NormSpec { kind: NormKind::Layer { bias }, eps }))
}

fn experts(keys: &Keys<'_>, layers: usize) -> Result<Option<ExpertCounts>> {
    let Some(count) = keys.count_if("expert_count")?.filter(|count| *count > 0) else { return Ok(None) };
    let size = match keys.count_if("expert_feed_forward_length")? {
        Some(size) => Some(size),
        None => keys.count_if("feed_forward_length")?,
    };
    Ok(Some(ExpertCounts {
        count,
        per_token: keys.count_if("expert_used_count")?.unwrap_or(count),
        intermediate_size: size.unwrap_or(0),
        layers: keys.layers_with(layers, "ffn_gate_inp.weight").into_iter().filter(|there| *there).count(),
        shared_size: keys.rows("ffn_up_shexp.weight").unwrap_or(0),
    }))
}

fn sizes(outline: &Outline, heads: Option<&Heads>, experts: Option<&ExpertCounts>) -> Sizes {
    let wide = |[rows, cols]: &[usize; 2]| (*rows as u128, *cols as u128);
    let of_experts = outline.layers.iter().filter(|(path, _)| outline.expert(path).is_some());
    let stacked: u128 = of_experts.map(|(_, shape)| wide(shape)).map(|(rows, cols)| rows * cols).sum();
    let unused = experts.map_or(0, |e| stacked / e.count as u128 * e.count.saturating_sub(e.per_token) as u128);
    let layers = |heads: &Heads| heads.kv.iter().map(|n| *n as u128).sum::<u128>();
    Sizes {
        parameters: outline.parameters,
        active_parameters: outline.parameters.saturating_sub(short(unused)),
        kv_values: heads.map_or(0, |h| short(layers(h) * (h.key_size as u128 + h.value_size as u128))),
        latent_kv_values: heads.and_then(|heads| {
            let [rank, turned] = heads.latent?;
            Some(short(heads.kv.len() as u128 * (rank as u128 + turned as u128)))
        }),
        lora_values: short(outline.layers.values().map(wide).map(|(rows, cols)| rows + cols).sum()),
    }
}

#[cfg(test)]
mod tests;
