//! A merged model as GGUF: the base's file with the adapted layers' tensors replaced.

use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::{Difference, Export, Precision, Tuned, earlier, merged, merged_bias, transpose};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::architecture::outline::Outline;
use crate::model::architecture::{DecoderSpec, Latent, Projection};
use crate::model::decoder::linear::Linear;
use crate::model::formats;
use crate::model::formats::gguf::Header;
use crate::model::formats::mapped::map_file;
use crate::model::ops::low_rank::LowRank;
use crate::model::{ModelFiles, ModelKind, load_decoder};

impl Export<'_> {
    pub(super) fn merged_gguf(&self, out: &Path, precision: Precision, tuned: &Tuned) -> Result<Difference> {
        let base = self.gguf_base()?;
        let map = map_file(base)?;
        let header = Header::read(base, &map)?;
        let dtype = match precision {
            Precision::F32 => GgmlDType::F32,
            Precision::F16 | Precision::Bf16 => GgmlDType::F16,
            Precision::Q8_0 => GgmlDType::Q8_0,
        };
        let (names, outline) = (self.decoder.names(), Outline::of(&self.decoder.spec));
        let mut tensors: Vec<(&str, QTensor)> = Vec::with_capacity(header.tensors.len());
        for (name, info) in header.in_order() {
            let tensor = match self.replaced(&outline, &names.hugging_face(name), &tuned.low_rank)? {
                Some((values, vector)) => {
                    // Rows that do not fill blocks of 32 stay in 16 bits; vectors are never rounded.
                    let dims = info.shape.clone();
                    let fits = dims.last().is_some_and(|d| d.is_multiple_of(dtype.block_size()));
                    let dtype = if vector {
                        GgmlDType::F32
                    } else if fits {
                        dtype
                    } else {
                        GgmlDType::F16
                    };
                    QTensor::quantize(&Tensor::from_vec(values, dims, &Device::Cpu)?, dtype)?
                }
                None => header.tensor(base, &map, name, info)?,
            };
            tensors.push((name.as_str(), tensor));
        }
        let mut metadata: Vec<(&str, Value)> = header.metadata.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
        metadata.retain(|(key, _)| !["general.file_type", "general.alignment", earlier::KEY].contains(key));
        metadata.extend(earlier::header());
        // llama.cpp's numbers for "mostly f32, f16, q8_0".
        let kind = match dtype {
            GgmlDType::F32 => 0,
            GgmlDType::F16 => 1,
            _ => 7,
        };
        metadata.push(("general.file_type", Value::U32(kind)));
        metadata.sort_by_key(|(key, _)| *key);
        let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(k, v)| (*k, v)).collect();
        let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
        formats::gguf::write(out, &metadata, &tensors)?;
        drop(tensors);

        let files = ModelFiles { root: out.to_path_buf(), kind: ModelKind::Gguf(out.to_path_buf()) };
        let config = ModelConfig::default();
        let read_back = load_decoder(&files, &config)?;
        self.compared(&tuned.expected, &read_back, None)
    }

    /// New values of a tensor with this Hugging Face name, in the file's order of rows, and whether it is a vector; `None` when
    /// it stays as it is.
    fn replaced(&self, outline: &Outline, name: &str, tuned: &LowRank) -> Result<Option<(Vec<f32>, bool)>> {
        let spec = &self.decoder.spec;
        let names = self.decoder.names();
        let (embedding, head) = self.decoder.vocabulary_paths();
        let path = name.strip_suffix(".weight").unwrap_or(name);
        let whole = [(embedding, &tuned.embedding), (head, &tuned.head)];
        if let Some((_, Some(matrix))) = whole.iter().find(|(of, _)| *of == path) {
            let mut values = Vec::new();
            matrix.for_blocks(|_, block| values.extend_from_slice(block));
            return Ok(Some((values, false)));
        }
        if spec.tied_head && (tuned.head.is_some() || (path == embedding && tuned.embedding.is_some())) {
            let message = "the adapter replaces the embedding or the head of a model that ties them, which one tensor cannot hold";
            return Err(Error::model(self.directory, message));
        }
        let reordered = |linear: &Linear, values: Vec<f32>, width: usize| {
            let rows = linear.frozen.weight.rows;
            match outline.order(&linear.path, rows) {
                None => values,
                Some(order) => {
                    let mut back = vec![0f32; values.len()];
                    for (row, at) in order.into_iter().enumerate() {
                        back[at * width..(at + 1) * width].copy_from_slice(&values[row * width..(row + 1) * width]);
                    }
                    back
                }
            }
        };
        if let Some((all, part)) = names.stack(path) {
            let stack: Vec<&Linear> = self
                .decoder
                .linears()
                .filter(|l| names.expert(&l.path).is_some_and(|(stack, _)| stack == format!("{all}.{part}")))
                .collect();
            if !stack.iter().any(|l| tuned.pairs.contains_key(&l.path)) {
                return Ok(None);
            }
            let values = stack.iter().map(|l| merged(l, tuned)).collect::<Result<Vec<_>>>()?.concat();
            return Ok(Some((values, false)));
        }
        if let Some(half) = [names.k_b, names.v_b].into_iter().find(|half| path.ends_with(&format!(".{half}"))) {
            let kv_b = path.replace(half, names.kv_b);
            let linear = self.decoder.linears().find(|l| l.path == kv_b && tuned.pairs.contains_key(&l.path));
            return linear.map(|l| Ok((half_of(spec, &merged(l, tuned)?, half == names.k_b), false))).transpose();
        }
        if let Some(of_bias) = name.strip_suffix(".bias") {
            let linear = self.decoder.linears().find(|l| l.path == of_bias && tuned.pairs.contains_key(&l.path));
            let Some(linear) = linear else { return Ok(None) };
            let bias = merged_bias(linear, tuned)?;
            return Ok(bias.map(|values| (reordered(linear, values, 1), true)));
        }
        let Some(linear) = self.decoder.linears().find(|l| l.path == path && tuned.pairs.contains_key(&l.path)) else {
            return Ok(None);
        };
        if linear.frozen.bias.is_none() && merged_bias(linear, tuned)?.is_some() {
            let message = format!("the adapter gives `{path}` a bias, and base has none: its file has no place for it");
            return Err(Error::model(self.directory, message));
        }
        let values = merged(linear, tuned)?;
        Ok(Some((reordered(linear, values, linear.frozen.weight.cols), false)))
    }
}

/// The keys' or the values' half of a latent attention's `kv_b`, as GGUF holds them: the keys' part of each head transposed.
fn half_of(spec: &DecoderSpec, kv_b: &[f32], keys: bool) -> Vec<f32> {
    let Projection::Latent(Latent { kv_rank: rank, nope, .. }) = spec.attention.projection else { return Vec::new() };
    let heads = kv_b.chunks((nope + spec.attention.value_dim) * rank).map(|head| head.split_at(nope * rank));
    if keys {
        heads.flat_map(|(keys, _)| transpose(keys, rank)).collect()
    } else {
        heads.flat_map(|(_, values)| values.iter().copied()).collect()
    }
}
