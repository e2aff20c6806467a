use super::*;
use crate::model::formats::gguf::{Kind, TensorInfo};

/// The fixture's description with more keys; `factors`: with frequency factors.
fn described(keys: &[(&str, Value)], factors: bool) -> Result<DecoderSpec> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama/model.gguf");
    let mut header = Header::read(&path, &std::fs::read(&path).expect("a file")).expect("a header");
    for (key, value) in keys {
        header.metadata.insert(format!("llama.{key}"), value.clone());
    }
    header.tensors.remove("rope_freqs.weight");
    if factors {
        let info = TensorInfo { kind: Kind::F32, shape: vec![4], offset: 0 };
        header.tensors.insert("rope_freqs.weight".to_owned(), info);
    }
    DecoderSpec::from_gguf(&path, &header)
}

fn told(keys: &[(&str, Value)], factors: bool) -> String {
    described(keys, factors).expect_err("refused").to_string()
}

#[test]
fn keys_that_change_what_is_computed_are_refused() {
    let number = Value::F32(30.0);
    for (key, value, words) in [
        ("attention.causal", Value::Bool(false), "`llama.attention.causal` is false, which is not supported"),
        ("attn_logit_softcapping", number.clone(), "`llama.attn_logit_softcapping` is 30"),
        ("final_logit_softcapping", number.clone(), "`llama.final_logit_softcapping` is 30"),
        ("attention.clamp_kqv", number.clone(), "`llama.attention.clamp_kqv` is 30"),
        ("attention.scale", number.clone(), "`llama.attention.scale` is 30"),
        ("logit_scale", number.clone(), "`llama.logit_scale` is 30"),
        ("embedding_scale", number.clone(), "`llama.embedding_scale` is 30"),
        ("residual_scale", number, "`llama.residual_scale` is 30"),
        ("expert_gating_func", Value::U32(3), "`llama.expert_gating_func` is 3"),
        ("attention.causal", Value::U32(0), "`llama.attention.causal`"),
        ("rope.scaling.type", Value::String("zzz".into()), "rope scaling `zzz` is not known"),
    ] {
        let message = told(&[(key, value)], false);
        assert!(message.contains(words), "{key}: {message}");
    }
    for (key, value) in [
        ("attention.causal", Value::Bool(true)),
        ("attention.clamp_kqv", Value::F32(0.0)),
        ("logit_scale", Value::F32(1.0)),
        ("expert_gating_func", Value::U32(1)),
    ] {
        assert!(described(&[(key, value)], false).is_ok(), "{key}");
    }
}

#[test]
fn frequency_factors_and_scaling_go_together_as_in_llama_cpp() {
    let scaling = |keys: &[(&str, Value)], factors| match described(keys, factors).expect("a model").positions {
        Positions::Rotary { global, .. } => global.scaling,
        other => panic!("{other:?}"),
    };
    let kind = |name: &str| ("rope.scaling.type", Value::String(name.into()));
    let factor = ("rope.scaling.factor", Value::F32(4.0));
    assert_eq!(scaling(&[], true), RopeScaling::Factors(Vec::new()));
    assert_eq!(scaling(&[kind("linear"), factor.clone()], true), RopeScaling::Factors(vec![4.0]));
    assert_eq!(scaling(&[kind("none"), factor.clone()], true), RopeScaling::Factors(Vec::new()));
    assert_eq!(scaling(std::slice::from_ref(&factor), false), RopeScaling::Linear { factor: 4.0 });
    assert_eq!(scaling(&[("rope.scale_linear", Value::F32(4.0))], false), RopeScaling::Linear { factor: 4.0 });
    assert_eq!(scaling(&[("rope.scaling.factor", Value::F32(1.0))], false), RopeScaling::None);
    assert!(told(&[kind("zzz")], true).contains("rope scaling `zzz` is not known"));
    let context = ("rope.scaling.original_context_length", Value::U32(64));
    assert!(told(&[kind("yarn"), factor, context], true).contains("has both `rope_freqs.weight`"));
}
