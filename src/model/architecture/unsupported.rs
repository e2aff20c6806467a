//! What is said of models that cannot be loaded: what works instead.

use std::path::Path;

use serde_json::Value;

use super::Family;
use crate::error::{Error, Result};

/// Families whose Hugging Face form is not read, by `model_type`, and of which a GGUF file is: by the decoder here, since the file
/// declares a family that it knows.
const BY_GGUF: [(&str, &str); 3] = [("mistral", "llama"), ("mixtral", "llama"), ("gemma3", "gemma3")];
/// Families that llama.cpp computes, with PEFT's adapters too.
const BY_LLAMA_CPP: [&str; 4] = ["granite", "olmo2", "phi3", "smollm3"];
/// Ways to quantise a checkpoint that is read: DeepSeek's.
const READ: [&str; 1] = ["fp8"];
/// What the names of quantised copies end with, the longest first.
const SUFFIXES: [&str; 8] =
    ["-unsloth-bnb-4bit", "-bnb-4bit", "-bnb-8bit", "-gptq-int4", "-gptq-int8", "-gptq", "-awq-int4", "-awq"];

/// Refuses a `config.json` of a family, or of a form of weights, that is not read.
///
/// # Errors
/// It is such a one; what works instead.
pub(crate) fn check(path: &Path, config: &Value) -> Result<()> {
    if let Some(quantised) = config.get("quantization_config").filter(|value| !value.is_null()) {
        check_quantisation(path, config, quantised)?;
    }
    match config.get("model_type").and_then(Value::as_str) {
        Some(name) if !Family::ALL.iter().any(|family| family.name() == name) => {
            Err(Family::unknown(path, name, Family::name))
        }
        _ => Ok(()),
    }
}

fn check_quantisation(path: &Path, config: &Value, quantised: &Value) -> Result<()> {
    let method = quantised.get("quant_method").and_then(Value::as_str).unwrap_or("bitsandbytes");
    if READ.contains(&method) {
        return Ok(());
    }
    let on = |key: &str| quantised.get(key).and_then(Value::as_bool) == Some(true);
    let bits = match quantised.get("bits").and_then(Value::as_u64) {
        Some(bits) => format!(" of {bits} bits"),
        None if on("load_in_4bit") => " of 4 bits".to_owned(),
        None if on("load_in_8bit") => " of 8 bits".to_owned(),
        None => String::new(),
    };
    let base = match base_name(path, config) {
        Some(name) => format!(" (by its name: hf:{name})"),
        None => String::new(),
    };
    let method: String = method.chars().filter(|c| !c.is_control()).take(40).collect();
    let message = format!(
        "quantization_config says that this is a {method} checkpoint{bits}, which is not read; name the 16-bit base that it was made \
         from{base}, or a GGUF file of it"
    );
    Err(Error::model(path, message))
}

/// The repository that a quantised copy was made from, by the copy's name.
fn base_name(path: &Path, config: &Value) -> Option<String> {
    let own = config.get("_name_or_path").and_then(Value::as_str).map(str::to_owned);
    // The hub's cache: `models--ORG--NAME/snapshots/COMMIT/config.json`.
    let cached = path.components().filter_map(|part| part.as_os_str().to_str()?.strip_prefix("models--"));
    let cached = cached.map(|name| name.replacen("--", "/", 1));
    own.into_iter().chain(cached).find_map(|name| {
        let lower = name.to_ascii_lowercase();
        let stem = SUFFIXES.iter().find_map(|suffix| lower.strip_suffix(suffix))?.len();
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
        let name = name.get(..stem)?;
        (name.matches('/').count() == 1 && name.chars().all(plain) && name.len() < 200).then(|| name.to_owned())
    })
}

/// What works instead of a family that is not known; `gguf`: of its GGUF file.
pub(super) fn instead(name: &str, gguf: bool) -> String {
    let read = BY_GGUF.iter().find(|(family, _)| *family == name);
    let with_adapters = BY_LLAMA_CPP.contains(&name);
    match (gguf, read) {
        (true, _) if with_adapters => "; run and train may use it with --backend llama-cpp".to_owned(),
        (true, _) => "; run and train may use it with --backend llama-cpp, with an adapter in GGUF form".to_owned(),
        (false, Some((_, declared))) => {
            format!(
                "; a GGUF file of it usually declares the family {declared}, which is known: name such a file in [model] source"
            )
        }
        (false, None) if with_adapters => "; a GGUF file of it runs with --backend llama-cpp".to_owned(),
        (false, None) => {
            "; where llama.cpp knows it, a GGUF file of it runs with --backend llama-cpp, with an adapter in GGUF form"
                .to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(path: &str, config: &Value) -> String {
        check(Path::new(path), config).expect_err("refused").to_string()
    }

    #[test]
    fn a_quantised_checkpoint_names_the_base_that_it_was_made_from() {
        let config = json!({"model_type": "llama", "_name_or_path": "unsloth/Llama-3.2-1B-Instruct-bnb-4bit",
            "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}});
        let message = told("config.json", &config);
        for word in ["a bitsandbytes checkpoint of 4 bits", "16-bit base", "hf:unsloth/Llama-3.2-1B-Instruct)"] {
            assert!(message.contains(word), "{message}");
        }
        let config = json!({"model_type": "qwen2", "quantization_config": {"quant_method": "gptq", "bits": 4}});
        let path = "hub/models--Qwen--Qwen2.5-7B-Instruct-GPTQ-Int4/snapshots/abc/config.json";
        assert!(told(path, &config).contains("gptq checkpoint of 4 bits"), "{}", told(path, &config));
        assert!(told(path, &config).contains("hf:Qwen/Qwen2.5-7B-Instruct)"), "{}", told(path, &config));
        let awq = json!({"model_type": "qwen2", "quantization_config": {"quant_method": "awq", "bits": 4}});
        assert!(told("config.json", &awq).contains("that it was made from, or a GGUF file"));
        let fp8 = json!({"model_type": "deepseek_v3", "quantization_config": {"quant_method": "fp8"}});
        assert!(check(Path::new("config.json"), &fp8).is_ok());
        assert!(check(Path::new("config.json"), &json!({"model_type": "llama", "quantization_config": null})).is_ok());
    }

    #[test]
    fn a_family_that_is_not_known_says_what_works_instead() {
        for (family, words) in [
            ("mistral", "declares the family llama"),
            ("mixtral", "declares the family llama"),
            ("gemma3", "declares the family gemma3"),
            ("phi3", "a GGUF file of it runs with --backend llama-cpp"),
            ("gemma2", "with an adapter in GGUF form"),
            ("llama4", "with an adapter in GGUF form"),
        ] {
            let message = told("config.json", &json!({"model_type": family}));
            assert!(message.contains("is not known; known are: llama, qwen2") && message.contains(words), "{message}");
        }
        assert_eq!(instead("phi3", true), "; run and train may use it with --backend llama-cpp");
    }
}
