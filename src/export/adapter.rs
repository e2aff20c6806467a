//! The adapter by itself: PEFT's directory, and llama.cpp's GGUF form.

use std::path::Path;

use candle_core::quantized::QTensor;
use candle_core::quantized::gguf_file::Value;

use super::{Difference, Export, Exported, Tuned, earlier};
use crate::config::AdapterDtype;
use crate::error::{Error, Result};
use crate::files::replace_file;
use crate::model::architecture::outline::Outline;
use crate::model::lora::{self, ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapter};
use crate::model::ops::low_rank::{LowRank, Pair};
use crate::model::ops::rows::largest_difference;
use crate::model::{ModelFiles, ModelKind};

impl Export<'_> {
    pub(super) fn peft(&self, out: &Path, tuned: &Tuned) -> Result<Exported> {
        if self.scale != 1.0 {
            return Err(self.no_scale());
        }
        let names = [ADAPTER_WEIGHTS, ADAPTER_CONFIG];
        let files = names.map(|name| out.join(name)).to_vec();
        if lora::is_gguf(self.directory) {
            lora::save(self.adapter, out, AdapterDtype::F32)?;
        } else {
            std::fs::create_dir_all(out).map_err(Error::io(out, "create"))?;
            for (name, to) in names.iter().zip(&files) {
                let from = self.directory.join(name);
                let bytes = crate::files::read_own(&from)?;
                crate::files::write_atomically(to, &bytes)?;
            }
        }
        let read_back = lora::load(out)?.attached(self.decoder, 1.0)?;
        let difference = self.compared(&tuned.expected, self.decoder, Some(&read_back))?;
        Ok(Exported { files, difference })
    }

    pub(super) fn gguf_adapter(&self, out: &Path, tuned: &Tuned) -> Result<Difference> {
        let outline = Outline::of(self.decoder);
        check_gguf_holds(self.adapter, &outline, self.files, self.directory)?;
        write_gguf(&tuned.low_rank, &outline, self.directory, out, &earlier::header())?;
        let read_back = lora::open(out, &outline)?.attached(self.decoder, 1.0)?;
        self.compared(&tuned.expected, self.decoder, Some(&read_back))
    }
}

/// Most that a value of B may differ from what was written, as a share of the largest: its scale is put into it.
const MOST_ROUNDING: f64 = 1e-5;

/// Writes llama.cpp's form of an adapter for a base that need not be loaded, reads it back and compares value by value. `directory` is
/// the adapter's, `scale` the manifest's, `header` what the file's header holds besides.
///
/// # Errors
/// An adapter that does not fit the base or that the form cannot hold; `out` cannot be written or does not hold what was written.
pub(crate) fn convert(
    adapter: &Adapter,
    outline: &Outline,
    files: &ModelFiles,
    directory: &Path,
    scale: f64,
    header: &[(&str, Value)],
    out: &Path,
) -> Result<()> {
    adapter.check_fits(outline)?;
    check_gguf_holds(adapter, outline, files, directory)?;
    let tuned = adapter.low_rank(scale)?;
    // It has its name when it was read back, and not before: who finds it there takes it for right.
    replace_file(out, |aside| {
        write_gguf(&tuned, outline, directory, aside, header)?;
        if holds(&tuned, aside, outline)? {
            return Ok(());
        }
        Err(Error::model(out, "would not hold the adapter that was written: is the disk whole?"))
    })
}

/// Does the file at `out` say what `tuned` does?
fn holds(tuned: &LowRank, out: &Path, outline: &Outline) -> Result<bool> {
    let mut read_back = lora::open(out, outline)?.low_rank(1.0)?;
    let product = |pair: &Pair| -> Result<Vec<f32>> { Ok((&pair.b * pair.scale)?.flatten_all()?.to_vec1()?) };
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

/// Says no to what llama.cpp's form has no place for.
fn check_gguf_holds(adapter: &Adapter, outline: &Outline, files: &ModelFiles, directory: &Path) -> Result<()> {
    let refuse = |what: &str| Err(lora::gguf::cannot_hold(directory, what));
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
        && super::gguf::has_tensor(base, "attn_k_b.weight")?
    {
        return refuse("changes of kv_b (this base has attn_k_b and attn_v_b)");
    }
    Ok(())
}

fn write_gguf(
    tuned: &LowRank,
    outline: &Outline,
    directory: &Path,
    out: &Path,
    header: &[(&str, Value)],
) -> Result<()> {
    let tensors = lora::gguf::tensors(tuned, outline, directory)?;
    let metadata = lora::gguf::metadata(outline, lora::gguf::ALPHA);
    let metadata: Vec<(&str, &Value)> = metadata.iter().chain(header).map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    super::gguf::write(out, &metadata, &tensors)
}
