//! `[backend] gpu_layers` and `device`: what llama.cpp computes on a GPU.

use serde::{Deserialize, Serialize};

/// The kind of GPU that this program is built for.
pub const GPU: Option<&str> = if cfg!(feature = "cuda") {
    Some("cuda")
} else if cfg!(feature = "metal") {
    Some("metal")
} else if cfg!(feature = "vulkan") {
    Some("vulkan")
} else {
    None
};

/// More layers than any model has: a slip.
const MOST_LAYERS: u32 = 10_000;

/// What of the model a GPU computes. The rest, and the embedding, stay on the CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuConfig {
    /// Last layers, the head counted as one; `None`: all.
    pub layers: Option<u32>,
    /// llama.cpp's names of devices, such as `CUDA0`; empty: every GPU that it finds.
    pub devices: Vec<String>,
}

impl GpuConfig {
    /// As it decides an answer.
    #[must_use]
    pub fn described(&self) -> String {
        let layers = self.layers.map_or_else(|| "all layers".to_owned(), |n| format!("{n} layers"));
        let kind = GPU.unwrap_or("gpu");
        if self.devices.is_empty() {
            format!("{kind}, {layers}")
        } else {
            format!("{kind}, {layers} on {}", self.devices.join(" and "))
        }
    }
}

/// How many layers, as it is written.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub(super) enum RawLayers {
    Count(u32),
    Word(AllLayers),
}

/// `"all"`.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(super) enum AllLayers {
    All,
}

/// One device, or several.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub(super) enum Devices {
    One(String),
    Several(Vec<String>),
}

/// What is on a GPU: nothing of a backend but llama.cpp, all by default where the program is built for one. Or the key that is wrong,
/// and why.
pub(super) fn resolve(
    backend: &str,
    layers: Option<RawLayers>,
    devices: Option<Devices>,
) -> Result<Option<GpuConfig>, (&'static str, String)> {
    let given = [("gpu_layers", layers.is_some()), ("device", devices.is_some())];
    let given = given.into_iter().find_map(|(key, given)| given.then_some(key));
    if let (Some(key), false) = (given, matches!(backend, "llama-cpp" | "llama-cpp-f32")) {
        return Err((
            key,
            format!(
                "is for llama.cpp, and the backend is {backend}; say [backend] name = \"llama-cpp\", or take it out"
            ),
        ));
    }
    let devices = match devices {
        None => Vec::new(),
        Some(Devices::One(device)) => vec![device],
        Some(Devices::Several(devices)) => devices,
    };
    if devices.iter().any(|device| device.trim().is_empty()) {
        return Err((
            "device",
            "names a device of no characters; give llama.cpp's name of it, such as \"CUDA0\"".into(),
        ));
    }
    let layers = match layers {
        Some(RawLayers::Count(0)) if !devices.is_empty() => {
            return Err((
                "device",
                "names a GPU, and gpu_layers = 0 leaves everything on the CPU; take one out".into(),
            ));
        }
        Some(RawLayers::Count(0)) => return Ok(None),
        Some(RawLayers::Count(n)) if n > MOST_LAYERS => {
            return Err(("gpu_layers", format!("is {n}, expected 0 to {MOST_LAYERS}, or \"all\"")));
        }
        Some(RawLayers::Count(n)) => Some(n),
        Some(RawLayers::Word(AllLayers::All)) | None => None,
    };
    match (GPU, given) {
        (None, Some(key)) => Err((
            key,
            "asks for a GPU, which this program is not built for; build it with `--features cuda`, `metal` or `vulkan`, or take it out"
                .into(),
        )),
        (None, None) => Ok(None),
        (Some(_), _) => Ok(Some(GpuConfig { layers, devices })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(device: &str) -> Option<Devices> {
        Some(Devices::One(device.into()))
    }

    #[test]
    fn each_key_that_cannot_be_is_named() {
        let layers = |n| Some(RawLayers::Count(n));
        let cases = [
            (resolve("candle", layers(3), None), "gpu_layers", "the backend is candle"),
            (resolve("remote", None, one("CUDA0")), "device", "the backend is remote"),
            (resolve("llama-cpp", layers(0), one("CUDA0")), "device", "leaves everything on the CPU"),
            (resolve("llama-cpp", None, one(" ")), "device", "no characters"),
            (resolve("llama-cpp", layers(10_001), None), "gpu_layers", "expected 0 to 10000"),
        ];
        for (found, key, part) in cases {
            let (of, why) = found.expect_err(part);
            assert!(of == key && why.contains(part), "{of}: {why}");
        }
    }

    #[test]
    fn a_program_uses_the_gpu_it_is_built_for_and_asks_for_another_build_otherwise() {
        assert_eq!(resolve("llama-cpp", Some(RawLayers::Count(0)), None), Ok(None));
        let all = resolve("llama-cpp", None, None);
        let some = resolve("llama-cpp-f32", Some(RawLayers::Count(7)), one("Vulkan1"));
        if GPU.is_some() {
            assert_eq!(all, Ok(Some(GpuConfig::default())));
            let some = some.expect("right").expect("a GPU");
            assert!(some.described().ends_with("7 layers on Vulkan1"), "{}", some.described());
        } else {
            assert_eq!(all, Ok(None));
            let (key, why) = some.expect_err("no GPU in this build");
            assert!(key == "gpu_layers" && why.contains("--features cuda"), "{key}: {why}");
        }
    }
}
