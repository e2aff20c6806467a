//! An adapter in llama.cpp's form, for a base that need not be loaded: written, read back and compared value by value.

use std::path::Path;

use candle_core::quantized::QTensor;
use candle_core::quantized::gguf_file::Value;

use super::{Adapter, gguf};
use crate::error::{Error, Result};
use crate::files::replace_file;
use crate::model::architecture::outline::Outline;
use crate::model::formats;
use crate::model::ops::low_rank::{LoraPair, LowRank};
use crate::model::ops::rows::largest_difference;
use crate::model::sources::{ModelFiles, ModelKind};

/// Most that a value of B may differ from what was written, as a share of the largest: its scale is put into it.
const MOST_ROUNDING: f64 = 1e-5;

/// An adapter that is to be written in llama.cpp's form, for a base that need not be loaded.
pub(crate) struct Conversion<'a> {
    pub(crate) adapter: &'a Adapter,
    pub(crate) outline: &'a Outline,
    pub(crate) files: &'a ModelFiles,
    /// The adapter's.
    pub(crate) directory: &'a Path,
    /// The manifest's.
    pub(crate) scale: f64,
    /// What the file's header holds besides.
    pub(crate) header: &'a [(&'a str, Value)],
}

impl Conversion<'_> {
    /// Writes it, reads it back and compares value by value.
    ///
    /// # Errors
    /// An adapter that does not fit the base or that the form cannot hold; `out` cannot be written or does not hold what was written.
    pub(crate) fn write(&self, out: &Path) -> Result<()> {
        let Self { adapter, outline, files, directory, scale, header } = *self;
        adapter.check_fits(outline)?;
        check_holds(adapter, outline, files, directory)?;
        let tuned = adapter.low_rank(scale)?;
        // It has its name when it was read back, and not before: who finds it there takes it for right.
        replace_file(out, |aside| {
            write(&tuned, outline, directory, aside, header)?;
            if holds(&tuned, aside, outline)? {
                return Ok(());
            }
            Err(Error::model(out, "would not hold the adapter that was written: is the disk whole?"))
        })
    }
}

/// Does the file at `out` say what `tuned` does?
fn holds(tuned: &LowRank, out: &Path, outline: &Outline) -> Result<bool> {
    let mut read_back = super::open(out, outline)?.low_rank(1.0)?;
    let product = |pair: &LoraPair| -> Result<Vec<f32>> { Ok((&pair.b * pair.scale)?.flatten_all()?.to_vec1()?) };
    let mut same = true;
    for (path, pair) in &tuned.pairs {
        let Some(again) = read_back.pairs.remove(path) else {
            same = false;
            break;
        };
        let (b, b_again) = (product(pair)?, product(&again)?);
        let most = b.iter().fold(0f32, |most, b| most.max(b.abs()));
        same &= pair.a.flatten_all()?.to_vec1::<f32>()? == again.a.flatten_all()?.to_vec1::<f32>()?
            && largest_difference(&b, &b_again) <= MOST_ROUNDING * f64::from(most);
    }
    // Experts without an adapter of their own are zeros there.
    for pair in read_back.pairs.values() {
        same &= product(pair)?.iter().all(|b| *b == 0.0);
    }
    Ok(same)
}

/// Refuses what llama.cpp's form has no place for.
pub(crate) fn check_holds(adapter: &Adapter, outline: &Outline, files: &ModelFiles, directory: &Path) -> Result<()> {
    let refuse = |what: &str| Err(gguf::cannot_hold(directory, what));
    if !adapter.saved.is_empty() {
        return refuse("modules_to_save");
    }
    if adapter.modules.values().any(|module| module.magnitude.is_some()) {
        return refuse("DoRA");
    }
    if adapter.modules.values().any(|module| module.bias.is_some()) {
        return refuse("biases");
    }
    if let ModelKind::Gguf(base) = &files.kind
        && adapter.modules.keys().any(|path| outline.is_kv_b(path))
        && formats::gguf::has_tensor(base, "attn_k_b.weight")?
    {
        return refuse("changes of kv_b (this base has attn_k_b and attn_v_b)");
    }
    Ok(())
}

/// Writes the form, with `header` in the file's header besides.
pub(crate) fn write(
    tuned: &LowRank,
    outline: &Outline,
    directory: &Path,
    out: &Path,
    header: &[(&str, Value)],
) -> Result<()> {
    let tensors = gguf::tensors(tuned, outline, directory)?;
    let metadata = gguf::metadata(outline, gguf::ALPHA);
    let metadata: Vec<(&str, &Value)> = metadata.iter().chain(header).map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    formats::gguf::write(out, &metadata, &tensors)
}
