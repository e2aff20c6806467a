//! The adapter by itself: PEFT's directory, and llama.cpp's GGUF form.

use std::path::Path;

use candle_core::quantized::QTensor;
use candle_core::quantized::gguf_file::Value;

use super::check::{compare, logits};
use super::{Export, Exported};
use crate::adapter::{self, ADAPTER_CONFIG, ADAPTER_WEIGHTS};
use crate::config::AdapterDtype;
use crate::error::{Error, Result};
use crate::model::ModelKind;
use crate::model::linear::LowRank;

impl Export<'_> {
    pub(super) fn peft(&self, out: &Path, tuned: &LowRank) -> Result<Exported> {
        if self.scale != 1.0 {
            return Err(self.no_scale());
        }
        let names = [ADAPTER_WEIGHTS, ADAPTER_CONFIG];
        let files = names.map(|name| out.join(name)).to_vec();
        if adapter::is_gguf(self.directory) {
            adapter::save(self.adapter, out, AdapterDtype::F32)?;
        } else {
            std::fs::create_dir_all(out).map_err(Error::io(out, "create"))?;
            for (name, to) in names.iter().zip(&files) {
                let from = self.directory.join(name);
                let bytes = std::fs::read(&from).map_err(Error::io(&from, "read"))?;
                crate::files::write_atomically(to, &bytes)?;
            }
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
        let names = self.decoder.names();
        if let ModelKind::Gguf(base) = &self.files.kind
            && tuned.pairs.keys().any(|path| path.ends_with(&format!(".{}", names.kv_b)))
            && super::gguf::has_tensor(base, "attn_k_b.weight")?
        {
            return Err(self.no_gguf("changes of kv_b, which this base holds as attn_k_b and attn_v_b and"));
        }
        let tensors = adapter::gguf::tensors(tuned, self.decoder, self.directory)?;
        let metadata = adapter::gguf::metadata(&self.decoder.spec, adapter::gguf::ALPHA);
        let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
        let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        super::gguf::write(out, &metadata, &tensors)?;
        let read_back = adapter::open(out, self.decoder)?.attached(self.decoder, 1.0)?;
        let expected = logits(self.decoder, self.probe, Some(tuned))?;
        let difference = compare(&expected, &logits(self.decoder, self.probe, Some(&read_back))?)?;
        Ok(Exported { files: vec![out.to_path_buf()], difference })
    }

    fn no_gguf(&self, what: &str) -> Error {
        adapter::gguf::cannot_hold(self.directory, what)
    }
}
