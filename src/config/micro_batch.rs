//! `[train] micro_batch_size`: how many examples are computed at once.

use serde::de::{Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Examples of a micro-batch, where a recipe does not say.
const USUAL: usize = 4;

/// `[train] micro_batch_size`: a number, or `"auto"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MicroBatch {
    /// So many examples.
    Examples(usize),
    /// As many as fit into memory, of the examples of an optimizer step. A step has the examples that it has with a number of 4.
    Auto,
}

impl MicroBatch {
    /// The number; with `auto` the usual one, 4.
    #[must_use]
    pub fn examples(self) -> usize {
        match self {
            Self::Examples(examples) => examples,
            Self::Auto => USUAL,
        }
    }
}

impl Default for MicroBatch {
    fn default() -> Self {
        Self::Examples(USUAL)
    }
}

impl From<usize> for MicroBatch {
    fn from(examples: usize) -> Self {
        Self::Examples(examples)
    }
}

#[cfg(test)]
impl schemars::JsonSchema for MicroBatch {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MicroBatch".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "anyOf": [{ "type": "integer", "minimum": 1 }, { "const": "auto" }] })
    }
}

impl Serialize for MicroBatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Examples(examples) => examples.serialize(serializer),
            Self::Auto => serializer.serialize_str("auto"),
        }
    }
}

impl<'de> Deserialize<'de> for MicroBatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrAuto;
        impl Visitor<'_> for NumberOrAuto {
            type Value = MicroBatch;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number of examples or \"auto\"")
            }

            fn visit_i64<E: serde::de::Error>(self, examples: i64) -> Result<MicroBatch, E> {
                let number = usize::try_from(examples);
                number.map(MicroBatch::Examples).map_err(|_| E::invalid_value(Unexpected::Signed(examples), &self))
            }

            fn visit_u64<E: serde::de::Error>(self, examples: u64) -> Result<MicroBatch, E> {
                let number = usize::try_from(examples);
                number.map(MicroBatch::Examples).map_err(|_| E::invalid_value(Unexpected::Unsigned(examples), &self))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<MicroBatch, E> {
                match text {
                    "auto" => Ok(MicroBatch::Auto),
                    _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(NumberOrAuto)
    }
}
