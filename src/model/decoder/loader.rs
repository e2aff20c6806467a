//! Takes a decoder's parts out of its files: by their Hugging Face names, in Hugging Face's order of rows, whatever the file.

use std::cell::RefCell;
use std::collections::BTreeSet;

use candle_core::Tensor;

use super::linear::Linear;
use super::norm::Norm;
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::model::architecture::layers::Layer;
use crate::model::architecture::names::Names;
use crate::model::architecture::rows::{GgufRows, RowOrder};
use crate::model::architecture::{DecoderSpec, Latent, NormKind};
use crate::model::ops::lora::Frozen;
use crate::model::ops::matrix::Matrix;

pub(crate) struct Loader<'w> {
    pub(crate) weights: &'w Weights,
    pub(crate) spec: &'w DecoderSpec,
    pub(crate) names: Names,
    /// How the file orders rows; `Same` for safetensors.
    rows: RowOrder,
    used: RefCell<BTreeSet<String>>,
    index: RefCell<u64>,
}

impl<'w> Loader<'w> {
    pub(crate) fn new(weights: &'w Weights, spec: &'w DecoderSpec, names: Names, rows: GgufRows) -> Self {
        Self { weights, spec, names, rows: RowOrder::new(spec, rows), used: RefCell::default(), index: RefCell::new(0) }
    }

    fn name(&self, name: String) -> String {
        self.used.borrow_mut().insert(name.clone());
        name
    }

    /// The matrix of an embedding or a head, (rows, cols).
    pub(crate) fn matrix(&self, path: &str, rows: usize, cols: usize) -> Result<Matrix> {
        self.weights.matrix(&self.name(format!("{path}.weight")), rows, cols)
    }

    /// The vector `path.weight`, or whatever `name` says, of `len` values.
    pub(crate) fn vector(&self, name: String, len: usize) -> Result<Tensor> {
        self.weights.vector(&self.name(name), len)
    }

    /// A linear layer of a block.
    pub(crate) fn linear(&self, block: usize, layer: &Layer) -> Result<Linear> {
        let Layer { role, shape: [rows, cols], bias, .. } = *layer;
        let path = self.names.block(block, &layer.module(&self.names));
        // The file's own shape bounds what is made of the configuration's numbers.
        let fits =
            self.weights.shape(&format!("{path}.weight")).is_some_and(|s| s == [rows, cols] || s == [cols, rows]);
        let order = if fits { self.rows.positions(role, rows) } else { None };
        // Only Hugging Face's files store them transposed; llama.cpp's converter turns them round.
        let transposed = self.names.transposed && self.weights.is_safetensors();
        let weight = match (transposed, &order) {
            (true, _) => self.matrix(&path, cols, rows)?.transposed(),
            (false, Some(order)) => self.matrix(&path, rows, cols)?.reordered(order),
            (false, None) => self.matrix(&path, rows, cols)?,
        };
        let bias = match (bias, &order) {
            (false, _) => None,
            (true, None) => Some(self.vector(format!("{path}.bias"), rows)?),
            (true, Some(order)) => {
                let values = self.vector(format!("{path}.bias"), rows)?.to_vec1::<f32>()?;
                let values: Vec<f32> = order.iter().map(|row| values[*row]).collect();
                Some(Tensor::from_vec(values, rows, &candle_core::Device::Cpu)?)
            }
        };
        Ok(self.adapted(path, Frozen { weight, bias }))
    }

    /// A layer with a place for an adapter.
    fn adapted(&self, path: String, frozen: Frozen) -> Linear {
        *self.index.borrow_mut() += 1;
        Linear { path, frozen, index: *self.index.borrow() }
    }

    /// A latent attention's keys and values of every head, (heads · (nope + value_dim), rank): one tensor, or the two that newer GGUF
    /// files hold, in which the keys' part is transposed. Those are held in f32.
    pub(crate) fn keys_and_values(&self, block: usize, layer: &Layer, latent: &Latent) -> Result<Linear> {
        let (names, a) = (&self.names, &self.spec.attention);
        let Latent { kv_rank: rank, nope, .. } = *latent;
        let path = names.block(block, names.kv_b);
        let [k, v] = [names.k_b, names.v_b].map(|name| format!("{}.weight", names.block(block, name)));
        if !self.weights.has(&k) {
            return self.linear(block, layer);
        }
        let (k, v) = (self.name(k), self.name(v));
        let mut values = Vec::new();
        for head in 0..a.heads {
            let keys = self.weights.slab(&k, [a.heads, rank, nope], head, 0..rank)?.transposed();
            keys.for_blocks(|_, block| values.extend_from_slice(block));
            let of_values = self.weights.slab(&v, [a.heads, a.value_dim, rank], head, 0..a.value_dim)?;
            of_values.for_blocks(|_, block| values.extend_from_slice(block));
        }
        let weight = Matrix::from_values(&format!("{path}.weight"), values, layer.shape[0], rank);
        Ok(self.adapted(path, Frozen { weight, bias: None }))
    }

    /// One expert's layer, however the file stores them: each for itself, all together, or gate and up together too.
    pub(crate) fn expert(&self, block: usize, expert: usize, layer: &Layer) -> Result<Linear> {
        let Layer { module: name, shape: [rows, cols], .. } = *layer;
        let all = self.names.block(block, self.names.experts);
        let path = format!("{all}.{expert}.{name}");
        let count = self.spec.experts(block).map_or(0, |e| e.count);
        let (stacked, pair, bare) =
            (format!("{all}.{name}.weight"), format!("{all}.gate_up_proj"), format!("{all}.{name}"));
        let weight = if self.weights.has(&stacked) {
            self.weights.slab(&self.name(stacked), [count, rows, cols], expert, 0..rows)?
        } else if self.weights.has(&bare) {
            self.weights.slab(&self.name(bare), [count, rows, cols], expert, 0..rows)?
        } else if self.weights.has(&pair) && name != self.names.expert_down {
            let role = if name == self.names.expert_gate { 0..rows } else { rows..2 * rows };
            self.weights.slab(&self.name(pair), [count, 2 * rows, cols], expert, role)?
        } else {
            self.matrix(&path, rows, cols)?
        };
        Ok(self.adapted(path, Frozen { weight, bias: None }))
    }

    /// A layer that no adapter reaches: a router.
    pub(crate) fn router(&self, block: usize, layer: &Layer) -> Result<Linear> {
        let [rows, cols] = layer.shape;
        let path = self.names.block(block, layer.module);
        // llama.cpp stores a gate of one row as a vector.
        let name = format!("{path}.weight");
        let weight = match self.weights.shape(&name) {
            Some([len]) if rows == 1 && *len == cols => self.weights.slab(&self.name(name), [1, 1, cols], 0, 0..1)?,
            _ => self.matrix(&path, rows, cols)?,
        };
        Ok(Linear { path, frozen: Frozen { weight, bias: None }, index: 0 })
    }

    /// A norm at a whole path.
    pub(crate) fn norm(&self, path: &str, width: usize) -> Result<Norm> {
        let weight = self.vector(format!("{path}.weight"), width)?;
        let (weight, bias) = match self.spec.norm.kind {
            NormKind::Rms => (weight, None),
            NormKind::RmsPlusOne => ((weight + 1.0)?, None),
            NormKind::Layer { bias: false } => (weight, None),
            NormKind::Layer { bias: true } => (weight, Some(self.vector(format!("{path}.bias"), width)?)),
        };
        Ok(Norm { path: path.to_owned(), weight, bias, kind: self.spec.norm.kind, eps: self.spec.norm.eps })
    }

    /// A norm of a block.
    pub(crate) fn block_norm(&self, layer: usize, module: &str, width: usize) -> Result<Norm> {
        self.norm(&self.names.block(layer, module), width)
    }

    /// Refuses tensors that the decoder did not take: they would be left out without a word.
    pub(crate) fn check_all_used(&self) -> Result<()> {
        let used = self.used.borrow();
        let block = |name: &str| {
            let rest = name.strip_prefix(self.names.blocks)?.strip_prefix('.')?;
            rest.split('.').next()?.parse::<usize>().ok()
        };
        let harmless = |name: &str| {
            let buffer = ["rotary_emb.inv_freq", ".attn.bias", ".masked_bias", "rope_freqs.weight"];
            buffer.iter().any(|end| name.ends_with(end))
                // A tied head may be stored all the same, and DeepSeek's files hold layers that predict further tokens.
                || (self.spec.tied_head && name == format!("{}.weight", self.names.head))
                || block(name).is_some_and(|layer| layer >= self.spec.layers && self.spec.experts(self.spec.layers - 1).is_some())
        };
        let extra: Vec<&str> = self.weights.names().filter(|name| !used.contains(*name) && !harmless(name)).collect();
        if extra.is_empty() {
            return Ok(());
        }
        let shown = extra.iter().take(5).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let more = if extra.len() > 5 { format!(" and {} more", extra.len() - 5) } else { String::new() };
        let nearest = self.weights.nearest_of(extra[0], used.iter().map(String::as_str));
        let nearest = nearest.map_or_else(String::new, |name| format!("; the nearest that is expected is `{name}`"));
        Err(Error::model(
            self.weights.root(),
            format!(
                "holds tensors that a {} model with this configuration has not: {shown}{more}{nearest}",
                self.spec.family.name()
            ),
        ))
    }
}
