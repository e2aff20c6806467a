use std::path::Path;

use super::*;
use crate::config::ModelConfig;
use crate::model::architecture::outline::Outline;
use crate::model::decoder::parity::fixture;
use crate::model::lora;
use crate::model::tokenizer::ChatTokenizer;
use crate::model::{ModelKind, load_decoder, sources};
use crate::record::{Message, Prompt};

/// Base and adapter of the fixtures, given to `write`.
fn with_export<T>(base: &str, adapter: &str, write: impl FnOnce(&Export<'_>) -> Result<T>) -> Result<T> {
    let source = fixture(base).display().to_string();
    let config = ModelConfig { source, ..ModelConfig::default() };
    let files = sources::resolve(&config, &mut |_| {})?;
    let decoder = load_decoder(&files, &config)?;
    let directory = fixture(adapter);
    let adapter = lora::load(&directory)?;
    let probe: Vec<u32> = (0..40).map(|i| (5 + 7 * i) % 320).collect();
    let export = Export {
        files: &files,
        decoder: &decoder,
        adapter: &adapter,
        directory: &directory,
        scale: 1.0,
        probe: &probe,
    };
    write(&export)
}

/// Base and adapter of the fixtures, exported.
fn exported(base: &str, adapter: &str, format: Format, precision: Option<Precision>, out: &Path) -> Result<Exported> {
    with_export(base, adapter, |export| export.write(format, precision, out))
}

/// `exported` itself reads the file back and compares; here is how close each form must be.
#[test]
fn every_form_reads_back_as_base_and_adapter() {
    use Format::{GgufAdapter, Merged, MergedGguf, Peft, PeftFused};
    let cases = [
        ("llama", "llama/adapter", Peft, None, 0.0),
        ("llama", "adapters/dora", Peft, None, f64::NAN),
        ("qwen3_moe", "qwen3_moe/adapter_fused", PeftFused, None, 1e-4),
        ("qwen2_moe", "qwen2_moe/adapter_fused", PeftFused, None, 1e-4),
        ("deepseek_v3", "deepseek_v3/adapter_fused", PeftFused, None, 1e-4),
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
        ("llama/model.gguf", "llama/adapter", Merged, Some(Precision::F32), 1e-4),
        ("llama/model.gguf", "adapters/saved", Merged, Some(Precision::F32), 1e-4),
        ("qwen2/model.gguf", "adapters/bias_all", Merged, Some(Precision::F32), 1e-4),
        ("qwen2/model.gguf", "adapters/dora", Merged, None, 0.3),
        ("qwen3/model.gguf", "qwen3/adapter", Merged, Some(Precision::F32), 1e-4),
        ("deepseek_v2/model.gguf", "deepseek_v2/adapter", Merged, Some(Precision::F32), 1e-4),
        ("deepseek_v3/model.gguf", "deepseek_v3/adapter_fused", Merged, Some(Precision::F32), 1e-4),
        ("gemma3_text/model.gguf", "adapters/gemma3", Merged, Some(Precision::F32), 1e-4),
        ("bloom/model.gguf", "adapters/bloom", Merged, Some(Precision::F32), 1e-4),
        ("mpt/model.gguf", "adapters/mpt", Merged, Some(Precision::F32), 1e-4),
        ("falcon/model.gguf", "adapters/falcon", Merged, Some(Precision::F32), 1e-4),
        ("gpt2/model.gguf", "adapters/conv1d", Merged, Some(Precision::F32), 1e-4),
        ("deepseek_v2/model.gguf", "deepseek_v2/adapter", MergedGguf, Some(Precision::F32), 1e-4),
        ("gemma3_text/model.gguf", "adapters/gemma3", MergedGguf, Some(Precision::F32), 1e-4),
        ("bloom/model.gguf", "adapters/bloom", MergedGguf, Some(Precision::F32), 1e-4),
        ("gpt2/model.gguf", "adapters/conv1d", MergedGguf, Some(Precision::F32), 1e-4),
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

/// What llama.cpp loads, read back as an adapter of its own: the same tensors and logits as PEFT's directory, which is written from it
/// again.
#[test]
fn an_adapter_of_every_family_survives_gguf_and_the_way_back() {
    let cases = [
        ("llama", "llama/adapter"),
        ("llama/model.gguf", "adapters/patterns"),
        ("qwen2", "qwen2/adapter"),
        ("qwen2_moe", "qwen2_moe/adapter"),
        ("qwen3", "qwen3/adapter"),
        ("qwen3_moe", "qwen3_moe/adapter"),
        ("deepseek_v2", "deepseek_v2/adapter"),
        ("deepseek_v3", "deepseek_v3/adapter_fused"),
        ("gemma3_text/model.gguf", "adapters/gemma3"),
        ("bloom", "adapters/bloom"),
        ("mpt", "adapters/mpt"),
        ("falcon/model.gguf", "adapters/falcon"),
        ("gpt2", "adapters/conv1d"),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    for (base, adapter) in cases {
        let [file, again] =
            ["gguf", "peft"].map(|form| folder.path().join(format!("{}.{form}", base.replace('/', "-"))));
        with_export(base, adapter, |peft| {
            peft.write(Format::GgufAdapter, None, &file)?;
            let read = lora::open(&file, &Outline::of(&peft.decoder.spec))?;
            for (path, module) in &peft.adapter.modules {
                let other = &read.modules[path];
                assert_eq!((&module.a, module.rank), (&other.a, other.rank), "{base} {path}");
                let scaled = |m: &lora::Module| m.b.iter().map(|b| f64::from(*b) * m.scale).collect::<Vec<_>>();
                for (one, two) in scaled(module).iter().zip(scaled(other)) {
                    assert!((one - two).abs() <= 1e-6 * one.abs(), "{base} {path}: {one} {two}");
                }
            }
            // A stack has a pair for every expert, so there may be more than PEFT's, which change nothing.
            let more = read.modules.iter().filter(|(path, _)| !peft.adapter.modules.contains_key(*path));
            assert!(more.into_iter().all(|(_, module)| module.b.iter().all(|b| *b == 0.0)), "{base}");
            let logits = |adapter: &lora::Adapter| -> Result<Vec<Vec<f32>>> {
                check::logits(peft.decoder, peft.probe, Some(&adapter.attached(peft.decoder, 1.0)?))
            };
            let largest = check::compare(&logits(peft.adapter)?, &logits(&read)?)?.largest;
            assert!(largest <= 1e-5, "{base} {adapter}: {largest}");
            let gguf = Export { adapter: &read, directory: &file, ..*peft };
            assert_eq!(gguf.write(Format::Peft, None, &again)?.difference.largest, 0.0, "{base} {adapter}");
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{base} {adapter}: {e}"));
    }
}

/// A GGUF base becomes a directory that any other program reads: in several files with an index, its tokenizer and its template too.
#[test]
fn a_gguf_base_is_exported_in_shards_with_its_tokenizer() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("merged");
    let files = with_export("llama/model.gguf", "llama/adapter", |export| {
        let tuned = export.adapter.attached(export.decoder, 1.0)?;
        let ModelKind::Gguf(base) = &export.files.kind else { panic!("a GGUF base") };
        export.merge_gguf(base, &out, safetensors::Encoding::of(Precision::F32), &tuned, 100_000)
    });
    let shards = files.expect("written").iter().filter(|f| f.extension().is_some_and(|e| e == "safetensors")).count();
    assert_eq!(shards, 7, "608 kB in files of at most 100 kB");
    let source = out.display().to_string();
    let config = ModelConfig { source, ..ModelConfig::default() };
    let read = sources::resolve(&config, &mut |_| {}).expect("a model");
    load_decoder(&read, &config).expect("all shards together");

    let gguf = ModelConfig { source: fixture("llama/model.gguf").display().to_string(), ..config.clone() };
    let of = |config: &ModelConfig| {
        let files = sources::resolve(config, &mut |_| {}).expect("a model");
        ChatTokenizer::load(&files, config).expect("a tokenizer")
    };
    let (from, to) = (of(&gguf), of(&config));
    let prompt = Prompt::Messages(vec![Message::new("user", "Was heißt 12 345 €?\n\t<|im_end|>")]);
    assert_eq!(from.encode(&prompt).expect("ids"), to.encode(&prompt).expect("ids"));
    assert_eq!(
        from.tokenizer.encode_raw("two  words").expect("ids"),
        to.tokenizer.encode_raw("two  words").expect("ids")
    );
    assert_eq!(from.tokenizer.stop_ids(), to.tokenizer.stop_ids());
}

#[test]
fn what_a_form_cannot_hold_is_refused_by_name() {
    use Format::{GgufAdapter, Merged, MergedGguf, PeftFused};
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |base: &str, adapter: &str, format, precision| {
        let error = exported(base, adapter, format, precision, &folder.path().join("x"));
        error.expect_err("must be refused").to_string()
    };
    let cases = [
        (refused("llama", "llama/adapter", PeftFused, None), "the base has no experts"),
        (
            refused("qwen3_moe", "qwen3_moe/adapter", PeftFused, None),
            "changes `model.layers.1.mlp.down_proj`, which is no",
        ),
        (refused("qwen2", "adapters/dora", GgufAdapter, None), "DoRA, which llama.cpp's adapters cannot hold"),
        (refused("llama", "adapters/saved", GgufAdapter, None), "modules_to_save, which llama.cpp's"),
        (refused("qwen2", "adapters/bias_all", GgufAdapter, None), "biases, which llama.cpp's"),
        (refused("llama", "llama/adapter", MergedGguf, None), "is not a GGUF file"),
        (refused("deepseek_v2/model.gguf", "deepseek_v2/adapter", GgufAdapter, None), "changes of kv_b"),
        (refused("llama", "llama/adapter", Merged, Some(Precision::Q8_0)), "--dtype q8_0 is GGUF's"),
        (refused("qwen2", "llama/adapter", GgufAdapter, None), "it was made for another base"),
    ];
    for (message, expected) in cases {
        assert!(message.contains(expected), "{message}");
    }
    assert!(std::fs::read_dir(folder.path()).expect("a folder").next().is_none(), "nothing is left behind");
}
