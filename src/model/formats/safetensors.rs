//! Safetensors files that are read whole or written: adapters, states of an optimizer, logits, merged models.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::mapped::map_file;
use super::{IS_LFS_POINTER, LFS_POINTER};
use crate::error::{Error, Result};
use crate::files::{open_regular, write_atomically};

/// A tensor read from a safetensors file.
pub(crate) struct Read {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

/// All tensors of a safetensors file, widened to f32.
///
/// # Errors
/// It is missing, truncated or corrupt, holds NaN, or numbers that are not f32, f16 or bf16.
pub(crate) fn read_tensors(path: &Path) -> Result<BTreeMap<String, Read>> {
    // Mapped, so that a file without end is found out by its header, before memory is.
    open_regular(path)?;
    let bytes = map_file(path)?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| not_safetensors(path, &bytes, &e))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        let data = view.data();
        let values: Vec<f32> = match view.dtype() {
            Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Dtype::F16 => data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            Dtype::BF16 => data.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            other => {
                return Err(Error::model(path, format!("tensor `{name}` holds {other:?}, expected F32, F16 or BF16")));
            }
        };
        if values.iter().any(|v| !v.is_finite()) {
            return Err(Error::model(path, format!("tensor `{name}` holds NaN or infinite values")));
        }
        tensors.insert(name.to_owned(), Read { shape: view.shape().to_vec(), values });
    }
    Ok(tensors)
}

fn not_safetensors(path: &Path, bytes: &[u8], error: &safetensors::SafeTensorError) -> Error {
    if bytes.starts_with(LFS_POINTER) {
        return Error::model(path, IS_LFS_POINTER);
    }
    Error::model(path, format!("not a safetensors file, truncated or corrupt: {error}"))
}

/// A tensor as a file has it.
pub(crate) struct EncodedTensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: Dtype,
    pub(crate) bytes: Vec<u8>,
}

impl EncodedTensor {
    /// Values in f32.
    pub(crate) fn f32(name: String, shape: Vec<usize>, values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { name, shape, dtype: Dtype::F32, bytes }
    }
}

/// Writes tensors as safetensors, at once or not at all.
pub(crate) fn write_tensors(path: &Path, tensors: &[EncodedTensor]) -> Result<()> {
    write_tensors_with(path, tensors, ("format", "pt"))
}

/// As [`write_tensors`], with one entry of metadata of the caller's.
///
/// # Errors
/// As [`write_tensors`].
pub(crate) fn write_tensors_with(path: &Path, tensors: &[EncodedTensor], (key, value): (&str, &str)) -> Result<()> {
    let views = tensors.iter().map(|EncodedTensor { name, shape, dtype, bytes }| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).map_err(|e| Error::failed(format!("{name}: {e}")))?;
        Ok((name.as_str(), view))
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    let metadata = HashMap::from([(key.to_owned(), value.to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| Error::failed(e.to_string()))?;
    write_atomically(path, &bytes)
}
