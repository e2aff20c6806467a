//! The adapter by itself: PEFT's directory, and llama.cpp's GGUF form.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::check::{compare, logits};
use super::{Export, Exported};
use crate::adapter::{self, ADAPTER_CONFIG, ADAPTER_WEIGHTS};
use crate::error::{Error, Result};
use crate::model::ModelKind;
use crate::model::linear::{LowRank, Pair};
use crate::model::loader::file_order;
use crate::model::names::{Names, gguf_rows};

impl Export<'_> {
    pub(super) fn peft(&self, out: &Path, tuned: &LowRank) -> Result<Exported> {
        if self.scale != 1.0 {
            return Err(self.no_scale());
        }
        std::fs::create_dir_all(out).map_err(Error::io(out, "create"))?;
        let mut files = Vec::new();
        for name in [ADAPTER_WEIGHTS, ADAPTER_CONFIG] {
            let from = self.directory.join(name);
            let bytes = std::fs::read(&from).map_err(Error::io(&from, "read"))?;
            crate::files::write_atomically(&out.join(name), &bytes)?;
            files.push(out.join(name));
        }
        let read_back = adapter::load(out)?.attached(self.decoder, 1.0)?;
        let expected = logits(self.decoder, self.probe, Some(tuned))?;
        let difference = compare(&expected, &logits(self.decoder, self.probe, Some(&read_back))?)?;
        Ok(Exported { files, difference })
    }

    pub(super) fn gguf_adapter(&self, out: &Path, tuned: &LowRank) -> Result<Exported> {
        if tuned.embedding.is_some() || tuned.head.is_some() {
            return Err(self.no_gguf("modules_to_save"));
        }
        if tuned.pairs.values().any(|pair| pair.rows.is_some()) {
            return Err(self.no_gguf("DoRA"));
        }
        if tuned.pairs.values().any(|pair| pair.bias.is_some()) {
            return Err(self.no_gguf("biases"));
        }
        let spec = &self.decoder.spec;
        let names = self.decoder.names();
        if let ModelKind::Gguf(base) = &self.files.kind
            && tuned.pairs.keys().any(|path| path.ends_with(&format!(".{}", names.kv_b)))
            && super::gguf::has_tensor(base, "attn_k_b.weight")?
        {
            return Err(self.no_gguf("changes of kv_b, which this base holds as attn_k_b and attn_v_b and"));
        }
        let tensors = gguf_tensors(self, tuned, &names)?;
        let text = |value: &str| Value::String(value.to_owned());
        // llama.cpp multiplies by alpha / rank; each layer's own scale is in its B, so alpha is the rank.
        let metadata = [
            ("general.architecture", text(spec.family.architecture())),
            ("general.type", text("adapter")),
            ("adapter.type", text("lora")),
            ("adapter.lora.alpha", Value::F32(ALPHA)),
        ];
        let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
        let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        super::gguf::write(out, &metadata, &tensors)?;
        let read_back = self.read_gguf_adapter(out, &names)?;
        let expected = logits(self.decoder, self.probe, Some(tuned))?;
        let difference = compare(&expected, &logits(self.decoder, self.probe, Some(&read_back))?)?;
        Ok(Exported { files: vec![out.to_path_buf()], difference })
    }

    fn no_gguf(&self, what: &str) -> Error {
        let message =
            format!("the adapter has {what}, which llama.cpp's adapters cannot hold; export --format merged-gguf");
        Error::model(self.directory, message)
    }

    /// The adapter that a GGUF file holds, in Hugging Face's order of rows.
    fn read_gguf_adapter(&self, path: &Path, names: &Names) -> Result<LowRank> {
        let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
        let content = Content::read(&mut Cursor::new(&bytes))?;
        let mut reader = Cursor::new(&bytes);
        let alpha = f64::from(content.metadata.get("adapter.lora.alpha").map_or(Ok(0.0), Value::to_f32)?);
        let mut low_rank = LowRank::default();
        let stems: Vec<&str> = content.tensor_infos.keys().filter_map(|name| name.strip_suffix(".lora_a")).collect();
        for stem in stems {
            let mut read = |kind: &str| {
                content.tensor(&mut reader, &format!("{stem}.{kind}"), &Device::Cpu)?.dequantize(&Device::Cpu)
            };
            let (a, b) = (read("lora_a")?, read("lora_b")?);
            let path = names.hugging_face(stem);
            let path = path.strip_suffix(".weight").unwrap_or(&path);
            if a.rank() == 3 {
                let (all, part) = path.rsplit_once('.').unwrap_or((path, ""));
                for expert in 0..a.dim(0)? {
                    let (a, b) = (a.get(expert)?, b.get(expert)?);
                    let scale = alpha / a.dim(0)? as f64;
                    let pair = Pair { a, b, scale, rows: None, bias: None };
                    low_rank.pairs.insert(format!("{all}.{expert}.{part}"), pair);
                }
                continue;
            }
            let scale = alpha / a.dim(0)? as f64;
            let b = match file_order(&self.decoder.spec, names, gguf_rows(self.decoder.spec.family), path, b.dim(0)?) {
                None => b,
                Some(order) => {
                    let rows: Vec<u32> = order.iter().map(|row| *row as u32).collect();
                    b.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?
                }
            };
            low_rank.pairs.insert(path.to_owned(), Pair { a, b, scale, rows: None, bias: None });
        }
        Ok(low_rank)
    }
}

/// What llama.cpp divides by the rank; B holds the rest.
const ALPHA: f32 = 16.0;

/// A and B of every layer under llama.cpp's names and in its order of rows; those of experts together.
fn gguf_tensors(export: &Export<'_>, tuned: &LowRank, names: &Names) -> Result<Vec<(String, QTensor)>> {
    let spec = &export.decoder.spec;
    let f32s = |tensor: &Tensor| QTensor::quantize(&tensor.contiguous()?, GgmlDType::F32);
    let scaled = |pair: &Pair| -> Result<Tensor> {
        let factor = pair.scale * pair.a.dim(0)? as f64 / f64::from(ALPHA);
        Ok((&pair.b * factor)?)
    };
    let mut tensors = Vec::new();
    let mut experts: BTreeMap<String, BTreeMap<usize, &Pair>> = BTreeMap::new();
    for (path, pair) in &tuned.pairs {
        if let Some((stack, expert)) = names.expert(path) {
            experts.entry(stack).or_default().insert(expert, pair);
            continue;
        }
        let no_name = || Error::model(export.directory, format!("`{path}` has no name in GGUF"));
        let name = names.gguf(path).ok_or_else(no_name)?;
        let b = scaled(pair)?;
        let b = match file_order(spec, names, gguf_rows(spec.family), path, b.dim(0)?) {
            None => b,
            Some(order) => {
                let mut back = vec![0u32; order.len()];
                order.iter().enumerate().for_each(|(row, at)| back[*at] = row as u32);
                b.index_select(&Tensor::new(back, &Device::Cpu)?, 0)?
            }
        };
        tensors.push((format!("{name}.weight.lora_a"), f32s(&pair.a)?));
        tensors.push((format!("{name}.weight.lora_b"), f32s(&b)?));
    }
    for (stack, pairs) in experts {
        let count = spec.feed_forward.experts.as_ref().map_or(0, |e| e.count);
        let no_name = || Error::model(export.directory, format!("`{stack}` has no name in GGUF"));
        let name = names.gguf(&stack).ok_or_else(no_name)?;
        let Some(first) = pairs.values().next() else { continue };
        if pairs.values().any(|pair| pair.a.shape() != first.a.shape()) {
            return Err(export.no_gguf("experts of unequal rank"));
        }
        let (zero_a, zero_b) = (first.a.zeros_like()?, first.b.zeros_like()?);
        let a: Vec<Tensor> = (0..count).map(|e| pairs.get(&e).map_or(&zero_a, |p| &p.a).clone()).collect();
        let b = (0..count).map(|e| pairs.get(&e).map_or(Ok(zero_b.clone()), |p| scaled(p)));
        tensors.push((format!("{name}.weight.lora_a"), f32s(&Tensor::stack(&a, 0)?)?));
        tensors.push((format!("{name}.weight.lora_b"), f32s(&Tensor::stack(&b.collect::<Result<Vec<_>>>()?, 0)?)?));
    }
    Ok(tensors)
}
