use std::path::Path;

use super::*;
use crate::adapter;
use crate::config::ModelConfig;
use crate::model::parity::fixture;
use crate::model::{load_decoder, source};

/// Base and adapter of the fixtures, exported.
fn exported(base: &str, adapter: &str, format: Format, precision: Option<Precision>, out: &Path) -> Result<Exported> {
    let source = fixture(base).display().to_string();
    let config = ModelConfig { source, sha256: None, chat_template: None, context: None };
    let files = source::resolve(&config, &mut |_| {})?;
    let decoder = load_decoder(&files, &config)?;
    let directory = fixture(adapter);
    let adapter = adapter::load(&directory)?;
    let probe: Vec<u32> = (0..40).map(|i| (5 + 7 * i) % 320).collect();
    let export = Export {
        files: &files,
        decoder: &decoder,
        adapter: &adapter,
        directory: &directory,
        scale: 1.0,
        probe: &probe,
    };
    export.write(format, precision, out)
}

/// `exported` itself reads the file back and compares; here is how close each form must be.
#[test]
fn every_form_reads_back_as_base_and_adapter() {
    use Format::{GgufAdapter, Merged, MergedGguf, Peft};
    let cases = [
        ("llama", "llama/adapter", Peft, None, 0.0),
        ("llama", "adapters/dora", Peft, None, f64::NAN),
        ("llama", "llama/adapter", GgufAdapter, None, 1e-4),
        ("llama/model.gguf", "llama/adapter", GgufAdapter, None, 1e-4),
        ("llama", "adapters/patterns", GgufAdapter, None, 1e-4),
        ("bloom", "adapters/bloom", GgufAdapter, None, 1e-4),
        ("falcon", "adapters/falcon", GgufAdapter, None, 1e-4),
        ("gpt2", "adapters/conv1d", GgufAdapter, None, 1e-4),
        ("qwen3_moe", "qwen3_moe/adapter_fused", GgufAdapter, None, 1e-4),
        ("deepseek_v3", "deepseek_v3/adapter", GgufAdapter, None, 1e-4),
        ("llama", "llama/adapter", Merged, Some(Precision::F32), 1e-4),
        ("llama", "llama/adapter", Merged, None, 0.3),
        ("llama", "adapters/saved", Merged, Some(Precision::F32), 1e-4),
        ("qwen2", "adapters/dora", Merged, Some(Precision::F32), 1e-4),
        ("qwen2", "adapters/bias_all", Merged, Some(Precision::F32), 1e-4),
        ("gpt2", "adapters/conv1d", Merged, Some(Precision::F32), 1e-4),
        ("bloom", "adapters/bloom", Merged, Some(Precision::F16), 0.05),
        ("qwen3_moe", "qwen3_moe/adapter", Merged, Some(Precision::F32), 1e-4),
        ("deepseek_v3", "deepseek_v3/adapter", Merged, Some(Precision::F32), 1e-4),
        ("llama/model.gguf", "llama/adapter", MergedGguf, Some(Precision::F32), 1e-4),
        ("llama/model.gguf", "llama/adapter", MergedGguf, None, 0.05),
        ("llama/model.gguf", "adapters/saved", MergedGguf, Some(Precision::F32), 1e-4),
        ("qwen2/model.gguf", "adapters/bias_all", MergedGguf, Some(Precision::F32), 1e-4),
        ("qwen2/model.gguf", "adapters/dora", MergedGguf, Some(Precision::Q8_0), 0.6),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    for (i, (base, adapter, format, precision, most)) in cases.into_iter().enumerate() {
        let out = folder.path().join(format!("{i}.gguf"));
        let result = exported(base, adapter, format, precision, &out);
        if most.is_nan() {
            assert!(result.is_err(), "{base} {adapter}");
            continue;
        }
        let difference = result.unwrap_or_else(|e| panic!("{base} {adapter} {format:?}: {e}")).difference;
        assert!(difference.largest <= most, "{base} {adapter} {format:?} {precision:?}: {difference:?}");
    }
}

#[test]
fn what_a_form_cannot_hold_is_refused_by_name() {
    use Format::{GgufAdapter, Merged, MergedGguf};
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |base: &str, adapter: &str, format, precision| {
        let error = exported(base, adapter, format, precision, &folder.path().join("x"));
        error.expect_err("must be refused").to_string()
    };
    let cases = [
        (refused("qwen2", "adapters/dora", GgufAdapter, None), "DoRA, which llama.cpp's adapters cannot hold"),
        (refused("llama", "adapters/saved", GgufAdapter, None), "modules_to_save, which llama.cpp's"),
        (refused("qwen2", "adapters/bias_all", GgufAdapter, None), "biases, which llama.cpp's"),
        (refused("llama", "llama/adapter", MergedGguf, None), "is not a GGUF file"),
        (refused("llama/model.gguf", "llama/adapter", Merged, None), "is a GGUF file, which has no config.json"),
        (refused("llama", "llama/adapter", Merged, Some(Precision::Q8_0)), "--dtype q8_0 is GGUF's"),
        (refused("qwen2", "llama/adapter", GgufAdapter, None), "it was made for another base"),
    ];
    for (message, expected) in cases {
        assert!(message.contains(expected), "{message}");
    }
    assert!(std::fs::read_dir(folder.path()).expect("a folder").next().is_none(), "nothing is left behind");
}
