//! The metadata of a GGUF file, by keys that begin with the name of its architecture.

use std::path::Path;

use candle_core::quantized::gguf_file::Value;

use super::{Family, MOST_PARTS};
use crate::error::{Error, Result};
use crate::model::formats::gguf::Header;

/// Longest name of an architecture.
const LONGEST_NAME: usize = 64;

/// Keys that begin with the architecture's name.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'a> {
    pub(crate) path: &'a Path,
    pub(crate) header: &'a Header,
    /// GGUF's name of the model's family: letters, digits, `-`, `_` and `.`.
    pub(crate) architecture: &'a str,
}

impl<'a> Keys<'a> {
    /// Those of a file.
    ///
    /// # Errors
    /// `general.architecture` is missing or no name.
    pub(crate) fn of(path: &'a Path, header: &'a Header) -> Result<Self> {
        let part = |c: char| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c);
        let refuse = |what: &str| Err(Error::model(path, format!("metadata `general.architecture` {what}")));
        match header.metadata.get("general.architecture") {
            None => refuse("is missing"),
            // It stands in reports, and before the names of other keys.
            Some(Value::String(name)) if name.len() <= LONGEST_NAME && name.chars().all(part) => {
                Ok(Self { path, header, architecture: name })
            }
            Some(_) => refuse("is no family's name, expected letters, digits, `-`, `_` and `.`"),
        }
    }

    /// The family, where this crate's decoder knows it.
    ///
    /// # Errors
    /// Metadata of another type.
    pub(crate) fn family(&self) -> Result<Option<Family>> {
        let found = Family::ALL.into_iter().find(|family| family.architecture() == self.architecture);
        Ok(match found {
            // Two families are `deepseek2`; only V3 has the correction bias of the router, or sigmoid scores.
            Some(Family::DeepseekV2 | Family::DeepseekV3) => {
                let sigmoid = self.count_if("expert_gating_func")? == Some(2);
                let v3 = sigmoid || self.has_suffix("exp_probs_b.bias");
                Some(if v3 { Family::DeepseekV3 } else { Family::DeepseekV2 })
            }
            other => other,
        })
    }

    /// A value by its whole key.
    pub(super) fn optional<T>(&self, key: &str, read: impl Fn(&Value) -> candle_core::Result<T>) -> Result<Option<T>> {
        let value = self.header.metadata.get(key).map(read).transpose();
        value.map_err(|e| {
            // Behind its first line may be a backtrace.
            let why = e.to_string();
            Error::model(self.path, format!("metadata `{key}`: {}", why.lines().next().unwrap_or_default()))
        })
    }

    fn required<T>(&self, key: &str, read: impl Fn(&Value) -> candle_core::Result<T>) -> Result<T> {
        self.optional(key, read)?.ok_or_else(|| Error::model(self.path, format!("metadata `{key}` is missing")))
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    pub(crate) fn count_if(&self, name: &str) -> Result<Option<usize>> {
        Ok(self.optional(&self.key(name), integer)?.and_then(|n| usize::try_from(n).ok()))
    }

    pub(crate) fn count(&self, name: &str) -> Result<usize> {
        Ok(self.required(&self.key(name), integer)? as usize)
    }

    pub(super) fn number_if(&self, name: &str) -> Result<Option<f64>> {
        self.optional(&self.key(name), |v| v.to_f32().map(f64::from).or_else(|_| v.to_f64()))
    }

    pub(super) fn number(&self, name: &str) -> Result<f64> {
        let key = self.key(name);
        self.number_if(name)?.ok_or_else(|| Error::model(self.path, format!("metadata `{key}` is missing")))
    }

    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>> {
        self.optional(&self.key(name), Value::to_bool)
    }

    pub(super) fn text_if(&self, name: &str) -> Result<Option<String>> {
        self.optional(&self.key(name), |v| v.to_string().cloned())
    }

    /// Is there a tensor of this name?
    pub(crate) fn has(&self, tensor: &str) -> bool {
        self.header.tensors.contains_key(tensor)
    }

    pub(super) fn has_suffix(&self, suffix: &str) -> bool {
        self.header.tensors.keys().any(|name| name.ends_with(suffix))
    }

    /// Which layers have a tensor of this name.
    pub(super) fn layers_with(&self, layers: usize, tensor: &str) -> Vec<bool> {
        (0..layers.min(MOST_PARTS)).map(|layer| self.has(&format!("blk.{layer}.{tensor}"))).collect()
    }

    /// Rows of a tensor of the first layer that has it.
    pub(super) fn rows(&self, suffix: &str) -> Option<usize> {
        let found = self.header.tensors.iter().find(|(name, _)| name.ends_with(suffix));
        found.and_then(|(_, info)| info.shape.first().copied())
    }
}

/// Some writers store a list with one value a layer; equal ones are one value.
pub(crate) fn integer(value: &Value) -> candle_core::Result<u64> {
    match value {
        Value::Array(items) => {
            let all = items.iter().map(Value::to_u64).collect::<candle_core::Result<Vec<_>>>()?;
            match all.first() {
                Some(first) if all.iter().all(|n| n == first) => Ok(*first),
                _ => candle_core::bail!("the layers differ ({all:?}), which is not supported"),
            }
        }
        // Signed and unsigned of every width.
        Value::I32(n) if *n >= 0 => Ok(*n as u64),
        Value::I64(n) if *n >= 0 => Ok(*n as u64),
        value => value.to_u64(),
    }
}
