//! `[model] dtype` and `[train] bf16`: what products with the base's weights are computed in.

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `[model] dtype`, as other tools name a model's precision: of products with the base's weights when it is asked. All else is in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, serde::Serialize))]
#[serde(rename_all = "kebab-case")]
pub enum Dtype {
    /// The reference, and the default.
    #[default]
    #[serde(alias = "float32")]
    F32,
    /// Both sides of a product are rounded to bf16, and summed in f32: faster where the processor has instructions for it.
    #[serde(alias = "bfloat16")]
    Bf16,
    /// `bf16` where the processor has instructions for it, else `f32`.
    Auto,
}

/// `[train] bf16`: `false`, `true` or `"auto"`. Adapters, gradients and the optimizer are in f32 all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bf16 {
    /// Products with the base's weights are in f32: the reference, and the default.
    #[default]
    No,
    /// They are of values rounded to bf16, summed in f32.
    Yes,
    /// `true` where the processor has instructions for it, else `false`.
    Auto,
}

impl Bf16 {
    pub(super) fn is_no(&self) -> bool {
        *self == Self::No
    }

    /// The same of a model.
    #[must_use]
    pub fn dtype(self) -> Dtype {
        match self {
            Self::No => Dtype::F32,
            Self::Yes => Dtype::Bf16,
            Self::Auto => Dtype::Auto,
        }
    }
}

#[cfg(test)]
impl schemars::JsonSchema for Bf16 {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Bf16".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "enum": [false, true, "auto"] })
    }
}

impl Serialize for Bf16 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::No => serializer.serialize_bool(false),
            Self::Yes => serializer.serialize_bool(true),
            Self::Auto => serializer.serialize_str("auto"),
        }
    }
}

impl<'de> Deserialize<'de> for Bf16 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BoolOrAuto;
        impl Visitor<'_> for BoolOrAuto {
            type Value = Bf16;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("true, false or \"auto\"")
            }

            fn visit_bool<E: serde::de::Error>(self, yes: bool) -> Result<Bf16, E> {
                Ok(if yes { Bf16::Yes } else { Bf16::No })
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Bf16, E> {
                match text {
                    "auto" => Ok(Bf16::Auto),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(BoolOrAuto)
    }
}
