//! Keys of a `config.json`, and what several families write in the same ones.

use std::path::Path;

use serde_json::{Map, Value};

use super::rotary::yarn_magnitude;
use super::{Activation, MOST_PARTS, NormKind, NormSpec, RopeScaling, Rotary, Yarn};
use crate::error::{Error, Result};

/// Keys of a JSON object, with errors that name file and key.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub(super) path: &'a Path,
    pub(super) map: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn read<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || Error::model(self.path, format!("{key} is {value}, expected {expected}"));
        read(value).map(Some).ok_or_else(wrong)
    }

    pub(super) fn need<T>(&self, key: &str, found: Option<T>) -> Result<T> {
        found.ok_or_else(|| Error::model(self.path, format!("{key} is missing")))
    }

    pub(super) fn count_if(&self, key: &str) -> Result<Option<usize>> {
        self.read(key, "a whole number", |v| v.as_u64().and_then(|n| usize::try_from(n).ok()))
    }

    pub(super) fn count(&self, key: &str) -> Result<usize> {
        self.need(key, self.count_if(key)?)
    }

    /// The number of layers, of which lists are made.
    pub(super) fn layers(&self, key: &str) -> Result<usize> {
        let layers = self.count(key)?;
        if layers > MOST_PARTS {
            return Err(Error::model(self.path, format!("{key} is {layers}, expected 1 to {MOST_PARTS}")));
        }
        Ok(layers)
    }

    pub(super) fn count_or(&self, key: &str, default: usize) -> Result<usize> {
        Ok(self.count_if(key)?.unwrap_or(default))
    }

    pub(super) fn number_if(&self, key: &str) -> Result<Option<f64>> {
        self.read(key, "a number", Value::as_f64)
    }

    pub(super) fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.number_if(key)?.unwrap_or(default))
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.read(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    pub(super) fn text_or(&self, key: &str, default: &'a str) -> Result<&'a str> {
        Ok(self.read(key, "text", Value::as_str)?.unwrap_or(default))
    }

    pub(super) fn text(&self, key: &str) -> Result<&'a str> {
        self.need(key, self.read(key, "text", Value::as_str)?)
    }

    pub(super) fn object(&self, key: &str) -> Result<Option<Keys<'a>>> {
        Ok(self.read(key, "an object", Value::as_object)?.map(|map| Keys { path: self.path, map }))
    }

    /// One number or a list of them.
    pub(super) fn ids(&self, key: &str) -> Result<Vec<u32>> {
        let one = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let several = |v: &Value| match v {
            Value::Array(items) => items.iter().map(one).collect(),
            v => one(v).map(|id| vec![id]),
        };
        Ok(self.read(key, "a token or a list of tokens", several)?.unwrap_or_default())
    }

    pub(super) fn refuse(&self, key: &str, why: &str) -> Error {
        let value = self.get(key).unwrap_or(&Value::Null);
        Error::model(self.path, format!("{key} is {value}: {why}"))
    }

    /// A key that must be absent, null, false or 0.
    pub(super) fn must_be_off(&self, key: &str) -> Result<()> {
        match self.get(key) {
            None | Some(Value::Bool(false)) => Ok(()),
            Some(value) if value.as_f64() == Some(0.0) => Ok(()),
            Some(_) => Err(self.refuse(key, "this is not supported")),
        }
    }
}

/// `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (4).
pub(super) fn rotary(keys: &Keys<'_>, dim: usize, interleaved: bool) -> Result<Rotary> {
    let inner = match keys.object("rope_parameters")? {
        Some(parameters) => Some(parameters),
        None => keys.object("rope_scaling")?,
    };
    let own = inner.map(|i| i.number_if("rope_theta")).transpose()?.flatten();
    let theta = own.map_or_else(|| keys.number_or("rope_theta", 10_000.0), Ok)?;
    let context = keys.count_if("max_position_embeddings")?.unwrap_or(2048);
    let scaling = inner.map_or(Ok(RopeScaling::None), |inner| scaling(&inner, context))?;
    Ok(Rotary { theta, dim, interleaved, scaling })
}

pub(super) fn scaling(keys: &Keys<'_>, context: usize) -> Result<RopeScaling> {
    let need = |key: &str| keys.need(key, keys.number_if(key)?);
    let kind = if keys.get("rope_type").is_some() { "rope_type" } else { "type" };
    match keys.text_or(kind, "default")? {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: need("factor")? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: need("factor")?,
            low_freq_factor: need("low_freq_factor")?,
            high_freq_factor: need("high_freq_factor")?,
            original_context: keys.count("original_max_position_embeddings")?,
        }),
        "yarn" => {
            let factor = need("factor")?;
            let magnitude = match keys.number_if("attention_factor")? {
                Some(given) => given,
                None => match (keys.number_if("mscale")?, keys.number_if("mscale_all_dim")?) {
                    (Some(m), Some(all)) if m != 0.0 && all != 0.0 => {
                        yarn_magnitude(factor, m) / yarn_magnitude(factor, all)
                    }
                    _ => yarn_magnitude(factor, 1.0),
                },
            };
            Ok(RopeScaling::Yarn(Yarn {
                factor,
                original_context: keys.count_or("original_max_position_embeddings", context)?,
                beta_fast: keys.number_or("beta_fast", 32.0)?,
                beta_slow: keys.number_or("beta_slow", 1.0)?,
                truncate: keys.flag("truncate", true)?,
                magnitude,
            }))
        }
        _ => Err(keys.refuse(kind, "this rope_type is not known; known are: default, linear, llama3, yarn")),
    }
}

pub(super) fn rms(keys: &Keys<'_>) -> Result<NormSpec> {
    Ok(NormSpec { kind: NormKind::Rms, eps: keys.number_or("rms_norm_eps", 1e-6)? })
}

pub(super) fn activation(keys: &Keys<'_>, key: &str, default: &'static str) -> Result<Activation> {
    Activation::named(keys.path, keys.text_or(key, default)?)
}

/// Which layers slide, when `layer_types` says so.
pub(super) fn layer_types(keys: &Keys<'_>, layers: usize) -> Result<Option<Vec<bool>>> {
    let Some(types) = keys.read("layer_types", "a list", Value::as_array)? else { return Ok(None) };
    if types.len() != layers {
        let message = format!("layer_types names {} layers, but num_hidden_layers is {layers}", types.len());
        return Err(Error::model(keys.path, message));
    }
    let slides = |value: &Value| match value.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => Err(Error::model(
            keys.path,
            format!("layer_types holds {value}, expected \"full_attention\" or \"sliding_attention\""),
        )),
    };
    types.iter().map(slides).collect::<Result<_>>().map(Some)
}
