//! Hugging Face's `config.json`. Missing keys have transformers' defaults.

use std::path::Path;

use serde_json::Value;

use super::hf_keys::Keys;
use super::{DecoderSpec, Family};
use crate::error::{Error, Result};
use crate::model::formats::json::read_json;

pub(super) fn read(path: &Path) -> Result<DecoderSpec> {
    parse(path, &read_json(path)?)
}

/// Reads the content of a `config.json`; `path` is for messages.
pub(super) fn parse(path: &Path, value: &Value) -> Result<DecoderSpec> {
    let Value::Object(map) = value else {
        return Err(Error::model(path, "is not a JSON object"));
    };
    super::check_supported(path, value)?;
    let keys = Keys { path, map };
    let name = keys.text("model_type")?;
    let family = Family::named(path, name, Family::name)?;
    (family.facts().from_config)(&keys, family)
}
