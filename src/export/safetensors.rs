//! A merged model in Hugging Face's form, out of a base in that form.

use std::path::Path;

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::check::{compare, logits};
use super::{Export, Exported, Precision, merged, merged_bias};
use crate::adapter::{Stored, write_tensors};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::linear::LowRank;
use crate::model::weights::map_file;
use crate::model::{ModelKind, load_decoder, source};

/// Files that are taken over as they are.
const BESIDE: [&str; 10] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
];

impl Export<'_> {
    pub(super) fn merged(&self, out: &Path, precision: Precision, tuned: &LowRank) -> Result<Exported> {
        let ModelKind::HuggingFace(base) = &self.files.kind else {
            return Err(Error::model(
                &self.files.root,
                "is a GGUF file, which has no config.json to go with safetensors; export --format merged-gguf",
            ));
        };
        let (embedding, head) = self.decoder.vocabulary_paths();
        if self.decoder.spec.tied_head && (tuned.embedding.is_some() || tuned.head.is_some()) {
            let message =
                "the adapter replaces the embedding or the head of a model that ties them; one tensor cannot hold both";
            return Err(Error::model(self.directory, message));
        }
        self.refuse_new_biases(tuned)?;
        std::fs::create_dir_all(out).map_err(Error::io(out, "create"))?;
        let (dtype, size) = match precision {
            Precision::F32 => (Dtype::F32, 4),
            Precision::F16 => (Dtype::F16, 2),
            Precision::Bf16 | Precision::Q8_0 => (Dtype::BF16, 2),
        };
        let encode = |values: &[f32]| -> Vec<u8> {
            let mut bytes = Vec::with_capacity(values.len() * size);
            for value in values {
                match dtype {
                    Dtype::F32 => bytes.extend_from_slice(&value.to_le_bytes()),
                    Dtype::F16 => bytes.extend_from_slice(&f16::from_f32(*value).to_le_bytes()),
                    _ => bytes.extend_from_slice(&bf16::from_f32(*value).to_le_bytes()),
                }
            }
            bytes
        };
        let mut files = Vec::new();
        for path in &base.weights {
            let map = map_file(path)?;
            let file = SafeTensors::deserialize(&map)
                .map_err(|e| Error::model(path, format!("not a safetensors file, truncated or corrupt: {e}")))?;
            let mut tensors: Vec<Stored> = Vec::new();
            for (name, view) in file.iter() {
                let module = name.strip_suffix(".weight").unwrap_or(name);
                if name.contains(".experts.gate_up_proj") || name.contains(".experts.down_proj") {
                    let message =
                        format!("tensor `{name}` holds all experts together, which cannot be merged into yet");
                    return Err(Error::model(path, message));
                }
                let whole = match module {
                    m if m == embedding => tuned.embedding.as_ref(),
                    m if m == head => tuned.head.as_ref(),
                    _ => None,
                };
                let linear = self.decoder.linears().find(|l| l.path == module);
                let values = match (whole, linear) {
                    (Some(matrix), _) => {
                        let mut values = Vec::new();
                        matrix.for_blocks(|_, block| values.extend_from_slice(block));
                        Some(values)
                    }
                    // FP8 is widened wherever it stands: its scales are not written.
                    (None, Some(linear)) => {
                        let values = merged(linear, tuned)?;
                        let transposed = self.decoder.names().transposed;
                        Some(if transposed { transpose(&values, linear.frozen.weight.cols) } else { values })
                    }
                    (None, None) => match name.strip_suffix(".bias") {
                        Some(of) => match self.decoder.linears().find(|l| l.path == of) {
                            Some(linear) => merged_bias(linear, tuned)?,
                            None => None,
                        },
                        None => None,
                    },
                };
                if name.ends_with("_scale_inv") {
                    continue;
                }
                let shape = view.shape().to_vec();
                tensors.push(match values {
                    Some(values) => (name.to_owned(), shape, dtype, encode(&values)),
                    None => (name.to_owned(), shape, view.dtype(), view.data().to_vec()),
                });
            }
            let target = out.join(path.file_name().unwrap_or_default());
            write_tensors(&target, &tensors)?;
            files.push(target);
        }
        for name in BESIDE.iter().copied().chain(["model.safetensors.index.json"]) {
            let from = base.dir.join(name);
            if from.is_file() {
                let bytes = std::fs::read(&from).map_err(Error::io(&from, "read"))?;
                crate::files::write_atomically(&out.join(name), &bytes)?;
                files.push(out.join(name));
            }
        }
        let text = std::fs::read_to_string(&base.config).map_err(Error::io(&base.config, "read"))?;
        let mut config: Value =
            serde_json::from_str(&text).map_err(|e| Error::input(&base.config, e.line(), e.to_string()))?;
        if let Some(map) = config.as_object_mut() {
            let name = match dtype {
                Dtype::F32 => "float32",
                Dtype::F16 => "float16",
                _ => "bfloat16",
            };
            map.insert("torch_dtype".into(), Value::from(name));
            map.remove("dtype");
            map.remove("quantization_config");
        }
        let config = serde_json::to_string_pretty(&config).map_err(|e| Error::failed(e.to_string()))?;
        crate::files::write_atomically(&out.join("config.json"), config.as_bytes())?;
        files.push(out.join("config.json"));

        let config =
            ModelConfig { source: out.display().to_string(), sha256: None, chat_template: None, context: None };
        let read_back = load_decoder(&source::resolve(&config, &mut |_| {})?, &config)?;
        let expected = logits(self.decoder, self.probe, Some(tuned))?;
        let difference = compare(&expected, &logits(&read_back, self.probe, None)?)?;
        Ok(Exported { files, difference })
    }

    /// Says no to biases that the base's configuration has no place for.
    fn refuse_new_biases(&self, tuned: &LowRank) -> Result<()> {
        for linear in self.decoder.linears().filter(|l| l.frozen.bias.is_none()) {
            if merged_bias(linear, tuned)?.is_some() {
                let message =
                    format!("the adapter gives `{}` a bias, and base's configuration has none there", linear.path);
                return Err(Error::model(self.directory, message));
            }
        }
        Ok(())
    }
}

/// (rows, cols) → (cols, rows).
fn transpose(values: &[f32], cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| values.iter().skip(col).step_by(cols).copied()).collect()
}
