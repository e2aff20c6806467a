//! A GGUF file with every tensor in f32: the same weights, which llama.cpp then multiplies in f32, as candle does with small models.
//! With quantised weights it rounds activations to 8 bits.

use std::path::Path;

use candle_core::Device;
use candle_core::quantized::gguf_file::Value;
use candle_core::quantized::{GgmlDType, QTensor};

use crate::error::{Error, Result};
use crate::model::formats::gguf::Header;
use crate::model::formats::gguf::write;
use crate::model::formats::mapped::map_file;

/// Largest model, in weights: 4 GB of memory while it is written, and of disk.
const WIDEN_UP_TO: usize = 1_000_000_000;

/// Writes `base` with its tensors in f32.
///
/// # Errors
/// A base that is too large, or that cannot be read.
pub(super) fn widen(base: &Path, out: &Path) -> Result<()> {
    let map = map_file(base)?;
    let header = Header::read(base, &map)?;
    let sizes = header.tensors.values().map(|info| info.elements().unwrap_or(usize::MAX));
    let weights = sizes.fold(0, usize::saturating_add);
    if weights > WIDEN_UP_TO {
        let message = format!(
            "has {weights} weights; in f32 llama.cpp is run on at most {WIDEN_UP_TO}: use the backend llama-cpp instead"
        );
        return Err(Error::model(base, message));
    }
    let mut tensors: Vec<(&str, QTensor)> = Vec::with_capacity(header.tensors.len());
    for (name, info) in header.in_order() {
        let tensor = header.tensor(base, &map, name, info)?.dequantize(&Device::Cpu)?;
        tensors.push((name.as_str(), QTensor::quantize(&tensor, GgmlDType::F32)?));
    }
    let metadata: Vec<(&str, &Value)> = header.metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    write(out, &metadata, &tensors)
}
