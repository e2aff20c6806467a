//! A merged model in Hugging Face's form: out of a base in that form, or out of a GGUF file, whose configuration and tokenizer are
//! written as that form has them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use super::{Export, Exported, Precision, Tuned, merged, merged_bias, transpose};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::decoder;
use crate::model::decoder::linear::Linear;
use crate::model::formats::mapped::map_file;
use crate::model::formats::safetensors::{EncodedTensor, write_tensors};
use crate::model::ops::low_rank::LowRank;
use crate::model::ops::matrix::Matrix;
use crate::model::sources::HfFiles;
use crate::model::tokenizer::Tokenizer;
use crate::model::tokenizer::gguf_metadata;
use crate::model::{ModelKind, load_decoder, sources};

/// Files that are taken over as they are.
const BESIDE: [&str; 11] = [
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
    "model.safetensors.index.json",
];

/// Bytes of one file, as transformers 4 splits models.
const SHARD: u64 = 5_000_000_000;

/// A type of number to write.
#[derive(Clone, Copy)]
pub(super) struct Encoding(Dtype);

impl Encoding {
    pub(super) fn of(precision: Precision) -> Self {
        Self(match precision {
            Precision::F32 => Dtype::F32,
            Precision::F16 => Dtype::F16,
            Precision::Bf16 | Precision::Q8_0 => Dtype::BF16,
        })
    }

    fn bytes(self, values: &[f32]) -> Vec<u8> {
        match self.0 {
            Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Dtype::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        }
    }

    fn size(self) -> u64 {
        if self.0 == Dtype::F32 { 4 } else { 2 }
    }

    /// As `config.json` calls it.
    fn name(self) -> &'static str {
        match self.0 {
            Dtype::F32 => "float32",
            Dtype::F16 => "float16",
            _ => "bfloat16",
        }
    }
}

impl Export<'_> {
    pub(super) fn merged(&self, out: &Path, precision: Precision, tuned: &Tuned) -> Result<Exported> {
        let Tuned { low_rank, expected } = tuned;
        if self.decoder.spec.tied_head && (low_rank.embedding.is_some() || low_rank.head.is_some()) {
            let message =
                "the adapter replaces the embedding or the head of a model that ties them; one tensor cannot hold both";
            return Err(Error::model(self.directory, message));
        }
        self.refuse_new_biases(low_rank)?;
        let encoding = Encoding::of(precision);
        let files = match &self.files.kind {
            ModelKind::HuggingFace(base) => self.merge_hugging_face(base, out, encoding, low_rank)?,
            ModelKind::Gguf(base) => self.merge_gguf(base, out, encoding, low_rank, SHARD)?,
        };
        let config = ModelConfig { source: out.display().to_string(), ..ModelConfig::default() };
        let read_back = load_decoder(&sources::resolve(&config, &mut |_| {})?, &config)?;
        let difference = self.compared(expected, &read_back, None)?;
        Ok(Exported { files, difference })
    }

    fn merge_hugging_face(
        &self,
        base: &HfFiles,
        out: &Path,
        encoding: Encoding,
        tuned: &LowRank,
    ) -> Result<Vec<PathBuf>> {
        std::fs::create_dir_all(out).map_err(Error::io(out, "create"))?;
        let mut files = Vec::new();
        for path in &base.weights {
            let map = map_file(path)?;
            let file = SafeTensors::deserialize(&map)
                .map_err(|e| Error::model(path, format!("not a safetensors file, truncated or corrupt: {e}")))?;
            let mut tensors: Vec<EncodedTensor> = Vec::new();
            // Scales of FP8 are left out: the values are widened wherever they stand.
            for (name, view) in file.iter().filter(|(name, _)| !name.ends_with("_scale_inv")) {
                let (dtype, bytes) = match self.replaced_values(name, tuned)? {
                    Some(values) => (encoding.0, encoding.bytes(&values)),
                    None => (view.dtype(), view.data().to_vec()),
                };
                tensors.push(EncodedTensor { name: name.to_owned(), shape: view.shape().to_vec(), dtype, bytes });
            }
            let target = out.join(path.file_name().unwrap_or_default());
            write_tensors(&target, &tensors)?;
            files.push(target);
        }
        for name in BESIDE {
            let from = base.dir.join(name);
            if from.is_file() {
                let bytes = crate::files::read_own(&from)?;
                files.push(write(out, name, &bytes)?);
            }
        }
        let text = std::fs::read_to_string(&base.config).map_err(Error::io(&base.config, "read"))?;
        let mut config: Value =
            serde_json::from_str(&text).map_err(|e| Error::input(&base.config, e.line(), e.to_string()))?;
        if let Some(map) = config.as_object_mut() {
            map.insert("torch_dtype".into(), Value::from(encoding.name()));
            map.remove("dtype");
            map.remove("quantization_config");
        }
        files.push(write_json(out, "config.json", &config)?);
        Ok(files)
    }

    /// The values of a tensor of a base in Hugging Face's form, in that form; `None` when it stays as it is.
    fn replaced_values(&self, name: &str, tuned: &LowRank) -> Result<Option<Vec<f32>>> {
        let names = self.decoder.names();
        let (embedding, head) = self.decoder.vocabulary_paths();
        let path = name.strip_suffix(".weight").unwrap_or(name);
        let whole = match path {
            p if p == embedding => tuned.embedding.as_ref(),
            p if p == head => tuned.head.as_ref(),
            _ => None,
        };
        if let Some(matrix) = whole {
            return Ok(Some(values(matrix)));
        }
        let linear = |path: &str| self.decoder.linears().find(|l| l.path == path);
        if let Some(linear) = linear(path) {
            return self.weight(linear, tuned).map(Some);
        }
        if let Some(linear) = name.strip_suffix(".bias").and_then(linear) {
            return merged_bias(linear, tuned);
        }
        // Experts all together, gate and up of each in one: (experts, 2 · inside, hidden) and (experts, hidden, inside).
        let stack = name.rsplit_once('.').filter(|(all, _)| all.ends_with(&format!(".{}", names.experts)));
        let parts = match stack {
            Some((_, "gate_up_proj")) => vec![names.expert_gate, names.expert_up],
            Some((_, part)) if part == names.expert_down => vec![names.expert_down],
            _ => return Ok(None),
        };
        let all = stack.map_or("", |(all, _)| all);
        let count = self.decoder.spec.feed_forward.experts.as_ref().map_or(0, |e| e.count);
        let mut together = Vec::new();
        for path in (0..count).flat_map(|e| parts.iter().map(move |part| format!("{all}.{e}.{part}"))) {
            let linear = linear(&path).ok_or_else(|| Error::failed(format!("`{path}` is not among the layers")))?;
            together.extend(self.weight(linear, tuned)?);
        }
        Ok(Some(together))
    }

    /// A layer's merged weight as Hugging Face's file of the family has it.
    fn weight(&self, linear: &Linear, tuned: &LowRank) -> Result<Vec<f32>> {
        let values = merged(linear, tuned)?;
        Ok(if self.decoder.names().transposed { transpose(&values, linear.frozen.weight.cols) } else { values })
    }

    /// Writes every tensor of a decoder out of a GGUF file under its Hugging Face name, in files of at most `shard` bytes, with
    /// the configuration and tokenizer that the file says.
    pub(super) fn merge_gguf(
        &self,
        base: &Path,
        out: &Path,
        encoding: Encoding,
        tuned: &LowRank,
        shard: u64,
    ) -> Result<Vec<PathBuf>> {
        // What cannot be said is found before anything is written.
        let mut config = self.decoder.spec.to_config(&self.files.root)?;
        let tokenizer = Tokenizer::load(self.files)?;
        let tokenizer_json = tokenizer.to_json()?;
        let template = match gguf_metadata(base)?.get("tokenizer.chat_template") {
            Some(template) => {
                let wrong = |_| Error::model(base, "tokenizer.chat_template is not a string");
                Some(template.to_string().map_err(wrong)?.clone())
            }
            None => None,
        };
        std::fs::create_dir_all(out).map_err(Error::io(out, "create"))?;

        let mut files = self.write_shards(out, encoding, tuned, shard)?;
        config["torch_dtype"] = json!(encoding.name());
        config["bos_token_id"] = json!(tokenizer.bos());
        let generation = json!({"bos_token_id": tokenizer.bos(), "eos_token_id": tokenizer.stop_ids()});
        let spelt = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
        let mut tokenizer_config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": spelt(tokenizer.bos()),
            "eos_token": spelt(tokenizer.eos()),
            "add_bos_token": !tokenizer.prefix().is_empty(),
            "clean_up_tokenization_spaces": false,
            "model_max_length": self.decoder.spec.context,
        });
        if let Some(template) = template {
            tokenizer_config["chat_template"] = json!(template);
        }
        files.push(write_json(out, "config.json", &config)?);
        files.push(write_json(out, "generation_config.json", &generation)?);
        files.push(write(out, "tokenizer.json", tokenizer_json.as_bytes())?);
        files.push(write_json(out, "tokenizer_config.json", &tokenizer_config)?);
        Ok(files)
    }

    fn write_shards(&self, out: &Path, encoding: Encoding, tuned: &LowRank, shard: u64) -> Result<Vec<PathBuf>> {
        let tensors = self.decoder.tensors();
        let mut shards: Vec<Vec<&(String, decoder::Stored<'_>)>> = vec![Vec::new()];
        let mut total = 0u64;
        let mut filled = 0u64;
        for tensor in &tensors {
            let size = elements(&tensor.1) * encoding.size();
            if filled > 0 && filled + size > shard {
                shards.push(Vec::new());
                filled = 0;
            }
            filled += size;
            total += size;
            if let Some(last) = shards.last_mut() {
                last.push(tensor);
            }
        }
        let (count, mut index, mut files) = (shards.len(), BTreeMap::new(), Vec::new());
        for (i, shard) in shards.into_iter().enumerate() {
            let file = match count {
                1 => "model.safetensors".to_owned(),
                _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
            };
            let mut encoded = Vec::new();
            for (name, tensor) in shard {
                encoded.extend(self.encoded(name, tensor, encoding, tuned)?);
            }
            index.extend(encoded.iter().map(|tensor| (tensor.name.clone(), file.clone())));
            write_tensors(&out.join(&file), &encoded)?;
            files.push(out.join(&file));
        }
        if count > 1 {
            let index = json!({"metadata": {"total_size": total}, "weight_map": index});
            files.push(write_json(out, "model.safetensors.index.json", &index)?);
        }
        Ok(files)
    }

    /// A decoder's tensor with the adapter on: a layer's weight, and its bias after it.
    fn encoded(
        &self,
        name: &str,
        tensor: &decoder::Stored<'_>,
        encoding: Encoding,
        tuned: &LowRank,
    ) -> Result<Vec<EncodedTensor>> {
        let encoded = |name: String, shape: Vec<usize>, values: &[f32]| {
            let (dtype, bytes) = (encoding.0, encoding.bytes(values));
            EncodedTensor { name, shape, dtype, bytes }
        };
        Ok(match tensor {
            decoder::Stored::Vector(values) => vec![encoded(name.to_owned(), vec![values.len()], values)],
            decoder::Stored::Matrix(matrix) => {
                let values = self.replaced_values(name, tuned)?.unwrap_or_else(|| values(matrix));
                vec![encoded(name.to_owned(), vec![matrix.rows, matrix.cols], &values)]
            }
            decoder::Stored::Linear(linear) => {
                let (rows, cols) = (linear.frozen.weight.rows, linear.frozen.weight.cols);
                let shape = if self.decoder.names().transposed { vec![cols, rows] } else { vec![rows, cols] };
                let weight = encoded(format!("{name}.weight"), shape, &self.weight(linear, tuned)?);
                let bias = merged_bias(linear, tuned)?;
                let bias = bias.map(|values| encoded(format!("{name}.bias"), vec![rows], &values));
                std::iter::once(weight).chain(bias).collect()
            }
        })
    }

    /// Refuses biases that the base's configuration has no place for.
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

fn values(matrix: &Matrix) -> Vec<f32> {
    let mut values = Vec::with_capacity(matrix.rows * matrix.cols);
    matrix.for_blocks(|_, block| values.extend_from_slice(block));
    values
}

fn elements(tensor: &decoder::Stored<'_>) -> u64 {
    let size = |m: &Matrix| (m.rows * m.cols) as u64;
    match tensor {
        decoder::Stored::Matrix(matrix) => size(matrix),
        decoder::Stored::Linear(linear) => size(&linear.frozen.weight),
        decoder::Stored::Vector(values) => values.len() as u64,
    }
}

fn write_json(out: &Path, name: &str, value: &Value) -> Result<PathBuf> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::failed(e.to_string()))?;
    write(out, name, text.as_bytes())
}

fn write(out: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    crate::files::write_atomically(&out.join(name), bytes)?;
    Ok(out.join(name))
}
