//! Adapters and merged models in the forms that other programs read, each read back and compared before it counts as written.
//!
//! | format | what | for |
//! |---|---|---|
//! | `peft` | the adapter's directory | PEFT, vLLM |
//! | `peft-fused` | the same, all experts of a layer in one parameter | PEFT on transformers 5 |
//! | `gguf-adapter` | a GGUF file of A and B | llama.cpp `--lora`, Ollama `ADAPTER` |
//! | `merged` | W + s·B·A as safetensors, with configuration and tokenizer | transformers and what reads its models |
//! | `merged-gguf` | the base's GGUF file with merged tensors in f16 or q8_0, and Ollama's `NAME.Modelfile` | llama.cpp, Ollama, LM Studio |

mod adapter;
mod check;
pub(crate) mod earlier;
mod fused;
mod gguf;
mod modelfile;
mod safetensors;
mod target;

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::{replace_file, write_atomically};
use crate::model::decoder::Decoder;
use crate::model::decoder::linear::Linear;
use crate::model::lora::Adapter;
use crate::model::ops::low_rank::LowRank;
use crate::model::{ModelFiles, ModelKind};
pub(crate) use check::Difference;
pub(crate) use check::probe;
pub(crate) use target::{Protected, unwritable};

/// A form to export to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// PEFT's directory.
    Peft,
    /// PEFT's directory with the experts of a layer together.
    PeftFused,
    /// llama.cpp's GGUF adapter.
    GgufAdapter,
    /// A merged model as safetensors.
    Merged,
    /// A merged model as GGUF.
    MergedGguf,
}

impl Format {
    /// Can it be written in this precision? An adapter keeps its own.
    ///
    /// # Errors
    /// It cannot.
    pub(crate) fn check(self, precision: Option<Precision>) -> Result<()> {
        let message = match (self, precision) {
            (Self::Peft | Self::PeftFused | Self::GgufAdapter, Some(_)) => {
                "--dtype applies to merged weights only, and this format writes the adapter alone, in its own precision; leave \
                 --dtype out, or give --format merged or merged-gguf"
            }
            (Self::Merged, Some(Precision::Q8_0)) => "--dtype q8_0 is GGUF's; expected f32, bf16 or f16",
            (Self::MergedGguf, Some(Precision::Bf16)) => "--dtype bf16 is not for GGUF here; expected f32, f16 or q8_0",
            _ => return Ok(()),
        };
        Err(Error::Usage(message.into()))
    }
}

/// In what precision merged weights are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    /// 32 bits.
    F32,
    /// 16 bits, as GPUs train in.
    Bf16,
    /// 16 bits with a longer mantissa.
    F16,
    /// 8 bits in blocks of 32; GGUF only.
    Q8_0,
}

/// What to export.
pub(crate) struct Export<'a> {
    /// The base's files.
    pub(crate) files: &'a ModelFiles,
    /// The base.
    pub(crate) decoder: &'a Decoder,
    /// The adapter.
    pub(crate) adapter: &'a Adapter,
    /// Its directory, or its GGUF file.
    pub(crate) directory: &'a Path,
    /// Its scale besides its own: the manifest's.
    pub(crate) scale: f64,
    /// Tokens to compare on.
    pub(crate) probe: &'a [u32],
}

/// The adapter on the base, and the logits of both together.
struct Tuned {
    low_rank: LowRank,
    expected: Vec<Vec<f32>>,
}

/// What was written.
#[derive(Clone, Debug)]
pub(crate) struct Exported {
    /// The files, the one to use first.
    pub(crate) files: Vec<PathBuf>,
    /// How far what was read back is from base and adapter.
    pub(crate) difference: Difference,
}

impl Export<'_> {
    /// Writes an export, reads it back, says how far it is from base and adapter, and only then gives it the name `out`.
    ///
    /// # Errors
    /// `out` is the base or the adapter ([`Protected`]); a form that cannot hold this adapter or this base, by name; `out` cannot be written; or what was read back is far off.
    pub(crate) fn write(&self, format: Format, precision: Option<Precision>, out: &Path) -> Result<Exported> {
        let mut protected = Protected::default();
        protected.add_base(self.files);
        protected.add("the adapter", self.directory);
        protected.check_export(format, out)?;
        format.check(precision)?;
        let tuned = self.adapter.attached(self.decoder, self.scale)?;
        let tuned = Tuned { expected: self.expected(&tuned)?, low_rank: tuned };
        let file = |write: &dyn Fn(&Path) -> Result<Difference>| {
            let difference = replace_file(out, write)?;
            Ok(Exported { files: vec![out.to_path_buf()], difference })
        };
        match format {
            Format::Peft => earlier::fill(out, |aside| self.peft(aside, &tuned)),
            Format::PeftFused => earlier::fill(out, |aside| self.peft_fused(aside, &tuned)),
            Format::Merged => {
                earlier::fill(out, |aside| self.merged(aside, precision.unwrap_or(Precision::Bf16), &tuned))
            }
            Format::GgufAdapter => file(&|aside| self.gguf_adapter(aside, &tuned)),
            Format::MergedGguf => {
                let precision = precision.unwrap_or(Precision::F16);
                let mut exported = file(&|aside| self.merged_gguf(aside, precision, &tuned))?;
                let modelfile = modelfile::place(out);
                write_atomically(&modelfile, modelfile::text(out).as_bytes())?;
                exported.files.push(modelfile);
                Ok(exported)
            }
        }
    }

    /// PEFT's configuration has no place for the manifest's scale.
    fn no_scale(&self) -> Error {
        let scale = self.scale;
        Error::Usage(format!(
            "[adapter] scale is {scale}, which PEFT's form cannot hold; export --format merged, or set it to 1"
        ))
    }

    /// The base's GGUF file.
    fn gguf_base(&self) -> Result<&Path> {
        match &self.files.kind {
            ModelKind::Gguf(path) => Ok(path),
            ModelKind::HuggingFace(_) => Err(Error::model(
                &self.files.root,
                "is not a GGUF file, and only one can be merged into GGUF: its tokenizer and template are kept; \
                 export --format merged, and convert that with llama.cpp's convert_hf_to_gguf.py",
            )),
        }
    }
}

/// W + s·B·A of a layer in f32, row by row, each multiplied by its DoRA length.
fn merged(linear: &Linear, tuned: &LowRank) -> Result<Vec<f32>> {
    let (rows, cols) = (linear.frozen.weight.rows, linear.frozen.weight.cols);
    let mut values = Vec::with_capacity(rows * cols);
    linear.frozen.weight.for_blocks(|_, block| values.extend_from_slice(block));
    let Some(pair) = tuned.pairs.get(&linear.path) else { return Ok(values) };
    let (a, b) = (pair.a.to_vec2::<f32>()?, pair.b.to_vec2::<f32>()?);
    for (i, (row, b)) in values.chunks_mut(cols).zip(&b).enumerate() {
        for (b, a) in b.iter().zip(&a) {
            let factor = pair.scale as f32 * b;
            row.iter_mut().zip(a).for_each(|(w, a)| *w += factor * a);
        }
        if let Some(lengths) = &pair.row_gain {
            row.iter_mut().for_each(|w| *w *= lengths[i]);
        }
    }
    Ok(values)
}

/// A layer's bias with the adapter on.
fn merged_bias(linear: &Linear, tuned: &LowRank) -> Result<Option<Vec<f32>>> {
    let own = linear.frozen.bias.as_ref().map(candle_core::Tensor::to_vec1::<f32>).transpose()?;
    let more = tuned.pairs.get(&linear.path).and_then(|pair| pair.bias.as_ref());
    Ok(match (own, more) {
        (Some(own), Some(more)) => Some(own.iter().zip(more.iter()).map(|(own, more)| own + more).collect()),
        (None, Some(more)) => Some(more.to_vec()),
        (own, None) => own,
    })
}

/// (rows, cols) → (cols, rows).
fn transpose(values: &[f32], cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| values.iter().skip(col).step_by(cols).copied()).collect()
}

#[cfg(test)]
mod tests;
