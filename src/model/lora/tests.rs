//! GGUF adapters that are as they should not be; the round trip of every family is in `export/tests.rs`.

use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::*;
use crate::config::ModelConfig;
use crate::model::decoder::parity::fixture;
use crate::model::open::outline;
use crate::model::sources;

const Q: &str = "blk.0.attn_q.weight";

pub(super) fn base(family: &str) -> Outline {
    let source = fixture(family).display().to_string();
    let config = ModelConfig { source, ..ModelConfig::default() };
    outline(&sources::resolve(&config, &mut |_| {}).expect("files"), &config).expect("an outline")
}

/// An adapter's file before it is written: what is right for the tiny llama, to be made wrong.
struct File {
    keys: Vec<(&'static str, Value)>,
    tensors: Vec<(String, Vec<usize>)>,
    dtype: GgmlDType,
    fill: fn(usize) -> f32,
}

impl File {
    fn new(stem: &str, a: &[usize], b: &[usize]) -> Self {
        let keys = gguf::metadata(&base("llama"), 8.0).to_vec();
        let tensors = vec![(format!("{stem}.lora_a"), a.to_vec()), (format!("{stem}.lora_b"), b.to_vec())];
        Self { keys, tensors, dtype: GgmlDType::F32, fill: |i| i as f32 / 64.0 }
    }

    fn good() -> Self {
        Self::new(Q, &[4, 64], &[64, 4])
    }

    fn with(mut self, key: &'static str, value: Option<Value>) -> Self {
        self.keys.retain(|(k, _)| *k != key);
        self.keys.extend(value.map(|value| (key, value)));
        self
    }

    fn write(&self, path: &Path) {
        let tensor = |(_, shape): &(String, Vec<usize>)| {
            let values: Vec<f32> = (0..shape.iter().product()).map(self.fill).collect();
            let tensor = Tensor::from_vec(values, shape.as_slice(), &Device::Cpu).expect("a tensor");
            QTensor::quantize(&tensor, self.dtype).expect("a tensor")
        };
        let tensors: Vec<QTensor> = self.tensors.iter().map(tensor).collect();
        let named: Vec<(&str, &QTensor)> = self.tensors.iter().map(|(n, _)| n.as_str()).zip(&tensors).collect();
        let keys: Vec<(&str, &Value)> = self.keys.iter().map(|(key, value)| (*key, value)).collect();
        gguf_file::write(&mut std::fs::File::create(path).expect("a file"), &keys, &named).expect("a GGUF file");
    }

    fn opened(&self, base: &Outline) -> Result<Adapter> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.gguf");
        self.write(&path);
        open(&path, base)
    }
}

fn text(value: &str) -> Option<Value> {
    Some(Value::String(value.to_owned()))
}

#[test]
fn each_thing_that_a_gguf_adapter_must_not_be_is_refused_by_name() {
    let llama = base("llama");
    let renamed = |name: &str| File::new(name, &[4, 64], &[64, 4]);
    let mut half = File::good();
    half.tensors.remove(1);
    let mut only_b = File::good();
    only_b.tensors.remove(0);
    let mut more = File::good();
    more.tensors.push(("blk.0.attn_norm.weight".into(), vec![64]));
    let nan = File { fill: |i| if i == 5 { f32::NAN } else { 1.0 }, ..File::good() };
    let cases: Vec<(File, &[&str])> = vec![
        (File::good().with("general.type", None), &["`general.type` is missing, expected `adapter`"]),
        (File::good().with("general.type", text("model")), &["`general.type` is `model`, expected `adapter`"]),
        (File::good().with("general.type", Some(Value::U32(1))), &["`general.type` is U32, expected a string"]),
        (File::good().with("adapter.type", text("ia3")), &["`adapter.type` is `ia3`, expected `lora`", "merge it"]),
        (File::good().with("general.architecture", text("controlvector")), &["is a control vector"]),
        (
            File::good().with("general.architecture", text("qwen2")),
            &["`general.architecture` is `qwen2`, expected `llama`", "made for another base"],
        ),
        (File::good().with("adapter.alora.invocation_tokens", text("x")), &["invocation_tokens", "not supported"]),
        (File::good().with("adapter.lora.alpha", Some(Value::U32(8))), &["`adapter.lora.alpha` is U32, expected F32"]),
        (File::good().with("adapter.lora.alpha", Some(Value::F32(f32::NAN))), &["is NaN, expected a finite number"]),
        (half, &["`blk.0.attn_q.weight.lora_b` is missing", "`blk.0.attn_q.weight.lora_a` is there"]),
        (only_b, &["`blk.0.attn_q.weight.lora_a` is missing", "`blk.0.attn_q.weight.lora_b` is there"]),
        (more, &["`blk.0.attn_norm.weight` is not known, expected `LAYER.weight.lora_a`"]),
        (nan, &["`blk.0.attn_q.weight.lora_a` holds NaN"]),
        (renamed("token_embd.weight"), &["`token_embd.weight.lora_a` changes the embedding or the head", "merge it"]),
        (renamed("output.weight"), &["`output.weight.lora_a` changes the embedding or the head"]),
        (
            renamed("blk.0.attn_qq.weight"),
            &["`blk.0.attn_qq.weight.lora_a` changes no layer of this llama", "as `blk.0.attn_q.weight.lora_a`"],
        ),
        (renamed("blk.99.attn_q.weight"), &["`blk.99.attn_q.weight.lora_a` changes no layer"]),
        (renamed("blk.00.attn_q.weight"), &["`blk.00.attn_q.weight.lora_a` changes no layer"]),
        (renamed("blk.0.attn_q"), &["`blk.0.attn_q.lora_a` changes no layer"]),
        (
            renamed("model.layers.0.self_attn.q_proj.weight"),
            &["`model.layers.0.self_attn.q_proj.weight.lora_a` changes no layer"],
        ),
        (renamed("blk.0.ffn_up_exps.weight"), &["`blk.0.ffn_up_exps.weight.lora_a` changes no layer"]),
        (File::new(Q, &[4, 32], &[64, 4]), &["shapes [4, 32] and [64, 4], expected [rank, 64] and [64, rank]"]),
        (File::new(Q, &[4, 64], &[32, 4]), &["shapes [4, 64] and [32, 4], expected"]),
        (File::new(Q, &[4, 64], &[64, 8]), &["shapes [4, 64] and [64, 8], expected"]),
        (File::new(Q, &[64], &[64, 4]), &["shapes [64] and [64, 4], expected"]),
        (File::new(Q, &[1, 4, 64], &[1, 64, 4]), &["shapes [1, 4, 64] and [1, 64, 4], expected [rank, 64]"]),
        (File { tensors: Vec::new(), ..File::good() }, &["holds no LoRA tensors"]),
    ];
    let long = renamed(&format!("blk.0.{}.weight", "x".repeat(5000))).opened(&llama).expect_err("must be refused");
    assert!(long.to_string().chars().count() < 2200, "{long}");
    for (file, words) in cases {
        let message = file.opened(&llama).expect_err("must be refused").to_string();
        assert!(message.contains("a.gguf") && words.iter().all(|word| message.contains(word)), "{words:?}: {message}");
    }
    let experts = File::new("blk.0.ffn_up_exps.weight", &[3, 4, 64], &[3, 24, 4]);
    let experts = experts.with("general.architecture", text("qwen3moe"));
    let message = experts.opened(&base("qwen3_moe")).expect_err("must be refused").to_string();
    assert!(message.contains("shapes [3, 4, 64]") && message.contains("expected [8, rank, 64]"), "{message}");
}

#[test]
fn a_file_that_is_cut_or_is_no_gguf_is_refused() {
    let llama = base("llama");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.gguf");
    let refused = || open(&path, &llama).expect_err("must be refused").to_string();
    assert!(refused().contains("a.gguf"), "missing");
    File::good().write(&path);
    let bytes = std::fs::read(&path).expect("a file");
    for cut in 0..bytes.len() {
        // Padding at the end is no loss.
        if cut % 7 == 0 && bytes.len() - cut > 32 {
            std::fs::write(&path, &bytes[..cut]).expect("a file");
            assert!(refused().contains("a.gguf"), "{cut}");
        }
    }
    std::fs::write(&path, "no adapter").expect("a file");
    assert!(refused().contains("neither a GGUF file nor a directory"), "{}", refused());
}

#[test]
fn any_bytes_changed_in_the_header_give_an_adapter_or_an_error() {
    let llama = base("llama");
    let folder = tempfile::tempdir().expect("a folder");
    let path: PathBuf = folder.path().join("a.gguf");
    File::good().write(&path);
    let bytes = std::fs::read(&path).expect("a file");
    let header = bytes.len() - 2 * 64 * 4 * 4;
    for at in 0..header {
        for value in [0, 1, 0x7f, 0xff] {
            let mut changed = bytes.clone();
            changed[at] = value;
            std::fs::write(&path, changed).expect("a file");
            let _ = open(&path, &llama);
        }
    }
}

/// llama.cpp's rule: B·A is multiplied by alpha over the rank, and by nothing where alpha is 0 or is not said.
#[test]
fn without_an_alpha_the_product_is_taken_as_it_is() {
    let llama = base("llama");
    let scale = |file: File| {
        let adapter = file.opened(&llama).expect("an adapter");
        (adapter.modules["model.layers.0.self_attn.q_proj"].scale, adapter.r, adapter.alpha)
    };
    assert_eq!(scale(File::good()), (2.0, 4, 8.0));
    assert_eq!(scale(File::good().with("adapter.lora.alpha", None)), (1.0, 4, 4.0));
    assert_eq!(scale(File::good().with("adapter.lora.alpha", Some(Value::F32(0.0)))), (1.0, 4, 4.0));
}

#[test]
fn tensors_of_half_the_bits_are_read_and_rows_are_put_in_order() {
    let llama = base("llama");
    let of = |dtype| {
        let file = File { dtype, ..File::good() };
        file.opened(&llama).expect("an adapter").modules["model.layers.0.self_attn.q_proj"].clone()
    };
    // Multiples of 1/64 up to 4 are the same in 16 bits.
    assert_eq!(of(GgmlDType::F32), of(GgmlDType::F16));
    let module = of(GgmlDType::F32);
    assert_eq!(module.a[5], 5.0 / 64.0);
    // A head of 16: row 1 of Hugging Face's order is the second pair's first, row 2 of the file.
    assert_eq!(module.b[4..8], [8.0, 9.0, 10.0, 11.0].map(|v: f32| v / 64.0));
}
