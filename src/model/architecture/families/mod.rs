//! The families of models that the decoder computes, one file each: all that is known of a family is its [`Facts`].

mod bloom;
mod classic;
mod deepseek;
mod falcon;
mod foreign;
mod gemma;
mod gpt2;
mod llama;
mod mpt;
mod qwen;

use std::path::Path;

use serde_json::Value;

pub(crate) use foreign::FOREIGN;

use super::names::Names;
use super::rows::GgufRows;
use super::{DecoderSpec, gguf_keys, hf_keys, unsupported};
use crate::error::{Error, Result};

/// What no family's training through llama.cpp can pass.
pub(crate) const NO_EXPERTS: &str = "the choice of experts";

/// All that is known of a family.
pub(crate) struct Facts {
    /// `model_type` in `config.json`.
    pub(crate) name: &'static str,
    /// `general.architecture` in GGUF.
    pub(crate) architecture: &'static str,
    /// What transformers calls its model.
    pub(crate) class: &'static str,
    /// What Hugging Face calls its tensors.
    pub(crate) names: Names,
    /// The same where the feed-forward, beside the attention, has a norm of its own; `None`: no different.
    pub(crate) names_with_own_norm: Option<Names>,
    /// How GGUF orders its rows.
    pub(crate) rows: GgufRows,
    /// What the weights of its norms are stored without in Hugging Face's files.
    pub(crate) norms_less: f64,
    /// Reads `config.json`.
    pub(super) from_config: fn(&hf_keys::Keys<'_>, Family) -> Result<DecoderSpec>,
    /// Reads GGUF's metadata.
    pub(super) from_gguf: fn(&gguf_keys::Keys<'_>, Family) -> Result<DecoderSpec>,
    /// Its own part of a `config.json`; `None` where that form cannot say it.
    pub(super) to_config: fn(&DecoderSpec) -> Option<Value>,
    /// What of its graph llama.cpp has no backward of; `None`: it can be trained there.
    pub(crate) without_backward: Option<&'static str>,
}

/// A family of models that can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 1 to 3.x and what has its form: SmolLM2, TinyLlama, DeepSeek's distilled Llamas, …
    Llama,
    /// Qwen 1.5, 2 and 2.5.
    Qwen2,
    /// Qwen 1.5 and 2 with experts and one shared expert behind a gate.
    Qwen2Moe,
    /// Qwen 3.
    Qwen3,
    /// Qwen 3 with experts.
    Qwen3Moe,
    /// DeepSeek-V2.
    DeepseekV2,
    /// DeepSeek-V3 and R1.
    DeepseekV3,
    /// Gemma 3, text only.
    Gemma3,
    /// BLOOM.
    Bloom,
    /// MPT.
    Mpt,
    /// Falcon 7B, 40B and 180B, and Falcon-RW.
    Falcon,
    /// GPT-2.
    Gpt2,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Llama,
        Self::Qwen2,
        Self::Qwen2Moe,
        Self::Qwen3,
        Self::Qwen3Moe,
        Self::DeepseekV2,
        Self::DeepseekV3,
        Self::Gemma3,
        Self::Bloom,
        Self::Mpt,
        Self::Falcon,
        Self::Gpt2,
    ];

    /// What is known of it.
    pub(crate) fn facts(self) -> &'static Facts {
        match self {
            Self::Llama => &llama::FACTS,
            Self::Qwen2 => &qwen::QWEN2,
            Self::Qwen2Moe => &qwen::QWEN2_MOE,
            Self::Qwen3 => &qwen::QWEN3,
            Self::Qwen3Moe => &qwen::QWEN3_MOE,
            Self::DeepseekV2 => &deepseek::V2,
            Self::DeepseekV3 => &deepseek::V3,
            Self::Gemma3 => &gemma::GEMMA3,
            Self::Bloom => &bloom::BLOOM,
            Self::Mpt => &mpt::MPT,
            Self::Falcon => &falcon::FALCON,
            Self::Gpt2 => &gpt2::GPT2,
        }
    }

    /// Its name in `config.json`: `model_type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// Its name in GGUF: `general.architecture`.
    #[must_use]
    pub fn architecture(self) -> &'static str {
        self.facts().architecture
    }

    pub(super) fn named(path: &Path, name: &str, of: impl Fn(Self) -> &'static str) -> Result<Self> {
        Self::ALL.into_iter().find(|f| of(*f) == name).ok_or_else(|| Self::unknown(path, name, of))
    }

    pub(super) fn unknown(path: &Path, name: &str, of: impl Fn(Self) -> &'static str) -> Error {
        let mut known: Vec<&str> = Self::ALL.iter().map(|f| of(*f)).collect();
        known.dedup();
        let known = known.join(", ");
        // llama.cpp reads GGUF alone.
        let gguf = path.extension().is_none_or(|e| e != "json");
        let other = unsupported::instead(name, gguf);
        Error::model(path, format!("model family `{name}` is not known; known are: {known}{other}"))
    }
}

/// The families that llama.cpp can train, by GGUF's names, and what the others lack for it.
#[cfg_attr(not(feature = "llama-cpp"), expect(dead_code, reason = "only llama.cpp's training asks"))]
pub(crate) fn without_backward() -> impl Iterator<Item = (&'static str, Option<&'static str>)> {
    let own = Family::ALL.into_iter().map(|family| (family.architecture(), family.facts().without_backward));
    own.chain(FOREIGN.iter().map(|foreign| (foreign.architecture, foreign.without_backward)))
}
