//! `[backend]`: what answers.

use serde::Deserialize;

/// A backend by its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendName {
    /// The decoder of this crate, in this process.
    #[default]
    Candle,
    /// llama.cpp, in a process of its own.
    LlamaCpp,
    /// llama.cpp on the base's weights widened to f32: what it computes without its rounding of activations to 8 bits.
    LlamaCppF32,
}

impl BackendName {
    /// As it is written in a manifest and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Candle => "candle",
            Self::LlamaCpp => "llama-cpp",
            Self::LlamaCppF32 => "llama-cpp-f32",
        }
    }

    /// The backend of this name.
    ///
    /// # Errors
    /// A name that is not known, with those that are; a backend that this program was built without, with how to build it.
    pub fn parse(name: &str) -> Result<Self, String> {
        match name {
            "candle" => Ok(Self::Candle),
            "llama-cpp" if cfg!(feature = "llama-cpp") => Ok(Self::LlamaCpp),
            "llama-cpp-f32" if cfg!(feature = "llama-cpp") => Ok(Self::LlamaCppF32),
            "llama-cpp" | "llama-cpp-f32" => Err(format!(
                "{name:?}, which this program was built without; build it with `cargo build --release --features llama-cpp` \
                 (it needs cmake and libclang)"
            )),
            _ => Err(format!("{name:?}, which is not known; known are: candle, llama-cpp, llama-cpp-f32")),
        }
    }
}

/// `[backend]` as it is written.
#[derive(Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct RawBackend {
    /// Inference backend: `candle`, `llama-cpp`, or `llama-cpp-f32` (weights in f32, for a small model); default `candle`.
    pub(super) name: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_known_or_the_known_ones_are_named() {
        assert_eq!(BackendName::parse("candle"), Ok(BackendName::Candle));
        let message = BackendName::parse("vllm").expect_err("not known");
        assert!(message.contains("\"vllm\"") && message.contains("candle, llama-cpp"), "{message}");
        match BackendName::parse("llama-cpp") {
            Ok(found) => assert_eq!(found.as_str(), "llama-cpp"),
            Err(message) => assert!(message.contains("--features llama-cpp"), "{message}"),
        }
    }
}
