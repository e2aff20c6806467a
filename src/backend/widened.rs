//! A GGUF file with every tensor in f32: the same weights, which llama.cpp then multiplies in f32, as candle does with small models.
//! With quantised weights it rounds activations to 8 bits.

use std::io::Cursor;
use std::path::Path;

use candle_core::Device;
use candle_core::quantized::gguf_file::Value;
use candle_core::quantized::{GgmlDType, QTensor};

use crate::error::{Error, Result};
use crate::export::gguf::write;
use crate::model::read_gguf;
use crate::model::weights::map_file;

/// Largest model, in weights: 4 GB of memory while it is written, and of disk.
const WIDEN_UP_TO: usize = 1_000_000_000;

/// Writes `base` with its tensors in f32.
///
/// # Errors
/// A base that is too large, or that cannot be read.
pub(super) fn widen(base: &Path, out: &Path) -> Result<()> {
    let map = map_file(base)?;
    let content = read_gguf(base, &map)?;
    let weights: usize = content.tensor_infos.values().map(|info| info.shape.elem_count()).sum();
    if weights > WIDEN_UP_TO {
        let message = format!(
            "has {weights} weights; in f32 llama.cpp is run on at most {WIDEN_UP_TO}: use the backend llama-cpp instead"
        );
        return Err(Error::model(base, message));
    }
    let mut order: Vec<_> = content.tensor_infos.iter().collect();
    order.sort_by_key(|(_, info)| info.offset);
    let mut tensors: Vec<(&str, QTensor)> = Vec::with_capacity(order.len());
    for (name, _) in order {
        let tensor = content.tensor(&mut Cursor::new(&map[..]), name, &Device::Cpu)?.dequantize(&Device::Cpu)?;
        tensors.push((name.as_str(), QTensor::quantize(&tensor, GgmlDType::F32)?));
    }
    let metadata: Vec<(&str, &Value)> = content.metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    write(out, &metadata, &tensors)
}
