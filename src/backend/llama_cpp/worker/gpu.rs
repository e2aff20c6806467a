//! Where a model's layers are computed: which GPUs, and whether their memory is enough, before anything is loaded.

use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::{LlamaBackendDevice, LlamaBackendDeviceType, list_llama_ggml_backend_devices};

use super::feed::{BATCH, CELLS};
use crate::backend::llama_cpp::protocol::Placement;
use crate::error::{Error, Result};

/// Contexts at once: base's and an arm's.
const CONTEXTS: u64 = 2;

/// How a model is loaded.
///
/// # Errors
/// There is no such device, or it has too little memory.
pub(super) fn params(placement: Option<&Placement>) -> Result<LlamaModelParams> {
    let failed = |error: &dyn std::fmt::Display| Error::failed(format!("llama.cpp does not take its devices: {error}"));
    let Some(placement) = placement else {
        // No device at all: a build for a GPU would otherwise send large products there whatever the layers are.
        return LlamaModelParams::default().with_devices(&[]).map_err(|e| failed(&e));
    };
    let gpus = chosen(placement)?;
    let places: Vec<usize> = gpus.iter().map(|gpu| gpu.index).collect();
    let params = LlamaModelParams::default().with_n_gpu_layers(layers(placement));
    params.with_devices(&places).map_err(|e| failed(&e))
}

/// What is on which GPU, for whoever waits; an error where their memory is not enough.
///
/// # Errors
/// As [`params`].
pub(super) fn check(placement: &Placement) -> Result<String> {
    let (gpus, memory) = (chosen(placement)?, &placement.memory);
    let (cells, rows) = (CELLS as u64 * CONTEXTS, BATCH as u64 * CONTEXTS);
    let (layers, free) = (layers(placement), gpus.iter().map(|gpu| gpu.memory_free as u64).sum::<u64>());
    let needed = memory.needed(layers, cells, rows);
    let names = gpus.iter().map(|gpu| format!("{} ({})", gpu.name, gpu.description)).collect::<Vec<_>>().join(" and ");
    let giga = |bytes: u64| bytes as f64 / 1e9;
    if needed.all() > free {
        let fits = match memory.fitting(free, cells, rows) {
            0 => "not one layer fits: set [backend] gpu_layers = 0".to_owned(),
            n => format!("set [backend] gpu_layers = {n}"),
        };
        return Err(Error::failed(format!(
            "{layers} layers need about {:.1} GB on {names} (weights {:.1}, caches of base and an arm {:.1}, logits {:.1}), and {:.1} GB \
             are free; {fits}, or free memory there",
            giga(needed.all()),
            giga(needed.weights),
            giga(needed.cache),
            giga(needed.logits),
            giga(free)
        )));
    }
    let of = memory.layers();
    Ok(format!(
        "llama.cpp computes {layers} of {of} layers on {names}: about {:.1} of {:.1} GB free",
        giga(needed.all()),
        giga(free)
    ))
}

fn layers(placement: &Placement) -> u32 {
    let all = placement.memory.layers();
    placement.gpu.layers.map_or(all, |n| n.min(all))
}

/// The GPUs that are named, or every one.
fn chosen(placement: &Placement) -> Result<Vec<LlamaBackendDevice>> {
    let is_gpu = |device: &LlamaBackendDevice| {
        matches!(device.device_type, LlamaBackendDeviceType::Gpu | LlamaBackendDeviceType::IntegratedGpu)
    };
    choose(list_llama_ggml_backend_devices().into_iter().filter(is_gpu).collect(), &placement.gpu.devices)
}

fn choose(gpus: Vec<LlamaBackendDevice>, wanted: &[String]) -> Result<Vec<LlamaBackendDevice>> {
    if gpus.is_empty() {
        return Err(Error::failed(
            "llama.cpp finds no GPU on this machine; is its driver installed? Or set [backend] gpu_layers = 0",
        ));
    }
    let there = || gpus.iter().map(|gpu| gpu.name.as_str()).collect::<Vec<_>>().join(", ");
    let missing = wanted.iter().find(|name| !gpus.iter().any(|gpu| gpu.name.eq_ignore_ascii_case(name)));
    if let Some(name) = missing {
        return Err(Error::failed(format!("[backend] device is {name:?}, and llama.cpp finds {}", there())));
    }
    let is_wanted =
        |gpu: &LlamaBackendDevice| wanted.is_empty() || wanted.iter().any(|name| gpu.name.eq_ignore_ascii_case(name));
    Ok(gpus.iter().filter(|gpu| is_wanted(gpu)).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(name: &str) -> LlamaBackendDevice {
        LlamaBackendDevice {
            index: 0,
            name: name.into(),
            description: "a GPU".into(),
            backend: "Vulkan".into(),
            memory_total: 0,
            memory_free: 0,
            device_type: LlamaBackendDeviceType::Gpu,
        }
    }

    #[test]
    fn a_gpu_is_chosen_by_name_or_those_that_there_are_are_named() {
        let both = || vec![gpu("Vulkan0"), gpu("Vulkan1")];
        let names = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
            choose(both(), &wanted).map(|gpus| gpus.into_iter().map(|gpu| gpu.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).expect("all"), ["Vulkan0", "Vulkan1"]);
        assert_eq!(names(&["vulkan1"]).expect("one"), ["Vulkan1"]);
        let why = names(&["CUDA0"]).expect_err("not there").to_string();
        assert!(why.contains("\"CUDA0\"") && why.contains("Vulkan0, Vulkan1"), "{why}");
        let why = choose(Vec::new(), &[]).expect_err("none").to_string();
        assert!(why.contains("finds no GPU") && why.contains("gpu_layers = 0"), "{why}");
    }
}
